"""
Digest: a hash of what rests, in priority order, that does not depend on how memory is laid out.

It compares naive with fast, live with replayed, and a shard with its restarted self. Events count only
while they are open; an order counts as (event, side, price, id, open lots, account).

Fast enough because it walks each queue once; slow for a million orders (tens of milliseconds), so it is
taken between batches, never inside one.
"""

import hashlib

import numpy as np

from ringpit.engine.book import best_against, next_level, price_of
from ringpit.engine.codes import EventState, Side
from ringpit.engine.kernels import kernel
from ringpit.engine.ladder import NIL
from ringpit.engine.records import dtype_of
from ringpit.engine.tables import Cell, Tables

RESTING = dtype_of(
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
def walk(t, book, rows):
    """Fill `rows` (RESTING) with a book's orders: bids from the best down, then asks up, oldest first."""
    count = 0
    for side in range(2):
        level = best_against(t, book, 1 - side)
        while level != NIL:
            slot = t.levels[level]["head"]
            while slot != NIL:
                rows[count]["event"] = t.books[book]["event"]
                rows[count]["side"] = side
                rows[count]["price"] = price_of(t, book, level)
                rows[count]["order"] = t.orders[slot]["id"]
                rows[count]["open"] = t.orders[slot]["open"]
                rows[count]["account"] = t.details[slot]["account"]
                count += 1
                slot = t.orders[slot]["next"]
            level = next_level(t, book, 1 - side, level)
    return count


def resting(t: Tables, book: int) -> np.ndarray:
    """RESTING rows of one book in priority order. Cost: one visit an order."""
    rows = np.zeros(int(t.books[book]["orders"]), RESTING)
    walk(t, book, rows)
    return rows


def open_books(t: Tables) -> list[int]:
    """Book slots of open events, by ascending event id."""
    books = t.books[: t.cells[Cell.BOOKS_USED]]
    slots = np.flatnonzero(books["state"] == EventState.OPEN)
    return [int(slot) for slot in slots[np.argsort(books["event"][slots], kind="stable")]]


def digest(t: Tables) -> str:
    """Hash of everything that rests on the shard, as 32 hexadecimal digits."""
    state = hashlib.blake2b(digest_size=16)
    for book in open_books(t):
        state.update(resting(t, book).tobytes())
    return state.hexdigest()


@kernel
def depth_of(t, book, side, prices, quantities):
    """Fill prices and quantities with the best levels of a side; return how many there are."""
    count = 0
    taker = 1 - side
    level = best_against(t, book, taker)
    while level != NIL and count < prices.shape[0]:
        prices[count] = price_of(t, book, level)
        quantities[count] = t.levels[level]["quantity"]
        count += 1
        level = next_level(t, book, taker, level)
    return count


def depth(t: Tables, book: int, side: Side, levels: int) -> np.ndarray:
    """The best `levels` levels of a side as an int64 array of (price in ticks, lots), best first."""
    rows = np.zeros((2, levels), np.int64)
    count = depth_of(t, book, int(side), rows[0], rows[1])
    return rows[:, :count].T.copy()
