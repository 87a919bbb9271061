"""
Preallocated pools: order slots, and runs of price levels of ladders. (Nodes of skip lists: skiplist.py.)

Order slots are a stack: the slot given back last is taken next, so it is still in the cache. Runs of
levels come in powers of two from 64 up; a run is taken from the free list of its size, else from fresh
ground, else by halving a larger free run. Runs are never joined again: events of one price range reuse
each other's runs for ever, and a shard whose events change their range for wider ones wants
`limits.levels` sized for both.

Fast here because both are a handful of instructions and touch one record. Slow nowhere; what can go wrong
is running out, which the caller sees beforehand and which becomes a POOL_CAPACITY or BOOK_CAPACITY reject.
"""

from ringpit.engine.kernels import leaf
from ringpit.engine.ladder import NIL
from ringpit.engine.tables import RUN_BITS_MAX, RUN_BITS_MIN, Cell


@leaf
def take_order(t):
    """Take a free order slot. The caller has seen that there is one."""
    slot = t.cells[Cell.ORDERS_FREE]
    t.cells[Cell.ORDERS_FREE] = t.orders[slot]["next"]
    t.cells[Cell.ORDERS_USED] += 1
    return slot


@leaf
def give_order(t, slot):
    """Give an order slot back. Cannot fail."""
    t.orders[slot]["next"] = t.cells[Cell.ORDERS_FREE]
    t.orders[slot]["level"] = NIL
    t.cells[Cell.ORDERS_FREE] = slot
    t.cells[Cell.ORDERS_USED] -= 1


@leaf
def run_bits(count):
    """Size class of a run of at least `count` levels: its length is 1 << bits."""
    bits = RUN_BITS_MIN
    while (1 << bits) < count:
        bits += 1
    return bits


@leaf
def give_run(t, first, bits):
    """Put a run of empty levels into the free list of its size. Cannot fail."""
    t.levels[first]["head"] = t.cells[Cell.RUNS_FREE + bits]
    t.cells[Cell.RUNS_FREE + bits] = first


@leaf
def take_free_run(t, bits):
    """Take a run off the free list of its size, or NIL."""
    first = t.cells[Cell.RUNS_FREE + bits]
    if first != NIL:
        t.cells[Cell.RUNS_FREE + bits] = t.levels[first]["head"]
        t.levels[first]["head"] = NIL
    return first


@leaf
def take_run(t, bits):
    """Take a run of 1 << bits empty levels and return its first slot, or NIL when there is no room."""
    first = take_free_run(t, bits)
    if first != NIL:
        return first
    first = t.cells[Cell.LEVELS_USED]
    if first + (1 << bits) <= t.levels.shape[0] - t.nodes.shape[0]:
        t.cells[Cell.LEVELS_USED] = first + (1 << bits)
        return first
    for larger in range(bits + 1, RUN_BITS_MAX + 1):
        first = take_free_run(t, larger)
        if first != NIL:
            for half in range(larger - 1, bits - 1, -1):
                give_run(t, first + (1 << half), half)
            return first
    return NIL
