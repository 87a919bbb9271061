"""
What a delivery costs before it is decoded.     RabbitMQ's queue -> [connection, scanner or pika's decoder, key] -> deliveries

Runs    the real intake over a queue that was filled before, once with the scanner and once with pika's own decoder, same
        messages, in the same minute; every delivery is acknowledged, the prefix once a turn.
Tells   deliveries per second, and processor microseconds per delivery of the intake and, if RINGPIT_RABBITMQ_PID names it, of the
        broker. Bodies are JSON of one order, or of --frame orders.
Checks  both ways give the same bodies and the same keys, in the same order; a checksum of them is a fact.
Needs   a RabbitMQ (RINGPIT_RABBITMQ_URL) and 2 cores.
"""

import argparse
import hashlib
import os
import time
from typing import Any

import msgspec
import pika

from ringpit.perf.decode import bodies, orders_of
from ringpit.perf.harness import CannotMeasureError, benchmark, positive
from ringpit.perf.loop import broker_cpu_ns
from ringpit.shards.amqp import Endpoint
from ringpit.shards.delivery import Delivery
from ringpit.shards.intake import RabbitIntake
from ringpit.shards.outbox import Outbox

WAYS = {"scanned": "auto", "pika": "off"}
WINDOW = 1_024
POLL_SECONDS = 0.01


def add_options(parser: argparse.ArgumentParser) -> None:
    """How much is consumed."""
    parser.add_argument(
        "--deliveries", type=positive, default=100_000, help="messages in the queue, for each way"
    )
    parser.add_argument("--frame", type=positive, default=1, help="orders in one of them")
    parser.add_argument("--prefetch", type=positive, default=5_000, help="unacknowledged deliveries")


def quiet(_text: str) -> None:
    """Say nothing."""


def intake_of(endpoint: Endpoint, queue: str, scanner: str, prefetch: int) -> RabbitIntake:
    """An intake, open; it has given nothing out."""
    made = RabbitIntake(
        endpoint, queue=queue, prefetch=prefetch, dead_letter_exchange=queue, dead_letter_queue=queue + ".dead",
        scanner=scanner, say=quiet,
    )  # fmt: skip
    made.pause()  # what a poll gives out before that would be lost to the count
    while not made.ready():
        made.poll(POLL_SECONDS)
    made.resume()
    return made


def fill(endpoint: Endpoint, queue: str, sent: list[bytes], deliveries: int) -> None:
    """Publish so many messages, and wait until all are confirmed."""
    outbox = Outbox("filler", endpoint, lambda _channel: None, quiet, window=WINDOW, mandatory=True)
    for number in range(deliveries):
        properties = pika.BasicProperties(
            content_type="application/json", delivery_mode=2, app_id="perf", message_id=str(number)
        )
        while not outbox.ready():
            outbox.poll(POLL_SECONDS)
        outbox.send("", queue, b"".join(properties.encode()), sent[number % len(sent)])
        if number & 15 == 0:
            outbox.poll(0.0)
    while outbox.unconfirmed:
        outbox.poll(POLL_SECONDS)
    outbox.close()


def consume(intake: RabbitIntake, count: int) -> tuple[list[Delivery], float, float, dict[str, int]]:
    """Take so many, acknowledging: deliveries, seconds, processor seconds of ours, nanoseconds of the broker's."""
    taken: list[Delivery] = []
    broker = broker_cpu_ns()
    began, spent = time.perf_counter(), time.process_time()
    while len(taken) < count:
        arrived = intake.poll(POLL_SECONDS)
        if arrived:
            taken += arrived
            intake.acknowledge(arrived[-1].tag)
    intake.poll(0.0)
    seconds, spent = time.perf_counter() - began, time.process_time() - spent
    return taken, seconds, spent, {name: total - broker[name] for name, total in broker_cpu_ns().items()}


def checksum_of(taken: list[Delivery]) -> str:
    """Names what was taken: bodies and keys in order."""
    digest = hashlib.blake2b(digest_size=8)
    for delivery in taken:
        digest.update(repr((delivery.key, delivery.content_type)).encode())
        digest.update(delivery.body)
    return digest.hexdigest()


def one_way(
    endpoint: Endpoint, queue: str, scanner: str, arguments: argparse.Namespace, sent: list[bytes]
) -> tuple[str, list[Any]]:
    """Fill and empty a queue."""
    intake_of(endpoint, queue, "off", 1).close()  # declares it
    fill(endpoint, queue, sent, arguments.deliveries)
    intake = intake_of(endpoint, queue, scanner, arguments.prefetch)
    taken, *costs = consume(intake, arguments.deliveries)
    intake.close()
    return checksum_of(taken), costs


@benchmark(
    "intake",
    "deliveries from a full RabbitMQ queue: scanned, and by pika's decoder",
    options=add_options,
    warm_ups=0,
)
def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Both ways, one after the other."""
    url = os.environ.get("RINGPIT_RABBITMQ_URL")
    if not url:
        raise CannotMeasureError(
            "needs a RabbitMQ: start one (make brokers) and name it in RINGPIT_RABBITMQ_URL"
        )
    endpoint = Endpoint(url=url)
    sent = bodies(orders_of(100 * arguments.frame), arguments.frame, msgspec.json.encode)
    queue = f"ringpit.perf.{os.getpid()}"
    figures: dict[str, object] = {}
    checksums = set()
    try:
        for name, scanner in WAYS.items():
            checksum, (seconds, spent, broker) = one_way(endpoint, queue, scanner, arguments, sent)
            checksums.add(checksum)
            figures[f"{name}_deliveries_per_s"] = arguments.deliveries / seconds
            figures[f"{name}_cpu_us_per_delivery"] = spent * 1e6 / arguments.deliveries
            for process, cpu_ns in broker.items():
                figures[f"{name}_{process}_cpu_us_per_delivery"] = cpu_ns / 1e3 / arguments.deliveries
    finally:
        with pika.BlockingConnection(endpoint.parameters()) as connection:
            channel = connection.channel()
            channel.queue_delete(queue)
            channel.queue_delete(queue + ".dead")
            channel.exchange_delete(queue)
    [checksum] = checksums  # two ways that read differently make two
    return {**figures, "checksum": checksum}
