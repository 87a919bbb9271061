"""
Trails: the trailing stops of each side of a book, oldest first, in a doubly linked list through their details.

    lists[book, FIRST + 2 x side] -> details[a] -next_trailing-> details[b] -> NIL
                     LAST + 2 x side ────────────────────────────────^

Fast: joining and leaving are a few stores. Slow: a trade at a new extreme looks at every trailing stop of a side (stops.py).
"""

from typing import Final

from ringpit.engine.codes import Queue
from ringpit.engine.kernels import leaf, outlined
from ringpit.engine.ladder import NIL

FIRST: Final = len(Queue)
LAST: Final = FIRST + 1


@leaf
def first_of(t, book, side):
    """The oldest trailing stop of a side, or NIL."""
    return t.lists[book, FIRST + 2 * side]


@outlined
def add(t, book, side, slot):
    """A trailing stop waits: the newest of its side."""
    last = t.lists[book, LAST + 2 * side]
    t.details[slot]["previous_trailing"] = last
    t.details[slot]["next_trailing"] = NIL
    if last == NIL:
        t.lists[book, FIRST + 2 * side] = slot
    else:
        t.details[last]["next_trailing"] = slot
    t.lists[book, LAST + 2 * side] = slot


@outlined
def drop(t, book, slot):
    """It waits no more."""
    ahead = t.details[slot]["previous_trailing"]
    behind = t.details[slot]["next_trailing"]
    for side in range(2):
        if t.lists[book, FIRST + 2 * side] == slot:
            t.lists[book, FIRST + 2 * side] = behind
        if t.lists[book, LAST + 2 * side] == slot:
            t.lists[book, LAST + 2 * side] = ahead
    if ahead != NIL:
        t.details[ahead]["next_trailing"] = behind
    if behind != NIL:
        t.details[behind]["previous_trailing"] = ahead
