"""Frames at rest: checksum and measuring."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine.codes import CommandKind
from ringpit.engine.limits import FRAME_COMMANDS_MAX
from ringpit.engine.records import MARKER
from ringpit.wal.frames import NO_ROUTER, ROUTERS_MAX, FrameTorn, checksum_of, whole_frames


def positions():
    """No positions yet."""
    return np.zeros(ROUTERS_MAX, np.int64)


def random_records(seed, count):
    """Records of random bytes."""
    return np.random.default_rng(seed).integers(0, 256, count * 64, np.uint8).view(MARKER)


@given(seed=st.integers(0, 1000), count=st.integers(0, 20), data=st.data())
def test_checksum_does_not_know_of_batches(seed, count, data):
    """F2: cut anywhere, the checksum comes out the same."""
    records = random_records(seed, count)
    cut = data.draw(st.integers(0, count))
    assert checksum_of(records) == checksum_of(records[cut:], checksum_of(records[:cut]))


def test_checksum_is_part_of_the_layout():
    """The checksum of a known record never changes: logs written before must still be read."""
    record = np.arange(1, 9, dtype=np.int64).view(MARKER)
    assert 2238752026097345274 == checksum_of(record)


@pytest.mark.parametrize("byte", range(64))
def test_checksum_sees_every_bit(byte):
    """Any single flipped bit of a record changes the checksum."""
    records = random_records(1, 2)
    good = checksum_of(records)
    for bit in range(8):
        flipped = records.copy()
        flipped.view(np.uint8)[byte] ^= 1 << bit
        assert good != checksum_of(flipped)


def test_checksum_sees_two_flipped_signs():
    """Two flipped top bits do not cancel out, nor do two swapped words or two swapped records."""
    words = np.arange(100, 116, dtype=np.int64)
    good = checksum_of(words.view(MARKER))
    signs = words.copy()
    signs[[2, 5]] ^= np.int64(-(1 << 63))
    swapped = words.copy()
    swapped[[2, 5]] = words[[5, 2]]
    records = words.view(MARKER)[::-1].copy()
    assert 4 == len(
        {good, checksum_of(signs.view(MARKER)), checksum_of(swapped.view(MARKER)), checksum_of(records)}
    )


@given(counts=st.lists(st.integers(0, 4), max_size=6), room=st.integers(1, 40), data=st.data())
def test_measure_takes_whole_frames_that_fit(make, counts, room, data):
    """Frames are taken from the front while they fit, at least one, however the ring wraps."""
    records = make.frames(*counts, router=2)
    wrap = data.draw(st.integers(0, len(records)))
    expected = 0
    for count in counts:
        if expected and expected + 1 + count > room:
            break
        expected += 1 + count
    where = positions()
    taken, engine_ns = whole_frames((records[:wrap], records[wrap:]), room, where, "here")
    assert expected == taken
    markers = records[:expected][records[:expected]["kind"] == CommandKind.MARKER]
    assert (markers[-1]["position"] if expected else 0) == where[2]
    assert (markers[-1]["engine_ns"] if expected else 0) == engine_ns


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_measure_leaves_a_frame_whose_end_is_missing(make, missing):
    """A frame that is not all there is not taken, nor its position."""
    records = make.frames(2, 3)
    where = positions()
    assert 3 == whole_frames((records[:-missing],), 100, where, "here")[0]
    assert records[0]["position"] == where[0]


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("kind", CommandKind.NEW, "NOT_A_MARKER"),
        ("kind", 0, "NOT_A_MARKER"),
        ("count", -1, "COUNT_IMPOSSIBLE"),
        ("count", FRAME_COMMANDS_MAX + 1, "COUNT_IMPOSSIBLE"),
        ("router", ROUTERS_MAX, "ROUTER_UNKNOWN"),
        ("router", NO_ROUTER - 1, "ROUTER_UNKNOWN"),
    ],
)
def test_measure_refuses_what_is_no_frame(make, field, value, name):
    """A marker that makes no sense is named, with its place."""
    records = make.frames(1, 1)
    records[2][field] = value
    with pytest.raises(FrameTorn, match=rf"here: .* was {name}"):
        whole_frames((records,), 100, positions(), "here")


def test_a_worker_s_own_frame_moves_no_input_ring(make):
    """A frame that came through no ring is counted and timed like any, and leaves every ring's position as it was."""
    records = make.frames(2, 1, 3, router=1)
    records[3]["router"] = NO_ROUTER
    records[3]["position"] = 1 << 50
    where = positions()
    assert (9, records[5]["engine_ns"]) == whole_frames((records,), 100, where, "here")
    assert [0, records[5]["position"], *[0] * (ROUTERS_MAX - 2)] == where.tolist()
    where = positions()
    assert 5 == whole_frames((records[:5],), 100, where, "here")[0]
    assert records[0]["position"] == where[1]
