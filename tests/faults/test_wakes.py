"""
Workers are stopped at named steps until their followers have taken over, and woken: they change nothing and leave.

While one is awake all others are stopped, so that whatever changes in shared memory then was written by it.
"""

import pytest

from ringpit.shards.layout import Role, segment_name

ORDERS = 20_000
WINDOW = 20  # deliveries under way, so that there is a second run and a second batch
FOLLOWED = "[follower]\nenabled = true\nheartbeat_ms = 3000\n"  # a crowded machine is no reason
STEPS = (  # of the worker of shard 0, and of the journal of shard 1
    ("COPIED", "CUT"),
    ("JOURNALED", "APPENDED"),
    ("REPORTED", "DURABLE"),
    ("PUBLISHED", "DURABLE_SEQ_TOLD"),
    ("MATCHED", "DURABLE_TOLD"),
    ("SERVED", "CUT"),
)

pytestmark = pytest.mark.compiled


def faults_of(steps, spared=""):
    """The value of RINGPIT_FAULT that stops the first worker of each shard at a step."""
    return ",".join(f"worker-{shard}.1:{step}:SIGSTOP:2{spared}" for shard, step in enumerate(steps))


@pytest.mark.parametrize("steps", STEPS, ids="-".join)
def test_a_worker_that_wakes_after_it_was_taken_over_changes_nothing(make_exchange, make_flow_on, steps):
    """It leaves by itself, no byte of shared memory but its own is another one, and what comes out is what was submitted."""
    exchange = make_exchange(FOLLOWED, faults_of(steps, ":SPARE")).start()
    exchange.until_followed()
    old = [exchange.child(f"worker-{shard}") for shard in range(len(steps))]
    flow = make_flow_on(exchange, ORDERS, seed=51, window=WINDOW)
    for shard in range(len(steps)):
        taken_over = f"worker-{shard}: incarnation 2, until now follower-{shard}, has taken over"
        exchange.until(lambda: flow.offer_some() or taken_over in exchange.said(), "nobody took over")  # noqa: B023 - it is called here
        own = segment_name(exchange.config, Role.WORKER.label, shard, 1)
        with exchange.held(but=old[shard]):
            before = exchange.memory_but(own)
            old[shard].resume()
            exchange.until_ended(old[shard])
            assert {} == exchange.changed(before, own)
        exchange.until_said(f"worker-{shard}: shard {shard}: another process took over; this one leaves")
    flow.finish()
    assert 0 == exchange.stop(), exchange.said()
    assert [] == exchange.shared_memory()
    exchange.assert_published(flow.commands)


def stop_and_take_over(make_exchange, make_flow_on, steps, seed):
    """Stop the workers at steps; they are killed when they are taken over."""
    exchange = make_exchange(FOLLOWED, faults_of(steps)).start()
    exchange.until_followed()
    old = [exchange.child(f"worker-{shard}") for shard in range(len(steps))]
    flow = make_flow_on(exchange, ORDERS, seed, window=WINDOW)
    flow.finish()
    exchange.until(lambda: not any(child.is_running() for child in old), "a stopped worker lives on")
    assert 0 == exchange.stop(), exchange.said()
    assert [] == exchange.shared_memory()
    exchange.assert_published(flow.commands)


def test_a_worker_that_stands_still_is_taken_over_and_ended(make_exchange, make_flow_on):
    """A follower needs no death: a silent worker is replaced and killed, and what comes out is what was submitted."""
    stop_and_take_over(make_exchange, make_flow_on, STEPS[1], seed=52)


@pytest.mark.soak
@pytest.mark.parametrize("steps", STEPS, ids="-".join)
@pytest.mark.parametrize("seed", range(210, 215))
def test_a_worker_that_stands_still_anywhere_is_taken_over(make_exchange, make_flow_on, steps, seed):
    """The same at every step."""
    stop_and_take_over(make_exchange, make_flow_on, steps, seed)
