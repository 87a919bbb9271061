"""
The state machine: one command in, reports out; the same log gives the same reports, whatever the batches.

A command that makes many reports (a sweep, a settlement) goes on in steps: when the reports have no room
left, the kernel saves where it stands in `cells` and returns, and the next call goes on with the same
command. So one command's work between two returns is bounded, and nothing is ever allocated or dropped.

    START ──> MATCHING ──> TELLING ──> done         NEW, AMEND: trade, rest or cancel the remainder, tell levels
          └─> CLOSING ───> TELLING ──> done         SETTLE: cancel what rests, tell levels
          └──────────────> TELLING ──> done         CANCEL and refusals

Fast here because a command is one pass over its own record, a taker's state stays in registers while it
sweeps, and no branch asks for a feature that the event does not have. Slow at a first touch of cold
memory: an order far from the touch is four or five cache misses.

Codes are passed on as plain numbers (`.value`): members of different enums would compile every callee anew.

The rules M1 to M12 are numbered in ARCHITECTURE.md, "Matching rules". The invariants are those of
tables.py, ladder.py, index.py and window.py.
"""

from typing import Final

import numpy as np

from ringpit.engine import index
from ringpit.engine.book import (
    best_against,
    better_or_equal,
    find_book,
    find_order,
    level_of,
    next_level,
    price_of,
    remove,
    rest,
    side_of,
    touch,
)
from ringpit.engine.codes import CommandKind, EventState, Flag, OrderType, Reason, ReportKind, Side, TimeInForce
from ringpit.engine.kernels import kernel, leaf
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import (
    LADDER_LEVELS_MAX,
    PAYOUT_TICKS_MAX,
    QUANTITY_MAX,
    REPORTS_PER_STEP_MAX,
)
from ringpit.engine.pool import give_run, run_bits, take_run
from ringpit.engine.tables import Cell
from ringpit.engine.window import find_key, remember_key

START: Final = 0
MATCHING: Final = 1
CLOSING: Final = 2
TELLING: Final = 3
DONE: Final = 4

DECIMALS_MAX: Final = 18


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
def sound(commands, slot):
    """True if a CREATE_EVENT makes sense and this version can serve it (M8)."""
    low = commands[slot]["price"]
    high = commands[slot]["quantity"]
    payout = commands[slot]["payout"]
    return (
        0 <= low <= high <= payout <= PAYOUT_TICKS_MAX
        and high - low < LADDER_LEVELS_MAX
        and commands[slot]["order"] >= 1
        and 0 <= commands[slot]["account"] <= DECIMALS_MAX
    )


@leaf
def same_event(t, commands, slot, book):
    """True if a CREATE_EVENT repeats the content of an existing one."""
    return (
        t.books[book]["low"] == commands[slot]["price"]
        and t.books[book]["high"] == commands[slot]["quantity"]
        and t.books[book]["payout"] == commands[slot]["payout"]
        and t.books[book]["tick_units"] == commands[slot]["order"]
        and t.books[book]["decimals"] == commands[slot]["account"]
    )


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


@leaf
def start_create(t, reports, commands, slot, book):
    """CREATE_EVENT (M8): a book slot and a run of levels, no allocation."""
    if not sound(commands, slot):
        return refuse(t, reports, commands, slot, Reason.UNSUPPORTED.value)
    event = commands[slot]["event"]
    if book != NIL:
        if not same_event(t, commands, slot, book):
            return refuse(t, reports, commands, slot, Reason.EVENT_EXISTS.value)
        if t.books[book]["state"] != EventState.OPEN:
            return refuse(t, reports, commands, slot, Reason.ALREADY_SETTLED.value)
        answer(
            t,
            reports,
            commands,
            slot,
            ReportKind.EVENT_CREATED.value,
            Reason.NONE.value,
            Flag.REPEAT.value,
            commands[slot]["payout"],
        )
        return DONE
    book = t.cells[Cell.BOOKS_USED]
    if book == t.books.shape[0]:
        return refuse(t, reports, commands, slot, Reason.BOOK_CAPACITY.value)
    base = take_run(t, run_bits(commands[slot]["quantity"] - commands[slot]["price"] + 1))
    if base == NIL:
        return refuse(t, reports, commands, slot, Reason.BOOK_CAPACITY.value)
    t.cells[Cell.BOOKS_USED] = book + 1
    t.books[book]["event"] = event
    t.books[book]["state"] = EventState.OPEN
    t.books[book]["low"] = commands[slot]["price"]
    t.books[book]["high"] = commands[slot]["quantity"]
    t.books[book]["payout"] = commands[slot]["payout"]
    t.books[book]["tick_units"] = commands[slot]["order"]
    t.books[book]["decimals"] = commands[slot]["account"]
    t.books[book]["base"] = base
    t.books[book]["best_bid"] = NIL
    t.books[book]["best_ask"] = NIL
    t.books[book]["orders"] = 0
    index.insert(t.event_index, index.fingerprint_of(0, event), book)
    answer(
        t,
        reports,
        commands,
        slot,
        ReportKind.EVENT_CREATED.value,
        Reason.NONE.value,
        0,
        commands[slot]["payout"],
    )
    if t.cells[Cell.MARKET_DATA] != 0:
        tell_book(t, reports, book)
    return DONE


@leaf
def start_settle(t, reports, commands, slot, book):
    """SETTLE (M9), policy `dummy`."""
    if book == NIL:
        return refuse(t, reports, commands, slot, Reason.UNKNOWN_EVENT.value)
    if t.books[book]["state"] != EventState.OPEN:
        answer(
            t, reports, commands, slot, ReportKind.EVENT_SETTLED.value, Reason.NONE.value, Flag.REPEAT.value, 0
        )
        return DONE
    t.cells[Cell.CANCELED] = 0
    return CLOSING


@leaf
def close(t, reports, commands, slot):
    """Cancel everything that rests: bids from the best down, asks from the best up, oldest first."""
    book = t.cells[Cell.BOOK]
    while t.books[book]["orders"] > 0:
        if not room(t):
            return CLOSING
        level = t.books[book]["best_bid"]
        if level == NIL:
            level = t.books[book]["best_ask"]
        order_slot = t.levels[level]["head"]
        position = find_order(t, book, t.orders[order_slot]["id"])
        drop_order(t, reports, book, order_slot, position, Reason.MARKET_CLOSED.value)
        t.cells[Cell.CANCELED] += 1
    if not room(t):
        return CLOSING
    answer(
        t, reports, commands, slot, ReportKind.EVENT_SETTLED.value, Reason.NONE.value, 0, t.cells[Cell.CANCELED]
    )
    t.books[book]["state"] = EventState.SETTLED
    return TELLING


@leaf
def release_run(t, book):
    """A settled book gives its levels back."""
    give_run(t, t.books[book]["base"], run_bits(t.books[book]["high"] - t.books[book]["low"] + 1))
    t.books[book]["base"] = NIL


@leaf
def start(t, reports, commands, slot):
    """First step of a command: the stage it is in afterwards."""
    kind = commands[slot]["kind"]
    t.cells[Cell.TOUCHED] = 0
    t.cells[Cell.TOLD] = 0
    if commands[slot]["verdict"] != Reason.NONE.value:
        return refuse(t, reports, commands, slot, np.int64(commands[slot]["verdict"]))
    book = find_book(t, commands[slot]["event"])
    t.cells[Cell.BOOK] = book
    if kind == CommandKind.NEW:
        return start_new(t, reports, commands, slot, book)
    if kind == CommandKind.CANCEL:
        return start_cancel(t, reports, commands, slot, book)
    if kind == CommandKind.AMEND:
        return start_amend(t, reports, commands, slot, book)
    if kind == CommandKind.CREATE_EVENT:
        return start_create(t, reports, commands, slot, book)
    if kind == CommandKind.SETTLE:
        return start_settle(t, reports, commands, slot, book)
    if kind == CommandKind.TICK:
        return DONE
    return refuse(t, reports, commands, slot, Reason.UNSUPPORTED.value)


@leaf
def advance(t, reports, commands, slot, stage):
    """Go on with the command in hand until it is done or the reports are full; the stage it is in then."""
    while stage != DONE and room(t):
        if stage == START:
            stage = start(t, reports, commands, slot)
        elif stage == MATCHING:
            stage = match(t, reports)
        elif stage == CLOSING:
            stage = close(t, reports, commands, slot)
        else:
            stage = tell_levels(t, reports)
            if stage == DONE and commands[slot]["kind"] == CommandKind.SETTLE:
                release_run(t, t.cells[Cell.BOOK])
    return stage


@leaf
def mark(t, reports, markers, slot):
    """MARKER: engine time (M12), and whether the frame is a duplicate (M11)."""
    engine_ns = max(t.cells[Cell.ENGINE_NS], markers[slot]["engine_ns"])
    t.cells[Cell.ENGINE_NS] = engine_ns
    low = markers[slot]["key_low"]
    high = markers[slot]["key_high"]
    count = markers[slot]["count"]
    if t.cells[Cell.MARKET_DATA] != 0:
        emit(
            t,
            reports,
            ReportKind.FRAME.value,
            0,
            Reason.NONE.value,
            0,
            markers[slot]["position"],
            low,
            high,
            engine_ns,
            markers[slot]["ingress_ns"],
            count,
        )
    if low == 0 and high == 0:
        return
    known = find_key(t, low, high)
    if known == NIL:
        remember_key(t, low, high, markers[slot]["body_hash"], t.cells[Cell.SEQ])
        return
    t.cells[Cell.SKIP_LEFT] = count
    if t.keys[known]["body_hash"] != markers[slot]["body_hash"]:
        t.cells[Cell.SKIP_REASON] = Reason.KEY_REUSED.value
        return
    t.cells[Cell.SKIP_REASON] = Reason.NONE.value
    first = t.keys[known]["seq"]
    emit(
        t,
        reports,
        ReportKind.DUPLICATE.value,
        0,
        Reason.NONE.value,
        Flag.REPEAT.value,
        markers[slot]["first_event"],
        first,
        0,
        0,
        0,
        count,
    )


@leaf
def skip(t, reports, commands, slot):
    """A command of a duplicate frame: nothing happens; of a frame with a reused key: refused."""
    t.cells[Cell.SKIP_LEFT] -= 1
    if t.cells[Cell.SKIP_REASON] != Reason.NONE.value:
        refuse(t, reports, commands, slot, t.cells[Cell.SKIP_REASON])


@kernel
def process(t, commands, markers, begin_at, end_at, seq, reports, out, out_limit):
    """
    Apply the records at positions [begin_at, end_at), strictly in order; return (position, out) reached.

    Args:
        t: Tables of the shard, changed in place.
        commands: COMMAND array whose length is a power of two; position p lies in slot p & (length - 1).
        markers: The same memory seen as MARKER.
        begin_at: First position; the record in hand if the last call returned in the middle of one.
        end_at: Position behind the last record.
        seq: Log position of the record at `begin_at`.
        reports: REPORT array whose length is a power of two, at least REPORTS_PER_STEP_MAX.
        out: Report position to write next.
        out_limit: Report position that may not be passed.

    A position below `end_at` in the answer means that the reports are full: call again with more room, with
    the returned position and its seq. Cost: no allocation; 20 to 200 ns a command by how cold its book is.
    """
    t.cells[Cell.OUT] = out
    t.cells[Cell.OUT_LIMIT] = out_limit
    mask = commands.shape[0] - 1
    position = begin_at
    while position < end_at:
        if not room(t):
            break
        slot = position & mask
        stage = t.cells[Cell.STAGE]
        if stage == START:
            t.cells[Cell.SEQ] = seq + position - begin_at
            t.cells[Cell.INDEX] = 0
        if t.cells[Cell.SKIP_LEFT] > 0:
            skip(t, reports, commands, slot)
        elif commands[slot]["kind"] == CommandKind.MARKER:
            mark(t, reports, markers, slot)
        else:
            stage = advance(t, reports, commands, slot, stage)
            if stage != DONE:
                t.cells[Cell.STAGE] = stage
                break
            t.cells[Cell.STAGE] = START
        position += 1
    return position, t.cells[Cell.OUT]
