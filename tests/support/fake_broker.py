"""
A queue in memory with the manners of the real one: ordered, redelivered in order, acknowledged by prefix.

`FakeBroker` is the queue, `FakeIntake` a consumer of it with the contract of `shards.delivery.Intake`. The contract
tests run on it and on RabbitMQ alike, so that it stays truthful.
"""

from collections import deque
from typing import NamedTuple

from ringpit.shards.delivery import NO_KEY, Delivery, Key, Tags


class Message(NamedTuple):
    """A message in the queue."""

    content_type: str
    key: Key
    body: bytes
    redelivered: bool


class DeadLetter(NamedTuple):
    """A delivery that was put aside."""

    reason: str
    detail: str
    content_type: str
    body: bytes


class FakeBroker:
    """
    One queue and its dead letters.

    With `confirms_dead_letters=False` dead letters stay unconfirmed until that is set to True.
    """

    def __init__(self) -> None:
        self.queue: deque[Message] = deque()
        self.dead: list[DeadLetter] = []
        self.confirms_dead_letters = True
        self.up = True

    def publish(self, content_type: str, body: bytes, key: Key = NO_KEY) -> None:
        """Put a message at the end."""
        self.queue.append(Message(content_type, key, bytes(body), redelivered=False))


class FakeIntake:
    """A consumer. `broker.up = False` is a broker that is away: what was held is void, and comes again."""

    def __init__(self, broker: FakeBroker, *, prefetch: int = 500) -> None:
        self.broker = broker
        self.prefetch = prefetch
        self.generation = 0
        self.paused = False
        self._tags = Tags()
        self._held: deque[tuple[int, Message]] = deque()
        self._dead: deque[tuple[int, DeadLetter]] = deque()

    def ready(self) -> bool:
        """True while the broker is up."""
        return self.broker.up

    def poll(self, _timeout_seconds: float) -> list[Delivery]:
        """What is in the queue, up to the prefetch; never waits."""
        if not self.broker.up:
            if self._held:
                self.reopen()
            return []
        deliveries: list[Delivery] = []
        while not self.paused and self.broker.queue and len(self._held) < self.prefetch:
            message = self.broker.queue.popleft()
            tag = self._tags.next()
            self._held.append((tag, message))
            deliveries.append(
                Delivery(tag, message.content_type, message.key, message.body, message.redelivered)
            )
        return deliveries

    def acknowledge(self, tag: int) -> None:
        """Forget everything up to this tag. Raises ValueError for a tag that was never handed out."""
        if self._tags.accept(tag):
            while self._held and self._held[0][0] <= tag:
                self._held.popleft()

    def dead_letter(self, delivery: Delivery, reason: str, detail: str) -> None:
        """Put a delivery aside; it is safe when the broker confirms it."""
        if delivery.tag >= self._tags.first:
            letter = DeadLetter(reason, detail, delivery.content_type, bytes(delivery.body))
            self._dead.append((delivery.tag, letter))

    def settled_dead_letters(self) -> list[int]:
        """Tags of dead letters confirmed since the last call."""
        settled = []
        while self._dead and self.broker.confirms_dead_letters:
            tag, letter = self._dead.popleft()
            self.broker.dead.append(letter)
            settled.append(tag)
        return settled

    def pause(self) -> None:
        """Hand nothing out."""
        self.paused = True

    def resume(self) -> None:
        """Hand out again."""
        self.paused = False

    def reopen(self) -> None:
        """Put everything unacknowledged back to the front of the queue, in order."""
        self.generation += 1
        self._tags.void()
        self._dead.clear()
        while self._held:
            _, message = self._held.pop()
            self.broker.queue.appendleft(message._replace(redelivered=True))

    def close(self) -> None:
        """Leave the queue to the next consumer, with everything unacknowledged in it."""
        self.reopen()
