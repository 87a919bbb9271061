"""
What a load run leaves: a table for people, a JSON file with everything, and a plot of latency against rate.

The file holds machine, yardsticks of the same minute, configuration, workload, what latency means, and each rate's figures; the
plot (PNG, only with matplotlib) has a line a percentile up to the knee, and the achieved rate below.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from ringpit.perf import harness
from ringpit.perf.load_run import (
    KNEE_RATE_MAX,
    QUANTILES,
    Result,
    Workload,
    as_json,
    digest_of,
    drawn,
    knee_of,
    measured,
)
from ringpit.shards.asking import console_of_any_width
from ringpit.shards.config import Config, explain

KIND: Final = "ringpit-load"
NS_PER_US: Final = 1_000
NS_PER_MS: Final = 1_000_000
WITHOUT_MATPLOTLIB: Final = "no plot: matplotlib is missing; pip install 'ringpit[plots]'"
PLOTTED: Final = ("p50", "p90", "p99", "p99.9", "max")


def record_of(config: Config, workload: Workload, results: list[Result]) -> dict[str, Any]:
    """What is saved."""
    return {
        "kind": KIND,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": harness.machine(),
        "yardsticks": {
            "memory_copy_gb_per_s": harness.memory_copy_gb_per_s(),
            "pointer_chase_ns": harness.pointer_chase_ns(),
        },
        "measured": measured(config),
        "workload": asdict(workload)
        | {"orders_digest": digest_of(drawn(config, workload, min(result.rate for result in results)))},
        "config": {path: value for path, value, _ in explain(config)},
        "knee": knee_of(results),
        "rates": [as_json(result) for result in results],
    }


def save(record: dict[str, Any], folder: Path, say: Callable[[str], None]) -> Path:
    """Write JSON and plot into a folder; the JSON's path. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"load-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}.json"
    path.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    say(f"saved {path}")
    picture = path.with_suffix(".png")
    if plot(record, picture):
        say(f"saved {picture}")
    else:
        say(WITHOUT_MATPLOTLIB)
    return path


def us_text(duration_ns: int) -> str:
    """Nanoseconds as microseconds for a column."""
    return (
        f"{duration_ns / NS_PER_US:,.0f}"
        if duration_ns >= 100 * NS_PER_US
        else f"{duration_ns / NS_PER_US:,.1f}"
    )


def time_text(duration_ns: int) -> str:
    """Nanoseconds as short as a column wants: microseconds, from 10 ms on milliseconds."""
    return us_text(duration_ns) if duration_ns < 10 * NS_PER_MS else f"{duration_ns / NS_PER_MS:,.0f} ms"


def table_of(record: dict[str, Any]) -> Table:
    """Rate x percentile."""
    table = Table(
        title="Latency by rate: microseconds, or ms",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for heading in ("orders/s", "achieved", *(name for name, _ in QUANTILES), "late"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in record["rates"]:
        table.add_row(
            f"{each['rate']:,.0f}",
            f"{each['achieved']:,.0f}",
            *(time_text(each["latency_ns"][name]) for name, _ in QUANTILES),
            f"{each['late']:,}",
            style="" if each["kept_up"] else "dim",
        )
    return table


def missing_of(record: dict[str, Any]) -> int:
    """Orders of all rates without a report, or, where none can be read, without acknowledgement."""
    return sum(
        each["timed"] - each["answered"] if each["answered"] else each["orders"] - each["acknowledged"]
        for each in record["rates"]
    )


def refused_of(record: dict[str, Any]) -> str:
    """Refusals of all rates by reason; empty: none."""
    total: Counter[str] = Counter()
    for each in record["rates"]:
        total.update(each["refused"])
    return ", ".join(f"{count:,} {reason}" for reason, count in total.most_common())


def print_record(record: dict[str, Any]) -> None:
    """The table and what it means, on standard output."""
    out: Console = console_of_any_width()
    workload, machine, yardsticks = record["workload"], record["machine"], record["yardsticks"]
    out.print(table_of(record), highlight=False)
    arrivals = workload["arrivals"]
    if arrivals == "burst":
        arrivals = f"bursts of {workload['burst']}"
    lines = [
        f"latency    {record['measured']}",
        (
            f"workload   {workload['mix']}, {workload['events']} events, zipf {workload['zipf']:g}, {workload['encoding']}, "
            f"{workload['frame']} orders a delivery, {arrivals}, {workload['seconds']:g} s a rate, seed {workload['seed']}"
        ),
        (
            f"machine    {machine['model']}, {machine['cores']} cores, load {machine['load']}; memory copy "
            f"{yardsticks['memory_copy_gb_per_s']:.1f} GB/s, pointer chase {yardsticks['pointer_chase_ns']:.0f} ns"
        ),
    ]
    if missing := missing_of(record):
        lines.append(f"unanswered {missing:,} of all orders: look for what died, or for a shorter run")
    if refused := refused_of(record):
        lines.append(f"refused    {refused}; a cancel of what has traded is UNKNOWN_ORDER, and part of a mix")
    lost = [each for each in record["rates"] if not each["kept_up"]]
    if lost:
        lines.append(
            f"knee       {record['knee']:,.0f} orders/s; at {lost[0]['rate']:,.0f} it did not keep up: from there on times are "
            "those of a growing queue"
        )
    elif record["workload"]["find_knee"]:
        lines.append(f"knee       not reached up to {KNEE_RATE_MAX:,} orders/s")
    for line in lines:
        out.print(line, highlight=False, markup=False)


def title_of(record: dict[str, Any]) -> str:
    """What was run where."""
    workload, machine = record["workload"], record["machine"]
    return (
        f"ringpit load: {workload['mix']}, {workload['events']} events, {workload['encoding']}, {workload['frame']} a delivery; "
        f"{machine['model']}, {machine['cores']} cores"
    )


def plot(record: dict[str, Any], path: Path) -> bool:
    """Draw latency against rate: `rates`, `knee`, and `title` or what it is made of. False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False

    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    rates = [each["rate"] for each in record["rates"]]
    for name in PLOTTED:
        if name not in record["rates"][0]["latency_ns"]:
            continue
        axes.plot(
            rates,
            [each["latency_ns"][name] / NS_PER_US for each in record["rates"]],
            marker="o",
            markersize=4,
            label=name,
        )
    lost = [each["rate"] for each in record["rates"] if not each["kept_up"]]
    if lost and record["knee"]:
        axes.axvspan(record["knee"], max(rates), color="0.9", label="does not keep up")
        axes.axvline(record["knee"], color="0.4", linestyle="--", label=f"knee {record['knee']:,.0f}/s")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(rates, [f"{rate:,.0f}" for rate in rates], rotation=30, minor=False)
    axes.minorticks_off()
    axes.set_xlabel("orders a second, open loop")
    axes.set_ylabel("microseconds from due to report")
    axes.set_title(record.get("title") or title_of(record), fontsize=10)
    axes.grid(visible=True, which="major", color="0.85")
    axes.legend(fontsize=9, loc="best")
    figure.savefig(path)
    return True
