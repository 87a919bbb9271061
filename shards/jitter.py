"""
Jitter: how long a core that does nothing but read the clock is kept from doing so.

A kernel reads the clock again and again. Two readings are some 20 to 60 ns apart; a larger gap means that the core was doing
something else: an interrupt, another process, the kernel's own work, or, in a virtual machine, another guest. What interrupts
this loop interrupts a worker that spins, too, so the gaps are a floor under its latency.

    gaps of 1 us and more      counted by length: how often, p99.99 over all readings, the longest, the share of time lost

Fast: nothing but the clock. Slow: it burns the core for as long as it measures, and while somebody else uses that core it
measures them.

Invariants:

    J1  readings and gaps are counted in the same histogram, so a percentile is one over readings
    J2  time lost is the sum of all gaps of THRESHOLD_NS and more
"""

import os
import time
from typing import Final, NamedTuple

import numpy as np

from ringpit.ipc import histogram
from ringpit.ipc.atomics import clock_ns
from ringpit.ipc.histogram import record
from ringpit.shards.kernels import kernel

THRESHOLD_NS: Final = 1_000
READINGS, GAPS, LOST_NS, LONGEST_NS = range(4)
CALL_NS: Final = 50_000_000  # of a call of the kernel: signals wait for it
NS_PER_SECOND: Final = 1_000_000_000


class Jitter(NamedTuple):
    """What a spinning core saw."""

    core: int
    seconds: float
    readings: int
    gaps: int  # of THRESHOLD_NS and more
    lost_fraction: float  # of the time
    p99_99_ns: int
    longest_ns: int


@kernel
def spin(until_ns, counts, cells):
    """Read the clock until a time; `counts` is a histogram of all distances, `cells` what the names above say."""
    before_ns = clock_ns()
    while before_ns < until_ns:
        now_ns = clock_ns()
        gap_ns = now_ns - before_ns
        record(counts, gap_ns)
        cells[READINGS] += 1
        if gap_ns >= THRESHOLD_NS:
            cells[GAPS] += 1
            cells[LOST_NS] += gap_ns
            cells[LONGEST_NS] = max(cells[LONGEST_NS], gap_ns)
        before_ns = now_ns
    return before_ns


def measure(seconds: float, core: int | None = None) -> Jitter:
    """
    Spin on a core for so long; without one on the last that this process may use. Its affinity is put back afterwards.

    Raises ValueError for a core that this process may not use.
    """
    allowed = os.sched_getaffinity(0)
    core = max(allowed) if core is None else core
    if core not in allowed:
        raise ValueError(
            f"core must be one of {sorted(allowed)}, was {core}: name one that this process may use"
        )
    counts, cells = histogram.empty(), np.zeros(4, np.int64)
    spin(0, counts, cells)  # compiles
    os.sched_setaffinity(0, {core})
    try:
        begin_ns = now_ns = time.time_ns()
        end_ns = begin_ns + int(seconds * NS_PER_SECOND)
        while now_ns < end_ns:
            now_ns = int(spin(min(now_ns + CALL_NS, end_ns), counts, cells))
    finally:
        os.sched_setaffinity(0, allowed)
    spent_ns = max(now_ns - begin_ns, 1)
    return Jitter(
        core,
        spent_ns / NS_PER_SECOND,
        int(cells[READINGS]),
        int(cells[GAPS]),
        int(cells[LOST_NS]) / spent_ns,
        histogram.percentile(counts, 0.9999),
        int(cells[LONGEST_NS]),
    )
