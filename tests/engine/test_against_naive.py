"""
The engine beside the naive exchange: the same reports, the same resting orders, the same digest, always.

Two engines run at once. One takes whole batches and has all the room for reports; the other takes record
by record and has room for one step's reports only, so that every long command is suspended and resumed. Both
are validated after each step. Pools are as small as they may be, ids and prices few, so that everything collides.
"""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from numba import config

from ringpit.engine.codes import CommandKind, Reason, ReportKind, Side, TimeInForce
from ringpit.engine.exchange import Exchange
from ringpit.engine.limits import QUANTITY_MAX, REPORTS_PER_STEP_MAX, Limits
from ringpit.engine.records import COMMAND, MARKER
from ringpit.shards.flow import creations, flow, frames
from ringpit.testing.naive import Command, Marker, NaiveExchange, report_tuples

COMPILED = not config.DISABLE_JIT
SMALL = Limits(events=4, orders=64, levels=4_096, keys=64)
EVENTS = st.integers(1, 6)
INT8 = st.integers(-128, 127)


def records_of(rows) -> np.ndarray:
    """Commands and markers, given as named tuples, as one COMMAND array."""
    parts = [np.array([row], MARKER if isinstance(row, Marker) else COMMAND).view(COMMAND) for row in rows]
    return np.concatenate(parts) if parts else np.zeros(0, COMMAND)


class Trio:
    """The naive exchange and two engines, fed alike and compared report for report."""

    def __init__(self, limits: Limits = SMALL) -> None:
        """Start all three empty, with market data."""
        self.naive = NaiveExchange(limits, market_data=True)
        self.roomy = Exchange(limits, market_data=True)
        self.cramped = Exchange(limits, market_data=True, report_slots=REPORTS_PER_STEP_MAX)

    def apply(self, records: np.ndarray) -> list:
        """Feed records to all three and return the reports that they agree on."""
        expected = self.naive.run(records)
        assert expected == report_tuples(self.roomy.submit(records))
        single = [self.cramped.submit(records[i : i + 1]) for i in range(len(records))]
        assert expected == [report for reports in single for report in report_tuples(reports)]
        return expected

    def check(self) -> None:
        """All three rest alike, and every invariant holds."""
        self.naive.check()
        for engine in (self.roomy, self.cramped):
            assert self.naive.digest() == engine.digest()
            engine.validate()
            for event in self.naive.events:
                assert self.naive.resting(event) == [row[1:] for row in engine.resting(event).tolist()]
                bids, asks = engine.depth(event, 1_000)
                assert self.naive.depth(event) == (bids.tolist(), asks.tolist())


def new(order, price, quantity=1, *, side=Side.BUY, event=1, account=1, **fields):
    """A NEW limit order."""
    return Command(
        kind=CommandKind.NEW, side=side, event=event, order=order, account=account, price=price,
        quantity=quantity, **fields,
    )  # fmt: skip


QUANTITIES = st.one_of(
    st.integers(1, 9), st.integers(1, 80), st.sampled_from([-1, 0, QUANTITY_MAX, QUANTITY_MAX + 1])
)
ORDERS = st.builds(
    Command,
    kind=st.sampled_from([CommandKind.NEW] * 5 + [CommandKind.CANCEL] * 2 + [CommandKind.AMEND] * 3),
    side=st.integers(0, 1),
    order_type=st.sampled_from([0, 0, 0, 1]),
    time_in_force=st.sampled_from([0, 0, 0, 1, 2]),
    flags=st.sampled_from([0, 0, 0, 1]),
    event=EVENTS,
    order=st.integers(1, 12),
    account=st.sampled_from([1, 1, 1, 2]),
    price=st.integers(0, 11),
    quantity=QUANTITIES,
)
CREATIONS = st.builds(
    Command,
    kind=st.just(CommandKind.CREATE_EVENT),
    event=EVENTS,
    price=st.just(1),
    quantity=st.sampled_from([10, 10, 10, 200, 0, 1 << 20]),
    payout=st.sampled_from([300, 300, 300, 301, 5]),
    order=st.just(1),
    account=st.sampled_from([2, 2, 2, 19]),
)
SETTLEMENTS = st.builds(Command, kind=st.just(CommandKind.SETTLE), event=EVENTS)
OTHERS = st.builds(Command, kind=st.sampled_from([CommandKind.TICK, 0, 7, 9, 127]), event=EVENTS)
ODD_FIELDS = ("side", "order_type", "time_in_force", "flags", "self_trade", "outcome", "expires_ns")


@st.composite
def odd_orders(draw):
    """An order with one field that this version does not know, or with a verdict from the edge."""
    order = draw(ORDERS)
    if draw(st.booleans()):
        return order._replace(verdict=draw(st.sampled_from(list(Reason)[1:])))
    return order._replace(**{draw(st.sampled_from(ODD_FIELDS)): draw(INT8)})


COMMANDS = st.one_of(ORDERS, ORDERS, ORDERS, ORDERS, ORDERS, ORDERS, CREATIONS, odd_orders(), OTHERS)


class ExchangeMachine(RuleBasedStateMachine):
    """Naive exchange, roomy engine and cramped engine never disagree."""

    def __init__(self) -> None:
        """Open two events, so that there is something to trade in from the start."""
        super().__init__()
        self.trio = Trio()
        self.trio.apply(creations(2, low=1, high=10, payout=300))

    @rule(commands=st.lists(COMMANDS, min_size=1, max_size=12))
    def batch(self, commands):
        """Commands in a row without a marker."""
        self.trio.apply(records_of(commands))

    @rule(command=CREATIONS)
    def create(self, command):
        """An event: new, again, other, nonsensical, or one too many."""
        self.trio.apply(records_of([command]))

    @rule(command=SETTLEMENTS)
    def settle(self, command):
        """The end of an event, known or not, settled or not."""
        self.trio.apply(records_of([command]))

    @rule(event=EVENTS, price=st.integers(1, 10), side=st.integers(0, 1), count=st.integers(8, 70))
    def stack(self, event, price, side, count):
        """So many orders at one price that the pool runs out."""
        self.trio.apply(records_of(new(100 + i, price, side=side, event=event) for i in range(count)))

    @rule(
        event=EVENTS,
        side=st.integers(0, 1),
        order=st.integers(1, 12),
        quantity=st.integers(1, 80),
        rests=st.booleans(),
    )
    def sweep(self, event, side, order, quantity, rests):
        """An order through many levels and orders, whose remainder rests at the end of the range or lapses."""
        price = (10, 1)[side]
        force = TimeInForce.GTC if rests else TimeInForce.IOC
        self.trio.apply(records_of([new(order, price, quantity, side=side, event=event, time_in_force=force)]))

    @rule(
        key=st.tuples(st.integers(0, 3), st.integers(0, 1)),
        body_hash=st.integers(0, 1),
        engine_ns=st.integers(0, 1_000),
        commands=st.lists(COMMANDS, max_size=6),
    )
    def frame(self, key, body_hash, engine_ns, commands):
        """A frame: without key, with a new one, or with one seen before, with the same body or another."""
        marker = Marker(
            kind=CommandKind.MARKER, count=len(commands), key_low=key[0], key_high=key[1], body_hash=body_hash,
            engine_ns=engine_ns, ingress_ns=5, position=77, first_event=3,
        )  # fmt: skip
        self.trio.apply(records_of([marker, *commands]))

    @rule(first=st.integers(1, 100), count=st.integers(1, 70))
    def many_keys(self, first, count):
        """Empty frames with consecutive keys, so that old ones leave the window."""
        self.trio.apply(
            records_of(Marker(kind=CommandKind.MARKER, key_low=first + i, body_hash=1) for i in range(count))
        )

    @invariant()
    def alike(self):
        """The three rest alike, and every invariant holds."""
        self.trio.check()


TestExchangeMachine = ExchangeMachine.TestCase
TestExchangeMachine.settings = settings(
    max_examples=40 if COMPILED else 25, stateful_step_count=20, deadline=None
)


def session(count: int, seed: int) -> None:
    """Framed flow over 20 events, some frames sent twice, in batches of odd sizes, on naive and engine."""
    limits = Limits(events=64, orders=1 << 17, levels=4_096, keys=1_024)
    records = frames(flow(count, seed=seed, events=20), 97, publisher_key=5)
    records = np.concatenate([records, records[-980:]])  # the last ten frames again
    naive = NaiveExchange(limits, market_data=True)
    expected = naive.run(records)
    engine = Exchange(limits, market_data=True)
    cuts = np.cumsum(np.random.Generator(np.random.PCG64(seed)).integers(1, 5_000, 2 + count // 2_000))
    got = [report for part in np.split(records, cuts) for report in report_tuples(engine.submit(part))]
    assert expected == got
    assert naive.digest() == engine.digest()
    kinds = {ReportKind(report.kind) for report in expected}
    assert set(ReportKind) - {ReportKind.EVENT_SETTLED} == kinds, "the flow must show every kind of report"
    naive.check()
    engine.validate()


@pytest.mark.parametrize("seed", [1, 2])
def test_seeded_session_agrees(seed):
    """A seeded session gives the same reports and digest on both, frames sent again included."""
    session(50_000 if COMPILED else 5_000, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_long_session_agrees(seed):
    """A million commands, three times, give the same reports and digest on both."""
    session(1_000_000, seed)


@pytest.mark.parametrize("report_slots", [REPORTS_PER_STEP_MAX, 64, 1 << 16])
def test_batches_do_not_matter(report_slots):
    """The same records in batches of any size, with any room for reports, give the same bytes."""
    records = frames(flow(20_000 if COMPILED else 500, seed=3, events=5), 10, publisher_key=1)
    limits = Limits(events=16, orders=1 << 14, levels=4_096)
    expected = Exchange(limits, market_data=True).submit(records).tobytes()
    for size in (7, 64, 1_000):
        engine = Exchange(limits, market_data=True, report_slots=report_slots)
        parts = [engine.submit(records[start : start + size]) for start in range(0, len(records), size)]
        assert expected == np.concatenate(parts).tobytes()


def test_market_data_changes_nothing_else():
    """Without market data the reports are those with it, less the market data, with indices of their own."""
    commands = flow(5_000 if COMPILED else 300, seed=4, events=3)
    with_data, without = (Exchange(SMALL, market_data=on).submit(commands) for on in (True, False))
    kept = with_data[with_data["kind"] < ReportKind.LEVEL].copy()
    assert set(without["kind"]) <= {kind for kind in ReportKind if kind < ReportKind.LEVEL}
    assert without[["kind", "seq", "order", "price", "quantity", "leaves"]].tolist() == (
        kept[["kind", "seq", "order", "price", "quantity", "leaves"]].tolist()
    )


def test_indices_are_dense():
    """Reports of one seq count from 0 without a gap, and seqs never run backwards."""
    records = frames(flow(5_000 if COMPILED else 300, seed=5), 10, publisher_key=1)
    reports = Exchange(market_data=True, report_slots=64).submit(records)
    starts = np.flatnonzero(np.diff(reports["seq"], prepend=-1))
    assert (np.diff(reports["seq"]) >= 0).all()
    lengths = np.diff(np.append(starts, len(reports)))
    assert np.concatenate([np.arange(length) for length in lengths]).tolist() == reports["index"].tolist()


def test_settled_events_give_their_memory_back():
    """Events filled to the last slot and settled, over and over, find room for as many orders each time."""
    rounds = 200 if COMPILED else 12
    trio = Trio(Limits(events=rounds, orders=64, levels=4_096, keys=64))
    for event in range(1, rounds + 1):
        high = (10, 100, 1_000)[event % 3]
        creation = creations(1, first_event=event, low=1, high=high, payout=2_000)
        filling = records_of(new(i, 1 + i % 10, event=event) for i in range(64))
        settlement = records_of([Command(kind=CommandKind.SETTLE, event=event)])
        trio.apply(creation)
        accepted = trio.apply(filling)
        assert 64 == sum(report.kind == ReportKind.ACCEPTED for report in accepted)
        closed = trio.apply(settlement)
        assert (ReportKind.EVENT_SETTLED, 64) == (closed[64].kind, closed[64].leaves)
    trio.check()


def test_sweep_is_suspended_and_resumed():
    """
    A sweep of thousands of fills with room for eight reports a step gives the reports of one with room for all.

    Its remainder rests and remembers what was filled before, between and after the suspensions.
    """
    makers = records_of(new(i, 1 + i % 99, side=Side.SELL) for i in range(5_000 if COMPILED else 300))
    trio = Trio(Limits(events=1, orders=8_192, levels=4_096, keys=64))
    trio.apply(creations(1))
    trio.apply(makers)
    sweep = new(9_001, 99, len(makers) + 10)
    reports = trio.apply(records_of([sweep]))
    assert len(makers) == sum(report.kind == ReportKind.FILL_MAKER for report in reports)
    assert 100 == sum(report.kind == ReportKind.LEVEL for report in reports)
    amend = sweep._replace(kind=CommandKind.AMEND, quantity=len(makers) + 3)
    assert 3 == trio.apply(records_of([amend]))[0].leaves
    (gone, *_) = trio.apply(records_of([amend._replace(quantity=len(makers))]))
    assert (ReportKind.CANCELED, 3) == (gone.kind, gone.quantity)
    trio.check()


@pytest.mark.parametrize("kind", ["NEW", "CANCEL", "AMEND", "CREATE_EVENT", "SETTLE"])
def test_the_edges_verdict_is_the_reason(kind):
    """What the edge found wrong is the reason of the reject, before anything else is looked at."""
    trio = Trio()
    command = new(1, 5)._replace(kind=CommandKind[kind], verdict=Reason.PRICE_NOT_ON_TICK)
    (report,) = trio.apply(records_of([command]))
    assert (ReportKind.REJECTED, Reason.PRICE_NOT_ON_TICK) == (report.kind, report.reason)
