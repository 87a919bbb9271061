"""Every intake keeps the same promises: the fake one, the one over shared memory, the one over RabbitMQ, scanned and not."""

import base64
import json
import time
import uuid
from contextlib import contextmanager

import numpy as np
import pika
import pytest

from ringpit.shards.delivery import NO_KEY, publisher_key
from ringpit.shards.ingress import INGRESS, Cell, IngressFeeder, IngressIntake
from ringpit.shards.intake import RabbitIntake
from ringpit.testing.fake_broker import FakeBroker, FakeIntake

DEADLINE_SECONDS = 20.0
POSITION_FIRST = 3 << 40  # a ring of a third incarnation


class FakePlace:
    """The queue in memory."""

    def __init__(self):
        self.broker = FakeBroker()

    def publish(self, content_type, body, message_id=b""):
        self.broker.publish(content_type, body, publisher_key(b"", b"", message_id))

    def intake(self):
        return FakeIntake(self.broker)

    def dead(self, count):
        assert count == len(self.broker.dead)
        return [(letter.reason, letter.detail, letter.content_type, letter.body) for letter in self.broker.dead]

    def close(self):
        pass


class IngressPlace:
    """A ring in this process's memory."""

    def __init__(self, folder):
        self.path = folder / "dead.ndjson"
        self.slots = np.zeros(1 << 16, INGRESS)
        self.cells = np.full(32, POSITION_FIRST, np.int64)
        self.feeder = IngressFeeder(self.slots, Cell(self.cells, 0), Cell(self.cells, 16))

    def publish(self, content_type, body, message_id=b""):
        assert self.feeder.offer(content_type, publisher_key(b"", b"", message_id), body)

    def intake(self):
        return IngressIntake(self.slots, Cell(self.cells, 0), Cell(self.cells, 16), self.path)

    def dead(self, count):
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        assert count == len(lines)
        return [
            (line["Reason"], line["Detail"], line["ContentType"], base64.b64decode(line["Body"]))
            for line in lines
        ]

    def close(self):
        pass


class RabbitPlace:
    """A queue of its own on the real broker."""

    def __init__(self, endpoint_of, url, scanner):
        self.url = url
        self.scanner = scanner
        self.endpoint_of = endpoint_of
        name = f"ringpit.test.{uuid.uuid4().hex}"
        self.queue, self.dead_name = f"{name}.orders", f"{name}.dead"
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.opened = []

    def publish(self, content_type, body, message_id=b"", **more):
        properties = pika.BasicProperties(
            content_type=content_type or None, message_id=message_id or None, delivery_mode=2, **more
        )
        self.channel.basic_publish("", self.queue, body, properties, mandatory=True)

    def intake(self, prefetch=500):
        made = RabbitIntake(
            self.endpoint_of(self.url),
            queue=self.queue,
            prefetch=prefetch,
            dead_letter_exchange=self.dead_name,
            dead_letter_queue=self.dead_name,
            scanner=self.scanner,
        )
        assert made._scans == (self.scanner == "auto")
        self.opened.append(made)
        return made

    def dead(self, count):
        letters = []
        while len(letters) < count:
            method, properties, body = self.channel.basic_get(self.dead_name, auto_ack=True)
            if method is not None:
                headers = properties.headers
                letters.append(
                    (
                        headers["x-ringpit-reason"],
                        headers["x-ringpit-detail"],
                        headers["x-ringpit-content-type"],
                        body,
                    )
                )
        return letters

    def ready_count(self):
        return self.channel.queue_declare(self.queue, passive=True).method.message_count

    def close(self):
        for intake in self.opened:
            intake.close()
        self.channel.queue_delete(self.queue)
        self.channel.queue_delete(self.dead_name)
        self.channel.exchange_delete(self.dead_name)
        self.connection.close()


@contextmanager
def rabbit_place(endpoint_of, url, scanner):
    """A queue on the real broker, declared, and nothing left of it."""
    made = RabbitPlace(endpoint_of, url, scanner)
    first = made.intake()
    until(first, first.ready)
    first.close()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(
    params=[
        "fake",
        "ingress",
        pytest.param("rabbit", marks=pytest.mark.brokers),
        pytest.param("rabbit, decoded by pika", marks=pytest.mark.brokers),
    ]
)
def place(request, tmp_path, endpoint_of):
    """A place to publish to and to take from."""
    if request.param.startswith("rabbit"):
        scanner = "auto" if request.param == "rabbit" else "off"
        with rabbit_place(endpoint_of, request.getfixturevalue("rabbitmq_url"), scanner) as made:
            yield made
    else:
        yield FakePlace() if request.param == "fake" else IngressPlace(tmp_path)


@pytest.fixture
def intake(place):
    """An intake of that place."""
    made = place.intake()
    yield made
    made.close()


def until(intake, holds):
    """Poll until it holds, or fail."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        assert [] == intake.poll(0.01)


def take(intake, count):
    """Poll until there are so many deliveries."""
    deliveries = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(deliveries) < count:
        assert time.monotonic() < deadline, f"got {len(deliveries)} of {count} deliveries in time"
        deliveries += intake.poll(0.01)
    return deliveries


def take_dead(intake, count):
    """Poll until so many dead letters are safe."""
    tags = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(tags) < count:
        assert time.monotonic() < deadline, f"{len(tags)} of {count} dead letters were safe in time"
        assert [] == intake.poll(0.01)
        tags += intake.settled_dead_letters()
    return tags


def bodies(deliveries):
    return [bytes(delivery.body) for delivery in deliveries]


def test_deliveries_come_in_order_with_rising_tags(place, intake):
    """What was published first is delivered first, and every tag is larger than the one before."""
    sent = [b"%d" % number for number in range(300)]
    for body in sent:
        place.publish("application/json", body)
    deliveries = take(intake, 300)

    assert sent == bodies(deliveries)
    assert sorted({delivery.tag for delivery in deliveries}) == [delivery.tag for delivery in deliveries]
    assert {"application/json"} == {delivery.content_type for delivery in deliveries}
    assert not any(delivery.redelivered for delivery in deliveries)


def test_reopen_delivers_the_unacknowledged_again_in_order(place, intake):
    """After reopen come exactly the deliveries behind the acknowledged prefix, in order, with new tags."""
    for number in range(100):
        place.publish("application/json", b"%d" % number)
    first = take(intake, 100)
    intake.acknowledge(first[29].tag)
    generation = intake.generation
    intake.reopen()
    for number in range(100, 110):
        place.publish("application/json", b"%d" % number)
    again = take(intake, 80)

    assert [b"%d" % number for number in range(30, 110)] == bodies(again)
    assert generation < intake.generation
    assert first[-1].tag < again[0].tag
    assert all(delivery.redelivered for delivery in again[:70])


def test_acknowledging_means_everything_up_to_the_tag(place, intake):
    """One acknowledgement covers its predecessors; nothing of the prefix comes back, to nobody."""
    for number in range(10):
        place.publish("application/json", b"%d" % number)
    deliveries = take(intake, 10)
    intake.acknowledge(deliveries[3].tag)
    intake.acknowledge(deliveries[2].tag)  # says nothing new
    intake.close()
    later = place.intake()

    assert [b"%d" % number for number in range(4, 10)] == bodies(take(later, 6))
    later.close()


def test_an_acknowledgement_of_an_older_generation_does_nothing(place, intake):
    """A tag that reopen made void acknowledges none of the new deliveries."""
    for number in range(5):
        place.publish("application/json", b"%d" % number)
    old = take(intake, 5)
    intake.reopen()
    take(intake, 5)
    intake.acknowledge(old[-1].tag)
    intake.reopen()

    assert [b"%d" % number for number in range(5)] == bodies(take(intake, 5))


def test_acknowledging_what_was_never_delivered_is_refused(intake):
    """A tag from the future is a bug of the caller, and says so."""
    with pytest.raises(ValueError, match=r"acknowledged tag 7, but the last one handed out is 0"):
        intake.acknowledge(7)


def test_nothing_comes_while_paused(place, intake):
    """A paused intake hands out nothing, and everything in order afterwards."""
    place.publish("application/json", b"0")
    take(intake, 1)
    intake.pause()
    for number in range(1, 50):
        place.publish("application/json", b"%d" % number)

    assert [] == [delivery for _ in range(20) for delivery in intake.poll(0.005)]
    intake.resume()
    assert [b"%d" % number for number in range(1, 50)] == bodies(take(intake, 49))


def test_a_paused_intake_reopens(place, intake):
    """Reopening works while paused, and the pause goes on."""
    place.publish("application/json", b"a")
    take(intake, 1)
    intake.pause()
    intake.reopen()
    until(intake, intake.ready)

    assert [] == [delivery for _ in range(20) for delivery in intake.poll(0.005)]
    intake.resume()
    assert [b"a"] == bodies(take(intake, 1))


def test_the_key_comes_from_the_message_id(place, intake):
    """The same message id makes the same key, another one another key, and none makes NO_KEY."""
    for message_id in (b"one", b"one", b"two", b""):
        place.publish("application/json", b"x", message_id)
    keys = [delivery.key for delivery in take(intake, 4)]

    assert publisher_key(b"", b"", b"one") == keys[0] == keys[1]
    assert publisher_key(b"", b"", b"two") == keys[2]
    assert NO_KEY == keys[3]


def test_empty_and_large_bodies_and_a_missing_content_type_arrive(place, intake):
    """Nothing about a body or its type stops a delivery."""
    large = np.random.default_rng(1).bytes(1 << 20)
    place.publish("", b"")
    place.publish("application/x-unheard-of", large)
    place.publish("", b"tail")
    deliveries = take(intake, 3)

    assert [b"", large, b"tail"] == bodies(deliveries)
    assert ["", "application/x-unheard-of", ""] == [delivery.content_type for delivery in deliveries]


def test_a_dead_letter_is_safe_before_it_may_be_acknowledged(place, intake):
    """Its tag is named once, when body, type, reason and detail are kept; the others are not touched."""
    for number in range(3):
        place.publish("application/json", b"{%d" % number)
    deliveries = take(intake, 3)
    intake.dead_letter(deliveries[1], "MALFORMED", "expected a name at byte 1")

    assert [deliveries[1].tag] == take_dead(intake, 1)
    assert [("MALFORMED", "expected a name at byte 1", "application/json", b"{1")] == place.dead(1)
    assert [] == intake.settled_dead_letters()
    intake.reopen()
    assert [b"{0", b"{1", b"{2"] == bodies(take(intake, 3))


def test_a_dead_letter_of_an_older_generation_is_not_taken(place, intake):
    """What reopen made void is neither kept nor named: it comes again, and is put aside then."""
    place.publish("application/json", b"{")
    old = take(intake, 1)[0]
    intake.reopen()
    intake.dead_letter(old, "MALFORMED", "old")
    new = take(intake, 1)[0]
    intake.dead_letter(new, "MALFORMED", "new")

    assert [new.tag] == take_dead(intake, 1)
    assert [("MALFORMED", "new", "application/json", b"{")] == place.dead(1)


def test_thousands_of_dead_letters_become_safe_in_order(place, intake):
    """More dead letters than may be unconfirmed at once all get through, in order."""
    for number in range(400):
        place.publish("text/plain", b"%d" % number)
    deliveries = take(intake, 400)
    for delivery in deliveries:
        intake.dead_letter(delivery, "MALFORMED", "x" * 5_000)

    assert [delivery.tag for delivery in deliveries] == take_dead(intake, 400)
    assert [b"%d" % number for number in range(400)] == [letter[3] for letter in place.dead(400)]
