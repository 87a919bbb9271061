"""
Snapshots: a shard's state in one file, written whole or not at all, and found again whatever a crash left beside it.

    snapshots/shard-0000/seq-00000000000000012345.snapshot      counts
                         seq-00000000000000012345.unfinished    does not: being written, written and not yet due, or left behind

    | header | directory: a row a section | types of the sections, JSON | section | section | ...

    write ──> temporary name, fsync, read back ──> Written ──publish──> renamed, folder synced: it counts

Whoever takes snapshots decides when one may be published (the log has its seq, the publisher has confirmed it); until then
it is a file that nobody looks at. A file that counts and is damaged is named, skipped and left where it is, for whoever
wants to know why; the next older one takes its place.

Fast because a section is an array's own memory: written, read and checked (CRC32C, 8 GB/s) in one pass each, nothing is
encoded. Slow where the disk is: write waits for it, and reads back from it and not from the page cache where the system
lets go of that. Listing and pruning read every file whole.

Invariants:

    S1  magic, snapshot_version, file_bytes and crc32c keep their places in every version: damage is told from another version
    S2  crc32c is over all other bytes, padding too: no bit can flip unseen
    S3  a file has its final name only after all of it, read back, was right and was durable
    S4  one process writes a shard's folder
"""

import contextlib
import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import google_crc32c
import numpy as np

from ringpit.engine.records import LAYOUT_VERSION, RULES_VERSION, dtype_of
from ringpit.wal.errors import SnapshotDamaged, SnapshotFailed, SnapshotVersionMismatch

# Of the tables below; 2: positions in segment files have 46 bits for the byte, not 40.
SNAPSHOT_VERSION: Final = 2
IDENTITY_BYTES_MAX: Final = 128
DIGEST_DIGITS: Final = 32
NAME_BYTES_MAX: Final = 32

HEADER_FIELDS: Final = (
    ("magic", "<i4", "RPSN"),
    ("snapshot_version", "<i4", "of this header and of the directory"),
    ("file_bytes", "<i8", "bytes of the whole file"),
    ("crc32c", "<i8", "CRC32C of the file up to here, then of everything behind"),
    ("layout_version", "<i4", "of the records"),
    ("rules_version", "<i4", "of the matching rules under which the state came about"),
    ("shard", "<i8", "whose state this is"),
    ("generation", "<i8", "topology generation"),
    ("seq", "<i8", "the last record that the state includes"),
    ("epoch", "<i8", "epoch of the owner of the log at that record"),
    ("nonce", "<i8", "that owner's nonce"),
    ("checksum", "<i8", "running checksum over all records up to it"),
    (
        "confirmed_seq",
        "<i8",
        "reports up to this seq were confirmed by the publisher's broker when it was taken",
    ),
    ("engine_ns", "<i8", "engine time, ns since the epoch"),
    ("skip_count", "<i8", "SKIP batches in the log up to that record"),
    ("log_position", "<i8", "where to read the log on"),
    ("log_seq", "<i8", "a record at or behind the last one before that position; at most seq"),
    ("log_identity", f"S{IDENTITY_BYTES_MAX}", "which log that is, UTF-8"),
    ("digest", f"S{DIGEST_DIGITS}", "digest of the state's books, hexadecimal"),
    ("sections", "<i8", "rows of the directory"),
    ("types_bytes", "<i8", "bytes of the types behind the directory"),
)
SECTION_FIELDS: Final = (
    ("name", f"S{NAME_BYTES_MAX}", "the array's name, ASCII"),
    ("offset", "<i8", "first byte of the section in the file, a multiple of 64"),
    ("rows", "<i8", "records of the array"),
    ("row_bytes", "<i8", "bytes of a record"),
)
HEADER: Final = dtype_of(HEADER_FIELDS)
SECTION: Final = dtype_of(SECTION_FIELDS)
MAGIC: Final = int.from_bytes(b"RPSN", "little")
SECTION_ALIGN_BYTES: Final = 64
_CRC_AT: Final = 16  # S1; a test compares with the table
_BEHIND_CRC: Final = 24

FINISHED: Final = ".snapshot"
UNFINISHED: Final = ".unfinished"
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True)
class SnapshotFacts:
    """What a snapshot is a snapshot of; meanings as in HEADER_FIELDS."""

    shard: int
    generation: int
    seq: int
    epoch: int
    nonce: int
    checksum: int
    confirmed_seq: int
    engine_ns: int
    skip_count: int
    log_position: int
    log_seq: int
    log_identity: str
    digest: str

    def __post_init__(self) -> None:
        """Check the two texts, which have a fixed room."""
        if len(self.log_identity.encode()) > IDENTITY_BYTES_MAX:
            raise ValueError(
                f"log_identity must be at most {IDENTITY_BYTES_MAX} bytes, was {len(self.log_identity.encode())}: "
                f"{self.log_identity!r}"
            )
        if len(self.digest) != DIGEST_DIGITS or not self.digest.isascii():
            raise ValueError(f"digest must be {DIGEST_DIGITS} hexadecimal digits, was {self.digest!r}")


@dataclass(frozen=True)
class Snapshot:
    """A whole, undamaged snapshot, in memory: `arrays` by name, which may be changed."""

    path: Path
    facts: SnapshotFacts
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Found:
    """A file that counts, or would if it were whole: `facts`, or the sentence in `damage` that says why not."""

    path: Path
    seq: int
    bytes: int
    facts: SnapshotFacts | None
    damage: str = ""


class Written:
    """A snapshot that is written, durable and checked, and does not count yet. Publish it or discard it."""

    def __init__(self, store: "SnapshotStore", path: Path, facts: SnapshotFacts, file_bytes: int) -> None:
        """Made by SnapshotStore.write."""
        self._store = store
        self._path = path
        self.facts = facts
        self.file_bytes = file_bytes

    def publish(self) -> Path:
        """From now on it counts: rename it and make the name durable. Its path. Raises SnapshotFailed."""
        path = self._path.with_suffix(FINISHED)
        try:
            self._path.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise _failed(path, error) from error
        self._store.forget(self._path)
        return path

    def discard(self) -> None:
        """It shall never count: remove it."""
        self._path.unlink(missing_ok=True)
        self._store.forget(self._path)


class SnapshotStore:
    """
    The snapshots of one shard, in `folder`/shard-NNNN. Making a store touches nothing; the first write makes the folder.

    Args:
        folder: Of the snapshots of all shards.
        shard: Whose.
    """

    def __init__(self, folder: Path, shard: int) -> None:
        """Remember where."""
        self.folder = Path(folder) / f"shard-{shard:04}"
        self.shard = shard
        self._pending: set[Path] = set()

    def write(self, facts: SnapshotFacts, arrays: Mapping[str, np.ndarray]) -> Written:
        """
        Write facts and arrays (one-dimensional, of integers or records of them), wait until they are durable, read them back and compare.

        Raises SnapshotFailed, and then nothing is left of it; ValueError for an array that cannot be a section.
        Cost: as the disk; the arrays are not copied, so they may not change meanwhile.
        """
        if facts.shard != self.shard:
            raise ValueError(
                f"snapshots of shard {self.shard} lie in {self.folder}, facts.shard was {facts.shard}"
            )
        spans = _encode(facts, arrays)
        path = self.folder / f"seq-{facts.seq:020}{UNFINISHED}"
        self._pending.add(path)
        try:
            self._write_durably(path, spans)
            file_bytes = _read_back(path, spans[0])
        except (OSError, SnapshotDamaged) as error:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            self.forget(path)
            raise _failed(path, error) from error
        return Written(self, path, facts, file_bytes)

    def newest(self, say: Callable[[str], None]) -> Snapshot | None:
        """The newest one that is whole, or None. `say` gets a sentence for each newer one that is not."""
        for path in self._paths():
            try:
                return self.load(path)
            except (SnapshotDamaged, SnapshotVersionMismatch) as damage:
                say(f"{damage}; it is left out, the next older one is tried")
        return None

    def listing(self) -> list[Found]:
        """Every file that counts, or would if it were whole, newest first. Cost: reads them all."""
        found = []
        for path in self._paths():
            try:
                facts, damage = self.load(path).facts, ""
            except (SnapshotDamaged, SnapshotVersionMismatch) as error:
                facts, damage = None, str(error)
            found.append(Found(path, _seq_of(path), path.stat().st_size, facts, damage))
        return found

    def prune(self, keep: int) -> list[Path]:
        """
        Remove all but the newest `keep` whole ones, and what writers left unfinished; the paths removed. The first one of a later
        topology generation stays: its log goes on from there, and means nothing without it.

        Where not one is whole only what is unfinished goes. Raises ValueError if `keep` is below 1, SnapshotFailed if a file
        cannot be removed. Cost: reads all files.
        """
        if keep < 1:
            raise ValueError(f"prune must keep at least 1 snapshot, was asked to keep {keep}")
        whole = [(found.path, found.facts) for found in self.listing() if found.facts is not None]
        kept = [path for path, _ in whole[:keep]]
        kept += [path for path, facts in whole[keep:] if facts.generation > 1 and facts.seq == 0]
        gone = [path for path in self._paths() if kept and path not in kept]
        gone += [path for path in sorted(self.folder.glob(f"*{UNFINISHED}")) if path not in self._pending]
        try:
            for path in gone:
                path.unlink()
            if gone:
                _sync_folder(self.folder)
        except OSError as error:
            raise SnapshotFailed(
                f"old snapshots cannot be removed from {self.folder} ({error.strerror}); let this user write there"
            ) from error
        return gone

    def forget(self, path: Path) -> None:
        """A written file was published or discarded: what may lie there later is nobody's."""
        self._pending.discard(path)

    def _paths(self) -> list[Path]:
        """Files with a final name, newest first; other names are not ours."""
        named = [
            path for path in self.folder.glob(f"seq-*{FINISHED}") if path.stem.removeprefix("seq-").isdigit()
        ]
        return sorted(named, key=_seq_of, reverse=True)

    def load(self, path: Path) -> Snapshot:
        """
        Read a file of this store, which must be of its shard, and of the seq in its name.

        Raises SnapshotDamaged or SnapshotVersionMismatch.
        """
        try:
            read = _read(path)
        except OSError as error:
            raise SnapshotDamaged(f"{path}: cannot be read ({error.strerror}); check the disk") from error
        snapshot = _decode(read, str(path))
        if (snapshot.facts.shard, snapshot.facts.seq) != (self.shard, _seq_of(path)):
            raise SnapshotDamaged(
                f"{path}: holds shard {snapshot.facts.shard} at seq {snapshot.facts.seq}, not what its name says: "
                f"give the file its name back"
            )
        return Snapshot(path, snapshot.facts, snapshot.arrays)

    def _write_durably(self, path: Path, spans: list[memoryview]) -> None:
        """Make the folder, write the file and wait until the disk has both; let the page cache forget the bytes."""
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder.parent.parent, self.folder.parent):
                _sync_folder(folder)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            for span in spans:
                _write_whole(descriptor, span)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # so that reading back asks the disk
        finally:
            os.close(descriptor)


def _seq_of(path: Path) -> int:
    """seq-00000000000000012345.snapshot -> 12345"""
    return int(path.stem.removeprefix("seq-"))


def _write_whole(descriptor: int, span: memoryview) -> None:
    """Write all bytes; the kernel takes at most 2 GiB at a time, and fewer just before a disk is full."""
    while span:
        span = span[os.write(descriptor, span) :]


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytearray:
    """All bytes of a file."""
    with path.open("rb", buffering=0) as file:
        read = bytearray(os.fstat(file.fileno()).st_size)
        view = memoryview(read)
        while view:
            count = file.readinto(view)
            if not count:
                raise SnapshotDamaged(f"{path}: it became {len(view)} bytes shorter while it was read")
            view = view[count:]
    return read


def _read_back(path: Path, header: memoryview) -> int:
    """Compare a file with what was written: its header says what all of it must be. Its length; raises SnapshotDamaged."""
    read = _read(path)
    _decode(read, str(path))
    if read[: len(header)] != header:
        raise SnapshotDamaged(f"{path}: holds another snapshot than the one that was written")
    return len(read)


def _failed(path: Path, error: Exception) -> SnapshotFailed:
    """The sentence for a snapshot that could not be written."""
    if isinstance(error, OSError):
        if error.errno in _NO_ROOM:
            return SnapshotFailed(
                f"no room for a snapshot in {path.parent} ({error.strerror}); free disk space or move the snapshots: "
                f"the log is whole without it"
            )
        return SnapshotFailed(
            f"writing a snapshot failed in {path.parent} ({error.strerror}); check the disk: the log is whole without it"
        )
    return SnapshotFailed(
        f"a snapshot that was just written does not read back ({error}); check the disk and the memory"
    )


# -- the file


def _encode(facts: SnapshotFacts, arrays: Mapping[str, np.ndarray]) -> list[memoryview]:
    """The file's bytes, as spans one behind the other; the arrays' own memory among them."""
    types = json.dumps({name: _type_of(name, array) for name, array in arrays.items()}).encode()
    end = HEADER.itemsize + len(arrays) * SECTION.itemsize + len(types)
    directory = np.zeros(len(arrays), SECTION)
    spans: list[memoryview] = []
    for row, (name, array) in zip(directory, arrays.items(), strict=True):
        padding = -end % SECTION_ALIGN_BYTES
        row["name"], row["offset"], row["rows"] = name.encode(), end + padding, len(array)
        row["row_bytes"] = array.dtype.itemsize
        spans += [memoryview(bytes(padding)), _bytes_of(array)]
        end += padding + array.nbytes
    header = np.zeros(1, HEADER)
    for field in fields(SnapshotFacts):
        value = getattr(facts, field.name)
        header[field.name] = value.encode() if isinstance(value, str) else value
    header["magic"], header["snapshot_version"], header["file_bytes"] = MAGIC, SNAPSHOT_VERSION, end
    header["layout_version"], header["rules_version"] = LAYOUT_VERSION, RULES_VERSION
    header["sections"], header["types_bytes"] = len(arrays), len(types)
    raw = _bytes_of(header)
    behind = [_bytes_of(directory), memoryview(types), *spans]
    header["crc32c"] = _crc(raw[:_CRC_AT], raw[_BEHIND_CRC:], *behind)
    return [raw, *behind]


def _bytes_of(array: np.ndarray) -> memoryview:
    """An array's memory."""
    return np.ascontiguousarray(array).view(np.uint8).data


def _type_of(name: str, array: np.ndarray) -> object:
    """What JSON says of an array's type: a code, or (name, code) pairs. Raises ValueError for an array that cannot be a section."""
    flat = all(array.dtype[name].subdtype is None for name in array.dtype.names or ())
    if array.ndim != 1 or array.dtype.hasobject or not flat or not name.isascii() or len(name) > NAME_BYTES_MAX:
        raise ValueError(
            f"section {name!r} must be a one-dimensional array of numbers or records of numbers under an ASCII name of at "
            f"most {NAME_BYTES_MAX} characters, was {array.ndim}-dimensional of {array.dtype}"
        )
    return np.lib.format.dtype_to_descr(array.dtype)


def _crc(*spans: memoryview) -> int:
    """CRC32C of spans, one behind the other."""
    crc: int = 0
    for span in spans:
        crc = google_crc32c.extend(crc, np.asarray(span))  # it takes arrays, no views of memory
    return crc


def _require_whole(raw: memoryview, header: np.void, where: str) -> None:
    """Raise SnapshotDamaged unless all bytes are there and as they were written, then SnapshotVersionMismatch if others wrote them."""
    if header["magic"] != MAGIC:
        raise SnapshotDamaged(f"{where}: a snapshot begins with b'RPSN', was {bytes(raw[:4])!r}")
    if header["file_bytes"] != len(raw):
        raise SnapshotDamaged(f"{where}: must be {header['file_bytes']} bytes long, is {len(raw)}")
    crc = _crc(raw[:_CRC_AT], raw[_BEHIND_CRC:])
    if header["crc32c"] != crc:
        raise SnapshotDamaged(f"{where}: crc32c must be {int(header['crc32c']):#x}, the bytes give {crc:#x}")
    for name, ours in (
        ("snapshot_version", SNAPSHOT_VERSION),
        ("layout_version", LAYOUT_VERSION),
        ("rules_version", RULES_VERSION),
    ):
        if header[name] != ours:
            raise SnapshotVersionMismatch(
                f"{where}: {name} must be {ours}, was {header[name]}; run the ringpit that wrote it, or let this one "
                f"start without it from the whole log"
            )


def _decode(read: bytearray, where: str) -> Snapshot:
    """Check a file's bytes; facts, and arrays that are views of the bytes. Raises SnapshotDamaged or SnapshotVersionMismatch."""
    raw = memoryview(read)
    if len(raw) < HEADER.itemsize:
        raise SnapshotDamaged(f"{where}: a snapshot is at least {HEADER.itemsize} bytes long, is {len(raw)}")
    header = np.frombuffer(read, HEADER, 1)[0]
    _require_whole(raw, header, where)
    directory = np.frombuffer(read, SECTION, int(header["sections"]), HEADER.itemsize)
    types_at = HEADER.itemsize + directory.nbytes
    types = json.loads(bytes(raw[types_at : types_at + int(header["types_bytes"])]))
    arrays = {}
    for row in directory:
        name = row["name"].decode()
        described = types[name]
        dtype = np.dtype(
            described if isinstance(described, str) else [(each, code) for each, code in described]
        )
        arrays[name] = np.frombuffer(read, dtype, int(row["rows"]), int(row["offset"]))
    return Snapshot(Path(where), _facts_of(header), arrays)


def _facts_of(header: np.void) -> SnapshotFacts:
    """The facts of a header."""
    texts = {name: header[name].decode() for name in ("log_identity", "digest")}
    numbers = {
        field.name: int(header[field.name]) for field in fields(SnapshotFacts) if field.name not in texts
    }
    return SnapshotFacts(**numbers, log_identity=texts["log_identity"], digest=texts["digest"])
