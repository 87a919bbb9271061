"""
Worker: one shard's process. Recovers its books from the log, then serves.

    start ──> replay the log, claim the next epoch ──> images of open books ──> unconfirmed reports again
          ──> RUNNING ──> greeted by each router ──> serve (serve.py) ──> stop: drain, make durable, leave

While it serves, orders whose time is up expire, also while no router is there, and what clients ask is answered
between two runs (answers.py).

There is one way to start. A worker that was killed, a whole exchange that was, and a first start differ only
in how much log there is. While replaying, the reports that the publisher may not have confirmed are kept, and
then go into the output ring first, with the identities they had.

Everything the worker writes lies in its own segment. It attaches the segments of its neighbours, and again
whenever the board names a new incarnation.

Fast: the time is in `process`, without the GIL. Slow: replaying a long log without a snapshot.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np

from ringpit.engine.codes import ReportKind
from ringpit.engine.image import images
from ringpit.engine.machine import process
from ringpit.engine.records import COMMAND, MARKER, REPORT
from ringpit.engine.tables import Cell, Tables, allocate
from ringpit.ipc.atomics import load_cell
from ringpit.ipc.idle import MODES, Idle
from ringpit.ipc.ring import publish_freezable, published
from ringpit.ipc.segment import Segment
from ringpit.shards.answers import Answers
from ringpit.shards.config import Config
from ringpit.shards.journal import Journal
from ringpit.shards.layout import Role, State, first_position, pool_limits
from ringpit.shards.peers import Peers
from ringpit.shards.serve import At, Own, Turn, Wires, keep_time, serve, tick_frame
from ringpit.wal.log import Log
from ringpit.wal.reader import RecoveredState, recover
from ringpit.wal.writer import BatchWriter

PATIENCE_POLLS: Final = 1_400  # idle polls before Python gets a turn, alone on its router
SHARED_PATIENCE_POLLS: Final = 1  # with several routers Python goes round
SCRATCH_REPORTS: Final = 1 << 16
NAP_SECONDS: Final = 0.0002


class WorkerFrozen(Exception):
    """Another process took over: this one's rings are frozen, and it must leave."""


class Replay:
    """Applies recovered batches to the tables, and keeps the reports that were perhaps never confirmed."""

    def __init__(self, tables: Tables, confirmed_seq: int) -> None:
        """`confirmed_seq` is what the publisher says itself; batch headers may say more."""
        self.tables = tables
        self.confirmed_seq = confirmed_seq
        self.kept: deque[np.ndarray] = deque()
        self._records = np.zeros(1 << 14, COMMAND)
        self._reports = np.zeros(SCRATCH_REPORTS, REPORT)
        self._next_seq = 1

    def apply(self, header: np.void, records: np.ndarray) -> None:
        """One batch's records, in order."""
        count = len(records)
        if count > len(self._records):
            self._records = np.zeros(1 << (count - 1).bit_length(), COMMAND)
        self._records[:count] = records.view(COMMAND)
        self.confirm(int(header["confirmed_seq"]))
        done = 0
        while done < count:
            reached, out = process(
                self.tables,
                self._records,
                self._records.view(MARKER),
                done,
                count,
                self._next_seq,
                self._reports,
                0,
                len(self._reports),
                1,
            )
            self._next_seq += reached - done
            done = reached
            self._keep(self._reports[:out])

    def _keep(self, reports: np.ndarray) -> None:
        """Keep what is above the confirmed seq."""
        fresh = above(reports, self.confirmed_seq)
        if len(fresh):
            self.kept.append(fresh.copy())

    def confirm(self, seq: int) -> None:
        """Drop what a later batch, or a mark, says was confirmed; what remains is bounded by the output ring."""
        self.confirmed_seq = max(self.confirmed_seq, seq)
        while self.kept and int(self.kept[0]["seq"][-1]) <= self.confirmed_seq:
            self.kept.popleft()

    def unconfirmed(self) -> list[np.ndarray]:
        """Reports to make again, in order."""
        chunks = list(self.kept)
        if chunks:
            chunks[0] = above(chunks[0], self.confirmed_seq)
        return chunks


def above(reports: np.ndarray, seq: int) -> np.ndarray:
    """The reports above a seq; if they begin inside a frame, its FRAME report first, because it carries the time."""
    cut = int(np.searchsorted(reports["seq"], seq, "right"))
    leaders = np.flatnonzero(reports["kind"][:cut] == ReportKind.FRAME)
    if 0 < cut < len(reports) and len(leaders) and reports["kind"][cut] != ReportKind.FRAME:
        return np.concatenate([reports[leaders[-1] :][:1], reports[cut:]])
    return reports[cut:]


class Worker:
    """
    One shard.

    Args:
        config: The exchange's configuration.
        index: Which shard.
        segment: This incarnation's own segment.
        peers: The board and the neighbours' segments.
        open_log: Opens the shard's log; called once, in this process.
        say: Gets one line for each change worth knowing.
    """

    def __init__(
        self,
        config: Config,
        index: int,
        segment: Segment,
        peers: Peers,
        open_log: Callable[[], Log],
        say: Callable[[str], None],
    ) -> None:
        """Nothing is read or claimed before `run`."""
        self.config = config
        self.index = index
        self.segment = segment
        self.peers = peers
        self._open_log = open_log
        self._say = say
        self._layout = segment.layout
        self._start = first_position(segment.incarnation)
        self.tables = allocate(pool_limits(config), market_data=True)
        self._own = np.zeros(len(Own), np.int64)
        self._wires: dict[int, Wires] = {}
        self._alone: dict[int, Wires] = {}  # wires without a router, by the number of the one that is missing
        self._answers = Answers(index, segment, peers.queries, self.tables)
        self._greeted: dict[int, int] = {}  # router to the incarnation whose ring we serve
        self._idle = Idle(config.wait.mode)
        self._deadline = 0.0  # of a stop; 0: none was asked for

    def _word(self, word: str, value: int) -> None:
        """Store one of our own words."""
        self.segment.store(word, value)

    def stop_wanted(self) -> bool:
        """True if the supervisor asked us to stop."""
        return self.peers.stop_wanted(Role.WORKER, self.index)

    # Start ---------------------------------------------------------------------------------------------

    def recover(self) -> tuple[Log, RecoveredState, Replay]:
        """Replay the log up to our own claim."""
        self._word("state", State.RECOVERING)
        began = time.perf_counter()
        log = self._open_log()
        publisher = self.peers.attach(Role.PUBLISHER, 0)
        replay = Replay(self.tables, publisher.load(f"confirmed_seq.{self.index}"))
        nonce = int.from_bytes(os.urandom(7), "little") + 1
        state = recover(log, self.index, self.config.exchange.generation, nonce, replay.apply)
        replay.confirm(state.confirmed_seq)  # a mark at the log's end has no records to apply
        seconds = time.perf_counter() - began
        self._say(
            f"shard {self.index}: epoch {state.epoch}, {state.record_count} records replayed in {seconds:.2f} s, "
            f"next seq {state.next_seq}, {int(self.tables.cells[Cell.ORDERS_USED])} orders rest; {log.describe()}"
        )
        return log, state, replay

    def begin(self, state: RecoveredState, replay: Replay) -> None:
        """Set our words, send again what may be missing downstream, and the image of each open book."""
        last_seq = state.next_seq - 1
        own = self._own
        own[Own.SEQ] = state.next_seq
        own[Own.RUN_AT] = own[Own.RUN_END] = own[Own.OUT] = self._start
        own[Own.MODE] = MODES[self.config.wait.mode]
        own[Own.PATIENCE] = PATIENCE_POLLS if self.config.exchange.routers == 1 else SHARED_PATIENCE_POLLS
        told_seq = min(replay.confirmed_seq, last_seq)
        self._word("epoch", state.epoch)
        self._word("durable_seq", last_seq)
        self._word("recovered_seq", last_seq)
        self._word("matched_seq", told_seq)  # the publisher confirms up to it as soon as the ring is empty
        self._word("orders_resting", int(self.tables.cells[Cell.ORDERS_USED]))
        self._show_events()
        for word in ("journal_tail", "journal_head", "output_tail"):  # last: a tail says that our words stand
            self._word(word, self._start)
        again = replay.unconfirmed()
        if again:
            count = sum(map(len, again))
            self._say(f"shard {self.index}: {count} reports above seq {replay.confirmed_seq} are made again")
        # The images come first, under the seq that is confirmed, so that prices can be written as decimals; the
        # reports made again then only repeat what the images already show, and end with the same levels.
        if all(self._send(reports) for reports in [*images(self.tables, told_seq), *again]):
            self._word("matched_seq", last_seq)
            self._word("state", State.RUNNING)

    def _show_events(self) -> None:
        """Fill the events region with what the log created."""
        count = int(self.tables.cells[Cell.BOOKS_USED])
        region = self.segment.region("events")
        for name in region.dtype.names or ():
            region[name][:count] = self.tables.books[name][:count]
        self._word("events_count", count)

    def _send(self, reports: np.ndarray) -> bool:
        """Put reports into the output ring, waiting for the publisher as long as it takes; False: stopped before."""
        slots = self.segment.region("output")
        sent = 0
        while sent < len(reports):
            tail = int(self._own[Own.OUT])
            publisher = self.peers.attach(Role.PUBLISHER, 0)
            head = publisher.load(f"output_head.{self.index}")
            room = len(slots) - (tail - head)
            if room <= 0 or head < self._start:
                if self.stop_wanted():
                    return False
                time.sleep(NAP_SECONDS)
                continue
            chunk = reports[sent : sent + min(room, len(reports) - sent)]
            slots[(tail + np.arange(len(chunk))) & (len(slots) - 1)] = chunk
            index = self._layout.index("output_tail")
            if not publish_freezable(self.segment.cells, index, tail, tail + len(chunk)):
                raise WorkerFrozen(f"shard {self.index}: the output ring is frozen")
            self._own[Own.OUT] = tail + len(chunk)
            sent += len(chunk)
        return True

    # Neighbours ----------------------------------------------------------------------------------------

    def _wire(self, router: int) -> Wires | None:
        """Wires for one router's ring, once the router has greeted us; None before, and while a run is in hand (V3)."""
        if router in self._wires:
            return self._wires[router]
        segment = self.peers.attach(Role.ROUTER, router)
        if self._in_hand() or segment.load(f"input_peer.{self.index}") != self.segment.incarnation:
            return None
        base = segment.load(f"input_base.{self.index}")
        self._word(f"input_head.{router}", base)
        alone = self._wires_alone(router)
        at = alone.at.copy()
        at[At.INPUT_TAIL] = segment.layout.index(f"input_tail.{self.index}")
        inputs = segment.region(f"input.{self.index}")
        self._greeted[router] = segment.incarnation
        self._wires[router] = alone._replace(
            router=segment.cells,
            at=at,
            attached=np.array([segment.incarnation, alone.attached[1]], np.int64),
            inputs=inputs,
            input_markers=inputs.view(MARKER),
        )
        return self._wires[router]

    def _wires_alone(self, router: int) -> Wires:
        """Wires without a router: for what the worker does by itself. Kept while the publisher is the same."""
        publisher = self.peers.attach(Role.PUBLISHER, 0)
        alone = self._alone.get(router)
        if alone is not None and alone.attached[1] == publisher.incarnation:
            return alone
        board, queries = self.peers.board, self.peers.queries
        at = np.zeros(len(At), np.int64)
        index = self._layout.index
        for place, word in (
            (At.HEARTBEAT, "heartbeat"),
            (At.INPUT_HEAD, f"input_head.{router}"),
            (At.JOURNAL_TAIL, "journal_tail"),
            (At.JOURNAL_HEAD, "journal_head"),
            (At.OUTPUT_TAIL, "output_tail"),
            (At.MATCHED_SEQ, "matched_seq"),
            (At.EVENTS_COUNT, "events_count"),
            (At.ORDERS_RESTING, "orders_resting"),
        ):
            at[place] = index(word)
        at[At.OUTPUT_HEAD] = publisher.layout.index(f"output_head.{self.index}")
        at[At.BELL] = queries.layout.index(f"bell.{self.index}")
        at[At.STOP] = board.layout.index(f"worker.{self.index}.stop")
        at[At.ROUTER_INCARNATION] = board.layout.index(f"router.{router}.incarnation")
        at[At.PUBLISHER_INCARNATION] = board.layout.index("publisher.0.incarnation")
        nothing = np.zeros(1, COMMAND)
        journal = self.segment.region("journal")
        self._alone[router] = Wires(
            cells=self.segment.cells,
            router=np.zeros(1, np.int64),
            publisher=publisher.cells,
            board=board.cells,
            queries=queries.cells,
            at=at,
            own=self._own,
            attached=np.array([0, publisher.incarnation], np.int64),
            inputs=nothing,
            input_markers=nothing.view(MARKER),
            journal=journal,
            journal_markers=journal.view(MARKER),
            tick=tick_frame(),
            output=self.segment.region("output"),
            events=self.segment.region("events"),
            wait_ns=self.segment.region("wait_ns"),
            match_ns=self.segment.region("match_ns"),
        )
        return self._alone[router]

    def _follow_peers(self, router: int, wires: Wires) -> None:
        """
        A neighbour has a new incarnation. The publisher's is taken up at once. A router's old ring is served to its
        end first, which cannot move any more: the board names a new incarnation after the old process was reaped.
        """
        publisher = self.peers.attach(Role.PUBLISHER, 0)
        wires.attached[:] = self.peers.incarnation(Role.ROUTER, router), publisher.incarnation
        self._wires[router] = wires._replace(publisher=publisher.cells)

    def _retire(self, router: int) -> None:
        """Let go of a dead router's ring when it has been served to its end."""
        wires = self._wires[router]
        if wires.attached[0] != self._greeted[router] and self._served(router, wires):
            del self._wires[router]

    def _served(self, router: int, wires: Wires) -> bool:
        """True if a router's ring is empty and nothing of it is in hand."""
        head = load_cell(self.segment.cells, self._layout.index(f"input_head.{router}"))
        return not self._in_hand() and published(wires.router, int(wires.at[At.INPUT_TAIL])) <= head

    def _in_hand(self) -> bool:
        """True if a run is not matched to its end."""
        return bool(self._own[Own.RUN_AT] < self._own[Own.RUN_END])

    # Life ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Recover, serve until told to stop, leave everything durable."""
        log, state, replay = self.recover()
        writer = BatchWriter(state, batch_bytes_max=self.config.log.batch_bytes)
        self.begin(state, replay)
        publisher_word = self.peers.attach(Role.PUBLISHER, 0).layout.index(f"confirmed_seq.{self.index}")
        journal = Journal(
            self.segment,
            log,
            writer,
            routers=self.config.exchange.routers,
            first_position=self._start,
            confirmed_seq=lambda: load_cell(self.peers.attach(Role.PUBLISHER, 0).cells, publisher_word),
            cores=self.config.cpu.cores("journals", self.index),
        )
        journal.start()
        self._serve()
        self._leave(journal, log)

    def _serve(self) -> None:
        """Go round the routers until told to stop and nothing is left to do, or the time for that is over."""
        routers = range(self.config.exchange.routers)
        while True:
            before = int(self._own[Own.SEQ])
            for router in routers:
                self._serve_one(router)
                while self._in_hand():  # V3: the next ring must not meet this one's run
                    if self._overdue():
                        return
                    self._serve_one(router)
            self._word("cpu_ns", time.thread_time_ns())
            if self.stop_wanted() and (
                self._overdue() or all(self._served(*item) for item in self._wires.items())
            ):
                return
            if len(routers) > 1:
                self._idle(int(self._own[Own.SEQ]) - before)

    def _serve_one(self, router: int) -> None:
        """One turn on one router's ring."""
        wires = self._wire(router)
        if wires is None:
            self._serve_alone(router)
            return
        turn = serve(self.tables, wires)
        if turn == Turn.FROZEN:
            raise self._frozen()
        if turn == Turn.QUERY:
            self._answer()
        elif turn == Turn.PEERS_CHANGED:
            self._follow_peers(router, wires)
        elif turn == Turn.STOP and self._in_hand():
            time.sleep(NAP_SECONDS)  # the publisher has to make room first
        self._retire(router)

    def _serve_alone(self, router: int) -> None:
        """One turn without the router, which has not greeted us: orders expire and questions are answered all the same."""
        wires = self._wires_alone(router)
        moved = keep_time(self.tables, wires, time.time_ns())
        if moved < 0:
            raise self._frozen()
        bell = load_cell(wires.queries, int(wires.at[At.BELL]))
        if bell != self._own[Own.BELL] and not self._in_hand():
            self._answer()
        elif moved == 0:
            time.sleep(NAP_SECONDS)

    def _answer(self) -> None:
        """Answer what is asked; between two runs, so every answer is of whole commands."""
        # The bell before the lanes: whoever rings later is seen again.
        self._own[Own.BELL] = self._answers.bell()
        self._answers.answer(int(self._own[Own.SEQ]) - 1, time.time_ns())

    def _frozen(self) -> WorkerFrozen:
        """What ends a worker whose rings take nothing more."""
        return WorkerFrozen(f"shard {self.index}: another process took over; this one leaves")

    def _overdue(self) -> bool:
        """True if a stop was asked for and the patience for it is over."""
        if not self.stop_wanted():
            return False
        self._deadline = self._deadline or time.monotonic() + self.config.exchange.stop_seconds
        return time.monotonic() > self._deadline

    def _leave(self, journal: Journal, log: Log) -> None:
        """Everything matched becomes durable, then confirmed; the mark says so to the next start."""
        self._word("state", State.DRAINED)
        deadline = time.monotonic() + self.config.exchange.stop_seconds
        matched = int(self._own[Own.SEQ]) - 1
        word = f"confirmed_seq.{self.index}"
        while self.peers.attach(Role.PUBLISHER, 0).load(word) < matched and time.monotonic() < deadline:
            time.sleep(NAP_SECONDS)
        if not journal.stop(max(deadline - time.monotonic(), 1.0)):
            self._say(f"shard {self.index}: the log did not take everything in time; the rest comes again")
        log.close()
