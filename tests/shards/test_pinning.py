"""Cores for every process on made-up machines: a core of one's own where there is one, and a sentence where there is none."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ringpit.shards.config import Config
from ringpit.shards.pinning import (
    be_realtime,
    machine,
    memory_near,
    named_cores,
    node_of,
    nodes_count,
    pinned,
)

KEYS = ("routers", "workers", "journals", "followers", "publisher")


def made_up(root, cores, *, threads=1, nodes=1, isolated=""):
    """A machine of so many cores: threads of a core as servers number them, n and n + cores."""
    total = cores * threads
    for number in range(total):
        folder = root / f"sys/devices/system/cpu/cpu{number}/topology"
        folder.mkdir(parents=True)
        siblings = range(number % cores, total, cores)
        (folder / "thread_siblings_list").write_text(",".join(map(str, siblings)) + "\n")
    (root / "sys/devices/system/cpu/isolated").write_text(isolated + "\n")
    for node in range(nodes):
        folder = root / f"sys/devices/system/node/node{node}"
        folder.mkdir(parents=True)
        own = [n for n in range(total) if n % cores * nodes // cores == node]
        (folder / "cpulist").write_text(",".join(map(str, own)) + "\n")
    return set(range(total))


def config_of(shards=1, routers=1, *, followed=False, **cpu):
    """A configuration that has cores chosen."""
    config = Config()
    return replace(
        config,
        exchange=replace(config.exchange, shards=shards, routers=routers),
        follower=replace(config.follower, enabled=followed),
        cpu=replace(config.cpu, auto=True, **cpu),
    )


def test_four_routers_and_24_shards_on_64_cores(tmp_path):
    """Everybody has a core of their own but some followers, who are named; nothing else in the configuration changes."""
    allowed = made_up(tmp_path, 64, nodes=2)
    config = config_of(24, 4, followed=True)
    found, said = pinned(config, tmp_path, allowed)
    own = [found.cpu.cores(key, index)
           for key, count in (("routers", 4), ("workers", 24), ("journals", 24), ("publisher", 1)) for index in range(count)]  # fmt: skip
    assert [1] * 53 == [len(cores) for cores in own]
    assert 53 == len({core for cores in own for core in cores})
    assert found.cpu.publisher == [1]  # 0 is the system's
    assert "no core of its own is left for followers 10, followers 11" in said[1]
    assert replace(found, cpu=config.cpu) == config


def test_a_journal_thread_is_beside_its_worker(tmp_path):
    """Too few cores for all, but two threads each: the journal gets the other thread of its worker's core."""
    allowed = made_up(tmp_path, 7, threads=2)
    found, _ = pinned(config_of(4), tmp_path, allowed)
    workers, journals = (named_cores(found, key) for key in ("workers", "journals"))
    assert [core + 7 for core in workers] == journals
    assert not {0, 7} & {*workers, *journals}


def test_isolated_cores_are_taken_and_no_others(tmp_path):
    """What isolcpus names is for us; the supervisor stays outside."""
    allowed = made_up(tmp_path, 16, isolated="8-15")
    found, said = pinned(config_of(2), tmp_path, allowed)
    used = {core for key in KEYS for core in named_cores(found, key)}
    assert used <= set(range(8, 16))
    assert 6 == len(used)
    assert set(range(8)) <= set(found.cpu.supervisor)
    assert ["cpu.auto: workers on 10,12; routers on 9; publisher on 8; journals on 11,13"] == said


def test_what_is_named_is_left_as_it_is(tmp_path):
    """A list of the configuration wins, and nobody else is given its cores."""
    allowed = made_up(tmp_path, 8)
    found, _ = pinned(config_of(2, workers=[3, 4]), tmp_path, allowed)
    assert [3, 4] == found.cpu.workers
    assert not {3, 4} & {
        core for key in ("routers", "journals", "publisher") for core in named_cores(found, key)
    }


def test_two_cores_are_enough_for_one_worker_only(tmp_path):
    """The small machine: who shares is said, with what to do."""
    found, said = pinned(config_of(2), tmp_path, made_up(tmp_path, 2))
    assert [[1], [0]] == found.cpu.workers
    assert "no core of its own is left for workers 1, routers 0, publisher" in said[1]
    assert "run fewer shards than 2" in said[1]


def test_without_auto_nothing_is_chosen(tmp_path):
    """The default."""
    allowed = made_up(tmp_path, 8)
    assert (Config(), []) == pinned(Config(), tmp_path, allowed)


@given(
    st.integers(1, 12), st.integers(1, 2), st.integers(1, 3), st.integers(1, 6), st.integers(1, 3), st.booleans(), st.data()
)  # fmt: skip
def test_nobody_shares_a_thread(tmp_path_factory, cores, threads, nodes, shards, routers, followed, data):
    """PI1, PI2 and PI3 on any machine."""
    root = tmp_path_factory.mktemp("machine")
    every = made_up(root, cores, threads=threads, nodes=nodes)
    allowed = data.draw(st.sets(st.sampled_from(sorted(every)), min_size=1))
    config = config_of(shards, routers, followed=followed)
    found, said = pinned(config, root, allowed)
    alone = [core for key in KEYS for index in range(len(getattr(found.cpu, key)))
             if len(found.cpu.cores(key, index)) == 1 for core in found.cpu.cores(key, index)]  # fmt: skip
    used = {core for key in (*KEYS, "supervisor") for core in named_cores(found, key)}
    assert used <= allowed
    shared = set(found.cpu.supervisor)
    assert len(set(alone) - shared) == len([core for core in alone if core not in shared])
    assert (found, said) == pinned(config, root, allowed)


def test_a_machine_that_tells_nothing_is_plain(tmp_path):
    """Containers hide sysfs: one node, a core for each number."""
    assert [(0, 0, 0, False), (1, 0, 1, False)] == machine(tmp_path, {0, 1})
    assert (0, 1) == (node_of(tmp_path, 1), nodes_count(tmp_path))


def test_memory_near_a_node_is_had_or_said():
    """On node 0, which every machine has; afterwards all is as before. A container that forbids it gets a sentence."""
    with memory_near(0) as failure:
        assert not failure or "cpu.local_memory" in failure
    with memory_near(63) as failure:
        assert not failure or "leave it out" in failure


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process of its own")
def test_a_real_time_priority_is_had_or_said():
    """In a process of its own: either it runs so, or a sentence says how it would."""
    child = os.fork()
    if not child:
        said = be_realtime(1)
        runs = os.sched_getscheduler(0) == os.SCHED_FIFO
        os._exit(0 if runs != bool(said) and (not said or "LimitRTPRIO=1" in said) else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
