"""Trails beside Python lists."""

import hypothesis.strategies as st
from hypothesis import given, settings

from ringpit.engine import trails
from ringpit.engine.kernels import kernel
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import Limits
from ringpit.engine.tables import allocate

BOOKS = 2
LIMITS = Limits(events=BOOKS, orders=64, levels=4_096, keys=64, nodes=64)


@kernel
def add(t, book, side, slot):
    """A trailing stop waits."""
    trails.add(t, book, side, slot)


@kernel
def drop(t, book, slot):
    """It waits no more."""
    trails.drop(t, book, slot)


def trail(t, book, side, *, forwards) -> list[int]:
    """Order slots of a trail, walked from one of its ends."""
    end, link = (trails.FIRST, "next_trailing") if forwards else (trails.LAST, "previous_trailing")
    slots, slot = [], int(t.lists[book, end + 2 * side])
    while slot != NIL:
        slots.append(slot)
        slot = int(t.details[slot][link])
    return slots


@given(
    steps=st.lists(
        st.tuples(st.integers(0, BOOKS - 1), st.integers(0, 1), st.integers(0, 11)), min_size=20, max_size=60
    )
)
@settings(max_examples=80, deadline=None)
def test_trails_are_lists(steps):
    """Whoever comes is the newest of its side, whoever goes leaves the others as they were, in both directions."""
    t = allocate(LIMITS)
    queues = t.lists[:, : trails.FIRST].copy()
    model: dict[tuple[int, int], list[int]] = {(book, side): [] for book in range(BOOKS) for side in range(2)}
    for book, side, slot in steps:
        home = next((place for place, slots in model.items() if slot in slots), None)
        if home:
            drop(t, home[0], slot)
            model[home].remove(slot)
        else:
            add(t, book, side, slot)
            model[book, side].append(slot)
        for place, slots in model.items():
            assert slots == trail(t, *place, forwards=True)
            assert slots[::-1] == trail(t, *place, forwards=False)
            assert (slots[0] if slots else NIL) == trails.first_of(t, *place)
    assert queues.tolist() == t.lists[:, : trails.FIRST].tolist(), "the lists beside them are left alone"
