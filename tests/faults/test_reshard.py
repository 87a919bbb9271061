"""`ringpit reshard`, killed at each of its steps: the old generation goes on, or the new one counts, and nothing is lost."""

import signal

import pytest

ORDERS = 12_000
BEFORE_IT_COUNTS = (
    "RESHARD_READ",
    "RESHARD_CLEARED",
    "RESHARD_LOG_MADE",
    "RESHARD_SHARD_WRITTEN",
    "RESHARD_SHARD_PUBLISHED",
    "RESHARD_COMPARED",
    "TOPOLOGY_WRITTEN",
)

pytestmark = pytest.mark.compiled


def test_a_reshard_that_is_killed_changes_nothing_or_is_done(make_exchange, make_flow_on):
    """Killed at every step before the new topology counts, the exchange goes on as it was; behind it, on the new shards."""
    exchange = make_exchange().start()
    flow = make_flow_on(exchange, ORDERS, seed=71)
    turns = [BEFORE_IT_COUNTS[at : at + 2] for at in range(0, len(BEFORE_IT_COUNTS), 2)]
    parts = len(flow.bodies) // (len(turns) + 2)
    flow.offer(until=parts)
    flow.settle()
    for turn, steps in enumerate(turns, 2):
        assert 0 == exchange.stop(), exchange.said()
        for step in steps:  # the second over what the first has left
            assert -signal.SIGKILL == exchange.reshard(3, step)[0]
        exchange.start()
        flow.connect().offer(until=turn * parts)
        flow.settle()
    assert 0 == exchange.stop(), exchange.said()
    assert -signal.SIGKILL == exchange.reshard(3, "TOPOLOGY_COUNTS")[0]
    code, said = exchange.reshard(3)
    assert (2, True) == (code, "there are as many already (topology generation 2)" in said), said
    exchange.use("exchange.shards", 3)
    exchange.start()
    flow.connect().finish()
    assert 0 == exchange.stop(), exchange.said()
    exchange.assert_published(flow.commands)
