"""
Rewiring: the modules of the processes, given a simulation's clock, memory, signals and brokers in place of the machine's.

    with rewired(world):            world: see simulation.py
        ...                         run_role of processes.py now runs inside the world

A module looks its names up when a function runs, so putting other things under the names `time`, `os`, `Segment`,
`load_cell` ... of a module is all it takes; no process knows the difference, and the code under test is the code that
is shipped. The loops of worker and follower run as the Python that they are written in, so that hands may change at
each of their accesses; the engine, the directory, the mirror and the feed stay compiled.

Everything is put back at the end.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from ringpit.engine.digest import digest  # noqa: F401 - loads the engine before its users are changed
from ringpit.ipc.ring import FROZEN
from ringpit.shards import (
    answers,
    dealing,
    directory,
    follow,
    follower,
    journal,
    keeper,
    layout,
    output,
    peers,
    processes,
    publisher,
    router,
    serve,
    supervisor,
    worker,
)
from ringpit.testing.schedule import Schedule
from ringpit.wal import reader, succession
from ringpit.wal.reader import KIN_BITS

MODULES = (
    answers, dealing, directory, follow, follower, journal, keeper, output, peers, processes, publisher, router, serve, supervisor,
    worker, reader, succession,
)  # fmt: skip
LOOPS = {  # run as Python
    serve: ("time_of", "run_length", "journal_run", "publish_run", "take_tick", "take_run", "tell_events", "end_run", "match_run", "serve"),
    follow: ("copy_run", "apply_run", "silent", "follow"),
    dealing: ("deal_rows",),
}  # fmt: skip


def clock_of(schedule: Schedule) -> SimpleNamespace:
    """What stands for the module `time`."""

    def seconds() -> float:
        return schedule.now_ns / 1e9

    return SimpleNamespace(
        time_ns=lambda: schedule.now_ns,
        monotonic=seconds,
        perf_counter=seconds,
        perf_counter_ns=lambda: schedule.now_ns,
        thread_time_ns=lambda: 0,
        process_time_ns=lambda: 0,
        sleep=schedule.nap,
    )


def system_of(schedule: Schedule) -> SimpleNamespace:
    """What stands for the module `os`."""
    return SimpleNamespace(
        environ={},
        getpid=lambda: schedule.running.pid,
        urandom=schedule.random.randbytes,
        _exit=schedule.leave,
        sched_setaffinity=lambda *_: None,
    )


def nonce_of(schedule: Schedule, _config: Any) -> int:
    """A claim's nonce: all processes are kin."""
    return 1 << KIN_BITS | int.from_bytes(schedule.random.randbytes(7)) >> (56 - KIN_BITS) | 1


def cells_of(schedule: Schedule) -> dict[str, Any]:
    """What stands for the operations on shared cells: each is one access."""
    touch = schedule.touch

    def load(cells: np.ndarray, index: int) -> int:
        touch()
        return int(cells[index])

    def store(cells: np.ndarray, index: int, value: int) -> None:
        touch()
        cells[index] = value

    def swap(cells: np.ndarray, index: int, expected: int, desired: int) -> bool:
        touch()
        if cells[index] != expected:
            return False
        cells[index] = desired
        return True

    def freeze(cells: np.ndarray, index: int) -> int:
        touch()
        before = int(cells[index])
        cells[index] = before | FROZEN
        return before & (FROZEN - 1)

    def published(cells: np.ndarray, index: int) -> int:
        return load(cells, index) & (FROZEN - 1)

    def free_room(tail: int, cells: np.ndarray, index: int, slots_count: int) -> int:
        return slots_count - (tail - load(cells, index))

    def idle_step(own: np.ndarray, index: int, _mode: int, worked: int) -> None:
        own[index] = 0 if worked else own[index] + 1
        if not worked:
            schedule.nap(0.0)

    def passed(_fault: Any, step: int) -> bool:
        schedule.pass_step(step)
        return False

    return {
        "load_cell": load, "load_acquire": load, "store_cell": store, "store_release": store, "release": store,
        "swap_cell": swap, "publish_freezable": swap, "freeze": freeze, "published": published, "free_room": free_room,
        "idle_step": idle_step, "fence_acquire": touch, "record_many": lambda *_: None,
        "clock_ns": lambda: schedule.now_ns, "passed": passed, "met": schedule.pass_step,
    }  # fmt: skip


class Changes:
    """Attributes that were changed, and how they were."""

    def __init__(self) -> None:
        """Nothing is changed."""
        self._before: list[tuple[Any, str, Any]] = []

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Change one."""
        self._before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Change all back."""
        while self._before:
            setattr(*self._before.pop())


def kept(maker: Any) -> Any:
    """A layout's maker that makes it once: a world has one configuration, and asks at every start of a process."""
    made: list[Any] = []

    def make(config: Any) -> Any:
        if not made:
            made.append(maker(config))
        return made[0]

    return make


@contextmanager
def rewired(world: Any) -> Iterator[Changes]:
    """Run processes inside a world; more may be changed through what this gives."""
    changes = Changes()
    schedule = world.schedule
    common = cells_of(schedule) | {"time": clock_of(schedule), "os": system_of(schedule)}
    common |= {"Segment": world, "traceback": SimpleNamespace(print_exc=world.broken)}
    try:
        for module in MODULES:
            for name, value in common.items():
                if hasattr(module, name):
                    changes.put(module, name, common.get(f"{module.__name__.rpartition('.')[2]}.{name}", value))
        for module, names in LOOPS.items():
            for name in names:
                loop = getattr(module, name)
                for user in (serve, follow, follower, worker, dealing, router):
                    if getattr(user, name, None) is loop:
                        changes.put(user, name, getattr(loop, "py_func", loop))
        for owner, name, value in (
            (processes, "enter", lambda *_: None),
            (processes, "name_process", lambda *_: None),
            (processes, "open_log", world.open_log),
            (processes, "open_view", world.open_view),
            (processes, "open_intake", world.open_intake),
            (processes, "open_sink", world.open_sink),
            (processes, "Idle", world.make_idle),
            (worker, "Idle", world.make_idle),
            (worker, "nonce_of", partial(nonce_of, schedule)),
            (follower, "nonce_of", partial(nonce_of, schedule)),
            (journal, "Idle", world.make_journal_idle),
            (processes, "Worker", world.make_worker),
            (processes, "say_as", world.say_as),
            (processes, "tell_published", lambda *_: None),
            (publisher.Settings, "cycle_reports", world.cycle_reports),
            (journal.Journal, "_tell_cost", lambda _journal: None),
            (journal, "threading", SimpleNamespace(Event=world.make_event, Thread=world.make_thread)),
            (keeper, "threading", SimpleNamespace(Thread=world.make_thread)),
            (keeper, "store_of", world.store_of),
            (keeper.Keeper, "_growth", lambda *_: ""),
            (journal, "say_as", world.journal_says_as),
            (follower, "_pidfd_of", lambda pid: pid),
            (follower, "signal", SimpleNamespace(SIGKILL=signal.SIGKILL, pidfd_send_signal=world.send_signal)),
            (supervisor, "wait", world.wait),
            (supervisor, "BACKOFF_SECONDS_MIN", 0.002),
            (supervisor, "BACKOFF_SECONDS_MAX", 0.01),
            (supervisor, "TAKE_OVER_SECONDS", 0.03),
            (supervisor, "DEATHS_IN_A_ROW_MAX", 1 << 30),
            (follower, "ATTACH_SECONDS", 0.2),
            (serve, "RUN_SLOTS_MAX", 12),
            (worker, "PATIENCE_POLLS", 2),
            (peers, "LAYOUTS", {role: kept(maker) for role, maker in peers.LAYOUTS.items()}),
            (peers, "board_layout", kept(layout.board_layout)),
            (peers, "queries_layout", kept(layout.queries_layout)),
        ):
            changes.put(owner, name, value)
        changes.put(supervisor, "LAYOUTS", peers.LAYOUTS)
        changes.put(processes, "LAYOUTS", peers.LAYOUTS)
        yield changes
    finally:
        changes.undo()
