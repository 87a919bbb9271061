"""
The intake over shared memory: an ingress ring that another process of this machine feeds.

In embedded mode this stands where the RabbitMQ queue stands otherwise. A delivery is one header slot, then
its content type (padded to 8 bytes) and its body, in slots of 64 bytes; it becomes visible by one advance of the tail.

    position        +1                                  tail (feeder's segment)
    | INGRESS header | type, body ........ | header | ...
    ^ head (router's segment): everything before it is acknowledged
                     ^ cursor: everything before it is handed out; `reopen` puts it back to the head

The head is advanced by acknowledgements only, so the ring is also what redelivery needs: a router that dies
leaves everything unacknowledged in the feeder's segment. Positions never wrap; slot = position & (slots - 1).

Fast: a delivery is read with one `tolist` of its header and a view of its body, no copy, about 2 microseconds.
Slow: a body that lies over the end of the ring, which is copied, and a dead letter, which is fsynced.

Invariants:

    G1  head <= cursor <= tail, and tail - head <= slots
    G2  a header's `position` is the position it lies at: anything else means that the feeder writes wrongly
"""

import base64
import json
import os
import time
from collections import deque
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from ringpit.engine.limits import power_of_two
from ringpit.engine.records import dtype_of
from ringpit.ipc.atomics import load_cell, store_cell
from ringpit.shards.delivery import NO_KEY, Body, Delivery, Key, Tags

INGRESS_FIELDS: Final = (
    ("magic", "<i8", "INGRESS_MAGIC"),
    ("position", "<i8", "ring position of this header"),
    ("slots", "<i8", "slots of the delivery, this one included"),
    ("type_bytes", "<i8", "bytes of the content type, which follows, padded to 8"),
    ("body_bytes", "<i8", "bytes of the body, which follows the content type"),
    ("key_low", "<i8", "publisher's key, low half; both halves 0: no key"),
    ("key_high", "<i8", "publisher's key, high half"),
    ("sent_ns", "<i8", "when it was offered, ns since the epoch"),
)
INGRESS: Final = dtype_of(INGRESS_FIELDS)
INGRESS_MAGIC: Final = 0x31_53_45_52_47_4E_49  # "INGRES1", little-endian
SLOT_BYTES: Final = 64
TYPE_ALIGN_BYTES: Final = 8
TYPE_BYTES_MAX: Final = 255
DETAIL_CHARACTERS_MAX: Final = 1_000


class IngressBrokenError(RuntimeError):
    """G1 or G2 does not hold; says where. The feeder is of another version, or wrong."""


class Cell(NamedTuple):
    """One int64 word of a segment."""

    cells: np.ndarray
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody wants here


def slots_of(type_bytes: int, body_bytes: int) -> int:
    """Slots a delivery takes, with its header."""
    return 1 + -(-(padded(type_bytes) + body_bytes) // SLOT_BYTES)


def padded(type_bytes: int) -> int:
    """Bytes that a content type takes, so that the body behind it is aligned."""
    return -(-type_bytes // TYPE_ALIGN_BYTES) * TYPE_ALIGN_BYTES


class IngressRing:
    """
    Both ends' view of the slots.

    Args:
        slots: 1-d array of INGRESS, a power of two long; the feeder's segment.

    Raises ValueError if the number of slots is none.
    """

    def __init__(self, slots: np.ndarray) -> None:
        if slots.dtype != INGRESS or not power_of_two(len(slots)):
            raise ValueError(f"rings.ingress_slots must be a power of two, was {len(slots)} of {slots.dtype}")
        self.count = len(slots)
        self.headers = slots.view(np.int64).reshape(self.count, len(INGRESS_FIELDS))
        self.bytes = memoryview(slots.view(np.uint8))  # type: ignore[arg-type]  # numpy says it is none

    def write(self, offset: int, data: Body) -> None:
        """Copy bytes in from a byte offset on, round the end."""
        room = len(self.bytes) - offset
        if len(data) <= room:
            self.bytes[offset : offset + len(data)] = data
        else:
            self.bytes[offset:] = data[:room]
            self.bytes[: len(data) - room] = data[room:]

    def read(self, offset: int, count_bytes: int) -> Body:
        """A view of so many bytes, or a copy if they lie round the end."""
        end = offset + count_bytes
        if end <= len(self.bytes):
            return self.bytes[offset:end].toreadonly()
        return bytes(self.bytes[offset:]) + bytes(self.bytes[: end - len(self.bytes)])

    def wrapped(self, offset: int) -> int:
        """A byte offset, brought back into the ring."""
        return offset & (len(self.bytes) - 1)


class IngressFeeder:
    """
    The feeding side, in a process that owns the tail and the slots.

    Args:
        tail: The feeder's own word; its value is where feeding starts.
        head: The router's word: what is below it may be overwritten.
    """

    def __init__(self, slots: np.ndarray, tail: Cell, head: Cell) -> None:
        """Goes on where `tail` stands."""
        self._ring = IngressRing(slots)
        self._tail = tail
        self._position = load_cell(*tail)  # our own word: a restart of the feeder sees what it wrote
        self.follow(head)

    def follow(self, head: Cell) -> None:
        """Look at another head: the router was started again, with a new segment."""
        self._head = head
        self._head_seen = load_cell(*head)  # pairs with the release in IngressIntake.acknowledge

    def offer(self, content_type: str, key: Key, body: Body, sent_ns: int = 0) -> bool:
        """
        Put one delivery into the ring; False, and nothing is changed, if there is no room now.

        Args:
            key: `publisher_key(...)`, or NO_KEY.
            sent_ns: ns since the epoch; 0: now.

        Raises ValueError for a delivery that never fits. Cost: about 4 microseconds and a copy.
        """
        text = content_type.encode()
        slots = slots_of(len(text), len(body))
        if len(text) > TYPE_BYTES_MAX or slots > self._ring.count:
            raise ValueError(
                f"a delivery of {len(body)} bytes takes {slots} slots, but the ingress ring has {self._ring.count}: "
                "make rings.ingress_slots larger, or the delivery smaller"
                if slots > self._ring.count
                else f"a content type must be at most {TYPE_BYTES_MAX} bytes, was {len(text)}"
            )
        if self._position + slots - self._head_seen > self._ring.count:
            self._head_seen = load_cell(*self._head)  # pairs with the release in IngressIntake.acknowledge
            if self._position + slots - self._head_seen > self._ring.count:
                return False
        slot = self._position & (self._ring.count - 1)
        self._ring.headers[slot] = (
            INGRESS_MAGIC,
            self._position,
            slots,
            len(text),
            len(body),
            *key,
            sent_ns or time.time_ns(),
        )
        start = self._ring.wrapped((slot + 1) * SLOT_BYTES)
        self._ring.write(start, text)
        self._ring.write(self._ring.wrapped(start + padded(len(text))), body)
        self._position += slots
        store_cell(*self._tail, self._position)  # pairs with the acquire in IngressIntake.poll
        return True

    def unacknowledged_slots(self) -> int:
        """Slots between head and tail: 0 when everything offered is acknowledged."""
        self._head_seen = load_cell(*self._head)  # pairs with the release in IngressIntake.acknowledge
        return int(self._position - self._head_seen)


class IngressIntake:
    """
    The router's side. See `delivery.Intake` for the contract.

    Args:
        slots: The feeder's slots.
        tail: The feeder's word.
        head: The router's own word; its value is where taking starts (a restart copies the old router's).
        dead_letters: NDJSON file for malformed deliveries, appended to.
        deliveries_max: Deliveries one `poll` returns at most.

    Raises IngressBrokenError (from `poll`) if the ring does not hold what a feeder writes.
    """

    def __init__(
        self, slots: np.ndarray, tail: Cell, head: Cell, dead_letters: Path, *, deliveries_max: int = 1_024
    ) -> None:
        """Starts at the head: what an earlier router took without acknowledging comes again."""
        self.generation = 0
        self._ring = IngressRing(slots)
        self._tail = tail
        self._head = head
        self._deliveries_max = deliveries_max
        self._cursor = load_cell(*head)  # our own word, or copied from a router that is gone
        self._handed_out = self._cursor  # the furthest the cursor has been
        self._tags = Tags()
        self._ends: deque[tuple[int, int]] = deque()  # tag, position behind the delivery
        self._paused = False
        self._dead = DeadLetterFile(dead_letters)
        self._dead_tags: list[int] = []
        self._types: dict[bytes, str] = {}

    def ready(self) -> bool:
        """Always: the ring is there."""
        return True

    def poll(self, timeout_seconds: float) -> list[Delivery]:
        """Deliveries between cursor and tail. Naps once if there are none, also while paused: nobody can wake us through memory."""
        if self._paused:
            time.sleep(timeout_seconds)
            return []
        tail = load_cell(*self._tail)  # pairs with the release in IngressFeeder.offer
        if tail == self._cursor and timeout_seconds > 0:
            time.sleep(timeout_seconds)
            tail = load_cell(*self._tail)  # pairs with the release in IngressFeeder.offer
        deliveries: list[Delivery] = []
        while self._cursor < tail and len(deliveries) < self._deliveries_max:
            deliveries.append(self._take(tail))
        return deliveries

    def acknowledge(self, tag: int) -> None:
        """Advance the head behind the delivery; the feeder may overwrite it at once."""
        if self._tags.accept(tag):
            end = 0
            while self._ends and self._ends[0][0] <= tag:
                _, end = self._ends.popleft()
            store_cell(*self._head, end)  # pairs with the acquires in IngressFeeder

    def dead_letter(self, delivery: Delivery, reason: str, detail: str) -> None:
        """Append it to the file; safe when `settled_dead_letters` has synced that."""
        if delivery.tag >= self._tags.first:
            self._dead.append(delivery, reason, detail)
            self._dead_tags.append(delivery.tag)

    def settled_dead_letters(self) -> list[int]:
        """Sync the file, once for all dead letters since the last call, and name them."""
        if not self._dead_tags:
            return []
        self._dead.sync()
        settled = [tag for tag in self._dead_tags if tag >= self._tags.first]
        self._dead_tags.clear()
        return settled

    def pause(self) -> None:
        """Leave the ring alone; it fills, and `offer` says so."""
        self._paused = True

    def resume(self) -> None:
        """Take from the ring again."""
        self._paused = False

    def reopen(self) -> None:
        """Put the cursor back to the head."""
        self.generation += 1
        self._tags.void()
        self._ends.clear()
        self._cursor = load_cell(*self._head)  # our own word

    def close(self) -> None:
        """Let go of the file."""
        self._dead.close()

    def _take(self, tail: int) -> Delivery:
        """The delivery at the cursor, which moves behind it."""
        position = self._cursor
        slot = position & (self._ring.count - 1)
        magic, written, slots, type_bytes, body_bytes, key_low, key_high, sent_ns = self._ring.headers[
            slot
        ].tolist()
        whole = 0 < slots <= tail - position and min(type_bytes, body_bytes) >= 0
        if (
            magic != INGRESS_MAGIC
            or written != position
            or not whole
            or slots != slots_of(type_bytes, body_bytes)
        ):
            raise IngressBrokenError(
                f"ingress ring: no delivery at position {position} (slot {slot}): magic {magic:#x}, position {written}, "
                f"{slots} slots of {tail - position}; the feeding process must be of this version and the only one"
            )
        start = self._ring.wrapped((slot + 1) * SLOT_BYTES)
        text = bytes(self._ring.read(start, type_bytes))
        body = self._ring.read(self._ring.wrapped(start + padded(type_bytes)), body_bytes)
        self._cursor = position + slots
        redelivered = position < self._handed_out
        self._handed_out = max(self._handed_out, self._cursor)
        tag = self._tags.next()
        self._ends.append((tag, self._cursor))
        key = (key_low, key_high) if key_low or key_high else NO_KEY
        return Delivery(tag, text.decode(errors="replace"), key, body, redelivered, "", sent_ns)


class DeadLetterFile:
    """
    Dead letters as lines of JSON: Reason, Detail, ContentType, Key, SentNs, Body (base64).

    Opened with the first one. Raises OSError with the path and the remedy.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def append(self, delivery: Delivery, reason: str, detail: str) -> None:
        """Write one line, whole."""
        line = {
            "Reason": reason,
            "Detail": detail[:DETAIL_CHARACTERS_MAX],
            "ContentType": delivery.content_type,
            "Key": [str(half) for half in delivery.key],
            "SentNs": delivery.sent_ns,
            "Body": base64.b64encode(delivery.body).decode(),
        }
        rest = json.dumps(line, ensure_ascii=True).encode() + b"\n"
        try:
            if self._descriptor < 0:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._descriptor = os.open(self.path, flags, 0o644)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot keep a dead letter in {self.path}: {error.strerror}; make the folder writable or free some space",
            ) from error

    def sync(self) -> None:
        """Have the disk hold what was appended."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file, if it was opened."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
