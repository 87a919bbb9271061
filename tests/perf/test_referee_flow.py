"""The referee's flow, re-created: its published numbers, and what our own interleaved variant is."""

import numpy as np
import pytest

from ringpit.perf import referee_flow
from ringpit.perf.referee_flow import CANCEL, MODIFY, NEW, Messages, alive_max, messages

SMALL = 2_000


def sorted_rows(flow):
    """The messages regardless of their order."""
    return sorted(zip(*(column.tolist() for column in flow), strict=True))


def median_age(flow):
    """How many messages before the first cancel of an order that order came, in the middle of all cancels."""
    came = np.zeros(flow.order.max() + 1, np.int64)
    news, cancels = np.flatnonzero(flow.kind == NEW), np.flatnonzero(flow.kind == CANCEL)
    came[flow.order[news]] = news
    return np.median(cancels - came[flow.order[cancels]])


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("scenario", "lowest", "highest"), [("static", 32_795, 34_281), ("flash-crash", 27_506, 65_365)]
)
def test_seed_23_gives_the_published_numbers(scenario, lowest, highest):
    """Messages, their kinds, and the span of prices are those that the referee's flow has."""
    flow = messages(scenario)

    assert referee_flow.PUBLISHED_MESSAGES == 1_996_097 == len(flow.kind)
    assert [1_000_000, 823_422, 172_675] == [int((flow.kind == kind).sum()) for kind in (NEW, CANCEL, MODIFY)]
    assert 150_234 == flow.ioc.sum()
    assert (lowest, highest) == (flow.price[flow.kind == NEW].min(), flow.price.max())


def test_a_flow_depends_on_its_seed_alone():
    """The same seed gives the same messages, another seed others."""
    first, again = (messages("normal", orders=SMALL) for _ in range(2))

    assert all(np.array_equal(*columns) for columns in zip(first, again, strict=True))
    assert sorted_rows(first) != sorted_rows(messages("normal", orders=SMALL, seed=24))


def test_every_order_is_new_once_and_before_all_else():
    """Ids are dense from 1; nothing is cancelled or modified before it came."""
    flow = messages("swing-40", orders=SMALL)
    first = np.unique(flow.order, return_index=True)[1]

    assert list(range(1, SMALL + 1)) == sorted(flow.order[flow.kind == NEW].tolist())
    assert {NEW} == set(flow.kind[first].tolist())


def test_interleaved_lives_are_the_same_messages_in_another_order(monkeypatch):
    """Stretching lives changes when things happen, never what; cancels hit orders that are much older."""
    apart = referee_flow.SCENARIOS["interleaved"]._replace(stretch=0)
    monkeypatch.setitem(referee_flow.SCENARIOS, "apart", apart)
    one_by_one, interleaved = messages("apart", orders=SMALL), messages("interleaved", orders=SMALL)

    assert sorted_rows(one_by_one) == sorted_rows(interleaved)
    assert 1 == median_age(one_by_one)
    assert 1_000 < median_age(interleaved)


def test_a_book_needs_room_for_orders_between_their_new_and_their_first_cancel():
    """IOC orders never count, a second cancel changes nothing."""
    kinds = [NEW, NEW, CANCEL, CANCEL, NEW, NEW, NEW]
    orders = [1, 2, 1, 1, 3, 4, 5]
    iocs = [0, 0, 0, 0, 0, 1, 0]
    nothing = np.zeros(len(kinds), np.int32)
    flow = Messages(
        np.array(kinds, np.int8), nothing, np.array(iocs, np.int8), np.array(orders), nothing, nothing
    )

    assert 3 == alive_max(flow)


def test_what_is_no_flow_is_refused():
    """The complaint names the scenarios, or the number."""
    with pytest.raises(ValueError, match=r"scenario must be one of static, normal, .*, was calm"):
        messages("calm")
    with pytest.raises(ValueError, match="orders must be at least 2, was 1"):
        messages("static", orders=1)
