"""Every numbered invariant is noticed when it is broken, by its number."""

import numpy as np
import pytest

from ringpit.engine import index
from ringpit.engine.codes import Side
from ringpit.engine.exchange import Exchange
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import Limits
from ringpit.engine.tables import Cell
from ringpit.engine.validate import InvariantBroken
from ringpit.shards.flow import creations, frames


@pytest.fixture
def exchange():
    """Two bids at 50, one at 40, an ask at 60, a settled event, and one frame key in the window."""
    made = Exchange(Limits(events=4, orders=64, levels=4_096, keys=64))
    made.submit(frames(creations(2), 2, publisher_key=1))
    made.settle(2)
    for order, (side, price) in enumerate([("buy", 50), ("buy", 50), ("buy", 40), ("sell", 60)], 1):
        made.order(1, order=order, account=1, side=side, price=price, quantity=3)
    made.validate()
    return made


def slot_of(exchange, order):
    """Order slot of an open order."""
    return int(
        np.flatnonzero((exchange.tables.orders["id"] == order) & (exchange.tables.orders["level"] != NIL))[0]
    )


def lose_a_slot(exchange):
    """The free list forgets its first slot."""
    t = exchange.tables
    t.cells[Cell.ORDERS_FREE] = t.orders[t.cells[Cell.ORDERS_FREE]]["next"]


def use_a_slot_twice(exchange):
    """The free list's last slot is one that rests."""
    t = exchange.tables
    t.orders["next"][np.flatnonzero((t.orders["level"] == NIL) & (t.orders["next"] == NIL))] = slot_of(
        exchange, 3
    )


def miscount_orders(exchange):
    """ORDERS_USED is one too high."""
    exchange.tables.cells[Cell.ORDERS_USED] += 1


def lie_about_open_lots(exchange):
    """An order has another number of open lots than its level counts."""
    exchange.tables.orders["open"][slot_of(exchange, 1)] = 2


def cut_a_link(exchange):
    """The newest of a queue no longer knows who stands in front."""
    exchange.tables.orders["previous"][slot_of(exchange, 2)] = NIL


def forget_the_best(exchange):
    """The best bid is one level too low."""
    exchange.tables.books["best_bid"][0] -= 10


def forget_the_best_ask(exchange):
    """There is an ask, but no best ask."""
    exchange.tables.books["best_ask"][0] = NIL


def lose_a_run(exchange):
    """The free list of the settled event's run is cut off."""
    cells = exchange.tables.cells
    cells[Cell.RUNS_FREE :] = NIL


def clear_a_low_bit(exchange):
    """An occupied level has no bit."""
    t = exchange.tables
    level = t.orders["level"][slot_of(exchange, 3)]
    t.bitmap[level >> 6] &= ~(1 << int(level) % 64)


def clear_a_high_bit(exchange):
    """A word that is not 0 has no bit above."""
    exchange.tables.bitmap[4_096 // 64] = 0


def move_an_entry(exchange):
    """An entry of the index lies behind a gap."""
    table = exchange.tables.index
    position = int(np.flatnonzero(table != index.GAP)[0])
    target = (position + 64) % len(table)
    table[target], table[position] = table[position], index.GAP


def drop_an_entry(exchange):
    """An open order is in no entry of the index."""
    table = exchange.tables.index
    index.erase(table, int(np.flatnonzero(table != index.GAP)[0]))


def drop_an_event(exchange):
    """An event is in no entry of its index."""
    table = exchange.tables.event_index
    index.erase(table, int(np.flatnonzero(table != index.GAP)[0]))


def fill_the_index(exchange):
    """The index has more entries than its gaps allow."""
    table = exchange.tables.index
    table[table == index.GAP] = 5


def repeat_a_key(exchange):
    """The window holds one key twice."""
    t = exchange.tables
    t.keys[1] = t.keys[0]
    t.cells[Cell.KEYS_SEEN] += 1


@pytest.mark.parametrize(
    ("harm", "invariant"),
    [
        (lose_a_slot, "T1"),
        (use_a_slot_twice, "T1"),
        (miscount_orders, "T1"),
        (lie_about_open_lots, "T2"),
        (cut_a_link, "T2"),
        (forget_the_best, "T3"),
        (forget_the_best_ask, "T3"),
        (lose_a_run, "T4"),
        (clear_a_low_bit, "B1"),
        (clear_a_high_bit, "B2"),
        (move_an_entry, "H1"),
        (fill_the_index, "H2"),
        (drop_an_entry, "H3"),
        (drop_an_event, "H3"),
        (repeat_a_key, "W1"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_harm_is_noticed(exchange, harm, invariant):
    """Tables harmed in one place break the invariant that speaks of it."""
    harm(exchange)
    with pytest.raises(InvariantBroken, match=f"invariant {invariant} is broken"):
        exchange.validate()


def test_a_side_is_known_by_the_best_bid(exchange):
    """The side of a resting order, stored nowhere, follows from where its level lies."""
    assert [Side.BUY] * 3 + [Side.SELL] == exchange.resting(1)["side"].tolist()
