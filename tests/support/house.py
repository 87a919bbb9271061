"""
A house: the shared memory of an exchange with one shard, in which tests play router, publisher and supervisor.

    with house_of() as house:
        worker = house.worker(2, lambda: log)
        house.submit(records)
        house.take_reports(worker)
"""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from msgspec.structs import replace

from ringpit.engine.codes import CommandKind
from ringpit.engine.records import MARKER
from ringpit.ipc.segment import Segment, SegmentLayout
from ringpit.shards.config import Config
from ringpit.shards.flow import flow, frames
from ringpit.shards.layout import (
    board_layout,
    first_position,
    publisher_layout,
    queries_layout,
    router_layout,
    segment_name,
    worker_layout,
)
from ringpit.shards.peers import Peers
from ringpit.shards.worker import Worker
from ringpit.wal.log import Log

DEADLINE_SECONDS: Final = 30.0
ROUTER_FIRST: Final = 7  # incarnation of the first router


def until(condition: Callable[[], object], what: str) -> None:
    """Poll until a condition holds; fail saying what was waited for."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not after {DEADLINE_SECONDS} s")


class House:
    """The shared memory of an exchange with one shard; the tests play router, publisher and supervisor."""

    def __init__(
        self, *, output_slots: int = 1 << 13, followed: bool = False, routers: int = 1, release: str = "durable"
    ) -> None:
        """Make board, queries, routers and a publisher."""
        config = Config()
        self.folder = TemporaryDirectory()
        self.config = replace(
            config,
            exchange=replace(
                config.exchange,
                name=f"test-{uuid.uuid4().hex[:12]}",
                data=self.folder.name,
                shards=1,
                routers=routers,
                stop_seconds=20,
            ),
            limits=replace(config.limits, events=8, orders=1 << 9, levels=4_096, keys=256),
            output=replace(config.output, release=release),
            follower=replace(config.follower, enabled=followed),
            rings=replace(config.rings, input_slots=1 << 12, journal_slots=1 << 12, output_slots=output_slots),
        )
        self.segments: list[Segment] = []
        self.board = self.create("board", board_layout(self.config), 0)
        self.create("queries", queries_layout(self.config), 0)
        self.said: list[str] = []
        self.reported: list[np.ndarray] = []
        for router in range(routers):
            self.start_router(ROUTER_FIRST, router)
        self.start_publisher(1)

    def create(self, label: str, layout: SegmentLayout, incarnation: int, index: int = 0) -> Segment:
        """A segment, which goes with the house."""
        segment = Segment.create(segment_name(self.config, label, index, incarnation), layout, incarnation)
        self.segments.append(segment)
        return segment

    def close(self) -> None:
        """Remove everything."""
        for segment in self.segments:
            segment.unlink()
            segment.close()
        self.folder.cleanup()

    def start_router(self, incarnation: int, index: int = 0) -> None:
        """A router with an empty ring, which the board names from now on, and which the test plays next."""
        self.router = self.create("router", router_layout(self.config), incarnation, index)
        self.router.store("input_tail.0", first_position(incarnation))
        self.board.store(f"router.{index}.incarnation", incarnation)

    def start_publisher(self, incarnation: int, **words: int) -> None:
        """A publisher, which the board names from now on."""
        self.publisher = self.create("publisher", publisher_layout(self.config), incarnation)
        for word, value in words.items():
            self.publisher.store(f"{word}.0", value)
        self.board.store("publisher.0.incarnation", incarnation)

    def worker(self, incarnation: int, open_log: Callable[[], Log]) -> Worker:
        """The next worker; the publisher has taken up its ring."""
        segment = self.create("worker", worker_layout(self.config), incarnation)
        self.board.store("worker.0.incarnation", incarnation)
        self.publisher.store("output_head.0", first_position(incarnation))
        return Worker(self.config, 0, segment, Peers(self.config), open_log, self.said.append)

    def greet(self, worker: Worker) -> None:
        """The router tells a worker to begin at the ring's end."""
        self.router.store("input_base.0", self.router.load("input_tail.0"))
        self.router.store("input_peer.0", worker.segment.incarnation)

    def submit(self, records: np.ndarray) -> np.ndarray:
        """Write frames into the input ring, and say in their markers where they lie."""
        tail = self.router.load("input_tail.0")
        placed = at_positions(records, tail)
        slots = self.router.region("input.0")
        slots[(tail + np.arange(len(records))) & (len(slots) - 1)] = placed
        self.router.store("input_tail.0", tail + len(records))
        return placed

    def take_reports(self, worker: Worker, count: int | None = None) -> np.ndarray:
        """The publisher takes what is in the output ring, or the next `count`."""
        head, tail = self.publisher.load("output_head.0"), worker.segment.load("output_tail")
        tail = tail if count is None else min(tail, head + count)
        slots = worker.segment.region("output")
        self.reported.append(slots[(head + np.arange(tail - head)) & (len(slots) - 1)])
        self.publisher.store("output_head.0", tail)
        return self.reported[-1]


@contextmanager
def house_of(**options: Any) -> Iterator[House]:
    """A house, and nothing left of it."""
    made = House(**options)
    try:
        yield made
    finally:
        made.close()


def frames_of(count: int, *, seed: int = 0, size: int = 5) -> np.ndarray:
    """Frames of a seeded flow, each with a key of its own."""
    return frames(flow(count, seed=seed, events=3, accounts=9), size, 99, engine_ns=1_000)


def starts_of(records: np.ndarray) -> np.ndarray:
    """Where the frames begin."""
    return np.flatnonzero(records["kind"] == CommandKind.MARKER)


def at_positions(records: np.ndarray, first: int) -> np.ndarray:
    """The same frames, lying in a ring from a position on."""
    placed = records.copy()
    starts = starts_of(records)
    placed.view(MARKER)["position"][starts] = first + np.append(starts[1:], len(records))
    return placed
