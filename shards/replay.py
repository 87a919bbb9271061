"""
Replay: EventMessages as lines in, reports as lines out, in one process, with no clock and no randomness.

    {"Task": "CreateEvent", "ID": 7}          {"Seq":2,"Index":0,...,"Kind":"EventCreated",...}
    {"Task": "Order", "ID": 7, "Order": ...}  {"Seq":4,"Index":0,...,"Kind":"Accepted",...}

The same decoder, engine and renderer as in the running exchange, without rings, log and brokers; the same input
gives the same bytes. A line takes two log positions, its marker and its command, as a delivery of its own
would. Engine time stands at 0, so nothing expires.

Fast enough for millions of lines: they are applied in blocks. A line that cannot be read is told on standard
error with its number, and the rest goes on.
"""

from collections.abc import Callable
from itertools import islice
from typing import BinaryIO, Final

import numpy as np

from ringpit.engine.codes import CommandKind
from ringpit.engine.image import images
from ringpit.engine.limits import Limits
from ringpit.engine.machine import process
from ringpit.engine.records import COMMAND, MARKER, REPORT
from ringpit.engine.tables import Tables, allocate
from ringpit.shards.feed import no_timing
from ringpit.shards.messages import MalformedMessage, decode, to_commands
from ringpit.shards.mirror import allocate_mirror
from ringpit.shards.output import ShardViews, Word
from ringpit.shards.prices import PriceSpec, spec_of_records
from ringpit.shards.publisher import Publisher, Settings
from ringpit.shards.sinks import ReportsOnly, StreamSink

LINES_PER_BLOCK: Final = 512
REPORT_SLOTS: Final = 1 << 16
TAIL, DURABLE, MATCHED, HEAD, CONFIRMED = range(5)


class Replay:
    """One exchange of one shard, fed by lines."""

    def __init__(
        self,
        descriptor: int,
        name: str,
        *,
        shard: int = 0,
        generation: int = 1,
        limits: Limits | None = None,
        tables: Tables | None = None,
        seq: int = 0,
    ) -> None:
        """
        Writes to an open file descriptor; `name` is for messages.

        A replay of a log is of a shard and generation, and may go on from `tables` (with market data) that have reached
        a seq.
        """
        limits = limits or Limits()
        self._tables = allocate(limits, market_data=True) if tables is None else tables
        self._ring = np.zeros(REPORT_SLOTS, REPORT)
        self._words = np.zeros(5, np.int64)
        self._specs: dict[int, PriceSpec] = {}
        self._seq = seq + 1
        self._words[DURABLE] = self._words[MATCHED] = self._words[CONFIRMED] = seq
        settings = Settings(generation=generation)
        self._publisher = Publisher(ReportsOnly(StreamSink(descriptor, name)), settings)
        words = [Word(self._words, index) for index in range(5)]
        self._publisher.attach_shard(
            shard,
            ShardViews(
                slots=self._ring,
                incarnation=0,
                epoch=0,
                epoch_seq=0,
                tail=words[TAIL],
                durable_seq=words[DURABLE],
                matched_seq=words[MATCHED],
                head=words[HEAD],
                confirmed_seq=words[CONFIRMED],
                mirror=allocate_mirror(limits),
                timing=no_timing(),
            ),
        )
        for image in images(self._tables, seq):  # the publisher learns the books that are open already
            self._show(image)

    def _show(self, image: np.ndarray) -> None:
        """Publish reports that no command makes."""
        for begin in range(0, len(image), REPORT_SLOTS):
            chunk = image[begin : begin + REPORT_SLOTS]
            tail = int(self._words[TAIL])
            self._ring[(tail + np.arange(len(chunk))) & (REPORT_SLOTS - 1)] = chunk
            self._words[TAIL] = tail + len(chunk)
            self._publish()

    def _publish(self) -> None:
        """Let the publisher take everything that is in the ring."""
        while self._words[HEAD] < self._words[TAIL]:
            self._publisher.step(0)

    def apply(self, frames: list[np.ndarray]) -> None:
        """Apply frames (COMMAND arrays, a marker first) in order, and write their reports."""
        if not frames:
            return
        records = np.concatenate(frames)
        slots = np.zeros(1 << (len(records) - 1).bit_length(), COMMAND)
        slots[: len(records)] = records
        done = 0
        while done < len(records):
            out = int(self._words[TAIL])
            reached, written = process(
                self._tables,
                slots,
                slots.view(MARKER),
                done,
                len(records),
                self._seq,
                self._ring,
                out,
                int(self._words[HEAD]) + REPORT_SLOTS,
                1,
            )
            self._seq += reached - done
            done = reached
            self._words[TAIL] = written
            self._words[DURABLE] = self._seq  # a command that goes on in the next round counts, too
            self._words[MATCHED] = self._seq - 1
            self._publish()

    def frame(self, line: bytes) -> np.ndarray:
        """A line as a frame. Raises MalformedMessage."""
        commands = to_commands(decode(None, line), self._specs.get)
        for at in np.flatnonzero(commands["kind"] == CommandKind.CREATE_EVENT).tolist():
            if commands[at]["verdict"] == 0:
                self._specs.setdefault(int(commands[at]["event"]), spec_of_records(commands, at))
        frame = np.zeros(len(commands) + 1, COMMAND)
        marker = frame[:1].view(MARKER)
        marker["kind"] = CommandKind.MARKER
        marker["count"] = len(commands)
        marker["first_event"] = commands["event"][0]
        frame[1:] = commands
        return frame


def replay_lines(lines: BinaryIO, out: BinaryIO, say: Callable[[str], None]) -> int:
    """
    Apply every line of `lines`, write the reports to `out`, and return how many lines could not be read.

    `say` gets a sentence for each of those. Raises SinkFailed if `out` takes nothing more.
    """
    replay = Replay(out.fileno(), "standard output")
    failures = 0
    number = 0
    while block := list(islice(lines, LINES_PER_BLOCK)):
        frames = []
        for line in block:
            number += 1
            if not line.strip():
                continue
            try:
                frames.append(replay.frame(line))
            except MalformedMessage as error:
                failures += 1
                say(f"line {number}: {error}")
        replay.apply(frames)
    return failures
