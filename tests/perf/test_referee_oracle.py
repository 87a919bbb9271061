"""The referee's oracle, re-created: rules by hand, and the published hashes."""

import pytest

from ringpit.perf.referee_flow import BUY, SELL, messages
from ringpit.perf.referee_oracle import PUBLISHED, Oracle, digest, play


def oracle_with(*asks):
    """An oracle in whose book asks (order, price, quantity) rest, and which has said nothing yet."""
    oracle = Oracle()
    for order, price, quantity in asks:
        oracle.new(0, SELL, order, price, quantity, ioc=False)
    oracle.reports.clear()
    return oracle


def test_trades_are_at_the_makers_price_best_first_oldest_first():
    """What is left of an order that may rest rests."""
    oracle = oracle_with((1, 102, 5), (2, 101, 5), (3, 101, 5))

    oracle.new(7, BUY, 4, 102, 20, ioc=False)

    assert oracle.text().splitlines() == [
        "0,7,0,4,102,20",
        "1,7,101,5,2,4",
        "1,7,101,5,3,4",
        "1,7,102,5,1,4",
    ]
    assert 1 == oracle.resting()


def test_what_an_ioc_order_leaves_is_cancelled():
    """It trades as far as its price allows and never rests."""
    oracle = oracle_with((1, 101, 5), (2, 103, 5))

    oracle.new(7, BUY, 3, 102, 6, ioc=True)

    assert ["0,7,0,3,102,6", "1,7,101,5,1,3", "2,7,0,3,102"] == oracle.text().splitlines()
    assert 1 == oracle.resting()


def test_a_modify_goes_to_the_back_and_may_trade_first():
    """Its acknowledgement is sorted behind its trades, as types are; then it is the last in its queue."""
    oracle = oracle_with((1, 101, 5), (2, 101, 5))
    oracle.new(1, BUY, 3, 100, 2, ioc=False)
    oracle.reports.clear()

    oracle.modify(7, 1, 101, 5)
    oracle.modify(8, 2, 100, 3)
    oracle.new(9, BUY, 4, 101, 5, ioc=True)

    assert oracle.text().splitlines() == [
        "3,7,1,1,101,5",
        "1,8,100,2,3,2",
        "3,8,1,2,100,3",
        "0,9,0,4,101,5",
        "1,9,100,1,2,4",
        "1,9,101,4,1,4",
    ]


def test_what_does_not_rest_can_be_neither_cancelled_nor_modified():
    """Filled, cancelled and unknown alike."""
    oracle = oracle_with((1, 101, 5), (2, 101, 5))
    oracle.new(1, BUY, 3, 101, 5, ioc=False)
    oracle.cancel(2, 2)
    oracle.reports.clear()

    for order in (1, 2, 3, 9):
        oracle.cancel(order, order)
        oracle.modify(10 + order, order, 100, 1)

    assert [f"4,{order},{order}" for order in (1, 2, 3, 9)] + [
        f"5,{10 + order},{order}" for order in (1, 2, 3, 9)
    ] == oracle.text().splitlines()
    assert 0 == oracle.resting()


def check_published(scenario):
    """The text of all reports has the published hash."""
    assert PUBLISHED[scenario] == digest(play(messages(scenario)).text())


@pytest.mark.compiled
def test_the_oracle_gives_the_published_hash_of_a_scenario():
    """One of the five, with the most trades; all are in the long tests."""
    check_published("flash-crash")


@pytest.mark.soak
@pytest.mark.parametrize("scenario", list(PUBLISHED))
def test_the_oracle_gives_all_published_hashes(scenario):
    """All five, a million orders each."""
    check_published(scenario)
