"""
Lanes: how a question reaches a worker, and how its answer comes back, word by word.

    client     locks a lane (of LANES), writes a REQUEST, then asked.L, then rings bell.S
    worker S   sees the bell between two frames, reads the lanes, writes an ANSWER and its bytes, then answered.L
    client     sees answered.L, copies the bytes; asks for the rest if there is more, and gives the lane back

Everything that clients write lies in the segment `queries`, which the supervisor makes; everything that a worker
writes lies in its own. A lane belongs to the process that holds an open-file lock on the lane's byte of that segment's
file: the system lets go of it however the process ends, so a client that dies blocks nobody.

A worker that nobody asks pays for one load of its bell a turn. The bell is a counter that clients advance by
compare-and-swap and the worker only reads, so it never misses one.

Invariants:

    N1  a request lies in slot `number % REQUESTS` of its lane, complete before asked.L is `number`; so it is not
        written over while asked.L is still `number`
    N2  a worker writes a lane's answer only for a request that it has not answered, so never while a client reads
        one: the client asks again only when it has copied what there was
    N3  answered.L is stored after the answer, and is the number of the request that it answers
"""

from enum import IntEnum
from typing import Final

import numpy as np

from ringpit.engine.records import dtype_of

LANES: Final = 8  # clients that can ask at the same time; others wait for their turn
REQUESTS: Final = 4  # slots of a lane
CHUNK_BYTES: Final = 1 << 15  # of an answer at a time
LEVELS_MAX: Final = 1_000  # of a depth, each side


class Ask(IntEnum):
    """What a client asks."""

    ORDER = 1
    ORDERS = 2
    DEPTH = 3
    POSITION = 4
    STATISTICS = 5
    DIGEST = 6


class Answered(IntEnum):
    """How an answer ended."""

    DONE = 0
    UNKNOWN_EVENT = 1
    UNKNOWN_ORDER = 2
    GONE = 3  # the rest of an answer that the worker has not kept: ask anew
    MALFORMED = 4


REQUEST: Final = dtype_of(
    (
        ("kind", "<i8", "Ask"),
        ("shard", "<i8", "who shall answer"),
        ("event", "<i8", "event's id, where one is asked about"),
        ("order", "<i8", "order id, likewise"),
        ("account", "<i8", "owner, likewise"),
        ("levels", "<i8", "levels of each side of a depth"),
        ("begin", "<i8", "first byte wanted; above 0: of the answer that the lane was given last"),
        ("deadline_ns", "<i8", "ns since the epoch; later nobody waits for the answer"),
    )
)
ANSWER: Final = dtype_of(
    (
        ("status", "<i8", "Answered"),
        ("seq", "<i8", "log position up to which everything is in the answer"),
        ("begin", "<i8", "first byte of this piece"),
        ("count", "<i8", "bytes of this piece"),
        ("total", "<i8", "bytes of the whole answer"),
        ("shard", "<i8", "who answers"),
        ("engine_ns", "<i8", "engine time of the answer"),
        ("incarnation", "<i8", "which life of it"),
    )
)
LEVEL_ROW: Final = dtype_of(
    (
        ("side", "<i8", "Side"),
        ("price", "<i8", "ticks"),
        ("quantity", "<i8", "lots"),
    )
)


def request_slot(lane: int, number: int) -> int:
    """Where a lane's request of a number lies."""
    return lane * REQUESTS + number % REQUESTS


def bytes_of(lane: int, region: np.ndarray) -> np.ndarray:
    """A lane's part of the answers' bytes."""
    return region[lane * CHUNK_BYTES :][:CHUNK_BYTES]
