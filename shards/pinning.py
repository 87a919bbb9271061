"""
Pinning: which core each process and each journal thread runs on, and where its memory lies.

    [cpu]                       what is named there is taken as it is
    auto = true                 what is not named is chosen from the machine (sysfs)
    realtime_priority = 50      SCHED_FIFO, which nothing but the kernel interrupts
    local_memory = true         memory of a pinned process on the node of its core

A core of one's own means: one hardware thread of it, and nobody of ours on the other. Isolated cores (isolcpus) are taken
where there are any; else all but one, which stays for the system. Who gets a core of its own first: workers, routers, publisher,
journal threads, followers. When there are no more, a journal thread gets the other hardware thread of its worker's core, as it
works on the same lines; whoever is left is not pinned, and a sentence says so. The supervisor gets what is left over.

They are laid out so that what talks most lies closest: routers and publisher first, then shard by shard worker, journal
thread and follower, along the machine's memory nodes.

Invariants:

    PI1  nobody is given a core that this process may not use
    PI2  no two are given the same hardware thread, but for what the configuration names
    PI3  the same machine and configuration give the same cores
"""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from msgspec.structs import replace

from ringpit.shards.config import Config
from ringpit.shards.readiness import cores_of, list_text, text_of

LISTED: Final = {"routers": "routers", "workers": "shards", "journals": "shards", "followers": "shards"}
BY_IMPORTANCE: Final = ("workers", "routers", "publisher", "journals", "followers")
SET_MEMPOLICY: Final = {"x86_64": 238, "aarch64": 237}  # number of the system call
MPOL_DEFAULT, MPOL_PREFERRED = 0, 1
NODES_MAX: Final = 64  # in a mask of one word


class Core(NamedTuple):
    """A hardware thread that we may use."""

    number: int
    node: int  # of memory
    physical: int  # the lowest number among the threads of its core
    isolated: bool


def machine(root: Path, allowed: set[int]) -> list[Core]:
    """Hardware threads of a machine, as sysfs below a root folder tells; what it does not tell is as on the plainest one."""
    isolated = cores_of(text_of(root, "sys/devices/system/cpu/isolated"))
    nodes = {
        core: int(path.name.removeprefix("node"))
        for path in sorted((root / "sys/devices/system/node").glob("node[0-9]*"))
        for core in cores_of(text_of(root, f"{path.relative_to(root)}/cpulist"))
    }
    found = []
    for number in sorted(allowed):
        siblings = cores_of(text_of(root, f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"))
        found.append(Core(number, nodes.get(number, 0), min(siblings | {number}), number in isolated))
    return found


def node_of(root: Path, core: int) -> int:
    """The memory node of a core; 0 where the machine tells none."""
    return next((each.node for each in machine(root, {core})), 0)


def nodes_count(root: Path) -> int:
    """Memory nodes of the machine; 1 where it tells none."""
    return max(1, len(list((root / "sys/devices/system/node").glob("node[0-9]*"))))


def pinned(config: Config, root: Path, allowed: set[int]) -> tuple[Config, list[str]]:
    """
    The configuration with a core for everybody whom `[cpu]` names none, where `cpu.auto` asks for that; and sentences.

    Cost: reads a few files of sysfs for each core.
    """
    if not config.cpu.auto:
        return config, []
    wanted = list(_wanted(config))
    named = {core for key in (*LISTED, "publisher", "supervisor") for core in named_cores(config, key)}
    free = [core for core in machine(root, allowed) if core.number not in named]
    own, others = _split(free)
    given = _deal(config, wanted, own, others)
    return _written(config, given, others), _sentences(config, wanted, given, free)


def named_cores(config: Config, key: str) -> list[int]:
    """All cores that the configuration names under a key of `[cpu]`."""
    value = getattr(config.cpu, key)
    return [core for entry in value for core in (entry if isinstance(entry, list) else [entry])]


def _wanted(config: Config) -> Iterator[tuple[str, int]]:
    """Whoever is to be given a core, the most important first."""
    for key in BY_IMPORTANCE:
        absent = key == "followers" and not config.follower.enabled
        if absent or named_cores(config, key):
            continue
        count = getattr(config.exchange, LISTED[key]) if key in LISTED else 1
        yield from ((key, index) for index in range(count))


def _split(free: list[Core]) -> tuple[list[Core], list[Core]]:
    """Cores that can be somebody's own, along the memory nodes; and whatever else is left."""
    candidates = [core for core in free if core.isolated]
    if not candidates:
        first = free[0].physical if free else 0
        candidates = [core for core in free if core.physical != first]  # one stays for the system
    own, seen = [], set()
    for core in sorted(candidates, key=lambda core: (core.node, core.number)):
        if core.physical not in seen:
            seen.add(core.physical)
            own.append(core)
    return own, [core for core in free if core not in own]


def _deal(
    config: Config, wanted: list[tuple[str, int]], own: list[Core], others: list[Core]
) -> dict[tuple[str, int], Core]:
    """Who gets which core: as many as there are, by importance; laid out by who talks to whom."""
    lucky = set(wanted[: len(own)])
    shards = range(config.exchange.shards)
    layout = [("publisher", 0), *(("routers", index) for index in range(config.exchange.routers))]
    layout += [(key, shard) for shard in shards for key in ("workers", "journals", "followers")]
    given = dict(zip([who for who in layout if who in lucky], own, strict=False))
    for who in wanted:
        key, index = who
        worker = given.get(("workers", index))
        if key != "journals" or who in given or worker is None:
            continue
        beside = next((core for core in others if core.physical == worker.physical), None)
        if beside is not None:
            given[who] = beside
    return given


def _written(config: Config, given: dict[tuple[str, int], Core], others: list[Core]) -> Config:
    """The configuration that says it. A list with a gap cannot be written, so then nobody of that kind is pinned alone."""
    keys: dict[str, list[int] | list[list[int]]] = {}
    shared = sorted({core.number for core in others} - {core.number for core in given.values()})
    for key, processes in LISTED.items():
        cores = [given.get((key, index)) for index in range(getattr(config.exchange, processes))]
        if any(cores):
            keys[key] = [[core.number] if core else shared for core in cores]
    if ("publisher", 0) in given:
        keys["publisher"] = [given["publisher", 0].number]
    if not config.cpu.supervisor and shared:
        keys["supervisor"] = shared
    return replace(config, cpu=replace(config.cpu, **keys))


def _sentences(
    config: Config, wanted: list[tuple[str, int]], given: dict[tuple[str, int], Core], free: list[Core]
) -> list[str]:
    """Who runs where, and who could not be given a core."""
    said = []
    for key in BY_IMPORTANCE:
        cores = [given[who].number for who in wanted if who in given and who[0] == key]
        if cores:
            said.append(f"{key} on {','.join(map(str, cores))}")
    sentences = [f"cpu.auto: {'; '.join(said)}"] if said else []
    left = [f"{key} {index}" if key in LISTED else key for key, index in wanted if (key, index) not in given]
    if left:
        kind = "isolated " if any(core.isolated for core in free) else ""
        sentences.append(
            f"cpu.auto: no {kind}core of its own is left for {', '.join(left)}, of {list_text(core.number for core in free)}: "
            f'they share; name cores in [cpu], run fewer shards than {config.exchange.shards}, or wait with mode = "sleep"'
        )
    return sentences


@contextmanager
def memory_near(node: int) -> Iterator[str]:
    """
    Have memory that is touched meanwhile come from a node, as long as it has any; gives a sentence if that cannot be had.

    Of shared memory it counts who touches a page first.
    """
    failure = _set_policy(MPOL_PREFERRED, 1 << node)
    try:
        yield failure
    finally:
        if not failure:
            _set_policy(MPOL_DEFAULT, 0)


def _set_policy(mode: int, mask: int) -> str:
    """The system call; a sentence if it fails."""
    number = SET_MEMPOLICY.get(platform.machine())
    if number is None:
        return f"cpu.local_memory is not known on {platform.machine()}: leave it out"
    library = ctypes.CDLL(None, use_errno=True)
    word = ctypes.c_ulong(mask)
    nodes = ctypes.byref(word) if mask else None
    if library.syscall(number, mode, nodes, ctypes.c_ulong(NODES_MAX + 1 if mask else 0)) == 0:
        return ""
    reason = os.strerror(ctypes.get_errno())
    return f"cpu.local_memory cannot be had ({reason}): leave it out, or allow set_mempolicy to this container"


def be_realtime(priority: int) -> str:
    """Run this process at a real-time priority; a sentence if that is not allowed."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return (
            f"cpu.realtime_priority = {priority} cannot be had ({error.strerror}): allow it (LimitRTPRIO={priority} in the systemd "
            f"unit, `ulimit -r`, or CAP_SYS_NICE), or leave it out"
        )
    return ""
