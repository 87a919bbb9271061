"""The printed contract is the one that the code keeps."""

import json
import re

import msgspec
import pytest

from ringpit.engine.codes import CommandKind, LevelKind, OrderType, Reason, ReportFlag, SelfTrade
from ringpit.engine.records import BANDS, COMMAND, EXTENSION, MARKER, REPORT
from ringpit.shards import messages, packed
from ringpit.shards.messages import MalformedMessage, decode
from ringpit.shards.schema import json_schema, print_schema, schema

ORDER = {"OrderID": 1, "Account": 42, "Side": "Buy", "Price": 0.57, "Quantity": 10}


def allows(node, value, root) -> bool:
    """A small validator: the keywords that our schema uses, and KeyError for any that it should not have learnt."""
    node = dict(node)
    for annotation in ("title", "description", "default", "discriminator", "$schema", "$defs"):
        node.pop(annotation, None)
    checks = {
        "$ref": lambda target: allows(root["$defs"][target.rpartition("/")[2]], value, root),
        "anyOf": lambda nodes: any(allows(one, value, root) for one in nodes),
        "enum": lambda members: value in members,
        "type": lambda name: {
            "object": isinstance(value, dict), "array": isinstance(value, list), "string": isinstance(value, str),
            "null": value is None, "boolean": isinstance(value, bool), "integer": isinstance(value, int) and not isinstance(value, bool),
            "number": isinstance(value, int | float) and not isinstance(value, bool),
        }[name],
        "minimum": lambda low: value >= low,
        "maximum": lambda high: value <= high,
        "pattern": lambda pattern: re.search(pattern, value) is not None,
        "maxLength": lambda length: len(value) <= length,
        "minItems": lambda count: len(value) >= count,
        "maxItems": lambda count: len(value) <= count,
        "items": lambda one: all(allows(one, item, root) for item in value),
        "required": lambda names: all(name in value for name in names),
        "additionalProperties": lambda extra: extra or value.keys() <= node["properties"].keys(),
        "properties": lambda known: all(allows(known[name], value[name], root) for name in value if name in known),
    }  # fmt: skip
    ordered = sorted(
        node.items(), key=lambda item: item[0] != "type"
    )  # bounds mean something for the right type only
    return all(checks[keyword](argument) for keyword, argument in ordered)


def order(**changes):
    """An Order message with fields changed; None takes a field away."""
    fields = {name: value for name, value in {**ORDER, **changes}.items() if value is not None}
    return {"Task": "Order", "ID": 7, "Order": fields}


EXAMPLES = [
    {"Task": "CreateEvent", "ID": 7},
    {"Task": "CreateEvent", "ID": "9223372036854775807", "Spec": {"Tick": "0.001", "Payout": 1, "Low": 0.1}},
    {"Task": "CreateEvent", "ID": 7, "Order": None},
    {"Task": "Settlement", "ID": "-7"},
    order(),
    order(Price="0.57", OrderID="12", Type="Market", TimeInForce="FOK", Action="Amend"),
    order(Price=None, PriceTicks=57, Side=None),
    [order(), {"Task": "Settlement", "ID": 7}],
    [{"Task": "Settlement", "ID": 7}] * 4_096,
    {"Task": "MassCancel"},
    {"Task": "MassCancel", "ID": None, "Account": "7", "Side": "Sell", "Group": 5},
    {"Task": "CreateEvent", "ID": 7, "Spec": {"Payout": None, "Unbounded": True, "Levels": "SkipList"}},
    {
        "Task": "CreateEvent",
        "ID": 7,
        "Spec": {"Bands": [{"Last": "0.10", "Tick": 0.01}], "OrdersMax": 5, "ClosesNs": "9"},
    },
    order(
        Type="TrailingStop", Price=None, Trail="0.05", Outcome="NO", SelfTrade="Decrement", TimeInForce="DAY"
    ),
    order(Type="Money", Money=12.5, Quantity=None, Price=None),
    order(PostOnly=True, Hidden=False, AllOrNone=False, Display="3", Group=4, ExpiresNs=0, Action="Replace"),
]
COUNTEREXAMPLES = [
    {}, [], 7, None, "Order", {"Task": "Order", "ID": 7}, {"Task": "order", "ID": 7}, {"Task": "Settlement"},
    {"Task": "Settlement", "ID": 7.5}, {"Task": "Settlement", "ID": 10**22}, {"Task": "Settlement", "ID": "07"},
    {"Task": "Settlement", "ID": str(2**63)}, {"Task": "Settlement", "ID": True}, {"Task": "Settlement", "ID": None},
    {"Task": "Settlement", "ID": 7, "Order": ORDER}, {"Task": "CreateEvent", "ID": 7, "Spec": {"tick": 1}},
    order(Quantiy=5), order(Side="Bid"), order(Account=None), order(Price=[1]), order(Price="1" * 41),
    order(Quantity=1.5), order(PostOnly=1), order(Outcome="MAYBE"), order(Money=[1]), order(ExpiresNs=1.5), order(Type="Peg"),
    {"Task": "MassCancel", "Order": ORDER}, {"Task": "MassCancel", "Side": "Both"}, {"Task": "MassCancel", "ID": 0.5},
    {"Task": "CreateEvent", "ID": 7, "Spec": {"Bands": [{"Last": 1}]}}, {"Task": "CreateEvent", "ID": 7, "Spec": {"Levels": "Tree"}},
    [order(), {}], [{"Task": "Settlement", "ID": 7}] * 4_097,
]  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: json.dumps(example)[:50])
def test_schema_and_decoder_take_the_same_messages(example):
    """What the schema allows, decode reads."""
    made = json_schema()
    assert allows(made, example, made)
    assert len(decode(None, json.dumps(example).encode())) == (len(example) if isinstance(example, list) else 1)


@pytest.mark.parametrize("example", COUNTEREXAMPLES, ids=lambda example: json.dumps(example)[:50])
def test_schema_and_decoder_refuse_the_same_messages(example):
    """What the schema forbids, decode calls malformed. (Decode alone can tell 10**22 from 1e22, and refuses the first.)"""
    made = json_schema()
    assert not allows(made, example, made)
    with pytest.raises(MalformedMessage):
        decode(None, json.dumps(example).encode())


def test_optional_fields_are_not_only_null():
    """No field of an order or a spec may be nothing but null (a field named like its type would be)."""
    definitions = json_schema()["$defs"]
    for name in ("OrderFields", "SpecFields", "BandFields"):
        for field, node in definitions[name]["properties"].items():
            assert "null" != node.get("type"), field
    assert {"$ref": "#/$defs/OrderFields"} == definitions["Order"]["properties"]["Order"]
    assert {"null"} == {
        definitions[name]["properties"]["Order"]["type"] for name in ("CreateEvent", "Settlement", "MassCancel")
    }


def test_schema_is_json_and_refers_only_to_itself():
    """The schema survives JSON, says its draft, and every reference in it leads somewhere."""
    made = json_schema()
    text = json.dumps(made)
    assert made == json.loads(text)
    assert "https://json-schema.org/draft/2020-12/schema" == made["$schema"]
    references = set(re.findall(r'"\$ref": "#/\$defs/(\w+)"', text))
    assert references <= made["$defs"].keys()
    assert {"Integer", "IntegerText", "PriceText"} <= references
    assert text.count(msgspec.json.encode(messages.INT64_PATTERN).decode()) == 1


def test_layout_names_every_field_at_its_offset():
    """Header, and each record, are printed with each field's offset and type."""
    text = schema()
    for dtype in (packed.HEADER, COMMAND, EXTENSION, BANDS, MARKER, REPORT):
        for field in dtype.names:
            kind, offset = dtype.fields[field]
            code = f"S{kind.itemsize}" if kind.kind == "S" else f"<i{kind.itemsize}"
            assert re.search(rf"^ *{offset} +{code} +{field} +\S", text, re.MULTILINE), field


def test_print_schema_prints_all_of_it(capsys):
    """Content types, JSON Schema, layout and codes go to standard output."""
    print_schema()
    printed = capsys.readouterr().out
    assert schema() + "\n" == printed
    assert packed.CONTENT_TYPE in printed
    for content_type in filter(None, messages.DECODERS):
        assert content_type in printed
    for codes in (Reason, CommandKind, OrderType, SelfTrade, LevelKind, ReportFlag):
        for code in codes:
            assert f"{code.value} {code.name}" in printed
