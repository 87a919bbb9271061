"""
Telling: how reports are written, and when there is room for more.

A report goes straight into the caller's array, at the position after the last one; nobody copies it
again before it leaves the process. A step of a command asks for `room` before it begins, and makes at most
REPORTS_PER_STEP_MAX reports; so none is ever dropped.

Codes are passed on as plain numbers (`.value`): members of different enums would compile every callee anew.
The order of reports is rule M2 of ARCHITECTURE.md, "Matching rules".
"""

from typing import Final

import numpy as np

from ringpit.engine.book import own_price, price_of
from ringpit.engine.codes import (
    CommandKind,
    Flag,
    OrderType,
    Outcome,
    Reason,
    ReportFlag,
    ReportKind,
    Side,
    Trait,
)
from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.ladder import NIL
from ringpit.engine.levels import find_level
from ringpit.engine.limits import REPORTS_PER_STEP_MAX
from ringpit.engine.tables import DONE, TELLING, Cell

NO_SHIFT: Final = Trait.NO.bit_length() - 1  # traits >> NO_SHIFT & 1 is an Outcome


@leaf
def room(t):
    """True if one more step's reports fit."""
    return t.cells[Cell.OUT_LIMIT] - t.cells[Cell.OUT] >= REPORTS_PER_STEP_MAX


@leaf
def emit(t, reports, kind, side, reason, flags, event, order, account, price, quantity, leaves):
    """Write one report behind the last one. The caller has seen that there is room."""
    out = t.cells[Cell.OUT]
    slot = out & (reports.shape[0] - 1)
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
    t.cells[Cell.OUT] = out + 1
    t.cells[Cell.INDEX] += 1


@leaf
def flags_asked(commands, slot):
    """The ReportFlags that tell how a command's side, price and quantity are meant (M10)."""
    flags = np.int64(commands[slot]["flags"] & Flag.NO_PRICE.value)
    if commands[slot]["outcome"] == Outcome.NO.value:
        flags |= ReportFlag.NO.value
    if commands[slot]["order_type"] == OrderType.MONEY.value:
        flags |= ReportFlag.MONEY.value
    return flags


@leaf
def answer(t, reports, commands, slot, kind, reason, flags, leaves):
    """One report that repeats the command's order, account, side, price and quantity."""
    emit(
        t,
        reports,
        kind,
        np.int64(commands[slot]["side"]),
        reason,
        flags,
        commands[slot]["event"],
        commands[slot]["order"],
        commands[slot]["account"],
        commands[slot]["price"],
        commands[slot]["quantity"],
        leaves,
    )


@outlined
def refuse(t, reports, commands, slot, reason):
    """REJECTED; the state is untouched. Order and account of a command that has none are 0 (M10)."""
    kind = commands[slot]["kind"]
    if kind in (CommandKind.CREATE_EVENT.value, CommandKind.SETTLE.value, CommandKind.MASS_CANCEL.value):
        event = commands[slot]["event"]
        price = commands[slot]["price"]
        quantity = commands[slot]["quantity"]
        emit(t, reports, ReportKind.REJECTED.value, 0, reason, 0, event, 0, 0, price, quantity, 0)
    else:
        answer(t, reports, commands, slot, ReportKind.REJECTED.value, reason, flags_asked(commands, slot), 0)
    return DONE


@leaf
def tell_order(t, reports, kind, reason, slot, price, quantity, leaves):
    """A report about an open order, in its own terms; `price` is of YES."""
    book = np.int64(t.orders[slot]["book"])
    traits = np.int64(t.orders[slot]["traits"])
    outcome = (traits >> NO_SHIFT) & 1
    level = t.orders[slot]["level"]
    flags = outcome * ReportFlag.NO.value
    own = own_price(t, book, outcome, price)
    if traits & Trait.NO_PRICE.value:
        flags |= ReportFlag.NO_PRICE.value
        own = np.int64(0)
    emit(
        t,
        reports,
        kind,
        np.int64(t.levels[level]["side"]) ^ outcome,
        reason,
        flags,
        t.books[book]["event"],
        t.orders[slot]["id"],
        t.orders[slot]["account"],
        own,
        quantity,
        leaves,
    )


@leaf
def tell_canceled(t, reports, slot, reason):
    """CANCELED for all that is open of an order that is still in its level."""
    tell_order(
        t, reports, ReportKind.CANCELED.value, reason, slot, price_of(t, slot), t.orders[slot]["open"], 0
    )


@leaf
def tell_amended(t, reports, slot, price, now_open):
    """AMENDED for an order that has a new price, new open lots, or both; it is still in its old level."""
    total = t.orders[slot]["filled"] + now_open
    tell_order(t, reports, ReportKind.AMENDED.value, Reason.NONE.value, slot, price, total, now_open)


@leaf
def tell_taker(t, reports, kind, reason, flags, price, quantity, leaves):
    """A report about the order in hand; `price` is in its own terms, its own unless it is what was asked for (M10)."""
    own_flags = t.cells[Cell.FLAGS]
    if kind != ReportKind.CANCELED.value:
        own_flags &= ~ReportFlag.NO_PRICE.value
    outcome = int(own_flags & ReportFlag.NO.value != 0)
    emit(
        t,
        reports,
        kind,
        t.cells[Cell.SIDE] ^ outcome,
        reason,
        flags | own_flags,
        t.books[t.cells[Cell.BOOK]]["event"],
        t.cells[Cell.ORDER],
        t.cells[Cell.ACCOUNT],
        price,
        quantity,
        leaves,
    )


@leaf
def tell_fill(t, reports, book, side, price, maker, quantity, maker_leaves, leaves):
    """Report one trade of the order in hand to both parties, each in its own terms (M1)."""
    maker_no = (np.int64(t.orders[maker]["traits"]) >> NO_SHIFT) & 1
    own_flags = t.cells[Cell.FLAGS]
    taker_no = int(own_flags & ReportFlag.NO.value != 0)
    marks = np.int64(0)
    if maker_no != taker_no:
        buyer_no = taker_no if side == Side.BUY.value else maker_no
        marks = np.int64(ReportFlag.BURN.value if buyer_no else ReportFlag.MINT.value)
    event = t.books[book]["event"]
    emit(
        t,
        reports,
        ReportKind.FILL_MAKER.value,
        (1 - side) ^ maker_no,
        Reason.NONE.value,
        marks | maker_no * ReportFlag.NO.value,
        event,
        t.orders[maker]["id"],
        t.orders[maker]["account"],
        own_price(t, book, maker_no, price),
        quantity,
        maker_leaves,
    )
    emit(
        t,
        reports,
        ReportKind.FILL_TAKER.value,
        side ^ taker_no,
        Reason.NONE.value,
        marks | (own_flags & ~ReportFlag.NO_PRICE.value),
        event,
        t.cells[Cell.ORDER],
        t.cells[Cell.ACCOUNT],
        own_price(t, book, taker_no, price),
        quantity,
        leaves,
    )


@leaf
def tell_level(t, reports, book, price, side, quantity):
    """LEVEL: what is shown at a level in all."""
    emit(
        t, reports, ReportKind.LEVEL.value, side, Reason.NONE.value, 0, t.books[book]["event"], 0, book, price, quantity, 0
    )  # fmt: skip


@leaf
def shown_at(t, book, side, price):
    """Lots that a side shows at a price."""
    level = find_level(t, book, side, price)
    if level == NIL or t.levels[level]["head"] == NIL or t.levels[level]["side"] != side:
        return np.int64(0)
    return t.levels[level]["quantity"]


@outlined
def tell_levels(t, reports):
    """One LEVEL for each level that the command changed, with its total now (M2)."""
    book = t.cells[Cell.BOOK]
    while t.cells[Cell.TOLD] < t.cells[Cell.TOUCHED]:
        if not room(t):
            return TELLING
        entry = t.touched[t.cells[Cell.TOLD]]
        price = entry >> 1
        side = entry & 1
        tell_level(t, reports, book, price, side, shown_at(t, book, side, price))
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
        np.int64(t.books[book]["base"]),
    )
