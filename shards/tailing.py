"""
Tail: a log as it is written, batch by batch, from a little before its end.

Each `poll` gives what has come since the one before. Nothing is held between two polls but a position, so it goes on over new
owners, new files and a broker that was away.

Fast in files; over Kafka a poll connects anew (some hundredths of a second).
"""

from collections.abc import Iterator

import numpy as np

from ringpit.shards.history import Row, row_of
from ringpit.shards.logs import Source
from ringpit.wal.batch import BatchKind, decode


class Tail:
    """
    Follows one shard's log.

    Args:
        source: Which.
        from_end: Begin so many batches before the end as it is now.
    """

    def __init__(self, source: Source, from_end: int) -> None:
        """Look for the end. Raises LogUnavailable."""
        self.shard = source.shard
        self._view = source.view
        self._epoch = 0  # of the newest claim seen
        newest = self._view.newest(max(from_end, 1))
        if not newest:
            self._position = self._view.beginning()
        else:
            self._position = newest[0].position if from_end else newest[-1].following

    def poll(self) -> Iterator[tuple[Row, np.ndarray]]:
        """What has come since: batches and all their records, as they were written. Raises LogError if the log is damaged."""
        for entry in self._view.read(self._position):
            header, records = decode(entry.batch, self._view.locate(entry.position))
            if header["kind"] == BatchKind.CLAIM:
                self._epoch = max(self._epoch, int(header["epoch"]))
            self._position = entry.following
            yield row_of(entry, header, counts=int(header["epoch"]) >= self._epoch), records
