"""
The performance page, made again from what benchmarks have saved.

    python -m ringpit.perf NAME --save FOLDER        FOLDER/NAME.jsonl     a record a line; the newest of each kind counts
    ringpit load --save FOLDER                       FOLDER/load-*.json    likewise, the newest of each workload
    ringpit doctor --json > FOLDER/doctor.jsonl      the machine
    FOLDER/not-measured.txt                          a line for each figure that could not be had: what: why

    python -m ringpit.perf report FOLDER             docs/performance.md and its plots

The same folder gives the same page. Nothing is measured here, and nothing on the page is typed by hand.
"""

import argparse
import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from ringpit.perf.harness import number_text
from ringpit.perf.load_report import KIND, plot, us_text
from ringpit.perf.load_run import QUANTILES

PAGE: Final = Path("docs/performance.md")
COLUMNS_MAX: Final = 8  # cases beside each other
ASKED: Final = "rates"  # of which a record is one
Record = dict[str, Any]


def add_command(commands: Any) -> None:
    """The subcommand, beside those of the benchmarks."""
    command = commands.add_parser("report", help="make the performance page from saved records")
    command.add_argument("folder", type=Path, help="where records were saved (--save)")
    command.add_argument("--page", type=Path, default=PAGE, help=f"what is written ({PAGE})")


def main(arguments: argparse.Namespace) -> int:
    """Write the page. Exit 0 done, 2 nothing was saved there, or something that is no record."""
    try:
        text = page_of(arguments.folder, arguments.page.parent / arguments.page.stem)
    except ValueError as error:
        print(f"report: {error}")
        return 2
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.write_text(text, encoding="utf-8")
    print(f"written    {arguments.page}")
    return 0


# Reading ---------------------------------------------------------------------------------------------------


def records_of(folder: Path) -> list[Record]:
    """Benchmark records, the newest of each name and options, in the order of names. ValueError names a broken line."""
    newest: dict[tuple[str, str], Record] = {}
    for path in sorted(folder.glob("*.jsonl")):
        if path.name == "doctor.jsonl":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            record = parsed(line, f"{path}, line {number}")
            record.get("options", {}).pop(ASKED, None)
            key = (record["benchmark"], json.dumps(record.get("options", {}), sort_keys=True))
            if key not in newest or newest[key]["at"] <= record["at"]:
                newest[key] = record
    return [newest[key] for key in sorted(newest, key=lambda key: (key[0], order_of(newest[key])))]


def parsed(line: str, place: str) -> Record:
    """A line's record. ValueError if it is none."""
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not {"benchmark", "at", "machine"} <= record.keys():
        raise ValueError(f"{place} is no record of a benchmark: save with --save, or remove it")
    return record


def order_of(record: Record) -> list[tuple[int, float, str]]:
    """Options as something to sort by: numbers by size, others by name."""
    values = record.get("options", {}).values()
    return [(0, float(v), "") if isinstance(v, int | float) else (1, 0.0, str(v)) for v in values]


def loads_of(folder: Path) -> list[Record]:
    """Load runs, the newest of each workload."""
    newest: dict[str, Record] = {}
    for path in sorted(folder.glob("load-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("kind") != KIND:
            raise ValueError(f"{path} is no record of ringpit load: remove it")
        newest[json.dumps([record["workload"], record["measured"]], sort_keys=True)] = record
    return list(newest.values())


# Writing ---------------------------------------------------------------------------------------------------


def page_of(folder: Path, pictures: Path) -> str:
    """The whole page; plots go into `pictures`. ValueError if nothing was saved."""
    records, loads = records_of(folder), loads_of(folder)
    if not records and not loads:
        raise ValueError(
            f"{folder} holds no saved record: run `python -m ringpit.perf NAME --save {folder}` first"
        )
    parts = [
        "# Performance",
        (
            "Made by `python -m ringpit.perf report` from saved records; edit nothing here. Every figure is the median of its "
            "repeats, with the lowest and the highest; yardsticks are of the same seconds. Compare machines by multiples of a "
            "yardstick, not by figures."
        ),
        machines([*records, *loads]),
    ]
    measured = [record for record in records if "figures" in record]
    for name, group in groupby(measured, key=lambda record: str(record["benchmark"])):
        parts.append(benchmark_section(name, list(group), pictures))
    if loads:
        parts.append(load_section(loads, pictures))
    parts.append(doctor_section(folder / "doctor.jsonl"))
    done = {record["benchmark"] for record in measured}
    refused = [record for record in records if "cannot" in record and record["benchmark"] not in done]
    parts.append(missing_section(refused, folder))
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Iterable[str], rows: Iterable[Iterable[str]], *, numbers: bool = True) -> str:
    """A Markdown table; the first column is text, the others are numbers or not."""
    header = list(header)
    lines = [header, ["---", *["---:" if numbers else "---"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def machines(records: list[Record]) -> str:
    """Each machine once."""
    seen: dict[str, list[str]] = {}
    for record in records:
        one = record["machine"]
        name = f"{one['model']}, {one['cores']} cores, {one['memory_gib']} GiB"
        rest = f"{one['kernel']}, Python {one['python']}, numba {one['numba']}, numpy {one['numpy']}"
        seen.setdefault(f"{name}; {rest}", []).append(str(one["load"]))
    rows = [
        (name, str(len(loads)), f"{min(map(float, loads)):g} to {max(map(float, loads)):g}")
        for name, loads in seen.items()
    ]
    return "## Machines\n\n" + table(("machine", "records", "load average when they began"), rows)


def benchmark_section(name: str, records: list[Record], pictures: Path) -> str:
    """One benchmark: its workload, what varies between cases, figures and yardsticks."""
    shown = [
        key for key in records[0]["options"] if len({str(record["options"].get(key)) for record in records}) > 1
    ]
    fixed = {key: value for key, value in records[0]["options"].items() if key not in shown}
    head = [f"## {name}", f"{records[0]['workload']}."]
    if fixed:
        head.append("Options: " + ", ".join(f"{key} {value}" for key, value in fixed.items()) + ".")
    parts = ["\n\n".join(head)]
    parts += [cases_table(records[at : at + COLUMNS_MAX], shown) for at in range(0, len(records), COLUMNS_MAX)]
    if "rate" in shown and latency_plot(records, pictures / f"{name}.png"):
        parts.append(f"![{name}]({pictures.name}/{name}.png)")
    return "\n\n".join(parts)


def cases_table(records: list[Record], shown: list[str]) -> str:
    """Figures down, cases across."""
    header = [
        "",
        *(", ".join(f"{key} {record['options'].get(key)}" for key in shown) or "median" for record in records),
    ]
    rows = []
    for title in ("figures", "yardsticks"):
        names = dict.fromkeys(name for record in records for name in record[title])
        form = "{}" if title == "figures" else "*{}*"
        rows += [
            [form.format(name), *(spread_text(each[title].get(name)) for each in records)] for name in names
        ]
    rows.append(["repeats, date", *(f"{record['repeat']}, {record['at'][:10]}" for record in records)])
    return table(header, rows)


def spread_text(spread: dict[str, float] | None) -> str:
    """Median, and the ends if they differ."""
    if spread is None:
        return ""
    ends = [number_text(spread[name]) for name in ("lowest", "highest")]
    middle = number_text(spread["median"])
    return middle if ends == [middle, middle] else f"{middle} ({ends[0]} to {ends[1]})"


def latency_plot(records: list[Record], path: Path) -> bool:
    """Percentiles against rate as `ringpit load` draws them; False without matplotlib, or without percentiles."""
    names = {"p50": "p50_us", "p99": "p99_us", "p99.9": "p99_9_us", "max": "max_us"}
    if any(figure not in record["figures"] for record in records for figure in names.values()):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    rates = [
        {
            "rate": record["options"]["rate"] * 1e6,
            "latency_ns": {name: record["figures"][figure]["median"] * 1_000 for name, figure in names.items()},
            "kept_up": True,
        }
        for record in records
    ]
    title = (
        f"{records[0]['benchmark']}; {records[0]['machine']['model']}, {records[0]['machine']['cores']} cores"
    )
    return plot({"rates": rates, "knee": 0, "title": title}, path)


def load_section(loads: list[Record], pictures: Path) -> str:
    """Each load run: workload, rate x percentile, plot."""
    parts = ["## load"]
    for number, record in enumerate(loads, 1):
        workload = record["workload"]
        parts.append(
            f"Open loop, {workload['mix']}, {workload['events']} events, zipf {workload['zipf']:g}, {workload['encoding']}, "
            f"{workload['frame']} orders a delivery, arrivals {workload['arrivals']}, {workload['seconds']:g} s a rate, seed "
            f"{workload['seed']}. Microseconds {record['measured']}."
        )
        header = ("orders/s", "achieved", *(name for name, _ in QUANTILES), "late sends", "kept up")
        rows = [
            (
                f"{each['rate']:,.0f}",
                f"{each['achieved']:,.0f}",
                *(us_text(each["latency_ns"][name]) for name, _ in QUANTILES),
                f"{each['late']:,}",
                "yes" if each["kept_up"] else "no",
            )
            for each in record["rates"]
        ]
        parts.append(table(header, rows))
        yardsticks = ", ".join(f"{name} {number_text(value)}" for name, value in record["yardsticks"].items())
        parts.append(f"Beside it: {yardsticks}; load average {record['machine']['load']}.")
        pictures.mkdir(parents=True, exist_ok=True)
        if plot(record, pictures / f"load-{number}.png"):
            parts.append(f"![load {number}]({pictures.name}/load-{number}.png)")
    return "\n\n".join(parts)


def doctor_section(path: Path) -> str:
    """What the doctor found, if it was asked."""
    if not path.exists():
        return ""
    findings = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [(each["name"], each["severity"], each["found"]) for each in findings]
    return "## The machine's readiness\n\n" + table(
        ("finding of `ringpit doctor`", "severity", "found"), rows, numbers=False
    )


def missing_section(refused: list[Record], folder: Path) -> str:
    """What could not be measured, and why."""
    rows = [(str(record["benchmark"]), str(record["cannot"])) for record in refused]
    notes = folder / "not-measured.txt"
    if notes.exists():
        lines = [line for line in notes.read_text(encoding="utf-8").splitlines() if line.strip()]
        rows += [(what.strip(), why.strip()) for what, _, why in (line.partition(":") for line in lines)]
    return "## Not measured\n\n" + table(("what", "why"), rows, numbers=False) if rows else ""
