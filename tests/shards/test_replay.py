"""A replay gives the reports of its lines and nothing else: the same bytes, whatever the day."""

import io
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine.codes import ReportKind
from ringpit.shards import replay as replays
from ringpit.shards.flow import flow, frames, messages
from ringpit.shards.replay import replay_lines
from ringpit.shards.sinks import SinkFailed
from ringpit.testing.naive import NaiveExchange

GOLDEN_INPUT = b"""\
{"Task": "CreateEvent", "ID": 7}
{"Task": "Order", "ID": 7, "Order": {"OrderID": 1, "Account": 42, "Side": "Sell", "Price": 0.57, "Quantity": 10}}
not json

[{"Task": "Order", "ID": 7, "Order": {"OrderID": 2, "Account": 43, "Side": "Buy", "Price": "0.60", "Quantity": 4}},\
 {"Task": "Order", "ID": 7, "Order": {"OrderID": 1, "Account": 42, "Action": "Cancel"}}]
{"Task": "Order", "ID": 9, "Order": {"OrderID": 3, "Account": 43, "Side": "Buy", "PriceTicks": 60, "Quantity": 4}}
{"Task": "Order", "ID": 7, "Order": {"OrderID": 4, "Account": 44, "Side": "Buy", "Price": "0.10", "Quantity": 1}}
{"Task": "Settlement", "ID": 7}
{"Task": "Settlement", "ID": 7}
{"Task": "Order", "ID": 7, "Order": {"OrderID": 5, "Account": 43, "Side": "Buy", "PriceTicks": 60, "Quantity": 4}}
"""
GOLDEN_OUTPUT = b"""\
{"Seq":2,"Index":0,"Shard":0,"Generation":1,"Kind":"EventCreated","Event":7,"LowTicks":1,"HighTicks":99,"PayoutTicks":100,"TickUnits":1,"Decimals":2}
{"Seq":4,"Index":0,"Shard":0,"Generation":1,"Kind":"Accepted","Event":7,"OrderID":1,"Account":42,"Side":"Sell","Price":"0.57","PriceTicks":57,"Quantity":10,"Leaves":10}
{"Seq":6,"Index":0,"Shard":0,"Generation":1,"Kind":"Accepted","Event":7,"OrderID":2,"Account":43,"Side":"Buy","Price":"0.60","PriceTicks":60,"Quantity":4,"Leaves":4}
{"Seq":6,"Index":1,"Shard":0,"Generation":1,"Kind":"FillMaker","Event":7,"OrderID":1,"Account":42,"Side":"Sell","Price":"0.57","PriceTicks":57,"Quantity":4,"Leaves":6,"FillKind":"Transfer"}
{"Seq":6,"Index":2,"Shard":0,"Generation":1,"Kind":"FillTaker","Event":7,"OrderID":2,"Account":43,"Side":"Buy","Price":"0.57","PriceTicks":57,"Quantity":4,"Leaves":0,"FillKind":"Transfer"}
{"Seq":7,"Index":0,"Shard":0,"Generation":1,"Kind":"Canceled","Event":7,"OrderID":1,"Account":42,"Side":"Sell","Price":"0.57","PriceTicks":57,"Quantity":6,"Leaves":0}
{"Seq":9,"Index":0,"Shard":0,"Generation":1,"Kind":"Rejected","Event":9,"OrderID":3,"Account":43,"Side":"Buy","PriceTicks":60,"Quantity":4,"Reason":"UNKNOWN_EVENT"}
{"Seq":11,"Index":0,"Shard":0,"Generation":1,"Kind":"Accepted","Event":7,"OrderID":4,"Account":44,"Side":"Buy","Price":"0.10","PriceTicks":10,"Quantity":1,"Leaves":1}
{"Seq":13,"Index":0,"Shard":0,"Generation":1,"Kind":"Canceled","Event":7,"OrderID":4,"Account":44,"Side":"Buy","Price":"0.10","PriceTicks":10,"Quantity":1,"Leaves":0,"Reason":"MARKET_CLOSED"}
{"Seq":13,"Index":1,"Shard":0,"Generation":1,"Kind":"EventSettled","Event":7,"OrdersCanceled":1}
{"Seq":15,"Index":0,"Shard":0,"Generation":1,"Kind":"EventSettled","Event":7,"OrdersCanceled":0,"Repeat":true}
{"Seq":17,"Index":0,"Shard":0,"Generation":1,"Kind":"Rejected","Event":7,"OrderID":5,"Account":43,"Side":"Buy","Price":"0.60","PriceTicks":60,"Quantity":4,"Reason":"ALREADY_SETTLED"}
"""


@pytest.fixture
def run(tmp_path):
    """A function that replays bytes and returns the output, the sentences, and how many lines could not be read."""

    def replay(data):
        said = []
        with (tmp_path / "out").open("w+b") as out:
            failures = replay_lines(io.BytesIO(data), out, said.append)
            out.seek(0)
            return out.read(), said, failures

    return replay


def lines_of(commands):
    """The commands as a user would write them, one message a line."""
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages(commands))


def test_the_golden_replay(run):
    """Creation, trade, cancel, refusals and settlement of a small day, to the byte."""
    output, said, failures = run(GOLDEN_INPUT)
    assert GOLDEN_OUTPUT.decode().splitlines() == output.decode().splitlines()
    assert (1, ["line 3: JSON is malformed: invalid character (byte 4)"]) == (failures, said)


def test_the_same_lines_give_the_same_bytes(run):
    """There is no clock and no chance in a replay."""
    data = lines_of(flow(300, seed=5, events=3))
    assert run(data)[0] == run(data)[0]


def test_nothing_in_nothing_out(run):
    """Empty input, and lines of blanks, are no mistake."""
    assert (b"", [], 0) == run(b"")
    assert (b"", [], 0) == run(b"\n  \n\n")


def test_the_last_line_needs_no_end(run):
    """A file that was cut behind its last brace is whole."""
    data = GOLDEN_INPUT[: GOLDEN_INPUT.index(b"\n")]
    assert GOLDEN_OUTPUT[: GOLDEN_OUTPUT.index(b"\n") + 1] == run(data)[0]


def reported(output):
    """Reports as (seq, index, kind, event, order, account, ticks, lots, leaves), from lines."""
    names = ("Seq", "Index", "Kind", "Event", "OrderID", "Account", "PriceTicks", "Quantity", "Leaves")
    return [tuple(json.loads(line).get(name, 0) for name in names) for line in output.splitlines()]


def wanted(records):
    """The same from the plain exchange; only what is addressed to somebody is a line."""
    rows = []
    for report in NaiveExchange(market_data=True).run(records):
        kind = "".join(word.title() for word in ReportKind(report.kind).name.split("_"))
        if report.kind in (ReportKind.FRAME, ReportKind.LEVEL, ReportKind.BOOK_RESET):
            continue
        if report.kind in (ReportKind.EVENT_CREATED, ReportKind.EVENT_SETTLED):
            rows.append((report.seq, report.index, kind, report.event, 0, 0, 0, 0, 0))
        else:
            rows.append((report.seq, report.index, kind, *report[6:]))
    return rows


@given(st.integers(0, 999), st.integers(1, 120), st.sampled_from([1, 2, 7]))
def test_every_line_is_answered_as_the_plain_exchange_would(tmp_path_factory, seed, count, size):
    """Single messages and lists: seqs, kinds, orders, prices and lots are those of the plain exchange."""
    commands = flow(count, seed=seed, events=2, accounts=5)
    asked = list(messages(commands))
    data = b"".join(
        json.dumps(asked[start : start + size] if size > 1 else asked[start]).encode() + b"\n"
        for start in range(0, len(asked), size)
    )
    path = tmp_path_factory.mktemp("replay") / "out"
    with path.open("wb") as out:
        assert 0 == replay_lines(io.BytesIO(data), out, pytest.fail)
    assert wanted(frames(commands, size)) == reported(path.read_bytes())


def test_answers_longer_than_the_ring_come_in_pieces(run, monkeypatch):
    """A sweep through more orders than there are report slots is told whole and in order."""
    monkeypatch.setattr(replays, "REPORT_SLOTS", 64)
    commands = flow(1, events=1)[:1].repeat(202)
    commands["kind"][1:] = 1
    commands["order"][1:] = range(1, 202)
    commands["account"][1:] = 1
    commands["price"][1:] = 50
    commands["payout"][1:] = 0
    commands["quantity"][1:] = 1
    commands["side"][1:201] = 1
    commands["quantity"][201] = 200
    output, _, failures = run(lines_of(commands))

    kinds = [json.loads(line)["Kind"] for line in output.splitlines()]
    assert 0 == failures
    assert ["EventCreated", *["Accepted"] * 201, *["FillMaker", "FillTaker"] * 200] == kinds


def test_a_reader_that_has_gone_is_told():
    """When the output takes nothing more the replay ends with a sentence that names it."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as out, pytest.raises(SinkFailed, match="standard output"):
        replay_lines(io.BytesIO(GOLDEN_INPUT), out, lambda _text: None)
