"""
What benchmarks over the hand-off share: a book that can be put back, one run that is kept, and runs that are timed.

    Book(limits, before)      tables after `before` was applied; `reset` puts them back there, every page touched
    staged(book, ...)         starts the drainer, compiles, runs once and has the drainer keep every report
    measure_both(staged)      the same again, strictly and with prefetching, timed; what is drained must be the same

The commands that are measured have the seqs 0, 1, 2 and so on; those before count up to them from below.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np

from ringpit.engine.codes import CommandKind, LevelKind, ReportKind
from ringpit.engine.limits import Limits
from ringpit.engine.machine import process
from ringpit.engine.records import COMMAND, MARKER, REPORT
from ringpit.engine.tables import Tables, allocate
from ringpit.perf.handoff import PREFETCH, STRICT, Handoff, Run
from ringpit.perf.harness import FactsDifferError

LEVELS: Final = {"ladder": LevelKind.LADDER, "skiplist": LevelKind.SKIP_LIST}
SCRATCH_SLOTS: Final = 1 << 12
REPORTS_PER_COMMAND: Final = 3  # room for what is kept: more than any of the flows makes


def power_of_two_above(count: int) -> int:
    """The smallest power of two that is larger."""
    return 1 << count.bit_length()


def in_slots(commands: np.ndarray) -> np.ndarray:
    """The commands at the beginning of a COMMAND array whose length is a power of two."""
    slots = np.zeros(power_of_two_above(len(commands)), COMMAND)
    slots[: len(commands)] = commands
    return slots


def creations(events: int, low: int, high: int, payout: int, levels: LevelKind) -> np.ndarray:
    """COMMAND array that creates the events 1, 2, ... with prices from `low` to `high`."""
    commands = np.zeros(events, COMMAND)
    commands["kind"] = CommandKind.CREATE_EVENT
    commands["order_type"] = levels
    commands["event"] = 1 + np.arange(events)
    commands["order"] = 1  # units of a tick
    commands["price"], commands["quantity"], commands["payout"] = low, high, payout
    return commands


class Book:
    """
    Tables of a shard, which can be put back to how they were before anything was measured.

    Args:
        limits: Sizes.
        before: COMMAND array that is applied first: events, and what rests.

    Raises RuntimeError if the engine refuses any of it.
    """

    def __init__(self, limits: Limits, before: np.ndarray) -> None:
        """Allocate and apply."""
        self.tables = allocate(limits)
        slots, scratch = in_slots(before), np.zeros(SCRATCH_SLOTS, REPORT)
        at = 0
        while at < len(before):
            seq = at - len(before)
            at, out = process(
                self.tables,
                slots,
                slots.view(MARKER),
                at,
                len(before),
                seq,
                scratch,
                0,
                SCRATCH_SLOTS,
                STRICT,
            )
            refused = scratch[:out][scratch["kind"][:out] == ReportKind.REJECTED]
            if len(refused):
                raise RuntimeError(f"what comes before the measured commands must be taken, was {refused[0]}")
        self._clean = [array.copy() for array in self.tables]

    def reset(self) -> Tables:
        """The tables as they were, every page touched."""
        for array, clean in zip(self.tables, self._clean, strict=True):
            np.copyto(array, clean)
        return self.tables


class Staged(NamedTuple):
    """What all repeats of a case share."""

    handoff: Handoff
    book: Book
    slots: np.ndarray
    commands: int
    facts: dict[str, object]

    def run(self, ahead: int, keep_max: int = 0) -> Run:
        """Everything once, from the beginning."""
        return self.handoff.run(self.book.reset(), self.slots, self.commands, ahead, keep_max)


@contextmanager
def staged(
    book: Book, slots: np.ndarray, count: int, facts_of: Callable[[np.ndarray], dict[str, object]]
) -> Iterator[Staged]:
    """
    Start the drainer, compile, and run once with every report kept.

    Args:
        book: Tables before the first command.
        slots: COMMAND array whose length is a power of two, as `in_slots` makes it.
        count: Commands in it.
        facts_of: Looks at the kept reports and returns facts about them; may raise.
    """
    with Handoff() as handoff:
        handoff.warm_up(book.reset())
        kept = handoff.run(book.reset(), slots, count, STRICT, REPORTS_PER_COMMAND * count)
        if len(kept.kept) != kept.reports:
            raise RuntimeError(f"{kept.reports} reports came, only {len(kept.kept)} were kept")
        facts = {"messages": count, "reports": kept.reports, **facts_of(kept.kept)}
        yield Staged(handoff, book, slots, count, facts | {"checksum": kept.checksum})


def measure_both(staged: Staged) -> dict[str, object]:
    """
    A strict run and one with prefetching: million commands per second of each, and the facts.

    Raises FactsDifferError if one drained other reports than the run that was kept.
    """
    figures: dict[str, object] = {}
    for name, ahead in (("strict_mps", STRICT), ("prefetch_mps", PREFETCH)):
        run = staged.run(ahead)
        for fact, told in (("checksum", run.checksum), ("reports", run.reports)):
            if told != staged.facts[fact]:
                raise FactsDifferError(
                    f"{fact} of a timed run must be that of the kept run, {staged.facts[fact]}, was {told}"
                )
        figures[name] = staged.commands / run.seconds / 1e6
    return figures | staged.facts
