"""
Clients of an exchange on RabbitMQ: a publisher of deliveries and a subscriber to everything.

    with Clients(exchange) as clients:            before the exchange starts: the subscriber's queue is there
        exchange.start()
        clients.publish(deliveries)               returns when the broker has confirmed them
        clients.wait_answered(100_000)            reads until so many different reports have come
        clients.received                          see received.py

Both outlive a broker that is away: the publisher sends again what was not confirmed, with the same message ids,
and the subscriber's queue is durable. `close` removes every queue and exchange of the exchange's configuration.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, NamedTuple, Self

import pika
from pika.exceptions import AMQPError

from ringpit.shards.config import Config
from ringpit.shards.outbox import Outbox
from ringpit.shards.processes import endpoint_of
from ringpit.shards.routes import queue_of
from ringpit.testing.exchange import RunningExchange
from ringpit.testing.received import Received
from ringpit.testing.submissions import Submission

WINDOW: Final = 256
PREFETCH: Final = 2_000
TURN_SECONDS: Final = 0.01
WAIT_SECONDS: Final = 180.0
DURABLE: Final = 2
CONNECTION_ATTEMPTS, RETRY_SECONDS = 120, 0.25
TOPICS: Final = {"reports": "report", "trades": "trade", "prices": "price", "books": "book"}


class DeadLetter(NamedTuple):
    """A delivery that was put aside."""

    body: bytes
    headers: dict[str, Any]


class Clients:
    """
    The clients of one exchange; a context manager.

    Attributes: `exchange`; `received`, everything that was published so far and read.
    """

    def __init__(self, exchange: RunningExchange, url: str = "") -> None:
        """Declare the subscriber's queue, bound to all that is published, at `url` or where the exchange finds its broker."""
        self.received = Received()
        self.exchange = exchange
        self._config: Config = exchange.config
        self._url = url or str(self._config.rabbitmq.url)
        self._queue = f"{self._config.rabbitmq.queue}.subscriber"
        self._topics = {getattr(self._config.rabbitmq, f"{topic}_exchange"): topic for topic in TOPICS}
        self._outbox = Outbox(
            "client",
            replace(endpoint_of(self._config), url=self._url),
            lambda _channel: None,
            lambda _line: None,
            window=WINDOW,
            mandatory=True,
        )
        self._connection: pika.BlockingConnection | None = None
        self._channel: Any = None
        self._acknowledge = 0
        self._connect()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Disconnect, and remove what the exchange has declared."""
        self.close()

    # Publishing ------------------------------------------------------------------------------------------

    def send(self, deliveries: Iterable[Submission]) -> None:
        """Hand deliveries to the broker in order, as fast as it confirms; the last ones may be unconfirmed."""
        queue = queue_of(self._config, 0)
        for delivery in deliveries:
            properties = pika.BasicProperties(
                content_type=delivery.content_type or None,
                message_id=delivery.message_id or None,
                headers=delivery.headers,
                delivery_mode=DURABLE,
            )
            self._until(self._outbox.ready, lambda: f"{self._outbox.unconfirmed} deliveries unconfirmed")
            self._outbox.send("", queue, b"".join(properties.encode()), delivery.body)

    def publish(self, deliveries: Iterable[Submission]) -> None:
        """Send deliveries, and return when the broker has confirmed every one."""
        self.send(deliveries)
        self._until(
            lambda: not self._outbox.unconfirmed, lambda: f"{self._outbox.unconfirmed} deliveries unconfirmed"
        )

    # Reading ---------------------------------------------------------------------------------------------

    def wait_answered(self, count: int) -> None:
        """Read until `count` different reports that are no repeats of deliveries have come."""
        self._until(
            lambda: self.received.answered >= count,
            lambda: f"{self.received.answered} of {count} reports have come",
        )

    def read_rest(self) -> None:
        """Read what is left in the queue; the exchange is stopped, so nothing more comes."""
        channel = self._fresh_channel()
        left = channel.queue_declare(self._queue, durable=True, passive=True).method.message_count
        for method, properties, body in (
            channel.consume(self._queue, inactivity_timeout=WAIT_SECONDS) if left else ()
        ):
            self._take(method, properties, body)
            channel.basic_ack(method.delivery_tag)
            left -= 1
            if not left:
                break

    def dead_letters(self, count: int) -> list[DeadLetter]:
        """All dead letters, in order, after waiting until there are `count` of them."""
        queue = self._config.rabbitmq.dead_letter_exchange
        channel = self._fresh_channel()

        def waiting() -> int:
            return int(channel.queue_declare(queue, durable=True, passive=True).method.message_count)

        self._until(lambda: waiting() >= count, lambda: f"{waiting()} of {count} dead letters are there")
        letters = []
        for method, properties, body in channel.consume(queue, inactivity_timeout=WAIT_SECONDS):
            channel.basic_ack(method.delivery_tag)
            letters.append(DeadLetter(body, properties.headers))
            if len(letters) >= count and not waiting():
                break
        channel.cancel()
        return letters

    # Turning ---------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """One turn of both connections; one that was lost comes back when its broker does."""
        self._outbox.poll(0.0)
        try:
            assert self._connection is not None
            self._connection.process_data_events(TURN_SECONDS)
            if self._acknowledge:
                self._channel.basic_ack(self._acknowledge, multiple=True)
                self._acknowledge = 0
        except AMQPError:
            self._connect()

    def _until(self, holds: Callable[[], bool], last_seen: Callable[[], str]) -> None:
        """Turn until it holds. Raises AssertionError with what was last seen, and what the exchange printed."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not holds():
            assert time.monotonic() < deadline, (
                f"after {WAIT_SECONDS:.0f} s {last_seen()}; {self.exchange.printed()}"
            )
            self.turn()

    def _connect(self) -> None:
        """Connect, waiting for a broker that is away; declare, bind and consume."""
        self._acknowledge = 0
        parameters = pika.URLParameters(self._url)
        parameters.connection_attempts, parameters.retry_delay = CONNECTION_ATTEMPTS, RETRY_SECONDS
        self._connection = connected(parameters)
        self._channel = self._connection.channel()
        self._channel.queue_declare(self._queue, durable=True)
        for exchange, topic in self._topics.items():
            self._channel.exchange_declare(exchange, exchange_type="topic", durable=True)
            self._channel.queue_bind(self._queue, exchange, routing_key=f"{TOPICS[topic]}.#")
        self._channel.basic_qos(prefetch_count=PREFETCH)
        self._channel.basic_consume(self._queue, self._on_message)

    def _fresh_channel(self) -> Any:
        """A channel that consumes nothing; what the old one held comes first again."""
        assert self._connection is not None
        if self._connection.is_open:
            with suppress(
                AMQPError
            ):  # the broker may have given it up: nobody took a turn for longer than its heartbeats
                self._connection.close()
        self._connect_quietly()
        return self._channel

    def _connect_quietly(self) -> None:
        """Connect without consuming."""
        self._acknowledge = 0
        self._connection = pika.BlockingConnection(pika.URLParameters(self._url))
        self._channel = self._connection.channel()

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        """Keep it; it is acknowledged at the end of the turn."""
        self._take(method, properties, body)
        self._acknowledge = method.delivery_tag

    def _take(self, method: Any, properties: Any, body: bytes) -> None:
        """One message of whatever topic."""
        self.received.take(self._topics[method.exchange], properties.content_type, body, properties.message_id)

    def close(self) -> None:
        """Disconnect; remove queues and exchanges."""
        self._outbox.close()
        rabbitmq = self._config.rabbitmq
        channel = self._fresh_channel()
        for queue in (self._queue, queue_of(self._config, 0), rabbitmq.dead_letter_exchange):
            channel.queue_delete(queue)
        for exchange in (*self._topics, rabbitmq.dead_letter_exchange):
            channel.exchange_delete(exchange)
        assert self._connection is not None
        with suppress(AMQPError):
            self._connection.close()


def connected(parameters: pika.URLParameters) -> pika.BlockingConnection:
    """A connection, also if the broker that is asked is just going away: pika tries again only where nobody answers."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return pika.BlockingConnection(parameters)
        except AMQPError:
            if time.monotonic() > deadline:
                raise
