"""
A log of segment files: one folder for a shard, one file for an epoch, group fsync. The embedded default.

    log/shard-0000/lock
                   epoch-000001.log      | length | batch | length | batch | ...
                   epoch-000002.log

append() only queues. One thread owns the file: it takes everything that is queued, writes it and syncs once, so
that however long a sync takes (2 ms are common), all batches that came meanwhile share the next. A claim
begins a new file, and so an owner never writes into a file that another one has left.

What a crash leaves: the end of the newest file may be torn. Opening cuts it and says how much (torn_bytes);
nothing of it was ever called durable. Damage that has a whole batch behind it is not a torn end but lost
history, and fatal. A damaged last batch cannot be told from a torn one: it is cut, and reported.

Slow here: opening reads and checks the newest file once before recovery reads everything.

Invariants:

    S1  one process writes a shard's folder (flock on `lock`)
    S2  files before the newest are whole; the newest is whole once the log is open
    S3  a file's name is durable before anything in it is called durable
"""

import contextlib
import errno
import fcntl
import os
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ringpit.engine.limits import FRAME_SLOTS_MAX
from ringpit.engine.records import RECORD_BYTES
from ringpit.wal.batch import HEADER_BYTES, MAGIC, claimed_epoch, decode
from ringpit.wal.errors import BatchDamaged, LogFailed, LogFull, LogGap, LogUnavailable
from ringpit.wal.log import PENDING_BYTES_MAX, Entry

LENGTH_BYTES: Final = 8  # little-endian, before each batch
BATCH_BYTES_CEILING: Final = 64 << 20  # a length above this is damage, not a batch
OFFSET_BITS: Final = 40  # position = epoch << 40 | byte in the file
READ_BUFFER_BYTES: Final = 1 << 20
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

assert HEADER_BYTES + FRAME_SLOTS_MAX * RECORD_BYTES < BATCH_BYTES_CEILING


class SegmentLog:
    """
    One shard's log in `folder`/shard-NNNN.

    Attributes: `torn_bytes`, what opening cut off the end; `sync_count`, syncs of data since open.
    """

    def __init__(self, folder: Path, shard: int, *, fsync: bool = True) -> None:
        """
        Open for reading and appending, and cut a torn end.

        With fsync=False "durable" means that the kernel has the bytes: that survives the death of the process,
        not that of the machine. Raises LogUnavailable if the folder cannot be used or another process writes it,
        BatchDamaged if the newest file is damaged before its end.
        """
        self.folder = Path(folder) / f"shard-{shard:04}"
        self.shard = shard
        self.torn_bytes = 0
        self.sync_count = 0
        self._fsync = fsync
        self._changed = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._pending_bytes = 0
        self._durable_count = 0
        self._polled_count = 0
        self._failure: LogFailed | None = None
        self._closing = False
        self._file = -1
        self._file_epoch = 0
        self._file_bytes = 0
        self._lock = self._acquire_folder()
        try:
            self._cut_torn_end()
            self.bytes_total = sum(path.stat().st_size for path in self._paths())
        except BaseException:
            os.close(self._lock)
            raise
        self._thread = threading.Thread(target=self._write_until_closed, name=f"log-{shard}", daemon=True)
        self._thread.start()

    def append(self, batch: bytes) -> None:
        """Queue a batch. The first one after opening must be a claim: it names the file."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending_bytes < PENDING_BYTES_MAX or self._failure)
            self._require_sound()
            if not self._file_epoch:
                self._file_epoch = claimed_epoch(batch)
                if not self._file_epoch:
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
        from_epoch, from_offset = position >> OFFSET_BITS, position & ((1 << OFFSET_BITS) - 1)
        with self._changed:
            ends = [(path, self._end_of(path)) for path in self._paths() if _epoch_of(path) >= from_epoch]
        if from_offset and (not ends or _epoch_of(ends[0][0]) != from_epoch or ends[0][1] < from_offset):
            found = ends[0][1] if ends else 0
            raise LogGap(
                self.shard, from_offset, found, self.locate(position), "the numbers are bytes of the file"
            )
        for path, end in ends:
            epoch = _epoch_of(path)
            start = from_offset if epoch == from_epoch else 0
            for offset, batch in _batches(path, start, end):
                here = epoch << OFFSET_BITS | offset
                yield Entry(here, here + LENGTH_BYTES + len(batch), batch)

    def locate(self, position: int) -> str:
        """The file, and the byte in it."""
        return f"{self._path(position >> OFFSET_BITS)} at byte {position & ((1 << OFFSET_BITS) - 1)}"

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
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _has_news(self) -> bool:
        """True if there is nothing to wait for: more is durable than polled, nothing is pending, or it failed."""
        return self._durable_count > self._polled_count or not self._pending_bytes or self._failure is not None

    def _require_sound(self) -> None:
        """L2: a failure is for good."""
        if self._failure is not None:
            raise self._failure

    # -- the writer's thread: owns _file and writes _file_bytes

    def _write_until_closed(self) -> None:
        """Take all that is queued, write it, sync once, tell; until closed and empty, or failed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                group = list(self._queue)
                self._queue.clear()
            if not group:
                return
            try:
                self._write(group)
            except OSError as error:
                with self._changed:
                    self._failure = self._failed(error)
                    self._changed.notify_all()
                return
            with self._changed:
                self._durable_count += len(group)
                self._pending_bytes -= sum(map(len, group))
                self._changed.notify_all()

    def _write(self, group: list[bytes]) -> None:
        """Write the batches of a group and sync the file; a claim first syncs and leaves the old one."""
        for batch in group:
            epoch = claimed_epoch(batch)
            if epoch:
                self._sync()
                self._begin_file(epoch)
            _write_whole(self._file, len(batch).to_bytes(LENGTH_BYTES, "little"), batch)
            with self._changed:
                self._file_bytes += LENGTH_BYTES + len(batch)
                self.bytes_total += LENGTH_BYTES + len(batch)
        self._sync()

    def _begin_file(self, epoch: int) -> None:
        """S3. A file that exists already is another owner's, and the open fails."""
        if self._file >= 0:
            os.close(self._file)
        self._file = os.open(self._path(epoch), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        with self._changed:
            self._file_epoch, self._file_bytes = epoch, 0
        self._sync_folder(self.folder)

    def _sync(self) -> None:
        """Make what was written to the file durable."""
        if self._file >= 0 and self._fsync:
            os.fdatasync(self._file)
            self.sync_count += 1

    def _sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        if self._fsync:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _failed(self, error: OSError) -> LogFailed:
        """The sentence for an append that failed."""
        path = self._path(self._file_epoch)
        if error.errno in _NO_ROOM:
            return LogFull(
                f"no room for the log in {path} ({error.strerror}); free disk space or move log.folder, then start "
                f"again: nothing that was durable is lost"
            )
        return LogFailed(
            f"writing the log failed in {path} ({error.strerror}); check the disk, then start again"
        )

    # -- opening

    def _acquire_folder(self) -> int:
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
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise LogUnavailable(
                f"{self.folder} is being written by another process (pid {owner}); stop it, or name another log.folder"
            ) from error
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        return lock

    def _cut_torn_end(self) -> None:
        """S2. An empty newest file goes altogether: its epoch was never claimed."""
        paths = self._paths()
        if not paths:
            return
        path = paths[-1]
        size = path.stat().st_size
        whole = _whole_bytes(path, size)
        if whole < size:
            self.torn_bytes = size - whole
            with path.open("r+b") as file:
                file.truncate(whole)
                os.fsync(file.fileno())
        if whole == 0:
            path.unlink()
            self._sync_folder(self.folder)

    def _paths(self) -> list[Path]:
        """The files of this shard, oldest epoch first."""
        return sorted(self.folder.glob("epoch-*.log"), key=_epoch_of)

    def _path(self, epoch: int) -> Path:
        """Where an epoch's file is."""
        return self.folder / f"epoch-{epoch:06}.log"

    def _end_of(self, path: Path) -> int:
        """Bytes of whole batches in a file: of the one being written, what is written whole."""
        return self._file_bytes if _epoch_of(path) == self._file_epoch else path.stat().st_size


def _epoch_of(path: Path) -> int:
    """epoch-000012.log -> 12"""
    return int(path.stem.removeprefix("epoch-"))


def _write_whole(descriptor: int, *buffers: bytes) -> None:
    """Write all bytes; the kernel may take fewer at a time, as just before a disk is full."""
    written = os.writev(descriptor, buffers)
    missing = sum(map(len, buffers)) - written
    rest = memoryview(b"".join(buffers))[written:] if missing else memoryview(b"")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _batches(path: Path, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Offsets and batches of a file between two offsets; BatchDamaged where a length makes no sense."""
    with path.open("rb", buffering=READ_BUFFER_BYTES) as file:
        file.seek(start)
        offset = start
        while offset < end:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            behind = offset + LENGTH_BYTES + length
            if not HEADER_BYTES <= length <= BATCH_BYTES_CEILING or behind > end:
                raise BatchDamaged(
                    f"{path} at byte {offset}: a batch of {length} bytes does not fit the file's {end} bytes"
                )
            yield offset, file.read(length)
            offset = behind


def _whole_bytes(path: Path, size: int) -> int:
    """How much of a file is whole; raises BatchDamaged if a whole batch lies behind the first damage."""
    whole = 0
    try:
        for offset, batch in _batches(path, 0, size):
            decode(batch, f"{path} at byte {offset}")
            whole = offset + LENGTH_BYTES + len(batch)
    except BatchDamaged as damage:
        behind = _batch_behind(path, whole + 1)
        if behind is not None:
            raise BatchDamaged(
                f"{damage}, and a whole batch follows at byte {behind}: restore the file from a copy before starting"
            ) from damage
    return whole


def _batch_behind(path: Path, start: int) -> int | None:
    """Where the first whole batch at or behind an offset lies, whatever is before it."""
    rest = path.read_bytes()[start:]
    magic = MAGIC.to_bytes(4, "little")
    at = rest.find(magic, LENGTH_BYTES)
    while at >= 0:
        length = int.from_bytes(rest[at - LENGTH_BYTES : at], "little")
        with contextlib.suppress(BatchDamaged):
            decode(rest[at : at + length], str(path))
            return start + at - LENGTH_BYTES
        at = rest.find(magic, at + 1)
    return None
