"""
Feeders: processes that send a prepared order flow in, over shared memory or over RabbitMQ.

They are what the demonstration and the benchmarks measure against, so they do as little as possible while the
clock runs: frames are encoded before, each with a message key of its own, and offered as fast as they are
taken, or at a rate. The word `sent` of a little shared array tells how far they are.

A feeder ends when everything it sent has been acknowledged: by the router (ring) or confirmed by the broker.
"""

import ctypes
import os
import signal
import time
from collections.abc import MutableSequence
from typing import Final

import pika

from ringpit.ipc.segment import Segment
from ringpit.shards.config import Config
from ringpit.shards.delivery import publisher_key
from ringpit.shards.flow import flow
from ringpit.shards.ingress import Cell, IngressFeeder
from ringpit.shards.layout import Role, ingress_layout, segment_name
from ringpit.shards.outbox import Outbox
from ringpit.shards.packed import CONTENT_TYPE, encode
from ringpit.shards.peers import Peers
from ringpit.shards.processes import PR_SET_PDEATHSIG, endpoint_of, queue_of, say_as

NAP_SECONDS: Final = 0.0002
RABBIT_WINDOW: Final = 512
APP: Final = "ringpit.feeder"


class Flow:
    """What a feeder sends: seeded commands cut into packed bodies."""

    def __init__(self, orders: int, *, seed: int, events: int, frame_orders: int) -> None:
        """Draw the commands and encode the bodies; about half a second a million orders."""
        self.commands = flow(orders, seed=seed, events=events)
        self.bodies = [
            encode(self.commands[start : start + frame_orders])
            for start in range(0, len(self.commands), frame_orders)
        ]
        self.run = f"{os.getpid()}-{time.time_ns()}"

    def message_id(self, number: int) -> str:
        """Names one delivery for ever."""
        return f"{self.run}-{number}"


class Pace:
    """Open loop: when each delivery is due, whatever became of the ones before."""

    def __init__(self, per_second: float) -> None:
        """0: as fast as they are taken."""
        self._gap = 1 / per_second if per_second else 0.0
        self._start = time.perf_counter()

    def wait(self, number: int) -> None:
        """Return when delivery `number` is due."""
        if self._gap:
            left = self._start + number * self._gap - time.perf_counter()
            if left > 0:
                time.sleep(left)


def become_child() -> None:
    """Die with the parent, and leave signals to it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def feed_ring(
    config: Config,
    orders: int,
    seed: int,
    events: int,
    frame_orders: int,
    orders_per_second: float,
    progress: MutableSequence[float],
) -> None:
    """Feed router 0's ingress ring. `progress`: deliveries sent, CPU seconds since the first, when that was."""
    become_child()
    source = Flow(orders, seed=seed, events=events, frame_orders=frame_orders)
    keys = [publisher_key(b"", APP.encode(), source.message_id(n).encode()) for n in range(len(source.bodies))]
    peers = Peers(config)
    ingress = Segment.attach(segment_name(config, "ingress", 0, 0), ingress_layout(config))
    router = peers.attach(Role.ROUTER, 0)
    feeder = IngressFeeder(
        ingress.region("slots"),
        Cell(ingress.cells, ingress.layout.index("tail")),
        Cell(router.cells, router.layout.index("ingress_head")),
    )
    progress[2] = time.time()
    before = time.process_time()
    pace = Pace(orders_per_second / frame_orders)
    for number, body in enumerate(source.bodies):
        pace.wait(number)
        while not feeder.offer(CONTENT_TYPE, keys[number], body):
            router = follow(peers, feeder, router)
            time.sleep(NAP_SECONDS)
        progress[0] = number + 1
    while feeder.unacknowledged_slots():
        router = follow(peers, feeder, router)
        time.sleep(NAP_SECONDS)
    progress[1] = time.process_time() - before


def follow(peers: Peers, feeder: IngressFeeder, router: Segment) -> Segment:
    """Look at the current router's head: it may have been started again."""
    current = peers.attach(Role.ROUTER, 0)
    if current is not router:
        feeder.follow(Cell(current.cells, current.layout.index("ingress_head")))
    return current


def feed_rabbit(
    config: Config,
    orders: int,
    seed: int,
    events: int,
    frame_orders: int,
    orders_per_second: float,
    progress: MutableSequence[float],
) -> None:
    """Publish to router 0's queue with confirms. `progress` as for `feed_ring`."""
    become_child()
    source = Flow(orders, seed=seed, events=events, frame_orders=frame_orders)
    outbox = Outbox(
        "feeder",
        endpoint_of(config),
        lambda _channel: None,
        say_as("feeder"),
        window=RABBIT_WINDOW,
        mandatory=True,
    )
    queue = queue_of(config, 0)
    properties = [
        b"".join(
            pika.BasicProperties(
                content_type=CONTENT_TYPE, delivery_mode=2, app_id=APP, message_id=source.message_id(n)
            ).encode()
        )
        for n in range(len(source.bodies))
    ]
    while not outbox.ready():
        outbox.poll(0.05)
    progress[2] = time.time()
    before = time.process_time()
    pace = Pace(orders_per_second / frame_orders)
    for number, body in enumerate(source.bodies):
        pace.wait(number)
        while not outbox.ready():
            outbox.poll(0.01)
        outbox.send("", queue, properties[number], body)
        if number & 15 == 0:
            outbox.poll(0.0)
        progress[0] = number + 1
    while outbox.unconfirmed:
        outbox.poll(0.01)
    progress[1] = time.process_time() - before
    outbox.close()
