"""
The `Log` protocol: one shard's commands at rest, in the order in which they were appended.

Three implementations obey it, and one contract test holds them to it: memory.py (a list), segments.py
(files with group fsync) and kafka.py (one partition). A log knows batches as bytes; what they mean is
the reader's business (reader.py). One process appends at a time; whoever opens a log first appends a
claim, and a claim is the only batch that a log looks into.

    append ──> pending ──> durable          poll() = how many appended since open are durable

Invariants:

    L1  batches become durable in the order in which they were appended, and poll() counts that prefix
    L2  after a failure poll() and append() raise, for good: recovery decides what the log holds, nobody else
    L3  read() gives what the log holds, in its order; what was durable is always in it
"""

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

PENDING_BYTES_MAX: Final = 64 << 20  # appended and not durable; beyond it append() waits


class Entry(NamedTuple):
    """One batch as it lies in a log."""

    position: int  # where it lies, in the log's own numbers; only ever grows
    following: int  # where to read on
    batch: bytes


class Log(Protocol):
    """One shard's log, open for appending by this process."""

    @property
    def bytes_total(self) -> int:
        """Bytes of batches in the log, as far as this object has read or appended them."""

    def append(self, batch: bytes) -> None:
        """
        Queue a batch behind those appended before, and return at once.

        Waits only while more than PENDING_BYTES_MAX are not durable yet. Raises LogFailed if an earlier
        append failed.
        """

    def poll(self, timeout_seconds: float = 0.0) -> int:
        """
        How many batches appended since open are durable; waits up to the timeout for one more to become so.

        Raises LogFailed (LogFull) with the reason if any append failed.
        """

    def read(self, position: int = 0) -> Iterator[Entry]:
        """
        Every batch from a position (0: the beginning) to the end of the log at the time of the call.

        `position` is an Entry's `following`. Raises LogGap if what lies there is gone, BatchDamaged if bytes
        that are not the end of the log are damaged, LogUnavailable if the log cannot be reached.
        """

    def locate(self, position: int) -> str:
        """A position in words, for messages."""

    def describe(self) -> str:
        """Where this log is and what "durable" means there, in one sentence; printed at start."""

    def close(self) -> None:
        """Let go of everything; what was appended and not durable may or may not be in the log."""
