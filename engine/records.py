"""
One layout from the wire to the log: commands, their extensions, markers and reports, 64 bytes each.

The same bytes travel in a packed AMQP frame, in a ring and in a log batch, so nothing is copied
field by field on the way. Every record is one cache line, little-endian, all integers signed. Each is
declared once as a table of (name, type, meaning); the dtype, the printed layout (`ringpit schema`)
and the layout test come from it.

    frame    = MARKER, then `count` records; never split over two publishes or two log batches
    record   = COMMAND, or the EXTENSION or BANDS of the COMMAND behind it
    position = where a slot lies in an input ring; the ring's incarnation sits in its high bits
    seq      = position in the log, one for each marker and each command, dense from 1 in a shard

Versions: LAYOUT_VERSION names these tables, RULES_VERSION the matching rules; shared memory, log and
snapshots carry both and refuse others.

Invariants:

    R1  every record is RECORD_BYTES long, every field at a multiple of its own size
    R2  `kind` is the first byte of COMMAND, MARKER, EXTENSION and BANDS, so that a slot can be told apart
    R3  `event` lies at the same place in COMMAND, EXTENSION and BANDS, so that they are routed alike
"""

from typing import Final

import numpy as np

LAYOUT_VERSION: Final = 3
RULES_VERSION: Final = 2
RECORD_BYTES: Final = 64

COMMAND_FIELDS: Final = (
    ("kind", "<i1", "what is asked: CommandKind"),
    ("side", "<i1", "Side, of the order's own outcome; MASS_CANCEL: or BOTH_SIDES"),
    ("order_type", "<i1", "OrderType; CREATE_EVENT: LevelKind"),
    ("time_in_force", "<i1", "TimeInForce"),
    ("flags", "<i1", "bits of Flag"),
    (
        "verdict",
        "<i1",
        "Reason found at the edge (price off tick, ...); not 0: the engine answers REJECTED with it",
    ),
    ("self_trade", "<i1", "SelfTrade mode of a NEW"),
    ("outcome", "<i1", "Outcome of a NEW; other verbs take the order's own"),
    ("event", "<i8", "the event's id"),
    (
        "order",
        "<i8",
        "order id, unique among the open orders of the event; CREATE_EVENT: tick in units; MASS_CANCEL: group, 0 any",
    ),
    ("account", "<i8", "owner of the order; CREATE_EVENT: decimals of a unit; MASS_CANCEL: owner, 0 any"),
    ("price", "<i8", "ticks, of the order's own outcome; CREATE_EVENT: lowest price, ticks"),
    (
        "quantity",
        "<i8",
        (
            "lots; MONEY: ticks x lots; AMEND: new total including what is filled, 0 keeps it; REPLACE: new open lots;"
            " REDUCE: lots to take off; CREATE_EVENT: highest price, ticks"
        ),
    ),
    ("payout", "<i8", "CREATE_EVENT: payout of one lot in ticks, 0: there is no NO; else 0"),
    ("expires_ns", "<i8", "GTD: ns since the epoch; CREATE_EVENT: closing time, 0 none; else 0"),
)

EXTENSION_FIELDS: Final = (
    ("kind", "<i1", "CommandKind.EXTENSION"),
    ("reserved", "<i1", "0"),
    ("reserved_2", "<i2", "0"),
    ("reserved_3", "<i4", "0"),
    ("event", "<i8", "as in the command behind it"),
    (
        "trigger",
        "<i8",
        "NEW of a stop: trigger price in ticks of its own outcome; trailing stop: 0 from the last price",
    ),
    ("trail", "<i8", "NEW of a trailing stop: distance of the trigger, ticks"),
    ("display", "<i8", "NEW: lots shown at a time, 0 all"),
    ("group", "<i8", "NEW: group of the order, 0 none"),
    ("orders_max", "<i8", "CREATE_EVENT: open orders of the event, 0 no limit of its own"),
    ("account_orders_max", "<i8", "CREATE_EVENT: open orders of one account in the event, 0 no limit"),
)

BANDS_PER_RECORD: Final = 6
BANDS_FIELDS: Final = (
    ("kind", "<i1", "CommandKind.BANDS"),
    ("count", "<i1", "bands in this record, 1 to 6; several records in a row add up"),
    ("reserved", "<i2", "0"),
    ("reserved_2", "<i4", "0"),
    ("event", "<i8", "as in the command behind it"),
    *(
        row
        for number in range(1, BANDS_PER_RECORD + 1)
        for row in (
            (f"last_{number}", "<i4", "highest price of the band, ticks; it begins where the one before ends"),
            (
                f"step_{number}",
                "<i4",
                "distance of two prices in the band, ticks, counted from the band's beginning",
            ),
        )
    ),
)

MARKER_FIELDS: Final = (
    ("kind", "<i1", "CommandKind.MARKER"),
    ("router", "<i1", "index of the router that wrote it; -1: the worker itself, for a TICK"),
    ("reserved", "<i2", "0"),
    ("count", "<i4", "records that follow"),
    ("key_low", "<i8", "publisher's key, low half; both halves 0: no key, no protection"),
    ("key_high", "<i8", "publisher's key, high half"),
    ("body_hash", "<i8", "hash of the delivery's body: the same key with another body is refused"),
    (
        "engine_ns",
        "<i8",
        "when the worker sequenced the frame, ns since the epoch; never runs backwards. In an input ring: when it was written",
    ),
    ("ingress_ns", "<i8", "when the router took the delivery, ns since the epoch"),
    ("position", "<i8", "input ring position just behind the frame"),
    ("first_event", "<i8", "event of the first command, for the answer to a duplicate"),
)

REPORT_FIELDS: Final = (
    ("kind", "<i1", "ReportKind"),
    ("side", "<i1", "Side, of the order's own outcome; LEVEL: of the YES book"),
    ("reason", "<i1", "Reason"),
    ("flags", "<i1", "bits of ReportFlag"),
    ("index", "<i4", "position among the reports of its seq, 0-based"),
    ("seq", "<i8", "log position of the command that caused it"),
    ("event", "<i8", "the event's id; FRAME: input ring position"),
    ("order", "<i8", "order id; FRAME: key, low half; BOOK_RESET: tick in units x 32 + decimals"),
    ("account", "<i8", "owner of the order; LEVEL, BOOK_RESET: book slot; FRAME: key, high half"),
    (
        "price",
        "<i8",
        "ticks, of the order's own outcome; fills: the maker's price; BOOK_RESET: lowest price; FRAME: engine_ns",
    ),
    (
        "quantity",
        "<i8",
        "lots: filled, cancelled, asked for; LEVEL: resting in all; BOOK_RESET: highest price; FRAME: ingress_ns",
    ),
    (
        "leaves",
        "<i8",
        (
            "lots still open; BOOK_RESET: first level slot, or -1 for a skip list; FRAME: commands; EVENT_SETTLED,"
            " MASS_CANCELED: orders cancelled"
        ),
    ),
)


def dtype_of(fields: tuple[tuple[str, str, str], ...]) -> np.dtype:
    """The numpy dtype of a table of (name, type, meaning) rows."""
    return np.dtype([(name, code) for name, code, _ in fields])


COMMAND: Final = dtype_of(COMMAND_FIELDS)
MARKER: Final = dtype_of(MARKER_FIELDS)
EXTENSION: Final = dtype_of(EXTENSION_FIELDS)
BANDS: Final = dtype_of(BANDS_FIELDS)
REPORT: Final = dtype_of(REPORT_FIELDS)
