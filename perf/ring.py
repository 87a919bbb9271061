"""
One producer process, one consumer process, one ring.     [producer] -> ring -> [consumer]

Moves   64-byte records one at a time (a tail and a head advanced for each), then in batches; beside it
        multiprocessing.Queue and a pipe with 64-byte messages, and one core copying equal bytes.
Tells   records per second, from the word "go" until the last record is read.
Checks  every record's number is the next one; the sum of all numbers is a fact of the result.
Needs   2 cores of its own; on fewer both processes take turns and nobody is pinned, which measures the scheduler.
"""

import argparse
import multiprocessing
import os
import time
from functools import partial
from multiprocessing.connection import Connection
from typing import Final

import numpy as np
from numba import njit

import ringpit.engine  # noqa: F401 - chooses the folder of numba's cache, before the first kernel is defined
from ringpit.ipc.atomics import load_cell
from ringpit.ipc.idle import SPIN_THEN_YIELD, Idle, idle_step
from ringpit.ipc.ring import pop_batch, publish, push_some, ready_for, release, room_for
from ringpit.ipc.segment import Region, Segment, SegmentLayout
from ringpit.perf.harness import benchmark, cores_for, pin, positive

RECORD: Final = np.dtype([("number", "<i8"), *((f"rest_{i}", "<i8") for i in range(1, 8))])
READER: Final = SegmentLayout("perf-reader", ("head", "go"))
POLLS_MAX: Final = (
    100_000  # idle polls before a kernel returns, so that Python can see whether the other side lives
)
SINGLY, BATCHED = 1, 2  # what "go" says
START_SECONDS: Final = 120
MESSAGE_SECONDS: Final = 30
COPIED: Final = 1 << 14  # records in a megabyte


def writer_layout(slots: int) -> SegmentLayout:
    """The producer's segment: its tail, whether it is ready, and the slots."""
    return SegmentLayout("perf-writer", ("tail", "ready"), (Region("slots", RECORD, slots),))


@njit(cache=True, nogil=True)
def write_singly(tail_cells, tail_index, head_cells, head_index, slots, sources, first, count, waiting):
    """Write records first to count, each published alone. Returns the next number: less than count if it waited long."""
    number = first
    polls = 0
    while number < count and polls < POLLS_MAX:
        if room_for(1, tail_cells, tail_index, head_cells, head_index, slots.shape[0]) >= 1:
            tail = tail_cells[tail_index]  # plain: only this process writes it
            slot = tail & (slots.shape[0] - 1)
            slots[slot] = sources[number & (sources.shape[0] - 1)]
            slots[slot]["number"] = number
            publish(tail_cells, tail_index, tail + 1)
            number += 1
            polls = -1
        polls += 1
        idle_step(waiting, 0, SPIN_THEN_YIELD, polls == 0)
    return number


@njit(cache=True, nogil=True)
def read_singly(tail_cells, tail_index, head_cells, head_index, slots, first, count, waiting):
    """Read records first to count, each released alone. Returns (next number, sum of numbers, numbers out of place)."""
    number, total, wrong, polls = first, 0, 0, 0
    while number < count and polls < POLLS_MAX:
        if ready_for(1, tail_cells, tail_index, head_cells, head_index) >= 1:
            head = head_cells[head_index]  # plain: only this process writes it
            found = slots[head & (slots.shape[0] - 1)]["number"]
            release(head_cells, head_index, head + 1)
            total += found
            wrong += found != number
            number += 1
            polls = -1
        polls += 1
        idle_step(waiting, 0, SPIN_THEN_YIELD, polls == 0)
    return number, total, wrong


@njit(cache=True, nogil=True)
def write_batches(tail_cells, tail_index, head_cells, head_index, slots, sources, first, count, waiting):
    """As `write_singly`, a table of sources at a time."""
    number = first
    polls = 0
    while number < count and polls < POLLS_MAX:
        wanted = min(sources.shape[0], count - number)
        for i in range(wanted):
            sources[i]["number"] = number + i
        pushed = push_some(tail_cells, tail_index, head_cells, head_index, slots, sources, wanted)
        number += pushed
        polls = 0 if pushed else polls + 1
        idle_step(waiting, 0, SPIN_THEN_YIELD, pushed)
    return number


@njit(cache=True, nogil=True)
def read_batches(tail_cells, tail_index, head_cells, head_index, slots, taken, first, count, waiting):
    """As `read_singly`, up to a table of records at a time, copied out of the ring."""
    number, total, wrong, polls = first, 0, 0, 0
    while number < count and polls < POLLS_MAX:
        popped = pop_batch(tail_cells, tail_index, head_cells, head_index, slots, taken, taken.shape[0])
        for i in range(popped):
            found = taken[i]["number"]
            total += found
            wrong += found != number + i
        number += popped
        polls = 0 if popped else polls + 1
        idle_step(waiting, 0, SPIN_THEN_YIELD, popped)
    return number, total, wrong


def ends_of(writer: Segment, reader: Segment) -> tuple:
    """Arguments of `Producer`, `Consumer` and the kernels."""
    return (
        writer.cells,
        writer.layout.index("tail"),
        reader.cells,
        reader.layout.index("head"),
        writer.region("slots"),
    )


def produce(
    names: tuple[str, str], core: int | None, arguments: argparse.Namespace, pipe: Connection, queue
) -> None:
    """The producer process: get ready, then write as "go" says, then feed the pipe and the queue."""
    pin(core)
    parent = os.getppid()
    with (
        Segment.attach(names[0], writer_layout(arguments.slots)) as writer,
        Segment.attach(names[1], READER) as reader,
    ):
        ends, waiting = ends_of(writer, reader), np.zeros(1, np.int64)
        sources = np.ones(arguments.batch, RECORD)
        kernels = {SINGLY: write_singly, BATCHED: write_batches}
        for kernel in kernels.values():
            kernel(*ends, sources, 0, 0, waiting)  # compiles
        writer.store("ready", 1)
        for go, kernel in kernels.items():
            idle = Idle("spin-then-yield")
            while load_cell(reader.cells, READER.index("go")) < go and os.getppid() == parent:
                idle(0)
            number = 0
            while number < arguments.records and os.getppid() == parent:
                number = kernel(*ends, sources, number, arguments.records, waiting)
    message = bytearray(RECORD.itemsize)
    for send in (pipe.send_bytes, queue.put):
        pipe.recv_bytes()  # the consumer is ready
        for number in range(arguments.messages):
            message[:8] = number.to_bytes(8, "little")
            send(bytes(message))
    queue.close()
    queue.join_thread()


def consume(kernel, prefix: tuple, count: int, waiting: np.ndarray, child) -> int:
    """Run a reading kernel until everything came, and return the sum of the numbers."""
    number = total = wrong = 0
    while number < count:
        number, some, misplaced = kernel(*prefix, number, count, waiting)
        total, wrong = total + some, wrong + misplaced
        if number < count and not child.is_alive():
            raise RuntimeError(
                f"the producer ended with exit code {child.exitcode} after {number} of {count} records"
            )
    if wrong:
        raise RuntimeError(f"records must arrive in order, {wrong} of {count} did not")
    return int(total)


def messages_per_s(receive, count: int) -> float:
    """Receive numbered messages and check each."""
    start_ns = time.perf_counter_ns()
    for number in range(count):
        if int.from_bytes(receive()[:8], "little") != number:
            raise RuntimeError(f"messages must arrive in order, number {number} did not")
    return count * 1e9 / (time.perf_counter_ns() - start_ns)


def copies_per_s(records: int) -> float:
    """One core copies as many bytes, a megabyte at a time."""
    source, target = np.ones(COPIED, RECORD), np.ones(COPIED, RECORD)
    tables = max(1, records // source.shape[0])
    start_ns = time.perf_counter_ns()
    for _ in range(tables):
        target[:] = source
    return tables * source.shape[0] * 1e9 / (time.perf_counter_ns() - start_ns)


def power_of_two(text: str) -> int:
    """A power of two, for argparse."""
    value = positive(text)
    if value & (value - 1):
        raise argparse.ArgumentTypeError(f"must be a power of two, was {text}")
    return value


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes of the run."""
    parser.add_argument(
        "--records", type=positive, default=10_000_000, help="records through the ring, each way of moving"
    )
    parser.add_argument("--batch", type=power_of_two, default=256, help="records pushed or popped at once")
    parser.add_argument("--slots", type=power_of_two, default=1 << 14, help="slots of the ring")
    parser.add_argument(
        "--messages", type=positive, default=50_000, help="messages through the queue and the pipe"
    )


@benchmark(
    "ring",
    "64-byte records from one process to another: ring one at a time and in batches; queue, pipe, copy",
    options=add_options,
)
def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Start a producer, let it write, and time the reading of everything."""
    reading_core, writing_core = cores_for(2)
    pin(reading_core)
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    queue = spawn.Queue()
    prefix = f"ringpit-perf-{os.getpid()}"
    with (
        Segment.create(f"{prefix}-writer", writer_layout(arguments.slots)) as writer,
        Segment.create(f"{prefix}-reader", READER) as reader,
    ):
        ends, waiting = ends_of(writer, reader), np.zeros(1, np.int64)
        names = (writer.name, reader.name)
        child = spawn.Process(target=produce, args=(names, writing_core, arguments, there, queue), daemon=True)
        child.start()
        there.close()  # so that reading ends if the producer does
        taken = np.zeros(arguments.batch, RECORD)
        read_singly(*ends, 0, 0, waiting)  # compiles
        read_batches(*ends, taken, 0, 0, waiting)
        wait_until_ready(writer, child)
        figures: dict[str, object] = {}
        totals = []
        for go, name, kernel, tables in (
            (SINGLY, "ring_singly_per_s", read_singly, ends),
            (BATCHED, "ring_batched_per_s", read_batches, (*ends, taken)),
        ):
            start_ns = time.perf_counter_ns()
            reader.store("go", go)
            totals.append(consume(kernel, tables, arguments.records, waiting, child))
            figures[name] = arguments.records * 1e9 / (time.perf_counter_ns() - start_ns)
    for name, receive in (
        ("pipe_per_s", here.recv_bytes),
        ("queue_per_s", partial(queue.get, timeout=MESSAGE_SECONDS)),
    ):
        here.send_bytes(b"ready")
        figures[name] = messages_per_s(receive, arguments.messages)
    child.join()
    queue.close()
    figures["copy_per_s"] = copies_per_s(arguments.records)
    return figures | {"sum_singly": totals[0], "sum_batched": totals[1], "pinned": reading_core is not None}


def wait_until_ready(writer: Segment, child) -> None:
    """Wait until the producer has compiled its kernels; RuntimeError if it died or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    idle = Idle("sleep")
    while not writer.load("ready"):
        if not child.is_alive() or time.monotonic() > deadline:
            raise RuntimeError(
                f"the producer did not get ready within {START_SECONDS} s, exit code {child.exitcode}"
            )
        idle(0)
