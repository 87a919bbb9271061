"""
Events: creating a book, and settling it.

Creating takes a book slot and a run of levels, and allocates nothing. Settling cancels what rests, in steps if
it is much, gives the levels back and remembers the event, so that a later order for it is told why it is
refused. The policy is `dummy`; states between open and settled have their numbers free in `EventState`.

The rules M8 and M9 are numbered in ARCHITECTURE.md, "Matching rules".
"""

from typing import Final

from ringpit.engine import index
from ringpit.engine.book import find_order
from ringpit.engine.codes import EventState, ReportFlag, Reason, ReportKind
from ringpit.engine.kernels import leaf
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import LADDER_LEVELS_MAX, PAYOUT_TICKS_MAX
from ringpit.engine.match import drop_order
from ringpit.engine.pool import give_run, run_bits, take_run
from ringpit.engine.tables import CLOSING, DONE, TELLING, Cell
from ringpit.engine.tell import answer, refuse, room, tell_book

DECIMALS_MAX: Final = 18


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
            ReportFlag.REPEAT.value,
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
            t, reports, commands, slot, ReportKind.EVENT_SETTLED.value, Reason.NONE.value, ReportFlag.REPEAT.value, 0
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
