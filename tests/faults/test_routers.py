"""Several routers: each event's messages through one of them, and what comes out is what was submitted."""

import multiprocessing

import pytest

from ringpit.shards.feeders import feed_ring
from ringpit.shards.flow import flow

ORDERS = 30_000
EVENTS = 12
FRAME_ORDERS = 50

pytestmark = pytest.mark.compiled


def test_two_routers_keep_the_order_of_every_event(make_exchange):
    """Both shards are fed by both routers; one of these is killed under load, and a worker."""
    exchange = make_exchange(routers=2).start()
    spawn = multiprocessing.get_context("spawn")
    progress = spawn.Array("d", 3, lock=False)
    feeder = spawn.Process(
        target=feed_ring, args=(exchange.config, ORDERS, 71, EVENTS, FRAME_ORDERS, 0.0, progress), daemon=True
    )
    feeder.start()
    for name, share in (("router-1", 0.2), ("worker-0", 0.5), ("router-0", 0.7)):
        exchange.until(lambda: progress[0] > share * ORDERS / FRAME_ORDERS, "nothing flows")  # noqa: B023 - it is called here
        exchange.kill(name)
    exchange.until(lambda: feeder.exitcode is not None, "the feeder does not end")
    assert 0 == feeder.exitcode
    assert 0 == exchange.stop(), exchange.said()
    exchange.assert_published(flow(ORDERS, seed=71, events=EVENTS))
