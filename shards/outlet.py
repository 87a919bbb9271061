"""
The RabbitMQ sink: reports, trades, prices and books on four topic exchanges, confirmed.

    exchange          routing key        delivery     who binds
    ringpit.reports   report.<account>   persistent   an account's own queue; "report.#" for a drop copy
    ringpit.trades    trade.<event>      persistent   the tape
    ringpit.prices    price.<event>      transient    whoever shows a best price
    ringpit.books     book.<event>       transient    whoever draws a book

The message id is `generation-shard-seq-index`, the identity of the first report in the message (of a price
or book, the last seq that it includes). After a lost connection or a crash messages come again with the
same id. Messages that no queue is bound for are confirmed by the broker and gone: subscribers are free to be
away, and what must not be missed needs a durable queue.

Back-pressure: at most `window` messages are unconfirmed; then, and while the broker is away or blocks publishers,
`ready` is False and the publisher leaves its rings alone, until the worker's output ring is full and the worker waits.

A broker that refuses a message (nack) has it sent again, with everything after it, on a new connection. That a
later confirm covers several messages, one of which it then refuses, can only happen with queues that overflow
with reject-publish; a subscriber that wants everything must not use such a queue.

Fast: about 8 microseconds of this process for a message, most of it the confirm. Slow: many small
messages; that is the broker's time, 30 to 50 microseconds each.
"""

import errno
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partialmethod
from typing import Any, Final

from ringpit.shards.amqp import BrokerRefused, Endpoint
from ringpit.shards.outbox import Outbox
from ringpit.shards.sinks import Identity, Payload, SinkFailed, Token

# What is published: exchange, first word of the routing key, AMQP delivery mode (1 transient, 2 persistent).
TOPICS: Final = (
    ("reports", "report", 2),
    ("trades", "trade", 2),
    ("prices", "price", 1),
    ("books", "book", 1),
)
EXCHANGES: Final = {topic: f"ringpit.{topic}" for topic, _, _ in TOPICS}
CONTENT_TYPE_FLAG: Final = 1 << 15
DELIVERY_MODE_FLAG: Final = 1 << 12
MESSAGE_ID_FLAG: Final = 1 << 7
PROPERTY_FLAGS: Final = (CONTENT_TYPE_FLAG | DELIVERY_MODE_FLAG | MESSAGE_ID_FLAG).to_bytes(2, "big")


def encoded_properties(content_type: str, delivery_mode: int, identity: Identity) -> bytes:
    """The property list of a message: content type, delivery mode and message id, in the order of their flags."""
    kind = content_type.encode()
    name = b"%d-%d-%d-%d" % identity
    return b"%b%c%b%c%c%b" % (PROPERTY_FLAGS, len(kind), kind, delivery_mode, len(name), name)


class RabbitSink:
    """
    A publisher's connection. See `sinks.Sink` for the contract.

    Args:
        window: Messages that may be unconfirmed.
        exchanges: Name of the exchange of each topic.
        say: Gets one line for each change of the connection's state.

    Raises SinkFailed (from `poll`) if the broker answers and says no.
    """

    addressed = True

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        window: int = 2_000,
        exchanges: Mapping[str, str] = EXCHANGES,
        name: str = "publisher",
        say: Callable[[str], None] = print,
    ) -> None:
        """Nothing is connected before the first `poll`."""
        self._exchanges = dict(exchanges)
        missing = [topic for topic in EXCHANGES if topic not in self._exchanges]
        if missing:
            raise ValueError(f"{name}: every topic needs an exchange; {', '.join(missing)} has none")
        self._outbox = Outbox(name, endpoint, self._declare, say, window=window)
        self._barriers: deque[tuple[int, Token]] = deque()  # number of the last message before it
        self._newest: Token | None = None
        self._sent = 0

    def _publish(
        self,
        topic: str,
        word: str,
        delivery_mode: int,
        key: int,
        payload: Payload,
        _count: int,
        content_type: str,
        identity: Identity,
    ) -> None:
        """Hand one message to the outbox, which keeps a copy of the payload."""
        self._sent = self._outbox.send(
            self._exchanges[topic],
            f"{word}.{key}",
            encoded_properties(content_type, delivery_mode, identity),
            bytes(payload),
        )

    reports = partialmethod(_publish, *TOPICS[0])
    trades = partialmethod(_publish, *TOPICS[1])
    price = partialmethod(_publish, *TOPICS[2])
    book = partialmethod(_publish, *TOPICS[3])

    def ready(self) -> bool:
        """False while the window is full, the broker is away or takes nothing."""
        return self._outbox.ready()

    def barrier(self, token: Token) -> None:
        """The token is confirmed when every message given so far is."""
        self._barriers.append((self._sent, token))

    def poll(self, timeout_seconds: float) -> Token | None:
        """Run one turn of the connection; the newest token whose messages are all confirmed."""
        self._turn(timeout_seconds)
        newest, self._newest = self._newest, None
        return newest

    def flush(self, timeout_seconds: float) -> bool:
        """Run turns until everything is confirmed or the time is over."""
        deadline = time.monotonic() + timeout_seconds
        while self._outbox.unconfirmed and (left_seconds := deadline - time.monotonic()) > 0:
            self._turn(left_seconds)
        return not self._outbox.unconfirmed

    def close(self) -> None:
        """Close the connection; what is not confirmed comes again from the publisher's ring."""
        self._outbox.close()

    def _turn(self, timeout_seconds: float) -> None:
        """One turn, and which barriers it has brought."""
        waiting = self._barriers and self._barriers[0][0] <= self._outbox.settled
        try:
            self._outbox.poll(0.0 if waiting else timeout_seconds)
        except BrokerRefused as error:
            raise SinkFailed(errno.ECONNREFUSED, str(error)) from error
        settled = self._outbox.settled
        while self._barriers and self._barriers[0][0] <= settled:
            _, self._newest = self._barriers.popleft()

    def _declare(self, channel: Any) -> None:
        """The four exchanges."""
        for exchange in self._exchanges.values():
            channel.exchange_declare(exchange, exchange_type="topic", durable=True)
