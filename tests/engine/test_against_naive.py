"""
The engine beside the naive exchange: the same reports, the same open orders, the same digest, always.

Four engines run at once: with ladders and with skip lists, and of each one that takes whole batches and has all the
room for reports, and one that takes record by record and has room for one step's reports only, so that every long
command is suspended and resumed. All are validated after each step. Pools are as small as they may be, ids, accounts and
prices few, so that everything collides.
"""

from itertools import chain

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from numba import config

from ringpit.engine.codes import (
    CommandKind,
    Flag,
    LevelKind,
    OrderType,
    Reason,
    ReportKind,
    SelfTrade,
    Side,
    TimeInForce,
)
from ringpit.engine.exchange import Exchange
from ringpit.engine.limits import MONEY_MAX, QUANTITY_MAX, REPORTS_PER_STEP_MAX, Limits
from ringpit.shards.flow import creations, flow, frames
from ringpit.testing.naive import (
    Bands,
    Command,
    Extension,
    Marker,
    NaiveExchange,
    record_array,
    report_array,
    report_tuples,
)
from ringpit.testing.sessions import session, with_levels

COMPILED = not config.DISABLE_JIT
SMALL = Limits(events=5, orders=64, levels=4_096, keys=64, nodes=1_024, grids=1)
KINDS = (LevelKind.LADDER, LevelKind.SKIP_LIST)


class Quintet:
    """The naive exchange and four engines, fed alike and compared report for report."""

    def __init__(self, limits: Limits = SMALL) -> None:
        """Start all five empty, with market data."""
        self.naive = NaiveExchange(limits, market_data=True)
        self.roomy = {kind: Exchange(limits, market_data=True) for kind in KINDS}
        self.cramped = {
            kind: Exchange(limits, market_data=True, report_slots=REPORTS_PER_STEP_MAX) for kind in KINDS
        }

    def apply(self, records: np.ndarray) -> list:
        """Feed records to all five and return the reports that they agree on."""
        expected = self.naive.run(records)
        for kind in KINDS:
            leveled = with_levels(records, kind)
            assert expected == report_tuples(self.roomy[kind].submit(leveled))
            single = [self.cramped[kind].submit(leveled[i : i + 1]) for i in range(len(leveled))]
            assert expected == [report for reports in single for report in report_tuples(reports)]
        return expected

    def check(self) -> None:
        """All five keep the same orders, and every invariant holds."""
        self.naive.check()
        for engine in (*self.roomy.values(), *self.cramped.values()):
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


# -- what the state machine draws: lists of records, each a command behind what completes it -------------------

EVENTS = st.sampled_from([1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6])
IDS = st.integers(1, 14)
ACCOUNTS = st.sampled_from([1, 1, 1, 2, 2, 3])
PRICES = st.one_of(st.integers(1, 10), st.integers(4, 7), st.integers(0, 11))
TIMES_NS = st.integers(1, 60)
QUANTITIES = st.one_of(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 80),
    st.sampled_from([-1, 0, QUANTITY_MAX, QUANTITY_MAX + 1, MONEY_MAX, MONEY_MAX + 1]),
)
TYPES = st.sampled_from([OrderType.LIMIT] * 12 + list(OrderType) * 2)
RESTING_TIMES = st.sampled_from([TimeInForce.GTC, TimeInForce.GTC, TimeInForce.GTD, TimeInForce.DAY])
TAKING_TIMES = st.sampled_from([TimeInForce.IOC, TimeInForce.FOK])
SPECIAL = ("", "", "", "taking", "post-only", "hidden", "iceberg", "iceberg", "all-or-none", "all-or-none")
FLAGS = {"post-only": Flag.POST_ONLY, "hidden": Flag.HIDDEN, "all-or-none": Flag.ALL_OR_NONE}
INT8 = st.integers(-128, 127)


@st.composite
def new_orders(draw):
    """A NEW that asks for nothing that cannot be, with its extension if it needs one."""
    event, order_type = draw(EVENTS), draw(TYPES)
    special = draw(st.sampled_from(SPECIAL)) if order_type == OrderType.LIMIT else ""
    takes = special == "taking" or order_type in (OrderType.MARKET, OrderType.MONEY)
    time_in_force = draw(TAKING_TIMES if takes and order_type != OrderType.MONEY else RESTING_TIMES)
    has_price = order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) or draw(st.booleans())
    extension = {
        "display": draw(st.integers(1, 4)) if special == "iceberg" else 0,
        "trigger": draw(st.integers(1, 10)) if order_type >= OrderType.STOP else 0,
        "trail": draw(st.integers(1, 4)) if order_type == OrderType.TRAILING_STOP else 0,
        "group": draw(st.sampled_from([0, 0, 0, 1, 2])),
    }
    if order_type == OrderType.TRAILING_STOP and draw(st.booleans()):
        extension["trigger"] = 0
    command = new(
        draw(IDS), draw(PRICES) if has_price else 0, draw(QUANTITIES),
        side=Side.BUY if order_type == OrderType.MONEY else draw(st.integers(0, 1)), event=event, account=draw(ACCOUNTS),
        order_type=order_type, time_in_force=time_in_force, self_trade=draw(st.sampled_from([0, 0, 0, *SelfTrade])),
        outcome=0 if event in (3, 6) else draw(st.sampled_from([0, 0, 1])),
        expires_ns=draw(TIMES_NS) if time_in_force == TimeInForce.GTD else 0,
        flags=FLAGS.get(special, 0) | (0 if has_price else Flag.NO_PRICE) | (Flag.EXTENDED if any(extension.values()) else 0),
    )  # fmt: skip
    if not any(extension.values()):
        return [command]
    return [Extension(kind=CommandKind.EXTENSION, event=event, **extension), command]


CHANGES = st.builds(
    Command,
    kind=st.sampled_from(
        [CommandKind.CANCEL, CommandKind.AMEND, CommandKind.AMEND, CommandKind.REDUCE, CommandKind.REPLACE]
    ),
    flags=st.sampled_from([0, 0, Flag.NO_PRICE]),
    event=EVENTS,
    order=IDS,
    account=ACCOUNTS,
    price=PRICES,
    quantity=QUANTITIES,
)
MASS_CANCELS = st.builds(
    Command,
    kind=st.just(CommandKind.MASS_CANCEL),
    side=st.sampled_from([0, 1, 2, 2, 3]),
    flags=st.sampled_from([0, 0, Flag.ALL_EVENTS, Flag.ALL_EVENTS, Flag.EXTENDED]),
    event=EVENTS,
    order=st.sampled_from([0, 0, 1, 2, -1]),
    account=st.integers(0, 3),
)
TICKS = st.just(Command(kind=CommandKind.TICK))

# What the events are that can be made: event 2 has limits, 3 no NO, 4 bands and a closing time, 5 other bands.
BANDED = Bands(
    kind=CommandKind.BANDS, count=3, event=4, last_1=4, step_1=3, last_2=7, step_2=1, last_3=10, step_3=3
)
OTHER_BANDS = Bands(kind=CommandKind.BANDS, count=1, event=5, last_1=10, step_1=1)
LIMITING = Extension(kind=CommandKind.EXTENSION, event=2, orders_max=9, account_orders_max=4)
PLAIN = Command(kind=CommandKind.CREATE_EVENT, event=1, price=1, quantity=10, payout=11, order=1, account=2)
CREATIONS = {
    1: [PLAIN],
    2: [LIMITING, PLAIN._replace(event=2, flags=Flag.EXTENDED)],
    3: [PLAIN._replace(event=3, payout=0)],
    4: [BANDED, PLAIN._replace(event=4, expires_ns=50)],
    5: [OTHER_BANDS, PLAIN._replace(event=5)],
    6: [PLAIN._replace(event=6, price=0, quantity=1 << 20, payout=0)],
}


@st.composite
def creations_of_any(draw):
    """A CREATE_EVENT: new, again, of another content, or of none that can be."""
    *before, command = CREATIONS[draw(st.integers(1, 6))]
    name, value = draw(
        st.sampled_from(
            [("order", 1)] * 8
            + [
                ("quantity", 9),
                ("payout", 12),
                ("account", 19),
                ("order", 0),
                ("order_type", 3),
                ("expires_ns", -1),
            ]
            + [
                ("expires_ns", 70),
                ("flags", Flag.EXTENDED),
                ("flags", Flag.NO_PRICE),
                ("price", 11),
                ("event", 9),
            ]
        )
    )
    return [*before, command._replace(**{name: value})]


@st.composite
def odd_records(draw):
    """A command that is spoilt: one field, the edge's verdict, or an extension that is missing, misplaced or another's."""
    *before, command = draw(st.one_of(new_orders(), CHANGES.map(lambda change: [change])))
    way = draw(st.sampled_from(["field", "field", "field", "verdict", "drop", "turn", "extension"]))
    if way == "verdict":
        return [*before, command._replace(verdict=draw(st.sampled_from(list(Reason)[1:])))]
    if way == "drop":
        return [command]
    if way == "turn":
        return [command, *before]
    if way == "extension" and before:
        name = draw(st.sampled_from(["event", "trigger", "trail", "display", "group", "orders_max"]))
        return [before[0]._replace(**{name: draw(st.integers(-2, 12))}), command]
    name = draw(
        st.sampled_from(
            ["side", "order_type", "time_in_force", "flags", "self_trade", "outcome", "expires_ns", "payout"]
        )
    )
    return [*before, command._replace(**{name: draw(st.one_of(st.integers(-1, 6), INT8))})]


STRAYS = st.one_of(
    st.builds(Command, kind=st.sampled_from([0, 13, 127]), event=EVENTS, outcome=st.integers(0, 1)),
    st.builds(Extension, kind=st.just(CommandKind.EXTENSION), event=EVENTS, display=st.integers(0, 3)),
    st.sampled_from([BANDED, OTHER_BANDS, BANDED._replace(count=0), BANDED._replace(count=7)]),
)
ALONE = st.one_of(CHANGES, CHANGES, MASS_CANCELS, TICKS, STRAYS).map(lambda record: [record])
ORDERS = new_orders()
STEPS = st.one_of(
    ORDERS, ORDERS, ORDERS, ORDERS, ORDERS, ORDERS, ALONE, ALONE, creations_of_any(), odd_records()
)
BATCHES = st.lists(STEPS, min_size=1, max_size=10).map(lambda steps: list(chain(*steps)))


class ExchangeMachine(RuleBasedStateMachine):
    """The naive exchange and the four engines never disagree."""

    def __init__(self) -> None:
        """Open three events, so that there is something to trade in from the start."""
        super().__init__()
        self.quintet = Quintet()
        self.quintet.apply(record_array([*CREATIONS[1], *CREATIONS[2], *CREATIONS[3]]))

    @rule(records=BATCHES)
    def batch(self, records):
        """Commands in a row without a marker."""
        self.quintet.apply(record_array(records))

    @rule(records=creations_of_any())
    def create(self, records):
        """An event: new, again, other, nonsensical, or one too many."""
        self.quintet.apply(record_array(records))

    @rule(event=EVENTS)
    def settle(self, event):
        """The end of an event, known or not, settled or not."""
        self.quintet.apply(record_array([Command(kind=CommandKind.SETTLE, event=event)]))

    @rule(engine_ns=TIMES_NS)
    def expire(self, engine_ns):
        """Time goes on, or not, and what is due expires."""
        marker = Marker(kind=CommandKind.MARKER, count=1, engine_ns=engine_ns)
        self.quintet.apply(record_array([marker, Command(kind=CommandKind.TICK)]))

    @rule(event=EVENTS, price=st.integers(1, 10), side=st.integers(0, 1), count=st.integers(8, 70))
    def stack(self, event, price, side, count):
        """So many orders at one price that the pool runs out."""
        self.quintet.apply(record_array(new(100 + i, price, side=side, event=event) for i in range(count)))

    @rule(event=EVENTS, count=st.integers(2, 20), side=st.integers(0, 1), trigger=st.integers(3, 8))
    def stack_stops(self, event, count, side, trigger):
        """Stops that set each other off: each a step behind the one before."""
        away = 1 if side == Side.BUY else -1
        records = []
        for i in range(count):
            place = min(max(trigger + away * (i % 4), 1), 10)
            extension = Extension(kind=CommandKind.EXTENSION, event=event, trigger=place)
            stop = new(
                200 + i, 0, 1 + i % 3, side=side, event=event, account=1 + i % 3, order_type=OrderType.STOP
            )
            records += [extension, stop._replace(flags=Flag.EXTENDED | Flag.NO_PRICE)]
        self.quintet.apply(record_array(records))

    @rule(
        event=EVENTS,
        side=st.integers(0, 1),
        order=IDS,
        quantity=st.integers(1, 80),
        mode=st.sampled_from(list(SelfTrade)),
        time_in_force=st.sampled_from([TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK]),
    )
    def sweep(self, event, side, order, quantity, mode, time_in_force):
        """An order through many levels and orders, whose remainder rests at the end of the range or lapses."""
        taker = new(order, (10, 1)[side], quantity, side=side, event=event, account=3, self_trade=mode)
        self.quintet.apply(record_array([taker._replace(time_in_force=time_in_force)]))

    @rule(
        key=st.tuples(st.integers(0, 3), st.integers(0, 1)),
        body_hash=st.integers(0, 1),
        engine_ns=TIMES_NS,
        records=st.one_of(st.just([]), BATCHES),
    )
    def frame(self, key, body_hash, engine_ns, records):
        """A frame: without key, with a new one, or with one seen before, with the same body or another."""
        marker = Marker(
            kind=CommandKind.MARKER, count=len(records), key_low=key[0], key_high=key[1], body_hash=body_hash,
            engine_ns=engine_ns, ingress_ns=5, position=77, first_event=3,
        )  # fmt: skip
        self.quintet.apply(record_array([marker, *records]))

    @rule(first=st.integers(1, 100), count=st.integers(1, 70))
    def many_keys(self, first, count):
        """Empty frames with consecutive keys, so that old ones leave the window."""
        self.quintet.apply(
            record_array(Marker(kind=CommandKind.MARKER, key_low=first + i, body_hash=1) for i in range(count))
        )

    @invariant()
    def alike(self):
        """The five keep the same orders, and every invariant holds."""
        self.quintet.check()


TestExchangeMachine = ExchangeMachine.TestCase
TestExchangeMachine.settings = settings(
    max_examples=40 if COMPILED else 25, stateful_step_count=20, deadline=None
)


# -- long sessions --------------------------------------------------------------------------------------------


def agree_on(records: np.ndarray, limits: Limits, seed: int, every: int = 4_000) -> set[ReportKind]:
    """Both structures of the engine, in batches of odd sizes, say what the naive exchange says; the kinds of what was said."""
    naive = NaiveExchange(limits, market_data=True)
    engines = {kind: Exchange(limits, market_data=True) for kind in KINDS}
    cuts = np.cumsum(
        np.random.Generator(np.random.PCG64(seed)).integers(1, every, 2 + 2 * len(records) // every)
    )
    kinds: set[ReportKind] = set()
    for part in np.split(records, cuts):
        expected = report_array(naive.run(part))
        kinds |= {ReportKind(kind) for kind in np.unique(expected["kind"])}
        for kind, engine in engines.items():
            got = report_array(report_tuples(engine.submit(with_levels(part, kind))))
            assert expected.tobytes() == got.tobytes(), first_difference(expected, got)
            assert naive.digest() == engine.digest()
    naive.check()
    for engine in engines.values():
        engine.validate()
    return kinds


def first_difference(expected: np.ndarray, got: np.ndarray) -> str:
    """Where two arrays of reports part, with both rows."""
    count = min(len(expected), len(got))
    where = (
        int(np.argmax(expected[:count] != got[:count])) if (expected[:count] != got[:count]).any() else count
    )
    return f"report {where}: naive {expected[where : where + 1]}, engine {got[where : where + 1]}"


SESSION_LIMITS = Limits(events=2_048, orders=1_024, levels=1 << 20, keys=1_024, nodes=1 << 14)
FLOW_LIMITS = Limits(events=64, orders=1 << 17, levels=4_096, keys=1_024, nodes=1 << 14)


@pytest.mark.parametrize("seed", [1, 2])
def test_seeded_session_agrees(seed):
    """A session of everything there is gives the same reports and digests on all, frames sent again included."""
    kinds = agree_on(session(50_000 if COMPILED else 3_000, seed=seed), SESSION_LIMITS, seed)
    assert set(ReportKind) == kinds or not COMPILED, "a session must show every kind of report"


@pytest.mark.parametrize("seed", [1, 2])
def test_seeded_flow_agrees(seed):
    """A day of plain orders gives the same reports and digests on all, its last ten frames sent again."""
    records = frames(flow(50_000 if COMPILED else 3_000, seed=seed, events=20), 97, publisher_key=5)
    agree_on(np.concatenate([records, records[-980:]]), FLOW_LIMITS, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_long_session_agrees(seed):
    """A million commands, three times, give the same reports and digests on all."""
    agree_on(session(1_000_000, seed=seed), SESSION_LIMITS, seed, 50_000)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [11, 12])
def test_long_flow_agrees(seed):
    """A million plain commands, twice, give the same reports and digests on all."""
    agree_on(frames(flow(1_000_000, seed=seed, events=20), 97, publisher_key=5), FLOW_LIMITS, seed, 50_000)


@pytest.mark.parametrize("report_slots", [REPORTS_PER_STEP_MAX, 64, 1 << 16])
def test_batches_do_not_matter(report_slots):
    """The same records in batches of any size, with any room for reports, give the same bytes."""
    records = session(20_000 if COMPILED else 500, seed=3)
    expected = Exchange(SESSION_LIMITS, market_data=True).submit(records).tobytes()
    for size in (7, 64, 1_000):
        engine = Exchange(SESSION_LIMITS, market_data=True, report_slots=report_slots)
        parts = [engine.submit(records[start : start + size]) for start in range(0, len(records), size)]
        assert expected == np.concatenate(parts).tobytes()


def test_market_data_changes_nothing_else():
    """Without market data the reports are those with it, less the market data, with indices of their own."""
    records = session(5_000 if COMPILED else 300, seed=4)
    with_data, without = (Exchange(SESSION_LIMITS, market_data=on).submit(records) for on in (True, False))
    kept = with_data[with_data["kind"] < ReportKind.LEVEL].copy()
    assert set(without["kind"]) <= {kind for kind in ReportKind if kind < ReportKind.LEVEL}
    assert without[["kind", "seq", "order", "price", "quantity", "leaves"]].tolist() == (
        kept[["kind", "seq", "order", "price", "quantity", "leaves"]].tolist()
    )


def test_indices_are_dense():
    """Reports of one seq count from 0 without a gap, and seqs never run backwards."""
    records = session(5_000 if COMPILED else 300, seed=5)
    reports = Exchange(SESSION_LIMITS, market_data=True, report_slots=64).submit(records)
    starts = np.flatnonzero(np.diff(reports["seq"], prepend=-1))
    assert (np.diff(reports["seq"]) >= 0).all()
    lengths = np.diff(np.append(starts, len(reports)))
    assert np.concatenate([np.arange(length) for length in lengths]).tolist() == reports["index"].tolist()


def test_settled_events_give_their_memory_back():
    """Events filled to the last slot and settled, over and over, find room for as many orders each time."""
    rounds = 200 if COMPILED else 12
    quintet = Quintet(Limits(events=rounds, orders=64, levels=4_096, keys=64))
    for event in range(1, rounds + 1):
        high = (10, 100, 1_000)[event % 3]
        creation = creations(1, first_event=event, low=1, high=high, payout=1 + high)
        filling = record_array(new(i, 1 + i % 10, event=event) for i in range(64))
        settlement = record_array([Command(kind=CommandKind.SETTLE, event=event)])
        quintet.apply(creation)
        accepted = quintet.apply(filling)
        assert 64 == sum(report.kind == ReportKind.ACCEPTED for report in accepted)
        closed = quintet.apply(settlement)
        assert (ReportKind.EVENT_SETTLED, 64) == (closed[64].kind, closed[64].leaves)
    quintet.check()


def test_sweep_is_suspended_and_resumed():
    """
    A sweep of thousands of fills with room for eight reports a step gives the reports of one with room for all.

    Its remainder rests and remembers what was filled before, between and after the suspensions.
    """
    makers = record_array(new(i, 1 + i % 99, side=Side.SELL) for i in range(5_000 if COMPILED else 300))
    quintet = Quintet(Limits(events=1, orders=8_192, levels=4_096, keys=64))
    quintet.apply(creations(1))
    quintet.apply(makers)
    sweep = new(9_001, 99, len(makers) + 10)
    reports = quintet.apply(record_array([sweep]))
    assert len(makers) == sum(report.kind == ReportKind.FILL_MAKER for report in reports)
    assert 100 == sum(report.kind == ReportKind.LEVEL for report in reports)
    amend = sweep._replace(kind=CommandKind.AMEND, quantity=len(makers) + 3)
    assert 3 == quintet.apply(record_array([amend]))[0].leaves
    (gone, *_) = quintet.apply(record_array([amend._replace(quantity=len(makers))]))
    assert (ReportKind.CANCELED, 3) == (gone.kind, gone.quantity)
    quintet.check()


@pytest.mark.parametrize(
    "kind", ["NEW", "CANCEL", "AMEND", "REDUCE", "REPLACE", "MASS_CANCEL", "CREATE_EVENT", "SETTLE", "TICK"]
)
def test_the_edges_verdict_is_the_reason(kind):
    """What the edge found wrong is the reason of the reject, before anything else is looked at."""
    quintet = Quintet()
    command = new(1, 5)._replace(kind=CommandKind[kind], verdict=Reason.PRICE_NOT_ON_TICK)
    (report,) = quintet.apply(record_array([command]))
    assert (ReportKind.REJECTED, Reason.PRICE_NOT_ON_TICK) == (report.kind, report.reason)
