"""
A log of segment files: one folder for a shard, a file or more for an epoch, group fsync. The embedded default.

append() only queues. One thread owns the file: it takes everything that is queued, writes it and syncs once, so
that however long a sync takes (2 ms are common), all batches that came meanwhile share the next. A claim
begins a new file, and so an owner never writes into a file that another one has left; a full file is followed by another.
The files themselves, and how they are read, are segment_files.py.

What a crash leaves: the end of the newest file may be torn. Opening cuts it and says how much (torn_bytes);
nothing of it was ever called durable. Damage before batches that were written after a sync of it is not a torn end
but lost history, and fatal. A damaged last batch cannot be told from a torn one: it is cut, and reported.

Slow here: opening reads and checks the newest file once before recovery reads everything.

Invariants:

    S1  one process writes a shard's folder (flock on `lock`)
    S2  files before the newest are whole; the newest is whole once the log is open
    S3  a file's name is durable before anything in it is called durable
"""

import errno
import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ringpit.wal.batch import claimed_epoch
from ringpit.wal.errors import LogFailed, LogFull, LogMissing, LogUnavailable
from ringpit.wal.log import PENDING_BYTES_MAX, Entry
from ringpit.wal.segment_files import (
    FRAME_BYTES,
    OFFSET_BITS,
    OFFSETS,
    SegmentFiles,
    begin_of,
    entry_at,
    frame,
    split,
    start_in,
    sync_folder,
    synced_end,
    synced_facts,
    whole_batches,
)

LOCK_POLL_SECONDS: Final = 0.001
# A file that has them is full: half a second to check at a start if its batches are small.
SEGMENT_BYTES: Final = 1 << 26
FACTS_SECONDS: Final = 1.0  # a log that rests so long makes `synced` durable
OFFSETS_USED: Final = OFFSETS - (1 << 35)  # of an epoch: no file begins behind it, and none is so long
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SegmentView:
    """
    One shard's segment files, for reading: takes no lock, cuts nothing, and may run beside a live writer.

    What it reads at the end may not be durable yet. Attributes: `torn_bytes`, what lay behind the end of the last
    read in the newest file: a batch that is being written, or one that a crash has torn.
    """

    def __init__(self, folder: Path, shard: int) -> None:
        """Raises LogUnavailable if there is no folder for the shard."""
        self.torn_bytes = 0
        self._synced = 0  # position up to which it had been synced when the last read began
        self._reached = -1  # where the last read came to the end
        self._files = SegmentFiles(folder, shard)
        self.folder = self._files.folder
        if not self.folder.is_dir():
            raise LogMissing(
                f"there is no log of shard {shard}: {self.folder} must be its folder; name the right log.folder, or "
                f"start the exchange once"
            )

    def read(self, position: int = 0) -> Iterator[Entry]:
        """Every batch from a position to where the newest file, as it is now, stops being whole."""
        self._synced, self._reached = synced_end(self.folder), -1  # first: a writer goes on meanwhile
        ends = self._files.sizes(position)
        self.torn_bytes = 0
        self._files.require_there(position, ends)
        if not ends:
            self._reached = 0
            return
        yield from self._files.read(position, ends[:-1]) if len(ends) > 1 else ()
        path, end = ends[-1]
        begin, whole = begin_of(path), start_in(path, position)
        for offset, batch in whole_batches(path, whole, end):
            entry = entry_at(begin + offset, batch)
            whole = entry.following - begin
            yield entry
        self.torn_bytes = end - whole
        self._reached = begin + whole

    def newest(self, count: int) -> list[Entry]:
        """The last batches that are whole; the newest file is read once to know its end."""
        ends = self._files.sizes()
        if ends:
            path, end = ends[-1]
            whole = [offset + FRAME_BYTES + len(batch) for offset, batch in whole_batches(path, 0, end)]
            ends[-1] = path, whole[-1] if whole else 0
        return self._files.newest(count, ends)

    def lost_end(self) -> str:
        """Why the end that `read` has just come to cannot be the log's: it was synced beyond; empty: nothing says so."""
        if self._reached < 0 or self._reached >= self._synced:
            return ""
        path, synced_bytes = self._files.place_of(self._synced)
        return (
            f"{path} was synced up to byte {synced_bytes}, and the log ends before, in "
            f"{self._files.locate(self._reached)}: what is missing was acknowledged"
        )

    def beginning(self) -> int:
        """0, or the position of the oldest file if files before it were trimmed."""
        return self._files.beginning()

    def trim(self, position: int) -> None:
        """Remove the files that hold nothing from the position on; whoever writes has the newest, which stays."""
        self._files.trim(position, sync=True)

    def locate(self, position: int) -> str:
        """The file, and the byte in it."""
        return self._files.locate(position)

    def identity(self) -> str:
        """What `identity` in the folder says."""
        return self._files.identity()

    def describe(self) -> str:
        """Where the files are."""
        return f"log in {self.folder}, read only: what its writer calls durable is in it"

    def close(self) -> None:
        """Nothing is held."""


class SegmentLog:
    """
    One shard's log in `folder`/shard-NNNN.

    Attributes: `torn_bytes`, what opening cut off the end; `lost_end`, a sentence if more than that is missing which had been synced; `sync_count`, syncs of data since open.
    """

    def __init__(
        self,
        folder: Path,
        shard: int,
        *,
        fsync: bool = True,
        lock_timeout_seconds: float = 0.0,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """
        Open for reading and appending, and cut a torn end.

        With fsync=False "durable" means that the kernel has the bytes: that survives the death of the process,
        not that of the machine. A file that has segment_bytes is followed by another. A successor waits up to
        lock_timeout_seconds for an owner that is just dying. Raises LogUnavailable if the folder cannot be used or
        another process writes it, BatchDamaged if the newest file is damaged before its end.
        """
        self._files = SegmentFiles(folder, shard)
        self.folder = self._files.folder
        self.shard = shard
        self.torn_bytes = 0
        self.lost_end = ""
        self.sync_count = 0
        self._fsync = fsync
        self._changed = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._pending_bytes = 0
        self._durable_count = 0
        self._durable_end = 0
        self._polled_count = 0
        self._failure: LogFailed | None = None
        self._closing = False
        self._file = -1
        self._segment_bytes = segment_bytes
        self._file_begin = 0  # position; 0: no claim yet
        self._file_bytes = 0
        self._synced_bytes = 0  # of the file
        self._facts = -1  # of `synced`
        self._facts_synced = True
        self._lock = self._acquire_folder(time.monotonic() + lock_timeout_seconds)
        try:
            self._sign_folder()
            self._cut_torn_end()
            self.bytes_total = sum(path.stat().st_size for path in self._files.paths())
        except OSError as error:
            os.close(self._lock)
            raise self._failed(error, self.folder) from error
        except BaseException:
            os.close(self._lock)
            raise
        self._thread = threading.Thread(target=self._write_until_closed, name=f"log-{shard}", daemon=True)
        self._thread.start()

    @property
    def durable_end(self) -> int:
        """Position behind the last batch of this owner that is synced."""
        with self._changed:
            return self._durable_end

    def append(self, batch: bytes) -> None:
        """Queue a batch. The first one after opening must be a claim: it names the file."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending_bytes < PENDING_BYTES_MAX or self._failure)
            self._require_sound()
            if not self._file_begin:
                self._file_begin = claimed_epoch(batch) << OFFSET_BITS
                if not self._file_begin:
                    raise ValueError(f"the first batch appended to {self.folder} must be a claim")
            self._queue.append(batch)
            self._pending_bytes += len(batch)
            self._changed.notify_all()

    def poll(self, timeout_seconds: float = 0.0) -> int:
        """How many appended batches are synced; waits for one more if any is pending."""
        with self._changed:
            if timeout_seconds > 0:
                self._changed.wait_for(self._has_news, timeout_seconds)
            self._require_sound()
            self._polled_count = self._durable_count
            return self._durable_count

    def read(self, position: int = 0) -> Iterator[Entry]:
        """Every batch from a position to the end of what is written now, file after file."""
        with self._changed:
            ends = [(path, self._end_of(path)) for path in self._files.paths(position)]
        return self._files.read(position, ends)

    def newest(self, count: int) -> list[Entry]:
        """The last batches of what is written now."""
        with self._changed:
            ends = [(path, self._end_of(path)) for path in self._files.paths()]
        return self._files.newest(count, ends)

    def beginning(self) -> int:
        """0, or the position of the oldest file if files before it were trimmed."""
        return self._files.beginning()

    def trim(self, position: int) -> None:
        """Remove the files that hold nothing from the position on."""
        removed_bytes = self._files.trim(position, sync=self._fsync)
        with self._changed:
            self.bytes_total -= removed_bytes

    def locate(self, position: int) -> str:
        """The file, and the byte in it."""
        return self._files.locate(position)

    def identity(self) -> str:
        """What `identity` in the folder says."""
        return self._files.identity()

    def describe(self) -> str:
        """Where the files are and whether they are synced."""
        if self._fsync:
            return f"log in {self.folder}: durable means written and synced to disk"
        return f"log in {self.folder}: fsync is off, durable means handed to the kernel, lost with the machine"

    def close(self) -> None:
        """Write and sync what is queued, then let the folder go."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._failure = self._failure or LogFailed(f"the log in {self.folder} is closed; open it again")
        for descriptor in (self._file, self._facts, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._facts = self._lock = -1

    def _has_news(self) -> bool:
        """True if there is nothing to wait for: more is durable than polled, nothing is pending, or it failed."""
        return self._durable_count > self._polled_count or not self._pending_bytes or self._failure is not None

    def _require_sound(self) -> None:
        """L2: a failure is for good."""
        if self._failure is not None:
            raise self._failure

    # -- the writer's thread: owns _file and writes _file_bytes

    def _write_until_closed(self) -> None:
        """Take all that is queued, write it, sync once, tell; when there is nothing, sync `synced`; until closed or failed."""
        while True:
            with self._changed:
                rest_seconds = None if self._facts_synced else FACTS_SECONDS
                self._changed.wait_for(lambda: self._queue or self._closing, rest_seconds)
                group = list(self._queue)
                self._queue.clear()
                closing = self._closing
            try:
                if group:
                    self._write(group)
                else:
                    self._sync_facts()
            except OSError as error:
                with self._changed:
                    self._failure = self._failed(error, self._files.path(self._file_begin))
                    self._changed.notify_all()
                return
            with self._changed:
                self._durable_count += len(group)
                if self._durable_count:
                    self._durable_end = self._file_begin + self._file_bytes
                self._pending_bytes -= sum(map(len, group))
                self._changed.notify_all()
            if closing and not group:
                return

    def _write(self, group: list[bytes]) -> None:
        """Write the batches of a group and sync the file; before a claim, and when it is full, sync and leave it."""
        for batch in group:
            epoch = claimed_epoch(batch)
            if epoch or self._file_bytes >= self._segment_bytes:
                self._sync()
                self._begin_file(epoch << OFFSET_BITS if epoch else self._file_begin + self._file_bytes)
            _write_whole(self._file, frame(len(batch), self._file_bytes - self._synced_bytes), batch)
            with self._changed:
                self._file_bytes += FRAME_BYTES + len(batch)
                self.bytes_total += FRAME_BYTES + len(batch)
        self._sync()

    def _begin_file(self, begin: int) -> None:
        """S3, S6. A file that exists already is another owner's, and the open fails."""
        if split(begin)[1] >= OFFSETS_USED:
            raise OSError(errno.ERANGE, "an epoch is full, the next start begins another")
        if self._file >= 0:
            os.close(self._file)
        self._file = os.open(self._files.path(begin), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        with self._changed:
            self._file_begin, self._file_bytes = begin, 0
        self._synced_bytes = 0
        if self._facts < 0:
            self._facts = os.open(self.folder / "synced", os.O_WRONLY | os.O_CREAT, 0o644)
        self._tell_facts()
        self._sync_folder(self.folder)

    def _sync(self) -> None:
        """Make what was written to the file durable."""
        if self._file < 0:
            return
        if self._fsync:
            os.fdatasync(self._file)
            self.sync_count += 1
        self._synced_bytes = self._file_bytes
        self._tell_facts()

    def _tell_facts(self) -> None:
        """Write down how far the file is synced: never more than is true (S5)."""
        os.pwrite(self._facts, synced_facts(self._file_begin + self._synced_bytes), 0)
        self._facts_synced = False

    def _sync_facts(self) -> None:
        """Make that durable too, when there is nothing else to do."""
        if not self._facts_synced and self._fsync:
            os.fdatasync(self._facts)
        self._facts_synced = True

    def _sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        if self._fsync:
            sync_folder(folder)

    def _failed(self, error: OSError, path: Path) -> LogFailed:
        """The sentence for writing that failed."""
        if error.errno in _NO_ROOM:
            return LogFull(
                f"no room for the log in {path} ({error.strerror}); free disk space or move log.folder, then start "
                f"again: nothing that was durable is lost"
            )
        return LogFailed(
            f"writing the log failed in {path} ({error.strerror}); check the disk, then start again"
        )

    # -- opening

    def _acquire_folder(self, deadline: float) -> int:
        """S1: make the folder, lock it, and return the lock's descriptor."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sync_folder(self.folder.parent)
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise LogUnavailable(
                f"log.folder cannot be used: {self.folder} ({error.strerror}); name a folder that this user may write"
            ) from error
        try:
            self._take_lock(lock, deadline)
        except OSError as error:
            owner = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise LogUnavailable(
                f"{self.folder} is being written by another process (pid {owner}); stop it, or name another log.folder"
            ) from error
        return lock

    def _sign_folder(self) -> None:
        """Say who has the lock, and give the log its name if it has none."""
        os.ftruncate(self._lock, 0)
        os.write(self._lock, f"{os.getpid()}\n".encode())
        self._files.make_identity(sync=self._fsync)

    def _take_lock(self, lock: int, deadline: float) -> None:
        """Take the lock before the deadline, or raise: the kernel gives it back when its owner has ended, and tells nobody."""
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(LOCK_POLL_SECONDS)

    def _cut_torn_end(self) -> None:
        """S2. An empty newest file goes altogether: nothing was ever claimed or said in it."""
        paths = self._files.paths()
        if not paths:
            return
        path = paths[-1]
        size = path.stat().st_size
        whole = 0
        synced = synced_end(self.folder)
        begin = begin_of(path)
        for offset, batch in whole_batches(path, 0, size):
            whole = offset + FRAME_BYTES + len(batch)
        self.torn_bytes = size - whole
        if synced > begin + whole:
            synced_path, synced_bytes = self._files.place_of(synced)
            self.lost_end = (
                f"{synced_path} was synced up to byte {synced_bytes}, and the log ends before, in {path} at byte "
                f"{whole}: what is missing may have been acknowledged"
            )
        with path.open("r+b") as file:
            file.truncate(whole)
            if self._fsync or self.torn_bytes:  # its owner may have died between writing and syncing
                os.fsync(file.fileno())
        if whole == 0:
            path.unlink()
            self._sync_folder(self.folder)

    def _end_of(self, path: Path) -> int:
        """Bytes of whole batches in a file: of the one being written, what is written whole."""
        return self._file_bytes if begin_of(path) == self._file_begin else path.stat().st_size


def _write_whole(descriptor: int, *buffers: bytes) -> None:
    """Write all bytes; the kernel may take fewer at a time, as just before a disk is full."""
    written = os.writev(descriptor, buffers)
    missing = sum(map(len, buffers)) - written
    rest = memoryview(b"".join(buffers))[written:] if missing else memoryview(b"")
    while rest:
        rest = rest[os.write(descriptor, rest) :]
