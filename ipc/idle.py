"""
Waiting: what a process does when it finds no work.

    mode              first SPINS_MAX polls   then YIELDS_MAX polls   then
    spin              pause                   pause                   pause
    spin-then-yield   pause                   give up the core        give up the core
    sleep             pause                   give up the core        naps of 1, 2, 4 ... NAP_US_MAX us, in a lull LULL_US
    sleep lightly     pause                   give up the core        naps of 1, 2, 4 ... NAP_US_MAX us

The first poll after work waits GATHER_PAUSES pauses, except in `spin`: a reader that asks again at once takes the tail's line from
its writer for each record. In a sketch of a ring, letting some gather moved a fifth to a half more; in `perf ring` between distant cores, nothing. Any work starts the ladder again. `spin` answers in well under a microsecond and burns a core: for a core of its own.
`spin-then-yield` is for fewer cores than processes: whoever has work gets the core. `sleep` leaves the
machine alone; it answers late by its last nap: half a millisecond on the average, five after a tenth of a second without
work, the lull. That is what lets an idle exchange take a few hundredths of a core: what costs is the waking, 15 to 50 us each
with the poll. `sleep lightly` is for whoever is watched by the millisecond: it knows no lull. Linux adds 50 us
to naps unless told otherwise (`short_slack`).

Fast here: one poll is a compare and a pause, inside the jitted loop that polls, without the GIL. Slow here:
a `pause` takes 10 to 140 cycles by processor, so the time until the first yield is known only within a factor of ten.
"""

import ctypes
from typing import Final

import numpy as np
from numba import njit

from ringpit.ipc.atomics import nap_us, pause, yield_core

SPIN: Final = 0
SPIN_THEN_YIELD: Final = 1
SLEEP: Final = 2
SLEEP_LIGHTLY: Final = 3  # no mode to be chosen: a worker's whose follower watches its heart
MODES: Final = {"spin": SPIN, "spin-then-yield": SPIN_THEN_YIELD, "sleep": SLEEP}

US_PER_SECOND: Final = 1_000_000
PR_SET_TIMERSLACK: Final = 29  # <linux/prctl.h>
SLACK_NS: Final = 1_000
SPINS_MAX: Final = 1_000  # about 5 to 50 us: longer than any hand-over between two running processes
YIELDS_MAX: Final = 100
GATHER_PAUSES: Final = 16  # some 0.3 us
NAP_DOUBLINGS_MAX: Final = 10
NAP_US_MAX: Final = 1 << NAP_DOUBLINGS_MAX  # about a millisecond
LULL_NAPS: Final = 100  # of that length, a tenth of a second, before a lull begins
LULL_US: Final = 10 * NAP_US_MAX
LULL_POLLS: Final = SPINS_MAX + YIELDS_MAX + NAP_DOUBLINGS_MAX + LULL_NAPS  # polls without work before it


def short_slack() -> None:
    """Have naps of the calling thread, and of those that it starts, end within a microsecond of their time, not 50."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_TIMERSLACK, SLACK_NS, 0, 0, 0)


@njit(cache=True)
def nap_us_after(idle_polls):
    """Length of the nap after so many polls without work, in mode `sleep`; 0: not yet a nap."""
    if idle_polls > LULL_POLLS:
        return LULL_US
    naps = idle_polls - SPINS_MAX - YIELDS_MAX
    if naps <= 0:
        return 0
    return 1 << min(naps - 1, NAP_DOUBLINGS_MAX)


@njit(cache=True, nogil=True)
def idle_step(state_cells, base_index, mode, worked):
    """
    Wait as long as this poll deserves; not at all if `worked`.

    Args:
        state_cells, base_index: An int64 cell of the caller's own: polls without work so far, at first 0.
        mode: SPIN, SPIN_THEN_YIELD, SLEEP or SLEEP_LIGHTLY.
        worked: Whether the poll before found work; a count serves.
    """
    if worked:
        state_cells[base_index] = 0
        return
    idle_polls = state_cells[base_index] + 1
    state_cells[base_index] = idle_polls
    if mode != SPIN and idle_polls == 1:
        for _ in range(GATHER_PAUSES):
            pause()
    elif mode == SPIN or idle_polls <= SPINS_MAX:
        pause()
    elif mode == SPIN_THEN_YIELD or nap_us_after(idle_polls) == 0:
        yield_core()
    elif mode == SLEEP:
        nap_us(nap_us_after(idle_polls))
    else:
        nap_us(min(nap_us_after(idle_polls), NAP_US_MAX))


class Idle:
    """
    The same for loops in Python: call it with the work that the last poll did.

    Args:
        mode: "spin", "spin-then-yield" or "sleep".
        skipped: Steps of the ladder to leave out. A poll in Python takes as long as hundreds in a kernel:
            with SPINS_MAX + YIELDS_MAX a loop naps at its first poll without work.

    Raises:
        ValueError: Another mode.
    """

    def __init__(self, mode: str, *, skipped: int = 0) -> None:
        """Start at the top of the ladder, or so far down."""
        if mode not in MODES:
            raise ValueError(f"idle mode must be one of {', '.join(MODES)}, was {mode!r}")
        self.mode = mode
        self._mode = MODES[mode]
        self._skipped = skipped
        self._polls = np.array([skipped], np.int64)

    def __call__(self, work_count: int) -> None:
        """Return at once if there was work, else wait, the longer the more often in a row."""
        if work_count:
            self._polls[0] = self._skipped
        else:
            idle_step(self._polls, 0, self._mode, 0)

    def seconds_after(self, work_count: int) -> float:
        """
        For a loop whose next poll can wait itself, as a socket's can: how long that may, after so much work in the last one.

        In mode `sleep` nothing is waited here; in the others the wait is done and the answer is 0.
        """
        if self._mode != SLEEP or work_count:
            self(work_count)
            return 0.0
        self._polls[0] += 1
        return int(nap_us_after(self._polls[0])) / US_PER_SECOND

    @property
    def idle_polls(self) -> int:
        """Polls without work since the last work."""
        return int(self._polls[0]) - self._skipped
