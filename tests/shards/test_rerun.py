"""Time travel: the books at any seq, from wherever one begins, and the snapshots that must agree on the way."""

import json
import os
import shutil

import numpy as np
import pytest

from ringpit.engine.codes import CommandKind
from ringpit.engine.records import COMMAND, MARKER
from ringpit.engine.tables import allocate
from ringpit.shards.differ import difference
from ringpit.shards.logs import holder
from ringpit.shards.planning import plan
from ringpit.shards.rerun import Books, Rerun, ToldBooks, snapshot_below, tables_of
from ringpit.shards.verify import verify
from ringpit.testing.logs import LIMITS, LogAt, in_frames, write_log
from ringpit.testing.sessions import session
from ringpit.wal.batch import HEADER, decode
from ringpit.wal.errors import LogGap, LogVersionMismatch
from ringpit.wal.segments import SegmentLog
from ringpit.wal.snapshots import SnapshotStore

RECORDS = in_frames(session(700, seed=5))
SHORT = in_frames(session(150, seed=6))  # lines are slow where nothing is compiled


@pytest.fixture(name="made", scope="module")
def made_fixture(tmp_path_factory):
    """A log of two lives with three snapshots; not to be changed."""
    return write_log(LogAt(tmp_path_factory.mktemp("rerun")), RECORDS, lives=2, snapshots_at=(0.2, 0.5, 0.8))


@pytest.fixture
def copy(made, tmp_path):
    """The same, to be damaged."""
    shutil.copytree(made.folder, tmp_path / "copy")
    return LogAt(tmp_path / "copy", ends=made.ends, snapshots=made.snapshots)


def books_at(seq):
    """The books after so many records, without any log."""
    books = Books(allocate(LIMITS, market_data=False), 0)
    books.apply(RECORDS[:seq])
    return books


def rerun_to(source, seq, *, from_start=False):
    """A rerun that has reached a seq."""
    said = []
    snapshot = None if from_start else snapshot_below(source, seq, said.append)
    books = Books(tables_of(source.limits, snapshot), snapshot.facts.seq if snapshot else 0)
    rerun = Rerun(source, books, snapshot, seq)
    for _ in rerun.steps():
        pass
    return rerun, said


def damage_file(path, at=None):
    """Flip a bit of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


# -- rerun


def test_the_books_at_any_seq(made):
    """From the first batch and from the snapshot below: the same books as without a log, at every kind of seq."""
    seqs = {
        1,
        2,
        made.snapshots[0] - 1,
        *made.snapshots,
        made.snapshots[1] + 1,
        len(RECORDS) // 3,
        len(RECORDS),
    }
    for seq in sorted(seqs):
        expected = books_at(seq).digest()
        for from_start in (True, False):
            rerun, _ = rerun_to(made.source(), seq, from_start=from_start)
            assert (seq, expected) == (rerun.books.seq, rerun.books.digest())
            assert [""] * len(rerun.checks) == [check.wrong for check in rerun.checks]
            below = [each for each in made.snapshots if each <= seq]
            assert (below if from_start else below[-1:]) == [check.facts.seq for check in rerun.checks]


def test_reports_are_the_same_from_wherever_one_begins(tmp_path):
    """Reports as lines: from a snapshot they are the end of those from the beginning, to the byte."""
    lines = {}
    made = write_log(LogAt(tmp_path), SHORT, snapshots_at=(0.3,))
    for name in ("start", "snapshot"):
        source = made.source()
        snapshot = snapshot_below(source, None, print) if name == "snapshot" else None
        seq = snapshot.facts.seq if snapshot else 0
        tables = tables_of(source.limits, snapshot, market_data=True)
        with (tmp_path / name).open("w+b") as out:
            rerun = Rerun(source, ToldBooks(source, tables, seq, out.fileno(), name), snapshot)
            for _ in rerun.steps():
                pass
            out.seek(0)
            lines[name] = out.read().splitlines()
        assert len(SHORT) == rerun.books.seq
    assert lines["snapshot"]
    assert lines["start"][-len(lines["snapshot"]) :] == lines["snapshot"]
    first = json.loads(lines["snapshot"][0])
    assert (first["Shard"], first["Generation"]) == (0, 1)
    assert made.snapshots[-1] < first["Seq"]


def test_a_damaged_snapshot_is_passed_over(copy):
    """The newest is damaged: the one before it is used, and the damage is told."""
    (path,) = (copy.folder / "snapshots" / "shard-0000").glob(f"*{copy.snapshots[-1]}.snapshot")
    damage_file(path)
    rerun, said = rerun_to(copy.source(), len(RECORDS))
    assert copy.snapshots[1] == rerun.checks[0].facts.seq
    assert books_at(len(RECORDS)).digest() == rerun.books.digest()
    (sentence,) = said
    assert sentence.startswith(f"not used: {path}: crc32c must be")


def test_another_logs_snapshot_is_passed_over(copy):
    """A snapshot of another log is not begun from."""
    (copy.log_folder / "shard-0000" / "identity").write_text("other\n")
    rerun, said = rerun_to(copy.source(), None)
    assert [] == rerun.checks
    assert len(copy.snapshots) == len(said)
    assert "and this one is 'other'" in said[0]


def test_a_trimmed_log_needs_a_snapshot(copy):
    """Without the first file nothing can begin at the first batch; a snapshot behind it can."""
    copy.files()[0].unlink()
    assert len(RECORDS) == rerun_to(copy.source(), None)[0].books.seq
    with pytest.raises(LogGap, match=r"what came before was trimmed"):
        rerun_to(copy.source(), None, from_start=True)


# -- verify


def test_a_sound_log_is_good(made):
    """Everything is read, every snapshot is compared, and progress goes to the end."""
    seen = []
    verdict = verify(made.source(), lambda seq, end: seen.append((seq, end)))
    assert verdict.good
    assert len(RECORDS) == verdict.summary.records
    assert [(f"snapshot at seq {seq}", "") for seq in made.snapshots] == verdict.snapshots
    assert (len(RECORDS), len(RECORDS)) == seen[-1]


def test_damage_is_named_with_what_to_do(copy):
    """A flipped bit in the old file: the position, what is still sound, and the advice."""
    damage_file(copy.files()[0])
    verdict = verify(copy.source())
    assert not verdict.good
    assert str(copy.files()[0]) in verdict.damage
    assert f"everything up to seq {verdict.summary.last_seq} is sound" in verdict.advice
    assert "`ringpit wal plan` says whether a start" in verdict.advice
    shutil.rmtree(copy.folder / "snapshots")
    verdict = verify(copy.source())
    assert "do not start the exchange on it: keep a copy of the log as it is, then put" in verdict.advice


def test_an_end_that_was_synced_and_is_gone_is_damage(copy):
    """Cut bytes that had been called durable, or a whole newest file: no tear, but a loss, and plan warns of it."""
    path = copy.files()[-1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-300])
    verdict = verify(copy.source())
    assert f"{path} was synced up to byte {len(whole)}, and the log ends before" in verdict.damage
    assert "what is missing was acknowledged" in verdict.damage
    assert verdict.advice.startswith(f"everything up to seq {verdict.summary.last_seq} is sound; do not start")
    made_plan = plan(copy.source(), [])
    assert (True, verdict.damage) == (made_plan.works, made_plan.lost_end)
    path.unlink()
    shutil.rmtree(copy.folder / "snapshots")
    assert f"{path} was synced up to byte {len(whole)}" in verify(copy.source()).damage
    path.write_bytes(whole + b"torn")
    assert verify(copy.source()).good


def test_a_snapshot_that_lies_is_found(copy):
    """Another digest, another checksum, or a log that ended before: each is named, and the rest is good."""
    store = SnapshotStore(copy.folder / "snapshots", 0)
    oldest, middle, newest = reversed(store.listing())
    for found, change in ((oldest, {"digest": "0" * 32}), (middle, {"checksum": 5})):
        snapshot = store.load(found.path)
        facts = type(snapshot.facts)(**(vars(snapshot.facts) | change))
        store.write(facts, snapshot.arrays).publish()
    verdict = verify(copy.source())
    (_, first), (_, second), (_, third) = verdict.snapshots
    assert first.startswith("its digest is 00000000000000000000000000000000, the log gives ")
    assert second.startswith("its running checksum is 0x5, the log gives 0x")
    assert ("", "") == (third, verdict.damage)
    assert not verdict.good
    snapshot = store.load(newest.path)
    beyond = type(snapshot.facts)(**(vars(snapshot.facts) | {"seq": len(RECORDS) + 9}))
    store.write(beyond, snapshot.arrays).publish()
    verdict = verify(copy.source())
    assert f"but the log ends at {len(RECORDS)}: the log has lost its end" in verdict.snapshots[-1][1]


def test_a_damaged_or_foreign_snapshot_is_not_good(copy):
    """What a start would pass over is told by verify, too."""
    (path,) = (copy.folder / "snapshots" / "shard-0000").glob(f"*{copy.snapshots[0]}.snapshot")
    damage_file(path)
    verdict = verify(copy.source())
    assert "crc32c must be" in verdict.snapshots[0][1]
    assert not verdict.good
    (copy.log_folder / "shard-0000" / "identity").write_text("other\n")
    assert all(
        "and this one is 'other'" in wrong or "crc32c" in wrong for _, wrong in verify(copy.source()).snapshots
    )


def test_a_log_of_older_rules_is_refused_with_the_remedy(copy):
    """Another version is told from damage, and the remedy names what to run."""
    for name in ("layout_version", "rules_version"):
        entry = next(iter(copy.source().view.read()))
        path = copy.files()[0]
        data = bytearray(path.read_bytes())
        header = np.frombuffer(data, HEADER, 1, len(data[:8]))
        assert header[0]["epoch"] == decode(entry.batch)[0]["epoch"]
        header[0][name] -= 1
        path.write_bytes(data)
        with pytest.raises(
            LogVersionMismatch, match=rf"{name} must be .*; run the ringpit that wrote this log, or"
        ):
            rerun_to(copy.source(), 1, from_start=True)
        verdict = verify(copy.source())
        assert "use the ringpit that wrote it" in verdict.advice
        header[0][name] += 1
        path.write_bytes(data)


# -- plan


def test_a_plan_says_what_a_start_would_do(made):
    """Snapshot, position, what is read, and how it goes on."""
    before = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    made_plan = plan(made.source(), [])
    assert made_plan.works
    assert made.snapshots[-1] == made_plan.snapshot_seq
    assert len(RECORDS) - made.snapshots[-1] == made_plan.records
    assert (3, len(RECORDS) + 1, True) == (made_plan.next_epoch, made_plan.next_seq, made_plan.clean)
    assert made_plan.seconds > 0
    assert "million/s" in made_plan.seconds_from
    assert made_plan.free_bytes > 0
    assert sum(path.stat().st_size for path in made.files()) == made_plan.log_bytes
    assert 0 == made_plan.bytes_a_day  # a session spans microseconds
    assert before == {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}


def test_a_plan_tells_growth_by_the_logs_own_times(tmp_path):
    """Bytes of the log by its engine time, and how long the disk will do."""
    records = RECORDS.copy()
    markers = records.view(MARKER)
    markers["engine_ns"][markers["kind"] == CommandKind.MARKER] *= 1_000_000_000
    made = write_log(LogAt(tmp_path), records)
    made_plan = plan(made.source(), [])
    span_ns = made_plan.last_ns - made_plan.first_ns
    assert made_plan.bytes_a_day == pytest.approx(made_plan.log_bytes * 86_400e9 / span_ns)
    assert made_plan.days_left == pytest.approx(made_plan.free_bytes / made_plan.bytes_a_day)


def test_a_plan_names_every_refusal(copy):
    """Damage behind the snapshot, a foreign log, a log shorter than the snapshot, and who holds a lock."""
    whole = copy.files()[1].read_bytes()
    damage_file(copy.files()[1], len(whole) - 300)
    refusals = plan(copy.source(), ["exchange 'x' (process 7)"]).refusals
    assert "exchange 'x' (process 7) holds the lock: stop that ringpit first" == refusals[0]
    assert "crc32c must be" in refusals[1]
    copy.files()[1].write_bytes(whole[:400])
    (refusal,) = plan(copy.source(), []).refusals
    assert "has a gap at" in refusal
    assert (
        f"The snapshot at seq {copy.snapshots[-1]} reads on there: the log is shorter than the snapshot"
        in refusal
    )
    copy.files()[1].write_bytes(whole)
    (copy.log_folder / "shard-0000" / "identity").write_text("other\n")
    (refusal,) = plan(copy.source(), []).refusals
    assert "does not belong here: it is of the log" in refusal
    assert "move the snapshots of shard 0 away to start from the log alone" in refusal


def test_a_plan_passes_over_a_damaged_snapshot(copy):
    """The damage is told, and the next older one is used; a torn end is told, too."""
    (path,) = (copy.folder / "snapshots" / "shard-0000").glob(f"*{copy.snapshots[-1]}.snapshot")
    damage_file(path)
    with copy.files()[-1].open("ab") as file:
        file.write(b"torn")
    made_plan = plan(copy.source(), [])
    assert made_plan.works
    assert copy.snapshots[1] == made_plan.snapshot_seq
    assert "crc32c must be" in made_plan.passed_over[0]
    assert 4 == made_plan.torn_bytes


def test_who_holds_a_lock_is_seen_without_taking_it(tmp_path):
    """The process that writes a log, and nobody once it has let go."""
    log = SegmentLog(tmp_path, 0)
    lock = tmp_path / "shard-0000" / "lock"
    assert str(os.getpid()) == holder(lock)
    log.close()
    assert ("", "") == (holder(lock), holder(tmp_path / "none"))


# -- diff


def test_equal_histories_in_other_batches_are_equal(made, tmp_path):
    """Other batches, lives and epochs: no difference, from any seq on."""
    other = write_log(LogAt(tmp_path), RECORDS, lives=3, seed=9)
    assert other.ends != made.ends
    for first in (1, 77, len(RECORDS)):
        assert (None, len(RECORDS) - first + 1) == difference(made.source(), other.source(), first)


def test_the_first_difference_is_shown(made, tmp_path):
    """One field of one command differs; and one log ends before the other."""
    changed = RECORDS.copy()
    at = int(np.flatnonzero(changed["kind"] == 1)[-1])
    changed["quantity"][at] += 1
    other = write_log(LogAt(tmp_path / "changed"), changed, seed=4)
    found, compared = difference(made.source(), other.source())
    assert (at + 1, at) == (found.seq, compared)
    assert found.theirs.view(COMMAND)["quantity"] == found.ours.view(COMMAND)["quantity"] + 1
    assert None is difference(made.source(), other.source(), at + 2)[0]
    shorter = write_log(LogAt(tmp_path / "shorter"), RECORDS[: made.ends[0]], seed=4)
    found, compared = difference(shorter.source(), made.source())
    assert (made.ends[0] + 1, made.ends[0], None) == (found.seq, compared, found.ours)
