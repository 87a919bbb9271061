"""
Process entry points: what the supervisor starts, one function a role.

Here, and only here, a process attaches shared memory, opens logs and connections, pins itself, and turns
errors into exit codes. The state machines (Router, Worker, Publisher) are given everything they need.

Signals belong to the supervisor: an interrupt from the terminal reaches every process of the group, and the
children ignore it, so that the stop goes through the board in order. A child dies with its parent.
"""

import ctypes
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from ringpit.engine.kernels import kernel  # noqa: F401 - chooses numba's cache before any kernel is defined
from ringpit.engine.state import StateTooLarge
from ringpit.ipc.idle import SPINS_MAX, YIELDS_MAX, Idle, short_slack
from ringpit.ipc.pages import lock, lock_complaint
from ringpit.ipc.segment import Segment, SegmentError, use_pages
from ringpit.shards.amqp import BrokerRefused, Endpoint
from ringpit.shards.config import Config, ConfigError
from ringpit.shards.directory import Directory
from ringpit.shards.exits import Exit
from ringpit.shards.faults import VARIABLE, arm_from
from ringpit.shards.feed import Timing
from ringpit.shards.follower import FellBehind, Follower
from ringpit.shards.ingress import Cell, IngressIntake
from ringpit.shards.intake import Intake, RabbitIntake
from ringpit.shards.layout import Role, State, first_position, ingress_layout, segment_name
from ringpit.shards.mirror import Mirror, mirror_regions
from ringpit.shards.outlet import RabbitSink
from ringpit.shards.output import ShardViews, Word
from ringpit.shards.peers import LAYOUTS, Peers
from ringpit.shards.pinning import be_realtime
from ringpit.shards.publisher import Count, Publisher, Settings
from ringpit.shards.router import Router
from ringpit.shards.routes import queue_of
from ringpit.shards.saying import say_as
from ringpit.shards.sinks import FileSink, NoSink, ReportsOnly, Sink, SinkFailed, StreamSink
from ringpit.shards.worker import Worker, WorkerFrozen
from ringpit.wal.errors import (
    BatchDamaged,
    ChecksumMismatch,
    Fenced,
    LogError,
    LogGap,
    LogUnavailable,
    LogVersionMismatch,
    SkipRefused,
    SnapshotForeign,
    SnapshotMissing,
)
from ringpit.wal.kafka import KafkaLog, KafkaSettings, KafkaView
from ringpit.wal.log import Log, LogView
from ringpit.wal.memory import MemoryLog
from ringpit.wal.segments import SegmentLog, SegmentView

PR_SET_PDEATHSIG: Final = 1
PR_SET_NAME: Final = 15
SKIPPED: Final = SPINS_MAX + YIELDS_MAX + 6  # a poll in Python is worth many spins: the first nap is of 64 us
ADDRESSED_CYCLE_REPORTS: Final = (
    1 << 14
)  # of a backlog: the more at once, the fewer messages, which the broker pays for
DYING_SECONDS: Final = 5.0
REFUSALS: Final = (
    BatchDamaged,
    ChecksumMismatch,
    LogGap,
    LogVersionMismatch,
    SkipRefused,
    SnapshotForeign,
    SnapshotMissing,
    SegmentError,
    BrokerRefused,
)


def enter(config: Config, role: Role, index: int) -> None:
    """Make this a child of the supervisor: dies with it, leaves signals to it, runs where it shall."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    name_process(role, index)
    let_go_of_fork_server()
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it ended before the kernel knew that we shall, too
        os._exit(Exit.UNAVAILABLE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.setswitchinterval(0.0002)
    short_slack()
    cores = config.cpu.cores_of(role.label, index)
    if cores:
        os.sched_setaffinity(0, cores)
    if config.cpu.realtime_priority:
        refused = be_realtime(config.cpu.realtime_priority)
        if refused:
            say_as(f"{role.label}-{index}")(refused)


def use_memory(config: Config, say: Callable[[str], None]) -> None:
    """Map and lock memory as [memory] says; the supervisor has said what the machine does not grant."""
    memory = config.memory
    use_pages(huge=memory.huge_pages == "try", prefault=memory.prefault)
    if memory.lock == "try" and not lock_complaint() and (complaint := lock()):
        say(complaint)


def name_process(role: Role, index: int) -> None:
    """The name that `ps` and `top` show."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NAME, f"{role.label}-{index}".encode(), 0, 0, 0)


def let_go_of_fork_server() -> None:
    """
    Close this child's copy of the pipe whose end tells the fork server that the supervisor has ended.

    multiprocessing gives every child one, for children of its own; with it, the children of a killed supervisor
    would keep the fork server alive, and that them.
    """
    server: Any = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]  # noqa: SLF001 - it has no public way
    if server._forkserver_alive_fd is not None:  # noqa: SLF001 - as above
        os.close(server._forkserver_alive_fd)  # noqa: SLF001 - as above
        server._forkserver_alive_fd = None  # noqa: SLF001 - as above


def run_role(config: Config, role: Role, index: int, incarnation: int) -> None:
    """Entry point of every child: run one role, and exit with the code that says why it ended."""
    name = f"{role.label}-{index}"
    say = say_as(name)
    code = Exit.STOPPED
    try:
        arm_from(os.environ.get(VARIABLE, ""), f"{name}.{incarnation}")
        enter(config, role, index)
        use_memory(config, say)
        MAINS[role](config, index, incarnation, say)
    except REFUSALS as error:
        say(str(error))
        code = Exit.REFUSED
    except FellBehind as error:
        say(str(error))
        code = Exit.FELL_BEHIND
    except (LogUnavailable, ConnectionError) as error:
        say(str(error))
        code = Exit.UNAVAILABLE
    except Fenced as error:
        say(str(error))
        code = Exit.FENCED
    except (LogError, SinkFailed, WorkerFrozen) as error:
        say(str(error))
        code = Exit.LOG_FAILED
    except (ConfigError, StateTooLarge) as error:
        say(str(error))
        code = Exit.CONFIG
    except BaseException:  # noqa: BLE001 - the supervisor starts it again, and the reason is on the terminal
        traceback.print_exc()
        code = Exit.BROKEN
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # no destructor may wait for a broker


def own_segment(config: Config, role: Role, index: int, incarnation: int) -> Segment:
    """The segment that the supervisor made for this incarnation."""
    name = segment_name(config, role.memory, index, incarnation)
    return Segment.attach(name, LAYOUTS[role](config), owned=True)


@contextmanager
def opening() -> Iterator[None]:
    """What a value of the configuration cannot be only shows when it is used: a ValueError here is a ConfigError."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None


@opening()
def open_log(config: Config, shard: int) -> Log:
    """
    The shard's log, as the configuration says. Raises LogUnavailable, or ConfigError.

    Whoever had it before may be dying: its lock goes when it is dead, which takes the kernel some milliseconds.
    """
    if config.log.kind == "segments":
        return SegmentLog(
            config.log_folder(),
            shard,
            fsync=config.log.fsync,
            lock_timeout_seconds=DYING_SECONDS,
            segment_bytes=config.log.segment_bytes,
        )
    if config.log.kind == "memory":
        return MemoryLog()
    return KafkaLog(kafka_settings(config), shard)


@opening()
def open_view(config: Config, shard: int) -> LogView:
    """The shard's log, for reading beside its owner. Raises LogUnavailable, or ConfigError."""
    if config.log.kind == "segments":
        return SegmentView(config.log_folder(), shard)
    return KafkaView(kafka_settings(config), shard)


def kafka_settings(config: Config) -> KafkaSettings:
    """The log's own form of [kafka]."""
    return KafkaSettings(
        bootstrap_servers=config.kafka.bootstrap,
        topic=config.log_topic(),
        shards=config.exchange.shards,
        replication_factor=config.kafka.replication,
        flush_messages=config.kafka.flush_messages or None,
        transactional=config.kafka.transactional,
        connect_timeout_seconds=config.kafka.connect_seconds,
        settings=config.kafka.settings,
    )


def endpoint_of(config: Config) -> Endpoint:
    """How to reach RabbitMQ."""
    rabbitmq = config.rabbitmq
    return Endpoint(
        url=str(rabbitmq.url),
        username=rabbitmq.username,
        password=str(rabbitmq.password),
        ca_file=rabbitmq.ca_file,
        certificate_file=rabbitmq.cert_file,
        key_file=rabbitmq.key_file,
        heartbeat_seconds=rabbitmq.heartbeat_seconds,
    )


@opening()
def open_intake(config: Config, router: int, segment: Segment, say: Callable[[str], None]) -> Intake:
    """Where a router's deliveries come from."""
    if config.intake.source == "rabbitmq":
        return RabbitIntake(
            endpoint_of(config),
            queue=queue_of(config, router),
            prefetch=config.rabbitmq.prefetch,
            dead_letter_exchange=config.rabbitmq.dead_letter_exchange,
            dead_letter_queue=config.rabbitmq.dead_letter_exchange,
            scanner=config.rabbitmq.scanner,
            say=say,
        )
    ingress = Segment.attach(segment_name(config, "ingress", router, 0), ingress_layout(config))
    return IngressIntake(
        ingress.region("slots"),
        Cell(ingress.cells, ingress.layout.index("tail")),
        Cell(segment.cells, segment.layout.index("ingress_head")),
        output_folder(config) / "dead.ndjson",
    )


def output_folder(config: Config) -> Path:
    """Folder of NDJSON files; made if it is missing."""
    folder = config.data_folder() / "out"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@opening()
def open_sink(config: Config, say: Callable[[str], None]) -> Sink:
    """Where reports go, and market data unless it is switched off."""
    sink = sink_of(config, say)
    return sink if config.output.market_data else ReportsOnly(sink)


def sink_of(config: Config, say: Callable[[str], None]) -> Sink:
    """The sink that [output] names."""
    if config.output.sink == "files":
        return FileSink(output_folder(config))
    if config.output.sink == "stdout":
        return StreamSink(sys.stdout.fileno(), "standard output")
    if config.output.sink == "none":
        return NoSink()
    rabbitmq = config.rabbitmq
    return RabbitSink(
        endpoint_of(config),
        window=rabbitmq.publish_window,
        exchanges={
            "reports": rabbitmq.reports_exchange,
            "trades": rabbitmq.trades_exchange,
            "prices": rabbitmq.prices_exchange,
            "books": rabbitmq.books_exchange,
        },
        say=say,
    )


def run_router(config: Config, index: int, incarnation: int, say: Callable[[str], None]) -> None:
    """Route until told to stop, then wait for what is pending."""
    peers = Peers(config)
    segment = own_segment(config, Role.ROUTER, index, incarnation)
    intake = open_intake(config, index, segment, say)
    shards = config.exchange.shards
    directory = Directory(shards, config.limits.events * shards, config.placement)
    self_trade = config.orders.self_trade_mode()
    leader = partial(peers.incarnation, Role.WORKER)
    first = first_position(incarnation)
    router = Router(index, segment, first, intake, directory, shards, say, self_trade, leader)
    idle = Idle(config.wait.mode_of("routers"), skipped=SKIPPED)
    timeout_seconds = idle.seconds_after(0)
    seen = [0] * shards
    deadline = 0.0
    turns = 0
    while True:
        if segment.load("state") == State.STARTING and intake.ready():
            segment.store("state", State.RUNNING)
        for shard in range(shards):
            current = peers.incarnation(Role.WORKER, shard)
            if current != seen[shard]:
                router.lose(shard)
                router.attach(shard, peers.attach(Role.WORKER, shard))
                seen[shard] = current
        timeout_seconds = idle.seconds_after(router.step(timeout_seconds))
        turns += 1
        if turns & 63 == 0:
            segment.store("cpu_ns", time.process_time_ns())
        if peers.stop_wanted(Role.ROUTER, index):
            if not deadline:
                deadline = time.monotonic() + config.exchange.stop_seconds
                router.drain()
            if router.idle or time.monotonic() > deadline:
                break
    segment.store("cpu_ns", time.process_time_ns())
    segment.store("state", State.DRAINED)
    router.close()


def run_worker(config: Config, index: int, incarnation: int, say: Callable[[str], None]) -> None:
    """Recover a shard and serve it until told to stop."""
    segment = own_segment(config, Role.WORKER, index, incarnation)
    Worker(config, index, segment, Peers(config), lambda: open_log(config, index), say).run()


def run_follower(config: Config, index: int, incarnation: int, say: Callable[[str], None]) -> None:
    """Follow a shard's worker until told to stop, or become it."""
    segment = own_segment(config, Role.FOLLOWER, index, incarnation)
    worker = Worker(config, index, segment, Peers(config), lambda: open_log(config, index), say)
    promoted = partial(name_process, Role.WORKER, index)
    Follower(worker, lambda: open_view(config, index), say, promoted).run()


def mirror_of(config: Config, segment: Segment, shard: int) -> Mirror:
    """A shard's depth mirror in the publisher's segment."""
    names = (name for name, _, _ in mirror_regions(config.limits.limits()))
    return Mirror(*(segment.region(f"{name}.{shard}") for name in names))


def views_of(config: Config, shard: int, own: Segment, worker: Segment, board: Segment) -> ShardViews:
    """What the publisher reads and writes of one shard."""

    def word(segment: Segment, name: str) -> Word:
        return Word(segment.cells, segment.layout.index(name))

    return ShardViews(
        slots=worker.region("output"),
        incarnation=worker.incarnation,
        epoch=worker.load("report_epoch"),
        epoch_seq=worker.load("report_epoch_seq"),
        tail=word(worker, "output_tail"),
        durable_seq=word(worker, "durable_seq"),
        matched_seq=word(worker, "matched_seq"),
        head=word(own, f"output_head.{shard}"),
        confirmed_seq=word(own, f"confirmed_seq.{shard}"),
        mirror=mirror_of(config, own, shard),
        timing=Timing(
            worker.region("matched_marks"),
            worker.region("durable_marks"),
            own.region(f"publish_ns.{shard}"),
            own.region(f"whole_ns.{shard}"),
            np.array([own.load(f"confirmed_seq.{shard}")]),
        ),
        leads=word(board, f"worker.{shard}.incarnation"),
    )


def run_publisher(config: Config, index: int, incarnation: int, say: Callable[[str], None]) -> None:
    """Publish until told to stop, then what is left."""
    peers = Peers(config)
    segment = own_segment(config, Role.PUBLISHER, index, incarnation)
    output = config.output
    sink = open_sink(config, say)
    publisher = Publisher(
        sink,
        Settings(
            generation=config.exchange.generation,
            release=output.release,
            encoding=output.encoding,
            books_interval_ms=output.books_interval_ms,
            depth=output.depth,
            cycle_reports=ADDRESSED_CYCLE_REPORTS if sink.addressed else Settings.cycle_reports,
        ),
    )
    idle = Idle(config.wait.mode_of("publisher"), skipped=SKIPPED)
    seen = [0] * config.exchange.shards
    deadline = 0.0
    segment.store("state", State.RUNNING)
    turns = before = 0  # before: what the last turn did, so that its end is told at once
    while True:
        for shard in range(config.exchange.shards):
            current = peers.incarnation(Role.WORKER, shard)
            if current != seen[shard]:
                worker = peers.attach(Role.WORKER, shard)
                if worker.load("output_tail") >= first_position(worker.incarnation):  # it has set its words
                    publisher.attach_shard(shard, views_of(config, shard, segment, worker, peers.board))
                    seen[shard] = worker.incarnation
        worked = publisher.step(time.time_ns())
        turns += 1
        segment.store("heartbeat", turns)
        if turns & 63 == 0 or (not worked and (before or turns & 7 == 0)):
            tell_published(segment, publisher)
        before = worked
        if peers.stop_wanted(Role.PUBLISHER, index):
            deadline = deadline or time.monotonic() + config.exchange.stop_seconds
            if publisher.drained() or time.monotonic() > deadline:
                break
        idle(worked)
    finished = publisher.finish(max(deadline - time.monotonic(), 1.0))
    tell_published(segment, publisher)
    segment.store("state", State.DRAINED)
    if not finished:
        say(
            "not everything was confirmed in time; it goes out again at the next start, with the same identities"
        )
    sink.close()


def tell_published(segment: Segment, publisher: Publisher) -> None:
    """Show what the publisher has sent and cost, for whoever watches."""
    for count in (Count.REPORTS, Count.MESSAGES, Count.BYTES):
        segment.store(count.name.lower(), int(publisher.counters[count]))
    segment.store("cpu_ns", time.process_time_ns())


MAINS: Final = {
    Role.FOLLOWER: run_follower,
    Role.ROUTER: run_router,
    Role.WORKER: run_worker,
    Role.PUBLISHER: run_publisher,
}
