"""
What the obvious exchange refuses, and why: the checks of M7, M8, M13, M14, M16 and M22, in the order of the rules.

Each function looks at a command and at the books as they are, changes nothing, and returns the first reason that
applies, or NONE. `extension` is the record that completes the command, or one that says nothing.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from ringpit.engine.codes import (
    BOTH_SIDES,
    CommandKind,
    EventState,
    Flag,
    LevelKind,
    OrderType,
    Outcome,
    Reason,
    SelfTrade,
    Side,
    TimeInForce,
)
from ringpit.engine.limits import (
    BANDS_MAX,
    ICEBERG_SLICES_MAX,
    LADDER_LEVELS_MAX,
    MONEY_MAX,
    PAYOUT_TICKS_MAX,
    PRICE_TICKS_MAX,
    Limits,
    quantity_max_of,
)
from ringpit.engine.records import BANDS_PER_RECORD
from ringpit.testing.naive_book import (
    NO_EXPIRY,
    NO_TRADE,
    RESTING_TIMES,
    STOP_TYPES,
    Content,
    Event,
    Order,
    may_rest,
    order_of,
    trades_whole,
)

DECIMALS_MAX: Final = 18  # decimals of a unit that an int64 can hold
FLAGS: Final = sum(Flag)
SPECIAL_FLAGS: Final = Flag.POST_ONLY | Flag.HIDDEN | Flag.ALL_OR_NONE
PRICED_KINDS: Final = (CommandKind.NEW, CommandKind.AMEND, CommandKind.REPLACE)
PRICED_TYPES: Final = (OrderType.LIMIT, OrderType.STOP_LIMIT)  # types that must have a price


# -- verbs about one order ----------------------------------------------------------------------------------


def refusal(command: Any, extension: Any, events: dict[int, Event], limits: Limits, engine_ns: int) -> Reason:
    """The first rule that a command about one order breaks, in the order of M7 from UNKNOWN_EVENT on."""
    book = events.get(command.event)
    if book is None:
        return Reason.UNKNOWN_EVENT
    if book.state == EventState.SETTLED:
        return Reason.ALREADY_SETTLED
    if not exists(command) or not supported(command, extension, book.content):
        return Reason.UNSUPPORTED
    mine = book.orders.get(command.order)
    if command.kind != CommandKind.NEW:
        if mine is None:
            return Reason.UNKNOWN_ORDER
        if mine.account != command.account:
            return Reason.NOT_OWNER
    reason = refusal_of_quantity(command, extension, book.content, mine) or refusal_of_price(
        command, extension, book
    )
    if reason:
        return reason
    if mine is None or command.kind == CommandKind.NEW:
        return refusal_of_new(command, extension, book, limits, engine_ns)
    if mine.post_only and command.kind in PRICED_KINDS and not cancels(mine, command):
        return refusal_of_post_only(replace(mine, price=moved_to(mine, command)), book)
    return Reason.NONE


def cancels(mine: Order, command: Any) -> bool:
    """True if an AMEND's total is already filled, so that nothing is left to amend (M6)."""
    return bool(command.kind == CommandKind.AMEND and 0 < command.quantity <= mine.filled)


def exists(command: Any) -> bool:
    """True if a side, a type and so on of this number exist, and no flag is unknown (M14)."""
    return (
        command.side in tuple(Side)
        and command.outcome in tuple(Outcome)
        and command.order_type in tuple(OrderType)
        and command.time_in_force in tuple(TimeInForce)
        and command.self_trade in tuple(SelfTrade)
        and command.flags & ~FLAGS == 0
    )


def supported(command: Any, extension: Any, content: Content) -> bool:
    """True if nothing that a command asks for goes together ill (M14)."""
    if command.kind != CommandKind.NEW:
        return bool(command.flags & ~(Flag.NO_PRICE | Flag.EXTENDED) == 0)
    if command.outcome == Outcome.NO and content.payout == 0:
        return False
    if command.payout or command.flags & Flag.ALL_EVENTS:
        return False
    if (command.expires_ns <= 0) if command.time_in_force == TimeInForce.GTD else (command.expires_ns != 0):
        return False
    if extension.display < 0 or extension.group < 0 or extension.orders_max or extension.account_orders_max:
        return False
    sells_or_kills = command.side == Side.SELL or command.time_in_force == TimeInForce.FOK
    if command.order_type == OrderType.MONEY and sells_or_kills:
        return False
    return supported_display(command, extension) and supported_trigger(command, extension)


def supported_display(command: Any, extension: Any) -> bool:
    """True unless POST_ONLY, HIDDEN, ALL_OR_NONE or a display are where they cannot be (M14)."""
    special = command.flags & SPECIAL_FLAGS or extension.display
    if special and not (command.order_type == OrderType.LIMIT and may_rest(command)):
        return False
    hidden, all_or_none, post_only = (
        bool(command.flags & flag) for flag in (Flag.HIDDEN, Flag.ALL_OR_NONE, Flag.POST_ONLY)
    )
    return hidden + all_or_none + (extension.display > 0) <= 1 and not (all_or_none and post_only)


def supported_trigger(command: Any, extension: Any) -> bool:
    """True if a stop has its trigger or trail, and nothing else has any (M14)."""
    if command.order_type in STOP_TYPES and command.time_in_force not in RESTING_TIMES:
        return False
    if command.order_type == OrderType.TRAILING_STOP:
        return 1 <= extension.trail <= PRICE_TICKS_MAX and bool(extension.trigger >= 0)
    if command.order_type in STOP_TYPES:
        return bool(extension.trigger >= 1 and extension.trail == 0)
    return bool(extension.trigger == 0 and extension.trail == 0)


def refusal_of_quantity(command: Any, extension: Any, content: Content, mine: Order | None) -> Reason:
    """QTY_INVALID or QTY_LIMIT (M7)."""
    if command.kind == CommandKind.CANCEL:
        return Reason.NONE
    if command.quantity < (0 if command.kind == CommandKind.AMEND else 1):
        return Reason.QTY_INVALID
    most = quantity_max_of(content.high, content.payout)
    if command.kind == CommandKind.NEW and command.order_type == OrderType.MONEY:
        most = MONEY_MAX
    total = command.quantity
    if command.kind == CommandKind.REPLACE and mine is not None:
        total += mine.filled
    if command.kind in PRICED_KINDS and total > most:
        return Reason.QTY_LIMIT
    return Reason.QTY_LIMIT if too_many_slices(command, extension, mine) else Reason.NONE


def too_many_slices(command: Any, extension: Any, mine: Order | None) -> bool:
    """True if an iceberg would have more lots open than it may show, slice by slice."""
    if command.kind == CommandKind.NEW or mine is None:
        display, lots = extension.display, command.quantity
    elif command.kind == CommandKind.REPLACE:
        display, lots = mine.display, command.quantity
    elif command.kind == CommandKind.AMEND and command.quantity:
        display, lots = mine.display, command.quantity - mine.filled
    else:
        return False
    return bool(display > 0 and lots > display * ICEBERG_SLICES_MAX)


def refusal_of_price(command: Any, extension: Any, book: Event) -> Reason:
    """PRICE_OUT_OF_RANGE or PRICE_NOT_ON_TICK (M7); ranges and bands of NO are those of YES seen from the other end."""
    if command.kind not in PRICED_KINDS:
        return Reason.NONE
    has_price = not command.flags & Flag.NO_PRICE
    if has_price and not book.content.holds(command.price):
        return Reason.PRICE_OUT_OF_RANGE
    if command.kind == CommandKind.NEW:
        if not has_price and command.order_type in PRICED_TYPES:
            return Reason.PRICE_OUT_OF_RANGE
        if extension.trigger and not book.content.holds(extension.trigger):
            return Reason.PRICE_OUT_OF_RANGE
        if command.order_type == OrderType.TRAILING_STOP and extension.trigger == 0 and book.last == NO_TRADE:
            return Reason.PRICE_OUT_OF_RANGE
    if has_price and not book.content.steps_on(command.price):
        return Reason.PRICE_NOT_ON_TICK
    return Reason.NONE


def refusal_of_new(command: Any, extension: Any, book: Event, limits: Limits, engine_ns: int) -> Reason:
    """The checks of M7 that only NEW has, from DUP_CLIENT_ORDER_ID on."""
    order = order_of(command, extension, book, 0)
    if order.order in book.orders:
        return Reason.DUP_CLIENT_ORDER_ID
    if order.expires_ns != NO_EXPIRY and order.expires_ns <= engine_ns:
        return Reason.EXPIRED_ON_ARRIVAL
    if order.post_only and refusal_of_post_only(order, book):
        return refusal_of_post_only(order, book)
    if command.time_in_force == TimeInForce.FOK and not trades_whole(book, order):
        return Reason.FOK_UNFILLABLE
    if not (order.may_rest or order.is_stop):
        return Reason.NONE
    return refusal_of_room(order, book, limits)


def refusal_of_room(order: Order, book: Event, limits: Limits) -> Reason:
    """BOOK_CAPACITY, OPEN_ORDER_LIMIT or POOL_CAPACITY (M7)."""
    orders_max, account_orders_max = book.content.orders_max, book.content.account_orders_max
    if orders_max and len(book.orders) >= orders_max:
        return Reason.BOOK_CAPACITY
    of_account = sum(each.account == order.account for each in book.orders.values())
    if account_orders_max and of_account >= account_orders_max:
        return Reason.OPEN_ORDER_LIMIT
    if len(book.pool) >= limits.orders:
        return Reason.POOL_CAPACITY
    return Reason.NONE


def refusal_of_post_only(order: Order, book: Event) -> Reason:
    """POST_ONLY_CROSS or SELF_TRADE (M16)."""
    makers = book.crossed_by(order)
    if not makers:
        return Reason.NONE
    if order.self_trade == SelfTrade.NONE or any(maker.account != order.account for maker in makers):
        return Reason.POST_ONLY_CROSS
    return Reason.NONE if order.self_trade == SelfTrade.CANCEL_MAKER else Reason.SELF_TRADE


def moved_to(order: Order, command: Any) -> int:
    """The price of YES at which an AMEND or REPLACE puts an order; its own if the command says none."""
    return order.price if command.flags & Flag.NO_PRICE else order.own_price(command.price)


# -- verbs about events -------------------------------------------------------------------------------------


def refusal_of_creation(
    command: Any, extension: Any, bands: list[Any], events: dict[int, Event], limits: Limits
) -> Reason:
    """Why a CREATE_EVENT is refused; NONE also where it repeats what is there (M8)."""
    if not sound(command, extension, bands):
        return Reason.UNSUPPORTED
    content = content_of(command, extension, bands)
    book = events.get(command.event)
    if book is not None and book.content != content:
        return Reason.EVENT_EXISTS
    if book is not None:
        return Reason.ALREADY_SETTLED if book.state == EventState.SETTLED else Reason.NONE
    if len(events) >= limits.events:
        return Reason.BOOK_CAPACITY
    if content.bands:
        tables = {each.content.bands for each in events.values() if each.state == EventState.OPEN} - {()}
        if len(tables | {content.bands}) > limits.grids:
            return Reason.BOOK_CAPACITY
    return Reason.NONE


def sound(command: Any, extension: Any, bands: list[Any]) -> bool:
    """True if an event with these prices, times and limits can be made (M8)."""
    low, high, payout = command.price, command.quantity, command.payout
    says_of_orders = extension.trigger or extension.trail or extension.display or extension.group
    return bool(
        0 <= low <= high <= PRICE_TICKS_MAX
        and (payout == 0 or (payout == low + high and payout <= PAYOUT_TICKS_MAX))
        and command.order >= 1
        and 0 <= command.account <= DECIMALS_MAX
        and command.expires_ns >= 0
        and command.order_type in tuple(LevelKind)
        and (command.order_type != LevelKind.LADDER or high - low < LADDER_LEVELS_MAX)
        and command.flags in (0, Flag.EXTENDED)
        and not says_of_orders
        and extension.orders_max >= 0
        and extension.account_orders_max >= 0
        and all(record.event == command.event for record in bands)
        and sound_bands(low, high, payout, bands)
    )


def sound_bands(low: int, high: int, payout: int, bands: list[Any]) -> bool:
    """True if bands lead from the lowest to the highest price in steps that fit, and from both ends alike for NO (M8)."""
    if any(not 1 <= record.count <= BANDS_PER_RECORD for record in bands):
        return False
    table = table_of(bands)
    if not table:
        return True
    if len(table) > BANDS_MAX or table[-1][0] != high:
        return False
    begins = [low] + [last for last, _ in table[:-1]]
    widths = [(last - begin, step) for begin, (last, step) in zip(begins, table, strict=True)]
    if any(width < 1 or step < 1 or width % step for width, step in widths):
        return False
    return payout == 0 or widths == widths[::-1]


def table_of(bands: list[Any]) -> tuple[tuple[int, int], ...]:
    """The (highest price, step) pairs of BANDS records in a row."""
    pairs: Iterable[tuple[int, int]] = (
        (getattr(record, f"last_{number}"), getattr(record, f"step_{number}"))
        for record in bands
        for number in range(1, record.count + 1)
    )
    return tuple(pairs)


def content_of(command: Any, extension: Any, bands: list[Any]) -> Content:
    """What a sound CREATE_EVENT says; AUTO is the kind that it stands for."""
    kind = command.order_type
    if kind == LevelKind.AUTO:
        narrow = command.quantity - command.price < LADDER_LEVELS_MAX
        kind = LevelKind.LADDER if narrow else LevelKind.SKIP_LIST
    return Content(
        low=command.price,
        high=command.quantity,
        payout=command.payout,
        tick=command.order,
        decimals=command.account,
        closes_ns=command.expires_ns,
        level_kind=kind,
        orders_max=extension.orders_max,
        account_orders_max=extension.account_orders_max,
        bands=table_of(bands),
    )


def refusal_of_mass_cancel(command: Any, events: dict[int, Event]) -> Reason:
    """The first rule that a MASS_CANCEL breaks (M22)."""
    if not command.flags & Flag.ALL_EVENTS:
        if command.event not in events:
            return Reason.UNKNOWN_EVENT
        if events[command.event].state == EventState.SETTLED:
            return Reason.ALREADY_SETTLED
    if command.flags & ~Flag.ALL_EVENTS or command.side not in (*Side, BOTH_SIDES) or command.order < 0:
        return Reason.UNSUPPORTED
    return Reason.NONE
