"""
A matching process, a draining process, and the ring of reports between them.

    commands in memory ──> [match] ──reports──> ring in shared memory ──> [drain] ──> one checksum
                              └───────── "that was the last" ──────────────┘
                              <─────────── "I have read it" ────────────────

Each process has a core of its own. The engine writes its reports straight into the ring's slots; the tail is
published once for BATCH commands. The drainer reads all 64 bytes of every report and folds them into a checksum that
depends on their order. The clock runs from before the first command until the drainer has said that it read the last
report: so a report that is never handed on is never counted as work done.

One kernel does all of it between the two readings of the clock; it comes back to Python only if the other side
says nothing for long, to see whether it still lives. Tables, commands and ring are allocated and touched before,
kernels compiled.

The ring holds 65,536 reports. On a quiet machine of 2 cores 4 MiB and 16 MiB were equally fast, 1 MiB as well but for runs in
which the drainer lost its core for a moment and held everybody up; on a busy machine more slots help.

Fast here because each side looks at the other's word only when what it saw last is used up. Slow where the two
cores share no cache.

Invariants:

    H1  all reports of a run are published before `end` is set, and `end` is -1 before the first
    H2  `done` is set to the number of a run after its checksum and count are written
"""

import multiprocessing
import os
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import numpy as np

from ringpit.engine.kernels import kernel
from ringpit.engine.machine import process
from ringpit.engine.records import COMMAND, MARKER, RECORD_BYTES, REPORT
from ringpit.engine.tables import Tables
from ringpit.ipc.atomics import load_acquire, load_cell, store_release
from ringpit.ipc.idle import SPIN_THEN_YIELD, Idle, idle_step
from ringpit.ipc.ring import OWN, give_back, publish, ready_for, ring_words, room_for
from ringpit.ipc.segment import Region, Segment, SegmentLayout
from ringpit.perf.harness import CannotMeasureError, cores, cores_for, pin

RING_SLOTS: Final = 1 << 16  # 4 MiB
BATCH: Final = 256  # commands between two publications of the tail
ROOM: Final = 1 << 10  # free slots that a batch is not begun without
LAG: Final = 4_096  # reports that the drainer lets gather: on its heels, its cache would fetch lines that are being written
DRAIN_BATCH: Final = 512  # reports between two releases of the head
POLLS_MAX: Final = 1_000_000  # idle polls before a kernel comes back to Python
START_SECONDS: Final = 120
STOP_SECONDS: Final = 10
WORDS: Final = RECORD_BYTES // 8  # int64 of a report
STRICT, PREFETCH = range(2)  # `ahead` of the engine

MATCHER: Final = SegmentLayout(
    "perf-matcher", (*ring_words("tail"), "end"), (Region("slots", REPORT, RING_SLOTS),)
)
DRAINER: Final = SegmentLayout("perf-drainer", (*ring_words("head"), "begun", "done", "checksum", "count"))
TAIL, END = MATCHER.index("tail"), MATCHER.index("end")
HEAD, BEGUN, DONE = DRAINER.index("head"), DRAINER.index("begun"), DRAINER.index("done")
CHECKSUM, COUNT = DRAINER.index("checksum"), DRAINER.index("count")

# Odd, one for each word of a report, and one for the fold: the golden ratio and its kin, as everybody's.
FOLD: Final = -7046029254386353131
MIX: Final = (
    -4417276706812531889,
    1609587929392839161,
    -8796714831421723037,
    2870177450012600261,
    -5808590958014384161,
    6979835745203523097,
    -2401053089206453657,
    4354685564936845355,
)


class Run(NamedTuple):
    """What one run gave."""

    seconds: float
    reports: int
    checksum: int
    kept: np.ndarray  # REPORT, in their order; empty unless asked for


@kernel
def match_all(t, commands, markers, position, end, ahead, slots, cells, drainer_cells, run, waiting):
    """
    Match what lies at positions [position, end) and wait until the drainer has read all reports.

    Position p has seq p. Returns (position reached, whether everything was drained); call again with the
    position if it was not.
    """
    polls = 0
    while position < end and polls < POLLS_MAX:
        room = room_for(ROOM, cells, TAIL, drainer_cells, HEAD, slots.shape[0])
        if room < ROOM:
            polls += 1
            idle_step(waiting, 0, SPIN_THEN_YIELD, 0)
            continue
        polls = 0
        waiting[0] = 0
        out = cells[TAIL + OWN]  # plain: nobody else touches it
        stop = min(position + BATCH, end)
        position, out = process(t, commands, markers, position, stop, position, slots, out, out + room, ahead)
        publish(cells, TAIL, out)
    if position == end:
        store_release(cells, END, cells[TAIL + OWN])  # pairs with the acquire in `drain_all` (H1)
        while load_acquire(drainer_cells, DONE) != run:  # pairs with the release of H2
            polls += 1
            if polls > POLLS_MAX:
                return position, False
            idle_step(waiting, 0, SPIN_THEN_YIELD, 0)
    return position, position == end


@kernel
def drain_all(words, matcher_cells, cells, kept, run, waiting):
    """
    Fold every report into the checksum until the matcher's end is reached, then say so; False: not yet.

    Args:
        words: The ring's slots, WORDS int64 each.
        kept: int64 array that takes the words of all reports; empty: none are kept.
    """
    mask = words.shape[0] // WORDS - 1
    polls = 0
    while polls < POLLS_MAX:
        ready = ready_for(LAG, matcher_cells, TAIL, cells, HEAD)
        head = cells[HEAD + OWN]  # plain: nobody else touches it
        if ready >= LAG or (
            ready > 0 and load_acquire(matcher_cells, END) >= 0
        ):  # pairs with the release in `match_all`
            taken = min(ready, DRAIN_BATCH)
            cells[CHECKSUM] = fold(words, mask, head, taken, cells[CHECKSUM])
            keep(words, mask, head, taken, kept, cells[COUNT])
            cells[COUNT] += taken
            give_back(cells, HEAD, head + taken)
            polls = 0
        else:
            if load_acquire(matcher_cells, END) == head:  # pairs with the release in `match_all` (H1)
                store_release(cells, DONE, run)  # pairs with the acquire in `match_all` (H2)
                return True
            polls += 1
        idle_step(waiting, 0, SPIN_THEN_YIELD, ready)
    return False


@kernel
def fold(words, mask, head, count, checksum):
    """The checksum after `count` more reports from position `head` on."""
    for position in range(head, head + count):
        at = (position & mask) * WORDS
        mixed = words[at]
        for word in range(WORDS):
            mixed += words[at + word] * MIX[word]
        checksum = (checksum ^ mixed) * FOLD
    return checksum


@kernel
def keep(words, mask, head, count, kept, kept_count):
    """Copy `count` reports from position `head` on behind those that are kept, as far as there is room."""
    room = kept.shape[0] // WORDS - kept_count
    for i in range(min(count, room)):
        for word in range(WORDS):
            kept[(kept_count + i) * WORDS + word] = words[((head + i) & mask) * WORDS + word]


def drain_process(names: tuple[str, str], core: int | None, pipe: Connection) -> None:
    """The drainer: for each (run, reports to keep) from the pipe a run; None or a closed pipe ends it."""
    pin(core)
    parent = os.getppid()
    waiting = np.zeros(1, np.int64)
    with Segment.attach(names[0], MATCHER) as matcher, Segment.attach(names[1], DRAINER) as drainer:
        words = matcher.region("slots").view(np.int64)
        ends = (words, matcher.cells, drainer.cells)
        drain_all(*ends, words[:0], 0, waiting)  # compiles: nothing came and nothing is to come
        pipe.send("ready")
        while (asked := pipe.recv()) is not None:
            run, keep_count = asked
            kept = np.ones(keep_count * WORDS, np.int64)  # ones: every page is touched
            drainer.cells[CHECKSUM] = drainer.cells[COUNT] = 0
            drainer.store("begun", run)
            while not drain_all(*ends, kept, run, waiting) and os.getppid() == parent:
                pass
            if keep_count:
                pipe.send_bytes(kept[: int(drainer.cells[COUNT]) * WORDS].data)


def require_two_cores() -> None:
    """Raise CannotMeasureError with fewer than two cores."""
    if len(cores()) < 2:
        raise CannotMeasureError(
            f"matching and draining need a core each, this process may use {len(cores())} of the machine's: "
            "give it 2 (taskset, cpuset), or measure the engine alone: python -m ringpit.perf book"
        )


class Handoff:
    """
    The matching end: this process. A context manager; the drainer is started with it and ends with it.

    Raises CannotMeasureError with fewer than two cores.
    """

    def __init__(self) -> None:
        """Make ring and drainer, wait until it is ready, and pin this process."""
        require_two_cores()
        matching_core, draining_core = cores_for(2)
        pin(matching_core)
        prefix = f"ringpit-perf-{os.getpid()}"
        self._waiting = np.zeros(1, np.int64)
        self._runs = 0
        self._matcher = Segment.create(f"{prefix}-matcher", MATCHER)
        self._drainer = Segment.create(f"{prefix}-drainer", DRAINER)
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        names = (self._matcher.name, self._drainer.name)
        self._child: Any = spawn.Process(target=drain_process, args=(names, draining_core, theirs), daemon=True)
        self._child.start()
        theirs.close()  # so that reading ends if the drainer does
        if not self._is_ready():
            code = self._child.exitcode
            self.close()
            raise RuntimeError(f"the drainer did not get ready within {START_SECONDS} s, exit code {code}")

    def run(self, t: Tables, commands: np.ndarray, count: int, ahead: int = STRICT, keep_max: int = 0) -> Run:
        """
        Match the first `count` commands, the clock running.

        Args:
            t: Tables in the state that the commands expect; changed.
            commands: COMMAND array whose length is a power of two; the command in slot i has seq i.
            ahead: STRICT, or PREFETCH: the engine may look ahead in its batch, only to fetch memory.
            keep_max: Most reports to keep, 0 none; a kept run is as any other, but the drainer is slower.
        """
        self._runs += 1
        self._matcher.store("end", -1)
        with suppress(OSError):  # if it is dead, `_check` says so
            self._pipe.send((self._runs, keep_max))
        idle = Idle("sleep")
        while self._drainer.load("begun") != self._runs:
            self._check()
            idle(0)
        records = (commands, commands.view(MARKER))
        where = (
            self._matcher.region("slots"),
            self._matcher.cells,
            self._drainer.cells,
            self._runs,
            self._waiting,
        )
        position, drained = 0, False
        began_ns = time.perf_counter_ns()
        while not drained:
            position, drained = match_all(t, *records, position, count, ahead, *where)
            if not drained:
                self._check()
        seconds = (time.perf_counter_ns() - began_ns) / 1e9
        words = np.frombuffer(self._pipe.recv_bytes(), REPORT) if keep_max else np.empty(0, REPORT)
        cells = self._drainer.cells
        return Run(seconds, int(cells[COUNT]), int(load_cell(cells, CHECKSUM)), words)

    def warm_up(self, t: Tables) -> None:
        """Compile the kernel for these tables, without matching anything."""
        self.run(t, np.zeros(1, COMMAND), 0)

    def close(self) -> None:
        """End the drainer and remove the ring."""
        with suppress(OSError):  # it may be dead
            self._pipe.send(None)
        self._child.join(STOP_SECONDS)
        if self._child.is_alive():  # in the middle of a run that will not end
            self._child.kill()
            self._child.join()
        self._pipe.close()
        for segment in (self._matcher, self._drainer):
            segment.close()
            segment.unlink()

    def _is_ready(self) -> bool:
        """Wait until the drainer has compiled its kernel; False if it died or takes too long."""
        try:
            return bool(self._pipe.poll(START_SECONDS) and self._pipe.recv() == "ready")
        except EOFError:
            return False

    def _check(self) -> None:
        """RuntimeError if the drainer is dead."""
        if not self._child.is_alive():
            raise RuntimeError(f"the drainer ended with exit code {self._child.exitcode}")

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """Close."""
        self.close()
