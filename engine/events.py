"""
Events: creating a book, and what is left of one after its settlement.

Creating takes a book slot, and a run of levels or two nodes, and allocates nothing. Settling cancels what is open, in steps if
it is much (walk.py), gives the levels back and remembers the event, so that a later order for it is told why it is
refused. The policy is `dummy`; states between open and settled have their numbers free in `EventState`.

Price bands are kept once for all events that have the same (a *grid*).

Fast: a microsecond at most, whatever the price range; level records are filled in when they are first used. Slow
nowhere.

The rules M8 and M9 are numbered in ARCHITECTURE.md, "Matching rules".
"""

from typing import Final

import numpy as np

from ringpit.engine import index, skiplist
from ringpit.engine.checks import extension_of, lacks_extension
from ringpit.engine.codes import EventState, Flag, LevelKind, Queue, Reason, ReportFlag, ReportKind
from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.ladder import NIL
from ringpit.engine.levels import nodes_free
from ringpit.engine.limits import (
    BANDS_MAX,
    INT64_MAX,
    LADDER_LEVELS_MAX,
    PAYOUT_TICKS_MAX,
    PRICE_TICKS_MAX,
    QUANTITY_MAX,
)
from ringpit.engine.pool import give_run, run_bits, take_run
from ringpit.engine.records import BANDS_PER_RECORD
from ringpit.engine.tables import DONE, LISTS, Cell, Check
from ringpit.engine.tell import answer, refuse, tell_book

DECIMALS_MAX: Final = 18
HALF: Final = 32  # bits of a band's last price, and of its step, in one word of a record
HALF_MASK: Final = 0xFFFF_FFFF
BROKEN: Final = -1  # Cell.BANDS: what came makes no table


@leaf
def hold_extension(t, commands, slot):
    """EXTENSION: keep its fields for the command right behind it (EXTENSION_FIELDS, under COMMAND's names)."""
    t.cells[Cell.EXTENDED] = 1
    t.cells[Cell.EXTENSION_EVENT] = commands[slot]["event"]
    t.cells[Cell.TRIGGER] = commands[slot]["order"]
    t.cells[Cell.TRAIL] = commands[slot]["account"]
    t.cells[Cell.DISPLAY] = commands[slot]["price"]
    t.cells[Cell.GROUP] = commands[slot]["quantity"]
    t.cells[Cell.ORDERS_MAX] = commands[slot]["payout"]
    t.cells[Cell.ACCOUNT_ORDERS_MAX] = commands[slot]["expires_ns"]


@leaf
def hold_band(t, at, word):
    """Keep one band: its last price and its step, the two halves of a word."""
    last = word & HALF_MASK
    t.bands[2 * at] = last - ((last >> (HALF - 1)) << HALF)
    t.bands[2 * at + 1] = word >> HALF


@outlined
def hold_bands(t, commands, slot):
    """BANDS: keep them, behind those of the records before, for the CREATE_EVENT that follows."""
    held = t.cells[Cell.BANDS]
    event = commands[slot]["event"]
    count = np.int64(commands[slot]["side"])  # BANDS_FIELDS, under COMMAND's names
    sound = held == 0 or (held != BROKEN and t.cells[Cell.BANDS_EVENT] == event)
    t.cells[Cell.BANDS_EVENT] = event
    if not sound or not 1 <= count <= BANDS_PER_RECORD or held + count > BANDS_MAX:
        t.cells[Cell.BANDS] = BROKEN
        return
    for band in range(count):
        if band == 0:
            word = commands[slot]["order"]
        elif band == 1:
            word = commands[slot]["account"]
        elif band == 2:
            word = commands[slot]["price"]
        elif band == 3:
            word = commands[slot]["quantity"]
        elif band == 4:
            word = commands[slot]["payout"]
        else:
            word = commands[slot]["expires_ns"]
        hold_band(t, held + band, word)
    t.cells[Cell.BANDS] = held + count


@leaf
def bands_sound(t, commands, slot):
    """True if the bands that came are a table for this event's range, or none came."""
    count = t.cells[Cell.BANDS]
    if count == 0:
        return True
    if count == BROKEN or t.cells[Cell.BANDS_EVENT] != commands[slot]["event"]:
        return False
    begin = commands[slot]["price"]
    payout = commands[slot]["payout"]
    for band in range(count):
        last = t.bands[2 * band]
        step = t.bands[2 * band + 1]
        if last <= begin or step < 1 or (last - begin) % step != 0:
            return False
        mirrored = count - 1 - band
        if payout > 0 and (
            step != t.bands[2 * mirrored + 1] or (mirrored > 0 and last + t.bands[2 * mirrored - 2] != payout)
        ):
            return False
        begin = last
    return begin == commands[slot]["quantity"]


@outlined
def is_sound(t, commands, slot):
    """True if a CREATE_EVENT makes sense (M8)."""
    low = commands[slot]["price"]
    high = commands[slot]["quantity"]
    payout = commands[slot]["payout"]
    extended = commands[slot]["flags"] & Flag.EXTENDED.value != 0
    if not (0 <= low <= high <= PRICE_TICKS_MAX) or (
        payout != 0 and (payout != low + high or payout > PAYOUT_TICKS_MAX)
    ):
        return False
    if extended and (
        t.cells[Cell.TRIGGER] | t.cells[Cell.TRAIL] | t.cells[Cell.DISPLAY] | t.cells[Cell.GROUP] != 0
        or t.cells[Cell.ORDERS_MAX] < 0
        or t.cells[Cell.ACCOUNT_ORDERS_MAX] < 0
    ):
        return False
    return (
        LevelKind.AUTO.value <= commands[slot]["order_type"] <= LevelKind.SKIP_LIST.value
        and (commands[slot]["order_type"] != LevelKind.LADDER.value or high - low < LADDER_LEVELS_MAX)
        and commands[slot]["flags"] & ~Flag.EXTENDED.value == 0
        and commands[slot]["order"] >= 1
        and 0 <= commands[slot]["account"] <= DECIMALS_MAX
        and commands[slot]["expires_ns"] >= 0
        and bands_sound(t, commands, slot)
    )


@leaf
def kind_of(commands, slot):
    """The LevelKind that a CREATE_EVENT gets."""
    kind = np.int64(commands[slot]["order_type"])
    if kind == LevelKind.AUTO.value:
        if commands[slot]["quantity"] - commands[slot]["price"] < LADDER_LEVELS_MAX:
            return np.int64(LevelKind.LADDER.value)
        return np.int64(LevelKind.SKIP_LIST.value)
    return kind


@leaf
def same_bands(t, grid):
    """True if a row of `grids` is the table of bands that came."""
    count = t.cells[Cell.BANDS]
    if t.grids[grid, 1] != count:
        return False
    for word in range(2 * count):  # noqa: SIM110 - kernels have no generators
        if t.grids[grid, 2 + word] != t.bands[word]:
            return False
    return True


@leaf
def print_of_bands(t):
    """Fingerprint of the bands that came, 0 without: what is left of them when an event is settled."""
    mixed = np.int64(0)
    for word in range(2 * max(t.cells[Cell.BANDS], 0)):
        mixed = index.fingerprint_of(mixed, t.bands[word])
    return mixed


@outlined
def same_event(t, commands, slot, book):
    """True if a CREATE_EVENT repeats the content of an existing one."""
    return (
        t.books[book]["low"] == commands[slot]["price"]
        and t.books[book]["high"] == commands[slot]["quantity"]
        and t.books[book]["payout"] == commands[slot]["payout"]
        and t.books[book]["tick_units"] == commands[slot]["order"]
        and t.books[book]["decimals"] == commands[slot]["account"]
        and t.books[book]["closes_ns"] == commands[slot]["expires_ns"]
        and t.books[book]["kind"] == kind_of(commands, slot)
        and t.books[book]["orders_max"] == extension_of(t, commands, slot, Cell.ORDERS_MAX)
        and t.books[book]["account_orders_max"] == extension_of(t, commands, slot, Cell.ACCOUNT_ORDERS_MAX)
        and t.books[book]["bands"] == print_of_bands(t)
    )


@outlined
def grid_for(t):
    """Row of `grids` for the bands that came: one that has them, a free one, or NIL if none is."""
    free = np.int64(NIL)
    for grid in range(t.grids.shape[0]):
        if t.grids[grid, 0] == 0:
            if free == NIL:
                free = np.int64(grid)
        elif same_bands(t, grid):
            return np.int64(grid)
    return free


@leaf
def keep_bands(t, grid):
    """A book uses a row of `grids`, which holds the bands that came from now on."""
    t.grids[grid, 0] += 1
    t.grids[grid, 1] = t.cells[Cell.BANDS]
    for word in range(2 * t.cells[Cell.BANDS]):
        t.grids[grid, 2 + word] = t.bands[word]


@outlined
def open_book(t, commands, slot, grid):
    """Take a book slot and what its levels need, and fill it in. NIL if there is no room."""
    book = t.cells[Cell.BOOKS_USED]
    kind = kind_of(commands, slot)
    low = commands[slot]["price"]
    high = commands[slot]["quantity"]
    payout = commands[slot]["payout"]
    base = np.int64(NIL)
    if book == t.books.shape[0]:
        return np.int64(NIL)
    if kind == LevelKind.LADDER.value:
        base = take_run(t, run_bits(high - low + 1))
        if base == NIL:
            return np.int64(NIL)
    elif nodes_free(t) < 2:
        return np.int64(NIL)
    t.cells[Cell.BOOKS_USED] = book + 1
    for queue in range(LISTS):
        t.lists[book, queue] = NIL
    if kind == LevelKind.SKIP_LIST.value:
        t.lists[book, Queue.BIDS.value] = skiplist.begin_list(t)
        t.lists[book, Queue.ASKS.value] = skiplist.begin_list(t)
    orders_max = extension_of(t, commands, slot, Cell.ORDERS_MAX)
    account_orders_max = extension_of(t, commands, slot, Cell.ACCOUNT_ORDERS_MAX)
    checks = np.int64(0)
    if grid != NIL:
        checks |= Check.GRID.value
    if orders_max > 0:
        checks |= Check.ORDERS.value
    if account_orders_max > 0:
        checks |= Check.ACCOUNTS.value
    t.books[book]["event"] = commands[slot]["event"]
    t.books[book]["low"] = low
    t.books[book]["high"] = high
    t.books[book]["payout"] = payout
    t.books[book]["quantity_max"] = min(
        QUANTITY_MAX, INT64_MAX // (max(high, 1) * max(payout, 1))
    )  # quantity_max_of
    t.books[book]["last"] = NIL
    t.books[book]["base"] = base
    t.books[book]["best_bid"] = NIL
    t.books[book]["best_ask"] = NIL
    t.books[book]["special"] = 0
    t.books[book]["state"] = EventState.OPEN.value
    t.books[book]["kind"] = kind
    t.books[book]["checks"] = checks
    t.books[book]["grid"] = grid
    t.books[book]["orders"] = 0
    t.books[book]["orders_max"] = orders_max
    t.books[book]["account_orders_max"] = account_orders_max
    t.books[book]["closes_ns"] = commands[slot]["expires_ns"]
    t.books[book]["tick_units"] = commands[slot]["order"]
    t.books[book]["decimals"] = commands[slot]["account"]
    t.books[book]["bands"] = print_of_bands(t)
    return book


@outlined
def start_create(t, reports, commands, slot, book):
    """CREATE_EVENT (M8)."""
    kind = ReportKind.EVENT_CREATED.value
    none = Reason.NONE.value
    payout = commands[slot]["payout"]
    if lacks_extension(t, commands, slot):
        return refuse(t, reports, commands, slot, Reason.MALFORMED.value)
    if not is_sound(t, commands, slot):
        return refuse(t, reports, commands, slot, Reason.UNSUPPORTED.value)
    if book != NIL:
        if not same_event(t, commands, slot, book):
            return refuse(t, reports, commands, slot, Reason.EVENT_EXISTS.value)
        if t.books[book]["state"] != EventState.OPEN.value:
            return refuse(t, reports, commands, slot, Reason.ALREADY_SETTLED.value)
        answer(t, reports, commands, slot, kind, none, ReportFlag.REPEAT.value, payout)
        return DONE
    grid = np.int64(NIL)
    if t.cells[Cell.BANDS] > 0:
        grid = grid_for(t)
        if grid == NIL:
            return refuse(t, reports, commands, slot, Reason.BOOK_CAPACITY.value)
    book = open_book(t, commands, slot, grid)
    if book == NIL:
        return refuse(t, reports, commands, slot, Reason.BOOK_CAPACITY.value)
    if grid != NIL:
        keep_bands(t, grid)
    t.cells[Cell.BOOK] = book
    index.insert(t.event_index, index.fingerprint_of(0, commands[slot]["event"]), book)
    answer(t, reports, commands, slot, kind, none, 0, payout)
    if t.cells[Cell.MARKET_DATA] != 0:
        tell_book(t, reports, book)
    return DONE


@outlined
def release_levels(t, book):
    """A settled book, in which nothing is open, gives back its levels, list heads and bands."""
    if t.books[book]["kind"] == LevelKind.LADDER.value:
        give_run(t, np.int64(t.books[book]["base"]), run_bits(t.books[book]["high"] - t.books[book]["low"] + 1))
        t.books[book]["base"] = NIL
    for queue in range(Queue.SELL_ALL_OR_NONE.value + 1):
        if t.lists[book, queue] != NIL:
            skiplist.give_node(t, np.int64(t.lists[book, queue]))
            t.lists[book, queue] = NIL
    if t.books[book]["grid"] != NIL:
        t.grids[t.books[book]["grid"], 0] -= 1
