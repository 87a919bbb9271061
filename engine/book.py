"""
One book: queues of orders at price levels, and who is in them.

    levels[L].head -> orders[a] -next-> orders[b] -next-> orders[c] -next-> NIL
                      oldest shown      newest shown      hidden, behind all that is shown

Fast here because a cancel touches the order, its two neighbours, its level and the book, and nothing is
searched. Slow when these five lie in five cold cache lines, which is what a million open orders means; see ahead.py.

Invariants: T1, T2 and T7 of tables.py.
"""

from typing import Final

import numpy as np

from ringpit.engine import accounts, index, timers, trails
from ringpit.engine.codes import Queue, Side, Trait
from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.ladder import NIL
from ringpit.engine.levels import begin_level, end_level, find_level, first_level, next_level
from ringpit.engine.pool import give_order, take_order
from ringpit.engine.tables import Cell, Check

WAITS_ASIDE: Final = int(Trait.STOP | Trait.ALL_OR_NONE)
SPECIAL: Final = int(Trait.HIDDEN | Trait.ICEBERG | Trait.ALL_OR_NONE | Trait.STOP)
DETAILED: Final = SPECIAL | int(Trait.TIMED | Trait.GROUPED)  # orders whose details mean something


@leaf
def find_book(t, event):
    """Book slot of an event, or NIL."""
    fingerprint = index.fingerprint_of(0, event)
    position = index.seek(t.event_index, fingerprint, fingerprint)
    while position != index.MISSING:
        slot = index.slot_at(t.event_index, position)
        if t.books[slot]["event"] == event:
            return slot
        position = index.seek(t.event_index, fingerprint, position + 1)
    return NIL


@leaf
def find_order(t, book, order, fingerprint):
    """Where the index entry of an open order lies, or MISSING; `fingerprint` is that of (book, order)."""
    position = index.seek(t.index, fingerprint, fingerprint)
    while position != index.MISSING:
        slot = index.slot_at(t.index, position)
        if t.orders[slot]["id"] == order and t.orders[slot]["book"] == book:
            return position
        position = index.seek(t.index, fingerprint, position + 1)
    return index.MISSING


@leaf
def position_of(t, slot):
    """Where the index entry of an open order's slot lies."""
    fingerprint = index.fingerprint_of(np.int64(t.orders[slot]["book"]), t.orders[slot]["id"])
    position = index.seek(t.index, fingerprint, fingerprint)
    while index.slot_at(t.index, position) != slot:
        position = index.seek(t.index, fingerprint, position + 1)
    return position


@leaf
def beyond(side, price, limit):
    """True if an order of `side` with this limit may not trade at a price."""
    if side == Side.BUY.value:
        return price > limit
    return price < limit


@leaf
def range_end(t, book, side):
    """The last price at which an order of `side` without a price of its own may trade."""
    if side == Side.BUY.value:
        return t.books[book]["high"]
    return t.books[book]["low"]


@leaf
def queue_of(t, slot):
    """The list in which an open order waits."""
    side = np.int64(t.levels[t.orders[slot]["level"]]["side"])
    traits = t.orders[slot]["traits"]
    if traits & WAITS_ASIDE == 0:
        return side
    if traits & Trait.STOP.value:
        return Queue.BUY_STOPS.value + side
    return Queue.BUY_ALL_OR_NONE.value + side


@leaf
def price_of(t, slot):
    """Limit of an open order in ticks of YES; 0 for a stop without one."""
    if t.orders[slot]["traits"] & WAITS_ASIDE:
        return t.details[slot]["price"]
    return t.levels[t.orders[slot]["level"]]["price"]


@leaf
def own_price(t, book, outcome, price):
    """A price of YES in the terms of an outcome (0 YES, else NO), and back."""
    if outcome != 0:
        return t.books[book]["payout"] - price
    return price


@leaf
def append(t, level, slot):
    """Put an order at the end of a level's list."""
    tail = t.levels[level]["tail"]
    t.orders[slot]["next"] = NIL
    t.orders[slot]["previous"] = tail
    t.orders[slot]["level"] = level
    if tail == NIL:
        t.levels[level]["head"] = slot
    else:
        t.orders[tail]["next"] = slot
    t.levels[level]["tail"] = slot


@outlined
def insert_before(t, level, behind, slot):
    """Put an order into a level's list in front of another."""
    ahead = t.orders[behind]["previous"]
    t.orders[slot]["next"] = behind
    t.orders[slot]["previous"] = ahead
    t.orders[slot]["level"] = level
    t.orders[behind]["previous"] = slot
    if ahead == NIL:
        t.levels[level]["head"] = slot
    else:
        t.orders[ahead]["next"] = slot


@leaf
def queue_up(t, level, slot):
    """Put an order that is shown, or waits aside, into a level's list: behind its like, before what is hidden."""
    hidden = t.levels[level]["hidden"]
    if hidden == NIL:
        append(t, level, slot)
    else:
        insert_before(t, level, np.int64(hidden), slot)


@leaf
def leave(t, level, slot):
    """Take an order out of a level's list."""
    ahead = t.orders[slot]["previous"]
    behind = t.orders[slot]["next"]
    if ahead == NIL:
        t.levels[level]["head"] = behind
    else:
        t.orders[ahead]["next"] = behind
    if behind == NIL:
        t.levels[level]["tail"] = ahead
    else:
        t.orders[behind]["previous"] = ahead
    if t.levels[level]["hidden"] == slot:
        t.levels[level]["hidden"] = behind


@leaf
def level_for(t, book, queue, price):
    """The level of a price, begun if it has no order yet. The caller has seen that nodes are free."""
    level = find_level(t, book, queue, price)
    if level == NIL or t.levels[level]["head"] == NIL:
        return begin_level(t, book, queue, price)
    return level


@leaf
def link_plain(t, book, side, price, slot):
    """Show an order that has no special trait at the back of its price."""
    level = level_for(t, book, side, price)
    queue_up(t, level, slot)
    shown = t.orders[slot]["open"]
    t.orders[slot]["shown"] = shown
    t.levels[level]["quantity"] += shown


@outlined
def link_special(t, book, queue, price, slot):
    """Put an order that is hidden, an iceberg, or waits aside, where it belongs."""
    level = level_for(t, book, queue, price)
    traits = t.orders[slot]["traits"]
    shown = t.orders[slot]["open"]
    if traits & Trait.ICEBERG.value:
        shown = min(shown, t.details[slot]["display"])
    elif traits & SPECIAL:
        shown = 0
    t.orders[slot]["shown"] = shown
    t.levels[level]["quantity"] += shown
    if traits & Trait.HIDDEN.value:
        append(t, level, slot)
        if t.levels[level]["hidden"] == NIL:
            t.levels[level]["hidden"] = slot
    else:
        queue_up(t, level, slot)


@leaf
def new_order(t, book, order, account, quantity, filled, traits, fingerprint):
    """Take a slot for an order that opens, and fill it in; it is not linked yet. The caller has seen that one is free."""
    slot = take_order(t)
    t.orders[slot]["id"] = order
    t.orders[slot]["account"] = account
    t.orders[slot]["open"] = quantity
    t.orders[slot]["filled"] = filled
    t.orders[slot]["book"] = book
    t.orders[slot]["traits"] = traits
    t.books[book]["orders"] += 1
    index.insert(t.index, fingerprint, slot)
    if t.books[book]["checks"] & Check.ACCOUNTS.value:
        accounts.count_up(t, book, account)
    return slot


@leaf
def take_out(t, slot):
    """Take an open order out of its level; it keeps its slot and its id. Its level may end."""
    level = np.int64(t.orders[slot]["level"])
    book = np.int64(t.orders[slot]["book"])
    queue = queue_of(t, slot)
    leave(t, level, slot)
    t.levels[level]["quantity"] -= t.orders[slot]["shown"]
    if t.levels[level]["head"] == NIL:
        end_level(t, book, queue, level)


@outlined
def forget_special(t, slot):
    """What an order's traits tied it to, besides its level, lets go of it."""
    traits = t.orders[slot]["traits"]
    if traits & SPECIAL:
        t.books[t.orders[slot]["book"]]["special"] -= 1
    if traits & Trait.TIMED.value:
        timers.drop(t, slot)
    if traits & Trait.TRAILING.value:
        trails.drop(t, np.int64(t.orders[slot]["book"]), slot)


@leaf
def close_order(t, slot, position):
    """An order that is out of its level is open no more: its id and its slot are free."""
    book = np.int64(t.orders[slot]["book"])
    if t.orders[slot]["traits"] & (SPECIAL | Trait.TIMED.value):
        forget_special(t, slot)
    if t.books[book]["checks"] & Check.ACCOUNTS.value:
        accounts.count_down(t, book, t.orders[slot]["account"])
    t.books[book]["orders"] -= 1
    index.erase(t.index, position)
    give_order(t, slot)


@leaf
def remove(t, slot, position):
    """Take an open order out of everything; its index entry lies at `position`."""
    take_out(t, slot)
    close_order(t, slot, position)


@leaf
def touch(t, price, side):
    """Remember that the command in hand changed a level, once in a row."""
    if t.cells[Cell.MARKET_DATA] != 0:
        count = t.cells[Cell.TOUCHED]
        entry = price * 2 + side
        if count == 0 or t.touched[count - 1] != entry:
            t.touched[count] = entry
            t.cells[Cell.TOUCHED] = count + 1


@leaf
def touch_order(t, slot):
    """Remember that an open order's level changes, if the order is shown."""
    if t.orders[slot]["shown"] > 0:
        level = t.orders[slot]["level"]
        touch(t, t.levels[level]["price"], np.int64(t.levels[level]["side"]))


@outlined
def first_order(t, book, queue):
    """The first open order of a book in its lists from `queue` on, and the list it is in; NIL if there is none."""
    while queue <= Queue.SELL_ALL_OR_NONE.value:
        level = first_level(t, book, queue)
        if level != NIL:
            return np.int64(t.levels[level]["head"]), queue
        queue += 1
    return np.int64(NIL), queue


@outlined
def next_order(t, book, queue, slot):
    """The open order behind `slot` in a walk through all lists of a book, and the list it is in; NIL at the end."""
    behind = t.orders[slot]["next"]
    if behind != NIL:
        return np.int64(behind), queue
    level = next_level(t, book, queue, np.int64(t.orders[slot]["level"]))
    if level != NIL:
        return np.int64(t.levels[level]["head"]), queue
    return first_order(t, book, queue + 1)
