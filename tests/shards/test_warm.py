"""After the warm-up no order waits for a compiler, in any process."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import psutil
import pytest

from ringpit.shards import compiling, warm

WARMED_MODULES = ("ringpit.engine", "ringpit.ipc", "ringpit.wal", "ringpit.shards")
SCRIPT_SECONDS = 600


def compiled():
    """Each kernel of the processes by name, and how many sets of argument types it is compiled for."""
    from numba.core.registry import CPUDispatcher

    return {
        f"{kernel.py_func.__module__}.{kernel.py_func.__name__}": len(kernel.signatures)
        for name, module in sys.modules.items()
        if name.startswith(WARMED_MODULES)
        for kernel in vars(module).values()
        if isinstance(kernel, CPUDispatcher)
    }


def trade(encoding):
    """Deliveries in both forms through the real router, worker, journal and publisher, with their real memory."""

    from ringpit.shards.directory import Directory
    from ringpit.shards.flow import flow, messages
    from ringpit.shards.journal import Journal
    from ringpit.shards.layout import first_position
    from ringpit.shards.packed import CONTENT_TYPE, encode
    from ringpit.shards.processes import views_of
    from ringpit.shards.publisher import Publisher, Settings
    from ringpit.shards.router import Router
    from ringpit.shards.sections import Placement
    from ringpit.shards.sinks import NoSink
    from ringpit.testing.fake_broker import FakeBroker, FakeIntake
    from ringpit.testing.house import House
    from ringpit.wal.memory import MemoryLog
    from ringpit.wal.writer import BatchWriter

    house, batches, broker = House(), [], FakeBroker()
    for incarnation in (1, 2):
        worker = house.worker(incarnation, lambda: MemoryLog(batches))
        log, state, replay = worker.recover()
        worker.begin(state, replay)
        house.start_router(incarnation + 100)
        router = Router(
            0, house.router, first_position(incarnation + 100), FakeIntake(broker), Directory(1, 8, Placement(events={7: 0})), 1, print
        )  # fmt: skip
        router.attach(0, worker.segment)
        publisher = Publisher(NoSink(), Settings(encoding=encoding))
        publisher.attach_shard(0, views_of(house.config, 0, house.publisher, worker.segment, house.board))
        journal = Journal(
            worker.segment, lambda log=log, state=state: (log, BatchWriter(state)), routers=1, first_position=first_position(incarnation),
            confirmed_seq=lambda: house.publisher.load("confirmed_seq.0"), cores=[],
        )  # fmt: skip
        journal.open()
        commands = flow(200, seed=incarnation, events=3)
        asked = [*messages(commands), {"Task": "Settlement", "ID": 2}]
        broker.publish(CONTENT_TYPE, encode(commands))
        broker.publish("application/json", json.dumps(asked).encode())
        for _ in range(6):
            router.step(0)
            worker._serve_one(0)
            journal.step(0)
            publisher.step(1 << 60)
        assert router.idle
        assert worker.segment.load("durable_seq") == house.publisher.load("confirmed_seq.0") > 0
    house.close()


def main():
    """Warm up, trade, and print which kernels were compiled in between."""
    seconds = warm.warm()
    before = compiled()
    for encoding in ("json", "packed"):
        trade(encoding)
    late = sorted(name for name, count in compiled().items() if count != before.get(name, 0))
    print(json.dumps({"seconds": seconds, "kernels": len(before), "late": late}))


@pytest.mark.compiled
def test_nothing_is_compiled_after_the_warm_up():
    """Two lives of an exchange, JSON and packed: every kernel that they need was ready."""
    ended = subprocess.run(
        [sys.executable, "-c", "import test_warm; test_warm.main()"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS,
        check=False,
    )
    assert 0 == ended.returncode, ended.stderr
    facts = json.loads(ended.stdout.splitlines()[-1])
    assert [] == facts["late"]
    assert 40 < facts["kernels"]
    assert 0 < facts["seconds"]


def parts():
    """Run what the first start compiles in parts, then everything, and print which kernels no part had."""
    for part in compiling.PARTS:
        getattr(warm, part)()
    before = compiled()
    warm.warm()
    late = sorted(name for name, count in compiled().items() if count != before.get(name, 0))
    print(json.dumps({"late": late}))


@pytest.mark.compiled
def test_the_parts_compile_nearly_everything():
    """What is left for the process that waits for them is small, and none of it is the engine's machine."""
    ended = subprocess.run(
        [sys.executable, "-c", "import test_warm; test_warm.parts()"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS,
        check=False,
    )
    assert 0 == ended.returncode, ended.stderr
    late = json.loads(ended.stdout.splitlines()[-1])["late"]
    assert len(late) < 5, late
    assert not any(name.startswith("ringpit.engine.machine") for name in late), late


@pytest.mark.parametrize(("cores", "processes"), [(1, 2), (2, 2), (3, 3), (64, 3)])
def test_every_part_is_compiled_by_one_process(cores, processes):
    """Two processes where cores are few, or they would stand in each other's way; the engine has one to itself."""
    shares = compiling.shares(cores)
    assert processes == len(shares)
    assert compiling.PARTS == tuple(part for share in shares for part in share)
    assert ("compile_engine",) == shares[0]


@pytest.fixture
def cold(monkeypatch, tmp_path):
    """A machine on which nothing was compiled, and parts that are done at once; what is said, and how often all is warmed."""
    said, warmed = [], []
    monkeypatch.setattr(compiling.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiling.config, "DISABLE_JIT", 0)
    monkeypatch.setattr(compiling, "PARTS", ("SLOTS.bit_length", "no_such_part"))
    monkeypatch.setattr(warm, "warm", lambda: warmed.append(1))
    return said, warmed


def test_the_first_start_says_that_it_compiles(cold):
    """Also if a part fails: everything is warmed afterwards all the same (CO1)."""
    said, warmed = cold
    assert compiling.is_cold()
    assert compiling.ready(said.append) > 0
    assert ["compiling kernels", "loading kernels"] == [sentence.partition(",")[0] for sentence in said]
    assert [1] == warmed


def test_a_later_start_does_not(cold, tmp_path):
    """The largest kernel is in the cache: nothing is compiled in parts."""
    said, warmed = cold
    (tmp_path / "engine_1").mkdir()
    (tmp_path / "engine_1" / f"{compiling.LARGEST}-201.py311.nbi").touch()
    compiling.ready(said.append)
    assert (["loading kernels"], [1]) == (said, warmed)


@pytest.mark.usefixtures("cold")
def test_parts_end_with_whoever_waits_for_them(monkeypatch):
    """A stop in the middle of compiling leaves no process."""
    monkeypatch.setattr(compiling, "PARTS", ("signal.pause", "signal.pause"))
    monkeypatch.setattr(compiling, "SAY_SECONDS", 0.0)
    before = psutil.Process().children()

    def stop(_sentence):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compiling.compile_parts(stop)
    assert before == psutil.Process().children()


def test_only_a_fork_server_is_warmed_by_importing(monkeypatch):
    """Whoever imports the module for its functions does not pay for it; the fork server is marked."""
    warmed = []
    source = Path(warm.__file__).read_text().replace("    warm()\n", "    warmed.append(1)\n")
    for mark, expected in ((None, 0), ("1", 1)):
        warmed.clear()
        monkeypatch.delenv("RINGPIT_FORK_SERVER", raising=False)
        if mark:
            monkeypatch.setenv("RINGPIT_FORK_SERVER", mark)
        module = types.ModuleType("warm_again")
        module.warmed = warmed
        exec(compile(source, "warm_again", "exec"), vars(module))  # noqa: S102 - our own source, to see what importing does
        assert expected == len(warmed)
