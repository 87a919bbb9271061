"""
What can be wrong with a log, each as a sentence that names the thing, the value, the rule and the remedy.

Three kinds, because three different parties act on them:

    bytes are bad      BatchDamaged, LogVersionMismatch, LogGap, ChecksumMismatch, SkipRefused: the shard must
                       not start; an operator decides
    outside is away    LogUnavailable: try again later
    this life is over  LogFailed, LogFull, Fenced: the process stops, and the next one recovers. Nothing is
                       ever appended a second time by hand, because the first attempt may still arrive.
"""

from pathlib import Path


class LogError(Exception):
    """Anything that keeps a shard from trusting or using its log."""


class BatchDamaged(LogError):
    """The bytes are not a whole, undamaged batch."""


class LogVersionMismatch(LogError):
    """The batch is whole, but was written by another layout, other rules, or for another shard or generation."""


class SkipRefused(LogError):
    """A skip that a reader cannot obey: it was not told before it came to the command, or no command lies there."""


class LogUnavailable(LogError):
    """The log cannot be reached or is in use; trying again later may help."""


class LogMissing(LogUnavailable):
    """There is no log at this place yet: the first start makes it."""


class LogNotEmpty(LogError):
    """A log that would be removed as an attempt's leftover holds batches: somebody has used it."""


class LogFailed(LogError):
    """An append failed. What follows it is unknown: stop the process and recover."""


class LogFull(LogFailed):
    """There is no room for the next batch."""


class Fenced(LogError):
    """Another owner claimed the shard first; this process may not write."""


class LogGap(LogError):
    """
    A batch that must be there is missing.

    Attributes: `shard`; `expected` and `found`, the first seq missing and the one that came instead; `where`.
    """

    def __init__(self, shard: int, expected: int, found: int, where: str, reason: str = "") -> None:
        """Keep the numbers for whoever decides what to do; `reason` says what was noticed if it was not a seq."""
        self.shard, self.expected, self.found, self.where = shard, expected, found, where
        super().__init__(
            f"the log of shard {shard} has a gap at {where}: expected {expected}, found {found}"
            f"{f' ({reason})' if reason else ''}; restore the missing part of the log before starting"
        )


class ChecksumMismatch(LogError):
    """
    The running checksum over records does not agree: the history differs from the one that was written.

    Attributes: `seq`, the first record of the batch that disagrees.
    """

    def __init__(self, shard: int, seq: int, where: str) -> None:
        """Keep the seq: everything below it agreed."""
        self.seq = seq
        super().__init__(
            f"the log of shard {shard} disagrees with its running checksum at seq {seq}, {where}; "
            f"everything before it agrees: restore the log from a copy before starting"
        )


class SnapshotError(Exception):
    """A snapshot cannot be made or used. The log is whole without it: a start reads more of it, nothing is lost."""


class SnapshotDamaged(SnapshotError):
    """The bytes are not a whole, undamaged snapshot of this shard."""


class SnapshotVersionMismatch(SnapshotError):
    """The snapshot is whole, but was written by another version."""


class SnapshotForeign(SnapshotError):
    """The snapshot is whole, but belongs to another log or topology: somebody has mixed two exchanges up."""


class SnapshotFailed(SnapshotError):
    """A snapshot could not be written whole; nothing of it is left."""


class SnapshotMissing(SnapshotError):
    """A later topology generation begins with a snapshot, and there is none: without it the books would be wrong."""

    def __init__(self, shard: int, generation: int, folder: Path) -> None:
        """Say it as a sentence."""
        super().__init__(
            f"shard {shard} of topology generation {generation} begins with a snapshot, of which its log goes on, and {folder} "
            f"holds none that is whole: restore its files from a copy, or name the right folder in snapshots.folder"
        )
