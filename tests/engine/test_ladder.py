"""Bit tricks beside Python's own integers, and the occupancy bitmap beside a sorted set."""

from bisect import bisect_left, bisect_right

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numba import njit

from ringpit.engine import bits, ladder

SIZES = [64, 4_096, 8_192, 1 << 18]
SEVERAL = st.lists(st.tuples(st.booleans(), st.integers(0, 1 << 30)), max_size=60)


@njit
def zeros_of(word):
    """Zeros below and above the set bits: intrinsics can only be called from compiled code."""
    return bits.trailing_zeros(word), bits.leading_zeros(word)


def next_in(occupied: list[int], slot: int) -> int:
    """First element at or above `slot`, or NIL."""
    place = bisect_left(occupied, slot)
    return occupied[place] if place < len(occupied) else ladder.NIL


def previous_in(occupied: list[int], slot: int) -> int:
    """Last element at or below `slot`, or NIL."""
    place = bisect_right(occupied, slot)
    return occupied[place - 1] if place else ladder.NIL


def tiers_of(occupied: list[int], levels: int) -> np.ndarray:
    """The bitmap that B1 and B2 ask for, built from scratch."""
    words: list[int] = []
    tier, length = set(occupied), levels
    while length > 1:
        length = max(length // 64, 1)
        row = [0] * length
        for bit in tier:
            row[bit // 64] |= 1 << bit % 64
        words += row
        tier = {bit // 64 for bit in tier}
    return np.array(words, np.uint64).view(np.int64)


@pytest.mark.parametrize("levels", SIZES)
@given(steps=SEVERAL, near=st.booleans(), probes=st.lists(st.integers(0, 1 << 30), max_size=6))
@settings(max_examples=60, deadline=None)
def test_bitmap_is_a_sorted_set(levels, steps, near, probes):
    """After any settings and clearings, next and previous are those of a sorted set, and B1 and B2 hold."""
    bitmap = np.zeros(ladder.bitmap_words(levels), np.int64)
    occupied: set[int] = set()
    span = min(levels, 130) if near else levels  # near: neighbours in a word; else words far apart
    for sets, raw in steps:
        slot = raw % span
        if sets:
            ladder.set_bit(bitmap, levels, slot)
            occupied.add(slot)
        elif slot in occupied:
            ladder.clear_bit(bitmap, levels, slot)
            occupied.remove(slot)
    ordered = sorted(occupied)
    assert tiers_of(ordered, levels).tolist() == bitmap.tolist()
    edges = {s + step for s in ordered for step in (-1, 0, 1)} | {0, levels - 1, *(p % levels for p in probes)}
    for slot in edges & set(range(levels)):
        assert next_in(ordered, slot) == ladder.next_set(bitmap, levels, slot)
        assert previous_in(ordered, slot) == ladder.previous_set(bitmap, levels, slot)


@pytest.mark.parametrize("levels", SIZES)
def test_searches_beyond_the_ends_find_nothing(levels):
    """Above the last level and below the first there is nothing, however full the bitmap is."""
    bitmap = np.zeros(ladder.bitmap_words(levels), np.int64)
    for slot in (0, levels - 1):
        ladder.set_bit(bitmap, levels, slot)
    assert ladder.NIL == ladder.next_set(bitmap, levels, levels)
    assert ladder.NIL == ladder.previous_set(bitmap, levels, -1)
    assert levels - 1 == ladder.next_set(bitmap, levels, 1)
    assert 0 == ladder.previous_set(bitmap, levels, levels - 2)


@pytest.mark.parametrize("levels", SIZES)
def test_bitmap_size(levels):
    """The words of all tiers are those that B1 and B2 need."""
    assert len(tiers_of([], levels)) == ladder.bitmap_words(levels)


@given(word=st.integers(-(1 << 63), (1 << 63) - 1).filter(bool))
@settings(deadline=None)
def test_zeros_are_counted_in_signed_words(word):
    """Zeros below and above the set bits of any word that is not 0, the sign bit included."""
    unsigned = word % (1 << 64)
    text = f"{unsigned:064b}"
    below, above = zeros_of(word)
    assert len(text) - len(text.rstrip("0")) == below
    assert len(text) - len(text.lstrip("0")) == above


def test_masks():
    """BIT has one bit, FROM all from it on, UPTO all up to it."""
    for i in range(64):
        assert 1 << i == int(bits.BIT[i]) % (1 << 64)
        assert (1 << 64) - (1 << i) == int(bits.FROM[i]) % (1 << 64)
        assert (1 << i + 1) - 1 == int(bits.UPTO[i]) % (1 << 64)
