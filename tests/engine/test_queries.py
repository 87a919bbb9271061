"""Questions beside the naive exchange, and small cases made by hand."""

import numpy as np
import pytest
from numba import config

from ringpit.engine.codes import EventState, LevelKind, Queue, Side, Trait
from ringpit.engine.digest import RESTING
from ringpit.engine.exchange import Exchange
from ringpit.engine.limits import Limits
from ringpit.engine.queries import open_orders, order_row, queue_position
from ringpit.testing.naive import NaiveExchange
from ringpit.testing.sessions import IDS, session, with_levels

COMPILED = not config.DISABLE_JIT
LIMITS = Limits(events=2_048, orders=1_024, levels=1 << 20, keys=1_024, nodes=1 << 14)
SMALL = Limits(events=8, orders=64, levels=4_096, keys=64, nodes=1_024)
KINDS = (LevelKind.LADDER, LevelKind.SKIP_LIST)
ACCOUNTS = 5
SPECIAL = Trait.HIDDEN | Trait.ICEBERG | Trait.ALL_OR_NONE | Trait.STOP
QUEUE, PRICE, ORDER, OPEN, ACCOUNT, _, SHOWN, TRAITS, *_ = range(len(RESTING) - 1)  # a naive row


def naive_position(book, order):
    """Orders and lots in front of an order of the naive exchange, at its price (a stop's: its trigger)."""

    def level_of(each):
        return each.trigger if each.is_stop else each.price

    queue = book.lists[order.queue]
    ahead = [each for each in queue[: queue.index(order)] if level_of(each) == level_of(order)]
    return len(ahead), sum(each.shown or each.open for each in ahead)


def check_orders(naive, t):
    """Every open order has its row and its place; every other id of its event has none."""
    for event, book in naive.events.items():
        rows = {row[ORDER]: [(event, *row)] for row in naive.resting(event)}
        assert sorted(rows) == sorted(book.orders)
        for order in range(-1, IDS + 2):
            assert rows.get(order, []) == order_row(t, event, order).tolist()
        for order in book.orders.values():
            assert naive_position(book, order) == queue_position(t, event, order.order)


def check_accounts(naive, t):
    """Accounts have their rows, event by event."""
    rows = [(event, *row) for event in sorted(naive.events) for row in naive.resting(event)]
    for account in range(ACCOUNTS + 3):
        assert [row for row in rows if row[1 + ACCOUNT] == account] == open_orders(t, account).tolist()


def check_statistics(naive, engine):
    """What is counted is what is there."""
    rows = [row for event in naive.events for row in naive.resting(event)]
    counted = engine.statistics()
    expected = {
        "seq": naive.seq,
        "events": len(naive.events),
        "events_open": sum(book.state == EventState.OPEN for book in naive.events.values()),
        "orders": len(rows),
        "special": sum(bool(row[TRAITS] & SPECIAL) for row in rows),
        "timers": sum(bool(row[TRAITS] & Trait.TIMED) for row in rows),
        "engine_ns": naive.engine_ns,
        "orders_max": LIMITS.orders,
        "levels_max": LIMITS.levels,
        "nodes_max": LIMITS.nodes,
        "events_max": LIMITS.events,
    }
    assert expected == {name: counted[name] for name in expected}
    assert {"levels", "nodes", "keys"} == set(counted) - set(expected)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.lower())
def test_a_session_of_everything(kind):
    """Between the batches of a session every question has the naive exchange's answer, and asking changes nothing."""
    records = session(6_000 if COMPILED else 500, seed=21, accounts=ACCOUNTS)
    naive, engine = NaiveExchange(LIMITS), Exchange(LIMITS)
    for part in np.array_split(records, 8 if COMPILED else 3):
        naive.run(part)
        engine.submit(with_levels(part, kind))
        before = b"".join(array.tobytes() for array in engine.tables)
        check_orders(naive, engine.tables)
        check_accounts(naive, engine.tables)
        check_statistics(naive, engine)
        for event in naive.events:
            for levels in (0, 1, 3, 1_000):
                bids, asks = engine.depth(event, levels)
                expected = [side[:levels] for side in naive.depth(event)]
                assert expected == [bids.tolist(), asks.tolist()]
        assert before == b"".join(array.tobytes() for array in engine.tables)
    assert len(open_orders(engine.tables, 1)) > 0


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name.lower())
def exchange(request):
    """An event with something of each sort at one price or one trigger."""
    made = Exchange(SMALL)
    made.create_event(7, levels=request.param)
    buy = {"account": 1, "side": "buy", "price": 50}
    made.order(7, order=1, quantity=9, hidden=True, **buy)
    made.order(7, order=2, quantity=20, display=3, **buy)
    made.order(7, order=3, quantity=4, outcome="yes", **buy)
    made.order(7, order=4, quantity=6, hidden=True, **buy | {"account": 2})
    made.order(7, order=5, account=2, side="sell", outcome="no", price=50, quantity=5)
    made.order(7, order=6, quantity=70, all_or_none=True, **buy)
    made.order(7, order=7, quantity=30, all_or_none=True, **buy)
    for order, trigger in ((8, 60), (9, 60), (10, 61)):
        made.order(
            7,
            order=order,
            account=3,
            side="buy",
            order_type="stop_limit",
            trigger=trigger,
            price=62,
            quantity=order,
        )
    made.validate()
    return made


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (2, (0, 0)),  # what is hidden came before and stands behind
        (3, (1, 3)),  # of the iceberg the slice
        (5, (2, 7)),  # SELL NO at 50 is BUY YES at 50
        (1, (3, 12)),
        (4, (4, 21)),  # of what is hidden everything
        (6, (0, 0)),
        (7, (1, 70)),  # of what waits everything
        (8, (0, 0)),
        (9, (1, 8)),
        (10, (0, 0)),  # alone at its trigger
        (11, None),
    ],
)
def test_queue_positions(exchange, order, expected):
    """Who stands in front at the price, with the lots that trade before."""
    assert expected == exchange.queue_position(7, order)


def test_queue_position_after_a_slice(exchange):
    """An iceberg whose slice is gone stands behind those that are shown, and in front of the hidden ones."""
    exchange.order(7, order=20, account=9, side="sell", price=50, quantity=3)
    assert (0, 0) == exchange.queue_position(7, 3)
    assert (2, 9) == exchange.queue_position(7, 2)
    assert (3, 12) == exchange.queue_position(7, 1)
    assert 17 == exchange.open_lots(7, 2)


def test_rows_of_what_is_special(exchange):
    """Rows say what an order is: its list, what it shows, trigger, limit and slice."""
    rows = {order: exchange.order_status(7, order) for order in range(1, 11)}
    assert (Queue.BIDS, 0, Trait.HIDDEN) == tuple(rows[1][["queue", "shown", "traits"]].item())
    assert (20, 3, 3, Trait.ICEBERG) == tuple(rows[2][["open", "shown", "display", "traits"]].item())
    assert (Queue.BIDS, 50, Trait.NO) == tuple(rows[5][["queue", "price", "traits"]].item())
    assert (Queue.BUY_ALL_OR_NONE, 50, 0) == tuple(rows[6][["queue", "price", "shown"]].item())
    assert (Queue.BUY_STOPS, 62, 60, Trait.STOP) == tuple(
        rows[9][["queue", "price", "trigger", "traits"]].item()
    )
    assert rows[9].dtype == RESTING


def test_depth_shows_what_is_shown(exchange):
    """Depth leaves out what is hidden and what waits, and of an iceberg all but its slice."""
    assert [[50, 3 + 4 + 5]] == exchange.depth(7)[0].tolist()
    exchange.order(7, order=21, account=9, side="sell", price=70, quantity=2, hidden=True)
    exchange.order(7, order=22, account=9, side="sell", price=71, quantity=4)
    assert [[71, 4]] == exchange.depth(7, 1)[1].tolist(), "a level that shows nothing takes no row"
    assert 0 == len(exchange.depth(7, 0)[0])


def test_open_orders_of_an_account(exchange):
    """By ascending event, then list by list in priority order; an account without orders has none."""
    exchange.create_event(3)
    exchange.order(3, order=1, account=1, side=Side.SELL, price=9, quantity=1)
    rows = exchange.open_orders(1)
    assert [(3, 1), (7, 2), (7, 3), (7, 1), (7, 6), (7, 7)] == rows[["event", "order"]].tolist()
    assert [(7, 8), (7, 9), (7, 10)] == exchange.open_orders(3)[["event", "order"]].tolist()
    assert 0 == len(exchange.open_orders(77))
    exchange.settle(7)
    assert [(3, 1)] == exchange.open_orders(1)[["event", "order"]].tolist()


def test_nothing_is_known_of_unknown_events(exchange):
    """Of an event that never was there is no row and no place; the same id of another event is another order."""
    exchange.create_event(8)
    for event in (8, 9):
        assert 0 == len(order_row(exchange.tables, event, 1))
        assert queue_position(exchange.tables, event, 1) is None


def test_statistics_of_a_small_shard(exchange):
    """Ten orders: two hidden, an iceberg, two all-or-none, three stops; none expires."""
    counted = exchange.statistics()
    assert (10, 8, 0) == (counted["orders"], counted["special"], counted["timers"])
    is_ladder = counted["levels"] == 128
    assert (3 + 2 if is_ladder else 2 + 1 + 3 + 2) == counted["nodes"], "heads and levels: see skiplist.py"
