"""Marks against a list that forgets nothing."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ringpit.shards import marks as module
from ringpit.shards.marks import MARK_CELLS, MARKS, UNKNOWN_NS, mark, passed_ns


def naive(passed, seq):
    """The time of the first mark at or above a seq, among those that are surely kept."""
    kept = passed[-(MARKS - 1) :]
    for number, (marked, now_ns) in enumerate(kept):
        if marked >= seq:
            forgotten = number == 0 and len(passed) > len(kept)
            return UNKNOWN_NS if forgotten else now_ns
    return UNKNOWN_NS


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 60))
def test_an_answer_is_the_first_mark_at_or_above(steps, asked):
    """MK2, with seqs that may stand still."""
    marks = np.zeros(MARK_CELLS, np.int64)
    passed = [(int(seq), 1_000 + number) for number, seq in enumerate(np.cumsum(steps))]
    for seq, now_ns in passed:
        mark(marks, seq, now_ns)
    assert naive(passed, asked) == passed_ns(marks, asked)


@pytest.mark.parametrize("extra", [-1, 0, 1, 2, 700, MARKS, 2 * MARKS + 3])
def test_what_is_forgotten_is_unknown_and_never_of_another_seq(extra):
    """Round the ring and round again: each seq has its own time, or none."""
    marks = np.zeros(MARK_CELLS, np.int64)
    passed = [(2 * number, 1_000 + number) for number in range(1, MARKS + extra)]
    for seq, now_ns in passed:
        mark(marks, seq, now_ns)
    last = passed[-1][0]
    for seq in (
        1,
        2,
        3,
        last - 2 * MARKS,
        last - 2 * MARKS + 4,
        last - 2 * MARKS + 5,
        last - 1,
        last,
        last + 1,
    ):
        assert naive(passed, seq) == passed_ns(marks, seq), seq


def test_the_places_wrap_by_mask():
    """Places are found by a mask."""
    assert module.MARKS & (module.MARKS - 1) == 0
