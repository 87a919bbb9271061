"""
Plan: what a start would do, before doing it. Nothing is written, no epoch is claimed.

    locks ──> snapshots, newest first ──> log from there to its end ──> a slice applied ──> what it takes

A plan takes the way of a start as far as that changes nothing: it loads the snapshot that a start would load, reads and checks
every batch that a start would read, and applies the first of them. What it says about the time is measured here and now.

Fast: reading is some 400 MB/s, and the slice is a fraction of a second. Slow: a large snapshot is loaded whole.
"""

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from ringpit.engine.codes import CommandKind
from ringpit.engine.limits import Limits
from ringpit.engine.records import MARKER
from ringpit.engine.state import StateTooLarge
from ringpit.engine.tables import allocate
from ringpit.shards.config import Config
from ringpit.shards.history import History
from ringpit.shards.keeper import begin_behind
from ringpit.shards.logs import Source, holder, holders, lost_end, sources_of, torn_bytes
from ringpit.shards.rerun import Books, foreign, tables_of
from ringpit.shards.topology import SHARD_PREFIX, resolved
from ringpit.wal.batch import decode
from ringpit.wal.errors import LogError, LogGap, LogMissing, SnapshotMissing
from ringpit.wal.reader import FIRST
from ringpit.wal.snapshots import Snapshot, SnapshotStore

SLICE_RECORDS: Final = 200_000  # applied to learn the rate
DAY_NS: Final = 86_400 * 10**9
GROWTH_SPAN_NS: Final = 60 * 10**9  # a shorter log tells nothing about a day
SMALL: Final = Limits(events=1, orders=64, levels=4_096, keys=64, nodes=64, grids=1)


@dataclass(kw_only=True)
class Plan:
    """What a start of one shard would do."""

    shard: int
    log: str  # where it is
    refusals: list[str] = field(default_factory=list)  # why a start would not work; empty: it would
    snapshot: Path | None = None  # which is loaded; None: the log is read from its first batch
    snapshot_seq: int = 0
    passed_over: list[str] = field(default_factory=list)  # snapshots that are not used, each with the reason
    position: str = ""  # where the log is read from
    batches: int = 0
    records: int = 0
    bytes: int = 0
    skips: list[int] = field(default_factory=list)
    next_epoch: int = 1
    next_seq: int = 1
    confirmed_seq: int = 0  # reports above it are made again
    clean: bool = False  # the last stop was clean
    torn_bytes: int = 0  # cut off the end
    lost_end: str = ""  # a start would work, and not know that this is gone
    seconds: float = 0.0
    seconds_from: str = ""  # how that was reckoned
    log_bytes: int = 0  # of segment files, all of them
    bytes_a_day: float = 0.0  # 0: the log's times do not tell
    free_bytes: int = 0  # 0: not known
    first_ns: int = 0  # engine time of the first and last frame that were read
    last_ns: int = 0

    @property
    def works(self) -> bool:
        """True if a start would."""
        return not self.refusals

    @property
    def days_left(self) -> float:
        """Until the log has filled the disk; 0 if that cannot be told."""
        return self.free_bytes / self.bytes_a_day if self.bytes_a_day > 0 else 0.0


def plan(source: Source, holders: list[str]) -> Plan:
    """
    Plan a start of one shard; `holders` are those who hold locks that a start needs. Raises LogUnavailable.
    """
    made = Plan(shard=source.shard, log=source.view.describe())
    made.refusals += [f"{holder} holds the lock: stop that ringpit first" for holder in holders]
    began = time.perf_counter()
    snapshot = _choose(source, made)
    try:
        books = _books(source, snapshot)
        made.seconds = time.perf_counter() - began
        made.seconds += _read(source, snapshot, books, made)
    except LogGap as error:
        made.refusals.append(f"{error}{_shorter(made) if snapshot is not None and not made.batches else ''}")
    except (LogError, StateTooLarge) as error:
        made.refusals.append(str(error))
    made.torn_bytes = torn_bytes(source.view)
    made.lost_end = lost_end(source.view) if made.works else ""
    _grow(source, made)
    return made


def _shorter(made: Plan) -> str:
    """What a gap right behind the snapshot means."""
    return (
        f". The snapshot at seq {made.snapshot_seq} reads on there: the log is shorter than the snapshot, or was exchanged; "
        f"without the missing part, what was acknowledged behind the log's end is only in the snapshot"
    )


def first_start(shard: int, log: str, holders: list[str]) -> Plan:
    """The plan of a start that finds no log: it begins one."""
    made = Plan(shard=shard, log=log)
    made.refusals += [f"{holder} holds the lock: stop that ringpit first" for holder in holders]
    return made


def _choose(source: Source, made: Plan) -> Snapshot | None:
    """The snapshot that a start loads. One of another log is refused, not passed over: something was mixed up."""
    store = SnapshotStore(source.snapshots, source.shard)
    for found in store.listing():
        if found.facts is None:
            made.passed_over.append(found.damage)
            continue
        reason = foreign(source, found.facts)
        if reason:
            made.refusals.append(
                f"{found.path} does not belong here: {reason}; name the log that it was taken of, or move the "
                f"snapshots of shard {source.shard} away to start from the log alone"
            )
            return None
        made.snapshot, made.snapshot_seq = found.path, found.facts.seq
        return store.load(found.path)
    if source.generation_found() > 1:
        made.refusals.append(str(SnapshotMissing(source.shard, source.generation_found(), store.folder)))
    return None


def _books(source: Source, snapshot: Snapshot | None) -> Books:
    """What a start has before it reads the log."""
    return Books(tables_of(source.limits, snapshot, market_data=True), snapshot.facts.seq if snapshot else 0)


def _read(source: Source, snapshot: Snapshot | None, books: Books, made: Plan) -> float:
    """Read what a start would read, apply a slice of it, and return the seconds that all of it would take."""
    begin, position = FIRST, 0
    if snapshot is not None:
        begin, position = begin_behind(snapshot.facts), snapshot.facts.log_position
    made.position = source.view.locate(position)
    _warm()
    applied, apply_seconds = 0, 0.0
    began = time.perf_counter()
    history = History(source, begin, position, lenient=True)  # up to the damage, which reading will name
    made.skips = sorted(history.reader.skips)
    for step in history.steps():
        made.batches += 1
        made.bytes += step.row.bytes
        made.records += len(step.records)
        made.first_ns = made.first_ns or step.row.engine_ns
        made.last_ns = max(made.last_ns, step.row.engine_ns)
        if applied < SLICE_RECORDS and len(step.records):
            apply_began = time.perf_counter()
            books.apply(step.records)
            apply_seconds += time.perf_counter() - apply_began
            applied += len(step.records)
    read_seconds = time.perf_counter() - began - apply_seconds
    reader = history.reader
    reader.require_reached(source.view.describe())
    made.next_epoch, made.next_seq = reader.epoch + 1, reader.next_seq
    made.confirmed_seq, made.clean = reader.confirmed_seq, history.ended_clean()
    rate = applied / apply_seconds if apply_seconds > 0 else 0.0
    if rate:
        made.seconds_from = (
            f"{applied} records were applied here at {rate / 1e6:.2f} million/s, the rest was read"
        )
    return read_seconds + (made.records / rate if rate else 0.0)


def _warm() -> None:
    """The first call of a kernel loads or compiles it: not a part of the rate."""
    marker = np.zeros(1, MARKER)
    marker["kind"] = CommandKind.MARKER
    Books(allocate(SMALL, market_data=True), 0).apply(marker)


def _grow(source: Source, made: Plan) -> None:
    """How fast the log has grown by its own times, and how long the disk will do. Of Kafka's disks nothing is known here."""
    first_ns, grown_bytes = made.first_ns, made.bytes
    if source.log_folder is not None:
        folder = source.log_folder / f"{SHARD_PREFIX}{source.shard:04}"
        made.log_bytes = sum(path.stat().st_size for path in folder.glob("epoch-*.log"))
        made.free_bytes = shutil.disk_usage(folder).free
        first_ns, grown_bytes = _first_ns(source), made.log_bytes
    span_ns = made.last_ns - first_ns
    if first_ns and span_ns >= GROWTH_SPAN_NS:
        made.bytes_a_day = grown_bytes * DAY_NS / span_ns


def _first_ns(source: Source) -> int:
    """Engine time of the log's first frame; 0 if it cannot be read."""
    with contextlib.suppress(LogError):
        for entry in source.view.read(source.view.beginning()):
            header, _ = decode(entry.batch)
            if header["engine_ns"]:
                return int(header["engine_ns"])
    return 0


def plans_of(
    config: Config | None, folder: Path | None, shard: int | None, snapshots: Path | None
) -> Iterator[Plan]:
    """The plans of the logs that a command line means, as `sources_of`; a log that is not there yet is a first start."""
    if folder is not None:
        for source in sources_of(config, folder, shard, snapshots):
            assert source.log_folder is not None
            pid = holder(source.log_folder / f"{SHARD_PREFIX}{source.shard:04}" / "lock")
            yield plan(source, [f"log of shard {source.shard} (process {pid})"] if pid else [])
        return
    config = config or resolved(Config())
    for number in range(config.exchange.shards) if shard is None else [shard]:
        held = holders(config, number)
        try:
            [source] = sources_of(config, None, number, snapshots)
        except LogMissing as missing:
            made = first_start(number, f"none yet: a start begins one ({missing})", held)
        else:
            made = plan(source, held)
        yield made
