"""
A cold start, and its parts.       [disk] -> snapshot -> restore -> log, reader rule -> apply -> [claimed, ready to serve]

Runs    a start of a shard with 1,000,000 resting orders in its newest snapshot and 1,000,000 commands behind it in
        segment files: half cancels, half new orders, spread over 1,000 events. From the first look for a snapshot to the
        claim that is durable, in a process that is up, with kernels loaded. Before it, files are dropped from the page
        cache if the system lets go of them when asked.
Tells   seconds of the whole and of its parts; commands per second that are applied to the books from memory, alone and
        through the reader rule, and so of the referee's flow (referee_flow.py), whose one book is in the caches, which those of
        the start are not; nanoseconds that journaling a command costs the worker (copy, stamp, publish).
Beside  the yardsticks alone: there is no bare way to start an exchange.
Checks  the digest after each start is that of the books that were never written.
Needs   a disk folder, 1 GiB of memory.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from ringpit.engine.codes import LevelKind
from ringpit.engine.digest import digest
from ringpit.engine.limits import INT64_MAX, Limits
from ringpit.engine.records import COMMAND, MARKER, RECORD_BYTES, REPORT
from ringpit.engine.state import State, export, restore
from ringpit.engine.tables import Tables, allocate
from ringpit.perf.events import TICKS, events_flow
from ringpit.perf.harness import benchmark, positive
from ringpit.perf.referee import book_for, encode
from ringpit.perf.referee_flow import ORDERS, messages
from ringpit.perf.snapshot import let_go, refuse
from ringpit.perf.stage import Book, creations, power_of_two_above
from ringpit.shards import serve
from ringpit.shards.flow import frames
from ringpit.shards.worker import Replay
from ringpit.wal.batch import HEADER, HEADER_BYTES
from ringpit.wal.log import Log
from ringpit.wal.memory import MemoryLog
from ringpit.wal.reader import Begin, Reader, recover, runs
from ringpit.wal.segments import SegmentLog
from ringpit.wal.snapshots import SnapshotFacts, SnapshotStore
from ringpit.wal.writer import BatchWriter

SHARD: Final = 0
GENERATION: Final = 1
EVENTS: Final = 1_000
RESTING: Final = 1_000_000
TAIL: Final = 1_000_000
FRAME_COMMANDS: Final = 100
RUN: Final = 2_020  # records that are journaled at once: twenty frames
JOURNALED_RUNS: Final = 500
POOL_MIN: Final = 1 << 12
WAIT_SECONDS: Final = 0.1


class Prepared(NamedTuple):
    """What all repeats share."""

    folder: Path
    limits: Limits
    begin: Begin
    state: State
    batches: list[bytes]
    tail: np.ndarray
    digest: str
    referee: Book
    referee_batches: list[bytes]


def applied(tables: Tables, records: np.ndarray, next_seq: int) -> None:
    """Apply whole frames, as a start does."""
    replay = Replay(tables, INT64_MAX, next_seq=next_seq)
    header = np.zeros(1, HEADER)[0]
    for at in range(0, len(records), 1 << 13):
        replay.apply(header, records[at : at + (1 << 13)].view(MARKER))


def appended(log: Log, writer: BatchWriter, records: np.ndarray, count: int) -> list[bytes]:
    """Append records in full batches and wait until they are durable; the batches."""
    batches = []
    at = 0
    while at < len(records):
        batch, taken = writer.cut(records[at:], confirmed_seq=writer.next_seq - 1)
        log.append(batch)
        batches.append(batch)
        at += taken
        writer.advance(log.poll())
        while not writer.ready:
            writer.advance(log.poll(WAIT_SECONDS))
    while log.poll(WAIT_SECONDS) < count + len(batches):
        pass
    return batches


def batches_of(records: np.ndarray) -> list[bytes]:
    """Whole frames as an owner of an empty log writes them: the claim, and full batches."""
    log = MemoryLog()
    claimed = recover(log, SHARD, GENERATION, 1, _look_away)
    appended(log, BatchWriter(claimed), records, claimed.appended_count)
    return log.batches


@contextmanager
def stage(arguments: argparse.Namespace) -> Iterator[Prepared]:
    """Fill the books, write snapshot and log, and know the digest that must come out."""
    flow = messages("normal", orders=arguments.orders)
    referee = book_for(flow, LevelKind.LADDER)
    referee_batches = batches_of(frames(encode(flow)[: len(flow.kind)], FRAME_COMMANDS, 3))
    resting, tail = events_flow(events=arguments.events, resting=arguments.resting, commands=arguments.tail)
    before = frames(
        np.concatenate([creations(arguments.events, 1, TICKS, 1 + TICKS, LevelKind.LADDER), resting]),
        FRAME_COMMANDS,
        1,
    )
    behind = frames(tail, FRAME_COMMANDS, 2)
    limits = Limits(
        events=arguments.events,
        orders=max(power_of_two_above(arguments.resting), POOL_MIN),
        levels=max(power_of_two_above(arguments.events * TICKS), POOL_MIN),
        keys=1 << 16,
    )
    tables = allocate(limits, market_data=True)
    applied(tables, before, 1)
    state = export(tables)
    with tempfile.TemporaryDirectory(prefix="ringpit-perf-", dir=arguments.folder) as name:
        folder = Path(name)
        seq = len(before)
        begin = Begin(epoch=0, seq=seq, log_seq=seq)
        log = SegmentLog(folder / "log", SHARD)
        claimed = recover(log, SHARD, GENERATION, 1, _look_away, begin=begin)
        facts = SnapshotFacts(
            shard=SHARD, generation=GENERATION, seq=seq, epoch=claimed.epoch, nonce=claimed.nonce, checksum=claimed.checksum,
            confirmed_seq=seq, engine_ns=1, skip_count=0, log_position=log.durable_end, log_seq=seq,
            log_identity=log.identity(), digest=digest(tables),
        )  # fmt: skip
        SnapshotStore(folder / "snapshots", SHARD).write(facts, state._asdict()).publish()
        batches = appended(log, BatchWriter(claimed), behind, claimed.appended_count)
        log.close()
        applied(tables, behind, seq + 1)
        begin = Begin(epoch=claimed.epoch, nonce=claimed.nonce, seq=seq, checksum=claimed.checksum, log_seq=seq)
        yield Prepared(folder, limits, begin, state, batches, behind, digest(tables), referee, referee_batches)


def _look_away(_header: np.void, _records: np.ndarray) -> None:
    """The log is empty."""


def journal_ns(tables: Tables, records: np.ndarray) -> float:
    """Nanoseconds a command that the worker spends on copying it into the journal ring and stamping it."""
    slots = power_of_two_above(RUN)
    inputs, journal = np.zeros(slots, COMMAND), np.zeros(2 * slots, COMMAND)
    inputs[:RUN] = records[:RUN].view(COMMAND)
    wires = serve.lone_wires(tables, inputs, journal, np.zeros(1, REPORT))
    serve.journal_run(wires, 0, RUN, 0, 1)
    began_ns = time.perf_counter_ns()
    for run in range(JOURNALED_RUNS):
        serve.journal_run(wires, 0, RUN, run * RUN, 1)
    return (time.perf_counter_ns() - began_ns) / (JOURNALED_RUNS * RUN)


def add_options(parser: argparse.ArgumentParser) -> None:
    """How much, and where."""
    parser.add_argument("--events", type=positive, default=EVENTS, help="events, a book each")
    parser.add_argument("--resting", type=positive, default=RESTING, help="orders in the snapshot")
    parser.add_argument("--tail", type=positive, default=TAIL, help="commands behind it")
    parser.add_argument("--orders", type=positive, default=ORDERS, help="new orders of the referee's flow")
    parser.add_argument("--folder", type=Path, help="folder for the files (a temporary one)")


@benchmark(
    "recovery",
    "a cold start with 1 M resting orders in the snapshot and 1 M commands behind it, and its parts",
    options=add_options,
    stage=stage,
)
def measure(_arguments: argparse.Namespace, prepared: Prepared) -> dict[str, object]:
    """One start from the disk, then the same books from memory."""
    figures = start(prepared)
    tables = restore(prepared.state, prepared.limits, market_data=True)
    began_ns = time.perf_counter_ns()
    applied(tables, prepared.tail, prepared.begin.seq + 1)
    apply_seconds = (time.perf_counter_ns() - began_ns) / 1e9
    _require(prepared, tables)
    tables = restore(prepared.state, prepared.limits, market_data=True)
    ruled_seconds = replayed(tables, prepared.batches, prepared.begin)
    _require(prepared, tables)
    referee_seconds = replayed(prepared.referee.reset(), prepared.referee_batches, Begin())
    referee_digest = digest(prepared.referee.tables)
    referee_records = sum(len(batch) - HEADER_BYTES for batch in prepared.referee_batches) // RECORD_BYTES
    return figures | {
        "apply_mps": len(prepared.tail) / apply_seconds / 1e6,
        "replay_mps": len(prepared.tail) / ruled_seconds / 1e6,
        "replay_referee_mps": referee_records / referee_seconds / 1e6,
        "journal_ns": journal_ns(tables, prepared.tail),
        "records": len(prepared.tail),
        "digest": prepared.digest,
        "referee_digest": referee_digest,
    }


def replayed(tables: Tables, batches: list[bytes], begin: Begin) -> float:
    """Seconds in which batches are applied from memory, as a start does it."""
    replay = Replay(tables, INT64_MAX, next_seq=begin.seq + 1)
    reader = Reader(SHARD, GENERATION, begin=begin)
    began_ns = time.perf_counter_ns()
    for run in runs(MemoryLog(batches), reader):
        if len(run.records):
            replay.apply(run.headers[-1], run.records)
    return (time.perf_counter_ns() - began_ns) / 1e9


def start(prepared: Prepared) -> dict[str, object]:
    """A cold start from the disk; its log is left as it was."""
    paths = sorted((prepared.folder / "log").rglob("epoch-*.log"))
    for path in [*paths, *(prepared.folder / "snapshots").rglob("*.snapshot")]:
        let_go(path)
    began_ns = time.perf_counter_ns()
    snapshot = SnapshotStore(prepared.folder / "snapshots", SHARD).newest(refuse)
    if snapshot is None:
        raise RuntimeError("what was published must be found")
    loaded_ns = time.perf_counter_ns()
    tables = restore(State.of(snapshot.arrays), prepared.limits, market_data=True)
    restored_ns = time.perf_counter_ns()
    log = SegmentLog(prepared.folder / "log", SHARD)
    replay = Replay(tables, INT64_MAX, next_seq=prepared.begin.seq + 1)
    recover(log, SHARD, GENERATION, 2, replay.apply, begin=prepared.begin, position=snapshot.facts.log_position)
    claimed_ns = time.perf_counter_ns()
    log.close()
    _require(prepared, tables)
    for path in set((prepared.folder / "log").rglob("epoch-*.log")) - set(paths):
        path.unlink()
    return {
        "load_ms": (loaded_ns - began_ns) / 1e6,
        "restore_ms": (restored_ns - loaded_ns) / 1e6,
        "log_ms": (claimed_ns - restored_ns) / 1e6,
        "start_seconds": (claimed_ns - began_ns) / 1e9,
    }


def _require(prepared: Prepared, tables: Tables) -> None:
    """Refuse a figure of books that are not the right ones."""
    if digest(tables) != prepared.digest:
        raise RuntimeError("the books after a start must have the digest of those that were never written")
