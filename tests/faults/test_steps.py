"""
Processes are killed at named steps (shards/faults.py) under load; what comes out is what was submitted.

In one run processes of several roles die, each once, at a step of its own, while both shards have followers.
"""

import pytest

ORDERS = 20_000
WINDOW = 20  # deliveries under way, so that there is a second of everything
DELIVERIES_BEFORE = 20  # at which a router dies
CYCLES_BEFORE = 2  # at which a publisher dies
FOLLOWED = "[follower]\nenabled = true\nheartbeat_ms = 5000\n"  # whoever dies is seen at once; nobody hangs

pytestmark = pytest.mark.compiled

RUNS = (  # who dies at which step, and after how many times
    {"worker-0.1": "COPIED", "worker-1.1": "CUT", "router-0.1": "TAKEN", "publisher-0.1": "RELEASED"},
    {
        "worker-0.1": "JOURNALED",
        "worker-1.1": "APPENDED",
        "router-0.1": "DEALT_TO_ONE",
        "publisher-0.1": "SENT",
    },
    {"worker-0.1": "REPORTED", "worker-1.1": "DURABLE", "router-0.1": "DEALT", "publisher-0.1": "CONFIRMED"},
    {
        "worker-0.1": "PUBLISHED",
        "worker-1.1": "DURABLE_SEQ_TOLD",
        "router-0.1": "BEFORE_ACKNOWLEDGE",
        "publisher-0.1": "GIVEN_BACK",
    },
    {"worker-0.1": "MATCHED", "worker-1.1": "DURABLE_TOLD", "router-0.1": "ACKNOWLEDGED"},
)
TAKE_OVERS = (  # at which step the follower dies, too, when it takes over
    {"follower-0.2": "JOURNAL_FROZEN", "follower-1.2": "FROZEN"},
    {"follower-0.2": "LEADING", "follower-1.2": "SEQUENCED"},
    {"follower-0.2": "TAKEN_OVER", "follower-1.2": "CLAIM_APPENDED"},
    {"follower-0.2": "CLAIMED"},
)
ACKNOWLEDGES_BEFORE = 2
TIMES = {"router": DELIVERIES_BEFORE, "publisher": CYCLES_BEFORE, "worker": 2, "follower": 1}


def faults_of(steps):
    """The value of RINGPIT_FAULT that kills processes at steps."""
    times = {
        process: ACKNOWLEDGES_BEFORE if "ACKNOWLEDGE" in step else TIMES[process.partition("-")[0]]
        for process, step in steps.items()
    }
    return ",".join(f"{process}:{step}:SIGKILL:{times[process]}" for process, step in steps.items())


def run_through(make_exchange, make_flow_on, steps, more, seed):
    """Feed an exchange whose processes die at these steps, and judge what comes out; the exchange, stopped."""
    print(f"seed {seed}: {steps}")
    exchange = make_exchange(more, faults_of(steps)).start()
    if more:
        exchange.until_followed()
    flow = make_flow_on(exchange, ORDERS, seed, window=WINDOW)
    flow.finish()
    assert 0 == exchange.stop(), exchange.said()
    assert [] == exchange.living()
    assert [] == exchange.shared_memory()
    exchange.assert_published(flow.commands)
    return exchange


def assert_died(exchange, process):
    """The first incarnation of a role, or the follower of the first worker, as itself or as the worker that it became, is gone as it was asked to."""
    name, _, _ = process.partition(".")
    role, _, shard = name.partition("-")
    took_over = f"worker-{shard}: incarnation 2, until now follower-{shard}, has taken over"
    killed = "{}: was killed by signal 9"
    before, _, after = exchange.said().partition(took_over)
    died = {
        "worker": killed.format(name) in before or after,  # which is said only if nobody had taken over already
        "follower": killed.format(name) in before + after or killed.format(f"worker-{shard}") in after,
    }
    assert died.get(role, killed.format(name) in before + after), f"{process}: {exchange.said()}"


@pytest.mark.parametrize("steps", RUNS, ids=lambda steps: "-".join(steps.values()))
def test_whoever_dies_at_a_step_costs_nothing(make_exchange, make_flow_on, steps):
    """Router, worker, journal and publisher, each killed at one of its steps: followers take over, nothing is lost or changed."""
    exchange = run_through(make_exchange, make_flow_on, steps, FOLLOWED, seed=41)
    for process in steps:
        assert_died(exchange, process)


@pytest.mark.parametrize("steps", TAKE_OVERS, ids=lambda steps: "-".join(steps.values()))
def test_a_follower_that_dies_while_it_takes_over_costs_nothing(make_exchange, make_flow_on, steps):
    """Worker and follower both die, the follower at a step of the take-over: the one path finds everything in the log."""
    workers = {f"worker-{process[-3]}.1": "SERVED" for process in steps}
    exchange = run_through(make_exchange, make_flow_on, workers | steps, FOLLOWED, seed=42)
    for process in (*workers, *steps):
        assert_died(exchange, process)


@pytest.mark.soak
@pytest.mark.parametrize("steps", RUNS, ids=lambda steps: "-".join(steps.values()))
@pytest.mark.parametrize("more", ["", FOLLOWED], ids=["alone", "followed"])
@pytest.mark.parametrize("seed", range(200, 205))
def test_whoever_dies_at_a_step_costs_nothing_whatever_the_seed(make_exchange, make_flow_on, steps, more, seed):
    """The same with and without followers, and other orders."""
    exchange = run_through(make_exchange, make_flow_on, steps, more, seed)
    for process in steps:
        assert_died(exchange, process)
