"""
Keeper: takes a shard's snapshots, in the worker that has no follower, or in the follower.

    due ──> export (the shard stands still) ──> thread: digest, write, fsync, read back ──> it may count ──> published
                                                                                              │
                     the log has its seq, and the publisher has confirmed it: else it waits ──┘

A snapshot that counted earlier could hold keys of orders that no log holds, so that their redelivery would be dropped, or
lack reports that could never be made again.

Fast for the shard: it stands still only while its state is copied, some 60 ms for a million orders. Slow for the disk:
the file is written, synced and read back, one at a time. A snapshot that cannot be written is told and tried again at
its next time: the log is whole without it.

Invariants:

    KE1  at most one snapshot is on its way; the next is taken when it counts or has failed
    KE2  published only when durable_seq and confirmed_seq have reached its seq
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ringpit.engine.digest import digest_of
from ringpit.engine.state import State, export, restore
from ringpit.engine.tables import Cell, Tables
from ringpit.shards.config import Config
from ringpit.shards.faults import Step, met
from ringpit.shards.layout import pool_limits
from ringpit.wal.errors import SnapshotFailed, SnapshotForeign, SnapshotMissing
from ringpit.wal.log import LogView
from ringpit.wal.reader import Begin
from ringpit.wal.snapshots import Snapshot, SnapshotFacts, SnapshotStore, Written

POLL_SECONDS: Final = 0.001
SECONDS_PER_DAY: Final = 86_400
GIBIBYTE: Final = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in the log a snapshot is taken: the facts that its keeper cannot know."""

    generation: int
    seq: int
    epoch: int
    nonce: int
    confirmed_seq: int
    skip_count: int
    log_position: int  # where to read on; what lies before it ends at log_seq or earlier
    log_seq: int
    log_identity: str


class Keeper:
    """
    One shard's keeper.

    Args:
        store: Where the files are.
        interval_seconds: Between two; 0: only when asked to `finish`.
        keep: How many are kept.
        say: Gets one line for each snapshot that counts or fails.
        enabled: False: the log does not last, and a snapshot would outlive it.
    """

    def __init__(
        self,
        store: SnapshotStore,
        *,
        interval_seconds: float,
        keep: int,
        say: Callable[[str], None],
        enabled: bool = True,
    ) -> None:
        """The first one is due after one interval."""
        self._store = store
        self._interval_seconds = interval_seconds
        self._keep = keep
        self._say = say
        self._enabled = enabled
        self._due = time.monotonic() + interval_seconds
        self._thread: threading.Thread | None = None
        self._written: Written | None = None
        self._failure = ""
        self._last_seq = -1
        self._last_log: tuple[float, int] | None = (
            None  # when a snapshot counted last, and how long the log was
        )

    def due(self) -> bool:
        """True if a snapshot should be taken now."""
        return bool(self._interval_seconds) and self._thread is None and time.monotonic() >= self._due

    def take(self, tables: Tables, place: Place, checksum: Callable[[], int | None]) -> None:
        """
        Take a snapshot between two frames; nothing happens if the newest one that counts is of the same seq.

        `checksum` is asked until it knows the running checksum up to that seq.
        """
        self._due = time.monotonic() + self._interval_seconds
        if self._thread is not None or place.seq == self._last_seq or not self._enabled:
            return
        state, engine_ns = export(tables), int(tables.cells[Cell.ENGINE_NS])
        self._thread = threading.Thread(
            target=self._write, args=(state, place, engine_ns, checksum), name="snapshot", daemon=True
        )
        self._thread.start()

    def _write(self, state: State, place: Place, engine_ns: int, checksum: Callable[[], int | None]) -> None:
        """The thread: what takes long and needs nothing of the shard any more."""
        digest = digest_of(state)
        while (known := checksum()) is None:
            time.sleep(POLL_SECONDS)
        facts = SnapshotFacts(
            shard=self._store.shard, engine_ns=engine_ns, digest=digest, checksum=known, **vars(place)
        )
        try:
            self._written = self._store.write(facts, state._asdict())
        except SnapshotFailed as error:
            self._failure = str(error)

    def step(self, durable_seq: int, confirmed_seq: int, log_bytes: int) -> bool:
        """Let what is written count when it may (KE2); True if nothing is on its way any more."""
        if self._thread is None:
            return True
        if self._thread.is_alive():
            return False
        if self._written is not None and min(durable_seq, confirmed_seq) < self._written.facts.seq:
            return False
        self._thread.join()
        self._thread = None
        written, self._written = self._written, None
        try:
            if written is not None:
                self._publish(written, log_bytes)
        except SnapshotFailed as error:
            self._failure = str(error)
        if self._failure:
            self._say(f"shard {self._store.shard}: {self._failure}")
            self._failure = ""
        return True

    def _publish(self, written: Written, log_bytes: int) -> None:
        """Rename it, and forget what is older than what is kept."""
        met(Step.SNAPSHOT_WRITTEN)
        path = written.publish()
        met(Step.SNAPSHOT_PUBLISHED)
        self._last_seq = written.facts.seq
        self._say(
            f"shard {self._store.shard}: snapshot at seq {written.facts.seq}, {written.file_bytes} bytes, {path}"
            f"{self._growth(log_bytes)}"
        )
        self._store.prune(self._keep)

    def _growth(self, log_bytes: int) -> str:
        """How fast the log grows since the last snapshot, and when the snapshots' disk is full at that rate."""
        now = time.monotonic()
        before, self._last_log = self._last_log, (now, log_bytes)
        if before is None or log_bytes <= before[1] or now <= before[0]:
            return ""
        per_second = (log_bytes - before[1]) / (now - before[0])
        disk = os.statvfs(self._store.folder)
        left_seconds = disk.f_bavail * disk.f_frsize / per_second
        return (
            f"; the log is {log_bytes / GIBIBYTE:.2f} GiB long and grows {per_second * SECONDS_PER_DAY / GIBIBYTE:.2f} GiB a "
            f"day: this disk is full in {left_seconds / SECONDS_PER_DAY:.1f} days; `ringpit wal trim` shortens it behind a snapshot"
        )

    def finish(self, facts_now: Callable[[], tuple[int, int, int]], timeout_seconds: float) -> bool:
        """Wait until what is on its way counts; False if it does not in time. `facts_now` gives what `step` takes."""
        deadline = time.monotonic() + timeout_seconds
        while not self.step(*facts_now()):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A snapshot from which a shard goes on."""

    tables: Tables
    begin: Begin
    position: int  # where to read the log on


def store_of(config: Config, shard: int) -> SnapshotStore:
    """A shard's snapshots, as the configuration says."""
    return SnapshotStore(config.snapshots_folder(), shard)


def keeper_of(config: Config, shard: int, say: Callable[[str], None], *, timed: bool) -> Keeper:
    """A shard's keeper; not `timed`: it takes one only at the end."""
    return Keeper(
        store_of(config, shard),
        enabled=config.log.kind != "memory",
        interval_seconds=config.snapshots.interval_seconds if timed else 0,
        keep=config.snapshots.keep,
        say=say,
    )


def newest_of(config: Config, shard: int, log: LogView, say: Callable[[str], None]) -> Snapshot | None:
    """
    The newest snapshot that is whole; None if there is none, and the books begin empty.

    Raises SnapshotForeign if it belongs to another log or topology, SnapshotMissing if the books do not begin empty.
    """
    if config.log.kind == "memory":
        return None
    store, generation = store_of(config, shard), config.exchange.generation
    snapshot = store.newest(say)
    if snapshot is None:
        if generation > 1:
            raise SnapshotMissing(shard, generation, store.folder)
        return None
    for name, ours, theirs in (
        ("log", log.identity(), snapshot.facts.log_identity),
        ("topology generation", generation, snapshot.facts.generation),
    ):
        if ours != theirs:
            raise SnapshotForeign(
                f"{snapshot.path}: its {name} must be {ours!r}, was {theirs!r}: the snapshot and the log do not belong "
                f"together; name the right log, or another folder in snapshots.folder"
            )
    return snapshot


def load_newest(config: Config, shard: int, log: LogView, say: Callable[[str], None]) -> Loaded | None:
    """
    What a shard goes on from, restored; None if its books begin empty.

    Raises what `newest_of` raises, and StateTooLarge if the limits are too small for it.
    """
    snapshot = newest_of(config, shard, log, say)
    if snapshot is None:
        return None
    facts = snapshot.facts
    tables = restore(State.of(snapshot.arrays), pool_limits(config), market_data=True)
    begin = begin_behind(facts)
    say(f"shard {shard}: goes on from the snapshot at seq {facts.seq}, {snapshot.path}")
    return Loaded(tables=tables, begin=begin, position=facts.log_position)


def begin_behind(facts: SnapshotFacts) -> Begin:
    """What a reader knows that begins behind a snapshot that counts."""
    return Begin(
        epoch=facts.epoch,
        nonce=facts.nonce,
        seq=facts.seq,
        checksum=facts.checksum,
        confirmed_seq=max(facts.confirmed_seq, facts.seq),  # KE2
        skip_count=facts.skip_count,
        log_seq=facts.log_seq,
    )
