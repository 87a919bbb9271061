"""Pages: what is there after prefaulting, what is asked for, and what is said where it cannot be had."""

import mmap
import resource
from pathlib import Path

import numpy as np
import pytest

from ringpit.ipc import pages, segment
from ringpit.ipc.segment import Region, Segment, SegmentLayout

LAYOUT = SegmentLayout("test", ("word",), (Region("table", np.dtype("<i8"), 1 << 16),))


@pytest.fixture(autouse=True)
def ways_of_mapping_restored():
    """Whatever a test asks for, the next one maps as ever."""
    yield
    segment.use_pages(huge=False, prefault=True)


def resident_kib(address):
    """Memory of the mapping that holds an address."""
    inside = False
    with Path("/proc/self/smaps").open(encoding="ascii") as lines:
        for line in lines:
            first = line.split()[0]
            if "-" in first and not first.endswith(":"):
                begin, end = (int(part, 16) for part in first.split("-"))
                inside = begin <= address < end
            elif inside and first == "Rss:":
                return int(line.split()[1])
    raise AssertionError(f"{address:#x} is not mapped")


@pytest.mark.parametrize(
    ("huge", "prefault", "there"), [(False, True, True), (True, False, True), (False, False, False)]
)
def test_a_segment_has_its_pages_when_it_is_asked_to(segment_name, huge, prefault, there):
    """Prefaulted, and in huge pages or not, every page of an owner is there and zero; else only those that were touched."""
    segment.use_pages(huge=huge, prefault=prefault)
    with (
        Segment.create(segment_name, LAYOUT) as made,
        Segment.attach(segment_name, LAYOUT, owned=True) as owned,
        Segment.attach(segment_name, LAYOUT) as attached,
    ):
        for one, all_there in ((made, there), (owned, there), (attached, False)):
            kib = resident_kib(one.region("table").ctypes.data)
            assert all_there == (kib >= LAYOUT.bytes_total >> 10)
            assert not one.region("table").any()


def test_an_array_has_its_pages_after_prefaulting_and_keeps_what_it_holds():
    """The pages of fresh memory are there before anybody touches them."""
    mapping = mmap.mmap(-1, 1 << 20)
    array = np.frombuffer(mapping, np.int64)
    array[7] = 7
    assert resident_kib(array.ctypes.data) < 1 << 10
    assert array.nbytes == pages.prefault([array, array[:0]])
    assert 1 << 10 <= resident_kib(array.ctypes.data)
    assert 7 == array.sum()


@pytest.mark.parametrize(
    ("options", "forced", "granted"),
    [
        ("rw,nosuid", "always within_size advise [never] deny force", False),
        ("rw,huge=never", "always within_size [advise] never deny force", False),
        ("rw,huge=advise,inode64", "always within_size advise [never] deny force", True),
        ("rw", "always within_size advise never deny [force]", True),
    ],
)
def test_huge_pages_of_shared_memory_are_the_mounts_to_give(tmp_path, monkeypatch, options, forced, granted):
    """Without them one line names the mount and the command that gives them."""
    mounts, setting = tmp_path / "mounts", tmp_path / "shmem_enabled"
    mounts.write_text(f"tmpfs /run tmpfs huge=always 0 0\ntmpfs /dev/shm tmpfs {options} 0 0\n")
    setting.write_text(forced)
    monkeypatch.setattr(pages, "MOUNTS", mounts)
    monkeypatch.setattr(pages, "FORCED", setting)
    complaint = pages.huge_complaint()
    assert granted == (not complaint)
    assert granted or "mount -o remount,huge=advise /dev/shm" in complaint


@pytest.mark.parametrize(
    ("limits", "capabilities", "granted"),
    [
        ((8 << 20, 8 << 20), 0, False),
        ((8 << 20, 8 << 20), 1 << pages.CAP_IPC_LOCK, True),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 0, True),
    ],
)
def test_memory_is_locked_only_where_no_limit_can_be_met_later(
    tmp_path, monkeypatch, limits, capabilities, granted
):
    """Else one line names the limit and how to raise it, for systemd, a shell and a container."""
    status = tmp_path / "status"
    status.write_text(f"Name:\ttest\nCapEff:\t{capabilities:016x}\n")
    monkeypatch.setattr(pages, "STATUS", status)
    monkeypatch.setattr(pages.resource, "getrlimit", lambda _which: limits)
    complaint = pages.lock_complaint()
    assert granted == (not complaint)
    assert granted or "at most 8192 KiB may be; raise the limit with LimitMEMLOCK=infinity" in complaint
