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
from collections.abc import Callable, MutableSequence
from functools import partial
from typing import Final

import msgspec
import numpy as np
import pika

from ringpit.ipc.segment import Segment
from ringpit.shards.config import Config
from ringpit.shards.delivery import publisher_key
from ringpit.shards.flow import flow, messages
from ringpit.shards.ingress import Cell, IngressFeeder
from ringpit.shards.layout import Role, ingress_layout, segment_name
from ringpit.shards.outbox import Outbox
from ringpit.shards.packed import CONTENT_TYPE, encode
from ringpit.shards.peers import Peers
from ringpit.shards.processes import PR_SET_PDEATHSIG, endpoint_of
from ringpit.shards.routes import queue_of, routers_of
from ringpit.shards.saying import say_as

NAP_SECONDS: Final = 0.0002
RABBIT_WINDOW: Final = 512
APP: Final = "ringpit.feeder"


def encode_messages(encoder: Callable[[object], bytes], commands: np.ndarray) -> bytes:
    """Commands as a client writes them; one travels without a list around it."""
    sent = list(messages(commands))
    return encoder(sent[0] if len(sent) == 1 else sent)


# Content type of each form, and what makes a body of commands.
FORMS: Final[dict[str, tuple[str, Callable[[np.ndarray], bytes]]]] = {
    "packed": (CONTENT_TYPE, encode),
    "json": ("application/json", partial(encode_messages, msgspec.json.encode)),
    "msgpack": ("application/msgpack", partial(encode_messages, msgspec.msgpack.encode)),
}


class Flow:
    """What a feeder sends: seeded commands cut into bodies of one of FORMS."""

    def __init__(
        self, orders: int, *, seed: int, events: int, frame_orders: int, routers: int = 1, form: str = "packed"
    ) -> None:
        """Draw the commands and encode the bodies, each for one router; packed, half a second a million orders."""
        self.commands = flow(orders, seed=seed, events=events)
        self.content_type, make = FORMS[form]
        router_of_each = routers_of(self.commands["event"], routers)
        cut = []  # (first command, router, body)
        for router in range(routers):
            own = np.flatnonzero(router_of_each == router)
            for start in range(0, len(own), frame_orders):
                chosen = own[start : start + frame_orders]
                cut.append((int(chosen[0]), router, make(self.commands[chosen])))
        cut.sort()
        self.routers = [router for _, router, _ in cut]
        self.bodies = [body for _, _, body in cut]
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
    form: str = "packed",
) -> None:
    """Feed the routers' ingress rings. `progress`: deliveries sent, CPU seconds since the first, when that was."""
    become_child()
    routers = config.exchange.routers
    source = Flow(orders, seed=seed, events=events, frame_orders=frame_orders, routers=routers, form=form)
    keys = [publisher_key(b"", APP.encode(), source.message_id(n).encode()) for n in range(len(source.bodies))]
    peers = Peers(config)
    ends = [RouterEnd(config, peers, router) for router in range(routers)]
    progress[2] = time.time()
    before = time.process_time()
    pace = Pace(orders_per_second / frame_orders)
    for number, body in enumerate(source.bodies):
        pace.wait(number)
        end = ends[source.routers[number]]
        while not end.feeder.offer(source.content_type, keys[number], body):
            end.follow()
            time.sleep(NAP_SECONDS)
        progress[0] = number + 1
    for end in ends:
        while end.feeder.unacknowledged_slots():
            end.follow()
            time.sleep(NAP_SECONDS)
    progress[1] = time.process_time() - before


class RouterEnd:
    """The feeding end of a router's ingress ring, whichever life the router is in."""

    def __init__(self, config: Config, peers: Peers, index: int) -> None:
        """Attach ring and router."""
        self._peers = peers
        self._index = index
        self.ingress = Segment.attach(segment_name(config, "ingress", index, 0), ingress_layout(config))
        self._router = peers.attach(Role.ROUTER, index)
        self.feeder = IngressFeeder(
            self.ingress.region("slots"),
            Cell(self.ingress.cells, self.ingress.layout.index("tail")),
            self._head(),
        )

    def _head(self) -> Cell:
        """Where the router says how far it has acknowledged."""
        return Cell(self._router.cells, self._router.layout.index("ingress_head"))

    def follow(self) -> None:
        """Look at the current router's head: it may have been started again."""
        current = self._peers.attach(Role.ROUTER, self._index)
        if current is not self._router:
            self._router = current
            self.feeder.follow(self._head())


def feed_rabbit(
    config: Config,
    orders: int,
    seed: int,
    events: int,
    frame_orders: int,
    orders_per_second: float,
    progress: MutableSequence[float],
    form: str = "packed",
) -> None:
    """Publish to the routers' queues with confirms. `progress` as for `feed_ring`."""
    become_child()
    routers = config.exchange.routers
    source = Flow(orders, seed=seed, events=events, frame_orders=frame_orders, routers=routers, form=form)
    outbox = Outbox(
        "feeder",
        endpoint_of(config),
        lambda _channel: None,
        say_as("feeder"),
        window=RABBIT_WINDOW,
        mandatory=True,
    )
    queues = [queue_of(config, router) for router in range(routers)]
    properties = [
        b"".join(
            pika.BasicProperties(
                content_type=source.content_type, delivery_mode=2, app_id=APP, message_id=source.message_id(n)
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
        outbox.send("", queues[source.routers[number]], properties[number], body)
        if number & 15 == 0:
            outbox.poll(0.0)
        progress[0] = number + 1
    while outbox.unconfirmed:
        outbox.poll(0.01)
    progress[1] = time.process_time() - before
    outbox.close()
