"""
Occupancy of price levels: a hierarchical bitmap with one bit for each level of the shard.

    tier 0   one bit a level                     words = levels / 64
    tier 1   one bit a word of tier 0 that is not 0
    ...      up to a tier of one word            at most four tiers for 2**24 levels

Fast here because the best price after an emptied level is found by counting zeros in one word, or in at
most seven words however wide the gap is; no level is ever scanned. All books share one bitmap: a book owns
a run of levels, and a search that leaves the run has found nothing. Slow when a sweep empties many
lonely levels, each in a word of its own: then every level costs a climb.

Invariants, checked by `validate.check_bitmap`:

    B1  a bit of tier 0 is set exactly when an order rests at its level
    B2  a bit of a higher tier is set exactly when the word below it is not 0
"""

from typing import Final

from ringpit.engine.bits import BIT, FROM, UPTO, WORD_BITS, leading_zeros, trailing_zeros
from ringpit.engine.kernels import leaf

NIL: Final = -1


def bitmap_words(levels: int) -> int:
    """Words that a bitmap over `levels` levels (a power of two, at least 64) takes, all tiers."""
    words = 0
    tier = levels
    while tier > 1:
        tier = max(tier // WORD_BITS, 1)
        words += tier
    return words


@leaf
def words_above(words):
    """Words of the tier above one of `words` words."""
    return max(words >> 6, 1)


@leaf
def set_bit(bitmap, levels, slot):
    """Mark a level as occupied. Keeps B1 and B2."""
    base = 0
    words = levels >> 6
    index = slot
    while True:
        word = bitmap[base + (index >> 6)]
        bitmap[base + (index >> 6)] = word | BIT[index & 63]
        if word != 0 or words == 1:
            return
        base += words
        words = words_above(words)
        index >>= 6


@leaf
def clear_bit(bitmap, levels, slot):
    """Mark a level as empty. Keeps B1 and B2."""
    base = 0
    words = levels >> 6
    index = slot
    while True:
        word = bitmap[base + (index >> 6)] & ~BIT[index & 63]
        bitmap[base + (index >> 6)] = word
        if word != 0 or words == 1:
            return
        base += words
        words = words_above(words)
        index >>= 6


@leaf
def descend(bitmap, levels, index, tier, lowest):
    """From a set bit of a tier down to the lowest (or highest) occupied level below it."""
    while tier > 0:
        tier -= 1
        base = 0
        words = levels >> 6
        for _ in range(tier):
            base += words
            words = words_above(words)
        word = bitmap[base + index]
        if lowest:
            index = (index << 6) + trailing_zeros(word)
        else:
            index = (index << 6) + 63 - leading_zeros(word)
    return index


@leaf
def next_set(bitmap, levels, slot):
    """First occupied level at or above `slot`, or NIL. At most two words a tier."""
    base = 0
    words = levels >> 6
    index = slot
    tier = 0
    while index >> 6 < words:
        word = bitmap[base + (index >> 6)] & FROM[index & 63]
        if word != 0:
            return descend(bitmap, levels, (index >> 6 << 6) + trailing_zeros(word), tier, True)
        if words == 1:
            return NIL
        index = (index >> 6) + 1
        base += words
        words = words_above(words)
        tier += 1
    return NIL


@leaf
def previous_set(bitmap, levels, slot):
    """Last occupied level at or below `slot`, or NIL. At most two words a tier."""
    base = 0
    words = levels >> 6
    index = slot
    tier = 0
    while index >= 0:
        word = bitmap[base + (index >> 6)] & UPTO[index & 63]
        if word != 0:
            return descend(bitmap, levels, (index >> 6 << 6) + 63 - leading_zeros(word), tier, False)
        if words == 1:
            return NIL
        index = (index >> 6) - 1
        base += words
        words = words_above(words)
        tier += 1
    return NIL
