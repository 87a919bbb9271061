"""
A log that is a list: for tests, simulations and replays that need no log.

Batches live in a list that the caller may keep, so that "start again" is a second `MemoryLog` over the same
list. Durability can be held back and failures injected, which is what makes it useful in tests: the
other two logs cannot be told when to be slow. Trimming leaves an empty batch in each place that it clears, so
that positions stay what they were.
"""

from collections.abc import Iterator

from ringpit.wal.errors import LogFailed, LogGap
from ringpit.wal.log import Entry


class MemoryLog:
    """One shard's log in a list. With `held`, a batch is durable only after `release`."""

    def __init__(self, batches: list[bytes] | None = None, *, held: bool = False) -> None:
        """Open over `batches` (shared, appended to in place), or over a list of its own."""
        self.batches = [] if batches is None else batches
        self.held = held
        self.pending: list[bytes] = []
        self._durable_count = 0
        self._durable_end = 0
        self._failure: LogFailed | None = None

    @property
    def bytes_total(self) -> int:
        """Bytes of all durable batches."""
        return sum(map(len, self.batches))

    @property
    def durable_end(self) -> int:
        """Place in the list behind the last batch that this object made durable."""
        return self._durable_end

    def append(self, batch: bytes) -> None:
        """Queue a batch; durable at once unless held."""
        self._check()
        self.pending.append(batch)
        if not self.held:
            self.release()

    def release(self, count: int | None = None) -> None:
        """Make the `count` oldest pending batches durable, or all."""
        released = self.pending[:count]
        del self.pending[: len(released)]
        self.batches.extend(released)
        self._durable_count += len(released)
        if released:
            self._durable_end = len(self.batches)

    def fail(self, reason: str) -> None:
        """Make every later append and poll raise LogFailed; what is pending is lost."""
        self._failure = LogFailed(reason)
        self.pending.clear()

    def poll(self, timeout_seconds: float = 0.0) -> int:  # noqa: ARG002  nothing here can become durable by waiting
        """How many batches appended since open are durable."""
        self._check()
        return self._durable_count

    def read(self, position: int = 0) -> Iterator[Entry]:
        """Every durable batch from a position to the end as it is now."""
        begin = self.beginning()
        if not begin <= position <= len(self.batches):
            found = begin if position < begin else len(self.batches)
            raise LogGap(0, position, found, self.locate(position), "the numbers are places in the list")
        for index in range(position, len(self.batches)):
            yield Entry(index, index + 1, self.batches[index])

    def newest(self, count: int) -> list[Entry]:
        """The end of the list."""
        return list(self.read(max(len(self.batches) - count, self.beginning())))

    def beginning(self) -> int:
        """Place of the first batch that a trim has left."""
        return next((index for index, batch in enumerate(self.batches) if batch), 0)

    def trim(self, position: int) -> None:
        """Clear every place below a position."""
        for index in range(position):
            self.batches[index] = b""

    def locate(self, position: int) -> str:
        """The batch's place in the list."""
        return f"batch {position} of the log in memory"

    def describe(self) -> str:
        """Say that nothing here outlives the process."""
        return "log in memory: lost with the process; for tests and replays only"

    def identity(self) -> str:
        """Lists have no names."""
        return "memory"

    def close(self) -> None:
        """Forget what is pending."""
        self.pending.clear()

    def _check(self) -> None:
        """L2: a failure is for good."""
        if self._failure is not None:
            raise self._failure
