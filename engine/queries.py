"""
Questions about a shard's books, answered between commands. Nothing here changes anything or is ever logged.

Fast: an order is one probe of the index, a depth is one step a level. Slow: the open orders of an account look at every
order slot of the pool, a queue position at every order in front; both are kernels and cost nanoseconds each.
"""

from typing import Final

import numpy as np

from ringpit.engine import index
from ringpit.engine.book import find_book, find_order, first_order, next_order, queue_of
from ringpit.engine.codes import EventState, Queue
from ringpit.engine.digest import RESTING, depth, digest, open_books, resting, row_of
from ringpit.engine.kernels import kernel
from ringpit.engine.ladder import NIL
from ringpit.engine.tables import Cell, Tables

__all__ = [
    "depth",
    "digest",
    "open_books",
    "open_orders",
    "order_row",
    "queue_position",
    "resting",
    "statistics",
]

NO_ROWS: Final = np.zeros(0, RESTING)


@kernel
def slot_of(t, event, order):
    """Order slot of an open order, or NIL."""
    book = find_book(t, event)
    if book == NIL:
        return np.int64(NIL)
    position = find_order(t, book, order, index.fingerprint_of(book, order))
    if position == index.MISSING:
        return np.int64(NIL)
    return index.slot_at(t.index, position)


@kernel
def copy_order(t, slot, rows):
    """Write one open order into the first of `rows`."""
    row_of(t, slot, queue_of(t, slot), rows, 0)


def order_row(t: Tables, event: int, order: int) -> np.ndarray:
    """An open order as one RESTING row, or none."""
    slot = slot_of(t, event, order)
    if slot == NIL:
        return NO_ROWS.copy()
    rows = np.zeros(1, RESTING)
    copy_order(t, slot, rows)
    return rows


@kernel
def copy_of_account(t, book, account, rows):
    """Count an account's open orders in a book; those that fit are written into `rows`."""
    count = 0
    slot, queue = first_order(t, book, np.int64(Queue.BIDS.value))
    while slot != NIL:
        if t.orders[slot]["account"] == account:
            if count < rows.shape[0]:
                row_of(t, slot, queue, rows, count)
            count += 1
        slot, queue = next_order(t, book, queue, slot)
    return count


@kernel
def books_of_account(t, account, books):
    """Set `books[book]` to how many open orders an account has in each book: one look at each slot."""
    books[:] = 0
    for slot in range(t.orders.shape[0]):
        if t.orders[slot]["level"] != NIL and t.orders[slot]["account"] == account:
            books[t.orders[slot]["book"]] += 1


def open_orders(t: Tables, account: int) -> np.ndarray:
    """RESTING rows of all open orders of an account: by ascending event id, then list by list in priority order."""
    counts = np.zeros(max(int(t.cells[Cell.BOOKS_USED]), 1), np.int64)
    books_of_account(t, account, counts)
    parts = [NO_ROWS]
    for book in open_books(t):
        if counts[book]:
            rows = np.zeros(int(counts[book]), RESTING)
            copy_of_account(t, book, account, rows)
            parts.append(rows)
    return np.concatenate(parts)


@kernel
def ahead_of(t, slot):
    """How many orders, and how many of their lots, stand before an order at its price."""
    orders = 0
    lots = 0
    ahead = t.orders[slot]["previous"]
    while ahead != NIL:
        orders += 1
        lots += t.orders[ahead]["open"] if t.orders[ahead]["shown"] == 0 else t.orders[ahead]["shown"]
        ahead = t.orders[ahead]["previous"]
    return orders, lots


def queue_position(t: Tables, event: int, order: int) -> tuple[int, int] | None:
    """
    What stands before an open order at its price: (orders, lots that trade before its first), or None if it is not open.

    Of an iceberg in front the slice counts that is shown now; of hidden and waiting orders all that is open.
    """
    slot = slot_of(t, event, order)
    if slot == NIL:
        return None
    orders, lots = ahead_of(t, slot)
    return int(orders), int(lots)


def statistics(t: Tables) -> dict[str, int]:
    """How full the pools are, and how much there is room for."""
    cells = t.cells
    books = t.books[: cells[Cell.BOOKS_USED]]
    return {
        "events": len(books),
        "events_open": int((books["state"] == EventState.OPEN).sum()),
        "events_max": len(t.books),
        "orders": int(cells[Cell.ORDERS_USED]),
        "orders_max": len(t.orders),
        "special": int(books["special"].sum()),
        "timers": int(cells[Cell.TIMERS]),
        "levels": int(cells[Cell.LEVELS_USED]),
        "levels_max": len(t.levels) - len(t.nodes),
        "nodes": int(cells[Cell.NODES_USED]),
        "nodes_max": len(t.nodes),
        "keys": int(cells[Cell.KEYS_SEEN]),
        "engine_ns": int(cells[Cell.ENGINE_NS]),
    }
