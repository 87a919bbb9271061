"""Copying records: bytes for bytes against numpy, whatever the place, the count, the alignment and the size of a record."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from numba.core.errors import TypingError

from ringpit.ipc import copying
from ringpit.ipc.ring import carry

SIZES = {
    64: np.dtype([("number", "<i8"), ("rest", "<i8", (7,))]),
    24: np.dtype([("a", "<i8"), ("b", "<i4"), ("c", "<i4"), ("d", "<f8")]),
}


@njit(nogil=True, _nrt=False)
def put_all(target, target_at, source, source_at, count):
    """`copy_records` by single records."""
    for i in range(count):
        copying.put_record(target, target_at + i, source, source_at + i)


@njit(nogil=True, _nrt=False)
def copy_all(target, target_at, source, source_at, count):
    """`copy_records`, from Python."""
    copying.copy_records(target, target_at, source, source_at, count)


def table(count, size_bytes, beyond_bytes, seed):
    """Random records whose first byte lies so many bytes beyond a border of 64."""
    raw = np.random.default_rng(seed).integers(0, 256, 64 + 64 + count * size_bytes, np.uint8)
    start = -raw.ctypes.data % 64 + beyond_bytes
    return raw[start : start + count * size_bytes].view(SIZES[size_bytes])


@pytest.mark.parametrize("copy", [copy_all, put_all, copying.stream_records], ids=["copy", "put", "stream"])
@pytest.mark.parametrize("size_bytes", SIZES)
@given(data=st.data())
def test_copies_are_numpys(copy, size_bytes, data):
    """Exactly the records that are meant change, to exactly the bytes of their sources."""
    count = data.draw(st.integers(0, 2 * copying.STREAM_RECORDS_MIN))
    target_at, source_at = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    beyond = data.draw(st.sampled_from([0, 8, 16, 32]))
    target, source = table(count + 10, size_bytes, beyond, 1), table(count + 10, size_bytes, 0, 2)
    expected = target.copy()
    expected[target_at : target_at + count] = source[source_at : source_at + count]
    copy(target, target_at, source, source_at, count)
    assert expected.tobytes() == target.tobytes()


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 100), st.integers(0, 100), st.data())
def test_carrying_from_ring_to_ring_meets_both_ends(bits, from_bits, position, from_position, data):
    """Records go from slot to slot, round the ends of two rings of different sizes."""
    slots, source = table(1 << bits, 64, 0, 1), table(1 << from_bits, 64, 0, 2)
    count = data.draw(st.integers(0, min(len(slots), len(source))))
    expected = slots.copy()
    for i in range(count):
        expected[(position + i) % len(slots)] = source[(from_position + i) % len(source)]
    carry(slots, position, source, from_position, count)
    assert expected.tobytes() == slots.tobytes()


@pytest.mark.compiled
def test_what_cannot_be_copied_byte_by_byte_is_refused_by_name():
    """Records of two sizes, and arrays of two dimensions, do not compile."""
    with pytest.raises(TypingError, match="records must be of one size, were"):
        copy_all(np.zeros(1, SIZES[64]), 0, np.zeros(1, SIZES[24]), 0, 1)
    with pytest.raises(TypingError, match="records must be a contiguous one-dimensional array"):
        copy_all(np.zeros((2, 2)), 0, np.zeros(4), 0, 1)
