"""
Logs for tests of tools: records of a session, written by the real batch writer in several lives, with snapshots on the way.

    made = write_log(LogAt(tmp_path), in_frames(session(300, seed=1)), lives=3, snapshots_at=(0.5,))
    made.source()      what a tool is given

Only what a worker would do is done: recover, cut, append, wait until durable; a snapshot is taken behind a durable batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import numpy as np

from ringpit.engine.codes import CommandKind
from ringpit.engine.limits import FRAME_COMMANDS_MAX, Limits
from ringpit.engine.records import COMMAND, MARKER
from ringpit.engine.state import export
from ringpit.engine.tables import Cell, allocate
from ringpit.shards.logs import Source
from ringpit.shards.rerun import Books
from ringpit.wal.batch import decode
from ringpit.wal.log import Log
from ringpit.wal.reader import NOT_SKIPPABLE, RecoveredState, recover
from ringpit.wal.segments import SegmentLog, SegmentView
from ringpit.wal.snapshots import SnapshotFacts, SnapshotStore
from ringpit.wal.writer import BatchWriter

LIMITS: Final = Limits(events=64, orders=256, levels=1 << 14, keys=64, nodes=256, grids=4)
RECORDS_PER_BATCH: Final = 40  # about
COMMANDS_PER_FRAME: Final = 20  # where a session has no frame
WAIT_SECONDS: Final = 60.0


def in_frames(records: np.ndarray) -> np.ndarray:
    """A session's records, all of them in frames: what came without a marker gets one, as a router would give it."""
    kinds = records["kind"]
    framed = []
    at, engine_ns = 0, 0
    while at < len(records):
        if kinds[at] == CommandKind.MARKER:
            marker = records[at : at + 1].view(MARKER)
            behind = at + 1 + int(marker["count"][0])
            engine_ns = max(engine_ns, int(marker["engine_ns"][0]))
            framed.append(records[at:behind])
        else:
            behind = at + 1
            while behind < len(records) and kinds[behind] != CommandKind.MARKER:
                if behind - at >= COMMANDS_PER_FRAME and kinds[behind - 1] not in NOT_SKIPPABLE:
                    break
                behind += 1
            framed += [_marker(behind - at, engine_ns), records[at:behind]]
        at = behind
    return np.concatenate(framed)


def _marker(count: int, engine_ns: int) -> np.ndarray:
    """A marker without key."""
    assert count <= FRAME_COMMANDS_MAX
    marker = np.zeros(1, MARKER)
    marker["kind"], marker["count"], marker["engine_ns"] = CommandKind.MARKER, count, engine_ns
    return marker.view(COMMAND)


@dataclass
class LogAt:
    """
    Where a log and its snapshots are, and what was written.

    Args:
        folder: Holds `log` and `snapshots`.
        shard, generation: Whose.
        open_log: Opens the log for appending; by default segment files without fsync.
    """

    folder: Path
    shard: int = 0
    generation: int = 1
    open_log: Callable[[], Log] | None = None
    ends: list[int] = field(default_factory=list)  # last seq of each batch of records
    snapshots: list[int] = field(default_factory=list)  # seqs

    @property
    def log_folder(self) -> Path:
        """Folder of all shards' segment files."""
        return self.folder / "log"

    def opened(self) -> Log:
        """The log, open for appending."""
        if self.open_log is not None:
            return self.open_log()
        return SegmentLog(self.log_folder, self.shard, fsync=False)

    def files(self) -> list[Path]:
        """The segment files, oldest first."""
        return sorted((self.log_folder / f"shard-{self.shard:04}").glob("epoch-*.log"))

    def source(self) -> Source:
        """What a tool is given."""
        view = SegmentView(self.log_folder, self.shard)
        return Source(self.shard, self.generation, view, LIMITS, self.folder / "snapshots", self.log_folder)


def write_log(
    made: LogAt,
    records: np.ndarray,
    *,
    lives: int = 1,
    snapshots_at: Sequence[float] = (),
    seed: int = 0,
    clean: bool = True,
) -> LogAt:
    """
    Append records, a share of them in each of so many lives, in batches of random size, and a mark at the end of each life.

    `snapshots_at` are shares of the records behind which a snapshot is published; none if the log holds something already.
    """
    random = Random(seed)
    books = Books(allocate(LIMITS, market_data=True), 0)
    wanted = sorted(int(share * len(records)) for share in snapshots_at)
    done = 0
    for life in range(1, lives + 1):
        log = made.opened()
        state = recover(log, made.shard, made.generation, seed * 100 + life, _look_away)
        writer = BatchWriter(state)
        until = len(records) * life // lives
        appended = state.appended_count
        while done < until:
            batch, taken = _cut(writer, records[done:], random)
            log.append(batch)
            appended += 1
            _wait(log, appended)
            books.apply(records[done : done + taken].view(MARKER))
            done += taken
            made.ends.append(writer.next_seq - 1)
            while wanted and done >= wanted[0]:
                wanted.pop(0)
                made.snapshots.append(publish_snapshot(made, log, state, books, _checksum(batch)))
        log.append(writer.mark(writer.next_seq - 1, clean=clean))
        _wait(log, appended + 1)
        log.close()
    return made


def _look_away(_header: np.void, _records: np.ndarray) -> None:
    """What the log has was applied when it was written."""


def _cut(writer: BatchWriter, records: np.ndarray, random: Random) -> tuple[bytes, int]:
    """A batch of some whole frames from the front of the records."""
    count = 0
    wanted = random.randint(1, RECORDS_PER_BATCH)
    while count < min(wanted, len(records)):
        count += 1 + int(records[count : count + 1].view(MARKER)["count"][0])
    return writer.cut(records[:count], confirmed_seq=max(writer.next_seq - 1 - random.randint(0, 9), 0))


def _wait(log: Log, count: int) -> None:
    """Until so many batches are durable."""
    while (durable := log.poll(WAIT_SECONDS)) < count:
        assert durable >= 0


def _checksum(batch: bytes) -> int:
    """The running checksum behind a batch."""
    return int(decode(batch)[0]["checksum_after"])


def publish_snapshot(made: LogAt, log: Log, state: RecoveredState, books: Books, checksum: int) -> int:
    """Publish a snapshot of the books, which stand behind the log's last durable batch; its seq."""
    facts = SnapshotFacts(
        shard=made.shard,
        generation=made.generation,
        seq=books.seq,
        epoch=state.epoch,
        nonce=state.nonce,
        checksum=checksum,
        confirmed_seq=books.seq,
        engine_ns=int(books.tables.cells[Cell.ENGINE_NS]),
        skip_count=state.skip_count,
        log_position=log.durable_end,
        log_seq=books.seq,
        log_identity=log.identity(),
        digest=books.digest(),
    )
    arrays = export(books.tables)._asdict()
    SnapshotStore(made.folder / "snapshots", made.shard).write(facts, arrays).publish()
    return books.seq
