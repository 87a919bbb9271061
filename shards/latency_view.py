"""
What `ringpit latency` shows: a table, a sentence and a hint for each look at the stages, live or as lines.

    watch.read() ──since──> Look ──parts──> rows_of, verdict_of ──> table for people, or lines of JSON

Under each table one sentence names the stage with the largest share of the whole way at the median, and the one that is
largest in the tail if that is another; a second one says where to look, and which ring fills up if one does.

Slow here: a look costs some milliseconds of the watcher's processor, nothing of the exchange's.
"""

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ringpit.ipc.histogram import QUANTILES, mean, summary
from ringpit.shards.asking import console_of_any_width
from ringpit.shards.config import load
from ringpit.shards.latency_files import Export
from ringpit.shards.saying import say
from ringpit.shards.stages import (
    MEDIAN,
    STAGES,
    TAIL,
    WHOLE,
    shares,
    since,
    slowest,
    stuck_at,
    waited_for,
)
from ringpit.shards.topology import resolved
from ringpit.shards.watching import Ring, Watch

US: Final = 1_000
MS: Final = 1_000_000
SECOND: Final = 1_000_000_000
ALL: Final = "all"
MILLIONS: Final = 10_000_000  # commands: from there on they are told in millions


class Part(NamedTuple):
    """One table: of a shard, or of all."""

    shard: int | str
    counts: np.ndarray  # stages x buckets


# What is printed --------------------------------------------------------------------------------------------


def duration(time_ns: float) -> str:
    """Nanoseconds in the unit that suits them, with three digits."""
    for unit, name in ((SECOND, "s"), (MS, "ms"), (US, "us")):
        if time_ns >= unit:
            value = time_ns / unit
            return f"{value:.{max(2 - (len(str(int(value))) - 1), 0)}f} {name}"
    return f"{time_ns:.0f} ns"


def rows_of(part: Part) -> list[dict[str, Any]]:
    """A row for each stage, as it is written as JSON."""
    rows = []
    for stage, counts, share in zip(STAGES, part.counts, shares(part.counts), strict=True):
        told = summary(counts)
        rows.append(
            {"Shard": part.shard, "Stage": stage.name, "Count": told["count"], "MeanNs": round(mean(counts))}
            | {f"{name.title()}Ns": told[name] for name, _ in QUANTILES}
            | {"Share": round(share, 4)}
        )
    return rows


def verdict_of(part: Part, release: str, pressed: Ring | None = None) -> dict[str, Any]:
    """What the rows say: the slowest stage at the median and in the tail, and where to look."""
    found = slowest(part.counts, MEDIAN[1], release)
    if found is None:
        stuck = stuck_at(part.counts, release)
        sentence = "no command has come through"
        if stuck is not None:
            sentence += f": what is taken in waits before {stuck.name!r} ends"
        told: dict[str, Any] = {"Shard": part.shard, "Slowest": None, "Stuck": stuck.name if stuck else None}
        hint = stuck.remedy if stuck else ""
    else:
        tail = slowest(part.counts, TAIL[1], release)
        assert tail is not None
        sentence = (
            f"slowest stage: {found.stage.name}, {found.share:.0%} of the whole way at {MEDIAN[0]} "
            f"({duration(found.stage_ns)} of {duration(found.whole_ns)})"
        )
        if tail.stage is not found.stage:
            sentence += f"; at {TAIL[0]}: {tail.stage.name}, {tail.share:.0%} ({duration(tail.stage_ns)})"
        told = {
            "Shard": part.shard,
            "Slowest": found.stage.name,
            "Share": round(found.share, 4),
            "SlowestAtP99": tail.stage.name,
            "ShareAtP99": round(tail.share, 4),
        }
        hint = found.stage.remedy
    if pressed is not None:
        hint = (
            f"shard {pressed.shard}'s {pressed.name} ring is {pressed.full:.0%} full: everything before it waits for the "
            f"{pressed.emptied_by}; {hint}"
        )
    return told | {"Sentence": sentence, "Hint": hint}


def count(number: int) -> str:
    """A number of commands in at most nine characters."""
    return f"{number:,}" if number < MILLIONS else f"{number / 1e6:,.0f} M"


def table_of(part: Part, title: str, release: str, marked: str | None) -> Table:
    """The rows for people, in 80 columns; `marked` is the slowest stage."""
    where = "" if part.shard == ALL else f", shard {part.shard}"
    table = Table(title=f"{title}{where}", title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    for heading in ("commands", *(name for name, _ in QUANTILES), "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    shown = {*waited_for(release), WHOLE}
    for index, (stage, row) in enumerate(zip(STAGES, rows_of(part), strict=True)):
        times = (duration(row[f"{name.title()}Ns"]) if row["Count"] else "-" for name, _ in QUANTILES)
        share = f"{row['Share']:.0%}" if index in shown else ""
        style = "bold" if stage.name == marked else ("" if index in shown else "dim")
        mark = ">" if stage.name == marked else ""
        table.add_row(mark, stage.name, count(row["Count"]), *times, share, style=style)
    return table


def told(part: Part, title: str, release: str, pressed: Ring | None, *, hints: bool = True) -> Group:
    """A table with its sentence, and where to look."""
    verdict = verdict_of(part, release, pressed)
    hint = f"look at: {verdict['Hint']}\n" if hints and verdict["Hint"] else ""
    return Group(
        table_of(part, title, release, verdict["Slowest"]), Text(verdict["Sentence"], style="bold"), Text(hint)
    )


def print_lines(parts: list[Part], period: str, seconds: float, release: str, pressed: Ring | None) -> None:
    """One JSON object a line: the rows, then what they say."""
    for part in parts:
        for row in [*rows_of(part), verdict_of(part, release, pressed)]:
            print(json.dumps({"Period": period, "Seconds": round(seconds, 3)} | row, separators=(",", ":")))
    sys.stdout.flush()


# How it is watched ------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """The command line."""

    shard: int | None
    per_shard: bool
    interval: float
    once: bool
    seconds: float | None
    as_json: bool
    export: Path | None

    def parts(self, counts: np.ndarray) -> list[Part]:
        """What tables there are of counts of shards x stages x buckets. Raises ValueError for a shard that is not there."""
        if self.shard is not None:
            if self.shard >= len(counts):
                raise ValueError(f"--shard must be from 0 to {len(counts) - 1}, was {self.shard}")
            return [Part(self.shard, counts[self.shard])]
        if self.per_shard:
            return [Part(shard, of_shard) for shard, of_shard in enumerate(counts)]
        return [Part(ALL, counts.sum(axis=0))]


class Look(NamedTuple):
    """What was seen at the end of an interval."""

    fresh: np.ndarray  # counted in it
    total: np.ndarray  # since the exchange's start
    began_ns: int
    ended_ns: int
    pressed: Ring | None  # the ring that fills up, or None


class Stopping:
    """While it is open, the first SIGINT or SIGTERM ends the watching after the look in hand; what is exported is kept."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self._asked = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Take the signals over."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, lambda *_: self._asked.set())
        return self

    def __exit__(self, *_error: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self, seconds: float) -> bool:
        """Wait so long; True, at once, if somebody asks to stop."""
        return self._asked.wait(seconds)


def looks(watch: Watch, interval_seconds: float, seconds: float | None, stopping: Stopping) -> Iterator[Look]:
    """Look once an interval until time is up, the exchange stops or somebody asks to stop."""
    began_ns = time.time_ns()
    before = watch.read()
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        left = interval_seconds if deadline is None else min(interval_seconds, deadline - time.monotonic())
        if stopping.wait(max(left, 0.0)):
            deadline = 0.0
        ended_ns, total = time.time_ns(), watch.read()
        runs = watch.runs()
        yield Look(since(total, before), total, began_ns, ended_ns, watch.pressed() if runs else None)
        if not runs or (deadline is not None and time.monotonic() >= deadline):
            return
        began_ns, before = ended_ns, total


def watch_live(watch: Watch, asked: Asked, release: str, export: Export | None, stopping: Stopping) -> None:
    """Redraw both tables once an interval."""
    with Live(Text("looking ..."), console=Console(), auto_refresh=False) as live:
        for look in looks(watch, asked.interval, None, stopping):
            keep(export, look)
            last = [
                told(part, f"last {span(look):.3g} s", release, look.pressed)
                for part in asked.parts(look.fresh)
            ]
            whole = [
                told(part, "since the start", release, None, hints=False) for part in asked.parts(look.total)
            ]
            live.update(Group(*last, *whole), refresh=True)


def watch_lines(watch: Watch, asked: Asked, release: str, export: Export | None, stopping: Stopping) -> None:
    """A table, or lines of JSON, for each interval; with `seconds` one for all of them."""
    console = console_of_any_width()
    sum_of = None
    for look in looks(watch, asked.interval, asked.seconds, stopping):
        keep(export, look)
        sum_of = (
            look if sum_of is None else look._replace(fresh=sum_of.fresh + look.fresh, began_ns=sum_of.began_ns)
        )
        if asked.seconds is not None:
            continue
        show_one(console, asked, look, release)
        sum_of = None
    if sum_of is not None:
        show_one(console, asked, sum_of, release)


def show_one(console: Console, asked: Asked, look: Look, release: str) -> None:
    """One interval."""
    parts = asked.parts(look.fresh)
    if asked.as_json:
        print_lines(parts, "interval", span(look), release, look.pressed)
        return
    for part in parts:
        console.print(told(part, f"{span(look):.3g} s", release, look.pressed))


def show_once(watch: Watch, asked: Asked, release: str, export: Export | None) -> None:
    """Since the start, once."""
    now_ns = time.time_ns()
    total = watch.read()
    look = Look(total, total, now_ns, now_ns, watch.pressed())
    keep(export, look)
    parts = asked.parts(total)
    if asked.as_json:
        print_lines(parts, "start", 0.0, release, look.pressed)
        return
    for part in parts:
        console_of_any_width().print(told(part, "since the start", release, look.pressed))


def span(look: Look) -> float:
    """Seconds of an interval."""
    return (look.ended_ns - look.began_ns) / SECOND


def keep(export: Export | None, look: Look) -> None:
    """Write an interval to what is exported, if anything is."""
    if export is not None:
        export.add(look.fresh, look.began_ns, look.ended_ns)


def watch_exchange(config: Path | None, asked: Asked) -> None:
    """Find the exchange, watch it as asked, and keep what is to be kept."""
    if asked.once and asked.seconds is not None:
        raise ValueError("--once is since the start and --seconds from now on: choose one")
    loaded = resolved(load(config))
    release = loaded.output.release
    with Watch(loaded) as watch, Stopping() as stopping:
        asked.parts(watch.read())
        export = None if asked.export is None else Export(asked.export, loaded, asked.parts)
        if asked.once:
            show_once(watch, asked, release, export)
        elif asked.as_json or asked.seconds is not None or not sys.stdout.isatty():
            watch_lines(watch, asked, release, export, stopping)
        else:
            watch_live(watch, asked, release, export, stopping)
        runs = watch.runs()
    if export is not None:
        for line in export.finish(rows_of, verdict_of):
            say(line)
    if not runs:
        say("the exchange has stopped")
