"""The real brokers, started, stopped and killed: what clients of each may rely on."""

import time
import uuid

import pika
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

pytestmark = pytest.mark.brokers
WAIT_SECONDS = 60.0


def publish(url, queue, body):
    """Publish one persistent, confirmed message to a quorum queue, as often as it takes."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            with pika.BlockingConnection(pika.URLParameters(url)) as connection:
                channel = connection.channel()
                channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
                channel.confirm_delivery()
                channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2), mandatory=True)
                return
        except pika.exceptions.AMQPError:  # a queue without a leader, just after a start, refuses
            if time.monotonic() > deadline:
                raise


def take_all(url, queue, count):
    """Take `count` messages, in order, and delete the queue."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        bodies = []
        for _, _, body in channel.consume(queue, auto_ack=True, inactivity_timeout=WAIT_SECONDS):
            bodies.append(body)
            if body is None or len(bodies) == count:
                break
        channel.cancel()
        channel.queue_delete(queue)
        return bodies


@pytest.mark.parametrize("action", ["kill", "stop"])
def test_rabbitmq_keeps_confirmed_messages(brokers, rabbitmq_url, action):
    """What a quorum queue confirmed is there after its broker was stopped or killed, on the same port."""
    queue = f"ringpit-test-{uuid.uuid4().hex}"
    publish(rabbitmq_url, queue, b"first")
    getattr(brokers, action)("rabbitmq")
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        pika.BlockingConnection(pika.URLParameters(rabbitmq_url))
    brokers.start("rabbitmq")
    publish(rabbitmq_url, queue, b"second")
    assert [b"first", b"second"] == take_all(rabbitmq_url, queue, 2)


@pytest.mark.parametrize("action", ["kill", "stop"])
def test_kafka_keeps_acknowledged_records(brokers, kafka_bootstrap, action):
    """What Kafka acknowledged is there after its broker was stopped or killed, on the same port."""
    topic = f"ringpit-test-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(WAIT_SECONDS)
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "enable.idempotence": True})
    producer.produce(topic, b"first", partition=0)
    assert 0 == producer.flush(WAIT_SECONDS)
    getattr(brokers, action)("kafka")
    producer.produce(topic, b"second", partition=0)
    brokers.start("kafka")
    assert 0 == producer.flush(WAIT_SECONDS)
    consumer = Consumer({"bootstrap.servers": kafka_bootstrap, "group.id": topic, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    assert [b"first", b"second"] == [consumer.poll(WAIT_SECONDS).value() for _ in range(2)]
    consumer.close()
    admin.delete_topics([topic])[topic].result(WAIT_SECONDS)


def test_kafka_refuses_a_misspelt_topic(kafka_bootstrap):
    """No topic comes into being by being written to."""
    errors = []
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "message.timeout.ms": 5_000})
    producer.produce("ringpit-test-misspelt", b"x", on_delivery=lambda error, _: errors.append(error))
    assert 0 == producer.flush(WAIT_SECONDS)
    assert 1 == len(errors)
    assert errors[0] is not None
    assert (
        "ringpit-test-misspelt" not in AdminClient({"bootstrap.servers": kafka_bootstrap}).list_topics().topics
    )


def test_stopped_starts_again_however_the_body_ends(brokers, kafka_bootstrap):
    """A test that fails while a broker is away still gives it back."""
    with pytest.raises(KeyError), brokers.stopped("kafka"):
        raise KeyError
    assert 1 == len(
        AdminClient({"bootstrap.servers": kafka_bootstrap}).list_topics(timeout=WAIT_SECONDS).brokers
    )
