"""A whole exchange without brokers: deliveries in by shared memory, the log in files, reports out in files."""

import base64
import json
import time
from itertools import pairwise

import pytest

from ringpit.engine.codes import Reason, ReportKind
from ringpit.ipc.idle import LULL_NAPS, MODES, NAP_US_MAX
from ringpit.testing.exchange import RingFeeder
from ringpit.testing.judge import model_of, received_by
from ringpit.testing.submissions import PACKED, Submission, by_event, cut, day, differences, one_exchange

pytestmark = pytest.mark.compiled
ORDERS, EVENTS, SEED = 20_000, 20, 20_261_201
LARGEST = 100  # commands of a delivery that touches both shards
IDLE_SECONDS = 60.0  # patience
LIMITS = {"events": 64, "orders": 1 << 14, "levels": 1 << 14, "keys": 1 << 13}


@pytest.fixture
def exchange(make_exchange):
    """An embedded exchange that runs."""
    made = make_exchange(limits=LIMITS)
    made.start()
    return made


def feed(exchange, deliveries):
    """Offer deliveries and wait until they are acknowledged."""
    feeder = RingFeeder(exchange)
    feeder.offer(deliveries)
    feeder.settle()
    feeder.close()


def assert_as_modelled(received, model):
    """Every report and every trade is there once, in its place, and nothing else is."""
    assert [] == differences(dict(enumerate(model.reports)), received.by_shard(received.reports))
    assert [] == differences(dict(enumerate(model.trades())), received.by_shard(received.trades))
    assert 0 == received.repeated
    assert [] == received.disordered()


def test_every_order_is_answered_as_the_rules_say(exchange):
    """Reports, trades, depth and books at rest are those of the naive exchange given the orders as submitted."""
    deliveries = cut(day(ORDERS, events=EVENTS, seed=SEED), seed=SEED)
    feed(exchange, deliveries)
    assert 0 == exchange.stop()

    received = received_by(exchange)
    model = model_of(received, deliveries)
    assert {0, 1} == set(received.homes().values())
    assert_as_modelled(received, model)
    assert [] == differences(one_exchange(deliveries), by_event(received.by_log_order()))
    assert model.digests() == exchange.digests()
    levels = exchange.config.output.depth
    for event in range(1, EVENTS + 1):
        book = received.books[event]
        assert model.depth(event, levels) == (book["Bids"], book["Asks"]), f"event {event}"


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_waiting_serves_and_goes_on_after_an_idle_time(make_exchange, mode):
    """However processes wait and hold their memory, what comes after an idle time is answered as ever."""
    memory = {"prefault": mode == "sleep", "huge_pages": "try", "lock": "try"}
    exchange = make_exchange(limits=LIMITS, wait={"mode": mode}, memory=memory)
    exchange.start()
    deliveries = cut(day(ORDERS // 10, events=4, seed=SEED), seed=SEED)
    half = len(deliveries) // 2
    feed(exchange, deliveries[:half])
    idle_until = time.monotonic() + 2 * LULL_NAPS * NAP_US_MAX / 1e6
    exchange.wait_for(lambda: time.monotonic() > idle_until, IDLE_SECONDS, lambda: "it is idle")
    feed(exchange, deliveries[half:])
    assert 0 == exchange.stop()
    received = received_by(exchange)
    assert_as_modelled(received, model_of(received, deliveries))


def test_a_restart_goes_on_where_it_was(exchange):
    """After a stop and a start books, seq and the window of keys are as if there had been none."""
    deliveries = cut(day(ORDERS, events=EVENTS, seed=SEED + 1), seed=SEED + 1)
    half = len(deliveries) // 2
    again = deliveries[half - 40 : half]
    large = [delivery for delivery in deliveries[:half] if len(delivery.commands) == LARGEST]
    other = [new._replace(message_id=old.message_id) for old, new in pairwise(large[:11])]
    feed(exchange, deliveries[:half])
    assert 0 == exchange.stop()
    exchange.start()
    feed(exchange, [*again, *other, *deliveries[half:]])
    assert 0 == exchange.stop()

    received = received_by(exchange)
    model = model_of(received, [*deliveries[:half], *again, *other, *deliveries[half:]])
    assert_as_modelled(received, model)
    assert model.digests() == exchange.digests()
    reports = received.by_log_order()
    assert len(again) <= sum(report.kind == ReportKind.DUPLICATE for report in reports)
    refused = sum(len(delivery.commands) for delivery in other)
    assert refused == sum(report.reason == Reason.KEY_REUSED for report in reports)


def test_a_kill_of_everything_loses_nothing_and_doubles_nothing(exchange):
    """When all processes are killed at once, what was not acknowledged is sent again and has effect once."""
    deliveries = cut(day(ORDERS, events=EVENTS, seed=SEED + 2), seed=SEED + 2)
    third = len(deliveries) // 3
    rest = deliveries
    for _ in range(2):
        feeder = RingFeeder(exchange)
        feeder.offer(rest[:third])
        exchange.kill()
        rest = feeder.unacknowledged() + rest[third:]
        feeder.close()
        exchange.start()
    feed(exchange, rest)
    assert 0 == exchange.stop()

    received = received_by(exchange)
    assert [] == received.contradicted
    assert [] == differences(one_exchange(deliveries), by_event(received.by_log_order()))
    model = model_of(received, deliveries)
    assert model.digests() == exchange.digests()


def test_garbage_is_put_aside_and_the_rest_goes_on(exchange):
    """A delivery that cannot be read lands in the dead-letter file with its reason; its neighbours are answered."""
    good = cut(day(1_000, events=EVENTS, seed=SEED + 3), seed=SEED + 3)
    bad = [
        Submission(content_type, f"bad-{number}", body, good[0].commands[:0])
        for number, (content_type, body) in enumerate(
            [
                ("application/json", b"{"),
                (PACKED, b"RPIT"),
                ("text/html", b"<p>"),
                ("", b""),
                (PACKED, bytes(80)),
            ]
        )
    ]
    mixed = [delivery for pair in zip(good[: len(bad)], bad, strict=True) for delivery in pair] + good[
        len(bad) :
    ]
    feed(exchange, mixed)
    assert 0 == exchange.stop()

    dead = [
        json.loads(line)
        for line in (exchange.config.data_folder() / "out" / "dead.ndjson").read_text().splitlines()
    ]
    assert [delivery.body for delivery in bad] == [base64.b64decode(line["Body"]) for line in dead]
    assert all(line["Reason"] == "MALFORMED" and line["Detail"] for line in dead)
    received = received_by(exchange)
    assert_as_modelled(received, model_of(received, good))
