"""Ten thousand events on shared pools: all created, traded in and settled, twice over, and everything given back."""

import numpy as np
import pytest
from numba import config

from ringpit.engine.codes import CommandKind, EventState, Flag, LevelKind, OrderType, Reason, ReportKind
from ringpit.engine.exchange import Exchange
from ringpit.engine.limits import Limits
from ringpit.engine.tables import Cell
from ringpit.engine.validate import chain, free_runs_of
from ringpit.testing.naive import Bands, Command, Extension, NaiveExchange, record_array, report_array

EVENTS = 10_000 if not config.DISABLE_JIT else 120
LIMITS = Limits(events=2 * EVENTS, orders=1 << 16, levels=1 << 21, keys=64, nodes=1 << 17, grids=8)
HIGHS = (99, 20, 99, 500, 1_000_000)  # the last is too wide for a ladder


def creation(event):
    """Records that create an event: five widths, ladders and skip lists, with bands and with limits now and then."""
    high, number = HIGHS[event % 5], event % 35
    kind = LevelKind.SKIP_LIST if event % 5 == 2 else LevelKind.AUTO
    records = []
    if number % 7 == 3:
        step = 1 + event % 2 if high == 20 else 1
        records.append(Bands(kind=CommandKind.BANDS, count=1, event=event, last_1=high, step_1=step))
    if number % 7 == 5:
        records.append(Extension(kind=CommandKind.EXTENSION, event=event, orders_max=9, account_orders_max=5))
    flags = Flag.EXTENDED if number % 7 == 5 else 0
    return [
        *records,
        Command(
            kind=CommandKind.CREATE_EVENT, event=event, quantity=high, order=1, account=2, order_type=kind, flags=flags
        ),
    ]  # fmt: skip


def orders(event):
    """Records that leave two bids, an ask and a stop open, after a trade."""
    base = Command(kind=CommandKind.NEW, event=event, order=1, account=event % 9, price=10, quantity=5)
    return [
        base,
        base._replace(order=2, price=8, account=1),
        base._replace(order=3, side=1, price=10, quantity=3, account=2),
        base._replace(order=4, side=1, price=14),
        Extension(kind=CommandKind.EXTENSION, event=event, trigger=16),
        base._replace(order=5, price=0, order_type=OrderType.STOP, flags=Flag.EXTENDED | Flag.NO_PRICE),
    ]


def settlement(event):
    """The record that settles an event."""
    return [Command(kind=CommandKind.SETTLE, event=event)]


class Pair:
    """The engine and the naive exchange, fed alike and compared report for report."""

    def __init__(self) -> None:
        """Both empty."""
        self.engine = Exchange(LIMITS)
        self.naive = NaiveExchange(LIMITS)

    def apply(self, make, events) -> np.ndarray:
        """Feed the records of many events, one event after another; the reports that both agree on."""
        records = [record for event in events for record in make(event)]
        expected = report_array(self.naive.run(records))
        got = self.engine.submit(record_array(records))
        assert expected.tobytes() == got.tobytes()
        return got

    def check_empty(self) -> None:
        """Everything that events need is free."""
        t = self.engine.tables
        assert (0, 0) == (t.cells[Cell.ORDERS_USED], t.cells[Cell.NODES_USED])
        assert LIMITS.orders == len(chain(int(t.cells[Cell.ORDERS_FREE]), t.orders["next"]))
        assert LIMITS.orders == len(chain(int(t.cells[Cell.HOLDERS_FREE]), t.holders["orders"]))
        assert LIMITS.nodes == len(chain(int(t.cells[Cell.NODES_FREE]), t.links[:, 0]))
        assert t.cells[Cell.LEVELS_USED] == sum(length for _, length in free_runs_of(t))
        assert not t.grids[:, 0].any()
        assert not t.bitmap.any()
        assert {EventState.SETTLED} == set(t.books["state"][: t.cells[Cell.BOOKS_USED]].tolist())


def seen(reports):
    """The kinds and reasons of reports, each once."""
    return {(ReportKind(kind), Reason(reason)) for kind, reason in reports[["kind", "reason"]].tolist()}


@pytest.fixture(scope="module")
def pair():
    """All events of the first half of the ids have been created, traded in, and settled."""
    made = Pair()
    first = range(1, EVENTS + 1)
    assert {(ReportKind.EVENT_CREATED, Reason.NONE)} == seen(made.apply(creation, first))
    accepted = made.apply(orders, first)
    assert 5 * EVENTS == (accepted["kind"] == ReportKind.ACCEPTED).sum()
    assert EVENTS == made.engine.statistics()["events_open"]
    assert 4 * EVENTS == made.engine.statistics()["orders"]
    assert made.naive.digest() == made.engine.digest()
    closed = made.apply(settlement, reversed(first))
    assert [4] * EVENTS == closed["leaves"][closed["kind"] == ReportKind.EVENT_SETTLED].tolist()
    made.check_empty()
    return made


def test_all_is_given_back_and_used_again(pair):
    """
    Ids that were settled are refused, others are accepted, and they take no level more than the first ones did.

    When all of them are settled too everything is free, and no event is left that could be created.
    """
    first, second = range(1, EVENTS + 1), range(EVENTS + 1, 2 * EVENTS + 1)
    ground = pair.engine.statistics()["levels"]
    refused = pair.apply(creation, first)
    assert {(ReportKind.REJECTED, Reason.ALREADY_SETTLED)} == seen(refused)
    assert EVENTS == len(refused)
    assert {(ReportKind.REJECTED, Reason.ALREADY_SETTLED)} == seen(pair.apply(orders, first))
    assert {(ReportKind.EVENT_CREATED, Reason.NONE)} == seen(pair.apply(creation, second))
    assert 4 * EVENTS + 1 * EVENTS == (pair.apply(orders, second)["kind"] == ReportKind.ACCEPTED).sum()
    assert ground == pair.engine.statistics()["levels"]
    assert pair.naive.digest() == pair.engine.digest()
    pair.apply(settlement, second)
    pair.check_empty()
    assert ground == pair.engine.statistics()["levels"]
    pair.engine.validate()
    late = pair.apply(creation, range(2 * EVENTS + 1, 2 * EVENTS + 6))
    assert {(ReportKind.REJECTED, Reason.BOOK_CAPACITY)} == seen(late)
    assert {(ReportKind.EVENT_SETTLED, Reason.NONE)} == seen(pair.apply(settlement, [*first, *second]))
    assert 0 == len(pair.engine.resting(EVENTS))


def test_books_of_both_structures_hold_together():
    """Some of these events, open and with orders, break no invariant, and settled in any order they leave nothing."""
    pair = Pair()
    some = range(1, 106)
    pair.apply(creation, some)
    pair.apply(orders, some)
    pair.engine.validate()
    assert {LevelKind.LADDER, LevelKind.SKIP_LIST} == set(
        pair.engine.tables.books["kind"][: len(some)].tolist()
    )
    pair.apply(settlement, some[::2])
    pair.engine.validate()
    pair.apply(settlement, some[1::2])
    pair.engine.validate()
    pair.check_empty()
