"""Deliveries that come again and again, in any order: the books are those of deliveries that came once."""

import random

import pytest

from ringpit.engine.codes import Reason, ReportKind
from ringpit.shards import packed
from ringpit.shards.flow import flow
from ringpit.testing.exchange import RingFeeder
from ringpit.testing.judge import answers_of, assert_exact, assert_once_in_effect, model_of, received_by
from ringpit.testing.submissions import PACKED, Submission, by_event, differences, one_exchange

pytestmark = pytest.mark.compiled
DELIVERIES, ORDERS_EACH, EVENTS = 2_000, 5, 20  # that count; the window of keys holds all of them
OTHER_SHARE = 0.02  # of what comes again has another body
LIMITS = {"events": 64, "orders": 1 << 14, "levels": 1 << 14, "keys": 1 << 13}


def small_deliveries(seed):
    """Deliveries of a few orders each, every one with a message id of its own."""
    commands = flow(DELIVERIES * ORDERS_EACH, seed=seed, events=EVENTS)
    parts = [commands[at : at + ORDERS_EACH] for at in range(0, len(commands), ORDERS_EACH)]
    return [
        Submission(PACKED, f"small-{seed}-{number}", packed.encode(part), part)
        for number, part in enumerate(parts)
    ]


def with_another_body(delivery):
    """The same message id, and the same events, but other orders."""
    other = delivery.commands.copy()
    other["quantity"] += 1
    return delivery._replace(body=packed.encode(other), commands=other)


def shuffled_in(deliveries, repeats, chance, other_share=0.0):
    """The deliveries in their order, and among them as many repeats as are asked for of what came before, in no order."""
    sent = []
    for number, delivery in enumerate(deliveries, start=1):
        sent.append(delivery)
        for _ in range(repeats * number // len(deliveries) - repeats * (number - 1) // len(deliveries)):
            again = deliveries[chance.randrange(number)]
            sent.append(with_another_body(again) if chance.random() < other_share else again)
    return sent


def feed_with_repeats(make_exchange, repeats, seed):
    """Feed an embedded exchange deliveries, repeats and other bodies, and judge."""
    print(f"seed {seed}")
    deliveries = small_deliveries(seed)
    sent = shuffled_in(deliveries, repeats, random.Random(seed), OTHER_SHARE)
    exchange = make_exchange(limits=LIMITS)
    exchange.start()
    feeder = RingFeeder(exchange)
    feeder.offer(sent)
    feeder.settle()
    feeder.close()
    assert 0 == exchange.stop(), exchange.printed()

    received = received_by(exchange)
    assert_exact(received, sent)
    told = [report for report in received.by_log_order() if report.reason != Reason.KEY_REUSED]
    assert [] == differences(one_exchange(deliveries), by_event(told))
    assert model_of(received, deliveries).digests() == exchange.digests()
    duplicates = sum(report.kind == ReportKind.DUPLICATE for report in told)
    print(f"{duplicates} answered as duplicates")
    assert duplicates > repeats * (1 - 2 * OTHER_SHARE)


def test_twenty_thousand_duplicates(make_exchange):
    """Each is answered as a duplicate, each other body under a known key is refused, and nothing else changes."""
    feed_with_repeats(make_exchange, 20_000, seed=401)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_million_duplicates(make_exchange):
    """The same with a million."""
    feed_with_repeats(make_exchange, 1_000_000, seed=402)


def send_with_repeats(make_clients, repeats, seed):
    """Send over RabbitMQ with repeats, while routers are killed and the broker delivers again, and judge."""
    chance = random.Random(seed)
    print(f"seed {seed}")
    deliveries = small_deliveries(seed)
    sent = shuffled_in(deliveries, repeats, chance)
    exchange, clients = make_clients(sections={"follower": {"enabled": True}}, encoding="packed")
    exchange.start()
    quarter = len(sent) // 4
    for start, name in zip(range(0, 3 * quarter, quarter), ("router-0", "worker-0", "router-0"), strict=True):
        clients.send(sent[start : start + quarter])
        exchange.kill_one(name)
    clients.publish(sent[3 * quarter :])
    clients.wait_answered(answers_of(deliveries))
    assert 0 == exchange.stop(), exchange.printed()
    clients.read_rest()
    model = assert_once_in_effect(clients.received, deliveries)
    assert model.digests() == exchange.digests()


@pytest.mark.brokers
def test_duplicates_and_redeliveries_over_brokers(make_clients):
    """Publishers and broker both send again: every order has effect once."""
    send_with_repeats(make_clients, 5_000, seed=403)


@pytest.mark.soak
@pytest.mark.brokers
@pytest.mark.timeout(3600)
def test_a_million_duplicates_and_redeliveries_over_brokers(make_clients):
    """The same with a million."""
    send_with_repeats(make_clients, 1_000_000, seed=404)
