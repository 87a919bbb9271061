"""
The mirror: one shard's market data at rest, kept by the publisher from what the worker reports.

    LEVEL ──> quantity[level slot]      lots, bids above zero, asks below
              bitmap                    which level slots are not zero
              nodes, links              the levels of wide books, see shards/sparse.py
    BOOK_RESET, fills, settlement ──> books[book slot], event_index

It lies in the publisher's segment, so that the next publisher takes it over; reports of levels are
absolute, so reading some of a ring twice does no harm. A book's levels lie where the worker has them:
level slot = price - low + first. The worker has no slots for those of a wide book (`first` is WIDE); they are nodes here.
A *level* is a level slot, or for a wide book a node. Everything is in terms of YES.

Fast here because a report costs one probe of an array or two, and because best prices come from the
engine's own bitmap: a book is never scanned. Slow with wide books, whose levels are searched for, and in `rebuild`, which
looks at every level once.

Invariants:

    F1  a bit is set exactly when its level's quantity is not zero, a node is linked exactly when its lots are not
    F2  best_bid is the highest level of a book with a quantity above zero, best_ask the lowest with
        one below, NIL if none
    F3  the mirror is the state after the report (APPLIED_SEQ, APPLIED_INDEX); what is not larger than that
        changes nothing, so a ring may be read again from any earlier report
"""

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np

from ringpit.engine import index, ladder
from ringpit.engine.codes import EventState, ReportFlag, ReportKind, Side
from ringpit.engine.ladder import NIL, clear_bit, next_set, previous_set, set_bit
from ringpit.engine.limits import Limits
from ringpit.engine.records import dtype_of
from ringpit.shards import sparse
from ringpit.shards.kernels import kernel, leaf

DECIMALS_MASK: Final = 31  # BOOK_RESET's order field: tick in units x 32 + decimals
TICK_SHIFT: Final = 5
WIDE: Final = -1  # BOOK_RESET's leaves field, and `first`, of a book without level slots
NODES_FOR_EACH: Final = 2  # the engine's: while a command's levels are read, old and new ones are there

# Kernels compare with plain numbers: an enum member costs a conversion each time when interpreted.
FILL_TAKER: Final = int(ReportKind.FILL_TAKER)
EVENT_SETTLED: Final = int(ReportKind.EVENT_SETTLED)
LEVEL: Final = int(ReportKind.LEVEL)
BOOK_RESET: Final = int(ReportKind.BOOK_RESET)
FRAME: Final = int(ReportKind.FRAME)
NO: Final = int(ReportFlag.NO)
BUY: Final = int(Side.BUY)
FREE: Final = int(EventState.FREE)
OPEN: Final = int(EventState.OPEN)
SETTLED: Final = int(EventState.SETTLED)

PRICE_CHANGED: Final = 1  # bits of Mirror.dirty
DEPTH_CHANGED: Final = 2

MIRROR_BOOK: Final = dtype_of(
    (
        ("event", "<i8", "the event's id"),
        ("state", "<i8", "EventState"),
        ("low", "<i8", "lowest price, ticks"),
        ("high", "<i8", "highest price, ticks"),
        ("first", "<i8", "level slot of the lowest price, or WIDE"),
        ("tick_units", "<i8", "one tick in units of 10**-decimals"),
        ("decimals", "<i8", "decimals of a unit"),
        ("best_bid", "<i8", "level, or NIL"),
        ("best_ask", "<i8", "level, or NIL"),
        ("last_price", "<i8", "ticks of YES, of the newest trade"),
        ("last_quantity", "<i8", "lots, of the newest trade; 0: no trade yet"),
        ("seq", "<i8", "log position of the newest change"),
        ("updated_ns", "<i8", "engine time of the newest change"),
    )
)


class MirrorCell(IntEnum):
    """Single numbers of a mirror, one int64 each in `Mirror.cells`."""

    BOOKS = 0  # book slots ever seen are below this
    APPLIED_SEQ = 1
    APPLIED_INDEX = 2
    FRAME_NS = 3  # engine time of the frame in hand
    CLOCK = 4  # and 3 more: two pairs (head, engine time there); the pair whose head is the ring's head holds
    EPOCH = 8  # of the log, whose reports were applied; told only where they are released early
    EPOCH_SEQ = 9  # what lower epochs said of seqs above it is taken back
    EPOCH_TOLD = 10  # 1: a report under this epoch is confirmed


class Mirror(NamedTuple):
    """One shard's market data. The arrays are given: views of shared memory, zero at first."""

    quantity: np.ndarray  # int64 x levels: lots, bids above zero, asks below
    bitmap: np.ndarray  # int64 words, see engine/ladder.py
    books: np.ndarray  # MIRROR_BOOK x events
    event_index: np.ndarray  # int64 entries: event id to book slot
    nodes: np.ndarray  # sparse.NODE: levels of wide books
    links: np.ndarray  # int64: how they follow each other, see shards/sparse.py
    free: np.ndarray  # int64 x 1: the first free node, or NIL
    dirty: np.ndarray  # int8 x events: what changed since it was last sent
    cells: np.ndarray  # int64, named by MirrorCell


def mirror_regions(limits: Limits) -> tuple[tuple[str, np.dtype, int], ...]:
    """(name, dtype, count) of each array of a Mirror, in its order: what a segment must hold for a shard."""
    return (
        ("quantity", np.dtype(np.int64), limits.levels),
        ("bitmap", np.dtype(np.int64), ladder.bitmap_words(limits.levels)),
        ("books", MIRROR_BOOK, limits.events),
        ("event_index", np.dtype(np.int64), len(index.make_index(limits.events))),
        ("nodes", sparse.NODE, NODES_FOR_EACH * limits.nodes),
        ("links", np.dtype(np.int64), sparse.link_count(NODES_FOR_EACH * limits.nodes)),
        ("free", np.dtype(np.int64), 1),
        ("dirty", np.dtype(np.int8), limits.events),
        ("cells", np.dtype(np.int64), MirrorCell.EPOCH_TOLD + 1),
    )


def allocate_mirror(limits: Limits) -> Mirror:
    """A mirror in memory of one's own, empty and ready."""
    mirror = Mirror(*(np.zeros(count, dtype) for _, dtype, count in mirror_regions(limits)))
    rebuild(mirror)
    return mirror


def clear(mirror: Mirror) -> None:
    """Make a mirror empty, as it was at first, but for what it knows of epochs."""
    for array in mirror[:-1]:
        array[:] = np.zeros(1, array.dtype)[0]
    mirror.cells[: MirrorCell.EPOCH] = 0
    rebuild(mirror)


@leaf
def book_of(m, event):
    """Book slot of an event, or NIL."""
    fingerprint = index.fingerprint_of(0, event)
    position = index.seek(m.event_index, fingerprint, fingerprint)
    while position != index.MISSING:
        slot = index.slot_at(m.event_index, position)
        if m.books[slot]["event"] == event:
            return slot
        position = index.seek(m.event_index, fingerprint, position + 1)
    return NIL


@kernel
def price_at(m, book, level):
    """The price of a book's level, ticks."""
    if m.books[book]["first"] == WIDE:
        return m.nodes[level]["price"]
    return level - m.books[book]["first"] + m.books[book]["low"]


@kernel
def lots_at(m, book, level):
    """The lots of a book's level: bids above zero, asks below."""
    return m.nodes[level]["lots"] if m.books[book]["first"] == WIDE else m.quantity[level]


@kernel
def wide_from(m, book, node, bids):
    """The nearest node of a side of a wide book, from a node on, away from the other side; NIL if none."""
    head = m.nodes.shape[0]
    while node not in (NIL, head) and m.nodes[node]["book"] == book:
        lots = m.nodes[node]["lots"]
        if lots > 0 if bids else lots < 0:
            return node
        node = m.nodes[node]["back"] if bids else sparse.after(m.links, node)
    return NIL


@kernel
def bid_from(m, book, level):
    """Highest level at or below `level` where the book has bids, or NIL."""
    if m.books[book]["first"] == WIDE:
        return wide_from(m, book, level, True)
    level = previous_set(m.bitmap, m.quantity.shape[0], level)
    while level >= m.books[book]["first"] and m.quantity[level] < 0:
        level = previous_set(m.bitmap, m.quantity.shape[0], level - 1)
    return level if level >= m.books[book]["first"] else NIL


@kernel
def ask_from(m, book, level):
    """Lowest level at or above `level` where the book has asks, or NIL."""
    if m.books[book]["first"] == WIDE:
        return wide_from(m, book, level, False)
    last = m.books[book]["first"] + m.books[book]["high"] - m.books[book]["low"]
    level = next_set(m.bitmap, m.quantity.shape[0], level)
    while level != NIL and level <= last and m.quantity[level] > 0:
        level = next_set(m.bitmap, m.quantity.shape[0], level + 1)
    return level if level != NIL and level <= last else NIL


@kernel
def next_bid(m, book, level):
    """The book's next lower level that has bids, or NIL."""
    if m.books[book]["first"] == WIDE:
        return wide_from(m, book, m.nodes[level]["back"], True)
    return bid_from(m, book, level - 1)


@kernel
def next_ask(m, book, level):
    """The book's next higher level that has asks, or NIL."""
    if m.books[book]["first"] == WIDE:
        return wide_from(m, book, sparse.after(m.links, level), False)
    return ask_from(m, book, level + 1)


@leaf
def says_nothing(before, signed, side):
    """True if a level's total changes nothing; an emptied side says nothing of the other, which may rest there by now."""
    return signed == before or (signed == 0 and (before > 0) != (side == BUY))


@leaf
def keep_best(m, book, level, signed, best_bid, best_ask, above, below):
    """Keep F2 after a level has got new lots; `above` and `below`: it lies above the best bid, below the best ask."""
    m.dirty[book] |= DEPTH_CHANGED
    if level in (best_bid, best_ask):
        m.dirty[book] |= PRICE_CHANGED
    if signed > 0:
        if above:
            m.books[book]["best_bid"] = level
            m.dirty[book] |= PRICE_CHANGED
    elif level == best_bid:
        m.books[book]["best_bid"] = bid_from(m, book, level)
    if signed < 0:
        if below:
            m.books[book]["best_ask"] = level
            m.dirty[book] |= PRICE_CHANGED
    elif level == best_ask:
        m.books[book]["best_ask"] = ask_from(m, book, level)


@leaf
def set_level(m, book, level, side, lots):
    """Store a level's total, of a book that has level slots. Keeps F1 and F2."""
    signed = lots if side == BUY else -lots
    before = m.quantity[level]
    if says_nothing(before, signed, side):
        return
    m.quantity[level] = signed
    if before == 0:
        set_bit(m.bitmap, m.quantity.shape[0], level)
    elif signed == 0:
        clear_bit(m.bitmap, m.quantity.shape[0], level)
    best_bid = m.books[book]["best_bid"]  # NIL is below every level
    best_ask = m.books[book]["best_ask"]
    keep_best(m, book, level, signed, best_bid, best_ask, level > best_bid, best_ask == NIL or level < best_ask)


@kernel
def set_node(m, book, price, side, lots):
    """Store a level's total, of a wide book. Keeps F1 and F2. False if no node is free."""
    node = sparse.find(m.nodes, m.links, book, price)
    signed = lots if side == BUY else -lots
    before = 0 if node == NIL else m.nodes[node]["lots"]
    if says_nothing(before, signed, side):
        return True
    if node == NIL:
        node = sparse.take(m.nodes, m.free)
        if node == NIL:
            return False
        m.nodes[node]["book"] = book
        m.nodes[node]["price"] = price
        m.nodes[node]["lots"] = signed
        sparse.link(m.nodes, m.links, node)
    else:
        m.nodes[node]["lots"] = signed
    best_bid = m.books[book]["best_bid"]
    best_ask = m.books[book]["best_ask"]
    above = best_bid == NIL or price > m.nodes[best_bid]["price"]
    below = best_ask == NIL or price < m.nodes[best_ask]["price"]
    keep_best(m, book, node, signed, best_bid, best_ask, above, below)
    if signed == 0:
        sparse.unlink(m.nodes, m.links, node)
        sparse.give(m.nodes, m.free, node)
    return True


@kernel
def clear_levels(m, book):
    """Take away all levels of a book, which must be open."""
    first = m.books[book]["first"]
    if first == WIDE:
        sparse.drop_book(m.nodes, m.links, m.free, book)
        return
    last = first + m.books[book]["high"] - m.books[book]["low"]
    level = next_set(m.bitmap, m.quantity.shape[0], first)
    while level != NIL and level <= last:
        m.quantity[level] = 0
        clear_bit(m.bitmap, m.quantity.shape[0], level)
        level = next_set(m.bitmap, m.quantity.shape[0], level)


@kernel
def reset_book(m, book, event, low, high, first, tick):
    """Begin a book with no levels. What is known of its last trade stays."""
    if book >= m.cells[MirrorCell.BOOKS]:
        m.cells[MirrorCell.BOOKS] = book + 1
    known = m.books[book]["state"] != FREE
    m.books[book]["event"] = event
    m.books[book]["low"] = low
    m.books[book]["high"] = high
    m.books[book]["first"] = first
    m.books[book]["tick_units"] = tick >> TICK_SHIFT
    m.books[book]["decimals"] = tick & DECIMALS_MASK
    m.books[book]["best_bid"] = NIL
    m.books[book]["best_ask"] = NIL
    m.books[book]["state"] = OPEN
    m.dirty[book] = PRICE_CHANGED | DEPTH_CHANGED
    if not known:
        index.insert(m.event_index, index.fingerprint_of(0, event), book)
    clear_levels(m, book)


@kernel
def in_bounds(m, book, low, high, first):
    """True if a book and its levels have a place in the mirror."""
    if not 0 <= book < m.books.shape[0] or not 0 <= low <= high:
        return False
    return first == WIDE or 0 <= first <= first + high - low < m.quantity.shape[0]


@kernel
def price_of_yes(m, book, slots, slot):
    """The price of a fill in terms of YES: where there are orders for NO, lowest and highest price make the payout."""
    price = slots[slot]["price"]
    if slots[slot]["flags"] & NO:
        return m.books[book]["low"] + m.books[book]["high"] - price
    return price


@leaf
def apply_one(m, slots, slot):
    """Apply one report; the book slot that it changed, NIL if none, below NIL if it points out of bounds."""
    kind = slots[slot]["kind"]
    if kind == LEVEL:
        book = slots[slot]["account"]
        if not 0 <= book < m.books.shape[0]:
            return NIL - 1
        if m.books[book]["state"] == FREE:
            return NIL  # of an event that has no image, because it was settled before the restart
        price = slots[slot]["price"]
        if not m.books[book]["low"] <= price <= m.books[book]["high"]:
            return NIL - 1
        first = m.books[book]["first"]
        if first == WIDE:
            return book if set_node(m, book, price, slots[slot]["side"], slots[slot]["quantity"]) else NIL - 1
        level = first + price - m.books[book]["low"]
        set_level(m, book, level, slots[slot]["side"], slots[slot]["quantity"])
        return book
    if kind == BOOK_RESET:
        book = slots[slot]["account"]
        low = slots[slot]["price"]
        high = slots[slot]["quantity"]
        first = slots[slot]["leaves"]
        if not in_bounds(m, book, low, high, first):
            return NIL - 1
        reset_book(m, book, slots[slot]["event"], low, high, first, slots[slot]["order"])
        return book
    book = NIL
    if kind == FILL_TAKER:
        book = book_of(m, slots[slot]["event"])
        if book != NIL:
            m.books[book]["last_price"] = price_of_yes(m, book, slots, slot)
            m.books[book]["last_quantity"] = slots[slot]["quantity"]
            m.dirty[book] |= PRICE_CHANGED
    elif kind == EVENT_SETTLED:
        book = book_of(m, slots[slot]["event"])
        if book != NIL and m.books[book]["state"] != SETTLED:
            m.books[book]["state"] = SETTLED
            if m.books[book]["first"] == WIDE:  # others' levels are the next book's to clear
                m.books[book]["best_bid"] = NIL
                m.books[book]["best_ask"] = NIL
                clear_levels(m, book)
            m.dirty[book] |= PRICE_CHANGED | DEPTH_CHANGED
    elif kind == FRAME:
        m.cells[MirrorCell.FRAME_NS] = slots[slot]["price"]
    return book


@kernel
def apply(m, slots, start, end):
    """
    Apply the reports at positions [start, end) to a mirror; those that it holds already change nothing (F3).

    Returns `end`, or the position of the first report that names a book or level outside the mirror.
    """
    for position in range(start, end):
        slot = position & (slots.shape[0] - 1)
        seq = slots[slot]["seq"]
        at = slots[slot]["index"]
        applied = m.cells[MirrorCell.APPLIED_SEQ]
        if seq < applied or (seq == applied and at <= m.cells[MirrorCell.APPLIED_INDEX]):
            continue
        book = apply_one(m, slots, slot)
        if book < NIL:
            return position
        if book != NIL:
            m.books[book]["seq"] = seq
            m.books[book]["updated_ns"] = m.cells[MirrorCell.FRAME_NS]
        m.cells[MirrorCell.APPLIED_INDEX] = at  # first: a kill in between must not hide reports of the next seq
        m.cells[MirrorCell.APPLIED_SEQ] = seq
    return end


@kernel
def best_of_wide(m, book):
    """Find the best levels of a wide book anew."""
    end = sparse.node_before(m.nodes, m.links, book + 1, 0)
    m.books[book]["best_bid"] = wide_from(m, book, end, True)
    begin = sparse.after(m.links, sparse.node_before(m.nodes, m.links, book, 0))
    m.books[book]["best_ask"] = wide_from(m, book, begin, False)


@kernel
def rebuild(m):
    """
    Make everything that follows from the quantities and books anew: for a mirror of zeros, and for one whose
    publisher was killed between two stores. All books are dirty afterwards. Cost: one look at each level and node.
    """
    if m.cells[MirrorCell.APPLIED_SEQ] == 0:
        m.cells[MirrorCell.APPLIED_INDEX] = NIL
    m.bitmap[:] = 0
    m.event_index[:] = index.GAP
    for level in range(m.quantity.shape[0]):
        if m.quantity[level] != 0:
            set_bit(m.bitmap, m.quantity.shape[0], level)
    for node in range(m.nodes.shape[0]):
        book = m.nodes[node]["book"]
        if m.books[book]["state"] != OPEN or m.books[book]["first"] != WIDE:
            m.nodes[node]["lots"] = 0
    sparse.link_all(m.nodes, m.links, m.free)
    for book in range(m.cells[MirrorCell.BOOKS]):
        if m.books[book]["state"] == FREE:
            continue
        index.insert(m.event_index, index.fingerprint_of(0, m.books[book]["event"]), book)
        m.dirty[book] = PRICE_CHANGED | DEPTH_CHANGED
        m.books[book]["best_bid"] = NIL
        m.books[book]["best_ask"] = NIL
        if m.books[book]["state"] == OPEN:  # a settled book's levels may be another's by now
            first = m.books[book]["first"]
            if first == WIDE:
                best_of_wide(m, book)
                continue
            m.books[book]["best_ask"] = ask_from(m, book, first)
            m.books[book]["best_bid"] = bid_from(m, book, first + m.books[book]["high"] - m.books[book]["low"])


def frame_ns_at(depth_mirror: Mirror, position: int) -> int:
    """Engine time of the frame in which a head lies, as its last owner left it; 0 if unknown."""
    clock = depth_mirror.cells[MirrorCell.CLOCK : MirrorCell.CLOCK + 4].tolist()
    return int(dict(zip(clock[::2], clock[1::2], strict=True)).get(position, 0))


def remember_frame_ns(depth_mirror: Mirror, head: int, position: int, frame_ns: int) -> None:
    """
    Store the engine time for a position that is about to become the head, in that of two pairs that is not the present
    head's: whichever head a successor finds, its time is there.
    """
    cells = depth_mirror.cells
    pair = MirrorCell.CLOCK + (2 if cells[MirrorCell.CLOCK] == head else 0)
    cells[pair + 1] = frame_ns
    cells[pair] = position
