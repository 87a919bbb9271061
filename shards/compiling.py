"""
The first start on a machine: all kernels compiled, on two cores or three, and how far it is while it goes.

    parts of warm.py, a process each ──machine code──> numba's cache ──> warm() in every later process loads it

Numba compiles in one thread. The engine and everything else share no kernel of any size, so they are compiled beside each
other; and so is what the engine comes to last, which it then finds in the cache. Later starts load it all in about a second.

Invariant:

    CO1  whatever a part does or fails to do, `warm` afterwards compiles what is missing: a part only saves time
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from numba import config

from ringpit.shards import warm

PARTS: Final = ("compile_engine", "compile_last", "compile_edge")
SAY_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.1
LARGEST: Final = (
    "machine.process"  # the kernel that takes longest: where its code is there is nothing to be done
)


def compiled_count() -> int:
    """Kernels in numba's cache, however old."""
    return sum(1 for _ in Path(config.CACHE_DIR).glob("*/*.nbc"))


def is_cold() -> bool:
    """True if the first start is still to come."""
    return not config.DISABLE_JIT and not any(Path(config.CACHE_DIR).glob(f"*/{LARGEST}-*.nbi"))


def ready(say: Callable[[str], None]) -> float:
    """Compile or load every kernel, and say so while it goes; seconds that it took."""
    began = time.monotonic()
    if is_cold():
        say("compiling kernels, which only the first start on a machine does; it takes about 40 seconds")
        compile_parts(say)
    say("loading kernels")
    warm.warm()
    return time.monotonic() - began


def compile_parts(say: Callable[[str], None]) -> None:
    """Have every part compiled by a process of its own; they end with this call, however it ends."""
    parts = [_start(*each) for each in shares(len(os.sched_getaffinity(0)))]
    began = told = time.monotonic()
    try:
        while any(part.poll() is None for part in parts):
            time.sleep(POLL_SECONDS)
            if time.monotonic() - told >= SAY_SECONDS:
                told = time.monotonic()
                say(f"compiling kernels: {compiled_count()} are done after {told - began:.0f} s")
    finally:
        for part in parts:
            part.kill()
            part.wait()


def shares(cores: int) -> list[tuple[str, ...]]:
    """Which parts are compiled one after the other by one process: a part for each, or two processes where cores are few."""
    return [(part,) for part in PARTS] if cores >= len(PARTS) else [PARTS[:1], PARTS[1:]]


def _start(*parts: str) -> subprocess.Popen[bytes]:
    """A process that compiles parts into the cache of this process."""
    calls = "; ".join(f"warm.{part}()" for part in parts)
    command = (
        f"import gc; gc.disable(); from ringpit.shards import warm; {calls}"  # it ends soon: a twentieth saved
    )
    return subprocess.Popen(
        [sys.executable, "-c", command],
        env={**_environment(), "NUMBA_CACHE_DIR": config.CACHE_DIR},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _environment() -> dict[str, str]:
    """Ours, without what would make the child a part of an exchange."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RINGPIT_")}
