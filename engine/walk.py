"""
Walks that cancel: a mass cancel, a settlement, and what expires.

    CANCELING    list by list of a book, best first, oldest first; those that match are cancelled
    NEXT_EVENT   a mass cancel of all events goes on with the next book, or says how many there were
    EXPIRING     the earliest of the shard's timers, one after another

A walk keeps its place in cells, so it stops when the reports are full, and also after VISITS_MAX orders that it only
looked at, and goes on in the next call.

Fast for what it cancels. Slow for a mass cancel of one account in a book of many others' orders, which are all
looked at, 10 to 100 ns each: plain orders are not chained by account, because that would cost every one of them two
cache misses.

The rules are M9, M13 and M22 of ARCHITECTURE.md, "Matching rules".
"""

import numpy as np

from ringpit.engine.book import first_order, next_order, position_of
from ringpit.engine.codes import (
    BOTH_SIDES,
    CommandKind,
    EventState,
    Flag,
    Queue,
    Reason,
    ReportFlag,
    ReportKind,
    Trait,
)
from ringpit.engine.hand import cancel_open
from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.ladder import NIL
from ringpit.engine.tables import CANCELING, DONE, NEXT_EVENT, TELLING, Cell
from ringpit.engine.tell import NO_SHIFT, answer, emit, refuse, room
from ringpit.engine.trade import VISITS_MAX


@leaf
def begin_walk(t, book):
    """Stand before the first open order of a book."""
    slot, queue = first_order(t, book, np.int64(Queue.BIDS.value))
    t.cells[Cell.BOOK] = book
    t.cells[Cell.CURSOR] = slot
    t.cells[Cell.QUEUE] = queue
    return CANCELING


@outlined
def start_settle(t, reports, commands, slot, book):
    """SETTLE (M9), policy `dummy`."""
    t.cells[Cell.CANCELED] = 0
    if book == NIL:
        return refuse(t, reports, commands, slot, Reason.UNKNOWN_EVENT.value)
    if t.books[book]["state"] == EventState.OPEN.value:
        return begin_walk(t, book)
    kind = ReportKind.EVENT_SETTLED.value
    answer(t, reports, commands, slot, kind, Reason.NONE.value, ReportFlag.REPEAT.value, 0)
    return DONE


@outlined
def start_mass_cancel(t, reports, commands, slot, book):
    """MASS_CANCEL (M22): of one event, or of all."""
    flags = commands[slot]["flags"]
    everywhere = flags & Flag.ALL_EVENTS.value != 0
    t.cells[Cell.CANCELED] = 0
    if not everywhere:
        if book == NIL:
            return refuse(t, reports, commands, slot, Reason.UNKNOWN_EVENT.value)
        if t.books[book]["state"] != EventState.OPEN.value:
            return refuse(t, reports, commands, slot, Reason.ALREADY_SETTLED.value)
    if (
        flags & ~Flag.ALL_EVENTS.value != 0
        or not 0 <= commands[slot]["side"] <= BOTH_SIDES
        or commands[slot]["order"] < 0
    ):
        return refuse(t, reports, commands, slot, Reason.UNSUPPORTED.value)
    if not everywhere:
        return begin_walk(t, book)
    t.cells[Cell.BOOK] = NIL
    return NEXT_EVENT


@leaf
def next_open_book(t, book):
    """The first open book behind a slot, by order of creation, or NIL."""
    book += 1
    while book < t.cells[Cell.BOOKS_USED]:
        if t.books[book]["state"] == EventState.OPEN.value:
            return book
        book += 1
    return np.int64(NIL)


@outlined
def go_on_with_events(t, reports, commands, slot):
    """NEXT_EVENT: the next book of a mass cancel of all events, or the end of any mass cancel."""
    t.cells[Cell.TOUCHED] = 0
    t.cells[Cell.TOLD] = 0
    if commands[slot]["flags"] & Flag.ALL_EVENTS.value != 0:
        book = next_open_book(t, t.cells[Cell.BOOK])
        if book != NIL:
            return begin_walk(t, book)
    event = commands[slot]["event"]
    group = commands[slot]["order"]
    account = commands[slot]["account"]
    asked = np.int64(commands[slot]["side"])
    kind = ReportKind.MASS_CANCELED.value
    emit(t, reports, kind, asked, Reason.NONE.value, 0, event, group, account, 0, 0, t.cells[Cell.CANCELED])
    return DONE


@leaf
def is_meant(t, commands, slot, order_slot):
    """True if a mass cancel is about an open order."""
    account = commands[slot]["account"]
    group = commands[slot]["order"]
    asked = commands[slot]["side"]
    if account != 0 and t.orders[order_slot]["account"] != account:
        return False
    traits = t.orders[order_slot]["traits"]
    if group != 0 and (traits & Trait.GROUPED.value == 0 or t.details[order_slot]["group"] != group):
        return False
    outcome = (traits >> NO_SHIFT) & 1
    return asked == BOTH_SIDES or t.levels[t.orders[order_slot]["level"]]["side"] ^ outcome == asked


@outlined
def cancel_on(t, reports, commands, slot):
    """CANCELING: go on with the walk through a book."""
    book = t.cells[Cell.BOOK]
    settles = commands[slot]["kind"] == CommandKind.SETTLE.value
    reason = Reason.MARKET_CLOSED.value if settles else Reason.MASS_CANCEL.value
    while t.cells[Cell.CURSOR] != NIL:
        if not room(t) or t.cells[Cell.VISITS] >= VISITS_MAX:
            return CANCELING
        order_slot = t.cells[Cell.CURSOR]
        behind, queue = next_order(t, book, t.cells[Cell.QUEUE], order_slot)
        if settles or is_meant(t, commands, slot, order_slot):
            cancel_open(t, reports, order_slot, position_of(t, order_slot), reason)
            t.cells[Cell.CANCELED] += 1
        else:
            t.cells[Cell.VISITS] += 1
        t.cells[Cell.CURSOR] = behind
        t.cells[Cell.QUEUE] = queue
    if not room(t):
        return CANCELING
    if settles:
        canceled = t.cells[Cell.CANCELED]
        answer(t, reports, commands, slot, ReportKind.EVENT_SETTLED.value, Reason.NONE.value, 0, canceled)
        t.books[book]["state"] = EventState.SETTLED.value
    return TELLING


@outlined
def expire(t, reports):
    """EXPIRING: cancel the order that is due first (M13), or end."""
    t.cells[Cell.TOUCHED] = 0
    t.cells[Cell.TOLD] = 0
    if t.cells[Cell.TIMERS] == 0 or t.cells[Cell.NEXT_EXPIRY] > t.cells[Cell.ENGINE_NS]:
        return DONE
    slot = np.int64(t.timers[0])
    t.cells[Cell.BOOK] = t.orders[slot]["book"]
    cancel_open(t, reports, slot, position_of(t, slot), Reason.EXPIRED.value)
    return TELLING
