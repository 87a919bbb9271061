"""The exchange's face: what a notebook calls, what it answers, and what it says to mistakes."""

import numpy as np
import pytest

from ringpit.engine import (
    COMMAND,
    MARKER,
    REPORT,
    CommandKind,
    EventState,
    Exchange,
    Limits,
    Reason,
    ReportKind,
    Side,
    UnknownEvent,
)
from ringpit.shards.flow import creations, flow, frames
from ringpit.testing.naive import NaiveExchange


@pytest.fixture
def exchange():
    """One event with a bid of 5 at 50 and asks of 2 at 60 and 7 at 61."""
    made = Exchange(Limits(events=4, orders=64, levels=4_096, keys=64))
    made.create_event(7)
    made.order(7, order=1, account=10, side="buy", price=50, quantity=5)
    made.order(7, order=2, account=11, side=Side.SELL, price=60, quantity=2)
    made.order(7, order=3, account=11, side="Sell", price=61, quantity=7)
    return made


def kinds(reports):
    """The reports' kinds."""
    return [ReportKind(kind) for kind in reports["kind"].tolist()]


def test_a_trade(exchange):
    """An order that crosses is accepted and filled at the maker's price; the maker's report comes first."""
    reports = exchange.order(7, order=4, account=12, side="buy", price=61, quantity=3)
    assert reports.dtype == REPORT
    expected = [ReportKind.ACCEPTED] + 2 * [ReportKind.FILL_MAKER, ReportKind.FILL_TAKER]
    assert expected == kinds(reports)
    assert [61, 60, 60, 61, 61] == reports["price"].tolist()
    assert [3, 0, 1, 6, 0] == reports["leaves"].tolist()
    assert (50, 61) == exchange.best(7)


def test_depth_and_best(exchange):
    """Depth is (price, lots) rows, best first, no more than asked for; best is None where nothing rests."""
    bids, asks = exchange.depth(7)
    assert [[50, 5]] == bids.tolist()
    assert [[60, 2], [61, 7]] == asks.tolist()
    assert [[60, 2]] == exchange.depth(7, 1)[1].tolist()
    exchange.cancel(7, order=1, account=10)
    assert (None, 60) == exchange.best(7)


def test_open_lots_follow_an_order(exchange):
    """Open lots are what can still trade: after fills, amends, and 0 once the order is gone."""
    assert 5 == exchange.open_lots(7, 1)
    exchange.order(7, order=4, account=12, side="sell", quantity=2, order_type="market", time_in_force="ioc")
    assert 3 == exchange.open_lots(7, 1)
    exchange.amend(7, order=1, account=10, quantity=4)
    assert 2 == exchange.open_lots(7, 1)
    exchange.amend(7, order=1, account=10, price=49)
    assert 49 == exchange.best(7)[0]
    exchange.cancel(7, order=1, account=10)
    assert 0 == exchange.open_lots(7, 1)


def test_settling(exchange):
    """A settled event shows nothing, is no longer listed, and is remembered."""
    exchange.create_event(-3)
    assert [-3, 7] == exchange.events()
    assert 3 * [ReportKind.CANCELED] + [ReportKind.EVENT_SETTLED] == kinds(exchange.settle(7))
    assert [-3] == exchange.events()
    assert EventState.SETTLED == exchange.state(7)
    assert 0 == len(exchange.resting(7))
    assert ([], []) == tuple(side.tolist() for side in exchange.depth(7))
    assert Reason.ALREADY_SETTLED == exchange.create_event(7)["reason"][0]


def test_statistics(exchange):
    """Statistics count log positions, events, resting orders and levels handed out."""
    assert {"seq": 4, "events": 1, "orders": 3, "levels": 128, "keys": 0} == exchange.statistics()


def test_nothing_submitted_reports_nothing(exchange):
    """An empty array is no command."""
    assert 0 == len(exchange.submit(np.zeros(0, COMMAND)))
    assert 4 == exchange.statistics()["seq"]


def test_submit_leaves_the_array_alone(exchange):
    """The caller's array is not written to, and may be a read-only slice with steps."""
    commands = flow(200, seed=1)[::2]
    commands.setflags(write=False)
    before = commands.tobytes()
    exchange.submit(commands)
    assert before == commands.tobytes()


def test_digest_is_that_of_what_rests():
    """Two exchanges that came to the same orders in different ways, in different memory, have one digest."""
    one, other = Exchange(Limits(events=2, orders=64, levels=4_096)), Exchange(Limits(events=9, orders=128))
    for event in (1, 2):
        one.create_event(event)
    for event in (5, 2, 1):
        other.create_event(event)
    other.settle(5)
    for order, price in ((9, 30), (1, 50), (2, 50)):
        other.order(1, order=order, account=1, side="buy", price=price, quantity=2)
    other.cancel(1, order=9, account=1)
    for order in (1, 2):
        one.order(1, order=order, account=1, side="buy", price=50, quantity=2)
    assert other.digest() == one.digest()
    assert 32 == len(one.digest())


@pytest.mark.parametrize(
    "order",
    [
        {"order": 2},
        {"account": 2},
        {"price": 49},
        {"quantity": 4},
        {"side": "sell"},
        {"event": 2},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_digest_sees_every_field(order):
    """One order that differs in any one field makes another digest."""
    usual = {"event": 1, "order": 1, "account": 1, "side": "buy", "price": 50, "quantity": 3}
    digests = set()
    for fields in (usual, usual | order):
        exchange = Exchange(Limits(events=2, orders=64, levels=4_096))
        exchange.submit(creations(2))
        exchange.order(**fields)
        digests.add(exchange.digest())
    assert 2 == len(digests)


def test_digest_sees_priority():
    """The same two orders in the other order make another digest."""
    digests = set()
    for ids in ((1, 2), (2, 1)):
        exchange = Exchange(Limits(events=2, orders=64, levels=4_096))
        exchange.create_event(1)
        for order in ids:
            exchange.order(1, order=order, account=1, side="buy", price=50, quantity=1)
        digests.add(exchange.digest())
    assert 2 == len(digests)


def test_engine_time_never_runs_backwards():
    """M12: a FRAME carries the larger of its own time and the last one."""
    records = frames(creations(3), 1)
    records.view(MARKER)["engine_ns"][::2] = [50, 20, 60]
    reports = Exchange(market_data=True).submit(records)
    assert [50, 50, 60] == reports["price"][reports["kind"] == ReportKind.FRAME].tolist()


def test_unknown_event(exchange):
    """A question about an event that was never created says how to create it."""
    for ask in (exchange.depth, exchange.best, exchange.resting, exchange.state):
        with pytest.raises(UnknownEvent, match=r"no event 8: create it with create_event\(8\)"):
            ask(8)


def test_wrong_dtype_is_refused(exchange):
    """Reports are not commands."""
    with pytest.raises(TypeError, match="commands must have the dtype"):
        exchange.submit(np.zeros(1, REPORT))


@pytest.mark.parametrize("slots", [0, 4, 12])
def test_report_slots_are_checked(slots):
    """Room for reports is a power of two that one step's reports fit in."""
    with pytest.raises(ValueError, match=f"report_slots must be a power of two of at least 8, was {slots}"):
        Exchange(report_slots=slots)


def test_unknown_names_are_refused(exchange):
    """A side that does not exist is named, with those that do."""
    with pytest.raises(ValueError, match="Side must be one of buy, sell, was 'bid'"):
        exchange.order(7, order=9, account=1, side="bid", price=50, quantity=1)


def test_naive_refuses_a_marker_inside_a_frame():
    """A frame is whole: the naive exchange says how many commands were still to come."""
    records = frames(creations(3), 3)
    naive = NaiveExchange()
    naive.run(records[:2])
    with pytest.raises(ValueError, match="a frame must be whole, but a marker came 2 commands early"):
        naive.apply(records[0])
    assert CommandKind.MARKER == records[0]["kind"]
