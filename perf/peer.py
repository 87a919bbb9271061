"""
The C++ queue that the ring is compared with: `queue.cpp` beside this file, compiled when it is wanted.

A textbook ring of one producer and one consumer, in two threads of one process, on the same cores in the same
minute. Without a C++ compiler it is left out, and the benchmark says so. The program is kept under build/perf, by the
digest of its source and of the compiler's name.
"""

import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from ringpit.perf.harness import RESULTS_FOLDER

SOURCE: Final = Path(__file__).with_name("queue.cpp")
COMPILERS: Final = ("c++", "g++", "clang++")
FLAGS: Final = ("-O3", "-march=native", "-std=c++17", "-pthread")
PATIENCE_SECONDS: Final = 120


class Moved(NamedTuple):
    """What the queue did: records a second and the sum of the numbers that arrived."""

    singly_per_s: float
    sum_singly: int
    batched_per_s: float
    sum_batched: int


@cache
def program() -> tuple[Path | None, str]:
    """The compiled queue and the compiler's version; None and the reason if there is none."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        return None, f"left out: no C++ compiler ({', '.join(COMPILERS)}) on PATH; install g++"
    digest = hashlib.sha256(SOURCE.read_bytes() + compiler.encode()).hexdigest()[:12]
    made = (RESULTS_FOLDER / f"queue-{digest}").resolve()
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [compiler, *FLAGS, str(SOURCE), "-o", str(made)],
            capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        if done.returncode:
            return None, f"left out: {compiler} could not compile {SOURCE.name}: {done.stderr.strip()[:200]}"
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return made, told.stdout.partition("\n")[0]


def measure_queue(cores: tuple[int | None, int | None], records: int, batch: int, slots: int) -> Moved | None:
    """
    Move records through the C++ queue, one at a time and in batches; None if there is no program.

    Raises RuntimeError if records came out of order.
    """
    made, _ = program()
    if made is None:
        return None
    pinned = [str(-1 if core is None else core) for core in cores]
    words = [str(made), *pinned, str(records), str(batch), str(slots)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    if done.returncode:
        raise RuntimeError(f"the C++ queue must keep the order, it ended with code {done.returncode}")
    singly, sum_singly, batched, sum_batched = done.stdout.split()
    return Moved(float(singly), int(sum_singly), float(batched), int(sum_batched))
