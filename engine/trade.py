"""
Trading, the special path: icebergs, hidden and all-or-none makers, self-trade prevention, orders for money.

    next_maker ──> a maker of one's own account? prevent ──> fill ──> stops look at the price (stops.py) ──> next

The same cells and reports as the plain path (match.py), one maker at a time. What a fill-or-kill or an all-or-none order could
get is found by walking the makers in the order in which they would trade (`obtainable`), so what it is
promised is what it gets.

Fast enough: a call and a few more branches a fill. Slow with many all-or-none orders waiting at prices that a taker
would take: each fill passes them over again.

The rules are M16 to M21 of ARCHITECTURE.md, "Matching rules".
"""

from typing import Final

import numpy as np

from ringpit.engine import index
from ringpit.engine.book import (
    beyond,
    close_order,
    leave,
    link_plain,
    link_special,
    new_order,
    own_price,
    position_of,
    price_of,
    queue_up,
    remove,
    touch,
    touch_order,
)
from ringpit.engine.codes import Queue, Reason, ReportFlag, ReportKind, SelfTrade, Trait
from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.ladder import NIL
from ringpit.engine.levels import best_of, first_level, lacks_node, next_level
from ringpit.engine.stops import see_trade
from ringpit.engine.tables import LINE, TRADING, Cell
from ringpit.engine.tell import room, tell_canceled, tell_fill, tell_order, tell_taker

VISITS_MAX: Final = 4_096  # orders looked at without a report, after which the caller gets a turn
SPECIAL_AS_MAKER: Final = int(Trait.HIDDEN | Trait.ICEBERG | Trait.ALL_OR_NONE)


@leaf
def obtains_own(mode):
    """True if makers of one's own account do not end what can be had."""
    return mode == SelfTrade.NONE.value or mode == SelfTrade.CANCEL_MAKER.value  # noqa: PLR1714 (numba)


@outlined
def wanted_of_level(t, book, level, want, account, mode):
    """What is still wanted after one level of the book; -1 if self-trade prevention ends it there."""
    if mode == SelfTrade.NONE.value:
        want -= t.levels[level]["quantity"]  # most levels: no order is looked at
        if want <= 0 or t.books[book]["special"] == 0:
            return max(want, 0)
    else:
        order = np.int64(t.levels[level]["head"])
        while order != NIL and want > 0 and t.orders[order]["shown"] > 0:
            if t.orders[order]["account"] != account:
                want -= t.orders[order]["shown"]
            elif not obtains_own(mode):
                return np.int64(-1)
            order = np.int64(t.orders[order]["next"])
    order = np.int64(t.levels[level]["head"])
    while order != NIL and want > 0:  # what icebergs keep back comes before what is hidden
        t.cells[Cell.VISITS] += 1
        mine = mode != SelfTrade.NONE.value and t.orders[order]["account"] == account
        if mine and t.orders[order]["shown"] == 0 and not obtains_own(mode):
            return np.int64(-1)
        if not mine:
            want -= t.orders[order]["open"] - t.orders[order]["shown"]
        order = np.int64(t.orders[order]["next"])
    return max(want, 0)


@outlined
def wanted_of_aside(t, level, want, account, mode):
    """What is still wanted after one level of all-or-none orders; -1 if self-trade prevention ends it there."""
    order = np.int64(t.levels[level]["head"])
    while order != NIL and want > 0:
        t.cells[Cell.VISITS] += 1
        lots = t.orders[order]["open"]
        if lots <= want:
            if mode != SelfTrade.NONE.value and t.orders[order]["account"] == account:
                if not obtains_own(mode):
                    return np.int64(-1)
            else:
                want -= lots
        order = np.int64(t.orders[order]["next"])
    return want


@outlined
def obtainable(t, book, side, limit, want, account, mode):
    """True if an order could trade whole now: exactly what trading it would give."""
    level = best_of(t, book, 1 - side)
    aside = first_level(t, book, Queue.SELL_ALL_OR_NONE.value - side)
    while want > 0:
        level_takes = level != NIL and not beyond(side, t.levels[level]["price"], limit)
        aside_takes = aside != NIL and not beyond(side, t.levels[aside]["price"], limit)
        if aside_takes and level_takes and not beyond(side, t.levels[level]["price"], t.levels[aside]["price"]):
            aside_takes = False  # the book comes first at the same price
        if aside_takes:
            want = wanted_of_aside(t, aside, want, account, mode)
            aside = next_level(t, book, Queue.SELL_ALL_OR_NONE.value - side, aside)
        elif level_takes:
            want = wanted_of_level(t, book, level, want, account, mode)
            level = next_level(t, book, 1 - side, level)
        else:
            return False
        if want < 0:
            return False
    return True


@leaf
def lots_for(t, book, price, left):
    """Lots that what is left of the order in hand asks for at a price; of an order for money, what it can pay."""
    flags = t.cells[Cell.FLAGS]
    if flags & ReportFlag.MONEY.value == 0:
        return left
    cost = own_price(t, book, int(flags & ReportFlag.NO.value != 0), price)
    if cost == 0:
        return np.int64(1) << 62
    return left // cost


@outlined
def next_maker(t, book, side, limit, left):
    """The order that the order in hand meets next, or NIL."""
    level = best_of(t, book, 1 - side)
    if level != NIL and beyond(side, t.levels[level]["price"], limit):
        level = np.int64(NIL)
    if t.cells[Cell.TRAITS] & Trait.POST_ONLY.value == 0:
        queue = Queue.SELL_ALL_OR_NONE.value - side
        aside = first_level(t, book, queue)
        while aside != NIL:
            price = t.levels[aside]["price"]
            if beyond(side, price, limit) or (
                level != NIL and not beyond(side, t.levels[level]["price"], price)
            ):
                break
            lots = lots_for(t, book, price, left)
            order = np.int64(t.levels[aside]["head"])
            while order != NIL:
                t.cells[Cell.VISITS] += 1
                if t.orders[order]["open"] <= lots:
                    return order
                order = np.int64(t.orders[order]["next"])
            aside = next_level(t, book, queue, aside)
    if level == NIL:
        return np.int64(NIL)
    return np.int64(t.levels[level]["head"])


@leaf
def offered(t, maker):
    """Lots that a maker offers in one trade: an iceberg its slice, others all."""
    shown = t.orders[maker]["shown"]
    if shown > 0:
        return shown
    return t.orders[maker]["open"]


@outlined
def take_from(t, maker, lots):
    """A maker loses lots: its slice is followed by the next, or it is out of everything."""
    level = np.int64(t.orders[maker]["level"])
    now_open = t.orders[maker]["open"] - lots
    shown = t.orders[maker]["shown"]
    t.orders[maker]["open"] = now_open
    if shown > 0:
        t.orders[maker]["shown"] = shown - lots
        t.levels[level]["quantity"] -= lots
    if now_open == 0:
        remove(t, maker, position_of(t, maker))
    elif shown == lots:
        slice_lots = min(now_open, t.details[maker]["display"])
        t.orders[maker]["shown"] = slice_lots
        t.levels[level]["quantity"] += slice_lots
        leave(t, level, maker)
        queue_up(t, level, maker)


@outlined
def prevent(t, reports, book, maker, left):
    """M17: the order in hand has met one of its own account. What is left of it then; -1: it is cancelled."""
    mode = t.cells[Cell.TRAITS] & Trait.SELF_TRADE.value
    price = price_of(t, maker)
    if mode == SelfTrade.CANCEL_TAKER.value:
        return np.int64(-1)
    if mode != SelfTrade.DECREMENT.value:
        touch_order(t, maker)
        tell_canceled(t, reports, maker, Reason.SELF_TRADE.value)
        remove(t, maker, position_of(t, maker))
        return left if mode == SelfTrade.CANCEL_MAKER.value else np.int64(-1)
    lots = min(lots_for(t, book, price, left), offered(t, maker))
    left = left_after(t, book, price, left, lots)
    touch_order(t, maker)
    kind = ReportKind.PREVENTED.value
    tell_order(t, reports, kind, Reason.SELF_TRADE.value, maker, price, lots, t.orders[maker]["open"] - lots)
    own = own_price(t, book, int(t.cells[Cell.FLAGS] & ReportFlag.NO.value != 0), price)
    tell_taker(t, reports, kind, Reason.SELF_TRADE.value, 0, own, lots, left)
    take_from(t, maker, lots)
    return left


@leaf
def left_after(t, book, price, left, lots):
    """What is left of the order in hand after so many lots at a price."""
    flags = t.cells[Cell.FLAGS]
    if flags & ReportFlag.MONEY.value == 0:
        return left - lots
    return left - lots * own_price(t, book, int(flags & ReportFlag.NO.value != 0), price)


@outlined
def trade(t, reports):
    """Trade the order in hand as far as it goes and the room for reports allows, then rest or cancel it."""
    book = t.cells[Cell.BOOK]
    side = t.cells[Cell.SIDE]
    limit = t.cells[Cell.LIMIT]
    mode = t.cells[Cell.TRAITS] & Trait.SELF_TRADE.value
    while t.cells[Cell.OPEN] > 0:
        if not room(t) or t.cells[Cell.VISITS] >= VISITS_MAX:
            return TRADING
        left = t.cells[Cell.OPEN]
        maker = next_maker(t, book, side, limit, left)
        if maker == NIL:
            break
        price = price_of(t, maker)
        lots = min(lots_for(t, book, price, left), offered(t, maker))
        if lots == 0:
            break
        if mode != SelfTrade.NONE.value and t.orders[maker]["account"] == t.cells[Cell.ACCOUNT]:
            left = prevent(t, reports, book, maker, left)
            if left < 0:
                return end_order(t, reports, Reason.SELF_TRADE.value)
            t.cells[Cell.OPEN] = left
            continue
        left = left_after(t, book, price, left, lots)
        t.cells[Cell.OPEN] = left
        t.cells[Cell.FILLED] += lots
        t.orders[maker]["filled"] += lots
        touch_order(t, maker)
        t.books[book]["last"] = price
        tell_fill(t, reports, book, side, price, maker, lots, t.orders[maker]["open"] - lots, left)
        take_from(t, maker, lots)
        see_trade(t, book, price)
    if not room(t):
        return TRADING
    if t.cells[Cell.OPEN] > 0 and t.cells[Cell.RESTS] != 0:
        if not lacks_node(t, book, side, limit):
            rest_hand(t, book, side, limit)
            return LINE
        return end_order(t, reports, Reason.POOL_CAPACITY.value)
    return end_order(t, reports, Reason.IOC_REMAINDER.value)


@outlined
def rest_hand(t, book, side, price):
    """The remainder of the order in hand rests."""
    hand = t.cells[Cell.HAND]
    traits = t.cells[Cell.TRAITS]
    if hand == NIL:
        order = t.cells[Cell.ORDER]
        account = t.cells[Cell.ACCOUNT]
        fingerprint = index.fingerprint_of(book, order)
        hand = new_order(t, book, order, account, t.cells[Cell.OPEN], t.cells[Cell.FILLED], traits, fingerprint)
    else:
        t.orders[hand]["open"] = t.cells[Cell.OPEN]
        t.orders[hand]["filled"] = t.cells[Cell.FILLED]
    if traits & SPECIAL_AS_MAKER:
        link_special(t, book, side, price, hand)
    else:
        link_plain(t, book, side, price, hand)
    if t.orders[hand]["shown"] > 0:
        touch(t, price, side)


@outlined
def end_order(t, reports, reason):
    """The order in hand is over; what is left of it is reported."""
    hand = t.cells[Cell.HAND]
    if hand != NIL:
        close_order(t, hand, position_of(t, hand))
    if t.cells[Cell.OPEN] > 0:
        tell_taker(t, reports, ReportKind.CANCELED.value, reason, 0, t.cells[Cell.PRICE], t.cells[Cell.OPEN], 0)
    return LINE
