"""
Checks: the reasons for which a command is refused, in the order of rule M7.

Each function answers a Reason's number, NONE if nothing is wrong, and changes nothing.

Fast here because the plain path (match.py) asks only what a plain order can get wrong; the rest is called. Slow: M16 for an
order that meets many orders of its own account, which looks at each.
"""

import numpy as np

from ringpit.engine import accounts, index
from ringpit.engine.book import beyond, own_price
from ringpit.engine.codes import (
    EventState,
    Flag,
    OrderType,
    Outcome,
    Reason,
    SelfTrade,
    Side,
    TimeInForce,
)
from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.ladder import NIL
from ringpit.engine.levels import best_of, lacks_node, next_level
from ringpit.engine.limits import ICEBERG_SLICES_MAX, MONEY_MAX, PRICE_TICKS_MAX
from ringpit.engine.tables import Cell, Check

FLAGS_OF_VERBS = int(Flag.NO_PRICE | Flag.EXTENDED)
FLAGS_OF_NEW = int(Flag.NO_PRICE | Flag.POST_ONLY | Flag.HIDDEN | Flag.ALL_OR_NONE | Flag.EXTENDED)
RESTING_FLAGS = int(Flag.POST_ONLY | Flag.HIDDEN | Flag.ALL_OR_NONE)


@leaf
def lacks_extension(t, commands, slot):
    """True if a command says that it has an extension, and none of its event is right before it."""
    return commands[slot]["flags"] & Flag.EXTENDED.value != 0 and (
        t.cells[Cell.EXTENDED] == 0 or t.cells[Cell.EXTENSION_EVENT] != commands[slot]["event"]
    )


@leaf
def knows_codes(commands, slot, flags):
    """True if every code of a command about one order exists, and it has no flags but these."""
    return (
        0 <= commands[slot]["side"] <= Side.SELL.value
        and 0 <= commands[slot]["order_type"] <= OrderType.TRAILING_STOP.value
        and 0 <= commands[slot]["time_in_force"] <= TimeInForce.DAY.value
        and 0 <= commands[slot]["self_trade"] <= SelfTrade.DECREMENT.value
        and 0 <= commands[slot]["outcome"] <= Outcome.NO.value
        and commands[slot]["flags"] & ~flags == 0
    )


@leaf
def refusal_of_event(t, commands, slot, book):
    """What every command about an event's orders is asked first."""
    if lacks_extension(t, commands, slot):
        return Reason.MALFORMED.value
    if book == NIL:
        return Reason.UNKNOWN_EVENT.value
    if t.books[book]["state"] != EventState.OPEN.value:
        return Reason.ALREADY_SETTLED.value
    return Reason.NONE.value


@leaf
def refusal_of_verb(t, commands, slot, book):
    """What CANCEL, AMEND, REDUCE and REPLACE are asked before their order is looked up."""
    reason = refusal_of_event(t, commands, slot, book)
    if reason != Reason.NONE.value:
        return reason
    if not knows_codes(commands, slot, FLAGS_OF_VERBS):
        return Reason.UNSUPPORTED.value
    return Reason.NONE.value


@leaf
def refusal_of_order(t, commands, slot, position):
    """UNKNOWN_ORDER or NOT_OWNER; `position` is the order's place in the index, or MISSING."""
    if position == index.MISSING:
        return Reason.UNKNOWN_ORDER.value
    if t.orders[index.slot_at(t.index, position)]["account"] != commands[slot]["account"]:
        return Reason.NOT_OWNER.value
    return Reason.NONE.value


@outlined
def is_off_grid(t, book, price):
    """True if a price in range lies between two steps of the event's bands."""
    grid = t.books[book]["grid"]
    begin = t.books[book]["low"]
    for band in range(t.grids[grid, 1]):
        last = t.grids[grid, 2 + 2 * band]
        if price <= last:
            return (price - begin) % t.grids[grid, 3 + 2 * band] != 0
        begin = last
    return True


@leaf
def is_stop(order_type):
    """True for the types that wait for a trigger."""
    return order_type >= OrderType.STOP.value


@leaf
def may_rest(commands, slot):
    """True if the time in force lets a remainder rest."""
    time_in_force = commands[slot]["time_in_force"]
    return time_in_force == TimeInForce.GTC.value or time_in_force >= TimeInForce.GTD.value


@leaf
def extension_of(t, commands, slot, cell):
    """A field of the command's extension, 0 if it has none."""
    if commands[slot]["flags"] & Flag.EXTENDED.value == 0:
        return np.int64(0)
    return t.cells[cell]


@outlined
def is_supported(t, commands, slot, book):
    """True if a NEW makes sense as a whole (M14)."""
    order_type = commands[slot]["order_type"]
    time_in_force = commands[slot]["time_in_force"]
    flags = commands[slot]["flags"]
    trigger = extension_of(t, commands, slot, Cell.TRIGGER)
    trail = extension_of(t, commands, slot, Cell.TRAIL)
    display = extension_of(t, commands, slot, Cell.DISPLAY)
    limits = extension_of(t, commands, slot, Cell.ORDERS_MAX) | extension_of(
        t, commands, slot, Cell.ACCOUNT_ORDERS_MAX
    )
    gtd = time_in_force == TimeInForce.GTD.value
    if (
        not knows_codes(commands, slot, FLAGS_OF_NEW)
        or (commands[slot]["outcome"] == Outcome.NO.value and t.books[book]["payout"] == 0)
        or commands[slot]["payout"] != 0
        or (commands[slot]["expires_ns"] < 1 if gtd else commands[slot]["expires_ns"] != 0)
        or display < 0
        or extension_of(t, commands, slot, Cell.GROUP) < 0
        or limits != 0
    ):
        return False
    if flags & RESTING_FLAGS != 0 or display != 0:
        if order_type != OrderType.LIMIT.value or not may_rest(commands, slot):
            return False
        ways = (
            int(flags & Flag.HIDDEN.value != 0) + int(flags & Flag.ALL_OR_NONE.value != 0) + int(display != 0)
        )
        if ways > 1 or (flags & Flag.ALL_OR_NONE.value and flags & Flag.POST_ONLY.value):
            return False
    if order_type == OrderType.MONEY.value:
        return (
            commands[slot]["side"] == Side.BUY.value
            and time_in_force != TimeInForce.FOK.value
            and trigger == 0
            and trail == 0
        )
    if order_type == OrderType.TRAILING_STOP.value:
        return may_rest(commands, slot) and 1 <= trail <= PRICE_TICKS_MAX and trigger >= 0
    if is_stop(order_type):
        return may_rest(commands, slot) and trail == 0 and trigger >= 1
    return trigger == 0 and trail == 0


@leaf
def in_range(t, book, price):
    """True if a price lies in the book's range, which is the same for YES and NO: it ends at low and at payout - low."""
    return t.books[book]["low"] <= price <= t.books[book]["high"]


@leaf
def too_many_slices(quantity, display):
    """True if an iceberg would show afresh more often than one command may be kept busy."""
    return display > 0 and (quantity - 1) // ICEBERG_SLICES_MAX >= display


@outlined
def refusal_of_terms(t, commands, slot, book):
    """Quantity, price and trigger of a NEW."""
    quantity = commands[slot]["quantity"]
    order_type = commands[slot]["order_type"]
    outcome = np.int64(commands[slot]["outcome"])
    if quantity < 1:
        return Reason.QTY_INVALID.value
    if quantity > (MONEY_MAX if order_type == OrderType.MONEY.value else t.books[book]["quantity_max"]):
        return Reason.QTY_LIMIT.value
    if too_many_slices(quantity, extension_of(t, commands, slot, Cell.DISPLAY)):
        return Reason.QTY_LIMIT.value
    no_price = commands[slot]["flags"] & Flag.NO_PRICE.value != 0
    if no_price:
        if order_type == OrderType.LIMIT.value or order_type == OrderType.STOP_LIMIT.value:  # noqa: PLR1714 (numba)
            return Reason.PRICE_OUT_OF_RANGE.value
    elif not in_range(t, book, commands[slot]["price"]):
        return Reason.PRICE_OUT_OF_RANGE.value
    if is_stop(order_type):
        trigger = extension_of(t, commands, slot, Cell.TRIGGER)
        if trigger == 0:
            if t.books[book]["last"] == NIL:
                return Reason.PRICE_OUT_OF_RANGE.value
        elif not in_range(t, book, trigger):
            return Reason.PRICE_OUT_OF_RANGE.value
    if no_price or t.books[book]["checks"] & Check.GRID.value == 0:
        return Reason.NONE.value
    if is_off_grid(t, book, own_price(t, book, outcome, commands[slot]["price"])):
        return Reason.PRICE_NOT_ON_TICK.value
    return Reason.NONE.value


@outlined
def refusal_of_post_only(t, book, side, limit, account, mode):
    """M16: whether a POST_ONLY order would take, or what self-trade prevention says instead."""
    level = best_of(t, book, 1 - side)
    meets_own = False
    while level != NIL and not beyond(side, t.levels[level]["price"], limit):
        order = np.int64(t.levels[level]["head"])
        while order != NIL:
            if t.orders[order]["account"] != account or mode == SelfTrade.NONE.value:
                return Reason.POST_ONLY_CROSS.value
            meets_own = True
            order = np.int64(t.orders[order]["next"])
        level = next_level(t, book, 1 - side, level)
    if meets_own and mode != SelfTrade.CANCEL_MAKER.value:
        return Reason.SELF_TRADE.value
    return Reason.NONE.value


@outlined
def refusal_of_capacity(t, book, account, queue, price):
    """Whether there is room for one more open order: in the event, for the account, on the shard."""
    if t.books[book]["checks"] & Check.ORDERS.value and t.books[book]["orders"] >= t.books[book]["orders_max"]:
        return Reason.BOOK_CAPACITY.value
    if t.books[book]["checks"] & Check.ACCOUNTS.value and (
        accounts.orders_of(t, book, account) >= t.books[book]["account_orders_max"]
    ):
        return Reason.OPEN_ORDER_LIMIT.value
    if t.cells[Cell.ORDERS_FREE] == NIL or lacks_node(t, book, queue, price):
        return Reason.POOL_CAPACITY.value
    return Reason.NONE.value
