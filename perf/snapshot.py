"""
A shard's state to a file and back.       [tables] -> export -> write, sync, read back -> [disk] -> load -> restore -> [tables]

Runs    an export of 1,000,000 resting orders over 100 events of 128 ticks, every tenth of them with an expiry, and a full window of
        keys; the file written, synced, read back and published; then loaded from the disk and restored into new tables.
Tells   milliseconds of each step. During the export a worker stands still; the file is written beside it.
Beside  the bare way to the disk with equal bytes: write and fsync one buffer, and read it back.
Checks  the digest of what was restored is that of what was exported, and the same in every repeat.
Needs   a disk folder, 1 GiB of memory; what was read is not in the page cache if the system lets go of it when asked.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from ringpit.engine.codes import LevelKind, TimeInForce
from ringpit.engine.digest import digest
from ringpit.engine.limits import Limits
from ringpit.engine.state import State, export, restore
from ringpit.engine.tables import Tables
from ringpit.perf.events import TICKS, orders_of
from ringpit.perf.harness import benchmark, positive
from ringpit.perf.stage import LEVELS, Book, creations, power_of_two_above
from ringpit.shards.flow import frames
from ringpit.wal.snapshots import SnapshotFacts, SnapshotStore

SEED: Final = 7
EVENTS: Final = 100
RESTING: Final = 1_000_000
FRAME_COMMANDS: Final = 10
EXPIRES_EVERY: Final = 10
POOL_MIN: Final = 1 << 12
SHARD: Final = 0
KEYS: Final = 1 << 16


class Filled(NamedTuple):
    """What all repeats share."""

    tables: Tables
    limits: Limits
    digest: str
    folder: Path


def records_of(events: int, resting: int, kind: LevelKind) -> np.ndarray:
    """COMMAND array, markers with keys among them, that creates the events and fills their books."""
    orders = orders_of(np.random.Generator(np.random.PCG64(SEED)), resting, events)
    timed = orders[::EXPIRES_EVERY]
    timed["time_in_force"] = TimeInForce.GTD
    timed["expires_ns"] = (1 << 60) + timed["order"] * 7_919 % resting
    commands = np.concatenate([creations(events, 1, TICKS, 1 + TICKS, kind), orders])
    return frames(commands, FRAME_COMMANDS, 1)


@contextmanager
def stage(arguments: argparse.Namespace) -> Iterator[Filled]:
    """Fill the books; a folder that is gone at the end."""
    kind = LEVELS[arguments.levels]
    prices = max(power_of_two_above(arguments.events * TICKS), POOL_MIN)
    limits = Limits(
        events=arguments.events,
        orders=max(power_of_two_above(arguments.resting), POOL_MIN),
        levels=prices if kind == LevelKind.LADDER else POOL_MIN,
        nodes=prices if kind == LevelKind.SKIP_LIST else POOL_MIN,
        keys=KEYS,
    )
    tables = Book(limits, records_of(arguments.events, arguments.resting, kind)).tables
    with tempfile.TemporaryDirectory(prefix="ringpit-perf-", dir=arguments.folder) as name:
        yield Filled(tables, limits, digest(tables), Path(name))


def let_go(path: Path) -> None:
    """Ask the page cache to forget a file, so that reading it asks the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def bare(folder: Path, count: int) -> tuple[float, float]:
    """Milliseconds to write and sync so many bytes, and to read them."""
    path, content = folder / "bare", bytes(count)
    start_ns = time.perf_counter_ns()
    with path.open("wb", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())
    written_ns = time.perf_counter_ns()
    let_go(path)
    begin_ns = time.perf_counter_ns()
    path.read_bytes()
    return (written_ns - start_ns) / 1e6, (time.perf_counter_ns() - begin_ns) / 1e6


def facts_of(filled: Filled, state: State) -> SnapshotFacts:
    """Facts of a snapshot that belongs to no log."""
    return SnapshotFacts(
        shard=SHARD, generation=1, seq=len(state.orders), epoch=1, checksum=0, confirmed_seq=0, engine_ns=int(state.shard["engine_ns"][0]),
        nonce=1, skip_count=0, log_position=0, log_seq=0, log_identity="perf", digest=filled.digest,
    )  # fmt: skip


def refuse(sentence: str) -> None:
    """Nothing that was written a moment ago may be damaged."""
    raise RuntimeError(sentence)


def add_options(parser: argparse.ArgumentParser) -> None:
    """How much, and where."""
    parser.add_argument("--events", type=positive, default=EVENTS, help="events, a book each")
    parser.add_argument("--resting", type=positive, default=RESTING, help="orders that rest")
    parser.add_argument("--levels", choices=list(LEVELS), default="ladder", help="structure of price levels")
    parser.add_argument("--folder", type=Path, help="folder for the file (a temporary one)")


@benchmark(
    "snapshot",
    "1 M resting orders over 100 events exported, written, synced, read back, loaded and restored",
    options=add_options,
    stage=stage,
)
def measure(_arguments: argparse.Namespace, filled: Filled) -> dict[str, object]:
    """There and back once."""
    store = SnapshotStore(filled.folder, SHARD)
    start_ns = time.perf_counter_ns()
    state = export(filled.tables)
    exported_ns = time.perf_counter_ns()
    written = store.write(facts_of(filled, state), state._asdict())
    written_ns = time.perf_counter_ns()
    let_go(written.publish())

    begin_ns = time.perf_counter_ns()
    snapshot = store.newest(refuse)
    loaded_ns = time.perf_counter_ns()
    if snapshot is None:
        raise RuntimeError(f"what was published in {store.folder} must be found there")
    tables = restore(State.of(snapshot.arrays), filled.limits, market_data=False)
    restored_ns = time.perf_counter_ns()
    if digest(tables) != filled.digest:
        raise RuntimeError("what is restored must have the digest of what was exported")
    bare_write_ms, bare_read_ms = bare(filled.folder, written.file_bytes)
    return {
        "export_ms": (exported_ns - start_ns) / 1e6,
        "write_sync_read_back_ms": (written_ns - exported_ns) / 1e6,
        "bare_write_sync_ms": bare_write_ms,
        "load_ms": (loaded_ns - begin_ns) / 1e6,
        "bare_read_ms": bare_read_ms,
        "restore_ms": (restored_ns - loaded_ns) / 1e6,
        "orders": len(state.orders),
        "file_bytes": written.file_bytes,
        "digest": filled.digest,
    }
