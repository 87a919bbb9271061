"""Which queue an event's messages go to: the same for ever, for everybody, and evenly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ringpit.shards.config import Config
from ringpit.shards.routes import queue_for, queue_of, router_of, routers_of

IDS = st.integers(-(1 << 63), (1 << 63) - 1)
VECTORS = (  # event, routers, router: published, so that others can check their own; never to be changed
    (0, 4, 0),
    (1, 4, 2),
    (2, 4, 0),
    (7, 4, 1),
    (7, 3, 0),
    (1_000_000, 4, 3),
    (-1, 4, 1),
    ((1 << 63) - 1, 8, 7),
)


@pytest.mark.parametrize(("event", "routers", "router"), VECTORS)
def test_the_published_examples_hold(event, routers, router):
    """Whoever publishes in another language compares with these."""
    assert router == router_of(event, routers)


@given(st.lists(IDS, min_size=1), st.integers(1, 8))
def test_one_rule_for_one_and_for_many(events, routers):
    """The array form agrees with the plain one, and every router exists."""
    found = routers_of(np.array(events, np.int64), routers)
    assert [router_of(event, routers) for event in events] == found.tolist()
    assert set(found.tolist()) <= set(range(routers))


@pytest.mark.parametrize("step", [1, 2, 8, 10, 100, 1024])
@pytest.mark.parametrize("routers", [2, 3, 4, 8])
def test_ids_in_a_row_are_dealt_evenly(step, routers):
    """Ids are often counted up, by one or by something round: no router gets half as much again as its share."""
    found = np.bincount(routers_of(np.arange(0, 4_000 * step, step), routers), minlength=routers)
    assert found.max() < 1.5 * 4_000 / routers


def test_queues_have_names():
    """The first one has the plain name, so that a publisher need not know of routers."""
    config = replace(Config(), exchange=replace(Config().exchange, routers=4))
    assert ["ringpit.orders", "ringpit.orders.1"] == [queue_of(config, router) for router in (0, 1)]
    assert "ringpit.orders.2" == queue_for(config, 1)


@pytest.mark.parametrize(("event", "routers", "rule"), [(1 << 64, 2, "64-bit"), (1, 0, "at least 1")])
def test_what_cannot_be_is_refused(event, routers, rule):
    """With the value and the rule."""
    with pytest.raises(ValueError, match=rule):
        router_of(event, routers)
