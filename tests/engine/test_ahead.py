"""Looking ahead changes nothing: reports and digests are the same with it and without, whatever comes."""

import numpy as np
import pytest
from numba import config

from ringpit.engine.codes import CommandKind, LevelKind, Side
from ringpit.engine.digest import digest
from ringpit.engine.exchange import Exchange
from ringpit.engine.limits import REPORTS_PER_STEP_MAX, Limits
from ringpit.engine.machine import process
from ringpit.engine.records import COMMAND, MARKER, REPORT
from ringpit.engine.tables import allocate
from ringpit.engine.validate import validate
from ringpit.testing.naive import Command, NaiveExchange, record_array, report_array, report_tuples
from ringpit.testing.sessions import session, with_levels

COMPILED = not config.DISABLE_JIT
COMMANDS = 20_000 if COMPILED else 600
LIMITS = Limits(events=2_048, orders=1_024, levels=1 << 20, keys=1_024, nodes=1 << 14)
KINDS = (LevelKind.LADDER, LevelKind.SKIP_LIST)
RING_SLOTS = 64
EXTREMES = (-(1 << 63), (1 << 63) - 1, -1, 1 << 31, 1 << 32, -(1 << 31))


class Shard:
    """Tables that are fed from a ring, as a worker feeds them, with or without looking ahead."""

    def __init__(self, ahead, *, begin_at=0, report_slots=1 << 10) -> None:
        """Empty, with market data; the ring's positions begin somewhere."""
        self.ahead = ahead
        self.t = allocate(LIMITS, market_data=True)
        self.ring = np.zeros(RING_SLOTS, COMMAND)
        self.position = begin_at
        self.seq = 1
        self.room = np.zeros(report_slots, REPORT)

    def apply(self, records) -> bytes:
        """The reports of at most RING_SLOTS records."""
        end_at = self.position + len(records)
        self.ring[np.arange(self.position, end_at) % RING_SLOTS] = records
        parts = []
        while self.position < end_at:
            reached, out = process(
                self.t, self.ring, self.ring.view(MARKER), self.position, end_at, self.seq, self.room, 0,
                len(self.room), self.ahead,
            )  # fmt: skip
            self.seq += reached - self.position
            self.position = reached
            parts.append(self.room[:out].tobytes())
        return b"".join(parts)


def batches(records, seed):
    """Parts of odd sizes, from one record to a ring full."""
    sizes = np.random.Generator(np.random.PCG64(seed)).integers(1, RING_SLOTS + 1, len(records))
    cuts = np.cumsum(sizes)
    return np.split(records, cuts[cuts < len(records)])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.lower())
@pytest.mark.parametrize("report_slots", [REPORTS_PER_STEP_MAX, 1 << 10])
def test_results_do_not_depend_on_it(kind, report_slots):
    """A session of everything there is, in batches of odd sizes, whole or suspended at each step."""
    shards = [Shard(ahead, begin_at=(1 << 40) + 5, report_slots=report_slots) for ahead in (0, 1)]
    for part in batches(with_levels(session(COMMANDS, seed=7), kind), 7):
        expected, got = (shard.apply(part) for shard in shards)
        assert expected == got
    without, with_it = shards
    assert digest(without.t) == digest(with_it.t)
    assert without.t.orders.tobytes() == with_it.t.orders.tobytes()
    validate(with_it.t)


def test_batches_do_not_matter():
    """One that looks into whole batches says the same as one that sees one record at a time, and has nothing to look at."""
    whole, single = Shard(1), Shard(1, begin_at=RING_SLOTS - 1)
    for part in batches(session(COMMANDS // 4, seed=8), 8):
        assert whole.apply(part) == b"".join(single.apply(part[i : i + 1]) for i in range(len(part)))
    assert digest(whole.t) == digest(single.t)


def spoilt(records, seed):
    """Records of which a third has nonsense in one field or two: kinds, events, ids, prices, quantities, times."""
    random = np.random.Generator(np.random.PCG64(seed))
    records = records.copy()
    places = np.flatnonzero((records["kind"] != CommandKind.MARKER) & (random.random(len(records)) < 0.33))
    for place in places:
        for name in random.choice(["kind", "event", "order", "account", "price", "quantity", "expires_ns"], 2):
            if name == "kind":
                records[place]["kind"] = random.choice([-128, -1, 0, 1, 2, 3, 9, 10, 13, 77, 127])
            else:
                records[place][name] = random.choice(EXTREMES)
    return records


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.lower())
def test_nonsense_does_no_harm(kind):
    """Unknown events and kinds, and the ends of int64 as ids and prices, give what the naive exchange says."""
    records = spoilt(session(COMMANDS // 4, seed=9), 9)
    naive, shard, blind = NaiveExchange(LIMITS, market_data=True), Shard(1), Shard(0)
    for part in batches(records, 9):
        leveled = with_levels(part, kind)
        got = shard.apply(leveled)
        assert blind.apply(leveled) == got
        expected = report_array(naive.run(part)).tobytes()
        assert expected == report_array(report_tuples(np.frombuffer(got, REPORT))).tobytes()
    assert naive.digest() == digest(shard.t)
    validate(shard.t)


@pytest.mark.parametrize("event", [0, 1, 2, -1, -(1 << 63), (1 << 63) - 1])
def test_nothing_is_there_yet(event):
    """On an empty shard, and for events that are settled, there is nothing to look at, and nothing breaks."""
    orders = [
        Command(kind=CommandKind.NEW, event=event, order=i, account=1, price=5, quantity=1) for i in range(30)
    ]
    cancels = [row._replace(kind=CommandKind.CANCEL) for row in orders]
    creation = Command(
        kind=CommandKind.CREATE_EVENT, event=event, price=1, quantity=9, payout=10, order=1, account=2
    )
    settlement = Command(kind=CommandKind.SETTLE, event=event)
    rounds = [[*orders, *cancels], [creation, *orders], [*cancels, settlement], [*orders, *cancels]]
    naive, shard = NaiveExchange(LIMITS, market_data=True), Shard(1)
    for records in rounds:
        expected = report_array(naive.run(records)).tobytes()
        got = np.frombuffer(shard.apply(record_array(records)), REPORT)
        assert expected == report_array(report_tuples(got)).tobytes()
    validate(shard.t)


def test_what_is_seen_may_be_gone():
    """Orders cancelled, traded and placed again between a look and its turn: each command looks everything up again."""
    creation = Command(
        kind=CommandKind.CREATE_EVENT, event=1, price=1, quantity=99, payout=100, order=1, account=2
    )
    first = Command(kind=CommandKind.NEW, event=1, order=1, account=1, price=50, quantity=1)
    circle = [
        first,
        first._replace(kind=CommandKind.CANCEL),
        first._replace(price=40),
        first._replace(order=2, price=1, side=Side.SELL),
        first._replace(kind=CommandKind.AMEND, price=30),
    ]
    naive, shard = NaiveExchange(LIMITS, market_data=True), Shard(1)
    for records in ([creation], circle * 12, circle * 12):
        expected = report_array(naive.run(records)).tobytes()
        got = np.frombuffer(shard.apply(record_array(records)), REPORT)
        assert expected == report_array(report_tuples(got)).tobytes()
    assert naive.digest() == digest(shard.t)


def test_an_order_for_no_where_there_is_no_no():
    """An event without NO refuses an order for NO; no level is looked up for it, as its price is none of the ladder's."""
    exchange = Exchange(LIMITS)
    exchange.create_event(1, low=1_000_000, high=1_000_063, payout=0)
    order = Command(kind=CommandKind.NEW, event=1, order=1, account=1, price=1_000_000, quantity=1, outcome=1)
    naive = NaiveExchange(LIMITS)
    naive.run(
        [
            Command(
                kind=CommandKind.CREATE_EVENT, event=1, price=1_000_000, quantity=1_000_063, order=1, account=2
            )
        ]
    )
    for count in (1, 6, 12, 30):
        records = [order._replace(order=i) for i in range(1, 1 + count)]
        reports = exchange.submit(record_array(records))["reason"].tolist()
        assert [report.reason for report in naive.run(records)] == reports
