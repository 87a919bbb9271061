"""A whole exchange over the real RabbitMQ and the real Kafka, compared with the naive exchange given what was sent."""

import random
from itertools import pairwise

import pytest

from ringpit.engine.codes import Reason, ReportKind
from ringpit.testing.garbage import HEADERS, garbage
from ringpit.testing.judge import answers_of, assert_exact, assert_once_in_effect
from ringpit.testing.submissions import by_event, cut, day, differences, one_exchange

pytestmark = [pytest.mark.brokers, pytest.mark.compiled]
EVENTS, SEED = 24, 20_261_207
MORE = 100  # deliveries that are on their way when something ends
GARBAGE = 10_000
LARGEST = 100  # commands of a delivery that touches both shards


def test_a_hundred_thousand_orders(make_clients):
    """Every report, trade, book and resting order is that of the naive exchange fed the orders as submitted."""
    exchange, clients = make_clients(encoding="json")
    deliveries = cut(day(100_000, events=EVENTS, seed=SEED), seed=SEED)
    exchange.start()
    clients.publish(deliveries)
    clients.wait_answered(answers_of(deliveries))
    assert 0 == exchange.stop()
    clients.read_rest()

    received = clients.received
    model = assert_exact(clients.received, deliveries)
    assert [] == differences(one_exchange(deliveries), by_event(received.by_log_order()))
    assert {0, 1} == set(received.homes().values())
    assert model.digests() == exchange.digests()
    for event in range(1, EVENTS + 1):
        book = received.books[event]
        assert model.depth(event, exchange.config.output.depth) == (book["Bids"], book["Asks"]), (
            f"event {event}"
        )


def test_a_clean_restart_under_load(make_clients):
    """Stopped and started amid the flow, books, seq and the window of keys are as if there had been no stop."""
    exchange, clients = make_clients(encoding="packed")
    deliveries = cut(day(30_000, events=EVENTS, seed=SEED + 1), seed=SEED + 1)
    half = len(deliveries) // 2
    exchange.start()
    clients.send(deliveries[: half - MORE])
    exchange.ask_to_stop()
    clients.publish(deliveries[half - MORE : half])
    assert 0 == exchange.stop()
    print(f"answered before the restart: {clients.received.answered} of {answers_of(deliveries)}")
    exchange.start()
    again = deliveries[10:50]
    large = [delivery for delivery in deliveries[: half // 2] if len(delivery.commands) == LARGEST]
    other = [new._replace(message_id=old.message_id) for old, new in pairwise(large[:11])]
    refused = sum(len(delivery.commands) for delivery in other)
    sent = [*deliveries[:half], *again, *other, *deliveries[half:]]
    clients.publish(sent[half:])
    clients.wait_answered(answers_of(deliveries) + refused)
    assert 0 == exchange.stop()
    clients.read_rest()

    model = assert_exact(clients.received, sent)
    assert model.digests() == exchange.digests()
    reports = clients.received.by_log_order()
    assert len(again) <= sum(report.kind == ReportKind.DUPLICATE for report in reports)
    assert refused == sum(report.reason == Reason.KEY_REUSED for report in reports)


def test_a_kill_of_everything_under_load(make_clients):
    """When all processes are killed at once amid the flow, twice, every order has effect once."""
    exchange, clients = make_clients(encoding="packed")
    deliveries = cut(day(30_000, events=EVENTS, seed=SEED + 2), seed=SEED + 2)
    part = len(deliveries) // 3
    exchange.start()
    for number in (1, 2):
        clients.send(deliveries[(number - 1) * part : number * part - MORE])
        clients.wait_answered(clients.received.answered + 1)
        clients.send(deliveries[number * part - MORE : number * part])
        exchange.kill()
        print(f"answered before kill {number}: {clients.received.answered} of {answers_of(deliveries)}")
        exchange.start()
    clients.publish(deliveries[2 * part :])
    clients.wait_answered(answers_of(deliveries))
    assert 0 == exchange.stop()
    clients.read_rest()

    model = assert_once_in_effect(clients.received, deliveries)
    assert model.digests() == exchange.digests()


def test_each_process_is_killed_under_load(make_clients):
    """Router, worker and publisher killed one after the other amid the flow come back, and every order has effect once."""
    exchange, clients = make_clients(encoding="json")
    deliveries = cut(day(30_000, events=EVENTS, seed=SEED + 5), seed=SEED + 5)
    part = len(deliveries) // 4
    exchange.start()
    for number, name in enumerate(("router-0", "worker-1", "publisher-0")):
        clients.send(deliveries[number * part : (number + 1) * part])
        exchange.kill_one(name)
        print(f"answered before {name} was killed: {clients.received.answered} of {answers_of(deliveries)}")
    clients.publish(deliveries[3 * part :])
    clients.wait_answered(answers_of(deliveries))
    assert 0 == exchange.stop()
    clients.read_rest()

    model = assert_once_in_effect(clients.received, deliveries)
    print(f"came twice: {clients.received.repeated} reports and trades")
    assert model.digests() == exchange.digests()
    assert 3 == exchange.printed().count("started again, incarnation")


@pytest.mark.parametrize("name", ["rabbitmq", "kafka"])
def test_a_broker_that_goes_and_comes_back(make_clients, brokers, name):
    """An exchange whose RabbitMQ or Kafka is stopped amid the flow goes on by itself, and every order has effect once."""
    exchange, clients = make_clients(encoding="json")
    deliveries = cut(day(30_000, events=EVENTS, seed=SEED + 3), seed=SEED + 3)
    half = len(deliveries) // 2
    exchange.start()
    clients.send(deliveries[: half - MORE])
    clients.wait_answered(1)
    clients.send(deliveries[half - MORE : half])
    with brokers.stopped(name):
        print(f"answered before {name} stopped: {clients.received.answered} of {answers_of(deliveries)}")
        if name == "kafka":
            clients.publish(deliveries[half:])
    if name == "rabbitmq":
        clients.publish(deliveries[half:])
    clients.wait_answered(answers_of(deliveries))
    assert 0 == exchange.stop()
    clients.read_rest()

    model = assert_once_in_effect(clients.received, deliveries)
    print(f"came twice: {clients.received.repeated} reports and trades")
    assert model.digests() == exchange.digests()
    assert "started again" not in exchange.printed()


def test_ten_thousand_deliveries_of_garbage(make_clients):
    """None stops anything: each is a dead letter with its reason, in order, and every good order between is answered."""
    exchange, clients = make_clients(encoding="packed")
    good = cut(day(10_000, events=EVENTS, seed=SEED + 4), seed=SEED + 4)
    good = [each._replace(headers=HEADERS[number % len(HEADERS)]) for number, each in enumerate(good)]
    bad = list(garbage(GARBAGE, seed=SEED))
    bad[7] = bad[7]._replace(message_id=good[-1].message_id)  # what was put aside has used up no message id
    places = sorted(random.Random(SEED).choices(range(len(bad)), k=len(good)))
    exchange.start()
    at = 0
    for place, delivery in zip(places, good, strict=True):
        clients.send([*bad[at:place], delivery])
        at = place
    clients.publish(bad[at:])
    clients.wait_answered(answers_of(good))
    letters = clients.dead_letters(len(bad))
    assert 0 == exchange.stop()
    clients.read_rest()

    assert [each.body for each in bad] == [letter.body for letter in letters]
    for each, letter in zip(bad, letters, strict=True):
        headers = letter.headers
        assert "MALFORMED" == headers["x-ringpit-reason"]
        assert headers["x-ringpit-detail"], f"no detail for {each.content_type} {each.body[:80]!r}"
        assert (each.content_type, each.message_id) == (
            headers["x-ringpit-content-type"],
            headers["x-ringpit-message-id"],
        )
    assert "started again" not in exchange.printed()
    model = assert_exact(clients.received, good)
    assert model.digests() == exchange.digests()
