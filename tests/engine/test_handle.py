"""The tables as kernels see them are the tables as Python sees them: numba's private layout is what handle.py takes it for."""

import sys

import numpy as np
import pytest

from ringpit.engine.handle import DATA, ITEMS, SHAPE, describe
from ringpit.engine.kernels import kernel, leaf
from ringpit.engine.limits import Limits
from ringpit.engine.tables import FLAT, RECORDS, TableArrays, allocate

LIMITS = Limits(events=5, orders=64, levels=4_096, keys=128, nodes=64, grids=3)
NAMES = TableArrays._fields
INTEGERS = tuple(name for name in NAMES if name not in RECORDS)
CALLS = 1_000


@pytest.fixture
def tables():
    """Tables of noise: every byte of every array is drawn."""
    made = allocate(LIMITS)
    random = np.random.Generator(np.random.PCG64(1))
    for array in made:
        array.view(np.uint8)[...] = random.integers(0, 256, array.view(np.uint8).shape, np.uint8)
    return made


@leaf
def see_shape(array, out, row):
    """Lengths and number of items of an array of one dimension."""
    out[row, 0] = array.shape[0]
    out[row, 1] = 1
    out[row, 2] = array.size
    return row + 1


@leaf
def see_flat_shape(array, out, row):
    """Lengths and number of items of an array of two dimensions."""
    out[row, 0] = array.shape[0]
    out[row, 1] = array.shape[1]
    out[row, 2] = array.size
    return row + 1


@kernel
def shapes(t, out):
    """Shape of every array, in the order of the fields."""
    row = see_shape(t.orders, out, 0)
    row = see_shape(t.details, out, row)
    row = see_shape(t.levels, out, row)
    row = see_shape(t.bitmap, out, row)
    row = see_shape(t.index, out, row)
    row = see_shape(t.books, out, row)
    row = see_flat_shape(t.lists, out, row)
    row = see_shape(t.event_index, out, row)
    row = see_flat_shape(t.nodes, out, row)
    row = see_flat_shape(t.links, out, row)
    row = see_shape(t.level_index, out, row)
    row = see_shape(t.timers, out, row)
    row = see_shape(t.holders, out, row)
    row = see_shape(t.holder_index, out, row)
    row = see_flat_shape(t.grids, out, row)
    row = see_shape(t.bands, out, row)
    row = see_shape(t.keys, out, row)
    row = see_shape(t.key_index, out, row)
    row = see_shape(t.touched, out, row)
    row = see_flat_shape(t.ahead, out, row)
    return see_shape(t.cells, out, row)


@leaf
def see(array, out, row):
    """First item, last item and exclusive-or of all items of an array of integers."""
    mixed = np.int64(0)
    for i in range(array.shape[0]):
        mixed ^= np.int64(array[i])
    out[row, 0] = array[0]
    out[row, 1] = array[array.shape[0] - 1]
    out[row, 2] = mixed
    return row + 1


@leaf
def see_flat(array, out, row):
    """The same of two dimensions; the exclusive-or goes by place, so that rows and columns cannot be mistaken."""
    mixed = np.int64(0)
    for i in range(array.shape[0]):
        for j in range(array.shape[1]):
            mixed ^= np.int64(array[i, j]) ^ (i * 1_000 + j)
    out[row, 0] = array[0, 0]
    out[row, 1] = array[array.shape[0] - 1, array.shape[1] - 1]
    out[row, 2] = mixed
    return row + 1


@kernel
def contents(t, out):
    """What every array of integers holds, in the order of the fields."""
    row = see(t.bitmap, out, 0)
    row = see(t.index, out, row)
    row = see_flat(t.lists, out, row)
    row = see(t.event_index, out, row)
    row = see_flat(t.nodes, out, row)
    row = see_flat(t.links, out, row)
    row = see(t.level_index, out, row)
    row = see(t.timers, out, row)
    row = see(t.holder_index, out, row)
    row = see_flat(t.grids, out, row)
    row = see(t.bands, out, row)
    row = see(t.key_index, out, row)
    row = see(t.touched, out, row)
    row = see_flat(t.ahead, out, row)
    return see(t.cells, out, row)


@leaf
def copy(source, target):
    """All items of one dimension."""
    for i in range(source.shape[0]):
        target[i] = source[i]


@leaf
def copy_flat(source, target):
    """All items of two dimensions."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@kernel
def copy_all(t, other):
    """Every item of every array, from one handle into another."""
    copy(t.orders, other.orders)
    copy(t.details, other.details)
    copy(t.levels, other.levels)
    copy(t.bitmap, other.bitmap)
    copy(t.index, other.index)
    copy(t.books, other.books)
    copy_flat(t.lists, other.lists)
    copy(t.event_index, other.event_index)
    copy_flat(t.nodes, other.nodes)
    copy(t.level_index, other.level_index)
    copy(t.timers, other.timers)
    copy(t.holders, other.holders)
    copy(t.holder_index, other.holder_index)
    copy_flat(t.grids, other.grids)
    copy(t.bands, other.bands)
    copy(t.keys, other.keys)
    copy(t.key_index, other.key_index)
    copy(t.touched, other.touched)
    copy_flat(t.ahead, other.ahead)
    copy(t.cells, other.cells)


@kernel
def read_order(t, slot, out):
    """Fields of an order: wide and narrow, first and last."""
    out[0] = t.orders[slot]["id"]
    out[1] = t.orders[slot]["shown"]
    out[2] = t.orders[slot]["next"]
    out[3] = t.orders[slot]["timer"]


@kernel
def write_order(t, slot, number):
    """Write fields of an order, also by adding to them."""
    t.orders[slot]["id"] = number
    t.orders[slot]["shown"] += 1
    t.orders[slot]["next"] = slot
    t.orders[slot]["timer"] -= 1


@kernel
def write_items(t, at, number):
    """Write items of one and of two dimensions, wide and narrow, and add to them."""
    t.cells[at] = number
    t.cells[at + 1] += 1
    t.timers[at] = at
    t.lists[at, at + 1] = at
    t.nodes[at, 0] = number
    t.links[at, 3] -= 1
    t.ahead[2, at] = number


def mixed(array) -> int:
    """Exclusive-or of all items, by place if there are two dimensions."""
    wide = array.astype(np.int64)
    if array.ndim == 2:
        wide = wide ^ (np.arange(array.shape[0])[:, None] * 1_000 + np.arange(array.shape[1]))
    return int(np.bitwise_xor.reduce(wide, axis=None))


def test_every_shape(tables):
    """Lengths and sizes of all arrays are those of Python."""
    out = np.zeros((len(NAMES), 3), np.int64)
    assert len(NAMES) == shapes(tables, out)
    expected = [[array.shape[0], array.shape[1] if array.ndim == 2 else 1, array.size] for array in tables]
    assert expected == out.tolist()
    assert [array.ndim == 2 for array in tables] == [name in FLAT for name in NAMES]


def test_every_item_is_read(tables):
    """First, last and all items of every array of integers are those of Python."""
    out = np.zeros((len(INTEGERS), 3), np.int64)
    assert len(INTEGERS) == contents(tables, out)
    arrays = [getattr(tables, name) for name in INTEGERS]
    assert [[int(array.flat[0]), int(array.flat[-1]), mixed(array)] for array in arrays] == out.tolist()


def test_every_item_is_written(tables):
    """What kernels copy from one handle to another, records and integers, is equal to the last byte."""
    other = allocate(LIMITS)
    copy_all(tables, other)
    for name in NAMES:
        assert getattr(tables, name).tobytes() == getattr(other, name).tobytes(), name


@pytest.mark.parametrize("slot", [0, 1, 63])
def test_fields_of_records(tables, slot):
    """Fields of a record are read and written where Python has them, and nothing else is written."""
    expected = tables.orders.copy()
    out = np.zeros(4, np.int64)
    read_order(tables, slot, out)
    assert [expected[name][slot] for name in ("id", "shown", "next", "timer")] == out.tolist()
    expected["shown"][slot] = 41
    expected["timer"][slot] = 8
    tables.orders[:] = expected
    write_order(tables, slot, -(1 << 63))
    expected["id"][slot] = -(1 << 63)
    expected["shown"][slot] = 42
    expected["next"][slot] = slot
    expected["timer"][slot] = 7
    assert expected.tobytes() == tables.orders.tobytes()


def test_items_of_arrays(tables):
    """Items are written where Python has them, and nothing else is."""
    tables.cells[4] = 1
    tables.links[3, 3] = 1
    expected = [array.copy() for array in tables]
    write_items(tables, 3, -5)
    wanted = dict(zip(NAMES, expected, strict=True))
    wanted["cells"][3:5] = -5, 2
    wanted["timers"][3] = 3
    wanted["lists"][3, 4] = 3
    wanted["nodes"][3, 0] = -5
    wanted["nodes"].view(np.int32)[3, 3] = 0
    wanted["links"][:] = wanted["nodes"].view(np.int32)
    wanted["ahead"][2, 3] = -5
    for name in NAMES:
        assert wanted[name].tobytes() == getattr(tables, name).tobytes(), name


def test_two_tables_are_two(tables):
    """Kernels find the arrays of the tables that they are given, not those of the first ever."""
    other = allocate(LIMITS)
    other.cells[3] = 0
    before = other.cells.tobytes()
    write_items(tables, 3, 77)
    assert before == other.cells.tobytes()
    write_items(other, 3, 78)
    assert (77, 78) == (tables.cells[3], other.cells[3])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(10, np.int64)[::2],
        np.zeros((4, 4), np.int64)[:, :2],
        np.zeros((4, 3), np.int64).T,
        np.zeros(10, np.int64)[::-1],
    ],
    ids=["every second", "part of a row", "columns", "backwards"],
)
def test_an_array_with_gaps_is_refused(array):
    """What is not contiguous cannot be described."""
    with pytest.raises(ValueError, match="arrays of a handle must be contiguous, was one of shape"):
        describe((np.zeros(3, np.int64), array))


def test_the_descriptor(tables):
    """Each array has a row: where its data begin, how many items it has, and its lengths."""
    assert [array.ctypes.data for array in tables] == tables.descriptor[:, DATA].tolist()
    assert [array.size for array in tables] == tables.descriptor[:, ITEMS].tolist()
    assert [array.shape[0] for array in tables] == tables.descriptor[:, SHAPE].tolist()
    assert tables.address == tables.descriptor.ctypes.data


def test_no_reference_is_kept(tables):
    """However often kernels are given the tables, nothing holds on to them, their arrays or their address."""
    things = [tables, tables.descriptor, tables.address, *tables]
    out = np.zeros(4, np.int64)
    read_order(tables, 0, out)
    before = [sys.getrefcount(thing) for thing in things]
    for _ in range(CALLS):
        read_order(tables, 0, out)
        write_items(tables, 3, 1)
    assert before == [sys.getrefcount(thing) for thing in things]
