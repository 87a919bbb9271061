"""
History: one reading of a log by the reader rule, and what there is to say about each batch of it.

    for step in History(source).steps():       step.row, step.records
        ...

Every tool reads through here, and so sees what a start would see, stops where a start would stop, and with the same
sentence. `Summary` gathers the facts of a whole log on the way.

Cost: that of the reader (15 ns a record, 5 microseconds a batch) and about 5 microseconds a batch for its row.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ringpit.shards.logs import Source, torn_bytes
from ringpit.wal.batch import HEADER_FIELDS, BatchKind, decode
from ringpit.wal.errors import BatchDamaged, LogError, LogGap, LogUnavailable, LogVersionMismatch
from ringpit.wal.frames import ROUTERS_MAX
from ringpit.wal.log import Entry
from ringpit.wal.reader import Begin, Reader, runs, skips_of

_KIND, _EPOCH, _FIRST_SEQ, _COUNT, _CONFIRMED_SEQ, _ENGINE_NS, _SKIP_SEQ, _CLEAN, _POSITION = map(
    [name for name, *_ in HEADER_FIELDS].index,
    ("kind", "epoch", "first_seq", "count", "confirmed_seq", "engine_ns", "skip_seq", "clean", "position_0"),
)
_POSITIONS = slice(_POSITION, _POSITION + ROUTERS_MAX)


class Row(NamedTuple):
    """A batch's header, and whether the batch counts."""

    position: int
    kind: BatchKind
    epoch: int
    first_seq: int  # of its records; without records the next one
    last_seq: int  # of its records; without records first_seq - 1
    bytes: int
    confirmed_seq: int
    engine_ns: int
    positions: tuple[int, ...]  # of the routers' input rings
    skip_seq: int
    clean: bool
    counts: bool  # False: of an owner that was replaced before, and so ignored by all

    @property
    def records(self) -> int:
        """How many records it carries."""
        return self.last_seq - self.first_seq + 1


class Step(NamedTuple):
    """A batch, and those of its records that are taken: our own copy, skipped commands with their verdict."""

    row: Row
    records: np.ndarray
    first_seq: int  # of these records; without any: the seq that comes next


def row_of(entry: Entry, header: np.void, *, counts: bool = True) -> Row:
    """A checked batch as a Row."""
    facts: Any = header.item()  # one tuple: a field of a record costs as much
    first_seq = facts[_FIRST_SEQ]
    return Row(
        position=entry.position,
        kind=BatchKind(facts[_KIND]),
        epoch=facts[_EPOCH],
        first_seq=first_seq,
        last_seq=first_seq + facts[_COUNT] - 1,
        bytes=len(entry.batch),
        confirmed_seq=facts[_CONFIRMED_SEQ],
        engine_ns=facts[_ENGINE_NS],
        positions=facts[_POSITIONS],
        skip_seq=facts[_SKIP_SEQ],
        clean=bool(facts[_CLEAN]),
        counts=counts,
    )


class History:
    """
    One reading of a shard's log.

    Args:
        source: Which.
        begin, position: What has been applied, and where to read on; by default from the log's first batch.
        lenient: Read a log whose end is damaged up to the damage, though skips behind it cannot be known: for who
            applies nothing.

    Attributes: `reader`, the rule's state, which is up to a run (reader.py) ahead of the last step; `following`, where the log goes on. Raises what the view raises.
    """

    def __init__(
        self, source: Source, begin: Begin | None = None, position: int | None = None, *, lenient: bool = False
    ) -> None:
        self._view = source.view
        if begin is None or position is None:
            begin, position = source.begin()
        self.following = position
        try:
            skips = skips_of(source.view, begin=begin, position=position)
        except LogUnavailable:
            raise
        except LogError:
            if not lenient:
                raise
            skips = frozenset()
        self.reader = Reader(source.shard, source.generation_found(), begin=begin, skips=skips)

    def steps(self) -> Iterator[Step]:
        """Every batch to the end of the log as it is now. Raises LogError where a start would refuse the log."""
        for run in runs(self._view, self.reader, self.following):
            seq = self.reader.next_seq - len(run.records)
            records = run.records
            for entry, header in zip(run.entries, run.headers, strict=True):
                row = row_of(entry, header, counts=run.counts)
                taken = (
                    records[: row.records] if len(run.entries) > 1 else records
                )  # one alone may be taken in part
                self.following = entry.following
                yield Step(row, taken, seq)
                seq += len(taken)
                records = records[len(taken) :]

    def ended_clean(self) -> bool:
        """
        True if the log ends with the mark of a clean stop, even if reading began behind it, or has no batch at all.

        To be asked when all steps are done.
        """
        if self.reader.batch_count:
            return self.reader.clean
        for entry in self._view.newest(1):
            header, _ = decode(entry.batch, self._view.locate(entry.position))
            ours = (int(header["epoch"]), int(header["nonce"])) == (self.reader.epoch, self.reader.nonce)
            return ours and bool(header["clean"])
        return True

    def trimmed(self, seq: int) -> LogGap:
        """The refusal of a seq that lies before what a trim has left."""
        first = self.reader.next_seq
        return LogGap(self.reader.shard, seq, first, self._view.locate(self.following), "the log was trimmed")

    def last_seq(self) -> int:
        """Seq of the log's last record as its last batch tells it, for progress."""
        with contextlib.suppress(BatchDamaged, LogVersionMismatch):  # reading will come to it, and name it
            for entry in self._view.newest(1):
                return row_of(entry, decode(entry.batch, self._view.locate(entry.position))[0]).last_seq
        return 0


@dataclass(kw_only=True)
class Summary:
    """What a log holds, gathered row by row."""

    shard: int
    batches: int = 0
    bytes: int = 0
    records: int = 0  # taken, each once
    first_seq: int = 0
    last_seq: int = 0
    epochs: list[int] = field(default_factory=list)
    claims: int = 0
    marks: int = 0
    skips: list[int] = field(default_factory=list)  # seqs
    ignored: int = 0  # batches of owners that were replaced
    confirmed_seq: int = 0
    first_ns: int = 0  # engine time
    last_ns: int = 0
    clean: bool = False  # the last batch is the mark of a clean stop
    torn_bytes: int = 0
    damage: str = ""  # where reading stopped, and why

    def add(self, row: Row) -> None:
        """Take note of a batch."""
        self.batches += 1
        self.bytes += row.bytes
        self.claims += row.kind is BatchKind.CLAIM
        self.marks += row.kind is BatchKind.MARK
        if not row.counts:
            self.ignored += 1
            return
        if row.kind is BatchKind.SKIP:
            self.skips.append(row.skip_seq)
        if row.epoch not in self.epochs[-1:]:
            self.epochs.append(row.epoch)
        self.first_seq = self.first_seq or row.first_seq
        self.records += max(row.last_seq - max(self.last_seq, row.first_seq - 1), 0)
        self.last_seq = max(self.last_seq, row.last_seq)
        self.confirmed_seq = max(self.confirmed_seq, row.confirmed_seq)
        self.first_ns = self.first_ns or row.engine_ns
        self.last_ns = max(self.last_ns, row.engine_ns)
        self.clean = row.clean


def surveyed(source: Source, summary: Summary) -> Iterator[Step]:
    """Every batch that a start would take, gathered in `summary`; damage ends it and is told there, not raised."""
    try:
        for step in History(source, lenient=True).steps():
            summary.add(step.row)
            yield step
    except LogError as error:
        summary.damage = str(error)
    summary.torn_bytes = torn_bytes(source.view)
