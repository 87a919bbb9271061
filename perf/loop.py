"""
The plain loop: what this client can do at most between two of the broker's sides, when there is nothing in between.

    queue ──deliveries──> one process, one connection ──equal bytes──> topic exchange
      ^                                │
      └── acks, 1 a turn, multiple ────┘

It consumes the same frames from a quorum queue, and for the bytes of each publishes as many messages of the
exchange's own mean size, persistent and confirmed, with the exchange's own window; a delivery is acknowledged
when what it stands for is sent. Nothing is decoded, matched, logged or waited for. The pipeline benchmark
tells the exchange's rate as a share of this one's.
"""

import multiprocessing
import os
import time
from typing import Any, Final

import psutil

from ringpit.shards.config import Config
from ringpit.shards.feeders import become_child, feed_rabbit
from ringpit.shards.outbox import Outbox
from ringpit.shards.outlet import encoded_properties
from ringpit.shards.processes import endpoint_of
from ringpit.shards.routes import queue_of
from ringpit.shards.saying import say_as
from ringpit.shards.sinks import PACKED, Identity

BROKERS: Final = {"rabbitmq": "RINGPIT_RABBITMQ_PID", "kafka": "RINGPIT_KAFKA_PID"}
KEYS: Final = 100  # routing keys in use, as accounts are
POLL_SECONDS: Final = 0.01
PERSISTENT: Final = 2


class PlainLoop:
    """
    One run.

    Args:
        deliveries: How many to consume.
        messages: How many to publish for all of them.
        message_bytes: Of each.
    """

    def __init__(self, config: Config, deliveries: int, messages: int, message_bytes: int) -> None:
        """Connects with the first `poll`."""
        self._queue = queue_of(config, 0)
        self._prefetch = config.rabbitmq.prefetch
        self._exchange = config.rabbitmq.reports_exchange
        self._deliveries = deliveries
        self._messages = messages
        self._body = bytes(message_bytes)
        self._channel: Any = None
        self._tag = self._acknowledged = self._sent = 0
        self.began = 0.0
        self._outbox = Outbox(
            "loop", endpoint_of(config), self._declare, say_as("loop"), window=config.rabbitmq.publish_window
        )

    def run(self) -> float:
        """Consume, publish, acknowledge; the seconds from the first delivery asked for to the last confirm."""
        while self._acknowledged < self._deliveries or self._outbox.unconfirmed:
            self._outbox.poll(POLL_SECONDS)
            self._publish()
            if self._sent == self._owed() and self._tag > self._acknowledged:
                self._acknowledged = self._tag
                self._channel.basic_ack(self._tag, multiple=True)
        seconds = time.perf_counter() - self.began
        self._outbox.close()
        return seconds

    def _owed(self) -> int:
        """Messages that stand for the deliveries so far."""
        return self._tag * self._messages // self._deliveries

    def _publish(self) -> None:
        """Send what is owed, as far as the window allows."""
        owed = self._owed()
        while self._sent < owed and self._outbox.ready():
            self._sent += 1
            properties = encoded_properties(PACKED, PERSISTENT, Identity(1, 0, self._sent, 0))
            self._outbox.send(self._exchange, f"report.{self._sent % KEYS}", properties, self._body)

    def _declare(self, channel: Any) -> None:
        """Consume on the channel that publishes."""
        self._channel = channel
        channel.exchange_declare(self._exchange, exchange_type="topic", durable=True)
        channel.basic_qos(prefetch_count=self._prefetch)
        self.began = time.perf_counter()
        channel.basic_consume(self._queue, self._on_delivery)

    def _on_delivery(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        """Remember how far the queue has been read."""
        self._tag = method.delivery_tag


def loop_process(config: Config, deliveries: int, messages: int, message_bytes: int, answer: Any) -> None:
    """Process entry: leaves the seconds, and those of its processor, in a shared array."""
    become_child()
    before = time.process_time()
    answer[0] = PlainLoop(config, deliveries, messages, message_bytes).run()
    answer[1] = time.process_time() - before


def run_loop(
    config: Config, orders: int, seed: int, events: int, frame_orders: int, output_bytes: int, messages: int
) -> dict[str, float]:
    """
    Fill the exchange's queue, which nobody consumes now, and empty it by the loop.

    Returns its orders per second, and processor nanoseconds per order of the loop and of the brokers beside it.
    Raises RuntimeError if one of the two processes fails.
    """
    context = multiprocessing.get_context("spawn")
    shared = context.Array("d", 4, lock=False)
    deliveries = -(-(orders + events) // frame_orders)
    run_process(context, feed_rabbit, config, orders, seed, events, frame_orders, 0.0, shared)
    before = broker_cpu_ns()
    run_process(context, loop_process, config, deliveries, messages, output_bytes // messages, shared)
    spent = {name: total - before[name] for name, total in broker_cpu_ns().items()}
    return {
        "loop_orders_per_s": orders / shared[0],
        "loop_cpu_ns_per_order": shared[1] * 1e9 / orders,
        **{f"loop_{name}_cpu_ns_per_order": cpu_ns / orders for name, cpu_ns in spent.items()},
    }


def broker_cpu_ns() -> dict[str, int]:
    """
    Processor nanoseconds so far of the brokers that the environment names, in hundredths of a second.

    A broker that was started again since has another number, and is left out like one that was never named.
    """
    spent = {}
    for name, variable in BROKERS.items():
        pid = int(os.environ.get(variable) or 0)
        if pid and psutil.pid_exists(pid):
            times = psutil.Process(pid).cpu_times()
            spent[name] = int((times.user + times.system) * 1e9)
    return spent


def run_process(context: Any, target: Any, *arguments: Any) -> None:
    """Run a function in a process of its own. Raises RuntimeError if it fails."""
    process = context.Process(target=target, args=arguments, daemon=True)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"{target.__name__} ended with code {process.exitcode}")
