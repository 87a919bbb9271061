"""Histograms against sorted values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.ipc import histogram
from ringpit.ipc.histogram import (
    BUCKETS,
    ERROR_MAX,
    VALUE_NS_MAX,
    bucket_end_ns,
    bucket_of,
    percentile,
    record,
    record_many,
    summary,
)

# A bit count, then a value of so many bits: every magnitude is as likely as every other.
values_ns = st.integers(0, 40).flatmap(lambda bits: st.integers(0, (1 << bits) - 1))


def counted(values):
    """A histogram of values."""
    counts = histogram.empty()
    for value in values:
        record(counts, value)
    return counts


@given(st.lists(values_ns, min_size=1, max_size=60), st.floats(0, 1))
def test_percentiles_agree_with_sorted_values_within_the_error_bound(values, quantile):
    """H1: never below the true value, above it by at most 1/64."""
    rank = min(max(int(np.ceil(quantile * len(values))), 1), len(values))
    true_ns = sorted(values)[rank - 1]
    told_ns = percentile(counted(values), quantile)
    assert true_ns <= told_ns <= true_ns * (1 + ERROR_MAX)


@given(values_ns)
def test_a_value_lies_in_its_bucket_and_in_no_other(value):
    """The bucket ends at or above the value, the bucket before ends below."""
    bucket = int(bucket_of(value))
    assert value <= bucket_end_ns(bucket) <= value * (1 + ERROR_MAX)
    assert bucket == 0 or bucket_end_ns(bucket - 1) < value


def test_buckets_follow_each_other_without_gaps():
    """Each bucket begins behind the end of the one before; the last one ends with the largest value."""
    ends = [int(bucket_end_ns(bucket)) for bucket in range(BUCKETS)]
    assert list(range(1, BUCKETS)) == [int(bucket_of(end + 1)) for end in ends[:-1]]
    assert VALUE_NS_MAX == ends[-1]
    assert 1_000 * 10**9 < VALUE_NS_MAX


def test_values_outside_the_range_are_counted_at_its_ends():
    """H3: a negative latency counts as 0, an hour as the largest."""
    counts = counted([-1, -(1 << 62), 3_600 * 10**9, 1 << 62])
    assert (2, 2) == (counts[0], counts[BUCKETS - 1])


@given(st.lists(values_ns, max_size=20), st.lists(values_ns, max_size=20))
def test_histograms_add_up(some, others):
    """H2: cell by cell."""
    assert counted(some + others).tolist() == (counted(some) + counted(others)).tolist()


def test_a_batch_counts_as_often_as_it_is_long():
    """record_many is record, so many times."""
    counts = histogram.empty()
    record_many(counts, 1_000, 5)
    assert counted([1_000] * 5).tolist() == counts.tolist()


def test_the_summary_names_its_percentiles():
    """1 to 1000 ns: the percentiles are those of the values, up to a 64th."""
    told = summary(counted(range(1, 1_001)))
    assert ["count", "p50", "p99", "p99.9", "max"] == list(told)
    assert 1_000 == told["count"]
    for name, true_ns in (("p50", 500), ("p99", 990), ("p99.9", 999), ("max", 1_000)):
        assert true_ns <= told[name] <= true_ns * (1 + ERROR_MAX)


def test_an_empty_histogram_answers_zero():
    """Nothing counted: every figure is 0."""
    assert {"count": 0, "p50": 0, "p99": 0, "p99.9": 0, "max": 0} == summary(histogram.empty())


@pytest.mark.parametrize("quantile", [-0.1, 1.1, 99])
def test_a_quantile_is_a_fraction(quantile):
    """99 is not 0.99."""
    with pytest.raises(ValueError, match=f"quantile must be from 0 to 1, was {quantile}"):
        percentile(histogram.empty(), quantile)
