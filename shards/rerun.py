"""
Rerun: a shard's books again, from its log, up to any seq.

    newest snapshot at or below SEQ ──restore──> tables ──records of the log──> the books as they were at SEQ

The same kernels as in the worker, nothing else: no rings, no clock. Each snapshot that is passed on the way is compared: the
digest of the books and the running checksum must be what it says. That proves the snapshot, the log and the rules at once.

Fast: records go through the kernels batch by batch. Slow: a digest hashes every open order (tenths of a second for a
million); with reports, writing them.

Invariants:

    R1  a rerun from a snapshot and one from the log's first batch have the same books, and make the same reports, at every seq
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from ringpit.engine.digest import digest
from ringpit.engine.limits import Limits
from ringpit.engine.machine import process
from ringpit.engine.records import COMMAND, MARKER, REPORT
from ringpit.engine.state import State, restore
from ringpit.engine.tables import Tables, allocate
from ringpit.shards.history import History, Step
from ringpit.shards.keeper import begin_behind
from ringpit.shards.logs import Source
from ringpit.shards.replay import Replay
from ringpit.wal.errors import SnapshotMissing
from ringpit.wal.frames import checksum_of
from ringpit.wal.reader import FIRST
from ringpit.wal.snapshots import Snapshot, SnapshotFacts, SnapshotStore

SCRATCH_REPORTS: Final = 1 << 16
MASK: Final = (1 << 64) - 1  # checksums are shown unsigned
Say = Callable[[str], None]


def tables_of(limits: Limits, snapshot: Snapshot | None, *, market_data: bool = False) -> Tables:
    """Empty tables, or as a snapshot holds them. Raises StateTooLarge if the limits are smaller than what is in it."""
    if snapshot is None:
        return allocate(limits, market_data=market_data)
    return restore(State.of(snapshot.arrays), limits, market_data=market_data)


class Books:
    """
    A shard's tables, and the seq that they have reached; reports are made and forgotten.

    Attributes: `tables`; `seq`, of the last record applied.
    """

    def __init__(self, tables: Tables, seq: int) -> None:
        self.tables = tables
        self.seq = seq
        self._slots = np.zeros(1 << 14, COMMAND)
        self._reports = np.zeros(SCRATCH_REPORTS, REPORT)

    def apply(self, records: np.ndarray) -> None:
        """Apply the records that come next."""
        count = len(records)
        if count > len(self._slots):
            self._slots = np.zeros(1 << (count - 1).bit_length(), COMMAND)
        self._slots[:count] = records.view(COMMAND)
        markers = self._slots.view(MARKER)
        done = 0
        while done < count:
            done, _ = process(
                self.tables,
                self._slots,
                markers,
                done,
                count,
                self.seq + 1 + done,
                self._reports,
                0,
                len(self._reports),
                1,
            )
        self.seq += count

    def digest(self) -> str:
        """Hash of everything that is open."""
        return digest(self.tables)


class ToldBooks:
    """The same, and each report goes as a line of NDJSON to an open file descriptor; `name` is for messages."""

    def __init__(self, source: Source, tables: Tables, seq: int, descriptor: int, name: str) -> None:
        self.tables = tables
        self.seq = seq
        self._replay = Replay(
            descriptor,
            name,
            shard=source.shard,
            generation=source.generation_found(),
            limits=source.limits,
            tables=tables,
            seq=seq,
        )

    def apply(self, records: np.ndarray) -> None:
        """Apply the records that come next, and write what they report. Raises SinkFailed."""
        if len(records):
            self._replay.apply([records.view(COMMAND)])
        self.seq += len(records)

    def digest(self) -> str:
        """Hash of everything that is open."""
        return digest(self.tables)


@dataclass(frozen=True)
class Check:
    """A snapshot that was passed on the way, and what is wrong with it; empty: it agrees."""

    facts: SnapshotFacts
    wrong: str


def foreign(source: Source, facts: SnapshotFacts) -> str:
    """Why a snapshot does not belong to a log; empty: it does."""
    ours = source.view.identity()
    if facts.log_identity != ours:
        return f"it is of the log {facts.log_identity!r}, and this one is {ours!r}"
    generation = source.generation_found()
    if facts.generation != generation:
        return f"it is of generation {facts.generation}, and the log of generation {generation}"
    return ""


def snapshot_below(source: Source, to_seq: int | None, say: Say) -> Snapshot | None:
    """
    The newest sound snapshot of this very log at or below a seq; what is passed over is told, with the reason.

    None: the books begin empty. Raises SnapshotMissing if they do not, because the log is of a later generation.
    """
    store = SnapshotStore(source.snapshots, source.shard)
    for found in store.listing():
        if found.facts is None:
            say(f"not used: {found.damage}")
        elif to_seq is None or found.facts.seq <= to_seq:
            reason = foreign(source, found.facts)
            if not reason:
                return store.load(found.path)
            say(f"not used: {found.path}: {reason}")
    if source.generation_found() > 1:
        raise SnapshotMissing(source.shard, source.generation_found(), store.folder)
    return None


def first_snapshot(source: Source, say: Say) -> Snapshot | None:
    """What the log's first batch goes on from: nothing, or in a later generation the snapshot at seq 0. Raises SnapshotMissing."""
    return snapshot_below(source, 0, say) if source.generation_found() > 1 else None


class Rerun:
    """
    A log applied again, batch by batch.

    Args:
        source: Which log.
        books: Where to: empty, or as `snapshot` holds them.
        snapshot: Where to begin; None: at the log's first batch.
        to_seq: Last record to apply; None: all.

    Attributes: `books`; `history`; `checks`, the snapshots that were passed.
    """

    def __init__(
        self, source: Source, books: Books | ToldBooks, snapshot: Snapshot | None, to_seq: int | None = None
    ) -> None:
        self.books = books
        self.checks: list[Check] = []
        self._to_seq = to_seq
        begin, position = FIRST, 0  # a log that was trimmed refuses that, with what is missing
        if snapshot is not None:
            begin, position = begin_behind(snapshot.facts), snapshot.facts.log_position
        self.history = History(source, begin, position)
        self._checksum = begin.checksum
        oldest_first = reversed(SnapshotStore(source.snapshots, source.shard).listing())
        self._expected = [
            found.facts
            for found in oldest_first
            if found.facts is not None and found.facts.seq >= books.seq and not foreign(source, found.facts)
        ]

    def steps(self) -> Iterator[Step]:
        """Apply batch after batch, up to `to_seq`. Raises LogError where a start would refuse the log."""
        self._check()
        if self._done():
            return
        for step in self.history.steps():
            left = len(step.records) if self._to_seq is None else self._to_seq - self.books.seq
            self._apply(step.records[:left])
            yield step
            if self._done():
                return

    def _done(self) -> bool:
        """True if the last record that was asked for is applied."""
        return self._to_seq is not None and self.books.seq >= self._to_seq

    def _apply(self, records: np.ndarray) -> None:
        """Apply records, with a stop at each snapshot's seq."""
        while len(records):
            until = self._expected[0].seq - self.books.seq if self._expected else len(records)
            piece, records = records[:until], records[until:]
            self._checksum = checksum_of(self._as_written(piece), self._checksum)
            self.books.apply(piece)
            self._check()

    def _as_written(self, piece: np.ndarray) -> np.ndarray:
        """The records as the log has them: the checksum knows no skips."""
        skipped = [seq for seq in self.history.reader.skips if 0 < seq - self.books.seq <= len(piece)]
        if skipped:
            piece = piece.copy()
            for seq in skipped:
                piece.view(COMMAND)["verdict"][seq - self.books.seq - 1] = 0
        return piece

    def _check(self) -> None:
        """Compare with the snapshots that were taken at this very seq."""
        while self._expected and self._expected[0].seq <= self.books.seq:
            facts = self._expected.pop(0)
            wrong = ""
            if facts.checksum != self._checksum:
                wrong = f"its running checksum is {facts.checksum & MASK:#x}, the log gives {self._checksum & MASK:#x}"
            elif facts.digest != (found := self.books.digest()):
                wrong = (
                    f"its digest is {facts.digest}, the log gives {found} (a full pool is a reject: name the exchange's own "
                    f"limits with -c)"
                )
            self.checks.append(Check(facts, wrong))
