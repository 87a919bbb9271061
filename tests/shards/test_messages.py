"""Messages become commands one for one; what cannot be read is malformed and nothing else."""

import copy
import json
import random
from typing import Any

import msgspec
import numpy as np
import pytest

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
from ringpit.engine.limits import FRAME_COMMANDS_MAX, INT64_MAX, PRICE_TICKS_MAX
from ringpit.engine.records import BANDS, COMMAND, EXTENSION, LAYOUT_VERSION
from ringpit.shards import messages, packed
from ringpit.shards.messages import (
    CreateEvent,
    MalformedMessage,
    MassCancel,
    Order,
    OrderFields,
    Settlement,
    decode,
    to_commands,
)
from ringpit.shards.prices import spec_of

ORDER = {"OrderID": 1, "Account": 42, "Side": "Buy", "Price": 0.57, "Quantity": 10}
JSON, MSGPACK = "application/json", "application/msgpack"
ENCODERS = {JSON: msgspec.json.encode, MSGPACK: msgspec.msgpack.encode}
GARBAGE_SEED, GARBAGE_DELIVERIES = 20_261_122, 10_000


def known(_event: int) -> Any:
    """Every event is there, in cents."""
    return spec_of()


def unknown(_event: int) -> None:
    """No event is there."""


def order(**changes: Any) -> dict[str, Any]:
    """An Order message with fields changed; None takes a field away."""
    fields = {**ORDER, **changes}
    return {
        "Task": "Order",
        "ID": 7,
        "Order": {name: value for name, value in fields.items() if value is not None},
    }


def command_of(message: dict[str, Any], spec_of_event: Any = known) -> dict[str, int]:
    """The one command of a message that travels as JSON, by field name."""
    (command,) = to_commands(decode(JSON, json.dumps(message).encode()), spec_of_event)
    return dict(zip(COMMAND.names, command.item(), strict=True))


def malformed(body: bytes, content_type: str | None = JSON) -> str:
    """The reason for which a delivery cannot be read."""
    with pytest.raises(MalformedMessage) as caught:
        decode(content_type, body)
    return caught.value.reason_text


@pytest.mark.parametrize("content_type", ENCODERS)
def test_the_four_tasks(content_type):
    """Every task is read exactly as the user writes it, in both encodings."""
    encode = ENCODERS[content_type]
    assert [MassCancel()] == decode(content_type, encode({"Task": "MassCancel"}))
    assert [CreateEvent(event=7)] == decode(content_type, encode({"Task": "CreateEvent", "ID": 7}))
    assert [Settlement(event=7)] == decode(content_type, encode({"Task": "Settlement", "ID": 7}))
    fields = OrderFields(order=1, account=42, side=messages.SideName.BUY, price=0.57, quantity=10)
    assert [Order(event=7, order=fields)] == decode(content_type, encode(order()))


@pytest.mark.parametrize("content_type", ENCODERS)
def test_structs_write_what_decode_reads(content_type):
    """A publisher in Python may encode the structs themselves."""
    fields = OrderFields(order=1, account=42, side=messages.SideName.SELL, price="0.57", quantity=10)
    sent = [CreateEvent(event=7), Order(event=7, order=fields), Settlement(event=7), MassCancel(group=5)]
    assert sent == decode(content_type, ENCODERS[content_type](sent))


@pytest.mark.parametrize("task", ["CreateEvent", "Settlement"])
def test_no_order_may_be_written_as_null(task):
    """A sender whose type always has an Order may send null where there is none; an order there is malformed."""
    assert 7 == decode(JSON, json.dumps({"Task": task, "ID": 7, "Order": None}).encode())[0].event
    assert "Expected `null`, got `object` - at `$.Order`" == malformed(
        json.dumps({"Task": task, "ID": 7, "Order": ORDER}).encode()
    )


def test_optional_fields_take_values():
    """No optional field is taken for a null by its name (a field named like its type would be)."""
    spec = {"Tick": "0.001", "Payout": 1, "Low": 0.01, "High": "0.99"}
    message = decode(JSON, json.dumps({"Task": "CreateEvent", "ID": 7, "Spec": spec}).encode())[0]
    assert messages.SpecFields(tick="0.001", payout=1, low=0.01, high="0.99") == message.spec
    full = order(Price=None, PriceTicks=57, Type="Market", TimeInForce="FOK", Action="Amend")
    fields = decode(JSON, json.dumps(full).encode())[0].order
    assert (57, "Market", "FOK", "Amend", "Buy") == (
        fields.price_ticks, fields.order_type.value, fields.time_in_force.value, fields.action.value, fields.side.value,
    )  # fmt: skip


@pytest.mark.parametrize("content_type", [None, JSON, "application/json; charset=utf-8", "Application/JSON"])
def test_json_is_the_default(content_type):
    """No content type means JSON; case and parameters do not matter."""
    assert 1 == len(decode(content_type, b'{"Task": "Settlement", "ID": 7}'))


@pytest.mark.parametrize(
    "content_type", [MSGPACK, "application/x-msgpack", "application/vnd.msgpack", "application/x-msgpack;v=5"]
)
def test_msgpack_has_three_names(content_type):
    """MessagePack is known by the three names that are in use."""
    assert 1 == len(decode(content_type, msgspec.msgpack.encode({"Task": "Settlement", "ID": 7})))


@pytest.mark.parametrize(
    "content_type", ["text/plain", "", "application/x-ringpit", "application/jsonp", "x" * 9_999]
)
def test_other_content_types_are_malformed(content_type):
    """An unknown content type is refused with the names of the known ones, in a bounded sentence."""
    reason = malformed(b"{}", content_type)
    assert reason.startswith("content type must be one of application/json, application/msgpack, ")
    assert len(reason) < 250


def test_ids_of_64_bits_in_both_forms():
    """Every 64-bit integer is an id, as a number or as a decimal string; the extremes come out whole."""
    for value in (0, 1, -1, 10**18, INT64_MAX, -INT64_MAX - 1, 9_007_199_254_740_993):
        for written in (value, str(value)):
            message = order(OrderID=written, Account=written, Quantity=written)
            message["ID"] = written
            command = command_of(message)
            assert (value,) * 4 == (command["event"], command["order"], command["account"], command["quantity"])


@pytest.mark.parametrize(
    "written",
    [
        "10000000000000000000000", "9223372036854775808", "-9223372036854775809", "7.0", "7e0", "9007199254740993.0",
        '"9223372036854775808"', '"-9223372036854775809"', '"10000000000000000000000"', '""', '"-"', '" 7"', '"7 "',
        '"7\\n"', '"+7"', '"07"', '"-0"', '"7.0"', '"0x7"', '"1_0"', '"\\u0667"', "true", "null", "[]", "{}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("field", ["ID", "OrderID", "Account", "Quantity"])
def test_other_integers_are_malformed(field, written):
    """What is not exactly a 64-bit integer is refused everywhere: 10**22, floats, other notations."""
    body = json.dumps(order(**({} if field == "ID" else {field: "MARK"}))).replace('"MARK"', written)
    if field == "ID":
        body = body.replace('"ID": 7', f'"ID": {written}')
    assert f"${'' if field == 'ID' else '.Order'}.{field}" in malformed(body.encode())


@pytest.mark.parametrize("limit", [1, 9, 10, 19, 20, 101, 123, 909, 1000])
def test_pattern_of_numbers_up_to_a_limit(limit):
    """The pattern takes exactly the numbers from 1 to its limit (exhaustively, where that can be counted)."""
    pattern = messages.re.compile(messages.digits_up_to(limit))
    taken = [number for number in range(3 * limit) if pattern.fullmatch(str(number))]
    assert list(range(1, limit + 1)) == taken


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "Input data was truncated"),
        (b"[]", "Expected `array` of length >= 1"),
        (b"{}", "Object missing required field `Task`"),
        (b'{"ID": 7}', "Object missing required field `Task`"),
        (b'{"Task": "order", "ID": 7}', "Invalid value 'order' - at `$.Task`"),
        (b'{"Task": "Order", "ID": 7}', "Object missing required field `Order`"),
        (b'{"Task": "Settlement"}', "Object missing required field `ID`"),
        (json.dumps(order(Quantiy=5)).encode(), "Object contains unknown field `Quantiy` - at `$.Order`"),
        (json.dumps(order(Side="Bid")).encode(), "Invalid enum value 'Bid' - at `$.Order.Side`"),
        (json.dumps([order(), order(Account=None)]).encode(), "missing required field `Account` - at `$[1].Order`"),
        (json.dumps(order(Price=[1])).encode(), "got `array` - at `$.Order.Price`"),
        (json.dumps(order()).replace("0.57", "1e400").encode(), "Number out of range - at `$.Order.Price`"),
        (json.dumps(order(Price=10**22)).encode(), "Expected `int` <= 9223372036854775807 - at `$.Order.Price`"),
        (json.dumps(order(Price="1" * 41)).encode(), "Expected `str` of length <= 40 - at `$.Order.Price`"),
        (b"\xff\xfe", "JSON is malformed: invalid character"),
        (b'{"Task": "\xff", "ID": 7}', "text must be UTF-8, was not"),
        (b'{"Task": "\\ud800", "ID": 7}', "JSON is malformed"),
        (b"[" * 100_000, "Expected `object`, got `array`"),
    ],
)  # fmt: skip
def test_malformed_deliveries_say_what_and_where(body, reason):
    """The reason names the field's path; it goes into the dead letter."""
    assert reason in malformed(body)


def test_syntax_errors_have_an_offset():
    """Where the text itself breaks, the byte is known."""
    with pytest.raises(MalformedMessage) as caught:
        decode(JSON, b'{"Task": "Settlement",, "ID": 7}')
    assert 22 == caught.value.offset
    assert str(caught.value).endswith("(byte 22)")


def test_a_list_holds_at_most_a_frame():
    """A list of FRAME_COMMANDS_MAX messages is one delivery, one more is malformed."""
    one = b'{"Task": "Settlement", "ID": 7}'
    assert FRAME_COMMANDS_MAX == len(decode(JSON, b"[" + b",".join([one] * FRAME_COMMANDS_MAX) + b"]"))
    too_many = b"[" + b",".join([one] * (FRAME_COMMANDS_MAX + 1)) + b"]"
    assert f"Expected `array` of length <= {FRAME_COMMANDS_MAX}" == malformed(too_many)


def test_every_field_of_an_order():
    """A limit order fills the record as engine.records says."""
    assert {
        "kind": CommandKind.NEW, "side": Side.SELL, "order_type": OrderType.LIMIT, "time_in_force": TimeInForce.FOK,
        "flags": 0, "verdict": 0, "self_trade": 0, "outcome": 0, "event": 7, "order": 1, "account": 42, "price": 57,
        "quantity": 10, "payout": 0, "expires_ns": 0,
    } == command_of(order(Side="Sell", TimeInForce="FOK"))  # fmt: skip


@pytest.mark.parametrize("change", [str.upper, str.lower, str.title, str.swapcase])
@pytest.mark.parametrize("content_type", ENCODERS)
def test_names_in_any_case(content_type, change):
    """BUY, buy and Buy are one; so for Type, TimeInForce and Action."""
    message = order(
        **{name: change(text) for name, text in {"Side": "Sell", "Type": "Market", "TimeInForce": "IOC", "Action": "Amend"}.items()}
    )  # fmt: skip
    (command,) = to_commands(decode(content_type, ENCODERS[content_type](message)), known)
    assert (CommandKind.AMEND, Side.SELL, OrderType.MARKET, TimeInForce.IOC) == command.item()[:4]


@pytest.mark.parametrize(
    ("changes", "kind", "flags", "verdict", "price"),
    [
        ({}, CommandKind.NEW, 0, Reason.NONE, 57),
        ({"Price": "0.570"}, CommandKind.NEW, 0, Reason.NONE, 57),
        ({"Price": 1}, CommandKind.NEW, 0, Reason.NONE, 100),
        ({"Price": None, "PriceTicks": 57}, CommandKind.NEW, 0, Reason.NONE, 57),
        ({"Price": None, "PriceTicks": "-57"}, CommandKind.NEW, 0, Reason.NONE, -57),
        ({"Price": None, "PriceTicks": INT64_MAX}, CommandKind.NEW, 0, Reason.NONE, INT64_MAX),
        ({"Price": 0.575}, CommandKind.NEW, 0, Reason.PRICE_NOT_ON_TICK, 0),
        ({"Price": 1e300}, CommandKind.NEW, 0, Reason.PRICE_OUT_OF_RANGE, 0),
        ({"Price": "a lot"}, CommandKind.NEW, 0, Reason.MALFORMED, 0),
        ({"PriceTicks": 57}, CommandKind.NEW, 0, Reason.MALFORMED, 0),
        ({"Price": None}, CommandKind.NEW, Flag.NO_PRICE, Reason.MALFORMED, 0),
        ({"Side": None}, CommandKind.NEW, 0, Reason.MALFORMED, 57),
        ({"Price": None, "Type": "Market"}, CommandKind.NEW, Flag.NO_PRICE, Reason.NONE, 0),
        ({"Type": "Market"}, CommandKind.NEW, 0, Reason.NONE, 57),
        ({"Action": "Amend", "Side": None}, CommandKind.AMEND, 0, Reason.NONE, 57),
        ({"Action": "Amend", "Price": None}, CommandKind.AMEND, Flag.NO_PRICE, Reason.NONE, 0),
        ({"Action": "Cancel", "Side": None, "Price": "nonsense"}, CommandKind.CANCEL, 0, Reason.NONE, 0),
    ],
)  # fmt: skip
def test_prices_flags_and_verdicts(changes, kind, flags, verdict, price):
    """A price is converted, absent, or the reason of a verdict; the order is never lost."""
    command = command_of(order(**changes))
    assert (kind, flags, verdict, price) == tuple(
        command[name] for name in ("kind", "flags", "verdict", "price")
    )


def test_quantities_are_the_engines_to_judge():
    """An absent, zero or negative quantity reaches the engine as it is."""
    assert 0 == command_of(order(Quantity=None))["quantity"]
    assert -3 == command_of(order(Quantity=-3))["quantity"]
    assert (0, 0) == tuple(command_of(order(Action="Cancel"))[name] for name in ("quantity", "price"))


def test_price_of_an_unknown_event():
    """A decimal price of an unknown event cannot be ticks: UNKNOWN_EVENT; ticks and cancels need no spec."""
    assert Reason.UNKNOWN_EVENT == command_of(order(), unknown)["verdict"]
    assert 0 == command_of(order(Price=None, PriceTicks=57), unknown)["verdict"]
    assert 0 == command_of(order(Action="Cancel"), unknown)["verdict"]


def test_create_event_carries_its_prices():
    """CREATE_EVENT: tick in units, decimals, lowest, highest price and payout; the default is 0.01 to 0.99."""
    names = ("kind", "verdict", "event", "order", "account", "price", "quantity", "payout")
    plain = command_of({"Task": "CreateEvent", "ID": 7})
    assert (CommandKind.CREATE_EVENT, 0, 7, 1, 2, 1, 99, 100) == tuple(plain[name] for name in names)
    spec = {"Tick": "0.05", "Payout": 2, "Low": "0.10", "High": 1.9}
    other = command_of({"Task": "CreateEvent", "ID": "8", "Spec": spec})
    assert (CommandKind.CREATE_EVENT, 0, 8, 5, 2, 2, 38, 40) == tuple(other[name] for name in names)


@pytest.mark.parametrize(
    ("spec", "verdict"),
    [
        ({"Tick": 0}, Reason.UNSUPPORTED),
        ({"Tick": "cent"}, Reason.MALFORMED),
        ({"Payout": "0.995"}, Reason.PRICE_NOT_ON_TICK),
        ({"Payout": INT64_MAX}, Reason.PRICE_OUT_OF_RANGE),
    ],
)
def test_impossible_specs_are_verdicts(spec, verdict):
    """A CreateEvent whose spec makes no sense is refused with a reason, and opens nothing for later orders."""
    sent = [{"Task": "CreateEvent", "ID": 7, "Spec": spec}, order()]
    create, later = to_commands(decode(JSON, json.dumps(sent).encode()), unknown)
    assert (CommandKind.CREATE_EVENT, verdict, 0) == (create["kind"], create["verdict"], create["payout"])
    assert Reason.UNKNOWN_EVENT == later["verdict"]


def test_an_event_created_in_the_same_delivery():
    """Later orders of a delivery know the event; earlier ones do not; a second CreateEvent does not change its ticks."""
    sent = [
        order(Price=0.5),
        {"Task": "CreateEvent", "ID": 7, "Spec": {"Tick": "0.001"}},
        order(Price=0.5),
        {"Task": "CreateEvent", "ID": 7},
        order(Price="0.5"),
    ]
    commands = to_commands(decode(JSON, json.dumps(sent).encode()), unknown)
    assert [Reason.UNKNOWN_EVENT, 0, 0, 0, 0] == commands["verdict"].tolist()
    assert [0, 1, 500, 1, 500] == commands["price"].tolist()


def test_a_known_event_keeps_its_ticks():
    """CreateEvent of an event that is there (the engine answers EVENT_EXISTS) does not change how prices are read."""
    sent = [{"Task": "CreateEvent", "ID": 7, "Spec": {"Tick": "0.001"}}, order(Price=0.5)]
    assert 50 == to_commands(decode(JSON, json.dumps(sent).encode()), known)[1]["price"]


@pytest.mark.parametrize(
    ("spec", "opens"),
    [
        ({"Tick": "0.000001"}, True),
        ({"Tick": "0.000001", "Levels": "Ladder"}, False),
        ({"OrdersMax": -1}, False),
        ({"AccountOrdersMax": "-1"}, False),
        ({"ClosesNs": -1}, False),
        ({"Bands": [{"Last": "0.5", "Tick": "0.01"}]}, False),
    ],
)
def test_an_event_that_the_engine_refuses_opens_nothing(spec, opens):
    """Orders behind it in the same delivery have no ticks; those behind one that is taken have."""
    sent = [{"Task": "CreateEvent", "ID": 7, "Spec": spec}, order(Price=0.5)]
    verdicts = [0, 0] if opens else [Reason.UNSUPPORTED, Reason.UNKNOWN_EVENT]
    assert verdicts == to_commands(decode(JSON, json.dumps(sent).encode()), unknown)["verdict"].tolist()


def records_of(*sent: dict[str, Any], spec_of_event: Any = known, **settings: Any) -> list[dict[str, int]]:
    """All records of messages, each by the field names of its own kind."""
    commands = to_commands(decode(JSON, json.dumps(sent).encode()), spec_of_event, **settings)
    tables = {CommandKind.EXTENSION: EXTENSION, CommandKind.BANDS: BANDS}
    rows = [
        commands[at : at + 1].view(tables.get(commands["kind"][at], COMMAND)) for at in range(len(commands))
    ]
    return [dict(zip(row.dtype.names, row[0].item(), strict=True)) for row in rows]


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"Outcome": "NO"}, "outcome", Outcome.NO),
        ({"Outcome": "no"}, "outcome", Outcome.NO),
        ({"PostOnly": True}, "flags", Flag.POST_ONLY),
        ({"Hidden": True}, "flags", Flag.HIDDEN),
        ({"AllOrNone": True}, "flags", Flag.ALL_OR_NONE),
        ({"PostOnly": True, "Hidden": True, "AllOrNone": True}, "flags", 4 + 8 + 16),
        ({"TimeInForce": "DAY"}, "time_in_force", TimeInForce.DAY),
        ({"TimeInForce": "GTD", "ExpiresNs": 10**18}, "expires_ns", 10**18),
        ({"TimeInForce": "GTD", "ExpiresNs": "1700000000000000001"}, "expires_ns", 1_700_000_000_000_000_001),
        ({"SelfTrade": "None"}, "self_trade", SelfTrade.NONE),
        ({"SelfTrade": "cancelmaker"}, "self_trade", SelfTrade.CANCEL_MAKER),
        ({"SelfTrade": "Decrement"}, "self_trade", SelfTrade.DECREMENT),
        ({"Type": "Money", "Price": None, "Quantity": 1_250}, "quantity", 1_250),
        ({"Type": "Money", "Price": None, "Quantity": None, "Money": "12.50"}, "quantity", 1_250),
        ({"Type": "StopLimit"}, "order_type", OrderType.STOP_LIMIT),
        ({"Type": "trailingstop", "Price": None}, "order_type", OrderType.TRAILING_STOP),
        ({"Action": "Reduce"}, "kind", CommandKind.REDUCE),
        ({"Action": "Replace", "Side": None}, "kind", CommandKind.REPLACE),
        ({"Action": "Amend", "SelfTrade": "Decrement", "TimeInForce": "GTD", "ExpiresNs": 5}, "expires_ns", 0),
    ],
)
def test_what_few_orders_say(changes, field, value):
    """Each lands in its field; nothing else of the record changes with it, and no second record is made."""
    [record] = records_of(order(**changes))
    assert (0, value) == (record["verdict"], record[field])
    assert 57 == record["price"] or record["flags"] & Flag.NO_PRICE
    assert (7, 1, 42, 0) == tuple(record[name] for name in ("event", "order", "account", "payout"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"Type": "Stop", "Price": None, "Trigger": "0.60"}, {"trigger": 60}),
        ({"Type": "Stop", "Price": None, "TriggerTicks": "60"}, {"trigger": 60}),
        ({"Type": "StopLimit", "Trigger": 0.6}, {"trigger": 60}),
        ({"Type": "TrailingStop", "Price": None, "Trail": "0.05"}, {"trail": 5}),
        ({"Type": "TrailingStop", "Price": None, "TrailTicks": 5, "TriggerTicks": 0}, {"trail": 5}),
        ({"Display": 3}, {"display": 3}),
        ({"Display": "3", "Group": "9223372036854775807"}, {"display": 3, "group": INT64_MAX}),
        ({"Group": 0}, {}),
        ({"Group": 5, "Outcome": "NO", "Hidden": True}, {"group": 5}),
    ],
)
def test_an_extension_stands_right_before_its_command(changes, expected):
    """What has no place in a COMMAND makes an EXTENSION of the same event before it, and the flag EXTENDED (E3)."""
    extension, command = records_of(order(**changes))
    blank = dict.fromkeys(EXTENSION.names, 0)
    assert {**blank, "kind": CommandKind.EXTENSION, "event": 7, **expected} == extension
    assert (0, 7, Flag.EXTENDED) == (command["verdict"], command["event"], command["flags"] & Flag.EXTENDED)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"Type": "Stop", "Trigger": "0.605"}, Reason.PRICE_NOT_ON_TICK),
        ({"Type": "Stop", "Trigger": "high"}, Reason.MALFORMED),
        ({"Type": "Stop", "Trigger": 0.6, "TriggerTicks": 60}, Reason.MALFORMED),
        ({"Type": "TrailingStop", "Trail": 1e300}, Reason.PRICE_OUT_OF_RANGE),
        ({"Type": "TrailingStop", "Trail": 0.1, "TrailTicks": 10}, Reason.MALFORMED),
        ({"Type": "StopLimit", "Price": None, "TriggerTicks": 60}, Reason.MALFORMED),
        ({"Type": "Money", "Price": None, "Quantity": None, "Money": "12.505"}, Reason.QTY_INVALID),
        ({"Type": "Money", "Price": None, "Quantity": None, "Money": "1e30"}, Reason.QTY_LIMIT),
        ({"Type": "Money", "Price": None, "Money": "12.50"}, Reason.MALFORMED),
        ({"Quantity": None, "Money": "12.50"}, Reason.MALFORMED),
        ({"Action": "Amend", "Quantity": None, "Money": "12.50"}, Reason.MALFORMED),
        ({"Side": None, "Outcome": "NO"}, Reason.MALFORMED),
        ({"Price": 0.575, "Trigger": "high"}, Reason.PRICE_NOT_ON_TICK),
    ],
)
def test_what_few_orders_say_and_cannot_be_done(changes, verdict):
    """A trigger, trail or money that is no whole number of ticks, or said twice, is a verdict; the order is never lost."""
    assert verdict == records_of(order(**changes))[-1]["verdict"]


@pytest.mark.parametrize(
    "changes", [{"Trigger": 0.6}, {"Trail": 0.1}, {"Type": "Money", "Quantity": None, "Money": 5}]
)
def test_other_decimals_of_an_unknown_event(changes):
    """Triggers, trails and money of an unknown event cannot be ticks either."""
    message = order(Price=None, PriceTicks=57, **changes)
    assert Reason.UNKNOWN_EVENT == records_of(message, spec_of_event=unknown)[-1]["verdict"]


def test_a_cancel_says_whose_order_it_means():
    """Nothing else of it is looked at, and it is always one record."""
    strange = {
        "Display": 3,
        "Trigger": "high",
        "Money": 5,
        "PostOnly": True,
        "Outcome": "NO",
        "Price": "nonsense",
    }
    assert records_of(order(Action="Cancel")) == records_of(order(Action="Cancel", **strange))


def test_the_configured_self_trade_mode_is_for_new_orders_that_name_none():
    """An order that names a mode, `None` too, keeps it; other verbs have none."""
    sent = [
        order(),
        order(SelfTrade="None"),
        order(SelfTrade="CancelBoth"),
        order(Outcome="NO"),
        order(Action="Amend"),
    ]
    modes = [record["self_trade"] for record in records_of(*sent, self_trade=SelfTrade.DECREMENT)]
    assert [SelfTrade.DECREMENT, 0, SelfTrade.CANCEL_BOTH, SelfTrade.DECREMENT, 0] == modes
    assert [0] == [record["self_trade"] for record in records_of(order())]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"event": 0, "side": BOTH_SIDES, "flags": Flag.ALL_EVENTS}),
        (
            {"ID": None, "Account": None, "Side": None, "Group": None},
            {"side": BOTH_SIDES, "flags": Flag.ALL_EVENTS},
        ),
        ({"ID": 7}, {"event": 7, "side": BOTH_SIDES}),
        ({"ID": "7", "Account": "42", "Side": "Buy", "Group": "9"}, {"event": 7, "account": 42, "order": 9}),
        ({"Account": 42, "Side": "sell"}, {"account": 42, "side": Side.SELL, "flags": Flag.ALL_EVENTS}),
    ],
)
def test_mass_cancels(fields, expected):
    """An event or all of them, an account, a side and a group, or any."""
    blank = dict.fromkeys(COMMAND.names, 0)
    assert [{**blank, "kind": CommandKind.MASS_CANCEL, **expected}] == records_of(
        {"Task": "MassCancel", **fields}
    )


def test_an_event_with_everything():
    """Bands, then the extension, then CREATE_EVENT, all of one event (E3)."""
    bands = [{"Last": f"{n}", "Tick": "0.05"} for n in range(1, 8)] + [{"Last": 10, "Tick": 0.1}]
    spec = {
        "Tick": "0.05", "Low": "0", "High": 10, "Payout": None, "Bands": bands, "Levels": "SkipList", "OrdersMax": 500,
        "ClosesNs": "1700000000000000000",
    }  # fmt: skip
    first, second, extension, command = records_of({"Task": "CreateEvent", "ID": 7, "Spec": spec})
    blank = dict.fromkeys(BANDS.names, 0)
    rows = {f"{name}_{n}": value for n in range(1, 7) for name, value in (("last", 20 * n), ("step", 1))}
    assert {**blank, "kind": CommandKind.BANDS, "count": 6, "event": 7, **rows} == first
    rows = {"last_1": 140, "step_1": 1, "last_2": 200, "step_2": 2}
    assert {**blank, "kind": CommandKind.BANDS, "count": 2, "event": 7, **rows} == second
    assert {
        **dict.fromkeys(EXTENSION.names, 0),
        "kind": CommandKind.EXTENSION,
        "event": 7,
        "orders_max": 500,
    } == extension
    assert {
        **dict.fromkeys(COMMAND.names, 0), "kind": CommandKind.CREATE_EVENT, "order_type": LevelKind.SKIP_LIST,
        "flags": Flag.EXTENDED, "event": 7, "order": 5, "account": 2, "price": 0, "quantity": 200,
        "expires_ns": 1_700_000_000_000_000_000,
    } == command  # fmt: skip


def test_an_event_without_a_highest_price():
    """Unbounded is up to PRICE_TICKS_MAX, without payout; orders behind it have its ticks."""
    sent = [{"Task": "CreateEvent", "ID": 7, "Spec": {"Unbounded": True}}, order(Price="12345.67")]
    create, later = records_of(*sent, spec_of_event=unknown)
    assert (1, PRICE_TICKS_MAX, 0) == tuple(create[name] for name in ("price", "quantity", "payout"))
    assert (0, 1_234_567) == (later["verdict"], later["price"])


def test_a_delivery_makes_at_most_a_frame_of_records():
    """Extensions count: what makes more records than a frame holds is malformed, with the number."""
    half = FRAME_COMMANDS_MAX // 2
    one = json.dumps(order(Group=5)).encode()
    assert FRAME_COMMANDS_MAX == len(to_commands(decode(JSON, b"[" + b",".join([one] * half) + b"]"), known))
    with pytest.raises(MalformedMessage, match="a delivery must make at most 4096 records, made 4098"):
        to_commands(decode(JSON, b"[" + b",".join([one] * (half + 1)) + b"]"), known)


def test_commands_keep_the_order_of_messages():
    """One command for each message, in order, in a writable array (E3)."""
    sent = [order(OrderID=str(number) if number % 3 else number) for number in range(500)]
    commands = to_commands(decode(JSON, json.dumps(sent).encode()), known)
    assert list(range(500)) == commands["order"].tolist()
    assert COMMAND == commands.dtype
    assert commands.flags.writeable
    assert 0 == len(to_commands([], known))


def commands_of(content_type: str | None, body: bytes) -> np.ndarray:
    """What a router does with a delivery."""
    if content_type == packed.CONTENT_TYPE:
        return packed.decode(body)
    return to_commands(decode(content_type, body), known)


CONTENT_TYPES = [None, JSON, MSGPACK, "application/x-msgpack", packed.CONTENT_TYPE, "text/html", "\0"]
FIELDS = [
    "Task",
    "ID",
    "Order",
    "Spec",
    "OrderID",
    "Account",
    "Side",
    "Price",
    "PriceTicks",
    "Quantity",
    "Type",
    "TimeInForce",
    "Action",
    "Tick",
    "Outcome",
    "Trigger",
    "Money",
    "Display",
    "Group",
    "PostOnly",
    "SelfTrade",
    "Bands",
    "Payout",
    "Unbounded",
    "X",
]
VALUES = [
    7, -1, 0, 10**22, -(10**30), 1.5, 1e308, "7", "seven", "", None, True, [], {}, [[]], {"a": {}}, "Buy", 0.57,
    2**63 - 1, -(2**63), 2**64 - 1, "9" * 50, {"Task": "Order"}, "\0", "Order", 1e-320, "1e-99999", -0.0,
]  # fmt: skip
TAILS = [b"[", b"{", b"\x91", b"\xdf", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b'"', b"\xc1", b"\0"]


def strange_message(rng: random.Random) -> Any:
    """A message, or a list of them, with up to two fields that hold anything."""
    message: Any = rng.choice(
        [
            order(),
            {"Task": "CreateEvent", "ID": 7, "Spec": {}},
            {"Task": "Settlement", "ID": 7},
            {"Task": "MassCancel", "ID": 7},
        ]
    )
    for _ in range(rng.randrange(3)):
        inner = message.get("Order", message.get("Spec"))
        target = inner if isinstance(inner, dict) and rng.random() < 0.6 else message
        target[rng.choice(FIELDS)] = copy.deepcopy(rng.choice(VALUES))
    return [message] * rng.choice([0, 1, 2, 5]) if rng.random() < 0.3 else message


def strange_commands(rng: random.Random) -> bytes:
    """A packed delivery whose commands hold any kind and any flags."""
    commands = np.zeros(rng.randrange(1, 4), COMMAND)
    commands["kind"], commands["flags"] = rng.randrange(-1, 14), rng.choice([0, 0, 1, 2, 32, -1])
    header = np.array([(packed.MAGIC, LAYOUT_VERSION, 0, len(commands), 0)], packed.HEADER)
    return header.tobytes() + commands.tobytes()


def encoded(rng: random.Random, content_type: str | None, message: Any) -> bytes:
    """A message in its encoding, sometimes in the other one; MessagePack has no integers above 64 bits."""
    right = ENCODERS[MSGPACK] if content_type and "msgpack" in content_type else ENCODERS[JSON]
    try:
        return rng.choice([right, right, right, *ENCODERS.values()])(message)
    except OverflowError:
        return json.dumps(message).encode()


def damaged(rng: random.Random, body: bytes) -> bytes:
    """The body whole, which is likelier, random, cut, with bytes changed, or with a tail of openings."""
    place = rng.randrange(len(body))
    return rng.choice([
        lambda: body,
        lambda: body,
        lambda: rng.randbytes(rng.randrange(200)),
        lambda: body[:place],
        lambda: body[:place] + rng.randbytes(rng.randrange(1, 4)) + body[place + 1 :],
        lambda: body[:place] + rng.choice(TAILS) * rng.randrange(2_000),
    ])()  # fmt: skip


def test_garbage_is_malformed_and_nothing_else():
    """Of 10,000 seeded deliveries of every kind of wrong, each is read whole or raises MalformedMessage (E1, E2)."""
    rng = random.Random(GARBAGE_SEED)
    outcomes = {"read": 0, "malformed": 0}
    for _ in range(GARBAGE_DELIVERIES):
        content_type = rng.choice(CONTENT_TYPES)
        packs = content_type == packed.CONTENT_TYPE
        body = strange_commands(rng) if packs else encoded(rng, content_type, strange_message(rng))
        body = damaged(rng, body)
        try:
            commands = commands_of(content_type, body)
        except MalformedMessage as error:
            outcomes["malformed"] += bool(error.reason_text)
        else:
            outcomes["read"] += 1 <= len(commands) <= FRAME_COMMANDS_MAX
    assert GARBAGE_DELIVERIES == sum(outcomes.values())
    assert min(outcomes.values()) > 500, "the garbage must be of both kinds to prove anything"
