"""
Watching: the counts of all stages, copied out of a running exchange by anybody of the same user.

    with Watch(config) as watch:
        before = watch.read()
        ...
        interval = since(watch.read(), before)       shards x stages x buckets, see stages.py

A watcher maps what the processes write so that it can only be read, asks nobody, and leaves no trace. The counts are since
the exchange's start: a process that is started again goes on with those of its predecessor. Only a follower that takes
over begins anew with what its worker counted.

Fast here: a look at a shard copies seven histograms of 36 KiB. Slow here: the first look maps all of every process's memory.
"""

from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np

from ringpit.ipc.ring import published
from ringpit.ipc.segment import Segment, SegmentMissing
from ringpit.shards.config import Config
from ringpit.shards.layout import Role, State, board_layout, segment_name
from ringpit.shards.peers import Peers
from ringpit.shards.queries import NotRunning
from ringpit.shards.stages import STAGES, nothing, region_of

FULL: float = 0.5  # of a ring: from there on whoever empties it does not keep up


class Ring(NamedTuple):
    """How full a ring is, and who empties it."""

    name: str
    shard: int
    full: float
    emptied_by: str


def counts_of(segment_of: Callable[[Role, int], Segment], routers: int, shards: int) -> np.ndarray:
    """
    The counts of every shard's stages since the start, those of all routers added up.

    Args:
        segment_of: Finds the segment of a process that counts now.

    Returns int64 of shards x stages x buckets: a copy.
    """
    counts = nothing(shards)
    for index, stage in enumerate(STAGES):
        role = Role[stage.process.upper()]
        for shard in range(shards):
            processes = range(routers) if role is Role.ROUTER else [shard if role is Role.WORKER else 0]
            for process in processes:
                counts[shard, index] += segment_of(role, process).region(region_of(stage, shard))
    return counts


class Watch:
    """
    Somebody who watches an exchange. A context manager.

    Raises NotRunning, or SegmentMismatch if the exchange was started by another version or with other sizes.
    """

    def __init__(self, config: Config) -> None:
        """Look for the exchange."""
        self._config = config
        self.shards = config.exchange.shards
        self._peers = self._found()
        self._creator = self._peers.board.creator
        try:
            self._last = self._look()
        except SegmentMissing as error:
            raise NotRunning(f"exchange {config.exchange.name!r} is starting: {error}; try again") from None

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Let go of the memory: with the last array."""
        self._peers.board.close()

    def _found(self) -> Peers:
        """The exchange's processes."""
        try:
            return Peers(self._config, writable=False)
        except SegmentMissing:
            raise NotRunning(
                f"no exchange {self._config.exchange.name!r} runs on this machine: start it with `ringpit run`, or name "
                "its configuration with -c"
            ) from None

    def read(self) -> np.ndarray:
        """The counts now: int64 of shards x stages x buckets. While a process is being replaced, the last ones."""
        try:
            self._last = self._look()
        except SegmentMissing:
            return self._last
        return self._last

    def _look(self) -> np.ndarray:
        """The counts of the processes that lead."""
        return counts_of(self._peers.attach, self._config.exchange.routers, self.shards)

    def runs(self) -> bool:
        """False when the exchange has been stopped, also if another of its name has been started since."""
        try:
            name = segment_name(self._config, "board", 0, 0)
            board = Segment.attach(name, board_layout(self._config), writable=False)
        except SegmentMissing:
            return False
        same = board.creator == self._creator
        board.close()
        try:
            states = [self._peers.attach(Role.WORKER, shard).load("state") for shard in range(self.shards)]
        except SegmentMissing:  # a worker is being replaced
            return same
        return same and any(state != State.DRAINED for state in states)

    def rings(self) -> list[Ring]:
        """How full every ring is, those further down the way behind those before them."""
        publisher = self._peers.attach(Role.PUBLISHER, 0)
        found = []
        for shard in range(self.shards):
            worker = self._peers.attach(Role.WORKER, shard)
            for router in range(self._config.exchange.routers):
                segment = self._peers.attach(Role.ROUTER, router)
                used = segment.load(f"input_tail.{shard}") - worker.load(f"input_head.{router}")
                slots = len(segment.region(f"input.{shard}"))
                found.append(Ring("input", shard, used / slots, "worker"))
            for name, head, by in (
                ("journal", worker.load("journal_head"), "log"),
                ("output", publisher.load(f"output_head.{shard}"), "publisher"),
            ):
                tail = published(worker.cells, worker.layout.index(f"{name}_tail"))
                found.append(Ring(name, shard, (int(tail) - head) / len(worker.region(name)), by))
        return sorted(found, key=lambda ring: ("input", "journal", "output").index(ring.name))

    def pressed(self) -> Ring | None:
        """The ring furthest down the way that fills up: what comes before it waits for whoever empties it."""
        try:
            full = [ring for ring in self.rings() if FULL <= ring.full <= 1]
        except SegmentMissing:
            return None
        return full[-1] if full else None
