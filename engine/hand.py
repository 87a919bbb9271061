"""
The order in hand: the one that trades now, in cells, and orders that are taken off the book.

A NEW that only takes has no slot: it lives in cells alone. An order that an amend took out of its level, that was triggered,
or that needs details keeps its slot in Cell.HAND, and is linked again or closed at the end.

Fast: a dozen stores. Slow nowhere.
"""

import numpy as np

from ringpit.engine.book import own_price, remove, touch_order
from ringpit.engine.codes import ReportFlag
from ringpit.engine.kernels import leaf
from ringpit.engine.tables import Cell
from ringpit.engine.tell import NO_SHIFT, tell_canceled


@leaf
def begin(t, side, limit, rests, price, flags, traits, quantity, filled, order, account, hand):
    """Set up the order that trades: the taker in hand."""
    t.cells[Cell.SIDE] = side
    t.cells[Cell.LIMIT] = limit
    t.cells[Cell.RESTS] = rests
    t.cells[Cell.PRICE] = price
    t.cells[Cell.FLAGS] = flags
    t.cells[Cell.TRAITS] = traits
    t.cells[Cell.OPEN] = quantity
    t.cells[Cell.FILLED] = filled
    t.cells[Cell.ORDER] = order
    t.cells[Cell.ACCOUNT] = account
    t.cells[Cell.HAND] = hand


@leaf
def begin_open(t, book, side, limit, rests, slot):
    """Set up an open order that is out of its level: it trades with all its open lots, up to its own limit."""
    traits = np.int64(t.orders[slot]["traits"])
    outcome = (traits >> NO_SHIFT) & 1
    price = own_price(t, book, outcome, limit)
    flags = outcome * ReportFlag.NO.value
    quantity = t.orders[slot]["open"]
    filled = t.orders[slot]["filled"]
    order = t.orders[slot]["id"]
    begin(t, side, limit, rests, price, flags, traits, quantity, filled, order, t.orders[slot]["account"], slot)


@leaf
def cancel_open(t, reports, order_slot, position, reason):
    """Cancel an open order and report it."""
    touch_order(t, order_slot)
    tell_canceled(t, reports, order_slot, reason)
    remove(t, order_slot, position)
