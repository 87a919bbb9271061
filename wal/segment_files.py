"""
The folder of a segment log: its files, its name, and reading them. Nothing here appends.

    log/shard-0000/lock                  who writes (segments.py)
                   identity              a random name, made once
                   synced                epoch, byte: how far the newest file was synced, at least
                   epoch-000001.log      | frame | batch | frame | batch | ...
                   epoch-000001-00000000067109120.log      the same epoch, from that byte on
                   epoch-000002.log

A position is an epoch and a byte of what was written in it, so that it grows from file to file; a file's name is the position at
which it begins. An epoch goes on in a new file when the one before is full, so that a start looks for a torn end in one short
file, and a log can be trimmed while it is written. The log begins with the file whose claim had seen no epoch before it; where
the oldest file's had, files were trimmed.

A frame is 8 bytes: the batch's length (28 bits), how many bytes before it were not yet synced when it was written
(28 bits), and that number's remainder by 251, which no single flipped bit leaves right (8 bits).
When the machine loses power while a group is written, any part of the group may be missing, so a damaged batch may
have whole ones behind it. These say that nothing at the damage had been synced, and so does `synced`, which is
written after each sync: such an end is torn and is cut. If either says that the damage was synced, it is lost history.
`synced` itself is synced within a second; without it, as in a copy of the files alone, nothing but a damaged last
batch is cut.

Invariants:

    S4  a read from a position whose file or bytes are gone is a LogGap, never silence
    S5  what is cut had never been synced, except a last batch: nobody can tell its damage from a tear
    S6  a file of an epoch begins where the one before it ends, and is made when that one is synced
"""

import contextlib
import os
import struct
import uuid
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final

import google_crc32c
import numpy as np

from ringpit.engine.limits import FRAME_SLOTS_MAX
from ringpit.engine.records import RECORD_BYTES
from ringpit.wal.batch import HEADER, HEADER_BYTES, MAGIC, decode, is_sound
from ringpit.wal.errors import BatchDamaged, LogGap, LogUnavailable, LogVersionMismatch
from ringpit.wal.log import PENDING_BYTES_MAX, Entry

FRAME_BYTES: Final = 8  # before each batch, little-endian
FRAME_BITS: Final = 28  # of each of its two numbers
FRAME_MASK: Final = (1 << FRAME_BITS) - 1
FRAME_CHECK: Final = 251
BATCH_BYTES_CEILING: Final = 64 << 20  # a length above this is damage, not a batch
OFFSET_BITS: Final = 46  # position = epoch << 46 | byte: 64 TiB for an epoch, 131,072 epochs
OFFSETS: Final = 1 << OFFSET_BITS
READ_BUFFER_BYTES: Final = 1 << 20
SYNCED_FACTS: Final = struct.Struct("<qqq")  # epoch, byte, CRC32C of both

# What may wait for a sync, and the batch that is one too many, must fit a frame.
assert PENDING_BYTES_MAX + BATCH_BYTES_CEILING < 1 << FRAME_BITS
assert HEADER_BYTES + FRAME_SLOTS_MAX * RECORD_BYTES < BATCH_BYTES_CEILING


class SegmentFiles:
    """One shard's folder of segment files, `folder`/shard-NNNN."""

    def __init__(self, folder: Path, shard: int) -> None:
        """Only names the folder: it need not exist."""
        self.folder = Path(folder) / f"shard-{shard:04}"
        self.shard = shard

    def paths(self, position: int = 0) -> list[Path]:
        """The files of this shard in which something from a position on may be, oldest first."""
        found = sorted(self.folder.glob("epoch-*.log"), key=begin_of)
        first = bisect_right(found, position, key=begin_of) - 1
        if first < 0 or split(begin_of(found[first]))[0] != split(position)[0]:
            first += 1  # the file before has nothing of this epoch
        return found[first:]

    def sizes(self, position: int = 0) -> list[tuple[Path, int]]:
        """The same, each with its bytes as of now."""
        found = []
        for path in self.paths(position):
            with contextlib.suppress(FileNotFoundError):  # its owner removed it meanwhile
                found.append((path, path.stat().st_size))
        return found

    def path(self, begin: int) -> Path:
        """Where the file is that begins at a position."""
        epoch, offset = split(begin)
        return self.folder / (f"epoch-{epoch:06}-{offset:017}.log" if offset else f"epoch-{epoch:06}.log")

    def beginning(self) -> int:
        """0, or the position of the oldest file if files before it were trimmed."""
        for path in self.paths():
            with _opened(path) as file:
                file.seek(FRAME_BYTES)
                header = file.read(HEADER_BYTES)
            if len(header) < HEADER_BYTES:
                return 0  # an owner is just beginning it, or died at that
            begin = begin_of(path)
            prior_epoch = int(np.frombuffer(header, HEADER)[0]["prior_epoch"])
            return begin if prior_epoch or split(begin)[1] else 0
        return 0

    def place_of(self, position: int) -> tuple[Path, int]:
        """The file in which a position lies, or would if it were there, and the byte in it."""
        path = next(iter(self.paths(position)), None)
        if path is None or not 0 <= position - begin_of(path) < OFFSETS:
            path = self.path(position >> OFFSET_BITS << OFFSET_BITS)
        return path, position - begin_of(path)

    def locate(self, position: int) -> str:
        """The same in words."""
        path, offset = self.place_of(position)
        return f"{path} at byte {offset}"

    def read(self, position: int, ends: list[tuple[Path, int]]) -> Iterator[Entry]:
        """
        Every batch from a position on, of files that are whole up to the bytes given.

        `ends` are files and bytes, oldest first, none before the position's. Raises LogGap (S4) or BatchDamaged.
        """
        self.require_there(position, ends)
        for path, end in ends:
            begin = begin_of(path)
            for offset, batch in batches(path, start_in(path, position), end):
                yield entry_at(begin + offset, batch)

    def newest(self, count: int, ends: list[tuple[Path, int]]) -> list[Entry]:
        """The last `count` batches of files that are whole up to the bytes given; reads lengths, then those batches."""
        found: list[Entry] = []
        for path, end in reversed(ends):
            places = deque(places_of(path, 0, end), maxlen=count - len(found))
            start = places[0][0] if places else end
            begin = begin_of(path)
            found = [entry_at(begin + offset, batch) for offset, batch in batches(path, start, end)] + found
            if len(found) == count:
                break
        return found

    def require_there(self, position: int, ends: list[tuple[Path, int]]) -> None:
        """S4, and S6 as far as it is known."""
        epoch, offset = split(position)
        reason = "the numbers are bytes of the file; it was trimmed, cut, or is another log's"
        if offset:
            path, size = ends[0] if ends else (self.path(0), 0)
            found = begin_of(path) + size if split(begin_of(path))[0] == epoch else 0
            if not begin_of(path) <= position <= found:
                raise LogGap(self.shard, offset, split(found)[1], self.locate(position), reason)
        else:
            begin = self.beginning()
            if position < begin:
                reason = "the numbers are epochs; what came before was trimmed"
                raise LogGap(self.shard, epoch, split(begin)[0], self.locate(begin), reason)
        for (path, size), (following, _) in pairwise(ends):
            begin = begin_of(following)
            if split(begin)[1] and begin != begin_of(path) + size:
                reason = (
                    f"the numbers are bytes of the epoch; a file before it is missing, or {path} lost its end"
                )
                raise LogGap(
                    self.shard, split(begin_of(path) + size)[1], split(begin)[1], self.locate(begin), reason
                )

    def trim(self, position: int, *, sync: bool) -> int:
        """Remove the files that hold nothing from a position on, never the newest; the bytes removed. Raises LogUnavailable."""
        removed_bytes = 0
        for path, following in pairwise(
            self.paths()
        ):  # oldest first: a crash between two leaves a shorter log, not one with a hole
            if begin_of(following) > position:
                break
            size = path.stat().st_size
            try:
                path.unlink()
                if sync:
                    sync_folder(self.folder)
            except OSError as error:
                raise LogUnavailable(
                    f"{path} cannot be removed ({error.strerror}); allow this user to, and trim again"
                ) from error
            removed_bytes += size
        return removed_bytes

    def identity(self) -> str:
        """The log's name, or nothing if no owner has made it yet."""
        try:
            return (self.folder / "identity").read_text().strip()
        except FileNotFoundError:
            return ""

    def make_identity(self, *, sync: bool) -> None:
        """Give the log its name, once: whole or not at all, whenever the machine stops."""
        if self.identity():
            return
        unfinished = self.folder / "identity.unfinished"
        with unfinished.open("w") as file:
            file.write(f"{uuid.uuid4().hex}\n")
            file.flush()
            if sync:
                os.fsync(file.fileno())
        unfinished.rename(self.folder / "identity")
        if sync:
            sync_folder(self.folder)


def split(position: int) -> tuple[int, int]:
    """Epoch and byte of a position."""
    return position >> OFFSET_BITS, position & (OFFSETS - 1)


def begin_of(path: Path) -> int:
    """The position at which a file begins: epoch-000012.log, epoch-000012-00000000067109120.log"""
    epoch, _, offset = path.stem.removeprefix("epoch-").partition("-")
    return int(epoch) << OFFSET_BITS | int(offset or 0)


def start_in(path: Path, position: int) -> int:
    """The byte of a file at which reading begins that begins at a position in it, or in a file before it."""
    return max(position - begin_of(path), 0)


def entry_at(position: int, batch: bytes) -> Entry:
    """A batch of a file as an Entry."""
    return Entry(position, position + FRAME_BYTES + len(batch), batch)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> BinaryIO:
    """A file to read from, which its owner may have removed since it was listed."""
    try:
        return path.open("rb", buffering=READ_BUFFER_BYTES)
    except FileNotFoundError:
        raise LogUnavailable(
            f"{path} is gone since the log was looked at: trimmed, or cut by a new owner; read again"
        ) from None


def places_of(path: Path, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Offsets and lengths of a file's batches between two offsets; BatchDamaged where a length makes no sense."""
    with _opened(path) as file:
        offset = start
        while offset < end:
            length = _length(path, offset, os.pread(file.fileno(), FRAME_BYTES, offset), end)
            yield offset, length
            offset += FRAME_BYTES + length


def batches(path: Path, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Offsets and batches of a file between two offsets; BatchDamaged where a length makes no sense."""
    with _opened(path) as file:
        file.seek(start)
        offset = start
        while offset < end:
            length = _length(path, offset, file.read(FRAME_BYTES), end)
            yield offset, file.read(length)
            offset += FRAME_BYTES + length


def _length(path: Path, offset: int, raw: bytes, end: int) -> int:
    """Length of the batch behind a frame. Raises BatchDamaged if it makes no sense."""
    length, unsynced = unframed(raw)
    if HEADER_BYTES <= length <= min(BATCH_BYTES_CEILING, end - offset - FRAME_BYTES) and unsynced >= 0:
        return length
    raise BatchDamaged(
        f"{path} at byte {offset}: a batch of {length} bytes does not fit the file's {end} bytes"
    )


def whole_batches(path: Path, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """
    Offsets and batches of the newest file up to its torn end, each checked.

    Raises BatchDamaged if whole batches behind the first damage show that it had been synced (S5).
    """
    whole = start
    try:
        for offset, batch in batches(path, start, end):
            if not is_sound(batch):
                decode(batch, f"{path} at byte {offset}")  # says what is wrong
            whole = offset + FRAME_BYTES + len(batch)
            yield offset, batch
    except BatchDamaged as damage:
        behind = _batches_behind(path, whole + 1)
        was_synced = synced_bytes(path) > whole or any(offset - unsynced > whole for offset, unsynced in behind)
        if behind and was_synced:
            raise BatchDamaged(
                f"{damage}, and a whole batch follows at byte {behind[0][0]}: this was synced, so it is no torn end but "
                f"lost history; restore the file from a copy before starting. If there is none, `truncate -s {whole} "
                f"{path}` gives up everything from there on, {len(behind)} whole batches and what was acknowledged "
                f"with them among it"
            ) from damage


def synced_end(folder: Path) -> int:
    """The position that `synced` tells of, at or behind which the log must end; 0 if it does not say."""
    try:
        epoch, offset, crc = SYNCED_FACTS.unpack((folder / "synced").read_bytes())
    except (FileNotFoundError, struct.error):
        return 0
    return epoch << OFFSET_BITS | offset if crc == _crc_of_facts(epoch, offset) else 0


def synced_bytes(path: Path) -> int:
    """How much of the newest file is known to have been synced: all, if `synced` does not say."""
    synced, begin = synced_end(path.parent), begin_of(path)
    return max(synced - begin, 0) if split(synced)[0] == split(begin)[0] else OFFSETS


def synced_facts(position: int) -> bytes:
    """What `synced` holds."""
    epoch, offset = split(position)
    return SYNCED_FACTS.pack(epoch, offset, _crc_of_facts(epoch, offset))


def _crc_of_facts(epoch: int, offset: int) -> int:
    """CRC32C: a torn `synced` says nothing."""
    return int(google_crc32c.value(struct.pack("<qq", epoch, offset)))


def frame(length: int, unsynced: int) -> bytes:
    """What stands before a batch of so many bytes, with so many unsynced ones before it in the file."""
    word = (unsynced % FRAME_CHECK << FRAME_BITS | unsynced) << FRAME_BITS | length
    return word.to_bytes(FRAME_BYTES, "little")


def unframed(raw: bytes) -> tuple[int, int]:
    """Length of the batch, and unsynced bytes before it: -1 if the frame is damaged."""
    word = int.from_bytes(raw, "little")
    unsynced = word >> FRAME_BITS & FRAME_MASK
    return word & FRAME_MASK, unsynced if word >> 2 * FRAME_BITS == unsynced % FRAME_CHECK else -1


def _batches_behind(path: Path, start: int) -> list[tuple[int, int]]:
    """Offset and unsynced bytes of each whole batch at or behind an offset, whatever is between them."""
    rest = path.read_bytes()[start:]
    found = []
    magic = MAGIC.to_bytes(4, "little")
    at = rest.find(magic, FRAME_BYTES)
    while at >= 0:
        length, unsynced = unframed(rest[at - FRAME_BYTES : at])
        begin, at = at, at + 1
        with contextlib.suppress(BatchDamaged, LogVersionMismatch):  # chance may write a magic
            decode(rest[begin : begin + length], str(path))
            found.append((start + begin - FRAME_BYTES, max(unsynced, 0)))
            at = begin + length
        at = rest.find(magic, at)
    return found
