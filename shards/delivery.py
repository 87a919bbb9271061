"""
Deliveries: what a router takes in, and what it asks of the place where it takes it from.

A delivery is one message as it came: nothing in it is decoded yet, except the publisher's key. An intake hands
deliveries out in order, and takes acknowledgements for whole prefixes of that order. What is not
acknowledged comes again, in order, after `reopen`, after a lost connection, and to the next process after a crash.

Invariants:

    D1  tags are the intake's own numbers: they only grow, and none is used twice in its life
    D2  whenever unacknowledged deliveries are void, `generation` has risen before `poll` hands out the next one,
        and acknowledgements and dead letters of older tags do nothing
    D3  a dead letter may be acknowledged when `settled_dead_letters` has named it, and not earlier
"""

import hashlib
import struct
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

Body = bytes | memoryview
Key = tuple[int, int]
NO_KEY: Final[Key] = (0, 0)


class Delivery(NamedTuple):
    """One message. A body that is a memoryview is valid until its tag is acknowledged or void."""

    tag: int
    content_type: str  # as the publisher wrote it; empty if he wrote none
    key: Key  # 128 bits: low and high half, signed; NO_KEY without a message id
    body: Body
    redelivered: bool  # a hint: a publisher that lost his confirm sends again with the flag clear
    message_id: str = ""
    sent_ns: int = 0  # ns since the epoch, 0 if the way in carries none


class Intake(Protocol):
    """
    Where a router's deliveries come from: a RabbitMQ queue, an ingress ring, or a fake.

    Attributes:
        generation: Rises whenever everything unacknowledged is void and will come again (D2).
    """

    generation: int

    def ready(self) -> bool:
        """True if deliveries can come now; False while connecting or waiting for a broker."""

    def poll(self, timeout_seconds: float) -> list[Delivery]:
        """
        The next deliveries, in order; waits at most so long for the first. Empty while paused.

        Acknowledgements and dead letters make progress in here only: poll also when there is nothing to take.
        """

    def acknowledge(self, tag: int) -> None:
        """
        Everything up to this tag is done with. Tags of an older generation do nothing.

        Raises ValueError for a tag that was never handed out.
        """

    def dead_letter(self, delivery: Delivery, reason: str, detail: str) -> None:
        """Put a malformed delivery aside, with the reason. It is acknowledged by the caller, in its turn (D3)."""

    def settled_dead_letters(self) -> list[int]:
        """Tags of dead letters that are safe now, each named once."""

    def pause(self) -> None:
        """Take nothing more in; what is asked for over the connection is still served."""

    def resume(self) -> None:
        """Take in again."""

    def reopen(self) -> None:
        """Have everything unacknowledged delivered again, in order, with new tags."""

    def close(self) -> None:
        """Send the last acknowledgements, as far as that is quick, and let go."""


LENGTH: Final = struct.Struct("<I").pack
HALVES: Final = struct.Struct("<qq").unpack


@lru_cache(maxsize=1_024)
def publisher_part(user_id: bytes, app_id: bytes) -> bytes:
    """The bytes of a key that are the same for all messages of a publisher."""
    return LENGTH(len(user_id)) + user_id + LENGTH(len(app_id)) + app_id


def publisher_key(user_id: bytes, app_id: bytes, message_id: bytes) -> Key:
    """
    128 bits that name a publisher's message; NO_KEY if it has no message id.

    BLAKE2b over the three parts, each behind its length in four bytes, read as two little-endian halves.
    It is logged and compared for ever: it must never change. Cost: about 1 microsecond.
    """
    if not message_id:
        return NO_KEY
    parts = publisher_part(user_id, app_id) + LENGTH(len(message_id)) + message_id
    return HALVES(hashlib.blake2b(parts, digest_size=16).digest())


class Tags:
    """
    Tags given out and not yet acknowledged, as two numbers (D1, D2).

    `first` is the smallest tag of the current generation, `last` the largest handed out, `done` the
    largest acknowledged.
    """

    def __init__(self) -> None:
        self.first = 1
        self.last = 0
        self.done = 0

    def next(self) -> int:
        """A new tag."""
        self.last += 1
        return self.last

    def accept(self, tag: int) -> bool:
        """
        True if an acknowledgement up to this tag says something new, which is then remembered.

        Raises ValueError for a tag that was never handed out.
        """
        if tag > self.last:
            raise ValueError(f"acknowledged tag {tag}, but the last one handed out is {self.last}")
        if tag <= self.done:
            return False
        self.done = tag
        return True

    def void(self) -> None:
        """Start a generation: every tag so far is done with."""
        self.first = self.last + 1
        self.done = self.last
