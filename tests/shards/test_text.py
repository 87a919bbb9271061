"""Integers and decimals as text, beside Python's own."""

from decimal import Context, Decimal

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given

from ringpit.shards import text

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
BUFFER = np.zeros(64 + text.SLACK_BYTES, np.uint8)
GUARD = 7  # bytes that are never to be touched


def written(put, *arguments):
    """What a function writes, as a string; nothing before `at` changes."""
    BUFFER[:] = 1
    end = put(*arguments, BUFFER, GUARD)
    assert [1] * GUARD == BUFFER[:GUARD].tolist()
    return bytes(BUFFER[GUARD:end]).decode()


@given(INT64)
@example(-(1 << 63))
@example((1 << 63) - 1)
@example(0)
@example(99_999_999)
@example(100_000_000)
@example(10**16)
@example(10**18)
def test_integer_is_pythons(value):
    """Every int64 is written as Python writes it."""
    assert str(value) == written(text.put_integer, np.int64(value))


@given(st.integers(-(1 << 63) + 1, (1 << 63) - 1), st.integers(0, 18))
def test_decimal_is_exact(units, decimals):
    """units / 10**decimals has all its decimals and is exact."""
    exact = Decimal(units).scaleb(-decimals, Context(prec=40))
    assert f"{exact:.{decimals}f}" == written(text.put_decimal, np.int64(units), decimals)


@pytest.mark.parametrize("digits", [1, 2, 7, 8, 9, 15, 16, 17, 19])
def test_padded_has_its_digits(digits):
    """A number is filled up with zeros to exactly so many digits."""
    for value in (0, 1, 7 * 10 ** (digits - 1), min(10**digits, 1 << 63) - 1):
        assert f"{value:0{digits}}" == written(text.put_padded, np.int64(value), digits)


@given(st.binary(max_size=64))
def test_text_is_copied_whole(constant):
    """A constant of any length comes out as it went in."""
    stored = np.frombuffer(b"xyz" + constant + bytes(text.SLACK_BYTES), np.uint8)
    BUFFER[:] = 1
    end = text.put_text(stored, 3, len(constant), BUFFER, 0)
    assert constant == bytes(BUFFER[:end])
