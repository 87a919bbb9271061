"""
What a worker costs by itself.     input ring -> [take, journal, match, report, as in serve.py] -> journal and output rings that are free

Runs    the worker's own loop (serve.serve, compiled as in the process) over the referee's flow (referee_flow.py) in frames. Between two
        calls the input ring is filled again with the clock stopped, and everything in the journal and the output ring counts as
        read: nobody else works.
Tells   million commands per second of one core in deliveries of --frame orders, with market data on as in a worker; the same for the
        engine alone (`process` over the same records, same reports), the difference being what taking, journaling and telling cost.
Beside  a copy of the same records (numpy), in the same run.
Checks  the number of reports and their checksum are the same in both ways, and in every repeat.
Needs   1 core.
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from ringpit.engine.codes import LevelKind, ReportKind
from ringpit.engine.machine import process
from ringpit.engine.records import COMMAND, MARKER, REPORT
from ringpit.engine.tables import Cell
from ringpit.ipc.atomics import store_cell
from ringpit.perf.harness import FactsDifferError, benchmark, cores_for, pin, positive
from ringpit.perf.referee import book_for, encode
from ringpit.perf.referee_flow import ORDERS, SCENARIOS, SEED, messages
from ringpit.perf.stage import LEVELS, Book
from ringpit.shards.flow import frames
from ringpit.shards.serve import At, Own, lone_wires, serve

INPUT_SLOTS: Final = 1 << 14
JOURNAL_SLOTS: Final = 1 << 14
OUTPUT_SLOTS: Final = 1 << 17  # more than the reports of a full input ring
WORDS_PER_RECORD: Final = 8
CHECKSUM_MASK: Final = (1 << 62) - 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which flow, and how it is cut."""
    parser.add_argument("--scenario", choices=list(SCENARIOS), default="normal", help="default: normal")
    parser.add_argument(
        "--orders", type=positive, default=ORDERS // 2, help=f"new orders; the referee has {ORDERS:,}"
    )
    parser.add_argument("--frame", type=positive, default=100, help="orders in one delivery")
    parser.add_argument("--levels", choices=list(LEVELS), default="ladder", help="structure of price levels")


def chunks(records: np.ndarray) -> Iterator[np.ndarray]:
    """Whole frames, as many as the input ring holds at once."""
    starts = np.flatnonzero(records["kind"] == records["kind"][0])  # of markers
    ends = np.append(starts[1:], len(records))
    begin = 0
    for before, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        if end - begin > INPUT_SLOTS:
            yield records[begin:before]
            begin = before
    yield records[begin:]


def summed(reports: np.ndarray) -> int:
    """A checksum that does not ask where reports lie or when they were made: all words of all but FRAMEs, added up."""
    kept = reports[reports["kind"] != ReportKind.FRAME]
    return int(kept.view(np.int64).sum()) & CHECKSUM_MASK


class Served:
    """A worker's loop and what has come out of it."""

    def __init__(self, book: Book) -> None:
        """Nothing is in any ring."""
        self.tables = book.reset()
        self.tables.cells[Cell.MARKET_DATA] = 1
        inputs, journal = np.zeros(INPUT_SLOTS, COMMAND), np.zeros(JOURNAL_SLOTS, COMMAND)
        self.wires = lone_wires(self.tables, inputs, journal, np.zeros(OUTPUT_SLOTS, REPORT))
        self.position = 0
        self.out = 0
        self.reports = self.checksum = self.spent_ns = 0

    def serve(self, chunk: np.ndarray) -> None:
        """Put a chunk into the input ring, and serve it with the clock running."""
        w = self.wires
        slots = (self.position + np.arange(len(chunk))) & (INPUT_SLOTS - 1)
        w.inputs.view(np.int64).reshape(-1, WORDS_PER_RECORD)[slots] = chunk.view(np.int64).reshape(
            -1, WORDS_PER_RECORD
        )
        self.position += len(chunk)
        store_cell(w.router, int(w.at[At.INPUT_TAIL]), self.position)
        start = time.thread_time_ns()
        while w.cells[w.at[At.INPUT_HEAD]] < self.position:
            serve(self.tables, w)
            w.cells[w.at[At.JOURNAL_HEAD]] = w.own[Own.RUN_END]  # everything is durable
        self.spent_ns += time.thread_time_ns() - start
        self._drain()

    def _drain(self) -> None:
        """Add the reports up, and give their slots back."""
        w = self.wires
        end = int(w.own[Own.OUT])
        reports = w.output[(self.out + np.arange(end - self.out)) & (OUTPUT_SLOTS - 1)]
        self.reports += len(reports)
        self.checksum = (self.checksum + summed(reports)) & CHECKSUM_MASK
        self.out = end
        store_cell(w.publisher, int(w.at[At.OUTPUT_HEAD]), end)


class Matched:
    """The engine alone, over the same chunks."""

    def __init__(self, book: Book) -> None:
        """Nothing is matched."""
        self.tables: Any = book.reset()
        self.tables.cells[Cell.MARKET_DATA] = 1
        self.slots = np.zeros(INPUT_SLOTS, COMMAND)
        self.output = np.zeros(OUTPUT_SLOTS, REPORT)
        self.seq = 1
        self.reports = self.checksum = self.spent_ns = 0

    def match(self, chunk: np.ndarray) -> None:
        """Match a chunk with the clock running."""
        self.slots[: len(chunk)].view(np.int64)[:] = chunk.view(np.int64)
        start = time.thread_time_ns()
        reached, out = process(
            self.tables,
            self.slots,
            self.slots.view(MARKER),
            0,
            len(chunk),
            self.seq,
            self.output,
            0,
            OUTPUT_SLOTS,
            1,
        )
        self.spent_ns += time.thread_time_ns() - start
        if reached != len(chunk):
            raise RuntimeError(f"matching must reach {len(chunk)}, reached {reached}")
        self.seq += reached
        self.reports += out
        self.checksum = (self.checksum + summed(self.output[:out])) & CHECKSUM_MASK


def copy_ns(records: np.ndarray) -> int:
    """Processor nanoseconds of copying all records chunk by chunk, into the same slots again and again."""
    slots = np.ones(INPUT_SLOTS * WORDS_PER_RECORD, np.int64)
    start = time.thread_time_ns()
    words = records.view(np.int64)
    for begin in range(0, len(words), len(slots)):
        piece = words[begin : begin + len(slots)]
        slots[: len(piece)] = piece
    return time.thread_time_ns() - start


@benchmark(
    "worker",
    "a worker alone: the referee's flow from its input ring to reports, as it serves",
    options=add_options,
)
def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """The worker's loop, the engine alone, and a copy."""
    pin(cores_for(1)[0])
    flow = messages(arguments.scenario, seed=SEED, orders=arguments.orders)
    commands = encode(flow)[: len(flow.kind)]
    records = frames(commands, arguments.frame, 1)
    book = book_for(flow, LevelKind(LEVELS[arguments.levels]))
    served = Served(book)
    for chunk in chunks(records):
        served.serve(chunk)
    matched = Matched(book)
    for chunk in chunks(records):
        matched.match(chunk)
    if (served.reports, served.checksum) != (matched.reports, matched.checksum):
        raise FactsDifferError(
            f"reports of the worker's loop must be those of the engine alone, {matched.reports} and {matched.checksum}, "
            f"were {served.reports} and {served.checksum}"
        )
    count = len(commands)
    return {
        "worker_million_per_s": count / served.spent_ns * 1e3,
        "engine_million_per_s": count / matched.spent_ns * 1e3,
        "worker_cpu_ns_per_command": served.spent_ns / count,
        "engine_cpu_ns_per_command": matched.spent_ns / count,
        "around_the_engine_cpu_ns_per_command": (served.spent_ns - matched.spent_ns) / count,
        "copy_cpu_ns_per_record": copy_ns(records) / len(records),
        "commands": count,
        "reports": served.reports,
        "checksum": served.checksum,
    }
