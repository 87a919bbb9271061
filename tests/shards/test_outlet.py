"""The RabbitMQ sink: where messages go, when a token counts, and what a lost broker does."""

import os
import socket
import time

import pika
import pytest

from ringpit.shards.amqp import Endpoint
from ringpit.shards.outlet import RabbitSink, encoded_properties
from ringpit.shards.sinks import JSON_LINES, PACKED, Identity, SinkFailed, Token

DEADLINE_SECONDS = 60.0
TOPICS = ("reports", "trades", "prices", "books")


class Desk:
    """A sink with exchanges of its own, and a subscriber that hears everything."""

    def __init__(self, endpoint_of, url, prefix):
        self.endpoint_of, self.url, self.prefix = endpoint_of, url, prefix
        self.queue = f"{prefix}.tape"
        self.lines = []
        self.sinks = []

    def sink(self, **settings):
        exchanges = {topic: f"{self.prefix}.{topic}" for topic in TOPICS}
        made = RabbitSink(self.endpoint_of(self.url), exchanges=exchanges, say=self.lines.append, **settings)
        self.sinks.append(made)
        poll_until(made, made.ready)
        return made

    def connect(self):
        return pika.BlockingConnection(pika.URLParameters(self.url))

    def subscribe(self, arguments=None):
        """A durable queue behind all four exchanges."""
        with self.connect() as connection:
            channel = connection.channel()
            channel.queue_declare(self.queue, durable=True, arguments=arguments)
            for topic in TOPICS:
                channel.queue_bind(self.queue, f"{self.prefix}.{topic}", "#")

    def heard(self, count):
        """Take so many messages: (exchange, routing key, message id, body, properties)."""
        messages = []
        with self.connect() as connection:
            channel = connection.channel()
            deadline = time.monotonic() + DEADLINE_SECONDS
            while len(messages) < count:
                assert time.monotonic() < deadline, f"heard {len(messages)} of {count} messages in time"
                method, properties, body = channel.basic_get(self.queue, auto_ack=True)
                if method is not None:
                    messages.append(
                        (method.exchange, method.routing_key, properties.message_id, body, properties)
                    )
        return messages

    def close(self):
        for sink in self.sinks:
            sink.close()
        with self.connect() as connection:
            channel = connection.channel()
            channel.queue_delete(self.queue)
            for topic in TOPICS:
                channel.exchange_delete(f"{self.prefix}.{topic}")


@pytest.fixture
def desk(rabbitmq_url, endpoint_of, request):
    made = Desk(endpoint_of, rabbitmq_url, f"ringpit.test.{os.getpid()}.{abs(hash(request.node.name))}")
    yield made
    made.close()


def poll_until(sink, holds):
    """Poll until it holds; return the newest token that came."""
    newest = None
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        newest = sink.poll(0.02) or newest
    return newest


def token(number):
    return Token(number, 0, 100 + number, number, 0, True)


def report(sink, number, account=7):
    """One report whose identity and body are a number."""
    sink.reports(account, b"%d" % number, 1, JSON_LINES, Identity(1, 2, number, 0))


def until_token(sink, number):
    """Poll until a token is confirmed."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        assert time.monotonic() < deadline, f"token {number} was not confirmed in time"
        newest = sink.poll(0.02)
        if newest is not None and newest.number >= number:
            return newest


def test_properties_are_what_pika_reads():
    """Content type, delivery mode and message id, and nothing else."""
    decoded = pika.BasicProperties().decode(encoded_properties(PACKED, 2, Identity(1, 23, 456, 7)))

    assert pika.BasicProperties(content_type=PACKED, delivery_mode=2, message_id="1-23-456-7") == decoded


@pytest.mark.brokers
def test_each_topic_has_its_exchange_key_and_persistence(desk):
    """Reports by account, the rest by event; reports and trades outlive the broker."""
    sink = desk.sink()
    desk.subscribe()
    identity = Identity(1, 2, 3, 4)
    sink.reports(7, b"report", 1, JSON_LINES, identity)
    sink.trades(-8, bytearray(b"trade"), 1, JSON_LINES, identity)
    sink.price(8, memoryview(b"price"), 1, PACKED, identity)
    sink.book(8, b"book", 1, JSON_LINES, identity)
    heard = desk.heard(4) if sink.flush(DEADLINE_SECONDS) else []

    assert [
        (f"{desk.prefix}.reports", "report.7", "1-2-3-4", b"report", 2, JSON_LINES),
        (f"{desk.prefix}.trades", "trade.-8", "1-2-3-4", b"trade", 2, JSON_LINES),
        (f"{desk.prefix}.prices", "price.8", "1-2-3-4", b"price", 1, PACKED),
        (f"{desk.prefix}.books", "book.8", "1-2-3-4", b"book", 1, JSON_LINES),
    ] == [(*message[:4], message[4].delivery_mode, message[4].content_type) for message in heard]


@pytest.mark.brokers
def test_a_payload_may_be_reused_at_once(desk):
    """The sink has its own copy when the method returns."""
    sink = desk.sink()
    desk.subscribe()
    payload = bytearray(b"first")
    sink.reports(1, payload, 1, JSON_LINES, Identity(1, 2, 3, 4))
    payload[:] = b"other"
    sink.flush(DEADLINE_SECONDS)

    assert b"first" == desk.heard(1)[0][3]


@pytest.mark.brokers
def test_a_token_is_confirmed_with_everything_before_it(desk):
    """Only when the messages before its barrier are confirmed; and one with none before it, at once."""
    sink = desk.sink()
    desk.subscribe()
    for number in range(100):
        report(sink, number)
    sink.barrier(token(1))
    sink.barrier(token(2))

    assert token(2) == until_token(sink, 2)
    assert [b"%d" % number for number in range(100)] == [message[3] for message in desk.heard(100)]
    assert sink.poll(0.0) is None
    sink.barrier(token(3))
    assert token(3) == sink.poll(0.0)


@pytest.mark.brokers
def test_a_full_window_is_not_ready(desk):
    """So many unconfirmed messages and no more; confirms make room."""
    sink = desk.sink(window=10)
    for number in range(10):
        assert sink.ready()
        report(sink, number)

    assert not sink.ready()
    assert sink.flush(DEADLINE_SECONDS)
    assert sink.ready()


@pytest.mark.brokers
def test_a_large_message_is_cut_into_frames(desk):
    """A book of a megabyte arrives whole."""
    sink = desk.sink()
    desk.subscribe()
    large = os.urandom(1 << 20)
    sink.book(1, large, 1, PACKED, Identity(1, 2, 3, 4))
    sink.flush(DEADLINE_SECONDS)

    assert large == desk.heard(1)[0][3]


@pytest.mark.brokers
def test_a_lost_connection_repeats_what_was_unconfirmed_in_order(desk):
    """After a cut, everything not confirmed goes out again with the same ids, in order; the token waits for it."""
    sink = desk.sink()
    desk.subscribe()
    for number in range(50):
        report(sink, number)
    sink.barrier(token(1))
    sink._outbox.link._connection._transport._sock.shutdown(socket.SHUT_RDWR)

    assert token(1) == until_token(sink, 1)
    assert 50 == sink._outbox.repeated
    with desk.connect() as connection:
        count = connection.channel().queue_declare(desk.queue, passive=True).method.message_count
    ids = [int(message[2].split("-")[2]) for message in desk.heard(count)]
    assert list(range(50)) == ids[-50:]
    assert list(range(50)) == list(dict.fromkeys(ids))


@pytest.mark.brokers
def test_a_refused_message_comes_again(desk):
    """A nack (a full queue that rejects) repeats everything from there; when there is room, the token comes."""
    sink = desk.sink()
    desk.subscribe({"x-max-length": 5, "x-overflow": "reject-publish"})
    for number in range(5):
        report(sink, number)
    assert sink.flush(DEADLINE_SECONDS)
    report(sink, 5)
    sink.barrier(token(1))
    poll_until(sink, lambda: sink._outbox.refused >= 2)
    desk.heard(5)

    assert token(1) == until_token(sink, 1)
    assert b"5" == desk.heard(1)[0][3]
    assert any("nack" in line for line in desk.lines)


@pytest.mark.brokers
def test_a_broker_that_dies_and_comes_back_loses_nothing(desk, brokers):
    """kill -9 in the middle of publishing: not ready meanwhile, then everything is there, in order but for repeats."""
    sink = desk.sink()
    desk.subscribe({"x-queue-type": "quorum"})
    for number in range(500):
        report(sink, number)
    sink.barrier(token(1))
    sink.poll(0.0)
    brokers.kill("rabbitmq")
    poll_until(sink, lambda: not sink.ready())
    for number in range(500, 600):
        report(sink, number)
    sink.barrier(token(2))
    brokers.start("rabbitmq")

    assert token(2) == until_token(sink, 2)
    with desk.connect() as connection:
        count = connection.channel().queue_declare(desk.queue, passive=True).method.message_count
    ids = [int(message[2].split("-")[2]) for message in desk.heard(max(count, 600))]
    assert list(range(600)) == list(dict.fromkeys(ids))


@pytest.mark.brokers
def test_a_refusal_ends_the_sink_with_a_sentence(desk):
    """A wrong password is no reason to wait."""
    endpoint = desk.endpoint_of(desk.url, username="nobody", password="x")  # noqa: S106 - made up here
    sink = RabbitSink(endpoint, say=desk.lines.append)
    with pytest.raises(SinkFailed, match=r"publisher: RabbitMQ at .* refused: login refused"):
        poll_until(sink, sink.ready)


def test_without_a_broker_the_sink_is_not_ready_and_keeps_what_it_got():
    """Messages given all the same wait; their token does not come."""
    lines = []
    sink = RabbitSink(Endpoint(url="amqp://127.0.0.1:1"), say=lines.append)
    report(sink, 1)
    sink.barrier(token(1))

    assert not sink.ready()
    assert not sink.flush(0.2)
    assert sink.poll(0.0) is None
    assert 1 == len(lines)
    sink.close()


def test_every_topic_needs_an_exchange():
    """A mapping that leaves one out is refused at once."""
    with pytest.raises(ValueError, match="publisher: every topic needs an exchange; prices, books has none"):
        RabbitSink(Endpoint(), exchanges={"reports": "r", "trades": "t"})


def test_a_window_of_none_is_refused():
    """It would never be ready."""
    with pytest.raises(
        ValueError, match="publisher: the window of unconfirmed messages must be at least 1, was 0"
    ):
        RabbitSink(Endpoint(), window=0)
