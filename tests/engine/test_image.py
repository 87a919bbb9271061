"""A book's image tells a newcomer everything that rests, and disturbs nothing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine import Exchange, Limits
from ringpit.engine.codes import CommandKind, EventState, ReportKind, Side
from ringpit.engine.image import IMAGE_INDEX, images
from ringpit.engine.records import REPORT
from ringpit.engine.tables import Cell
from ringpit.shards.flow import flow
from ringpit.testing.naive import Command, NaiveExchange

LIMITS = Limits(events=8, orders=1 << 9, levels=4_096, keys=64)


def drawn(exchange):
    """The images as rows, and by event the depth that they tell: [[price, lots], ...] for bids and asks."""
    rows = images(exchange.tables, exchange.next_seq - 1)
    depth = {}
    for reports in rows:
        assert ReportKind.BOOK_RESET == reports[0]["kind"]
        levels = reports[1:]
        assert np.all(levels["kind"] == ReportKind.LEVEL)
        depth[int(reports[0]["event"])] = tuple(
            [[int(row["price"]), int(row["quantity"])] for row in levels if row["side"] == side]
            for side in (Side.BUY, Side.SELL)
        )
    return rows, depth


@given(st.integers(0, 1 << 16), st.integers(1, 200), st.integers(1, 4), st.integers(0, 3))
def test_an_image_is_the_whole_depth_of_each_open_event(seed, count, events, settled):
    """Bids and asks of every open event, best first, as the plain exchange has them; settled ones have none."""
    exchange, naive = Exchange(LIMITS), NaiveExchange(LIMITS)
    commands = flow(count, seed=seed, events=events)
    exchange.submit(commands)
    naive.run(commands)
    if settled:
        exchange.settle(settled)
        naive.apply(Command(kind=CommandKind.SETTLE, event=settled))
    expected = {
        event: naive.depth(event)
        for event in sorted(naive.events)
        if naive.events[event].state == EventState.OPEN
    }

    _, depth = drawn(exchange)
    assert expected == depth
    assert list(expected) == list(depth)


def test_an_image_begins_with_what_the_book_is():
    """The reset tells range, tick and decimals as at the event's creation, with market data on or off."""
    told = Exchange(LIMITS, market_data=True)
    creation = told.create_event(7, 5, 90, 95, tick_units=3, decimals=4)
    silent = Exchange(LIMITS)
    silent.create_event(7, 5, 90, 95, tick_units=3, decimals=4)

    expected = creation[creation["kind"] == ReportKind.BOOK_RESET][0]
    for exchange in (told, silent):
        ((reset,),) = images(exchange.tables, 1)
        for name in set(REPORT.names) - {"index"}:
            assert expected[name] == reset[name], name


@given(st.integers(0, 1 << 16), st.integers(1, 120))
def test_identities_never_meet_those_of_other_reports(seed, count):
    """All images carry the last command's seq and rising indices above those of any command's reports."""
    exchange = Exchange(LIMITS, market_data=True)
    exchange.submit(flow(count, seed=seed, events=3))
    rows, _ = drawn(exchange)
    together = np.concatenate(rows)

    assert np.all(together["seq"] == exchange.next_seq - 1)
    assert list(range(IMAGE_INDEX, IMAGE_INDEX + len(together))) == together["index"].tolist()


@given(st.integers(0, 1 << 16))
def test_drawing_disturbs_nothing(seed):
    """After an image the exchange answers as one that was never drawn."""
    first, second = flow(60, seed=seed, events=2), flow(60, seed=seed + 1, events=2)
    drawn_one, other = (Exchange(LIMITS, market_data=True) for _ in range(2))
    for exchange in (drawn_one, other):
        exchange.submit(first)
    drawn(drawn_one)
    drawn_one.validate()
    assert other.digest() == drawn_one.digest()
    assert other.submit(second).tobytes() == drawn_one.submit(second).tobytes()
    assert other.digest() == drawn_one.digest()


def test_no_book_no_image():
    """An empty exchange, and one whose events are all settled, draws nothing."""
    exchange = Exchange(LIMITS)
    assert [] == images(exchange.tables, 0)
    exchange.create_event(1)
    exchange.order(1, order=1, account=1, side="buy", price=50, quantity=1)
    exchange.settle(1)
    assert [] == images(exchange.tables, exchange.next_seq - 1)
    assert 1 == exchange.tables.cells[Cell.BOOKS_USED]
