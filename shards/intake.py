"""
The intake over RabbitMQ: a quorum queue with one active consumer, acknowledged by prefix.

The queue is a quorum queue with a single active consumer: without that a broker restart was seen to invert order.
It has no delivery limit: the limit counts what was merely prefetched when a consumer crashed, and throws it
away. Instead this module never rejects and never requeues: a malformed delivery is published to the dead-letter
exchange over a second connection, mandatory and confirmed, and only then acknowledged, in its turn.

    queue ──deliveries──> RabbitIntake ──> router
      ^                     │      │
      └──── acks, 1 a turn ─┘      └──dead letters──> topic exchange ──> durable queue

Back-pressure has two steps. The prefetch bounds what is unacknowledged, so a router that acknowledges nothing
gets nothing more. `pause` stops before that: the socket is not read (shards/amqp.py, `Link.pause`), so that
large bodies stay in the broker, while heartbeats and acknowledgements go on.

Fast: an acknowledgement costs nothing but a comparison, the newest one is sent once a turn; deliveries are scanned
from the bytes that were read (scanner.py), 1 to 3 microseconds each. Slow: with `scanner` off, or a pika that it does not fit, pika's
three frame objects per delivery, 12 to 20 microseconds; put many orders into one delivery then.

The dead-letter exchange gets each message with its body and content type and these headers: x-ringpit-reason,
x-ringpit-detail, x-ringpit-queue, x-ringpit-content-type, x-ringpit-message-id. A crash between its confirm and the
acknowledgement repeats it. The protocol and `Delivery` are in delivery.py, the intake over shared memory in ingress.py.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pika

from ringpit.shards.amqp import Endpoint, Link
from ringpit.shards.delivery import Body, Delivery, Intake, Tags, publisher_key
from ringpit.shards.fitting import misfit
from ringpit.shards.ingress import IngressFeeder, IngressIntake
from ringpit.shards.outbox import Outbox
from ringpit.shards.scanner import body_of
from ringpit.shards.wire import SHORT_BYTES_MAX, Properties

__all__ = ["Body", "Delivery", "IngressFeeder", "IngressIntake", "Intake", "RabbitIntake", "publisher_key"]

PREFETCH_MAX: Final = 65_535  # what the protocol can say
DEAD_LETTERS_UNCONFIRMED_MAX: Final = 64
DETAIL_CHARACTERS_MAX: Final = 1_000
BUSY_TURN_SECONDS: Final = 0.001  # how long one connection may wait while the other has something to do
CONTENT_TYPES_MAX: Final = 256  # remembered as text
DELIVERY_LIMIT_SINCE: Final = (4,)  # from here on a quorum queue has a limit unless told otherwise


def queue_arguments(server_version: tuple[int, ...]) -> dict[str, Any]:
    """Arguments of an order queue: as no limit is the default up to 3.13, only newer brokers are told."""
    arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    if server_version >= DELIVERY_LIMIT_SINCE:
        arguments["x-delivery-limit"] = -1
    return arguments


class RabbitIntake:
    """
    One router's queue. See `delivery.Intake` for the contract.

    Args:
        queue: Name of the order queue; declared if it is not there.
        prefetch: Deliveries that may be unacknowledged: 2,000 to 5,000 small ones, 200 to 500 of 100 orders.
        dead_letter_exchange: Topic exchange for malformed deliveries; routing key is the order queue's name.
        dead_letter_queue: Durable queue bound to it; empty: nothing is bound, the operator binds his own.
        deliveries_max: Deliveries one `poll` returns at most.
        scanner: "auto": scan deliveries if the installed pika fits; "off": pika decodes each.
        say: Gets one line for each change of a connection's state.

    Raises:
        ValueError: A setting is out of its range.
        BrokerRefused: (from `poll`) The broker says no: wrong password, queue exists with other arguments, ...
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        queue: str,
        prefetch: int = 500,
        dead_letter_exchange: str = "ringpit.dead",
        dead_letter_queue: str = "ringpit.dead",
        deliveries_max: int = 1_024,
        scanner: str = "auto",
        say: Callable[[str], None] = print,
    ) -> None:
        """Nothing is connected before the first `poll`."""
        if not 1 <= prefetch <= PREFETCH_MAX:
            raise ValueError(f"rabbitmq.prefetch must be from 1 to {PREFETCH_MAX}, was {prefetch}")
        self.queue = queue
        self.prefetch = prefetch
        self.generation = 0
        self._dead_exchange = dead_letter_exchange
        self._dead_queue = dead_letter_queue
        self._deliveries_max = deliveries_max
        self._link = Link(f"intake {queue}", endpoint, self._set_up, say)
        self._dead = Outbox(
            f"dead letters of {queue}",
            endpoint,
            self._declare_dead_letters,
            say,
            window=DEAD_LETTERS_UNCONFIRMED_MAX,
            mandatory=True,
        )
        self._tags = Tags()
        self._arrived: deque[Delivery] = deque()
        self._losses = 0
        self._acknowledged = 0  # what the broker has been told
        self._paused = False
        self._dead_waiting: deque[tuple[int, bytes, bytes]] = deque()  # tag, properties, body
        self._dead_sent: deque[tuple[int, int]] = deque()  # number in the outbox, tag
        self._channel: Any = None
        self._tag_base = 0  # our tag = delivery tag of this channel + this
        self._types: dict[bytes, str] = {}  # content types that have come, as text
        unfit = misfit() if scanner == "auto" else ""
        self._scans = scanner == "auto" and not unfit
        if unfit:
            say(
                f"intake {queue}: pika {pika.__version__} does not fit the frame scanner ({unfit}); pika decodes each delivery"
            )

    def ready(self) -> bool:
        """True if the queue and the dead-letter exchange are both open."""
        return self._link.ready and self._dead.link.ready

    def poll(self, timeout_seconds: float) -> list[Delivery]:
        """Send the newest acknowledgement and waiting dead letters, run a turn, return what has arrived."""
        busy = self._serve_dead_letters()
        if self._link.losses != self._losses:  # lost in an earlier turn
            self._void()
        self._send_acknowledgement()
        if self._arrived and not self._paused:
            timeout_seconds = 0.0
        self._link.poll(min(timeout_seconds, BUSY_TURN_SECONDS) if busy else timeout_seconds)
        if self._link.losses != self._losses:
            self._void()
        if self._paused:
            return []
        return [self._arrived.popleft() for _ in range(min(len(self._arrived), self._deliveries_max))]

    def acknowledge(self, tag: int) -> None:
        """Remember it: the next `poll` tells the broker."""
        self._tags.accept(tag)

    def dead_letter(self, delivery: Delivery, reason: str, detail: str) -> None:
        """Queue it for the dead-letter exchange. At most `prefetch` can wait."""
        if delivery.tag >= self._tags.first:
            properties = dead_letter_properties(delivery, reason, detail, self.queue)
            self._dead_waiting.append((delivery.tag, properties, bytes(delivery.body)))

    def settled_dead_letters(self) -> list[int]:
        """Tags whose dead letters are confirmed since the last call, of this generation."""
        settled = []
        while self._dead_sent and self._dead_sent[0][0] <= self._dead.settled:
            _, tag = self._dead_sent.popleft()
            if tag >= self._tags.first:
                settled.append(tag)
        return settled

    def pause(self) -> None:
        """Leave the socket unread."""
        self._paused = True
        self._link.pause()

    def resume(self) -> None:
        """Read the socket again."""
        self._paused = False
        self._link.resume()

    def reopen(self) -> None:
        """Close the channel and open a new one; while there is no channel, what was held is void already."""
        self._send_acknowledgement()
        self._link.reopen()
        self._void()

    def close(self) -> None:
        """Send the newest acknowledgement and close both connections."""
        self._send_acknowledgement()
        self._link.close()
        self._dead.close()

    def _set_up(self, channel: Any, done: Callable[..., None]) -> None:
        """Declare the queue and consume from it; the counting of delivery tags starts anew."""
        self._channel = channel
        self._tag_base = self._tags.last
        channel.basic_qos(prefetch_count=self.prefetch)
        channel.queue_declare(self.queue, durable=True, arguments=queue_arguments(self._link.server_version))
        consumer = channel.basic_consume(self.queue, self._on_delivery, callback=done)
        if self._scans:
            self._link.scan(channel, consumer, partial(self._on_scanned, channel))

    def _declare_dead_letters(self, channel: Any) -> None:
        """The exchange, and a queue that keeps what is sent to it."""
        channel.exchange_declare(self._dead_exchange, exchange_type="topic", durable=True)
        if self._dead_queue:
            channel.queue_declare(self._dead_queue, durable=True)
            channel.queue_bind(self._dead_queue, self._dead_exchange, routing_key="#")

    def _on_delivery(self, channel: Any, method: Any, properties: Properties, body: bytes) -> None:
        """Give it a tag. Deliveries of a channel that is being closed come again by themselves."""
        if channel is not self._channel:
            return
        self._arrive(properties, body, redelivered=method.redelivered)

    def _on_scanned(self, channel: Any, content: bytes, rows: list[list[int]]) -> None:
        """The same, of deliveries that lie in what was read."""
        if channel is not self._channel:
            return
        for (
            redelivered, type_at, type_bytes, id_at, id_bytes, user_at, user_bytes, app_at, app_bytes,
            body_at, body_bytes, frames,
        ) in rows:  # fmt: skip
            properties = (
                content[type_at : type_at + type_bytes],
                content[id_at : id_at + id_bytes],
                content[user_at : user_at + user_bytes],
                content[app_at : app_at + app_bytes],
            )
            body = body_of(content, body_at, body_bytes, frames)
            self._arrive(properties, body, redelivered=redelivered != 0)

    def _arrive(self, properties: tuple[bytes, bytes, bytes, bytes], body: bytes, *, redelivered: bool) -> None:
        """Queue one delivery for `poll`, under a tag of ours."""
        content_type, message_id, user_id, app_id = properties
        text = self._types.get(content_type)
        if text is None:
            text = content_type.decode(errors="replace")
            if len(self._types) < CONTENT_TYPES_MAX:
                self._types[content_type] = text
        key = publisher_key(user_id, app_id, message_id)
        name = message_id.decode(errors="replace")
        self._arrived.append(Delivery(self._tags.next(), text, key, body, redelivered, name))

    def _send_acknowledgement(self) -> None:
        """Tell the broker about the longest prefix, once."""
        if self._tags.done > self._acknowledged and self._link.ready and self._channel is self._link.channel:
            self._acknowledged = self._tags.done
            self._channel.basic_ack(self._tags.done - self._tag_base, multiple=True)

    def _serve_dead_letters(self) -> bool:
        """Send what waits, one turn of their connection; True if something is still on its way."""
        self._dead.poll(0.0)
        while self._dead_waiting and self._dead.ready():
            tag, properties, body = self._dead_waiting.popleft()
            self._dead_sent.append((self._dead.send(self._dead_exchange, self.queue, properties, body), tag))
        return bool(self._dead_waiting) or self._dead.unconfirmed > 0 or not self._dead.link.ready

    def _void(self) -> None:
        """Everything unacknowledged will come again (D2)."""
        self._losses = self._link.losses
        self._channel = None
        self.generation += 1
        self._tags.void()
        self._acknowledged = self._tags.done
        self._arrived.clear()
        self._dead_waiting.clear()


def dead_letter_properties(delivery: Delivery, reason: str, detail: str, queue: str) -> bytes:
    """The encoded property list of a dead letter: persistent, with where it came from and why it is here."""
    headers = {
        "x-ringpit-reason": reason,
        "x-ringpit-detail": detail[:DETAIL_CHARACTERS_MAX],
        "x-ringpit-queue": queue,
        "x-ringpit-content-type": delivery.content_type,
        "x-ringpit-message-id": delivery.message_id,
    }
    properties = pika.BasicProperties(
        content_type=short(delivery.content_type),
        message_id=short(delivery.message_id),
        headers=headers,
        delivery_mode=pika.DeliveryMode.Persistent,
    )
    return b"".join(properties.encode())


def short(text: str) -> str | None:
    """A text as it fits a short string; None for an empty one. Bytes that were no UTF-8 have grown in decoding."""
    return text.encode()[:SHORT_BYTES_MAX].decode(errors="ignore") or None
