"""
Pages: memory that is there before it is needed, in large pages where they can be had, and never on the disk.

    prefault    every page of an array, now      else the first touch is a page fault in the middle of an order
    huge pages  2 MiB instead of 4 KiB           fewer walks of page tables where rings and tables are read at random
    locking     no page leaves memory            only with swap, or where files push memory out

What the machine does not grant is no error: `huge_complaint` and `lock` answer with one line that says what is missing and
how to get it. Large numpy arrays ask for huge pages by themselves (numpy does); this is about shared memory, where the mount
decides, and Linux mounts /dev/shm without them.

Slow here: prefaulting costs 0.2 to 1 ms per MiB in small pages. Measured: tables of 93 MiB 20 to 48 ms; attaching a segment of
17 MiB 16 ms, in huge pages 1 ms; so only its owner prefaults it.
"""

import ctypes
import errno
import mmap
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

PAGE_BYTES: Final = 4_096
MADV_POPULATE_WRITE: Final = 23  # Linux 5.14; <asm-generic/mman-common.h>
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4  # <asm-generic/mman.h>
CAP_IPC_LOCK: Final = 14  # <linux/capability.h>: the limit of locked memory does not hold
HUGE_MOUNTS: Final = ("huge=advise", "huge=within_size", "huge=always")
MOUNTS: Final = Path("/proc/self/mounts")
STATUS: Final = Path("/proc/self/status")
FORCED: Final = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - a mount point, compared with names of mount points


def huge_complaint() -> str:
    """Why shared memory gets no huge pages here, and what to do; empty: it does."""
    if FORCED.exists() and "[force]" in FORCED.read_text(encoding="ascii"):
        return ""
    options = ""
    for line in MOUNTS.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words[1] == SHARED_MEMORY:
            options = words[3]  # the last one that is mounted there counts
    if any(option in HUGE_MOUNTS for option in options.split(",")):
        return ""
    return (
        f"shared memory has no huge pages: {SHARED_MEMORY} is mounted without them; "
        f"`mount -o remount,huge=advise {SHARED_MEMORY}` gives them to whoever asks, as this exchange does"
    )


def populate(mapping: mmap.mmap) -> None:
    """Have every page of a shared mapping there and writable. Raises OSError if there is no room."""
    try:
        mapping.madvise(MADV_POPULATE_WRITE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        np.frombuffer(mapping, np.int8)[::PAGE_BYTES].sum()  # an older kernel: whoever reads a page has it, too


def prefault(arrays: Iterable[np.ndarray]) -> int:
    """Have every page of some arrays there and writable, whatever they hold; the bytes. Views of one array count twice."""
    libc = ctypes.CDLL(None, use_errno=True)
    total = 0
    for array in arrays:
        begin = array.ctypes.data // PAGE_BYTES * PAGE_BYTES
        end = array.ctypes.data + array.nbytes
        if array.nbytes and libc.madvise(
            ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_POPULATE_WRITE
        ):
            continue  # an older kernel: the pages come when they are touched, as they always did
        total += array.nbytes
    return total


def may_lock() -> bool:
    """True if this process may lock as much as it likes: a limit that is reached later would end it in the middle of work."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard == resource.RLIM_INFINITY and soft != hard:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return True
    for line in STATUS.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> CAP_IPC_LOCK & 1)
    return False


def lock_complaint() -> str:
    """Why memory cannot be locked here, and what to do; empty: it can."""
    if may_lock():
        return ""
    limit_kib = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] >> 10
    return (
        f"memory is not locked: at most {limit_kib} KiB may be; raise the limit with LimitMEMLOCK=infinity in the systemd unit, "
        "`ulimit -l unlimited` in a shell, or --ulimit memlock=-1 for a container"
    )


def lock() -> str:
    """Keep what this process has and will touch in memory; empty, or why not and what to do."""
    complaint = lock_complaint()
    if complaint:
        return complaint
    if ctypes.CDLL(None, use_errno=True).mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT):
        return f"memory is not locked: mlockall failed with error {ctypes.get_errno()}; set memory.lock to off to be without it"
    return ""
