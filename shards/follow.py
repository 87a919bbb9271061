"""
The follower's jitted loop: copy what the worker has matched, apply it, watch the worker's heart.

    worker's journal ring ──copy──> own journal ring ──apply in place──> tables
          up to matched_seq            same records, other positions     (reports go nowhere)

The follower stands a run or so behind the worker, in state and in journal: when it takes over, the records that are
not durable lie in a ring of its own already. The copy is thrown away if the worker has let the follower go
meanwhile, because then its slots may have been written over while they were read.

The worker's heart is its heartbeat word. If it stands still for longer than the limit, by our clock, and we were
awake ourselves, the worker is dead or hangs. A false alarm costs a switch and no data.

Fast here: a run costs one copy and what applying costs. Slow: both need the core, and share its caches with nobody.

Invariants:

    FO1  what is applied was matched by the worker, whole frames, in order of seq
    FO2  a copy counts only if the worker still keeps its slots for us afterwards
    FO3  own journal position = first position + seq - base: the worker's records at places of our own
    FO4  nothing in our journal is written over before Python has looked at it: it lives on in checksum and positions. The
         worker's ring is as long, and keeps what is not durable; so there is room as soon as Python has looked
"""

from enum import IntEnum, auto
from typing import Final, NamedTuple

import numpy as np
from numba import njit

from ringpit.engine.through import process_through
from ringpit.ipc.atomics import fence_acquire, load_acquire, store_release
from ringpit.ipc.idle import idle_step
from ringpit.ipc.ring import carry
from ringpit.shards.serve import Own, run_length, tell_events, time_of

TURN_NS: Final = 2_000_000  # longest time between two turns of Python
ASLEEP_PARTS: Final = 4  # polls further apart than this part of the limit: it was we who slept


class Over(IntEnum):
    """Where the words lie that the loop touches: indices into `Leader.at`."""

    JOURNAL_TAIL = 0  # in the worker's cells
    MATCHED_SEQ = auto()
    HEARTBEAT = auto()
    BUSY_UNTIL_NS = auto()
    FOLLOWED_BY = auto()
    OUR_HEARTBEAT = auto()  # in our own
    FOLLOWS_POSITION = auto()
    LEADERSHIP = auto()  # the rest: in the board's
    STOP = auto()
    TAKE_OVER = auto()


class Behind(IntEnum):
    """The loop's own numbers, in `Leader.own`."""

    APPLIED_SEQ = 0
    POSITION = auto()  # the worker's journal position of what comes next
    OUR_POSITION = auto()  # and ours
    BEAT = auto()  # the worker's heartbeat as last seen
    BEAT_NS = auto()  # and when
    POLL_NS = auto()  # when we looked last
    LIMIT_NS = auto()  # how long a heart may stand still
    KNOWN_SEQ = auto()  # Python knows checksum and positions up to it
    IDLE = auto()
    IDLE_MAX = auto()  # where the waiting policy stops: its naps must not be longer than we may sleep


class Follow(IntEnum):
    """Why the loop came back to Python."""

    TURN = 0
    STOP = 1
    REPLACED = 2  # somebody else leads now
    LET_GO = 3  # the worker does not keep its slots for us any more
    SILENT = 4  # take over


class Leader(NamedTuple):
    """What the loop touches of the worker that it follows."""

    cells: np.ndarray  # int64, the worker's segment
    at: np.ndarray  # int64, see Over
    own: np.ndarray  # int64, see Behind
    incarnations: np.ndarray  # int64: the worker's, and ours
    journal: np.ndarray  # COMMAND, a power of two
    journal_markers: np.ndarray  # the same as MARKER


@njit(cache=True, nogil=True, _nrt=False)
def copy_run(w, f, count):
    """Copy records from the worker's journal ring into ours. Returns False if they may not be what they were (FO2)."""
    carry(w.journal, f.own[Behind.OUR_POSITION], f.journal, f.own[Behind.POSITION], count)
    fence_acquire()  # pairs with the store in Followed: let go before the slots are given back
    return load_acquire(f.cells, f.at[Over.FOLLOWED_BY]) == f.incarnations[1]


@njit(cache=True, nogil=True, _nrt=False)
def apply_run(t, w, f, count):
    """Apply the records that were copied; their reports are written over again and again."""
    at = f.own[Behind.OUR_POSITION]
    end = at + count
    seq = f.own[Behind.APPLIED_SEQ] + 1
    while at < end:
        reached, _ = process_through(
            w.process_at, t, w.journal, w.journal_markers, at, end, seq, w.output, 0, w.output.shape[0], 1
        )
        seq += reached - at
        at = reached
    f.own[Behind.APPLIED_SEQ] = seq - 1
    f.own[Behind.OUR_POSITION] = end
    tell_events(t, w)


@njit(cache=True, nogil=True, _nrt=False)
def silent(f, now_ns):
    """True if the worker's heart has stood still for longer than the limit while we were looking."""
    beat = load_acquire(f.cells, f.at[Over.HEARTBEAT])  # pairs with the release in `serve`
    if beat != f.own[Behind.BEAT] or now_ns - f.own[Behind.POLL_NS] > f.own[Behind.LIMIT_NS] // ASLEEP_PARTS:
        f.own[Behind.BEAT] = beat
        f.own[Behind.BEAT_NS] = now_ns
    f.own[Behind.POLL_NS] = now_ns
    if now_ns - f.own[Behind.BEAT_NS] <= f.own[Behind.LIMIT_NS]:
        return False
    return (
        load_acquire(f.cells, f.at[Over.BUSY_UNTIL_NS]) < now_ns
    )  # pairs with the store in Worker: it answers a question


@njit(cache=True, nogil=True, _nrt=False)
def follow(t, w, f):
    """Follow until Python is needed; the answer is a Follow."""
    began_ns = time_of(w)
    while True:
        heartbeat = f.at[Over.OUR_HEARTBEAT]
        store_release(w.cells, heartbeat, w.cells[heartbeat] + 1)  # for whoever watches
        now_ns = time_of(w)
        if (
            load_acquire(w.board, f.at[Over.LEADERSHIP]) != f.incarnations[0]
        ):  # pairs with the swap of who leads
            return Follow.REPLACED
        if load_acquire(w.board, f.at[Over.STOP]) != 0:  # pairs with the supervisor's store
            return Follow.STOP
        if (
            load_acquire(f.cells, f.at[Over.FOLLOWED_BY]) != f.incarnations[1]
        ):  # pairs with the store in Followed
            return Follow.LET_GO
        if silent(f, now_ns) or load_acquire(w.board, f.at[Over.TAKE_OVER]) == f.incarnations[0]:
            return Follow.SILENT
        matched_seq = load_acquire(f.cells, f.at[Over.MATCHED_SEQ])  # pairs with the release in `match_run`
        waiting = matched_seq - f.own[Behind.APPLIED_SEQ]
        if waiting > 0:
            position = f.own[Behind.POSITION]
            count = run_length(f.journal_markers, position, position + waiting)
            if f.own[Behind.APPLIED_SEQ] + count - f.own[Behind.KNOWN_SEQ] > w.journal.shape[0]:
                return Follow.TURN  # FO4
            if not copy_run(w, f, count):
                return Follow.LET_GO
            f.own[Behind.POSITION] = position + count
            # pairs with the load in Followed: the slots are read
            store_release(w.cells, f.at[Over.FOLLOWS_POSITION], position + count)
            apply_run(t, w, f, count)
        if now_ns - began_ns > TURN_NS:
            return Follow.TURN
        idle_step(f.own, Behind.IDLE, w.own[Own.MODE], waiting > 0)
        f.own[Behind.IDLE] = min(f.own[Behind.IDLE], f.own[Behind.IDLE_MAX])
