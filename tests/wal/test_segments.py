"""Segment files: torn ends, damage, locks, full disks, shared syncs."""

import errno
import os
import re
import resource
import struct
import subprocess
import sys
import threading
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.wal import segments
from ringpit.wal.errors import BatchDamaged, LogFailed, LogFull, LogGap, LogUnavailable, LogVersionMismatch
from ringpit.wal.reader import recover
from ringpit.wal.segment_files import OFFSET_BITS, SegmentFiles
from ringpit.wal.segments import SegmentLog, SegmentView
from ringpit.wal.writer import BatchWriter


def fill(make, folder, epoch=1, frame_count=3):
    """Write an epoch of small batches and return them."""
    batches = [
        make.claim(epoch),
        *(make.batch(make.frames(1), epoch=epoch, first_seq=1 + 2 * n) for n in range(frame_count)),
    ]
    log = SegmentLog(folder, make.shard)
    for batch in batches:
        log.append(batch)
    make.wait_durable(log, len(batches))
    log.close()
    return batches


def file_of(folder, epoch=1):
    """The file of an epoch."""
    return folder / "shard-0003" / f"epoch-{epoch:06}.log"


def open_and_read(folder):
    """What a fresh opener finds: batches, torn bytes."""
    log = SegmentLog(folder, 3)
    try:
        return [entry.batch for entry in log.read()], log.torn_bytes
    finally:
        log.close()


def test_torn_at_every_byte_of_the_last_batch(make, tmp_path):
    """A file cut anywhere in its last batch opens with all batches before it, and says how much was cut."""
    batches = fill(make, tmp_path)
    whole = file_of(tmp_path).read_bytes()
    last_bytes = 8 + len(batches[-1])
    for missing in range(1, last_bytes + 1):
        file_of(tmp_path).write_bytes(whole[: len(whole) - missing])
        expected = (batches[:-1], last_bytes - missing)
        assert expected == open_and_read(tmp_path)
        assert (batches[:-1], 0) == open_and_read(tmp_path)


def test_every_damaged_byte_of_the_last_batch_is_cut(make, tmp_path):
    """A damaged last batch cannot be told from a torn one: it goes, and is reported, except a wrong version."""
    batches = fill(make, tmp_path)
    whole = file_of(tmp_path).read_bytes()
    last_bytes = 8 + len(batches[-1])
    start = len(whole) - last_bytes
    for offset in range(start, len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= 0x40
        file_of(tmp_path).write_bytes(damaged)
        if offset - start - 8 in range(4, 8):
            with pytest.raises(LogVersionMismatch):
                SegmentLog(tmp_path, 3)
        else:
            assert (batches[:-1], last_bytes) == open_and_read(tmp_path)


def test_damage_in_the_middle_is_fatal(make, tmp_path):
    """A damaged byte with a whole batch behind it is lost history: refused with file and byte, and nothing is cut."""
    batches = fill(make, tmp_path)
    whole = file_of(tmp_path).read_bytes()
    second = 8 + len(batches[0])
    third = second + 8 + len(batches[1])
    for offset in range(third):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << offset % 8
        file_of(tmp_path).write_bytes(damaged)
        where, following = (second, third) if offset >= second else (0, second)
        name = re.escape(str(file_of(tmp_path)))
        if offset - where - 8 in range(4, 8):  # a version: no CRC is known for another one
            with pytest.raises(LogVersionMismatch, match=f"{name} at byte {where}: "):
                SegmentLog(tmp_path, 3)
            continue
        sentence = f"{name} at byte {where}: .* a whole batch follows at byte {following}: .*restore the file from a copy"
        with pytest.raises(BatchDamaged, match=sentence) as refusal:
            SegmentLog(tmp_path, 3)
        assert f"`truncate -s {where} {file_of(tmp_path)}` gives up" in str(refusal.value)
        assert bytes(damaged) == file_of(tmp_path).read_bytes()


def framed(batches, groups):
    """The bytes of a file whose batches were synced in groups of so many: the naive twin of the writer."""
    raw, waiting = b"", list(batches)
    for count in groups:
        group = b""
        for batch in waiting[:count]:
            unsynced = len(group)
            word = len(batch) + (unsynced << 28) + (unsynced % 251 << 56)
            group += word.to_bytes(8, "little") + batch
        raw += group
        del waiting[:count]
    return raw


def write_synced(folder, epoch, offset):
    """Say how far the newest file was synced."""
    facts = struct.pack("<qq", epoch, offset)
    crc = struct.pack("<q", google_crc32c.value(facts))
    (folder / "shard-0003" / "synced").write_bytes(facts + crc)


def numbered(make, count):
    """A claim, and batches behind it, all of different bytes and sizes."""
    return [make.claim(1), *(make.batch(make.frames(n % 3 + 1), first_seq=10 * n) for n in range(1, count))]


def test_files_say_how_far_they_were_synced(make, tmp_path, monkeypatch):
    """Frames and `synced` are those of the naive twin: batches that shared a sync, and what was synced at last."""
    batches = numbered(make, 8)
    monkeypatch.setattr(segments, "FACTS_SECONDS", 3600)  # no sync but those that are asked for
    log = SegmentLog(tmp_path, make.shard)
    log.append(batches[0])
    make.wait_durable(log, 1)
    syncing, go_on, fdatasync = threading.Event(), threading.Event(), os.fdatasync

    def slow(descriptor):
        syncing.set()
        assert go_on.wait(60)
        fdatasync(descriptor)

    monkeypatch.setattr(segments.os, "fdatasync", slow)
    log.append(batches[1])
    assert syncing.wait(60)
    for batch in batches[2:]:
        log.append(batch)
    go_on.set()
    make.wait_durable(log, len(batches))
    log.close()
    raw = framed(batches, [1, 1, 6])
    assert raw == file_of(tmp_path).read_bytes()
    written = (tmp_path / "shard-0003" / "synced").read_bytes()
    write_synced(tmp_path, 1, len(raw))
    assert written == (tmp_path / "shard-0003" / "synced").read_bytes()


def test_torn_anywhere_in_an_unsynced_group(make, tmp_path):
    """Whatever of the last group a power loss leaves, what was synced before it is found, and the rest is cut."""
    batches = numbered(make, 9)
    open_and_read(tmp_path)
    raw, synced = framed(batches, [1, 2, 6]), len(framed(batches[:3], [3]))
    ends = [len(framed(batches[:count], [count])) for count in range(len(batches) + 1)]
    for offset in range(synced, len(raw), 7):
        first_lost = next(index for index, end in enumerate(ends) if end > offset) - 1
        if offset - ends[first_lost] - 8 in range(4, 8):
            continue  # a version of its own: refused, whatever is behind it
        damaged = bytearray(raw)
        damaged[offset] ^= 0x10
        file_of(tmp_path).write_bytes(damaged)
        for told in (synced, len(framed(batches[:1], [1]))):  # `synced` may be old
            write_synced(tmp_path, 1, told)
            view = SegmentView(tmp_path, make.shard)
            assert batches[:first_lost] == [entry.batch for entry in view.read()]
            assert len(raw) - ends[first_lost] == view.torn_bytes
        assert (batches[:first_lost], len(raw) - ends[first_lost]) == open_and_read(tmp_path)


@given(data=st.data())
def test_nothing_that_was_synced_is_cut(make, tmp_path_factory, data):
    """Wherever the damage and however old `synced`: cut is at most the last group, and a last batch; else it is refused."""
    folder = tmp_path_factory.mktemp("log")
    open_and_read(folder)
    groups = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    batches = numbered(make, sum(groups))
    raw = framed(batches, groups)
    ends = [len(framed(batches[:count], [count])) for count in range(len(batches) + 1)]
    damaged = bytearray(raw)
    offset = data.draw(st.integers(0, len(raw) - 1))
    damaged[offset] ^= 1 << data.draw(st.integers(0, 7))
    file_of(folder).write_bytes(damaged)
    told = data.draw(st.sampled_from([*(ends[sum(groups[:count])] for count in range(len(groups) + 1)), None]))
    if told is not None:
        write_synced(folder, 1, told)
    lost = next(index for index, end in enumerate(ends) if end > offset) - 1
    last_group = ends[sum(groups[:-1])]
    if offset - ends[lost] - 8 in range(4, 8):
        refusal = LogVersionMismatch
    elif lost == len(batches) - 1:
        refusal = None
    else:
        refusal = None if told is not None and told <= ends[lost] and ends[lost] >= last_group else BatchDamaged
    if refusal:
        with pytest.raises(refusal):
            open_and_read(folder)
        assert bytes(damaged) == file_of(folder).read_bytes()
    else:
        assert (batches[:lost], len(raw) - ends[lost]) == open_and_read(folder)


def test_resting_log_makes_synced_durable(make, tmp_path, monkeypatch):
    """A log that has nothing to do syncs `synced` by itself, once; closing does, too."""
    monkeypatch.setattr(segments, "FACTS_SECONDS", 0.001)
    told, fdatasync = threading.Event(), os.fdatasync

    def noting(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "synced":
            told.set()
        fdatasync(descriptor)

    monkeypatch.setattr(segments.os, "fdatasync", noting)
    log = SegmentLog(tmp_path, make.shard)
    log.append(make.claim(1))
    assert told.wait(60)
    monkeypatch.setattr(segments, "FACTS_SECONDS", 60)
    told.clear()
    log.append(make.batch(make.frames(1)))
    make.wait_durable(log, 2)
    log.close()
    assert told.is_set()


def test_damage_in_an_older_file_is_fatal(make, tmp_path):
    """Files before the newest must be whole: the reader refuses what is short or wrong there."""
    fill(make, tmp_path)
    fill(make, tmp_path, epoch=2)
    os.truncate(file_of(tmp_path), file_of(tmp_path).stat().st_size - 1)
    with pytest.raises(BatchDamaged, match=rf"{re.escape(str(file_of(tmp_path)))} at byte"):
        open_and_read(tmp_path)


# -- an epoch of several files


def filled_files(make, folder, frame_count=5):
    """An epoch of which each file is full with two batches: the batches, and the files' paths."""
    batches = [
        make.claim(1),
        *(make.batch(make.frames(n % 3 + 1), first_seq=10 * n) for n in range(1, frame_count + 1)),
    ]
    log = SegmentLog(folder, make.shard, segment_bytes=500)
    for batch in batches:
        log.append(batch)
    make.wait_durable(log, len(batches))
    assert batches == [entry.batch for entry in log.read()]
    log.close()
    return batches, SegmentFiles(folder, make.shard).paths()


def test_a_full_file_is_followed_by_another(make, tmp_path):
    """Each is named by the byte of the epoch at which it begins, and holds what the one before had no room for."""
    batches, paths = filled_files(make, tmp_path)
    begin, expected = 0, {}
    for first in range(0, len(batches), 2):
        content = framed(batches[first : first + 2], [1] * 2)
        expected[f"epoch-000001-{begin:017}.log" if begin else "epoch-000001.log"] = len(content)
        begin += len(content)
    assert expected == {path.name: path.stat().st_size for path in paths}
    assert (batches, 0) == open_and_read(tmp_path)
    assert batches == [entry.batch for entry in SegmentView(tmp_path, make.shard).read()]


def test_any_position_of_any_file_can_be_read_from(make, tmp_path):
    """Positions grow over the files of an epoch: from each entry's own, and from where it says to go on, the rest is read."""
    batches, _ = filled_files(make, tmp_path)
    view = SegmentView(tmp_path, make.shard)
    for log in (view, SegmentLog(tmp_path, make.shard)):
        entries = list(log.read())
        for index, entry in enumerate(entries):
            assert batches[index:] == [each.batch for each in log.read(entry.position)]
            assert batches[index + 1 :] == [each.batch for each in log.read(entry.following)]
        assert entries[-4:] == log.newest(4)
        assert re.search(r"epoch-000001-0000000000000\d+\.log at byte \d+$", log.locate(entries[-1].position))
        with pytest.raises(LogGap):
            list(log.read(entries[-1].following + 1))
    log.close()


def test_the_newest_of_many_files_is_torn_at_every_byte(make, tmp_path):
    """Only the newest file has an end that may be cut; when nothing of it is whole it goes, and the log ends before it."""
    batches, paths = filled_files(make, tmp_path, frame_count=6)
    whole = paths[-1].read_bytes()
    for size in range(len(whole)):
        paths[-1].write_bytes(whole[:size])
        view = SegmentView(tmp_path, make.shard)
        assert batches[:-1] == [entry.batch for entry in view.read()]
        assert (size, "was synced up to" in view.lost_end()) == (view.torn_bytes, True)
        log = SegmentLog(tmp_path, make.shard)
        assert batches[:-1] == [entry.batch for entry in log.read()]
        assert (size, False) == (log.torn_bytes, paths[-1].exists())
        assert f"{paths[-1]} was synced up to byte {len(whole)}, and" in log.lost_end
        log.close()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_file_that_is_missing_or_short_is_a_gap(make, tmp_path, which):
    """Of an epoch's files all but the newest must be whole and there: the sentence names the file behind the hole."""
    _, paths = filled_files(make, tmp_path, frame_count=7)
    whole = paths[which].read_bytes()
    for content in (None, whole[: len(whole) // 3]):
        paths[which].unlink(missing_ok=True)
        if content is not None:
            paths[which].write_bytes(content)
        reason = (
            "were trimmed|what came before was trimmed"
            if which == 0 and content is None
            else "a file before it is missing, or"
        )
        for opened in (SegmentView, SegmentLog):
            log = opened(tmp_path, make.shard)
            with pytest.raises(LogGap, match=reason):
                list(log.read())
            log.close()


def test_another_process_trims_while_the_epoch_is_written(make, tmp_path):
    """A view takes full files of the epoch away under its writer, who goes on; what the position names and what follows stays."""
    batches = [make.claim(1), *(make.batch(make.frames(1), first_seq=10 * n) for n in range(1, 9))]
    log, view = SegmentLog(tmp_path, make.shard, segment_bytes=500), SegmentView(tmp_path, make.shard)
    for batch in batches[:6]:
        log.append(batch)
    make.wait_durable(log, 6)
    position = list(view.read())[4].position
    view.trim(position)
    for batch in batches[6:]:
        log.append(batch)
    make.wait_durable(log, len(batches))
    for reading in (log, view):
        assert position == reading.beginning()
        assert batches[4:] == [entry.batch for entry in reading.read(position)]
    log.close()
    assert (batches[4:], 0) == ([entry.batch for entry in view.read(position)], view.torn_bytes)


def test_a_trim_leaves_the_file_in_which_the_position_lies(make, tmp_path):
    """Files before it go, whoever trims; reading begins behind them, and the newest stays whatever the position."""
    batches, paths = filled_files(make, tmp_path, frame_count=7)
    view = SegmentView(tmp_path, make.shard)
    entries = list(view.read())
    view.trim(entries[3].position)
    assert [False, True, True, True] == [path.exists() for path in paths]
    assert entries[2].position == view.beginning()
    assert batches[3:] == [entry.batch for entry in view.read(entries[3].position)]
    for position in (0, entries[1].position):
        with pytest.raises(LogGap):
            list(view.read(position))
    log = SegmentLog(tmp_path, make.shard)
    assert (entries[2].position, batches[2:]) == (
        log.beginning(),
        [entry.batch for entry in log.read(log.beginning())],
    )
    log.trim(1 << 62)
    assert [paths[-1]] == list(paths[0].parent.glob("epoch-*.log"))
    log.close()


def test_an_epoch_has_an_end(make, tmp_path, monkeypatch):
    """Positions leave each epoch 64 TiB: a log that comes to it fails with a sentence, and the next start begins another epoch."""
    monkeypatch.setattr(segments, "OFFSETS_USED", 500)
    log = SegmentLog(tmp_path, make.shard, segment_bytes=300)
    log.append(make.claim(1))
    with pytest.raises(LogFailed, match=r"an epoch is full, the next start begins another"):
        append_for_ever(log, make.batch(make.frames(1)), [])
    log.close()


def test_claim_that_was_torn_leaves_its_epoch_free(make, tmp_path):
    """A file whose first batch is torn goes altogether, so the next owner can claim the same epoch."""
    batches = fill(make, tmp_path)
    file_of(tmp_path, 2).write_bytes(b"\xc0\0\0")
    log = SegmentLog(tmp_path, 3)
    assert 3 == log.torn_bytes
    assert not file_of(tmp_path, 2).exists()
    log.append(make.claim(2))
    make.wait_durable(log, 1)
    assert [*batches, make.claim(2)] == [entry.batch for entry in log.read()]
    log.close()


def test_missing_part_of_a_file_is_a_gap(make, tmp_path):
    """Reading on behind the end of a file, or in a file that is gone, says so."""
    fill(make, tmp_path)
    log = SegmentLog(tmp_path, 3)
    for position in (1 << OFFSET_BITS | 1 << 20, 7 << OFFSET_BITS | 8):
        with pytest.raises(LogGap, match=r"the numbers are bytes"):
            list(log.read(position))
    log.close()


def test_second_opener_is_refused(make, tmp_path):
    """Two processes cannot write one shard's folder; the refusal names who does."""
    log = SegmentLog(tmp_path, make.shard)
    program = "import sys\nfrom ringpit.wal.segments import SegmentLog\nSegmentLog(sys.argv[1], 3)"
    run = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert f"is being written by another process (pid {os.getpid()}); stop it" in run.stderr
    with pytest.raises(LogUnavailable, match=rf"pid {os.getpid()}"):
        SegmentLog(tmp_path, make.shard)
    SegmentLog(tmp_path, make.shard + 1).close()
    log.close()
    SegmentLog(tmp_path, make.shard).close()


def test_successor_waits_for_a_dying_owner(make, tmp_path):
    """With a time-out an opener waits for the lock; it has it as soon as the owner has ended."""
    program = """
import sys
from ringpit.wal.segments import SegmentLog
log = SegmentLog(sys.argv[1], 3)
print("open", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert "open\n" == owner.stdout.readline()
        with pytest.raises(LogUnavailable, match=rf"pid {owner.pid}"):
            SegmentLog(tmp_path, make.shard, lock_timeout_seconds=0.01)
        opened = []
        successor = threading.Thread(
            target=lambda: opened.append(SegmentLog(tmp_path, make.shard, lock_timeout_seconds=60))
        )
        successor.start()
        assert [] == opened
        owner.kill()
        successor.join(60)
    [log] = opened
    log.append(make.claim(1))
    make.wait_durable(log, 1)
    log.close()


def test_view_stops_at_an_end_that_is_not_whole(make, tmp_path):
    """A view gives what is whole, says how much lies behind, and changes nothing; the writer's own bytes are such an end."""
    batches = fill(make, tmp_path)
    whole = file_of(tmp_path).read_bytes()
    view = SegmentView(tmp_path, make.shard)
    for missing in range(8 + len(batches[-1]) + 1):
        file_of(tmp_path).write_bytes(whole[: len(whole) - missing])
        assert batches[: len(batches) - bool(missing)] == [entry.batch for entry in view.read()]
        assert (8 + len(batches[-1]) - missing if missing else 0) == view.torn_bytes
        assert len(whole) - missing == file_of(tmp_path).stat().st_size


def test_view_refuses_damage_in_the_middle(make, tmp_path):
    """A view gives what is before lost history, then says where it is."""
    batches = fill(make, tmp_path)
    damaged = bytearray(file_of(tmp_path).read_bytes())
    second = 8 + len(batches[0])
    damaged[second + 8 + 200] ^= 1
    file_of(tmp_path).write_bytes(damaged)
    reading = SegmentView(tmp_path, make.shard).read()
    assert batches[0] == next(reading).batch
    with pytest.raises(BatchDamaged, match=rf"at byte {second}: .* a whole batch follows at byte"):
        next(reading)


def test_view_of_nothing_is_a_sentence(tmp_path):
    """A folder that is not there is named, and not made."""
    with pytest.raises(LogUnavailable, match=r"there is no log of shard 3: .*shard-0003 must be its folder"):
        SegmentView(tmp_path, 3)
    assert [] == list(tmp_path.iterdir())


def test_trim_keeps_the_file_that_holds_the_position(make, tmp_path):
    """Files below the position's go; the newest stays, whatever the position."""
    for epoch in (1, 2, 3):
        fill(make, tmp_path, epoch)
    log = SegmentLog(tmp_path, make.shard)
    bytes_before = log.bytes_total
    log.trim(2 << OFFSET_BITS | 200)
    assert [2, 3] == [epoch for epoch in (1, 2, 3) if file_of(tmp_path, epoch).exists()]
    assert bytes_before > log.bytes_total
    log.trim(9 << OFFSET_BITS)
    assert [3] == [epoch for epoch in (1, 2, 3) if file_of(tmp_path, epoch).exists()]
    assert file_of(tmp_path, 3).stat().st_size == log.bytes_total
    log.close()


def test_folder_that_cannot_be_used(tmp_path):
    """A folder that is a file is named, with the remedy."""
    (tmp_path / "log").write_text("not a folder")
    with pytest.raises(
        LogUnavailable, match=r"log.folder cannot be used: .*log/shard-0000 .* name a folder that"
    ):
        SegmentLog(tmp_path / "log", 0)


def test_full_disk_is_a_sentence_and_loses_nothing_durable(make, tmp_path, monkeypatch):
    """A disk that fills up in the middle of a batch fails the log for good; what was durable is found again."""
    log = SegmentLog(tmp_path, make.shard)
    log.append(make.claim(1))
    make.wait_durable(log, 1)

    def full(_descriptor, _bytes):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(
            segments.os, "writev", lambda descriptor, buffers: write(descriptor, b"".join(buffers)[:100])
        )
        patch.setattr(segments.os, "write", full)
        log.append(make.batch(make.frames(1)))
        sentence = (
            f"no room for the log in {re.escape(str(file_of(tmp_path)))} .*; free disk space or move log.folder"
        )
        with pytest.raises(LogFull, match=sentence):
            make.wait_durable(log, 2)
        with pytest.raises(LogFull):
            log.append(make.batch(make.frames(1)))
    log.close()
    assert ([make.claim(1)], 100) == open_and_read(tmp_path)


def test_file_that_may_not_grow_at_every_byte_of_a_batch(make, tmp_path):
    """Wherever in a batch the room ends: the sentence, then all that was durable, and with room again the log goes on."""
    batches = fill(make, tmp_path)
    whole = file_of(tmp_path).read_bytes()
    last = len(whole) - 8 - len(batches[-1])
    for epoch, room in enumerate(range(last, len(whole), 5), 2):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        log = SegmentLog(tmp_path, make.shard)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            with pytest.raises(
                LogFull, match=r"no room for the log in .*File too large.*; free disk space or move"
            ):
                append_all(log, [make.claim(epoch), *batches[1:]])
            log.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        log = SegmentLog(tmp_path, make.shard)
        assert room - last == log.torn_bytes
        assert [make.claim(epoch), *batches[1:-1]] == [entry.batch for entry in log.read(epoch << OFFSET_BITS)]
        log.close()
        file_of(tmp_path, epoch).unlink()


def append_all(log, batches):
    """Append, and wait until all are durable."""
    for count, batch in enumerate(batches, 1):
        log.append(batch)
        while log.poll(1.0) < count:
            pass


@pytest.mark.parametrize("call", ["write", "fsync", "ftruncate"])
def test_disk_that_is_full_at_the_start(tmp_path, monkeypatch, call):
    """No room for the few bytes that opening writes: the same sentence, and the folder is free for the next one."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "shard-0003").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(segments.os, call, full)
        with pytest.raises((LogFull, LogUnavailable), match=r"No space left on device"):
            SegmentLog(tmp_path, 3)
    SegmentLog(tmp_path, 3).close()
    assert SegmentView(tmp_path, 3).identity()


def append_for_ever(log, batch, durable):
    """Append until the log fails, noting what was durable."""
    while True:
        log.append(batch)
        durable.append(log.poll(1.0))


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own can be mounted by root only")
def test_really_full_disk(make, tmp_path):
    """On a file system of 256 kB the log fails with the sentence, and what was called durable is there."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this container may not mount a tmpfs")
    try:
        log = SegmentLog(tmp_path, make.shard)
        log.append(make.claim(1))
        durable = []
        with pytest.raises(LogFull, match=r"no room"):
            append_for_ever(log, make.batch(make.frames(100)), durable)
        log.close()
        batches, torn_bytes = open_and_read(tmp_path)
        assert 0 < durable[-1] <= len(batches)
        assert 0 < torn_bytes
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_batches_that_come_during_a_sync_share_the_next(make, tmp_path, monkeypatch):
    """While one sync is under way appends only queue; however many came, one more sync makes all durable."""
    monkeypatch.setattr(segments, "FACTS_SECONDS", 3600)  # no sync but those that are asked for
    log = SegmentLog(tmp_path, make.shard)
    log.append(make.claim(1))
    make.wait_durable(log, 1)
    syncing, go_on, fdatasync = threading.Event(), threading.Event(), os.fdatasync

    def slow(descriptor):
        syncing.set()
        assert go_on.wait(60)
        fdatasync(descriptor)

    monkeypatch.setattr(segments.os, "fdatasync", slow)
    before = log.sync_count
    log.append(make.batch(make.frames(1)))
    assert syncing.wait(60)
    for _ in range(50):
        log.append(make.batch(make.frames(1)))
    assert 1 == log.poll()
    go_on.set()
    make.wait_durable(log, 52)
    assert 2 == log.sync_count - before
    log.close()


def test_append_waits_only_for_room(make, tmp_path, monkeypatch):
    """When more than the ceiling is pending, append waits until some of it is durable."""
    go_on, fdatasync = threading.Event(), os.fdatasync
    monkeypatch.setattr(segments.os, "fdatasync", lambda descriptor: go_on.wait(60) and fdatasync(descriptor))
    monkeypatch.setattr(segments, "PENDING_BYTES_MAX", 1000)
    log = SegmentLog(tmp_path, make.shard)
    batch = make.batch(make.frames(4))
    log.append(make.claim(1))
    log.append(batch)
    log.append(batch)  # 192 + 512 are pending: room; now 1,216 are
    third = threading.Thread(target=log.append, args=(batch,))
    third.start()
    third.join(0.05)
    assert third.is_alive()
    go_on.set()
    third.join(60)
    make.wait_durable(log, 4)
    log.close()


def test_without_fsync_nothing_is_synced(make, tmp_path):
    """fsync=False never syncs, and says what that means."""
    log = SegmentLog(tmp_path, make.shard, fsync=False)
    log.append(make.claim(1))
    make.wait_durable(log, 1)
    assert 0 == log.sync_count
    assert "fsync is off" in log.describe()
    log.close()


def test_first_batch_must_be_a_claim(make, tmp_path):
    """An owner that did not claim cannot write."""
    log = SegmentLog(tmp_path, make.shard)
    with pytest.raises(ValueError, match=r"the first batch appended to .* must be a claim"):
        log.append(make.batch(make.frames(1)))
    log.close()


def test_closing_writes_what_is_queued(make, tmp_path):
    """close() makes everything appended durable first; a closed log takes nothing more."""
    log = SegmentLog(tmp_path, make.shard)
    batches = [make.claim(1), *(make.batch(make.frames(1), first_seq=seq) for seq in range(1, 40))]
    for batch in batches:
        log.append(batch)
    log.close()
    with pytest.raises(LogFailed, match=r"is closed; open it again"):
        log.append(batches[1])
    assert (batches, 0) == open_and_read(tmp_path)


def test_failed_sync_is_for_good(make, tmp_path, monkeypatch):
    """A disk error in a sync stops the log: what it holds is for recovery to find out."""
    log = SegmentLog(tmp_path, make.shard)

    def broken(_descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(segments.os, "fdatasync", broken)
    log.append(make.claim(1))
    for _ in range(2):
        with pytest.raises(LogFailed, match=r"writing the log failed in .*; check the disk"):
            make.wait_durable(log, 1)
    log.close()


def test_killed_writer_loses_nothing_durable(make, tmp_path):
    """kill -9 in the middle of writing: every batch that was reported durable is found, in order."""
    program = f"""
import sys
import numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import frames_of, SHARD, GENERATION
from ringpit.wal.reader import recover
from ringpit.wal.segments import SegmentLog
from ringpit.wal.writer import BatchWriter
log = SegmentLog({str(tmp_path)!r}, SHARD)
writer = BatchWriter(recover(log, SHARD, GENERATION, 1, lambda *_: None))
while True:
    while writer.ready:
        log.append(writer.cut(frames_of(3, first_order=writer.next_seq), confirmed_seq=0)[0])
    if writer.advance(log.poll(1.0)):
        print(writer.durable_seq, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        durable_seq = 0
        while durable_seq < 200:
            durable_seq = int(child.stdout.readline())
        child.kill()
        for line in child.stdout.read().split("\n")[:-1]:  # behind the last end of line may be half a number
            durable_seq = int(line)
    log, seen = SegmentLog(tmp_path, make.shard), []
    state = recover(log, make.shard, make.generation, 2, lambda _, records: seen.append(records))
    log.close()
    assert durable_seq < state.next_seq
    orders = [int(order) for records in seen for order in records[0::4]["position"] - 3]
    assert list(range(1, state.next_seq, 4)) == orders
    assert state.next_seq == BatchWriter(state).next_seq
