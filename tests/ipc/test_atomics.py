"""Memory ordering: what each operation returns and stores; that it orders is shown by two processes elsewhere."""

import threading
import time

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from ringpit.ipc import atomics
from ringpit.ipc.atomics import (
    clock_ns,
    compare_and_swap,
    load_cell,
    nap_us,
    or_cell,
    pause,
    store_cell,
    swap_cell,
    yield_core,
)

HIGHEST = (1 << 63) - 1


@njit(cache=True)
def now_ns():
    """The clock, as kernels read it."""
    return clock_ns()


@njit(cache=True)
def wait_in_every_way():
    """All three ways to wait, once."""
    pause()
    yield_core()
    nap_us(100)


@njit(cache=True, nogil=True)
def add_by_swapping(cells, index, times):
    """Count up by compare-and-swap, trying again when somebody else was faster."""
    done = 0
    while done < times:
        before = atomics.load_acquire(cells, index)
        if compare_and_swap(cells, index, before, before + 1):
            done += 1


@pytest.mark.parametrize("value", [0, 1, -1, HIGHEST, -HIGHEST - 1])
def test_a_stored_value_is_loaded_again_and_its_neighbours_stay(value):
    """A store changes one cell, by all 64 bits."""
    cells = np.full(3, 7, np.int64)
    store_cell(cells, 1, value)
    assert value == load_cell(cells, 1)
    assert [7, value, 7] == cells.tolist()


def test_compare_and_swap_swaps_only_the_expected_value():
    """A cell with another value is left alone, and the caller is told."""
    cells = np.array([5, 5], np.int64)
    assert swap_cell(cells, 1, 5, 9)
    assert not swap_cell(cells, 1, 5, 11)
    assert [5, 9] == cells.tolist()


def test_fetch_or_returns_the_value_before():
    """Bits are added, and the old value comes back."""
    cells = np.array([0, 0b0101], np.int64)
    assert 0b0101 == or_cell(cells, 1, 0b0110)
    assert [0, 0b0111] == cells.tolist()
    assert 0b0111 == or_cell(cells, 1, 1 << 62)
    assert (1 << 62) | 0b0111 == cells[1]


def test_the_clock_is_nanoseconds_since_the_epoch():
    """Kernels and Python read the same clock."""
    before_ns = time.time_ns()
    read_ns = now_ns()
    assert before_ns <= read_ns <= time.time_ns()


def test_every_way_to_wait_returns_and_a_nap_lasts_at_least_as_long_as_asked():
    """pause, yield_core and nap_us run in kernels."""
    wait_in_every_way()
    start_ns = time.monotonic_ns()
    wait_in_every_way()
    assert 100_000 <= time.monotonic_ns() - start_ns


@pytest.mark.compiled
def test_no_count_is_lost_between_threads_that_swap():
    """Two threads without the GIL add to one cell; every swap counts once."""
    cells = np.zeros(1, np.int64)
    times = 200_000
    add_by_swapping(cells, 0, 0)
    threads = [threading.Thread(target=add_by_swapping, args=(cells, 0, times)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 2 * times == load_cell(cells, 0)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "cells",
    [np.zeros(2, np.int32), np.zeros((2, 2), np.int64), np.zeros(4, np.int64)[::2]],
    ids=["narrow", "two-dimensional", "strided"],
)
def test_arrays_that_are_not_cells_are_refused_when_compiling(cells):
    """A1: the error says what cells are."""
    with pytest.raises(TypingError, match="cells must be a contiguous one-dimensional int64 array, was"):
        load_cell(cells, 0)
