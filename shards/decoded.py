"""
Records in words: each field of a command, extension, bands or marker under its name, codes by their names.

    {"Seq": 7, "Record": "NEW", "side": "BUY", "order_type": "LIMIT", "event": 3, "order": 9, "price": 55, ...}

Made from the tables of records.py, so that a new field shows by itself. Slow (tens of microseconds a record): for
people and for small ranges.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final

import numpy as np

from ringpit.engine.codes import (
    BOTH_SIDES,
    CommandKind,
    Flag,
    LevelKind,
    OrderType,
    Outcome,
    Reason,
    SelfTrade,
    Side,
    TimeInForce,
)
from ringpit.engine.records import BANDS, COMMAND, EXTENSION, MARKER

TABLES: Final = {CommandKind.MARKER: MARKER, CommandKind.EXTENSION: EXTENSION, CommandKind.BANDS: BANDS}
CODES: Final[dict[str, type[IntEnum]]] = {
    "side": Side,
    "order_type": OrderType,
    "time_in_force": TimeInForce,
    "verdict": Reason,
    "self_trade": SelfTrade,
    "outcome": Outcome,
}
ALWAYS: Final = frozenset({"event", "order", "account", "price", "quantity", "count", "side"})

Fields = dict[str, Any]


def kind_of(record: np.void) -> str:
    """What a record is, by name, or its number if no such kind exists."""
    return _name(CommandKind, int(record["kind"]))


def fields_of(record: np.void, seq: int) -> Fields:
    """A record (of any 64-byte dtype) with its seq: fields by name; zeros that say nothing are left out."""
    kind = int(record["kind"])
    raw = np.frombuffer(record.tobytes(), TABLES.get(kind, COMMAND))[0]  # type: ignore[call-overload]  # an int finds its IntEnum
    fields: Fields = {"Seq": seq, "Record": kind_of(record)}
    for name in (raw.dtype.names or ())[1:]:
        value = int(raw[name])
        if value or (name in ALWAYS and not name.startswith("reserved")):
            fields[name] = shown(kind, name, value)
    return fields


def shown(kind: int, name: str, value: int) -> int | str:
    """A field's value as people read it."""
    if kind in TABLES:
        return value
    if name == "flags":
        return "|".join(flag.name for flag in Flag if value & flag) or value
    if name == "side" and value == BOTH_SIDES:
        return "BOTH"
    if name == "order_type" and kind == CommandKind.CREATE_EVENT:
        return _name(LevelKind, value)
    return _name(CODES[name], value) if name in CODES else value


def differences(ours: np.void, theirs: np.void) -> Iterator[tuple[str, int | str, int | str]]:
    """(field, value, other value) of every field in which two records differ; both are decoded as the first's kind."""
    kind = int(ours["kind"])
    table = TABLES.get(kind, COMMAND)  # type: ignore[call-overload]  # as above
    left, right = (np.frombuffer(record.tobytes(), table)[0] for record in (ours, theirs))
    if left["kind"] != right["kind"]:
        yield "Record", kind_of(ours), kind_of(theirs)
    for name in (table.names or ())[1:]:
        if left[name] != right[name]:
            yield name, shown(kind, name, int(left[name])), shown(kind, name, int(right[name]))


def _name(codes: type[IntEnum], value: int) -> str:
    """A code's name, or its number."""
    return next((str(code.name) for code in codes if code == value), str(value))
