"""The reader rule against a naive model, and taking over with owners that will not die."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpit.engine.codes import CommandKind, Reason
from ringpit.engine.records import COMMAND
from ringpit.wal import reader as reader_module
from ringpit.wal.batch import BatchKind
from ringpit.wal.errors import (
    ChecksumMismatch,
    Fenced,
    LogError,
    LogGap,
    LogUnavailable,
    LogVersionMismatch,
    SkipRefused,
)
from ringpit.wal.frames import FrameTorn, checksum_of
from ringpit.wal.memory import MemoryLog
from ringpit.wal.reader import CLAIMS_MAX, KIN_BITS, Begin, Reader, recover, runs, skips_of
from ringpit.wal.writer import BatchWriter

FRAMES = 12  # of the one true history: a marker and a command each

claims = st.tuples(
    st.just(BatchKind.CLAIM), st.integers(1, 4), st.integers(1, 2), st.integers(0, 3), st.just(0)
)
commands = st.tuples(
    st.just(BatchKind.COMMANDS), st.integers(0, 4), st.integers(1, 2), st.integers(0, 8), st.integers(1, 4)
)


def naive(steps):
    """The reader rule, record by record, as it is written in the reader's essay; seqs taken, and how it ended."""
    epoch, nonce, next_seq, taken = 0, 0, 1, []
    for kind, step_epoch, step_nonce, first_frame, frame_count in steps:
        first_seq = 1 + 2 * first_frame
        if kind == BatchKind.CLAIM:
            if step_epoch > epoch:
                if first_seq > next_seq:
                    return taken, "gap"
                epoch, nonce = step_epoch, step_nonce
            continue
        if epoch == 0 or step_epoch > epoch:
            return taken, "gap"
        if (step_epoch, step_nonce) != (epoch, nonce):
            continue
        for seq in range(first_seq, first_seq + 2 * frame_count):
            if seq > next_seq:
                return taken, "gap"
            if seq == next_seq:
                taken.append(seq)
                next_seq += 1
    return taken, "end"


@settings(max_examples=300)
@given(steps=st.lists(st.one_of(claims, commands), max_size=14))
def test_reader_agrees_with_the_naive_model(make, steps):
    """Random epochs, late batches, repeats, gaps and equal epochs: same records taken, same end."""
    history = make.frames(*[1] * FRAMES)
    reader = Reader(make.shard, make.generation)
    taken, outcome = [], "end"
    for kind, epoch, nonce, first_frame, frame_count in steps:
        start = 2 * first_frame
        records = history[start : start + 2 * frame_count]
        before = checksum_of(history[:start])
        batch = make.batch(records, before=before, first_seq=1 + start, epoch=epoch, nonce=nonce, kind=kind)
        try:
            _, found = reader.take(batch, "here")
        except LogGap:
            outcome = "gap"
            break
        taken.append(found.tobytes())
    expected, expected_outcome = naive(steps)
    assert expected_outcome == outcome
    assert history[: len(expected)].tobytes() == b"".join(taken)
    assert len(expected) + 1 == reader.next_seq
    assert checksum_of(history[: len(expected)]) == reader.checksum


def reader_behind(make, records):
    """A reader that has taken records from epoch 1."""
    reader = Reader(make.shard, make.generation)
    reader.take(make.claim(1), "claim")
    reader.take(make.batch(records), "first")
    return reader


def test_gap_says_where(make):
    """A gap names shard, what was expected, what came, the place and the remedy."""
    reader = reader_behind(make, make.frames(1))
    with pytest.raises(LogGap, match=r"shard 3 has a gap at offset 9: expected 3, found 5; restore") as caught:
        reader.take(make.batch(make.frames(1), first_seq=5), "offset 9")
    assert (3, 3, 5, "offset 9") == (
        caught.value.shard,
        caught.value.expected,
        caught.value.found,
        caught.value.where,
    )


def test_claim_that_saw_more_is_a_gap(make):
    """A claimant had seen records that this reader has not: they are missing."""
    reader = reader_behind(make, make.frames(1))
    with pytest.raises(LogGap, match=r"expected 3, found 4"):
        reader.take(make.claim(2, first_seq=4), "here")


def test_epoch_without_claim_is_a_gap(make):
    """Batches of an epoch that nobody claimed, also at the very beginning."""
    with pytest.raises(LogGap, match=r"an epoch without its claim"):
        Reader(make.shard, make.generation).take(make.batch(make.frames(1)), "here")
    with pytest.raises(LogGap, match=r"expected 1, found 2 .an epoch without its claim"):
        reader_behind(make, make.frames(1)).take(make.batch(make.frames(1), first_seq=3, epoch=2), "here")


@pytest.mark.parametrize("facts", [{"before": 1}, {"checksum_after": 1}])
def test_checksum_mismatch_names_the_seq(make, facts):
    """A history that differs before or inside a batch is refused with the batch's first seq."""
    first = make.frames(1)
    reader = reader_behind(make, first)
    with pytest.raises(ChecksumMismatch, match=r"at seq 3, here"):
        reader.take(make.batch(make.frames(2), first_seq=3, **({"before": checksum_of(first)} | facts)), "here")


def test_checksum_is_checked_on_batches_taken_in_part(make):
    """A batch that repeats records and goes on must have repeated the same records (R4)."""
    first, second = make.frames(1), make.frames(1, first_order=50)
    reader = reader_behind(make, first)
    other = make.frames(1, first_order=90)
    with pytest.raises(ChecksumMismatch, match=r"at seq 3"):
        reader.take(make.batch(np.concatenate([other, second])), "here")


def test_frames_are_never_split(make):
    """A batch whose new part begins or ends inside a frame is refused (R5)."""
    first = make.frames(1)
    before = checksum_of(first)
    with pytest.raises(FrameTorn, match=r"NOT_A_MARKER"):
        reader_behind(make, first).take(make.batch(make.frames(3), first_seq=2), "here")
    with pytest.raises(FrameTorn, match=r"the batch ends inside it"):
        reader_behind(make, first).take(make.batch(make.frames(3)[:-1], before=before, first_seq=3), "here")


@pytest.mark.parametrize("name", ["shard", "generation"])
def test_another_log_is_refused(make, name):
    """A batch of another shard or generation is refused before it is believed."""
    with pytest.raises(
        LogVersionMismatch, match=rf"here: {name} must be .*, was 99; the log belongs to another"
    ):
        Reader(make.shard, make.generation).take(make.claim(1, **{name: 99}), "here")


def test_header_facts_only_grow(make):
    """confirmed_seq is the largest seen in batches that count; a mark moves it without records."""
    reader = reader_behind(make, make.frames(1))
    reader.take(make.batch(make.frames(), kind=BatchKind.MARK, first_seq=3, confirmed_seq=2), "mark")
    reader.take(make.batch(make.frames(), kind=BatchKind.MARK, first_seq=3, confirmed_seq=1), "late mark")
    assert 2 == reader.confirmed_seq
    assert (4, 2) == (reader.batch_count, reader.record_count)


def test_taken_records_are_writable(make):
    """Replay hands kernels the kind of array that a ring hands them."""
    reader = Reader(make.shard, make.generation)
    reader.take(make.claim(1), "claim")
    _, records = reader.take(make.batch(make.frames(2)), "here")
    assert records.flags.writeable
    assert records.flags.c_contiguous


# -- taking over


class Owner:
    """An owner of the shard over a shared list of batches, whose appends land when the test says so."""

    def __init__(self, make, batches, nonce):
        self.log = MemoryLog(batches)
        self.history = []
        self.state = recover(self.log, make.shard, make.generation, nonce, self.apply)
        self.writer = BatchWriter(self.state, in_flight_max=100)
        self.log.held = True

    def apply(self, _header, records):
        """Remember the order ids of commands."""
        self.history.extend(orders_of(records))

    def write(self, make, order):
        """Cut and append one frame."""
        batch, _ = self.writer.cut(make.frames(1, first_order=order), confirmed_seq=0)
        self.log.append(batch)
        self.history.append(order)


def orders_of(records):
    """Order ids of the commands among one-command frames."""
    return records.view(COMMAND)["order"][1::2].tolist()


@given(
    steps=st.lists(st.tuples(st.sampled_from(["write", "land", "take over"]), st.integers(0, 3)), max_size=30)
)
def test_late_batches_of_dead_owners_change_nothing(make, steps):
    """Whatever lands when: all that was durable under the newest owner stays, in order, and all readers agree."""
    batches, durable = [], []
    owners = [Owner(make, batches, 1)]
    for order, (what, which) in enumerate(steps, 1):
        owner = owners[which % len(owners)]
        if what == "write":
            owner.write(make, order)
        elif what == "take over":
            owners.append(Owner(make, batches, len(owners) + 1))
            assert durable == owners[-1].history
        elif owner.log.pending:
            owner.log.release(1)
            if owner is owners[-1]:
                durable.append(owner.history[len(durable)])
    last = Owner(make, batches, 99)
    assert durable == last.history
    assert len(durable) * 2 + 1 == last.state.next_seq


class RivalLog(MemoryLog):
    """A log into which a rival's claim arrives just before ours."""

    def __init__(self, batches, rival):
        super().__init__(batches)
        self.rival = rival

    def append(self, batch):
        self.batches.append(self.rival)
        super().append(batch)


@pytest.mark.parametrize("epoch", [1, 2])
def test_of_equal_epochs_the_first_in_log_order_wins(make, epoch):
    """A claim that lands behind another of the same or a newer epoch loses, and its owner stops."""
    log = RivalLog([], make.claim(epoch, nonce=1))
    with pytest.raises(
        Fenced, match=rf"claimed by another owner with epoch {epoch} while this one claimed epoch 1"
    ):
        recover(log, make.shard, make.generation, 2, lambda *_: None)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_dead_claim_of_our_kin_is_claimed_over(make, epoch):
    """A claim that was on its way when its process was killed lands before ours: nobody is behind it (R8)."""
    kin = 5 << KIN_BITS
    log = RivalLog([], make.claim(epoch, nonce=kin | 1))
    state = recover(log, make.shard, make.generation, kin | 2, lambda *_: None)
    assert (epoch + 1, kin | 2, 2) == (state.epoch, state.nonce, state.appended_count)
    reader = Reader(make.shard, make.generation)
    for batch in log.batches:
        reader.take(batch, "here")
    assert (state.epoch, state.nonce) == (reader.epoch, reader.nonce)


def test_claims_over_kin_have_an_end(make):
    """Whoever finds kin before each of its claims ends as before another owner."""
    kin = 5 << KIN_BITS
    log = RivalLog([], b"")
    epochs = iter(range(1, 100))
    log.append = lambda batch: (
        log.batches.append(make.claim(next(epochs), nonce=kin | 1)),
        MemoryLog.append(log, batch),
    )
    with pytest.raises(Fenced, match=f"with epoch {CLAIMS_MAX} while this one claimed epoch {CLAIMS_MAX}"):
        recover(log, make.shard, make.generation, kin | 2, lambda *_: None)


def test_late_batch_before_the_claim_counts(make):
    """What the old owner still got in before our claim is history, and is applied."""
    batches = []
    old = Owner(make, batches, 1)
    old.write(make, 10)
    log = RivalLog(batches, old.log.pending[0])
    seen = []
    state = recover(
        log, make.shard, make.generation, 2, lambda _header, records: seen.extend(orders_of(records))
    )
    assert [10] == seen
    assert (2, 3, 2) == (state.epoch, state.next_seq, state.record_count)


def test_claim_that_never_lands_is_given_up(make):
    """A log that accepts no writes ends recovery with a sentence, not with a wait for ever."""
    with pytest.raises(LogUnavailable, match=r"the claim on shard 3 is not in its log yet"):
        recover(MemoryLog(held=True), make.shard, make.generation, 2, lambda *_: None, timeout_seconds=0.0)


# -- runs of batches


odd = st.sampled_from(
    [
        {},
        {"shard": 4},
        {"generation": 6},
        {"checksum_before": 1},
        {"checksum_after": 1},
        {"confirmed_seq": 3},
        {"skip_count": 2},
        {"clean": 1},
        {"skip_seq": 2, "kind": BatchKind.SKIP},
        {"flip": 199},
        {"flip": 30},
        {"flip": 5},
        {"cut": 10},
    ]
)


def read_one_by_one(log, reader):
    """What a log holds, batch by batch: places, header bytes and records; and the error at its end."""
    read = []
    try:
        for entry in log.read():
            header, records = reader.take(entry.batch, log.locate(entry.position))
            read.append((entry.following, header.tobytes(), records.tobytes()))
    except LogError as error:
        return read, error
    return read, None


def read_in_runs(log, reader):
    """The same, in runs."""
    read = []
    try:
        for run in runs(log, reader):
            records = run.records
            for entry, header in zip(run.entries, run.headers, strict=True):
                count = header["count"] if len(run.entries) > 1 else len(records)
                read.append((entry.following, header.tobytes(), records[:count].tobytes()))
                records = records[count:]
            assert not len(records)
    except LogError as error:
        return read, error
    return read, None


@settings(max_examples=300)
@given(
    steps=st.lists(st.tuples(st.one_of(claims, commands, commands, commands), odd | st.just({})), max_size=14),
    follows=st.booleans(),
    skips=st.frozensets(st.integers(1, 16), max_size=2),
    longest=st.integers(1, 5),
)
def test_a_run_is_its_batches_one_by_one(make, steps, follows, skips, longest):
    """Whatever a log holds, of whatever damage: the same headers, records, state and refusal as from one batch at a time."""
    history = make.frames(*[1] * (4 * FRAMES))
    batches, start, (epoch, nonce) = [make.claim(1)], 0, (1, 7)
    for (kind, some_epoch, some_nonce, first_frame, frame_count), oddness in steps:
        facts = dict(oddness)
        flip, cut = facts.pop("flip", None), facts.pop("cut", 0)
        if not follows:
            start, epoch, nonce = 2 * first_frame, some_epoch, some_nonce
        elif kind == BatchKind.CLAIM:
            epoch += 1
        records = history[start : start + (0 if kind == BatchKind.CLAIM else 2 * frame_count)]
        ours = {"kind": kind, "first_seq": 1 + start, "epoch": epoch, "nonce": nonce}
        batch = bytearray(make.batch(records, before=checksum_of(history[:start]), **(ours | facts)))
        if flip is not None:
            batch[min(flip, len(batch) - 1)] ^= 1
        batches.append(bytes(batch[: len(batch) - cut]))
        start += len(records)
    log = MemoryLog(batches)
    alone = Reader(make.shard, make.generation, skips=skips)
    together = Reader(make.shard, make.generation, skips=skips)
    read, error = read_one_by_one(log, alone)
    with mock.patch.object(reader_module, "RUN_BATCHES", longest):
        found, refusal = read_in_runs(log, together)
    assert read == found
    assert type(error) is type(refusal)
    assert str(refusal).removesuffix("; restore this part of the log from a copy before starting") == str(error)
    if error is None:
        assert {**vars(alone), "positions": alone.positions.tolist()} == {
            **vars(together),
            "positions": together.positions.tolist(),
        }


class LeakyLog(MemoryLog):
    """A log that cannot be read to its end."""

    def read(self, position=0):
        yield from super().read(position)
        raise LogUnavailable("the disk is gone")


def test_what_comes_before_an_error_is_given_back_first(make):
    """A log that breaks off in the middle of a run has given what it had."""
    log = LeakyLog([make.claim(1), make.batch(make.frames(2))])
    read, error = read_in_runs(log, Reader(make.shard, make.generation))
    assert (2, "the disk is gone") == (len(read), str(error))


def test_a_run_is_taken_at_once(make):
    """Batches that follow one another cost one call of the kernel, not one each."""
    records = make.frames(*[1] * FRAMES)
    batches = [
        make.batch(records[at : at + 2], first_seq=at + 1, before=checksum_of(records[:at]))
        for at in range(0, 2 * FRAMES, 2)
    ]
    reader = Reader(make.shard, make.generation)
    lengths = [len(run.entries) for run in runs(MemoryLog([make.claim(1), *batches]), reader)]
    assert [1, FRAMES] == lengths
    assert checksum_of(records) == reader.checksum


# -- beginning at a snapshot, and skips


def read_all(make, log, begin=None, position=0):
    """Read a log from a position on, skips and all; the reader, and the records that it took."""
    skips = skips_of(log, begin=begin, position=position)
    reader = Reader(make.shard, make.generation, begin=begin, skips=skips)
    taken = [reader.take(entry.batch, "here")[1] for entry in log.read(position)]
    return reader, np.concatenate([make.frames(), *taken])


def begin_behind(reader):
    """What a snapshot would know where a reader stands."""
    return Begin(
        epoch=reader.epoch,
        nonce=reader.nonce,
        seq=reader.next_seq - 1,
        checksum=reader.checksum,
        confirmed_seq=reader.confirmed_seq,
        skip_count=reader.skip_count,
        log_seq=reader.next_seq - 1,
    )


@given(
    steps=st.lists(st.sampled_from(["write", "write", "skip", "mark", "take over"]), max_size=25),
    data=st.data(),
)
def test_whoever_begins_wherever_reads_the_same(make, steps, data):
    """A reader behind a snapshot and one from the beginning agree about every record above the snapshot, skips included."""
    batches, skipped, clean = [], set(), False
    owner = Owner(make, batches, 1)
    owner.log.held = False
    for step in steps:
        last_seq = owner.writer.next_seq - 1
        clean = step == "mark" or (clean and step == "skip" and not last_seq)
        if step == "write":
            owner.write(make, last_seq + 10)
        elif step == "mark":
            owner.log.append(owner.writer.mark(last_seq, clean=True))
        elif step == "skip" and last_seq:
            seq = data.draw(st.sampled_from(range(2, last_seq + 1, 2)))  # each second record is a command
            skipped.add(seq)
            owner.log.append(owner.writer.skip(seq, 0))
        elif step == "take over":
            owner = Owner(make, batches, len(batches) + 2)
            owner.log.held = False
    log = MemoryLog(batches)
    whole, records = read_all(make, log)
    assert skipped == {
        seq for seq, record in enumerate(records.view(COMMAND), 1) if record["verdict"] == Reason.SKIPPED
    }
    assert clean == whole.clean
    cut = data.draw(st.integers(0, len(batches)))
    early, applied = Reader(make.shard, make.generation, skips=whole.skips), 0
    for batch in batches[:cut]:
        applied += len(early.take(batch, "here")[1])
    begin = begin_behind(early)
    position = data.draw(st.integers(0, cut))  # a snapshot may say to read on from further back
    later, rest = read_all(make, log, begin, position)
    assert records[applied:].tobytes() == rest.tobytes()
    assert begin_behind(whole) == begin_behind(later)
    end, begin = len(batches), begin_behind(later)
    state = recover(log, make.shard, make.generation, 9_999, pytest.fail, begin=begin, position=end)
    assert (len(skipped) <= state.skip_count, len(records) + 1) == (True, state.next_seq)


def test_a_skip_that_was_not_known_in_time_is_refused(make):
    """A reader that applied a command and then learns that it was skipped must not go on (R6)."""
    log = MemoryLog([make.claim(1), make.batch(make.frames(2))])
    reader, _ = read_all(make, log)
    late = make.batch(make.frames(), kind=BatchKind.SKIP, first_seq=4, skip_seq=2, skip_count=1)
    with pytest.raises(
        SkipRefused, match=r"there: seq 2 of shard 3 is skipped, but was taken before this was known"
    ):
        reader.take(late, "there")


@pytest.mark.parametrize("kind", [CommandKind.EXTENSION, CommandKind.BANDS, CommandKind.MARKER])
def test_what_is_no_command_cannot_be_skipped(make, kind):
    """A skip of a marker or of half a command would tear the frame: the reader refuses it."""
    frames = make.frames(2)
    seq = 1 if kind is CommandKind.MARKER else 2
    if seq == 2:
        frames.view(COMMAND)["kind"][1] = kind
    reader = Reader(make.shard, make.generation, skips=frozenset({seq}))
    reader.take(make.claim(1), "claim")
    with pytest.raises(SkipRefused, match=rf"here: seq {seq} of shard 3 is skipped, but is a {kind.name}"):
        reader.take(make.batch(frames), "here")


def test_a_skip_of_an_owner_that_was_replaced_says_nothing(make):
    """R2 holds for skips too: one that arrives behind a newer claim is ignored by all."""
    late = make.batch(make.frames(), kind=BatchKind.SKIP, first_seq=4, skip_seq=2, skip_count=1)
    log = MemoryLog([make.claim(1), make.batch(make.frames(2)), make.claim(2, nonce=8, first_seq=4), late])
    log.batches[2] = make.batch(
        make.frames(), kind=BatchKind.CLAIM, epoch=2, nonce=8, first_seq=4, before=checksum_of(make.frames(2))
    )
    reader, records = read_all(make, log)
    assert (0, 0) == (reader.skip_count, records.view(COMMAND)["verdict"].sum())


def test_positions_are_of_the_newest_owner_s_rings(make):
    """A start begins with none: positions of an earlier life may be larger, and would call durable what is not (R7)."""
    batches = []
    old = Owner(make, batches, 1)
    old.log.held = False
    old.write(make, 10)
    reader, _ = read_all(make, MemoryLog(batches))
    assert reader.positions.any()
    Owner(make, batches, 2)
    reader, _ = read_all(make, MemoryLog(batches))
    assert not reader.positions.any()
