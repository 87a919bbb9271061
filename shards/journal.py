"""
The journal thread: reads the journal ring, cuts batches, appends them to the log, and says what is durable.

    journal ring ──cut──> batch ──append──> log ──poll──> durable_seq, durable_position.R, journal_head

It lives in the worker's process, on a core of its own where the configuration gives it one, and has a
heartbeat of its own. The worker's loop runs without the GIL, so the two really run side by side. A slot of the
journal ring is free when its record is durable; so when the log is away the ring fills, the worker waits,
and nothing is dropped.

Any failure here ends the process: what became of the batches in flight can only be learned by recovery.

Fast here because one batch carries whatever has gathered while the log was busy. Slow when the log's round trip
is long and orders come one by one: then each waits for one round trip, and no more.

Invariants:

    J1  journal position - first position = seq - first seq: one slot a record
    J2  durable_seq is stored before the durable positions, these before the journal head
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

import numpy as np

from ringpit.ipc.atomics import store_cell
from ringpit.ipc.histogram import record_many
from ringpit.ipc.ring import published
from ringpit.ipc.segment import Segment
from ringpit.shards.exits import Exit
from ringpit.wal.errors import LogError
from ringpit.wal.log import Log
from ringpit.wal.writer import BatchWriter

WAIT_SECONDS: Final = 0.0005  # longest wait for the log while records may gather
# Shorter ones cost more of the processor than they save of the log's time.
IDLE_NAPS: Final = (0.0002, 0.0005, 0.001)


class Journal:
    """
    One shard's journal thread.

    Args:
        segment: The worker's own segment.
        log: Open for appending, recovered.
        writer: Stands where recovery ended.
        routers: How many routers' positions to publish.
        first_position: Where the journal ring begins.
        confirmed_seq: Asked at each batch: how far the publisher has confirmed.
        cores: Cores to pin the thread to; empty: none.
    """

    def __init__(
        self,
        segment: Segment,
        log: Log,
        writer: BatchWriter,
        *,
        routers: int,
        first_position: int,
        confirmed_seq: Callable[[], int],
        cores: list[int],
    ) -> None:
        """Nothing runs before `start`."""
        self._segment = segment
        self._log = log
        self._writer = writer
        self._routers = routers
        self._confirmed_seq = confirmed_seq
        self._cores = cores
        self._slots = segment.region("journal")
        self._cursor = first_position
        self._to_position = first_position - writer.next_seq  # J1
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._durable_ns = segment.region("durable_ns")
        self._cut_at: list[tuple[int, int, int]] = []  # last seq, engine time, records of batches in flight

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, deadline_seconds: float) -> bool:
        """Make everything published durable, append the confirmed seq as a mark, and end; True if it did in time."""
        self._stopping.set()
        self._thread.join(deadline_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        """The thread: any exception ends the process, because the log's state is unknown from then on."""
        try:
            if self._cores:
                os.sched_setaffinity(0, self._cores)
            self._work()
        except LogError as error:
            print(f"journal: {error}", file=sys.stderr, flush=True)
            os._exit(Exit.LOG_FAILED)
        except BaseException:  # noqa: BLE001 - a thread that dies silently would lose orders
            traceback.print_exc()
            os._exit(Exit.BROKEN)

    def _work(self) -> None:
        """Duty cycle: cut, append, look what is durable, wait."""
        idle = 0
        beats = 0
        while True:
            beats += 1
            self._segment.store("journal_heartbeat", beats)
            worked = self._cut()
            if self._writer.in_flight_count:
                worked |= self._advance(0.0 if worked else WAIT_SECONDS)
            elif not worked:
                if self._stopping.is_set():
                    break
                time.sleep(IDLE_NAPS[min(idle, len(IDLE_NAPS) - 1)])
            idle = 0 if worked else idle + 1
            if idle & 63 == 1:
                self._tell_cost()
        self._log.append(self._writer.mark(self._confirmed_seq()))
        while self._writer.in_flight_count:
            self._advance(WAIT_SECONDS)

    def _cut(self) -> bool:
        """Take what has gathered into one batch, if the log can take another."""
        if not self._writer.ready:
            return False
        tail = published(self._segment.cells, self._segment.layout.index("journal_tail"))
        if tail == self._cursor:
            return False
        batch, taken = self._writer.cut(*self._spans(tail), confirmed_seq=self._confirmed_seq())
        if not taken:
            return False
        first = self._slots[self._cursor & (len(self._slots) - 1) :][:1].view(np.int64)
        self._cut_at.append((self._writer.next_seq - 1, int(first[4]), taken))
        self._cursor += taken
        self._log.append(batch)
        return True

    def _spans(self, tail: int) -> list[np.ndarray]:
        """The journal ring from the cursor to the tail, as one or two views."""
        start = self._cursor & (len(self._slots) - 1)
        count = tail - self._cursor
        first = self._slots[start : start + count]
        return [first] if len(first) == count else [first, self._slots[: count - len(first)]]

    def _advance(self, timeout_seconds: float) -> bool:
        """Publish what has become durable."""
        if not self._writer.advance(self._log.poll(timeout_seconds)):
            return False
        layout = self._segment.layout
        cells = self._segment.cells
        durable_seq = self._writer.durable_seq
        store_cell(cells, layout.index("durable_seq"), durable_seq)  # pairs with the publisher's acquire
        for router in range(self._routers):
            position = int(self._writer.durable_positions[router])
            store_cell(cells, layout.index(f"durable_position.{router}"), position)  # pairs with the router's
        head = self._to_position + durable_seq + 1
        store_cell(cells, layout.index("journal_head"), head)  # pairs with the acquire in free_room
        now_ns = time.time_ns()
        while self._cut_at and self._cut_at[0][0] <= durable_seq:
            _, engine_ns, records = self._cut_at.pop(0)
            record_many(self._durable_ns, now_ns - engine_ns, records)
        self._tell_cost()
        return True

    def _tell_cost(self) -> None:
        """Show what the thread has cost and how long the log is: for tables, not for decisions."""
        self._segment.store("journal_cpu_ns", time.thread_time_ns())
        self._segment.store("log_bytes", self._log.bytes_total)
