"""
Progress of a start: how far each shard has replayed its log, for whoever waits at a terminal or reads a file.

    shard 0  ━━━━━━━━━━━━━━━━━━━━━━━━━━╸          3,200,000/5,000,000 records  4.1 M/s  0:00:01

On a terminal a bar a shard; elsewhere one line every few seconds for a shard that still replays. Both read words of the
workers' segments, and cost a start nothing.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ringpit.ipc.segment import Segment
from ringpit.shards.layout import State

LINE_SECONDS: Final = 5.0


class StartProgress(AbstractContextManager["StartProgress"]):
    """
    Shows how starts go on; `show` is called again and again.

    Args:
        say: Gets the lines where there is no terminal.
        console: Where bars go, if it is a terminal.
    """

    def __init__(self, say: Callable[[str], None], console: Console) -> None:
        """Nothing is shown before there is something to wait for."""
        self._say = say
        self._bars: Progress | None = None
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("records  {task.fields[rate]}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
        self._tasks: dict[int, TaskID] = {}
        self._began: dict[
            int, tuple[float, int]
        ] = {}  # per shard: when its replay was seen first, and where it stood
        self._due = time.monotonic() + LINE_SECONDS

    def __enter__(self) -> Self:
        """Take the terminal."""
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Leave the terminal as it was."""
        if self._bars is not None:
            self._bars.stop()

    def show(self, workers: dict[int, Segment]) -> None:
        """Show the shards that are replaying; `workers` are the segments of the workers that count, by shard."""
        telling = time.monotonic() >= self._due
        for shard, worker in workers.items():
            goal = worker.load("replay_to_seq")
            if worker.load("state") == State.RECOVERING and goal:
                self._show_shard(shard, worker.load("replayed_seq"), goal, telling=telling)
        if telling:
            self._due = time.monotonic() + LINE_SECONDS

    def _show_shard(self, shard: int, seq: int, goal: int, *, telling: bool) -> None:
        """One shard."""
        began, first_seq = self._began.setdefault(shard, (time.monotonic(), seq))
        rate = (seq - first_seq) / max(time.monotonic() - began, 1e-3)
        speed = f"{rate / 1e6:.2f} M/s"
        if self._bars is not None:
            if shard not in self._tasks:
                self._tasks[shard] = self._bars.add_task(f"shard {shard}", total=goal, rate="")
            self._bars.update(self._tasks[shard], completed=seq, total=goal, rate=speed)
        elif telling:
            self._say(f"shard {shard}: replayed up to seq {seq:,} of {goal:,}, {speed}")
