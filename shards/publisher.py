"""
The publisher: from output rings to a sink, and from the sink's confirmations back to the rings.

    output ring ──released──> mirror, picks ──rendered──> sink ──barrier(token)
    head, confirmed seq  <──────────────────  poll() = token

`Publisher` is the duty cycle alone: no process, no clock, no shared memory of its own. It is given arrays, a sink
and the time; a test drives it with plain numpy arrays. One `step` takes at most `cycle_reports` from each
shard, sends what is new of them, and sends what changed in the books once in an interval.

Fast here because Python runs once a cycle and once a message, never once a report; a sink that is not
addressed (files) gets one message a cycle. Slow with few reports a step: a step costs some 30 microseconds.

What comes twice. A worker that restarts makes again what was not confirmed; what this publisher has sent before is
dropped by its (seq, index). A publisher that restarts begins at the head of its predecessor and sends
again what was not confirmed. In release mode "matched" the log may have lost what was sent, so there a
restarted worker's reports above its log are all sent, under a new epoch.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from ringpit.engine.limits import INT64_MAX
from ringpit.shards import feed, mirror, quotes, render
from ringpit.shards.faults import Step, met
from ringpit.shards.feed import Progress
from ringpit.shards.mirror import DEPTH_CHANGED, PRICE_CHANGED, MirrorCell
from ringpit.shards.output import Output, ShardViews
from ringpit.shards.sinks import JSON_LINES, PACKED, Identity, Sink, Token
from ringpit.shards.text import SLACK_BYTES

NS_PER_MS: Final = 1_000_000
QUOTES_PER_CALL: Final = 256  # books rendered at once
RELEASES: Final = ("durable", "matched")
ENCODINGS: Final = ("json", "packed")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    How a publisher behaves.

    Raises ValueError naming the setting, the value and the rule.
    """

    generation: int = 1
    release: str = "durable"  # "matched": before the log has it, contradictable
    encoding: str = "json"  # of reports and trades; "packed": REPORT records
    books_interval_ms: int = 100  # prices and books go out at most so often
    depth: int = 10  # levels a side in a book
    cycle_reports: int = 4_096  # reports taken from a shard at once

    def __post_init__(self) -> None:
        for name, known in (("release", RELEASES), ("encoding", ENCODINGS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"output.{name} must be one of {', '.join(known)}, was {getattr(self, name)!r}"
                )
        for name, low, high in (
            ("generation", 0, INT64_MAX),
            ("books_interval_ms", 1, 3_600_000),
            ("depth", 1, 10_000),
            ("cycle_reports", 1, 1 << 20),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"output.{name} must be from {low} to {high}, was {getattr(self, name)}")


class Count(IntEnum):
    """Cells of `Publisher.counters`: what was sent since the start."""

    REPORTS = 0
    TRADES = 1
    PRICES = 2
    BOOKS = 3
    MESSAGES = 4
    REPEATS = 5  # reports that came again and were dropped
    CYCLES = 6
    BYTES = 7  # of payload


class Publisher:
    """
    Sends what shards report.

    Args:
        sink: Where it goes.
        settings: How.
        counters: int64 cells by `Count`, for whoever watches.

    Shards are added, and after a worker's restart replaced, by `attach_shard`.
    """

    def __init__(
        self,
        sink: Sink,
        settings: Settings,
        *,
        counters: np.ndarray | None = None,
    ) -> None:
        self.sink = sink
        self.settings = settings
        self.counters = np.zeros(len(Count), np.int64) if counters is None else counters
        self._outputs: dict[int, Output] = {}
        self._pending: deque[Token] = deque()
        self._barriers = 0
        self._quotes_due_ns = 0
        self._now_ns = 0  # as the last step was told
        cycle = settings.cycle_reports
        self._picks = feed.allocate_picks(cycle)
        self._batches = feed.allocate_batches(cycle)
        self._all = np.arange(cycle)
        self._ends = np.zeros(max(cycle, QUOTES_PER_CALL), np.int64)
        self._records = np.zeros((cycle, render.WORDS), np.int64)
        self._lines = np.zeros(0, np.uint8)
        self._quotes = np.zeros(
            QUOTES_PER_CALL * quotes.quote_bytes_max(settings.depth) + SLACK_BYTES, np.uint8
        )

    def attach_shard(self, shard: int, views: ShardViews) -> None:
        """
        Take up a shard, or its next worker once that is running: go on where the head stands, or at the new
        worker's first report, and drop what was sent before.

        Raises ValueError if the ring's length is no power of two.
        """
        settings = self.settings
        output = Output(
            shard,
            views,
            generation=settings.generation,
            early=settings.release == "matched",
            before=self._outputs.get(shard),
        )
        lines_bytes = settings.cycle_reports * render.line_bytes_max(output.script) + SLACK_BYTES
        if settings.encoding == "json" and len(self._lines) < lines_bytes:
            self._lines = np.zeros(lines_bytes, np.uint8)
        self._outputs[shard] = output

    def step(self, now_ns: int) -> int:
        """
        One duty cycle over all shards; how much was done, 0 if nothing.

        Args:
            now_ns: Nanoseconds since the epoch.

        Raises:
            SinkFailed: Output cannot go on.
            RuntimeError: A ring holds something that cannot be; nothing behind it was sent.
        """
        self._now_ns = now_ns
        work_count = self._confirm()
        if self.sink.ready():
            for output in self._outputs.values():
                if self.sink.ready():
                    work_count += self._send(output)
            if now_ns >= self._quotes_due_ns:
                self._quotes_due_ns = now_ns + self.settings.books_interval_ms * NS_PER_MS
                work_count += self._send_quotes()
        return work_count

    def drained(self) -> bool:
        """True if every ring is read to its tail and everything sent is confirmed."""
        return not self._pending and all(output.at_tail() for output in self._outputs.values())

    def finish(self, timeout_seconds: float) -> bool:
        """Send the last prices and books without waiting for the interval; True if all is confirmed in time."""
        self._send_quotes()
        flushed = self.sink.flush(timeout_seconds)
        self._confirm()
        return flushed and not self._pending

    def _send(self, output: Output) -> int:
        """Send the next cycle of one shard and ask for a barrier; the reports taken from its ring."""
        start = output.position
        end, complete_seq = output.next_cycle(self.settings.cycle_reports)
        if end == start:
            if output.tokens == 0:  # commands without reports, and the last report's seq once it is matched
                output.confirm_seq(complete_seq)
            return 0
        met(Step.RELEASED)
        output.told |= self._send_range(output, start, end)
        met(Step.SENT)
        output.position = end
        output.tokens += 1
        self._barriers += 1
        frame_ns = int(output.progress[Progress.FRAME_NS])
        token = Token(self._barriers, output.shard, end, complete_seq, frame_ns, output.told)
        self._pending.append(token)
        self.sink.barrier(token)
        return end - start

    def _send_range(self, output: Output, start: int, end: int) -> bool:
        """Mirror, pick, render and hand over the reports at positions [start, end); True if there was one to be sent."""
        picks, views = self._picks, output.views
        reached = mirror.apply(views.mirror, views.slots, start, end)
        if reached != end:
            raise RuntimeError(
                f"shard {output.shard} reports a level outside the depth mirror, at output position {reached}: "
                f"{output.report_at(reached)}; run worker and publisher with the same [limits]"
            )
        feed.pick(picks, output.progress, views.mirror, views.slots, start, end)
        picked, traded, repeated = picks.counts.tolist()
        self._send_picks(output, self._all, picks.key, picked, self.sink.reports, trades=False)
        self._send_picks(output, picks.trades, picks.trade_key, traded, self.sink.trades, trades=True)
        self.counters[Count.REPORTS] += picked
        self.counters[Count.TRADES] += traded
        self.counters[Count.REPEATS] += repeated
        self.counters[Count.CYCLES] += 1
        return bool(picked)

    def _send_picks(
        self,
        output: Output,
        entries: np.ndarray,
        keys: np.ndarray,
        count: int,
        send: Callable[..., None],
        *,
        trades: bool,
    ) -> None:
        """One message for each key, or one for all where the sink is not addressed."""
        if count == 0:
            return
        picks, batches = self._picks, self._batches
        groups = feed.group(batches, entries, keys, count, self.sink.addressed)
        if self.settings.encoding == "json":
            content_type = JSON_LINES
            buffer = self._lines.data
            render.render(
                output.script, output.views.mirror, output.views.slots, output.words, picks, batches, groups, trades,
                self._lines, self._ends,
            )  # fmt: skip
        else:
            content_type = PACKED
            buffer = self._records.view(np.uint8).reshape(-1).data
            render.gather(
                output.views.mirror, output.words, picks, batches, groups, trades, self._records, self._ends
            )
        starts = batches.start[: groups + 1].tolist()
        firsts = batches.order[batches.start[:groups]]
        begin = 0
        for group, (key, end, seq, index) in enumerate(
            zip(
                batches.key[:groups].tolist(),
                self._ends[:groups].tolist(),
                picks.seq[firsts].tolist(),
                picks.index[firsts].tolist(),
                strict=True,
            )
        ):
            identity = Identity(self.settings.generation, output.shard, seq, index)
            send(key, buffer[begin:end], starts[group + 1] - starts[group], content_type, identity)
            begin = end
        self.counters[Count.MESSAGES] += groups
        self.counters[Count.BYTES] += begin

    def _send_quotes(self) -> int:
        """Send price and depth of every book that changed; how many messages or lines."""
        sent = 0
        for output in self._outputs.values():
            depth_mirror = output.views.mirror
            dirty = depth_mirror.dirty[: depth_mirror.cells[MirrorCell.BOOKS]]
            for bit, depth, send, counter in (
                (PRICE_CHANGED, 0, self.sink.price, Count.PRICES),
                (DEPTH_CHANGED, self.settings.depth, self.sink.book, Count.BOOKS),
            ):
                books = np.flatnonzero(dirty & bit)
                for at in range(0, len(books), QUOTES_PER_CALL):
                    self._send_books(output, books[at : at + QUOTES_PER_CALL], depth, send)
                self.counters[counter] += len(books)
                sent += len(books)
            dirty[:] = 0
        return sent

    def _send_books(
        self, output: Output, books: np.ndarray, depth: int, send: Callable[..., None]
    ) -> None:  # fmt: skip
        """Send some books' prices (depth 0) or depth."""
        depth_mirror = output.views.mirror
        written = quotes.render_quotes(
            output.script, depth_mirror, books, len(books), depth, self._quotes, self._ends
        )
        self.counters[Count.BYTES] += written
        buffer = self._quotes.data
        seqs = depth_mirror.books["seq"][books].tolist()
        generation = self.settings.generation
        if not self.sink.addressed:
            identity = Identity(generation, output.shard, max(seqs), 0)
            send(0, buffer[:written], len(books), JSON_LINES, identity)
            self.counters[Count.MESSAGES] += 1
            return
        begin = 0
        for event, end, seq in zip(
            depth_mirror.books["event"][books].tolist(), self._ends[: len(books)].tolist(), seqs, strict=True
        ):
            send(event, buffer[begin:end], 1, JSON_LINES, Identity(generation, output.shard, seq, 0))
            begin = end
        self.counters[Count.MESSAGES] += len(books)

    def _confirm(self) -> int:
        """Give back the slots of what the sink has confirmed; the number of cycles."""
        newest = self.sink.poll(0.0)
        if newest is None:
            return 0
        confirmed = 0
        while self._pending and self._pending[0].number <= newest.number:
            token = self._pending.popleft()
            met(Step.CONFIRMED)
            self._outputs[token.shard].confirm(token, self._now_ns)
            confirmed += 1
        return confirmed
