"""
Holders: how many open orders an account has in an event that limits them.

Only events created with a limit count; everywhere else nothing here is ever called. A holder exists while its account
has an open order in the book, so there are never more of them than orders.

Fast: one probe and one addition. Slow nowhere.

Invariant: T7 of tables.py.
"""

import numpy as np

from ringpit.engine import index
from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.tables import Cell


@leaf
def find_holder(t, book, account):
    """Where the index entry of a holder lies, or MISSING."""
    fingerprint = index.fingerprint_of(book, account)
    position = index.seek(t.holder_index, fingerprint, fingerprint)
    while position != index.MISSING:
        slot = index.slot_at(t.holder_index, position)
        if t.holders[slot]["account"] == account and t.holders[slot]["book"] == book:
            return position
        position = index.seek(t.holder_index, fingerprint, position + 1)
    return index.MISSING


@outlined
def orders_of(t, book, account):
    """Open orders of an account in a book."""
    position = find_holder(t, book, account)
    if position == index.MISSING:
        return np.int64(0)
    return np.int64(t.holders[index.slot_at(t.holder_index, position)]["orders"])


@outlined
def count_up(t, book, account):
    """An account has one open order more."""
    position = find_holder(t, book, account)
    if position != index.MISSING:
        t.holders[index.slot_at(t.holder_index, position)]["orders"] += 1
        return
    slot = t.cells[Cell.HOLDERS_FREE]
    t.cells[Cell.HOLDERS_FREE] = t.holders[slot]["orders"]
    t.holders[slot]["account"] = account
    t.holders[slot]["book"] = book
    t.holders[slot]["orders"] = 1
    index.insert(t.holder_index, index.fingerprint_of(book, account), slot)


@outlined
def count_down(t, book, account):
    """An account has one open order less; with the last one the holder is free."""
    position = find_holder(t, book, account)
    slot = index.slot_at(t.holder_index, position)
    if t.holders[slot]["orders"] > 1:
        t.holders[slot]["orders"] -= 1
        return
    index.erase(t.holder_index, position)
    t.holders[slot]["orders"] = t.cells[Cell.HOLDERS_FREE]
    t.cells[Cell.HOLDERS_FREE] = slot
