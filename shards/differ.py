"""
Diff: where two logs first tell different histories.

Batches, epochs and owners do not matter, records do: each log goes through the reader rule, and the records are compared by seq.
So a log and its copy in other batches, or in Kafka and in files, are equal; and of two logs that are not, the first
command that differs is shown field by field.

Fast: records are compared as bytes, many at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ringpit.shards.history import History
from ringpit.shards.logs import Source

WORDS = 8  # of a record


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first seq at which two histories differ; one of the records is None if that log ends before it."""

    seq: int
    ours: np.void | None
    theirs: np.void | None


def difference(ours: Source, theirs: Source, from_seq: int = 1) -> tuple[Difference | None, int]:
    """
    The first difference at or above a seq, and how many records were compared; None if the histories are equal.

    Skipped commands count as what they are applied as. Raises LogError where either log is damaged.
    """
    compared = 0
    left, right = _records(ours, from_seq), _records(theirs, from_seq)
    pieces = [np.empty(0), np.empty(0)]
    seq = from_seq
    while True:
        pieces = [
            piece if len(piece) else next(each, piece)
            for piece, each in zip(pieces, (left, right), strict=True)
        ]
        count = min(map(len, pieces))
        if not count:
            break
        words = [piece[:count].view(np.int64).reshape(-1, WORDS) for piece in pieces]
        unequal = np.flatnonzero((words[0] != words[1]).any(axis=1))
        if len(unequal):
            at = int(unequal[0])
            return Difference(seq=seq + at, ours=pieces[0][at], theirs=pieces[1][at]), compared + at
        pieces = [piece[count:] for piece in pieces]
        seq, compared = seq + count, compared + count
    if not any(map(len, pieces)):
        return None, compared
    first, second = (piece[0] if len(piece) else None for piece in pieces)
    return Difference(seq=seq, ours=first, theirs=second), compared


def _records(source: Source, from_seq: int) -> Iterator[np.ndarray]:
    """The records of a log from a seq on, as they are applied, never an empty piece."""
    history = History(source)
    first = history.reader.next_seq
    if first > from_seq:
        raise history.trimmed(from_seq)
    for step in history.steps():
        records = step.records[max(from_seq - step.first_seq, 0) :]
        if len(records):
            yield records
