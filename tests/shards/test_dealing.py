"""Dealing is what a plain program does one record at a time: the same frames, the same tails, nothing of what cannot be dealt."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine.codes import CommandKind, Flag
from ringpit.engine.records import COMMAND, MARKER
from ringpit.ipc.histogram import BUCKETS
from ringpit.shards.dealing import (
    DECODED,
    PACKED,
    Dealer,
    Dealt,
    Owed,
    Own,
    Row,
    deal_rows,
    owe,
    settled_until,
    words_over,
)
from ringpit.shards.directory import Directory
from ringpit.shards.faults import fault_cells
from ringpit.shards.packed import encode
from ringpit.shards.sections import Placement

SHARDS = 3
SLOTS = 32
EVENTS = 7
FIRST = 5 << 40
ROUTER = 2


def dealer_of(first=FIRST):
    """A dealer over three rings that begin at a position, the rings, and their histograms."""
    directory = Directory(SHARDS, EVENTS, Placement(events={event: event % SHARDS for event in range(EVENTS)}))
    directory.place()
    block = np.zeros(SHARDS * (SLOTS * COMMAND.itemsize + BUCKETS * 8), np.uint8)
    ring_bytes = SLOTS * COMMAND.itemsize
    rings = [block[at : at + ring_bytes].view(COMMAND) for at in range(0, SHARDS * ring_bytes, ring_bytes)]
    counts = list(block[SHARDS * ring_bytes :].view(np.int64).reshape(SHARDS, BUCKETS))
    memory, starts = words_over([*rings, *counts])
    own = np.zeros(len(Own), np.int64)
    own[Own.ROUTER], own[Own.SLOTS] = ROUTER, SLOTS
    made = Dealer(
        homes=directory.homes,
        memory=memory,
        ring_at=starts[:SHARDS].copy(),
        ingress_at=starts[SHARDS:].copy(),
        cells=np.full(SHARDS, first),
        tail_at=np.arange(SHARDS),
        tails=np.full(SHARDS, first),
        heads=np.full(SHARDS, first),
        counts=np.zeros(SHARDS, np.int64),
        pending=np.zeros((64, Owed.POSITIONS + SHARDS), np.int64),
        own=own,
        fault=fault_cells(),
    )
    return made, rings, counts


def commands_of(rows):
    """Records of (kind, flags, event), sound as a packed delivery's unless the kind is not."""
    commands = np.zeros(len(rows), COMMAND)
    for command, (number, (kind, flags, event)) in zip(commands, enumerate(rows), strict=True):
        command["kind"], command["flags"], command["event"] = kind, flags, event
        command["order"], command["quantity"] = number + 1, number
    return commands


MASS_CANCEL, MARKER_KIND = int(CommandKind.MASS_CANCEL), int(CommandKind.MARKER)
RECORDS = st.tuples(
    st.sampled_from([CommandKind.NEW, CommandKind.CANCEL, CommandKind.CREATE_EVENT, CommandKind.MASS_CANCEL]),
    st.just(0),
    st.integers(0, EVENTS - 1),
) | st.sampled_from([(MASS_CANCEL, int(Flag.ALL_EVENTS), 0)])
DELIVERIES = st.lists(
    st.tuples(st.lists(RECORDS, min_size=1, max_size=12), st.booleans(), st.sampled_from([False] * 5 + [True])),
    max_size=12,
)


def batch_of(deliveries):
    """Words and rows of deliveries (records, packed?, spoiled?)."""
    facts, content = [], b""
    for tag, (records, packed, spoiled) in enumerate(deliveries, 1):
        commands = commands_of(records)
        body = bytearray(encode(commands) if packed else commands.tobytes())
        if packed and spoiled:
            body[16 + 64 * (len(records) - 1)] = MARKER_KIND
        words = 0 if spoiled and not packed else len(body) // 8
        facts.append(
            (tag, -tag, tag << 40, tag + 7, len(content) // 8, words, PACKED if packed else DECODED, tag)
        )
        content += bytes(body)
    rows = np.frombuffer(np.array(facts, np.int64).tobytes(), np.int64).reshape(len(facts), len(Row))
    return np.frombuffer(content, np.int64), rows


def naive(deliveries):
    """What should be in each ring when all is dealt that is sound and has room: (tag, [(kind, event, order)]); and how each ended."""
    frames, ends, used = [[] for _ in range(SHARDS)], [], [0] * SHARDS
    for tag, (sent, packed, spoiled) in enumerate(deliveries, 1):
        records = sent if not spoiled else sent[:-1] if packed else []  # up to where it is found out
        parts = [[] for _ in range(SHARDS)]
        for number, (kind, flags, event) in enumerate(records):
            every = kind == MASS_CANCEL and flags
            for shard in range(SHARDS) if every else (event % SHARDS,):
                parts[shard].append((int(kind), event, number + 1))
        fits = all(not part or used[shard] + len(part) + 1 <= SLOTS for shard, part in enumerate(parts))
        if spoiled and fits:
            ends.append((tag, Dealt.MALFORMED))
            continue
        if not fits:
            ends.append((tag, Dealt.FULL))
            break
        for shard, part in enumerate(parts):
            if part:
                frames[shard].append((tag, part))
                used[shard] += len(part) + 1
    return frames, ends


def frames_in(dealer, ring, shard):
    """The frames between a ring's first position and its tail."""
    found = []
    at = FIRST
    while at < dealer.cells[shard]:
        marker = ring.view(MARKER)[at % SLOTS]
        records = [ring[(at + 1 + i) % SLOTS] for i in range(marker["count"])]
        assert (CommandKind.MARKER, ROUTER) == (marker["kind"], marker["router"])
        assert marker["ingress_ns"] == marker["key_high"] >> 40 < marker["engine_ns"]
        assert marker["first_event"] == records[0]["event"]
        at = int(marker["position"])
        found.append(
            (
                int(marker["key_high"] >> 40),
                [(int(r["kind"]), int(r["event"]), int(r["order"])) for r in records],
            )
        )
    assert at == dealer.cells[shard] == dealer.tails[shard]
    return found


@given(DELIVERIES)
def test_dealing_is_dealing_one_record_at_a_time(deliveries):
    """Frames, tails and what is owed are the plain program's, and so are the deliveries at which it stops, and why."""
    made, rings, counts = dealer_of()
    words, rows = batch_of(deliveries)
    start, ends = 0, []
    while start < len(rows):
        start, why = deal_rows(made, words, rows, start, len(rows))
        if why == Dealt.ALL:
            break
        ends.append((start + 1, why))
        if why == Dealt.FULL:
            break
        start += 1
    frames, expected_ends = naive(deliveries)

    assert expected_ends == ends
    assert frames == [frames_in(made, ring, shard) for shard, ring in enumerate(rings)]
    assert [sum(len(part) for _, part in each) for each in frames] == [int(each.sum()) for each in counts]
    owed = made.pending[: made.own[Own.END]]
    positions = dict.fromkeys(range(SHARDS), FIRST)
    for row in owed.tolist():
        tag = row[Owed.TAG]
        for shard in range(SHARDS):
            part = [len(records) for number, records in frames[shard] if number == tag]
            positions[shard] += sum(part) + len(part)
            assert (positions[shard] if part else 0) == row[Owed.POSITIONS + shard]


def test_a_packed_body_whose_header_does_not_agree_is_malformed():
    """Magic, version, count and length are looked at by the kernel, which touches no ring then."""
    body = encode(commands_of([(CommandKind.NEW, 0, 1)]))
    for at in (0, 4, 6, 8, 12):
        spoiled = bytearray(body)
        spoiled[at] ^= 3
        made, *_ = dealer_of()
        row = np.array([(1, 0, 0, 0, 0, len(body) // 8, PACKED, 0)], np.int64)
        rows = np.frombuffer(row.tobytes(), np.int64).reshape(1, len(Row))
        assert (0, Dealt.MALFORMED) == deal_rows(made, np.frombuffer(bytes(spoiled), np.int64), rows, 0, 1)
        assert [FIRST] * SHARDS == made.cells.tolist()


@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(0, 9), min_size=SHARDS, max_size=SHARDS)), max_size=20
    ),
    st.lists(st.integers(0, 9), min_size=SHARDS, max_size=SHARDS),
)
def test_settled_is_the_prefix_that_is_durable_everywhere(owed, durable):
    """It ends at the first that is put aside, or that a shard which it touched has not made durable."""
    made, *_ = dealer_of()
    for tag, (dead, positions) in enumerate(owed, 1):
        row = owe(made, tag, int(dead))
        made.pending[row, Owed.POSITIONS :] = positions
    expected = 0
    for dead, positions in owed:
        if dead or any(have < need for have, need in zip(durable, positions, strict=True)):
            break
        expected += 1
    assert expected == settled_until(made.pending, 0, len(owed), np.array(durable, np.int64))
