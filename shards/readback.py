"""
Read-back: a process that subscribes to every account's reports and counts what arrives.

The demonstration and the benchmarks use it to say how many reports came out of RabbitMQ, rather than how many
were sent into it. Reports that come a second time, after a crash, are counted again:
dropping them by their identity is the reader's business.
"""

from typing import Any, Final

from ringpit.engine.records import REPORT
from ringpit.shards.amqp import Link
from ringpit.shards.config import Config
from ringpit.shards.feeders import become_child
from ringpit.shards.processes import endpoint_of
from ringpit.shards.saying import say_as
from ringpit.shards.sinks import PACKED

PREFETCH: Final = 1_000
POLL_SECONDS: Final = 0.02


class ReadBack:
    """
    A subscriber to all reports.

    Attributes: `reports` and `body_bytes` that arrived; `bodies`, (routing key, content type, body) if kept.
    """

    def __init__(self, config: Config, *, keep: bool = False) -> None:
        """Connects with the first `poll`."""
        self._exchange = config.rabbitmq.reports_exchange
        self._link = Link("readback", endpoint_of(config), self._set_up, say_as("readback"))
        self.bound = False
        self.reports = self.body_bytes = 0
        self.bodies: list[tuple[str, str, bytes]] | None = [] if keep else None

    def poll(self, timeout_seconds: float) -> None:
        """One turn of the connection."""
        self._link.poll(timeout_seconds)

    def close(self) -> None:
        """Disconnect; the queue goes with the connection."""
        self._link.close()

    def _set_up(self, channel: Any, done: Any) -> None:
        """A queue of our own that sees every report."""

        def declared(answer: Any) -> None:
            queue = answer.method.queue
            channel.queue_bind(queue, self._exchange, routing_key="report.#")
            channel.basic_qos(prefetch_count=PREFETCH)
            channel.basic_consume(queue, self._on_message, exclusive=True, callback=bound)

        def bound(answer: Any) -> None:
            self.bound = True
            done(answer)

        channel.exchange_declare(self._exchange, exchange_type="topic", durable=True)
        channel.queue_declare("", exclusive=True, callback=declared)

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        """Count, acknowledge."""
        channel.basic_ack(method.delivery_tag)
        content_type = properties[0].decode() if isinstance(properties, tuple) else properties.content_type
        self.body_bytes += len(body)
        if self.bodies is not None:
            self.bodies.append((method.routing_key, content_type, body))
        if content_type == PACKED:
            self.reports += len(body) // REPORT.itemsize
        else:
            self.reports += body.count(b"\n")


def read_back(config: Config, received: Any) -> None:
    """Process entry: keeps [bound, reports, bytes] up to date in a shared array until it is ended."""
    become_child()
    reader = ReadBack(config)
    while True:
        reader.poll(POLL_SECONDS)
        received[0] = int(reader.bound)
        received[1] = reader.reports
        received[2] = reader.body_bytes
