"""
Processes are killed and brokers go away under load, over the real RabbitMQ and the real Kafka, with followers and without.

What comes out is compared with the naive exchange given what was sent. Every run prints its seed.
"""

import random
import time
from itertools import pairwise
from urllib.parse import urlsplit

import psutil
import pytest

from ringpit.testing.cutting_proxy import CuttingProxy
from ringpit.testing.judge import answers_of, assert_once_in_effect
from ringpit.testing.submissions import cut, day

pytestmark = [pytest.mark.brokers, pytest.mark.compiled]
EVENTS, ORDERS = 24, 20_000
ROLES = ("router-0", "worker-0", "worker-1", "publisher-0")
FOLLOWERS = ("follower-0", "follower-1")
FOLLOWED = {"follower": {"enabled": True}}
FOLLOWED_PATIENTLY = {"follower": {"enabled": True, "heartbeat_ms": 5000}}  # a crowded machine is no reason
STEPS = (  # of processes that die at one each, in one run
    "worker-0.1:COPIED,worker-1.1:CUT,router-0.1:TAKEN,publisher-0.1:RELEASED",
    "worker-0.1:JOURNALED,worker-1.1:APPENDED,router-0.1:DEALT_TO_ONE,publisher-0.1:SENT",
    "worker-0.1:REPORTED,worker-1.1:DURABLE,router-0.1:DEALT,publisher-0.1:CONFIRMED",
    "worker-0.1:PUBLISHED,worker-1.1:DURABLE_SEQ_TOLD,router-0.1:BEFORE_ACKNOWLEDGE,publisher-0.1:GIVEN_BACK",
    "worker-0.1:MATCHED,worker-1.1:DURABLE_TOLD,router-0.1:ACKNOWLEDGED",
    "worker-0.1:SERVED,follower-0.2:JOURNAL_FROZEN,worker-1.1:CUT,follower-1.2:FROZEN",
    "worker-0.1:COPIED,follower-0.2:LEADING,worker-1.1:SERVED,follower-1.2:SEQUENCED",
    "worker-0.1:DURABLE,follower-0.2:TAKEN_OVER,worker-1.1:SERVED,follower-1.2:CLAIM_APPENDED",
    "worker-0.1:APPENDED,follower-0.2:CLAIMED",
)


def drawn(seed, orders=ORDERS):
    """Deliveries of a day that follow from a seed, which is printed."""
    print(f"seed {seed}")
    return cut(day(orders, events=EVENTS, seed=seed), seed=seed)


def parts(deliveries, count, chance):
    """The deliveries in `count` parts of random sizes, none empty."""
    borders = [0, *sorted(chance.sample(range(1, len(deliveries)), count - 1)), len(deliveries)]
    return [deliveries[start:end] for start, end in pairwise(borders)]


def settle(exchange, clients, deliveries):
    """Wait for every answer, stop, and judge."""
    clients.wait_answered(answers_of(deliveries))
    assert 0 == exchange.stop(), exchange.printed()
    clients.read_rest()
    model = assert_once_in_effect(clients.received, deliveries)
    print(f"came twice: {clients.received.repeated} reports and trades")
    assert model.digests() == exchange.digests()


def until_followed(exchange, times=1):
    """Wait until both shards have had a follower that could take over so many times."""
    for shard in (0, 1):
        exchange.wait_for(
            lambda: exchange.printed().count(f"shard {shard}: follows") >= times,  # noqa: B023 - it is called here
            60,
            lambda: f"shard {shard} has no follower",  # noqa: B023 - as above
        )


def kill_all_in_turn(make_clients, sections, names, seed, orders):
    """Kill these processes, or the supervisor, at random instants under load, and judge."""
    chance = random.Random(seed)
    deliveries = drawn(seed, orders)
    exchange, clients = make_clients(sections=sections, encoding=chance.choice(["json", "packed"]))
    exchange.start()
    *earlier, last = parts(deliveries, len(names) + 1, chance)
    for name, part in zip(names, earlier, strict=True):
        clients.send(part)
        print(f"{clients.received.answered} answers before {name} is killed")
        if name == "supervisor":
            exchange.kill_supervisor()
            exchange.start()
        else:
            exchange.kill_one(name)
    clients.publish(last)
    settle(exchange, clients, deliveries)


def test_every_process_is_killed_under_load_with_followers(make_clients):
    """Router, workers, followers, publisher and supervisor, each once, in random order: every order has effect once."""
    names = [*ROLES, *FOLLOWERS, "supervisor"]
    random.Random(301).shuffle(names)
    kill_all_in_turn(make_clients, FOLLOWED, names, 301, ORDERS)


@pytest.mark.soak
@pytest.mark.parametrize("followed", [False, True], ids=["alone", "followed"])
@pytest.mark.parametrize("seed", range(310, 320))
def test_a_long_series_of_kills_costs_nothing(make_clients, seed, followed):
    """Twenty kills of whatever process in one run change nothing, whatever the seed."""
    roles = [*ROLES, *(FOLLOWERS if followed else ()), "supervisor"]
    names = random.Random(seed).choices(roles, k=20)
    kill_all_in_turn(make_clients, FOLLOWED if followed else {}, names, seed, 100_000)


@pytest.mark.soak
@pytest.mark.parametrize("steps", STEPS)
def test_whoever_dies_at_a_step_costs_nothing(make_clients, monkeypatch, steps):
    """Each process is killed at a step of its own, while followers follow: every order has effect once."""
    monkeypatch.setenv("RINGPIT_FAULT", ",".join(f"{text}:SIGKILL:1" for text in steps.split(",")))
    deliveries = drawn(321)
    exchange, clients = make_clients(sections=FOLLOWED, encoding="packed")
    exchange.start()
    until_followed(exchange)
    clients.publish(deliveries)
    settle(exchange, clients, deliveries)


@pytest.mark.soak
@pytest.mark.parametrize("step", ["COPIED", "JOURNALED", "REPORTED", "MATCHED", "CUT", "APPENDED", "DURABLE"])
def test_a_worker_that_wakes_after_it_was_taken_over_changes_nothing(make_clients, monkeypatch, step):
    """A worker stopped until its follower leads and has answered leaves when it wakes; its late batches count for nothing."""
    monkeypatch.setenv("RINGPIT_FAULT", f"worker-0.1:{step}:SIGSTOP:2:SPARE")
    deliveries = drawn(322)
    half = len(deliveries) // 2
    exchange, clients = make_clients(sections=FOLLOWED_PATIENTLY, encoding="packed")
    exchange.start()
    until_followed(exchange)
    old = exchange.child("worker-0")
    clients.publish(deliveries[:half])
    clients.wait_answered(answers_of(deliveries[:half]))
    assert psutil.STATUS_STOPPED == old.status()
    old.resume()
    clients.publish(deliveries[half:])
    exchange.wait_for(
        lambda: "another process took over; this one leaves" in exchange.printed(),
        60,
        lambda: "the old worker stays",
    )
    settle(exchange, clients, deliveries)


def go_away(brokers, names, clients, part, seconds):
    """Keep brokers stopped for so long while a part is sent, as far as that goes without them."""
    for name in names:
        brokers.stop(name)
    end = time.monotonic() + seconds
    if "rabbitmq" not in names:
        clients.publish(part)
    exchange = clients.exchange  # whose clients cannot turn while RabbitMQ is away: they wait for it
    exchange.wait_for(lambda: time.monotonic() > end, 2 * seconds + 1, lambda: "the time is not over")
    for name in reversed(names):
        brokers.start(name)
    if "rabbitmq" in names:
        clients.publish(part)


def brokers_go_away(make_clients, brokers, seconds, seed):
    """Kafka, with a worker killed meanwhile, RabbitMQ, then both go away under load and come back."""
    deliveries = drawn(seed, 2 * ORDERS)
    exchange, clients = make_clients(sections=FOLLOWED, encoding="json")
    exchange.start()
    until_followed(exchange)
    tenth = len(deliveries) // 10
    clients.publish(deliveries[:tenth])
    clients.send(deliveries[tenth : 2 * tenth])
    go_away(brokers, ["kafka"], clients, deliveries[2 * tenth : 3 * tenth], seconds)
    clients.send(deliveries[3 * tenth : 4 * tenth])
    brokers.stop("kafka")
    exchange.kill_one("worker-0")
    brokers.start("kafka")
    clients.send(deliveries[4 * tenth : 5 * tenth])
    go_away(brokers, ["rabbitmq"], clients, deliveries[5 * tenth : 6 * tenth], seconds)
    clients.send(deliveries[6 * tenth : 8 * tenth])
    go_away(brokers, ["kafka", "rabbitmq"], clients, deliveries[8 * tenth :], seconds)
    settle(exchange, clients, deliveries)


def test_brokers_that_go_away_and_come_back(make_clients, brokers):
    """For some seconds each, with followers: every order has effect once."""
    brokers_go_away(make_clients, brokers, 5, 331)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(332, 335))
def test_brokers_that_are_away_for_long(make_clients, brokers, seed):
    """For half a minute each, with followers: every order has effect once."""
    brokers_go_away(make_clients, brokers, 30, seed)


def cut_connections(make_clients, monkeypatch, rabbitmq_url, cuts, seed):
    """Cut the exchange's connections to RabbitMQ at random bytes of what it publishes, and judge."""
    chance = random.Random(seed)
    parted = urlsplit(rabbitmq_url)
    where = sorted(chance.sample(range(20_000, 3_000_000), cuts))
    with CuttingProxy(parted.hostname, parted.port, where) as proxy:
        url = rabbitmq_url.replace(f"{parted.hostname}:{parted.port}", f"127.0.0.1:{proxy.port}")
        deliveries = drawn(seed)
        monkeypatch.setenv("RINGPIT_RABBITMQ_URL", url)  # the clients stay with the broker itself
        exchange, clients = make_clients(FOLLOWED_PATIENTLY, encoding="json")
        exchange.start()
        clients.publish(deliveries)
        settle(exchange, clients, deliveries)
        assert proxy.cut_count
        print(f"{proxy.cut_count} connections cut")
    assert "started again" not in exchange.printed()


def test_a_connection_that_is_cut_in_the_middle_of_a_publish_costs_nothing(
    make_clients, monkeypatch, rabbitmq_url
):
    """The broker gets half a frame, several times: the rest goes out again, and every order has effect once."""
    cut_connections(make_clients, monkeypatch, rabbitmq_url, 5, 341)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(342, 347))
def test_connections_that_are_cut_often_cost_nothing(make_clients, monkeypatch, rabbitmq_url, seed):
    """The same, more often."""
    cut_connections(make_clients, monkeypatch, rabbitmq_url, 30, seed)
