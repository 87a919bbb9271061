"""
Follower: a shard's hot standby. Follows the worker record by record, and becomes the worker when it dies or hangs.

    newest snapshot ──> log up to its end ──> attached: the worker keeps its journal for us ──> follow (follow.py)
                                                                                                    │ silent
    freeze both tails ──> lead ──> the rest of the frozen journal ──> RUNNING, with the same input rings
          │                                                              └──> claim the next epoch, write again
          └ from here on the old worker can publish nothing that counts, alive or not

A follower is a worker of the next incarnation that does not lead yet: it has a worker's segment, tables and journal
ring. The board's word for the worker's incarnation is the leadership; it only moves by compare-and-swap, and whoever
reads a word of a worker finds it through that one.

Reports are made again only from the first command on that the old worker had not finished; what it had finished, and the
publisher has not confirmed, is copied out of its ring. So the publisher sees one stream, and drops by identity what
comes twice.

Fast here: from the freeze to the first command sequenced there are two atomic operations, one swap and one copy.
Slow: the first durable report, which waits for the old process to be dead (segment files) and for a claim in the log.

Invariants:

    FL1  leadership is taken only after both tails of the old worker are frozen
    FL2  nothing is told durable that the old worker's durable_seq or our own log did not say
    FL3  a follower that the worker let go, or that follows a worker that does not lead, takes nothing over
    FL4  whoever can take over has read nothing out of the log that the worker had not matched and told to be durable: reports
         that it had not made lie in no ring, and records before ours cannot be written again
    FL5  whoever takes over is of a later incarnation than the worker that it follows
"""

import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import numpy as np

from ringpit.engine.limits import INT64_MAX
from ringpit.engine.records import MARKER
from ringpit.engine.tables import Cell
from ringpit.ipc.atomics import swap_cell
from ringpit.ipc.idle import SPINS_MAX, YIELDS_MAX
from ringpit.ipc.ring import freeze
from ringpit.ipc.segment import Segment, SegmentMissing
from ringpit.shards.faults import Step, met, spared
from ringpit.shards.follow import ASLEEP_PARTS, Behind, Follow, Leader, Over, copy_run, follow
from ringpit.shards.instance import nonce_of
from ringpit.shards.journal import Journal
from ringpit.shards.keeper import Place, keeper_of, load_newest
from ringpit.shards.layout import Role, State, first_position
from ringpit.shards.peers import Peers
from ringpit.shards.serve import Own, Wires
from ringpit.shards.worker import LogFacts, Replay, Worker, above
from ringpit.wal.frames import ROUTERS_MAX, checksum_of, whole_frames
from ringpit.wal.log import Log, LogView
from ringpit.wal.reader import Reader, RecoveredState, runs, skips_of
from ringpit.wal.succession import Inheritance, claim, succeed
from ringpit.wal.writer import BatchWriter

NAP_SECONDS: Final = 0.001
ATTACH_SECONDS: Final = 30.0  # patience for a worker that shall keep its journal for us
NS_PER_MS: Final = 1_000_000
US_PER_MS: Final = 1_000
NAPS_PER_LIMIT: Final = 4 * ASLEEP_PARTS  # Linux adds to a nap, and a poll between two must not look like sleep


class FellBehind(Exception):
    """This follower is of no use any more: the next one begins anew."""


class StopAsked(Exception):
    """The supervisor wants this follower to leave while it is catching up."""


class Follower:
    """
    One shard's follower.

    Args:
        worker: The worker that it may become, of this incarnation.
        open_view: Opens the shard's log, for reading; called once, when there is a worker to follow.
        say: Gets one line for each change worth knowing.
        promoted: Called when it has become the worker.
    """

    def __init__(
        self,
        worker: Worker,
        open_view: Callable[[], LogView],
        say: Callable[[str], None],
        promoted: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is read before `run`."""
        self.worker = worker
        self.config = worker.config
        self.index = worker.index
        self.segment = worker.segment
        self.peers: Peers = worker.peers
        self._open_view = open_view
        self._view: LogView
        self._say = say
        self._promoted = promoted
        self._reader = Reader(self.index, self.config.exchange.generation)
        self._replay = Replay(worker.tables, INT64_MAX)  # nobody wants its reports
        self._log_position = 0
        self._keeper = keeper_of(self.config, self.index, say, timed=True)
        self._first = first_position(self.segment.incarnation)
        self._base = 0  # seq at the journal ring's first position
        self._old_log_position = 0  # where the log of the old worker stood
        self._known_seq = 0  # in the log; what follows is the checksum over it, and each router's position
        self._known_checksum = 0
        self._known_positions = np.zeros(ROUTERS_MAX, np.int64)
        self._leader: Segment
        self._follows: Leader
        self._wires: Wires
        self._old_process = -1  # pidfd of the worker

    def run(self) -> None:
        """Catch up, follow, and take over or leave. Raises FellBehind."""
        try:
            leader = self.leader_running()
            self.catch_up()
            self.attach(leader)
        except StopAsked:
            return
        while (turn := self.step()) == Follow.TURN:
            pass
        if turn == Follow.SILENT and self.take_over():
            # The first new match before the journal thread: making one takes as long as the machine is busy.
            self.worker.step(briefly=True)
            journal = self.journal()
            journal.start()
            self._promoted()
            self.worker.live(journal)

    # Catching up ---------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Apply what the log holds."""
        self.segment.store("state", State.RECOVERING)
        self._view = self._open_view()
        loaded = load_newest(self.config, self.index, self._view, self._say)
        if loaded is not None:
            self.worker.use(loaded.tables)
            self._replay = Replay(loaded.tables, INT64_MAX, next_seq=loaded.begin.seq + 1)
            self._log_position = loaded.position
        self.worker.touch_tables()
        begin, generation = loaded.begin if loaded else None, self.config.exchange.generation
        skips = skips_of(self._view, begin=begin, position=self._log_position)
        self._reader = Reader(self.index, generation, begin=begin, skips=skips)
        began = time.perf_counter()
        self._read_on()
        seconds = time.perf_counter() - began
        self._say(
            f"shard {self.index}: follower caught up with the log at seq {self.applied_seq} in {seconds:.2f} s"
        )

    @property
    def applied_seq(self) -> int:
        """Everything up to it is applied, as far as the log was read."""
        return self._reader.next_seq - 1

    def _read_on(self) -> None:
        """Apply what the log holds beyond what was read."""
        for run in runs(self._view, self._reader, self._log_position):
            self._require_no_stop()
            if len(run.records):
                self._replay.apply(run.headers[-1], run.records)
            self._log_position = run.entries[-1].following

    def attach(self, leader: Segment) -> None:
        """
        Have the worker keep its journal for us, and read the log up to where that begins.

        Raises FellBehind if the worker is replaced meanwhile, or does not do its part in time; StopAsked.
        """
        deadline = time.monotonic() + ATTACH_SECONDS
        self.segment.store("follows_position", 0)
        self.segment.store("follows", leader.incarnation)
        while (followed_by := leader.load("followed_by")) != self.segment.incarnation:  # pairs with Followed
            if followed_by == -self.segment.incarnation:
                raise self._let_go()
            self._require_use(leader, deadline)
        base_seq = leader.load("recovered_seq") + 1
        base = first_position(leader.incarnation)
        from_seq = leader.load("followed_from") - base + base_seq
        while self.applied_seq < from_seq - 1 or self._reader.epoch != leader.load("epoch"):
            self._read_on()
            self._require_use(leader, deadline)
        # FL4; pairs with the releases in `match_run` and of the journal thread
        while min(leader.load("matched_seq"), leader.load("durable_seq")) < self.applied_seq:
            self._require_use(leader, math.inf)
        self._leader = leader
        self._old_process = _pidfd_of(leader.load("pid"))
        self._base = self.applied_seq + 1
        self._known_seq, self._known_checksum = self.applied_seq, self._reader.checksum
        self._known_positions = self._reader.positions.copy()
        position = base + self._base - base_seq
        self._follows = self._wires_to(leader, position)
        self._wires = self.worker.wires_alone(0)
        for router in range(self.config.exchange.routers):  # mapped now, or it would be when we take over
            with suppress(SegmentMissing):
                self.peers.attach(Role.ROUTER, router)
            self.worker.wires_alone(router)
        self.worker.stand_at(self._base, self._first)
        self.worker.wait_as("followers")
        self.worker.tables.cells[Cell.MARKET_DATA] = 0  # nobody wants reports before we lead
        self.worker.show_events()
        self.segment.store("recovered_seq", self._base - 1)
        self.segment.store("follows_position", position)
        self.segment.store("state", State.FOLLOWING)
        self._say(f"shard {self.index}: follows {leader.name} from seq {self._base}")

    def _let_go(self) -> FellBehind:
        """What ends a follower that was too slow."""
        return FellBehind(
            f"shard {self.index}: this follower fell half a journal ring behind and was let go; the next one begins anew"
        )

    def leader_running(self) -> Segment:
        """
        The segment of a worker that serves and whose claim counts, however long that takes.

        Raises StopAsked, and FellBehind if the worker was made after us (FL5).
        """
        while True:
            leader = self.peers.attach(Role.WORKER, self.index)
            if leader.load("state") == State.RUNNING and leader.load("epoch"):
                self._require_older(leader)
                return leader
            self._require_no_stop()
            self.worker.nap(NAP_SECONDS)

    def _require_no_stop(self) -> None:
        """Raise StopAsked if it was."""
        if self.peers.stop_wanted(Role.FOLLOWER, self.index):
            raise StopAsked

    def _require_older(self, leader: Segment) -> None:
        """FL5: positions of rings only grow, so nobody goes on behind a worker of a later incarnation."""
        if leader.incarnation > self.segment.incarnation:
            raise FellBehind(
                f"shard {self.index}: {leader.name} was started after this follower of incarnation "
                f"{self.segment.incarnation}, which can never be its successor; the next follower begins anew"
            )

    def _require_use(self, leader: Segment, deadline: float) -> None:
        """Nap; raises FellBehind if waiting is of no use."""
        if self.peers.incarnation(Role.WORKER, self.index) != leader.incarnation:
            raise FellBehind(f"shard {self.index}: another worker leads now; the next follower begins anew")
        self._require_no_stop()
        if time.monotonic() > deadline:
            raise FellBehind(
                f"shard {self.index}: {leader.name} did not keep its journal for this follower within {ATTACH_SECONDS:g} s"
            )
        self.worker.nap(NAP_SECONDS)

    def _wires_to(self, leader: Segment, position: int) -> Leader:
        """What the loop touches, from the worker's journal position on."""
        board = self.peers.board.layout.index
        at = np.zeros(len(Over), np.int64)
        for place, index in (
            (Over.JOURNAL_TAIL, leader.layout.index("journal_tail")),
            (Over.MATCHED_SEQ, leader.layout.index("matched_seq")),
            (Over.HEARTBEAT, leader.layout.index("heartbeat")),
            (Over.BUSY_UNTIL_NS, leader.layout.index("busy_until_ns")),
            (Over.FOLLOWED_BY, leader.layout.index("followed_by")),
            (Over.OUR_HEARTBEAT, self.segment.layout.index("heartbeat")),
            (Over.FOLLOWS_POSITION, self.segment.layout.index("follows_position")),
            (Over.LEADERSHIP, board(f"worker.{self.index}.incarnation")),
            (Over.STOP, board(f"follower.{self.index}.stop")),
            (Over.TAKE_OVER, board(f"follower.{self.index}.take_over")),
        ):
            at[place] = index
        own = np.zeros(len(Behind), np.int64)
        own[Behind.APPLIED_SEQ] = own[Behind.KNOWN_SEQ] = self._base - 1
        own[Behind.POSITION] = position
        own[Behind.OUR_POSITION] = self._first
        own[Behind.LIMIT_NS] = self.config.follower.heartbeat_ms * NS_PER_MS
        nap_us_max = self.config.follower.heartbeat_ms * US_PER_MS // NAPS_PER_LIMIT
        own[Behind.IDLE_MAX] = SPINS_MAX + YIELDS_MAX + nap_us_max.bit_length() - 1
        journal = leader.region("journal")
        incarnations = np.array([leader.incarnation, self.segment.incarnation], np.int64)
        return Leader(leader.cells, at, own, incarnations, journal, journal.view(MARKER))

    # Following -----------------------------------------------------------------------------------------

    def step(self) -> Follow:
        """Follow for a turn. Raises FellBehind."""
        turn = Follow(follow(self.worker.tables, self._wires, self._follows))
        if turn == Follow.LET_GO:
            raise self._let_go()
        if turn == Follow.REPLACED:
            raise FellBehind(f"shard {self.index}: another worker leads now; the next follower begins anew")
        self._know(min(int(self._follows.own[Behind.APPLIED_SEQ]), self._leader.load("durable_seq")))
        if turn == Follow.TURN:
            self._keep_snapshots()
        return turn

    def _keep_snapshots(self) -> None:
        """Take a snapshot if one is due, and let the one on its way count if it may."""
        leader, keeper = self._leader, self._keeper
        log_position = leader.load("log_position")  # before durable_seq: it must not be ahead of it
        durable_seq, seq = leader.load("durable_seq"), int(self._follows.own[Behind.APPLIED_SEQ])
        confirmed_seq = self.peers.attach(Role.PUBLISHER, 0).load(f"confirmed_seq.{self.index}")
        if keeper.due() and durable_seq <= seq:
            place = Place(
                generation=self.config.exchange.generation,
                seq=seq,
                epoch=self._reader.epoch,
                nonce=self._reader.nonce,
                confirmed_seq=min(confirmed_seq, seq),
                skip_count=self._reader.skip_count,
                log_position=log_position,
                log_seq=durable_seq,
                log_identity=self._view.identity(),
            )
            checksum = self._checksum_up_to(seq)
            keeper.take(self.worker.tables, place, lambda: checksum)
        keeper.step(durable_seq, confirmed_seq, leader.load("log_bytes"))

    def _know(self, seq: int) -> None:
        """Carry checksum and router positions up to a seq that is the end of a frame and lies in our journal ring."""
        if seq > self._known_seq:
            where = f"journal ring of the follower of shard {self.index}"
            whole_frames(self._spans_up_to(seq), seq - self._known_seq, self._known_positions, where)
            self._known_checksum = self._checksum_up_to(seq)
            self._known_seq = seq
            self._follows.own[Behind.KNOWN_SEQ] = seq

    def _spans_up_to(self, seq: int) -> tuple[np.ndarray, ...]:
        """What lies in our journal ring behind what is known, as one or two views."""
        slots = self._wires.journal
        start = (self._first + self._known_seq + 1 - self._base) & (len(slots) - 1)
        count = seq - self._known_seq
        first = slots[start : start + count]
        return (first,) if len(first) == count else (first, slots[: count - len(first)])

    def _checksum_up_to(self, seq: int) -> int:
        """The running checksum up to a seq that lies in our journal ring."""
        checksum = self._known_checksum
        for span in self._spans_up_to(seq) if seq > self._known_seq else ():
            checksum = checksum_of(span, checksum)
        return checksum

    # Taking over ---------------------------------------------------------------------------------------

    def take_over(self) -> bool:
        """
        Become the worker. False: somebody else is already; nothing of ours counts then.

        Raises FellBehind if the worker let us go before it was frozen.
        """
        leader, index = self._leader, self._leader.layout.index
        frozen_ns = time.time_ns()
        journal_end = int(freeze(leader.cells, index("journal_tail")))
        met(Step.JOURNAL_FROZEN)
        output_end = int(freeze(leader.cells, index("output_tail")))
        met(Step.FROZEN)
        rest = self._take_rest(journal_end)
        self.segment.store("continues", leader.incarnation)
        word = self.peers.board.layout.index(f"worker.{self.index}.incarnation")
        # pairs with every acquire of the word; FL1
        if not swap_cell(self.peers.board.cells, word, leader.incarnation, self.segment.incarnation):
            return False
        met(Step.LEADING)
        self._publish_rest(rest)
        met(Step.SEQUENCED)
        sequenced_ns = time.time_ns()
        for name, told in (("frozen_ns", frozen_ns), ("lag_records", rest), ("sequenced_ns", sequenced_ns)):
            self.segment.store(name, told)
        self._take_reports(output_end)
        self._stand(rest)
        self._end_old_worker()
        met(Step.TAKEN_OVER)
        microseconds = (sequenced_ns - frozen_ns) / 1000
        self._say(
            f"shard {self.index}: took over from {leader.name} at seq {self._follows.own[Behind.APPLIED_SEQ]}, {rest} records "
            f"behind; {microseconds:.0f} us from the freeze to the journal"
        )
        return True

    def _take_rest(self, journal_end: int) -> int:
        """
        Copy what the frozen journal holds beyond what we applied; the number of records.

        Frozen, its worker publishes nothing more, but may be in the middle of writing: into slots of ours if it has let us go.
        """
        own = self._follows.own
        rest = journal_end - int(own[Behind.POSITION])
        self._know(min(int(own[Behind.APPLIED_SEQ]), self._leader.load("durable_seq")))  # FO4
        if not copy_run(self._wires, self._follows, rest):
            raise self._let_go()
        return rest

    def _publish_rest(self, rest: int) -> None:
        """What was copied is sequenced: it will be matched, with reports."""
        self.worker.tables.cells[Cell.MARKET_DATA] = 1
        self.segment.store("journal_tail", int(self._follows.own[Behind.OUR_POSITION]) + rest)

    def _position_of(self, seq: int) -> int:
        """Where a seq lies in our journal ring (FO3)."""
        return self._first + seq - self._base

    def _take_reports(self, output_end: int) -> None:
        """Copy the reports of finished commands that the publisher may not have confirmed."""
        publisher = self.peers.attach(Role.PUBLISHER, 0)
        head = publisher.load(f"output_head.{self.index}")
        slots = self._leader.region("output")
        head = max(head, first_position(self._leader.incarnation))
        reports = slots[(head + np.arange(output_end - head)) & (len(slots) - 1)]
        # The publisher may have given slots back meanwhile, and the old worker may be writing there; all of that is confirmed.
        given_back = max(publisher.load(f"output_head.{self.index}") - head, 0)
        reports = reports[given_back:]
        finished = np.searchsorted(reports["seq"], self._follows.own[Behind.APPLIED_SEQ], "right")
        kept = above(reports[:finished], publisher.load(f"confirmed_seq.{self.index}"))
        ours = self._wires.output
        ours[(self._first + np.arange(len(kept))) & (len(ours) - 1)] = kept
        self.worker.own[Own.OUT] = self._first + len(kept)

    def _stand(self, rest: int) -> None:
        """Set the words of a worker, and the numbers of its loop: the rest of the old journal is the run in hand."""
        own, follows, leader = self.worker.own, self._follows.own, self._leader
        applied_seq = int(follows[Behind.APPLIED_SEQ])
        heads = self._input_heads(rest)
        self.worker.look_for_care()
        self.worker.wait_as("workers")
        own[Own.SEQ] = applied_seq + 1
        own[Own.RUN_AT] = follows[Behind.OUR_POSITION]
        own[Own.RUN_END] = follows[Behind.OUR_POSITION] + rest
        own[Own.INPUT_END] = heads[0]
        own[Own.TAKEN_NS] = time.time_ns()
        own[Own.TAKEN] = rest
        self._old_log_position = leader.load("log_position")  # before durable_seq: it must not be ahead of it
        durable_seq = leader.load("durable_seq")
        self._know(durable_seq)  # the old worker may have died before it told the positions that belong to it
        routers = range(len(heads))
        told = [leader.load(f"durable_position.{router}") for router in routers]
        np.maximum(self._known_positions[: len(told)], told, out=self._known_positions[: len(told)])
        self.segment.store("durable_seq", durable_seq)
        self.segment.store(
            "journal_head", self._position_of(self._known_seq + 1)
        )  # where our journal thread begins
        for router in routers:
            self.segment.store(f"durable_position.{router}", int(self._known_positions[router]))
        self.segment.store("matched_seq", applied_seq)
        self.segment.store("in_hand_seq", applied_seq + rest)
        # Nothing that the old worker reported is contradicted, and our own epoch comes only with the claim.
        for word in ("report_epoch", "report_epoch_seq"):
            self.segment.store(word, leader.load(word))
        for router, head in enumerate(heads):
            self.segment.store(f"input_head.{router}", head)
            segment = self.peers.attach(Role.ROUTER, router)
            if head and first_position(segment.incarnation) <= head < first_position(segment.incarnation + 1):
                self.worker.wire(router, segment, head)
        self.segment.store("output_tail", int(own[Own.OUT]))  # last: a tail says that our words stand
        self.segment.store("state", State.RUNNING)

    def _input_heads(self, rest: int) -> list[int]:
        """
        For each router, behind what the old worker had journaled, whether it was matched or not.

        Its own heads may lie before: it may have died before it gave the slots of a matched run back.
        """
        heads = self._known_positions.copy()
        last_seq = int(self._follows.own[Behind.APPLIED_SEQ]) + rest
        count = last_seq - self._known_seq
        if count:
            whole_frames(self._spans_up_to(last_seq), count, heads, f"journal of {self._leader.name}")
        routers = range(self.config.exchange.routers)
        return [max(int(heads[router]), self._leader.load(f"input_head.{router}")) for router in routers]

    def _end_old_worker(self) -> None:
        """Kill what may only be paused: it holds the lock of segment files. It could do no harm."""
        if self._old_process >= 0 and not spared(self.index, self._leader.incarnation):
            try:
                signal.pidfd_send_signal(self._old_process, signal.SIGKILL)
            except ProcessLookupError:
                return

    def journal(self) -> Journal:
        """
        The journal thread of the worker that we have become: its first work is the claim.

        It begins behind what is known to be in the log: our journal ring holds nothing below `base`, and the old worker may
        have died before it told that the log has that.
        """
        self._know(self.segment.load("durable_seq"))
        return self.worker.journal(self._inherit, self._position_of(self._known_seq + 1))

    def _inherit(self) -> tuple[Log, BatchWriter]:
        """Claim the next epoch, and write again from the first record on that is perhaps not durable (FL2)."""
        inheritance = Inheritance(
            shard=self.index,
            generation=self.config.exchange.generation,
            epoch=self._reader.epoch,
            nonce=self._reader.nonce,
            next_seq=self._known_seq + 1,
            checksum=self._known_checksum,
            confirmed_seq=self.peers.attach(Role.PUBLISHER, 0).load(f"confirmed_seq.{self.index}"),
            skip_count=self._reader.skip_count,
            position=self._old_log_position,
            positions=tuple(map(int, self._known_positions)),
        )
        nonce = nonce_of(self.config)
        log = self.worker.open_log()
        claim(log, inheritance, nonce)
        met(Step.CLAIM_APPENDED)
        state: RecoveredState = succeed(log, inheritance, nonce)
        met(Step.CLAIMED)
        self.worker.log_facts = LogFacts(state.epoch, state.nonce, state.skip_count, log.identity())
        self.segment.store("epoch", state.epoch)
        self._say(f"shard {self.index}: epoch {state.epoch} claimed, {log.describe()}")
        writer = BatchWriter(
            state, positions=self._known_positions, batch_bytes_max=self.config.log.batch_bytes
        )
        return log, writer


def _pidfd_of(pid: int) -> int:
    """A descriptor of a process, which never comes to mean another; -1 if it has ended, or is this one, as in simulations."""
    if pid == os.getpid():
        return -1
    try:
        return os.pidfd_open(pid)
    except (ProcessLookupError, OSError):
        return -1
