"""
A whole exchange as its operator runs it: `ringpit run` in a process group of its own, from a configuration file.

    exchange = RunningExchange(folder, {"exchange": {"name": "test-1"}, ...})
    exchange.start()      returns when it accepts orders
    exchange.stop()       SIGTERM, and the exit code
    exchange.kill()       SIGKILL to every process of it at once
    exchange.digests()    what rests, recovered from its log while it is stopped

Nothing here looks into the running processes, but `RingFeeder`, which feeds an embedded exchange through shared
memory as an embedding program does.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from ringpit.engine.digest import digest
from ringpit.engine.records import COMMAND
from ringpit.engine.tables import Tables
from ringpit.ipc.atomics import load_cell
from ringpit.ipc.segment import Segment
from ringpit.shards.config import Config, load
from ringpit.shards.delivery import publisher_key
from ringpit.shards.ingress import Cell, IngressFeeder
from ringpit.shards.keeper import begin_behind
from ringpit.shards.layout import Role, ingress_layout, pool_limits, segment_name
from ringpit.shards.logs import source_of
from ringpit.shards.peers import Peers
from ringpit.shards.processes import open_log
from ringpit.shards.rerun import first_snapshot, tables_of
from ringpit.shards.topology import resolved
from ringpit.shards.worker import Replay
from ringpit.testing.descent import ended, killed, named_children
from ringpit.testing.submissions import Submission
from ringpit.wal.reader import FIRST, Reader, recover

START_SECONDS: Final = 240.0  # the first start on a machine compiles
STOP_SECONDS: Final = 120.0
TURN_SECONDS: Final = 0.02
READY: Final = "accepting orders"


class ExchangeFailed(AssertionError):
    """An exchange did not start, stop or answer; the message holds what it printed."""


class RunningExchange:
    """
    One exchange, started and stopped any number of times on the same data.

    Args:
        folder: For the configuration, the output and the data.
        settings: Section to keys of the configuration; `exchange.data` is set here.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the configuration; nothing runs."""
        self.file = folder / "ringpit.toml"
        self.output = folder / "output.txt"
        sections = {**settings, "exchange": {**settings["exchange"], "data": str(folder / "data")}}
        self.file.write_text(
            "".join(
                f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
                for name, section in sections.items()
            )
        )
        self.config: Config = resolved(load(self.file))
        self._process: subprocess.Popen[bytes] | None = None
        self._printed_before = 0
        self._asked = False  # to stop

    def start(self) -> None:
        """Start it; returns when it accepts orders. Raises ExchangeFailed."""
        self._asked = False
        self._printed_before = self.output.stat().st_size if self.output.exists() else 0
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ringpit.shards.cli", "run", "-c", str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_for(lambda: READY in self.printed(), START_SECONDS, lambda: "it accepts no orders")

    def printed(self) -> str:
        """What it has printed since its last start."""
        return self.output.read_bytes()[self._printed_before :].decode(errors="replace")

    def wait_for(self, holds: Callable[[], bool], seconds: float, last_seen: Callable[[], str]) -> None:
        """Poll a condition while the exchange runs. Raises ExchangeFailed with `last_seen()` when time is up or it ends."""
        process = self._running()
        deadline = time.monotonic() + seconds
        while True:
            late = (
                time.monotonic() > deadline
            )  # before a last look: this process may be the one that was held up
            if holds():
                return
            try:
                code = process.wait(TURN_SECONDS)
            except subprocess.TimeoutExpired:
                if late:
                    raise ExchangeFailed(
                        f"after {seconds:.0f} s {last_seen()}; it printed:\n{self.printed()}"
                    ) from None
            else:
                raise ExchangeFailed(
                    f"it ended with code {code} while {last_seen()}; it printed:\n{self.printed()}"
                )

    def ask_to_stop(self) -> None:
        """Ask it to stop, as an operator does, and return at once."""
        self._running().send_signal(signal.SIGTERM)
        self._asked = True

    def stop(self) -> int:
        """Stop it, if it was not asked yet, and wait for that; the exit code. Raises ExchangeFailed if it does not stop."""
        process = self._running()
        if not self._asked:
            self.ask_to_stop()
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ExchangeFailed(f"it did not stop; it printed:\n{self.printed()}") from None
        self._process = None
        return code

    def kill(self) -> None:
        """End every process of it at once, as a power cut would; returns when all are gone."""
        self._end_by(lambda pid: os.killpg(pid, signal.SIGKILL))

    def child(self, name: str) -> psutil.Process:
        """One process, such as worker-0, as soon as it is there. Raises ExchangeFailed if it does not come."""
        found: list[psutil.Process] = []

        def running() -> bool:
            found[:] = [child for called, child in named_children(self._running().pid) if called == name]
            return bool(found)

        self.wait_for(running, START_SECONDS, lambda: f"no process is called {name}")
        return found[0]

    def kill_one(self, name: str) -> None:
        """
        End one process, such as worker-0, as a crash would; returns when it is buried, so that the next of its name is another.

        Raises ExchangeFailed if no such process runs.
        """
        self.wait_for(
            lambda: killed(self.child(name), STOP_SECONDS),
            START_SECONDS,
            lambda: f"{name} does not live long enough to be killed",
        )

    def kill_supervisor(self) -> None:
        """End its supervisor alone, as a crash would; returns when all its children have followed it."""
        self._end_by(lambda pid: os.kill(pid, signal.SIGKILL))

    def _end_by(self, kill: Callable[[int], None]) -> None:
        """Kill, given the supervisor's pid, and wait until nobody of it is left."""
        process = self._running()
        children = [child for _, child in named_children(process.pid)]
        kill(process.pid)
        process.wait()
        deadline = time.monotonic() + STOP_SECONDS
        while left := [child for child in children if not ended(child)]:
            if time.monotonic() > deadline:
                raise ExchangeFailed(f"{left} live on after {STOP_SECONDS:.0f} s")
            time.sleep(TURN_SECONDS)
        self._process = None

    def close(self) -> None:
        """Leave nothing running, whatever the test did."""
        if self._process is not None:
            self.stop()

    def _running(self) -> subprocess.Popen[bytes]:
        """The process; ExchangeFailed if there is none."""
        if self._process is None:
            raise ExchangeFailed("the exchange does not run: start it first")
        return self._process

    def reshard(self, shards: int) -> str:
        """Deal its events out anew while it is stopped, as an operator does; what that printed. Raises ExchangeFailed."""
        command = [sys.executable, "-m", "ringpit.shards.cli", "reshard", "-c", str(self.file), "--yes"]
        done = subprocess.run([*command, "--shards", str(shards)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExchangeFailed(f"it was not recut, code {done.returncode}; it printed:\n{done.stderr}")
        self.file.write_text(re.sub(r"(?m)^shards = \d+$", f"shards = {shards}", self.file.read_text()))
        self.config = resolved(load(self.file))
        return done.stdout + done.stderr

    def tables(self, shard: int) -> tuple[Tables, int]:
        """A shard's tables and next seq, recovered from its log as a worker would. Only while it is stopped."""
        generation = self.config.exchange.generation
        first = first_snapshot(source_of(self.config, shard), print)  # of a later generation
        begin, position = (begin_behind(first.facts), first.facts.log_position) if first else (FIRST, 0)
        tables = tables_of(pool_limits(self.config), first, market_data=True)
        log = open_log(self.config, shard)
        try:
            state = recover(
                log, shard, generation, os.getpid(), Replay(tables, 0).apply, begin=begin, position=position
            )
        finally:
            log.close()
        return tables, state.next_seq

    def logged(self, shard: int) -> list[np.ndarray]:
        """COMMAND records of a shard's log, batch by batch, markers among them. Only while it is stopped."""
        log = open_log(self.config, shard)
        try:
            reader = Reader(shard, self.config.exchange.generation)
            parts = [reader.take(entry.batch, log.locate(entry.position))[1] for entry in log.read()]
        finally:
            log.close()
        return [records.view(COMMAND) for records in parts if len(records)]

    def digests(self) -> list[str]:
        """What rests on each shard by its log. Only while it is stopped."""
        return [digest(self.tables(shard)[0]) for shard in range(self.config.exchange.shards)]


class RingFeeder:
    """
    Feeds an embedded exchange through its ingress ring, and remembers what is not acknowledged.

    After a restart of the exchange make a new one with the `unacknowledged` deliveries of the old one first.
    """

    def __init__(self, exchange: RunningExchange) -> None:
        """Attach to a running exchange."""
        self._exchange = exchange
        config = exchange.config
        self._ingress = Segment.attach(segment_name(config, "ingress", 0, 0), ingress_layout(config))
        self._router = Peers(config).attach(Role.ROUTER, 0)
        self._tail = Cell(self._ingress.cells, self._ingress.layout.index("tail"))
        self._head = Cell(self._router.cells, self._router.layout.index("ingress_head"))
        self._feeder = IngressFeeder(self._ingress.region("slots"), self._tail, self._head)
        self._offered: deque[tuple[int, Submission]] = deque()

    def offer(self, deliveries: list[Submission]) -> None:
        """Put deliveries into the ring, in order, as room comes."""
        for delivery in deliveries:
            key = publisher_key(b"", b"", delivery.message_id.encode())
            self._exchange.wait_for(
                partial(self._feeder.offer, delivery.content_type, key, delivery.body),
                STOP_SECONDS,
                lambda: f"the ingress ring is full, {self._feeder.unacknowledged_slots()} slots unacknowledged",
            )
            self._offered.append((load_cell(*self._tail), delivery))

    def settle(self) -> None:
        """Wait until everything offered is acknowledged."""
        self._exchange.wait_for(
            lambda: self._feeder.unacknowledged_slots() == 0,
            STOP_SECONDS,
            lambda: f"{self._feeder.unacknowledged_slots()} slots of the ingress ring are unacknowledged",
        )

    def unacknowledged(self) -> list[Submission]:
        """Deliveries that were offered and not acknowledged, in order; also when the exchange is gone."""
        head = load_cell(*self._head)
        return [delivery for end, delivery in self._offered if end > head]

    def close(self) -> None:
        """Let go of the shared memory."""
        self._ingress.close()
        self._router.close()
