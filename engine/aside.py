"""
All-or-none orders: they wait aside until they can trade whole.

    a NEW, AMEND, REPLACE or REDUCE is done, and all stops that it set off
        ──> BUY by limit and age, then SELL: the first that could trade whole is in hand ──> stops ──> once more

They lie in skip lists of their limits, best first, in no queue of the book, so nothing that is shown ever waits for them
and the book is never crossed by them.

Fast here because events without such orders are never asked. Slow with many that the book would almost fill: each is
worked out anew after every command (trade.obtainable).

Rule M19 of ARCHITECTURE.md, "Matching rules".
"""

import numpy as np

from ringpit.engine.book import beyond, take_out
from ringpit.engine.codes import Queue, Trait
from ringpit.engine.hand import begin_open
from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.ladder import NIL
from ringpit.engine.levels import best_of, first_level, next_level
from ringpit.engine.tables import TELLING, TRADING, Cell
from ringpit.engine.trade import obtainable


@leaf
def meets_anything(t, book, side, limit):
    """True if anything on the other side has a price that a limit takes."""
    best = best_of(t, book, 1 - side)
    if best != NIL and not beyond(side, t.levels[best]["price"], limit):
        return True
    aside = first_level(t, book, Queue.SELL_ALL_OR_NONE.value - side)
    return aside != NIL and not beyond(side, t.levels[aside]["price"], limit)


@outlined
def take_in_hand(t, book, side, limit, slot):
    """An all-or-none order that can trade whole does."""
    take_out(t, slot)
    begin_open(t, book, side, limit, 0, slot)
    return TRADING


@leaf
def could_trade(t, book, side, slot):
    """True if a waiting all-or-none order could trade whole now."""
    mode = np.int64(t.orders[slot]["traits"]) & Trait.SELF_TRADE.value
    limit = t.details[slot]["price"]
    return obtainable(t, book, side, limit, t.orders[slot]["open"], t.orders[slot]["account"], mode)


@outlined
def try_aside(t):
    """The first all-or-none order that can trade whole is in hand; if there is none, levels are told."""
    book = t.cells[Cell.BOOK]
    if t.books[book]["special"] == 0:
        return TELLING
    for side in range(2):
        queue = Queue.BUY_ALL_OR_NONE.value + side
        level = first_level(t, book, queue)
        while level != NIL and meets_anything(t, book, side, t.levels[level]["price"]):
            slot = np.int64(t.levels[level]["head"])
            while slot != NIL:
                if could_trade(t, book, side, slot):
                    return take_in_hand(t, book, side, t.levels[level]["price"], slot)
                slot = np.int64(t.orders[slot]["next"])
            level = next_level(t, book, queue, level)
    return TELLING
