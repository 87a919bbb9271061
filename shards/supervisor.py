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

    U1  at most one process of a role and index runs: the next is started after the last was reaped; a follower that
        takes over is the worker from then on, and the old one is killed
    U2  the board names an incarnation only when its segment is there
    U3  the word that says who leads a shard moves by compare-and-swap only: a follower may move it, too
"""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pika
from numba import config as config_of_numba
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError
from rich.console import Console

from ringpit.ipc.atomics import swap_cell
from ringpit.ipc.pages import huge_complaint, lock_complaint
from ringpit.ipc.segment import Segment, remove_stale, use_pages
from ringpit.shards.amqp import cause_of, remedy_for
from ringpit.shards.compiling import is_cold, ready
from ringpit.shards.config import Config, ConfigError
from ringpit.shards.exits import Exit
from ringpit.shards.faults import spared
from ringpit.shards.instance import establish
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
from ringpit.shards.pinning import memory_near, node_of, nodes_count, pinned
from ringpit.shards.processes import endpoint_of, kafka_settings, run_role
from ringpit.shards.progress import StartProgress
from ringpit.shards.stages import STAGES
from ringpit.shards.topology import at, established, path_of, read, resolved
from ringpit.wal.errors import LogUnavailable
from ringpit.wal.kafka import partitions_of

MACHINE: Final = Path("/")  # below which sysfs is
WATCH_SECONDS: Final = 0.1
BACKOFF_SECONDS_MIN: Final = 0.05
BACKOFF_SECONDS_MAX: Final = 5.0
DEATHS_IN_A_ROW_MAX: Final = 10
LONG_LIFE_SECONDS: Final = 10.0  # who lived that long dies for a new reason
KILL_GRACE_SECONDS: Final = 5.0
AWAKE_SECONDS: Final = 1.0  # two looks that are further apart: it was we who slept
TAKE_OVER_SECONDS: Final = 2.0  # a follower that has not taken over by then is no help
STEMS: Final = {  # of the histograms that each role counts
    role: tuple(stage.region for stage in STAGES if stage.process == role.label) for role in Role
}
INHERITED: Final = {  # words and regions that a successor goes on with
    Role.FOLLOWER: (),
    Role.ROUTER: ("ingress_head", *STEMS[Role.ROUTER]),
    Role.WORKER: STEMS[Role.WORKER],
    Role.PUBLISHER: (
        "output_head",
        "confirmed_seq",
        "quantity",
        "bitmap",
        "books",
        "event_index",
        "dirty",
        "cells",
        *STEMS[Role.PUBLISHER],
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
    take_overs: int = 0
    died_at: int = 0  # seq of the record that a worker died at last, if it was in the middle of one
    beat: int = 0  # its heartbeat as last seen
    still_seconds: float = 0.0  # how long it has stood still since, as far as we were awake
    served: bool = False  # since the exchange was started, whichever incarnation
    stopped: bool = False  # it died twice at one record, and waits for an operator
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
        at_once: True as soon as a stop shall wait for nothing any more.

    Raises (on entering): AlreadyRunning, Unavailable, SegmentError, OSError; nothing is left behind then.
    """

    def __init__(
        self, config: Config, say: Callable[[str], None], *, at_once: Callable[[], bool] = lambda: False
    ) -> None:
        """Nothing is made before it is entered."""
        self.config = config
        self._say = say
        self._at_once = at_once
        self._stack = ExitStack()
        self._stopping = False
        self._code = Exit.STOPPED
        self._looked = time.monotonic()
        self.children: dict[tuple[Role, int], Child] = {}
        self.ready_seconds = 0.0

    # Start ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Lock, warm, make memory, start everything."""
        with ExitStack() as stack:
            stack.enter_context(lock_of_name(self.config.exchange.name))
            try:
                stack.enter_context(lock_of_folder(self.config.data_folder()))
                config = self.config = self._establish()
            except OSError as error:
                raise ConfigError(
                    f"$.exchange.data must be a folder that can be written, was {self.config.data_folder()} "
                    f"({error.strerror}): name another, or make it writable"
                ) from None
            for name in remove_stale(prefix(config)):
                self._say(f"removed {name}, left in shared memory by a run that was killed")
            self._use_memory()
            self._require_brokers()
            config, said = pinned(config, MACHINE, os.sched_getaffinity(0))
            self.config = config
            for sentence in said:
                self._say(sentence)
            cores = config.cpu.cores("supervisor")
            if cores:
                os.sched_setaffinity(0, cores)
            self._context = multiprocessing.get_context("forkserver")
            os.environ["RINGPIT_FORK_SERVER"] = "1"
            os.environ["NUMBA_CACHE_DIR"] = (
                config_of_numba.CACHE_DIR
            )  # one cache for all, whatever is edited meanwhile
            self._context.set_forkserver_preload(["ringpit.shards.warm"])
            if not is_cold():
                multiprocessing.forkserver.ensure_running()  # loads its kernels while we load ours
            self._say(f"kernels ready after {ready(self._say):.1f} s")
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

    def _use_memory(self) -> None:
        """Map as [memory] says, and say what this machine does not grant."""
        memory = self.config.memory
        huge = memory.huge_pages == "try"
        use_pages(huge=huge, prefault=memory.prefault)
        for wanted, complaint in ((huge, huge_complaint), (memory.lock == "try", lock_complaint)):
            if wanted and (missing := complaint()):
                self._say(missing)

    def _establish(self) -> Config:
        """The configuration with the topology that counts, which the first start makes."""
        found = resolved(self.config)
        if found.log.kind == "kafka" and read(found) is None:
            self._require_fitting_topics(found)
        establish(found)
        return established(found)

    def _require_fitting_topics(self, first: Config) -> None:
        """What a start without a topology finds in Kafka must be of the first generation, and of as many shards, or it is not there."""
        shards = first.exchange.shards
        later = at(first, first.exchange.generation + 1, shards)
        try:
            partitions, later_partitions = (partitions_of(kafka_settings(each)) for each in (first, later))
        except LogUnavailable as error:
            raise Unavailable(str(error)) from None
        if later_partitions:
            raise ConfigError(
                f"there is no {path_of(first)}, but the topic {later.log_topic()!r} of a later generation: copy the file from the host that "
                f"ran `ringpit reshard`, or name another kafka.topic"
            )
        if partitions not in (0, shards):
            raise ConfigError(
                f"$.exchange.shards is {shards}, but the topic {first.log_topic()!r} has {partitions} partitions, one for each shard: "
                f"write {partitions}, or name another kafka.topic"
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

    def _make_segment(self, child: Child) -> bool:
        """
        The next incarnation's segment, then its name on the board (U2), then the old one's end.

        False: a follower leads since, and nothing was changed.
        """
        old, before = child.segment, child.incarnation
        incarnation = 1 + max(
            other.incarnation
            for other in self.children.values()
            if (other.role.memory, other.index) == (child.role.memory, child.index)
        )
        name = segment_name(self.config, child.role.memory, child.index, incarnation)
        with self._memory_near(child):
            segment = Segment.create(name, LAYOUTS[child.role](self.config), incarnation)
        if old is not None:
            self._inherit(segment, child.role, old)
        word = self._board.layout.index(f"{child.role.label}.{child.index}.incarnation")
        if not swap_cell(
            self._board.cells, word, before, incarnation
        ):  # pairs with the swap in Follower.take_over
            self._remove(segment)
            return False
        child.incarnation, child.segment = incarnation, segment
        if old is not None:
            self._remove(old)
        return True

    @contextmanager
    def _memory_near(self, child: Child) -> Iterator[None]:
        """What is created meanwhile lies on the memory node of a child's core, if the configuration asks for that."""
        cores = self.config.cpu.cores_of(child.role.label, child.index) if self.config.cpu.local_memory else []
        if not cores or nodes_count(MACHINE) == 1:
            yield
            return
        with memory_near(node_of(MACHINE, cores[0])) as failure:
            if failure:
                self._say(failure)
            yield

    def _inherit(self, segment: Segment, role: Role, old: Segment) -> None:
        """Copy what the successor goes on with."""
        stems = INHERITED[role]
        for word in old.layout.words:
            if word.split(".")[0] in stems:
                segment.store(word, old.load(word))
        for region in old.layout.regions:
            if region.name.split(".")[0] in stems:
                np.copyto(segment.region(region.name), old.region(region.name))

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
        """True if every process has said so and no worker waits for a router. Followers come later, by themselves."""
        return all(
            child.state == State.RUNNING for child in self.children.values() if child.role is not Role.FOLLOWER
        )

    def wait_ready(self, wanted: Callable[[], bool] = lambda: True) -> bool:
        """
        Watch until all run, however long their logs are; False if the exchange has to end, or is not `wanted` any more.

        Shows how far they are.
        """
        began = time.monotonic()
        with StartProgress(self._say, Console(stderr=True)) as progress:
            while not self.all_running():
                stopped = any(child.stopped for child in self.children.values())
                if not self.watch(0.02) or stopped or not wanted():
                    return False
                workers = {
                    child.index: child.memory for child in self.children.values() if child.role is Role.WORKER
                }
                progress.show(workers)
        self.ready_seconds = time.monotonic() - began
        return True

    def watch(self, timeout_seconds: float = WATCH_SECONDS) -> bool:
        """Wait for a death or the timeout; start again what is due. False: the exchange has to end."""
        living = {child.process.sentinel: child for child in self.children.values() if child.process}
        ended = set(wait(list(living), timeout_seconds))
        self._see_take_overs()
        for child in [child for sentinel, child in living.items() if sentinel in ended]:
            if child.process is not None and child.process.sentinel in ended:  # else it was replaced just now
                self._bury(child)
        self._see_take_overs()
        now = time.monotonic()
        self._end_what_hangs(min(now - self._looked, AWAKE_SECONDS))
        self._looked = now
        for child in self.children.values():
            if child.process is None and child.due and now >= child.due and self._code is Exit.STOPPED:
                self._start_again(child)
        return self._code is Exit.STOPPED

    def _end_what_hangs(self, awake_seconds: float) -> None:
        """
        Kill what runs and whose heart stands still: it is started again like everything that dies.

        A follower's is not looked at: what it lacks is that it does not follow, and then the worker has let it go.
        """
        patience_seconds = self.config.exchange.hang_seconds
        for child in self.children.values():
            if child.process is None or not patience_seconds:
                continue
            if child.role is Role.FOLLOWER:
                worker = self.children[Role.WORKER, child.index].memory
                still = worker.load("followed_by") == -child.incarnation
            else:
                beat = child.memory.load("heartbeat")
                still = child.state == State.RUNNING and beat == child.beat
                child.beat = beat
            child.still_seconds = child.still_seconds + awake_seconds if still else 0.0
            if child.still_seconds > patience_seconds:
                child.still_seconds = 0.0
                self._say(f"{child.name}: its heart has stood still for {patience_seconds} s; it is killed")
                child.process.kill()

    def _start_again(self, child: Child) -> None:
        """The next incarnation of a process that has ended."""
        if not self._make_segment(child):
            return  # a follower was quicker, and is seen in the next turn
        child.restarts += 1
        self._start(child)
        self._say(f"{child.name}: started again, incarnation {child.incarnation}")

    def _see_take_overs(self) -> None:
        """Whoever leads a shard is its worker: the follower that took over moves up, the old worker is buried."""
        for follower in self.children.values():
            if follower.role is not Role.FOLLOWER or not follower.incarnation:
                continue
            worker = self.children[Role.WORKER, follower.index]
            leads = self._board.load(f"worker.{worker.index}.incarnation")
            if leads == follower.incarnation and leads != worker.incarnation:
                self._promote(follower, worker)

    def _promote(self, follower: Child, worker: Child) -> None:
        """A follower has become the worker."""
        if worker.process is not None and not spared(worker.index, worker.incarnation):
            worker.process.kill()
            worker.process.join()
            worker.exits.append(worker.process.exitcode or 0)
        if worker.segment is not None:
            self._note_where_it_died(worker)
            self._remove(worker.segment)
        self._say(
            f"{worker.name}: incarnation {follower.incarnation}, until now {follower.name}, has taken over"
        )
        worker.process, worker.segment, worker.incarnation = (
            follower.process,
            follower.segment,
            follower.incarnation,
        )
        worker.due, worker.take_overs, worker.restarts = 0.0, worker.take_overs + 1, worker.restarts + 1
        worker.served = True
        follower.process = follower.segment = None
        follower.incarnation = 0
        self._board.store(f"follower.{follower.index}.incarnation", 0)
        self._rest(follower, time.monotonic() - worker.started)
        worker.started = time.monotonic()

    def _rest(self, child: Child, lived_seconds: float) -> float:
        """Let a process come back, the later the more often it died young; the delay."""
        child.deaths = 1 if lived_seconds > LONG_LIFE_SECONDS else child.deaths + 1
        delay: float = min(BACKOFF_SECONDS_MIN * 2 ** min(child.deaths - 1, 10), BACKOFF_SECONDS_MAX)
        child.due = time.monotonic() + delay
        return delay

    def _bury(self, child: Child) -> None:
        """A process has ended: reap it, and decide whether and when it comes back."""
        assert child.process is not None
        child.process.join()
        code = child.process.exitcode or 0
        child.process = None
        child.exits.append(code)
        reached = child.state in (State.RUNNING, State.DRAINED)
        child.served |= reached
        if self._stopping:
            return
        how = (
            f"was killed by signal {-code} ({signal.Signals(-code).name})"
            if code < 0
            else f"ended with code {code}"
        )
        final = code in (Exit.CONFIG, Exit.REFUSED, Exit.FENCED) or (
            code == Exit.UNAVAILABLE and child.restarts == 0 and not reached
        )
        delay = self._rest(child, time.monotonic() - child.started)
        hopeless = child.deaths > DEATHS_IN_A_ROW_MAX and code != Exit.UNAVAILABLE  # an outage may last
        if child.role is Role.FOLLOWER:
            final = hopeless = False  # the exchange runs without it
        if final or hopeless:
            self._code = exit_of(code)
            child.due = 0.0
            self._say(f"{child.name}: {how}; another try would not help, so the exchange ends")
            return
        if child.role is Role.WORKER and self._stop_at_a_record(child):
            return
        if child.role is Role.WORKER and self._call_follower(child):
            self._say(f"{child.name}: {how}; its follower takes over")
            return
        self._say(f"{child.name}: {how}; it is started again in {delay:.2f} s")

    def _call_follower(self, worker: Child) -> bool:
        """Tell a follower that can take over that its worker is dead; False: there is none."""
        follower = self.children.get((Role.FOLLOWER, worker.index))
        if follower is None or follower.process is None or follower.state != State.FOLLOWING:
            return False
        self._board.store(f"follower.{worker.index}.take_over", worker.incarnation)  # pairs with `follow`
        worker.due = time.monotonic() + TAKE_OVER_SECONDS
        return True

    def _stop_at_a_record(self, worker: Child) -> bool:
        """
        True if a worker died twice at the same record; it is not started again then.

        Where it was is known to a run at the first time. The next life goes carefully up to the end of that run, one
        record at a time, and tells each before.
        """
        if self._note_where_it_died(worker):
            worker.stopped, worker.due = True, 0.0
            shard, trying_seq = worker.index, worker.died_at
            if (Role.FOLLOWER, shard) in self.children:
                self._board.store(f"follower.{shard}.stop", 1)  # or it would try the same
            self._say(
                f"{worker.name}: died twice at seq {trying_seq} and is not started again; the other shards go on. "
                f"`ringpit wal inspect --shard {shard} --from {trying_seq} --to {trying_seq} --records` shows the command; "
                f"stop the exchange, `ringpit wal skip --shard {shard} --seq {trying_seq}`, and start it to go on without it"
            )
            return True
        return False

    def _note_where_it_died(self, worker: Child) -> bool:
        """Remember the record that a worker was trying, and have the next one go carefully; True: the second time at this one."""
        trying_seq, in_hand_seq = worker.memory.load("trying_seq"), worker.memory.load("in_hand_seq")
        word = f"worker.{worker.index}.careful"
        again = bool(trying_seq) and trying_seq == worker.died_at and self._board.load(word) != 0
        worker.died_at = trying_seq  # 0: whatever killed it was no command
        if trying_seq and not again:
            self._board.store(word, max(trying_seq, in_hand_seq))
        return again

    @property
    def code(self) -> Exit:
        """Why the exchange has to end; STOPPED while it need not."""
        return self._code

    # Stop ----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """
        Stop in the order of the flow, each role when the one before has gone; kill what does not go in time.

        If it has to end at once, it returns: leaving the context kills what is left, and the next start makes the rest again.
        So it does while a worker that has not served yet reads its log, which may take long: no router has dealt anything then.
        """
        self.watch(0.0)  # deaths that nobody has seen yet
        reading = [child.name for child in self.children.values() if self._reads(child)]
        if reading:
            self._say(f"ended while {', '.join(reading)} read the log: the next start reads it again")
            return
        self._bring_back()
        self._stopping = True
        for role in Role:
            self._see_take_overs()
            children = [child for child in self.children.values() if child.role is role and child.process]
            for child in children:
                self._board.store(f"{role.label}.{child.index}.stop", 1)
            deadline = time.monotonic() + 2 * self.config.exchange.stop_seconds + KILL_GRACE_SECONDS
            for child in children:
                self._await_end(child, deadline)
                if self._moves(child) and self._at_once():
                    self._say(
                        "ended at once: what is not confirmed yet, the next start makes again from the log"
                    )
                    return
                if self._moves(child):
                    self._end_late(child)
                if child.process is None:
                    continue  # a follower that became the worker, which is asked in its turn
                self._bury(child)
                if child.exits[-1] not in (Exit.STOPPED, Exit.FELL_BEHIND):  # a follower may still catch up
                    self._say(f"{child.name}: left with code {child.exits[-1]}")
                    self._code = self._code or exit_of(child.exits[-1])
        self._say("stopped: " + ", ".join(child.name for child in self.children.values()))

    def _await_end(self, child: Child, deadline: float) -> None:
        """Wait until a process has ended or is another child's, as of a follower that takes over, or there is no time left."""
        while child.process is not None:
            child.process.join(WATCH_SECONDS)
            self._see_take_overs()
            ended = child.process is None or child.process.exitcode is not None
            if ended or time.monotonic() >= deadline or self._at_once():
                return

    def _bring_back(self) -> None:
        """
        Start at once whoever waits for its next start: what was taken has to be journaled, what was matched to be told.

        A worker that has a follower is given the time in which that takes over.
        """
        deadline = time.monotonic() + 2 * TAKE_OVER_SECONDS
        for child in self.children.values():
            follower = self.children.get((Role.FOLLOWER, child.index)) if child.role is Role.WORKER else None
            called = follower is not None and follower.process is not None and follower.state == State.FOLLOWING
            if self._lacks(child) and not called and not self._at_once():
                self._start_again(child)
        while any(map(self._lacks, self.children.values())) and time.monotonic() < deadline:
            if self._at_once():
                return
            self.watch()

    def _moves(self, child: Child) -> bool:
        """True if a process of it has not ended."""
        return child.process is not None and child.process.exitcode is None

    def _end_late(self, child: Child) -> None:
        """Kill what did not stop in time."""
        assert child.process is not None
        self._say(f"{child.name}: did not stop in time and is killed")
        child.process.kill()
        child.process.join()
        self._see_take_overs()  # it may have become the worker at the last moment, and is a dead one then

    def _reads(self, child: Child) -> bool:
        """True of a worker that has not served yet, and has not read its log, or it would have said where its rings begin."""
        comes = child.process is not None or child.due
        return bool(
            child.role is Role.WORKER and comes and not child.served and not child.memory.load("output_tail")
        )

    def _lacks(self, child: Child) -> bool:
        """True if a process that others wait for in a stop is not there, and will be started."""
        waits = child.role is not Role.FOLLOWER and child.process is None and child.due
        return bool(waits) and self._code is Exit.STOPPED

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
