"""
Latency histograms: counts by value in buckets that are a fixed fraction of the value wide, laid out as HdrHistogram's.

A bucket array is int64 of BUCKETS cells and can lie in shared memory: one process counts, anybody reads
and adds up. Values below 256 ns have a bucket each; above that every power of two is cut into 128 equal buckets:

    value_ns    0 .. 255   256 .. 511   512 .. 1023   ...   2**41 .. 2**42 - 1 (73 minutes)
    width       1          2            4                   2**34
    buckets     0 .. 255   256 .. 383   384 .. 511          4480 .. 4607

These are the counts of an HdrHistogram of 1 ns to one hour with two significant digits, so they go into its
tools as they are. Its Python package records a value in hundreds of nanoseconds, which is why it only reads.

Fast here: counting is one instruction that finds the highest bit, a shift and an add, about 1 ns; nothing is stored
per value. Slow here: a percentile adds up all 4,608 buckets.

Invariants:

    H1  a value's bucket ends at most 1/128 above the value (`ERROR_MAX`): a percentile is never understated, and
        overstated by at most that
    H2  adding two histograms cell by cell is the histogram of both
    H3  values below 0 count as 0 (two clocks may disagree), values from 2**42 on as the largest
    H4  cell i is HdrHistogram's count i
"""

from typing import TYPE_CHECKING, Final

import numpy as np
from numba import config, njit, types
from numba.extending import intrinsic

SIGNIFICANT_DIGITS: Final = 2
STEP_BITS: Final = 7
VALUE_BITS: Final = 42
WORD_BITS: Final = 64
STEPS: Final = 1 << STEP_BITS  # buckets in a power of two
EXACT_MAX: Final = 2 * STEPS - 1  # largest value with a bucket of its own
VALUE_NS_MAX: Final = (1 << VALUE_BITS) - 1
BUCKETS: Final = (VALUE_BITS - STEP_BITS + 1) * STEPS
ERROR_MAX: Final = 1 / STEPS
QUANTILES: Final = (
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
    ("max", 1.0),
)
_BUCKET: Final = np.arange(BUCKETS)
_SHIFT: Final = np.maximum(_BUCKET // STEPS - 1, 0)
MIDDLES_NS: Final = ((_BUCKET - _SHIFT * STEPS) << _SHIFT) + ((1 << _SHIFT) - 1) / 2


@intrinsic
def _leading_zeros(_context, _value):
    def codegen(context, builder, _signature, args):
        return builder.ctlz(args[0], context.get_constant(types.boolean, True))

    return types.int64(types.int64), codegen


if TYPE_CHECKING or config.DISABLE_JIT:  # mypy and the interpreter see plain Python

    def leading_zeros(value: int) -> int:
        """Zeros above the highest set bit of a value above 0."""
        return WORD_BITS - int(value).bit_length()

else:
    leading_zeros = _leading_zeros


@njit(cache=True)
def bucket_of(value_ns):
    """The bucket of a value (H3)."""
    value = min(max(value_ns, 0), VALUE_NS_MAX)
    shift = WORD_BITS - STEP_BITS - 1 - leading_zeros(value | EXACT_MAX)
    return (shift << STEP_BITS) + (value >> shift)


@njit(cache=True)
def bucket_end_ns(bucket):
    """The largest value of a bucket."""
    shift = max(bucket // STEPS - 1, 0)
    return ((bucket - shift * STEPS + 1) << shift) - 1


@njit(cache=True, nogil=True)
def record(counts, value_ns):
    """Count one value."""
    counts[bucket_of(value_ns)] += 1


@njit(cache=True, nogil=True)
def record_many(counts, value_ns, times):
    """Count one value several times: all records of a batch that took equally long."""
    counts[bucket_of(value_ns)] += times


def empty() -> np.ndarray:
    """A bucket array outside shared memory."""
    return np.zeros(BUCKETS, np.int64)


def percentile(counts: np.ndarray, quantile: float) -> int:
    """
    The value in ns that a fraction `quantile` of all values does not exceed, at most 1/128 too high (H1).

    Returns 0 for an empty histogram.

    Raises:
        ValueError: `quantile` is not from 0 to 1.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must be from 0 to 1, was {quantile}")
    below = np.cumsum(counts)  # a copy: the owner may go on counting
    total = int(below[-1])
    if total == 0:
        return 0
    rank = min(max(int(np.ceil(quantile * total)), 1), total)
    return int(bucket_end_ns(int(np.searchsorted(below, rank))))


def mean(counts: np.ndarray) -> float:
    """The mean in ns, each value taken as the middle of its bucket; 0 for an empty histogram."""
    still = counts.copy()
    total = int(still.sum())
    return float(still @ MIDDLES_NS) / total if total else 0.0


def summary(counts: np.ndarray) -> dict[str, int]:
    """`count`, and in ns each of QUANTILES: each at most 1/128 too high."""
    still = counts.copy()
    return {"count": int(still.sum())} | {name: percentile(still, quantile) for name, quantile in QUANTILES}
