"""The window of frame keys beside an OrderedDict."""

from collections import OrderedDict

import hypothesis.strategies as st
from hypothesis import given, settings

from ringpit.engine.ladder import NIL
from ringpit.engine.limits import Limits
from ringpit.engine.tables import allocate
from ringpit.engine.validate import check_window
from ringpit.engine.window import find_key, remember_key

KEYS_MAX = 64
KEYS = st.tuples(st.integers(0, 40), st.sampled_from([0, 1, -1, -(1 << 63), (1 << 63) - 1]))


@given(keys=st.lists(KEYS, max_size=250), start=st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_window_is_an_ordered_dictionary(keys, start):
    """The last 64 new keys are found with their hash and seq, the others not, also after many rounds."""
    tables = allocate(Limits(events=1, orders=64, levels=4_096, keys=KEYS_MAX))
    model: OrderedDict[tuple[int, int], tuple[int, int]] = OrderedDict()
    warm_up = [(1_000 + i, 7) for i in range(start)]
    for seq, (low, high) in enumerate([*warm_up, *keys], 1):
        slot = find_key(tables, low, high)
        assert ((low, high) in model) == (slot != NIL)
        if slot == NIL:
            if len(model) == KEYS_MAX:
                model.popitem(last=False)
            model[low, high] = (-seq, seq)
            remember_key(tables, low, high, -seq, seq)
    for (low, high), value in model.items():
        key = tables.keys[find_key(tables, low, high)]
        assert value == (key["body_hash"], key["seq"])
    for low, high in {*warm_up, *keys} - set(model):
        assert NIL == find_key(tables, low, high)
    check_window(tables)


def test_halves_of_a_key_are_told_apart():
    """The key (1, 2) is not the key (2, 1)."""
    tables = allocate(Limits(events=1, orders=64, levels=4_096, keys=KEYS_MAX))
    remember_key(tables, 1, 2, 0, 1)
    assert NIL == find_key(tables, 2, 1)
    assert 0 == find_key(tables, 1, 2)
