"""
Matching: what happens to a new, a cancelled and an amended order.

A taker's state lies in `cells`, because a sweep may have to stop when the reports are full, and goes on in the
next call with the same command (see machine.py). While it sweeps, it is in registers.

Fast here because a fill touches the maker's record, its level and the book, all of them at the front of the
queue. Slow at a first touch of cold memory: an order far from the touch is four or five cache misses.

The rules M1 to M7 are numbered in ARCHITECTURE.md, "Matching rules".
"""

import numpy as np

from ringpit.engine import index
from ringpit.engine.book import (
    best_against,
    better_or_equal,
    find_order,
    level_of,
    next_level,
    price_of,
    remove,
    rest,
    side_of,
    touch,
)
from ringpit.engine.codes import EventState, Flag, OrderType, Reason, ReportKind, Side, TimeInForce
from ringpit.engine.kernels import leaf
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import QUANTITY_MAX
from ringpit.engine.tables import MATCHING, TELLING, Cell
from ringpit.engine.tell import answer, emit, refuse, room


@leaf
def refusal_of_any(t, commands, slot, book):
    """The checks that NEW, CANCEL and AMEND share, in the order of M7; the edge's verdict comes before them."""
    if book == NIL:
        return Reason.UNKNOWN_EVENT.value
    if t.books[book]["state"] != EventState.OPEN:
        return Reason.ALREADY_SETTLED.value
    if (
        not Side.BUY <= commands[slot]["side"] <= Side.SELL
        or not OrderType.LIMIT <= commands[slot]["order_type"] <= OrderType.MARKET
        or not TimeInForce.GTC <= commands[slot]["time_in_force"] <= TimeInForce.FOK
        or commands[slot]["flags"] & ~Flag.NO_PRICE.value != 0
        or commands[slot]["self_trade"] != 0
        or commands[slot]["outcome"] != 0
        or commands[slot]["expires_ns"] != 0
    ):
        return Reason.UNSUPPORTED.value
    return Reason.NONE.value


@leaf
def refusal_of_price(t, book, price):
    """PRICE_OUT_OF_RANGE unless the price lies in the book's range."""
    if t.books[book]["low"] <= price <= t.books[book]["high"]:
        return Reason.NONE.value
    return Reason.PRICE_OUT_OF_RANGE.value


@leaf
def fillable(t, book, side, limit, quantity):
    """True if the book holds `quantity` lots up to the limit. One step a level, no order is touched."""
    level = best_against(t, book, side)
    while level != NIL and better_or_equal(side, level, limit):
        quantity -= t.levels[level]["quantity"]
        if quantity <= 0:
            return True
        level = next_level(t, book, side, level)
    return False


@leaf
def begin(t, side, limit, price_level, price, quantity, filled, order, account):
    """Set up the taker in hand."""
    t.cells[Cell.SIDE] = side
    t.cells[Cell.LIMIT] = limit
    t.cells[Cell.PRICE_LEVEL] = price_level
    t.cells[Cell.PRICE] = price
    t.cells[Cell.OPEN] = quantity
    t.cells[Cell.FILLED] = filled
    t.cells[Cell.ORDER] = order
    t.cells[Cell.ACCOUNT] = account
    return MATCHING


@leaf
def start_new(t, reports, commands, slot, book):
    """NEW: check (M7), accept, and hand over to matching."""
    reason = refusal_of_any(t, commands, slot, book)
    if reason != Reason.NONE.value:
        return refuse(t, reports, commands, slot, reason)
    quantity = commands[slot]["quantity"]
    if quantity < 1:
        return refuse(t, reports, commands, slot, Reason.QTY_INVALID.value)
    if quantity > QUANTITY_MAX:
        return refuse(t, reports, commands, slot, Reason.QTY_LIMIT.value)
    side = np.int64(commands[slot]["side"])
    market = commands[slot]["order_type"] == OrderType.MARKET
    if commands[slot]["flags"] & Flag.NO_PRICE.value:
        if not market:
            return refuse(t, reports, commands, slot, Reason.PRICE_OUT_OF_RANGE.value)
        limit = t.books[book]["base"]
        if side == Side.BUY:
            limit += t.books[book]["high"] - t.books[book]["low"]
    else:
        if refusal_of_price(t, book, commands[slot]["price"]) != Reason.NONE.value:
            return refuse(t, reports, commands, slot, Reason.PRICE_OUT_OF_RANGE.value)
        limit = level_of(t, book, commands[slot]["price"])
    order = commands[slot]["order"]
    if find_order(t, book, order) != index.MISSING:
        return refuse(t, reports, commands, slot, Reason.DUP_CLIENT_ORDER_ID.value)
    time_in_force = commands[slot]["time_in_force"]
    if time_in_force == TimeInForce.FOK and not fillable(t, book, side, limit, quantity):
        return refuse(t, reports, commands, slot, Reason.FOK_UNFILLABLE.value)
    price_level = NIL
    if time_in_force == TimeInForce.GTC and not market:
        price_level = limit
        if t.cells[Cell.ORDERS_FREE] == NIL:
            return refuse(t, reports, commands, slot, Reason.BOOK_CAPACITY.value)
    answer(t, reports, commands, slot, ReportKind.ACCEPTED.value, Reason.NONE.value, 0, quantity)
    t.cells[Cell.FLAGS] = commands[slot]["flags"]
    return begin(
        t, side, limit, price_level, commands[slot]["price"], quantity, 0, order, commands[slot]["account"]
    )


@leaf
def drop_order(t, reports, book, order_slot, position, reason):
    """Cancel a resting order and report it."""
    level = t.orders[order_slot]["level"]
    side = side_of(t, book, level)
    touch(t, level, side)
    emit(
        t,
        reports,
        ReportKind.CANCELED.value,
        side,
        reason,
        0,
        t.books[book]["event"],
        t.orders[order_slot]["id"],
        t.details[order_slot]["account"],
        price_of(t, book, level),
        t.orders[order_slot]["open"],
        0,
    )
    remove(t, order_slot, position)


@leaf
def start_cancel(t, reports, commands, slot, book):
    """CANCEL (M5)."""
    reason = refusal_of_any(t, commands, slot, book)
    if reason != Reason.NONE.value:
        return refuse(t, reports, commands, slot, reason)
    position = find_order(t, book, commands[slot]["order"])
    if position == index.MISSING:
        return refuse(t, reports, commands, slot, Reason.UNKNOWN_ORDER.value)
    order_slot = index.slot_at(t.index, position)
    if t.details[order_slot]["account"] != commands[slot]["account"]:
        return refuse(t, reports, commands, slot, Reason.NOT_OWNER.value)
    drop_order(t, reports, book, order_slot, position, Reason.NONE.value)
    return TELLING


@leaf
def start_amend(t, reports, commands, slot, book):
    """AMEND (M6): in place if only smaller, else out of the book and in again as a taker."""
    reason = refusal_of_any(t, commands, slot, book)
    if reason != Reason.NONE.value:
        return refuse(t, reports, commands, slot, reason)
    order = commands[slot]["order"]
    position = find_order(t, book, order)
    if position == index.MISSING:
        return refuse(t, reports, commands, slot, Reason.UNKNOWN_ORDER.value)
    order_slot = index.slot_at(t.index, position)
    account = t.details[order_slot]["account"]
    if account != commands[slot]["account"]:
        return refuse(t, reports, commands, slot, Reason.NOT_OWNER.value)
    total = commands[slot]["quantity"]
    if total < 0:
        return refuse(t, reports, commands, slot, Reason.QTY_INVALID.value)
    if total > QUANTITY_MAX:
        return refuse(t, reports, commands, slot, Reason.QTY_LIMIT.value)
    level = t.orders[order_slot]["level"]
    new_level = level
    if commands[slot]["flags"] & Flag.NO_PRICE.value == 0:
        if refusal_of_price(t, book, commands[slot]["price"]) != Reason.NONE.value:
            return refuse(t, reports, commands, slot, Reason.PRICE_OUT_OF_RANGE.value)
        new_level = level_of(t, book, commands[slot]["price"])
    filled = t.details[order_slot]["filled"]
    was_open = t.orders[order_slot]["open"]
    if total == 0:
        total = filled + was_open
    if total <= filled:
        drop_order(t, reports, book, order_slot, position, Reason.NONE.value)
        return TELLING
    now_open = total - filled
    side = side_of(t, book, level)
    emit(
        t,
        reports,
        ReportKind.AMENDED.value,
        side,
        Reason.NONE.value,
        0,
        commands[slot]["event"],
        order,
        account,
        price_of(t, book, new_level),
        total,
        now_open,
    )
    if new_level == level and now_open <= was_open:
        if now_open < was_open:
            t.orders[order_slot]["open"] = now_open
            t.levels[level]["quantity"] -= was_open - now_open
            touch(t, level, side)
        return TELLING
    touch(t, level, side)
    remove(t, order_slot, position)
    return begin(t, side, new_level, new_level, 0, now_open, filled, order, account)


@leaf
def fill(t, reports, book, side, level, maker, quantity, leaves):
    """Report one trade to both parties, at the maker's price (M1)."""
    event = t.books[book]["event"]
    price = price_of(t, book, level)
    emit(
        t,
        reports,
        ReportKind.FILL_MAKER.value,
        1 - side,
        Reason.NONE.value,
        0,
        event,
        t.orders[maker]["id"],
        t.details[maker]["account"],
        price,
        quantity,
        t.orders[maker]["open"],
    )
    emit(
        t,
        reports,
        ReportKind.FILL_TAKER.value,
        side,
        Reason.NONE.value,
        0,
        event,
        t.cells[Cell.ORDER],
        t.cells[Cell.ACCOUNT],
        price,
        quantity,
        leaves,
    )


@leaf
def match(t, reports):
    """Trade the taker in hand as far as its limit and the room for reports allow, then rest or cancel it."""
    book = t.cells[Cell.BOOK]
    side = t.cells[Cell.SIDE]
    limit = t.cells[Cell.LIMIT]
    left = t.cells[Cell.OPEN]
    level = best_against(t, book, side)
    while left > 0 and level != NIL and better_or_equal(side, level, limit):
        if not room(t):
            t.cells[Cell.FILLED] += t.cells[Cell.OPEN] - left
            t.cells[Cell.OPEN] = left
            return MATCHING
        touch(t, level, 1 - side)
        maker = t.levels[level]["head"]
        quantity = min(left, t.orders[maker]["open"])
        left -= quantity
        t.orders[maker]["open"] -= quantity
        t.details[maker]["filled"] += quantity
        t.levels[level]["quantity"] -= quantity
        fill(t, reports, book, side, level, maker, quantity, left)
        if t.orders[maker]["open"] == 0:
            remove(t, maker, find_order(t, book, t.orders[maker]["id"]))
            level = best_against(t, book, side)
    t.cells[Cell.FILLED] += t.cells[Cell.OPEN] - left
    t.cells[Cell.OPEN] = left
    if left == 0:
        return TELLING
    if not room(t):
        return MATCHING
    price_level = t.cells[Cell.PRICE_LEVEL]
    if price_level != NIL:
        rest(
            t,
            book,
            side,
            price_level,
            t.cells[Cell.ORDER],
            t.cells[Cell.ACCOUNT],
            left,
            t.cells[Cell.FILLED],
        )
        if t.cells[Cell.TOUCHED] == 0 or t.touched[0] != price_level * 2 + side:
            touch(t, price_level, side)
        return TELLING
    emit(
        t,
        reports,
        ReportKind.CANCELED.value,
        side,
        Reason.IOC_REMAINDER.value,
        t.cells[Cell.FLAGS],
        t.books[book]["event"],
        t.cells[Cell.ORDER],
        t.cells[Cell.ACCOUNT],
        t.cells[Cell.PRICE],
        left,
        0,
    )
    return TELLING
