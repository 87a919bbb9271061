"""
Garbage: deliveries that cannot be read, of every kind that clients, networks and malice produce.

    garbage(10_000, seed=1)        Submissions without commands

Each is unreadable by the way it was made, not because a decoder said so: a whole delivery is cut short,
lengthened, or has one thing replaced by what can never stand there. What can be read but not done (a price off tick, an
unknown event) is no garbage: such orders are answered.
"""

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from ringpit.engine.codes import CommandKind, Flag
from ringpit.engine.limits import FRAME_COMMANDS_MAX
from ringpit.engine.records import COMMAND, LAYOUT_VERSION
from ringpit.shards.packed import HEADER_BYTES, encode
from ringpit.testing.submissions import JSON, MSGPACK, PACKED, Submission

T = TypeVar("T")
ORDER: Final = {"OrderID": 1, "Account": 2, "Side": "Buy", "PriceTicks": 50, "Quantity": 3}
GOOD: Final = {"Task": "Order", "ID": 1, "Order": ORDER}
MISSING: Final = object()
WRONG: Final[dict[str, tuple[Any, ...]]] = {  # what can never stand in a field of Order
    "OrderID": (
        None,
        1.5,
        True,
        [],
        {},
        "",
        "1.0",
        " 1",
        "0x1",
        1 << 63,
        -(1 << 63) - 1,
        10**40,
        str(1 << 63),
        MISSING,
    ),
    "Account": (None, 2.0, False, [1], "two", 1 << 64, "-0", "01", MISSING),
    "Side": ("Long", 1, True, [], {"Side": "Buy"}, ""),
    "PriceTicks": (0.5, "50.0", [50], True, 10**30),
    "Price": ([], {}, True, "1" * 5_000),
    "Quantity": (None, 3.5, "three", [], 1 << 70, True),
    "Type": ("Pegged", "Stop_Limit", 0, None),
    "TimeInForce": ("GTT", "Good", 1, []),
    "Action": ("Destroy", None, 7),
    "Outcome": ("MAYBE", "", 1, True, None),
    "PostOnly": (1, "true", None, []),
    "Hidden": (0, "no", None),
    "AllOrNone": ("all", {}, None),
    "SelfTrade": ("Both", 0, False),
    "ExpiresNs": (1.7e18, None, "2026-11-25", 1 << 63),
    "Display": (1.5, "some", [], True),
    "Group": (2.5, "group", 1 << 64),
    "Trigger": ([], {}, True, "1" * 41),
    "TriggerTicks": (0.5, "50.0", True, 10**30),
    "Trail": ([5], {}, False),
    "TrailTicks": (0.5, "", [1]),
    "Money": ([], {"Amount": 5}, True, "9" * 41),
    "Quantiy": (1,),
}
WRONG_SPECS: Final[tuple[dict[str, Any], ...]] = (
    {"Bands": {}}, {"Bands": [["0.10", "0.01"]]}, {"Bands": [{"Last": "0.10"}]}, {"Bands": [{"Last": 1, "Tick": 1, "X": 1}]},
    {"Unbounded": 1}, {"Levels": "Tree"}, {"ClosesNs": 1.5}, {"OrdersMax": "many"}, {"AccountOrdersMax": True},
)  # fmt: skip
WRONG_MESSAGES: Final[tuple[Any, ...]] = (
    None, True, 0, -1, 1e300, "Order", "", [], {}, [[]], [GOOD, None], [GOOD, []], [[GOOD]], {"Task": "Order"}, {"Task": "Order", "ID": 1},
    {"Task": "order", "ID": 1, "Order": ORDER}, {"Task": "Halt", "ID": 1}, {"ID": 1, "Order": ORDER}, {"Task": None, "ID": 1},
    {"Task": "Order", "ID": None, "Order": ORDER}, {"Task": "Order", "ID": 1 << 63, "Order": ORDER},
    {"Task": "Order", "ID": 1.0, "Order": ORDER}, {"Task": "Order", "ID": 1, "Order": [ORDER]},
    {"Task": "Order", "ID": 1, "Order": None}, {"Task": "Settlement"}, {"Task": "Settlement", "ID": 1, "Order": ORDER},
    {"Task": "CreateEvent", "ID": 1, "Spec": 5}, {"Task": "CreateEvent", "ID": 1, "Spec": {"Tik": "0.01"}},
    *({"Task": "CreateEvent", "ID": 1, "Spec": spec} for spec in WRONG_SPECS),
    {"Task": "MassCancel", "ID": 1.5}, {"Task": "MassCancel", "OrderID": 1}, {"Task": "MassCancel", "Side": "Both"},
    {"Task": "MassCancel", "Order": ORDER}, {"Task": "MassCancel", "Group": "all"},
    [{**GOOD, "Order": {**ORDER, "Group": 1}}] * (FRAME_COMMANDS_MAX // 2 + 1),
    {"Task": "CreateEvent", "ID": {}}, [GOOD] * (FRAME_COMMANDS_MAX + 1),
)  # fmt: skip
BAD_TYPES: Final = (
    "text/plain", "application/xml", "application/octet-stream", "application", "/", "application/jsonn", "a" * 255, "\u20ac/\u20ac",
)  # fmt: skip
HEADERS: Final[tuple[dict[str, Any] | None, ...]] = (
    None,
    {},
    {"x-death": [{"count": 3, "reason": "rejected"}], "x-delivery-count": 2},
    {"n": 1 << 40, "b": True, "none": None, "nested": {"deep": {"deeper": [1, "two", None]}}},
    {"": "", "\u20ac": "\u20ac" * 50, "long": "x" * 20_000},
)
DEPTHS: Final = (10, 1_000, 20_000)
JUNK: Final = b"\xc1"  # no JSON, and the one byte that MessagePack never uses


def garbage(count: int, *, seed: int) -> Iterator[Submission]:
    """`count` unreadable deliveries, of all kinds in turn; the same seed gives the same bytes."""
    random = np.random.Generator(np.random.PCG64(seed))
    kinds = list(KINDS.items())
    for number in range(count):
        name, make = kinds[number % len(kinds)]
        content_type, body = make(random)
        message_id = f"garbage-{name}-{seed}-{number}" if random.random() < 0.8 else ""
        headers = HEADERS[random.integers(0, len(HEADERS))]
        yield Submission(content_type, message_id, body, np.zeros(0, COMMAND), headers)


def encoders(random: np.random.Generator) -> tuple[str, Callable[[Any], bytes]]:
    """A content type for messages, and how its bodies are written."""
    if random.random() < 0.5:
        return MSGPACK, msgspec.msgpack.encode
    return ("", JSON, "application/json; charset=utf-8")[random.integers(0, 3)], lambda value: json.dumps(
        value
    ).encode()


def pick(random: np.random.Generator, choices: tuple[T, ...]) -> T:
    """One of the choices."""
    return choices[random.integers(0, len(choices))]


def good_packed(random: np.random.Generator) -> bytearray:
    """A packed delivery that could be read, of 1 to 20 orders."""
    commands = np.zeros(random.integers(1, 21), COMMAND)
    commands["kind"], commands["event"], commands["price"], commands["quantity"] = CommandKind.NEW, 1, 50, 1
    return bytearray(encode(commands))


def noise(random: np.random.Generator) -> tuple[str, bytes]:
    """Random bytes under any content type; a byte that none of them can begin with comes first."""
    content_type = pick(random, (JSON, MSGPACK, PACKED, ""))
    return content_type, JUNK + random.bytes(int(random.integers(0, 400)))


def empty(random: np.random.Generator) -> tuple[str, bytes]:
    """No body at all."""
    return pick(random, (JSON, MSGPACK, PACKED, "")), b""


def truncated(random: np.random.Generator) -> tuple[str, bytes]:
    """The beginning of a good delivery of messages."""
    content_type, encode_one = encoders(random)
    body = encode_one(pick(random, (GOOD, [GOOD, GOOD])))
    return content_type, body[: random.integers(1, len(body))]


def lengthened(random: np.random.Generator) -> tuple[str, bytes]:
    """A good delivery of messages with something behind it."""
    content_type, encode_one = encoders(random)
    return content_type, encode_one(GOOD) + pick(random, (JUNK, b"{}", encode_one(GOOD), b"\0"))


def wrong_field(random: np.random.Generator) -> tuple[str, bytes]:
    """One field of an order is what it can never be: another type, too large, missing, or misspelled."""
    name = pick(random, tuple(WRONG))
    value = pick(random, WRONG[name])
    order = {field: kept for field, kept in ORDER.items() if field != name}
    if value is not MISSING:
        order[name] = value
    message = {**GOOD, "Order": order}
    content_type, encode_one = encoders(random)
    try:
        return content_type, encode_one(pick(random, (message, [GOOD, message])))
    except OverflowError:  # MessagePack has no such integers
        return JSON, json.dumps(message).encode()


def wrong_message(random: np.random.Generator) -> tuple[str, bytes]:
    """A value of the encoding that is no message."""
    content_type, encode_one = encoders(random)
    message = pick(random, WRONG_MESSAGES)
    try:
        return content_type, encode_one(message)
    except OverflowError:  # MessagePack has no such integers
        return JSON, json.dumps(message).encode()


def deep(random: np.random.Generator) -> tuple[str, bytes]:
    """Nested without end."""
    depth = int(pick(random, DEPTHS))
    return pick(
        random,
        (
            (JSON, b"[" * depth + b"]" * depth),
            (JSON, b'{"Order":' * depth + b"1" + b"}" * depth),
            (MSGPACK, b"\x91" * depth + b"\x01"),
            (MSGPACK, b"\x81\xa1a" * depth + b"\x01"),
        ),
    )


def not_text(random: np.random.Generator) -> tuple[str, bytes]:
    """JSON that is no UTF-8, or no JSON at all though it looks like it."""
    body = pick(
        random,
        (
            b'{"Task": "Order\xff", "ID": 1}',
            json.dumps(GOOD).encode("utf-16"),
            b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
            json.dumps(GOOD).replace('"', "'").encode(),
            b'{"Task": "Settlement", "ID": NaN}',
            b'{"Task": "Settlement", "ID": 1e999}',
            b'{"Task": "Settlement", "ID": 1,}',
        ),
    )
    return JSON, body


def wrong_type(random: np.random.Generator) -> tuple[str, bytes]:
    """A good body under a content type that nobody knows, or that is another's."""
    if random.random() < 0.5:
        return pick(random, BAD_TYPES), json.dumps(GOOD).encode()
    packed = bytes(good_packed(random))
    return pick(
        random, ((MSGPACK, json.dumps(GOOD).encode()), (JSON, packed), (PACKED, json.dumps(GOOD).encode()))
    )


def wrong_header(random: np.random.Generator) -> tuple[str, bytes]:
    """A packed delivery whose header lies: magic, version, reserved bytes, count."""
    body = good_packed(random)
    count = (len(body) - HEADER_BYTES) // COMMAND.itemsize
    code, offset, value = pick(
        random,
        (
            ("<i", 0, 0x54_49_50_51),
            ("<h", 4, LAYOUT_VERSION + 1),
            ("<h", 4, -1),
            ("<h", 6, 1),
            ("<i", 8, 0),
            ("<i", 8, -1),
            ("<i", 8, count + 1),
            ("<i", 8, count - 1),
            ("<i", 8, FRAME_COMMANDS_MAX + 1),
            ("<i", 8, (1 << 31) - 1),
            ("<i", 12, 1 << 16),
        ),
    )
    struct.pack_into(code, body, offset, value)
    return PACKED, bytes(body)


def wrong_length(random: np.random.Generator) -> tuple[str, bytes]:
    """A packed delivery cut short or lengthened."""
    body = bytes(good_packed(random))
    return PACKED, body[: random.integers(0, len(body))] if random.random() < 0.5 else body + random.bytes(64)


def wrong_record(random: np.random.Generator) -> tuple[str, bytes]:
    """A packed delivery with one command that a client may not send."""
    body = good_packed(random)
    commands = np.frombuffer(body, COMMAND, offset=HEADER_BYTES)
    name, value = pick(
        random,
        (
            *(("kind", kind) for kind in (0, CommandKind.TICK, CommandKind.MARKER, 13, 127, -1)),
            *(
                (name, value)
                for name in ("side", "order_type", "time_in_force", "self_trade", "outcome")
                for value in (-128, -1, 6, 127)
            ),
            *(("flags", value) for value in (-128, -1, 2, 6, 127, Flag.EXTENDED)),
            *(("verdict", value) for value in (-1, 1)),
            *(("payout", value) for value in (-1, 1, (1 << 63) - 1)),
        ),
    )
    commands[name][random.integers(0, len(commands))] = value
    return PACKED, bytes(body)


def parted(random: np.random.Generator) -> tuple[str, bytes]:
    """A packed delivery in which something that completes a command stands where it completes none."""
    body = good_packed(random)
    commands = np.frombuffer(body, COMMAND, offset=HEADER_BYTES)
    place = random.integers(0, len(commands))
    commands[place] = np.zeros(1, COMMAND)[0]
    commands["kind"][place] = pick(random, (CommandKind.EXTENSION, CommandKind.BANDS))
    commands["event"][place] = 1
    if commands["kind"][place] == CommandKind.BANDS:
        commands["side"][place] = 1  # the count
    elif place + 1 < len(commands) and random.random() < 0.5:
        commands["flags"][place + 1], commands["event"][place + 1] = Flag.EXTENDED, 2  # of another event
    return PACKED, bytes(body)


KINDS: Final[dict[str, Callable[[np.random.Generator], tuple[str, bytes]]]] = {
    "noise": noise, "empty": empty, "truncated": truncated, "lengthened": lengthened, "wrong-field": wrong_field,
    "wrong-message": wrong_message, "deep": deep, "not-text": not_text, "wrong-type": wrong_type,
    "wrong-header": wrong_header, "wrong-length": wrong_length, "wrong-record": wrong_record,
    "parted": parted,
}  # fmt: skip
