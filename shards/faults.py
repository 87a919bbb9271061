"""
Fault points: named steps at which a test has a process killed or stopped. They are for tests alone.

    RINGPIT_FAULT="worker-0.1:JOURNALED:SIGKILL:3"      process and incarnation, step, signal, at the third time
    RINGPIT_FAULT="worker-0.1:CUT:SIGSTOP:3:SPARE"      and nobody kills it when it was taken over

Incarnations count, because a process that is started again has the same environment; `ringpit reshard` is "reshard". A step is passed by calling `met`; in a process that was not told of a fault that is one comparison. In
kernels the same is `passed`, told of the fault by three cells. A simulation in one process arms a fault without
signal: then `met` raises Crash, and `passed` is true, at which the kernel returns.

A worker that is only stopped is killed by the follower that takes over, and by the supervisor. One that a test wants to
wake, to see that it changes nothing, is spared.

Invariant:

    FP1  without RINGPIT_FAULT in the environment no step does anything, and nobody is spared
"""

import os
import signal
import threading
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import Final, NamedTuple

import numpy as np

from ringpit.ipc.atomics import signal_self
from ringpit.shards.kernels import kernel

VARIABLE: Final = "RINGPIT_FAULT"
SPARE: Final = "SPARE"


class Step(IntEnum):
    """Everything between "taken from the queue" and "acknowledged to it", in the order of the flow."""

    NOWHERE = 0
    TAKEN = auto()  # router: a delivery is decoded, nothing is written
    DEALT_TO_ONE = auto()  # router: the first shard's ring has its frame
    DEALT = auto()  # router: every ring has its frame, the delivery is not noted yet
    COPIED = auto()  # worker: a run is in the journal's slots, unpublished
    JOURNALED = auto()  # worker: the journal is published, nothing is matched
    REPORTED = auto()  # worker: reports are in the output's slots, unpublished
    PUBLISHED = auto()  # worker: the output is published, the run does not count as matched
    MATCHED = auto()  # worker: matched, the input ring's slots are not given back
    SERVED = auto()  # worker: the input ring's slots are given back
    CUT = auto()  # journal: a batch is cut, not appended
    APPENDED = auto()  # journal: appended, not known to be durable
    DURABLE = auto()  # journal: durable, and nobody knows
    DURABLE_SEQ_TOLD = auto()  # journal: the publisher knows, the routers do not
    DURABLE_TOLD = auto()  # journal: routers know, the journal's slots are not given back
    RELEASED = auto()  # publisher: reports taken, not sent
    SENT = auto()  # publisher: sent, not confirmed
    CONFIRMED = auto()  # publisher: confirmed, nothing is given back
    GIVEN_BACK = auto()  # publisher: slots are given back, the confirmed seq is not told
    BEFORE_ACKNOWLEDGE = auto()  # router: durable, not acknowledged
    ACKNOWLEDGED = auto()  # router: acknowledged
    JOURNAL_FROZEN = auto()  # follower: the old journal is frozen, the old output is not
    FROZEN = auto()  # follower: both are frozen, the old worker leads
    LEADING = auto()  # follower: leads, and has sequenced nothing
    SEQUENCED = auto()  # follower: what the frozen journal held is in its own
    TAKEN_OVER = auto()  # follower: all words stand, its journal thread has not started
    CLAIM_APPENDED = auto()  # journal of a follower: its claim is appended
    CLAIMED = auto()  # journal of a follower: the claim counts
    SNAPSHOT_WRITTEN = auto()  # worker or follower: written, does not count yet
    SNAPSHOT_PUBLISHED = auto()  # worker or follower: counts
    TOPOLOGY_WRITTEN = auto()  # supervisor or reshard: topology.json is written, does not count yet
    TOPOLOGY_COUNTS = auto()  # supervisor or reshard: counts
    RESHARD_READ = auto()  # reshard: all old books are in memory, nothing is written
    RESHARD_CLEARED = auto()  # reshard: what an attempt before has left is removed
    RESHARD_LOG_MADE = auto()  # reshard: a new shard's log has its identity, its snapshot is not written
    RESHARD_SHARD_WRITTEN = auto()  # reshard: a new shard's snapshot is written, does not count yet
    RESHARD_SHARD_PUBLISHED = auto()  # reshard: counts, if the generation will
    RESHARD_COMPARED = auto()  # reshard: all new shards are read back and equal, the topology is the old one


class Crash(Exception):
    """A simulated process ends here."""


@dataclass
class Armed:
    """The one fault of this process. `signal_number` 0: a simulation's."""

    step: Step = Step.NOWHERE
    signal_number: int = 0
    left: int = 0  # how often the step is passed before


class Fault(NamedTuple):
    """One of those that a value of RINGPIT_FAULT names."""

    process: str  # with its incarnation, as in "worker-0.1"
    step: Step
    signal_number: signal.Signals
    times: int
    spared: bool


armed = Armed()


def met(step: Step) -> None:
    """Pass a step: nothing, or the end. Raises Crash in a simulation."""
    if step is not armed.step:
        return
    armed.left -= 1
    if armed.left == 0:
        if armed.signal_number == 0:
            raise Crash(step.name)
        # To this thread: one that is sent to the process may stop another thread first, while this one goes on.
        signal.pthread_kill(threading.get_ident(), armed.signal_number)


def fault_cells() -> np.ndarray:
    """What kernels must know of this process's fault: int64 of step, signal, and how often the step is passed before."""
    return np.array([armed.step, armed.signal_number, armed.left], np.int64)


@kernel
def passed(fault, step):
    """Pass a step in a kernel, with what `fault_cells` gave. True: a simulation ends the process here; a signal is sent from here."""
    if fault[0] != step:
        return False
    fault[2] -= 1
    if fault[2] != 0:
        return False
    if fault[1] == 0:
        return True
    signal_self(fault[1])
    return False


def faults_of(environment: str) -> list[Fault]:
    """What a value of RINGPIT_FAULT says, separated by commas. Raises ValueError, which names the form, if it says something else."""
    faults = []
    for text in filter(None, environment.split(",")):
        try:
            process, step, signal_name, times, *rest = text.split(":")
            is_spared = {(): False, (SPARE,): True}[tuple(rest)]
            faults.append(Fault(process, Step[step], signal.Signals[signal_name], int(times), is_spared))
        except (ValueError, KeyError):
            raise ValueError(
                f"{VARIABLE} must be like worker-0.1:JOURNALED:SIGKILL:1, was {text!r}; unset it outside of tests"
            ) from None
    return faults


def arm_from(environment: str, name: str) -> None:
    """Arm what a value of RINGPIT_FAULT says of the process `name`, as in "worker-0.1". Raises ValueError as `faults_of`."""
    for fault in faults_of(environment):
        if fault.process == name:
            armed.step, armed.signal_number, armed.left = fault.step, int(fault.signal_number), fault.times


def spared(shard: int, incarnation: int) -> bool:
    """True if a test wants to wake this worker after it was taken over, so nobody may kill it."""
    names = {f"worker-{shard}.{incarnation}", f"follower-{shard}.{incarnation}"}
    return any(fault.spared and fault.process in names for fault in faults_of(os.environ.get(VARIABLE, "")))
