"""
A schedule: who runs next, for how long, and what happens to him; all of it drawn from one seed.

    schedule = Schedule(Random(7))
    schedule.start(process, main)        a thread of a simulated process: a greenlet
    schedule.turn()                      one thread runs until it naps, or has touched shared memory so many times

Simulated threads are greenlets in one thread of Python: exactly one runs, and it stops only where it says so. `touch`
is called before each access to shared memory and each fault point, and stops the thread when its turn is used up, so a
schedule may change hands between any two accesses, inside a function as well as between two. `nap` ends a turn at once.

A process is killed by never resuming its threads: no `finally` of it runs, as with SIGKILL. Paused, it is not resumed for
so long. A kill may come late, so that what is to be killed can still do its worst.

Fast here: changing hands is some hundred nanoseconds. Nothing here knows what runs.
"""

from collections.abc import Callable
from random import Random
from typing import Any, Final

import greenlet
import numpy as np

TURN_NS_MAX: Final = 200_000  # by which time passes at each turn
QUANTA: Final = (1_000_000, 60, 9)  # most accesses in one turn
QUANTA_SHARES: Final = (0.45, 0.3, 0.25)
START_NS: Final = 1_700_000_000_000_000_000
SPEEDS: Final = (0.1, 0.4, 1.0, 1.0, 2.0)  # of processes
THREAD_SPEEDS: Final = (0.15, 1.0, 1.0)  # of threads beside others of their process
NEVER: Final = 1 << 62


class Ended(BaseException):
    """A simulated process left by itself."""


class Process:
    """One simulated process, with the face of multiprocessing's, as far as the supervisor looks at it."""

    def __init__(self, schedule: "Schedule", name: str, main: Callable[[], None], number: int) -> None:
        """Does not run yet."""
        self.schedule = schedule
        self.name = name
        self.pid = number
        self.exitcode: int | None = None
        self.paused_until = 0  # turn
        self.doomed_at = NEVER  # turn at which a signal arrives
        self.speed = 1.0
        self.held: list[Any] = []  # logs, intakes, sinks: each with a store to part from
        self._main = main

    @property
    def sentinel(self) -> "Process":
        """What `wait` waits for."""
        return self

    def start(self) -> None:
        """Run."""
        self.schedule.start(self, self._main)

    def kill(self) -> None:
        """A signal is under way."""
        if self.exitcode is None:
            self.schedule.doom(self)

    def join(self, _timeout_seconds: float = 0.0) -> None:
        """Return at once: whoever joins has killed before, or has seen the exit code."""


class Thread:
    """One thread of a process."""

    def __init__(self, process: Process, main: Callable[[], None], speed: float, hub: Any) -> None:
        """Begins at its first turn. When it ends, `hub` goes on, and not whoever started it."""
        self.process = process
        self.speed = speed  # beside the process's own
        self.left = 0  # accesses until it has to let others run
        self.wake_ns = 0
        self.greenlet = greenlet.greenlet(main, hub)


class Schedule:
    """
    Threads of simulated processes, and the clock.

    Args:
        random: Everything is drawn from it.
        parted: Called with each process that has died.
    """

    def __init__(self, random: Random, parted: Callable[[Process], None]) -> None:
        """Nobody runs."""
        self.random = random
        self.clock = np.array([START_NS], np.int64)
        self.turns = 0
        self.threads: list[Thread] = []
        self.current: Thread | None = None
        self.closing = False
        self.met: Callable[[int, Process], None] = lambda _step, _process: None
        self._parted = parted
        self._numbers = 0
        self._graves: list[Thread] = []  # a greenlet that is dropped would run its handlers
        self._hub = greenlet.getcurrent()

    def process(self, name: str, main: Callable[[], None]) -> Process:
        """A process, not started."""
        self._numbers += 1
        made = Process(self, name, main, self._numbers)
        made.speed = self.random.choice(SPEEDS)
        return made

    def start(self, process: Process, main: Callable[[], None]) -> None:
        """Another thread of a process."""
        self.threads.append(Thread(process, main, self.random.choice(THREAD_SPEEDS), self._hub))

    @property
    def running(self) -> Process:
        """Whose thread runs."""
        assert self.current is not None
        return self.current.process

    # Inside threads ------------------------------------------------------------------------------------

    def touch(self) -> None:
        """Before each access to shared memory."""
        thread = self.current
        if thread is None:
            self._require_life()
            return
        thread.left -= 1
        if thread.left < 0:
            self._let_go()

    def nap(self, seconds: float) -> None:
        """Let others run, at least so long."""
        thread = self.current
        if thread is None:
            self._require_life()
            return
        thread.wake_ns = self.now_ns + int(seconds * 1e9)
        self._let_go()

    def pass_step(self, step: int) -> None:
        """A fault point."""
        if self.current is not None:
            self.met(step, self.current.process)
            self.touch()

    def leave(self, code: int) -> None:
        """The process of the thread that runs ends with a code. Does not return."""
        if self.closing or self.current is None:
            raise greenlet.GreenletExit
        self.end(self.current.process, code)
        self._let_go()

    def _let_go(self) -> None:
        """Back to the schedule."""
        self._require_life()
        self._hub.switch()

    def _require_life(self) -> None:
        """When the run is over, what still catches exceptions and goes on is stopped again."""
        if self.closing:
            raise greenlet.GreenletExit

    # Outside -------------------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        """The time."""
        return int(self.clock[0])

    def turn(self) -> None:
        """One thread runs."""
        random = self.random
        self.turns += 1
        self.clock[0] += random.randrange(1, TURN_NS_MAX)
        now_ns, turns = self.now_ns, self.turns
        awake = []
        for thread in self.threads:
            process = thread.process
            if process.doomed_at <= turns:
                self.end(process, -9)
                return
            if thread.wake_ns <= now_ns and process.paused_until <= turns:
                awake.append(thread)
        if not awake:
            return
        thread = random.choices(awake, [each.process.speed * each.speed for each in awake])[0]
        thread.left = random.randrange(1, random.choices(QUANTA, QUANTA_SHARES)[0])
        self.current = thread
        try:
            thread.greenlet.switch()
        finally:
            self.current = None
        if thread.greenlet.dead and thread in self.threads:
            self.threads.remove(thread)

    def doom(self, process: Process) -> None:
        """A signal is under way, and may take its time."""
        if process.doomed_at == NEVER:
            late = self.random.choice((1, 10, 300, 1_000))
            process.doomed_at = self.turns + self.random.randint(1, late)

    def end(self, process: Process, code: int) -> None:
        """A process is dead."""
        if process.exitcode is None:
            process.exitcode = code
            self._graves += [thread for thread in self.threads if thread.process is process]
            self.threads = [thread for thread in self.threads if thread.process is not process]
            self._parted(process)

    def close(self) -> None:
        """End every greenlet for good."""
        self.closing = True
        for thread in self.threads + self._graves:
            if not thread.greenlet.dead and thread.greenlet:
                thread.greenlet.throw(greenlet.GreenletExit)
        self.threads.clear()
        self._graves.clear()
