"""
Frames at rest: the running checksum over records, and where frames begin and end.

    records   MARKER  C  C  C | MARKER  C | MARKER  C  C       64 bytes each
              `------ frame --'

Both are one pass of a kernel over records where they lie (a ring, or a batch just read). Records may
come as two spans, because a ring wraps; a frame may lie across the two.

The checksum takes one record after another and knows nothing of batches, so that the same commands
written again in other batches agree. The eight words of a record are multiplied by eight odd constants,
which the processor overlaps; only one multiplication hangs on the record before. It finds a lost,
swapped or altered record; it is not meant against an adversary, and damage on disk is the business of
each batch's CRC32C.

Invariants:

    F1  a frame is a marker and as many commands as its `count` says, at most FRAME_COMMANDS_MAX
    F2  checksum(a + b) = checksum(b, checksum(a)), wherever a + b is cut
"""

from enum import IntEnum
from typing import Final

import numpy as np
from numba import njit

from ringpit.engine.codes import CommandKind
from ringpit.engine.limits import FRAME_COMMANDS_MAX
from ringpit.engine.records import MARKER, RECORD_BYTES
from ringpit.wal.errors import LogError

ROUTERS_MAX: Final = 8  # routers whose ring positions a batch header can carry
NO_ROUTER: Final = -1  # in a marker that the worker wrote itself: the frame came through no input ring
WORDS: Final = RECORD_BYTES // 8
CHECKSUM_START: Final = 0  # of no records at all

# Odd, so that multiplying loses nothing; otherwise arbitrary (digits of pi). Part of the log's layout.
_A: Final = 0x243F6A8885A308D3
_B: Final = 0x13198A2E03707345
_C: Final = 0x24093822299F31D1
_D: Final = 0x082EFA98EC4E6C89
_E: Final = 0x452821E638D01377
_F: Final = 0x3E5466CF34E90C6D
_G: Final = 0x40AC29B7C97C50DD
_H: Final = 0x3F84D5B5B5470917
_CHAIN: Final = 0x1216D5D98979FB1B
_LOW: Final = 0xFFFFFFFF  # turns the sign-keeping shift into one that fills with zeros, and so can be undone


class FrameStatus(IntEnum):
    """What `_measure` answers when it meets what is not a frame. Zero and above: whole records."""

    NOT_A_MARKER = -1
    COUNT_IMPOSSIBLE = -2
    ROUTER_UNKNOWN = -3


class FrameTorn(LogError):
    """Records that must be whole frames are not: a bug in whoever wrote them."""


@njit(cache=True, nogil=True)
def _chain(words, checksum):
    """F2: carry the checksum over int64 words of shape (records, 8). 64-bit overflow is intended."""
    for i in range(words.shape[0]):
        mixed = (words[i, 0] ^ (words[i, 0] >> 32 & _LOW)) * _A
        mixed += (words[i, 1] ^ (words[i, 1] >> 32 & _LOW)) * _B
        mixed += (words[i, 2] ^ (words[i, 2] >> 32 & _LOW)) * _C
        mixed += (words[i, 3] ^ (words[i, 3] >> 32 & _LOW)) * _D
        mixed += (words[i, 4] ^ (words[i, 4] >> 32 & _LOW)) * _E
        mixed += (words[i, 5] ^ (words[i, 5] >> 32 & _LOW)) * _F
        mixed += (words[i, 6] ^ (words[i, 6] >> 32 & _LOW)) * _G
        mixed += (words[i, 7] ^ (words[i, 7] >> 32 & _LOW)) * _H
        checksum = ((checksum ^ mixed) + _CHAIN) * _CHAIN
        checksum ^= checksum >> 32 & _LOW
    return checksum


@njit(cache=True, nogil=True)
def _measure(first, second, records_max, positions):
    """
    Count the records of the whole frames at the front that fit records_max; the first frame always fits.

    Writes each marker's position into positions[router], but for a worker's own frames: those move no input ring.
    Stops before a frame whose end is not there.
    Returns the records and the last counted marker's engine_ns.
    """
    available = first.shape[0] + second.shape[0]
    taken = 0
    engine_ns = 0
    while taken < available:
        at = taken
        span = first
        if at >= first.shape[0]:
            at -= first.shape[0]
            span = second
        if span[at]["kind"] != CommandKind.MARKER.value:
            return FrameStatus.NOT_A_MARKER.value, engine_ns
        count = span[at]["count"]
        if count < 0 or count > FRAME_COMMANDS_MAX:
            return FrameStatus.COUNT_IMPOSSIBLE.value, engine_ns
        behind = taken + 1 + count
        if behind > available or (taken > 0 and behind > records_max):
            break
        router = span[at]["router"]
        if router < NO_ROUTER or router >= ROUTERS_MAX:
            return FrameStatus.ROUTER_UNKNOWN.value, engine_ns
        if router != NO_ROUTER:
            positions[router] = span[at]["position"]
        engine_ns = span[at]["engine_ns"]
        taken = behind
    return taken, engine_ns


@njit(cache=True, nogil=True)
def _follow(markers, words, counts, before, after, positions, checksum):
    """How many batches at the front are whole frames and agree with their headers; their records; the checksum behind them."""
    at = 0
    for i in range(counts.shape[0]):
        end = at + counts[i]
        span = markers[at:end]
        if before[i] != checksum or _measure(span, span[:0], counts[i], positions)[0] != counts[i]:
            return i, at, checksum
        behind = _chain(words[at:end], checksum)
        if behind != after[i]:
            return i, at, checksum
        checksum = behind
        at = end
    return counts.shape[0], at, checksum


def agreeing(
    records: np.ndarray, counts: np.ndarray, before: np.ndarray, after: np.ndarray, checksum: int
) -> tuple[int, int, int]:
    """
    How many of the batches at the front are whole frames, with the running checksum that they tell.

    `counts` says how many of the records (dtype MARKER, contiguous) each of them has, `before` and `after` what its header says of
    the checksum, which is `checksum` before the first. Returns batches, their records, and the checksum behind these.
    Cost: about 5 microseconds a call and 4 ns a record.
    """
    words = records.view(np.int64).reshape(-1, WORDS)
    positions = np.zeros(ROUTERS_MAX, np.int64)
    with np.errstate(over="ignore"):
        batches, taken, behind = _follow(records, words, counts, before, after, positions, np.int64(checksum))
    return int(batches), int(taken), int(behind)


def checksum_of(records: np.ndarray, checksum: int = CHECKSUM_START) -> int:
    """
    Carry a running checksum over records; `records` is contiguous, of any 64-byte dtype.

    Cost: about 1 microsecond a call and 3 ns a record.
    """
    words = records.view(np.int64).reshape(-1, WORDS)
    with np.errstate(over="ignore"):  # interpreted, numpy would warn of the overflow that we want
        return int(_chain(words, np.int64(checksum)))


def whole_frames(
    spans: tuple[np.ndarray, ...], records_max: int, positions: np.ndarray, where: str
) -> tuple[int, int]:
    """
    Count the records at the front of one or two spans that are whole frames and fit records_max.

    The first frame counts even if it is larger than records_max. `positions` (int64, ROUTERS_MAX) takes the
    ring position just behind each router's last counted frame, a worker's own frames left out. `where` is for the message. Also returns the
    last counted marker's engine_ns, 0 if there is none.

    Raises FrameTorn if a frame does not begin where one must.
    """
    first = spans[0].view(MARKER)
    second = spans[1].view(MARKER) if len(spans) > 1 else first[:0]
    taken, engine_ns = _measure(first, second, records_max, positions)
    if taken < 0:
        name = FrameStatus(taken).name
        raise FrameTorn(f"{where}: a frame must begin with a marker that makes sense, was {name}")
    return int(taken), int(engine_ns)
