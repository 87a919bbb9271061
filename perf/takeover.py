"""
Take-over: a worker is killed under load, and somebody else goes on.

    kill ──> frozen ──> first command sequenced ──> first new match ──> first durable report
        death                 (in the follower's own journal ring)

Runs    an embedded exchange of one shard, fed at a rate by a process of its own; the leading worker is killed by
        SIGKILL from here, again and again, each time as soon as a follower follows and after a pause that the seed draws.
        A case for each heartbeat (--heartbeats); 0 is without follower: a new worker replays the log (the one path).
Tells   microseconds from the kill call to the freeze, from the freeze to the first command sequenced, from the kill call
        to the first new match and to the first durable report: median, 99th percentile, largest, and how many fell
        under each bound; records that the follower was behind at the freeze; switches without a death (false alarms).
Checks  every kill was followed by a new leader that matched and made durable.
Needs   a core for each of seven processes to show what the code costs; on fewer the figures are those of the
        scheduler, which runs feeder, router, worker, journal, follower, publisher and supervisor in turn.

The times are words of the new leader's segment, by the wall clock. The supervisor's back-off between deaths is taken back:
it answers a worker that dies again and again, and would only make this run longer.
"""

import argparse
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec.structs import replace

from ringpit.ipc.segment import Segment
from ringpit.perf.harness import benchmark, positive
from ringpit.shards.config import Config, load
from ringpit.shards.demo import demo_config
from ringpit.shards.feeders import feed_ring
from ringpit.shards.layout import Role, State
from ringpit.shards.supervisor import Child, Supervisor

SEED: Final = 7
EVENTS: Final = 20
WATCH_SECONDS: Final = 0.001
PATIENCE_SECONDS: Final = 60.0
PAUSE_SECONDS_MAX: Final = 0.02
KEYS: Final = 1 << 20  # window of keys: a frame is small here
BOUNDS_US: Final = (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 200_000)
DISTANCES: Final = ("death_to_freeze", "freeze_to_sequenced", "death_to_match", "death_to_durable")


class TakeOverFailed(RuntimeError):
    """Nobody went on after a kill, or the exchange or its feeder ended."""


class TakeOver(NamedTuple):
    """When a kill was called, and when what happened, nanoseconds since the epoch; 0: it did not."""

    killed_ns: int
    frozen_ns: int
    sequenced_ns: int
    first_match_ns: int
    first_durable_ns: int
    lag_records: int

    def distances_us(self) -> dict[str, float]:
        """What is told of each kill; without follower there is no freeze."""
        told = {
            "death_to_match": self.first_match_ns - self.killed_ns,
            "death_to_durable": self.first_durable_ns - self.killed_ns,
        }
        if self.frozen_ns:
            told["death_to_freeze"] = self.frozen_ns - self.killed_ns
            told["freeze_to_sequenced"] = self.sequenced_ns - self.frozen_ns
        return {name: spent_ns / 1e3 for name, spent_ns in told.items()}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark; one run has many kills, so it is not repeated by default."""
    parser.set_defaults(repeat=1)
    parser.add_argument("--kills", type=positive, default=200, help="workers killed for each heartbeat")
    parser.add_argument(
        "--heartbeats",
        default="50,5,2,1,0",
        help="follower.heartbeat_ms of each case, separated by commas; 0: no follower",
    )
    parser.add_argument("--rate", type=float, default=10_000.0, help="orders per second")
    parser.add_argument("--frame", type=positive, default=4, help="orders in one delivery")
    parser.add_argument("--seed", type=int, default=SEED, help="of the pauses between kills")
    parser.add_argument("--folder", type=Path, help="folder for log and output (a temporary one)")


def cases(arguments: argparse.Namespace) -> list[argparse.Namespace]:
    """One case for each heartbeat."""
    common = {name: value for name, value in vars(arguments).items() if name != "heartbeats"}
    return [
        argparse.Namespace(**common, heartbeat_ms=int(text)) for text in arguments.heartbeats.split(",") if text
    ]


def configured(arguments: argparse.Namespace, folder: Path) -> Config:
    """One shard, embedded, packed output of no sink: what is measured stands before it."""
    config = demo_config(load(None), folder / "data", brokers=False)
    return replace(
        config,
        exchange=replace(config.exchange, name=f"perf-{os.getpid()}", shards=1),
        limits=replace(config.limits, keys=KEYS),
        output=replace(config.output, sink="none"),
        follower=replace(
            config.follower,
            enabled=arguments.heartbeat_ms > 0,
            heartbeat_ms=arguments.heartbeat_ms or config.follower.heartbeat_ms,
        ),
    )


class Load:
    """A feeder at a rate, and another one when it is through."""

    def __init__(self, config: Config, arguments: argparse.Namespace) -> None:
        """Start the first."""
        self._config = config
        self._arguments = arguments
        self._context = multiprocessing.get_context("spawn")
        self._number = 0
        self._start()

    def _start(self) -> None:
        """The next feeder, with orders of its own."""
        arguments = self._arguments
        orders = int(arguments.rate * max(arguments.kills, 60))
        self._progress = self._context.Array("d", 4, lock=False)
        self._feeder: Any = self._context.Process(
            target=feed_ring,
            args=(
                self._config,
                orders,
                SEED + self._number,
                EVENTS,
                arguments.frame,
                arguments.rate,
                self._progress,
            ),
            daemon=True,
        )
        self._feeder.start()
        self._number += 1

    def flows(self) -> bool:
        """True while a feeder sends. Raises TakeOverFailed if one failed."""
        if self._feeder.exitcode is not None:
            if self._feeder.exitcode:
                raise TakeOverFailed(f"the feeder ended with code {self._feeder.exitcode}")
            self._start()
        return bool(self._progress[0])

    def stop(self) -> None:
        """End it in the middle."""
        self._feeder.kill()
        self._feeder.join()


class Killer:
    """Kills the leading worker of shard 0 again and again, and reads what the next leader tells."""

    def __init__(
        self, exchange: Supervisor, load: Load, said: list[str], arguments: argparse.Namespace
    ) -> None:
        """Nobody is killed before `kill`."""
        self._exchange = exchange
        self._load = load
        self._said = said
        self._followed = arguments.heartbeat_ms > 0
        self._chance = random.Random(arguments.seed)

    @property
    def worker(self) -> Child:
        """The leading worker."""
        return self._exchange.children[Role.WORKER, 0]

    def watch_until(self, holds: Any, what: str) -> None:
        """Watch the exchange until a condition holds. Raises TakeOverFailed."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            if not self._exchange.watch(WATCH_SECONDS):
                raise TakeOverFailed(f"the exchange ended with {self._exchange.code.name}: {self._said[-3:]}")
            for child in self._exchange.children.values():
                child.deaths = 0
            if time.monotonic() > deadline:
                raise TakeOverFailed(f"{what} after {PATIENCE_SECONDS:.0f} s: {self._said[-3:]}")

    def ready(self) -> bool:
        """True if the leader serves the flow and, where there are followers, one follows it."""
        if not self._load.flows() or self.worker.process is None or self.worker.state != State.RUNNING:
            return False
        served = self.worker.memory.load("first_durable_ns") and self.worker.memory.load("first_match_ns")
        if not self._followed:
            return bool(served)
        follower = self._exchange.children[Role.FOLLOWER, 0]
        return bool(served) and follower.process is not None and follower.state == State.FOLLOWING

    def kill(self) -> TakeOver:
        """Kill the leader once, and wait until the next one has matched and made durable."""
        while True:
            one = self._kill()
            if (
                not self._followed or one.frozen_ns > one.killed_ns
            ):  # else a false alarm came first, and was unseen yet
                return one

    def _kill(self) -> TakeOver:
        """Kill what the supervisor takes for the leader."""
        self.watch_until(self.ready, "nobody is ready")
        pause_end = time.monotonic() + self._chance.uniform(0, PAUSE_SECONDS_MAX)
        self.watch_until(lambda: time.monotonic() > pause_end, "the pause is not over")
        self.watch_until(self.ready, "nobody is ready")
        old = self.worker.incarnation
        assert self.worker.process is not None
        assert self.worker.process.pid is not None
        killed_ns = time.time_ns()
        os.kill(self.worker.process.pid, signal.SIGKILL)
        self.watch_until(
            lambda: self.worker.incarnation != old and served(self.worker.memory), "nobody went on"
        )
        words = ("frozen_ns", "sequenced_ns", "first_match_ns", "first_durable_ns", "lag_records")
        return TakeOver(killed_ns, *(self.worker.memory.load(word) for word in words))


def served(memory: Segment) -> bool:
    """True if this worker has matched and made durable."""
    return bool(memory.load("first_match_ns") and memory.load("first_durable_ns"))


@contextmanager
def loaded_exchange(arguments: argparse.Namespace) -> Iterator[Killer]:
    """An exchange under load, in a folder of its own that is gone at the end."""
    said: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ringpit-perf-", dir=arguments.folder) as folder:
        config = configured(arguments, Path(folder))
        with Supervisor(config, said.append) as exchange:
            if not exchange.wait_ready():
                raise TakeOverFailed("the exchange did not start: " + "; ".join(said))
            load_of_it = Load(config, arguments)
            try:
                yield Killer(exchange, load_of_it, said, arguments)
            finally:
                load_of_it.stop()


def figures_of(take_overs: list[TakeOver]) -> dict[str, float]:
    """Median, 99th percentile and largest of each distance, and how many lie under each bound."""
    figures: dict[str, float] = {}
    told = [one.distances_us() for one in take_overs]
    for name in (name for name in DISTANCES if name in told[0]):
        values = np.array([one[name] for one in told])
        figures |= {
            f"{name}_us_p50": float(np.percentile(values, 50)),
            f"{name}_us_p99": float(np.percentile(values, 99)),
            f"{name}_us_max": float(values.max()),
        }
        figures |= {f"{name}_under_{bound}_us": float((values < bound).sum()) for bound in BOUNDS_US}
    lags = np.array([one.lag_records for one in take_overs])
    return figures | {"lag_records_p50": float(np.percentile(lags, 50)), "lag_records_max": float(lags.max())}


@benchmark(
    "takeover",
    "workers of an embedded exchange under load are killed: from death to freeze, first command, match, durable report",
    options=add_options,
    cases=cases,
    warm_ups=0,
)
def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """All kills of one case, in one exchange."""
    with loaded_exchange(arguments) as killer:
        take_overs = [killer.kill() for _ in range(arguments.kills)]
        switches = killer.worker.take_overs
    false_alarms = switches - arguments.kills if arguments.heartbeat_ms else 0
    return {**figures_of(take_overs), "false_alarms": float(false_alarms), "kills": len(take_overs)}
