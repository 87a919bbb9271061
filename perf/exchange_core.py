"""
exchange-core's single book, played by our engine.     3 M commands ──> [engine, core 1] ──reports──> [drainer, core 2]

Runs    new, IOC, FOK, cancel, reduce and move in one book with about 1,000 resting orders of 1,000 accounts: 12 % new, 2 %
        instant, 7 % cancel, 7 % reduce, 72 % move with the published seed (exchange_flow.py has the rules). A move is an AMEND
        of the price, a reduce a REDUCE, the FOK with a budget a FOK limited at the edge of the band, which is the same.
        The book is filled before the clock runs.
Tells   million commands per second, strictly one after the other, and with the engine looking ahead to fetch memory.
Checks  the trades are those of the generator's own book, one by one; every timed run drains the same reports.
Needs   2 cores of its own; refuses on fewer.

Their published figure, 5 million a second, is of the whole pipeline of that project with risk checks, on other hardware; their
book alone is measured there without events. So compare ratios to the yardsticks, not the numbers.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np

from ringpit.engine.codes import LevelKind, ReportKind
from ringpit.engine.limits import Limits
from ringpit.perf.exchange_flow import COMMANDS, RESTING, SEED, Flow, exchange_flow
from ringpit.perf.handoff import require_two_cores
from ringpit.perf.harness import benchmark, positive
from ringpit.perf.stage import (
    LEVELS,
    Book,
    Staged,
    creations,
    in_slots,
    measure_both,
    power_of_two_above,
    staged,
)

LEVELS_MIN: Final = 1 << 12


def trades_of(reports: np.ndarray) -> np.ndarray:
    """int64 rows as in `Flow.trades`: price, lots, maker, taker."""
    makers = np.flatnonzero(reports["kind"] == ReportKind.FILL_MAKER)
    columns = (reports[name][makers] for name in ("price", "quantity", "order"))
    return np.stack([*columns, reports["order"][makers + 1]], axis=1)


def check_trades(flow: Flow, reports: np.ndarray) -> dict[str, object]:
    """Facts of a run; RuntimeError where it traded otherwise than the generator's book, or refused a command."""
    expected = flow.trades[len(flow.trades) - np.count_nonzero(reports["kind"] == ReportKind.FILL_MAKER) :]
    found = trades_of(reports)
    if not np.array_equal(expected, found):
        raise RuntimeError(
            f"the engine must trade as the generator's book, {len(found)} trades differ somewhere"
        )
    refused = np.count_nonzero(reports["kind"] == ReportKind.REJECTED)
    return {"trades": len(found), "refused": int(refused), "open_orders": flow.open_orders}


@contextmanager
def stage(arguments: argparse.Namespace) -> Iterator[Staged]:
    """Draw the flow, fill the book, and run once with every report kept and compared."""
    require_two_cores()
    flow = exchange_flow(seed=arguments.seed, commands=arguments.commands, resting=arguments.resting)
    low, high = flow.low, flow.high
    kind = LEVELS[arguments.levels]
    limits = Limits(
        events=1,
        orders=power_of_two_above(4 * arguments.resting),
        levels=max(power_of_two_above(high - low), LEVELS_MIN) if kind == LevelKind.LADDER else LEVELS_MIN,
        keys=1 << 6,
    )
    created = creations(1, low, high, 0, kind)
    book = Book(limits, np.concatenate([created, flow.commands[: flow.before]]))
    slots = in_slots(flow.commands[flow.before :])
    with staged(book, slots, arguments.commands, lambda reports: check_trades(flow, reports)) as everything:
        yield everything


def add_options(parser: argparse.ArgumentParser) -> None:
    """How much."""
    parser.add_argument("--commands", type=positive, default=COMMANDS, help="commands that are timed")
    parser.add_argument("--resting", type=positive, default=RESTING, help="orders that are kept open")
    parser.add_argument("--seed", type=int, default=SEED, help="of the flow")
    parser.add_argument("--levels", choices=list(LEVELS), default="ladder", help="structure of price levels")


@benchmark(
    "exchange_core",
    "exchange-core's single book: 3 M commands, mostly moves, 1,000 resting orders",
    options=add_options,
    stage=stage,
)
def measure(_arguments: argparse.Namespace, staged: Staged) -> dict[str, object]:
    """A strict run and one with prefetching."""
    return measure_both(staged)
