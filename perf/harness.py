"""
How every benchmark is run: repeats, yardsticks, and a record of the machine.

A benchmark is a function that measures once and returns a dict. A float in it is a *figure*: the median, the
lowest and the highest of all repeats are told. Anything else is a *fact*, such as the checksum of what arrived: it
must be the same in every repeat, else the run fails, because a fast program that loses records is not fast.

    @benchmark("ring", "64-byte records between two processes", options=add_options)
    def measure(arguments: argparse.Namespace) -> dict[str, object]: ...

What takes long to set up and serves all repeats is a *stage*: a context manager over the arguments, whose
result `measure` gets as its second argument. A benchmark of several *cases* makes a record of each.

Machines differ and are noisy, so two yardsticks run beside each measurement, in the same second: the rate of a memory
copy and the time of one step of a dependent pointer chase. Compare figures of two machines, or of two days, as
multiples of a yardstick. Each run prints what it is and appends one JSON line to a file.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numba
import numpy as np
import psutil
from numba import njit

import ringpit.engine  # noqa: F401 - chooses the folder of numba's cache, before the first kernel is defined

REPEAT: Final = 10
RESULTS_FOLDER: Final = Path("build/perf")
THOUSAND: Final = 1_000
COPY_BYTES: Final = 64 << 20  # more than caches of one core hold
CHASE_CELLS: Final = 1 << 22  # 32 MiB of 8-byte cells
CHASE_STEPS: Final = 500_000

Measure = Callable[..., dict[str, object]]
Options = Callable[[argparse.ArgumentParser], None]
Stage = Callable[[argparse.Namespace], AbstractContextManager]
Cases = Callable[[argparse.Namespace], list[argparse.Namespace]]
Line = Callable[[dict], dict]


class FactsDifferError(Exception):
    """A fact was not the same in two repeats: what was measured cannot be trusted."""


class CannotMeasureError(Exception):
    """This machine cannot run the benchmark as it is meant. The sentence says what is missing."""


@dataclass(frozen=True)
class Benchmark:
    """A registered benchmark; fields as the arguments of `benchmark`."""

    name: str
    workload: str
    measure: Measure
    options: Options | None = None
    warm_ups: int = 1
    stage: Stage | None = None
    cases: Cases | None = None
    line: Line | None = None


BENCHMARKS: Final[dict[str, Benchmark]] = {}


def benchmark(
    name: str,
    workload: str,
    *,
    options: Options | None = None,
    warm_ups: int = 1,
    stage: Stage | None = None,
    cases: Cases | None = None,
    line: Line | None = None,
) -> Callable[[Measure], Measure]:
    """
    Register the function below as a benchmark.

    Args:
        name: What is typed to run it.
        workload: One sentence: what is done, how often, to what.
        options: Adds the benchmark's own options to its argument parser.
        warm_ups: Measurements made first and thrown away (compilation, page faults).
        stage: What all repeats of a case share; entered once, given to `measure` behind the arguments.
        cases: The arguments of each case that the arguments ask for; without it they are the only case.
        line: What --json prints of a record, instead of all of it and of the text.

    Raises:
        ValueError: The name is taken.
    """

    def register(measure: Measure) -> Measure:
        if name in BENCHMARKS:
            raise ValueError(f"benchmark {name} is registered twice: choose another name")
        BENCHMARKS[name] = Benchmark(name, workload, measure, options, warm_ups, stage, cases, line)
        return measure

    return register


def run(chosen: Benchmark, arguments: argparse.Namespace, repeat: int = REPEAT) -> dict[str, object]:
    """
    Measure `repeat` times with both yardsticks beside each, and return the record for the results file.

    Raises:
        FactsDifferError: A fact was not the same each time.
        CannotMeasureError: The machine lacks what the benchmark needs.
    """
    described = machine()
    measured, yardsticks = [], []
    with affinity_restored(), nullcontext() if chosen.stage is None else chosen.stage(arguments) as staged:
        given = (arguments,) if chosen.stage is None else (arguments, staged)
        for _ in range(chosen.warm_ups):
            with affinity_restored():
                chosen.measure(*given)
        for _ in range(repeat):
            yardsticks.append(
                {"memory_copy_gb_per_s": memory_copy_gb_per_s(), "pointer_chase_ns": pointer_chase_ns()}
            )
            with affinity_restored():
                measured.append(chosen.measure(*given))
    options = {key: value for key, value in vars(arguments).items() if key not in COMMON_OPTIONS}
    return {
        "benchmark": chosen.name,
        "workload": chosen.workload,
        "options": options,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": described,
        "repeat": repeat,
        "yardsticks": spread_of(yardsticks),
        "figures": spread_of(measured),
        "facts": facts_of(measured),
    }


def spread_of(measured: list[dict]) -> dict[str, dict[str, float]]:
    """Median, lowest and highest of every float."""
    names = [name for name, value in measured[0].items() if isinstance(value, float)]
    return {
        name: {
            "median": statistics.median(values),
            "lowest": min(values),
            "highest": max(values),
        }
        for name in names
        for values in [[one[name] for one in measured]]
    }


def facts_of(measured: list[dict]) -> dict[str, object]:
    """Everything that is not a float, once; FactsDifferError if it changed."""
    facts = {name: value for name, value in measured[0].items() if not isinstance(value, float)}
    for one in measured:
        for name, value in facts.items():
            if one[name] != value:
                raise FactsDifferError(
                    f"{name} must be the same in every repeat, was {value} and then {one[name]}"
                )
    return facts


def text_of(record: dict) -> str:
    """What a run prints: workload, machine, yardsticks, figures, facts."""
    described = record["machine"]
    options = ", ".join(f"{name} {value}" for name, value in record["options"].items()) or "none"
    lines = [
        f"{record['benchmark']}: {record['workload']}",
        f"options    {options}",
        f"machine    {described['model']}, {described['cores']} cores, {described['memory_gib']} GiB, load {described['load']}",
        f"           {described['kernel']}, Python {described['python']}, numba {described['numba']}, numpy {described['numpy']}",
        f"repeats    {record['repeat']}",
        "",
        f"{'':<58}{'median':>16}{'lowest':>16}{'highest':>16}",
    ]
    for title, group in (("yardstick", record["yardsticks"]), ("figure", record["figures"])):
        for name, spread in group.items():
            figures = "".join(
                f"{number_text(spread[column]):>16}" for column in ("median", "lowest", "highest")
            )
            lines.append(f"{title:<10} {name:<47}{figures}")
    lines += [f"fact       {name:<47} {value}" for name, value in record["facts"].items()]
    return "\n".join(lines)


def number_text(value: float) -> str:
    """A figure for people: four digits, or all the whole ones."""
    return f"{value:,.0f}" if abs(value) >= THOUSAND else f"{value:.4g}"


def refusal_of(chosen: Benchmark, error: CannotMeasureError) -> dict[str, object]:
    """The record of a benchmark that this machine cannot run."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"benchmark": chosen.name, "at": at, "machine": machine(), "cannot": str(error)}


def append_to(path: Path, record: dict) -> None:
    """Append the record to a results file as one line of JSON; folders are made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, default=str) + "\n")


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "model": processor_model(),
        "cores": len(cores()),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30)),
        "load": round(os.getloadavg()[0], 2),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numba": numba.__version__,
        "numpy": np.__version__,
    }


def processor_model() -> str:
    """The processor's name as Linux tells it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        label, _, value = line.partition(":")
        if label.strip() == "model name":
            return value.strip()
    return platform.machine()  # ARM kernels tell no name


@functools.cache
def cores() -> tuple[int, ...]:
    """Cores that this process may use, as it was started: pinning later does not change the answer."""
    return tuple(sorted(os.sched_getaffinity(0)))


def cores_for(processes: int) -> tuple[int | None, ...]:
    """A core of its own for each process; None for each if there are not enough, so that nobody is pinned."""
    if len(cores()) < processes:
        return (None,) * processes
    return cores()[:processes]


def pin(core: int | None) -> None:
    """Run the calling process on one core only; None: leave it alone."""
    if core is not None:
        os.sched_setaffinity(0, {core})


@contextmanager
def affinity_restored() -> Iterator[None]:
    """Undo at the end whatever was pinned inside."""
    before = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@functools.cache
def _copy_tables() -> tuple[np.ndarray, np.ndarray]:
    """Source and target of the copy, touched once."""
    return np.ones(COPY_BYTES, np.int8), np.ones(COPY_BYTES, np.int8)


def memory_copy_gb_per_s() -> float:
    """Yardstick: 10**9 bytes copied per second, by one core, outside its caches."""
    source, target = _copy_tables()
    start_ns = time.perf_counter_ns()
    np.copyto(target, source)
    return COPY_BYTES / (time.perf_counter_ns() - start_ns)


@njit(cache=True, nogil=True)
def _chase(following, steps):
    """Follow the chain; each load needs the one before."""
    cell = 0
    for _ in range(steps):
        cell = following[cell]
    return cell


@functools.cache
def _chase_table() -> np.ndarray:
    """One random cycle through all cells."""
    order = np.random.default_rng(1).permutation(CHASE_CELLS)
    following = np.empty(CHASE_CELLS, np.int64)
    following[order] = np.roll(order, -1)
    _chase(following, 1)
    return following


def pointer_chase_ns() -> float:
    """Yardstick: nanoseconds for one load that depends on the one before, in 32 MiB."""
    following = _chase_table()
    start_ns = time.perf_counter_ns()
    _chase(following, CHASE_STEPS)
    return (time.perf_counter_ns() - start_ns) / CHASE_STEPS


COMMON_OPTIONS: Final = ("benchmark", "repeat", "json", "results", "save")


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options that every benchmark has."""
    parser.add_argument("--repeat", type=positive, default=REPEAT, help="measurements; the median is told")
    parser.add_argument("--json", action="store_true", help="print the JSON line too")
    parser.add_argument(
        "--results", type=Path, help="file the JSON line is appended to (build/perf/NAME.jsonl)"
    )
    parser.add_argument("--save", type=Path, help="or the folder of that file, for `report`")


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, was {text}")
    return int(text)
