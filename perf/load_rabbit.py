"""
The way through RabbitMQ: deliveries published with confirms, reports consumed from the reports exchange.

What is measured: `report` is from when an order was due to when this process was handed its reply by the client library;
`acknowledged` to when the broker has confirmed the delivery, which says nothing of the exchange.

One process, one thread, two connections: about 20 microseconds a delivery and as much a message of reports. So
it falls behind from some 20,000 deliveries a second on, sooner where the exchange or the broker share its cores; it says so, and
the times, which begin when an order was due, include it. Orders in larger deliveries go further.

Invariants:

    W1  deliveries are published in order, none before it is due, with WINDOW unconfirmed at most
"""

import time
from collections import deque
from typing import Any, Final

import numpy as np
import pika

from ringpit.engine.records import REPORT
from ringpit.ipc import histogram
from ringpit.perf.load_flow import Bodies
from ringpit.perf.load_ring import LATE_NS, reports_of
from ringpit.shards.amqp import Link
from ringpit.shards.config import Config
from ringpit.shards.outbox import Outbox
from ringpit.shards.processes import endpoint_of
from ringpit.shards.routes import queue_of
from ringpit.shards.saying import say_as

WINDOW: Final = 8_192
CALL_DELIVERIES: Final = 32  # between two looks at what came back
CONNECT_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.02
PREFETCH: Final = 5_000
APP: Final = "ringpit.load"


class BrokerAway(Exception):
    """No connection to RabbitMQ came about in time."""


class RabbitSender:
    """Publishes to a router's queue. Raises BrokerAway."""

    def __init__(self, config: Config, router: int) -> None:
        """Connect."""
        self._queue = queue_of(config, router)
        self._outbox = Outbox(
            "load", endpoint_of(config), lambda _channel: None, say_as("load"), window=WINDOW, mandatory=True
        )
        wait_for(self._outbox.ready, self._outbox.poll, str(config.rabbitmq.url).rpartition("@")[2])
        self._next = self._settled = self._before = 0
        self.late_orders = 0
        self.late = self.acknowledged = histogram.empty()

    def prepare(self, bodies: Bodies, due_ns: np.ndarray, name: str) -> None:
        """Encode the properties of deliveries, each with a message id of `name` and its number."""
        self._bodies, self._due_ns = bodies, due_ns
        self._properties = [
            b"".join(
                pika.BasicProperties(
                    content_type=bodies.content_type,
                    delivery_mode=2,
                    app_id=APP,
                    message_id=f"{name}-{number}",
                ).encode()
            )
            for number in range(len(bodies.bodies))
        ]
        self._next = self._settled = self.late_orders = 0
        self._before = self._outbox.settled
        self.late, self.acknowledged = histogram.empty(), histogram.empty()

    def begin(self, start_ns: int) -> None:
        """Fix when each delivery is due."""
        self._due = (self._due_ns + start_ns).tolist()

    def step(self) -> int:
        """Publish what is due, count what is confirmed; how much was published."""
        sent = 0
        first = self._bodies.first
        while sent < CALL_DELIVERIES and self._next < len(self._due) and self._outbox.ready():
            behind_ns = time.time_ns() - self._due[self._next]
            if behind_ns < 0:
                break
            orders = int(first[self._next + 1] - first[self._next])
            self._outbox.send("", self._queue, self._properties[self._next], self._bodies.bodies[self._next])
            histogram.record_many(self.late, behind_ns, orders)
            self.late_orders += orders if behind_ns > LATE_NS else 0
            self._next += 1
            sent += 1
        self._outbox.poll(0.0)
        self._count_confirmed()
        return sent

    def _count_confirmed(self) -> None:
        """Time what the broker has confirmed since the last call."""
        settled = self._outbox.settled - self._before
        now_ns = time.time_ns()
        first = self._bodies.first
        for number in range(self._settled, settled):
            orders = int(first[number + 1] - first[number])
            histogram.record_many(self.acknowledged, now_ns - self._due[number], orders)
        self._settled = settled

    def next_due_ns(self) -> int:
        """When the next delivery is due; 0: none is left."""
        return int(self._due[self._next]) if self._next < len(self._due) else 0

    @property
    def sent(self) -> int:
        """Orders published."""
        return int(self._bodies.first[self._next])

    @property
    def settled(self) -> int:
        """Orders confirmed."""
        return int(self._bodies.first[self._settled])

    def close(self) -> None:
        """Disconnect."""
        self._outbox.close()


class RabbitReports:
    """Subscribes to every account's reports. Raises BrokerAway."""

    def __init__(self, config: Config) -> None:
        """Connect and bind a queue of our own."""
        self._exchange = config.rabbitmq.reports_exchange
        self._link = Link("load-reports", endpoint_of(config), self._set_up, say_as("load"))
        self._came: deque[tuple[str, bytes]] = deque()
        wait_for(lambda: self._link.ready, self._link.poll, str(config.rabbitmq.url).rpartition("@")[2])

    def _set_up(self, channel: Any, done: Any) -> None:
        """A queue that sees every report and goes with the connection."""

        def declared(answer: Any) -> None:
            queue = answer.method.queue
            channel.queue_bind(queue, self._exchange, routing_key="report.#")
            channel.basic_qos(prefetch_count=PREFETCH)
            channel.basic_consume(queue, self._on_message, exclusive=True, auto_ack=True, callback=done)

        channel.exchange_declare(self._exchange, exchange_type="topic", durable=True)
        channel.queue_declare("", exclusive=True, callback=declared)

    def _on_message(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        """Keep it for the poll that is going on."""
        content_type = properties[0].decode() if isinstance(properties, tuple) else properties.content_type
        self._came.append((content_type, body))

    def poll(self) -> np.ndarray:
        """REPORT records that came since the last call."""
        self._link.poll(0.0)
        if not self._came:
            return np.zeros(0, REPORT)
        came = [reports_of(*message) for message in self._came]
        self._came.clear()
        return np.concatenate(came)

    def close(self) -> None:
        """Disconnect; the queue goes with the connection."""
        self._link.close()


def wait_for(ready: Any, poll: Any, where: str) -> None:
    """Poll until a link is ready. Raises BrokerAway."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise BrokerAway(
                f"no connection to RabbitMQ at {where} within {CONNECT_SECONDS:.0f} s: start it, or name another in [rabbitmq] url"
            )
        poll(POLL_SECONDS)
