"""
Router: takes deliveries in, deals their commands to shards as frames, acknowledges what is durable.

    intake ──delivery──> decode ──> deal by event ──> one frame a shard ──> input rings
      ^                                                                        │
      └────────── acknowledge the contiguous durable prefix <── durable_position.R of each worker

A delivery becomes one marker and its records on each ring that it touches, visible by one advance of the
tail. A mass cancel of all events touches every ring. If one of the rings has no room the delivery waits, and with it everything behind it: the intake is
paused, which leaves the socket unread. A malformed delivery is put aside with its reason, and takes its place
in the order of acknowledgements.

When a worker has a new incarnation nothing is dealt until it has recovered. Then the router tells it where in the
ring to begin, and has everything unacknowledged delivered again; the shards' key windows remove what their
logs already hold.

Deliveries are gathered, up to DEALT_PER_STEP_MAX of one form, and dealt by one call of a kernel (dealing.py). What was decoded
and finds no room stays decoded.

Fast here: packed bodies, whatever their size: one pass over their words. Slow here: JSON, most of a microsecond a
message; and small deliveries, each of which is a Python object, about a microsecond.

Invariants:

    T1  the tags pending are contiguous, in order, and each is acknowledged when all before it can be
    T2  nothing is dealt to a shard between the end of its worker and the handshake with the next
"""

import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, NamedTuple

import google_crc32c
import numpy as np

from ringpit.engine.codes import CommandKind, Reason, SelfTrade
from ringpit.engine.records import COMMAND, RECORD_BYTES
from ringpit.ipc.atomics import load_cell, store_cell
from ringpit.ipc.segment import Segment
from ringpit.shards.dealing import (
    DECODED,
    PACKED,
    Dealer,
    Dealt,
    Owed,
    Own,
    Row,
    deal_rows,
    owe,
    settled_until,
    words_over,
)
from ringpit.shards.delivery import Body, Delivery, Intake
from ringpit.shards.directory import Directory
from ringpit.shards.faults import Crash, Step, fault_cells, met
from ringpit.shards.layout import State
from ringpit.shards.messages import (
    EventMessage,
    MalformedMessage,
    PlainOrder,
    decode,
    decode_plain,
    pack_words,
    to_words,
)
from ringpit.shards.packed import CONTENT_TYPE, HEADER_BYTES
from ringpit.shards.packed import decode as decode_packed
from ringpit.shards.prices import PriceSpecError, spec_of_records

DEALT_PER_STEP_MAX: Final = 64  # deliveries between two looks at acknowledgements
GATHERED_BYTES_MAX: Final = 1 << 20  # bodies that are gathered before more are looked at
UNTRIED_AFTER_MISS: Final = 31
PENDING_LEAST: Final = 1_024  # deliveries for which there is room from the start
COUNTERS: Final = ("deliveries", "commands", "malformed", "acknowledged")
HASH_SHIFT: Final = 32
WORD_BYTES: Final = 8


class Line(NamedTuple):
    """One shard, as its router sees it: what its worker says."""

    base: int  # index of our own words
    peer: int


class Gathered:
    """Deliveries that are read and not dealt yet: their words in one array, a row for each."""

    def __init__(self) -> None:
        """None."""
        self.deliveries: list[Delivery] = []
        self.complaints: dict[int, MalformedMessage] = {}  # by row, of what could not be decoded
        self.words = np.zeros(0, np.int64)
        self.rows = np.zeros((0, len(Row)), np.int64)
        self.next = 0  # row that is dealt next

    @property
    def left(self) -> int:
        """How many are not dealt."""
        return len(self.deliveries) - self.next

    def hold(self, deliveries: list[Delivery], facts: list[int], content: bytes) -> None:
        """Hold others: `facts` are their rows one behind the other, `content` all their words."""
        self.deliveries = deliveries
        packed_facts = struct.pack(f"={len(facts)}q", *facts)  # a third of what an array of a list costs
        self.rows = np.frombuffer(packed_facts, np.int64).reshape(-1, len(Row))
        self.words = np.frombuffer(content, np.int64)
        self.next = 0

    def records(self, row: int) -> np.ndarray:
        """The COMMANDs of a delivery."""
        first, count, form = self.rows[row, [Row.FIRST, Row.WORDS, Row.FORM]].tolist()
        header = HEADER_BYTES // WORD_BYTES if form == PACKED else 0
        return self.words[first + header : first + count].view(COMMAND)


def is_packed(content_type: str) -> bool:
    """True if a delivery is in the packed form, in whatever case and with whatever parameters it says so."""
    return content_type == CONTENT_TYPE or content_type.partition(";")[0].strip().lower() == CONTENT_TYPE


def body_hash(body: Body) -> int:
    """Names a body among those that one key may carry: its length above its CRC32C."""
    plain = body if type(body) is bytes else np.frombuffer(body, np.uint8)
    return len(body) << HASH_SHIFT | int(google_crc32c.value(plain))


class Router:
    """
    The state machine of one router; `step` is its duty cycle.

    Args:
        index: Which router this is.
        segment: Its own segment.
        first_position: Where its rings begin.
        intake: Where deliveries come from.
        directory: Which shard an event lives on.
        shards: How many there are.
        say: Gets one line for each change worth knowing.
        self_trade: Mode of new orders that name none; packed ones always do.
        leader: Tells the incarnation that leads a shard now; None: whoever was attached last.
    """

    def __init__(
        self,
        index: int,
        segment: Segment,
        first_position: int,
        intake: Intake,
        directory: Directory,
        shards: int,
        say: Callable[[str], None],
        self_trade: SelfTrade = SelfTrade.NONE,
        leader: Callable[[int], int] | None = None,
    ) -> None:
        """Starts with no worker attached: nothing is dealt before `attach` was called for each shard."""
        self.index = index
        self._segment = segment
        self._intake = intake
        self._directory = directory
        self._say = say
        self._self_trade = self_trade
        self._leader = leader
        layout = segment.layout
        self._lines = [
            Line(layout.index(f"input_base.{shard}"), layout.index(f"input_peer.{shard}"))
            for shard in range(shards)
        ]
        self._dealer = self._make_dealer(shards)
        self._dealer.tails[:] = first_position
        self._durable = np.zeros(shards, np.int64)  # as last seen
        self._first = 0  # number of the oldest pending delivery
        self._workers: list[Segment | None] = [None] * shards
        self._awaited: set[int] = set(range(shards))  # shards whose worker has not been greeted
        self._greeted = [0] * shards  # incarnation of each worker that was greeted last
        self._redeliver = False  # a worker was greeted that does not go on with our ring
        self._dead_settled: set[int] = set()
        self._waiting: deque[Delivery] = deque()
        self._taken_ns: deque[int] = deque()  # when each of them came
        self._gathered = Gathered()
        self._untried = 0  # deliveries that are not tried as plain ones
        self._generation = intake.generation
        self._beats = 0
        self._paused = False
        self._stuck = False  # a ring had no room: polling at once would only take the core from who empties it
        self._opened = False
        self._draining = False
        self.deliveries = self.commands = self.malformed = self.acknowledged = 0
        self._told = (0, 0, 0, 0)
        for tail in self._dealer.tail_at.tolist():
            store_cell(segment.cells, tail, first_position)

    def _make_dealer(self, shards: int) -> Dealer:
        """What the kernels need, for rings that are still empty."""
        rings, ingress = (
            [self._segment.region(f"{name}.{shard}") for shard in range(shards)]
            for name in ("input", "ingress_ns")
        )
        memory, starts = words_over([*rings, *ingress])
        layout = self._segment.layout
        own = np.zeros(len(Own), np.int64)
        own[Own.ROUTER], own[Own.SLOTS] = self.index, len(rings[0])
        return Dealer(
            homes=self._directory.homes,
            memory=memory,
            ring_at=starts[:shards].copy(),
            ingress_at=starts[shards:].copy(),
            cells=self._segment.cells,
            tail_at=np.array([layout.index(f"input_tail.{shard}") for shard in range(shards)], np.int64),
            tails=np.zeros(shards, np.int64),
            heads=np.zeros(shards, np.int64),
            counts=np.zeros(shards, np.int64),
            pending=np.zeros((PENDING_LEAST, Owed.POSITIONS + shards), np.int64),
            own=own,
            fault=fault_cells(),
        )

    @property
    def idle(self) -> bool:
        """True if everything taken in is acknowledged."""
        return not self._pending_count() and not self._undealt()

    def _pending_count(self) -> int:
        """Deliveries that are dealt or put aside and not acknowledged."""
        return int(self._dealer.own[Own.END]) - self._first

    def _undealt(self) -> int:
        """Deliveries that were taken in and wait."""
        return len(self._waiting) + self._gathered.left

    def lose(self, shard: int) -> None:
        """The shard's worker has gone, or has not come yet: deal nothing until it is attached (T2)."""
        self._workers[shard] = None
        self._awaited.add(shard)

    def attach(self, shard: int, worker: Segment) -> None:
        """A worker has a segment; it is greeted when it has recovered."""
        self._workers[shard] = worker
        self._awaited.add(shard)

    def _greet(self) -> None:
        """
        Greet recovered workers: learn their events, tell them where to begin, have the rest delivered again.

        A follower that took over goes on where its predecessor stood in our ring: nothing has to come again.
        """
        running = [
            shard
            for shard in self._awaited
            if (worker := self._workers[shard]) is not None and worker.load("state") == State.RUNNING
        ]
        for shard in running:
            worker = self._workers[shard]
            assert worker is not None
            self._directory.learn(shard, worker)
            line = self._lines[shard]
            if not self._greeted[shard] or worker.load("continues") != self._greeted[shard]:
                store_cell(self._segment.cells, line.base, int(self._dealer.tails[shard]))
                self._dealer.heads[shard] = 0
                self._durable[shard] = 0
                self._redeliver = True
            self._greeted[shard] = worker.incarnation
            store_cell(self._segment.cells, line.peer, worker.incarnation)  # pairs with the worker's acquire
            self._awaited.discard(shard)
        if self._redeliver and not self._awaited:
            self._redeliver = False
            self._directory.place()
            if self._opened:
                self._intake.reopen()
                self._forget()
            self._opened = True

    def _learn(self) -> None:
        """
        Take over events that workers have created since, through whichever router.

        What the log says of an event's prices wins over what some CREATE_EVENT asked for; until it is seen, the first
        that was asked for holds.
        """
        for shard, worker in enumerate(self._workers):
            if worker is not None:
                self._directory.learn(shard, worker)

    def step(self, timeout_seconds: float) -> int:
        """One duty cycle: acknowledge, take in, deal. Returns how many deliveries moved."""
        self._beats += 1
        self._segment.store("heartbeat", self._beats)
        if self._awaited:
            self._greet()
        ready = not self._awaited
        acknowledged = self._acknowledge() if ready else 0
        self._press_back(ready)
        busy = bool(acknowledged) or (ready and self._undealt() > 0 and not self._stuck)
        arrived = self._intake.poll(0.0 if busy else timeout_seconds)
        if self._intake.generation != self._generation:
            self._forget()
        if arrived and not self._draining:
            self._waiting.extend(arrived)
            self._taken_ns.extend([time.time_ns()] * len(arrived))
        dealt = 0
        if ready and self._undealt():
            self._learn()
            dealt = self._deal_waiting()
        self._tell()
        return acknowledged + dealt

    def drain(self) -> None:
        """Take nothing more in; what is pending is still acknowledged."""
        self._draining = True
        self._waiting.clear()
        self._taken_ns.clear()
        self._gathered = Gathered()
        self._press_back(ready=False)

    def close(self) -> None:
        """Let the intake go; what is not acknowledged comes again to whoever consumes next."""
        self._intake.close()

    def _press_back(self, ready: bool) -> None:
        """Pause the intake while deliveries wait for room or for a worker; resume when they do not."""
        wanted = self._draining or not ready or self._undealt() > DEALT_PER_STEP_MAX
        if wanted and not self._paused:
            self._intake.pause()
        elif self._paused and not wanted:
            self._intake.resume()
        self._paused = wanted

    def _forget(self) -> None:
        """Everything unacknowledged is void and comes again with new tags."""
        self._generation = self._intake.generation
        for number in range(self._first, self._first + self._pending_count()):
            dead = int(self._owed(number)[Owed.DEAD])  # they are counted when they are dealt again
            self.malformed -= dead
            self.deliveries -= 1 - dead
        self._first += self._pending_count()
        self._waiting.clear()
        self._taken_ns.clear()
        self._gathered = Gathered()
        self._dead_settled.clear()

    def _acknowledge(self) -> int:
        """Acknowledge the longest prefix of which everything is durable (T1)."""
        if not self._pending_count():
            return 0
        self._dead_settled.update(self._intake.settled_dead_letters())
        for shard, worker in enumerate(self._workers):
            assert worker is not None
            cell = worker.layout.index(f"durable_position.{self.index}")
            durable = load_cell(worker.cells, cell)  # pairs with the journal's release
            if self._leader is not None and self._leader(shard) != worker.incarnation:
                return 0  # it leads no more: what it calls durable may count for no reader
            self._durable[shard] = durable
        first = self._settled_from(self._first)
        count = first - self._first
        if count:
            tag = int(self._owed(first - 1)[Owed.TAG])
            self._first = first
            met(Step.BEFORE_ACKNOWLEDGE)
            self._intake.acknowledge(tag)
            met(Step.ACKNOWLEDGED)
            self.acknowledged += count
        return count

    def _settled_from(self, first: int) -> int:
        """Number of the first delivery, from `first` on, of which something can still be lost, or which is not dealt yet."""
        end = int(self._dealer.own[Own.END])
        while True:
            first = int(settled_until(self._dealer.pending, first, end, self._durable))
            if first == end:
                return first
            owed = self._owed(first)
            if not owed[Owed.DEAD] or int(owed[Owed.TAG]) not in self._dead_settled:
                return first
            self._dead_settled.discard(int(owed[Owed.TAG]))
            first += 1

    def _owed(self, number: int) -> np.ndarray:
        """The row of a pending delivery."""
        pending = self._dealer.pending
        row: np.ndarray = pending[number & (len(pending) - 1)]
        return row

    def _deal_waiting(self) -> int:
        """Deal what waits until a ring is full. Returns how many deliveries moved."""
        self._stuck = False
        dealt = 0
        while dealt < DEALT_PER_STEP_MAX and not self._stuck and self._undealt():
            if not self._gathered.left:
                self._gather(DEALT_PER_STEP_MAX - dealt)
            left = self._gathered.left
            self._deal()
            dealt += left - self._gathered.left
        return dealt

    def _deal(self) -> None:
        """Deal what is gathered, as far as there is room; what cannot be dealt is put aside."""
        gathered, dealer = self._gathered, self._dealer
        looked = False
        while gathered.left:
            start, before = gathered.next, dealer.own[Own.CREATED]
            end, why = deal_rows(dealer, gathered.words, gathered.rows, start, len(gathered.rows))
            gathered.next = end
            self.deliveries += end - start
            if dealer.own[Own.CREATED] != before:
                self._learn_created(start, end)
            if why == Dealt.MALFORMED:
                self._put_aside(end)
                gathered.next += 1
            elif why == Dealt.FULL:
                if looked and end == start:
                    self._stuck = True
                    return
                looked = True
                self._look_at_heads()
            elif why == Dealt.BROKEN_OFF:
                raise Crash

    def _gather(self, count_max: int) -> None:
        """Read the next deliveries of one form: packed ones as they are, others decoded."""
        packed = is_packed(self._waiting[0].content_type)
        deliveries: list[Delivery] = []
        size = 0
        for delivery in islice(self._waiting, count_max):
            if size > GATHERED_BYTES_MAX or is_packed(delivery.content_type) is not packed:
                break
            size += len(delivery.body)
            deliveries.append(delivery)
        self._gathered.complaints.clear()
        (self._gather_packed if packed else self._gather_decoded)(deliveries)
        for _ in deliveries:
            self._waiting.popleft()
            self._taken_ns.popleft()
        self._make_room(len(deliveries))

    def _gather_packed(self, deliveries: list[Delivery]) -> None:
        """One copy of all bodies; a body that cannot be whole records is left out, and has no words."""
        bodies: list[Body] = []
        facts: list[int] = []
        first = 0
        for (tag, _, (low, high), body, *_), taken_ns in zip(deliveries, self._taken_ns, strict=False):
            words = 0
            if len(body) % RECORD_BYTES == HEADER_BYTES:
                words = len(body) // WORD_BYTES
                bodies.append(body)
            facts += (tag, low, high, body_hash(body), first, words, PACKED, taken_ns)
            first += words
        self._gathered.hold(deliveries, facts, b"".join(bodies))

    def _gather_decoded(self, deliveries: list[Delivery]) -> None:
        """
        Decode JSON and MessagePack. What an event's creation teaches of its prices is known from here on, whether it is dealt at
        once or comes again.
        """
        words: list[object] = []
        facts: list[int] = []
        for row, ((tag, kind, (low, high), body, *_), taken_ns) in enumerate(
            zip(deliveries, self._taken_ns, strict=False)
        ):
            first = len(words)
            try:
                made, created = to_words(
                    self._read(kind or None, body), self._directory.spec_of, self._self_trade
                )
            except MalformedMessage as error:
                self._gathered.complaints[row] = error
            else:
                words += made
                for event, spec in created.items():
                    self._directory.create(event, spec)
            facts += (tag, low, high, body_hash(body), first, len(words) - first, DECODED, taken_ns)
        self._gathered.hold(deliveries, facts, pack_words(words))

    def _read(self, kind: str | None, body: Body) -> Sequence[EventMessage | PlainOrder]:
        """
        The messages of a delivery. Most hold nothing but plain orders, and are read as such; after one that did not the next few
        are not tried, so that a flow of others pays little for it. Raises MalformedMessage.
        """
        if self._untried == 0:
            plain = decode_plain(kind, body)
            if plain is not None:
                return plain
            self._untried = UNTRIED_AFTER_MISS
        else:
            self._untried -= 1
        return decode(kind, body)

    def _make_room(self, count: int) -> None:
        """Have `pending` hold so many more."""
        pending = self._dealer.pending
        numbers = np.arange(self._first, self._first + self._pending_count())
        if len(numbers) + count <= len(pending):
            return
        larger = np.zeros((2 * len(pending), pending.shape[1]), np.int64)
        larger[numbers & (len(larger) - 1)] = pending[numbers & (len(pending) - 1)]
        self._dealer = self._dealer._replace(pending=larger)

    def _put_aside(self, row: int) -> None:
        """Have a delivery that cannot be read kept by the intake, with the reason."""
        delivery = self._gathered.deliveries[row]
        detail = str(self._gathered.complaints.get(row) or complaint_of(delivery.body))
        self._intake.dead_letter(delivery, Reason.MALFORMED.name, detail)
        owe(self._dealer, delivery.tag, 1)
        self.malformed += 1

    def _learn_created(self, start: int, end: int) -> None:
        """Remember the price specs of events that packed deliveries create, for later decimal prices."""
        for row in range(start, end):
            commands = self._gathered.records(row)
            for at in np.flatnonzero(commands["kind"] == CommandKind.CREATE_EVENT).tolist():
                if commands[at]["verdict"] == Reason.NONE:
                    try:
                        spec = spec_of_records(commands, at)
                    except PriceSpecError:
                        continue  # the engine refuses it, too, and says why to whoever asked
                    self._directory.create(int(commands[at]["event"]), spec)

    def _look_at_heads(self) -> None:
        """Ask the workers how far they have read: only when a ring seems full."""
        for shard, worker in enumerate(self._workers):
            assert worker is not None
            head = worker.layout.index(f"input_head.{self.index}")
            self._dealer.heads[shard] = load_cell(worker.cells, head)  # pairs with the worker's release

    def _tell(self) -> None:
        """Show the counters that have changed, for whoever watches."""
        self.commands = int(self._dealer.own[Own.COMMANDS])
        now = (self.deliveries, self.commands, self.malformed, self.acknowledged)
        if now == self._told:
            return
        for word, value, before in zip(COUNTERS, now, self._told, strict=True):
            if value != before:
                self._segment.store(word, value)
        self._told = now


def complaint_of(body: Body) -> str:
    """What is wrong with a packed body that the kernel refused."""
    try:
        decode_packed(body)
    except MalformedMessage as error:
        return str(error)
    raise AssertionError("a packed delivery that the dealer refused must be malformed")
