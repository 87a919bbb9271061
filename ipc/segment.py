"""
Shared memory: named segments of int64 words and record regions that several processes map at once.

A segment belongs to one incarnation of one process: it holds everything that this process writes and
the others read. It is one file in /dev/shm, drawn in bytes:

    0                        128          256               128 * (1 + words)      next multiple of 4096
    | header: 7 cells, once  | word 0 ... | word 1 ... |     | pad to a page        | region 0 | pad | ...

A word has two cache lines (128 bytes) to itself, because the prefetcher of x86 pulls lines in pairs; its
writer may keep private cells behind it in the same line, as `ipc/ring.py` does. `SegmentLayout` is the
only place that computes an offset. The digest of the layout lies in the header, so that processes of
two versions never read each other's memory.

Fast here: after mapping, shared memory is memory; there is nothing to call. All pages are reserved
and touched when a segment is made, so no page fault is left for later. Slow here: making one costs about
0.2 ms per MiB, and attaching maps every page once.

Who removes it. The creator, by `unlink()`. If the creator is killed, its resource tracker does, once no process
that shares the tracker (every child by multiprocessing) lives. Attaching is a plain open and mmap which no tracker hears of:
`SharedMemory(name)` would register the segment before Python 3.13, and the first process to leave would take it
from all the others. `remove_stale` clears what remains if the tracker was killed too.

Invariants:

    S1  the magic number is stored last: whoever sees it sees a finished header, zero words and zero regions
    S2  the header never changes afterwards
    S3  whoever holds an array of a segment may use it: `close` gives the mapping up only after the last array
"""

import hashlib
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Final, Self

import numpy as np

from ringpit.ipc.atomics import CELL_BYTES, load_cell, store_cell
from ringpit.ipc.pages import PAGE_BYTES, populate

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory, by name
LINE_CELLS: Final = 16  # 128 bytes: a pair of cache lines
LINE_BYTES: Final = LINE_CELLS * CELL_BYTES
MAGIC: Final = int.from_bytes(b"RINGPIT\x01", "little")
FORMAT_VERSION: Final = 1  # of the header and the order of words and regions
NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")

# Cells of the header.
HEADER: Final = ("magic", "format", "digest", "version", "incarnation", "creator", "bytes")
MAGIC_AT, FORMAT_AT, DIGEST_AT, VERSION_AT, INCARNATION_AT, CREATOR_AT, BYTES_AT = range(len(HEADER))


@dataclass
class Pages:
    """How this process maps segments; fields as the arguments of `use_pages`."""

    huge: bool = False
    prefault: bool = True


_pages: Final = Pages()


def use_pages(*, huge: bool, prefault: bool) -> None:
    """
    Say once, before the first segment, how this process maps them.

    Args:
        huge: Ask for huge pages (see `pages.huge_complaint` for whether there are any); they are prefaulted.
        prefault: Map every page of what this process owns at once. Room is reserved either way.
    """
    _pages.huge, _pages.prefault = huge, prefault


class SegmentError(Exception):
    """A segment cannot be made or used. Each subclass says what to do about it."""


class SegmentMissing(SegmentError):
    """No segment has this name."""


class SegmentExists(SegmentError):
    """A segment of this name is there already."""


class SegmentMismatch(SegmentError):
    """The segment was made by something else, or by another version."""


class SegmentSpace(SegmentError):
    """The machine has not enough shared memory."""


@dataclass(frozen=True)
class Region:
    """A table of `count` records of one dtype."""

    name: str
    dtype: np.dtype
    count: int


@dataclass(frozen=True)
class SegmentLayout:
    """
    What a segment holds and where.

    Args:
        kind: What the segment is for ("worker"); part of the digest.
        words: Names of the int64 words, in order, a line each.
        regions: Tables, in order, each starting on a page.
        version: Version of the records in the regions, chosen by the caller; part of the digest.

    Raises:
        ValueError: Two words or two regions share a name, or a region is empty.
    """

    kind: str
    words: tuple[str, ...]
    regions: tuple[Region, ...] = ()
    version: int = 0

    def __post_init__(self) -> None:
        """Refuse what could not be found again by name."""
        names = [*self.words, *(region.name for region in self.regions)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"layout {self.kind}: every name must be unique, {name} is there twice")
        for region in self.regions:
            if region.count < 1 or region.dtype.itemsize < 1 or region.dtype.hasobject:
                raise ValueError(
                    f"layout {self.kind}: region {region.name} must hold at least 1 record of plain numbers, "
                    f"was {region.count} of {region.dtype}"
                )

    @cached_property
    def _indices(self) -> dict[str, int]:
        """The cell of each word."""
        return {word: (1 + line) * LINE_CELLS for line, word in enumerate(self.words)}

    @cached_property
    def _offsets(self) -> dict[str, int]:
        """The first byte of each region, and of what would follow the last one, under the empty name."""
        offsets = {}
        offset = _page_up(self.cells_total * CELL_BYTES)
        for region in self.regions:
            offsets[region.name] = offset
            offset = _page_up(offset + region.count * region.dtype.itemsize)
        return offsets | {"": offset}

    @property
    def cells_total(self) -> int:
        """Cells of the header and all words."""
        return (1 + len(self.words)) * LINE_CELLS

    @property
    def bytes_total(self) -> int:
        """Size of the segment: whole pages."""
        return self._offsets[""]

    @cached_property
    def digest(self) -> int:
        """63 bits that differ as soon as anything about the layout does."""
        tables = [
            (region.name, region.dtype.descr, region.dtype.itemsize, region.count) for region in self.regions
        ]
        text = repr((self.kind, self.version, self.words, tables))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1

    def index(self, word: str) -> int:
        """Index of a word in `Segment.cells`; KeyError names the words that exist."""
        if word not in self._indices:
            raise KeyError(f"segment kind {self.kind} has no word {word}; it has {', '.join(self.words)}")
        return self._indices[word]

    def offset(self, region: str) -> int:
        """First byte of a region; KeyError names the regions that exist."""
        if not region or region not in self._offsets:
            known = ", ".join(table.name for table in self.regions) or "none"
            raise KeyError(f"segment kind {self.kind} has no region {region}; it has {known}")
        return self._offsets[region]


class Segment:
    """
    One mapped segment. Make it with `Segment.create` or `Segment.attach`.

    Attributes:
        name: File name under /dev/shm.
        layout: What it holds.
        cells: int64 array over header and words; `layout.index(word)` says where.
        incarnation: Which life of its process the segment was made for.

    As a context manager it closes at the end, and unlinks if it was created here.
    """

    def __init__(
        self, name: str, layout: SegmentLayout, mapping: mmap.mmap, shared: SharedMemory | None
    ) -> None:
        """Lay arrays over a mapping. `shared` is what the resource tracker knows, in the creator."""
        self.name = name
        self.layout = layout
        self._mapping = mapping
        self._shared = shared
        self.cells = np.frombuffer(mapping, np.int64, layout.cells_total)
        self._regions = {
            region.name: np.frombuffer(mapping, region.dtype, region.count, layout.offset(region.name))
            for region in layout.regions
        }
        self.incarnation = load_cell(self.cells, INCARNATION_AT)

    @classmethod
    def create(cls, name: str, layout: SegmentLayout, incarnation: int = 0) -> Self:
        """
        Make a segment of zeros, all pages reserved and touched, and have the resource tracker remember it.

        Raises:
            SegmentExists: The name is taken. Nothing was changed.
            SegmentSpace: /dev/shm has no room. Nothing is left behind.
            ValueError: The name cannot be a file name.
        """
        path = _path(name)
        try:
            shared = SharedMemory(name, create=True, size=layout.bytes_total)
        except FileExistsError as error:
            raise SegmentExists(
                f"segment {name} exists already: stop the other ringpit, or remove {path} if none runs"
            ) from error
        shared.close()  # its own mapping only: the name stays, and the tracker knows it
        try:
            with _opened(name) as file:
                if (
                    not _pages.huge
                ):  # whatever is reserved before the mapping asks for huge pages is in small ones
                    os.posix_fallocate(file, 0, layout.bytes_total)
                mapping = _map(file, layout.bytes_total, owned=True)
                if _pages.huge:
                    os.posix_fallocate(file, 0, layout.bytes_total)
        except OSError as error:
            shared.unlink()
            raise SegmentSpace(_space_sentence(name, layout.bytes_total)) from error
        segment = cls(name, layout, mapping, shared)
        header = (FORMAT_VERSION, layout.digest, layout.version, incarnation, os.getpid(), layout.bytes_total)
        segment.cells[FORMAT_AT : len(HEADER)] = header
        segment.incarnation = incarnation
        store_cell(segment.cells, MAGIC_AT, MAGIC)  # S1; pairs with the acquire in `_check`
        return segment

    @classmethod
    def attach(cls, name: str, layout: SegmentLayout, *, writable: bool = True, owned: bool = False) -> Self:
        """
        Map a segment that another process made, unknown to any resource tracker.

        Whoever only watches says so: then no array can be written, by mistake either. Whoever will write into it owns it, and
        maps every page now; a neighbour maps what it reads when it does, sixteen pages at a fault, and does not stand still for
        the ten milliseconds that all of them take.

        Raises:
            SegmentMissing: There is none of that name.
            SegmentMismatch: It is not ours, not finished, or of another version or layout.
        """
        path = _path(name)
        try:
            with _opened(name, os.O_RDWR if writable else os.O_RDONLY) as file:
                size = os.fstat(file).st_size
                if size < LINE_BYTES:
                    raise _mismatch(name, f"is {size} bytes long", f"at least {LINE_BYTES}")
                mapping = _map(file, size, writable=writable, owned=owned)
        except FileNotFoundError as error:
            raise SegmentMissing(
                f"segment {name} is missing: {path} must be made first, by the ringpit that owns it"
            ) from error
        _check(name, layout, mapping, size)
        return cls(name, layout, mapping, None)

    def region(self, name: str) -> np.ndarray:
        """The records of a region: an array over the shared memory itself, no copy."""
        self.layout.offset(name)  # raises, and says which regions there are
        return self._regions[name]

    def load(self, word: str) -> int:
        """Value of a word, acquired. About 1 microsecond: for edges, not for loops."""
        return int(load_cell(self.cells, self.layout.index(word)))

    def store(self, word: str, value: int) -> None:
        """Release a value into a word of a segment that this process owns."""
        store_cell(self.cells, self.layout.index(word), int(value))  # an enum would be compiled for anew

    @property
    def creator(self) -> int:
        """Process id of the creator."""
        return int(self.cells[CREATOR_AT])  # plain: S2

    def close(self) -> None:
        """
        Let go of the mapping; calling it again does nothing. Afterwards `cells` and regions are empty.

        An array that somebody still holds stays valid (S3): the memory is unmapped when the last one goes.
        """
        self.cells = np.empty(0, np.int64)
        self._regions = {region.name: np.empty(0, region.dtype) for region in self.layout.regions}
        try:
            self._mapping.close()
        except BufferError:  # arrays are held elsewhere: they keep the mapping alive, and it goes with them
            return

    def unlink(self) -> None:
        """
        Remove the name; the memory lives on until every process has closed. Again: nothing happens.

        Raises:
            SegmentError: The segment was attached, not created here: its creator removes it.
        """
        if self._shared is None:
            raise SegmentError(f"segment {self.name} was made by process {self.creator}, which also removes it")
        try:
            self._shared.unlink()
        except FileNotFoundError:  # removed by hand, or by us before: the tracker still has to forget it
            resource_tracker.unregister(f"/{self.name}", "shared_memory")

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close, and remove it if it was made here."""
        self.close()
        if self._shared is not None:
            self.unlink()


def names(prefix: str) -> list[str]:
    """Names of the segments in /dev/shm that begin with `prefix`, sorted, whoever made them."""
    return sorted(path.name for path in SHARED_MEMORY.iterdir() if path.name.startswith(prefix))


def remove_stale(prefix: str) -> list[str]:
    """
    Remove every segment whose name begins with `prefix`, and return their names.

    Only for a caller who knows that no owner lives, for example because it holds the lock file.

    Raises:
        ValueError: The prefix is empty: that would be everybody's shared memory.
    """
    if not prefix:
        raise ValueError("prefix must not be empty: that would remove the shared memory of every program")
    stale = names(prefix)
    for name in stale:
        (SHARED_MEMORY / name).unlink(missing_ok=True)
    return stale


def _page_up(count_bytes: int) -> int:
    """The next page border."""
    return -(-count_bytes // PAGE_BYTES) * PAGE_BYTES


def _path(name: str) -> Path:
    """File of a segment, if the name can be one."""
    if not NAME_PATTERN.fullmatch(name):
        raise ValueError(
            f"segment name must be 1 to 200 letters, digits, dots, dashes or underscores, was {name!r}"
        )
    return SHARED_MEMORY / name


@contextmanager
def _opened(name: str, access: int = os.O_RDWR) -> Iterator[int]:
    """A file descriptor of the segment, closed at the end: a mapping needs none."""
    file = os.open(SHARED_MEMORY / name, access | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield file
    finally:
        os.close(file)


def _map(file: int, size: int, *, writable: bool = True, owned: bool) -> mmap.mmap:
    """Map the whole segment; if it is ours every page at once, instead of one fault at a time later, unless told otherwise."""
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    mapping = mmap.mmap(file, size, flags=mmap.MAP_SHARED, prot=access)
    if writable and _pages.huge:
        mapping.madvise(mmap.MADV_HUGEPAGE)
    if owned and (_pages.huge or _pages.prefault):
        populate(mapping)
    return mapping


def _check(name: str, layout: SegmentLayout, mapping: mmap.mmap, size: int) -> None:
    """Refuse a mapping that is not, or not yet, a segment of this layout."""
    header = np.frombuffer(mapping, np.int64, LINE_CELLS)
    magic = load_cell(header, MAGIC_AT)  # pairs with the release in `create`: the header is complete (S1)
    if magic != MAGIC:
        raise _mismatch(name, f"begins with {magic & (1 << 64) - 1:#x}", f"ringpit's {MAGIC:#x}")
    for index, label, expected in (
        (FORMAT_AT, "segment format", FORMAT_VERSION),
        (VERSION_AT, "layout version", layout.version),
        (DIGEST_AT, f"the digest of a {layout.kind} layout,", layout.digest),
        (BYTES_AT, "size in bytes", layout.bytes_total),
    ):
        if header[index] != expected:
            raise _mismatch(name, f"has {label} {header[index]}", str(expected))
    if size != layout.bytes_total:
        raise _mismatch(name, f"is {size} bytes long", str(layout.bytes_total))


def _mismatch(name: str, found: str, expected: str) -> SegmentMismatch:
    """The sentence that says what is wrong with a segment and what to do."""
    return SegmentMismatch(
        f"segment {name} {found}, expected {expected}: it belongs to another version or another program; "
        f"stop the other ringpit, or remove {SHARED_MEMORY / name} if none runs"
    )


def _space_sentence(name: str, needed_bytes: int) -> str:
    """The sentence that says how much is missing and how to get it."""
    disk = os.statvfs(SHARED_MEMORY)
    mebibyte = 1 << 20
    free, total = disk.f_bavail * disk.f_frsize // mebibyte, disk.f_blocks * disk.f_frsize // mebibyte
    needed = -(-needed_bytes // mebibyte)
    return (
        f"segment {name} needs {needed} MiB in {SHARED_MEMORY} and {free} MiB are free: make rings or limits smaller, or run "
        f"`mount -o remount,size={total + needed}M {SHARED_MEMORY}` (in a container: --shm-size={total + needed}m)"
    )
