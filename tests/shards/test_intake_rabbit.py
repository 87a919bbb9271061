"""The intake on the real RabbitMQ: what a queue in memory cannot show."""

import os
import socket
import struct
import time

import pika
import pytest

from ringpit.shards.delivery import NO_KEY, Delivery, publisher_key
from ringpit.shards.intake import RabbitIntake, dead_letter_properties, queue_arguments
from ringpit.shards.wire import publish_frames, publish_method

DEADLINE_SECONDS = 60.0
SECRET = "do-not-print-this"  # noqa: S105 - made up here


class Place:
    """One order queue, its dead letters, and the intakes on it."""

    def __init__(self, endpoint_of, url, name):
        self.url, self.endpoint_of = url, endpoint_of
        self.queue, self.dead = f"{name}.orders", f"{name}.dead"
        self.lines = []
        self.intakes = []

    def intake(self, prefetch=500, **settings):
        made = RabbitIntake(
            self.endpoint_of(self.url, **settings),
            queue=self.queue,
            prefetch=prefetch,
            dead_letter_exchange=self.dead,
            dead_letter_queue=self.dead,
            say=self.lines.append,
        )
        self.intakes.append(made)
        return made

    def ready_intake(self, **settings):
        """An intake of a queue that is still empty."""
        made = self.intake(**settings)
        poll_until(made, made.ready)
        return made

    def connect(self):
        return pika.BlockingConnection(pika.URLParameters(self.url))

    def publish(self, bodies, before_each=lambda: None, **properties):
        with self.connect() as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            for body in bodies:
                before_each()
                made = pika.BasicProperties(delivery_mode=2, **properties)
                channel.basic_publish("", self.queue, body, made, mandatory=True)

    def close(self):
        for intake in self.intakes:
            intake.close()
        with self.connect() as connection:
            channel = connection.channel()
            channel.queue_delete(self.queue)
            channel.queue_delete(self.dead)
            channel.exchange_delete(self.dead)


@pytest.fixture
def place(rabbitmq_url, endpoint_of, request):
    made = Place(endpoint_of, rabbitmq_url, f"ringpit.test.{os.getpid()}.{abs(hash(request.node.name))}")
    yield made
    made.close()


def poll_until(intake, holds, seconds=DEADLINE_SECONDS):
    """Poll until it holds; return what was delivered meanwhile."""
    deliveries = []
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        deliveries += intake.poll(0.02)
    return deliveries


def take(intake, count, seconds=DEADLINE_SECONDS):
    """Poll until there are so many deliveries."""
    deliveries = []
    deadline = time.monotonic() + seconds
    while len(deliveries) < count:
        assert time.monotonic() < deadline, f"got {len(deliveries)} of {count} deliveries in time"
        deliveries += intake.poll(0.02)
    return deliveries


def numbers(deliveries):
    return [int(bytes(delivery.body)) for delivery in deliveries]


def test_the_queue_has_no_delivery_limit_on_any_version():
    """Old brokers have none by default and know no -1; new ones must be told."""
    assert {"x-queue-type": "quorum", "x-single-active-consumer": True} == queue_arguments((3, 13, 7))
    assert -1 == queue_arguments((4, 0, 0))["x-delivery-limit"]


@pytest.mark.brokers
def test_the_key_uses_all_three_parts(place):
    """User, application and message id make the key; a part cannot run into the next."""
    intake = place.ready_intake()
    place.publish([b"1"], user_id="guest", app_id="app", message_id="m")
    (delivery,) = take(intake, 1)

    assert publisher_key(b"guest", b"app", b"m") == delivery.key
    assert publisher_key(b"guestapp", b"", b"m") != delivery.key
    assert "m" == delivery.message_id


@pytest.mark.brokers
def test_a_waiting_second_consumer_gets_the_rest_in_order(place):
    """When the active intake closes with deliveries in hand, the next one gets those first."""
    active = place.ready_intake(prefetch=20)
    waiting = place.ready_intake(prefetch=20)
    place.publish([b"%d" % number for number in range(60)])
    held = take(active, 20)
    active.acknowledge(held[4].tag)
    active.close()
    deliveries = []
    while len(deliveries) < 55:
        batch = take(waiting, 1)
        waiting.acknowledge(batch[-1].tag)
        deliveries += batch

    assert list(range(5, 60)) == numbers(deliveries)


@pytest.mark.brokers
def test_reopen_keeps_the_queue_from_a_waiting_second_consumer_in_order(place):
    """Whoever is active after a reopen, what was unacknowledged comes before what was not yet delivered."""
    active = place.ready_intake(prefetch=20)
    waiting = place.ready_intake(prefetch=20)
    place.publish([b"%d" % number for number in range(40)])
    take(active, 20)
    active.reopen()
    deliveries = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(deliveries) < 40:
        assert time.monotonic() < deadline
        for intake in (active, waiting):
            batch = intake.poll(0.01)
            deliveries += batch
            if batch:
                intake.acknowledge(batch[-1].tag)

    assert list(range(40)) == numbers(deliveries)


@pytest.mark.brokers
def test_a_broker_that_dies_and_comes_back_redelivers_in_order(place, brokers):
    """kill -9 and a restart: the generation rises, what was not acknowledged comes in order, and it goes on."""
    intake = place.ready_intake(prefetch=100)
    place.publish([b"%d" % number for number in range(110)])
    held = take(intake, 100)
    intake.acknowledge(held[9].tag)
    take(intake, 10)  # the queue gives more as soon as it has the acknowledgement, and not before
    generation = intake.generation
    brokers.kill("rabbitmq")
    poll_until(intake, lambda: not intake.ready())
    brokers.start("rabbitmq")
    again = take(intake, 100)
    intake.acknowledge(again[-1].tag)
    place.publish([b"110"])

    assert list(range(10, 110)) == numbers(again)
    assert generation < intake.generation
    assert [110] == numbers(take(intake, 1))
    assert 1 == sum("lost RabbitMQ" in line for line in place.lines if line.startswith("intake"))


@pytest.mark.brokers
def test_a_paused_intake_leaves_the_socket_alone_and_keeps_its_connection(place):
    """Backlog stays in the broker and the kernel, sips are small, heartbeats go on for longer than both sides wait."""
    intake = place.ready_intake(heartbeat_seconds=3)  # not 1: a stall of two heartbeats is none of its mistakes
    intake.pause()
    place.publish([bytes(1 << 20)] * 40, before_each=lambda: intake.poll(0.0))
    connection = intake._link._connection
    read_before = connection.bytes_received
    deadline = time.monotonic() + 10.0  # pika gives up after heartbeat + 5 s, the broker after 3 heartbeats
    while time.monotonic() < deadline:
        assert [] == intake.poll(0.05)

    assert connection.is_open
    assert connection.bytes_received - read_before < 15 * 150_000  # a sip each quarter of a heartbeat
    assert 0 == intake._link.losses
    intake.resume()
    assert 40 == len(take(intake, 40))


@pytest.mark.brokers
def test_prefetch_bounds_what_is_held(place):
    """No more than the prefetch is handed out until something is acknowledged."""
    intake = place.ready_intake(prefetch=7)
    place.publish([b"%d" % number for number in range(20)])
    first = take(intake, 7)

    assert [] == [delivery for _ in range(20) for delivery in intake.poll(0.01)]
    intake.acknowledge(first[2].tag)
    assert [7, 8, 9] == numbers(take(intake, 3))


def publish_raw(place, properties, body):
    """Publish with a property list that no client library would write; False if the broker itself chokes on it."""
    connection = place.connect()
    channel = connection.channel()
    frames = publish_frames(
        channel.channel_number, publish_method("", place.queue, mandatory=False), properties, body, 1_000
    )
    connection._impl._adapter_emit_data(frames)
    try:
        channel.queue_declare(place.queue, passive=True)  # answered after the message is taken
    except pika.exceptions.AMQPError:
        return False
    connection.close()
    return True


def with_header(table):
    """A property list with nothing but a table of headers."""
    return struct.pack(">HI", 1 << 13, len(table)) + table


@pytest.mark.brokers
def test_properties_of_strange_types_stop_nothing(place):
    """Headers that pika cannot decode, texts that are no UTF-8: delivered, then everything behind them."""
    intake = place.ready_intake()
    bad_type = struct.pack(">HB", 1 << 15, 2) + b"\xff\xfe"
    bad_id = struct.pack(">HB", 1 << 7, 255) + b"\x80" * 255
    far_stamp = with_header(b"\x01xT" + struct.pack(">Q", 1 << 62))
    not_a_number = with_header(b"\x01xf" + struct.pack(">f", float("nan")))
    infinite = with_header(b"\x01xd" + struct.pack(">d", float("-inf")))
    nested = with_header(b"\x01xF\x00\x00\x00\x07\x01yA\x00\x00\x00\x00")
    for number, properties in enumerate((bad_type, bad_id, far_stamp, nested)):
        assert publish_raw(place, properties, b"%d" % number)
    taken = [publish_raw(place, properties, b"4") for properties in (not_a_number, infinite)].count(True)
    place.publish([b"5"])
    deliveries = take(intake, 5 + taken)

    assert [0, 1, 2, 3, *[4] * taken, 5] == numbers(deliveries)
    assert "\ufffd\ufffd" == deliveries[0].content_type
    assert publisher_key(b"", b"", b"\x80" * 255) == deliveries[1].key
    intake.dead_letter(deliveries[0], "MALFORMED", "type")
    intake.dead_letter(deliveries[1], "MALFORMED", "id")
    tags = []
    poll_until(intake, lambda: tags.extend(intake.settled_dead_letters()) or len(tags) == 2)
    assert [deliveries[0].tag, deliveries[1].tag] == tags


@pytest.mark.brokers
def test_a_dead_letter_waits_for_its_confirm(place):
    """Nobody bound to the exchange: the message is not lost, its tag is not named, until there is a queue again."""
    intake = place.ready_intake()
    place.publish([b"{"], content_type="application/json", message_id="m-1")
    (delivery,) = take(intake, 1)
    with place.connect() as connection:
        connection.channel().queue_delete(place.dead)
    intake.dead_letter(delivery, "MALFORMED", "d")
    tags = []
    poll_until(intake, lambda: tags.extend(intake.settled_dead_letters()) or tags)
    with place.connect() as connection:
        channel = connection.channel()
        _, properties, body = channel.basic_get(place.dead, auto_ack=True)

    assert [delivery.tag] == tags
    assert any("no queue takes messages" in line for line in place.lines)
    assert (b"{", "application/json", "m-1", 2) == (
        body,
        properties.content_type,
        properties.message_id,
        properties.delivery_mode,
    )
    assert place.queue == properties.headers["x-ringpit-queue"]


@pytest.mark.brokers
def test_no_line_shows_credentials(place, brokers):
    """Through connecting, losing and reconnecting, neither name nor password is said."""
    with place.connect() as connection:
        connection.channel().queue_declare(place.queue, durable=True, arguments=queue_arguments((3, 10)))
    intake = place.intake(username=SECRET, password=SECRET)
    with pytest.raises(Exception, match="login refused") as caught:
        poll_until(intake, intake.ready)
    with brokers.stopped("rabbitmq"):
        other = place.intake(username=SECRET, password=SECRET)
        poll_until(other, lambda: len(place.lines) >= 2)

    assert SECRET not in "\n".join([str(caught.value), *place.lines, repr(intake._link.endpoint)])


@pytest.mark.brokers
def test_a_torn_stream_reconnects(place):
    """Cutting the socket under the connection is a loss like any other: void, reconnect, redeliver."""
    intake = place.ready_intake()
    place.publish([b"%d" % number for number in range(10)])
    take(intake, 10)
    intake._link._connection._transport._sock.shutdown(socket.SHUT_RDWR)

    assert list(range(10)) == numbers(take(intake, 10))
    assert intake.generation >= 1


def test_a_dead_letters_properties_fit_whatever_came():
    """Texts that have grown beyond a short string in decoding are cut in the property and whole in the header."""
    delivery = Delivery(1, "\ufffd" * 255, NO_KEY, b"", False, "\ufffd" * 255)
    decoded = pika.BasicProperties().decode(dead_letter_properties(delivery, "R", "d" * 2_000, "q"))

    assert "\ufffd" * 85 == decoded.content_type == decoded.message_id
    assert delivery.content_type == decoded.headers["x-ringpit-content-type"]
    assert 1_000 == len(decoded.headers["x-ringpit-detail"])
