"""Processes die and are stopped under load; what comes out is what was submitted, and nothing stays behind."""

import random
import re

import pytest

ORDERS = 30_000
DELIVERIES = ORDERS // 100
KILLS = 3
HELD_SECONDS = 0.3
ROLES = ("router-0", "worker-0", "worker-1", "publisher-0")
EVERYBODY = (*ROLES, "supervisor")
FOLLOWERS = ("follower-0", "follower-1")
FOLLOWED = "[follower]\nenabled = true\n"
EARLY = '[output]\nrelease = "matched"\n'

pytestmark = pytest.mark.compiled


def kill_under_load(exchange, flow, names, seed):
    """Kill these processes, each at an instant that the seed draws, while orders flow; then let it come to rest."""
    chance = random.Random(seed)
    print(f"seed {seed}: {names}")
    instants = sorted(chance.sample(range(1, len(flow.bodies)), len(names)))
    for instant, name in zip(instants, names, strict=True):
        flow.offer(until=instant)
        if name == "supervisor":
            exchange.kill_supervisor()
            flow.connect()
        else:
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
    exchange.until(lambda: exchange.restarts()[name] == KILLS, f"{name} is not started again")
    assert_clean_stop(exchange)
    exchange.assert_published(flow.commands)


def test_all_roles_may_die_in_one_run(exchange, make_flow):
    """Router, workers and publisher killed in turn, one while another recovers, change nothing."""
    flow = make_flow(ORDERS, seed=12)
    names = list(ROLES) * 2
    random.Random(22).shuffle(names)
    kill_under_load(exchange, flow, names, seed=22)
    assert_clean_stop(exchange)
    exchange.assert_published(flow.commands)


@pytest.mark.parametrize("more", ["", FOLLOWED], ids=["alone", "followed"])
def test_kills_where_reports_are_released_early(make_exchange, make_flow_on, more):
    """
    What stands in the end is what was submitted, under epochs that only rise, also over restarts of all.

    Redelivery mostly gives lost commands their seqs again here; that others' reports are taken back is shown by
    tests/simulation and tests/shards/test_publisher.py.
    """
    exchange = make_exchange(EARLY + more).start()
    flow = make_flow_on(exchange, ORDERS, seed=16)
    names = [*EVERYBODY, "worker-0", "supervisor", "worker-1"]
    random.Random(26).shuffle(names)
    kill_under_load(exchange, flow, names, seed=26)
    assert_clean_stop(exchange)
    exchange.assert_reported(flow.commands)  # a lost trade's file does not say that it is
    assert all(line["Provisional"] for line in exchange.lines("reports"))
    told = {(line["Shard"], line["Epoch"]) for line in exchange.lines("reports")}
    claims = re.findall(r"^worker-\d: shard (\d): epoch (\d+), ", exchange.said(), re.MULTILINE)
    assert told <= {
        (int(shard), int(epoch)) for shard, epoch in claims
    }  # of starts: a take-over makes no epoch
    assert max(epoch for _, epoch in told) >= (3 if more else 4)


def test_everybody_may_die_where_followers_follow(make_exchange, make_flow_on):
    """Router, workers, followers, publisher and supervisor killed in turn, whatever a follower was doing, change nothing."""
    exchange = make_exchange(FOLLOWED).start()
    flow = make_flow_on(exchange, 2 * ORDERS, seed=14)
    names = [*EVERYBODY, *FOLLOWERS, "worker-0", "worker-1"]
    random.Random(24).shuffle(names)
    kill_under_load(exchange, flow, names, seed=24)
    assert_clean_stop(exchange)
    exchange.assert_published(flow.commands)


@pytest.mark.soak
@pytest.mark.parametrize("more", ["", FOLLOWED], ids=["alone", "followed"])
@pytest.mark.parametrize("seed", range(100, 115))
def test_a_long_series_of_kills_costs_nothing(make_exchange, make_flow_on, seed, more):
    """Thirty kills of whatever process in one run change nothing, whatever the seed."""
    exchange = make_exchange(more).start()
    flow = make_flow_on(exchange, 300_000, seed=seed)
    names = random.Random(seed).choices([*EVERYBODY, *(FOLLOWERS if more else ())], k=30)
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
