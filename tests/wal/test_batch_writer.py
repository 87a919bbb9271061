"""The journal thread's bookkeeping."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine.limits import FRAME_COMMANDS_MAX
from ringpit.wal.batch import BatchKind, decode, positions_of
from ringpit.wal.frames import FrameTorn
from ringpit.wal.reader import Reader
from ringpit.wal.writer import BATCH_BYTES_LEAST, BatchWriter


@given(
    deliveries=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=5), max_size=8),
    data=st.data(),
)
def test_what_is_cut_reads_back_as_it_was(make, deliveries, data):
    """However records come, wrap and are cut, the reader takes the same records under the same seqs."""
    writer = BatchWriter(make.state(), in_flight_max=1000)
    reader = Reader(make.shard, make.generation)
    reader.take(make.claim(1), "claim")
    written, read, order = [], [], 1
    for counts in deliveries:
        records = make.frames(*counts, first_order=order)
        order += len(records)
        written.append(records.tobytes())
        wrap = data.draw(st.integers(0, len(records)))
        batch, taken = writer.cut(records[:wrap], records[wrap:], confirmed_seq=0)
        assert len(records) == taken
        read.append(reader.take(batch, "here")[1].tobytes())
    assert b"".join(written) == b"".join(read)
    assert reader.next_seq == writer.next_seq


def test_batches_keep_to_their_size_but_hold_at_least_a_frame(make):
    """W1: small frames gather up to the limit; the largest frame goes alone, whole."""
    writer = BatchWriter(make.state(), batch_bytes_max=BATCH_BYTES_LEAST)
    records = make.frames(2, FRAME_COMMANDS_MAX, 1)
    sizes = []
    while len(records):
        batch, taken = writer.cut(records, confirmed_seq=0)
        assert BATCH_BYTES_LEAST >= len(batch)
        sizes.append(taken)
        records = records[taken:]
    assert [3, FRAME_COMMANDS_MAX + 1, 2] == sizes


def test_header_carries_the_facts(make):
    """Epoch, nonce, publisher's confirmed seq, time of the last marker, ring positions per router."""
    writer = BatchWriter(make.state(epoch=4, nonce=11, next_seq=41, positions=(5, 6, 0, 0, 0, 0, 0, 0)))
    records = np.concatenate([make.frames(1, 1), make.frames(2, router=2, first_order=70)])
    batch, _ = writer.cut(records, confirmed_seq=33)
    header, _ = decode(batch)
    facts = {
        "kind": BatchKind.COMMANDS,
        "shard": 3,
        "generation": 5,
        "epoch": 4,
        "nonce": 11,
        "first_seq": 41,
        "count": 7,
    }
    assert facts | {"confirmed_seq": 33, "engine_ns": 1_070} == {
        name: int(header[name]) for name in (*facts, "confirmed_seq", "engine_ns")
    }
    assert [4, 0, 72, 0, 0, 0, 0, 0] == positions_of(header).tolist()


def test_no_batch_confirms_what_lies_behind_it(make):
    """W3: the publisher may have confirmed what the log has not; a batch says so only up to its own end."""
    writer = BatchWriter(make.state(next_seq=41))
    records = make.frames(3)
    for batch, last_seq in (
        (writer.cut(records, confirmed_seq=900)[0], 40 + len(records)),
        (writer.mark(901, clean=False), 40 + len(records)),
        (writer.skip(41, 902), 40 + len(records)),
    ):
        assert last_seq == decode(batch)[0]["confirmed_seq"]


def test_durable_moves_by_whole_batches_in_order(make):
    """W2: durable_seq and positions move to the ends of the batches that the log calls durable."""
    writer = BatchWriter(make.state(), in_flight_max=2)
    for order in (10, 20):
        assert writer.ready
        writer.cut(make.frames(1, router=1, first_order=order), confirmed_seq=0)
    assert not writer.ready
    assert not writer.advance(1)  # the claim
    assert (0, 0) == (writer.durable_seq, writer.durable_positions[1])
    assert writer.advance(2)
    assert (2, 11) == (writer.durable_seq, writer.durable_positions[1])
    assert writer.ready
    assert writer.advance(3)
    assert (4, 21) == (writer.durable_seq, writer.durable_positions[1])
    assert 0 == writer.in_flight_count


def test_more_durable_than_cut_is_refused(make):
    """A log that counts batches of somebody else is noticed."""
    with pytest.raises(ValueError, match=r"the log calls 1 batches durable, but 0 are in flight"):
        BatchWriter(make.state()).advance(2)


def test_mark_makes_confirmed_seq_durable(make):
    """A mark has no records, keeps the seq, and is waited for like a batch."""
    writer = BatchWriter(make.state(next_seq=9))
    header, records = decode(writer.mark(8, clean=True))
    assert (BatchKind.MARK, 9, 8, 0) == (
        header["kind"],
        header["first_seq"],
        header["confirmed_seq"],
        len(records),
    )
    assert 1 == writer.in_flight_count
    assert writer.advance(2)
    assert 8 == writer.durable_seq


def test_a_skip_is_counted_in_every_header_after_it(make):
    """A skip has no records and keeps the seq; from then on each header says that there is one (B6)."""
    writer = BatchWriter(make.state(next_seq=9, skip_count=2))
    header, records = decode(writer.skip(5, 4))
    assert (BatchKind.SKIP, 9, 5, 3, 4, 0) == (
        header["kind"],
        header["first_seq"],
        header["skip_seq"],
        header["skip_count"],
        header["confirmed_seq"],
        len(records),
    )
    header, _ = decode(writer.mark(8, clean=False))
    assert (0, 3, 0) == (header["skip_seq"], header["skip_count"], header["clean"])


def test_nothing_is_cut_from_half_a_frame(make):
    """No whole frame, no batch; what is no frame at all is refused, and the writer stays as it was."""
    writer = BatchWriter(make.state())
    assert (b"", 0) == writer.cut(make.frames(3)[:2], confirmed_seq=0)
    with pytest.raises(FrameTorn, match=r"records of shard 3 at seq 1: .* NOT_A_MARKER"):
        writer.cut(make.frames(3)[1:], confirmed_seq=0)
    assert (1, 0) == (writer.next_seq, writer.in_flight_count)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_bytes_max": 1000}, f"log.batch_bytes must be at least {BATCH_BYTES_LEAST}, .* was 1000"),
        ({"in_flight_max": 0}, "log.in_flight must be at least 1, was 0"),
    ],
)
def test_limits_are_checked(make, options, sentence):
    """Limits that could never work are refused with the rule."""
    with pytest.raises(ValueError, match=sentence):
        BatchWriter(make.state(), **options)
