"""
Marks: when a log position was passed, kept for whoever asks a little later.

    cells   0      1      2 * (1 + n)      2 * (1 + n) + 1
            count  -      seq of mark n    when it was passed, ns since the epoch

The worker marks what it has matched, the journal thread what the log has. The publisher asks for the mark of a
frame when its reports are confirmed: so it learns when they could have left, which it cannot see itself while it
is paused or busy, and that is when it matters.

Fast here: a mark is three stores; a question is a binary search of a dozen steps. Slow here: nothing. A mark is
forgotten after MARKS more; then the answer is "unknown", never a time of another position.

Invariants:

    MK1  one writer; seqs do not fall
    MK2  an answer is the time of the first mark at or above the seq asked for, or UNKNOWN_NS
"""

from typing import Final

from ringpit.ipc.atomics import load_acquire, store_release
from ringpit.shards.kernels import kernel

MARKS: Final = 4_096  # a power of two
MARK_CELLS: Final = 2 * (1 + MARKS)
UNKNOWN_NS: Final = 0


@kernel
def mark(marks, seq, now_ns):
    """Remember that everything up to `seq` was passed at `now_ns`."""
    count = marks[0]
    at = 2 * (1 + (count & MARKS - 1))
    marks[at] = seq
    marks[at + 1] = now_ns
    store_release(marks, 0, count + 1)  # pairs with the acquire in `passed_ns`


@kernel
def passed_ns(marks, seq):
    """When `seq` was passed; UNKNOWN_NS if it was not yet, or so long ago that it is forgotten (MK2)."""
    count = load_acquire(marks, 0)  # pairs with the release in `mark`
    oldest = max(count - MARKS + 1, 0)  # one less than there are: its place may be written over meanwhile
    low = oldest
    high = count
    while low < high:
        middle = low + (high - low) // 2
        if marks[2 * (1 + (middle & MARKS - 1))] < seq:
            low = middle + 1
        else:
            high = middle
    if low == count or (low == oldest and oldest > 0):  # the first one kept may not be the first that passed it
        return UNKNOWN_NS
    return marks[2 * (1 + (low & MARKS - 1)) + 1]
