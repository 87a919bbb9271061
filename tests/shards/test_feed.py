"""What is released, picked and grouped, beside plain Python."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from ringpit.engine import ReportKind
from ringpit.engine.records import REPORT
from ringpit.ipc.histogram import bucket_end_ns
from ringpit.shards import feed
from ringpit.shards.flow import flow, frames
from ringpit.shards.marks import mark
from ringpit.shards.mirror import allocate_mirror, apply, book_of
from ringpit.testing.outputs import SMALL, OutputRing

KEYS = st.one_of(st.integers(0, 5), st.integers(-(1 << 63), (1 << 63) - 1))


@given(
    steps=st.lists(st.integers(0, 3), max_size=16),
    base=st.sampled_from([0, 13, (5 << 40) + 9]),
    durable=st.integers(0, 40),
)
def test_releasable_is_the_first_that_is_not_durable(steps, base, durable):
    """The binary search over a ring, wherever it wraps, finds the first seq above the durable one."""
    slots = np.zeros(16, REPORT)
    seqs = np.cumsum(steps).tolist()
    for place, seq in enumerate(seqs):
        slots[(base + place) % 16]["seq"] = seq
    expected = base + sum(seq <= durable for seq in seqs)
    assert expected == feed.releasable(slots, base, base + len(seqs), durable)


@given(keys=st.lists(KEYS, max_size=60), rounds=st.integers(1, 3), apart=st.booleans())
def test_groups_keep_order(keys, rounds, apart):
    """Groups come as their keys first came, entries in order within each; not apart, all in one with key 0 (G2)."""
    batches = feed.allocate_batches(60)
    entries = np.arange(1_000, 1_000 + len(keys))
    expected: dict[int, list[int]] = {}
    for entry, key in zip(entries.tolist(), keys, strict=True):
        expected.setdefault(key if apart else 0, []).append(entry)
    for _ in range(rounds):
        groups = feed.group(batches, entries, np.array(keys, np.int64), len(keys), apart)
    found = [
        (int(batches.key[g]), batches.order[batches.start[g] : batches.start[g + 1]].tolist())
        for g in range(groups)
    ]
    assert list(expected.items()) == found


@given(seed=st.integers(0, 1 << 30), cut=st.floats(0, 1), back=st.floats(0, 1))
@settings(max_examples=30)
def test_picks_are_what_was_not_sent(seed, cut, back):
    """Read in two overlapping parts, each report and trade is picked once, with its frame's time and its book (G1)."""
    ring = OutputRing(slots=1 << 14)
    reports = ring.tell(frames(flow(100, seed=seed, events=3, accounts=7), 5, engine_ns=50_000))
    end = int(ring.tail.cells[0])
    start = end - len(reports)
    middle = start + int(cut * len(reports))
    mirror = allocate_mirror(SMALL)
    apply(mirror, ring.slots, start, end)
    picks = feed.allocate_picks(len(reports))
    progress = np.zeros(3, np.int64)
    found = []
    trades = []
    repeated = 0
    for begin, stop in ((start, middle), (middle - int(back * (middle - start)), end)):
        feed.pick(picks, progress, mirror, ring.slots, begin, stop)
        count, traded, again = picks.counts.tolist()
        repeated += again
        found += zip(*(column[:count].tolist() for column in picks[:6]), strict=True)
        trades += [
            (*(column[i] for column in (picks.seq, picks.index)), key)
            for i, key in zip(picks.trades[:traded], picks.trade_key[:traded], strict=True)
        ]
    frame_ns = 0
    expected = []
    for position, report in enumerate(reports, start):
        if report["kind"] == ReportKind.FRAME:
            frame_ns = report["price"]
        elif report["kind"] < ReportKind.LEVEL:
            key = report["account"] if report["kind"] <= ReportKind.REJECTED else 0
            book = book_of(mirror, report["event"])
            expected.append((position, report["seq"], report["index"], frame_ns, book, key))
    assert expected == found
    fills = reports[reports["kind"] == ReportKind.FILL_TAKER]
    assert fills[["seq", "index", "event"]].tolist() == trades
    overlap = reports["kind"][middle - int(back * (middle - start)) - start : middle - start]
    assert (overlap < ReportKind.LEVEL).sum() == repeated


def ring_of_frames(*frames):
    """A ring that holds FRAME reports of (seq, ingress_ns, engine_ns, records), each with a report behind it."""
    slots = np.zeros(16, REPORT)
    for number, (seq, ingress_ns, engine_ns, records) in enumerate(frames):
        slots[2 * number] = (ReportKind.FRAME, 0, 0, 0, 0, seq, 0, 0, 0, engine_ns, ingress_ns, records)
        slots[2 * number + 1] = (ReportKind.ACCEPTED, 0, 0, 0, 0, seq + 1, 7, 1, 1, 50, 1, 1)
    return slots


def marked(marks, *passed):
    """Marks of (seq, ns)."""
    for seq, now_ns in passed:
        mark(marks, seq, now_ns)


def told(counts):
    """The values in a histogram and how often each is there."""
    return [(int(bucket_end_ns(bucket)), int(counts[bucket])) for bucket in np.flatnonzero(counts)]


@pytest.mark.parametrize(
    ("early", "matched", "durable", "publish_ns"),
    [
        (False, [(9, 150)], [(9, 170)], 30),
        (False, [(9, 180)], [(9, 170)], 20),
        (False, [], [(9, 170)], 30),
        (False, [(9, 150)], [], 100),
        (True, [(9, 150)], [(9, 170)], 50),
        (True, [], [(9, 170)], 100),
    ],
)
def test_publishing_begins_when_a_frame_could_leave(early, matched, durable, publish_ns):
    """When it is matched and durable, or matched alone; where that is not known, when the worker took it."""
    timing = feed.no_timing()
    marked(timing.matched_marks, *matched)
    marked(timing.durable_marks, *durable)
    feed.measure(timing, ring_of_frames((4, 60, 100, 5)), 0, 2, 200, early)
    assert [(publish_ns, 5)] == told(timing.publish_ns)
    assert [(140, 5)] == told(timing.whole_ns)


def test_a_frame_is_counted_once_and_never_below_nothing():
    """What comes again was counted; a clock that was set back makes no time negative."""
    timing = feed.no_timing()
    slots = ring_of_frames((4, 60, 100, 5), (10, 900, 950, 2))
    for begin, end in ((0, 2), (0, 4), (2, 4)):
        feed.measure(timing, slots, begin, end, 200, True)
    assert [(0, 2), (140, 5)] == told(timing.whole_ns)
