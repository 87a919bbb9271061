"""
Ring in to report out: one worker under an open loop.     [injector, core 1] ──frames──> [worker, core 2] ──reports──> [injector]

Runs    a worker as a shard has it (shards/worker.py: tables, rings, its loop and its turns of Python, market data on), in a
        process and on a core of its own, spinning; the referee's messages of scenario normal, one command a frame (--frame), each frame with
        a key and due at a fixed time: 0.1, 0.5, 1, 2 and 5 million commands a second (--rates).
Tells   from when a command was due to when its first report has been read: p50, p95, p99, p99.9, p99.99, max; the rate achieved, and the
        share of frames written more than a microsecond late: then it is the injector that falls behind, and times include it.
        Beside it what a spinning core of this machine is kept from (shards/jitter.py): a floor under the tail.
In      writing the frame into the input ring, the way between the cores, taking, stamping, sequencing and copying it into the journal
        ring, matching, writing the reports (ACCEPTED, fills, LEVEL, FRAME) into the output ring, the way back, reading them.
Out     router and publisher; the log: the injector gives journal slots back unread, as if the log took them at once, and takes
        reports before the log has them (release "matched"); snapshots and followers.
        The first 20,000 commands fill book and caches, and are not counted.
Checks  every command has a report, and the number of reports is the same in every repeat.
Needs   2 cores of its own. On shared cores the figures are the scheduler's: the worker stands still while somebody else has its
        core. With --realtime both have real-time priority while the clock runs, and everybody else on their cores stands still:
        so such runs are short (0.1 s: Linux takes 50 ms of each second away from who has it), and for no machine on which
        somebody would notice.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple, Self

import numpy as np
from msgspec.structs import replace
from numba import njit

from ringpit.engine.codes import CommandKind
from ringpit.engine.records import MARKER
from ringpit.ipc import histogram
from ringpit.ipc.atomics import clock_ns, load_acquire, store_release
from ringpit.ipc.histogram import record
from ringpit.ipc.ring import published, release
from ringpit.ipc.segment import Segment
from ringpit.perf.harness import CannotMeasureError, benchmark, cores, pin, positive
from ringpit.perf.load_flow import NS_PER_SECOND, books_of
from ringpit.perf.referee import encode
from ringpit.perf.referee_flow import SEED, alive_max, messages
from ringpit.perf.stage import power_of_two_above
from ringpit.shards.config import Config
from ringpit.shards.feeders import become_child
from ringpit.shards.flow import frames
from ringpit.shards.jitter import measure as measure_jitter
from ringpit.shards.layout import (
    board_layout,
    first_position,
    publisher_layout,
    queries_layout,
    router_layout,
    segment_name,
    worker_layout,
)
from ringpit.shards.peers import Peers
from ringpit.shards.worker import Worker
from ringpit.wal.memory import MemoryLog

RATES: Final = "0.1,0.5,1,2,5"
SECONDS: Final = 1.0
REALTIME_SECONDS: Final = 0.1
LIVES: Final = 1_000_000  # of the referee's flow
INCARNATION: Final = 1
MILLION: Final = 1_000_000
WARM: Final = 20_000  # commands before the clock, for pages and caches
WARM_GAP_NS: Final = 5_000
LEAD_NS: Final = 20_000_000
CALL_NS: Final = 100_000_000  # of a call of the kernel
AHEAD: Final = 32  # frames written before the tail moves, if so many are due
READ_MAX: Final = 256  # reports read between two looks at the clock
LATE_NS: Final = 1_000
START_SECONDS: Final = 600.0  # the first start on a machine compiles
STALL_SECONDS: Final = 30.0
JITTER_SECONDS: Final = 0.5
REALTIME_PRIORITY: Final = 1
QUANTILES: Final = (
    ("p50", 0.5),
    ("p95", 0.95),  # shared cores lose more than one hundredth of the time: what lies behind it is theirs
    ("p99", 0.99),
    ("p99_9", 0.999),
    ("p99_99", 0.9999),
    ("max", 1.0),
)
MARKER_KIND: Final = int(CommandKind.MARKER)
NEXT, LATE, SEEN_SEQ, REPORTS, ANSWERED = range(5)


class WorkerStalled(RuntimeError):
    """The worker ended, or gave no report for STALL_SECONDS."""


class Ends(NamedTuple):
    """The shared words and rings that the injector uses."""

    slots: np.ndarray  # COMMAND: the input ring
    markers: np.ndarray  # the same as MARKER
    router: np.ndarray  # int64 cells: ours as a router
    worker: np.ndarray  # int64 cells: the worker's
    publisher: np.ndarray  # int64 cells: ours as a publisher
    reports: np.ndarray  # REPORT: the output ring
    at: (
        np.ndarray
    )  # int64: where input tail, input head, output tail, output head, journal tail and journal head lie


@njit(cache=True, nogil=True)
def write_due(e, records, starts, due_ns, now_ns, base, own, late_ns):
    """Write the frames that are due, AHEAD at most and as far as there is room, and move the tail once."""
    mask = e.slots.shape[0] - 1
    tail = base + starts[own[NEXT]]
    first = tail
    head = load_acquire(e.worker, e.at[1])  # pairs with the worker's release of its input head
    for _ in range(AHEAD):
        frame = own[NEXT]
        if frame == due_ns.shape[0] or due_ns[frame] > now_ns:
            break
        count = starts[frame + 1] - starts[frame]
        if tail + count - head > e.slots.shape[0]:
            break
        for i in range(count):
            e.slots[(tail + i) & mask] = records[starts[frame] + i]
        e.markers[tail & mask]["ingress_ns"] = now_ns
        if now_ns - due_ns[frame] > late_ns:
            own[LATE] += 1
        tail += count
        own[NEXT] = frame + 1
    if tail != first:
        store_release(e.router, e.at[0], tail)  # pairs with the acquire in `take_run`


@njit(cache=True, nogil=True)
def read_reports(e, due_of_seq, first_seq, own, told):
    """Read what is in the output ring, READ_MAX at most, and count the first report of each command."""
    head = e.publisher[e.at[3]]  # plain: only the injector writes it
    tail = min(published(e.worker, e.at[2]), head + READ_MAX)
    if tail == head:
        return
    now_ns = clock_ns()
    mask = e.reports.shape[0] - 1
    for position in range(head, tail):
        seq = e.reports[position & mask]["seq"]
        if seq > own[SEEN_SEQ]:
            own[SEEN_SEQ] = seq
            due_ns = due_of_seq[seq - first_seq]
            if due_ns != 0:
                record(told, now_ns - due_ns)
                own[ANSWERED] += 1
    own[REPORTS] += tail - head
    release(e.publisher, e.at[3], tail)


@njit(cache=True, nogil=True)
def inject(e, records, starts, due_ns, due_of_seq, first_seq, base, own, told, until_ns, late_ns):
    """Write and read until all commands are answered or a time has come. Returns how many are not answered."""
    commands = records.shape[0] - due_ns.shape[0]
    now_ns = clock_ns()
    while own[ANSWERED] < commands and now_ns < until_ns:
        write_due(e, records, starts, due_ns, now_ns, base, own, late_ns)
        read_reports(e, due_of_seq, first_seq, own, told)
        journal = published(e.worker, e.at[4])
        if journal != e.worker[e.at[5]]:  # plain: in place of the journal thread nobody else writes it
            release(e.worker, e.at[5], journal)
        now_ns = clock_ns()
    return commands - own[ANSWERED]


def worker_process(config: Config, core: int | None, pipe: Any) -> None:
    """Process entry: a worker without a journal thread, until the board says stop."""
    become_child()
    pin(core)
    segment = Segment.attach(segment_name(config, "worker", 0, INCARNATION), worker_layout(config))
    worker = Worker(config, 0, segment, Peers(config), MemoryLog, lambda _text: None)
    _, state, replay = worker.recover()
    worker.begin(state, replay)
    pipe.send(state.next_seq)
    while not worker.step():
        pass


class Bench:
    """Shared memory of an exchange with one shard, its worker, and the injector's ends. A context manager."""

    def __init__(self, config: Config) -> None:
        """Make the memory and start the worker on the last core; this process goes to the first."""
        self.config = config
        self._stack = ExitStack()
        words = {"router.0.incarnation": 1, "publisher.0.incarnation": 1, "worker.0.incarnation": INCARNATION}
        self.board = self._create("board", board_layout(config), 0)
        self._create("queries", queries_layout(config), 0)
        self.router = self._create("router", router_layout(config), 1)
        self.publisher = self._create("publisher", publisher_layout(config), 1)
        self.worker = self._create("worker", worker_layout(config), INCARNATION)
        self.base = first_position(1)
        self.router.store("input_tail.0", self.base)
        self.router.store("input_base.0", self.base)
        self.router.store("input_peer.0", INCARNATION)
        self.publisher.store("output_head.0", first_position(INCARNATION))
        for word, value in words.items():
            self.board.store(word, value)
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.child: Any = spawn.Process(target=worker_process, args=(config, cores()[-1], theirs), daemon=True)
        self.child.start()
        theirs.close()
        if not self.pipe.poll(START_SECONDS):
            raise WorkerStalled(f"the worker did not start within {START_SECONDS:.0f} s")
        self.seq = int(self.pipe.recv())
        pin(cores()[0])
        self.ends = self._ends()

    def _create(self, label: str, layout: Any, incarnation: int) -> Segment:
        """A segment, which goes with this."""
        name = segment_name(self.config, label, 0, incarnation)
        return self._stack.enter_context(Segment.create(name, layout, incarnation))

    def _ends(self) -> Ends:
        """Our ends of the rings."""
        slots = self.router.region("input.0")
        router, worker, publisher = (each.layout.index for each in (self.router, self.worker, self.publisher))
        at = (
            router("input_tail.0"),
            worker("input_head.0"),
            worker("output_tail"),
            publisher("output_head.0"),
            worker("journal_tail"),
            worker("journal_head"),
        )
        return Ends(
            slots,
            slots.view(MARKER),
            self.router.cells,
            self.worker.cells,
            self.publisher.cells,
            self.worker.region("output"),
            np.array(at, np.int64),
        )

    def run(self, records: np.ndarray, due_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """
        Send frames, each when it is due (ns from now), and read all reports: the histogram of times, the injector's counts, and the
        seconds from the first due time to the last report.

        Raises WorkerStalled.
        """
        starts = np.append(np.flatnonzero(records["kind"] == MARKER_KIND), len(records))
        placed = records.copy()
        placed.view(MARKER)["position"][starts[:-1]] = self.base + starts[1:]
        due_of_seq = np.repeat(due_ns, np.diff(starts))
        told, own = histogram.empty(), np.zeros(5, np.int64)
        own[SEEN_SEQ] = self.seq - 1
        start_ns = time.time_ns() + LEAD_NS  # after all that takes long
        due_ns = due_ns + start_ns
        due_of_seq += start_ns
        due_of_seq[starts[:-1]] = 0
        tables = (self.ends, placed, starts, due_ns, due_of_seq, self.seq, self.base, own, told)
        left, moved = 1, time.monotonic()
        while left:
            before = int(own[ANSWERED])
            left = int(inject(*tables, time.time_ns() + CALL_NS, LATE_NS))
            moved = time.monotonic() if own[ANSWERED] > before else moved
            if not self.child.is_alive() or time.monotonic() > moved + STALL_SECONDS:
                raise WorkerStalled(
                    f"{left} commands have no report; the worker's exit code: {self.child.exitcode}"
                )
        self.seq += len(records)
        self.base += len(records)
        return told, own, (time.time_ns() - start_ns) / NS_PER_SECOND

    @contextmanager
    def realtime(self, *, wanted: bool) -> Iterator[None]:
        """Give worker and injector real-time priority inside, if it is wanted. Raises CannotMeasureError."""
        if not wanted:
            yield
            return
        both = (0, self.child.pid)
        try:
            for process in both:
                os.sched_setscheduler(process, os.SCHED_FIFO, os.sched_param(REALTIME_PRIORITY))
            yield
        except PermissionError:
            raise CannotMeasureError(
                "--realtime needs CAP_SYS_NICE or an rtprio limit: ringpit doctor, rtprio"
            ) from None
        finally:
            for process in both:
                os.sched_setscheduler(process, os.SCHED_OTHER, os.sched_param(0))

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop the worker and remove everything."""
        self.board.store("worker.0.stop", 1)
        self.child.join(STALL_SECONDS)
        if self.child.is_alive():
            self.child.kill()
            self.child.join()
        self.pipe.close()
        del self.ends
        self._stack.close()


@contextmanager
def stage(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The commands and their frames."""
    if len(cores()) < 2:
        raise CannotMeasureError("injector and worker need a core each: give this process 2 (taskset, cpuset)")
    flow = messages("normal", seed=SEED, orders=LIVES)
    count = min(int(arguments.rate * MILLION * arguments.seconds), len(flow.kind) - WARM, arguments.commands)
    commands = encode(flow)[: WARM + count]
    config = Config()
    levels = config.limits.levels
    created = books_of(commands, 1, levels)
    orders = max(power_of_two_above(alive_max(flow)), 1 << 12)
    with tempfile.TemporaryDirectory(prefix="ringpit-latency-") as folder:
        config = replace(
            config,
            exchange=replace(
                config.exchange, name=f"latency-{os.getpid()}", data=folder, shards=1, generation=1
            ),
            limits=replace(config.limits, events=16, orders=orders),
            wait=replace(config.wait, mode="spin"),
            output=replace(config.output, release="matched"),
            snapshots=replace(config.snapshots, interval_seconds=0),
        )
        yield {
            "config": config,
            "created": frames(created, 1, publisher_key=1),
            "warm": frames(commands[:WARM], 1, publisher_key=2),
            "frames": frames(commands[WARM:], arguments.frame, publisher_key=3),
            "commands": count,
        }


def cases(arguments: argparse.Namespace) -> list[argparse.Namespace]:
    """A case for each rate."""
    seconds = arguments.seconds or (REALTIME_SECONDS if arguments.realtime else SECONDS)
    return [
        argparse.Namespace(**(vars(arguments) | {"seconds": seconds, "rate": float(rate)}))
        for rate in arguments.rates.split(",")
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """How fast, and how long."""
    parser.add_argument("--rates", default=RATES, help=f"million commands a second ({RATES})")
    parser.add_argument(
        "--seconds",
        type=float,
        default=None,
        help=f"length of a rate ({SECONDS:g}; {REALTIME_SECONDS:g} with --realtime)",
    )
    parser.add_argument("--frame", type=positive, default=1, help="commands in a frame (1)")
    parser.add_argument("--realtime", action="store_true", help="with real-time priority while the clock runs")
    parser.add_argument("--commands", type=positive, default=1_900_000, help="of a rate at most")


@benchmark(
    "latency",
    "ring in to report out of one spinning worker, open loop, commands of the referee one a frame",
    options=add_options,
    stage=stage,
    cases=cases,
    warm_ups=0,
)
def measure(arguments: argparse.Namespace, staged: dict[str, Any]) -> dict[str, object]:
    """One run of one rate with a fresh worker, and the jitter of its core."""
    jitter = measure_jitter(JITTER_SECONDS, cores()[-1])
    with Bench(staged["config"]) as bench:
        bench.run(staged["created"], np.zeros(1, np.int64))
        bench.run(staged["warm"], np.arange(WARM) * WARM_GAP_NS)
        count = staged["commands"]
        due_ns = np.arange(0, count, arguments.frame) * (NS_PER_SECOND / (arguments.rate * MILLION))
        with bench.realtime(wanted=arguments.realtime):
            told, own, seconds = bench.run(staged["frames"], due_ns.astype(np.int64))
    return {
        **{f"{name}_us": histogram.percentile(told, quantile) / 1_000 for name, quantile in QUANTILES},
        "achieved_m_per_s": count / seconds / MILLION,
        "late_share": float(own[LATE]) / len(due_ns),
        "jitter_longest_us": jitter.longest_ns / 1_000,
        "jitter_p99_99_us": jitter.p99_99_ns / 1_000,
        "jitter_lost_share": jitter.lost_fraction,
        "commands": count,
        "reports": int(own[REPORTS]),
    }
