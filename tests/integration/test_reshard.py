"""An embedded exchange that is stopped, dealt out to more shards and run on, compared with one naive exchange that never stopped."""

import json
import uuid
from itertools import pairwise

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient

from ringpit.engine.codes import EventState, Reason, ReportKind
from ringpit.engine.digest import digest_of
from ringpit.engine.state import export, split
from ringpit.shards.directory import Directory
from ringpit.shards.exits import Exit
from ringpit.shards.sinks import JSON_LINES
from ringpit.testing.exchange import ExchangeFailed, RingFeeder
from ringpit.testing.received import Received
from ringpit.testing.submissions import Model, by_event, cut, day, differences

pytestmark = pytest.mark.compiled
ORDERS, EVENTS, SEED = 20_000, 20, 20_261_301
OLD_SHARDS, NEW_SHARDS = 2, 3
LARGEST = 100  # commands of a delivery that touches several shards
PATIENCE_SECONDS = 120.0
LIMITS = {"events": 64, "orders": 1 << 14, "levels": 1 << 14, "keys": 1 << 13}


def feed(exchange, deliveries):
    """Offer deliveries and wait until they are acknowledged."""
    feeder = RingFeeder(exchange)
    feeder.offer(deliveries)
    feeder.settle()
    feeder.close()


def received_by(exchange):
    """Everything in the output files, by topology generation."""
    received = {}
    for topic in ("reports", "trades", "prices", "books"):
        lines = (exchange.config.data_folder() / "out" / f"{topic}.ndjson").read_bytes().splitlines()
        for line in lines:
            generation = json.loads(line)["Generation"]
            received.setdefault(generation, Received()).take(topic, JSON_LINES, line)
    return received


def digest_of_all(exchange):
    """Digest of what rests on all shards together, by their logs."""
    states = [export(exchange.tables(shard)[0]) for shard in range(exchange.config.exchange.shards)]
    return digest_of(split(states, np.zeros_like, 1)[0])


def live_on_more_shards(exchange):
    """A day of which the second half comes behind a reshard, with duplicates of the first half before it; then everything is compared."""
    deliveries = cut(day(ORDERS, events=EVENTS, seed=SEED), seed=SEED)
    half = len(deliveries) // 2
    again = deliveries[half - 40 : half]
    large = [delivery for delivery in deliveries[:half] if len(delivery.commands) == LARGEST]
    other = [new._replace(message_id=old.message_id) for old, new in pairwise(large[:11])]
    exchange.start()
    feed(exchange, deliveries[:half])
    with pytest.raises(ExchangeFailed, match=rf"code {int(Exit.UNAVAILABLE)}.*\n.*stop that ringpit first"):
        exchange.reshard(NEW_SHARDS)
    assert 0 == exchange.stop()
    print(exchange.reshard(NEW_SHARDS))
    model = Model(1, lambda _event: 0)
    model.submit(deliveries[:half])
    assert model.digests() == [digest_of_all(exchange)]
    exchange.start()
    if exchange.config.follower.enabled:
        caught_up = [f"shard {shard}: follower caught up with the log at seq 0" for shard in range(NEW_SHARDS)]
        exchange.wait_for(
            lambda: all(line in exchange.printed() for line in caught_up),
            PATIENCE_SECONDS,
            lambda: "not every follower has caught up",
        )
        exchange.kill_one("worker-0")
    feed(exchange, [*again, *other, *deliveries[half:]])
    exchange.kill()  # a start of the new generation is a replay like any other
    exchange.start()
    feed(exchange, [*again, deliveries[-1]])
    assert 0 == exchange.stop()

    model.submit([*again, *other, *deliveries[half:]])
    received = received_by(exchange)
    assert {1, 2} == received.keys()
    reports = [report for generation in (1, 2) for report in received[generation].by_log_order()]
    assert [] == differences(by_event(model.reports[0]), by_event(reports))
    assert model.digests() == [digest_of_all(exchange)]
    assert [] == received[2].contradicted
    directory = Directory(NEW_SHARDS, 1)
    assert {event: directory.shard_of(event) for event in received[2].homes()} == received[2].homes()
    assert set(range(NEW_SHARDS)) == set(received[2].homes().values())
    late = received[2].by_log_order()
    assert 2 * len(again) < sum(report.kind == ReportKind.DUPLICATE for report in late)
    refused = sum(len(delivery.commands) for delivery in other)
    assert refused == sum(report.reason == Reason.KEY_REUSED for report in late)
    for event, book in model.shards[0].events.items():
        if book.state == EventState.OPEN:
            shown = received[2].books[event]
            assert model.depth(event, exchange.config.output.depth) == (shown["Bids"], shown["Asks"]), event


def test_more_shards_go_on_with_the_same_books(make_exchange):
    """The log in files; a worker of the new generation is killed, and its follower has the books, too."""
    live_on_more_shards(make_exchange(limits=LIMITS, follower={"enabled": True}))


@pytest.mark.brokers
def test_more_shards_over_kafka(make_exchange, kafka_bootstrap):
    """The log in Kafka: another topic for the new generation, the old one as it was."""
    topic = f"ringpit.test.{uuid.uuid4().hex[:12]}"
    exchange = make_exchange(
        limits=LIMITS, log={"kind": "kafka"}, kafka={"bootstrap": kafka_bootstrap, "topic": topic}
    )
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    try:
        live_on_more_shards(exchange)
        found = admin.list_topics(timeout=30).topics
        assert [OLD_SHARDS, NEW_SHARDS] == [len(found[name].partitions) for name in (topic, f"{topic}.2")]
    finally:
        exchange.close()
        admin.delete_topics([topic, f"{topic}.2"])


def test_a_start_with_another_number_of_shards_is_refused(make_exchange):
    """The sentence names both numbers and the command; nothing is started."""
    exchange = make_exchange(limits=LIMITS)
    exchange.start()
    assert 0 == exchange.stop()
    text = exchange.file.read_text()
    exchange.file.write_text(text.replace("shards = 2", "shards = 3"))
    rule = r"ended with code 2 .*\$\.exchange\.shards is 3, but .* has 2 .*`ringpit reshard --shards 3`"
    with pytest.raises(ExchangeFailed, match=f"(?s){rule}"):
        exchange.start()
    exchange.file.write_text(text)
    exchange.start()
    assert 0 == exchange.stop()
