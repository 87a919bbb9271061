"""What `ringpit query` prints: orders in their own terms, prices exactly, tables that cut nothing."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from ringpit.engine.codes import Queue, SelfTrade, Trait
from ringpit.engine.digest import RESTING
from ringpit.shards import asking
from ringpit.shards.asking import best_fields, depth_fields, order_fields, price_fields, print_table
from ringpit.shards.cli import app
from ringpit.shards.exits import Exit
from ringpit.shards.layout import EVENT
from ringpit.shards.queries import Client, Depth, NoAnswer, Unknown


def spec(**fields):
    """An EVENT row: prices 1 to 99 of a payout of 100, in cents."""
    row = np.zeros(1, EVENT)
    for name, value in (
        {"event": 7, "low": 1, "high": 99, "payout": 100, "tick_units": 1, "decimals": 2} | fields
    ).items():
        row[name] = value
    return row[0]


def resting(queue=Queue.BIDS, traits=0, **fields):
    """A RESTING row."""
    row = np.zeros(1, RESTING)
    row["queue"], row["traits"] = queue, traits
    given = {"event": 7, "order": 5, "account": 3, "price": 55, "open": 4, "filled": 1, "shown": 4} | fields
    for name, value in given.items():
        row[name] = value
    return row[0]


def test_a_plain_order_says_no_more_than_it_is():
    """Fields that say nothing are left out."""
    assert {
        "Event": 7, "OrderID": 5, "Account": 3, "Outcome": "Yes", "Side": "Buy", "Type": "Limit",
        "Price": "0.55", "PriceTicks": 55, "Open": 4, "Filled": 1, "Shown": 4, "List": "Bids",
    } == order_fields(resting(), spec())  # fmt: skip


@pytest.mark.parametrize(
    ("queue", "traits", "expected"),
    [
        (Queue.ASKS, 0, ("Yes", "Sell", 55)),
        (Queue.ASKS, Trait.NO, ("No", "Buy", 45)),
        (Queue.BIDS, Trait.NO, ("No", "Sell", 45)),
        (Queue.SELL_ALL_OR_NONE, Trait.ALL_OR_NONE, ("Yes", "Sell", 55)),
        (Queue.BUY_ALL_OR_NONE, Trait.ALL_OR_NONE | Trait.NO, ("No", "Sell", 45)),
    ],
)
def test_an_order_is_told_in_its_own_terms(queue, traits, expected):
    """An order for NO is on the other side of the book, at payout less its price; its owner reads what he sent."""
    fields = order_fields(resting(queue, traits), spec())
    assert expected == (fields["Outcome"], fields["Side"], fields["PriceTicks"])
    assert fields.get("AllOrNone", False) == bool(traits & Trait.ALL_OR_NONE)


@pytest.mark.parametrize(
    ("traits", "expected"),
    [
        (Trait.STOP, "StopLimit"),
        (Trait.STOP | Trait.MARKET | Trait.NO_PRICE, "Stop"),
        (Trait.STOP | Trait.TRAILING | Trait.MARKET | Trait.NO_PRICE, "TrailingStop"),
    ],
)
def test_a_waiting_stop_shows_its_trigger(traits, expected):
    """Type, trigger and trail; no price where there is none."""
    fields = order_fields(resting(Queue.SELL_STOPS, traits | Trait.NO, trigger=30, trail=5), spec())
    assert (expected, "Buy", "0.70", 70) == tuple(
        fields[name] for name in ("Type", "Side", "Trigger", "TriggerTicks")
    )
    assert ("Price" in fields) == (expected == "StopLimit")
    assert ("TrailTicks" in fields) == (expected == "TrailingStop")


def test_what_is_special_is_named():
    """Display, group, expiry, self-trade mode and flags, where they are set."""
    traits = Trait.ICEBERG | Trait.POST_ONLY | Trait.TIMED | Trait.GROUPED | SelfTrade.CANCEL_BOTH
    fields = order_fields(resting(traits=traits, display=2, group=8, expires_ns=9), spec())
    assert (2, 8, 9, True, "CancelBoth") == tuple(
        fields[name] for name in ("Display", "Group", "ExpiresNs", "PostOnly", "SelfTrade")
    )
    assert "Hidden" not in fields


@pytest.mark.parametrize(
    ("ticks", "event", "expected"),
    [
        (5, {"tick_units": 5, "decimals": 2}, "0.25"),
        (5, {"tick_units": 1, "decimals": 0}, "5"),
        (-7, {"tick_units": 1, "decimals": 1}, "-0.7"),
        (1 << 31, {"tick_units": 10**8, "decimals": 12}, "214748.364800000000"),
    ],
)
def test_prices_are_exact(ticks, event, expected):
    """All decimals of the event, and no rounding."""
    assert {"Price": expected, "PriceTicks": ticks} == price_fields("Price", ticks, spec(**event))


def test_depth_and_best_are_those_of_yes():
    """Pairs of price and lots, best first; a side without orders is left out of best."""
    depth = Depth(np.array([[55, 3], [54, 1]]), np.zeros((0, 2), np.int64))
    assert {"Event": 7, "Bids": [["0.55", 3], ["0.54", 1]], "Asks": []} == depth_fields(7, depth, spec())
    assert {"Event": 7, "Ask": "0.60", "AskTicks": 60} == best_fields(7, (None, 60), spec())


def test_a_pipe_cuts_nothing(capsys):
    """However many columns: what is not a terminal gets whole lines."""
    rows = [{f"ColumnWithALongName{number}": 10**15 + number for number in range(20)} for _ in range(2)]
    print_table(rows)
    out = capsys.readouterr().out
    assert "ColumnWithALongName19" in out
    assert str(10**15 + 19) in out
    print_table([])
    assert "nothing\n" == capsys.readouterr().out


class FakeClient:
    """Answers without an exchange."""

    shards = range(2)

    def __init__(self, failure=None):
        self._failure = failure

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    def best(self, _event):
        """A best price, or what was wrong."""
        if self._failure:
            raise self._failure
        return 55, None

    def event(self, _event):
        """Its prices."""
        return spec()


@pytest.fixture
def run(monkeypatch):
    """Run the command with a client that answers, or fails."""

    def run(*arguments, failure=None):
        monkeypatch.setattr("ringpit.shards.queries.Client", lambda *_, **__: FakeClient(failure))
        return CliRunner().invoke(app, ["query", *arguments])

    return run


@pytest.mark.parametrize("arguments", [("--json", "best", "7"), ("best", "7", "--json")])
def test_options_may_stand_before_and_behind(run, arguments):
    """--json belongs to the question or to all of them."""
    assert {"Event": 7, "Bid": "0.55", "BidTicks": 55} == json.loads(run(*arguments).stdout)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Unknown("no such event"), Exit.REFUSED),
        (NoAnswer("time is up"), Exit.UNAVAILABLE),
        (ValueError("bad"), Exit.CONFIG),
    ],
)
def test_a_failure_is_a_sentence_and_a_code(run, failure, code):
    """On standard error, with the exit code of its kind."""
    done = run("best", "7", failure=failure)
    assert code == done.exit_code
    assert f"ringpit: {failure}\n" == done.stderr
    assert "" == done.stdout


def test_every_question_of_the_client_has_a_command():
    """What Python can ask, the command line can, too."""
    commands = {command.name for command in asking.app.registered_commands}
    assert {"order", "orders", "depth", "position", "best", "stats", "digest"} == commands
    for name in ("order_status", "open_orders", "depth", "queue_position", "best", "statistics", "digest"):
        assert hasattr(Client, name)
