"""
The user's messages: JSON or MessagePack in, COMMAND records out.

    {"Task": "CreateEvent", "ID": 7}                                       one market, one book
    {"Task": "CreateEvent", "ID": 7, "Spec": {"Tick": "0.001", "Payout": "1"}}
    {"Task": "Order", "ID": 7, "Order": {"OrderID": 1, "Account": 42, "Side": "Buy", "Price": 0.57, "Quantity": 10}}
    {"Task": "Settlement", "ID": 7}

A delivery is one message or a list of up to FRAME_COMMANDS_MAX. There are two kinds of wrong. What cannot
be read is *malformed*: `decode` raises, and the whole delivery is dead-lettered, because nobody can be
answered. What can be read but not done (a price off tick, a limit order without one) becomes a command
with a `verdict`: the engine rejects it, and the account is told.

Choices. Unknown fields are refused: `"Quantiy": 5` must not become an order of nothing. `Task` is written
exactly so, the values inside `Order` in any case (the canonical spelling is read fastest). Any 64-bit
number may be written as a decimal string, because JavaScript's JSON cannot carry a bigint; a float is
never an integer, since above 2**53 it might not be the one meant. `"Order": null` is allowed where there is no order.

Why it is fast: msgspec decodes straight into structs with types that bound every value, and each name of an
enumeration carries its bits of a record's first word, so that a command is eight integers in one flat
list, packed in one call. Where it is slow: the structs (about half a microsecond a message); whoever
minds sends `shards.packed`. Strings for numbers cost a second pass over their delivery.

Invariants:

    E1  decode raises nothing but MalformedMessage, whatever the bytes
    E2  every integer that leaves decode fits 64 bits, so to_commands cannot overflow
    E3  commands keep the order of the messages, one for one
"""

import re
import struct
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Annotated, Any, Final, Self

import msgspec
import numpy as np
from msgspec import Meta

from ringpit.engine.codes import CommandKind, Flag, OrderType, Reason, Side, TimeInForce
from ringpit.engine.limits import FRAME_COMMANDS_MAX, INT64_MAX
from ringpit.engine.records import COMMAND, RECORD_BYTES
from ringpit.shards.prices import PRICE_LENGTH_MAX, PriceSpec, PriceSpecError, spec_of


class MalformedMessage(ValueError):
    """A delivery that cannot be read. `offset` is the byte where it goes wrong, if that is known."""

    def __init__(self, reason_text: str, offset: int | None = None) -> None:
        """Keep the sentence, which goes into the dead letter's header, and the offset."""
        super().__init__(reason_text if offset is None else f"{reason_text} (byte {offset})")
        self.reason_text = reason_text
        self.offset = offset


def digits_up_to(limit: int) -> str:
    """A regular expression of the decimals from 1 to `limit`, without leading zeros."""
    text = str(limit)
    shorter = [rf"[1-9][0-9]{{0,{len(text) - 2}}}"]
    same_length = [
        f"{text[:place]}[{int(place == 0)}-{int(digit) - 1}][0-9]{{{len(text) - place - 1}}}"
        for place, digit in enumerate(text)
        if int(digit) > int(place == 0)
    ]
    return "|".join([*shorter, *same_length, text])


INT64_PATTERN: Final = rf"^(0|-?({digits_up_to(INT64_MAX)})|{-INT64_MAX - 1})$(?!\n)"
Integer = Annotated[int, Meta(ge=-INT64_MAX - 1, le=INT64_MAX)]
IntegerText = Annotated[str, Meta(pattern=INT64_PATTERN, description="a 64-bit integer as a decimal string")]
Int64 = Integer | IntegerText
PriceText = Annotated[str, Meta(max_length=PRICE_LENGTH_MAX, description="a decimal number as a string")]
Price = Integer | float | PriceText


def shift_of(field: str) -> int:
    """Bits by which a one-byte field is shifted in the first word of a COMMAND."""
    return 8 * COMMAND.fields[field][1]  # type: ignore[index, no-any-return]  # as numpy types it


class Label(Enum):
    """A name on the wire and `word`: its code, shifted to its byte of a COMMAND's first eight."""

    word: int

    def __new__(cls, label: str, field: str, code: int) -> Self:
        """Make the member; the shift comes from the record's layout."""
        member = object.__new__(cls)
        member._value_ = label
        member.word = code << shift_of(field)
        return member

    @classmethod
    def _missing_(cls, value: object) -> "Label | None":
        """The member whose name differs in case only."""
        return LABELS.get((cls, str(value).lower()))


class SideName(Label):
    """Which side of the YES book."""

    BUY = "Buy", "side", Side.BUY
    SELL = "Sell", "side", Side.SELL


class OrderTypeName(Label):
    """How the order meets the book."""

    LIMIT = "Limit", "order_type", OrderType.LIMIT
    MARKET = "Market", "order_type", OrderType.MARKET


class TimeInForceName(Label):
    """How long the order lives."""

    GTC = "GTC", "time_in_force", TimeInForce.GTC
    IOC = "IOC", "time_in_force", TimeInForce.IOC
    FOK = "FOK", "time_in_force", TimeInForce.FOK


class ActionName(Label):
    """What to do with the order."""

    NEW = "New", "kind", CommandKind.NEW
    CANCEL = "Cancel", "kind", CommandKind.CANCEL
    AMEND = "Amend", "kind", CommandKind.AMEND


LABELS: Final[dict[tuple[type[Label], str], Label]] = {
    (names, name.value.lower()): name
    for names in (SideName, OrderTypeName, TimeInForceName, ActionName)
    for name in names
}
ORDER_NAMES: Final = {
    "order": "OrderID", "account": "Account", "side": "Side", "price": "Price", "price_ticks": "PriceTicks",
    "quantity": "Quantity", "order_type": "Type", "time_in_force": "TimeInForce", "action": "Action",
}  # fmt: skip
SPEC_NAMES: Final = {"tick": "Tick", "payout": "Payout", "low": "Low", "high": "High"}
MESSAGE_NAMES: Final = {"event": "ID", "order": "Order", "spec": "Spec"}


class OrderFields(
    msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True, rename=ORDER_NAMES
):  # fmt: skip
    """What is asked of an order. Side and Quantity are for New; Amend's Quantity is the new total, 0 keeps it."""

    order: Annotated[Int64, Meta(description="order id, unique among the open orders of its event")]
    account: Annotated[Int64, Meta(description="owner of the order")]
    side: Annotated[SideName | None, Meta(description="New must have it")] = None
    price: Annotated[Price | None, Meta(description="decimal price, exactly on a tick")] = None
    price_ticks: Annotated[Int64 | None, Meta(description="the price in ticks, instead of Price")] = None
    quantity: Annotated[
        Int64, Meta(description="lots; Amend: new total including what is filled, 0 keeps it")
    ] = 0
    order_type: OrderTypeName = OrderTypeName.LIMIT
    time_in_force: TimeInForceName = TimeInForceName.GTC
    action: ActionName = ActionName.NEW


class SpecFields(
    msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True, rename=SPEC_NAMES
):  # fmt: skip
    """An event's prices, in decimals of the currency."""

    tick: Annotated[Price, Meta(description="distance of two prices")] = "0.01"
    payout: Annotated[Price, Meta(description="what one lot pays at most")] = "1"
    low: Annotated[Price | None, Meta(description="lowest price, by default one tick")] = None
    high: Annotated[Price | None, Meta(description="highest price, by default a tick below the payout")] = None


class CreateEvent(
    msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True,
    rename=MESSAGE_NAMES, tag_field="Task", tag="CreateEvent",
):  # fmt: skip
    """Open a market with an empty book. Again with the same content is harmless."""

    event: Annotated[Int64, Meta(description="the event's id")]
    spec: SpecFields | None = None
    order: None = None


class Order(
    msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True,
    rename=MESSAGE_NAMES, tag_field="Task", tag="Order",
):  # fmt: skip
    """Place, cancel or amend one order of an event."""

    event: Annotated[Int64, Meta(description="the event's id")]
    order: OrderFields
    spec: None = None


class Settlement(
    msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True,
    rename=MESSAGE_NAMES, tag_field="Task", tag="Settlement",
):  # fmt: skip
    """Close an event and cancel what rests in it."""

    event: Annotated[Int64, Meta(description="the event's id")]
    order: None = None
    spec: None = None


EventMessage = CreateEvent | Order | Settlement
Delivery = EventMessage | Annotated[list[EventMessage], Meta(min_length=1, max_length=FRAME_COMMANDS_MAX)]

JSON_DECODER: Final = msgspec.json.Decoder(Delivery)
MSGPACK_DECODER: Final = msgspec.msgpack.Decoder(Delivery)
DECODERS: Final[dict[str | None, Any]] = {
    None: JSON_DECODER,
    "application/json": JSON_DECODER,
    "application/msgpack": MSGPACK_DECODER,
    "application/x-msgpack": MSGPACK_DECODER,
    "application/vnd.msgpack": MSGPACK_DECODER,
}
OFFSET: Final = re.compile(r" \(byte (\d+)\)$")

# Looking a member up on its class costs 50 to 100 ns; these are looked up for every order.
NEW, CANCEL, LIMIT, NONE = ActionName.NEW, ActionName.CANCEL, OrderTypeName.LIMIT, Reason.NONE

NO_PRICE_WORD: Final = Flag.NO_PRICE << shift_of("flags")
VERDICT_SHIFT: Final = shift_of("verdict")
WORDS: Final = (
    RECORD_BYTES // 8
)  # a command is as many signed 64-bit integers, the first of them eight small fields

SpecOfEvent = Callable[[int], PriceSpec | None]


def decode(content_type: str | None, body: bytes | memoryview) -> list[EventMessage]:
    """
    The messages of one delivery, in order. No content type means JSON; parameters such as a charset are ignored.

    Raises MalformedMessage, and nothing else, for whatever cannot be read.
    Cost: about half a microsecond per message, and a microsecond per delivery.
    """
    decoder = DECODERS.get(content_type)
    if decoder is None:
        decoder = decoder_of(content_type)
    try:
        delivery = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise MalformedMessage(str(error)) from error
    except msgspec.DecodeError as error:
        place = OFFSET.search(str(error))
        raise MalformedMessage(OFFSET.sub("", str(error)), int(place[1]) if place else None) from error
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"text must be UTF-8, was not: {error.reason}") from error
    except RecursionError as error:
        raise MalformedMessage("nested too deeply") from error
    return delivery if type(delivery) is list else [delivery]


def decoder_of(content_type: str | None) -> Any:
    """The decoder of a content type in any case and with parameters, or MalformedMessage."""
    decoder = DECODERS.get(str(content_type).partition(";")[0].strip().lower())
    if decoder is None:
        known = ", ".join(name for name in DECODERS if name)
        raise MalformedMessage(f"content type must be one of {known}, was {str(content_type)[:80]!r}")
    return decoder


def to_commands(messages: Iterable[EventMessage], spec_of_event: SpecOfEvent) -> np.ndarray:
    """
    COMMAND records of the messages, in order, one for one; a new writable array.

    `spec_of_event` gives the price spec of an event, or None if it is not known; it is asked once per order
    with a decimal price. An event that an earlier message of the same delivery creates is known to the later ones.

    What the engine shall refuse carries its reason in `verdict` (see the module's text).
    Cost: about half a microsecond per message.
    """
    created: dict[int, PriceSpec] = {}
    words: list[Any] = []
    for message in messages:
        event = int(message.event)
        if type(message) is Order:
            words += order_words(event, message.order, created, spec_of_event)
        elif type(message) is CreateEvent:
            words += create_words(event, message.spec, created, spec_of_event)
        else:
            words += (CommandKind.SETTLE, event, 0, 0, 0, 0, 0, 0)
    records = bytearray(8 * len(words))
    layout = f"<{len(words)}q"
    try:
        struct.pack_into(layout, records, 0, *words)
    except (
        struct.error
    ):  # ids that came as strings; looking at each one costs everybody else more than this second try
        struct.pack_into(layout, records, 0, *map(int, words))
    return np.frombuffer(records, COMMAND)


def order_words(
    event: int, order: OrderFields, created: dict[int, PriceSpec], spec_of_event: SpecOfEvent
) -> tuple[Any, ...]:
    """The eight words of a NEW, CANCEL or AMEND."""
    action = order.action
    word = action.word + order.order_type.word + order.time_in_force.word
    if action is CANCEL:
        return word, event, order.order, order.account, 0, 0, 0, 0
    reason = NONE
    ticks: Any = 0
    if order.price is None:
        ticks = order.price_ticks
        if ticks is None:
            ticks = 0
            word += NO_PRICE_WORD
            if action is NEW and order.order_type is LIMIT:
                reason = Reason.MALFORMED
    elif order.price_ticks is not None:
        reason = Reason.MALFORMED  # two prices: which one is meant?
    else:
        spec = spec_of_event(event) or created.get(event)
        if spec is None:
            reason = Reason.UNKNOWN_EVENT
        else:
            ticks, reason = spec.to_ticks(order.price)
    if order.side is not None:
        word += order.side.word
    elif action is NEW:
        reason = reason or Reason.MALFORMED
    if reason:
        word += reason << VERDICT_SHIFT
    return word, event, order.order, order.account, ticks, order.quantity, 0, 0


def create_words(
    event: int, fields: SpecFields | None, created: dict[int, PriceSpec], spec_of_event: SpecOfEvent
) -> tuple[Any, ...]:
    """The eight words of a CREATE_EVENT; a spec that no event can have makes a verdict and says nothing else."""
    try:
        spec = DEFAULT_SPEC if fields is None else spec_of(fields.tick, fields.payout, fields.low, fields.high)
    except PriceSpecError as error:
        return CommandKind.CREATE_EVENT + (error.reason << VERDICT_SHIFT), event, 0, 0, 0, 0, 0, 0
    if spec.fits_ladder and spec_of_event(event) is None:
        created.setdefault(event, spec)  # the first one that the engine takes is the one that holds
    return (
        CommandKind.CREATE_EVENT, event, spec.tick_units, spec.decimals, spec.low_ticks, spec.high_ticks,
        spec.payout_ticks, 0,
    )  # fmt: skip


DEFAULT_SPEC: Final = spec_of()
