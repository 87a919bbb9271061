"""
The three brokers of a simulation: the order queue, the log, and whoever takes the reports.

    queue     deliveries in order; what is not acknowledged comes again, in order, to the next consumer
    log       packets under way, batches in the log, acknowledgements under way; all of it late, some of it twice
    outlet    messages under way, messages received, confirmations under way

Each has two halves: what a process holds (an intake, a log, a sink), which dies with it, and what lies beyond the wire.
`turn` of a broker moves one thing over the wire; the schedule decides when. What a dead process has sent may still
arrive, or not: a prefix of it does.

Nothing here is fast or slow; nothing waits but by the schedule's `nap`.

Invariants:

    SB1  a queue gives messages out in the order in which it took them, also again
    SB2  the log never loses what it has acknowledged, and keeps the order of one owner's packets
    SB3  a sink's token is confirmed only when everything before it has been received
"""

from collections import deque
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final, NamedTuple

import numpy as np

from ringpit.shards.delivery import Delivery, Key, Tags
from ringpit.shards.packed import CONTENT_TYPE
from ringpit.shards.sinks import Identity, Payload, Token
from ringpit.testing.received import Told, decoded
from ringpit.wal.errors import LogFailed
from ringpit.wal.log import Entry
from ringpit.wal.memory import MemoryLog
from ringpit.wal.snapshots import SnapshotFacts

PREFETCH: Final = 24  # deliveries that may be unacknowledged
WIRE_MAX: Final = 24  # messages under way to the outlet before a publisher waits
LATE_PACES: Final = (1.0, 0.3, 0.08)  # of packets of the dead, beside others
TWICE_SHARE: Final = 0.04  # of batches come to the log twice


class Message(NamedTuple):
    """One message of a client, in the order in which a queue took them."""

    number: int
    key: Key
    body: bytes
    valid: bool


class Queue:
    """One order queue beyond the wire."""

    def __init__(self, random: Random) -> None:
        """Empty."""
        self.random = random
        self.messages: list[Message] = []
        self.ready: deque[int] = deque()
        self.unacknowledged: deque[int] = deque()  # of the consumer
        self.acknowledged = 0
        self.consumer: QueueIntake | None = None

    def put(self, key: Key, body: bytes, *, valid: bool) -> None:
        """Take a client's message."""
        self.ready.append(len(self.messages))
        self.messages.append(Message(len(self.messages), key, body, valid))

    def turn(self) -> None:
        """An acknowledgement arrives, or a dead letter's confirmation."""
        consumer = self.consumer
        if consumer is None:
            return
        if consumer.wire:
            self._take(consumer.wire.popleft())
        if consumer.dead and self.random.random() < 0.5:
            consumer.settled.append(consumer.dead.popleft())

    def _take(self, count: int) -> None:
        """So many of the oldest are acknowledged."""
        for _ in range(count):
            self.unacknowledged.popleft()
        self.acknowledged += count

    def part(self, consumer: "QueueIntake") -> None:
        """A connection ends: some acknowledgements still arrive, what is left comes again, in order."""
        if self.consumer is not consumer:
            return
        for _ in range(self.random.randrange(len(consumer.wire) + 1)):
            self._take(consumer.wire.popleft())
        consumer.wire.clear()
        self.ready.extendleft(reversed(self.unacknowledged))
        self.unacknowledged.clear()
        self.consumer = None

    @property
    def empty(self) -> bool:
        """True if everything is acknowledged."""
        return not self.ready and not self.unacknowledged


class QueueIntake:
    """A router's end of a queue: shards/delivery.py, Intake. `acknowledging` is asked before each acknowledgement is sent."""

    def __init__(
        self, queue: Queue, nap: Callable[[float], None], acknowledging: Callable[[Message], None]
    ) -> None:
        """Become the queue's consumer."""
        self.queue = queue
        self.generation = 1
        self.wire: deque[int] = deque()  # acknowledgements under way: how many deliveries each
        self.dead: deque[int] = deque()  # dead letters under way
        self.settled: list[int] = []
        self.cut = False  # the connection is lost, and we do not know yet
        self._nap = nap
        self._acknowledging = acknowledging
        self._tags = Tags()
        self._held: deque[tuple[int, int]] = deque()  # tag, message
        self._paused = False
        if queue.consumer is not None:
            queue.part(queue.consumer)
        queue.consumer = self

    def ready(self) -> bool:
        """Always."""
        return True

    def poll(self, timeout_seconds: float) -> list[Delivery]:
        """Some of what the queue has."""
        if self.cut:
            self.reopen()
        queue = self.queue
        if self._paused or not queue.ready or len(queue.unacknowledged) >= PREFETCH:
            if timeout_seconds:
                self._nap(timeout_seconds)
            return []
        arrived = []
        for _ in range(min(len(queue.ready), queue.random.randint(1, 4))):
            number = queue.ready.popleft()
            queue.unacknowledged.append(number)
            tag = self._tags.next()
            self._held.append((tag, number))
            message = queue.messages[number]
            arrived.append(Delivery(tag, CONTENT_TYPE, message.key, message.body, redelivered=False))
        return arrived

    def acknowledge(self, tag: int) -> None:
        """Send an acknowledgement."""
        if not self._tags.accept(tag):
            return
        count = 0
        while self._held and self._held[0][0] <= tag:
            self._acknowledging(self.queue.messages[self._held.popleft()[1]])
            count += 1
        self.wire.append(count)

    def dead_letter(self, delivery: Delivery, _reason: str, _detail: str) -> None:
        """Send a dead letter."""
        self.dead.append(delivery.tag)

    def settled_dead_letters(self) -> list[int]:
        """What was confirmed since."""
        settled, self.settled = self.settled, []
        return settled

    def pause(self) -> None:
        """Take nothing in."""
        self._paused = True

    def resume(self) -> None:
        """Take in again."""
        self._paused = False

    def reopen(self) -> None:
        """Another connection."""
        self.queue.part(self)
        self.queue.consumer = self
        self.generation += 1
        self.cut = False
        self._tags.void()
        self._held.clear()
        self.dead.clear()
        self.settled.clear()

    def close(self) -> None:
        """Let go."""
        self.queue.part(self)


class LogStore:
    """One shard's log beyond the wire."""

    def __init__(self, random: Random) -> None:
        """Empty."""
        self.random = random
        self.batches: list[bytes] = []
        self.durable = 0  # batches that not even a power cut takes back
        self.owners: list[WireLog] = []
        self.again: list[bytes] = []  # will come a second time
        self.away = False  # takes nothing and says nothing

    def turn(self) -> None:
        """One packet arrives, or one acknowledgement."""
        random = self.random
        if self.away:
            return
        if self.again and random.random() < 0.1:
            self.batches.append(self.again.pop(0))
            return
        busy = [owner for owner in self.owners if owner.pending or owner.landed]
        if not busy:
            return
        owner = random.choices(busy, [each.pace for each in busy])[0]
        if random.random() > owner.pace:
            return
        if owner.pending and (not owner.landed or random.random() < 0.5):
            if random.random() < TWICE_SHARE:
                self.again.append(owner.pending[0])
            owner.land()
        else:
            self.durable = max(self.durable, owner.confirm())

    def part(self, owner: "WireLog") -> None:
        """A process is dead; some of what it has sent still arrives, sooner or later."""
        owner.pace = self.random.choice(LATE_PACES)
        del owner.pending[self.random.randint(0, len(owner.pending) + 1) :]

    def lose_power(self) -> None:
        """What was not durable is lost, from some place on; a batch that was being written is torn."""
        kept = self.random.randint(self.durable, len(self.batches))
        torn = self.batches[kept : kept + 1]
        del self.batches[kept:]
        if torn and self.random.random() < 0.5:
            self.batches.append(torn[0][: self.random.randrange(len(torn[0]))])
        self.owners.clear()
        self.again.clear()

    def cut_torn_tail(self) -> None:
        """Whoever opens the log for appending cuts off a batch that is not whole; it was never durable."""
        if self.batches and not is_whole(self.batches[-1]):
            self.batches.pop()

    @property
    def quiet(self) -> bool:
        """True if nothing is under way."""
        return not self.again and all(not owner.pending for owner in self.owners)


def is_whole(batch: bytes) -> bool:
    """True if a batch has the bytes that its header promises."""
    return len(batch) >= 192 and len(batch) == 192 + 64 * int.from_bytes(batch[12:16], "little")


class WireLog(MemoryLog):
    """A process's end of a log: appended batches are under way, then in the log, then known to be."""

    def __init__(self, store: LogStore, nap: Callable[[float], None]) -> None:
        """Open for appending, or for reading alone."""
        super().__init__(store.batches, held=True)
        self._nap = nap
        self.pace = 1.0  # of its packets; what a dead process has sent may come late
        self.landed: deque[int] = deque()  # place behind each batch that is in the log and not acknowledged

    def land(self) -> None:
        """The oldest packet arrives."""
        self.batches.append(self.pending.pop(0))
        self.landed.append(len(self.batches))

    def confirm(self) -> int:
        """The oldest acknowledgement arrives; the place in the log behind its batch."""
        self._durable_end = self.landed.popleft()
        self._durable_count += 1
        return self._durable_end

    def poll(self, timeout_seconds: float = 0.0) -> int:
        """How many are known to be durable."""
        if timeout_seconds and (self.pending or self.landed):
            self._nap(min(timeout_seconds, 0.0005))
        return super().poll()

    def read(self, position: int = 0) -> Iterator[Entry]:
        """Every batch from a position to the end, without a torn one at the end."""
        for entry in super().read(position):
            if is_whole(entry.batch):
                yield entry

    def break_off(self) -> None:
        """The log says that an append failed; it may have arrived all the same."""
        self._failure = LogFailed("the log said that an append failed")


class Snapshots:
    """One shard's snapshots beyond everything that can die: wal/snapshots.py, SnapshotStore, on a disk without bytes."""

    def __init__(self, shard: int) -> None:
        """None."""
        self.shard = shard
        self.folder = "the simulated disk"
        self.published: list[Picture] = []

    def write(self, facts: SnapshotFacts, arrays: dict[str, np.ndarray]) -> "Picture":
        """Write one that does not count yet."""
        return Picture(self, facts, {name: array.copy() for name, array in arrays.items()})

    def newest(self, _say: Callable[[str], None]) -> "Picture | None":
        """The one with the largest seq."""
        return max(self.published, key=lambda each: each.facts.seq, default=None)

    def prune(self, keep: int) -> None:
        """Forget all but the newest."""
        self.published = sorted(self.published, key=lambda each: each.facts.seq)[-keep:]


class Picture:
    """One snapshot, both as it was written and as it is found again."""

    path = "a snapshot"
    file_bytes = 0

    def __init__(self, store: Snapshots, facts: SnapshotFacts, arrays: dict[str, np.ndarray]) -> None:
        """Does not count yet."""
        self._store = store
        self.facts = facts
        self.arrays = arrays

    def publish(self) -> str:
        """Count from now on."""
        self._store.published.append(self)
        return self.path


class Outlet:
    """Whoever takes the reports, beyond the wire."""

    def __init__(self, random: Random) -> None:
        """Nothing received."""
        self.random = random
        self.received: list[Told] = []  # in the order of arrival
        self.sink: OutletSink | None = None
        self.away = False

    def turn(self) -> None:
        """A message arrives, or a confirmation."""
        sink = self.sink
        if sink is None or self.away:
            return
        if sink.wire:
            self._take(sink, sink.wire.popleft())
        if sink.arrived and self.random.random() < 0.3:
            sink.newest = sink.arrived.popleft()

    def _take(self, sink: "OutletSink", item: Any) -> None:
        """Receive a message, or know that a token's confirmation may be sent."""
        if isinstance(item, Token):
            sink.arrived.append(item)
        else:
            self.received += item

    def part(self, sink: "OutletSink") -> None:
        """A publisher is dead; some of what it has sent still arrives."""
        if self.sink is sink:
            for _ in range(self.random.randrange(len(sink.wire) + 1)):
                self._take(sink, sink.wire.popleft())
            self.sink = None


class OutletSink:
    """A publisher's end: shards/sinks.py, Sink. `sending` is told of every message before it leaves."""

    addressed = False

    def __init__(self, outlet: Outlet, sending: Callable[[list[Told]], None]) -> None:
        """Become the publisher that the outlet hears."""
        self._sending = sending
        self.wire: deque[Any] = deque()
        self.arrived: deque[Token] = deque()
        self.newest: Token | None = None
        outlet.sink = self

    def reports(
        self, _account: int, payload: Payload, _count: int, content_type: str, identity: Identity
    ) -> None:
        """Send a cycle's reports."""
        told = decoded(content_type, bytes(payload), "-".join(map(str, identity)))
        self._sending(told)
        self.wire.append(told)

    def trades(self, *_message: object) -> None:
        """Not looked at: a trade is told with the reports of its parties, too."""

    price = book = trades

    def ready(self) -> bool:
        """False while much is under way."""
        return len(self.wire) < WIRE_MAX

    def barrier(self, token: Token) -> None:
        """Send a barrier."""
        self.wire.append(token)

    def poll(self, _timeout_seconds: float) -> Token | None:
        """What was confirmed since."""
        newest, self.newest = self.newest, None
        return newest

    def flush(self, _timeout_seconds: float) -> bool:
        """True if nothing is under way."""
        return not self.wire

    def close(self) -> None:
        """Nothing to let go of."""
