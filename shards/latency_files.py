"""
What `ringpit latency --export` keeps of the stages.

    FOLDER/latency.hlog    HdrHistogram log: a line for each interval and stage, tagged with the stage
           <stage>.hgrm    percentile distribution of the whole time, in nanoseconds
           latency.png     the same as a picture, if matplotlib is there
           latency.json    what the table says; what --diff reads (latency_diff.py)

Encoding and the percentile text are the `hdrhistogram` package's. The lines of the log are written here: its
writer knows no tags, cannot write a start time, and rounds the largest value down to whole units.

Slow here: a percentile text takes some milliseconds. Nothing of this runs in an exchange.

Invariants:

    LF1  a folder is an export once latency.json is in it, which is written last and never over another
"""

import json
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from hdrh.histogram import HdrHistogram

from ringpit.ipc.histogram import SIGNIFICANT_DIGITS
from ringpit.shards.config import Config
from ringpit.shards.stages import NAMES, STAGES, WHOLE, nothing

FORMAT: Final = "ringpit latency"
FORMAT_VERSION: Final = 1
HOUR_NS: Final = 3_600 * 10**9
NS_PER_MS: Final = 1e6
NS_PER_SECOND: Final = 1e9
PERCENTILES: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999)
FACTS: Final = "latency.json"
NO_PLOT: Final = (
    "no plot: matplotlib is not installed; `pip install 'ringpit[plots]'` and export again, or give the .hgrm files to any "
    "HdrHistogram plotter"
)


def hdr_of(counts: np.ndarray) -> HdrHistogram:
    """An HdrHistogram that holds the counts of a histogram of ours (H4 of ipc/histogram.py)."""
    hdr = HdrHistogram(1, HOUR_NS, SIGNIFICANT_DIGITS)
    np.frombuffer(hdr.counts, np.int64)[:] = counts
    used = np.flatnonzero(counts)
    if len(used):
        hdr.set_internal_tacking_values(int(used[0]), int(used[-1]), int(counts.sum()))
    return hdr


def tag_of(stage: str, shard: int | str) -> str:
    """A stage's name where no blank may stand: ring-wait, or of one shard ring-wait.0."""
    return stage.replace(" ", "-") + ("" if isinstance(shard, str) else f".{shard}")


class Export:
    """
    A folder that is being written.

    Args:
        folder: Made if it is missing.
        config: Of the exchange.
        parts: Makes the tables of counts of shards x stages x buckets.

    Raises ValueError if the folder holds an export already, or cannot be written.
    """

    def __init__(self, folder: Path, config: Config, parts: Callable[[np.ndarray], list[Any]]) -> None:
        """Write the head of the log."""
        if (folder / FACTS).exists():
            raise ValueError(f"--export: {folder} holds an export already: name another folder, or remove it")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._log = (folder / "latency.hlog").open("w", encoding="utf-8")
        except OSError as error:
            raise ValueError(
                f"--export: {error.filename} cannot be written ({error.strerror}): name another folder"
            ) from None
        self._folder = folder
        self._config = config
        self._parts = parts
        self._total = nothing(config.exchange.shards)
        self._began_ns = self._ended_ns = 0

    def _head(self, began_ns: int) -> None:
        """The lines before the first interval; times are relative to its beginning."""
        began = began_ns / NS_PER_SECOND
        self._log.write(
            f"#[Logged with ringpit {version('ringpit')}]\n"
            "#[Histogram log format version 1.3]\n"
            f"#[StartTime: {began:.3f} (seconds since epoch), {time.ctime(began)}]\n"
            f"#[BaseTime: {began:.3f} (seconds since epoch)]\n"
            '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"\n'
        )

    def add(self, counts: np.ndarray, began_ns: int, ended_ns: int) -> None:
        """An interval: a line for each stage in which something was counted."""
        if not self._began_ns:
            self._began_ns = began_ns
            self._head(began_ns)
        self._ended_ns = ended_ns
        self._total += counts
        start = (began_ns - self._began_ns) / NS_PER_SECOND
        length = (ended_ns - began_ns) / NS_PER_SECOND
        for part in self._parts(counts):
            for stage, of_stage in zip(NAMES, part.counts, strict=True):
                if of_stage.any():
                    hdr = hdr_of(of_stage)
                    self._log.write(
                        f"Tag={tag_of(stage, part.shard)},{start:.3f},{length:.3f},"
                        f"{hdr.get_max_value() / NS_PER_MS:.3f},{hdr.encode().decode()}\n"
                    )
        self._log.flush()

    def finish(
        self, rows_of: Callable[[Any], list[dict[str, Any]]], verdict_of: Callable[[Any, str], dict[str, Any]]
    ) -> Iterator[str]:
        """Write the rest (LF1); what there is to say."""
        self._log.close()
        parts = self._parts(self._total)
        for part in parts:
            for stage, counts in zip(NAMES, part.counts, strict=True):
                with (self._folder / f"{tag_of(stage, part.shard)}.hgrm").open("wb") as file:
                    hdr_of(counts).output_percentile_distribution(file, 1.0)
        title = f"{self._config.exchange.name}, {(self._ended_ns - self._began_ns) / NS_PER_SECOND:.3g} s"
        try:
            plot(self._folder / "latency.png", title, parts)
        except ModuleNotFoundError:
            yield NO_PLOT
        facts = {
            "Format": FORMAT,
            "Version": FORMAT_VERSION,
            "Exchange": self._config.exchange.name,
            "Release": self._config.output.release,
            "BeganNs": self._began_ns,
            "EndedNs": self._ended_ns,
            "Stages": [row for part in parts for row in rows_of(part)],
            "Verdicts": [verdict_of(part, self._config.output.release) for part in parts],
        }
        (self._folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
        yield f"exported to {self._folder}"


def plot(path: Path, title: str, parts: list[Any]) -> None:
    """
    A line for each stage: latency against percentile, both logarithmic, the percentile towards 100.

    Raises ModuleNotFoundError without matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5 * len(parts)), layout="constrained")
    for number, part in enumerate(parts, 1):
        axes = figure.add_subplot(len(parts), 1, number)
        most = max(int(part.counts.sum(axis=-1).max()), 2)
        for stage, counts in zip(STAGES, part.counts, strict=True):
            total = int(counts.sum())
            if not total:
                continue
            used = np.flatnonzero(counts)
            hdr = hdr_of(counts)
            values_us = [
                hdr.get_highest_equivalent_value(hdr.get_value_from_index(int(at))) / 1e3 for at in used
            ]
            below = np.cumsum(counts[used]) - counts[used]  # what lies under a value's bucket
            bold = stage is STAGES[WHOLE]
            axes.plot(
                [*(total / (total - below)), total],  # the largest is that of the last command
                [*values_us, values_us[-1]],
                drawstyle="steps-post",
                label=f"{stage.name} ({total:,})",
                linewidth=2.5 if bold else 1.4,
                color="black" if bold else None,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        shown = [percent for percent in PERCENTILES if 1 / (1 - percent / 100) <= most]
        axes.set_xticks([1 / (1 - percent / 100) for percent in shown], [f"{percent:g} %" for percent in shown])
        axes.minorticks_off()
        axes.set_xlim(1, most)
        axes.set_xlabel("percentile of commands")
        axes.set_ylabel("microseconds")
        axes.set_title(title if isinstance(part.shard, str) else f"{title}, shard {part.shard}")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)
