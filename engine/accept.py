"""
Accepting what is special: every NEW that the plain path does not take, and amends of orders with special traits.

    check (checks.py) ──> ACCEPTED ──> a stop: waits, or is triggered at once
                                   ──> all-or-none: trades whole, or waits
                                   ──> anything else: trades, and rests or ends (trade.py)

What will need details (a display, a group, an expiry, a trigger) gets its slot before it trades; what only takes, or rests
plainly, needs none. Mistakes of plain orders end here too, so that the plain path need not tell them apart.

Fast enough: a call. Slow nowhere.

The rules are M7 and M13 to M21 of ARCHITECTURE.md, "Matching rules".
"""

import numpy as np

from ringpit.engine import index, timers, trails
from ringpit.engine.book import (
    DETAILED,
    SPECIAL,
    find_order,
    link_special,
    new_order,
    own_price,
    range_end,
    take_out,
    touch_order,
)
from ringpit.engine.checks import (
    extension_of,
    is_stop,
    is_supported,
    may_rest,
    refusal_of_capacity,
    refusal_of_event,
    refusal_of_post_only,
    refusal_of_terms,
)
from ringpit.engine.codes import (
    Flag,
    OrderType,
    Queue,
    Reason,
    ReportKind,
    TimeInForce,
    Trait,
)
from ringpit.engine.hand import begin, begin_open
from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.ladder import NIL
from ringpit.engine.levels import lacks_node
from ringpit.engine.stops import reached, trailed, trigger_order
from ringpit.engine.tables import LINE, TRADING, Cell
from ringpit.engine.tell import NO_SHIFT, answer, flags_asked, refuse, tell_amended
from ringpit.engine.trade import obtainable


@leaf
def expiry_of(t, commands, slot, book):
    """When a NEW expires, 0 if it does not: GTD says it, DAY takes the event's closing time."""
    if commands[slot]["time_in_force"] == TimeInForce.DAY.value:
        return t.books[book]["closes_ns"]
    return commands[slot]["expires_ns"]


@leaf
def traits_of(t, commands, slot, book):
    """The traits that a NEW will have as an open order."""
    order_type = commands[slot]["order_type"]
    flags = commands[slot]["flags"]
    traits = np.int64(commands[slot]["self_trade"]) | (np.int64(commands[slot]["outcome"]) << NO_SHIFT)
    if flags & Flag.POST_ONLY.value:
        traits |= Trait.POST_ONLY.value
    if flags & Flag.HIDDEN.value:
        traits |= Trait.HIDDEN.value
    if flags & Flag.ALL_OR_NONE.value:
        traits |= Trait.ALL_OR_NONE.value
    if extension_of(t, commands, slot, Cell.DISPLAY) > 0:
        traits |= Trait.ICEBERG.value
    if extension_of(t, commands, slot, Cell.GROUP) > 0:
        traits |= Trait.GROUPED.value
    if expiry_of(t, commands, slot, book) > 0:
        traits |= Trait.TIMED.value
    if is_stop(order_type):
        traits |= Trait.STOP.value
        if order_type != OrderType.STOP_LIMIT.value:
            traits |= Trait.MARKET.value
        if order_type == OrderType.TRAILING_STOP.value:
            traits |= Trait.TRAILING.value
        if flags & Flag.NO_PRICE.value:
            traits |= Trait.NO_PRICE.value
    return traits


@leaf
def trigger_of(t, commands, slot, book, side, outcome):
    """A stop's trigger in ticks of YES; a trailing stop without one starts from the last trade."""
    trigger = extension_of(t, commands, slot, Cell.TRIGGER)
    if trigger == 0:
        return trailed(side, t.books[book]["last"], extension_of(t, commands, slot, Cell.TRAIL))
    return own_price(t, book, outcome, trigger)


@outlined
def open_special(t, commands, slot, book, limit, trigger, traits, fingerprint):
    """A slot with details for a NEW that was accepted."""
    order = commands[slot]["order"]
    hand = new_order(
        t, book, order, commands[slot]["account"], commands[slot]["quantity"], 0, traits, fingerprint
    )
    t.orders[hand]["shown"] = 0
    t.cells[Cell.STAMP] += 1
    t.details[hand]["stamp"] = t.cells[Cell.STAMP]
    t.details[hand]["price"] = 0 if traits & Trait.NO_PRICE.value else limit
    t.details[hand]["trigger"] = trigger
    t.details[hand]["trail"] = extension_of(t, commands, slot, Cell.TRAIL)
    t.details[hand]["display"] = extension_of(t, commands, slot, Cell.DISPLAY)
    t.details[hand]["group"] = extension_of(t, commands, slot, Cell.GROUP)
    t.details[hand]["expires_ns"] = expiry_of(t, commands, slot, book)
    if traits & SPECIAL:
        t.books[book]["special"] += 1
    if traits & Trait.TIMED.value:
        timers.add(t, hand)
    return hand


@outlined
def refusal_of_new(t, commands, slot, book, side, limit, trigger, traits, position):
    """The checks of a NEW that come after its terms (M7)."""
    account = commands[slot]["account"]
    mode = traits & Trait.SELF_TRADE.value
    if position != index.MISSING:
        return Reason.DUP_CLIENT_ORDER_ID.value
    if traits & Trait.TIMED.value and expiry_of(t, commands, slot, book) <= t.cells[Cell.ENGINE_NS]:
        return Reason.EXPIRED_ON_ARRIVAL.value
    if traits & Trait.POST_ONLY.value:
        reason = refusal_of_post_only(t, book, side, limit, account, mode)
        if reason != Reason.NONE.value:
            return reason
    order_type = commands[slot]["order_type"]
    if commands[slot]["time_in_force"] == TimeInForce.FOK.value and (
        not obtainable(t, book, side, limit, commands[slot]["quantity"], account, mode)
    ):
        return Reason.FOK_UNFILLABLE.value
    if is_stop(order_type):
        return refusal_of_capacity(t, book, account, Queue.BUY_STOPS.value + side, trigger)
    if traits & Trait.ALL_OR_NONE.value:
        return refusal_of_capacity(t, book, account, Queue.BUY_ALL_OR_NONE.value + side, limit)
    if order_type == OrderType.LIMIT.value and may_rest(commands, slot):
        return refusal_of_capacity(t, book, account, side, limit)
    return Reason.NONE.value


@outlined
def accept_special(t, reports, commands, slot, book):
    """NEW, whatever it is: check, accept, and hand over to whoever goes on with it."""
    reason = refusal_of_event(t, commands, slot, book)
    if reason != Reason.NONE.value:
        return refuse(t, reports, commands, slot, reason)
    if not is_supported(t, commands, slot, book):
        return refuse(t, reports, commands, slot, Reason.UNSUPPORTED.value)
    reason = refusal_of_terms(t, commands, slot, book)
    if reason != Reason.NONE.value:
        return refuse(t, reports, commands, slot, reason)
    outcome = np.int64(commands[slot]["outcome"])
    side = np.int64(commands[slot]["side"]) ^ outcome
    traits = traits_of(t, commands, slot, book)
    if commands[slot]["flags"] & Flag.NO_PRICE.value == 0:
        limit = own_price(t, book, outcome, commands[slot]["price"])
    else:
        limit = range_end(t, book, side)
    trigger = np.int64(0)
    if traits & Trait.STOP.value:
        trigger = trigger_of(t, commands, slot, book, side, outcome)
    order = commands[slot]["order"]
    fingerprint = index.fingerprint_of(book, order)
    position = find_order(t, book, order, fingerprint)
    reason = refusal_of_new(t, commands, slot, book, side, limit, trigger, traits, position)
    if reason != Reason.NONE.value:
        return refuse(t, reports, commands, slot, reason)
    flags = flags_asked(commands, slot)
    quantity = commands[slot]["quantity"]
    account = commands[slot]["account"]
    answer(t, reports, commands, slot, ReportKind.ACCEPTED.value, Reason.NONE.value, flags, quantity)
    hand = np.int64(NIL)
    rests = int(commands[slot]["order_type"] == OrderType.LIMIT.value and may_rest(commands, slot))
    if traits & DETAILED and (rests or traits & Trait.STOP.value):
        hand = open_special(t, commands, slot, book, limit, trigger, traits, fingerprint)
    if traits & Trait.STOP.value:
        if t.books[book]["last"] != NIL and reached(side, trigger, t.books[book]["last"]):
            t.orders[hand]["traits"] = traits & ~Trait.TRAILING.value
            return trigger_order(t, reports, book, side, hand)
        link_special(t, book, Queue.BUY_STOPS.value + side, trigger, hand)
        if traits & Trait.TRAILING.value:
            trails.add(t, book, side, hand)
        return LINE
    if traits & Trait.ALL_OR_NONE.value:
        if not obtainable(t, book, side, limit, quantity, account, traits & Trait.SELF_TRADE.value):
            link_special(t, book, Queue.BUY_ALL_OR_NONE.value + side, limit, hand)
            return LINE
        rests = 0
    begin(t, side, limit, rests, commands[slot]["price"], flags, traits, quantity, 0, order, account, hand)
    return TRADING


@outlined
def replace_special(t, reports, commands, slot, hand, price, now_open):
    """An AMEND or REPLACE that takes an order with special traits out of its level (M6, M15)."""
    book = np.int64(t.orders[hand]["book"])
    traits = np.int64(t.orders[hand]["traits"])
    side = np.int64(t.levels[t.orders[hand]["level"]]["side"])
    account = t.orders[hand]["account"]
    queue = side
    place = price
    if traits & Trait.STOP.value:
        queue = Queue.BUY_STOPS.value + side
        place = t.details[hand]["trigger"]
    elif traits & Trait.ALL_OR_NONE.value:
        queue = Queue.BUY_ALL_OR_NONE.value + side
    if traits & Trait.POST_ONLY.value:
        reason = refusal_of_post_only(t, book, side, price, account, traits & Trait.SELF_TRADE.value)
        if reason != Reason.NONE.value:
            return refuse(t, reports, commands, slot, reason)
    if lacks_node(t, book, queue, place):
        return refuse(t, reports, commands, slot, Reason.POOL_CAPACITY.value)
    if commands[slot]["flags"] & Flag.NO_PRICE.value == 0:
        t.orders[hand]["traits"] &= ~Trait.NO_PRICE.value
    tell_amended(t, reports, hand, price, now_open)
    touch_order(t, hand)
    take_out(t, hand)
    t.orders[hand]["open"] = now_open
    if queue > Queue.ASKS.value:
        t.details[hand]["price"] = price
        link_special(t, book, queue, place, hand)
        return LINE
    begin_open(t, book, side, price, 1, hand)
    return TRADING
