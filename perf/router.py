"""
What a router costs by itself.     deliveries in memory -> [decode, check, route, copy] -> input rings that are drained for free

Runs    the real Router, alone in one process, over the same orders in every encoding, one to a delivery and a hundred. Its workers
        are words: between two of its steps everything it has dealt counts as read and durable.
Tells   orders per second of one core, and processor nanoseconds per order; also of plain copies of the packed bodies into the same
        rings (numpy), made beside it in the same run: what no router can be faster than.
Checks  the records in the rings, added up over all fields as words, are the same in every encoding and batch, and a fact of the result.
Needs   1 core.
"""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import numpy as np
from msgspec.structs import replace

from ringpit.engine.codes import CommandKind
from ringpit.ipc.atomics import load_cell
from ringpit.ipc.segment import Segment
from ringpit.perf.decode import BATCHES, CENTS, ENCODINGS, EVENTS, bodies, orders_of
from ringpit.perf.harness import benchmark, cores_for, pin, positive
from ringpit.shards.config import Config, load
from ringpit.shards.delivery import Delivery
from ringpit.shards.directory import Directory
from ringpit.shards.layout import State, first_position, router_layout, segment_name, worker_layout
from ringpit.shards.packed import CONTENT_TYPE
from ringpit.shards.router import Router
from ringpit.shards.sections import Placement

CONTENT_TYPES: Final = {
    "json": "application/json",
    "msgpack": "application/msgpack",
    "packed": CONTENT_TYPE,
}
POLLED: Final = 64  # deliveries that one poll gives out
INCARNATION: Final = 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """How much is routed."""
    parser.add_argument(
        "--commands", type=positive, default=200_000, help="packed orders; a tenth of it in JSON, MessagePack"
    )
    parser.add_argument("--shards", type=positive, default=4, help="rings the orders are dealt to")


class Memory:
    """An intake of deliveries that lie ready, and takes acknowledgements."""

    def __init__(self, deliveries: list[Delivery]) -> None:
        """Gives out from the first one on."""
        self.generation = 0
        self.acknowledged = 0
        self._deliveries = deliveries
        self._at = 0

    def poll(self, _timeout_seconds: float) -> list[Delivery]:
        """The next few."""
        start, self._at = self._at, self._at + POLLED
        return self._deliveries[start : self._at]

    def acknowledge(self, tag: int) -> None:
        """Remember how far."""
        self.acknowledged = tag

    def settled_dead_letters(self) -> list[int]:
        """There are none."""
        return []

    def pause(self) -> None:
        """Nothing to pause."""

    def resume(self) -> None:
        """Nothing to resume."""

    def reopen(self) -> None:
        """Nothing was given out before."""


class Drained:
    """A router whose rings are read by nobody: what it has dealt counts as read and durable at once."""

    def __init__(self, config: Config, stack: ExitStack, deliveries: list[Delivery]) -> None:
        """All segments are gone when the stack is."""
        shards = config.exchange.shards
        first = first_position(INCARNATION)

        def made(label: str, layout: object, index: int) -> Segment:
            return stack.enter_context(
                Segment.create(segment_name(config, label, index, INCARNATION), layout, INCARNATION)  # type: ignore[arg-type]  # what a router asks for is all there
            )

        self.segment = made("router", router_layout(config), 0)
        self.workers = [made("worker", worker_layout(config), shard) for shard in range(shards)]
        directory = Directory(
            shards,
            config.limits.events * shards,
            Placement(events={event: event % shards for event in range(1, EVENTS + 1)}),
        )
        for event in range(1, EVENTS + 1):
            directory.create(event, CENTS)
        self.intake = Memory(deliveries)
        self.router = Router(0, self.segment, first, self.intake, directory, shards, print)  # type: ignore[arg-type]  # what a router asks for is all there
        for shard, worker in enumerate(self.workers):
            worker.store("state", State.RUNNING)
            worker.store("input_head.0", first)
            self.router.attach(shard, worker)
        self.words = [
            (self.segment.layout.index(f"input_tail.{shard}"), worker.cells,
             worker.layout.index("input_head.0"), worker.layout.index("durable_position.0"))
            for shard, worker in enumerate(self.workers)
        ]  # fmt: skip

    def drain(self) -> None:
        """Free every ring: three words a shard."""
        for tail_at, cells, head_at, durable_at in self.words:
            tail = load_cell(self.segment.cells, tail_at)
            cells[head_at] = cells[durable_at] = tail

    def run(self, last_tag: int) -> int:
        """Route until everything is acknowledged; processor nanoseconds that the router took."""
        spent = 0
        while self.intake.acknowledged < last_tag:
            start = time.thread_time_ns()
            self.router.step(0.0)
            spent += time.thread_time_ns() - start
            self.drain()
        return spent

    def sums(self) -> int:
        """What lies in the rings, added up: the orders' ids, accounts, prices and quantities."""
        total = 0
        for shard in range(len(self.workers)):
            slots = self.segment.region(f"input.{shard}")
            orders = slots[slots["kind"] == CommandKind.NEW]
            total += sum(int(orders[name].sum()) for name in ("event", "order", "account", "price", "quantity"))
        return total


@contextmanager
def drained(arguments: argparse.Namespace, deliveries: list[Delivery], commands: int) -> Iterator[Drained]:
    """A router with rings in which everything that is sent has room, so that it can be added up at the end."""
    config = load(None)
    slots = 1 << (2 * commands - 1).bit_length()
    config = replace(
        config,
        exchange=replace(config.exchange, name=f"perf-{os.getpid()}", shards=arguments.shards),
        limits=replace(config.limits, events=EVENTS),
        rings=replace(config.rings, input_slots=slots, journal_slots=8, output_slots=8),
    )
    with ExitStack() as stack:
        yield Drained(config, stack, deliveries)


def copy_ns(sent: list[bytes], room: np.ndarray) -> int:
    """Processor nanoseconds of copying all bodies one behind the other."""
    start = time.thread_time_ns()
    at = 0
    for body in sent:
        room[at : at + len(body)] = np.frombuffer(body, np.uint8)
        at += len(body)
    return time.thread_time_ns() - start


@benchmark(
    "router",
    "a router alone: deliveries in memory to input rings that are drained for free",
    options=add_options,
)
def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Orders per second and core in every encoding and batch, beside a plain copy."""
    pin(cores_for(1)[0])
    figures: dict[str, object] = {}
    totals = set()
    packed_sums = 0
    for name, (encode, _) in ENCODINGS.items():
        count = arguments.commands if name == "packed" else max(1, arguments.commands // 10)
        for batch in BATCHES:
            commands = orders_of(count)
            sent = bodies(commands, batch, encode)
            deliveries = [
                Delivery(tag, CONTENT_TYPES[name], (tag, 1), body, redelivered=False)
                for tag, body in enumerate(sent, 1)
            ]
            with drained(arguments, deliveries, count) as one:
                spent = one.run(len(deliveries))
                total = one.sums()
            expected = sum(
                int(commands[field].sum()) for field in ("event", "order", "account", "price", "quantity")
            )
            totals.add(total - expected)
            packed_sums = total if name == "packed" else packed_sums
            figures[f"{name}_{batch}_orders_per_s"] = count / spent * 1e9
            figures[f"{name}_{batch}_cpu_ns_per_order"] = spent / count
            if name == "packed":
                room = np.ones(sum(map(len, sent)), np.uint8)
                figures[f"copy_{batch}_cpu_ns_per_order"] = copy_ns(sent, room) / count
    [difference] = totals  # one encoding that deals something else makes two
    return {**figures, "differences": difference, "sum_of_packed": packed_sums}
