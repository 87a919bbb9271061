"""
The whole exchange.     feeder -> router -> workers -> log; workers -> publisher -> files, or RabbitMQ

Runs    the demonstration's order flow in packed frames through real processes: embedded, or over a real RabbitMQ
        and a real Kafka with --brokers; once as fast as it goes, and once at a rate (--rate) for the latencies.
Tells   orders per second from the first frame taken to the last report confirmed; processor nanoseconds per order
        of every process, counted from there on, also of the brokers if RINGPIT_RABBITMQ_PID and
        RINGPIT_KAFKA_PID name them (brokers.env does); latency percentiles of every stage.
Beside  with --brokers the plain loop (loop.py): the same client consumes the same frames and publishes as many bytes in
        messages of the same mean size, with confirms, in the same minute. `loop_ratio` is ours over its orders per second.
Checks  the number of reports is the same in every repeat, and so is the number of deliveries.
Needs   2 cores to mean anything. Over brokers the queue is filled while the router is stopped, so that no feeder
        competes with what is measured; the plain loop finds its queue filled, too.
"""

import argparse
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pika
import psutil
from confluent_kafka.admin import AdminClient
from msgspec.structs import replace

from ringpit.ipc import histogram
from ringpit.ipc.segment import Segment
from ringpit.perf.harness import benchmark, positive
from ringpit.perf.loop import broker_cpu_ns, run_loop
from ringpit.shards.config import Config, load
from ringpit.shards.demo import demo_config, drained, stage_counts, standing
from ringpit.shards.feeders import feed_rabbit, feed_ring
from ringpit.shards.layout import Role
from ringpit.shards.processes import endpoint_of
from ringpit.shards.routes import queue_of
from ringpit.shards.stages import STAGES
from ringpit.shards.supervisor import Supervisor

SEED: Final = 7
WATCH_SECONDS: Final = 0.005
PATIENCE_SECONDS: Final = 600.0
QUANTILES: Final = ("p50", "p99", "p99.9")


class RunFailed(RuntimeError):
    """The exchange or its feeder ended before everything was through."""


class Outcome(NamedTuple):
    """What one run of the exchange came to."""

    orders_per_s: float
    reports: int
    deliveries: int
    messages: int
    bytes: int
    cpu_ns: dict[str, int]
    stages: dict[str, dict[str, int]]


def costs(exchange: Supervisor) -> dict[str, int]:
    """
    Processor nanoseconds so far of every role, and of the brokers that the environment names.

    A worker's threads but the first are the journal's: its own, and the
    log's (the Kafka client has some).
    """
    spent = {"router": 0, "worker": 0, "journal": 0, "publisher": 0}
    for (role, _), child in exchange.children.items():
        assert child.process is not None
        assert child.process.pid is not None
        for thread in psutil.Process(child.process.pid).threads():
            name = "journal" if role is Role.WORKER and thread.id != child.process.pid else role.label
            spent[name] += ran_ns(child.process.pid, thread.id)
    return spent | broker_cpu_ns()


def ran_ns(process_id: int, thread_id: int) -> int:
    """Nanoseconds that a thread has run: the scheduler counts them, and what psutil tells is rounded to hundredths of a second."""
    return int(Path(f"/proc/{process_id}/task/{thread_id}/schedstat").read_text(encoding="utf-8").split()[0])


@contextmanager
def stopped(process_id: int) -> Iterator[None]:
    """Hold a process while something is prepared for it."""
    os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process_id, signal.SIGCONT)


def watch_until(exchange: Supervisor, feeder: Any, done: Callable[[], bool]) -> None:
    """Watch until the feeder has ended well and `done`. Raises RunFailed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while feeder.exitcode is None or not done():
        if not exchange.watch(WATCH_SECONDS) or feeder.exitcode:
            raise RunFailed(f"the exchange ended with {exchange.code.name}, the feeder with {feeder.exitcode}")
        if time.monotonic() > deadline:
            raise RunFailed(
                f"not through after {PATIENCE_SECONDS:.0f} s: (durable, confirmed, matched, reports) = {standing(exchange)}"
            )


def through(exchange: Supervisor, sent: int) -> bool:
    """True if all deliveries that were sent are matched, confirmed and acknowledged."""
    _, confirmed, matched, _ = standing(exchange)
    return bool(matched) and confirmed == matched and drained(exchange, sent)


def run_exchange(
    config: Config, arguments: argparse.Namespace, orders: int, rate: float, form: str = "packed"
) -> Outcome:
    """Run one flow, in one of the feeders' FORMS, through one exchange. Raises RunFailed."""
    context = multiprocessing.get_context("spawn")
    progress = context.Array("d", 4, lock=False)
    over_rabbit = config.intake.source == "rabbitmq"
    feeder = context.Process(
        target=feed_rabbit if over_rabbit else feed_ring,
        args=(config, orders, SEED, arguments.events, arguments.frame, rate, progress, form),
        daemon=True,
    )
    said: list[str] = []
    with Supervisor(config, said.append) as exchange:
        if not exchange.wait_ready():
            raise RunFailed("the exchange did not start: " + "; ".join(said))
        if over_rabbit and not rate:
            router = exchange.children[Role.ROUTER, 0].process
            assert router is not None
            assert router.pid is not None
            with stopped(router.pid):
                feeder.start()
                watch_until(exchange, feeder, lambda: True)
                before = costs(exchange)
                began = time.time()
        else:
            before = costs(exchange)
            feeder.start()
            began = 0.0
        watch_until(exchange, feeder, lambda: through(exchange, int(progress[0])))
        seconds = time.time() - max(began, progress[2])
        spent = {name: total - before[name] for name, total in costs(exchange).items()}
        spent["feeder"] = int(progress[1] * 1e9)
        outcome = outcome_of(exchange, orders / seconds, spent)
        exchange.stop()
    return outcome


def segment_of(exchange: Supervisor, role: Role, index: int) -> Segment:
    """What a process writes; each has a segment from the supervisor's start to its end."""
    segment = exchange.children[role, index].segment
    assert segment is not None
    return segment


def outcome_of(exchange: Supervisor, orders_per_s: float, spent: dict[str, int]) -> Outcome:
    """Collect what the processes tell in shared memory."""
    publisher, router = (segment_of(exchange, role, 0) for role in (Role.PUBLISHER, Role.ROUTER))
    counts = stage_counts(exchange)
    stages = {
        stage.name.replace(" ", "_"): histogram.summary(each)
        for stage, each in zip(STAGES, counts, strict=True)
    }
    return Outcome(
        orders_per_s,
        publisher.load("reports"),
        router.load("deliveries"),
        publisher.load("messages"),
        publisher.load("bytes"),
        spent,
        stages,
    )


@contextmanager
def exchange_config(arguments: argparse.Namespace) -> Iterator[Config]:
    """The configuration of one run in a folder, queue and topic of its own, which are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="ringpit-perf-", dir=arguments.folder) as folder:
        config = demo_config(load(None), Path(folder) / "data", brokers=arguments.brokers)
        config = replace(
            config,
            exchange=replace(config.exchange, name=f"perf-{os.getpid()}", shards=arguments.shards),
            output=replace(config.output, encoding="packed" if arguments.brokers else arguments.encoding),
        )
        try:
            yield config
        finally:
            if arguments.brokers:
                remove_from_brokers(config)


def remove_from_brokers(config: Config) -> None:
    """Delete the queues and the topic of a run."""
    connection = pika.BlockingConnection(endpoint_of(config).parameters())
    channel = connection.channel()
    for router in range(config.exchange.routers):
        channel.queue_delete(queue_of(config, router))
    connection.close()
    admin = AdminClient({"bootstrap.servers": config.kafka.bootstrap, **config.kafka.settings})
    for deleted in admin.delete_topics([config.kafka.topic]).values():
        deleted.result()


def add_options(parser: argparse.ArgumentParser) -> None:
    """What runs, and how much."""
    parser.add_argument("--brokers", action="store_true", help="over RabbitMQ and Kafka, beside the plain loop")
    parser.add_argument("--orders", type=positive, default=1_000_000, help="orders at full speed")
    parser.add_argument("--rate", type=positive, default=20_000, help="orders a second of the second run")
    parser.add_argument("--paced-orders", type=positive, default=100_000, help="orders at that rate")
    parser.add_argument("--events", type=positive, default=20, help="events the orders are spread over")
    parser.add_argument("--frame", type=positive, default=100, help="orders in one delivery")
    parser.add_argument("--shards", type=positive, default=2, help="worker processes")
    parser.add_argument(
        "--encoding", choices=("json", "packed"), default="json", help="of reports; over brokers always packed"
    )
    parser.add_argument("--folder", type=Path, help="folder for log and output (a temporary one)")


@benchmark(
    "pipeline",
    "the whole exchange: packed frames in, reports out; embedded, or over brokers",
    options=add_options,
    warm_ups=0,
)
def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """One run at full speed, with brokers then the plain loop, and one at a rate."""
    with exchange_config(arguments) as config:
        full = run_exchange(config, arguments, arguments.orders, 0)
        figures: dict[str, object] = {
            "orders_per_s": full.orders_per_s,
            "message_bytes": full.bytes / full.messages,
            "messages_per_order": full.messages / arguments.orders,
            **{f"{name}_cpu_ns_per_order": spent / arguments.orders for name, spent in full.cpu_ns.items()},
        }
        if arguments.brokers:
            beside = run_loop(
                config, arguments.orders, SEED, arguments.events, arguments.frame, full.bytes, full.messages
            )
            figures |= beside
            figures["loop_ratio"] = full.orders_per_s / beside["loop_orders_per_s"]
    with exchange_config(arguments) as config:
        paced = run_exchange(config, arguments, arguments.paced_orders, arguments.rate)
    for pace, outcome in (("full", full), ("paced", paced)):
        for stage, summary in outcome.stages.items():
            figures |= {f"{pace}_{stage}_us_{quantile}": summary[quantile] / 1e3 for quantile in QUANTILES}
    return {**figures, "reports": full.reports, "deliveries": full.deliveries, "paced_reports": paced.reports}
