"""
Timers: which open order expires next. A binary heap of order slots, smallest (expires_ns, stamp) on top.

The engine has no clock. Whoever has one compares it with the cell NEXT_EXPIRY, and logs a TICK when that has come.

Fast here because an order that does not expire is never in it, and one that does costs about log2 of their number
when it comes and when it goes. Slow nowhere.

Invariant: T6 of tables.py.
"""

from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import INT64_MAX
from ringpit.engine.tables import Cell


@leaf
def earlier(t, one, other):
    """True if order slot `one` expires before `other`: by time, then by age."""
    if t.details[one]["expires_ns"] != t.details[other]["expires_ns"]:
        return t.details[one]["expires_ns"] < t.details[other]["expires_ns"]
    return t.details[one]["stamp"] < t.details[other]["stamp"]


@leaf
def put(t, place, slot):
    """Store an order slot at a place of the heap, and the place in the order."""
    t.timers[place] = slot
    t.orders[slot]["timer"] = place


@leaf
def rise(t, place, slot):
    """Move an order slot towards the top as far as it belongs, from a place that is free."""
    while place > 0 and earlier(t, slot, t.timers[(place - 1) >> 1]):
        put(t, place, t.timers[(place - 1) >> 1])
        place = (place - 1) >> 1
    put(t, place, slot)


@leaf
def sink(t, place, slot):
    """Move an order slot away from the top as far as it belongs, from a place that is free."""
    count = t.cells[Cell.TIMERS]
    while 2 * place + 1 < count:
        child = 2 * place + 1
        if child + 1 < count and earlier(t, t.timers[child + 1], t.timers[child]):
            child += 1
        if not earlier(t, t.timers[child], slot):
            break
        put(t, place, t.timers[child])
        place = child
    put(t, place, slot)


@leaf
def show_next(t):
    """Say when the next order expires."""
    t.cells[Cell.NEXT_EXPIRY] = INT64_MAX
    if t.cells[Cell.TIMERS] > 0:
        t.cells[Cell.NEXT_EXPIRY] = t.details[t.timers[0]]["expires_ns"]


@outlined
def add(t, slot):
    """An order that expires is open."""
    place = t.cells[Cell.TIMERS]
    t.cells[Cell.TIMERS] = place + 1
    rise(t, place, slot)
    show_next(t)


@outlined
def drop(t, slot):
    """It is open no more."""
    place = t.orders[slot]["timer"]
    count = t.cells[Cell.TIMERS] - 1
    t.cells[Cell.TIMERS] = count
    t.orders[slot]["timer"] = NIL
    last = t.timers[count]
    if place < count:
        if place > 0 and earlier(t, last, t.timers[(place - 1) >> 1]):
            rise(t, place, last)
        else:
            sink(t, place, last)
    show_next(t)
