"""
The journal thread: reads the journal ring, cuts batches, appends them to the log, and says what is durable.

    journal ring ──cut──> batch ──append──> log ──poll──> durable_seq, durable_position.R, journal_head

It lives in the worker's process, on a core of its own where the configuration gives it one, and has a
heartbeat of its own. The worker's loop runs without the GIL, so the two really run side by side. A slot of the
journal ring is free when its record is durable and the follower has it; so when the log is away the ring fills, the
worker waits, and nothing is dropped. A follower that falls half a ring behind is let go: it can never stop the worker.

`step` is one duty cycle, for whoever has no thread to give (simulations); `start` runs it in a thread.

Any failure here ends the process: what became of the batches in flight can only be learned by recovery.

Fast here because one batch carries whatever has gathered while the log was busy. Slow when the log's round trip
is long and orders come one by one: then each waits for one round trip, and no more.

Invariants:

    J1  journal position - first position = seq - first seq: one slot a record
    J2  durable_seq is stored before the durable positions and before the log's position, these before the journal head
    J3  while a follower is attached (followed_by) the journal head does not pass what it has copied; it is let go
        before the head does
"""

import os
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

import numpy as np

from ringpit.engine.records import MARKER
from ringpit.ipc import histogram
from ringpit.ipc.atomics import store_cell
from ringpit.ipc.idle import SPINS_MAX, YIELDS_MAX, Idle
from ringpit.ipc.ring import published
from ringpit.ipc.segment import Segment, SegmentMissing
from ringpit.shards.exits import Exit
from ringpit.shards.faults import Step, met
from ringpit.shards.kernels import kernel
from ringpit.shards.layout import Role
from ringpit.shards.marks import mark
from ringpit.shards.peers import Peers
from ringpit.shards.saying import say_as
from ringpit.wal.errors import Fenced, LogError
from ringpit.wal.log import Log
from ringpit.wal.writer import BatchWriter

WAIT_SECONDS: Final = 0.0005  # longest wait for the log while records may gather
# The first nap is of 256 us: shorter ones cost more of the processor than they save of the log's time.
SKIPPED: Final = SPINS_MAX + YIELDS_MAX + 8


@kernel
def record_cut(markers, start, count, cut_ns, waited):
    """Count for each record of the frames at [start, start + count) how long it lay there. Returns their number."""
    mask = markers.shape[0] - 1
    records = 0
    at = start
    while at < start + count:
        frame = int(markers[at & mask]["count"])
        histogram.record_many(waited, cut_ns - markers[at & mask]["engine_ns"], frame)
        records += frame
        at += 1 + frame
    return records


class Followed:
    """
    The worker's side of its follower: keeps the journal's slots for it, and lets it go when it lags.

    Args:
        segment: The worker's own.
        peers: Where the follower's is found.
        index: Which shard.
        slots_count: Of the journal ring.
        say: Gets one line when a follower is let go.
    """

    def __init__(
        self, segment: Segment, peers: Peers, index: int, slots_count: int, say: Callable[[str], None]
    ) -> None:
        """Nobody follows yet."""
        self._segment = segment
        self._peers = peers
        self._index = index
        self._lag_max = slots_count // 2
        self._say = say
        self._incarnation = 0  # of the follower that is known
        self._memory: Segment | None = None
        self._attached = False
        self._from = 0

    def head(self, durable_head: int, told_head: int, tail: int) -> int:
        """
        How far the journal's slots may be given back (J3).

        Args:
            durable_head: What the log has.
            told_head: What has been given back: what a new follower begins behind.
            tail: Where the ring ends.
        """
        incarnation = self._peers.incarnation(Role.FOLLOWER, self._index)
        if incarnation != self._incarnation:
            self._incarnation = incarnation
            self._let_go()
            self._memory = self._memory_of_follower()
        if self._memory is None:
            return durable_head
        if not self._attached:
            if self._memory.load("follows") != self._segment.incarnation:
                return durable_head
            self._attached = True
            self._from = told_head
            self._segment.store("followed_from", told_head)
            self._segment.store("followed_by", incarnation)  # pairs with the follower's acquire: from is set
        kept = max(self._from, self._memory.load("follows_position"))  # pairs with the release in `follow`
        if kept < durable_head and tail - kept > self._lag_max:
            self._say(f"shard {self._index}: the follower is {tail - kept} records behind and is let go")
            self._let_go()
            self._segment.store("followed_by", -incarnation)  # it may not have seen yet that it was followed
            self._memory = None
            return durable_head
        return min(durable_head, kept)

    def _memory_of_follower(self) -> Segment | None:
        """The follower's segment, if there is one now: it may have become the worker, or died, since we looked."""
        try:
            return self._peers.attach(Role.FOLLOWER, self._index)
        except SegmentMissing:
            return None

    def _let_go(self) -> None:
        """J3: the follower looks at this word after each copy, and throws the copy away."""
        self._attached = False
        self._segment.store("followed_by", 0)


class Journal:
    """
    One shard's journal thread.

    Args:
        segment: The worker's own segment.
        begin: Called once, by the thread: the log, open for appending and claimed, and a writer that stands where
            the journal ring begins to be not durable.
        routers: How many routers' positions to publish.
        first_position: Where in the ring the writer's next seq lies.
        confirmed_seq: Asked at each batch: how far the publisher has confirmed.
        cores: Cores to pin the thread to; empty: none.
        wait_mode: How it waits, as `Idle`.
        followed: The follower's slots; None: there is none.
    """

    def __init__(
        self,
        segment: Segment,
        begin: Callable[[], tuple[Log, BatchWriter]],
        *,
        routers: int,
        first_position: int,
        confirmed_seq: Callable[[], int],
        cores: list[int],
        wait_mode: str = "sleep",
        followed: Followed | None = None,
    ) -> None:
        """Nothing runs before `start`."""
        self._segment = segment
        self._begin = begin
        self._log: Log
        self._writer: BatchWriter
        self._mark_seq = -1  # a batch ends at this seq, because somebody wants the checksum there
        self._mark_checksum: int | None = None
        self._routers = routers
        self._confirmed_seq = confirmed_seq
        self._cores = cores
        self._idle = Idle(wait_mode, skipped=SKIPPED)
        self._wait_seconds = WAIT_SECONDS if wait_mode == "sleep" else 0.0
        self._followed = followed
        self._slots = segment.region("journal")
        self._cursor = first_position
        self._durable_head = first_position
        self._told_head = first_position
        self._to_position = 0
        self._stopping = threading.Event()
        self._clean = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._markers = self._slots.view(MARKER)
        self._journal_ns = segment.region("journal_ns")
        self._durable_ns = segment.region("durable_ns")
        self._durable_marks = segment.region("durable_marks")
        self._cut_at: list[tuple[int, int, int]] = []  # last seq, time, records of batches in flight
        self._beats = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, deadline_seconds: float, *, clean: bool) -> bool:
        """
        Make everything published durable, append the confirmed seq as a mark, and end; True if it did in time.

        `clean` goes into the mark: nothing that was taken is left to serve or to confirm.
        """
        self._clean = clean
        self._stopping.set()
        self._thread.join(deadline_seconds)
        return not self._thread.is_alive()

    def checksum(self) -> int:
        """The running checksum over everything cut so far; nothing may be published meanwhile."""
        return self._writer.checksum

    @property
    def log(self) -> Log:
        """The log, once `open` has run."""
        return self._log

    def mark_at(self, seq: int) -> None:
        """Have a batch end at a seq that is the end of a published frame and not above the newest published one."""
        self._mark_checksum = None
        self._mark_seq = seq

    def checksum_at_mark(self) -> int | None:
        """The running checksum up to the seq that was marked, as soon as it is known."""
        return self._mark_checksum

    def open(self) -> None:
        """Have the log opened and claimed, and stand where it does."""
        self._log, self._writer = self._begin()
        self._to_position = self._cursor - self._writer.next_seq  # J1
        self._tell_durable()  # a predecessor may have died before it told that
        self._segment.store("log_position", self._log.durable_end)

    def _run(self) -> None:
        """The thread: any exception ends the process, because the log's state is unknown from then on."""
        try:
            if self._cores:
                os.sched_setaffinity(0, self._cores)
            self.open()
            self._work()
        except LogError as error:
            say_as("journal")(str(error))
            os._exit(Exit.FENCED if isinstance(error, Fenced) else Exit.LOG_FAILED)
        except BaseException:  # noqa: BLE001 - a thread that dies silently would lose orders
            traceback.print_exc()
            os._exit(Exit.BROKEN)

    def _work(self) -> None:
        """Cycle until told to stop and nothing is left, then append the mark."""
        idle = 0
        while True:
            worked = self.step(self._wait_seconds)
            flying = self._writer.in_flight_count > 0
            if not worked and not flying and self._stopping.is_set():
                break
            if not worked and not (flying and self._wait_seconds):  # else the log's poll has waited
                self._idle(0)
            if worked:
                self._idle(1)
            idle = 0 if worked else idle + 1
            if idle & 63 == 1:
                self._advance(0.0)  # an idle log must be looked after, too
                self._tell_cost()
        self._log.append(self._writer.mark(self._confirmed_seq(), clean=self._clean))
        while self._writer.in_flight_count:
            self._advance(WAIT_SECONDS)

    def step(self, wait_seconds: float) -> bool:
        """Duty cycle: cut, append, look what is durable, waiting for that if nothing was cut. True: something was done."""
        self._beats += 1
        self._segment.store("journal_heartbeat", self._beats)
        worked = self._cut()
        if self._writer.in_flight_count:
            worked |= self._advance(0.0 if worked else wait_seconds)
        self._give_back()
        return worked

    def _cut(self) -> bool:
        """Take what has gathered into one batch, if the log can take another."""
        if self._writer.next_seq == self._mark_seq + 1 and self._mark_checksum is None:
            self._mark_checksum = self._writer.checksum
        if not self._writer.ready:
            return False
        tail = self._tail()
        if self._writer.next_seq <= self._mark_seq:
            tail = min(tail, self._to_position + self._mark_seq + 1)
        if tail == self._cursor:
            return False
        batch, taken = self._writer.cut(*self._spans(tail), confirmed_seq=self._confirmed_seq())
        if not taken:
            return False
        met(Step.CUT)
        cut_ns = time.time_ns()
        records = record_cut(self._markers, self._cursor, taken, cut_ns, self._journal_ns)
        self._cut_at.append((self._writer.next_seq - 1, cut_ns, records))
        self._cursor += taken
        self._log.append(batch)
        met(Step.APPENDED)
        return True

    def _tail(self) -> int:
        """Where the journal ring ends, frozen or not."""
        return int(published(self._segment.cells, self._segment.layout.index("journal_tail")))

    def _spans(self, tail: int) -> list[np.ndarray]:
        """The journal ring from the cursor to the tail, as one or two views."""
        start = self._cursor & (len(self._slots) - 1)
        count = tail - self._cursor
        first = self._slots[start : start + count]
        return [first] if len(first) == count else [first, self._slots[: count - len(first)]]

    def _advance(self, timeout_seconds: float) -> bool:
        """Publish what has become durable (J2)."""
        end = self._log.durable_end  # before the poll: it must not be ahead of durable_seq
        if not self._writer.advance(self._log.poll(timeout_seconds)):
            return False
        met(Step.DURABLE)
        now_ns = time.time_ns()
        mark(
            self._durable_marks, self._writer.durable_seq, now_ns
        )  # before the publisher sees that it is durable
        durable_seq = self._tell_durable()
        if self._segment.load("first_durable_ns") == 0:
            self._segment.store("first_durable_ns", time.time_ns())
        log_position = self._segment.layout.index("log_position")
        store_cell(self._segment.cells, log_position, end)  # pairs with the follower's acquire
        self._durable_head = self._to_position + durable_seq + 1
        while self._cut_at and self._cut_at[0][0] <= durable_seq:
            _, cut_ns, records = self._cut_at.pop(0)
            histogram.record_many(self._durable_ns, now_ns - cut_ns, records)
        self._tell_cost()
        return True

    def _tell_durable(self) -> int:
        """Tell the publisher and the routers what the log has (J2); the last seq of it."""
        durable_seq = self._writer.durable_seq
        layout, cells = self._segment.layout, self._segment.cells
        store_cell(cells, layout.index("durable_seq"), durable_seq)  # pairs with the publisher's acquire
        met(Step.DURABLE_SEQ_TOLD)
        for router in range(self._routers):
            position = int(self._writer.durable_positions[router])
            store_cell(cells, layout.index(f"durable_position.{router}"), position)  # pairs with the router's
        met(Step.DURABLE_TOLD)
        return durable_seq

    def _give_back(self) -> None:
        """Free the journal's slots that the log has, and the follower, if there is one (J3)."""
        head = self._durable_head
        if self._followed is not None:
            head = max(self._followed.head(head, self._told_head, self._tail()), self._told_head)
        if head != self._told_head:
            self._told_head = head
            index = self._segment.layout.index("journal_head")
            store_cell(self._segment.cells, index, head)  # pairs with the acquire in free_room

    def _tell_cost(self) -> None:
        """Show what the thread has cost and how long the log is: for tables, not for decisions."""
        self._segment.store("journal_cpu_ns", time.thread_time_ns())
        self._segment.store("log_bytes", self._log.bytes_total)
