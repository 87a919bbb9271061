"""
Skip lists of price levels: for events whose price range is too wide for a ladder, and for what waits aside.

    head ─────────────────────> 52 ───────────────> NIL      height 3
    head ──────> 47 ──────────> 52 ──────> 60 ────> NIL
    head ──────> 47 ──> 50 ───> 52 ──────> 60 ────> NIL      keys ascend: the first is the best

Every list hangs at a head, a node of its own, and is sorted by *key*: the price for asks, minus the price for bids,
so that the best level is always the first and a search near the touch ends soon. Nodes come from one pool. A node is one
cache line: its key, up to HEIGHT_MAX links, its height. Heights are drawn by a generator of 31 bits
whose state lies in the head, so the same commands make the same list everywhere.

    int64 word 0     key                  int32 2 to 12    following node at each height, or NIL
    int32 13         node in front, or the head
    int32 14         height               int32 15         head: state of the generator; else: the list it is in

Finding a level by its price does not search: that is the level index (levels.py). A search is needed to link and to
unlink only, when a level gets its first order or loses its last.

Fast here because the best is one load away and a quarter of the nodes has links beyond the first. Slow for a level far
from the best of a book of many levels: a step, and perhaps a cache miss, for each link that is followed, about
2 x log4 of the levels.

Invariant: T5 of tables.py, checked by `validate.levels_of_list`.
"""

from typing import Final

import numpy as np

from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.ladder import NIL
from ringpit.engine.tables import Cell

HEIGHT_MAX: Final = 11  # 4**11 levels are searched as fast as a list can be
KEY: Final = 0
LINKS: Final = 2
PREVIOUS: Final = 13
HEIGHT: Final = 14
STATE: Final = 15
OWNER: Final = 15
SEED: Final = 20_261_125
STATE_MASK: Final = 0x7FFF_FFFF
FACTOR: Final = 1_103_515_245  # the generator of POSIX's rand(); its high bits are good enough for heights
ADDEND: Final = 12_345


@leaf
def take_node(t):
    """Take a free node. The caller has seen that there is one."""
    node = t.cells[Cell.NODES_FREE]
    t.cells[Cell.NODES_FREE] = t.links[node, 0]
    t.cells[Cell.NODES_USED] += 1
    return node


@leaf
def give_node(t, node):
    """Give a node back. Cannot fail."""
    t.links[node, 0] = t.cells[Cell.NODES_FREE]
    t.cells[Cell.NODES_FREE] = node
    t.cells[Cell.NODES_USED] -= 1


@outlined
def begin_list(t):
    """Head of a new, empty list. The caller has seen that a node is free."""
    head = take_node(t)
    for height in range(HEIGHT_MAX):
        t.links[head, LINKS + height] = NIL
    t.links[head, HEIGHT] = 1
    t.links[head, STATE] = SEED
    return head


@leaf
def first(t, head):
    """First node of a list, or NIL."""
    return t.links[head, LINKS]


@leaf
def following(t, node):
    """The node behind a node, or NIL."""
    return t.links[node, LINKS]


@leaf
def height_of_next(t, head):
    """Draw a height: 1, and one more with each chance of one in four."""
    state = (np.int64(t.links[head, STATE]) * FACTOR + ADDEND) & STATE_MASK
    t.links[head, STATE] = state
    bits = state >> 8
    height = 1
    while bits & 3 == 0 and height < HEIGHT_MAX:
        bits >>= 2
        height += 1
    return height


@leaf
def before(t, node, height, key):
    """The last node at or behind `node`, at one height, whose key is smaller."""
    ahead = t.links[node, LINKS + height]
    while ahead != NIL and t.nodes[ahead, KEY] < key:
        node = ahead
        ahead = t.links[node, LINKS + height]
    return node


@outlined
def insert(t, head, key):
    """Put a new node with a key that the list does not have into it, and return it. The caller has seen that one is free."""
    node = take_node(t)
    height = height_of_next(t, head)
    t.nodes[node, KEY] = key
    t.links[node, HEIGHT] = height
    t.links[head, HEIGHT] = max(t.links[head, HEIGHT], height)
    left = head
    for at in range(t.links[head, HEIGHT] - 1, -1, -1):
        left = before(t, left, at, key)
        if at < height:
            t.links[node, LINKS + at] = t.links[left, LINKS + at]
            t.links[left, LINKS + at] = node
    join(t, left, node)
    join(t, node, t.links[node, LINKS])
    return node


@leaf
def join(t, node, behind):
    """Let the node behind another, if there is one, know it."""
    if behind != NIL:
        t.links[behind, PREVIOUS] = node


@outlined
def remove(t, head, node):
    """Take a node out of its list and give it back. Three of four nodes have one link, and need no search."""
    height = t.links[node, HEIGHT]
    if height > 1:
        key = t.nodes[node, KEY]
        left = head
        for at in range(t.links[head, HEIGHT] - 1, 0, -1):
            left = before(t, left, at, key)
            if at < height:
                t.links[left, LINKS + at] = t.links[node, LINKS + at]
    ahead = t.links[node, PREVIOUS]
    behind = t.links[node, LINKS]
    t.links[ahead, LINKS] = behind
    join(t, ahead, behind)
    give_node(t, node)
