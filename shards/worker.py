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
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from ringpit.engine.codes import ReportKind
from ringpit.engine.image import images
from ringpit.engine.machine import process
from ringpit.engine.records import COMMAND, MARKER, REPORT
from ringpit.engine.tables import Cell, Tables, allocate
from ringpit.engine.through import address_of_process
from ringpit.ipc.atomics import load_cell
from ringpit.ipc.idle import MODES, SLEEP, SLEEP_LIGHTLY, Idle
from ringpit.ipc.pages import prefault
from ringpit.ipc.ring import publish_freezable, published
from ringpit.ipc.segment import Segment
from ringpit.shards.answers import Answers
from ringpit.shards.config import Config
from ringpit.shards.faults import Crash, fault_cells
from ringpit.shards.instance import nonce_of
from ringpit.shards.journal import Followed, Journal
from ringpit.shards.keeper import Place, keeper_of, load_newest
from ringpit.shards.layout import Role, State, first_position, pool_limits
from ringpit.shards.peers import Peers
from ringpit.shards.serve import RING_FROZEN, STEP_MAX, At, Own, Turn, Wires, keep_time, serve, tick_frame
from ringpit.wal.batch import decode
from ringpit.wal.log import Log
from ringpit.wal.reader import FIRST, Begin, RecoveredState, recover
from ringpit.wal.writer import BatchWriter

PATIENCE_POLLS: Final = 1_400  # idle polls before Python gets a turn, alone on its router
SHARED_PATIENCE_POLLS: Final = 1  # with several routers Python goes round
SCRATCH_REPORTS: Final = 1 << 16
NAP_SECONDS: Final = 0.0002
BUSY_NS: Final = 3_000_000_000  # no answer takes so long
WAKE_NS: Final = (
    50_000_000  # so long at most the loop serves without a turn of Python, if there is work without end
)


class WorkerFrozen(Exception):
    """Another process took over: this one's rings are frozen, and it must leave."""


class LogFacts(NamedTuple):
    """What an owner knows of its log, once it has claimed it."""

    epoch: int
    nonce: int
    skip_count: int
    identity: str


class Replay:
    """Applies recovered batches to the tables, and keeps the reports that were perhaps never confirmed."""

    def __init__(
        self,
        tables: Tables,
        confirmed_seq: int,
        *,
        next_seq: int = 1,
        careful_seq: int = 0,
        trying: Callable[[int, int], None] = lambda _first, _last: None,
        reached: Callable[[int], None] = lambda _seq: None,
    ) -> None:
        """
        `confirmed_seq` is what the publisher says itself; batch headers may say more. Up to `careful_seq` records are
        applied one at a time: a process died there. `trying` is told the first and the last seq of what is applied before it is,
        and zeros behind it. `reached` gets the last seq of each batch.
        """
        self.tables = tables
        self._careful_seq = careful_seq
        self._trying = trying
        self._reached = reached
        self.confirmed_seq = confirmed_seq
        self.kept: deque[np.ndarray] = deque()
        self._records = np.zeros(1 << 14, COMMAND)
        self._reports = np.zeros(SCRATCH_REPORTS, REPORT)
        self._next_seq = next_seq

    def apply(self, header: np.void, records: np.ndarray) -> None:
        """One batch's records, in order."""
        count = len(records)
        if count > len(self._records):
            self._records = np.zeros(1 << (count - 1).bit_length(), COMMAND)
        # As words: numpy copies records field by field, which costs more than applying them.
        self._records[:count].view(np.int64)[:] = records.view(np.int64)
        self.confirm(int(header["confirmed_seq"]))
        wanted = self._next_seq + count - 1 > self.confirmed_seq
        self.tables.cells[Cell.MARKET_DATA] = int(
            wanted
        )  # levels of reports that nobody wants need not be told
        done = 0
        while done < count:
            end = done + 1 if self._next_seq <= self._careful_seq else count
            self._trying(self._next_seq, self._next_seq + end - done - 1)
            reached, out = process(
                self.tables,
                self._records,
                self._records.view(MARKER),
                done,
                end,
                self._next_seq,
                self._reports,
                0,
                len(self._reports),
                1,
            )
            self._next_seq += reached - done
            done = reached
            if wanted:
                self._keep(self._reports[:out])
        self.tables.cells[Cell.MARKET_DATA] = 1
        self._trying(0, 0)
        self._reached(self._next_seq - 1)

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
        nap: How to wait.
        clock: The time in a simulation, int64 x 1; else the machine's.
    """

    def __init__(
        self,
        config: Config,
        index: int,
        segment: Segment,
        peers: Peers,
        open_log: Callable[[], Log],
        say: Callable[[str], None],
        *,
        nap: Callable[[float], None] = time.sleep,
        clock: np.ndarray | None = None,
    ) -> None:
        """Nothing is read or claimed before `run`."""
        segment.store("pid", os.getpid())
        self.config = config
        self.index = index
        self.segment = segment
        self.peers = peers
        self.open_log = open_log
        self._say = say
        self._layout = segment.layout
        self._start = first_position(segment.incarnation)
        self.tables = allocate(pool_limits(config), market_data=True)
        self.own = np.zeros(len(Own), np.int64)
        self._fault = fault_cells()
        self.nap = nap
        self._clock = np.zeros(1, np.int64) if clock is None else clock
        self._unsent: deque[np.ndarray] = deque()  # reports that a start has to send before it serves
        self._holder = 0  # router of the run in hand
        self._wires: dict[int, Wires] = {}
        self._alone: dict[int, Wires] = {}  # wires without a router, by the number of the one that is missing
        journal, output = segment.region("journal"), segment.region("output")
        self._process_at = address_of_process(self.tables, journal, journal.view(MARKER), output)
        self._answers = Answers(index, segment, peers.queries, self.tables)
        self._greeted: dict[int, int] = {}  # router to the incarnation whose ring we serve
        self._idle = Idle(config.wait.mode_of("workers"))
        self._deadline = 0.0  # of a stop; 0: none was asked for
        self._careful_seq = 0  # one record at a time up to it
        self.keeper = keeper_of(config, index, say, timed=not config.follower.enabled)
        self.log_facts: LogFacts | None = None  # None: a follower that has not claimed yet
        self.running_journal: Journal | None = None
        # The publisher has perhaps more to forget.
        self._provisional = self.config.output.release == "matched"
        self._last_seq = 0  # matched, once what a start sends is sent

    def _word(self, word: str, value: int) -> None:
        """Store one of our own words."""
        self.segment.store(word, value)

    def _try(self, first_seq: int, last_seq: int) -> None:
        """Say which records are being applied, for whoever finds us dead."""
        self._word("in_hand_seq", last_seq)
        self._word("trying_seq", first_seq)

    def stop_wanted(self) -> bool:
        """True if the supervisor asked us to stop."""
        return self.peers.stop_wanted(Role.WORKER, self.index)

    # Start ---------------------------------------------------------------------------------------------

    def recover(self) -> tuple[Log, RecoveredState, Replay]:
        """Restore the newest snapshot, if there is one, and replay the log from there up to our own claim."""
        self._word("state", State.RECOVERING)
        began = time.perf_counter()
        log = self.open_log()
        torn_bytes, lost_end = (
            getattr(log, "torn_bytes", 0),
            getattr(log, "lost_end", ""),
        )  # only files can be torn
        if torn_bytes or lost_end:
            meaning = "they were never durable"
            if lost_end:
                meaning = f"WARNING: {lost_end}; if the disk has lost it, stop now, put the file back from a copy and start again"
            self._say(
                f"shard {self.index}: {torn_bytes} bytes at the end of its log are torn and were cut; {meaning}"
            )
        loaded = load_newest(self.config, self.index, log, self._say)
        begin, position = FIRST, 0
        if loaded is not None:
            self.use(loaded.tables)
            begin, position = loaded.begin, loaded.position
        self.touch_tables()
        self._show_goal(log, begin)
        publisher = self.peers.attach(Role.PUBLISHER, 0)
        replay = Replay(
            self.tables,
            max(publisher.load(f"confirmed_seq.{self.index}"), begin.confirmed_seq),
            next_seq=begin.seq + 1,
            careful_seq=self.peers.board.load(f"worker.{self.index}.careful"),
            trying=self._try,
            reached=partial(self._word, "replayed_seq"),
        )
        nonce = nonce_of(self.config)
        generation = self.config.exchange.generation
        state = recover(log, self.index, generation, nonce, replay.apply, begin=begin, position=position)
        replay.confirm(state.confirmed_seq)  # a mark at the log's end has no records to apply
        seconds = time.perf_counter() - began
        self._say(
            f"shard {self.index}: epoch {state.epoch}, {state.record_count} records replayed in {seconds:.2f} s, "
            f"next seq {state.next_seq}, {int(self.tables.cells[Cell.ORDERS_USED])} orders rest; {log.describe()}"
        )
        self.log_facts = LogFacts(state.epoch, state.nonce, state.skip_count, log.identity())
        return log, state, replay

    def use(self, tables: Tables) -> None:
        """Go on with a restored state."""
        self.tables = tables
        self._answers = Answers(self.index, self.segment, self.peers.queries, tables)

    def touch_tables(self) -> None:
        """Have the tables' pages there before the first order needs them, if [memory] says so."""
        if self.config.memory.prefault:
            prefault(self.tables)

    def _show_goal(self, log: Log, begin: Begin) -> None:
        """Say how far the log goes, for whoever waits for us."""
        self._word("replayed_seq", begin.seq)
        ends = [decode(entry.batch, log.locate(entry.position))[0] for entry in log.newest(1)]
        goal = max((int(end["first_seq"] + end["count"]) - 1 for end in ends), default=0)
        self._word("replay_to_seq", max(goal, begin.seq))

    def _keep_snapshots(self) -> None:
        """Take a snapshot if one is due, and let the one on its way count if it may. Called between two runs."""
        keeper, journal = self.keeper, self.running_journal
        if journal is None:
            return
        if keeper.due():
            seq = int(self.own[Own.SEQ]) - 1
            place = self.place_of(seq)
            if place is not None:
                journal.mark_at(seq)
                keeper.take(self.tables, place, journal.checksum_at_mark)
        keeper.step(*self._kept_facts())

    def place_of(self, seq: int) -> Place | None:
        """The place in the log of what we have matched; None if the log is not known yet, or is ahead of us."""
        facts = self.log_facts
        if facts is None:
            return None
        log_position = self.segment.load("log_position")  # before durable_seq: it must not be ahead of it
        durable_seq = self.segment.load("durable_seq")
        if durable_seq > seq or not log_position:
            return None
        return Place(
            generation=self.config.exchange.generation,
            seq=seq,
            epoch=facts.epoch,
            nonce=facts.nonce,
            confirmed_seq=min(self._confirmed_seq(), seq),
            skip_count=facts.skip_count,
            log_position=log_position,
            log_seq=durable_seq,
            log_identity=facts.identity,
        )

    def _confirmed_seq(self) -> int:
        """How far the publisher has confirmed."""
        return self.peers.attach(Role.PUBLISHER, 0).load(f"confirmed_seq.{self.index}")

    def _kept_facts(self) -> tuple[int, int, int]:
        """What decides whether a snapshot may count: durable seq and confirmed seq; and the log's length."""
        return self.segment.load("durable_seq"), self._confirmed_seq(), self.segment.load("log_bytes")

    def begin(self, state: RecoveredState, replay: Replay) -> None:
        """Be ready to serve: words set, and everything that may be missing downstream sent; or a stop was asked for."""
        self.prepare(state, replay)
        while not self.settled() and not self.stop_wanted():
            self.nap(NAP_SECONDS)

    def prepare(self, state: RecoveredState, replay: Replay) -> None:
        """Set our words; to be sent: what may be missing downstream, and the image of each open book."""
        last_seq = state.next_seq - 1
        self.stand_at(state.next_seq, self._start)
        told_seq = min(replay.confirmed_seq, last_seq)
        self._word("epoch", state.epoch)
        self._word("durable_seq", last_seq)
        self._word("in_hand_seq", last_seq)
        self._word("recovered_seq", last_seq)
        # A log in memory begins anew with each worker, and its epochs with it.
        lasts = self.config.log.kind != "memory"
        self._word("report_epoch", state.epoch if lasts else self.segment.incarnation)
        self._word("report_epoch_seq", told_seq)
        self._word("matched_seq", told_seq)  # the publisher confirms up to it as soon as the ring is empty
        self._word("orders_resting", int(self.tables.cells[Cell.ORDERS_USED]))
        self.show_events()
        for word in ("journal_tail", "journal_head", "output_tail"):  # last: a tail says that our words stand
            self._word(word, self._start)
        again = replay.unconfirmed()
        if again:
            count = sum(map(len, again))
            self._say(f"shard {self.index}: {count} reports above seq {replay.confirmed_seq} are made again")
        # The images come first, under the seq that is confirmed, so that prices can be written as decimals; the
        # reports made again then only repeat what the images already show, and end with the same levels.
        self._unsent.extend([*images(self.tables, told_seq), *again])
        self._last_seq = last_seq

    def stand_at(self, next_seq: int, position: int) -> None:
        """Set the loop's own numbers: `next_seq` comes next, at a position of the journal ring."""
        own = self.own
        own[Own.SEQ] = next_seq
        own[Own.RUN_AT] = own[Own.RUN_END] = position
        own[Own.OUT] = own[Own.OUT_FIRST] = self._start
        self.look_for_care()
        self.wait_as("workers")

    def wait_as(self, key: str) -> None:
        """Wait as [wait] says for a kind of process; lightly where a follower watches our heart."""
        mode = MODES[self.config.wait.mode_of(key)]
        watched = mode == SLEEP and self.config.follower.enabled
        self.own[Own.MODE] = SLEEP_LIGHTLY if watched else mode

    def look_for_care(self) -> None:
        """Where a predecessor has died in the middle of a run, go one record at a time."""
        self._careful_seq = self.peers.board.load(f"worker.{self.index}.careful")
        self.own[Own.STEP] = 1 if self._careful_seq else STEP_MAX

    def settled(self) -> bool:
        """
        Send of what a start has to send as much as there is room for; True if nothing is left and we serve.

        Released before the log has them ("matched"), reports may be of commands that a predecessor has lost, and whose seqs
        would be ours: so we take none before the publisher has forgotten them, which it has when it gives us room.
        """
        while self._unsent:
            sent = self._send(self._unsent[0])
            if sent < len(self._unsent[0]):
                self._unsent[0] = self._unsent[0][sent:]
                return False
            self._unsent.popleft()
        if self._provisional and not self._taken_up():
            return False
        self._provisional = False
        if self.segment.load("state") != State.RUNNING:
            self._word("matched_seq", self._last_seq)
            self._word("state", State.RUNNING)
        return True

    def show_events(self) -> None:
        """Fill the events region with what the log created."""
        count = int(self.tables.cells[Cell.BOOKS_USED])
        region = self.segment.region("events")
        for name in region.dtype.names or ():
            region[name][:count] = self.tables.books[name][:count]
        self._word("events_count", count)

    def _send(self, reports: np.ndarray) -> int:
        """Put reports into the output ring, as many as the publisher has made room for, and return how many."""
        slots = self.segment.region("output")
        tail = int(self.own[Own.OUT])
        room = len(slots) - (tail - self._output_head())
        if room <= 0 or not self._taken_up():
            return 0
        chunk = reports[:room]
        slots[(tail + np.arange(len(chunk))) & (len(slots) - 1)] = chunk
        index = self._layout.index("output_tail")
        if not publish_freezable(self.segment.cells, index, tail, tail + len(chunk)):
            raise WorkerFrozen(f"shard {self.index}: the output ring is frozen")
        self.own[Own.OUT] = tail + len(chunk)
        return len(chunk)

    def _output_head(self) -> int:
        """Where the publisher stands in an output ring, ours or a predecessor's."""
        return self.peers.attach(Role.PUBLISHER, 0).load(f"output_head.{self.index}")

    def _taken_up(self) -> bool:
        """True if the publisher has taken up our ring."""
        return self._output_head() >= self._start

    # Neighbours ----------------------------------------------------------------------------------------

    def _wire(self, router: int) -> Wires | None:
        """Wires for one router's ring, once the router has greeted us; None before, and while a run is in hand (V3)."""
        if router in self._wires:
            return self._wires[router]
        segment = self.peers.attach(Role.ROUTER, router)
        if self._in_hand() or segment.load(f"input_peer.{self.index}") != self.segment.incarnation:
            return None
        self.wire(router, segment, segment.load(f"input_base.{self.index}"))
        return self._wires[router]

    def wire(self, router: int, segment: Segment, head: int) -> None:
        """Serve a router's ring from a position on."""
        self._word(f"input_head.{router}", head)
        alone = self.wires_alone(router)
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

    def wires_alone(self, router: int) -> Wires:
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
            (At.IN_HAND_SEQ, "in_hand_seq"),
            (At.TRYING_SEQ, "trying_seq"),
            (At.FIRST_MATCH_NS, "first_match_ns"),
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
            own=self.own,
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
            matched_marks=self.segment.region("matched_marks"),
            clock=self._clock,
            fault=self._fault,
            process_at=self._process_at,
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
        return bool(self.own[Own.RUN_AT] < self.own[Own.RUN_END])

    # Life ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Recover, serve until told to stop, leave everything durable."""
        log, state, replay = self.recover()
        writer = BatchWriter(state, batch_bytes_max=self.config.log.batch_bytes)
        self.begin(state, replay)
        journal = self.journal(lambda: (log, writer), self._start)
        journal.start()
        self.live(journal)

    def journal(self, begin: Callable[[], tuple[Log, BatchWriter]], first_position: int) -> Journal:
        """The journal thread, not started: `first_position` is where the seq lies that its writer writes next."""
        word = self.peers.attach(Role.PUBLISHER, 0).layout.index(f"confirmed_seq.{self.index}")
        slots = len(self.segment.region("journal"))
        return Journal(
            self.segment,
            begin,
            routers=self.config.exchange.routers,
            first_position=first_position,
            confirmed_seq=lambda: load_cell(self.peers.attach(Role.PUBLISHER, 0).cells, word),
            cores=self.config.cpu.cores("journals", self.index),
            wait_mode=self.config.wait.mode_of("journals"),
            followed=Followed(self.segment, self.peers, self.index, slots, self._say)
            if self.config.follower.enabled
            else None,
        )

    def live(self, journal: Journal) -> None:
        """Serve until told to stop and nothing is left to do, or the time for that is over; then leave."""
        self.running_journal = journal
        while not self.step():
            pass
        self._leave(journal, served=self._all_served())

    def _all_served(self) -> bool:
        """True if nothing is left in any ring, and nothing in hand."""
        return not self._in_hand() and all(self._served(*item) for item in self._wires.items())

    def step(self, *, briefly: bool = False) -> bool:
        """
        One turn on each router's ring; True: this life is over. Raises WorkerFrozen if another process leads.

        Briefly: of one run, or of one look where there is none.
        """
        if self.peers.incarnation(Role.WORKER, self.index) != self.segment.incarnation:
            raise self._frozen()  # it may have nothing to publish, and would never meet the frozen tail
        self._word("heartbeat", self.segment.load("heartbeat") + 1)  # also while no router is there
        if not self.settled():
            self.nap(NAP_SECONDS)
            return self._overdue()
        routers = range(self.config.exchange.routers)
        # With several routers one run each, or a busy one would keep the others waiting.
        alone = len(routers) == 1 and not briefly
        self.own[Own.WAKE_NS] = self.own[Own.TAKEN_NS] + WAKE_NS if alone else 1
        self.own[Own.PATIENCE] = PATIENCE_POLLS if alone else SHARED_PATIENCE_POLLS
        if not self._in_hand():
            self._keep_snapshots()
        before = int(self.own[Own.SEQ])
        for router in (self._holder,) if self._in_hand() else routers:
            self._holder = router
            self._serve_one(router)
            if self._in_hand():  # V3: the next ring must not meet this one's run
                break
        self._word("cpu_ns", time.thread_time_ns())
        if self._careful_seq and int(self.own[Own.SEQ]) > self._careful_seq:
            self._careful_seq, self.own[Own.STEP] = 0, STEP_MAX
        if self.stop_wanted() and (self._overdue() or self._all_served()):
            return True
        if len(routers) > 1:
            self._idle(int(self.own[Own.SEQ]) - before)
        return False

    def _serve_one(self, router: int) -> None:
        """One turn on one router's ring."""
        wires = self._wire(router)
        if wires is None:
            self._serve_alone(router)
            return
        turn = serve(self.tables, wires)
        if turn == Turn.FROZEN:
            raise self._frozen()
        if turn == Turn.BROKEN_OFF:
            raise Crash
        if turn == Turn.QUERY:
            self._answer()
        elif turn == Turn.PEERS_CHANGED:
            self._follow_peers(router, wires)
        elif turn == Turn.STOP and self._in_hand():
            self.nap(NAP_SECONDS)  # the publisher has to make room first
        self._retire(router)

    def _serve_alone(self, router: int) -> None:
        """One turn without the router, which has not greeted us: orders expire and questions are answered all the same."""
        wires = self.wires_alone(router)
        moved = keep_time(self.tables, wires, int(self._clock[0]) or time.time_ns())
        if moved < 0:
            raise self._frozen() if moved == RING_FROZEN else Crash
        bell = load_cell(wires.queries, int(wires.at[At.BELL]))
        if bell != self.own[Own.BELL] and not self._in_hand():
            self._answer()
        elif moved == 0:
            self.nap(NAP_SECONDS)

    def _answer(self) -> None:
        """Answer what is asked; between two runs, so every answer is of whole commands."""
        self._word("busy_until_ns", time.time_ns() + BUSY_NS)  # a digest of many orders is not silence
        # The bell before the lanes: whoever rings later is seen again.
        self.own[Own.BELL] = self._answers.bell()
        self._answers.answer(int(self.own[Own.SEQ]) - 1, time.time_ns())
        self._word("busy_until_ns", 0)

    def _frozen(self) -> WorkerFrozen:
        """What ends a worker whose rings take nothing more."""
        return WorkerFrozen(f"shard {self.index}: another process took over; this one leaves")

    def _overdue(self) -> bool:
        """True if a stop was asked for and the patience for it is over."""
        if not self.stop_wanted():
            return False
        self._deadline = self._deadline or time.monotonic() + self.config.exchange.stop_seconds
        return time.monotonic() > self._deadline

    def _drained(self) -> bool:
        """True if every router has left with nothing in hand."""
        routers = range(self.config.exchange.routers)
        return all(self.peers.attach(Role.ROUTER, router).load("state") == State.DRAINED for router in routers)

    def _leave(self, journal: Journal, *, served: bool) -> None:
        """Everything matched becomes durable, then confirmed; the mark says so to the next start."""
        self._word("state", State.DRAINED)
        deadline = time.monotonic() + self.config.exchange.stop_seconds
        matched = int(self.own[Own.SEQ]) - 1
        word = f"confirmed_seq.{self.index}"
        while self.peers.attach(Role.PUBLISHER, 0).load(word) < matched and time.monotonic() < deadline:
            self.nap(NAP_SECONDS)
        confirmed_seq = self.peers.attach(Role.PUBLISHER, 0).load(word)
        confirmed = confirmed_seq >= matched
        if not confirmed:
            self._say(
                f"shard {self.index}: reports are confirmed up to seq {confirmed_seq} of {matched}; what the log keeps, the next start makes again"
            )
        clean = served and confirmed and self._drained()
        if not journal.stop(max(deadline - time.monotonic(), 1.0), clean=clean):
            self._say(f"shard {self.index}: the log did not take everything in time; the rest comes again")
        elif confirmed:
            self._keep_last_snapshot(journal, matched, deadline)
        journal.log.close()

    def _keep_last_snapshot(self, journal: Journal, seq: int, deadline: float) -> None:
        """A snapshot of everything, behind the log's last mark: the next start reads nothing but that."""
        patience_seconds = max(deadline - time.monotonic(), 1.0)
        self.keeper.finish(self._kept_facts, patience_seconds)  # one that is on its way
        place = self.place_of(seq)
        if place is not None:
            self.keeper.take(
                self.tables, replace(place, log_position=journal.log.durable_end), journal.checksum
            )
            self.keeper.finish(self._kept_facts, patience_seconds)
