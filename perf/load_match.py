"""
Whose report is it? Reports are matched to orders by id, and their times counted from when each order was due.

Every command about an order gets exactly one *reply* with the order's id: ACCEPTED, AMENDED, REJECTED, or CANCELED without a
reason (a cancel, or an amend or reduce that takes all). Other reports (fills, remainders with a reason) answer nobody. One event's
commands stay in order, so the n-th reply of an id belongs to the n-th command about it:

    waiting[id] ──> command ──following──> the next command about that id ──> ... ──> -1

Fast: two loads and a bucket per report, in a kernel. Memory: 24 bytes an order.

Invariants:

    T1  a reply is counted once: one whose seq is not above the last counted one's of that id has come before
    T2  the time of an order begins when it was due, whenever it was really sent: a generator that stands still, or
        is held up by the exchange, makes the time longer and leaves nobody out
"""

from enum import IntEnum
from typing import Final

import numpy as np
from numba import njit

from ringpit.engine.codes import Reason, ReportKind
from ringpit.ipc import histogram
from ringpit.ipc.histogram import record

ACCEPTED, AMENDED = int(ReportKind.ACCEPTED), int(ReportKind.AMENDED)
CANCELED, REJECTED = int(ReportKind.CANCELED), int(ReportKind.REJECTED)
REASONS: Final = max(Reason) + 1


class Seen(IntEnum):
    """Cells of `Matcher.counts`."""

    ANSWERED = 0  # orders with a reply
    AGAIN = 1  # replies that had come before
    FOREIGN = 2  # replies to orders that are not ours
    SURPLUS = 3  # replies that nobody waits for
    LAST_NS = 4  # when the last reply was seen


@njit(cache=True, nogil=True)
def match_replies(
    reports, count, seen_ns, base, due_ns, following, waiting, answered_seq, told, refused, counts
):
    """Count the first `count` reports, all seen at `seen_ns`: the histogram `told`, `refused` by reason, `counts` by Seen."""
    for i in range(count):
        kind = reports[i]["kind"]
        reason = reports[i]["reason"]
        if not (kind in (ACCEPTED, AMENDED, REJECTED) or (kind == CANCELED and reason == 0)):
            continue
        number = reports[i]["order"] - base - 1
        if number < 0 or number >= waiting.shape[0]:
            counts[Seen.FOREIGN] += 1
            continue
        seq = reports[i]["seq"]
        if seq <= answered_seq[number]:
            counts[Seen.AGAIN] += 1
            continue
        order = waiting[number]
        if order < 0:
            counts[Seen.SURPLUS] += 1
            continue
        answered_seq[number] = seq
        waiting[number] = following[order]
        record(told, seen_ns - due_ns[order])
        counts[Seen.ANSWERED] += 1
        counts[Seen.LAST_NS] = seen_ns
        if kind == REJECTED:
            refused[reason] += 1


class Matcher:
    """
    One run's orders and what came back.

    Args:
        slots: int64, for each order the number of its id, -1: not answered singly.
        ids: How many ids there are.
        base: The first id is base + 1.
        due_ns: int64, for each order when it is due, ns since the epoch.
    """

    def __init__(self, slots: np.ndarray, ids: int, base: int, due_ns: np.ndarray) -> None:
        """Chain the commands about each id; a quarter of a second a million."""
        self.due_ns = due_ns
        self.base = base
        self.timed = int(np.count_nonzero(slots >= 0))
        self.following = np.full(len(slots), -1, np.int64)
        self.waiting = np.full(ids, -1, np.int64)
        order = np.argsort(slots, kind="stable")
        order = order[slots[order] >= 0]
        numbers = slots[order]
        same = np.flatnonzero(numbers[1:] == numbers[:-1])
        self.following[order[same]] = order[same + 1]
        first = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1])[: len(numbers)])
        self.waiting[numbers[first]] = order[first]
        self.answered_seq = np.zeros(ids, np.int64)
        self.told = histogram.empty()
        self.refused = np.zeros(REASONS, np.int64)
        self.counts = np.zeros(len(Seen), np.int64)

    def take(self, reports: np.ndarray, seen_ns: int) -> None:
        """Count REPORT records that were seen at one time."""
        match_replies(
            reports,
            len(reports),
            seen_ns,
            self.base,
            self.due_ns,
            self.following,
            self.waiting,
            self.answered_seq,
            self.told,
            self.refused,
            self.counts,
        )

    @property
    def answered(self) -> int:
        """Orders with a reply."""
        return int(self.counts[Seen.ANSWERED])

    def refusals(self) -> dict[str, int]:
        """How many orders were refused, by reason."""
        return {
            Reason(reason).name: int(self.refused[reason]) for reason in np.flatnonzero(self.refused).tolist()
        }
