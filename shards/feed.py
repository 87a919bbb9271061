"""
The feed: from a shard's output ring to what a publisher sends.

    output ring ──releasable──> pick  ──> picks: the reports and trades not sent yet, in log order
                                group ──> batches: the same picks, by account or by event
                measure ──> how long the frames took, once their reports are confirmed

Fast here because every report is read where the worker wrote it, by kernels that take thousands of reports a
call. Slow when an account or event has few reports in a cycle: grouping then makes one message of each.

Invariants:

    G1  what is picked has a larger (seq, index) than everything picked before on that shard
    G2  within a group, picks keep their log order
"""

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np

from ringpit.engine import index
from ringpit.engine.codes import ReportKind
from ringpit.engine.ladder import NIL
from ringpit.ipc import histogram
from ringpit.shards.kernels import kernel
from ringpit.shards.marks import MARK_CELLS, UNKNOWN_NS, passed_ns
from ringpit.shards.mirror import FILL_TAKER, FRAME, LEVEL, book_of

INDEX_MAX: Final = (1 << 31) - 1  # larger than the index of any report
# Reports of these kinds are addressed to an account: up to the one, and between the others.
REJECTED: Final = int(ReportKind.REJECTED)
TRIGGERED, MASS_CANCELED = int(ReportKind.TRIGGERED), int(ReportKind.MASS_CANCELED)


class Picks(NamedTuple):
    """What one cycle sends, in log order; private to the publisher. Arrays of one length, int64."""

    position: np.ndarray  # in the output ring
    seq: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index, which nobody wants here
    frame_ns: np.ndarray  # engine time; 0 if unknown
    book: np.ndarray  # book slot, or NIL
    key: np.ndarray  # the account that the report is for, 0 if for nobody
    trades: np.ndarray  # which of the picks are trades
    trade_key: np.ndarray  # the trade's event
    counts: np.ndarray  # picks, trades, repeats dropped: see PICKED, TRADED, REPEATED


PICKED, TRADED, REPEATED = range(3)


class Progress(IntEnum):
    """How far a shard's reports have been picked, one int64 each."""

    SEQ = 0
    INDEX = 1
    FRAME_NS = 2


class Timing(NamedTuple):
    """What `measure` reads and counts of a shard."""

    matched_marks: np.ndarray  # worker: see marks.py
    durable_marks: np.ndarray
    publish_ns: np.ndarray  # publisher: histograms
    whole_ns: np.ndarray
    measured: np.ndarray  # int64 x 1: the seq of the last frame that was counted


def no_timing() -> Timing:
    """For whoever has no worker to ask, and no memory to show it in."""
    marks = np.zeros(MARK_CELLS, np.int64)
    return Timing(marks, marks.copy(), histogram.empty(), histogram.empty(), np.zeros(1, np.int64))


class Batches(NamedTuple):
    """Scratch and answer of `group`; `order[start[g]:start[g + 1]]` are the entries with `key[g]`."""

    key: np.ndarray
    start: np.ndarray
    order: np.ndarray
    group: np.ndarray  # of each entry
    table: np.ndarray  # open addressing: group, valid if stamped with the current round
    stamp: np.ndarray
    round: np.ndarray


def allocate_picks(reports: int) -> Picks:
    """Room for the picks of a cycle of so many reports."""
    lengths = (*[reports] * 8, 3)
    return Picks(*(np.zeros(length, np.int64) for length in lengths))


def allocate_batches(entries: int) -> Batches:
    """Room for grouping so many entries."""
    slots = len(index.make_index(entries))
    lengths = (entries, entries + 1, entries, entries, slots, slots, 1)
    return Batches(*(np.zeros(length, np.int64) for length in lengths))


@kernel
def releasable(slots, head, tail, durable_seq):
    """First position in [head, tail) whose seq is above `durable_seq`, else tail: a ring is in order of seq."""
    mask = slots.shape[0] - 1
    low = head
    high = tail
    while low < high:
        middle = low + (high - low) // 2
        if slots[middle & mask]["seq"] <= durable_seq:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def pick(picks, progress, m, slots, start, end):
    """
    Choose what to send of the reports at positions [start, end): everything below LEVEL that was not picked
    before (F4); with it engine time, book and addressee. Answers in picks.counts.
    """
    picked = 0
    traded = 0
    repeated = 0
    event_before = 0
    book = NIL
    for position in range(start, end):
        slot = position & (slots.shape[0] - 1)
        kind = slots[slot]["kind"]
        if kind == FRAME:
            progress[Progress.FRAME_NS] = slots[slot]["price"]
        elif kind >= LEVEL:
            continue
        seq = slots[slot]["seq"]
        at = slots[slot]["index"]
        if seq < progress[Progress.SEQ] or (seq == progress[Progress.SEQ] and at <= progress[Progress.INDEX]):
            repeated += kind != FRAME
            continue
        progress[Progress.SEQ] = seq
        progress[Progress.INDEX] = at
        if kind == FRAME:
            continue
        event = slots[slot]["event"]
        if book == NIL or event != event_before:
            book = book_of(m, event)
            event_before = event
        picks.position[picked] = position
        picks.seq[picked] = seq
        picks.index[picked] = at
        picks.frame_ns[picked] = progress[Progress.FRAME_NS]
        picks.book[picked] = book
        addressed = kind <= REJECTED or TRIGGERED <= kind <= MASS_CANCELED
        picks.key[picked] = slots[slot]["account"] if addressed else 0
        if kind == FILL_TAKER:
            picks.trades[traded] = picked
            picks.trade_key[traded] = event
            traded += 1
        picked += 1
    picks.counts[PICKED] = picked
    picks.counts[TRADED] = traded
    picks.counts[REPEATED] = repeated


@kernel
def measure(timing, slots, start, end, now_ns, early):
    """
    Count how long the frames at positions [start, end) took that were not counted before: they are confirmed at `now_ns`.

    Each counts for its records. Where a mark is forgotten or not made, publishing counts from the worker's taking it.
    """
    for position in range(start, end):
        slot = position & (slots.shape[0] - 1)
        seq = slots[slot]["seq"]
        if slots[slot]["kind"] != FRAME or seq <= timing.measured[0]:
            continue
        timing.measured[0] = seq
        count = slots[slot]["leaves"]
        ready_ns = passed_ns(timing.matched_marks, seq)
        if not early:
            durable_ns = passed_ns(timing.durable_marks, seq)
            ready_ns = max(ready_ns, durable_ns) if durable_ns != UNKNOWN_NS else UNKNOWN_NS
        if ready_ns == UNKNOWN_NS:
            ready_ns = slots[slot]["price"]
        histogram.record_many(timing.publish_ns, now_ns - ready_ns, count)
        histogram.record_many(timing.whole_ns, now_ns - slots[slot]["quantity"], count)


@kernel
def group(b, entries, keys, count, apart):
    """
    Sort `count` entries into groups of equal keys, keeping their order within each; groups come in the order in
    which their first entries came. One group for all, with key 0, if not `apart`.

    Returns the number of groups. Cost: two passes and one probe of a hash table an entry.
    """
    b.round[0] += 1
    groups = 0
    mask = b.table.shape[0] - 1
    for i in range(count):
        key = keys[i] if apart else 0
        place = index.fingerprint_of(0, key) & mask
        while b.stamp[place] == b.round[0] and b.key[b.table[place]] != key:
            place = (place + 1) & mask
        if b.stamp[place] != b.round[0]:
            b.stamp[place] = b.round[0]
            b.table[place] = groups
            b.key[groups] = key
            b.start[groups] = 0
            groups += 1
        b.group[i] = b.table[place]
        b.start[b.table[place]] += 1
    end = 0
    for g in range(groups):  # sizes become starts
        size = b.start[g]
        b.start[g] = end
        end += size
    for i in range(count):
        b.order[b.start[b.group[i]]] = entries[i]
        b.start[b.group[i]] += 1
    for g in range(groups, 0, -1):  # every start now is the next one's
        b.start[g] = b.start[g - 1]
    b.start[0] = 0
    return groups
