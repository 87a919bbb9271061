"""
The `Log` protocol: one shard's commands at rest, in the order in which they were appended.

Three implementations obey it, and one contract test holds them to it: memory.py (a list), segments.py
(files with group fsync) and kafka.py (one partition). A log knows batches as bytes; what they mean is
the reader's business (reader.py). One process appends at a time; whoever opens a log first appends a
claim, and a claim is the only batch that a log looks into.

    append ──> pending ──> durable          poll() = how many appended since open are durable

`LogView` is the half that appends nothing: it takes no lock, and may look at a log that another process is writing. A log
is cut at its front by `trim`, on somebody's explicit command and never by itself.

Invariants:

    L1  batches become durable in the order in which they were appended, and poll() counts that prefix
    L2  after a failure poll() and append() raise, for good: recovery decides what the log holds, nobody else
    L3  read() gives what the log holds, in its order; what was durable is always in it
    L4  positions are never used again, and trimming moves none
"""

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

PENDING_BYTES_MAX: Final = 64 << 20  # appended and not durable; beyond it append() waits


class Entry(NamedTuple):
    """One batch as it lies in a log."""

    position: int  # where it lies, in the log's own numbers; only ever grows
    following: int  # where to read on
    batch: bytes


class LogView(Protocol):
    """One shard's log, for reading and for trimming."""

    def read(self, position: int = 0) -> Iterator[Entry]:
        """
        Every batch from a position (0: the beginning) to the end of the log at the time of the call.

        `position` is an Entry's `position` or `following`. Raises LogGap if what lies there is gone, BatchDamaged if
        bytes that are not the end of the log are damaged, LogUnavailable if the log cannot be reached.
        """

    def newest(self, count: int) -> list[Entry]:
        """The last `count` batches (fewer if the log has not as many), oldest first. Raises as `read` does."""

    def beginning(self) -> int:
        """Where the log begins: 0, or the position of the first batch that a trim has left."""

    def locate(self, position: int) -> str:
        """A position in words, for messages."""

    def describe(self) -> str:
        """Where this log is and what "durable" means there, in one sentence; printed at start."""

    def identity(self) -> str:
        """
        A name that no other log has, and that this one keeps for life: tells a copy or a fresh log of the same address.

        Empty for a log that nobody has opened for appending yet.
        """

    def trim(self, position: int) -> None:
        """
        Forget batches below a position, an Entry's `position`; what lies at it and behind it stays.

        The log may keep some of them (files go whole). Reading from the beginning raises LogGap afterwards, so trim
        only below what a snapshot holds that was read back. Raises LogUnavailable if the log cannot do it now.
        """

    def close(self) -> None:
        """Let go of everything; what was appended and not durable may or may not be in the log."""


class Log(LogView, Protocol):
    """One shard's log, open for appending by this process."""

    @property
    def bytes_total(self) -> int:
        """Bytes of batches in the log, as far as this object has read or appended them."""

    @property
    def durable_end(self) -> int:
        """Position behind the last batch appended since open that is durable; 0 before the first is."""

    def append(self, batch: bytes) -> None:
        """
        Queue a batch behind those appended before, and return at once.

        Waits only while more than PENDING_BYTES_MAX are not durable yet. Raises LogFailed if an earlier
        append failed, Fenced if that was because another owner has the log.
        """

    def poll(self, timeout_seconds: float = 0.0) -> int:
        """
        How many batches appended since open are durable; waits up to the timeout for one more to become so.

        To be called about once a second even while nothing is pending: a log may have something to keep alive.
        Raises LogFailed (LogFull) with the reason if any append failed, Fenced as append does.
        """
