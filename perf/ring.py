"""
One producer process, one consumer process, one ring.     [producer] -> ring -> [consumer]

Moves   64-byte records one at a time (a tail and a head advanced for each), then in batches that are copied out, then in
        batches that are read where they lie. Before that one record to and fro over two rings (the hand-off), both ends
        spinning, and a bare cache line likewise, which is what the machine can do. Beside it a C++ queue,
        multiprocessing.Queue and a pipe with 64-byte messages, and one core copying equal bytes.
Tells   records per second, from the word "go" until the last record is read; half a round trip, in ns.
Checks  every record's number is the next one; the sum of all numbers is a fact of the result.
Needs   2 cores of its own; on fewer both processes take turns and nobody is pinned, which measures the scheduler. In a
        virtual machine the cores may lie anywhere: compare only runs whose `line_ns` is alike.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from functools import partial
from multiprocessing.connection import Connection
from typing import Final

import numpy as np
from numba import njit

import ringpit.engine  # noqa: F401 - chooses the folder of numba's cache, before the first kernel is defined
from ringpit.ipc import histogram
from ringpit.ipc.atomics import clock_ns, load_acquire, load_cell, store_release
from ringpit.ipc.copying import put_record
from ringpit.ipc.idle import SPIN, SPIN_THEN_YIELD, Idle, idle_step
from ringpit.ipc.ring import OWN, give_back, pop_batch, publish, push_some, ready_for, ring_words, room_for
from ringpit.ipc.segment import Region, Segment, SegmentLayout
from ringpit.perf.harness import benchmark, cores_for, pin, positive
from ringpit.perf.peer import measure_queue, program

RECORD: Final = np.dtype([("number", "<i8"), *((f"rest_{i}", "<i8") for i in range(1, 8))])
WORDS: Final = (*ring_words("tail"), *ring_words("head"), "line", "go", "ready")  # of either side
TAIL, HEAD, LINE, GO, READY = (
    SegmentLayout("perf-ring", WORDS).index(word) for word in ("tail", "head", "line", "go", "ready")
)
POLLS_MAX: Final = (
    100_000  # idle polls before a kernel returns, so that Python can see whether the other side lives
)
BARE, HANDOFF, SINGLY, BATCHED, IN_PLACE = range(1, 6)  # what "go" says, in this order
LINE_ROUNDS: Final = 1_000  # of the bare line; the median of so many is told
START_SECONDS: Final = 120
MESSAGE_SECONDS: Final = 30
COPIED: Final = 1 << 14  # records in a megabyte


def side_layout(slots: int) -> SegmentLayout:
    """One side's segment: the tail and slots of the ring that it writes, the head of the one that it reads."""
    return SegmentLayout("perf-ring", WORDS, (Region("slots", RECORD, slots),))


@njit(cache=True, nogil=True, _nrt=False)
def bounce(own, peer, first, count, leads, waiting):
    """A number to and fro through one line of each side. Returns the next number: less than count if it waited long."""
    number, polls = first, 0
    if leads and own[LINE] == number:
        store_release(own, LINE, number + 1)  # pairs with the acquire below, on the other side
    while number < count and polls < POLLS_MAX:
        if load_acquire(peer, LINE) == number + 1:
            number += 1
            polls = 0
            if not leads or number < count:
                store_release(own, LINE, number + leads)  # pairs with the acquire above, on the other side
        else:
            polls += 1
            idle_step(waiting, 0, SPIN, 0)
    return number


@njit(cache=True, nogil=True, _nrt=False)
def ask(own, own_slots, peer, peer_slots, count, times_ns, waiting):
    """Send records and count half the time until each comes back. Returns how many did."""
    polls = 0
    began_ns = clock_ns()
    while own[HEAD + OWN] < count and polls < POLLS_MAX:
        if own[TAIL + OWN] == own[HEAD + OWN]:
            tail = own[TAIL + OWN]  # plain: nobody else touches it
            began_ns = clock_ns()
            own_slots[tail & (own_slots.shape[0] - 1)]["number"] = tail
            publish(own, TAIL, tail + 1)
        if ready_for(1, peer, TAIL, own, HEAD) >= 1:
            head = own[HEAD + OWN]  # plain: nobody else touches it
            if peer_slots[head & (peer_slots.shape[0] - 1)]["number"] == head:
                histogram.record(times_ns, (clock_ns() - began_ns) // 2)
            give_back(own, HEAD, head + 1)
            polls = 0
        else:
            polls += 1
            idle_step(waiting, 0, SPIN, 0)
    return own[HEAD + OWN]


@njit(cache=True, nogil=True, _nrt=False)
def answer(own, own_slots, peer, peer_slots, count, waiting):
    """Send each record back. Returns how many were."""
    polls = 0
    while own[HEAD + OWN] < count and polls < POLLS_MAX:
        if ready_for(1, peer, TAIL, own, HEAD) >= 1:
            head = own[HEAD + OWN]  # plain: nobody else touches it
            put_record(own_slots, head & (own_slots.shape[0] - 1), peer_slots, head & (peer_slots.shape[0] - 1))
            publish(own, TAIL, head + 1)
            give_back(own, HEAD, head + 1)
            polls = 0
        else:
            polls += 1
            idle_step(waiting, 0, SPIN, 0)
    return own[HEAD + OWN]


@njit(cache=True, nogil=True, _nrt=False)
def write_singly(own, slots, peer, sources, first, count, waiting):
    """Write records first to count, each published alone. Returns the next number: less than count if it waited long."""
    number = first
    polls = 0
    while number < count and polls < POLLS_MAX:
        if room_for(1, own, TAIL, peer, HEAD, slots.shape[0]) >= 1:
            tail = own[TAIL + OWN]  # plain: nobody else touches it
            slot = tail & (slots.shape[0] - 1)
            put_record(slots, slot, sources, number & (sources.shape[0] - 1))
            slots[slot]["number"] = number
            publish(own, TAIL, tail + 1)
            number += 1
            polls = 0
            waiting[0] = 0
        else:
            polls += 1
            idle_step(waiting, 0, SPIN_THEN_YIELD, 0)
    return number


@njit(cache=True, nogil=True, _nrt=False)
def read_singly(peer, slots, own, taken, first, count, waiting):
    """Read records first to count, each released alone. Returns (next number, sum of numbers, numbers out of place)."""
    number, total, wrong, polls = first, 0, 0, 0
    while number < count and polls < POLLS_MAX:
        if ready_for(1, peer, TAIL, own, HEAD) >= 1:
            head = own[HEAD + OWN]  # plain: nobody else touches it
            put_record(taken, 0, slots, head & (slots.shape[0] - 1))
            give_back(own, HEAD, head + 1)
            total += taken[0]["number"]
            wrong += taken[0]["number"] != number
            number += 1
            polls = 0
            waiting[0] = 0
        else:
            polls += 1
            idle_step(waiting, 0, SPIN_THEN_YIELD, 0)
    return number, total, wrong


@njit(cache=True, nogil=True, _nrt=False)
def write_batches(own, slots, peer, sources, first, count, waiting):
    """As `write_singly`, a table of sources at a time."""
    number = first
    polls = 0
    while number < count and polls < POLLS_MAX:
        wanted = min(sources.shape[0], count - number)
        for i in range(wanted):
            sources[i]["number"] = number + i
        pushed = push_some(own, TAIL, peer, HEAD, slots, sources, wanted)
        number += pushed
        polls = 0 if pushed else polls + 1
        idle_step(waiting, 0, SPIN_THEN_YIELD, pushed)
    return number


@njit(cache=True, nogil=True, _nrt=False)
def read_batches(peer, slots, own, taken, first, count, waiting):
    """As `read_singly`, up to a table of records at a time, copied out of the ring."""
    number, total, wrong, polls = first, 0, 0, 0
    while number < count and polls < POLLS_MAX:
        popped = pop_batch(peer, TAIL, own, HEAD, slots, taken, taken.shape[0])
        for i in range(popped):
            found = taken[i]["number"]
            total += found
            wrong += found != number + i
        number += popped
        polls = 0 if popped else polls + 1
        idle_step(waiting, 0, SPIN_THEN_YIELD, popped)
    return number, total, wrong


@njit(cache=True, nogil=True, _nrt=False)
def read_in_place(peer, slots, own, taken, first, count, waiting):
    """As `read_batches`, but nothing is copied: the slots are read where they are, and released together."""
    number, total, wrong, polls = first, 0, 0, 0
    mask = slots.shape[0] - 1
    while number < count and polls < POLLS_MAX:
        ready = min(ready_for(taken.shape[0], peer, TAIL, own, HEAD), taken.shape[0])
        head = own[HEAD + OWN]  # plain: nobody else touches it
        for i in range(ready):
            found = slots[(head + i) & mask]["number"]
            total += found
            wrong += found != number + i
        if ready > 0:
            give_back(own, HEAD, head + ready)
        number += max(ready, 0)
        polls = 0 if ready > 0 else polls + 1
        idle_step(waiting, 0, SPIN_THEN_YIELD, ready > 0)
    return number, total, wrong


WRITERS: Final = {SINGLY: write_singly, BATCHED: write_batches, IN_PLACE: write_batches}
READERS: Final = {SINGLY: read_singly, BATCHED: read_batches, IN_PLACE: read_in_place}
NAMES: Final = {SINGLY: "singly", BATCHED: "batched", IN_PLACE: "in_place"}


class Sides:
    """One side's segment and the other's, and the kernels' arguments."""

    def __init__(self, own: Segment, peer: Segment, batch: int) -> None:
        """Nothing is moved yet."""
        self.own, self.peer = own.cells, peer.cells
        self.own_slots, self.peer_slots = own.region("slots"), peer.region("slots")
        self.table = np.ones(batch, RECORD)
        self.waiting = np.zeros(1, np.int64)
        self.times_ns = histogram.empty()

    def compile(self) -> None:
        """Call every kernel once, with nothing to do."""
        bounce(self.own, self.peer, 0, 0, 0, self.waiting)
        self.ask(0)
        self.answer(0)
        for go in NAMES:
            self.write(go, 0, 0)
            self.read(go, 0, 0)

    def bounce(self, number: int, count: int, *, leads: bool) -> int:
        """As the kernel."""
        return int(bounce(self.own, self.peer, number, count, int(leads), self.waiting))

    def ask(self, count: int) -> int:
        """As the kernel."""
        table = (self.own, self.own_slots, self.peer, self.peer_slots)
        return int(ask(*table, count, self.times_ns, self.waiting))

    def answer(self, count: int) -> int:
        """As the kernel."""
        return int(answer(self.own, self.own_slots, self.peer, self.peer_slots, count, self.waiting))

    def write(self, go: int, number: int, count: int) -> int:
        """As the writing kernels."""
        return int(WRITERS[go](self.own, self.own_slots, self.peer, self.table, number, count, self.waiting))

    def read(self, go: int, number: int, count: int) -> tuple[int, int, int]:
        """As the reading kernels."""
        read: tuple[int, int, int] = READERS[go](
            self.peer, self.peer_slots, self.own, self.table, number, count, self.waiting
        )
        return read


def produce(
    names: tuple[str, str], core: int | None, arguments: argparse.Namespace, pipe: Connection, queue
) -> None:
    """The producer process: get ready, then do as "go" says, then feed the pipe and the queue."""
    pin(core)
    parent = os.getppid()
    layout = side_layout(arguments.slots)
    with Segment.attach(names[0], layout) as writer, Segment.attach(names[1], layout) as reader:
        sides = Sides(writer, reader, arguments.batch)
        sides.compile()
        writer.store("ready", 1)
        for go in (BARE, HANDOFF, *NAMES):
            idle = Idle("spin-then-yield")
            while load_cell(reader.cells, GO) < go and os.getppid() == parent:
                idle(0)
            number = 0
            count = arguments.records if go in NAMES else arguments.rounds
            while number < count and os.getppid() == parent:
                if go == BARE:
                    number = sides.bounce(number, count, leads=False)
                elif go == HANDOFF:
                    number = sides.answer(count)
                else:
                    number = sides.write(go, number, count)
    message = bytearray(RECORD.itemsize)
    for send in (pipe.send_bytes, queue.put):
        pipe.recv_bytes()  # the consumer is ready
        for number in range(arguments.messages):
            message[:8] = number.to_bytes(8, "little")
            send(bytes(message))
    queue.close()
    queue.join_thread()


def require_alive(child, number: int, count: int) -> None:
    """RuntimeError if the producer has ended although not everything came."""
    if number < count and not child.is_alive():
        raise RuntimeError(
            f"the producer ended with exit code {child.exitcode} after {number} of {count} records"
        )


def hand_over(sides: Sides, reader: Segment, rounds: int, child) -> dict[str, float]:
    """A bare line and a record to and fro: ns one way."""
    reader.store("go", BARE)
    number, lines_ns = 0, []
    while number < rounds:
        end, start_ns = min(number + LINE_ROUNDS, rounds), time.perf_counter_ns()
        begun = number
        while number < end:
            number = sides.bounce(number, end, leads=True)
            require_alive(child, number, rounds)
        lines_ns.append((time.perf_counter_ns() - start_ns) / (end - begun) / 2)
    line_ns = statistics.median(lines_ns)
    reader.store("go", HANDOFF)
    while (number := sides.ask(rounds)) < rounds:
        require_alive(child, number, rounds)
    told = histogram.summary(sides.times_ns)
    if told["count"] != rounds:
        raise RuntimeError(f"every record must come back as it was sent, {rounds - told['count']} did not")
    return {"line_ns": line_ns} | {f"handoff_{name}_ns": float(told[name]) for name in ("p50", "p99", "p99.9")}


def consume(sides: Sides, go: int, count: int, child) -> int:
    """Run a reading kernel until everything came, and return the sum of the numbers."""
    number = total = wrong = 0
    while number < count:
        number, some, misplaced = sides.read(go, number, count)
        total, wrong = total + some, wrong + misplaced
        require_alive(child, number, count)
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
    parser.add_argument(
        "--rounds", type=positive, default=200_000, help="records to and fro, one after the other"
    )
    parser.add_argument("--slots", type=power_of_two, default=1 << 14, help="slots of the ring")
    parser.add_argument(
        "--messages", type=positive, default=50_000, help="messages through the queue and the pipe"
    )


@benchmark(
    "ring",
    "64-byte records from one process to another: hand-off, one at a time, in batches; C++ queue, queue, pipe, copy",
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
    layout = side_layout(arguments.slots)
    with (
        Segment.create(f"{prefix}-writer", layout) as writer,
        Segment.create(f"{prefix}-reader", layout) as reader,
    ):
        sides = Sides(reader, writer, arguments.batch)
        names = (writer.name, reader.name)
        child = spawn.Process(target=produce, args=(names, writing_core, arguments, there, queue), daemon=True)
        child.start()
        there.close()  # so that reading ends if the producer does
        sides.compile()
        wait_until_ready(writer, child)
        figures: dict[str, object] = dict(hand_over(sides, reader, arguments.rounds, child))
        facts: dict[str, object] = {}
        for go, name in NAMES.items():
            start_ns = time.perf_counter_ns()
            reader.store("go", go)
            facts[f"sum_{name}"] = consume(sides, go, arguments.records, child)
            figures[f"ring_{name}_per_s"] = arguments.records * 1e9 / (time.perf_counter_ns() - start_ns)
        del sides
    for name, receive in (
        ("pipe_per_s", here.recv_bytes),
        ("queue_per_s", partial(queue.get, timeout=MESSAGE_SECONDS)),
    ):
        here.send_bytes(b"ready")
        figures[name] = messages_per_s(receive, arguments.messages)
    child.join()
    queue.close()
    figures["copy_per_s"] = copies_per_s(arguments.records)
    return (
        figures | facts | beside((writing_core, reading_core), arguments) | {"pinned": reading_core is not None}
    )


def beside(cores: tuple[int | None, int | None], arguments: argparse.Namespace) -> dict[str, object]:
    """The C++ queue's figures and sums, or why there are none."""
    moved = measure_queue(cores, arguments.records, arguments.batch, arguments.slots)
    told: dict[str, object] = {"cpp": program()[1]}
    if moved is not None:
        told |= {
            "cpp_singly_per_s": moved.singly_per_s,
            "cpp_batched_per_s": moved.batched_per_s,
            "sum_cpp": (moved.sum_singly, moved.sum_batched),
        }
    return told


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
