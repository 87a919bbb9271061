"""
A simulation: a whole exchange in one process, under a clock, a memory, brokers and faults that one seed draws.

    simulate(7)          runs seed 7 until everything has settled; raises Broken if a promise was broken
    python -m ringpit.testing.simulation --seed 7

Real are all processes from `run_role` on (router, worker with its journal thread, follower, publisher) and the
supervisor's reactions. Simulated are what lies beyond them (simulated_brokers.py), who runs when (schedule.py), and what
they find under `time`, `os`, `Segment` and the like (rewiring.py). What is right is the judge's business
(simulated_judge.py).

Faults: any process is killed at any access to shared memory, at any fault point, or all of them with the machine; a
process is paused, long enough to be replaced, and goes on; a signal that should kill comes late; the log is away,
says that an append failed that did not, takes a batch twice, takes a dead owner's packets behind a claim, and is torn
by a power cut; queues lose connections; the outlet is away.

A seed is a schedule: the same seed and the same code give the same run, to the last access.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, Final

import greenlet

from ringpit.engine.digest import digest
from ringpit.shards import supervisor
from ringpit.shards.config import Config
from ringpit.shards.exits import Exit
from ringpit.shards.faults import Step
from ringpit.shards.layout import (
    Role,
    State,
    board_layout,
    counts,
    first_position,
    queries_layout,
    queries_name,
    segment_name,
)
from ringpit.shards.sections import Exchange, Follower, LimitsConfig, Log, Output, Rings, Wait
from ringpit.shards.sections import Snapshots as SnapshotsConfig
from ringpit.shards.worker import Worker
from ringpit.testing.memory import Memory
from ringpit.testing.received import Told
from ringpit.testing.rewiring import Changes, rewired
from ringpit.testing.schedule import START_NS, Process, Schedule
from ringpit.testing.simulated_brokers import (
    LogStore,
    Message,
    Outlet,
    OutletSink,
    Queue,
    QueueIntake,
    Snapshots,
    WireLog,
)
from ringpit.testing.simulated_clients import plan, send
from ringpit.testing.simulated_judge import Broken, Judge
from ringpit.wal.batch import claimed_epoch

TURNS_MAX: Final = 60_000  # a run that has not settled by then never will
LOOK_TURNS: Final = 64  # between two looks whether everything has settled
EVENTS: Final = 4
WAKING_STEPS: Final = (Step.JOURNAL_FROZEN, Step.FROZEN, Step.LEADING, Step.SEQUENCED, Step.TAKEN_OVER)
CLAIM_KILL_SHARE: Final = 0.1
WAKING_SHARE: Final = 0.3
FEW_KINDS_SHARE: Final = 0.4
DURABLE_STEPS: Final = (Step.DURABLE, Step.DURABLE_SEQ_TOLD, Step.DURABLE_TOLD)
PACES: Final = (0.03, 0.1, 0.35)  # things that a broker moves over its wire in a turn
QUIET_PACE: Final = 0.5
RELEASES: Final = ("durable", "matched")
RELEASE_WEIGHTS: Final = (4, 1)
FOLLOWED_SHARES: Final = {"durable": 0.7, "matched": 0.3}
CYCLES: Final = (3, 40, 4_096)  # reports that a publisher takes at once
CAREFUL_STEPS: Final = tuple(step for step in Step if step is not Step.NOWHERE)
POISONED: Final = (  # what nobody may ever find in a log or a ring
    "disagrees with its running checksum",
    "must begin with a marker",
    "must be whole",
    "has a gap",
)
Mutation = Callable[[Changes], None]


def config_of(random: Random) -> Config:
    """A small exchange: some hundred slots a ring."""
    release = random.choices(RELEASES, RELEASE_WEIGHTS)[0]
    return Config(
        exchange=Exchange(name="simulation", shards=random.choice((1, 1, 2)), routers=random.choice((1, 1, 2))),
        limits=LimitsConfig(events=8, orders=256, levels=4_096, keys=256, nodes=64, grids=2),
        rings=Rings(
            input_slots=random.choice((16, 64)),
            journal_slots=random.choice((32, 32, 64, 256)),
            output_slots=random.choice((32, 64, 256)),
        ),
        output=Output(
            sink="none",
            encoding="json",  # lines tell times and epochs
            release=release,  # type: ignore[arg-type]  # one of two
        ),
        log=Log(kind="kafka"),
        wait=Wait(mode="spin", journals="sleep"),
        snapshots=SnapshotsConfig(interval_seconds=random.choice((0, 0.01, 0.04)), keep=2),  # type: ignore[arg-type]  # parts of a second, as it is our clock
        # A follower loses nothing of what was released too early: it would hide what happens when something is lost.
        follower=Follower(
            enabled=random.random() < FOLLOWED_SHARES[release], heartbeat_ms=random.choice((20, 60))
        ),
    )


class Context:
    """What the supervisor starts processes with."""

    def __init__(self, world: "World") -> None:
        """Starts them in a world."""
        self._world = world

    def Process(self, *, target: Any, args: Any, name: str, daemon: bool) -> Process:  # noqa: ARG002, N802 - as multiprocessing has it
        """A process, not started."""
        return self._world.schedule.process(name, lambda: target(*args))


class Watchman(supervisor.Supervisor):
    """The supervisor without a machine: its memory and processes are the world's."""

    def __init__(self, world: "World") -> None:
        """As the real one enters, from where its memory is made."""
        super().__init__(world.config, world.say)
        self._world = world
        self._context = Context(world)  # type: ignore[assignment]  # has what is called of one
        self._board = world.memory.create(segment_name(self.config, "board", 0, 0), board_layout(self.config))  # type: ignore[assignment]  # has a segment's face
        world.memory.create(queries_name(self.config), queries_layout(self.config))
        for role, count in counts(self.config).items():
            for index in range(count):
                self.children[role, index] = supervisor.Child(role, index)
        for child in self.children.values():
            self._make_segment(child)
        for child in self.children.values():
            self._start(child)

    def run(self) -> None:
        """
        Watch until the machine loses power. An exchange that ends by itself is a broken promise, but for one end: a late
        claim of a worker that is dead looks like another owner's, and then an operator has to look and start it again.
        """
        while self.watch() or self.code is Exit.FENCED:
            if self.code is Exit.FENCED:
                self._world.start_again()
            for child in self.children.values():
                if child.stopped:  # our crashes hit one record twice by chance: no command is to blame
                    child.stopped, child.died_at, child.due = False, 0, self._world.schedule.now_ns / 1e9
        raise Broken(f"the exchange ended with {self.code!r}")


class World:
    """
    Everything in one run.

    Args:
        seed: Draws it all.
        say: Gets what processes print.
    """

    def __init__(self, seed: int, say: Callable[[str], None] = lambda _text: None) -> None:
        """Nothing runs before `run`."""
        self.random = random = Random(seed)
        self.say = say
        self.schedule = Schedule(random, self._parted)
        self.schedule.met = self._met
        self.config = config_of(random)
        self.memory = Memory(self.schedule.touch)
        exchange = self.config.exchange
        self.queues = [Queue(random) for _ in range(exchange.routers)]
        self.logs = [LogStore(random) for _ in range(exchange.shards)]
        self.snapshots = [Snapshots(shard) for shard in range(exchange.shards)]
        self.outlet = Outlet(random)
        self.early = self.config.output.release == "matched"
        self.judge = Judge(
            self.config.limits.limits(), exchange.shards, self.queues, self.logs, early=self.early
        )
        self.cycle_reports = random.choice(CYCLES)
        self.plans = plan(
            random, queues=exchange.routers, events=EVENTS, orders=random.choice((30, 60)), start_ns=START_NS
        )
        self.watchman: Watchman
        self.workers: dict[int, Worker] = {}  # by process number, followers too
        self.failure: Broken | None = None
        self.quiet_from = random.randrange(300, 2_400)  # turn behind which no fault begins
        self.faults = self._draw_faults()
        self.step_faults = self._draw_step_faults()
        self.dark_until = 0
        self.claim_kills = random.choice((0, 0, 1, 2))  # owners that die while their claim is under way
        self.paces: list[tuple[float, list[Any]]] = [
            (random.choice(PACES) * len(brokers), list(brokers))
            for brokers in (self.logs, self.queues, [self.outlet])
        ]

    # Faults --------------------------------------------------------------------------------------------

    def _draw_faults(self) -> dict[int, Callable[[], None]]:
        """Turn to what happens then."""
        random = self.random
        kinds = (
            [self._kill] * 6 + [self._pause] * 6 + [self._cut_connection] * 2 + [self._hold_log] * 2
            + [self._hold_log_to_death] * 2 + [self._pause_publisher] * (3 if self.early else 1) + [self._lose_power] * 2 + [self._hold_outlet, self._fail_append]
        )  # fmt: skip
        count = random.choice((0, 4, 8, 16, 24))
        if random.random() < FEW_KINDS_SHARE:  # a mixture of everything hides what two kinds alone would show
            kinds = random.sample(kinds, 3)
        return {random.randrange(20, self.quiet_from): random.choice(kinds) for _ in range(count)}

    def _draw_step_faults(self) -> dict[Step, list[int]]:
        """Fault point to how often it is passed before somebody dies there or stands still (a negative number)."""
        random = self.random
        count = random.choice((0, 2, 4, 8))
        return {
            random.choice(CAREFUL_STEPS): [random.choice((1, -1)) * random.choice((1, 1, 2, 3, 8, 20))]
            for _ in range(count)
        }

    def _met(self, step: int, process: Process) -> None:
        """A process passes a fault point."""
        if step in WAKING_STEPS and self.random.random() < WAKING_SHARE:
            for thread in self.schedule.threads:  # what only stood still wakes while it is replaced
                thread.process.paused_until = 0
        left = self.step_faults.get(Step(step))
        if not left or self.schedule.turns > self.quiet_from:
            return
        sign = 1 if left[0] > 0 else -1
        left[0] -= sign
        if left[0] == 0:
            del self.step_faults[Step(step)]
            if sign > 0:
                self.say(f"{process.name} dies at {Step(step).name}")
                self.schedule.end(process, -9)
            else:
                self.say(f"{process.name} stands still at {Step(step).name}")
                process.paused_until = self.schedule.turns + self.random.choice((50, 600, 2_000))
            self.schedule.nap(0.0)

    def _victim(self) -> Process | None:
        """Some process that lives, but not the supervisor."""
        living = sorted({thread.process for thread in self.schedule.threads}, key=lambda process: process.pid)
        living = [process for process in living if process.name != "supervisor"]
        weights = [1 if process.name.startswith("router") else 2 for process in living]
        return self.random.choices(living, weights)[0] if living else None

    def _kill(self) -> None:
        victim = self._victim()
        if victim is not None:
            self.say(f"{victim.name} is killed")
            self.schedule.end(victim, -9)

    def _kill_claimant(self) -> None:
        """Now and then, kill a process whose claim is under way; it arrives later."""
        for thread in self.schedule.threads:
            for _, end in thread.process.held:
                claims = isinstance(end, WireLog) and end.pending and claimed_epoch(end.pending[0])
                if claims and self.random.random() < CLAIM_KILL_SHARE:
                    self.claim_kills -= 1
                    self.say(f"{thread.process.name} is killed while its claim is under way")
                    self.schedule.end(thread.process, -9)
                    return

    def _pause(self) -> None:
        victim = self._victim()
        if victim is not None:
            self._stop(victim)

    def _stop(self, process: Process) -> None:
        """Have a process stand still for a while."""
        self.say(f"{process.name} stands still")
        process.paused_until = self.schedule.turns + self.random.choice((50, 300, 600, 2_000))

    def _pause_publisher(self) -> None:
        """Workers may come and go while the publisher stands still."""
        for process in dict.fromkeys(thread.process for thread in self.schedule.threads):
            if process.name == "publisher-0":
                self._stop(process)

    def _cut_connection(self) -> None:
        consumer = self.random.choice(self.queues).consumer
        if consumer is not None:
            consumer.cut = True

    def _hold_log(self) -> None:
        log = self.random.choice(self.logs)
        log.away = True
        self._later(300, lambda: setattr(log, "away", False))

    def _hold_log_to_death(self) -> None:
        """The log is away until rings are full, takes everything at once, and who hears of it first dies of it."""
        self._hold_log()
        self.step_faults[self.random.choice(DURABLE_STEPS)] = [self.random.choice((1, 1, 2))]

    def _hold_outlet(self) -> None:
        self.outlet.away = True
        self._later(400, lambda: setattr(self.outlet, "away", False))

    def _fail_append(self) -> None:
        log = self.random.choice(self.logs)
        if log.owners:
            log.owners[-1].break_off()

    def _lose_power(self) -> None:
        self.say("the machine loses power")
        for process in dict.fromkeys(thread.process for thread in self.schedule.threads):
            self.schedule.end(process, -9)
        for log in self.logs:
            log.lose_power()
        self.memory = Memory(self.schedule.touch)
        self.dark_until = self.schedule.turns + 20

    def start_again(self) -> None:
        """The exchange has ended, and is started again; the machine has not lost power. Does not return."""
        self.say("the exchange is started again")
        supervising = self.schedule.running
        for process in dict.fromkeys(thread.process for thread in self.schedule.threads):
            if process is not supervising:
                self.schedule.end(process, -9)
        self.memory = Memory(self.schedule.touch)
        self.dark_until = self.schedule.turns + 20
        self.schedule.leave(0)

    def _later(self, turns: int, action: Callable[[], None]) -> None:
        """Have something happen within so many turns."""
        at = self.schedule.turns + self.random.randint(1, turns)
        while at in self.faults:
            at += 1
        self.faults[at] = action

    # What rewired modules call -------------------------------------------------------------------------

    def create(self, *arguments: Any) -> Any:
        """As `Segment.create`, on the machine that runs now."""
        return self.memory.create(*arguments)

    def attach(self, *arguments: Any, **_mapping: bool) -> Any:
        """As `Segment.attach`."""
        return self.memory.attach(*arguments)

    def _hold(self, beyond: Any, end: Any) -> Any:
        """Part them when the process dies that opened this end."""
        self.schedule.running.held.append((beyond, end))
        return end

    def make_worker(self, *arguments: Any) -> Worker:
        """As `Worker`, with our time; its tables are looked at when everything has settled."""
        made = Worker(*arguments, nap=self.schedule.nap, clock=self.schedule.clock)
        self.workers[self.schedule.running.pid] = made
        return made

    def store_of(self, _config: Config, shard: int) -> Snapshots:
        """As in keeper.py."""
        return self.snapshots[shard]

    def say_as(self, name: str) -> Callable[[str], None]:
        """As in saying.py."""

        def say(text: str) -> None:
            self.say(f"{name}: {text}")
            if any(words in text for words in POISONED):
                self.failure = self.failure or Broken(f"{name}: {text}")

        return say

    def open_log(self, _config: Config, shard: int) -> WireLog:
        """A log for appending."""
        store = self.logs[shard]
        store.cut_torn_tail()
        log = WireLog(store, self.schedule.nap)
        store.owners.append(log)
        return self._hold(store, log)  # type: ignore[no-any-return]  # as it was given

    def open_view(self, _config: Config, shard: int) -> WireLog:
        """A log for reading."""
        return WireLog(self.logs[shard], self.schedule.nap)

    def open_intake(self, _config: Config, router: int, _segment: Any, _say: Any) -> QueueIntake:
        """A router's queue."""
        intake = QueueIntake(self.queues[router], self.schedule.nap, self._acknowledging)
        return self._hold(self.queues[router], intake)  # type: ignore[no-any-return]  # as it was given

    def open_sink(self, _config: Config, _say: Any) -> OutletSink:
        """The outlet."""
        self.judge.publisher_started()
        return self._hold(self.outlet, OutletSink(self.outlet, self._sending))  # type: ignore[no-any-return]  # as it was given

    def _acknowledging(self, message: Message) -> None:
        self._judged(lambda: self.judge.acknowledging(message))

    def _sending(self, told: list[Told]) -> None:
        self._judged(lambda: self.judge.sending(told))

    def _judged(self, look: Callable[[], None]) -> None:
        """Have the judge look at something, and stop the run if it is wrong."""
        try:
            look()
        except Broken as broken:
            self.failure = self.failure or broken
            self.schedule.nap(0.0)

    def _parted(self, process: Process) -> None:
        """A process is dead."""
        for beyond, end in process.held:
            beyond.part(end)
        process.held.clear()

    def broken(self) -> None:
        """A process met what should not be: where it would print a traceback."""
        error = sys.exception()
        if self.schedule.closing or isinstance(error, greenlet.GreenletExit):
            return
        self.failure = self.failure or Broken(f"{self.schedule.running.name}: {error!r}")
        self.failure.__cause__ = error

    def journal_says_as(self, _name: str) -> Callable[[str], None]:
        """As in saying.py: a journal says why its log cannot be used any more."""

        def say(text: str) -> None:
            if "an append failed" not in text:
                self.failure = self.failure or Broken(f"{self.schedule.running.name}: {text}")

        return say

    def make_idle(self, _mode: str, **_settings: Any) -> "Waiting":
        """As `Idle`."""
        return Waiting(self.schedule, (0.0003,))

    def make_journal_idle(self, _mode: str, **_settings: Any) -> "Waiting":
        """As `Idle`, of the journal thread."""
        return Waiting(self.schedule, (0.0002, 0.0005, 0.001))

    def make_event(self) -> Any:
        """As `threading.Event`: no exchange of ours is asked to stop."""
        return Event()

    def make_thread(self, *, target: Callable[..., None], args: tuple[Any, ...] = (), **_settings: Any) -> Any:
        """As `threading.Thread`."""
        return Thread(self.schedule, lambda: target(*args))

    def send_signal(self, number: int, _signal: int) -> None:
        """Kill by process number."""
        for process in dict.fromkeys(thread.process for thread in self.schedule.threads):
            if process.pid == number:
                process.kill()

    def wait(self, sentinels: list[Process], timeout_seconds: float) -> list[Process]:
        """Which of these have ended, after a nap."""
        self.schedule.nap(min(timeout_seconds, 0.001))
        return [process for process in sentinels if process.exitcode is not None]

    # Running -------------------------------------------------------------------------------------------

    def run(self, mutate: Mutation = lambda _changes: None) -> int:
        """Until everything has settled; how many turns that took. Raises Broken."""
        with rewired(self) as changes:
            mutate(changes)
            try:
                self._boot()
                while not (self.schedule.turns % LOOK_TURNS == 0 and self._settled()):
                    self._turn()
                    if self.failure is not None:
                        raise self.failure
                    if self.schedule.turns > TURNS_MAX:
                        raise Broken(f"nothing settles: {self._standing()}")
                self._judge_all()
            finally:
                self.schedule.close()
        return self.schedule.turns

    def _boot(self) -> None:
        """The machine starts."""
        self.watchman = Watchman(self)
        process = self.schedule.process("supervisor", self._watch)
        process.start()

    def _watch(self) -> None:
        """The supervisor's life."""
        try:
            self.watchman.run()
        except Broken as broken:
            self.failure = self.failure or broken

    def _turn(self) -> None:
        """A fault, a client, a broker, a process."""
        schedule, random = self.schedule, self.random
        fault = self.faults.pop(schedule.turns, None)
        if fault is not None:
            fault()
        if self.dark_until and schedule.turns >= self.dark_until:
            self.dark_until = 0
            self._boot()
        if random.random() < 0.12:
            send(self.plans, self.queues, random)
        quiet = schedule.turns > self.quiet_from
        if self.claim_kills and not quiet:
            self._kill_claimant()
        for pace, brokers in self.paces:
            if random.random() < (QUIET_PACE if quiet else pace):
                random.choice(brokers).turn()
        schedule.turn()

    def _settled(self) -> bool:
        """True if nothing is left to do, as far as the memory of the machine says."""
        if (
            self.dark_until
            or self.schedule.turns < self.quiet_from
            or self.faults
            or any(self.plans)
            or not all(queue.empty for queue in self.queues)
            or not all(log.quiet for log in self.logs)
        ):
            return False
        children = self.watchman.children
        publisher = children[Role.PUBLISHER, 0].segment
        if publisher is None or not self.watchman.all_running():
            return False
        for shard in range(self.config.exchange.shards):
            worker = children[Role.WORKER, shard].segment
            assert worker is not None
            matched = worker.load("matched_seq")
            if worker.load("durable_seq") != matched or worker.load("in_hand_seq") != matched:
                return False
            if publisher.load(f"confirmed_seq.{shard}") != matched or not self._followed(shard, matched):
                return False
        return True

    def _followed(self, shard: int, matched: int) -> bool:
        """True if the follower, if there is one, has applied everything."""
        follower = self.watchman.children.get((Role.FOLLOWER, shard))
        if follower is None:
            return True
        if follower.process is None or follower.segment is None or follower.state != State.FOLLOWING:
            return False
        leader = self.watchman.children[Role.WORKER, shard].segment
        assert leader is not None
        position = follower.segment.load("follows_position")
        first = leader.load("recovered_seq") + 1
        return bool(position - first_position(leader.incarnation) + first - 1 == matched)

    def _judge_all(self) -> None:
        """The end."""
        for shard in range(self.config.exchange.shards):
            digests = {}
            for role in (Role.WORKER, Role.FOLLOWER):
                child = self.watchman.children.get((role, shard))
                if child is not None and child.process is not None:
                    digests[child.name] = digest(self.workers[child.process.pid or 0].tables)
            self.judge.settled(shard, self.outlet.received, digests)

    def _standing(self) -> str:
        """Where everything stands, for a person."""
        said = [f"queues {[(len(queue.ready), len(queue.unacknowledged)) for queue in self.queues]}"]
        for child in self.watchman.children.values():
            words = ("matched_seq", "durable_seq", "in_hand_seq", "recovered_seq")
            known = [word for word in words if child.segment and word in child.segment.layout.words]
            said.append(
                f"{child.name}.{child.incarnation} {child.state.name} {[child.memory.load(word) for word in known]}"
            )
        return ", ".join(said)


class Waiting:
    """As `Idle`: waits are naps of the schedule, the last of them again and again; polls that wait may do so for a millisecond."""

    def __init__(self, schedule: Schedule, naps_seconds: tuple[float, ...]) -> None:
        """Nothing is waited yet."""
        self._schedule = schedule
        self._naps_seconds = naps_seconds
        self._idle = 0

    def __call__(self, work_count: int) -> None:
        """Nap if there was no work."""
        if work_count:
            self._idle = 0
            return
        self._schedule.nap(self._naps_seconds[min(self._idle, len(self._naps_seconds) - 1)])
        self._idle += 1

    def seconds_after(self, _work_count: int) -> float:
        """Always the same."""
        return 0.001


class Event:
    """As `threading.Event`, never set."""

    def is_set(self) -> bool:
        """Never."""
        return False

    def set(self) -> None:
        """Nothing."""


class Thread:
    """As `threading.Thread`, in the process that starts it."""

    def __init__(self, schedule: Schedule, target: Callable[[], None]) -> None:
        """Not started."""
        self._schedule, self._target = schedule, target
        self._ended = False

    def start(self) -> None:
        """Run beside the caller."""
        self._schedule.start(self._schedule.running, self._run)

    def _run(self) -> None:
        self._target()
        self._ended = True

    def is_alive(self) -> bool:
        """True until it has ended."""
        return not self._ended

    def join(self, _timeout_seconds: float = 0.0) -> None:
        """Return at once: whoever joins has seen that it ended."""


def simulate(seed: int, mutate: Mutation = lambda _changes: None) -> int:
    """Run a seed until everything has settled; how many turns that took. Raises Broken."""
    return World(seed).run(mutate)


def say_at(schedule: Schedule, text: str) -> None:
    """Print what a process says, with the turn."""
    print(f"  {schedule.turns}: {text}")


def main() -> None:
    """Run seeds and say which of them break."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many")
    parser.add_argument("--say", action="store_true", help="print what processes print")
    arguments = parser.parse_args()
    began = time.process_time()
    broken = 0
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        world = World(seed)
        if arguments.say:
            world.say = partial(say_at, world.schedule)
        try:
            world.run()
        except Broken as error:
            broken += 1
            print(f"seed {seed}: {error}")
            if arguments.say and error.__cause__ is not None:
                raise error.__cause__ from None
    seconds = time.process_time() - began
    print(f"{arguments.count} seeds, {broken} broken, {seconds / arguments.count * 1000:.0f} ms of CPU a seed")
    sys.exit(broken > 0)


if __name__ == "__main__":
    main()
