"""
Price levels behind one interface: a run of a ladder, or a skip list. Whoever matches does not know which.

    ladder      level slot = base + price - low; the next occupied one comes from the bitmap
    skip list   level slot = ladder levels + node; found by (list, price) in the level index, next by link

A ladder serves bids and asks of its book; skip lists serve those of wide books, and in every book what waits aside:
stops by trigger, all-or-none orders by limit. A level begins when its first order is linked and ends when its last
one leaves; only then the structure and the best prices are touched.

Fast here because an order that joins or leaves a level that lives on never touches the structure at all. Slow when
a lone order comes and goes: each time a bit climbs, or a node is linked and unlinked.

Invariants: T2 to T5 of tables.py.
"""

from typing import Final

import numpy as np

from ringpit.engine import index, ladder, skiplist
from ringpit.engine.codes import LevelKind, Queue, Side
from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.ladder import NIL
from ringpit.engine.tables import Cell

LISTS_OF_A_BOOK: Final = 8  # a list's number is book slot x 8 + Queue


@leaf
def ladder_levels(t):
    """Level slots that belong to ladders; those above belong to nodes."""
    return t.levels.shape[0] - t.nodes.shape[0]


@leaf
def in_ladder(t, book, queue):
    """True if a list of the book lies in its ladder."""
    return queue <= Queue.ASKS.value and t.books[book]["kind"] == LevelKind.LADDER.value


@leaf
def key_of(queue, price):
    """Key of a price in a skip list: the best is the smallest."""
    if queue == Queue.BIDS.value or queue == Queue.SELL_STOPS.value or queue == Queue.BUY_ALL_OR_NONE.value:  # noqa: PLR1714 (numba)
        return -price
    return price


@leaf
def find_node(t, book, queue, price):
    """Where the level index has a price of a skip list, or MISSING."""
    owner = book * LISTS_OF_A_BOOK + queue
    fingerprint = index.fingerprint_of(owner, price)
    base = ladder_levels(t)
    position = index.seek(t.level_index, fingerprint, fingerprint)
    while position != index.MISSING:
        node = index.slot_at(t.level_index, position) - base
        if t.links[node, skiplist.OWNER] == owner and t.nodes[node, skiplist.KEY] == key_of(queue, price):
            return position
        position = index.seek(t.level_index, fingerprint, position + 1)
    return index.MISSING


@leaf
def find_level(t, book, queue, price):
    """Level slot of a price in a list, NIL if a skip list has none; of a ladder the level may be empty."""
    if in_ladder(t, book, queue):
        return t.books[book]["base"] + price - t.books[book]["low"]
    position = find_node(t, book, queue, price)
    if position == index.MISSING:
        return NIL
    return index.slot_at(t.level_index, position)


@leaf
def best_of(t, book, side):
    """Best level of a side of the book, or NIL."""
    if side == Side.BUY.value:
        return np.int64(t.books[book]["best_bid"])
    return np.int64(t.books[book]["best_ask"])


@leaf
def ladder_next(t, book, side, level):
    """The occupied level of a ladder behind `level` as seen from the best of a side, or NIL. At most a climb in the bitmap."""
    base = t.books[book]["base"]
    if side == Side.SELL.value:
        found = ladder.next_set(t.bitmap, ladder_levels(t), level + 1)
        if found > base + t.books[book]["high"] - t.books[book]["low"]:
            return NIL
        return found
    found = ladder.previous_set(t.bitmap, ladder_levels(t), level - 1)
    if found < base:
        return NIL
    return found


@leaf
def next_level(t, book, queue, level):
    """The level behind `level` in a list, or NIL."""
    if in_ladder(t, book, queue):
        return ladder_next(t, book, queue, level)
    node = skiplist.following(t, level - ladder_levels(t))
    if node == NIL:
        return NIL
    return ladder_levels(t) + node


@leaf
def first_level(t, book, queue):
    """Best level of a list, or NIL."""
    if queue <= Queue.ASKS.value:
        return best_of(t, book, queue)
    head = t.lists[book, queue]
    if head == NIL:
        return NIL
    node = skiplist.first(t, head)
    if node == NIL:
        return NIL
    return ladder_levels(t) + node


@leaf
def nodes_needed(t, book, queue, price):
    """Nodes that must be free so that an order can be linked at a price of a list: none, a level's, or a head's too."""
    if in_ladder(t, book, queue):
        return 0
    if t.lists[book, queue] == NIL:
        return 2
    return int(find_node(t, book, queue, price) == index.MISSING)


@leaf
def nodes_free(t):
    """Nodes that can be taken."""
    return t.nodes.shape[0] - t.cells[Cell.NODES_USED]


@leaf
def lacks_node(t, book, queue, price):
    """True if an order cannot be linked at a price of a list for want of a node."""
    return nodes_needed(t, book, queue, price) > nodes_free(t)


@outlined
def begin_node(t, book, queue, price):
    """A new, empty level in a skip list; its slot. The caller has seen that nodes are free."""
    if t.lists[book, queue] == NIL:
        t.lists[book, queue] = skiplist.begin_list(t)
    owner = book * LISTS_OF_A_BOOK + queue
    node = skiplist.insert(t, t.lists[book, queue], key_of(queue, price))
    level = ladder_levels(t) + node
    t.links[node, skiplist.OWNER] = owner
    index.insert(t.level_index, index.fingerprint_of(owner, price), level)
    return level


@outlined
def end_node(t, book, queue, level):
    """Take an empty level out of its skip list."""
    position = find_node(t, book, queue, t.levels[level]["price"])
    index.erase(t.level_index, position)
    skiplist.remove(t, t.lists[book, queue], level - ladder_levels(t))


@leaf
def begin_level(t, book, queue, price):
    """The level of a price, which has no order yet, made ready for one: occupied, and best if it is. Its slot."""
    if in_ladder(t, book, queue):
        level = t.books[book]["base"] + price - t.books[book]["low"]
        ladder.set_bit(t.bitmap, ladder_levels(t), level)
    else:
        level = begin_node(t, book, queue, price)
    t.levels[level]["price"] = price
    t.levels[level]["side"] = queue & 1
    if queue == Queue.BIDS.value:
        best = t.books[book]["best_bid"]
        if best == NIL or price > t.levels[best]["price"]:
            t.books[book]["best_bid"] = level
    elif queue == Queue.ASKS.value:
        best = t.books[book]["best_ask"]
        if best == NIL or price < t.levels[best]["price"]:
            t.books[book]["best_ask"] = level
    return level


@leaf
def end_level(t, book, queue, level):
    """A level has lost its last order: it is vacant, and if it was the best, the next one is."""
    behind = NIL
    is_best = queue <= Queue.ASKS.value and best_of(t, book, queue) == level
    if in_ladder(t, book, queue):
        ladder.clear_bit(t.bitmap, ladder_levels(t), level)
        if is_best:
            behind = ladder_next(t, book, queue, level)
    else:
        if is_best:
            behind = next_level(t, book, queue, level)
        end_node(t, book, queue, level)
    if is_best:
        if queue == Queue.BIDS.value:
            t.books[book]["best_bid"] = behind
        else:
            t.books[book]["best_ask"] = behind
