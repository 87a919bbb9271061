"""
The demonstration: a whole exchange on this machine, a seeded order flow through it, and a table of what happened.

    feeder ──packed frames──> router ──> workers ──> log
                                            └──> publisher ──> files, or RabbitMQ

The feeder is a process of its own. Over brokers another process reads the reports back from RabbitMQ. The
clock runs from the first frame offered to the last report confirmed; what is counted comes from the processes'
own words in shared memory, and the number of reports from whoever received them.
"""

import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from msgspec.structs import replace
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ringpit.ipc import histogram
from ringpit.shards.config import Config
from ringpit.shards.exits import Exit
from ringpit.shards.feeders import feed_rabbit, feed_ring
from ringpit.shards.latency_view import ALL, Part, verdict_of
from ringpit.shards.layout import Role, State
from ringpit.shards.readback import read_back
from ringpit.shards.stages import STAGES
from ringpit.shards.supervisor import Supervisor
from ringpit.shards.watching import counts_of

FOLDER_MARK: Final = "made-by-ringpit-demo"
WATCH_SECONDS: Final = 0.1
SETTLE_SECONDS: Final = 0.6  # by then every process, idle again, has shown what it cost
NS_PER_US: Final = 1_000
QUANTILES: Final = ("p50", "p99", "p99.9", "max")


class Demo:
    """
    One run.

    Args:
        config: How the exchange is set up; its data folder is emptied first if an earlier run made it.
        orders, seed, events, frame_orders: The flow.
        orders_per_second: Open-loop rate; 0: as fast as it is taken.
        say: Gets one line for each fact.
        interrupted, at_once: True as soon as a stop is wanted, and as soon as it shall wait for nothing.
    """

    def __init__(
        self,
        config: Config,
        *,
        orders: int,
        seed: int,
        events: int,
        frame_orders: int,
        orders_per_second: float,
        say: Callable[[str], None],
        interrupted: Callable[[], bool] = lambda: False,
        at_once: Callable[[], bool] = lambda: False,
    ) -> None:
        """Nothing runs before `run`."""
        self.config = config
        self.orders = orders
        self.seed = seed
        self.events = events
        self.frame_orders = frame_orders
        self.rate = orders_per_second
        self._say = say
        self._console = Console(stderr=True)
        self._interrupted = interrupted
        self._at_once = at_once
        self._idle_ns: dict[str, int] = {}  # what starting cost

    def run(self) -> Exit:
        """Run it, print the table, and return the exit code."""
        prepare_folder(self.config.data_folder())
        with Supervisor(self.config, self._say, at_once=self._at_once) as exchange:
            if not exchange.wait_ready(lambda: not self._interrupted()):
                exchange.stop()
                return exchange.code if exchange.code is not Exit.STOPPED else Exit.UNAVAILABLE
            self._say(f"accepting orders {exchange.ready_seconds:.2f} s after the processes were started")
            context = multiprocessing.get_context("spawn")
            progress = context.Array("d", 4, lock=False)
            over_rabbit = self.config.intake.source == "rabbitmq"
            received = context.Array("q", 4, lock=False)
            reader = None
            if self.config.output.sink == "rabbitmq":
                reader = context.Process(target=read_back, args=(self.config, received), daemon=True)
                reader.start()
                while not received[0] and exchange.watch(WATCH_SECONDS) and not self._interrupted():
                    pass
            feeder = context.Process(
                target=feed_rabbit if over_rabbit else feed_ring,
                args=(self.config, self.orders, self.seed, self.events, self.frame_orders, self.rate, progress),
                daemon=True,
            )
            self._idle_ns = costs(exchange)
            feeder.start()
            seconds = self._watch(exchange, feeder, progress)
            done = seconds > 0
            if done:
                exchange.watch(SETTLE_SECONDS)
                facts = self._facts(exchange, seconds, progress[1])
            exchange.stop()
            if reader is not None:
                self._drain(reader, received, facts if done else {})
            if done:
                self._print(facts, exchange)
        if not done:
            self._say("interrupted: no table")
        return exchange.code

    def _drain(self, reader: Any, received: Any, facts: dict[str, Any]) -> None:
        """Wait until the reader has every report that was confirmed, or nothing more comes."""
        wanted = facts.get("reports", 0)
        deadline = time.monotonic() + 10
        while received[1] < wanted and time.monotonic() < deadline and not self._interrupted():
            reader.join(0.05)
        facts["received"] = received[1]
        facts["received_bytes"] = received[2]
        reader.kill()
        reader.join()

    def _watch(self, exchange: Supervisor, feeder: Any, progress: Any) -> float:
        """Show progress until everything is through; the seconds it took, 0 if interrupted or failed."""
        total = -(-(self.orders + self.events) // self.frame_orders)
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not sys.stderr.isatty(),
        ) as bar:
            task = bar.add_task("orders durable", total=self.orders, facts="")
            said = time.monotonic()
            while True:
                if not exchange.watch(WATCH_SECONDS / 4) or self._interrupted():
                    return 0.0
                durable, confirmed, matched, reports = standing(exchange)
                orders = min(max(durable - self.config.exchange.shards * total - self.events, 0), self.orders)
                facts = f"{orders:>10,} orders durable {reports:>10,} reports published"
                bar.update(task, completed=orders, facts=facts)
                if not sys.stderr.isatty() and time.monotonic() - said >= 1:
                    said = time.monotonic()
                    self._say(facts)
                if feeder.exitcode is not None:
                    if feeder.exitcode != 0:
                        self._say(f"the feeder ended with code {feeder.exitcode}")
                        return 0.0
                    if matched and confirmed == matched and drained(exchange, int(progress[0])):
                        break
            return float(time.time() - progress[2])

    def _facts(self, exchange: Supervisor, seconds: float, feeder_cpu: float) -> dict[str, Any]:
        """What the table shows."""
        workers = [child for (role, _), child in exchange.children.items() if role is Role.WORKER]
        routers = [child for (role, _), child in exchange.children.items() if role is Role.ROUTER]
        publisher = exchange.children[Role.PUBLISHER, 0].memory
        counts = stage_counts(exchange)
        stages = {stage.name: histogram.summary(each) for stage, each in zip(STAGES, counts, strict=True)}
        return {
            "seconds": seconds,
            "orders": self.orders,
            "deliveries": sum(child.memory.load("deliveries") for child in routers),
            "malformed": sum(child.memory.load("malformed") for child in routers),
            "reports": publisher.load("reports"),
            "resting": sum(child.memory.load("orders_resting") for child in workers),
            "log_bytes": sum(child.memory.load("log_bytes") for child in workers),
            "stages": stages,
            "slowest": verdict_of(Part(ALL, counts), self.config.output.release),
            "cpu_ns": {name: ns - self._idle_ns[name] for name, ns in costs(exchange).items()}
            | {"feeder": int(feeder_cpu * 1e9)},
        }

    def _print(self, facts: dict[str, Any], exchange: Supervisor) -> None:
        """The table, on standard output."""
        out = Console(highlight=False)
        config = self.config
        seconds = facts["seconds"]
        table = Table(title="What happened", show_header=False, title_justify="left")
        table.add_column()
        table.add_column(justify="right")
        rows = [
            ("orders (new, cancel, amend)", f"{facts['orders']:,}"),
            ("events, shards", f"{self.events}, {config.exchange.shards}"),
            ("deliveries of packed frames", f"{facts['deliveries']:,} of {self.frame_orders} orders"),
            ("reports published", f"{facts['reports']:,}"),
        ]
        if "received" in facts:
            rows.append(("reports read back from RabbitMQ", f"{facts['received']:,}"))
        rows += [
            (
                "trades published",
                f"{self._trades():,}" if config.output.sink == "files" else "on their exchange",
            ),
            ("orders resting at the end", f"{facts['resting']:,}"),
            ("wall time, first order to last report", f"{seconds:.2f} s"),
            ("orders per second", f"{facts['orders'] / seconds:,.0f}"),
            ("reports per second", f"{facts['reports'] / seconds:,.0f}"),
            ("log", f"{facts['log_bytes'] / 1e6:,.1f} MB"),
            ("processes started again", f"{sum(child.restarts for child in exchange.children.values())}"),
        ]
        for row in rows:
            table.add_row(*row)
        out.print(table)
        costs = Table(title="CPU nanoseconds per order", title_justify="left")
        for name in facts["cpu_ns"]:
            costs.add_column(name, justify="right")
        costs.add_row(*(f"{cpu_ns / facts['orders']:,.0f}" for cpu_ns in facts["cpu_ns"].values()))
        out.print(costs)
        pace = f"{self.rate:,.0f} orders/s" if self.rate else "full speed"
        stages = Table(title=f"Latency per stage at {pace}, microseconds", title_justify="left")
        for heading in ("stage", *QUANTILES):
            stages.add_column(heading, justify="left" if heading == "stage" else "right")
        for stage in STAGES:
            summary = facts["stages"][stage.name]
            stages.add_row(stage.name, *(f"{summary[name] / NS_PER_US:,.1f}" for name in QUANTILES))
        out.print(stages)
        legend = Table.grid(padding=(0, 2))
        for stage in STAGES:
            legend.add_row(f"  {stage.name}", f"{stage.start} -> {stage.end}")
        out.print(legend, f"  {facts['slowest']['Sentence']}")
        if not self.rate:
            out.print("  At full speed every ring is full: these are queueing times. For latency: --rate 20000")
        out.print("Where it is:")
        if config.log.kind == "segments":
            out.print(f"  log      {config.log_folder()}")
        elif config.log.kind == "kafka":
            out.print(f"  log      Kafka topic {config.log_topic()} at {config.kafka.bootstrap}")
        if config.output.sink == "files":
            for path in sorted((config.data_folder() / "out").iterdir()):
                out.print(f"  output   {path}  {path.stat().st_size / 1e6:,.1f} MB")
        elif config.output.sink == "rabbitmq":
            out.print(f"  output   RabbitMQ exchanges {config.rabbitmq.reports_exchange} and its fellows")

    def _trades(self) -> int:
        """Lines of the tape."""
        path = self.config.data_folder() / "out" / "trades.ndjson"
        if not path.exists():
            return 0
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def costs(exchange: Supervisor) -> dict[str, int]:
    """CPU nanoseconds of each kind of process since it was started."""
    spent = dict.fromkeys(("router", "worker", "journal", "publisher"), 0)
    for child in exchange.children.values():
        spent[child.role.label] += child.memory.load("cpu_ns")
        if child.role is Role.WORKER:
            spent["journal"] += child.memory.load("journal_cpu_ns")
    return spent


def stage_counts(exchange: Supervisor) -> np.ndarray:
    """The counts of every stage, all shards added up: int64 of stages x buckets."""
    config = exchange.config.exchange
    counts = counts_of(lambda role, index: exchange.children[role, index].memory, config.routers, config.shards)
    total: np.ndarray = counts.sum(axis=0)
    return total


def standing(exchange: Supervisor) -> tuple[int, int, int, int]:
    """Durable, confirmed and matched records over all shards, and reports published."""
    publisher = exchange.children[Role.PUBLISHER, 0].memory
    durable = confirmed = matched = 0
    for (role, shard), child in exchange.children.items():
        if role is Role.WORKER:
            durable += child.memory.load("durable_seq")
            matched += child.memory.load("matched_seq")
            confirmed += publisher.load(f"confirmed_seq.{shard}")
    return durable, confirmed, matched, publisher.load("reports")


def drained(exchange: Supervisor, sent: int) -> bool:
    """
    True if all deliveries that were sent are acknowledged, and all processes run.

    A router that was started again counts anew: then it is enough that it has nothing left.
    """
    routers = [child for (role, _), child in exchange.children.items() if role is Role.ROUTER]
    acknowledged = sum(child.memory.load("acknowledged") for child in routers)
    taken = sum(child.memory.load("deliveries") + child.memory.load("malformed") for child in routers)
    counted_anew = any(child.restarts for child in routers)
    running = all(child.state == State.RUNNING for child in exchange.children.values())
    return running and acknowledged == taken and (counted_anew or acknowledged >= sent)


def prepare_folder(folder: Path) -> None:
    """
    An empty folder for this run.

    Raises FileExistsError for a folder with files that no demonstration made.
    """
    mark = folder / FOLDER_MARK
    if folder.exists() and any(folder.iterdir()):
        if not mark.exists():
            raise FileExistsError(
                f"the demonstration empties its data folder, and {folder} holds files that it did not make: "
                "name another with --data"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()


def demo_config(config: Config, folder: Path, *, brokers: bool) -> Config:
    """The configuration of a demonstration: its own name and folder, and over brokers its own topic and queue."""
    exchange = replace(config.exchange, name="demo", data=str(folder))
    if not brokers:
        return replace(
            config,
            exchange=exchange,
            intake=replace(config.intake, source="ring"),
            log=replace(config.log, kind="segments", folder=""),
            output=replace(config.output, sink="files"),
        )
    run = str(time.time_ns())
    return replace(
        config,
        exchange=exchange,
        intake=replace(config.intake, source="rabbitmq"),
        log=replace(config.log, kind="kafka"),
        output=replace(config.output, sink="rabbitmq", encoding="packed"),
        kafka=replace(config.kafka, topic=f"ringpit.demo.{run}"),
        rabbitmq=replace(config.rabbitmq, queue=f"ringpit.demo.{run}"),
    )
