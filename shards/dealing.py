"""
Dealing: the router's kernels, from the bytes of deliveries to frames in the shards' rings.

    words: | delivery | delivery | ...        rows: one a delivery (Row): its tag, key, hash, where its words lie
             │ check, find the shard, copy: each record is touched once
             v
    ring of shard 0: ... | MARKER | records |  <- tail, one advance a frame
    ring of shard 1: ... | MARKER | records |  <- tail
    pending: one a delivery: the ring position that must be durable on each shard it touched

One call deals many deliveries. A record is read as eight words, checked, and written behind the tail of its shard's
ring, where nobody looks; only when the whole delivery was sound and had room everywhere are its markers written and the tails advanced.

Fast here because records are words: numba copies a structured record field by field, with a conversion for
each. Slow here: events in random order, each of which is looked up in a table; a row of one event is looked up once.

Invariants:

    L1  nothing of a delivery is seen on any ring unless all of it was sound and had room on all
    L2  a frame becomes visible by one advance of its tail
    L3  `pending` holds the end of each frame that was published, before the next delivery is begun
"""

from enum import IntEnum, auto
from typing import Final, NamedTuple

import numpy as np

from ringpit.engine.codes import CommandKind, Flag
from ringpit.engine.records import MARKER, RECORD_BYTES
from ringpit.ipc.atomics import clock_ns, store_release
from ringpit.ipc.histogram import bucket_of
from ringpit.shards.directory import Homes, home_of
from ringpit.shards.faults import Step, passed
from ringpit.shards.kernels import kernel
from ringpit.shards.packed import HEADER_WORDS, READS_ON, check_record, count_in_header

RECORD_WORDS: Final = RECORD_BYTES // 8
KIND_MASK: Final = 0xFF
CREATE_EVENT, MASS_CANCEL = int(CommandKind.CREATE_EVENT), int(CommandKind.MASS_CANCEL)
MARKER_KIND: Final = int(CommandKind.MARKER)
ALL_EVENTS_BIT: Final = int(Flag.ALL_EVENTS) << 32  # `flags` is the fifth byte of a command
ROUTER_SHIFT: Final = 8 * MARKER.fields["router"][1]  # type: ignore[index]  # as numpy types it
COUNT_SHIFT: Final = 8 * MARKER.fields["count"][1]  # type: ignore[index]  # as numpy types it
DECODED, PACKED = 0, 1  # forms of a delivery's words: records alone, or behind the header of a packed body


class Row(IntEnum):
    """What is known of a delivery that waits to be dealt."""

    TAG = 0
    KEY_LOW = auto()
    KEY_HIGH = auto()
    BODY_HASH = auto()
    FIRST = auto()  # index of its first word
    WORDS = auto()  # how many; 0: it cannot be read
    FORM = auto()
    TAKEN_NS = auto()  # when it came


class Owed(IntEnum):
    """Columns of `pending`; one for each shard follows."""

    TAG = 0
    DEAD = auto()  # 1: put aside, waits for its dead letter instead
    POSITIONS = auto()  # from here on: ring position that must be durable, 0: the shard was not touched


class Own(IntEnum):
    """The dealer's own numbers."""

    ROUTER = 0
    SLOTS = auto()  # of each ring
    END = auto()  # number of the next pending delivery
    COMMANDS = auto()  # records dealt so far
    CREATED = auto()  # CREATE_EVENTs dealt so far


class Dealt(IntEnum):
    """Why `deal_rows` came back, beside the row where it stands."""

    ALL = 0
    FULL = auto()  # a ring has no room, as far as its head is known
    MALFORMED = auto()  # the row cannot be dealt
    BROKEN_OFF = auto()  # a simulation ends here


class Dealer(NamedTuple):
    """Everything that dealing touches besides the deliveries."""

    homes: Homes
    memory: np.ndarray  # int64, over all rings and histograms
    ring_at: np.ndarray  # int64: first word of each shard's ring
    ingress_at: np.ndarray  # int64: first bucket of each shard's histogram of the stage
    cells: np.ndarray  # int64, the router's own words
    tail_at: np.ndarray  # int64: index of each shard's tail in `cells`
    tails: np.ndarray  # int64
    heads: np.ndarray  # int64, as last seen
    counts: np.ndarray  # int64: records of the delivery in hand that go to each shard
    pending: np.ndarray  # int64, a power of two of rows (Owed)
    own: np.ndarray  # int64 (Own)
    fault: np.ndarray  # int64, see faults.py


@kernel
def copy_record(words, at, memory, to):
    """Copy one record: all eight words are loaded before the first is stored, which makes them two or four moves."""
    w0, w1, w2, w3 = words[at], words[at + 1], words[at + 2], words[at + 3]
    w4, w5, w6, w7 = words[at + 4], words[at + 5], words[at + 6], words[at + 7]
    memory[to], memory[to + 1], memory[to + 2], memory[to + 3] = w0, w1, w2, w3
    memory[to + 4], memory[to + 5], memory[to + 6], memory[to + 7] = w4, w5, w6, w7


@kernel
def lay(d, words, at, shard):
    """Write a record behind what the shard has of this delivery. False: no room for it and the marker."""
    count = d.counts[shard]
    slots = d.own[Own.SLOTS]
    if d.tails[shard] + count + 2 - d.heads[shard] > slots:
        return False
    slot = (d.tails[shard] + 1 + count) & (slots - 1)
    copy_record(words, at, d.memory, d.ring_at[shard] + slot * RECORD_WORDS)
    d.counts[shard] = count + 1
    return True


@kernel
def lay_records(d, words, first, count, checked):
    """
    Check `count` records from word `first` on, unless they are known to be sound, and write each behind its shard's tail.

    Nothing becomes visible (L1). Returns Dealt.ALL, FULL or MALFORMED.
    """
    shards = d.counts.shape[0]
    for shard in range(shards):
        d.counts[shard] = 0
    waiting = 0
    created = 0
    shard = -1
    known = 0
    for at in range(first, first + count * RECORD_WORDS, RECORD_WORDS):
        if checked:
            waiting = check_record(words, at, waiting)
            if waiting < 0:
                return Dealt.MALFORMED
        word = words[at]
        kind = word & KIND_MASK
        if kind == MASS_CANCEL and word & ALL_EVENTS_BIT != 0:
            for each in range(shards):
                if not lay(d, words, at, each):
                    return Dealt.FULL
            continue
        event = words[at + 1]
        if shard < 0 or event != known:
            shard = home_of(d.homes, event)
            known = event
        if not lay(d, words, at, shard):
            return Dealt.FULL
        if kind == CREATE_EVENT:
            created += 1
    if checked and waiting != READS_ON:
        return Dealt.MALFORMED
    d.own[Own.COMMANDS] += count
    d.own[Own.CREATED] += created
    return Dealt.ALL


@kernel
def mark(d, rows, number, shard, now_ns):
    """
    Write the marker of a frame whose records lie behind the tail, and count how long it took. Returns the tail behind it.

    Until the worker writes its own, the marker's engine time is that of the writing: where its ring wait begins.
    """
    tail = d.tails[shard]
    count = d.counts[shard]
    mask = d.own[Own.SLOTS] - 1
    at = d.ring_at[shard] + (tail & mask) * RECORD_WORDS
    first = d.ring_at[shard] + ((tail + 1) & mask) * RECORD_WORDS
    d.memory[at] = MARKER_KIND | (d.own[Own.ROUTER] << ROUTER_SHIFT) | (count << COUNT_SHIFT)
    d.memory[at + 1] = rows[number, Row.KEY_LOW]
    d.memory[at + 2] = rows[number, Row.KEY_HIGH]
    d.memory[at + 3] = rows[number, Row.BODY_HASH]
    d.memory[at + 4] = now_ns
    d.memory[at + 5] = rows[number, Row.TAKEN_NS]
    d.memory[at + 6] = tail + 1 + count
    d.memory[at + 7] = d.memory[first + 1]
    d.memory[d.ingress_at[shard] + bucket_of(now_ns - rows[number, Row.TAKEN_NS])] += count
    return tail + 1 + count


@kernel
def owe(d, tag, dead):
    """Note a delivery among the pending ones; the caller has seen to the room. Its row."""
    row = d.own[Own.END] & (d.pending.shape[0] - 1)
    d.own[Own.END] += 1
    d.pending[row, Owed.TAG] = tag
    d.pending[row, Owed.DEAD] = dead
    for shard in range(d.counts.shape[0]):
        d.pending[row, Owed.POSITIONS + shard] = 0
    return row


@kernel
def deal_rows(d, words, rows, start, end):
    """
    Deal deliveries `start` to `end`, in order, until one cannot be. Returns (the row it stands at, Dealt).

    `pending` must have room for all of them.
    """
    for number in range(start, end):
        first = rows[number, Row.FIRST]
        count = rows[number, Row.WORDS] // RECORD_WORDS
        checked = rows[number, Row.FORM] == PACKED
        if checked:
            count = count_in_header(words, first, rows[number, Row.WORDS])
            first += HEADER_WORDS
        if count <= 0:
            return number, Dealt.MALFORMED
        status = lay_records(d, words, first, count, checked)
        if status != Dealt.ALL:
            return number, status
        if passed(d.fault, Step.TAKEN):
            return number, Dealt.BROKEN_OFF
        now_ns = clock_ns()
        place = owe(d, rows[number, Row.TAG], 0)
        for shard in range(d.counts.shape[0]):
            if d.counts[shard] == 0:
                continue
            tail = mark(d, rows, number, shard, now_ns)
            d.tails[shard] = tail
            store_release(d.cells, d.tail_at[shard], tail)  # L2; pairs with the worker's acquire
            d.pending[place, Owed.POSITIONS + shard] = tail
            if passed(d.fault, Step.DEALT_TO_ONE):
                return number, Dealt.BROKEN_OFF
        if passed(d.fault, Step.DEALT):
            return number, Dealt.BROKEN_OFF
    return end, Dealt.ALL


@kernel
def settled_until(pending, first, end, durable):
    """
    Number of the first pending delivery, from `first` on, of which something can still be lost, or `end`.

    One that was put aside stops it: its dead letter is the caller's to ask for.
    """
    mask = pending.shape[0] - 1
    while first < end:
        row = first & mask
        if pending[row, Owed.DEAD] != 0:
            return first
        for shard in range(durable.shape[0]):
            if durable[shard] < pending[row, Owed.POSITIONS + shard]:
                return first
        first += 1
    return first


def words_over(tables: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """
    One int64 array that spans tables of one mapping, in the order in which they lie there, and the first word of each.

    A kernel can then choose among them by number; a tuple of arrays it would have to be compiled for, number by number.
    """
    addresses = [table.__array_interface__["data"][0] for table in tables]
    starts = (np.array(addresses, np.int64) - addresses[0]) // 8
    first = tables[0].view(np.int64)
    count = int(starts[-1]) + tables[-1].nbytes // 8
    return np.lib.stride_tricks.as_strided(first, (count,), (8,)), starts
