"""
The tables of one shard: every array that matching touches, allocated once, passed as one argument.

    index ──> orders[slot] ──level──> levels[slot]     orders at one level: a doubly linked list, oldest first
              details[slot]             bitmap: which levels of ladders are occupied
    event_index ──> books[slot]         book: owns a run of levels, price = slot - base + low,
                    lists[slot]         or skip lists of nodes; the level of node n is levels[ladder levels + n]

Kernels get all of them as one address (handle.py). What changes as a single number lives in `cells`, one int64 each, named below.

An order's record is one cache line: whatever a fill, a cancel or an ownership check needs costs one miss. What only
icebergs, stops, groups and expiring orders need is in `details`, same slot, and a plain order never touches it.

Invariants, checked by `validate`:

    T1  every order slot is either in the free list or open in exactly one level
    T2  a level's quantity is the sum of `shown` over its list, its hidden orders are the last of the list, and every
        order of it is on the level's side; an empty level of a ladder is all NIL and 0
    T3  best_bid and best_ask are the best occupied levels of their side, NIL if none; no book is crossed
    T4  every run of levels is either owned by one open book or in a free list of its size
    T5  every node is the head of one list, in one list, or free; a list is sorted by key, without empty levels
    T6  timers is a heap by (expires_ns, stamp) of exactly the open orders with the trait TIMED
    T7  counters agree: open, special and waiting orders of a book; orders of an account in a book that limits them
"""

from enum import IntEnum, auto
from typing import Final, NamedTuple, Self

import numpy as np

from ringpit.engine import index, ladder
from ringpit.engine.codes import Queue
from ringpit.engine.handle import describe, passed_as_address
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import BANDS_MAX, INT64_MAX, LADDER_LEVELS_MAX, Limits
from ringpit.engine.records import dtype_of

ORDER: Final = dtype_of(
    (
        ("id", "<i8", "the order's id"),
        ("account", "<i8", "owner"),
        ("open", "<i8", "lots that can still trade"),
        ("filled", "<i8", "lots traded so far"),
        ("shown", "<i8", "lots that everybody sees"),
        ("next", "<i4", "order slot behind in the queue, or the next free slot, or NIL"),
        ("previous", "<i4", "order slot in front, or NIL"),
        ("level", "<i4", "level slot; NIL when free"),
        ("book", "<i4", "book slot"),
        ("traits", "<i4", "bits of Trait"),
        ("timer", "<i4", "place in `timers`, or NIL"),
    )
)
DETAIL: Final = dtype_of(
    (
        ("price", "<i8", "limit of an order that waits aside, ticks of YES; 0 with the trait NO_PRICE"),
        ("trigger", "<i8", "of a stop, ticks of YES; else 0"),
        ("trail", "<i8", "of a trailing stop, ticks; else 0"),
        ("display", "<i8", "lots an iceberg shows at a time; else 0"),
        ("group", "<i8", "group, or 0"),
        ("expires_ns", "<i8", "when it expires, or 0"),
        ("stamp", "<i8", "age: rises with each order that gets details"),
        ("next_trailing", "<i4", "trailing stop of the same side that came after it, or NIL"),
        ("previous_trailing", "<i4", "the one before it, or NIL"),
    )
)
LEVEL: Final = dtype_of(
    (
        ("quantity", "<i8", "lots shown"),
        ("price", "<i8", "ticks of YES: price, or trigger of a list of stops; of an occupied level only"),
        ("head", "<i4", "first order slot, or NIL; in a free run: first level of the next free run"),
        ("tail", "<i4", "last order slot, or NIL"),
        ("hidden", "<i4", "first hidden order slot, or NIL"),
        ("side", "<i4", "Side of its orders on the book of YES; of an occupied level only"),
    )
)
BOOK: Final = dtype_of(
    (
        ("event", "<i8", "the event's id"),
        ("low", "<i8", "lowest price, ticks"),
        ("high", "<i8", "highest price, ticks"),
        ("payout", "<i8", "payout of one lot, ticks; 0: there is no NO"),
        ("quantity_max", "<i8", "most lots of one order"),
        ("last", "<i8", "price of the last trade, ticks; NIL: none yet"),
        ("base", "<i4", "ladder: level slot of the lowest price; NIL: a skip list, or settled"),
        ("best_bid", "<i4", "level slot, or NIL"),
        ("best_ask", "<i4", "level slot, or NIL"),
        ("special", "<i4", "open orders that plain matching cannot meet: hidden, iceberg, all-or-none, stop"),
        ("state", "<i4", "EventState"),
        ("kind", "<i4", "LevelKind"),
        ("checks", "<i4", "bits of Check: what a new order is asked here beyond the plain"),
        ("grid", "<i4", "row of `grids`, or NIL"),
        ("orders", "<i8", "open orders"),
        ("orders_max", "<i8", "most open orders, 0: no limit"),
        ("account_orders_max", "<i8", "most open orders of one account, 0: no limit"),
        ("closes_ns", "<i8", "closing time, or 0"),
        ("tick_units", "<i8", "one tick in units of 10**-decimals"),
        ("decimals", "<i4", "decimals of a unit"),
        (
            "bands",
            "<i4",
            "fingerprint of the price bands, 0 without; outlives the grid when the event is settled",
        ),
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
HOLDER: Final = dtype_of(
    (
        ("account", "<i8", "account"),
        ("orders", "<i4", "its open orders in the book; free: next free holder"),
        ("book", "<i4", "book slot"),
    )
)

# Stages of a command, see machine.py.
START, MATCHING, TRADING, LINE, ASIDE, CANCELING, NEXT_EVENT, EXPIRING, TELLING, DONE = range(10)

RUN_BITS_MIN: Final = 6  # smallest run of levels: 64, one word of the bitmap
RUN_BITS_MAX: Final = LADDER_LEVELS_MAX.bit_length() - 1
LISTS: Final = len(Queue) + 4  # heads of the lists, then first and last trailing stop of each side
NODE_WORDS: Final = 8  # int64 words of a skip list's node


class Check(IntEnum):
    """Bits of a book's `checks`."""

    GRID = 1
    ORDERS = 2
    ACCOUNTS = 4


class Cell(IntEnum):
    """Single numbers of the state machine, one int64 each in `Tables.cells`."""

    ORDERS_FREE = 0  # first free order slot, or NIL
    ORDERS_USED = auto()  # open orders
    LEVELS_USED = auto()  # level slots ever handed out to ladders
    BOOKS_USED = auto()  # events ever created
    NODES_FREE = auto()  # first free node, or NIL
    NODES_USED = auto()
    HOLDERS_FREE = auto()  # first free holder, or NIL
    TIMERS = auto()  # entries in `timers`
    NEXT_EXPIRY = auto()  # earliest expires_ns of an open order, INT64_MAX if none
    STAMP = auto()  # orders that ever got details
    KEYS_SEEN = auto()  # keys ever taken into the window
    ENGINE_NS = auto()  # engine time
    MARKET_DATA = auto()  # 1: make FRAME, LEVEL and BOOK_RESET reports
    SKIP_LEFT = auto()  # records of a duplicate frame still to come
    SKIP_REASON = auto()  # NONE: say nothing of them; else reject each with it
    SEQ = auto()  # log position of the command in hand
    INDEX = auto()  # reports already made for it
    OUT = auto()  # report position
    OUT_LIMIT = auto()  # report position that may not be passed
    STAGE = auto()  # where the command in hand stands, see machine.py
    VISITS = auto()  # orders looked at without a report since the caller last had a turn
    BOOK = auto()  # its book
    AHEAD_EVENT = auto()  # event of the command last looked at before it was due
    AHEAD_BOOK = auto()  # and the book that its index entry names, or NIL
    SIDE = auto()  # the order that trades: side of YES
    LIMIT = auto()  # price of YES beyond which it does not trade
    RESTS = auto()  # 1: a remainder rests, 0: it is cancelled
    PRICE = auto()  # its price as asked, for the report of a cancelled remainder
    FLAGS = auto()  # and its ReportFlags
    TRAITS = auto()  # bits of Trait
    OPEN = auto()  # lots left, or money
    FILLED = auto()  # lots filled
    ORDER = auto()
    ACCOUNT = auto()
    HAND = auto()  # its order slot, if it has one already, else NIL
    LINE_FIRST = auto()  # triggered stops, by the order in which they will trade
    LINE_LAST = auto()
    RISEN_FIRST = auto()  # BUY stops that the order in hand triggered
    RISEN_LAST = auto()
    FALLEN_FIRST = auto()  # SELL stops likewise
    FALLEN_LAST = auto()
    QUEUE = auto()  # a walk through all lists: the list
    CURSOR = auto()  # the order to look at next, or NIL
    CANCELED = auto()  # orders cancelled so far
    TOUCHED = auto()  # entries in `touched`
    TOLD = auto()  # of these, reported
    EXTENDED = auto()  # 1: `extension` holds what the command right behind it may use
    EXTENSION_EVENT = auto()
    TRIGGER = auto()  # fields of the extension
    TRAIL = auto()
    DISPLAY = auto()
    GROUP = auto()
    ORDERS_MAX = auto()
    ACCOUNT_ORDERS_MAX = auto()
    BANDS = auto()  # price bands held in `bands`; -1: what came makes no sense
    BANDS_EVENT = auto()
    RUNS_FREE = auto()  # and RUN_BITS_MAX more: first free run of each size, or NIL


CELLS: Final = int(Cell.RUNS_FREE) + RUN_BITS_MAX + 1


class TableArrays(NamedTuple):
    """Every array of one shard; shapes by `Limits`, meanings in the dtypes above."""

    orders: np.ndarray  # ORDER x orders
    details: np.ndarray  # DETAIL x orders
    levels: np.ndarray  # LEVEL x (levels + nodes)
    bitmap: np.ndarray  # int64 words, see ladder.py
    index: np.ndarray  # type: ignore[assignment]  # int64 entries: (book, order id) to order slot; hides tuple.index
    books: np.ndarray  # BOOK x events
    lists: np.ndarray  # int32 x events x LISTS: head node of each Queue, or NIL; see LISTS
    event_index: np.ndarray  # int64 entries: event id to book slot
    nodes: np.ndarray  # int64 x nodes x NODE_WORDS, see skiplist.py
    links: np.ndarray  # the same memory as int32
    level_index: np.ndarray  # int64 entries: (list, price) to level slot, levels of skip lists
    timers: np.ndarray  # int32 x orders: order slots, a heap
    holders: np.ndarray  # HOLDER x orders
    holder_index: np.ndarray  # int64 entries: (book, account) to holder slot
    grids: np.ndarray  # int64 x grids x (2 + 2 x BANDS_MAX): books that use it, bands, then (last, step) each
    bands: np.ndarray  # int64 x 2 x BANDS_MAX: (last, step) of the bands records that came
    keys: np.ndarray  # KEY x keys, a circle
    key_index: np.ndarray  # int64 entries: frame key to slot in keys
    touched: np.ndarray  # int64: price x 2 + side, levels changed by the command in hand
    ahead: np.ndarray  # int64 x 3 x AHEAD_MAX: what is known of the commands to come, see ahead.py
    cells: np.ndarray  # int64, named by Cell


class Tables(TableArrays):
    """
    The arrays, and where kernels find them: to a kernel this is one address (handle.py).

    Make it with all arrays by name; they may be changed, not replaced.
    """

    address: int
    descriptor: np.ndarray

    def __new__(cls, **arrays: np.ndarray) -> Self:
        """Describe the arrays once."""
        made = super().__new__(cls, **arrays)
        made.descriptor = describe(tuple(made))
        made.address = made.descriptor.ctypes.data
        return made


INT64: Final = np.dtype(np.int64)
INT32: Final = np.dtype(np.int32)
RECORDS: Final = {
    "orders": ORDER, "details": DETAIL, "levels": LEVEL, "books": BOOK, "holders": HOLDER, "keys": KEY,
}  # fmt: skip
NARROW: Final = ("lists", "links", "timers")
FLAT: Final = ("lists", "nodes", "links", "grids", "ahead")  # of two dimensions
passed_as_address(
    Tables,
    "ringpit.Tables",
    tuple(
        (name, RECORDS.get(name, INT32 if name in NARROW else INT64), 2 if name in FLAT else 1)
        for name in TableArrays._fields
    ),
)

AHEAD_MAX: Final = 32  # commands that are looked at before they are due; a power of two


def lines(count: int, dtype: np.dtype) -> np.ndarray:
    """Zeroed records, the first at the beginning of a cache line."""
    memory = np.zeros(count * dtype.itemsize + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + count * dtype.itemsize].view(dtype)


def free_list(records: np.ndarray, field: str) -> None:
    """Chain all records of a pool through one of their fields, first to last."""
    records[field] = np.arange(1, len(records) + 1, dtype=np.int32)
    records[field][-1] = NIL


def allocate(limits: Limits, *, market_data: bool = False) -> Tables:
    """
    Allocate and initialise the tables of an empty shard.

    Cost: touches what has to be initialised, about 64 bytes an order, 32 a level, 48 a key, 180 an event; the
    rest is left to the kernel's zero pages until it is used.
    """
    orders = lines(limits.orders, ORDER)
    free_list(orders, "next")
    for name in ("previous", "level", "timer"):
        orders[name] = NIL
    holders = np.zeros(limits.orders, HOLDER)
    free_list(holders, "orders")
    levels = lines(limits.levels + limits.nodes, LEVEL)
    for name in ("head", "tail", "hidden"):
        levels[name] = NIL
    nodes = lines(limits.nodes * NODE_WORDS, np.dtype(np.int64)).reshape(limits.nodes, NODE_WORDS)
    links = nodes.view(np.int32)
    links[:, 0] = np.arange(1, limits.nodes + 1, dtype=np.int32)
    links[-1, 0] = NIL
    cells = np.zeros(CELLS, np.int64)
    cells[Cell.MARKET_DATA] = int(market_data)
    cells[Cell.NEXT_EXPIRY] = INT64_MAX
    for cell in (
        Cell.BOOK,
        Cell.AHEAD_BOOK,
        Cell.HAND,
        Cell.CURSOR,
        Cell.LINE_FIRST,
        Cell.LINE_LAST,
        Cell.RISEN_FIRST,
        Cell.RISEN_LAST,
    ):
        cells[cell] = NIL
    cells[[Cell.FALLEN_FIRST, Cell.FALLEN_LAST]] = NIL
    cells[Cell.RUNS_FREE :] = NIL
    return Tables(
        orders=orders,
        details=lines(limits.orders, DETAIL),
        levels=levels,
        bitmap=np.zeros(ladder.bitmap_words(limits.levels), np.int64),
        index=index.make_index(limits.orders),
        books=lines(limits.events, BOOK),
        lists=np.full((limits.events, LISTS), NIL, np.int32),
        event_index=index.make_index(limits.events),
        nodes=nodes,
        links=links,
        level_index=index.make_index(limits.nodes),
        timers=np.zeros(limits.orders, np.int32),
        holders=holders,
        holder_index=index.make_index(limits.orders),
        grids=np.zeros((limits.grids, 2 + 2 * BANDS_MAX), np.int64),
        bands=np.zeros(2 * BANDS_MAX, np.int64),
        keys=np.zeros(limits.keys, KEY),
        key_index=index.make_index(limits.keys),
        touched=np.zeros(4 * limits.orders + 8, np.int64),
        ahead=np.zeros((3, AHEAD_MAX), np.int64),
        cells=cells,
    )
