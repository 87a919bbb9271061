"""
Looking ahead in a batch, only to prefetch memory.

    command    FAR behind    its book, its fingerprint       asks for the line of the index
               MIDDLE        the index entry                 asks for the order, or the level where a NEW may rest
               NEAR          the order, or the level         asks for its level and neighbours, or its last order
               0             its turn

Each look asks for what the next one reads, so the cache misses of some twenty commands overlap. What is
found may be stale when a command's turn comes (an earlier one may have moved the order), so nothing is taken over but the
fingerprint, which follows from the command and its book alone. So no result can depend on it; a test compares.

Fast where the tables are larger than the cache: a cancel in a million orders is four or five misses, and here they cost hardly
more than one. Slow where everything is in the cache anyway: some nanoseconds a command for nothing, which is why the caller chooses.
"""

from typing import Final

import numpy as np

from ringpit.engine import index
from ringpit.engine.checks import in_range
from ringpit.engine.codes import CommandKind
from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import require
from ringpit.engine.prefetch import prefetch, prefetch_second_line
from ringpit.engine.tables import AHEAD_MAX, Cell

BOOK, FINGERPRINT, TARGET = range(3)  # rows of Tables.ahead
NEAR: Final = 6  # commands between the last look at one and its turn
MIDDLE: Final = 12
FAR: Final = 20
DEEP_ORDERS: Final = 1 << 14  # a megabyte of order records

require(FAR < AHEAD_MAX, "what is known of a command must be kept until its turn")


@leaf
def names_order(kind):
    """True for commands about one order."""
    return CommandKind.NEW.value <= kind <= CommandKind.AMEND.value or kind in (
        CommandKind.REDUCE.value,
        CommandKind.REPLACE.value,
    )


@leaf
def level_ahead(t, commands, slot, book):
    """Level slot at which a NEW may rest, NIL where that takes a search."""
    price = commands[slot]["price"]
    if t.books[book]["base"] == NIL or not in_range(t, book, price):
        return np.int64(NIL)
    if commands[slot]["outcome"] != 0:
        price = max(t.books[book]["payout"] - price, t.books[book]["low"])  # there may be no NO here
    return t.books[book]["base"] + price - t.books[book]["low"]


@leaf
def book_ahead(t, event):
    """The book that the index has first for an event, or NIL, and its lines on their way: it is not looked at yet."""
    fingerprint = index.fingerprint_of(0, event)
    position = index.seek(t.event_index, fingerprint, fingerprint)
    if position == index.MISSING:
        return np.int64(NIL)
    book = index.slot_at(t.event_index, position)
    prefetch(t.books, book)
    prefetch_second_line(t.books, book)
    return book


@leaf
def see_key(t, commands, position, mask):
    """First look at a command: its book, its fingerprint, and the line of the index that it will ask."""
    slot = position & mask
    place = position & (AHEAD_MAX - 1)
    t.ahead[BOOK, place] = NIL
    if names_order(commands[slot]["kind"]):
        event = commands[slot]["event"]
        if t.cells[Cell.AHEAD_BOOK] == NIL or t.cells[Cell.AHEAD_EVENT] != event:
            t.cells[Cell.AHEAD_EVENT] = event
            t.cells[Cell.AHEAD_BOOK] = book_ahead(t, event)
        book = t.cells[Cell.AHEAD_BOOK]
        if book == NIL:
            return
        fingerprint = index.fingerprint_of(book, commands[slot]["order"])
        t.ahead[BOOK, place] = book
        t.ahead[FINGERPRINT, place] = fingerprint
        prefetch(t.index, fingerprint & (t.index.shape[0] - 1))


@leaf
def see_target(t, commands, position, mask):
    """Second look: the order that it names, or the level at which a NEW may rest."""
    slot = position & mask
    place = position & (AHEAD_MAX - 1)
    book = t.ahead[BOOK, place]
    target = np.int64(NIL)
    if book != NIL:
        if commands[slot]["kind"] == CommandKind.NEW.value:
            target = level_ahead(t, commands, slot, book)
            if target != NIL:
                prefetch(t.levels, target)
        else:
            target = order_ahead(t, t.ahead[FINGERPRINT, place])
            if target != NIL:
                prefetch(t.orders, target)
    t.ahead[TARGET, place] = target


@leaf
def see_neighbours(t, commands, position, mask):
    """Third look: the order's level and neighbours, or the last order of the level."""
    target = t.ahead[TARGET, position & (AHEAD_MAX - 1)]
    if target != NIL:
        if commands[position & mask]["kind"] == CommandKind.NEW.value:
            prefetch(t.orders, np.int64(t.levels[target]["tail"]))
        else:
            prefetch(t.levels, np.int64(t.orders[target]["level"]))
            prefetch(t.orders, np.int64(t.orders[target]["previous"]))
            prefetch(t.orders, np.int64(t.orders[target]["next"]))


@leaf
def order_ahead(t, fingerprint):
    """Order slot that the index has first for a fingerprint, or NIL."""
    entry = t.index[fingerprint & (t.index.shape[0] - 1)]
    if entry >> 32 != fingerprint:
        return np.int64(NIL)
    return entry & index.SLOT_MASK


@leaf
def look_ahead(t, commands, position, end_at, mask, deep):
    """Before the command at a position is due: one look each at those that are FAR and, in large books, MIDDLE and NEAR behind it."""
    if position + FAR < end_at:
        see_key(t, commands, position + FAR, mask)
    if deep:
        if position + MIDDLE < end_at:
            see_target(t, commands, position + MIDDLE, mask)
        if position + NEAR < end_at:
            see_neighbours(t, commands, position + NEAR, mask)


@leaf
def fingerprint_seen(t, position, book):
    """The fingerprint of the order that the command at a position names, or MISSING if it was not seen for this book."""
    place = position & (AHEAD_MAX - 1)
    if t.ahead[BOOK, place] == book:
        return t.ahead[FINGERPRINT, place]
    return np.int64(index.MISSING)


@leaf
def is_deep(t):
    """True if so many orders are open that their records do not fit a cache."""
    return t.cells[Cell.ORDERS_USED] > DEEP_ORDERS


@outlined
def look_first(t, commands, begin_at, end_at, mask):
    """What `look_ahead` would have seen of the first commands before them."""
    for position in range(begin_at, min(begin_at + FAR, end_at)):
        see_key(t, commands, position, mask)
    for position in range(begin_at, min(begin_at + MIDDLE, end_at)):
        see_target(t, commands, position, mask)
    for position in range(begin_at, min(begin_at + NEAR, end_at)):
        see_neighbours(t, commands, position, mask)
