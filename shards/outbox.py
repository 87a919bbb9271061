"""
An outbox: messages on their way to RabbitMQ, kept until the broker has confirmed them.

Every message gets a number of ours, dense from 1. The broker confirms by delivery tags, which start again
on every channel, come in any order, and one may cover all below it; the outbox turns that into one
number: everything up to `settled` is confirmed. When the connection is lost, or the broker refuses a message
(nack) or cannot route it, everything unconfirmed is sent again in order on a new connection: at least once, and
consumers drop what they know by its message id.

    send ──> unconfirmed ──(channel open)──> in flight: tag -> number ──ack──> settled
                  ^                                        │
                  └──────── lost, nack, unroutable ────────┘

Fast: a message is one `bytes` built by `publish_frames` and a turn of the loop is one write. Slow: a broker
with one unconfirmed message at a time; give it a window.

Invariants:

    O1  `settled` never passes a message that is not confirmed
    O2  on each channel messages are sent in the order of their numbers
    O3  confirms of a channel that is given up count for nothing
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from ringpit.shards.amqp import Endpoint, Link
from ringpit.shards.wire import publish_frames, publish_method

method_of = lru_cache(maxsize=1 << 16)(publish_method)  # one for each account and event that is spoken to


class Outgoing(NamedTuple):
    """A message as it is kept: the method's payload, the encoded properties, the body."""

    method: bytes
    properties: bytes
    body: bytes


class Outbox:
    """
    A link to publish on.

    Args:
        declare: Sends the declarations that publishing needs, on every fresh channel.
        window: Messages that may be unconfirmed; `ready` is False from there on.
        mandatory: True: a message that no queue takes is unconfirmed, and comes again on a new connection.

    Counters: `returned` messages no queue took, `refused` messages nacked, `repeated` messages sent again.
    """

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        declare: Callable[[Any], None],
        say: Callable[[str], None],
        *,
        window: int,
        mandatory: bool = False,
    ) -> None:
        """Nothing is connected before the first `poll`."""
        if window < 1:
            raise ValueError(f"{name}: the window of unconfirmed messages must be at least 1, was {window}")
        self.link = Link(name, endpoint, self._set_up, say, self._on_confirm)
        self.window = window
        self.mandatory = mandatory
        self.returned = 0
        self.refused = 0
        self.repeated = 0
        self._declare = declare
        self._unconfirmed: dict[int, Outgoing] = {}  # number -> message, in order
        self._in_flight: dict[int, int] = {}  # delivery tag -> number, on the current channel
        self._channel: Any = None  # the channel that _in_flight belongs to
        self._chunk_bytes = 0
        self._number = 0
        self._tag = 0
        self._tag_lowest = 1  # every tag below is confirmed

    def ready(self) -> bool:
        """True if another message may be sent now."""
        return self.link.ready and not self.link.blocked and len(self._unconfirmed) < self.window

    @property
    def settled(self) -> int:
        """Every message up to this number is confirmed."""
        return next(iter(self._unconfirmed), self._number + 1) - 1

    @property
    def unconfirmed(self) -> int:
        """Messages sent or waiting, not confirmed."""
        return len(self._unconfirmed)

    def send(self, exchange: str, routing_key: str, properties: bytes, body: bytes) -> int:
        """
        Take a message, and return its number. It is kept even when the link is down: ask `ready` first.

        Args:
            properties: An encoded property list.
            body: Kept until it is confirmed; not copied.
        """
        self._number += 1
        message = Outgoing(method_of(exchange, routing_key, mandatory=self.mandatory), properties, body)
        self._unconfirmed[self._number] = message
        if self._channel is not None and self._channel is self.link.channel and self.link.ready:
            self._emit(self._number, message)
        return self._number

    def poll(self, timeout_seconds: float) -> None:
        """One turn of the link; what a lost channel left unconfirmed goes out on the new one. Raises BrokerRefused."""
        self.link.poll(timeout_seconds)
        if self.link.ready and self.link.channel is not self._channel:
            self._channel = self.link.channel
            self._chunk_bytes = self.link.body_chunk_bytes
            self._in_flight.clear()
            self._tag, self._tag_lowest = 0, 1
            self.repeated += len(self._unconfirmed)
            for number, message in self._unconfirmed.items():
                self._emit(number, message)

    def close(self) -> None:
        """Leave; what is unconfirmed is the caller's to send again."""
        self.link.close()

    def _set_up(self, channel: Any, done: Callable[..., None]) -> None:
        """Declare, and ask for confirms."""
        self._declare(channel)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(_handled_by_the_link, callback=done)

    def _emit(self, number: int, message: Outgoing) -> None:
        """Write one message's frames."""
        self._tag += 1
        self._in_flight[self._tag] = number
        self.link.emit(publish_frames(self._channel.channel_number, *message, self._chunk_bytes))

    def _on_confirm(self, last: int, multiple: bool, refused: bool) -> None:
        """An ack or a nack, for one tag or for all up to it."""
        if self._channel is None:
            return  # O3
        if refused:
            self.refused += 1
            self._give_up("it refused a message (nack): is a queue behind the exchange full?")
            return
        for tag in range(self._tag_lowest if multiple else last, last + 1):
            self._unconfirmed.pop(self._in_flight.pop(tag, 0), None)
        if multiple:
            self._tag_lowest = last + 1

    def _on_return(self, channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        """No queue takes it; the ack that follows must not count, so the channel is given up."""
        if channel is self._channel:
            self.returned += 1
            self._give_up(f"no queue takes messages of exchange {method.exchange}, key {method.routing_key}")

    def _give_up(self, reason: str) -> None:
        """O3: forget the channel before anything else on it is heard."""
        self._channel = None
        self._in_flight.clear()
        self.link.drop(reason)


def _handled_by_the_link(_answer: Any) -> None:
    """pika wants a callback for confirms; the connection hands them to `_on_confirm` before pika sees them."""
