"""
Stops: orders that wait for a price, and the line in which they trade once it has come.

    see_trade: trails move ──> levels of triggers that the price has reached ──> RISEN (BUY), FALLEN (SELL)
    when the order in hand is over: RISEN, then FALLEN ──> end of LINE ──> the first in line is in hand

A waiting stop lies in a skip list of triggers, nearest first, so a trade asks two prices and no more when nothing is
triggered. While in line an order is in no level; its `level` says its side. Nobody else sees it meanwhile: a line is empty
before a command ends.

Fast here because books without stops are never asked. Slow with many trailing stops: a trade at a new extreme moves every one of
its side, about 100 ns each. One that finds no node for its new trigger keeps the old one.

Rule M18 of ARCHITECTURE.md, "Matching rules".
"""

from typing import Final

import numpy as np

from ringpit.engine import trails
from ringpit.engine.book import leave, level_for, own_price, queue_up, range_end
from ringpit.engine.codes import Queue, Reason, ReportFlag, ReportKind, Side, Trait
from ringpit.engine.hand import begin
from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.ladder import NIL
from ringpit.engine.levels import end_level, first_level, lacks_node
from ringpit.engine.tables import ASIDE, TRADING, Cell
from ringpit.engine.tell import NO_SHIFT, tell_taker

WAITING: Final = int(Trait.STOP | Trait.TRAILING)
ENDS_WITH_STOP: Final = ~(WAITING | int(Trait.NO_PRICE) | int(Trait.MARKET))
IN_LINE: Final = -2  # level of an order in line: IN_LINE minus its side


@leaf
def reached(side, trigger, price):
    """True if a trade at a price triggers a stop of a side."""
    if side == Side.BUY.value:
        return trigger <= price
    return trigger >= price


@leaf
def trailed(side, price, trail):
    """Where a trailing stop's trigger lies when the market is at a price."""
    if side == Side.BUY.value:
        return price + trail
    return price - trail


@leaf
def line_up(t, first, slot):
    """Put an order at the end of a chain, whose ends are in cells `first` and the next one."""
    t.orders[slot]["next"] = NIL
    last = t.cells[first + 1]
    if last == NIL:
        t.cells[first] = slot
    else:
        t.orders[last]["next"] = slot
    t.cells[first + 1] = slot


@outlined
def move_trails(t, book, side, price):
    """Trailing stops of a side follow a trade, oldest first; one that finds no node for its new trigger keeps the old one."""
    queue = Queue.BUY_STOPS.value + side
    slot = np.int64(trails.first_of(t, book, side))
    while slot != NIL:
        t.cells[Cell.VISITS] += 1
        trigger = trailed(side, price, t.details[slot]["trail"])
        old = t.details[slot]["trigger"]
        nearer = trigger < old if side == Side.BUY.value else trigger > old
        level = np.int64(t.orders[slot]["level"])
        alone = t.levels[level]["head"] == t.levels[level]["tail"]
        if nearer and (alone or not lacks_node(t, book, queue, trigger)):
            leave(t, level, slot)
            if t.levels[level]["head"] == NIL:
                end_level(t, book, queue, level)
            t.details[slot]["trigger"] = trigger
            queue_up(t, level_for(t, book, queue, trigger), slot)
        slot = np.int64(t.details[slot]["next_trailing"])


@outlined
def collect(t, book, side, price):
    """Stops of a side that a trade triggers leave their levels, nearest trigger first, for RISEN or FALLEN."""
    queue = Queue.BUY_STOPS.value + side
    chain = Cell.RISEN_FIRST.value if side == Side.BUY.value else Cell.FALLEN_FIRST.value
    level = first_level(t, book, queue)
    while level != NIL and reached(side, t.levels[level]["price"], price):
        slot = np.int64(t.levels[level]["head"])
        leave(t, level, slot)
        if t.levels[level]["head"] == NIL:
            end_level(t, book, queue, level)
        if t.orders[slot]["traits"] & Trait.TRAILING.value:
            trails.drop(t, book, slot)
        t.orders[slot]["traits"] &= ~Trait.TRAILING.value
        t.orders[slot]["level"] = IN_LINE - side
        line_up(t, chain, slot)
        level = first_level(t, book, queue)


@outlined
def see_trade(t, book, price):
    """A trade took place: trails follow it, and what it triggers is remembered."""
    for side in range(2):
        if t.lists[book, Queue.BUY_STOPS.value + side] != NIL:
            if trails.first_of(t, book, side) != NIL:
                move_trails(t, book, side, price)
            collect(t, book, side, price)


@leaf
def join_line(t, first):
    """A chain goes to the end of the line."""
    if t.cells[first] == NIL:
        return
    if t.cells[Cell.LINE_FIRST] == NIL:
        t.cells[Cell.LINE_FIRST] = t.cells[first]
    else:
        t.orders[t.cells[Cell.LINE_LAST]]["next"] = t.cells[first]
    t.cells[Cell.LINE_LAST] = t.cells[first + 1]
    t.cells[first] = NIL
    t.cells[first + 1] = NIL


@outlined
def trigger_order(t, reports, book, side, slot):
    """A stop that is in no level is in hand now: TRIGGERED, and it trades as its type says."""
    traits = np.int64(t.orders[slot]["traits"])
    outcome = (traits >> NO_SHIFT) & 1
    limit = t.details[slot]["price"]
    price = own_price(t, book, outcome, limit)
    no_price = int(traits & Trait.NO_PRICE.value != 0)
    if no_price:
        limit = range_end(t, book, side)
        price = np.int64(0)
    rests = int(traits & Trait.MARKET.value == 0)
    trigger = own_price(t, book, outcome, t.details[slot]["trigger"])
    traits &= ENDS_WITH_STOP
    t.orders[slot]["traits"] = traits
    t.orders[slot]["shown"] = 0
    t.details[slot]["trigger"] = 0
    t.details[slot]["trail"] = 0
    t.details[slot]["price"] = 0
    t.books[book]["special"] -= 1
    open_lots = t.orders[slot]["open"]
    flags = outcome * ReportFlag.NO.value | no_price * ReportFlag.NO_PRICE.value
    order = t.orders[slot]["id"]
    account = t.orders[slot]["account"]
    begin(
        t, side, limit, rests, price, flags, traits, open_lots, t.orders[slot]["filled"], order, account, slot
    )
    tell_taker(t, reports, ReportKind.TRIGGERED.value, Reason.NONE.value, 0, trigger, open_lots, open_lots)
    return TRADING


@outlined
def advance_line(t, reports):
    """The order in hand is over: the next stop in line trades; when there is none, all-or-none orders have their turn."""
    join_line(t, Cell.RISEN_FIRST.value)
    join_line(t, Cell.FALLEN_FIRST.value)
    slot = t.cells[Cell.LINE_FIRST]
    if slot == NIL:
        return ASIDE
    t.cells[Cell.LINE_FIRST] = t.orders[slot]["next"]
    if t.cells[Cell.LINE_FIRST] == NIL:
        t.cells[Cell.LINE_LAST] = NIL
    side = IN_LINE - np.int64(t.orders[slot]["level"])
    return trigger_order(t, reports, t.cells[Cell.BOOK], side, slot)
