"""Histograms against sorted values, and against HdrHistogram."""

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from ringpit.ipc import histogram
from ringpit.ipc.histogram import (
    BUCKETS,
    ERROR_MAX,
    MIDDLES_NS,
    QUANTILES,
    SIGNIFICANT_DIGITS,
    VALUE_NS_MAX,
    bucket_end_ns,
    bucket_of,
    percentile,
    record,
    record_many,
    summary,
)

# A bit count, then a value of so many bits: every magnitude is as likely as every other.
values_ns = st.integers(0, 42).flatmap(lambda bits: st.integers(0, (1 << bits) - 1))
HOUR_NS = 3_600 * 10**9


def naive_bucket(value):
    """The buckets counted off one by one: 256 of width 1, then 128 of each double width."""
    start, width, bucket = 0, 1, 0
    while True:
        count = 256 if width == 1 else 128
        if value < start + count * width:
            return bucket + (value - start) // width
        bucket += count
        start += count * width
        width *= 2


def hdr_of(counts):
    """An HdrHistogram that holds the counts."""
    hdr = HdrHistogram(1, HOUR_NS, SIGNIFICANT_DIGITS)
    np.frombuffer(hdr.counts, np.int64)[:] = counts
    used = np.flatnonzero(counts)
    hdr.set_internal_tacking_values(int(used[0]), int(used[-1]), int(counts.sum()))
    return hdr


def counted(values):
    """A histogram of values."""
    counts = histogram.empty()
    for value in values:
        record(counts, value)
    return counts


@given(st.lists(values_ns, min_size=1, max_size=60), st.floats(0, 1))
def test_percentiles_agree_with_sorted_values_within_the_error_bound(values, quantile):
    """H1: never below the true value, above it by at most 1/128."""
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


@given(values_ns)
def test_a_bucket_is_the_one_counted_off(value):
    """The highest bit finds the bucket that a walk over all widths finds."""
    assert naive_bucket(value) == bucket_of(value)


@given(st.lists(values_ns, min_size=1, max_size=60), st.floats(0.001, 1))
def test_counts_go_into_an_hdrhistogram_without_loss(values, quantile):
    """H4: as many cells, the same cell for each value, and the same percentile at the same rank."""
    counts = counted(values)
    recorded = HdrHistogram(1, HOUR_NS, SIGNIFICANT_DIGITS)
    assert BUCKETS == recorded.counts_len
    for value in values:
        assert recorded.record_value(value)
    assert list(recorded.counts) == counts.tolist()
    copied = hdr_of(counts)
    rank = int(np.ceil(quantile * len(values)))  # the package rounds a rank to the nearest, HdrHistogram up
    assert copied.get_value_at_percentile(100 * rank / len(values)) == percentile(counts, quantile)
    assert recorded.get_max_value() == percentile(counts, 1.0)


def test_the_usual_percentiles_are_hdrhistograms():
    """A hundred thousand values: each of the summary's percentiles."""
    values = np.random.default_rng(1).lognormal(11, 2, 100_000).astype(np.int64)
    counts = counted(values)
    hdr = hdr_of(counts)
    told = summary(counts)
    assert [hdr.get_value_at_percentile(100 * q) for _, q in QUANTILES] == [told[name] for name, _ in QUANTILES]
    assert hdr.get_mean_value() == pytest.approx(histogram.mean(counts), rel=ERROR_MAX)
    assert values.mean() == pytest.approx(histogram.mean(counts), rel=ERROR_MAX)


def test_buckets_follow_each_other_without_gaps():
    """Each bucket begins behind the end of the one before; the last one ends with the largest value."""
    ends = [int(bucket_end_ns(bucket)) for bucket in range(BUCKETS)]
    assert list(range(1, BUCKETS)) == [int(bucket_of(end + 1)) for end in ends[:-1]]
    assert VALUE_NS_MAX == ends[-1]
    assert HOUR_NS < VALUE_NS_MAX


def test_values_outside_the_range_are_counted_at_its_ends():
    """H3: a negative latency counts as 0, two hours as the largest."""
    counts = counted([-1, -(1 << 62), 2 * HOUR_NS, 1 << 62])
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
    """1 to 1000 ns: the percentiles are those of the values, up to a 128th."""
    told = summary(counted(range(1, 1_001)))
    assert ["count", "p50", "p90", "p99", "p99.9", "p99.99", "max"] == list(told)
    assert 1_000 == told["count"]
    for name, true_ns in (("p50", 500), ("p90", 900), ("p99", 990), ("p99.9", 999), ("max", 1_000)):
        assert true_ns <= told[name] <= true_ns * (1 + ERROR_MAX)


def test_an_empty_histogram_answers_zero():
    """Nothing counted: every figure is 0."""
    assert ["count", *(name for name, _ in QUANTILES)] == list(summary(histogram.empty()))
    assert not any(summary(histogram.empty()).values())
    assert histogram.mean(histogram.empty()) == 0


def test_the_middles_lie_in_their_buckets():
    """Each is half way between the end of the bucket before and its own."""
    ends = np.array([int(bucket_end_ns(bucket)) for bucket in range(BUCKETS)])
    assert (MIDDLES_NS <= ends).all()
    assert (MIDDLES_NS[1:] > ends[:-1]).all()


@pytest.mark.parametrize("quantile", [-0.1, 1.1, 99])
def test_a_quantile_is_a_fraction(quantile):
    """99 is not 0.99."""
    with pytest.raises(ValueError, match=f"quantile must be from 0 to 1, was {quantile}"):
        percentile(histogram.empty(), quantile)
