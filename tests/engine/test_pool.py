"""Pools: order slots are a stack, and runs of levels never overlap, shrink or get lost."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from ringpit.engine import pool
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import Limits
from ringpit.engine.tables import RUN_BITS_MAX, RUN_BITS_MIN, Cell, allocate

LIMITS = Limits(events=4, orders=64, levels=4_096, keys=64)


def free_orders(tables) -> list[int]:
    """Free order slots, the next to be taken first."""
    slots = []
    slot = int(tables.cells[Cell.ORDERS_FREE])
    while slot != NIL:
        slots.append(slot)
        slot = int(tables.orders[slot]["next"])
    return slots


@given(steps=st.lists(st.integers(-30, 40), max_size=80))
@settings(max_examples=50, deadline=None)
def test_order_slots_are_a_stack(steps):
    """The slot given back last is taken next, every slot is taken once, and ORDERS_USED counts them."""
    tables = allocate(LIMITS)
    model = free_orders(tables)
    taken: list[int] = []
    assert sorted(model) == list(range(64))
    for step in steps:
        if step < 0 and taken:
            slot = taken.pop(step % len(taken))
            pool.give_order(tables, slot)
            model.insert(0, slot)
        elif model:
            taken.append(int(pool.take_order(tables)))
            assert model.pop(0) == taken[-1]
        assert len(taken) == tables.cells[Cell.ORDERS_USED]
    assert model == free_orders(tables)


class Ground:
    """The obvious allocator: free runs by size, fresh ground behind them, the smallest larger run cut in halves."""

    def __init__(self, levels: int) -> None:
        """All ground is fresh."""
        self.levels = levels
        self.fresh = 0
        self.free: dict[int, list[int]] = {bits: [] for bits in range(RUN_BITS_MIN, RUN_BITS_MAX + 1)}

    def take(self, bits: int) -> int:
        """First slot of a run, or NIL."""
        if self.free[bits]:
            return self.free[bits].pop()
        if self.fresh + (1 << bits) <= self.levels:
            self.fresh += 1 << bits
            return self.fresh - (1 << bits)
        larger = [size for size in self.free if size > bits and self.free[size]]
        if not larger:
            return NIL
        first = self.free[larger[0]].pop()
        for half in range(larger[0] - 1, bits - 1, -1):
            self.free[half].append(first + (1 << half))
        return first


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(RUN_BITS_MIN, 12), st.integers(0, 99)), max_size=80))
@settings(max_examples=100, deadline=None)
def test_runs_never_overlap(steps):
    """Runs come and go as the obvious allocator hands them out, and no level is ever in two of them."""
    tables = allocate(LIMITS)
    ground = Ground(LIMITS.levels)
    owned: list[tuple[int, int]] = []
    for takes, bits, which in steps:
        if takes:
            first = int(pool.take_run(tables, bits))
            assert ground.take(bits) == first
            if first != NIL:
                run = range(first, first + (1 << bits))
                assert run.stop <= LIMITS.levels
                assert all(run.stop <= other or other + (1 << size) <= first for other, size in owned)
                assert NIL == tables.levels[first]["head"], "an empty level has no head"
                owned.append((first, bits))
        elif owned:
            first, size = owned.pop(which % len(owned))
            pool.give_run(tables, first, size)
            ground.free[size].append(first)
    assert ground.fresh == tables.cells[Cell.LEVELS_USED]


@pytest.mark.parametrize(
    ("count", "size"), [(1, 6), (64, 6), (65, 7), (128, 7), (129, 8), ((1 << 18) - 1, 18), (1 << 18, 18)]
)
def test_size_class_of_a_run(count, size):
    """A run is the smallest power of two, from 64 on, that holds the levels."""
    assert size == pool.run_bits(count)
