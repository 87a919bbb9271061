"""Batches: bytes out, the same facts back, and nothing else accepted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine.records import LAYOUT_VERSION, RULES_VERSION
from ringpit.wal.batch import (
    _CRC_AT,
    _POSITIONS,
    HEADER,
    HEADER_BYTES,
    HEADER_FIELDS,
    BatchKind,
    claimed_epoch,
    decode,
    decode_run,
    encode,
    furthest_positions,
    is_sound,
    positions_of,
)
from ringpit.wal.errors import BatchDamaged, LogError, LogVersionMismatch
from ringpit.wal.frames import ROUTERS_MAX

FILLED_IN = ("magic", "layout_version", "rules_version", "kind", "count", "crc32c")
FACTS = tuple(
    name
    for name, _, _ in HEADER_FIELDS
    if name not in FILLED_IN and not name.startswith(("position", "reserved"))
)


def test_header_layout():
    """The header is 192 bytes, every field at a multiple of its size, the CRC last."""
    assert HEADER_BYTES == HEADER.itemsize
    assert all(HEADER.fields[name][1] % HEADER.fields[name][0].itemsize == 0 for name in HEADER.names)
    assert _CRC_AT == HEADER.fields["crc32c"][1]
    assert (_POSITIONS.start, _POSITIONS.stop) == (
        HEADER.fields["position_0"][1],
        HEADER.fields["skip_count"][1],
    )


@given(
    values=st.lists(st.integers(0, (1 << 15) - 1), min_size=len(FACTS), max_size=len(FACTS)),
    positions=st.lists(st.integers(0, (1 << 62) - 1), min_size=ROUTERS_MAX, max_size=ROUTERS_MAX),
    counts=st.lists(st.integers(0, 3), max_size=3),
)
def test_round_trip(make, values, positions, counts):
    """What is encoded comes back, header and records, also from two spans."""
    facts = dict(zip(FACTS, values, strict=True))
    records = make.frames(*counts)
    cut = len(records) // 2
    batch = encode(
        {"kind": BatchKind.COMMANDS, **facts}, np.array(positions, np.int64), records[:cut], records[cut:]
    )
    header, found = decode(batch)
    assert facts == {name: int(header[name]) for name in FACTS}
    assert positions == positions_of(header).tolist()
    assert (LAYOUT_VERSION, RULES_VERSION) == (header["layout_version"], header["rules_version"])
    assert records.tobytes() == found.tobytes()


def test_every_flipped_bit_is_refused(make):
    """No bit of a batch can flip unseen (B2)."""
    batch = make.batch(make.frames(1))
    for bit in range(len(batch) * 8):
        flipped = bytearray(batch)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(LogError):
            decode(bytes(flipped))


def test_every_truncation_is_refused(make):
    """No prefix of a batch is a batch, nor is a batch with something behind it (B1)."""
    batch = make.batch(make.frames(1))
    for size in range(len(batch)):
        with pytest.raises(BatchDamaged):
            decode(batch[:size])
    with pytest.raises(BatchDamaged, match=r"a batch of 2 records is 320 bytes, was 384"):
        decode(batch + bytes(64))


@pytest.mark.parametrize(
    ("field", "ours"), [("layout_version", LAYOUT_VERSION), ("rules_version", RULES_VERSION)]
)
def test_other_versions_are_refused_with_the_remedy(make, field, ours):
    """A batch of another version says so, whatever its CRC, and what to do."""
    batch = bytearray(make.batch(make.frames(1)))
    np.frombuffer(batch, HEADER, 1)[field] = ours + 1
    with pytest.raises(
        LogVersionMismatch, match=rf"there: {field} must be {ours}, was {ours + 1}; run the ringpit that"
    ):
        decode(bytes(batch), "there")


def test_damage_is_named(make):
    """Each refusal says where and what."""
    batch = make.batch(make.frames(1))
    for damaged, sentence in (
        (b"abc", "there: a batch is at least 192 bytes, was 3"),
        (b"XXXX" + batch[4:], "there: a batch begins with b'RPWL', was b'XXXX'"),
        (batch[:-1] + b"\1", "there: crc32c must be 0x.*, the bytes give 0x"),
    ):
        with pytest.raises(BatchDamaged, match=sentence):
            decode(damaged, "there")


@given(
    counts=st.lists(st.integers(0, 5), max_size=4),
    at=st.integers(0, 3_000),
    bit=st.integers(0, 7),
    cut=st.integers(0, 80),
)
def test_soundness_is_what_decode_says(make, counts, at, bit, cut):
    """Whatever was altered in a batch: it is sound exactly if it can be decoded, and a run ends before one that is not."""
    good = make.batch(make.frames(*counts))
    raw = bytearray(good)
    raw[at % len(raw)] ^= (1 << bit) * (at % 3 > 0)
    batch = bytes(raw[: len(raw) - cut])
    try:
        decode(batch)
        sound = True
    except (BatchDamaged, LogVersionMismatch):
        sound = False
    assert sound == is_sound(batch)
    headers, records = decode_run([good, batch, good])
    assert (3 if sound else 1) == len(headers)
    assert headers[0].tobytes() + records[: sum(counts) + len(counts)].tobytes() == good


def test_the_furthest_positions_of_headers():
    """Router by router, over all headers."""
    headers = np.zeros(3, HEADER)
    headers["position_0"], headers["position_7"] = [1, 5, 2], [9, 0, 8]
    assert [5, 0, 0, 0, 0, 0, 0, 9] == furthest_positions(headers).tolist()


def test_claims_are_told_apart(make):
    """A claim shows its epoch without being decoded; other batches show 0."""
    assert 9 == claimed_epoch(make.claim(9))
    assert 0 == claimed_epoch(make.batch(make.frames(1), epoch=9))
