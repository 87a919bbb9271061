"""Segments: layout, mismatches, and who removes the memory when processes leave or are killed."""

import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest

from ringpit.ipc import segment
from ringpit.ipc.segment import (
    LINE_CELLS,
    PAGE_BYTES,
    SHARED_MEMORY,
    Region,
    Segment,
    SegmentError,
    SegmentExists,
    SegmentLayout,
    SegmentMismatch,
    SegmentMissing,
    SegmentSpace,
)

POINT = np.dtype([("x", "<i8"), ("y", "<i4"), ("z", "<i4")])
LAYOUT = SegmentLayout(
    "sample", ("heartbeat", "state"), (Region("points", POINT, 300), Region("bits", np.dtype("<i1"), 5)), 3
)
CREATE_AND_WAIT = """
import sys
import numpy as np
import ringpit.engine
from ringpit.ipc.segment import Region, Segment, SegmentLayout
held = Segment.create(sys.argv[1], SegmentLayout("sample", ("state",), (Region("points", np.dtype("<i8"), 9),)))
print("created", flush=True)
sys.stdin.read()
"""


def wait_until(condition, seconds=20):
    """Poll a condition until it holds; False if the deadline passes."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        os.sched_yield()
    return True


def different(**changes):
    """LAYOUT with some of its fields replaced."""
    fields = {"kind": LAYOUT.kind, "words": LAYOUT.words, "regions": LAYOUT.regions, "version": LAYOUT.version}
    return SegmentLayout(**(fields | changes))


def test_words_have_a_line_each_and_regions_start_on_pages():
    """The header takes line 0, word k line k + 1, the first region the next page."""
    assert [LINE_CELLS, 2 * LINE_CELLS] == [LAYOUT.index(word) for word in LAYOUT.words]
    assert 3 * LINE_CELLS == LAYOUT.cells_total
    assert PAGE_BYTES == LAYOUT.offset("points")
    assert 3 * PAGE_BYTES == LAYOUT.offset("bits")  # 300 points of 16 bytes are more than one page
    assert 4 * PAGE_BYTES == LAYOUT.bytes_total


def test_unknown_words_and_regions_are_named_with_those_that_exist():
    """A KeyError lists what there is."""
    with pytest.raises(KeyError, match="segment kind sample has no word stat; it has heartbeat, state"):
        LAYOUT.index("stat")
    with pytest.raises(KeyError, match="segment kind sample has no region slots; it has points, bits"):
        LAYOUT.offset("slots")
    with pytest.raises(KeyError, match="it has none"):
        SegmentLayout("bare", ("a",)).offset("")


def test_impossible_layouts_are_refused():
    """Names are unique, and a region holds at least one plain record."""
    with pytest.raises(ValueError, match="layout sample: every name must be unique, a is there twice"):
        SegmentLayout("sample", ("a",), (Region("a", POINT, 1),))
    with pytest.raises(ValueError, match="region a must hold at least 1 record of plain numbers, was 0"):
        SegmentLayout("sample", (), (Region("a", POINT, 0),))
    with pytest.raises(ValueError, match="of object"):
        SegmentLayout("sample", (), (Region("a", np.dtype(object), 1),))


def test_two_mappings_see_the_same_memory(segment_name):
    """What the creator writes, an attached segment reads, in words and in regions."""
    with Segment.create(segment_name, LAYOUT, incarnation=7) as made:
        attached = Segment.attach(segment_name, LAYOUT)
        made.store("state", -5)
        made.region("points")[299]["y"] = 11
        attached.region("bits")[4] = 1
        assert -5 == attached.load("state") == attached.cells[LAYOUT.index("state")]
        assert 11 == attached.region("points")[299]["y"]
        assert 1 == made.region("bits")[4]
        assert (7, os.getpid()) == (attached.incarnation, attached.creator)
        assert 0 == attached.load("heartbeat")
        attached.close()


def test_a_watcher_sees_everything_and_can_write_nothing(segment_name):
    """Mapped to be read: words and regions are followed as they change, and a store into them is refused."""
    with Segment.create(segment_name, LAYOUT) as made:
        watched = Segment.attach(segment_name, LAYOUT, writable=False)
        made.store("state", 7)
        made.region("points")["x"][299] = 9
        assert (7, 9) == (watched.load("state"), watched.region("points")["x"][299])
        for array in (watched.cells, watched.region("points"), watched.region("bits")):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = array[0]
        watched.close()


def test_a_new_segment_is_all_zeros_and_takes_its_whole_size_at_once(segment_name):
    """Every page is reserved when the segment is made, so that a full /dev/shm cannot kill a writer later."""
    with Segment.create(segment_name, LAYOUT) as made:
        assert not made.region("points").view("<i8").any()
        assert LAYOUT.bytes_total == (SHARED_MEMORY / segment_name).stat().st_blocks * 512


def test_arrays_that_are_still_held_stay_valid_after_close(segment_name):
    """S3: closing never pulls memory away from under an array, and may be repeated."""
    made = Segment.create(segment_name, LAYOUT)
    points = made.region("points")
    made.close()
    made.close()
    made.unlink()
    points[3]["x"] = 42
    assert 42 == points[3]["x"]
    assert 0 == made.cells.size == made.region("points").size


def test_the_name_goes_with_the_creator_and_unlinking_again_is_harmless(segment_name):
    """An attached segment may not remove the name; the creator may, twice, and even when it is gone already."""
    made = Segment.create(segment_name, LAYOUT)
    owner = f"{segment_name} was made by process {os.getpid()}, which also removes it"
    with Segment.attach(segment_name, LAYOUT) as attached, pytest.raises(SegmentError, match=owner):
        attached.unlink()
    assert [segment_name] == segment.names(segment_name)
    made.unlink()
    assert [] == segment.names(segment_name)
    made.unlink()
    made.close()


def test_a_missing_segment_is_said_with_its_file(segment_name):
    """SegmentMissing names the file."""
    with pytest.raises(
        SegmentMissing, match=f"segment {segment_name} is missing: /dev/shm/{segment_name} must be made first"
    ):
        Segment.attach(segment_name, LAYOUT)


def test_a_taken_name_is_refused_and_left_alone(segment_name):
    """SegmentExists says what to do, and the older segment goes on."""
    with Segment.create(segment_name, LAYOUT) as made:
        made.store("state", 3)
        with pytest.raises(
            SegmentExists, match=f"stop the other ringpit, or remove /dev/shm/{segment_name} if none runs"
        ):
            Segment.create(segment_name, LAYOUT)
        assert 3 == made.load("state")


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "x" * 201])
def test_names_that_are_no_file_names_are_refused(name):
    """A name can never leave /dev/shm."""
    with pytest.raises(ValueError, match="segment name must be 1 to 200 letters, digits"):
        Segment.create(name, LAYOUT)
    with pytest.raises(ValueError, match="segment name must be 1 to 200 letters, digits"):
        Segment.attach(name, LAYOUT)


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (different(version=4), "has layout version 3, expected 4"),
        (different(kind="other"), f"has the digest of a other layout, {LAYOUT.digest}, expected"),
        (different(words=("state", "heartbeat")), "has the digest of a sample layout,"),
        (different(regions=LAYOUT.regions[:1]), "has the digest of a sample layout,"),
        (different(regions=(Region("points", POINT, 301), LAYOUT.regions[1])), "has the digest"),
        (different(regions=(Region("points", np.dtype("<i8,<i8"), 300), LAYOUT.regions[1])), "has the digest"),
    ],
    ids=["version", "kind", "order of words", "regions", "count", "dtype"],
)
def test_another_layout_is_refused_with_what_to_do(segment_name, other, found):
    """Every part of the layout counts, and the sentence names found, expected and the remedy."""
    with Segment.create(segment_name, LAYOUT), pytest.raises(SegmentMismatch) as refused:
        Segment.attach(segment_name, other)
    assert f"segment {segment_name} {found}" in str(refused.value)
    assert f"stop the other ringpit, or remove /dev/shm/{segment_name} if none runs" in str(refused.value)


@pytest.mark.parametrize(
    ("cell", "value", "found"),
    [
        (segment.MAGIC_AT, 0, "begins with 0x0, expected ringpit's 0x1"),
        (segment.MAGIC_AT, -1, "begins with 0xffffffffffffffff, expected"),
        (segment.FORMAT_AT, 99, "has segment format 99, expected 1"),
        (segment.BYTES_AT, 4_096, f"has size in bytes 4096, expected {LAYOUT.bytes_total}"),
    ],
    ids=["unfinished", "foreign", "format", "size"],
)
def test_a_header_that_is_not_ours_is_refused(segment_name, cell, value, found):
    """A segment that is not finished, foreign or of another format is never used."""
    with Segment.create(segment_name, LAYOUT) as made:
        made.cells[cell] = value
        with pytest.raises(SegmentMismatch, match=found):
            Segment.attach(segment_name, LAYOUT)


@pytest.mark.parametrize(
    ("size", "found"),
    [
        (0, "is 0 bytes long, expected at least 128"),
        (64, "is 64 bytes long"),
        (PAGE_BYTES, f"is {PAGE_BYTES} bytes long, expected 16384"),
    ],
)
def test_a_file_of_another_length_is_refused(segment_name, size, found):
    """A file that is too short is refused before anything beyond its end is touched."""
    with Segment.create(segment_name, LAYOUT) as made:
        made.close()
        os.truncate(SHARED_MEMORY / segment_name, size)
        with pytest.raises(SegmentMismatch, match=found):
            Segment.attach(segment_name, LAYOUT)


def test_a_full_shared_memory_is_an_error_when_the_segment_is_made(segment_name):
    """The sentence says how much is needed, how much is free and how to get more; nothing is left."""
    disk = os.statvfs(SHARED_MEMORY)
    needed = disk.f_blocks * disk.f_frsize + (1 << 20)
    huge = SegmentLayout("huge", (), (Region("bytes", np.dtype("<i1"), needed),))
    with pytest.raises(SegmentSpace) as refused:
        Segment.create(segment_name, huge)
    assert f"segment {segment_name} needs {-(-huge.bytes_total // (1 << 20))} MiB in /dev/shm and" in str(
        refused.value
    )
    assert "mount -o remount,size=" in str(refused.value)
    assert [] == segment.names(segment_name)


def test_a_child_that_attaches_and_exits_takes_nothing_away(segment_name):
    """A process of the same family, which shares our resource tracker, leaves the segment alone."""
    with Segment.create(segment_name, LAYOUT) as made:
        child = multiprocessing.get_context("spawn").Process(target=Segment.attach, args=(segment_name, LAYOUT))
        child.start()
        child.join(60)
        assert 0 == child.exitcode
        assert [segment_name] == segment.names(segment_name)
        made.store("state", 1)
        Segment.attach(segment_name, LAYOUT).close()


def test_a_stranger_that_attaches_and_exits_takes_nothing_away(segment_name):
    """A process with a resource tracker of its own removes nothing and complains of nothing."""
    program = (
        "import numpy as np; from multiprocessing import resource_tracker as t; t.ensure_running();"
        "import ringpit.engine; from ringpit.ipc.segment import Segment, SegmentLayout;"
        f"print(Segment.attach({segment_name!r}, SegmentLayout('sample', ('state',))).load('state'))"
    )
    with Segment.create(segment_name, SegmentLayout("sample", ("state",))) as made:
        made.store("state", 8)
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
        )
        assert (0, "8\n", "") == (done.returncode, done.stdout, done.stderr)
        assert [segment_name] == segment.names(segment_name)


def test_a_killed_creator_leaves_nothing(segment_name):
    """After kill -9 the creator's resource tracker removes the segment."""
    creator = subprocess.Popen(
        [sys.executable, "-c", CREATE_AND_WAIT, segment_name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with creator:
        assert "created\n" == creator.stdout.readline()
        assert [segment_name] == segment.names(segment_name)
        creator.kill()
    assert wait_until(lambda: not segment.names(segment_name)), "the tracker did not remove it within 20 s"


def test_stale_segments_are_removed_by_prefix(segment_name):
    """What a tracker could not remove goes by name, and nothing else does."""
    for suffix in ("a", "b"):
        (SHARED_MEMORY / f"{segment_name}.{suffix}").write_bytes(bytes(10))
    with Segment.create(f"{segment_name}-kept", LAYOUT):
        stale = [f"{segment_name}.a", f"{segment_name}.b"]
        assert stale == segment.names(f"{segment_name}.")
        assert stale == segment.remove_stale(f"{segment_name}.")
        assert [] == segment.remove_stale(f"{segment_name}.")
        assert [f"{segment_name}-kept"] == segment.names(segment_name)
    with pytest.raises(ValueError, match="prefix must not be empty"):
        segment.remove_stale("")


def test_a_segment_is_ordinary_shared_memory(segment_name):
    """Any program may look at it by `multiprocessing.shared_memory`."""
    with Segment.create(segment_name, LAYOUT):
        seen = SharedMemory(segment_name)
        assert b"RINGPIT\x01" == bytes(seen.buf[:8])
        seen.close()
