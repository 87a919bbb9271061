"""
Packed deliveries: the bytes of commands as they lie in a ring, behind a header of 16 bytes.

    | RPIT | version 2 | 0 2 | count 4 | 0 4 | COMMAND 64 | COMMAND 64 | ...        content type application/x-ringpit

Nothing is converted: `view` lays a COMMAND array over the delivery's own bytes, `check` runs over it once.
A publisher fills a COMMAND array and calls `encode`. Prices are ticks here.

Why it is fast: a few nanoseconds per command, against a microsecond for JSON. Where it is slow: a
delivery of one command pays a few microseconds for its header and its array, whatever the command.

The check lets nothing through that a client may not say: it accepts the kinds that clients have, numbers of
enumerations that exist, and zeros where this version has no meaning or the edge itself writes; and what completes a
command must stand right before it. Whether a price, a quantity, an event or a combination of fields makes sense is the
engine's question. One bad record refuses the delivery: a publisher that writes such records has a bug, and nobody
knows which account to answer.

Invariants:

    K1  a record that passes has every field within `bounds_of` its kind, and no flag beyond `flags_of` it
    K2  `check` and `complaint` agree: one finds the record, the other names its field or place
    K3  an EXTENSION stands right before a command of its event with EXTENDED, and nothing else has that flag; BANDS
        stand right before more BANDS or the CREATE_EVENT of their event, or before the EXTENSION of that
"""

import struct
from typing import Final

import numpy as np

from ringpit.engine.codes import (
    BOTH_SIDES,
    CommandKind,
    Flag,
    LevelKind,
    OrderType,
    Outcome,
    SelfTrade,
    Side,
    TimeInForce,
)
from ringpit.engine.limits import FRAME_COMMANDS_MAX, INT64_MAX, require
from ringpit.engine.records import (
    BANDS,
    BANDS_PER_RECORD,
    COMMAND,
    EXTENSION,
    LAYOUT_VERSION,
    RECORD_BYTES,
    dtype_of,
)
from ringpit.shards.kernels import kernel, leaf
from ringpit.shards.messages import MalformedMessage
from ringpit.shards.prices import DECIMALS_MAX, TICK_UNITS_MAX

CONTENT_TYPE: Final = "application/x-ringpit"
MAGIC: Final = b"RPIT"

HEADER_FIELDS: Final = (
    ("magic", "S4", "RPIT"),
    ("layout_version", "<i2", f"version of the record tables, {LAYOUT_VERSION}"),
    ("reserved", "<i2", "0"),
    ("count", "<i4", f"records that follow, 1 to {FRAME_COMMANDS_MAX}"),
    ("reserved_too", "<i4", "0"),
)
HEADER: Final = dtype_of(HEADER_FIELDS)
HEADER_BYTES: Final = HEADER.itemsize
STRUCT_CODES: Final = {"S4": "4s", "<i2": "h", "<i4": "i"}
# The same table for the struct module, which reads five numbers in a fraction of what an array of one record costs.
UNPACK_HEADER: Final = struct.Struct(
    "<" + "".join(STRUCT_CODES[code] for _, code, _ in HEADER_FIELDS)
).unpack_from

SENT_KINDS: Final = tuple(kind for kind in CommandKind if kind not in (CommandKind.TICK, CommandKind.MARKER))
# Kernels compare with plain numbers: an enum member costs a conversion each time when interpreted.
FIRST_KIND, LAST_KIND = int(min(SENT_KINDS)), int(max(SENT_KINDS))
NEW, CREATE_EVENT = int(CommandKind.NEW), int(CommandKind.CREATE_EVENT)
MASS_CANCEL, TICK, MARKER = int(CommandKind.MASS_CANCEL), int(CommandKind.TICK), int(CommandKind.MARKER)
EXTENSION_KIND, BANDS_KIND = int(CommandKind.EXTENSION), int(CommandKind.BANDS)
SIDE_MAX, TYPE_MAX, LEVELS_MAX = int(max(Side)), int(max(OrderType)), int(max(LevelKind))
TIME_IN_FORCE_MAX, SELF_TRADE_MAX, OUTCOME_MAX = int(max(TimeInForce)), int(max(SelfTrade)), int(max(Outcome))
FLAGS, EXTENDED = sum(Flag), int(Flag.EXTENDED)
MASS_CANCEL_FLAGS = FLAGS - EXTENDED  # nothing completes one, so it may go to every shard alone
INT64: Final = (-INT64_MAX - 1, INT64_MAX)
ZERO: Final = (0, 0)
KIND_RULE: Final = "kind must be one of " + ", ".join(f"{kind.value} {kind.name}" for kind in SENT_KINDS)


def bounds_of(kind: int) -> tuple[tuple[str, int, int], ...]:
    """(field, lowest, highest) of what a client may say in a record of a kind, whose flags are apart."""
    if kind == CommandKind.EXTENSION:
        return tuple((name, *ZERO) for name in ("reserved", "reserved_2", "reserved_3"))
    if kind == CommandKind.BANDS:
        return (("count", 1, BANDS_PER_RECORD), ("reserved", *ZERO), ("reserved_2", *ZERO))
    creates, timed = kind == CommandKind.CREATE_EVENT, kind in (CommandKind.CREATE_EVENT, CommandKind.NEW)
    return (
        ("side", 0, BOTH_SIDES if kind == CommandKind.MASS_CANCEL else SIDE_MAX),
        ("order_type", 0, LEVELS_MAX if creates else TYPE_MAX),
        ("time_in_force", 0, TIME_IN_FORCE_MAX),
        ("verdict", *ZERO),
        ("self_trade", 0, SELF_TRADE_MAX),
        ("outcome", 0, OUTCOME_MAX),
        ("payout", *(INT64 if creates else ZERO)),
        ("expires_ns", *(INT64 if timed else ZERO)),
        *((("order", 1, TICK_UNITS_MAX), ("account", 0, DECIMALS_MAX)) if creates else ()),
    )


def flags_of(kind: int) -> int:
    """The flags that a record of a kind may have, all together; whether they go together is the engine's question."""
    return MASS_CANCEL_FLAGS if kind == CommandKind.MASS_CANCEL else FLAGS


def masks_of(kind: int) -> tuple[int, int]:
    """
    K1 of a command's first word: bits that must not be set, and what each byte may be raised by before its top bit is.

    Both as signed words. A byte above its bound overflows into its own top bit when the second is added, so one addition and one
    mask look at all bytes at once. The last byte has no room above it: `outcome` is bounded by its bits.
    """
    bounds = {name: high for name, _, high in bounds_of(kind)}
    refused = spare = 0
    for at, name in enumerate(WORD_FIELDS):
        if name == "flags":
            bits, room = ~flags_of(kind) & 0xFF, 0
        elif name == "outcome":
            bits, room = ~bounds[name] & 0xFF, 0
        else:
            bits, room = 0x80, 0x7F - bounds[name]
        refused |= bits << 8 * at + 8
        spare |= room << 8 * at + 8
    return refused - (1 << 64 if refused >> 63 else 0), spare


WORD_FIELDS: Final = ("side", "order_type", "time_in_force", "flags", "verdict", "self_trade", "outcome")
COMPLETING: Final = (CommandKind.EXTENSION, CommandKind.BANDS)
REFUSED, SPARE = np.zeros(LAST_KIND + 1, np.int64), np.zeros(LAST_KIND + 1, np.int64)
for command_kind in SENT_KINDS:
    if command_kind not in COMPLETING:
        REFUSED[command_kind], SPARE[command_kind] = masks_of(command_kind)
require(OUTCOME_MAX & (OUTCOME_MAX + 1) == 0, "the last byte of a command's first word is bounded by its bits")

BYTE, BELOW_LAST, TOPS = 0xFF, (1 << 56) - 1, 0x80_80_80_80_80_80_80
EXTENDED_BIT: Final = EXTENDED << 32
READS_ON, EXTENSION_WAITS, BANDS_WAIT = 0, 1, 2  # what stands before a record and completes it, as bits
BAD, BAD_BEFORE = -1, -2  # this record, or the one before it
RECORD_WORDS: Final = RECORD_BYTES // 8
EVENT_AT: Final = 1  # word of a record
HEADER_WORDS: Final = HEADER_BYTES // 8
HEADER_WORD: Final = int.from_bytes(MAGIC, "little") | LAYOUT_VERSION << 32


@leaf
def count_in_header(words, at, count_words):
    """The records of a packed body of so many words, as its header says; -1 if header and length do not agree."""
    if count_words <= HEADER_WORDS or words[at] != HEADER_WORD:
        return -1
    count = words[at + 1]
    if count < 1 or count > FRAME_COMMANDS_MAX or HEADER_WORDS + count * RECORD_WORDS != count_words:
        return -1
    return count


@kernel
def check_completing(words, at, kind, waiting):
    """`check_record` of an EXTENSION or BANDS; bands that are not counted are zeros."""
    word = words[at]
    if kind == EXTENSION_KIND:
        if word != EXTENSION_KIND:
            return BAD
    else:
        count = word >> 8
        if count < 1 or count > BANDS_PER_RECORD:
            return BAD
        for band in range(count, BANDS_PER_RECORD):
            if words[at + EVENT_AT + 1 + band] != 0:
                return BAD
    if waiting & EXTENSION_WAITS != 0:
        return BAD_BEFORE
    if waiting != READS_ON and words[at + EVENT_AT] != words[at - RECORD_WORDS + EVENT_AT]:
        return BAD_BEFORE
    return waiting | (EXTENSION_WAITS if kind == EXTENSION_KIND else BANDS_WAIT)


@leaf
def check_record(words, at, waiting):
    """
    Check the record whose first word is at `at` (K1, K3).

    `waiting` is what this gave for the record before, READS_ON for the first. The answer says what waits now, or BAD or BAD_BEFORE.
    """
    word = words[at]
    kind = word & BYTE
    if kind < FIRST_KIND or kind > LAST_KIND or kind in (TICK, MARKER):
        return BAD
    if kind in (EXTENSION_KIND, BANDS_KIND):
        return check_completing(words, at, kind, waiting)
    if (word & REFUSED[kind]) | (((word & BELOW_LAST) + SPARE[kind]) & TOPS) != 0:
        return BAD
    if kind == CREATE_EVENT:
        if (
            words[at + 2] < 1
            or words[at + 2] > TICK_UNITS_MAX
            or words[at + 3] < 0
            or words[at + 3] > DECIMALS_MAX
        ):
            return BAD
    elif words[at + 6] != 0 or (kind != NEW and words[at + 7] != 0):
        return BAD
    extended = word & EXTENDED_BIT != 0
    if waiting == READS_ON:
        return BAD if extended else READS_ON
    if extended != (waiting & EXTENSION_WAITS != 0):
        return BAD if extended else BAD_BEFORE
    if waiting & BANDS_WAIT != 0 and kind != CREATE_EVENT:
        return BAD_BEFORE
    if words[at + EVENT_AT] != words[at - RECORD_WORDS + EVENT_AT]:
        return BAD_BEFORE
    return READS_ON


@kernel
def check_words(words, count):
    """Index of the first of `count` records, as words, that a client may not send, or -1."""
    waiting = READS_ON
    for index in range(count):
        waiting = check_record(words, index * RECORD_WORDS, waiting)
        if waiting < 0:
            return index if waiting == BAD else index - 1
    return count - 1 if waiting != READS_ON else -1


def check(commands: np.ndarray, count: int) -> int:
    """Index of the first of `count` records that a client may not send, or -1 (K1, K3)."""
    return int(check_words(np.frombuffer(commands.tobytes(), np.int64), count))


def complaint(commands: np.ndarray, at: int) -> str:
    """What is wrong with the record that `check` refused: field, value and rule."""
    kind = int(commands[at]["kind"])
    if kind not in SENT_KINDS:
        return f"{KIND_RULE}, was {kind}"
    record = commands[at : at + 1].view({EXTENSION_KIND: EXTENSION, BANDS_KIND: BANDS}.get(kind, COMMAND))[0]
    for name, low, high in bounds_of(kind):
        value = int(record[name])
        if not low <= value <= high:
            rule = f"be {low}" if low == high else f"be from {low} to {high}"
            return f"{name} must {rule}, was {value}"
    if kind == EXTENSION_KIND:
        return "an EXTENSION must stand right before a command of the same event with the flag EXTENDED"
    if kind == BANDS_KIND:
        for number in range(int(record["count"]) + 1, BANDS_PER_RECORD + 1):
            for name in (f"last_{number}", f"step_{number}"):
                if record[name]:
                    return f"{name} must be 0 behind a count of {record['count']}, was {record[name]}"
        return "BANDS must stand right before more BANDS, the EXTENSION or the CREATE_EVENT of the same event"
    flags = int(record["flags"])
    if flags & ~flags_of(kind):
        return f"flags must be bits of {flags_of(kind)}, was {flags}"
    return "a command with the flag EXTENDED must stand right behind an EXTENSION of the same event"


def view(body: bytes | memoryview) -> np.ndarray:
    """
    The COMMAND array that lies in a packed delivery: shape (count,), a view, read-only if the body is.

    Checks the header and the length only. Raises MalformedMessage.
    """
    size = len(body)
    if size < HEADER_BYTES:
        raise MalformedMessage(
            f"a packed delivery must have a header of {HEADER_BYTES} bytes, had {size} bytes", 0
        )
    magic, version, reserved, count, reserved_too = UNPACK_HEADER(body)
    if magic != MAGIC:
        raise MalformedMessage(f"a packed delivery must begin with {MAGIC!r}, began with {magic!r}", 0)
    if version != LAYOUT_VERSION:
        raise MalformedMessage(
            f"layout_version must be {LAYOUT_VERSION}, was {version}; build the publisher anew", 4
        )
    if reserved or reserved_too:
        raise MalformedMessage("the reserved fields of the header must be 0", 6 if reserved else 12)
    if not 1 <= count <= FRAME_COMMANDS_MAX:
        raise MalformedMessage(f"count must be from 1 to {FRAME_COMMANDS_MAX}, was {count}", 8)
    if size != HEADER_BYTES + count * RECORD_BYTES:
        raise MalformedMessage(
            f"{count} records must make {HEADER_BYTES + count * RECORD_BYTES} bytes, were {size}", 8
        )
    return np.frombuffer(body, COMMAND, count, HEADER_BYTES)


def first_complaint(commands: np.ndarray) -> tuple[str, int] | None:
    """What is wrong with the first bad record and the byte where it begins in a delivery, or None."""
    bad = int(check(commands, len(commands)))
    if bad < 0:
        return None
    return f"record {bad} of {len(commands)}: {complaint(commands, bad)}", HEADER_BYTES + bad * RECORD_BYTES


def decode(body: bytes | memoryview) -> np.ndarray:
    """
    The checked records of a packed delivery, as `view` gives them.

    Raises MalformedMessage with the record, the field, the value and the rule.
    Cost: a few microseconds per delivery and a few nanoseconds per command.
    """
    commands = view(body)
    found = first_complaint(commands)
    if found:
        raise MalformedMessage(*found)
    return commands


def encode(commands: np.ndarray) -> bytes:
    """
    The packed delivery of a COMMAND array of shape (count,), for publishers.

    Raises ValueError if there are none or too many, or if one may not be sent: better here than in a dead letter.
    """
    if commands.dtype != COMMAND or commands.ndim != 1:
        raise ValueError(
            f"commands must be a one-dimensional COMMAND array, was {commands.dtype} {commands.shape}"
        )
    if not 1 <= len(commands) <= FRAME_COMMANDS_MAX:
        raise ValueError(f"a delivery must have 1 to {FRAME_COMMANDS_MAX} records, had {len(commands)}")
    found = first_complaint(commands)
    if found:
        raise ValueError(found[0])
    header = np.array([(MAGIC, LAYOUT_VERSION, 0, len(commands), 0)], HEADER)
    return header.tobytes() + commands.tobytes()
