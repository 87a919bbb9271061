"""
The frame scanner: a consumer's deliveries straight from the bytes that were read, past pika's frame objects.

    read bytes: | Basic.Deliver | content header | body | body | Basic.Deliver | ... | heartbeat | part of a frame
                  └──────────── one row: offsets into the bytes ─────────────┘         └ pika's   └ stays

pika makes three frame objects and a dispatch of each delivery, 12 to 20 microseconds. A delivery that is whole, looks as
expected and is for the one consumer that was named becomes a row of offsets instead. Everything else goes through pika, one
frame at a time and unchanged: heartbeats, other methods, other channels and consumers, deliveries with frames of others in between,
whatever is torn (pika then raises what it always raises), and a body so long that waiting for all of it would copy it again and
again. pika keeps the connection, acknowledgements, cancel, channels.

What is private to pika and used here is the loop of `_on_data_available` (which we run instead of it), `_frame_buffer`,
`_trim_frame_buffer`, `_read_frame`, `_process_frame`, and of a channel `_content_assembler`, `_consumers`, `_cancelled`.
`misfit` runs a canned stream through both ways at the start; where pika has become another, it says so, and stock pika is used.

Fast here: some 50 nanoseconds a delivery, however many frames a read brings. Slow here: long bodies, which pika puts together.

Invariants:

    N1  the scanner begins at the first frame of a delivery, and only while pika holds no part of one of that channel
    N2  what is scanned is exactly what pika would have handed to the consumer: same deliveries, same order, same bytes
    N3  nothing is raised here: what is not as expected is left where it is
"""

from collections.abc import Callable
from enum import IntEnum, auto
from typing import Any, Final, NamedTuple

import numpy as np
from pika import spec

from ringpit.shards.kernels import kernel

FRAME_START_BYTES: Final = 7
FRAME_LEAST_BYTES: Final = 8
HEADER_START_BYTES: Final = 12  # class, weight, bytes of body
METHOD_FRAME, HEADER_FRAME, BODY_FRAME = int(spec.FRAME_METHOD), int(spec.FRAME_HEADER), int(spec.FRAME_BODY)
FRAME_END: Final = int(spec.FRAME_END)
BASIC: Final = int(spec.Basic.INDEX)
DELIVER: Final = int(spec.Basic.Deliver.INDEX)
WHOLE_BYTES_MAX: Final = (
    1 << 17
)  # a longer body is waited for by pika, which does not copy what it has at each read
ROWS: Final = 512  # deliveries of one call of the kernel
PROPERTIES: Final = 14
FLAGS_GO_ON: Final = 1  # bit of the property flags: another word of flags follows
# How many bytes of length each property has, from the highest flag down, and how many of content if it has none.
LENGTH_BYTES: Final = np.array([1, 1, 4, 0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1], np.int64)
FIXED_BYTES: Final = np.array([0, 0, 0, 1, 1, 0, 0, 0, 0, 8, 0, 0, 0, 0], np.int64)


class Column(IntEnum):
    """What a row tells of a delivery. `..._AT` are offsets into the bytes, 0 with no bytes where the property is missing."""

    REDELIVERED = 0
    TYPE_AT = auto()
    TYPE_BYTES = auto()
    ID_AT = auto()
    ID_BYTES = auto()
    USER_AT = auto()
    USER_BYTES = auto()
    APP_AT = auto()
    APP_BYTES = auto()
    BODY_AT = auto()  # of the first body frame's content
    BODY_BYTES = auto()
    BODY_FRAMES = auto()


class Found(IntEnum):
    """Why a scan ended. MORE and OTHER are below any offset."""

    OTHER = -2  # pika's to read: one frame
    MORE = -1  # the rest has not come yet
    FULL = 0  # the table is


# The column of each property that is wanted, by its place among the flags; -1: it is stepped over.
COLUMN_OF: Final = np.full(PROPERTIES, -1, np.int64)
for place, column in ((0, Column.TYPE_AT), (8, Column.ID_AT), (11, Column.USER_AT), (12, Column.APP_AT)):
    COLUMN_OF[place] = column


@kernel
def big(content, at, count):
    """A number of so many bytes, the highest first."""
    value = np.int64(0)
    for i in range(at, at + count):
        value = (value << 8) | np.int64(content[i])
    return value


@kernel
def frame_end(content, at, end, frame_type, channel):
    """Offset behind the frame at `at`, or OTHER if it is of another type or channel or torn, or MORE."""
    if end - at < FRAME_LEAST_BYTES:
        return Found.MORE
    if content[at] != frame_type or big(content, at + 1, 2) != channel:
        return Found.OTHER
    behind = at + FRAME_START_BYTES + big(content, at + 3, 4) + 1
    if behind > end:
        return Found.MORE
    if content[behind - 1] != FRAME_END:
        return Found.OTHER
    return behind


@kernel
def read_method(content, at, end, consumer, rows, row):
    """Read a Basic.Deliver whose payload is from `at` to `end`. False: it is another method, or another consumer's."""
    named = at + 5
    fixed = named + consumer.shape[0]  # delivery tag, redelivered
    if fixed + 11 > end or big(content, at, 4) != DELIVER or content[at + 4] != consumer.shape[0]:
        return False
    for i in range(consumer.shape[0]):
        if content[named + i] != consumer[i]:
            return False
    rows[row, Column.REDELIVERED] = content[fixed + 8] & 1
    exchange = fixed + 9
    routing_key = exchange + 1 + np.int64(content[exchange])
    return routing_key < end and routing_key + 1 + np.int64(content[routing_key]) == end


@kernel
def read_header(content, at, end, rows, row):
    """Read a content header whose payload is from `at` to `end`. False: not one of ours, or properties that do not fit it."""
    if at + HEADER_START_BYTES + 2 > end or big(content, at, 2) != BASIC or content[at + 4] >= 0x80:
        return False
    rows[row, Column.BODY_BYTES] = big(content, at + 4, 8)
    flags = big(content, at + HEADER_START_BYTES, 2)
    if flags & FLAGS_GO_ON != 0:
        return False
    at += HEADER_START_BYTES + 2
    for each in range(PROPERTIES):
        wanted = COLUMN_OF[each]
        if wanted >= 0:
            rows[row, wanted] = 0
            rows[row, wanted + 1] = 0
        if flags & (1 << (15 - each)) == 0:
            continue
        width = LENGTH_BYTES[each]
        if at + width > end:
            return False
        count = FIXED_BYTES[each] if width == 0 else big(content, at, width)
        at += width
        if at + count > end:
            return False
        if wanted >= 0:
            rows[row, wanted] = at
            rows[row, wanted + 1] = count
        at += count
    return True


@kernel
def read_body(content, at, end, channel, rows, row):
    """Find the body frames of a delivery from `at` on. Returns the offset behind the last one, or MORE or OTHER."""
    size = rows[row, Column.BODY_BYTES]
    rows[row, Column.BODY_AT] = at + FRAME_START_BYTES
    frames = 0
    seen = 0
    while seen < size:
        behind = frame_end(content, at, end, BODY_FRAME, channel)
        if behind < 0:
            return Found.OTHER if size > WHOLE_BYTES_MAX else behind
        seen += behind - at - FRAME_LEAST_BYTES
        frames += 1
        at = behind
    rows[row, Column.BODY_FRAMES] = frames
    return at if seen == size else Found.OTHER


@kernel
def scan(content, channel, consumer, rows):
    """
    Read deliveries from the beginning of `content`, until one is not whole or not as expected.

    Args:
        content: uint8; what was read, from the beginning of a frame on.
        channel: Number of the consumer's channel.
        consumer: uint8; the consumer's tag.
        rows: int64, a row for each delivery (Column).

    Returns (deliveries, offset behind the last of them, Found).
    """
    at = 0
    end = content.shape[0]
    for row in range(rows.shape[0]):
        header = frame_end(content, at, end, METHOD_FRAME, channel)
        if header < 0:
            return row, at, header
        if not read_method(content, at + FRAME_START_BYTES, header - 1, consumer, rows, row):
            return row, at, Found.OTHER
        body = frame_end(content, header, end, HEADER_FRAME, channel)
        if body < 0:
            return row, at, body
        if not read_header(content, header + FRAME_START_BYTES, body - 1, rows, row):
            return row, at, Found.OTHER
        behind = read_body(content, body, end, channel, rows, row)
        if behind < 0:
            return row, at, behind
        at = behind
    return rows.shape[0], at, Found.FULL


def body_of(content: bytes, at: int, size: int, frames: int) -> bytes:
    """The body of a row: one piece, or the pieces of several frames put together."""
    if frames <= 1:
        return content[at : at + size]
    pieces = []
    for _ in range(frames):
        count = int.from_bytes(content[at - 4 : at], "big")
        pieces.append(content[at : at + count])
        at += count + FRAME_LEAST_BYTES
    return b"".join(pieces)


OnScanned = Callable[[bytes, list[list[int]]], None]  # what was read, and a row of each delivery


class Scanner(NamedTuple):
    """One consumer whose deliveries are scanned."""

    channel: Any  # pika's
    consumer: str
    tag: np.ndarray  # its tag as uint8
    on_scanned: OnScanned
    rows: np.ndarray

    def may_scan(self) -> bool:
        """N1: the consumer is there, and pika holds no part of a delivery."""
        channel = self.channel
        held = channel._content_assembler  # noqa: SLF001 - where pika puts deliveries together
        return bool(
            channel.is_open
            and held._method_frame is None  # noqa: SLF001 - as above
            and held._header_frame is None  # noqa: SLF001 - as above
            and not held._body_fragments  # noqa: SLF001 - as above
            and self.consumer in channel._consumers  # noqa: SLF001 - consumers that get deliveries
            and self.consumer not in channel._cancelled  # noqa: SLF001 - and those that do not any more
        )

    def read(self, content: bytes) -> tuple[list[list[int]], int, Found]:
        """What can be scanned of `content`: (a row for each delivery, bytes, why it ended)."""
        count, consumed, found = scan(
            np.frombuffer(content, np.uint8), self.channel.channel_number, self.tag, self.rows
        )
        return self.rows[:count].tolist() if count else [], consumed, Found(found)


def make_scanner(channel: Any, consumer: str, on_scanned: OnScanned) -> Scanner:
    """A scanner of one consumer's deliveries."""
    tag = np.frombuffer(consumer.encode(), np.uint8)
    return Scanner(channel, consumer, tag, on_scanned, np.zeros((ROWS, len(Column)), np.int64))
