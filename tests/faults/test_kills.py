"""Processes die and are stopped under load; what comes out is what was submitted, and nothing stays behind."""

import random

import pytest

ORDERS = 30_000
DELIVERIES = ORDERS // 100
KILLS = 3
HELD_SECONDS = 0.3
ROLES = ("router-0", "worker-0", "worker-1", "publisher-0")

pytestmark = pytest.mark.compiled


def kill_under_load(exchange, flow, names, seed):
    """Kill these processes, each at an instant that the seed draws, while orders flow; then let it come to rest."""
    chance = random.Random(seed)
    print(f"seed {seed}: {names}")
    instants = sorted(chance.sample(range(1, len(flow.bodies)), len(names)))
    for instant, name in zip(instants, names, strict=True):
        flow.offer(until=instant)
        exchange.kill(name)
    flow.finish()


def assert_clean_stop(exchange):
    """It stops with exit code 0 and leaves no process and no shared memory."""
    assert 0 == exchange.stop(), exchange.said()
    assert [] == exchange.living()
    assert [] == exchange.shared_memory()


@pytest.mark.parametrize("name", ["router-0", "worker-0", "publisher-0"])
def test_a_process_that_is_killed_costs_nothing(exchange, make_flow, name):
    """A role that is killed three times under load is started again each time, and no report is lost or changed."""
    flow = make_flow(ORDERS, seed=11)
    kill_under_load(exchange, flow, [name] * KILLS, seed=21)
    assert_clean_stop(exchange)
    assert KILLS == exchange.restarts()[name], exchange.said()
    exchange.assert_published(flow.commands)


def test_all_roles_may_die_in_one_run(exchange, make_flow):
    """Router, workers and publisher killed in turn, one while another recovers, change nothing."""
    flow = make_flow(ORDERS, seed=12)
    names = list(ROLES) * 2
    random.Random(22).shuffle(names)
    kill_under_load(exchange, flow, names, seed=22)
    assert_clean_stop(exchange)
    exchange.assert_published(flow.commands)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 120))
def test_a_long_series_of_kills_costs_nothing(exchange, make_flow, seed):
    """Thirty kills of whatever role in one run change nothing, whatever the seed."""
    flow = make_flow(300_000, seed=seed)
    names = random.Random(seed).choices(ROLES, k=30)
    kill_under_load(exchange, flow, names, seed=seed)
    assert_clean_stop(exchange)
    exchange.assert_published(flow.commands)


@pytest.mark.parametrize("name", ROLES[:2] + ROLES[3:])
def test_a_process_that_stands_still_for_a_while_costs_nothing(exchange, make_flow, name):
    """A role that is stopped and goes on loses nothing, and is not started again."""
    flow = make_flow(ORDERS, seed=13)
    flow.offer(until=DELIVERIES // 3)
    exchange.child(name).suspend()
    flow.offer_for(HELD_SECONDS)
    exchange.child(name).resume()
    flow.finish()
    assert_clean_stop(exchange)
    assert {} == exchange.restarts()
    exchange.assert_published(flow.commands)
