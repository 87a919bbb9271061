"""Reading a log as the tools read it: every batch with its facts, a summary, and damage named where it lies."""

import shutil

import numpy as np
import pytest

from ringpit.engine.codes import CommandKind, Reason
from ringpit.engine.records import COMMAND
from ringpit.shards.decoded import differences, fields_of
from ringpit.shards.history import History, Summary, surveyed
from ringpit.shards.logs import sources_of
from ringpit.shards.tailing import Tail
from ringpit.testing.logs import LogAt, in_frames, write_log
from ringpit.testing.sessions import session
from ringpit.wal.batch import BatchKind
from ringpit.wal.errors import LogGap
from ringpit.wal.reader import recover
from ringpit.wal.segment_files import split
from ringpit.wal.segments import SegmentLog
from ringpit.wal.writer import BatchWriter

RECORDS = in_frames(session(700, seed=3))


@pytest.fixture(name="made", scope="module")
def made_fixture(tmp_path_factory):
    """A log of three lives; not to be changed."""
    return write_log(LogAt(tmp_path_factory.mktemp("history")), RECORDS, lives=3)


@pytest.fixture
def copy(made, tmp_path):
    """The same log, to be damaged."""
    shutil.copytree(made.folder, tmp_path / "copy")
    return LogAt(tmp_path / "copy", ends=made.ends)


def survey(made):
    """Rows and summary of a log."""
    source = made.source()
    summary = Summary(shard=0)
    return [step.row for step in surveyed(source, summary)], summary


def test_every_batch_is_told(made):
    """Kinds, epochs, seqs and bytes of a log of three lives, and the records themselves."""
    rows, summary = survey(made)
    assert [(BatchKind.CLAIM, epoch) for epoch in (1, 2, 3)] == [
        (row.kind, row.epoch) for row in rows if row.kind is BatchKind.CLAIM
    ]
    assert made.ends == [row.last_seq for row in rows if row.kind is BatchKind.COMMANDS]
    taken = np.concatenate([step.records for step in History(made.source()).steps()])
    assert RECORDS.tobytes() == taken.tobytes()
    assert (3, 3, len(RECORDS), 1, len(RECORDS), [1, 2, 3]) == (
        summary.claims,
        summary.marks,
        summary.records,
        summary.first_seq,
        summary.last_seq,
        summary.epochs,
    )
    assert (True, 0, "") == (summary.clean, summary.torn_bytes, summary.damage)
    assert sum(path.stat().st_size for path in made.files()) == summary.bytes + 8 * summary.batches
    assert len(RECORDS) == History(made.source()).last_seq()


def test_a_torn_end_is_no_damage(copy):
    """Cut at every byte of the last batch: what is before is read, the rest is called torn."""
    whole = copy.files()[-1].read_bytes()
    (last,) = copy.source().view.newest(1)
    size = len(last.batch) + 8
    for cut in range(1, size):
        copy.files()[-1].write_bytes(whole[: len(whole) - cut])
        _, summary = survey(copy)
        assert ("", size - cut, len(RECORDS)) == (summary.damage, summary.torn_bytes, summary.last_seq)


@pytest.mark.parametrize("life", [0, 2])
def test_a_flipped_bit_in_the_middle_is_named(copy, life):
    """In an old file and in the newest: the summary says where, and what is before it is told."""
    path = copy.files()[life]
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at] ^= 4
    path.write_bytes(data)
    rows, summary = survey(copy)
    assert str(path) in summary.damage
    assert "at byte" in summary.damage
    assert rows
    assert summary.last_seq < len(RECORDS)


def test_a_missing_file_is_a_gap(copy):
    """A file in the middle that is gone is a gap at the first seq that is missing."""
    copy.files()[1].unlink()
    rows, summary = survey(copy)
    assert f"expected {summary.last_seq + 1}, found" in summary.damage
    assert "restore the missing part" in summary.damage
    assert {1} == {row.epoch for row in rows}


def test_swapped_batches_are_a_gap(copy):
    """Two batches of a file in the wrong order: the second one comes too early."""
    path = copy.files()[0]
    entries = [entry for entry in copy.source().view.read() if split(entry.position)[0] == 1]
    data = path.read_bytes()
    bounds = [(split(entry.position)[1], split(entry.following)[1]) for entry in entries[1:3]]
    (first, middle), (_, end) = bounds
    path.write_bytes(data[:first] + data[middle:end] + data[first:middle] + data[end:])
    rows, summary = survey(copy)
    assert "has a gap at" in summary.damage
    assert "expected 1, found" in summary.damage
    assert 1 == len(rows)


def test_a_trimmed_log_is_read_from_where_it_begins(copy):
    """What a trim has left is whole in itself; what lies before is a gap for who wants it."""
    copy.files()[0].unlink()
    history = History(copy.source())
    assert 1 < history.reader.next_seq
    taken = np.concatenate([step.records for step in history.steps()])
    assert RECORDS[-len(taken) :].tobytes() == taken.tobytes()
    assert isinstance(history.trimmed(1), LogGap)


def test_a_batch_of_a_replaced_owner_is_marked(copy):
    """What an owner appends behind a newer claim is read, and counts for nobody."""
    log = SegmentLog(copy.log_folder, 0, fsync=False)
    old = BatchWriter(recover(log, 0, 1, 71, lambda *_: None))
    new = recover(log, 0, 1, 72, lambda *_: None)
    log.append(old.mark(0, clean=False))
    log.close()
    rows, summary = survey(copy)
    assert [False] == [row.counts for row in rows if not row.counts]
    assert (1, new.epoch) == (summary.ignored, summary.epochs[-1])


def test_tail_gives_what_has_come_since(copy):
    """From a little before the end, then each batch once, over a change of owner."""
    tail = Tail(copy.source(), 2)
    assert [BatchKind.COMMANDS, BatchKind.MARK] == [row.kind for row, _ in tail.poll()]
    assert [] == list(tail.poll())
    write_log(LogAt(copy.folder), RECORDS[:0], clean=False)
    assert [(BatchKind.CLAIM, 4), (BatchKind.MARK, 4)] == [(row.kind, row.epoch) for row, _ in tail.poll()]
    assert [] == list(Tail(copy.source(), 0).poll())
    assert len(list(Tail(copy.source(), 10_000).poll())) == len(survey(copy)[0])


def test_folders_name_their_shards(made, tmp_path):
    """A folder of shards, and one shard's own, mean the same log; other names are refused with the remedy."""
    (whole,) = sources_of(None, made.log_folder, None)
    (own,) = sources_of(None, made.log_folder / "shard-0000", None)
    assert (0, whole.view.identity()) == (own.shard, own.view.identity())
    assert 1 == whole.generation_found()
    with pytest.raises(
        ValueError, match=r"must hold folders named shard-NNNN, or be one; name the right --folder"
    ):
        list(sources_of(None, tmp_path, None))
    with pytest.raises(ValueError, match=r"--shard must be one of \[0\], which .* holds, was 4"):
        list(sources_of(None, made.log_folder, 4))


def test_records_are_shown_by_name():
    """Codes by their names, zeros that say nothing left out, and a difference field by field."""
    command = np.zeros(2, COMMAND)
    command["kind"], command["event"], command["price"] = CommandKind.NEW, 7, 55
    command["side"][1], command["flags"], command["verdict"] = 1, 32 + 4, Reason.SKIPPED
    shown = fields_of(command[1], 9)
    assert {"Seq": 9, "Record": "NEW", "side": "SELL", "flags": "POST_ONLY|EXTENDED", "verdict": "SKIPPED"} == {
        name: shown[name] for name in ("Seq", "Record", "side", "flags", "verdict")
    }
    assert "expires_ns" not in shown
    assert [("side", "BUY", "SELL")] == list(differences(command[0], command[1]))
    for record in RECORDS:
        assert fields_of(record, 1)["Record"]
