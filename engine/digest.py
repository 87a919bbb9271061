"""
Digest: a hash of what is open, in priority order, that does not depend on how memory is laid out.

It compares naive with fast, live with replayed, and a shard with its restarted self. Events count only
while they are open; what an order counts as is the table RESTING.

Fast enough because it walks each queue once; slow for a million orders (some hundred milliseconds), so it is
taken between batches, never inside one.
"""

import hashlib
from typing import Final

import numpy as np

from ringpit.engine.book import DETAILED, first_order, next_order, price_of
from ringpit.engine.codes import EventState, Queue, Side
from ringpit.engine.kernels import kernel, leaf
from ringpit.engine.ladder import NIL
from ringpit.engine.levels import first_level, next_level
from ringpit.engine.records import dtype_of
from ringpit.engine.state import State
from ringpit.engine.tables import Cell, Tables

RESTING: Final = dtype_of(
    (
        ("event", "<i8", "the event's id"),
        ("queue", "<i8", "Queue: the list in which the order waits"),
        ("price", "<i8", "limit in ticks of YES; 0 with the trait NO_PRICE"),
        ("order", "<i8", "order id"),
        ("open", "<i8", "lots that can still trade"),
        ("account", "<i8", "owner"),
        ("filled", "<i8", "lots traded so far"),
        ("shown", "<i8", "lots that everybody sees; 0 for what is hidden or waits aside"),
        ("traits", "<i8", "bits of Trait"),
        ("display", "<i8", "lots an iceberg shows at a time, else 0"),
        ("group", "<i8", "group, or 0"),
        ("expires_ns", "<i8", "when it expires, or 0"),
        ("trigger", "<i8", "of a waiting stop: ticks of YES, else 0"),
        ("trail", "<i8", "of a waiting trailing stop: ticks, else 0"),
    )
)


@kernel
def fill_in(t, book, rows):
    """Fill `rows` (RESTING) with a book's open orders, list by list; return how many there are."""
    count = 0
    slot, queue = first_order(t, book, np.int64(Queue.BIDS.value))
    while slot != NIL:
        row_of(t, slot, queue, rows, count)
        count += 1
        slot, queue = next_order(t, book, queue, slot)
    return count


@leaf
def row_of(t, slot, queue, rows, at):
    """Write one open order into a row."""
    traits = np.int64(t.orders[slot]["traits"])
    rows[at]["event"] = t.books[t.orders[slot]["book"]]["event"]
    rows[at]["queue"] = queue
    rows[at]["price"] = price_of(t, slot)
    rows[at]["order"] = t.orders[slot]["id"]
    rows[at]["open"] = t.orders[slot]["open"]
    rows[at]["account"] = t.orders[slot]["account"]
    rows[at]["filled"] = t.orders[slot]["filled"]
    rows[at]["shown"] = t.orders[slot]["shown"]
    rows[at]["traits"] = traits
    detailed = traits & DETAILED != 0
    rows[at]["display"] = t.details[slot]["display"] if detailed else 0
    rows[at]["group"] = t.details[slot]["group"] if detailed else 0
    rows[at]["expires_ns"] = t.details[slot]["expires_ns"] if detailed else 0
    rows[at]["trigger"] = t.details[slot]["trigger"] if detailed else 0
    rows[at]["trail"] = t.details[slot]["trail"] if detailed else 0


def resting(t: Tables, book: int) -> np.ndarray:
    """RESTING rows of one book's open orders in priority order, list by list. Cost: one visit an order."""
    rows = np.zeros(int(t.books[book]["orders"]), RESTING)
    fill_in(t, book, rows)
    return rows


def open_books(t: Tables) -> list[int]:
    """Book slots of open events, by ascending event id."""
    books = t.books[: t.cells[Cell.BOOKS_USED]]
    slots = np.flatnonzero(books["state"] == EventState.OPEN)
    return [int(slot) for slot in slots[np.argsort(books["event"][slots], kind="stable")]]


def _digested(t: Tables, book: int) -> tuple[bytes, bytes]:
    """What of an open book goes into a digest (rule M23)."""
    head = np.array([t.books[book]["event"], t.books[book]["last"]], "<i8")
    return head.tobytes(), resting(t, book).tobytes()


def digest(t: Tables) -> str:
    """Hash of everything that is open on the shard, as 32 hexadecimal digits (rule M23)."""
    state = hashlib.blake2b(digest_size=16)
    for book in open_books(t):
        for part in _digested(t, book):
            state.update(part)
    return state.hexdigest()


def digest_of(state: State) -> str:
    """The same of a state that was exported, without its tables. Cost: some passes over the orders' columns, and the hash."""
    orders, details = state.orders, state.details
    rows = np.zeros(len(orders), RESTING)
    ends = np.cumsum(state.events["orders"])
    rows["event"] = np.repeat(state.events["event"], state.events["orders"])
    rows["order"] = orders["id"]
    for name in ("queue", "price", "open", "account", "filled", "shown", "traits"):
        rows[name] = orders[name]
    for name in ("display", "group", "expires_ns", "trigger", "trail"):
        rows[name][details["row"]] = details[name]
    hashed = hashlib.blake2b(digest_size=16)
    for number in np.argsort(state.events["event"], kind="stable"):
        event = state.events[number]
        if event["state"] == EventState.OPEN:
            hashed.update(np.array([event["event"], event["last"]], "<i8").tobytes())
            hashed.update(rows[ends[number] - event["orders"] : ends[number]].tobytes())
    return hashed.hexdigest()


def digest_of_each(t: Tables) -> dict[int, str]:
    """The digest that a shard with this open event alone would have, by event id: equal on whatever shard the event lives."""
    return {
        int(t.books[book]["event"]): hashlib.blake2b(b"".join(_digested(t, book)), digest_size=16).hexdigest()
        for book in open_books(t)
    }


@kernel
def depth_of(t, book, side, prices, quantities):
    """Fill prices and quantities with the best levels of a side that show anything; return how many there are."""
    count = 0
    level = first_level(t, book, side)
    while level != NIL and count < prices.shape[0]:
        if t.levels[level]["quantity"] > 0:
            prices[count] = t.levels[level]["price"]
            quantities[count] = t.levels[level]["quantity"]
            count += 1
        level = next_level(t, book, side, level)
    return count


def depth(t: Tables, book: int, side: Side, levels: int) -> np.ndarray:
    """The best `levels` levels of a side as an int64 array of (price in ticks of YES, lots shown), best first."""
    rows = np.zeros((2, levels), np.int64)
    count = depth_of(t, book, int(side), rows[0], rows[1])
    return rows[:, :count].T.copy()
