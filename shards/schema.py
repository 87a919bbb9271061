"""
The contract with publishers, printed: the JSON Schema of a delivery and the layout of the packed records.

Both are made from what the code itself uses: the structs of `shards.messages` and the tables of
`engine.records`. `ringpit schema` prints this module's `schema()`; its first part alone is `json_schema()`,
for tools that generate clients or validate.
"""

import json
from typing import Any, Final

import msgspec

from ringpit.engine.codes import (
    BOTH_SIDES,
    CommandKind,
    Flag,
    LevelKind,
    OrderType,
    Outcome,
    Reason,
    ReportFlag,
    ReportKind,
    SelfTrade,
    Side,
    TimeInForce,
)
from ringpit.engine.records import (
    BANDS_FIELDS,
    COMMAND_FIELDS,
    EXTENSION_FIELDS,
    LAYOUT_VERSION,
    MARKER_FIELDS,
    REPORT_FIELDS,
    dtype_of,
)
from ringpit.shards.messages import DECODERS, Delivery, Integer, IntegerText, PriceText
from ringpit.shards.packed import CONTENT_TYPE, HEADER_FIELDS

NAMED: Final = {
    "Integer": msgspec.json.schema(Integer),
    "IntegerText": msgspec.json.schema(IntegerText),
    "PriceText": msgspec.json.schema(PriceText),
}
CODES: Final = (
    CommandKind, Side, Outcome, OrderType, TimeInForce, SelfTrade, LevelKind, Flag, ReportKind, ReportFlag, Reason,
)  # fmt: skip
PACKED_TABLES: Final = (
    ("header", HEADER_FIELDS, "once, at the beginning of a packed delivery"),
    (
        "COMMAND",
        COMMAND_FIELDS,
        "each of the header's count, or what completes it; any kind but TICK and MARKER, verdict 0",
    ),
    (
        "EXTENSION",
        EXTENSION_FIELDS,
        "right before the command that it completes, of the same event, which has the flag EXTENDED",
    ),
    ("BANDS", BANDS_FIELDS, "right before a CREATE_EVENT of the same event, more BANDS, or its EXTENSION"),
    ("MARKER", MARKER_FIELDS, "made inside, one before the commands of a delivery in rings and log"),
    ("REPORT", REPORT_FIELDS, "what packed reports hold"),
)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a JSON or MessagePack delivery, as a new dict."""
    made = named_once(msgspec.json.schema(Delivery))
    made["$defs"] |= NAMED
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Ringpit delivery: one EventMessage, or a list of them",
        "description": "Values of enumerations are also accepted in any other case.",
        **made,
    }


def named_once(node: Any) -> Any:
    """A copy of a schema in which the types of NAMED stand by reference; msgspec writes them out each time."""
    for name, meant in NAMED.items():
        if node == meant:
            return {"$ref": f"#/$defs/{name}"}
    if isinstance(node, dict):
        return {key: named_once(value) for key, value in node.items()}
    return [named_once(value) for value in node] if isinstance(node, list) else node


def layout(name: str, fields: tuple[tuple[str, str, str], ...], use: str) -> str:
    """One record's table as text: offset, type, field, meaning; bytes and little-endian throughout."""
    dtype = dtype_of(fields)
    offsets = [dtype.fields[field][1] for field, _, _ in fields]  # type: ignore[index]  # numpy types fields as optional
    rows = [
        f"{offset:>6}  {code:<4}  {field:<14}  {meaning}"
        for offset, (field, code, meaning) in zip(offsets, fields, strict=True)
    ]
    heading = f"{name}: {dtype.itemsize} bytes, {use}"
    return "\n".join([heading, "offset  type  field           meaning", *rows])


def codes() -> str:
    """Every number of every enumeration, one enumeration a line."""
    lines = [
        f"{kind.__name__}: " + ", ".join(f"{member.value} {member.name}" for member in kind) for kind in CODES
    ]
    return "\n".join([*lines, f"Side of a MASS_CANCEL that spares neither: {BOTH_SIDES}"])


def schema() -> str:
    """The whole contract as text: content types, JSON Schema, packed layout, codes."""
    names = ", ".join(content_type for content_type in DECODERS if content_type)
    tables = "\n\n".join(layout(*table) for table in PACKED_TABLES)
    return "\n\n".join(
        [
            f"Content types {names}:",
            json.dumps(json_schema(), indent=2),
            f"Content type {CONTENT_TYPE}, layout version {LAYOUT_VERSION}, little-endian (i: signed integer, S: bytes):",
            tables,
            f"Codes:\n{codes()}",
        ]
    )


def print_schema() -> None:
    """Print the contract, for `ringpit schema`."""
    print(schema())
