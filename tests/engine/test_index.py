"""The hash index beside a dictionary, in tables so small that everything collides."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numba import config

from ringpit.engine import index
from ringpit.engine.validate import check_index

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


def slots_of(table: np.ndarray, fingerprint: int) -> list[int]:
    """Every slot that the index holds under a fingerprint."""
    slots = []
    position = index.seek(table, fingerprint, fingerprint)
    while position != index.MISSING:
        slots.append(int(index.slot_at(table, position)))
        position = index.seek(table, fingerprint, position + 1)
    return sorted(slots)


def erase_slot(table: np.ndarray, fingerprint: int, slot: int) -> None:
    """Erase the entry of one slot among those of its fingerprint."""
    position = index.seek(table, fingerprint, fingerprint)
    while index.slot_at(table, position) != slot:
        position = index.seek(table, fingerprint, position + 1)
    index.erase(table, position)


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from([0, 1, 2, 14, 15, 16, 31, 0x7FFF_FFFF])), max_size=60
    )
)
@settings(max_examples=200, deadline=None)
def test_index_is_a_dictionary(steps):
    """After any insertions and erasures each fingerprint finds exactly its slots, and H1 to H3 hold."""
    table = index.make_index(8)
    model: dict[int, int] = {}  # slot: fingerprint
    for slot, fingerprint in steps:
        if slot in model:
            erase_slot(table, model.pop(slot), slot)
        else:
            index.insert(table, fingerprint, slot)
            model[slot] = fingerprint
        check_index(table, model, "index")
        for each in {*model.values(), fingerprint}:
            assert sorted(s for s, f in model.items() if f == each) == slots_of(table, each)


def test_erasing_across_the_end_of_the_table():
    """A run of entries that wraps around the end stays whole when its first, middle or last one is erased."""
    for victim in range(3):
        table = index.make_index(4)
        for slot in range(3):
            index.insert(table, 7, slot)  # home is the last of eight cells
        erase_slot(table, 7, victim)
        assert [slot for slot in range(3) if slot != victim] == slots_of(table, 7)
        check_index(table, {slot: 7 for slot in range(3) if slot != victim}, "index")


def test_largest_fingerprint_and_slot_are_no_gap():
    """The entry with every bit set that an entry may have is found; only -1 is a gap."""
    table = index.make_index(2)
    index.insert(table, index.FINGERPRINT_MASK, index.SLOT_MASK)
    assert [index.SLOT_MASK] == slots_of(table, index.FINGERPRINT_MASK)


@pytest.mark.parametrize(("entries", "length"), [(1, 2), (2, 4), (3, 8), (64, 128), (65, 256)])
def test_index_is_twice_as_long_as_its_entries(entries, length):
    """The table's length is the power of two that keeps half of it free (H2)."""
    assert length == len(index.make_index(entries))


@given(high=INT64, low=INT64)
@settings(deadline=None)
def test_fingerprints_are_31_bits_compiled_and_interpreted(high, low):
    """Any two int64 give the same number from 0 to 2**31 - 1 compiled and interpreted."""
    fingerprint = index.fingerprint_of(high, low)
    assert 0 <= fingerprint <= index.FINGERPRINT_MASK
    if not config.DISABLE_JIT:
        assert index.fingerprint_of.py_func(high, low) == fingerprint


@pytest.mark.parametrize("stride", [1, 2, 64, 1 << 16, 1 << 32, 1_000_003])
def test_regular_ids_spread(stride):
    """Ids in regular steps fill a half-full table with probes that stay short."""
    ids = [index.fingerprint_of(3, i * stride) for i in range(4_096)]
    homes = np.bincount(np.array(ids) & 8_191, minlength=8_192)
    assert homes.max() <= 16
    assert len(set(ids)) >= 4_090
