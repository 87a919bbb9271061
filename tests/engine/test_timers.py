"""Timers beside a sorted list of (expires_ns, stamp)."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from ringpit.engine import timers
from ringpit.engine.kernels import kernel
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import INT64_MAX, Limits
from ringpit.engine.tables import Cell, allocate

ORDERS = 64
LIMITS = Limits(events=4, orders=ORDERS, levels=4_096, keys=64, nodes=64)


@kernel
def add(t, slot):
    """An order that expires is open."""
    timers.add(t, slot)


@kernel
def drop(t, slot):
    """It is open no more."""
    timers.drop(t, slot)


class Twins:
    """A heap of timers, and a dictionary of what it holds."""

    def __init__(self) -> None:
        """Nothing expires yet."""
        self.t = allocate(LIMITS)
        self.model: dict[int, tuple[int, int]] = {}  # order slot: (expires_ns, stamp)

    def add(self, slot, expires_ns) -> None:
        """An order with the next stamp."""
        stamp = int(self.t.cells[Cell.STAMP])
        self.t.cells[Cell.STAMP] += 1
        self.t.details[slot]["expires_ns"] = expires_ns
        self.t.details[slot]["stamp"] = stamp
        self.model[slot] = (expires_ns, stamp)
        add(self.t, slot)

    def drop(self, slot) -> None:
        """An order, wherever in the heap it is."""
        del self.model[slot]
        drop(self.t, slot)
        assert NIL == self.t.orders[slot]["timer"]

    def heap(self) -> list[int]:
        """Order slots as they lie in the heap."""
        return self.t.timers[: self.t.cells[Cell.TIMERS]].tolist()

    def check(self) -> None:
        """The heap holds what it should, each knows its place, none is before its parent, and the top is the first."""
        heap = self.heap()
        assert sorted(self.model) == sorted(heap)
        assert list(range(len(heap))) == [int(self.t.orders[slot]["timer"]) for slot in heap]
        keys = [self.model[slot] for slot in heap]
        assert [] == [i for i in range(1, len(keys)) if keys[(i - 1) // 2] >= keys[i]]
        assert min(self.model.values(), default=(INT64_MAX, 0))[0] == self.t.cells[Cell.NEXT_EXPIRY]
        assert heap[:1] == sorted(self.model, key=self.model.__getitem__)[:1]


TIMES = st.one_of(st.integers(0, 3), st.integers(0, INT64_MAX))
STEP = st.tuples(st.integers(0, ORDERS - 1), TIMES)
STEPS = st.one_of(
    st.lists(STEP, max_size=12), st.lists(STEP, min_size=60, max_size=120)
)  # long ones are rarely drawn


@given(steps=STEPS)
@settings(max_examples=80, deadline=None)
def test_timers_are_a_sorted_list(steps):
    """After any orders come and go, wherever they lie, the heap is one and says when the first expires."""
    twins = Twins()
    for slot, expires_ns in steps:
        if slot in twins.model:
            twins.drop(slot)
        else:
            twins.add(slot, expires_ns)
        twins.check()


@given(times=st.lists(st.integers(0, 4), min_size=20, max_size=ORDERS))
@settings(max_examples=60, deadline=None)
def test_what_expires_together_goes_by_age(times):
    """Taken from the top, orders come by time, and those of one time by the order in which they came."""
    twins = Twins()
    for slot, expires_ns in enumerate(times):
        twins.add(ORDERS - 1 - slot, expires_ns)
    expected = sorted(twins.model, key=twins.model.__getitem__)
    taken = []
    while twins.model:
        taken.append(twins.heap()[0])
        twins.drop(taken[-1])
    assert expected == taken
    assert INT64_MAX == twins.t.cells[Cell.NEXT_EXPIRY]


@pytest.mark.parametrize("victim", range(7))
def test_dropping_from_anywhere(victim):
    """Where the last one fills the hole it may have to rise: it comes from a branch that expires sooner."""
    twins = Twins()
    for slot, expires_ns in enumerate((0, 10, 1, 11, 12, 2, 3)):
        twins.add(slot, expires_ns)
    assert list(range(7)) == twins.heap()
    twins.drop(victim)
    twins.check()


def test_a_full_heap():
    """Every order of the shard may expire."""
    twins = Twins()
    for slot in range(ORDERS):
        twins.add(slot, ORDERS - slot)
    twins.check()
    assert 1 == twins.t.cells[Cell.NEXT_EXPIRY]
    for slot in range(0, ORDERS, 2):
        twins.drop(slot)
        twins.check()
