"""
Sparse levels: the price levels of all books of a mirror that are too wide for an array, in one skip list.

    head ──────────────────────> (3, 700) ──────────────> nothing      one in sixteen
    head ──────> (3, 120) ─────> (3, 700) ──────────────> nothing      one in four
    head <─────> (3, 120) <────> (3, 700) <──> (8, 55)    nothing      all, by book, then price

A node is one (book, price) with its lots, bids above zero, asks below. How high a node reaches follows from its place
in memory, so nothing is drawn and nothing else has to be stored. Nodes that are not linked wait in a chain.

Fast: finding a level costs a few steps for each power of four of them, its neighbours one. Slow: `link_all`, which a
successor pays once, and `drop_book`, which takes out level by level.

Invariants:

    N1  a node is linked exactly when its lots are not zero; whoever fills one stores the lots last
    N2  linked nodes stand in the order of (book, price), and no two are equal
"""

from typing import Final

from ringpit.engine import index
from ringpit.engine.ladder import NIL
from ringpit.engine.records import dtype_of
from ringpit.shards.kernels import kernel

HEIGHT_MAX: Final = 10  # 4**10 nodes are found as fast as can be, more of them a little slower

NODE: Final = dtype_of(
    (
        ("book", "<i8", "book slot"),
        ("price", "<i8", "ticks, of YES"),
        ("lots", "<i8", "bids above zero, asks below"),
        ("back", "<i8", "the node before it, or the head; not linked: the next that is not, or NIL"),
    )
)


def link_count(nodes: int) -> int:
    """Entries of the array of links, for so many nodes: HEIGHT_MAX for each and for the head."""
    return HEIGHT_MAX * (nodes + 1)


@kernel
def height_of(node):
    """Levels of the list that a node is linked in: 1, and with chances of one in four 2, 3, ..."""
    bits = index.fingerprint_of(0, node)
    height = 1
    while height < HEIGHT_MAX and bits & 3 == 3:
        bits >>= 2
        height += 1
    return height


@kernel
def stands_before(nodes, node, book, price):
    """True if a node comes before a (book, price)."""
    return nodes[node]["book"] < book or (nodes[node]["book"] == book and nodes[node]["price"] < price)


@kernel
def node_before(nodes, links, book, price):
    """The last node before a (book, price), or the head."""
    head = nodes.shape[0]
    node = head
    for height in range(HEIGHT_MAX - 1, -1, -1):
        after = links[node * HEIGHT_MAX + height]
        while after != NIL and stands_before(nodes, after, book, price):
            node = after
            after = links[node * HEIGHT_MAX + height]
    return node


@kernel
def find(nodes, links, book, price):
    """The node of a (book, price), or NIL."""
    node = links[node_before(nodes, links, book, price) * HEIGHT_MAX]
    if node != NIL and nodes[node]["book"] == book and nodes[node]["price"] == price:
        return node
    return NIL


@kernel
def after(links, node):
    """The node behind one, or NIL."""
    return links[node * HEIGHT_MAX]


@kernel
def link(nodes, links, node):
    """Put a node where its book and price belong; no other has both."""
    book = nodes[node]["book"]
    price = nodes[node]["price"]
    height_of_node = height_of(node)
    before = nodes.shape[0]
    for height in range(HEIGHT_MAX - 1, -1, -1):
        behind = links[before * HEIGHT_MAX + height]
        while behind != NIL and stands_before(nodes, behind, book, price):
            before = behind
            behind = links[before * HEIGHT_MAX + height]
        if height < height_of_node:
            links[node * HEIGHT_MAX + height] = behind
            links[before * HEIGHT_MAX + height] = node
    nodes[node]["back"] = before
    behind = links[node * HEIGHT_MAX]
    if behind != NIL:
        nodes[behind]["back"] = node


@kernel
def unlink(nodes, links, node):
    """Take a node out of the list; it is not free yet."""
    book = nodes[node]["book"]
    price = nodes[node]["price"]
    before = nodes.shape[0]
    for height in range(height_of(node) - 1, -1, -1):
        behind = links[before * HEIGHT_MAX + height]
        while behind != NIL and stands_before(nodes, behind, book, price):
            before = behind
            behind = links[before * HEIGHT_MAX + height]
        links[before * HEIGHT_MAX + height] = links[node * HEIGHT_MAX + height]
    behind = links[node * HEIGHT_MAX]
    if behind != NIL:
        nodes[behind]["back"] = nodes[node]["back"]


@kernel
def take(nodes, free):
    """A free node, or NIL if there is none. `free` holds the first one."""
    node = free[0]
    if node != NIL:
        free[0] = nodes[node]["back"]
    return node


@kernel
def give(nodes, free, node):
    """Make a node free that is not linked."""
    nodes[node]["lots"] = 0
    nodes[node]["back"] = free[0]
    free[0] = node


@kernel
def drop_book(nodes, links, free, book):
    """Take out all levels of a book."""
    node = links[node_before(nodes, links, book, 0) * HEIGHT_MAX]
    while node != NIL and nodes[node]["book"] == book:
        behind = links[node * HEIGHT_MAX]
        unlink(nodes, links, node)
        give(nodes, free, node)
        node = behind


@kernel
def link_all(nodes, links, free):
    """Make list and chain anew from the nodes' books, prices and lots, whatever was in between."""
    links[:] = NIL
    free[0] = NIL
    for node in range(nodes.shape[0] - 1, -1, -1):
        if nodes[node]["lots"] == 0:
            give(nodes, free, node)
        else:
            link(nodes, links, node)
