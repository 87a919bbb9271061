"""
Telling: how reports are written, and when there is room for more.

A report goes straight into the caller's array, at the position after the last one; nobody copies it
again before it leaves the process. A step of a command asks for `room` before it begins, and makes at most
REPORTS_PER_STEP_MAX reports; so none is ever dropped.

Codes are passed on as plain numbers (`.value`): members of different enums would compile every callee anew.
The order of reports is rule M2 of ARCHITECTURE.md, "Matching rules".
"""

import numpy as np

from ringpit.engine.book import price_of, side_of
from ringpit.engine.codes import CommandKind, Flag, Reason, ReportKind
from ringpit.engine.kernels import leaf
from ringpit.engine.limits import REPORTS_PER_STEP_MAX
from ringpit.engine.tables import DONE, TELLING, Cell


@leaf
def room(t):
    """True if one more step's reports fit."""
    return t.cells[Cell.OUT_LIMIT] - t.cells[Cell.OUT] >= REPORTS_PER_STEP_MAX


@leaf
def emit(t, reports, kind, side, reason, flags, event, order, account, price, quantity, leaves):
    """Write one report behind the last one. The caller has seen that there is room."""
    slot = t.cells[Cell.OUT] & (reports.shape[0] - 1)
    reports[slot]["kind"] = kind
    reports[slot]["side"] = side
    reports[slot]["reason"] = reason
    reports[slot]["flags"] = flags
    reports[slot]["index"] = t.cells[Cell.INDEX]
    reports[slot]["seq"] = t.cells[Cell.SEQ]
    reports[slot]["event"] = event
    reports[slot]["order"] = order
    reports[slot]["account"] = account
    reports[slot]["price"] = price
    reports[slot]["quantity"] = quantity
    reports[slot]["leaves"] = leaves
    t.cells[Cell.OUT] += 1
    t.cells[Cell.INDEX] += 1


@leaf
def answer(t, reports, commands, slot, kind, reason, flags, leaves):
    """One report that repeats the command's order, account, side, price and quantity, and whether it had a price (M10)."""
    emit(
        t,
        reports,
        kind,
        np.int64(commands[slot]["side"]),
        reason,
        flags | (commands[slot]["flags"] & Flag.NO_PRICE.value),
        commands[slot]["event"],
        commands[slot]["order"],
        commands[slot]["account"],
        commands[slot]["price"],
        commands[slot]["quantity"],
        leaves,
    )


@leaf
def refuse(t, reports, commands, slot, reason):
    """REJECTED; the state is untouched. Order and account of a command that has none are 0."""
    kind = commands[slot]["kind"]
    if kind in (CommandKind.CREATE_EVENT, CommandKind.SETTLE):
        event = commands[slot]["event"]
        low = commands[slot]["price"]
        high = commands[slot]["quantity"]
        emit(t, reports, ReportKind.REJECTED.value, np.int64(0), reason, np.int64(0), event, 0, 0, low, high, 0)
    else:
        answer(t, reports, commands, slot, ReportKind.REJECTED.value, reason, Reason.NONE.value, 0)
    return DONE


@leaf
def tell_level(t, reports, book, level, side, quantity):
    """LEVEL: what rests at a level in all."""
    emit(
        t,
        reports,
        ReportKind.LEVEL.value,
        side,
        Reason.NONE.value,
        0,
        t.books[book]["event"],
        0,
        book,
        price_of(t, book, level),
        quantity,
        0,
    )


@leaf
def tell_levels(t, reports):
    """One LEVEL for each level that the command changed, with its total now (M2)."""
    if t.cells[Cell.MARKET_DATA] == 0:
        return DONE
    book = t.cells[Cell.BOOK]
    while t.cells[Cell.TOLD] < t.cells[Cell.TOUCHED]:
        if not room(t):
            return TELLING
        entry = t.touched[t.cells[Cell.TOLD]]
        level = entry >> 1
        side = entry & 1
        quantity = t.levels[level]["quantity"]
        if quantity != 0 and side_of(t, book, level) != side:
            quantity = 0  # the other side has taken the level over since
        tell_level(t, reports, book, level, side, quantity)
        t.cells[Cell.TOLD] += 1
    return DONE


@leaf
def tell_book(t, reports, book):
    """BOOK_RESET: where the book's levels lie, and that they are empty until told otherwise."""
    emit(
        t,
        reports,
        ReportKind.BOOK_RESET.value,
        0,
        Reason.NONE.value,
        0,
        t.books[book]["event"],
        t.books[book]["tick_units"] * 32 + t.books[book]["decimals"],
        book,
        t.books[book]["low"],
        t.books[book]["high"],
        t.books[book]["base"],
    )
