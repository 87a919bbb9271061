"""
What waiting costs, and what it saves: every mode of [wait].

    [producer] -> ring -> [consumer that has been idle]        an idle exchange: [router] [workers] [journals] [publisher]

Tells   for each mode, how long after it was published a record is seen by a consumer in another process that had nothing
        to do for 10 us, 1 ms and 100 ms: p50 and p99; and what an idle embedded exchange with two shards takes of a
        core, in all and by process (journal: the threads of the workers).
Checks  every record arrives.
Needs   2 cores of its own for the latencies; the figures of `spin` with fewer cores than processes are the scheduler's.
        The exchange is left alone for --seconds; what it takes is counted by the kernel, whatever else runs.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np
import psutil
from msgspec.structs import replace
from numba import njit

import ringpit.engine  # noqa: F401 - chooses the folder of numba's cache, before the first kernel is defined
from ringpit.ipc import histogram
from ringpit.ipc.atomics import clock_ns, load_acquire, nap_us, pause
from ringpit.ipc.idle import MODES, idle_step, short_slack
from ringpit.ipc.ring import OWN, give_back, publish, ready_for, ring_words
from ringpit.ipc.segment import Region, Segment, SegmentLayout
from ringpit.perf.harness import benchmark, cores_for, pin, positive
from ringpit.perf.pipeline import RunFailed, costs
from ringpit.shards.config import Config, load
from ringpit.shards.demo import demo_config
from ringpit.shards.sections import Wait
from ringpit.shards.supervisor import Supervisor

SENT: Final = np.dtype([("sent_ns", "<i8"), *((f"rest_{i}", "<i8") for i in range(1, 8))])
SLOTS: Final = 64
SIDE: Final = SegmentLayout(
    "perf-wait", (*ring_words("tail"), *ring_words("head")), (Region("slots", SENT, SLOTS),)
)
TAIL, HEAD = SIDE.index("tail"), SIDE.index("head")
GAPS_US: Final = {10: 2_000, 1_000: 400, 100_000: 25}  # idle time before a record, records
NAP_LEAST_US: Final = 500  # shorter gaps are spun: a nap would be late by as much
POLLS_MAX: Final = 100_000
START_SECONDS: Final = 120
SETTLE_SECONDS: Final = 2.0


@njit(cache=True, nogil=True, _nrt=False)
def wait_for(tail_cells, head_cells, slots, mode, waiting, count, times_ns):
    """Take records as they come, `count` in all. Returns how many were taken: fewer if it waited long."""
    polls = 0
    while head_cells[HEAD + OWN] < count and polls < POLLS_MAX:
        ready = ready_for(1, tail_cells, TAIL, head_cells, HEAD)
        if ready >= 1:
            head = head_cells[HEAD + OWN]  # plain: nobody else touches it
            histogram.record(times_ns, clock_ns() - slots[head & (slots.shape[0] - 1)]["sent_ns"])
            give_back(head_cells, HEAD, head + 1)
            polls = 0
        else:
            polls += 1
        idle_step(waiting, 0, mode, ready >= 1)
    return head_cells[HEAD + OWN]


@njit(cache=True, nogil=True, _nrt=False)
def send_after(tail_cells, head_cells, slots, gap_us):
    """Publish a record `gap_us` after the last one was taken. False, and nothing is published: that takes long."""
    tail = tail_cells[TAIL + OWN]  # plain: nobody else touches it
    polls = 0
    while load_acquire(head_cells, HEAD) != tail:  # pairs with the release of `give_back`
        polls += 1
        if polls > POLLS_MAX:
            return False
        pause()
    began_ns = clock_ns()
    if gap_us >= NAP_LEAST_US:
        nap_us(gap_us - NAP_LEAST_US // 2)
    while clock_ns() - began_ns < gap_us * 1_000:
        pause()
    slots[tail & (slots.shape[0] - 1)]["sent_ns"] = clock_ns()
    publish(tail_cells, TAIL, tail + 1)
    return True


def consume(names: tuple[str, str], core: int | None, mode: str, counts: list[int], pipe) -> None:
    """The consumer process: wait as the mode says, and send a histogram for each gap."""
    pin(core)
    short_slack()
    parent = os.getppid()
    with Segment.attach(names[0], SIDE) as producer, Segment.attach(names[1], SIDE) as own:
        waiting, end = np.zeros(1, np.int64), 0
        ends = (producer.cells, own.cells, producer.region("slots"), MODES[mode], waiting)
        wait_for(*ends, 0, histogram.empty())  # compiles
        pipe.send("ready")
        for count in counts:
            times_ns, end = histogram.empty(), end + count
            while wait_for(*ends, end, times_ns) < end and os.getppid() == parent:
                pass
            pipe.send_bytes(times_ns.data)


def handoffs(mode: str, counts: dict[int, int]) -> dict[str, object]:
    """Latency after each gap of `counts`, in ns."""
    consuming_core, producing_core = cores_for(2)
    pin(producing_core)
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    prefix = f"ringpit-perf-{os.getpid()}"
    figures: dict[str, object] = {}
    with Segment.create(f"{prefix}-sends", SIDE) as own, Segment.create(f"{prefix}-waits", SIDE) as consumer:
        ends = (own.cells, consumer.cells, own.region("slots"))
        names = (own.name, consumer.name)
        child = spawn.Process(
            target=consume, args=(names, consuming_core, mode, list(counts.values()), there), daemon=True
        )
        child.start()
        there.close()  # so that reading ends if the consumer does
        if not here.poll(START_SECONDS):
            raise RunFailed(f"the consumer did not get ready within {START_SECONDS} s")
        here.recv()
        for gap_us, count in counts.items():
            sent = 0
            while sent < count:
                sent += send_after(*ends, gap_us)
                if not child.is_alive() and sent < count:
                    raise RunFailed(f"the consumer ended with exit code {child.exitcode}")
            told = histogram.summary(np.frombuffer(here.recv_bytes(), np.int64))
            if told["count"] != count:
                raise RunFailed(f"{count} records were sent and {told['count']} arrived")
            for name in ("p50", "p99"):
                figures[f"{mode}_after_{gap_us}us_{name}_us"] = told[name] / 1e3
        child.join()
    return figures


def idle_config(folder: Path, mode: str) -> Config:
    """An embedded exchange that waits in one mode everywhere; with as small tables as serve nobody."""
    config = demo_config(load(None), folder, brokers=False)
    return replace(
        config,
        exchange=replace(config.exchange, name=f"perf-{os.getpid()}"),
        wait=Wait(mode=mode),  # type: ignore[arg-type]  # a key of MODES
    )


def idle_cost(mode: str, seconds: float) -> dict[str, object]:
    """Hundredths of a core that each kind of process of an idle exchange takes."""
    with tempfile.TemporaryDirectory(prefix="ringpit-perf-") as folder:
        said: list[str] = []
        with Supervisor(idle_config(Path(folder), mode), said.append) as exchange:
            if not exchange.wait_ready():
                raise RunFailed("the exchange did not start: " + "; ".join(said))
            watch(exchange, SETTLE_SECONDS)
            before, began = spent_ns(exchange), time.perf_counter_ns()
            watch(exchange, seconds)
            after, lasted_ns = spent_ns(exchange), time.perf_counter_ns() - began
            exchange.stop()
    shares = {name: 100 * (after[name] - before[name]) / lasted_ns for name in before}
    figures: dict[str, object] = {f"{mode}_idle_{name}_percent": share for name, share in shares.items()}
    return figures | {f"{mode}_idle_all_percent": sum(shares.values())}


def watch(exchange: Supervisor, seconds: float) -> None:
    """Do what `ringpit run` does, for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not exchange.watch():
            raise RunFailed(f"the exchange ended with {exchange.code.name}")


def spent_ns(exchange: Supervisor) -> dict[str, int]:
    """Processor nanoseconds of every kind of process so far, this one, the supervisor, among them."""
    own = psutil.Process().cpu_times()
    return costs(exchange) | {"supervisor": int((own.user + own.system) * 1e9)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """How long, and which."""
    parser.add_argument("--seconds", type=positive, default=10, help="how long the exchange is left alone")
    parser.add_argument("--records", type=positive, help="of each gap; else 2000, 400 and 25")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="which")


@benchmark(
    "wait",
    "each mode of waiting: latency of a record after idle times, cost of an idle exchange; --repeat 1 takes a minute",
    options=add_options,
    warm_ups=0,
)
def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Every mode after the other."""
    counts = {gap_us: arguments.records or count for gap_us, count in GAPS_US.items()}
    figures: dict[str, object] = {}
    for mode in arguments.modes:
        figures |= handoffs(mode, counts)
    for mode in arguments.modes:
        figures |= idle_cost(mode, arguments.seconds)
    return figures
