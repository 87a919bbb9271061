"""Holders beside a counter of (book, account)."""

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from ringpit.engine import accounts, index
from ringpit.engine.kernels import kernel
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import INT64_MAX, Limits
from ringpit.engine.tables import Cell, allocate
from ringpit.engine.validate import check_index

HOLDERS = 64
LIMITS = Limits(events=3, orders=HOLDERS, levels=4_096, keys=64, nodes=64)


@kernel
def count_up(t, book, account):
    """An account has one open order more."""
    accounts.count_up(t, book, account)


@kernel
def count_down(t, book, account):
    """An account has one open order less."""
    accounts.count_down(t, book, account)


@kernel
def orders_of(t, book, account):
    """Open orders of an account in a book."""
    return accounts.orders_of(t, book, account)


def free_holders(t) -> list[int]:
    """Free holders, the next to be taken first."""
    slots, slot = [], int(t.cells[Cell.HOLDERS_FREE])
    while slot != NIL:
        slots.append(slot)
        slot = int(t.holders[slot]["orders"])
    return slots


def check(t, model: Counter[tuple[int, int]]) -> None:
    """Holders are those of the counter, each in the index once, and the others are free."""
    free = free_holders(t)
    used = sorted(set(range(HOLDERS)) - set(free))
    rows = {slot: (int(t.holders[slot]["book"]), int(t.holders[slot]["account"])) for slot in used}
    assert HOLDERS == len(used) + len(free)
    assert dict(+model) == {row: int(t.holders[slot]["orders"]) for slot, row in rows.items()}
    check_index(
        t.holder_index, {slot: int(index.fingerprint_of(*row)) for slot, row in rows.items()}, "holders"
    )


ACCOUNTS = st.sampled_from([0, 1, 2, 3, -1, 1 << 32, -INT64_MAX - 1, INT64_MAX])


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 2), ACCOUNTS), min_size=20, max_size=100))
@settings(max_examples=60, deadline=None)
def test_holders_are_a_counter(steps):
    """Whatever comes and goes, each account has its number in each book, and a holder is there while it is not 0."""
    t = allocate(LIMITS)
    model: Counter[tuple[int, int]] = Counter()
    for comes, book, account in steps:
        if comes and model.total() < HOLDERS:
            count_up(t, book, account)
            model[book, account] += 1
        elif model[book, account]:
            count_down(t, book, account)
            model[book, account] -= 1
        check(t, model)
        assert model[book, account] == orders_of(t, book, account)


@pytest.mark.parametrize("backwards", [False, True])
def test_as_many_holders_as_orders(backwards):
    """Every order of the shard may be of another account; all holders come back."""
    t = allocate(LIMITS)
    model = Counter({(account % 3, account): 1 for account in range(HOLDERS)})
    for book, account in model:
        count_up(t, book, account)
    check(t, model)
    assert NIL == t.cells[Cell.HOLDERS_FREE]
    for book, account in sorted(model, reverse=backwards):
        count_down(t, book, account)
        assert 0 == orders_of(t, book, account)
    check(t, Counter())
