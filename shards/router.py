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

Fast here: packed bodies are checked, dealt and copied by three kernels, whatever their size. Slow here: JSON, half
a microsecond a message; and many small deliveries, which pay for Python each.

Invariants:

    T1  the tags pending are contiguous, in order, and each is acknowledged when all before it can be
    T2  nothing is dealt to a shard between the end of its worker and the handshake with the next
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import google_crc32c
import numpy as np

from ringpit.engine.codes import CommandKind, Reason, SelfTrade
from ringpit.engine.records import MARKER
from ringpit.ipc import histogram
from ringpit.ipc.atomics import fence_streamed, load_cell, store_cell
from ringpit.ipc.copying import STREAM_RECORDS_MIN, put_record, stream_record, streams
from ringpit.ipc.segment import Segment
from ringpit.shards.delivery import Delivery, Intake
from ringpit.shards.directory import EVERY_SHARD, Directory, deal
from ringpit.shards.faults import Step, met
from ringpit.shards.kernels import kernel
from ringpit.shards.layout import State
from ringpit.shards.messages import MalformedMessage, decode, to_commands
from ringpit.shards.packed import CONTENT_TYPE as PACKED
from ringpit.shards.packed import first_complaint, view
from ringpit.shards.prices import PriceSpecError, spec_of_records

DEALT_PER_STEP_MAX: Final = 64  # deliveries between two looks at acknowledgements
HASH_SHIFT: Final = 32


class Line(NamedTuple):
    """One shard, as its router sees it: the ring to it, and what its worker says."""

    shard: int
    slots: np.ndarray  # COMMAND, our own segment
    markers: np.ndarray  # the same as MARKER
    ingress_ns: np.ndarray  # histogram, our own segment
    tail: int  # index of our own words
    base: int
    peer: int


class Pending(NamedTuple):
    """A delivery that is not acknowledged: the ring position that must be durable on each shard it touched."""

    tag: int
    positions: tuple[tuple[int, int], ...]  # (shard, position)
    dead: bool  # put aside: waits for its dead letter instead


@kernel
def write_frame(slots, markers, tail, facts, commands, shard_of, shard, count, ingress_ns):
    """
    Write a marker and the shard's commands into free slots from `tail` on. The caller has seen the room.

    Until the worker writes its own, the marker's engine time is that of the writing: where its ring wait begins.
    """
    mask = slots.shape[0] - 1
    slot = tail & mask
    markers[slot]["kind"] = CommandKind.MARKER
    markers[slot]["router"] = facts[0]
    markers[slot]["reserved"] = 0
    markers[slot]["count"] = count
    markers[slot]["key_low"] = facts[1]
    markers[slot]["key_high"] = facts[2]
    markers[slot]["body_hash"] = facts[3]
    markers[slot]["engine_ns"] = facts[5]
    markers[slot]["ingress_ns"] = facts[4]
    markers[slot]["position"] = tail + 1 + count
    streamed = count >= STREAM_RECORDS_MIN and streams(slots)
    position = tail + 1
    for i in range(commands.shape[0]):
        if shard_of[i] == shard or shard_of[i] == EVERY_SHARD:
            if position == tail + 1:
                markers[slot]["first_event"] = commands[i]["event"]
            if streamed:
                stream_record(slots, position & mask, commands, i)
            else:
                put_record(slots, position & mask, commands, i)
            position += 1
    histogram.record_many(ingress_ns, facts[5] - facts[4], count)
    if streamed:
        fence_streamed()


def body_hash(body: bytes | memoryview) -> int:
    """Names a body among those that one key may carry: its length above its CRC32C."""
    return len(body) << HASH_SHIFT | int(google_crc32c.value(np.frombuffer(body, np.uint8)))


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
        self._lines = []
        for shard in range(shards):
            slots = segment.region(f"input.{shard}")
            words = (layout.index(f"{word}.{shard}") for word in ("input_tail", "input_base", "input_peer"))
            self._lines.append(
                Line(shard, slots, slots.view(MARKER), segment.region(f"ingress_ns.{shard}"), *words)
            )
        self._tails = [first_position] * shards
        self._heads = [0] * shards  # as last seen
        self._durable = [0] * shards  # as last seen
        self._workers: list[Segment | None] = [None] * shards
        self._awaited: set[int] = set(range(shards))  # shards whose worker has not been greeted
        self._greeted = [0] * shards  # incarnation of each worker that was greeted last
        self._redeliver = False  # a worker was greeted that does not go on with our ring
        self._pending: deque[Pending] = deque()
        self._dead_settled: set[int] = set()
        self._waiting: deque[Delivery] = deque()
        self._taken_ns: deque[int] = deque()  # when each of them came
        self._generation = intake.generation
        self._shard_of = np.zeros(1, np.int64)
        self._counts = np.zeros(shards, np.int64)
        self._facts = np.zeros(6, np.int64)
        self._beats = 0
        self._paused = False
        self._stuck = False  # a ring had no room: polling at once would only take the core from who empties it
        self._opened = False
        self._draining = False
        self.deliveries = self.commands = self.malformed = self.acknowledged = 0
        for line in self._lines:
            store_cell(segment.cells, line.tail, first_position)

    @property
    def idle(self) -> bool:
        """True if everything taken in is acknowledged."""
        return not self._pending and not self._waiting

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
                store_cell(self._segment.cells, line.base, self._tails[shard])
                self._heads[shard] = 0
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
        if ready:
            self._learn()
        acknowledged = self._acknowledge() if ready else 0
        self._press_back(ready)
        busy = bool(acknowledged) or (ready and bool(self._waiting) and not self._stuck)
        arrived = self._intake.poll(0.0 if busy else timeout_seconds)
        if self._intake.generation != self._generation:
            self._forget()
        if arrived and not self._draining:
            self._waiting.extend(arrived)
            self._taken_ns.extend([time.time_ns()] * len(arrived))
        dealt = self._deal_waiting() if ready else 0
        self._tell()
        return acknowledged + dealt

    def drain(self) -> None:
        """Take nothing more in; what is pending is still acknowledged."""
        self._draining = True
        self._waiting.clear()
        self._taken_ns.clear()
        self._press_back(ready=False)

    def close(self) -> None:
        """Let the intake go; what is not acknowledged comes again to whoever consumes next."""
        self._intake.close()

    def _press_back(self, ready: bool) -> None:
        """Pause the intake while deliveries wait for room or for a worker; resume when they do not."""
        wanted = self._draining or not ready or len(self._waiting) > DEALT_PER_STEP_MAX
        if wanted and not self._paused:
            self._intake.pause()
        elif self._paused and not wanted:
            self._intake.resume()
        self._paused = wanted

    def _forget(self) -> None:
        """Everything unacknowledged is void and comes again with new tags."""
        self._generation = self._intake.generation
        for pending in self._pending:  # they are counted when they are dealt again
            self.malformed -= pending.dead
            self.deliveries -= not pending.dead
        self._pending.clear()
        self._waiting.clear()
        self._taken_ns.clear()
        self._dead_settled.clear()

    def _acknowledge(self) -> int:
        """Acknowledge the longest prefix of which everything is durable (T1)."""
        if not self._pending:
            return 0
        self._dead_settled.update(self._intake.settled_dead_letters())
        for shard, worker in enumerate(self._workers):
            assert worker is not None
            cell = worker.layout.index(f"durable_position.{self.index}")
            durable = load_cell(worker.cells, cell)  # pairs with the journal's release
            if self._leader is not None and self._leader(shard) != worker.incarnation:
                return 0  # it leads no more: what it calls durable may count for no reader
            self._durable[shard] = durable
        tag = count = 0
        while self._pending and self._settled(self._pending[0]):
            tag = self._pending.popleft().tag
            self._dead_settled.discard(tag)
            count += 1
        if count:
            met(Step.BEFORE_ACKNOWLEDGE)
            self._intake.acknowledge(tag)
            met(Step.ACKNOWLEDGED)
            self.acknowledged += count
        return count

    def _settled(self, pending: Pending) -> bool:
        """True if nothing of this delivery can be lost any more."""
        if pending.dead:
            return pending.tag in self._dead_settled
        return all(self._durable[shard] >= position for shard, position in pending.positions)

    def _deal_waiting(self) -> int:
        """Deal what waits until a ring is full."""
        self._stuck = False
        for dealt in range(DEALT_PER_STEP_MAX):
            if not self._waiting:
                return dealt
            if not self._deal(self._waiting[0], self._taken_ns[0]):
                self._stuck = True
                return dealt
            self._waiting.popleft()
            self._taken_ns.popleft()
        return DEALT_PER_STEP_MAX

    def _deal(self, delivery: Delivery, taken_ns: int) -> bool:
        """Deal one delivery to its shards; False, and nothing is changed, if a ring has no room for it."""
        try:
            commands = self._commands(delivery)
        except MalformedMessage as error:
            detail = str(error)
            self._intake.dead_letter(delivery, Reason.MALFORMED.name, detail)
            self._pending.append(Pending(delivery.tag, (), dead=True))
            self.malformed += 1
            return True
        count = len(commands)
        if count > len(self._shard_of):
            self._shard_of = np.zeros(1 << count.bit_length(), np.int64)
        created = deal(self._directory.homes, commands, count, self._shard_of, self._counts)
        touched = [(shard, number) for shard, number in enumerate(self._counts.tolist()) if number]
        if not all(self._has_room(shard, number + 1) for shard, number in touched):
            return False
        met(Step.TAKEN)
        self._facts[:] = (self.index, *delivery.key, body_hash(delivery.body), taken_ns, time.time_ns())
        positions = []
        for shard, number in touched:
            line = self._lines[shard]
            tail = self._tails[shard]
            write_frame(
                line.slots,
                line.markers,
                tail,
                self._facts,
                commands,
                self._shard_of,
                shard,
                number,
                line.ingress_ns,
            )
            tail += number + 1
            self._tails[shard] = tail
            store_cell(self._segment.cells, line.tail, tail)  # pairs with the worker's acquire
            positions.append((shard, tail))
            met(Step.DEALT_TO_ONE)
        met(Step.DEALT)
        if created:
            self._learn_created(commands)
        self._pending.append(Pending(delivery.tag, tuple(positions), dead=False))
        self.deliveries += 1
        self.commands += count
        return True

    def _commands(self, delivery: Delivery) -> np.ndarray:
        """The commands of a delivery; raises MalformedMessage."""
        kind = delivery.content_type
        if kind != PACKED and kind.partition(";")[0].strip().lower() != PACKED:
            return to_commands(decode(kind or None, delivery.body), self._directory.spec_of, self._self_trade)
        commands = view(delivery.body)
        complaint = first_complaint(commands)
        if complaint is not None:
            raise MalformedMessage(*complaint)
        return commands

    def _learn_created(self, commands: np.ndarray) -> None:
        """Remember the price specs of events that this delivery creates, for later decimal prices."""
        for at in np.flatnonzero(commands["kind"] == CommandKind.CREATE_EVENT).tolist():
            if commands[at]["verdict"] == Reason.NONE:
                try:
                    spec = spec_of_records(commands, at)
                except PriceSpecError:
                    continue  # the engine refuses it, too, and says why to whoever asked
                self._directory.create(int(commands[at]["event"]), spec)

    def _has_room(self, shard: int, slots: int) -> bool:
        """True if a ring can take a frame; looks at the worker's head only if it seems full."""
        line = self._lines[shard]
        if self._tails[shard] + slots - self._heads[shard] <= len(line.slots):
            return True
        worker = self._workers[shard]
        assert worker is not None
        head = worker.layout.index(f"input_head.{self.index}")
        self._heads[shard] = load_cell(worker.cells, head)  # pairs with the worker's release
        return self._tails[shard] + slots - self._heads[shard] <= len(line.slots)

    def _tell(self) -> None:
        """Show the counters, for whoever watches."""
        for word in ("deliveries", "commands", "malformed", "acknowledged"):
            self._segment.store(word, getattr(self, word))
