"""Every numbered invariant is noticed when it is broken, by its number."""

import numpy as np
import pytest

from ringpit.engine import index, skiplist, trails
from ringpit.engine.codes import Queue, Side, Trait
from ringpit.engine.exchange import Exchange
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import Limits
from ringpit.engine.tables import Cell
from ringpit.engine.validate import InvariantBroken, validate
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
        (cut_a_link, "T1"),
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


def test_a_side_is_known_by_the_level(exchange):
    """The side of a resting order, stored with its level only, is that of the list it is in."""
    assert [Queue.BIDS] * 3 + [Queue.ASKS] == exchange.resting(1)["queue"].tolist()


# -- all that a shard can hold ----------------------------------------------------------------------------------

LADDER, SKIP_LIST, SETTLED = range(3)  # book slots


@pytest.fixture
def full():
    """
    A ladder with bands and a limit by account, a skip list, and a settled event.

    In the ladder: bids of 3 and of hidden 4 at 50, orders that expire at 40, 60 and 65, two trailing stops, and one
    that is all-or-none. In the skip list: bids at 10 to 80, an ask at 90.
    """
    made = Exchange(Limits(events=6, orders=64, levels=4_096, keys=64, nodes=64, grids=2))
    made.create_event(1, bands=[(10, 1), (90, 5), (99, 1)], account_orders_max=9)
    made.create_event(2, levels="skip_list")
    made.create_event(3)
    made.settle(3)
    made.order(1, order=1, account=1, side="buy", price=50, quantity=3)
    made.order(1, order=2, account=1, side="buy", price=50, quantity=4, hidden=True)
    for order, (side, price) in enumerate((("buy", 40), ("sell", 60), ("sell", 65)), 3):
        made.order(
            1, order=order, account=2, side=side, price=price, quantity=1, time_in_force="gtd", expires_ns=order
        )
    for order in (6, 7):
        trailing = {"order_type": "trailing_stop", "trigger": 20, "trail": 3}
        made.order(1, order=order, account=3, side="sell", quantity=1, **trailing)
    made.order(1, order=8, account=4, side="buy", price=45, quantity=50, all_or_none=True)
    for order in range(1, 9):
        made.order(2, order=order, account=1, side="buy", price=10 * order, quantity=1)
    made.order(2, order=9, account=1, side="sell", price=90, quantity=1)
    made.validate()
    assert 17 == made.statistics()["orders"]
    return made.tables


def order_of(t, order, book=LADDER):
    """Order slot of an open order of a book."""
    orders = t.orders
    return int(np.flatnonzero((orders["id"] == order) & (orders["book"] == book) & (orders["level"] != NIL))[0])


def level_of(t, order, book=LADDER):
    """Level slot of an open order of a book."""
    return int(t.orders["level"][order_of(t, order, book)])


def first_node(t, book=SKIP_LIST, queue=Queue.BIDS):
    """First node of a list."""
    return int(skiplist.first(t, t.lists[book, queue]))


def erase_one(table):
    """Erase the first entry of an index."""
    index.erase(table, int(np.flatnonzero(table != index.GAP)[0]))


def swap_hidden(t):
    """The shown order of a level is hidden, and the hidden one behind it is shown."""
    t.orders["traits"][[order_of(t, 1), order_of(t, 2)]] = Trait.HIDDEN, 0


def show_too_much(t):
    """An order shows more than it has, and its level counts it."""
    t.orders["shown"][order_of(t, 1)] += 1
    t.levels["quantity"][level_of(t, 1)] += 1


def cross(t):
    """The best bid and the best ask change sides."""
    bid, ask = level_of(t, 1), level_of(t, 4)
    t.levels["side"][[bid, ask]] = Side.SELL, Side.BUY
    t.books["best_bid"][LADDER], t.books["best_ask"][LADDER] = ask, bid


def hang_in_bids(t):
    """The list of all-or-none orders of a ladder hangs where a skip list has its bids."""
    t.lists[LADDER, Queue.BIDS] = t.lists[LADDER, Queue.BUY_ALL_OR_NONE]
    t.lists[LADDER, Queue.BUY_ALL_OR_NONE] = NIL
    t.links[first_node(t, LADDER), skiplist.OWNER] = 0


def vacate(t):
    """A level of a skip list has no order."""
    for name in ("head", "tail"):
        t.levels[name][level_of(t, 8, SKIP_LIST)] = NIL


def lose_a_node(t):
    """The free list forgets its first node."""
    t.cells[Cell.NODES_FREE] = t.links[t.cells[Cell.NODES_FREE], 0]


def free_a_used_run(t):
    """The run of an open ladder is in the free list."""
    t.cells[Cell.RUNS_FREE + 7] = t.books["base"][LADDER]


def turn_the_heap(t):
    """What expires later is on top, and knows that it is."""
    t.timers[[0, 1]] = t.timers[[1, 0]]
    t.orders["timer"][t.timers[:2]] = 0, 1


def cut_the_trail(t):
    """The newest trailing stop is in no trail."""
    t.details["next_trailing"][order_of(t, 6)] = NIL
    t.lists[LADDER, trails.LAST + 2] = order_of(t, 6)


def turn_the_trail(t):
    """The trail of the sellers is that of the buyers."""
    t.lists[LADDER, trails.FIRST : trails.FIRST + 4] = t.lists[LADDER, trails.FIRST : trails.FIRST + 4][
        [2, 3, 0, 1]
    ]


def take(array, place, value):
    """Put a value at a place of an array: assignment, where only a call fits."""
    array[place] = value


def add(array, place, value=1):
    """Add to a place of an array."""
    array[place] += value


HARMS = {
    ("T1", "is astray"): lambda t: add(t.orders["level"], order_of(t, 1)),
    ("T1", "in another book"): lambda t: add(t.orders["book"], order_of(t, 1)),
    ("T1", "open with nothing open"): lambda t: take(t.orders["open"], order_of(t, 1), 0),
    ("T1", "wrong neighbour in front"): lambda t: take(t.orders["next"], order_of(t, 2), order_of(t, 1)),
    ("T1", "a free order slot has a level"): lambda t: take(
        t.orders["level"], int(t.cells[Cell.ORDERS_FREE]), 0
    ),
    ("T1", "in line: LINE_FIRST"): lambda t: take(t.cells, Cell.LINE_FIRST, 1),
    ("T1", "in line: RISEN_LAST"): lambda t: take(t.cells, Cell.RISEN_LAST, 1),
    ("T1", "in line: FALLEN_FIRST"): lambda t: take(t.cells, Cell.FALLEN_FIRST, 1),
    ("T2", "has a wrong tail"): lambda t: take(t.levels["tail"], level_of(t, 1), order_of(t, 1)),
    ("T2", "hidden orders before shown ones"): swap_hidden,
    ("T2", "a wrong first hidden order"): lambda t: take(t.levels["hidden"], level_of(t, 1), NIL),
    ("T2", "quantity"): lambda t: add(t.levels["quantity"], level_of(t, 1)),
    ("T2", "shows 4 of 3"): show_too_much,
    ("T2", "on the wrong side"): lambda t: take(t.levels["side"], level_of(t, 8, SKIP_LIST), 1),
    ("T2", "of a ladder is not clean"): lambda t: take(t.levels["quantity"], level_of(t, 1) + 1, 1),
    ("T2", "has a wrong price"): lambda t: add(t.levels["price"], level_of(t, 1)),
    ("T2", "with wrong traits"): lambda t: add(t.orders["traits"], order_of(t, 1), Trait.ALL_OR_NONE),
    ("T3", "book 0: best prices"): lambda t: take(t.books["best_bid"], LADDER, level_of(t, 3)),
    ("T3", "book 1: best prices"): lambda t: take(t.books["best_ask"], SKIP_LIST, NIL),
    ("T3", "is crossed"): cross,
    ("T4", "lost or owned twice"): free_a_used_run,
    ("T4", "owns levels and has no ladder"): lambda t: take(t.books["base"], SETTLED, 128),
    ("T4", "on are lost"): lambda t: add(t.cells, Cell.LEVELS_USED, 64),
    ("T5", "out of order"): lambda t: add(t.nodes, (first_node(t), skiplist.KEY), 25),
    ("T5", "prices and keys differ"): lambda t: add(t.nodes, (first_node(t), skiplist.KEY), -1),
    ("T5", "is in another list"): lambda t: add(t.links, (first_node(t), skiplist.OWNER)),
    ("T5", "is torn at height"): lambda t: add(t.links, (first_node(t), skiplist.HEIGHT)),
    ("T5", "does not run backwards"): lambda t: take(t.links, (first_node(t), skiplist.PREVIOUS), NIL),
    ("T5", "has a ladder and skip lists"): hang_in_bids,
    ("T5", "is empty"): vacate,
    ("T5", "a node is lost or used twice"): lose_a_node,
    ("T5", "NODES_USED is wrong"): lambda t: add(t.cells, Cell.NODES_USED),
    ("T6", "not those of the open orders"): lambda t: add(t.cells, Cell.TIMERS, -1),
    ("T6", "does not know its timer"): lambda t: add(t.orders["timer"], order_of(t, 3)),
    ("T6", "no heap"): turn_the_heap,
    ("T6", "NEXT_EXPIRY is wrong"): lambda t: add(t.cells, Cell.NEXT_EXPIRY),
    ("T7", "book 0 counts 9 orders"): lambda t: add(t.books["orders"], LADDER),
    ("T7", "counts 5 special orders, not 4"): lambda t: add(t.books["special"], LADDER),
    ("T7", "is astray"): lambda t: take(t.details["previous_trailing"], order_of(t, 7), NIL),
    ("T7", "has a wrong end"): lambda t: take(t.lists, (LADDER, trails.LAST + 2), order_of(t, 6)),
    ("T7", "trails of book 0 are incomplete"): cut_the_trail,
    ("T7", "wrong side"): turn_the_trail,
    ("T7", "holders do not count"): lambda t: add(t.holders["orders"], 0),
    ("T7", "a grid counts its books wrongly"): lambda t: add(t.grids, (0, 0)),
    ("H3", "level_index"): lambda t: erase_one(t.level_index),
    ("H3", "holder_index"): lambda t: erase_one(t.holder_index),
    ("H3", "event_index"): lambda t: erase_one(t.event_index),
    ("H2", "level_index"): lambda t: take(t.level_index, slice(None), 5),
    ("B1", "word 0"): lambda t: add(t.bitmap, 0, 8),
    ("B2", "word 0"): lambda t: add(t.bitmap, 4_096 // 64, 1 << 40),
}


@pytest.mark.parametrize(
    ("broken", "harm"), HARMS.items(), ids=lambda value: str(value[0]) if isinstance(value, tuple) else ""
)
def test_every_harm_is_named(full, broken, harm):
    """What is harmed in one place breaks the invariant that speaks of it, and the message says what was found."""
    invariant, found = broken
    harm(full)
    with pytest.raises(InvariantBroken, match=f"invariant {invariant} is broken: .*{found}"):
        validate(full)


def test_a_key_that_is_in_no_entry(exchange):
    """H3 of the window: a key that is remembered can be found."""
    erase_one(exchange.tables.key_index)
    with pytest.raises(InvariantBroken, match="invariant H3 is broken: key_index"):
        exchange.validate()
