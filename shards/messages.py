"""
The user's messages: JSON or MessagePack in, COMMAND records out.

    {"Task": "CreateEvent", "ID": 7}                                       one market, one book
    {"Task": "CreateEvent", "ID": 7, "Spec": {"Tick": "0.001", "Payout": "1"}}
    {"Task": "Order", "ID": 7, "Order": {"OrderID": 1, "Account": 42, "Side": "Buy", "Price": 0.57, "Quantity": 10}}
    {"Task": "MassCancel", "ID": 7, "Account": 42}                         without ID: in all events
    {"Task": "Settlement", "ID": 7}

A delivery is one message or a list of up to FRAME_COMMANDS_MAX. There are two kinds of wrong. What cannot
be read is *malformed*: `decode` raises, and the whole delivery is dead-lettered, because nobody can be
answered. What can be read but not done (a price off tick, a limit order without one) becomes a command
with a `verdict`: the engine rejects it, and the account is told.

Choices. Unknown fields are refused: `"Quantiy": 5` must not become an order of nothing. `Task` is written
exactly so, the values inside `Order` in any case (the canonical spelling is read fastest). Any 64-bit
number may be written as a decimal string, because JavaScript's JSON cannot carry a bigint; a float is
never an integer, since above 2**53 it might not be the one meant. `"Order": null` is allowed where there is no order.
A cancel says whose order it means; what else is in it is not looked at.

Why it is fast: msgspec decodes straight into structs with types that bound every value, and each name of an
enumeration carries its bits of a record's first word, so that a command is eight integers in one flat
list, packed in one call; what few orders say is looked at in one condition. Where it is slow: the structs (about half
a microsecond a message); whoever minds sends `shards.packed`. Strings for numbers cost a second pass over their delivery.

Invariants:

    E1  decode raises nothing but MalformedMessage, whatever the bytes; nor does to_commands
    E2  every integer that leaves decode fits 64 bits, so to_commands cannot overflow
    E3  commands keep the order of the messages, one for one; right before its command stands the EXTENSION that it
        needs, and before that the BANDS
"""

import re
import struct
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Annotated, Any, Final, Self

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType

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
from ringpit.engine.limits import FRAME_COMMANDS_MAX, INT64_MAX
from ringpit.engine.records import BANDS, BANDS_PER_RECORD, COMMAND, RECORD_BYTES
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
    """Whether the contract is bought or sold."""

    BUY = "Buy", "side", Side.BUY
    SELL = "Sell", "side", Side.SELL


class OutcomeName(Label):
    """Which contract the order is for; its side and prices are that contract's."""

    YES = "YES", "outcome", Outcome.YES
    NO = "NO", "outcome", Outcome.NO


class OrderTypeName(Label):
    """How the order meets the book."""

    LIMIT = "Limit", "order_type", OrderType.LIMIT
    MARKET = "Market", "order_type", OrderType.MARKET
    MONEY = "Money", "order_type", OrderType.MONEY
    STOP = "Stop", "order_type", OrderType.STOP
    STOP_LIMIT = "StopLimit", "order_type", OrderType.STOP_LIMIT
    TRAILING_STOP = "TrailingStop", "order_type", OrderType.TRAILING_STOP


class TimeInForceName(Label):
    """How long the order lives."""

    GTC = "GTC", "time_in_force", TimeInForce.GTC
    IOC = "IOC", "time_in_force", TimeInForce.IOC
    FOK = "FOK", "time_in_force", TimeInForce.FOK
    GTD = "GTD", "time_in_force", TimeInForce.GTD
    DAY = "DAY", "time_in_force", TimeInForce.DAY


class SelfTradeName(Label):
    """What happens where the order would trade with another of its own account."""

    NONE = "None", "self_trade", SelfTrade.NONE
    CANCEL_TAKER = "CancelTaker", "self_trade", SelfTrade.CANCEL_TAKER
    CANCEL_MAKER = "CancelMaker", "self_trade", SelfTrade.CANCEL_MAKER
    CANCEL_BOTH = "CancelBoth", "self_trade", SelfTrade.CANCEL_BOTH
    DECREMENT = "Decrement", "self_trade", SelfTrade.DECREMENT


class ActionName(Label):
    """What to do with the order."""

    NEW = "New", "kind", CommandKind.NEW
    CANCEL = "Cancel", "kind", CommandKind.CANCEL
    AMEND = "Amend", "kind", CommandKind.AMEND
    REDUCE = "Reduce", "kind", CommandKind.REDUCE
    REPLACE = "Replace", "kind", CommandKind.REPLACE


class LevelsName(Label):
    """How the event's price levels are kept."""

    AUTO = "Auto", "order_type", LevelKind.AUTO
    LADDER = "Ladder", "order_type", LevelKind.LADDER
    SKIP_LIST = "SkipList", "order_type", LevelKind.SKIP_LIST


LABELS: Final[dict[tuple[type[Label], str], Label]] = {
    (names, name.value.lower()): name
    for names in (SideName, OutcomeName, OrderTypeName, TimeInForceName, SelfTradeName, ActionName, LevelsName)
    for name in names
}
ORDER_NAMES: Final = {
    "order": "OrderID", "account": "Account", "side": "Side", "price": "Price", "price_ticks": "PriceTicks",
    "quantity": "Quantity", "order_type": "Type", "time_in_force": "TimeInForce", "action": "Action", "outcome": "Outcome",
    "expires_ns": "ExpiresNs", "post_only": "PostOnly", "hidden": "Hidden", "all_or_none": "AllOrNone",
    "self_trade": "SelfTrade", "display": "Display", "group": "Group", "trigger": "Trigger",
    "trigger_ticks": "TriggerTicks", "trail": "Trail", "trail_ticks": "TrailTicks", "money": "Money",
}  # fmt: skip
BAND_NAMES: Final = {"last": "Last", "tick": "Tick"}
SPEC_NAMES: Final = {
    "tick": "Tick", "payout": "Payout", "low": "Low", "high": "High", "unbounded": "Unbounded", "bands": "Bands",
    "levels": "Levels", "closes_ns": "ClosesNs", "orders_max": "OrdersMax", "account_orders_max": "AccountOrdersMax",
}  # fmt: skip
MESSAGE_NAMES: Final = {"event": "ID", "order": "Order", "spec": "Spec"}
MASS_CANCEL_NAMES: Final = {**MESSAGE_NAMES, "account": "Account", "side": "Side", "group": "Group"}


class PlainFields(
    msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True, rename=ORDER_NAMES
):  # fmt: skip
    """What most orders say: a struct of nine fields is read faster than one of twenty-two, and nothing rare need be looked for."""

    order: Annotated[Int64, Meta(description="order id, unique among the open orders of its event")]
    account: Annotated[Int64, Meta(description="owner of the order")]
    side: Annotated[SideName | None, Meta(description="New must have it")] = None
    price: Annotated[Price | None, Meta(description="decimal price, exactly on a tick")] = None
    price_ticks: Annotated[Int64 | None, Meta(description="the price in ticks, instead of Price")] = None
    quantity: Annotated[
        Int64,
        Meta(
            description="lots; Amend: new total including what is filled, 0 keeps it; Replace: new open lots; Reduce: "
            "lots to take off; Type Money without Money: ticks x lots"
        ),
    ] = 0
    order_type: OrderTypeName = OrderTypeName.LIMIT
    time_in_force: TimeInForceName = TimeInForceName.GTC
    action: ActionName = ActionName.NEW


class OrderFields(
    PlainFields, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True, rename=ORDER_NAMES
):  # fmt: skip
    """
    What is asked of an order. New needs a Side; what says how an order lives (Outcome, Type, TimeInForce and the
    fields behind them) is New's alone: an order keeps its own.
    """

    outcome: OutcomeName = OutcomeName.YES
    expires_ns: Annotated[Int64, Meta(description="end of a GTD order, ns since the epoch")] = 0
    post_only: Annotated[bool, Meta(description="rather refused than taking")] = False
    hidden: Annotated[bool, Meta(description="not shown in books, behind what is shown at its price")] = False
    all_or_none: Annotated[bool, Meta(description="whole, or not yet")] = False
    self_trade: Annotated[SelfTradeName | None, Meta(description="by default as configured")] = None
    display: Annotated[Int64 | None, Meta(description="lots shown at a time; 0: all")] = None
    group: Annotated[Int64 | None, Meta(description="for MassCancel; 0: none")] = None
    trigger: Annotated[Price | None, Meta(description="price at which a stop goes")] = None
    trigger_ticks: Annotated[Int64 | None, Meta(description="that in ticks, instead of Trigger")] = None
    trail: Annotated[Price | None, Meta(description="distance of a trailing stop's trigger")] = None
    trail_ticks: Annotated[Int64 | None, Meta(description="that in ticks, instead of Trail")] = None
    money: Annotated[Price | None, Meta(description="what Type Money spends at most, exactly in ticks")] = None


class BandFields(
    msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True, rename=BAND_NAMES
):  # fmt: skip
    """A part of the price range with a tick of its own; it begins where the one before ends."""

    last: Annotated[Price, Meta(description="highest price of the band")]
    tick: Annotated[Price, Meta(description="distance of two prices in it, counted from its beginning")]


class SpecFields(
    msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True, rename=SPEC_NAMES
):  # fmt: skip
    """An event's prices, in decimals of the currency, and its limits."""

    tick: Annotated[Price, Meta(description="distance of two prices; with Bands: the finest one")] = "0.01"
    payout: Annotated[
        Price | UnsetType | None,
        Meta(
            description="what one lot pays: lowest and highest price together; 0 or null: there is no NO; by default "
            "1, or 0 with Unbounded"
        ),
    ] = UNSET
    low: Annotated[
        Price | None, Meta(description="lowest price, by default what High leaves of the payout, or a tick")
    ] = None
    high: Annotated[
        Price | None, Meta(description="highest price, by default what Low leaves of the payout")
    ] = None
    unbounded: Annotated[bool, Meta(description="there is no highest price")] = False
    bands: Annotated[
        list[BandFields] | None, Meta(description="parts of the range with other ticks, from low to high")
    ] = None
    levels: LevelsName = LevelsName.AUTO
    closes_ns: Annotated[Int64, Meta(description="when DAY orders end, ns since the epoch; 0: never")] = 0
    orders_max: Annotated[
        Int64 | None, Meta(description="open orders of the event; 0: no limit of its own")
    ] = None
    account_orders_max: Annotated[Int64 | None, Meta(description="open orders of one account; 0: no limit")] = (
        None
    )


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
    """Place, cancel, amend, reduce or replace one order of an event."""

    event: Annotated[Int64, Meta(description="the event's id")]
    order: OrderFields
    spec: None = None


class PlainOrder(
    msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True,
    rename=MESSAGE_NAMES, tag_field="Task", tag="Order",
):  # fmt: skip
    """An Order that says nothing rare."""

    event: Annotated[Int64, Meta(description="the event's id")]
    order: PlainFields
    spec: None = None


class Settlement(
    msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True,
    rename=MESSAGE_NAMES, tag_field="Task", tag="Settlement",
):  # fmt: skip
    """Close an event and cancel what rests in it."""

    event: Annotated[Int64, Meta(description="the event's id")]
    order: None = None
    spec: None = None


class MassCancel(
    msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True,
    rename=MASS_CANCEL_NAMES, tag_field="Task", tag="MassCancel",
):  # fmt: skip
    """Cancel open orders of an event, or of all events: those that are meant by all of Account, Side and Group."""

    event: Annotated[Int64 | None, Meta(description="the event's id; null: all events")] = None
    account: Annotated[Int64 | None, Meta(description="owner of the orders; 0 or null: any")] = None
    side: Annotated[SideName | None, Meta(description="of the orders' own outcome; null: both")] = None
    group: Annotated[Int64 | None, Meta(description="group of the orders; 0 or null: any")] = None
    order: None = None
    spec: None = None


EventMessage = CreateEvent | Order | Settlement | MassCancel
Delivery = EventMessage | Annotated[list[EventMessage], Meta(min_length=1, max_length=FRAME_COMMANDS_MAX)]

PlainDelivery = PlainOrder | Annotated[list[PlainOrder], Meta(min_length=1, max_length=FRAME_COMMANDS_MAX)]

JSON_DECODER: Final = msgspec.json.Decoder(Delivery)
MSGPACK_DECODER: Final = msgspec.msgpack.Decoder(Delivery)
PLAIN_DECODERS: Final[dict[Any, Any]] = {
    JSON_DECODER: msgspec.json.Decoder(PlainDelivery),
    MSGPACK_DECODER: msgspec.msgpack.Decoder(PlainDelivery),
}
DECODERS: Final[dict[str | None, Any]] = {
    None: JSON_DECODER,
    "application/json": JSON_DECODER,
    "application/msgpack": MSGPACK_DECODER,
    "application/x-msgpack": MSGPACK_DECODER,
    "application/vnd.msgpack": MSGPACK_DECODER,
}
OFFSET: Final = re.compile(r" \(byte (\d+)\)$")

# Looking a member up on its class costs 50 to 100 ns; these are looked up for every order.
NEW, CANCEL, LIMIT, STOP_LIMIT = (
    ActionName.NEW,
    ActionName.CANCEL,
    OrderTypeName.LIMIT,
    OrderTypeName.STOP_LIMIT,
)
YES, NONE = OutcomeName.YES, Reason.NONE


def bit(flag: Flag) -> int:
    """A flag in the first word of a COMMAND."""
    return flag << shift_of("flags")


NO_PRICE_WORD, POST_ONLY_WORD, HIDDEN_WORD = bit(Flag.NO_PRICE), bit(Flag.POST_ONLY), bit(Flag.HIDDEN)
ALL_OR_NONE_WORD, EXTENDED_WORD, ALL_EVENTS_WORD = (
    bit(Flag.ALL_OR_NONE),
    bit(Flag.EXTENDED),
    bit(Flag.ALL_EVENTS),
)
VERDICT_SHIFT: Final = shift_of("verdict")
VERDICT_MASK: Final = 0xFF
SELF_TRADE_SHIFT: Final = shift_of("self_trade")
MASS_CANCEL_WORD: Final = CommandKind.MASS_CANCEL
BOTH_SIDES_WORD: Final = BOTH_SIDES << shift_of("side")
BANDS_COUNT_SHIFT: Final = 8 * BANDS.fields["count"][1]  # type: ignore[index]  # as numpy types it
STEP_SHIFT: Final = 32  # of a band's step in its word, above its last price
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


def decode_plain(content_type: str | None, body: bytes | memoryview) -> list[PlainOrder] | None:
    """
    The messages of a delivery of nothing but plain orders, or None for any other, which `decode` has to look at.

    A type's own decoder accepts the same and more, so what is given here is what `decode` would have given.
    """
    decoder = PLAIN_DECODERS.get(DECODERS.get(content_type))
    if decoder is None:
        return None
    try:
        delivery = decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return delivery if type(delivery) is list else [delivery]


def decoder_of(content_type: str | None) -> Any:
    """The decoder of a content type in any case and with parameters, or MalformedMessage."""
    decoder = DECODERS.get(str(content_type).partition(";")[0].strip().lower())
    if decoder is None:
        known = ", ".join(name for name in DECODERS if name)
        raise MalformedMessage(f"content type must be one of {known}, was {str(content_type)[:80]!r}")
    return decoder


def to_words(
    messages: Iterable[EventMessage | PlainOrder],
    spec_of_event: SpecOfEvent,
    self_trade: SelfTrade = SelfTrade.NONE,
) -> tuple[list[Any], dict[int, PriceSpec]]:
    """
    The words of the messages' COMMAND records, eight a record, in order (E3), for `pack_words`; and the price specs of events
    that they create and nobody knew.

    `spec_of_event` gives the price spec of an event, or None if it is not known; it is asked once per order
    with a decimal price. An event that an earlier message of the same delivery creates is known to the later ones.
    `self_trade` is the mode of new orders that name none.

    What the engine shall refuse carries its reason in `verdict` (see the module's text). Raises MalformedMessage if
    the messages make more records than a frame holds. Cost: about half a microsecond per message.
    """
    created: dict[int, PriceSpec] = {}
    words: list[Any] = []
    new_word = NEW.word + (self_trade << SELF_TRADE_SHIFT)
    for message in messages:
        kind = type(message)
        if kind is PlainOrder or kind is Order:
            event: Any = message.event
            if type(event) is str:
                event = int(event)
            order: Any = message.order
            made = plain_words(event, order, new_word, created, spec_of_event)
            if kind is Order and says_more(order):
                made = rare_words(event, order, made, spec_of_event(event) or created.get(event))
            words += made
        elif kind is CreateEvent:
            words += create_words(int(message.event), message.spec, created, spec_of_event)  # type: ignore[arg-type]  # as above
        elif kind is MassCancel:
            words += mass_cancel_words(message)  # type: ignore[arg-type]  # as above
        else:
            words += (CommandKind.SETTLE, message.event, 0, 0, 0, 0, 0, 0)
    if len(words) > WORDS * FRAME_COMMANDS_MAX:
        raise MalformedMessage(
            f"a delivery must make at most {FRAME_COMMANDS_MAX} records, made {len(words) // WORDS}: what an order or "
            "event says beyond the usual takes a record of its own; send fewer messages at once"
        )
    return words, created


def pack_words(words: list[Any]) -> bytes:
    """The bytes of words that `to_words` gave, of one delivery or of several in a row."""
    layout = f"<{len(words)}q"
    try:
        return struct.pack(layout, *words)
    except (
        struct.error
    ):  # ids that came as strings; looking at each one costs everybody else more than this second try
        return struct.pack(layout, *map(int, words))


def to_commands(
    messages: Iterable[EventMessage], spec_of_event: SpecOfEvent, self_trade: SelfTrade = SelfTrade.NONE
) -> np.ndarray:
    """COMMAND records of the messages, in order; a new writable array. Arguments and what it raises: as `to_words`."""
    words, _ = to_words(messages, spec_of_event, self_trade)
    return np.frombuffer(bytearray(pack_words(words)), COMMAND)


def plain_words(
    event: int, order: PlainFields, new_word: int, created: dict[int, PriceSpec], spec_of_event: SpecOfEvent
) -> tuple[Any, ...]:
    """The eight words of a command about one order, as far as its plain fields say."""
    action = order.action
    if action is NEW:
        word = new_word
    elif action is CANCEL:
        return action.word, event, order.order, order.account, 0, 0, 0, 0
    else:
        word = action.word
    word += order.order_type.word + order.time_in_force.word
    reason = NONE
    ticks: Any = 0
    price = order.price
    if price is None:
        ticks = order.price_ticks
        if ticks is None:
            ticks = 0
            word += NO_PRICE_WORD
            if action is NEW and (order.order_type is LIMIT or order.order_type is STOP_LIMIT):
                reason = Reason.MALFORMED
    elif order.price_ticks is not None:
        reason = Reason.MALFORMED  # two prices: which one is meant?
    else:
        spec = spec_of_event(event) or created.get(event)
        if spec is None:
            reason = Reason.UNKNOWN_EVENT
        else:  # what is remembered is asked here: a call for each order costs a tenth of everything
            ticks, reason = spec.remembered.get(price) or spec.to_ticks(price)
    side = order.side
    if side is not None:
        word += side.word
    elif action is NEW:
        reason = reason or Reason.MALFORMED
    if reason:
        word += reason << VERDICT_SHIFT
    return word, event, order.order, order.account, ticks, order.quantity, 0, 0


def says_more(order: OrderFields) -> bool:
    """True if an order says anything that few do, and its cancel does not end the matter."""
    return order.action is not CANCEL and not (
        order.outcome is YES and order.self_trade is None and order.expires_ns == 0 and order.post_only is False
        and order.hidden is False and order.all_or_none is False and order.display is None and order.group is None
        and order.trigger is None and order.trigger_ticks is None and order.trail is None and order.trail_ticks is None
        and order.money is None
    )  # fmt: skip


def rare_words(
    event: int, order: OrderFields, plain: tuple[Any, ...], spec: PriceSpec | None
) -> tuple[Any, ...]:
    """The words of an order that says more than most, from those that say the plain part of it."""
    word, ticks = plain[0], plain[4]
    reason = Reason(word >> VERDICT_SHIFT & VERDICT_MASK)
    word -= reason << VERDICT_SHIFT
    word += (
        order.outcome.word
        + POST_ONLY_WORD * order.post_only
        + HIDDEN_WORD * order.hidden
        + ALL_OR_NONE_WORD * order.all_or_none
    )
    is_new = order.action is NEW
    if is_new and order.self_trade is not None:
        word &= ~(SELF_TRADE_MASK << SELF_TRADE_SHIFT)  # the configured mode
        word |= order.self_trade.word
    quantity: Any = order.quantity
    if order.money is not None:
        quantity, found = 0, Reason.MALFORMED  # two quantities, or one of something else
        if is_new and order.order_type is OrderTypeName.MONEY and order.quantity == 0:
            quantity, found = (0, Reason.UNKNOWN_EVENT) if spec is None else spec.to_money(order.money)
        reason = reason or found
    trigger, found = distance(order.trigger, order.trigger_ticks, spec)
    reason = reason or found
    trail, found = distance(order.trail, order.trail_ticks, spec)
    reason = reason or found
    extension: tuple[Any, ...] = ()
    if not (trigger is trail is order.display is order.group is None):
        word += EXTENDED_WORD
        extension = (
            CommandKind.EXTENSION, event, trigger or 0, trail or 0, order.display or 0, order.group or 0, 0, 0,
        )  # fmt: skip
    if reason:
        word += reason << VERDICT_SHIFT
    expires_ns = order.expires_ns if is_new else 0
    return *extension, word, event, order.order, order.account, ticks, quantity, 0, expires_ns


def distance(price: Any, ticks: Any, spec: PriceSpec | None) -> tuple[Any, Reason]:
    """Ticks of a price that may be written in two ways, None if it is in neither, and what is wrong with it."""
    if price is None:
        return ticks, NONE
    if ticks is not None:
        return 0, Reason.MALFORMED
    return (0, Reason.UNKNOWN_EVENT) if spec is None else spec.to_ticks(price)


def create_words(
    event: int, fields: SpecFields | None, created: dict[int, PriceSpec], spec_of_event: SpecOfEvent
) -> tuple[Any, ...]:
    """
    The eight words of a CREATE_EVENT, behind those of its BANDS and EXTENSION if it has any; a spec that no event
    can have makes a verdict and says nothing else.
    """
    fields = fields or SpecFields()
    limits = (fields.orders_max, fields.account_orders_max)
    try:
        spec = spec_of_fields(fields)
    except PriceSpecError as error:
        return CommandKind.CREATE_EVENT + (error.reason << VERDICT_SHIFT), event, 0, 0, 0, 0, 0, 0
    if spec_of_event(event) is None:
        created.setdefault(event, spec)  # the first one that the engine takes is the one that holds
    before: list[Any] = []
    for first in range(0, len(spec.bands), BANDS_PER_RECORD):
        rows = spec.bands[first : first + BANDS_PER_RECORD]
        before += (CommandKind.BANDS + (len(rows) << BANDS_COUNT_SHIFT), event)
        before += [last + (step << STEP_SHIFT) for last, step in rows] + [0] * (BANDS_PER_RECORD - len(rows))
    word = CommandKind.CREATE_EVENT + fields.levels.word
    if limits != (None, None):
        before += (CommandKind.EXTENSION, event, 0, 0, 0, 0, limits[0] or 0, limits[1] or 0)
        word += EXTENDED_WORD
    return (
        *before, word, event, spec.tick_units, spec.decimals, spec.low_ticks, spec.high_ticks, spec.payout_ticks,
        fields.closes_ns,
    )  # fmt: skip


def spec_of_fields(fields: SpecFields) -> PriceSpec:
    """The spec that a CreateEvent asks for, or PriceSpecError where the engine would refuse the event."""
    if any(int(number or 0) < 0 for number in (fields.closes_ns, fields.orders_max, fields.account_orders_max)):
        raise PriceSpecError("closing time and limits must be at least 0", Reason.UNSUPPORTED)
    payout = fields.payout
    if isinstance(payout, UnsetType):
        payout = None if fields.unbounded else "1"
    return spec_of(
        fields.tick, payout, fields.low, fields.high, unbounded=fields.unbounded,
        bands=[(band.last, band.tick) for band in fields.bands or ()], levels=LEVEL_KINDS[fields.levels],
    )  # fmt: skip


LEVEL_KINDS: Final = {name: LevelKind[name.name] for name in LevelsName}
SELF_TRADE_MASK: Final = 0xFF


def mass_cancel_words(message: MassCancel) -> tuple[Any, ...]:
    """The eight words of a MASS_CANCEL; one without an event goes to every shard."""
    word = MASS_CANCEL_WORD + (BOTH_SIDES_WORD if message.side is None else message.side.word)
    if message.event is None:
        word += ALL_EVENTS_WORD
    return word, message.event or 0, message.group or 0, message.account or 0, 0, 0, 0, 0
