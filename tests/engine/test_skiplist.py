"""Skip lists beside sorted Python lists, several in one pool of nodes, and their heights beside a generator of our own."""

from bisect import bisect_right, insort

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from ringpit.engine import skiplist
from ringpit.engine.kernels import kernel
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import PRICE_TICKS_MAX, Limits
from ringpit.engine.tables import Cell, allocate

NODES = 64
LISTS = 3
LIMITS = Limits(events=4, orders=64, levels=4_096, keys=64, nodes=NODES)
KEYS = st.one_of(
    st.integers(-20, 20),
    st.integers(-PRICE_TICKS_MAX, PRICE_TICKS_MAX),
    st.sampled_from([-(1 << 63), (1 << 63) - 1]),
)
STEP = st.tuples(st.integers(0, LISTS - 1), KEYS)
STEPS = st.one_of(
    st.lists(STEP, max_size=12), st.lists(STEP, min_size=60, max_size=120)
)  # long ones are rarely drawn


@kernel
def begin(t):
    """Begin a list: what matching calls cannot be called from Python."""
    return skiplist.begin_list(t)


@kernel
def insert(t, head, key):
    """Put a node into a list."""
    return skiplist.insert(t, head, key)


@kernel
def remove(t, head, node):
    """Take a node out of a list."""
    skiplist.remove(t, head, node)


def free_nodes(t) -> list[int]:
    """Free nodes, the next to be taken first."""
    nodes, node = [], int(t.cells[Cell.NODES_FREE])
    while node != NIL:
        nodes.append(node)
        node = int(t.links[node, 0])
    return nodes


def chain(t, head, height=0) -> list[int]:
    """Nodes of a list that are linked at a height, counted from 0."""
    nodes, node = [], int(t.links[head, skiplist.LINKS + height])
    while node != NIL:
        nodes.append(node)
        node = int(t.links[node, skiplist.LINKS + height])
    return nodes


def height_of(t, node) -> int:
    """Heights at which a node is linked."""
    return int(t.links[node, skiplist.HEIGHT])


def drawn_heights(count) -> list[int]:
    """The heights that POSIX's rand() gives the first nodes of a list: trailing zeros in base 4, and one."""
    state, heights = skiplist.SEED, []
    for _ in range(count):
        state = (state * 1_103_515_245 + 12_345) % (1 << 31)
        digits = np.base_repr(state >> 8, 4)
        zeros = len(digits) - len(digits.rstrip("0")) if digits != "0" else skiplist.HEIGHT_MAX
        heights.append(min(1 + zeros, skiplist.HEIGHT_MAX))
    return heights


class Twins:
    """Lists in one pool, and for each a sorted Python list of its keys."""

    def __init__(self) -> None:
        """Begin the lists; each head is a node."""
        self.t = allocate(LIMITS)
        self.heads = [int(begin(self.t)) for _ in range(LISTS)]
        self.keys: list[list[int]] = [[] for _ in range(LISTS)]
        self.nodes: list[dict[int, int]] = [{} for _ in range(LISTS)]  # key: node
        self.inserted = [0] * LISTS

    def step(self, which, key) -> None:
        """A key joins a list that does not have it, if a node is free, and leaves one that does."""
        keys, nodes = self.keys[which], self.nodes[which]
        if key in nodes:
            remove(self.t, self.heads[which], nodes.pop(key))
            keys.remove(key)
        elif self.t.cells[Cell.NODES_USED] < NODES:
            expected = free_nodes(self.t)[0]
            nodes[key] = int(insert(self.t, self.heads[which], key))
            assert expected == nodes[key], "the node given back last is taken next"
            insort(keys, key)
            self.inserted[which] += 1

    def check(self) -> None:
        """Every list is its twin at each height, and no node is lost."""
        t = self.t
        for head, keys, nodes in zip(self.heads, self.keys, self.nodes, strict=True):
            assert keys == [int(t.nodes[node, skiplist.KEY]) for node in chain(t, head)]
            assert [nodes[key] for key in keys] == chain(t, head)
            in_front = [head, *chain(t, head)]
            assert in_front[:-1] == [int(t.links[node, skiplist.PREVIOUS]) for node in in_front[1:]]
            for height in range(skiplist.HEIGHT_MAX):
                tall = [nodes[key] for key in keys if height_of(t, nodes[key]) > height]
                assert tall == chain(t, head, height)
            assert height_of(t, head) >= max((height_of(t, node) for node in nodes.values()), default=1)
        used = [*self.heads, *(node for nodes in self.nodes for node in nodes.values())]
        assert list(range(NODES)) == sorted([*used, *free_nodes(t)])
        assert len(used) == t.cells[Cell.NODES_USED]


@given(steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_lists_in_one_pool_are_sorted_lists(steps):
    """Whatever joins and leaves, each list is sorted and whole at every height, and every node is used once or free."""
    twins = Twins()
    for which, key in steps:
        twins.step(which, key)
        twins.check()


@given(steps=STEPS, probes=st.lists(KEYS, max_size=5))
@settings(max_examples=40, deadline=None)
def test_first_and_following(steps, probes):
    """The first node has the smallest key, and the one behind a node the next larger one."""
    twins = Twins()
    for which, key in steps:
        twins.step(which, key)
    for head, keys, nodes in zip(twins.heads, twins.keys, twins.nodes, strict=True):
        assert (nodes[keys[0]] if keys else NIL) == skiplist.first(twins.t, head)
        for key in {*keys, *(probe for probe in probes if probe in nodes)}:
            place = bisect_right(keys, key)
            expected = nodes[keys[place]] if place < len(keys) else NIL
            assert expected == skiplist.following(twins.t, nodes[key])


@given(steps=STEPS)
@settings(max_examples=30, deadline=None)
def test_the_same_operations_give_the_same_heights(steps):
    """A list's heights depend on how many nodes it has had, neither on its keys nor on the lists beside it."""
    twins = Twins()
    heights = [[] for _ in range(LISTS)]
    for which, key in steps:
        before = twins.inserted[which]
        twins.step(which, key)
        if twins.inserted[which] > before:
            heights[which].append(height_of(twins.t, twins.nodes[which][key]))
    for count, seen in zip(twins.inserted, heights, strict=True):
        assert drawn_heights(count) == seen


def test_a_pool_that_runs_out_is_seen_beforehand():
    """The last node can be taken, then NODES_USED says that there is none; what is given back can be taken again."""
    twins = Twins()
    for key in range(NODES - LISTS):
        twins.step(0, -key)
    assert NODES == twins.t.cells[Cell.NODES_USED]
    assert [] == free_nodes(twins.t)
    twins.step(1, 5)
    assert [] == twins.keys[1], "there was no room"
    twins.step(0, -7)
    twins.step(1, 5)
    assert [5] == twins.keys[1]
    twins.check()
    for key in range(NODES - LISTS):
        if key != 7:
            twins.step(0, -key)
    twins.check()
    assert LISTS + 1 == twins.t.cells[Cell.NODES_USED]
    assert NIL == skiplist.first(twins.t, twins.heads[0])


def test_a_quarter_of_the_nodes_is_higher_each_time():
    """Of 4**7 heights in a row exactly a quarter, of these a quarter and so on, reaches each of the first four steps up."""
    t = allocate(LIMITS)
    head = begin(t)
    count = 4**7
    heights = [int(skiplist.height_of_next(t, head)) for _ in range(count)]
    assert drawn_heights(count) == heights
    higher = [sum(height > step for height in heights) for step in range(skiplist.HEIGHT_MAX + 1)]
    assert [count, count // 4, count // 16, count // 64] == higher[:4]
    assert 0 < higher[4] < 2 * count // 4**4
    assert 0 == higher[skiplist.HEIGHT_MAX]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_long_list_is_found_by_few_steps(sign):
    """In a list of a thousand keys, however they came, a search follows some two links a height, as heights are even."""
    t = allocate(Limits(events=1, orders=64, levels=4_096, keys=64, nodes=1_024))
    head = begin(t)
    for i in range(1_000):
        insert(t, head, sign * i)
    steps = 0
    for key in range(0, 1_000, 10):
        node = head
        for height in range(height_of(t, head) - 1, -1, -1):
            ahead = int(t.links[node, skiplist.LINKS + height])
            while ahead != NIL and t.nodes[ahead, skiplist.KEY] < sign * key:
                node, steps = ahead, steps + 1
                ahead = int(t.links[node, skiplist.LINKS + height])
    assert sorted(sign * i for i in range(1_000)) == [int(t.nodes[n, skiplist.KEY]) for n in chain(t, head)]
    assert steps / 100 < 20
