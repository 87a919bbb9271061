"""Replies find their orders, whatever else is reported between them, and none is counted twice."""

from collections import defaultdict, deque

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine.codes import CommandKind, Reason, ReportKind
from ringpit.engine.exchange import Exchange
from ringpit.engine.records import REPORT
from ringpit.ipc import histogram
from ringpit.perf.load_flow import MIXES, orders_of, slots_of, starts_to_commands
from ringpit.perf.load_match import Matcher, Seen

BASE = 1_000
REPLIES = (
    (ReportKind.ACCEPTED, 0),
    (ReportKind.AMENDED, 0),
    (ReportKind.CANCELED, 0),
    (ReportKind.REJECTED, 15),
)
OTHERS = (
    (ReportKind.FILL_MAKER, 0),
    (ReportKind.CANCELED, 20),
    (ReportKind.FILL_TAKER, 0),
    (ReportKind.TRIGGERED, 0),
)


def report(kind, reason, order, seq):
    """One REPORT record."""
    made = np.zeros(1, REPORT)
    made["kind"], made["reason"], made["order"], made["seq"] = kind, reason, order, seq
    return made


class Naive:
    """The plain way: a queue of due times for each id."""

    def __init__(self, slots, due_ns):
        self.waiting = defaultdict(deque)
        for slot, due in zip(slots, due_ns, strict=True):
            if slot >= 0:
                self.waiting[slot].append(due)
        self.seq = defaultdict(int)
        self.times = []
        self.counts = dict.fromkeys(("answered", "again", "foreign", "surplus"), 0)

    def take(self, kind, reason, order, seq, seen_ns, ids):
        """One report."""
        if (kind, reason) not in REPLIES:
            return
        slot = order - BASE - 1
        if not 0 <= slot < ids:
            self.counts["foreign"] += 1
        elif seq <= self.seq[slot]:
            self.counts["again"] += 1
        elif not self.waiting[slot]:
            self.counts["surplus"] += 1
        else:
            self.seq[slot] = seq
            self.times.append(seen_ns - self.waiting[slot].popleft())
            self.counts["answered"] += 1


@given(st.data())
def test_times_and_counts_are_those_of_queues(data):
    """Reports of any kind, for ids of ours or not, new or repeated: as the plain queues say."""
    ids = data.draw(st.integers(1, 5))
    slots = data.draw(st.lists(st.integers(-1, ids - 1), min_size=1, max_size=20))
    due_ns = np.sort(
        np.array(data.draw(st.lists(st.integers(0, 10**6), min_size=len(slots), max_size=len(slots))))
    )
    matcher = Matcher(np.array(slots, np.int64), ids, BASE, due_ns.astype(np.int64))
    naive = Naive(slots, due_ns.tolist())
    lines = st.tuples(st.sampled_from(REPLIES + OTHERS), st.integers(0, ids + 1), st.integers(1, 40))
    for number, ((kind, reason), slot, seq) in enumerate(data.draw(st.lists(lines, max_size=40))):
        seen_ns = 10**6 + number
        matcher.take(report(kind, reason, BASE + slot, seq), seen_ns)
        naive.take(kind, reason, BASE + slot, seq, seen_ns, ids)
    expected = histogram.empty()
    for duration_ns in naive.times:
        histogram.record(expected, duration_ns)
    assert expected.tolist() == matcher.told.tolist()
    assert list(naive.counts.values()) == matcher.counts[: len(naive.counts)].tolist()
    assert sum(slot >= 0 for slot in slots) == matcher.timed


def test_every_command_of_every_mix_gets_exactly_one_reply():
    """The rule that replies are told by, against the engine itself: nobody waits at the end, and nothing is left over."""
    for mix in MIXES:
        orders = orders_of(mix, 400, seed=3, events=3, zipf=1.0)
        exchange = Exchange()
        exchange.submit(orders.before)
        reports = exchange.submit(orders.records)
        slots = slots_of(orders, 0)
        matcher = Matcher(slots, orders.ids, 0, np.zeros(len(slots), np.int64))
        matcher.take(np.asarray(reports), 5)
        assert (mix, len(slots), 0, 0) == (
            mix,
            matcher.answered,
            int(matcher.counts[Seen.SURPLUS]),
            int(matcher.counts[Seen.FOREIGN]),
        )
        assert matcher.waiting.max() < 0


def test_refusals_are_told_by_reason():
    """A cancel of nothing is refused, and answered."""
    matcher = Matcher(np.zeros(1, np.int64), 1, BASE, np.zeros(1, np.int64))
    matcher.take(report(ReportKind.REJECTED, Reason.UNKNOWN_ORDER, BASE + 1, 1), 1)
    assert {"UNKNOWN_ORDER": 1} == matcher.refusals()
    assert 1 == matcher.answered


def test_what_no_report_answers_is_not_waited_for(tmp_path):
    """A settlement in a file is sent, and has no time."""
    file = tmp_path / "orders.ndjson"
    file.write_text(
        '{"Task":"CreateEvent","ID":7}\n'
        '{"Task":"Order","ID":7,"Order":{"OrderID":1,"Account":1,"Side":"Buy","Price":"0.5","Quantity":1}}\n'
        '{"Task":"Settlement","ID":7}\n'
    )
    orders = orders_of(str(file), 0, seed=1, events=1, zipf=0)
    kinds = orders.records["kind"][starts_to_commands(orders.records, orders.starts[:-1])]
    assert [CommandKind.NEW, CommandKind.SETTLE] == kinds.tolist()
    assert [0, -1] == slots_of(orders, 0).tolist()
