"""
Looking ahead in a batch, only to prefetch memory.

    block of commands    book of each, and the line of the index    ──> index entry, and the order's or level's line
                         ──> level, neighbours in the queue          ──> then the commands, strictly in order

Each pass asks for what the next one reads, for up to AHEAD_MAX commands at once, so their cache misses overlap. What is
found may be stale when a command's turn comes (an earlier one of the block may have moved the order), and nothing is
taken over: every command looks everything up again. So no result can depend on it; a test compares.

Fast where the tables are larger than the cache: a cancel in a million orders is four or five misses, and here they cost hardly
more than one. Slow where everything is in the cache anyway: some nanoseconds a command for nothing, which is why the caller chooses.
"""

import numpy as np

from ringpit.engine import index
from ringpit.engine.book import find_book
from ringpit.engine.codes import CommandKind, LevelKind
from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.ladder import NIL
from ringpit.engine.prefetch import prefetch
from ringpit.engine.tables import AHEAD_MAX

BOOK, FINGERPRINT, TARGET = range(3)  # rows of Tables.ahead


@leaf
def names_order(kind):
    """True for commands about one order."""
    return kind <= CommandKind.AMEND.value or kind == CommandKind.REDUCE.value or kind == CommandKind.REPLACE.value  # noqa: PLR1714 (numba)


@leaf
def level_ahead(t, commands, slot, book):
    """Level slot at which a NEW may rest, NIL where that takes a search."""
    price = commands[slot]["price"]
    if t.books[book]["kind"] != LevelKind.LADDER.value or not t.books[book]["low"] <= price <= t.books[book]["high"]:
        return np.int64(NIL)
    if commands[slot]["outcome"] != 0:
        price = t.books[book]["payout"] - price
    return t.books[book]["base"] + price - t.books[book]["low"]


@leaf
def order_ahead(t, fingerprint):
    """Order slot that the index has for a fingerprint, or NIL."""
    position = index.seek(t.index, fingerprint, fingerprint)
    if position == index.MISSING:
        return np.int64(NIL)
    return index.slot_at(t.index, position)


@outlined
def look_ahead(t, commands, begin_at, end_at):
    """Prefetch what the commands at positions [begin_at, end_at), at most AHEAD_MAX, will touch."""
    mask = commands.shape[0] - 1
    count = end_at - begin_at
    book = np.int64(NIL)
    for i in range(count):
        slot = (begin_at + i) & mask
        t.ahead[BOOK, i] = NIL
        if names_order(commands[slot]["kind"]):
            event = commands[slot]["event"]
            if book == NIL or t.books[book]["event"] != event:
                book = find_book(t, event)
            t.ahead[BOOK, i] = book
            if book != NIL:
                fingerprint = index.fingerprint_of(book, commands[slot]["order"])
                t.ahead[FINGERPRINT, i] = fingerprint
                prefetch(t.index, fingerprint & (t.index.shape[0] - 1))
                prefetch(t.books, book)
    for i in range(count):
        book = t.ahead[BOOK, i]
        t.ahead[TARGET, i] = NIL
        if book != NIL:
            slot = (begin_at + i) & mask
            if commands[slot]["kind"] == CommandKind.NEW.value:
                level = level_ahead(t, commands, slot, book)
                t.ahead[TARGET, i] = level
                if level != NIL:
                    prefetch(t.levels, level)
            else:
                order = order_ahead(t, t.ahead[FINGERPRINT, i])
                t.ahead[TARGET, i] = order
                if order != NIL:
                    prefetch(t.orders, order)
    for i in range(count):
        target = t.ahead[TARGET, i]
        if target != NIL:
            if commands[(begin_at + i) & mask]["kind"] == CommandKind.NEW.value:
                prefetch(t.orders, np.int64(t.levels[target]["tail"]))
            else:
                level = np.int64(t.orders[target]["level"])
                prefetch(t.levels, level)
                prefetch(t.orders, np.int64(t.orders[target]["previous"]))
                prefetch(t.orders, np.int64(t.orders[target]["next"]))


@leaf
def block_end(position, end_at):
    """Where the block that begins at a position ends."""
    return min(position + AHEAD_MAX, end_at)
