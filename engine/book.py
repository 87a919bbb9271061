"""
One book: first-in-first-out queues at price levels, and the best prices.

    levels[L].head -> orders[a] -next-> orders[b] -next-> NIL
                      oldest            levels[L].tail

A level is held by one side at a time, because a book is never crossed; so both sides share one run of
levels and one bitmap. Best bid and best ask are kept, and everything else is O(1) with at most a climb in the
bitmap when a best level empties.

Fast here because a cancel touches the order, its two neighbours, its level and the book, and nothing is
searched. Slow when these five lie in five cold cache lines, which is what a million resting orders means.
"""

from ringpit.engine import index, ladder
from ringpit.engine.codes import Side
from ringpit.engine.kernels import leaf
from ringpit.engine.ladder import NIL
from ringpit.engine.pool import give_order, take_order
from ringpit.engine.tables import Cell


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
def find_order(t, book, order):
    """Where the index entry of an open order lies, or MISSING."""
    fingerprint = index.fingerprint_of(book, order)
    position = index.seek(t.index, fingerprint, fingerprint)
    while position != index.MISSING:
        slot = index.slot_at(t.index, position)
        if t.orders[slot]["id"] == order and t.orders[slot]["book"] == book:
            return position
        position = index.seek(t.index, fingerprint, position + 1)
    return index.MISSING


@leaf
def level_of(t, book, price):
    """Level slot of a price within the book's range."""
    return t.books[book]["base"] + price - t.books[book]["low"]


@leaf
def price_of(t, book, level):
    """Price in ticks of a level slot."""
    return level - t.books[book]["base"] + t.books[book]["low"]


@leaf
def side_of(t, book, level):
    """Side of the orders that rest at an occupied level (T3)."""
    return int(level > t.books[book]["best_bid"])


@leaf
def better_or_equal(side, level, limit):
    """True if a taker of `side` with this limit may trade at a level."""
    if side == Side.BUY:
        return level <= limit
    return level >= limit


@leaf
def best_against(t, book, side):
    """Best level that a taker of `side` meets, or NIL."""
    if side == Side.BUY:
        return t.books[book]["best_ask"]
    return t.books[book]["best_bid"]


@leaf
def next_level(t, book, side, level):
    """The level that a taker of `side` meets behind `level`, or NIL. At most a climb in the bitmap."""
    if side == Side.BUY:
        found = ladder.next_set(t.bitmap, t.levels.shape[0], level + 1)
        last = t.books[book]["base"] + t.books[book]["high"] - t.books[book]["low"]
        if found > last:
            return NIL
        return found
    found = ladder.previous_set(t.bitmap, t.levels.shape[0], level - 1)
    if found < t.books[book]["base"]:
        return NIL
    return found


@leaf
def vacate(t, book, level):
    """A level has become empty: clear its bit, and find the next best if it was a best. Keeps B1, T3."""
    ladder.clear_bit(t.bitmap, t.levels.shape[0], level)
    if level == t.books[book]["best_bid"]:
        t.books[book]["best_bid"] = next_level(t, book, Side.SELL, level)
    elif level == t.books[book]["best_ask"]:
        t.books[book]["best_ask"] = next_level(t, book, Side.BUY, level)


@leaf
def rest(t, book, side, level, order, account, quantity, filled):
    """Put an order at the back of a level's queue. The caller has seen that a slot is free."""
    slot = take_order(t)
    tail = t.levels[level]["tail"]
    t.orders[slot]["id"] = order
    t.orders[slot]["open"] = quantity
    t.orders[slot]["next"] = NIL
    t.orders[slot]["previous"] = tail
    t.orders[slot]["level"] = level
    t.orders[slot]["book"] = book
    t.details[slot]["account"] = account
    t.details[slot]["filled"] = filled
    if tail == NIL:
        t.levels[level]["head"] = slot
        ladder.set_bit(t.bitmap, t.levels.shape[0], level)
        if side == Side.BUY:
            t.books[book]["best_bid"] = max(t.books[book]["best_bid"], level)
        elif t.books[book]["best_ask"] == NIL or level < t.books[book]["best_ask"]:
            t.books[book]["best_ask"] = level
    else:
        t.orders[tail]["next"] = slot
    t.levels[level]["tail"] = slot
    t.levels[level]["quantity"] += quantity
    t.books[book]["orders"] += 1
    index.insert(t.index, index.fingerprint_of(book, order), slot)


@leaf
def remove(t, slot, position):
    """Take an order out of its level, the index (its entry lies at `position`) and the pool."""
    level = t.orders[slot]["level"]
    book = t.orders[slot]["book"]
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
    t.levels[level]["quantity"] -= t.orders[slot]["open"]
    t.books[book]["orders"] -= 1
    index.erase(t.index, position)
    give_order(t, slot)
    if ahead == NIL and behind == NIL:
        vacate(t, book, level)


@leaf
def touch(t, level, side):
    """Remember that the command in hand changed a level, once in a row."""
    count = t.cells[Cell.TOUCHED]
    entry = level * 2 + side
    if count == 0 or t.touched[count - 1] != entry:
        t.touched[count] = entry
        t.cells[Cell.TOUCHED] = count + 1
