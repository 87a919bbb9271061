"""
Many books, all cold: the load that an exchange of events has.     [engine, core 1] ──reports──> [drainer, core 2]

Runs    10,000 events of 128 ticks each with 1,000,000 resting orders; then by turns the cancel of a random one of all orders, and a
        new order, so that as many rest at the end. Events are chosen by a heavy-tailed law (Pareto, shape 1.5): the busiest
        one gets some percent of everything, most get next to nothing. Nothing trades.
Tells   million commands per second, strictly one after the other, and with the engine looking ahead to fetch memory: the
        working set is far larger than the caches, so that this is the load where looking ahead matters.
Checks  one report a command, each of them ACCEPTED or CANCELED; every timed run drains the same reports.
Needs   2 cores of its own; refuses on fewer; 1 GiB of memory.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from numba import njit

from ringpit.engine.codes import CommandKind, LevelKind, OrderType, ReportKind, Side, TimeInForce
from ringpit.engine.limits import Limits
from ringpit.engine.records import COMMAND
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

SEED: Final = 7
EVENTS: Final = 10_000
RESTING: Final = 1_000_000
COMMANDS: Final = 2_000_000
TICKS: Final = 128  # prices of an event: bids in the lower half, asks in the upper
SHAPE: Final = 1.5
QUANTITY_MAX: Final = 100
ACCOUNTS: Final = 100_000
POOL_MIN: Final = 1 << 12


def orders_of(random: np.random.Generator, count: int, events: int) -> np.ndarray:
    """COMMAND array of orders 1, 2, ... that never trade with each other."""
    weights = random.pareto(SHAPE, events)
    totals = np.cumsum(weights) / weights.sum()
    commands = np.zeros(count, COMMAND)
    commands["kind"] = CommandKind.NEW
    commands["order_type"] = OrderType.LIMIT
    commands["time_in_force"] = TimeInForce.GTC
    commands["event"] = 1 + np.minimum(np.searchsorted(totals, random.random(count)), events - 1)
    commands["order"] = 1 + np.arange(count)
    commands["account"] = random.integers(1, ACCOUNTS + 1, count)
    commands["quantity"] = random.integers(1, QUANTITY_MAX + 1, count)
    commands["side"] = random.integers(0, 2, count)
    above = np.where(commands["side"] == Side.BUY, 0, TICKS // 2)
    commands["price"] = 1 + above + random.integers(0, TICKS // 2, count)
    return commands


def events_flow(
    *, seed: int = SEED, events: int = EVENTS, resting: int = RESTING, commands: int = COMMANDS
) -> tuple[np.ndarray, np.ndarray]:
    """(COMMAND array of the resting orders, COMMAND array of as many cancels as new orders by turns)."""
    random = np.random.Generator(np.random.PCG64(seed))
    pairs = commands // 2
    orders = orders_of(random, resting + pairs, events)
    cancelled = np.empty(pairs, np.int64)
    _choose(np.arange(resting), random.integers(0, resting, pairs), cancelled)
    turns = np.zeros(2 * pairs, COMMAND)
    turns[0::2]["kind"] = CommandKind.CANCEL
    for name in ("event", "order", "account"):
        turns[0::2][name] = orders[name][cancelled]
    turns[1::2] = orders[resting:]
    return orders[:resting], turns


@njit(cache=True)
def _choose(alive, victims, cancelled):
    """Which order each cancel hits: the one in a place of the living, where the next new order goes."""
    for pair in range(victims.shape[0]):
        cancelled[pair] = alive[victims[pair]]
        alive[victims[pair]] = alive.shape[0] + pair


def check_answers(reports: np.ndarray) -> dict[str, object]:
    """Facts of a run; RuntimeError if anything traded or was refused."""
    kinds, counts = np.unique(reports["kind"], return_counts=True)
    found = {ReportKind(kind).name.lower(): int(count) for kind, count in zip(kinds, counts, strict=True)}
    if set(found) - {"accepted", "canceled"}:
        raise RuntimeError(f"every command must be accepted or cancel something, reports were {found}")
    return dict(found)


@contextmanager
def stage(arguments: argparse.Namespace) -> Iterator[Staged]:
    """Draw the flow, fill all books, and run once with every report kept and looked at."""
    require_two_cores()
    before, turns = events_flow(
        seed=arguments.seed,
        events=arguments.events,
        resting=arguments.resting,
        commands=arguments.commands,
    )
    kind = LEVELS[arguments.levels]
    prices = max(power_of_two_above(arguments.events * TICKS), POOL_MIN)
    limits = Limits(
        events=arguments.events,
        orders=max(power_of_two_above(arguments.resting), POOL_MIN),
        levels=prices if kind == LevelKind.LADDER else POOL_MIN,
        nodes=prices if kind == LevelKind.SKIP_LIST else POOL_MIN,
        keys=1 << 6,
    )
    created = creations(arguments.events, 1, TICKS, 1 + TICKS, kind)
    book = Book(limits, np.concatenate([created, before]))
    with staged(book, in_slots(turns), len(turns), check_answers) as everything:
        yield everything


def add_options(parser: argparse.ArgumentParser) -> None:
    """How much."""
    parser.add_argument("--events", type=positive, default=EVENTS, help="events, a book each")
    parser.add_argument("--resting", type=positive, default=RESTING, help="orders that rest all the time")
    parser.add_argument("--commands", type=positive, default=COMMANDS, help="commands that are timed")
    parser.add_argument("--seed", type=int, default=SEED, help="of the flow")
    parser.add_argument("--levels", choices=list(LEVELS), default="ladder", help="structure of price levels")


@benchmark(
    "events",
    "10,000 books of 128 ticks with 1 M resting orders: cancels of random orders, and new ones",
    options=add_options,
    stage=stage,
)
def measure(_arguments: argparse.Namespace, staged: Staged) -> dict[str, object]:
    """A strict run and one with prefetching."""
    return measure_both(staged)
