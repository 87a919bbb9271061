"""
Matching, the plain path: limit and market orders, cancels and amends where nothing special is in the book.

Most commands of most exchanges need no more than this, so it is all inlined into one loop and asks two words of the
book (`special`, `checks`) whether it may be taken. Everything else is a call: new orders in accept.py, trading in
trade.py. Both tell what they do by the same functions, and the naive exchange of the tests judges both.

A taker's state lies in `cells`, because a sweep may have to stop when the reports are full, and goes on in the
next call with the same command (see machine.py). While it sweeps, it is in registers. An order that an amend took out of its level
keeps its slot: it is *in hand* (Cell.HAND), and is linked again or closed at the end.

Fast here because a fill touches the maker's record, its level and the book, all of them at the front of the
queue. Slow at a first touch of cold memory: an order far from the touch is four or five cache misses.

The rules M1 to M7 and M15 are numbered in ARCHITECTURE.md, "Matching rules".
"""

from typing import Final

import numpy as np

from ringpit.engine import index
from ringpit.engine.accept import accept_special, replace_special
from ringpit.engine.book import (
    SPECIAL,
    beyond,
    close_order,
    find_order,
    link_plain,
    new_order,
    own_price,
    position_of,
    price_of,
    range_end,
    remove,
    take_out,
    touch,
    touch_order,
)
from ringpit.engine.checks import in_range, is_off_grid, refusal_of_order, refusal_of_verb, too_many_slices
from ringpit.engine.codes import (
    CommandKind,
    EventState,
    Flag,
    OrderType,
    Reason,
    ReportFlag,
    ReportKind,
    SelfTrade,
    TimeInForce,
    Trait,
)
from ringpit.engine.hand import begin, begin_open, cancel_open
from ringpit.engine.kernels import leaf
from ringpit.engine.ladder import NIL
from ringpit.engine.levels import best_of, lacks_node
from ringpit.engine.tables import DONE, LINE, MATCHING, TELLING, TRADING, Cell, Check
from ringpit.engine.tell import (
    NO_SHIFT,
    answer,
    emit,
    refuse,
    room,
    tell_amended,
    tell_fill,
    tell_taker,
)

NOT_PLAIN: Final = SPECIAL | int(Trait.POST_ONLY)  # orders that the special path amends


@leaf
def is_plain(t, commands, slot, book):
    """True if a NEW needs nothing but the plain path: whatever is odd about it makes it special, mistakes included."""
    order_type = commands[slot]["order_type"]
    time_in_force = commands[slot]["time_in_force"]
    flags = commands[slot]["flags"]
    small = commands[slot]["side"] | commands[slot]["outcome"] | order_type | time_in_force | flags
    return (
        small & ~1 == 0  # LIMIT or MARKET, GTC or IOC, no flag but NO_PRICE
        and 0 <= commands[slot]["self_trade"] <= SelfTrade.DECREMENT.value
        and (commands[slot]["expires_ns"] | commands[slot]["payout"]) == 0
        and flags <= order_type  # a LIMIT has a price
        and book != NIL
        and t.books[book]["special"] | t.books[book]["checks"] == 0
        and t.books[book]["state"] == EventState.OPEN.value
        and (commands[slot]["outcome"] == 0 or t.books[book]["payout"] > 0)
    )


@leaf
def start_new(t, reports, commands, slot, book, fingerprint):
    """NEW: check (M7), accept, and rest it, or hand it over to matching."""
    if not is_plain(t, commands, slot, book):
        return accept_special(t, reports, commands, slot, book)
    quantity = commands[slot]["quantity"]
    if quantity < 1:
        return refuse(t, reports, commands, slot, Reason.QTY_INVALID.value)
    if quantity > t.books[book]["quantity_max"]:
        return refuse(t, reports, commands, slot, Reason.QTY_LIMIT.value)
    outcome = np.int64(commands[slot]["outcome"])
    side = np.int64(commands[slot]["side"]) ^ outcome
    flags = outcome * ReportFlag.NO.value
    if commands[slot]["flags"] != 0:
        flags |= ReportFlag.NO_PRICE.value
        limit = range_end(t, book, side)
    elif not in_range(t, book, commands[slot]["price"]):
        return refuse(t, reports, commands, slot, Reason.PRICE_OUT_OF_RANGE.value)
    else:
        limit = own_price(t, book, outcome, commands[slot]["price"])
    order = commands[slot]["order"]
    account = commands[slot]["account"]
    if find_order(t, book, order, fingerprint) != index.MISSING:
        return refuse(t, reports, commands, slot, Reason.DUP_CLIENT_ORDER_ID.value)
    rests = commands[slot]["order_type"] == OrderType.LIMIT.value and (
        commands[slot]["time_in_force"] == TimeInForce.GTC.value
    )
    if rests and lacks_room(t, book, side, limit):
        return refuse(t, reports, commands, slot, Reason.POOL_CAPACITY.value)
    answer(t, reports, commands, slot, ReportKind.ACCEPTED.value, Reason.NONE.value, flags, quantity)
    traits = (outcome << NO_SHIFT) | commands[slot]["self_trade"]
    best = best_of(t, book, 1 - side)
    if best != NIL and not beyond(side, t.levels[best]["price"], limit):
        price = commands[slot]["price"]
        begin(t, side, limit, int(rests), price, flags, traits, quantity, 0, order, account, NIL)
        return MATCHING
    if rests:
        hand = new_order(t, book, order, account, quantity, 0, traits, fingerprint)
        link_plain(t, book, side, limit, hand)
        touch(t, limit, side)
        return TELLING
    event = commands[slot]["event"]
    price = commands[slot]["price"]
    asked = np.int64(commands[slot]["side"])
    lapse = Reason.IOC_REMAINDER.value
    emit(t, reports, ReportKind.CANCELED.value, asked, lapse, flags, event, order, account, price, quantity, 0)
    return DONE


@leaf
def lacks_room(t, book, side, price):
    """True if no order slot is free, or no node for a level that has none."""
    return t.cells[Cell.ORDERS_FREE] == NIL or lacks_node(t, book, side, price)


@leaf
def start_cancel(t, reports, commands, slot, book, fingerprint):
    """CANCEL (M5)."""
    reason = refusal_of_verb(t, commands, slot, book)
    if reason != Reason.NONE.value:
        return refuse(t, reports, commands, slot, reason)
    order = commands[slot]["order"]
    position = find_order(t, book, order, fingerprint)
    reason = refusal_of_order(t, commands, slot, position)
    if reason != Reason.NONE.value:
        return refuse(t, reports, commands, slot, reason)
    cancel_open(t, reports, index.slot_at(t.index, position), position, Reason.NONE.value)
    return TELLING


@leaf
def shrink(t, slot, now_open):
    """An open order keeps its place with fewer lots; what is not shown goes first (M20)."""
    touch_order(t, slot)
    level = t.orders[slot]["level"]
    gone = max(t.orders[slot]["shown"] - now_open, 0)
    t.orders[slot]["open"] = now_open
    t.orders[slot]["shown"] -= gone
    t.levels[level]["quantity"] -= gone


@leaf
def refusal_of_quantity(t, book, kind, quantity, hand):
    """QTY_INVALID or QTY_LIMIT of an AMEND, REPLACE or REDUCE of an open order."""
    filled = t.orders[hand]["filled"]
    if quantity < int(kind != CommandKind.AMEND.value):
        return Reason.QTY_INVALID.value
    most = t.books[book]["quantity_max"] - (filled if kind == CommandKind.REPLACE.value else 0)
    if quantity > most and kind != CommandKind.REDUCE.value:
        return Reason.QTY_LIMIT.value
    if t.orders[hand]["traits"] & Trait.ICEBERG.value:
        now_open = open_after(kind, quantity, filled, t.orders[hand]["open"])
        if too_many_slices(now_open, t.details[hand]["display"]):
            return Reason.QTY_LIMIT.value
    return Reason.NONE.value


@leaf
def open_after(kind, quantity, filled, was_open):
    """Open lots that an AMEND (0 keeps the total), REPLACE or REDUCE leaves; 0 or less: the order is over."""
    if kind == CommandKind.REDUCE.value:
        return was_open - min(quantity, was_open)
    if kind == CommandKind.REPLACE.value:
        return quantity
    if quantity == 0:
        return was_open
    return quantity - filled


@leaf
def start_change(t, reports, commands, slot, book, fingerprint):
    """AMEND, REPLACE and REDUCE (M6, M15): check, and carry out."""
    reason = refusal_of_verb(t, commands, slot, book)
    if reason != Reason.NONE.value:
        return refuse(t, reports, commands, slot, reason)
    kind = commands[slot]["kind"]
    order = commands[slot]["order"]
    position = find_order(t, book, order, fingerprint)
    reason = refusal_of_order(t, commands, slot, position)
    if reason != Reason.NONE.value:
        return refuse(t, reports, commands, slot, reason)
    hand = index.slot_at(t.index, position)
    quantity = commands[slot]["quantity"]
    filled = t.orders[hand]["filled"]
    reason = refusal_of_quantity(t, book, kind, quantity, hand)
    if reason != Reason.NONE.value:
        return refuse(t, reports, commands, slot, reason)
    traits = np.int64(t.orders[hand]["traits"])
    was_price = price_of(t, hand)
    price = was_price
    prices = kind != CommandKind.REDUCE.value and commands[slot]["flags"] & Flag.NO_PRICE.value == 0
    if prices:
        if not in_range(t, book, commands[slot]["price"]):
            return refuse(t, reports, commands, slot, Reason.PRICE_OUT_OF_RANGE.value)
        price = own_price(t, book, (traits >> NO_SHIFT) & 1, commands[slot]["price"])
        if t.books[book]["checks"] & Check.GRID.value and is_off_grid(t, book, price):
            return refuse(t, reports, commands, slot, Reason.PRICE_NOT_ON_TICK.value)
    was_open = t.orders[hand]["open"]
    now_open = open_after(kind, quantity, filled, was_open)
    if now_open <= 0:
        cancel_open(t, reports, hand, position, Reason.NONE.value)
        return LINE if t.books[book]["special"] > 0 else TELLING
    reprices = price != was_price or (prices and traits & Trait.NO_PRICE.value != 0)
    if kind == CommandKind.REDUCE.value or (
        kind == CommandKind.AMEND.value and not reprices and now_open <= was_open
    ):
        tell_amended(t, reports, hand, price, now_open)
        if now_open < was_open:
            shrink(t, hand, now_open)
        return LINE if t.books[book]["special"] > 0 else TELLING
    if traits & NOT_PLAIN:
        return replace_special(t, reports, commands, slot, hand, price, now_open)
    return requeue(t, reports, commands, slot, hand, price, now_open)


@leaf
def requeue(t, reports, commands, slot, hand, price, now_open):
    """A plain order leaves its level and comes back at the end of a queue, or trades first."""
    book = np.int64(t.orders[hand]["book"])
    level = np.int64(t.orders[hand]["level"])
    side = np.int64(t.levels[level]["side"])
    if lacks_node(t, book, side, price):
        return refuse(t, reports, commands, slot, Reason.POOL_CAPACITY.value)
    tell_amended(t, reports, hand, price, now_open)
    touch_order(t, hand)
    take_out(t, hand)
    t.orders[hand]["open"] = now_open
    best = best_of(t, book, 1 - side)
    if t.books[book]["special"] == 0 and (best == NIL or beyond(side, t.levels[best]["price"], price)):
        link_plain(t, book, side, price, hand)
        touch(t, price, side)
        return TELLING
    begin_open(t, book, side, price, 1, hand)
    return MATCHING if t.books[book]["special"] == 0 else TRADING


@leaf
def match(t, reports):
    """Trade the taker in hand as far as its limit and the room for reports allow, then rest or cancel it."""
    book = t.cells[Cell.BOOK]
    side = t.cells[Cell.SIDE]
    limit = t.cells[Cell.LIMIT]
    account = t.cells[Cell.ACCOUNT]
    prevents = t.cells[Cell.TRAITS] & Trait.SELF_TRADE.value
    left = t.cells[Cell.OPEN]
    filled = t.cells[Cell.FILLED] + left
    level = best_of(t, book, 1 - side)
    stage = MATCHING
    while left > 0 and level != NIL:
        price = t.levels[level]["price"]
        if beyond(side, price, limit):
            break
        maker = np.int64(t.levels[level]["head"])
        if prevents != 0 and t.orders[maker]["account"] == account:
            stage = TRADING  # the special path knows what to do
            break
        if not room(t):
            stage = DONE  # for now
            break
        touch(t, price, 1 - side)
        quantity = min(left, t.orders[maker]["open"])
        left -= quantity
        maker_open = t.orders[maker]["open"] - quantity
        t.orders[maker]["open"] = maker_open
        t.orders[maker]["shown"] = maker_open
        t.orders[maker]["filled"] += quantity
        t.levels[level]["quantity"] -= quantity
        t.books[book]["last"] = price
        tell_fill(t, reports, book, side, price, maker, quantity, maker_open, left)
        if maker_open == 0:
            remove(t, maker, position_of(t, maker))
            level = best_of(t, book, 1 - side)
    t.cells[Cell.FILLED] = filled - left
    t.cells[Cell.OPEN] = left
    if stage == TRADING:
        return TRADING
    if stage == DONE or not room(t):
        return MATCHING
    hand = t.cells[Cell.HAND]
    if left > 0 and t.cells[Cell.RESTS] != 0:
        if hand == NIL:
            order = t.cells[Cell.ORDER]
            fingerprint = index.fingerprint_of(book, order)
            hand = new_order(t, book, order, account, left, filled - left, t.cells[Cell.TRAITS], fingerprint)
        else:
            t.orders[hand]["open"] = left
            t.orders[hand]["filled"] = filled - left
        link_plain(t, book, side, limit, hand)
        touch(t, limit, side)
        return TELLING
    if hand != NIL:
        close_order(t, hand, position_of(t, hand))
    if left > 0:
        lapse = Reason.IOC_REMAINDER.value
        tell_taker(t, reports, ReportKind.CANCELED.value, lapse, 0, t.cells[Cell.PRICE], left, 0)
    return TELLING
