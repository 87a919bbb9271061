"""
The tables of one shard: every array that matching touches, allocated once, passed as one argument.

    index ──> orders[slot] ──level──> levels[slot]     orders at one level: a doubly linked list, oldest first
              details[slot]             bitmap: which levels are occupied
    event_index ──> books[slot]         book: owns a run of levels, price = slot - base + low

A NamedTuple costs a kernel nothing inside compiled code; the same arrays passed one by one cost reference
counting at every call. What changes as a single number lives in `cells`, one int64 each, named below.

An order's record is 32 bytes, two to a cache line; what only fills need is in `details`, same slot. The
side of a resting order is not stored: at or below the best bid's level it is a bid, else an ask.

Invariants, checked by `validate`:

    T1  every order slot is either in the free list or resting in exactly one level
    T2  a level's quantity is the sum of `open` over its list; an empty level is all NIL and 0
    T3  best_bid is the highest occupied level at which bids rest, best_ask the lowest with asks, NIL if none;
        no book is crossed: best_bid < best_ask
    T4  every run of levels is either owned by one open book or in a free list of its size
"""

from enum import IntEnum, auto
from typing import Final, NamedTuple

import numpy as np

from ringpit.engine import index, ladder
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import LADDER_LEVELS_MAX, Limits
from ringpit.engine.records import dtype_of

ORDER: Final = dtype_of(
    (
        ("id", "<i8", "the order's id"),
        ("open", "<i8", "lots that can still trade"),
        ("next", "<i4", "order slot behind in the queue, or the next free slot, or NIL"),
        ("previous", "<i4", "order slot in front, or NIL"),
        ("level", "<i4", "level slot; NIL when free"),
        ("book", "<i4", "book slot"),
    )
)
DETAIL: Final = dtype_of(
    (
        ("account", "<i8", "owner"),
        ("filled", "<i8", "lots traded so far"),
    )
)
LEVEL: Final = dtype_of(
    (
        ("quantity", "<i8", "lots resting"),
        ("head", "<i4", "oldest order slot, or NIL; in a free run: first level of the next free run"),
        ("tail", "<i4", "newest order slot, or NIL"),
    )
)
BOOK: Final = dtype_of(
    (
        ("event", "<i8", "the event's id"),
        ("state", "<i8", "EventState"),
        ("low", "<i8", "lowest price, ticks"),
        ("high", "<i8", "highest price, ticks"),
        ("payout", "<i8", "payout of one lot, ticks"),
        ("tick_units", "<i8", "one tick in units of 10**-decimals"),
        ("decimals", "<i8", "decimals of a unit"),
        ("base", "<i8", "level slot of the lowest price, or NIL"),
        ("best_bid", "<i8", "level slot, or NIL"),
        ("best_ask", "<i8", "level slot, or NIL"),
        ("orders", "<i8", "orders resting"),
    )
)
KEY: Final = dtype_of(
    (
        ("low", "<i8", "key, low half"),
        ("high", "<i8", "key, high half"),
        ("body_hash", "<i8", "hash of the body that came with it"),
        ("seq", "<i8", "log position of the marker that brought it first"),
    )
)

START, MATCHING, CLOSING, TELLING, DONE = range(5)  # stages of a command, see machine.py

RUN_BITS_MIN: Final = 6  # smallest run of levels: 64, one word of the bitmap
RUN_BITS_MAX: Final = LADDER_LEVELS_MAX.bit_length() - 1


class Cell(IntEnum):
    """Single numbers of the state machine, one int64 each in `Tables.cells`."""

    ORDERS_FREE = 0  # first free order slot, or NIL
    ORDERS_USED = auto()  # orders resting
    LEVELS_USED = auto()  # level slots ever handed out
    BOOKS_USED = auto()  # events ever created
    KEYS_SEEN = auto()  # keys ever taken into the window
    ENGINE_NS = auto()  # engine time
    MARKET_DATA = auto()  # 1: make FRAME, LEVEL and BOOK_RESET reports
    SKIP_LEFT = auto()  # commands of a duplicate frame still to come
    SKIP_REASON = auto()  # NONE: say nothing of them; else reject each with it
    SEQ = auto()  # log position of the command in hand
    INDEX = auto()  # reports already made for it
    OUT = auto()  # report position
    OUT_LIMIT = auto()  # report position that may not be passed
    STAGE = auto()  # where the command in hand stands, see machine.py
    BOOK = auto()  # the command in hand: its book
    SIDE = auto()
    LIMIT = auto()  # level slot beyond which it does not trade
    PRICE_LEVEL = auto()  # level slot at which its remainder rests, or NIL
    PRICE = auto()  # its price as asked, for the report of a cancelled remainder
    FLAGS = auto()  # and its flags
    OPEN = auto()  # lots left
    FILLED = auto()  # lots filled
    ORDER = auto()
    ACCOUNT = auto()
    CANCELED = auto()  # orders cancelled by a settlement so far
    TOUCHED = auto()  # entries in `touched`
    TOLD = auto()  # of these, reported
    RUNS_FREE = auto()  # and RUN_BITS_MAX more: first free run of each size, or NIL


CELLS: Final = int(Cell.RUNS_FREE) + RUN_BITS_MAX + 1


class Tables(NamedTuple):
    """Every array of one shard; shapes by `Limits`, meanings in the dtypes above."""

    orders: np.ndarray  # ORDER x orders
    details: np.ndarray  # DETAIL x orders
    levels: np.ndarray  # LEVEL x levels
    bitmap: np.ndarray  # int64 words, see ladder.py
    index: np.ndarray  # type: ignore[assignment]  # int64 entries: (book, order id) to order slot; hides tuple.index
    books: np.ndarray  # BOOK x events
    event_index: np.ndarray  # int64 entries: event id to book slot
    keys: np.ndarray  # KEY x keys, a circle
    key_index: np.ndarray  # int64 entries: frame key to slot in keys
    touched: np.ndarray  # int64: level slot x 2 + side, levels changed by the command in hand
    cells: np.ndarray  # int64, named by Cell


def allocate(limits: Limits, *, market_data: bool = False) -> Tables:
    """
    Allocate and initialise the tables of an empty shard.

    Cost: touches all memory once, about 32 bytes an order, 16 a level, 48 a key, 120 an event.
    """
    orders = np.zeros(limits.orders, ORDER)
    orders["next"] = np.arange(1, limits.orders + 1, dtype=np.int32)
    orders["next"][-1] = NIL
    orders["previous"] = NIL
    orders["level"] = NIL
    levels = np.zeros(limits.levels, LEVEL)
    levels["head"] = NIL
    levels["tail"] = NIL
    cells = np.zeros(CELLS, np.int64)
    cells[Cell.MARKET_DATA] = int(market_data)
    cells[Cell.RUNS_FREE :] = NIL
    return Tables(
        orders=orders,
        details=np.zeros(limits.orders, DETAIL),
        levels=levels,
        bitmap=np.zeros(ladder.bitmap_words(limits.levels), np.int64),
        index=index.make_index(limits.orders),
        books=np.zeros(limits.events, BOOK),
        event_index=index.make_index(limits.events),
        keys=np.zeros(limits.keys, KEY),
        key_index=index.make_index(limits.keys),
        touched=np.zeros(min(limits.levels, LADDER_LEVELS_MAX) + 4, np.int64),
        cells=cells,
    )
