"""
`ringpit latency --diff A B`: two exports side by side, and the stage that has changed most.

What changed most is what changed by most nanoseconds, for that is what the whole way feels; a stage of nanoseconds that
takes three times as long is in the table, and not in the sentence.
"""

from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from ringpit.ipc.histogram import ERROR_MAX, QUANTILES
from ringpit.shards.asking import console_of_any_width
from ringpit.shards.latency_files import FACTS, FORMAT, FORMAT_VERSION
from ringpit.shards.latency_view import duration
from ringpit.shards.stages import NAMES, WHOLE


class Facts(msgspec.Struct, rename="pascal"):
    """What latency.json says, as far as a comparison needs it."""

    format: str
    version: int
    exchange: str
    stages: list[dict[str, Any]]


def facts_of(folder: Path) -> Facts:
    """
    What a folder keeps.

    Raises ValueError, with the remedy, for what is no export.
    """
    path = folder / FACTS if folder.is_dir() else folder
    remedy = "name a folder that `ringpit latency --export` has written"
    try:
        facts = msgspec.json.decode(path.read_bytes(), type=Facts)
    except OSError as error:
        raise ValueError(f"--diff: {folder} is no export ({path}: {error.strerror}): {remedy}") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"--diff: {folder} is no export ({path}: {error}): {remedy}") from None
    if facts.format != FORMAT:
        raise ValueError(
            f"--diff: {folder} is no export (its format is {facts.format!r}, not {FORMAT!r}): {remedy}"
        )
    if facts.version != FORMAT_VERSION:
        raise ValueError(
            f"--diff: {folder} is an export of version {facts.version}, expected {FORMAT_VERSION}: export both again with this "
            "ringpit"
        )
    return facts


def changes(before: Facts, after: Facts) -> list[dict[str, Any]]:
    """A row for each stage of each shard that both have: at each quantile (before, after), in ns."""
    known = {(row["Shard"], row["Stage"]): row for row in before.stages}
    found = []
    for row in after.stages:
        old = known.get((row["Shard"], row["Stage"]))
        if old is not None:
            names = [f"{name.title()}Ns" for name, _ in QUANTILES]
            found.append(
                {"Shard": row["Shard"], "Stage": row["Stage"], "Counts": (old["Count"], row["Count"])}
                | {name: (old[name], row[name]) for name in names}
            )
    if not found:
        raise ValueError(
            "--diff: the two exports have no table in common: export both with the same of --shard and --per-shard"
        )
    return found


def most_changed(rows: list[dict[str, Any]], quantile: str) -> dict[str, Any] | None:
    """The stage that changed by most nanoseconds at a quantile; None if none did by more than a bucket is wide."""
    moved = [
        row
        for row in rows
        if row["Stage"] != NAMES[WHOLE] and all(row["Counts"]) and abs(ratio(row[quantile]) - 1) > 2 * ERROR_MAX
    ]
    return max(moved, key=lambda row: abs(row[quantile][1] - row[quantile][0]), default=None)


def ratio(pair: tuple[int, int]) -> float:
    """After by before; nothing counts as one nanosecond."""
    return max(pair[1], 1) / max(pair[0], 1)


def print_diff(first: Path, second: Path) -> None:
    """Both side by side, and what changed most. Raises ValueError for what is no export."""
    rows = changes(facts_of(first), facts_of(second))
    table = Table(title=f"{first} -> {second}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    shards = len({row["Shard"] for row in rows}) > 1
    for heading in (*(["shard"] if shards else []), "stage"):
        table.add_column(heading, no_wrap=True)
    for name, _ in QUANTILES:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = []
        for name, _ in QUANTILES:
            pair = row[f"{name.title()}Ns"]
            told = f"{duration(pair[0])} -> {duration(pair[1])}  x{ratio(pair):.2f}"
            cells.append(told if all(row["Counts"]) else "-")
        table.add_row(*([str(row["Shard"])] if shards else []), row["Stage"], *cells)
    console = console_of_any_width()
    console.print(table)
    for name in ("p50", "p99"):
        quantile = f"{name.title()}Ns"
        most = most_changed(rows, quantile)
        if most is None:
            console.print(f"at {name} no stage changed by more than the histograms can tell")
            continue
        where = f" of shard {most['Shard']}" if shards else ""
        old, new = most[quantile]
        console.print(
            f"changed most at {name}: {most['Stage']}{where}, {duration(old)} -> {duration(new)} (x{ratio(most[quantile]):.2f})"
        )
