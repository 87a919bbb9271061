"""
Supervisor: makes the shared memory, starts, pins and watches the processes, starts again what dies.

    lock ──> segments ──> processes ──> watch ──> stop: routers, workers, publisher, in that order

Processes are forked from a fork server that has every kernel loaded and no client, socket or thread, so a
process that died is back in some tens of milliseconds plus its recovery. A new incarnation gets a segment
of its own before the board names it; the old one's name is removed then, and its memory lives as long as
somebody reads it.

If the supervisor is killed, the fork server sees it and ends, the kernel kills its children, and the resource
tracker removes the segments. An exit code that another try cannot mend (exits.py) ends the exchange.

Invariants:

    U1  at most one process of a role and index runs: the next is started after the last was reaped
    U2  the board names an incarnation only when its segment is there
"""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from typing import Any, Final, Self

import numpy as np
import pika
from numba import config as config_of_numba
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError

from ringpit.ipc.segment import Segment, remove_stale
from ringpit.shards.amqp import cause_of, remedy_for
from ringpit.shards.config import Config, ConfigError
from ringpit.shards.exits import Exit
from ringpit.shards.layout import (
    Role,
    State,
    board_layout,
    counts,
    ingress_layout,
    prefix,
    queries_layout,
    queries_name,
    segment_name,
)
from ringpit.shards.lock import lock_of_folder, lock_of_name
from ringpit.shards.peers import LAYOUTS
from ringpit.shards.processes import endpoint_of, run_role
from ringpit.shards.warm import warm

WATCH_SECONDS: Final = 0.1
BACKOFF_SECONDS_MIN: Final = 0.05
BACKOFF_SECONDS_MAX: Final = 5.0
DEATHS_IN_A_ROW_MAX: Final = 10
LONG_LIFE_SECONDS: Final = 10.0  # who lived that long dies for a new reason
KILL_GRACE_SECONDS: Final = 5.0
INHERITED: Final = {  # words and regions that a successor goes on with
    Role.ROUTER: ("ingress_head",),
    Role.WORKER: (),
    Role.PUBLISHER: (
        "output_head",
        "confirmed_seq",
        "quantity",
        "bitmap",
        "books",
        "event_index",
        "dirty",
        "cells",
        "whole_ns",
    ),
}


class Unavailable(Exception):
    """A broker is away at the start. Says which, where, and what to do."""


def exit_of(code: int) -> Exit:
    """How the exchange ends when a child ended with a code that is not 0; a signal's is below 0."""
    return Exit(code) if code in set(Exit) else Exit.BROKEN


@dataclass
class Child:
    """One process, over all its incarnations."""

    role: Role
    index: int
    incarnation: int = 0
    process: ForkServerProcess | None = None
    segment: Segment | None = None
    deaths: int = 0  # in a row, each after a short life
    due: float = 0.0  # when to start it again
    started: float = 0.0
    restarts: int = 0
    exits: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As in messages and segment names."""
        return f"{self.role.label}-{self.index}"

    @property
    def memory(self) -> Segment:
        """The segment of the incarnation that counts; there from the exchange's start to its end."""
        assert self.segment is not None
        return self.segment

    @property
    def state(self) -> State:
        """Where it stands, by its own word."""
        return State(self.segment.load("state")) if self.segment else State.STARTING


class Supervisor:
    """
    One exchange on one machine; a context manager that starts and stops it.

    Args:
        config: Checked.
        say: Gets one line for each fact.

    Raises (on entering): AlreadyRunning, Unavailable, SegmentError, OSError; nothing is left behind then.
    """

    def __init__(self, config: Config, say: Callable[[str], None]) -> None:
        """Nothing is made before it is entered."""
        self.config = config
        self._say = say
        self._stack = ExitStack()
        self._stopping = False
        self._code = Exit.STOPPED
        self.children: dict[tuple[Role, int], Child] = {}
        self.ready_seconds = 0.0

    # Start ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Lock, warm, make memory, start everything."""
        with ExitStack() as stack:
            config = self.config
            stack.enter_context(lock_of_name(config.exchange.name))
            try:
                stack.enter_context(lock_of_folder(config.data_folder()))
            except OSError as error:
                raise ConfigError(
                    f"$.exchange.data must be a folder that can be written, was {config.data_folder()} "
                    f"({error.strerror}): name another, or make it writable"
                ) from None
            for name in remove_stale(prefix(config)):
                self._say(f"removed {name}, left in shared memory by a run that was killed")
            self._require_every_shard()
            self._require_brokers()
            cores = config.cpu.cores("supervisor")
            if cores:
                os.sched_setaffinity(0, cores)
            self._say(
                "loading kernels (the first start on a machine compiles them, which takes a minute or two)"
            )
            self._say(f"kernels ready after {warm():.1f} s")
            self._context = multiprocessing.get_context("forkserver")
            os.environ["RINGPIT_FORK_SERVER"] = "1"
            os.environ["NUMBA_CACHE_DIR"] = (
                config_of_numba.CACHE_DIR
            )  # one cache for all, whatever is edited meanwhile
            self._context.set_forkserver_preload(["ringpit.shards.warm"])
            self._board = Segment.create(segment_name(config, "board", 0, 0), board_layout(config))
            stack.callback(self._remove, self._board)
            stack.callback(self._remove, Segment.create(queries_name(config), queries_layout(config)))
            if config.intake.source == "ring":
                for router in range(config.exchange.routers):
                    ingress = Segment.create(segment_name(config, "ingress", router, 0), ingress_layout(config))
                    stack.callback(self._remove, ingress)
            stack.callback(self._end_all)
            for role, count in counts(config).items():
                for index in range(count):
                    self.children[role, index] = Child(role, index)
            for child in self.children.values():
                self._make_segment(child)
            for child in self.children.values():
                self._start(child)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        """Whatever still runs is ended, and all shared memory is removed."""
        self._stack.close()

    def _require_every_shard(self) -> None:
        """A log of more shards than are started would lose the events of the others without a word."""
        if self.config.log.kind != "segments":
            return  # a topic is checked by whoever opens it
        shards = self.config.exchange.shards
        for folder in sorted(self.config.log_folder().glob("shard-*")):
            number = folder.name.removeprefix("shard-")
            if number.isdigit() and int(number) >= shards:
                raise ConfigError(
                    f"$.exchange.shards is {shards}, but {folder} holds the log of shard {int(number)}, whose events would "
                    f"be unknown: start with {int(number) + 1} shards or more, or name another folder in log.folder"
                )

    def _require_brokers(self) -> None:
        """A broker that is away at the start is a configuration mistake more often than an outage."""
        if "rabbitmq" in (self.config.intake.source, self.config.output.sink):
            endpoint = endpoint_of(self.config)
            try:
                pika.BlockingConnection(endpoint.parameters()).close()
            except (AMQPError, AMQPConnectorException, OSError) as error:
                remedy = remedy_for(error) or (
                    "start it (`make brokers` starts one on this machine), or name another in rabbitmq.url "
                    "or RINGPIT_RABBITMQ_URL"
                )
                raise Unavailable(
                    f"no RabbitMQ answers at {endpoint.address} ({cause_of(error)}): {remedy}"
                ) from None

    def _remove(self, segment: Segment) -> None:
        """Unmap and unlink."""
        segment.unlink()
        segment.close()

    def _make_segment(self, child: Child) -> None:
        """The next incarnation's segment, then its name on the board (U2), then the old one's end."""
        old = child.segment
        child.incarnation += 1
        name = segment_name(self.config, child.role.label, child.index, child.incarnation)
        child.segment = Segment.create(name, LAYOUTS[child.role](self.config), child.incarnation)
        if old is not None:
            self._inherit(child, old)
        self._board.store(f"{child.role.label}.{child.index}.incarnation", child.incarnation)
        if old is not None:
            self._remove(old)

    def _inherit(self, child: Child, old: Segment) -> None:
        """Copy what the successor goes on with."""
        assert child.segment is not None
        stems = INHERITED[child.role]
        for word in old.layout.words:
            if word.split(".")[0] in stems:
                child.segment.store(word, old.load(word))
        for region in old.layout.regions:
            if region.name.split(".")[0] in stems:
                np.copyto(child.segment.region(region.name), old.region(region.name))

    def _start(self, child: Child) -> None:
        """Fork the process of a child whose segment is ready."""
        child.process = self._context.Process(
            target=run_role,
            args=(self.config, child.role, child.index, child.incarnation),
            name=child.name,
            daemon=True,
        )
        child.process.start()
        child.started = time.monotonic()
        child.due = 0.0

    # Watch ---------------------------------------------------------------------------------------------

    def all_running(self) -> bool:
        """True if every process has said so and no worker waits for a router."""
        return all(child.state == State.RUNNING for child in self.children.values())

    def wait_ready(self, timeout_seconds: float = 120.0) -> bool:
        """Watch until all run; False if the exchange has to end, or not all run in time."""
        began = time.monotonic()
        while not self.all_running():
            if not self.watch(0.02) or time.monotonic() - began > timeout_seconds:
                return False
        self.ready_seconds = time.monotonic() - began
        return True

    def watch(self, timeout_seconds: float = WATCH_SECONDS) -> bool:
        """Wait for a death or the timeout; start again what is due. False: the exchange has to end."""
        living = {child.process.sentinel: child for child in self.children.values() if child.process}
        ended = set(wait(list(living), timeout_seconds))
        for child in [child for sentinel, child in living.items() if sentinel in ended]:
            self._bury(child)
        now = time.monotonic()
        for child in self.children.values():
            if child.process is None and child.due and now >= child.due and self._code is Exit.STOPPED:
                child.restarts += 1
                self._make_segment(child)
                self._start(child)
                self._say(f"{child.name}: started again, incarnation {child.incarnation}")
        return self._code is Exit.STOPPED

    def _bury(self, child: Child) -> None:
        """A process has ended: reap it, and decide whether and when it comes back."""
        assert child.process is not None
        child.process.join()
        code = child.process.exitcode or 0
        child.process = None
        child.exits.append(code)
        reached = child.state in (State.RUNNING, State.DRAINED)
        if self._stopping:
            return
        how = (
            f"was killed by signal {-code} ({signal.Signals(-code).name})"
            if code < 0
            else f"ended with code {code}"
        )
        final = code in (Exit.CONFIG, Exit.REFUSED) or (
            code == Exit.UNAVAILABLE and child.restarts == 0 and not reached
        )
        long_life = time.monotonic() - child.started > LONG_LIFE_SECONDS
        child.deaths = 1 if long_life else child.deaths + 1
        hopeless = child.deaths > DEATHS_IN_A_ROW_MAX and code != Exit.UNAVAILABLE  # an outage may last
        if final or hopeless:
            self._code = exit_of(code)
            self._say(f"{child.name}: {how}; another try would not help, so the exchange ends")
            return
        delay = min(BACKOFF_SECONDS_MIN * 2 ** min(child.deaths - 1, 10), BACKOFF_SECONDS_MAX)
        child.due = time.monotonic() + delay
        self._say(f"{child.name}: {how}; it is started again in {delay:.2f} s")

    @property
    def code(self) -> Exit:
        """Why the exchange has to end; STOPPED while it need not."""
        return self._code

    # Stop ----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop in the order of the flow, each role when the one before has gone; kill what does not go in time."""
        self._stopping = True
        for role in Role:
            children = [child for child in self.children.values() if child.role is role and child.process]
            for child in children:
                self._board.store(f"{role.label}.{child.index}.stop", 1)
            deadline = time.monotonic() + 2 * self.config.exchange.stop_seconds + KILL_GRACE_SECONDS
            for child in children:
                assert child.process is not None
                child.process.join(max(deadline - time.monotonic(), 0.1))
                if child.process.exitcode is None:
                    self._say(f"{child.name}: did not stop in time and is killed")
                    child.process.kill()
                self._bury(child)
                if child.exits[-1] != Exit.STOPPED:
                    self._say(f"{child.name}: left with code {child.exits[-1]}")
                    self._code = self._code or exit_of(child.exits[-1])
        self._say("stopped: " + ", ".join(child.name for child in self.children.values()))

    def _end_all(self) -> None:
        """Kill what runs, and remove every segment."""
        for child in self.children.values():
            if child.process is not None:
                child.process.kill()
                child.process.join()
                child.process = None
        for child in self.children.values():
            if child.segment is not None:
                self._remove(child.segment)
                child.segment = None
        self._end_fork_server()

    def _end_fork_server(self) -> None:
        """Stop the fork server now rather than at the interpreter's exit, so that nothing of ours runs on."""
        server: Any = multiprocessing.forkserver._forkserver  # noqa: SLF001 - it has no public way to be stopped
        server._stop()  # noqa: SLF001 - as above
