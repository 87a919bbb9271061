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
from ringpit.engine.codes import LevelKind, Queue, SelfTrade, Trait
from ringpit.engine.digest import digest_of_each
from ringpit.engine.limits import INT64_MAX
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
    expected = {"seq": 4, "events": 1, "events_open": 1, "orders": 3, "levels": 128, "keys": 0, "timers": 0}
    counted = exchange.statistics()
    assert expected == {name: counted[name] for name in expected}
    assert (4, 64, 4_096) == (counted["events_max"], counted["orders_max"], counted["levels_max"])


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


# -- every verb, every keyword ----------------------------------------------------------------------------------


def reasons(reports):
    """Kind and reason of each report."""
    return [(ReportKind(kind), Reason(reason)) for kind, reason in reports[["kind", "reason"]].tolist()]


def status(exchange, order, *names):
    """Fields of an open order of event 7."""
    row = exchange.order_status(7, order)
    return tuple(int(row[name]) for name in names)


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({}, {"price": 40, "open": 9, "shown": 9, "traits": 0}),
        ({"post_only": True}, {"traits": Trait.POST_ONLY}),
        ({"hidden": True}, {"shown": 0, "traits": Trait.HIDDEN}),
        ({"display": 2}, {"shown": 2, "display": 2, "traits": Trait.ICEBERG}),
        ({"all_or_none": True}, {"queue": Queue.BUY_ALL_OR_NONE, "price": 40, "traits": Trait.ALL_OR_NONE}),
        ({"group": 3}, {"group": 3, "traits": Trait.GROUPED}),
        ({"self_trade": "cancel_maker"}, {"traits": SelfTrade.CANCEL_MAKER}),
        ({"time_in_force": "gtd", "expires_ns": 77}, {"expires_ns": 77, "traits": Trait.TIMED}),
        ({"time_in_force": "DAY"}, {"expires_ns": 1_000, "traits": Trait.TIMED}),
        (
            {"outcome": "no", "side": "sell", "price": 60},
            {"price": 40, "queue": Queue.BIDS, "traits": Trait.NO},
        ),
        (
            {"order_type": "stop_limit", "trigger": 70, "price": 71},
            {"queue": Queue.BUY_STOPS, "price": 71, "trigger": 70, "shown": 0, "traits": Trait.STOP},
        ),
        (
            {"order_type": "stop", "trigger": 70, "price": None},
            {"queue": Queue.BUY_STOPS, "trigger": 70, "traits": Trait.STOP | Trait.NO_PRICE | Trait.MARKET},
        ),
        (
            {"order_type": "trailing_stop", "trigger": 70, "trail": 4, "price": None},
            {
                "trigger": 70,
                "trail": 4,
                "traits": Trait.STOP | Trait.TRAILING | Trait.NO_PRICE | Trait.MARKET,
            },
        ),
    ],
    ids=lambda value: "-".join(value) or "plain" if isinstance(value, dict) else None,
)
def test_every_keyword_of_an_order(keywords, expected):
    """What an order is asked to be it is: the RESTING row says so."""
    exchange = Exchange(Limits(events=4, orders=64, levels=4_096, keys=64, nodes=64))
    exchange.create_event(7, closes_ns=1_000)
    usual = {"order": 1, "account": 10, "side": "buy", "price": 40, "quantity": 9}
    assert [ReportKind.ACCEPTED] == kinds(exchange.order(7, **usual | keywords))
    row = exchange.order_status(7, 1)
    assert expected == {name: int(row[name]) for name in expected}
    assert (7, 1, 10, 9, 0) == tuple(row[["event", "order", "account", "open", "filled"]].item())
    exchange.validate()


def test_orders_that_do_not_rest(exchange):
    """Market orders, money orders, IOC and FOK: by the names that codes have."""
    reports = exchange.order(7, order=4, account=12, side="buy", quantity=121, order_type="money")
    assert [ReportKind.ACCEPTED, ReportKind.FILL_MAKER, ReportKind.FILL_TAKER, ReportKind.CANCELED] == kinds(
        reports
    )
    assert [2, 2] == reports["quantity"][1:3].tolist()
    fok = {"order": 5, "account": 12, "side": "buy", "price": 61, "time_in_force": "fok"}
    reports = exchange.order(7, quantity=8, **fok)
    assert Reason.FOK_UNFILLABLE == reports["reason"][-1]
    assert ReportKind.FILL_TAKER == kinds(exchange.order(7, quantity=7, **fok))[-1]
    reports = exchange.order(7, order=6, account=12, side="buy", price=61, quantity=1, time_in_force="ioc")
    assert (ReportKind.CANCELED, Reason.IOC_REMAINDER) == reasons(reports)[-1]


def test_replace(exchange):
    """REPLACE gives new open lots at the back of the queue, at another price if one is given."""
    exchange.order(7, order=4, account=12, side="buy", price=50, quantity=2)
    assert (0, 0) == exchange.queue_position(7, 1)
    assert [ReportKind.AMENDED] == kinds(exchange.replace(7, order=1, account=10, quantity=5))
    assert (1, 2) == exchange.queue_position(7, 1)
    exchange.replace(7, order=1, account=10, quantity=3, price=51)
    assert (51, 3) == status(exchange, 1, "price", "open")
    assert [(ReportKind.REJECTED, Reason.NOT_OWNER)] == reasons(
        exchange.replace(7, order=1, account=9, quantity=1)
    )


def test_reduce(exchange):
    """REDUCE takes lots off and keeps the place; with the last lot the order is gone."""
    exchange.order(7, order=4, account=12, side="buy", price=50, quantity=2)
    assert [ReportKind.AMENDED] == kinds(exchange.reduce(7, order=1, account=10, quantity=4))
    assert ((0, 0), 1) == (exchange.queue_position(7, 1), exchange.open_lots(7, 1))
    assert [ReportKind.CANCELED] == kinds(exchange.reduce(7, order=1, account=10, quantity=4))
    assert exchange.order_status(7, 1) is None
    assert exchange.queue_position(7, 1) is None


@pytest.mark.parametrize(
    ("event", "keywords", "left"),
    [
        (7, {}, {(3, 1), (3, 2)}),
        (None, {}, set()),
        (7, {"account": 11}, {(7, 1), (3, 1), (3, 2)}),
        (None, {"account": 11}, {(7, 1), (3, 2)}),
        (None, {"side": "sell"}, {(7, 1), (3, 1)}),
        (7, {"side": Side.BUY}, {(7, 2), (7, 3), (3, 1), (3, 2)}),
        (None, {"group": 5}, {(7, 1), (7, 2), (7, 3), (3, 1)}),
        (7, {"group": 5}, {(7, 1), (7, 2), (7, 3), (3, 1), (3, 2)}),
    ],
    ids=str,
)
def test_mass_cancel(exchange, event, keywords, left):
    """What an event, an account, a side and a group have in common is cancelled, and counted at the end."""
    exchange.create_event(3)
    exchange.order(3, order=1, account=11, side="buy", price=20, quantity=1)
    exchange.order(3, order=2, account=12, side="sell", price=30, quantity=1, group=5)
    reports = exchange.mass_cancel(event, **keywords)
    assert [*(5 - len(left)) * [(ReportKind.CANCELED, Reason.MASS_CANCEL)], (ReportKind.MASS_CANCELED, 0)] == (
        reasons(reports)
    )
    assert 5 - len(left) == reports["leaves"][-1]
    rows = np.concatenate([exchange.resting(3), exchange.resting(7)])
    assert left == set(rows[["event", "order"]].tolist())


def test_advance(exchange):
    """Time is given, goes on and never back; what is due by then expires, first what is due first."""
    for order, expires_ns in ((4, 30), (5, 20), (6, 21)):
        exchange.order(
            7,
            order=order,
            account=12,
            side="buy",
            price=9,
            quantity=1,
            time_in_force="gtd",
            expires_ns=expires_ns,
        )
    assert 0 == len(exchange.advance(19))
    reports = exchange.advance(21)
    assert 2 * [(ReportKind.CANCELED, Reason.EXPIRED)] == reasons(reports)
    assert [5, 6] == reports["order"].tolist()
    assert 0 == len(exchange.advance(5))
    assert 21 == exchange.statistics()["engine_ns"]
    late = exchange.order(
        7, order=7, account=12, side="buy", price=9, quantity=1, time_in_force="gtd", expires_ns=21
    )
    assert Reason.EXPIRED_ON_ARRIVAL == late["reason"][-1]
    assert 1 == exchange.statistics()["timers"]


def test_create_event_with_bands():
    """Prices must lie on the step of their band; the same bands again are the same event, others another."""
    exchange = Exchange(Limits(events=4, orders=64, levels=4_096, keys=64))
    bands = [(10, 1), (90, 5), (99, 1)]
    assert [ReportKind.EVENT_CREATED] == kinds(exchange.create_event(1, bands=bands))
    for price, reason in ((9, 0), (15, 0), (16, Reason.PRICE_NOT_ON_TICK), (91, 0)):
        reports = exchange.order(1, order=price, account=1, side="buy", price=price, quantity=1)
        assert reason == reports["reason"][0]
    assert [ReportKind.EVENT_CREATED] == kinds(exchange.create_event(1, bands=bands))
    assert [(ReportKind.REJECTED, Reason.EVENT_EXISTS)] == reasons(exchange.create_event(1))
    assert [(ReportKind.REJECTED, Reason.UNSUPPORTED)] == reasons(exchange.create_event(2, bands=bands[:2]))


def test_create_event_with_as_many_bands_as_there_may_be():
    """Twelve bands take two records; thirteen are refused."""
    exchange = Exchange(Limits(events=4, orders=64, levels=4_096, keys=64))
    twelve = [(10 * i, 1) for i in range(1, 13)]
    assert [ReportKind.EVENT_CREATED] == kinds(exchange.create_event(1, 0, 120, 0, bands=twelve))
    thirteen = [*twelve, (130, 1)]
    assert [(ReportKind.REJECTED, Reason.UNSUPPORTED)] == reasons(
        exchange.create_event(2, 0, 130, 0, bands=thirteen)
    )


def test_create_event_with_limits():
    """No more open orders than the event may have, and no more of one account than it may have."""
    exchange = Exchange(Limits(events=4, orders=64, levels=4_096, keys=64))
    exchange.create_event(1, orders_max=3, account_orders_max=2)
    expected = [0, 0, Reason.OPEN_ORDER_LIMIT, 0, Reason.BOOK_CAPACITY]
    for order, (account, reason) in enumerate(zip([1, 1, 1, 2, 2], expected, strict=True)):
        reports = exchange.order(1, order=order, account=account, side="buy", price=5, quantity=1)
        assert reason == reports["reason"][0]
    exchange.validate()


@pytest.mark.parametrize(
    ("levels", "high", "expected"),
    [
        ("auto", 99, LevelKind.LADDER),
        ("auto", 1 << 19, LevelKind.SKIP_LIST),
        ("ladder", 99, LevelKind.LADDER),
        ("skip_list", 99, LevelKind.SKIP_LIST),
        (LevelKind.SKIP_LIST, 1 << 19, LevelKind.SKIP_LIST),
    ],
    ids=str,
)
def test_create_event_with_a_structure(levels, high, expected):
    """The structure is chosen by the range, or named."""
    exchange = Exchange(Limits(events=4, orders=64, levels=4_096, keys=64), market_data=True)
    reports = exchange.create_event(1, 0, high, 0, levels=levels)
    assert [ReportKind.EVENT_CREATED, ReportKind.BOOK_RESET] == kinds(reports)
    assert (expected == LevelKind.SKIP_LIST) == (reports["leaves"][1] == -1)


def test_create_event_with_a_tick():
    """The tick is told to whoever draws the book, and content that differs in it is another event."""
    exchange = Exchange(Limits(events=4, orders=64, levels=4_096, keys=64), market_data=True)
    reports = exchange.create_event(1, tick_units=25, decimals=4)
    assert 25 * 32 + 4 == reports["order"][1]
    assert Reason.EVENT_EXISTS == exchange.create_event(1, tick_units=25)["reason"][0]
    assert Reason.UNSUPPORTED == exchange.create_event(2, decimals=19)["reason"][0]


def test_questions_about_orders_of_unknown_events(exchange):
    """Questions about an order say which event does not exist."""
    for ask in (exchange.open_lots, exchange.order_status, exchange.queue_position):
        with pytest.raises(UnknownEvent, match="no event 8"):
            ask(8, 1)
    assert exchange.order_status(7, 99) is None


def test_a_settled_event_remembers_its_bands():
    """What a settled event was is told from its own bands, whatever event has taken their place in the table of bands."""
    first, second = [(50, 5), (100, 10)], [(20, 2), (100, 4)]
    exchange = Exchange(Limits(events=4, orders=64, levels=4_096, keys=64, grids=1))
    exchange.create_event(1, 0, 100, 0, bands=first)
    exchange.settle(1)
    exchange.create_event(2, 0, 100, 0, bands=second)
    again = {
        reason: exchange.create_event(1, 0, 100, 0, bands=bands)["reason"].tolist()
        for reason, bands in ((Reason.ALREADY_SETTLED, first), (Reason.EVENT_EXISTS, second))
    }
    assert {
        Reason.ALREADY_SETTLED: [Reason.ALREADY_SETTLED],
        Reason.EVENT_EXISTS: [Reason.EVENT_EXISTS],
    } == again
    assert [Reason.EVENT_EXISTS] == exchange.create_event(1, 0, 100, 0)["reason"].tolist()


def test_the_end_of_time_expires_what_is_there_and_ends():
    """A tick at the last nanosecond that there is cancels what expires, and finds an end when nothing does any more."""
    exchange = Exchange(Limits(events=4, orders=64, levels=4_096, keys=64))
    exchange.create_event(1)
    exchange.order(
        1, order=1, account=1, side="buy", price=5, quantity=1, time_in_force="gtd", expires_ns=INT64_MAX
    )
    assert [Reason.EXPIRED] == exchange.advance(INT64_MAX)["reason"].tolist()
    assert 0 == len(exchange.advance(INT64_MAX))


def test_the_digest_of_an_event_is_that_of_a_shard_of_its_own():
    """So that books can be compared wherever they live."""
    both, alone = Exchange(), Exchange()
    for exchange, events in ((both, (7, 3)), (alone, (3,))):
        for event in events:
            exchange.create_event(event)
            exchange.order(event, order=1, account=event, side="sell", price=50, quantity=9)
            exchange.order(event, order=2, account=1, side="buy", price=50, quantity=2)
    assert [3, 7] == list(digest_of_each(both.tables))
    assert {3: alone.digest()} == digest_of_each(alone.tables)
    assert alone.digest() == digest_of_each(both.tables)[3] != digest_of_each(both.tables)[7]
