"""
One layout from the wire to the log: commands, markers and reports, 64 bytes each.

The same bytes travel in a packed AMQP frame, in a ring and in a log batch, so nothing is copied
field by field on the way. Every record is one cache line, little-endian, all integers signed. Each is
declared once as a table of (name, type, meaning); the dtype, the printed layout (`ringpit schema`)
and the layout test come from it.

    frame    = MARKER, then `count` COMMANDs; never split over two publishes or two log batches
    position = where a slot lies in an input ring; the ring's incarnation sits in its high bits
    seq      = position in the log, one for each marker and each command, dense from 1 in a shard

Versions: LAYOUT_VERSION names these tables, RULES_VERSION the matching rules; shared memory, log and
snapshots carry both and refuse others.

Invariants:

    R1  every record is RECORD_BYTES long, every field at a multiple of its own size
    R2  `kind` is the first byte of COMMAND and of MARKER, so that a slot can be told apart
"""

from typing import Final

import numpy as np

LAYOUT_VERSION: Final = 1
RULES_VERSION: Final = 1
RECORD_BYTES: Final = 64

COMMAND_FIELDS: Final = (
    ("kind", "<i1", "what is asked: CommandKind"),
    ("side", "<i1", "Side, in the YES book"),
    ("order_type", "<i1", "OrderType"),
    ("time_in_force", "<i1", "TimeInForce"),
    ("flags", "<i1", "bits of Flag"),
    (
        "verdict",
        "<i1",
        "Reason found at the edge (price off tick, ...); not 0: the engine answers REJECTED with it",
    ),
    ("self_trade", "<i1", "self-trade prevention mode; must be 0 in this version"),
    ("outcome", "<i1", "0 YES, 1 NO; must be 0 in this version"),
    ("event", "<i8", "the event's id"),
    ("order", "<i8", "order id, unique among the open orders of the event; CREATE_EVENT: tick in units"),
    ("account", "<i8", "owner of the order; CREATE_EVENT: decimals of a unit"),
    ("price", "<i8", "ticks; CREATE_EVENT: lowest price, ticks"),
    (
        "quantity",
        "<i8",
        "lots; AMEND: new total including what is filled, 0 keeps it; CREATE_EVENT: highest price, ticks",
    ),
    ("payout", "<i8", "CREATE_EVENT: payout of one lot, ticks; else 0"),
    ("expires_ns", "<i8", "good-till-date, ns since the epoch; must be 0 in this version"),
)

MARKER_FIELDS: Final = (
    ("kind", "<i1", "CommandKind.MARKER"),
    ("router", "<i1", "index of the router that wrote it"),
    ("reserved", "<i2", "0"),
    ("count", "<i4", "commands that follow"),
    ("key_low", "<i8", "publisher's key, low half; both halves 0: no key, no protection"),
    ("key_high", "<i8", "publisher's key, high half"),
    ("body_hash", "<i8", "hash of the delivery's body: the same key with another body is refused"),
    ("engine_ns", "<i8", "when the worker sequenced the frame, ns since the epoch; never runs backwards"),
    ("ingress_ns", "<i8", "when the router took the delivery, ns since the epoch"),
    ("position", "<i8", "input ring position just behind the frame"),
    ("first_event", "<i8", "event of the first command, for the answer to a duplicate"),
)

REPORT_FIELDS: Final = (
    ("kind", "<i1", "ReportKind"),
    ("side", "<i1", "Side"),
    ("reason", "<i1", "Reason"),
    ("flags", "<i1", "bits of Flag"),
    ("index", "<i4", "position among the reports of its seq, 0-based"),
    ("seq", "<i8", "log position of the command that caused it"),
    ("event", "<i8", "the event's id; FRAME: input ring position"),
    ("order", "<i8", "order id; FRAME: key, low half; BOOK_RESET: tick in units x 32 + decimals"),
    ("account", "<i8", "owner of the order; LEVEL, BOOK_RESET: book slot; FRAME: key, high half"),
    ("price", "<i8", "ticks; fills: the maker's price; BOOK_RESET: lowest price; FRAME: engine_ns"),
    (
        "quantity",
        "<i8",
        "lots: filled, cancelled, asked for; LEVEL: resting in all; BOOK_RESET: highest price; FRAME: ingress_ns",
    ),
    (
        "leaves",
        "<i8",
        "lots still open; BOOK_RESET: first level slot; FRAME: commands; EVENT_SETTLED: orders cancelled",
    ),
)


def dtype_of(fields: tuple[tuple[str, str, str], ...]) -> np.dtype:
    """The numpy dtype of a table of (name, type, meaning) rows."""
    return np.dtype([(name, code) for name, code, _ in fields])


COMMAND: Final = dtype_of(COMMAND_FIELDS)
MARKER: Final = dtype_of(MARKER_FIELDS)
REPORT: Final = dtype_of(REPORT_FIELDS)
