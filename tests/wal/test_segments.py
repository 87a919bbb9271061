"""Segment files: torn ends, damage, locks, full disks, shared syncs."""

import errno
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ringpit.wal import segments
from ringpit.wal.errors import BatchDamaged, LogFailed, LogFull, LogGap, LogUnavailable, LogVersionMismatch
from ringpit.wal.reader import recover
from ringpit.wal.segments import SegmentLog
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
    for offset in (0, 8, 12 + 20, second, second + 7, second + 8, second + 8 + 192):
        damaged = bytearray(whole)
        damaged[offset] ^= 0x40
        file_of(tmp_path).write_bytes(damaged)
        where = second if offset >= second else 0
        sentence = f"{re.escape(str(file_of(tmp_path)))} at byte {where}: .* a whole batch follows at byte"
        with pytest.raises(BatchDamaged, match=sentence):
            SegmentLog(tmp_path, 3)
        assert bytes(damaged) == file_of(tmp_path).read_bytes()


def test_damage_in_an_older_file_is_fatal(make, tmp_path):
    """Files before the newest must be whole: the reader refuses what is short or wrong there."""
    fill(make, tmp_path)
    fill(make, tmp_path, epoch=2)
    os.truncate(file_of(tmp_path), file_of(tmp_path).stat().st_size - 1)
    with pytest.raises(BatchDamaged, match=rf"{re.escape(str(file_of(tmp_path)))} at byte"):
        open_and_read(tmp_path)


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
    for position in (1 << 40 | 1 << 20, 7 << 40 | 8):
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
