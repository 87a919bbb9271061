"""
The engine alone: commands in memory to reports in memory.       commands -> [process] -> report ring

Runs    an order flow in frames of 100 over 1 and over 20 events; adds and cancels at random prices and of random
        orders while 1,000 or 100,000 orders rest; and sweeps: one order that trades with 5,000 resting ones.
Tells   million commands per second, nanoseconds per fill of a sweep; each with and without market data.
Checks  the number of reports of every run is a fact of the result; a sweep makes two fills a resting order.
Needs   1 core. Tables, commands and report ring are allocated and touched before the clock runs.
"""

import argparse
import time
from typing import Final, NamedTuple

import numpy as np

from ringpit.engine.codes import CommandKind, OrderType, Side, TimeInForce
from ringpit.engine.limits import Limits
from ringpit.engine.machine import process
from ringpit.engine.records import COMMAND, MARKER, REPORT
from ringpit.engine.tables import Tables, allocate
from ringpit.perf.harness import benchmark, cores_for, pin, positive
from ringpit.shards.flow import creations, flow, frames

SEED: Final = 7
FRAME_COMMANDS: Final = 100
REPORT_SLOTS: Final = 1 << 16
ACCOUNTS: Final = 100
LOW, HIGH, MIDDLE, PAYOUT = 1, 9_999, 5_000, 10_000  # ticks of the books that are filled at random
LIMITS: Final = Limits(events=64, orders=1 << 18, levels=1 << 20, keys=1 << 10)
SWEEPS: Final = 20


class Load(NamedTuple):
    """Commands in slots of a power of two, as `process` reads them; those before `start` are not measured."""

    slots: np.ndarray
    start: int
    end: int


def load_of(commands: np.ndarray, start: int = 0) -> Load:
    """Put commands into slots."""
    slots = np.zeros(1 << (len(commands) - 1).bit_length(), COMMAND)
    slots[: len(commands)] = commands
    return Load(slots, start, len(commands))


def flow_load(count: int, events: int) -> Load:
    """The order flow of the demonstration, behind markers; the creations are not measured."""
    created = frames(creations(events), FRAME_COMMANDS)
    commands = flow(count, seed=SEED, events=events)[events:]
    return load_of(np.concatenate([created, frames(commands, FRAME_COMMANDS)]), len(created))


def orders_of(random: np.random.Generator, count: int, first_order: int) -> np.ndarray:
    """Limit orders for a lot each at random prices: bids below the middle, asks above it, so that none trades."""
    commands = np.zeros(count, COMMAND)
    commands["kind"] = CommandKind.NEW
    commands["event"] = 1
    commands["order"] = first_order + np.arange(count)
    commands["account"] = random.integers(1, ACCOUNTS + 1, count)
    commands["quantity"] = 1
    commands["side"] = random.integers(0, 2, count)
    distances = random.integers(1, MIDDLE - LOW, count)
    commands["price"] = MIDDLE + np.where(commands["side"] == Side.BUY, -distances, distances)
    return commands


def churn_load(count: int, resting: int) -> Load:
    """`resting` orders, then by turns a new order and the cancel of a random one: as many rest at the end."""
    random = np.random.default_rng(SEED)
    pairs = count // 2
    orders = orders_of(random, resting + pairs, 1)
    open_orders = np.arange(resting)
    victims = random.integers(0, resting, pairs)
    churn = np.zeros(2 * pairs, COMMAND)
    churn[0::2] = orders[resting:]
    cancelled = np.zeros(pairs, np.int64)
    for pair, victim in enumerate(victims.tolist()):
        cancelled[pair] = open_orders[victim]
        open_orders[victim] = resting + pair
    churn[1::2]["kind"] = CommandKind.CANCEL
    for name in ("event", "order", "account"):
        churn[1::2][name] = orders[name][cancelled]
    created = creations(1, low=LOW, high=HIGH, payout=PAYOUT)
    return load_of(np.concatenate([created, orders[:resting], churn]), 1 + resting)


def sweep_loads(resting: int) -> list[Load]:
    """SWEEPS times: asks for a lot each above the middle, not measured, then one order that buys them all."""
    random = np.random.default_rng(SEED)
    loads = []
    for sweep in range(SWEEPS):
        asks = orders_of(random, resting, 1 + sweep * (resting + 1))
        asks["side"] = Side.SELL
        asks["price"] = MIDDLE + random.integers(1, MIDDLE - LOW, resting)
        taker = asks[-1:].copy()
        taker["order"] += 1
        taker["side"] = Side.BUY
        taker["order_type"] = OrderType.LIMIT
        taker["time_in_force"] = TimeInForce.IOC
        taker["price"], taker["quantity"] = HIGH, resting
        before = creations(1, low=LOW, high=HIGH, payout=PAYOUT) if sweep == 0 else asks[:0]
        loads.append(load_of(np.concatenate([before, asks, taker]), len(before) + resting))
    return loads


class Runner:
    """One engine and its report ring; `seconds` and `reports` count what was measured."""

    def __init__(self, *, market_data: bool) -> None:
        """Allocate everything, and touch it."""
        self.tables: Tables = allocate(LIMITS, market_data=market_data)
        self.ring = np.zeros(REPORT_SLOTS, REPORT)
        for table in (*self.tables, self.ring):
            np.copyto(table, table.copy())  # pages of zeros are mapped when first written
        self.seq = 1
        self.out = 0
        self.seconds = 0.0
        self.reports = 0

    def run(self, load: Load) -> None:
        """Apply a load: what comes first with the clock stopped, then the rest with the clock running."""
        self._apply(load, 0, load.start)
        first = self.out
        began = time.perf_counter()
        self._apply(load, load.start, load.end)
        self.seconds += time.perf_counter() - began
        self.reports += self.out - first

    def _apply(self, load: Load, at: int, end: int) -> None:
        """Apply a stretch; the ring is emptied whenever it is full."""
        markers = load.slots.view(MARKER)
        while at < end:
            reached, self.out = process(
                self.tables,
                load.slots,
                markers,
                at,
                end,
                self.seq,
                self.ring,
                self.out,
                self.out + REPORT_SLOTS,
                1,
            )
            self.seq += reached - at
            at = reached


def add_options(parser: argparse.ArgumentParser) -> None:
    """How much."""
    parser.add_argument("--commands", type=positive, default=500_000, help="commands of each flow")
    parser.add_argument("--resting", type=positive, nargs="+", default=[1_000, 100_000], help="resting orders")
    parser.add_argument("--sweep", type=positive, default=5_000, help="orders that one order trades with")


@benchmark(
    "book",
    "the engine alone: an order flow, adds and cancels in full books, sweeps; to a report ring",
    options=add_options,
)
def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Every load on an engine of its own, without and with market data."""
    pin(cores_for(1)[0])
    loads = {
        "flow_1_event": flow_load(arguments.commands, 1),
        "flow_20_events": flow_load(arguments.commands, 20),
    }
    loads |= {
        f"churn_{resting}_resting": churn_load(arguments.commands, resting) for resting in arguments.resting
    }
    sweeps = sweep_loads(arguments.sweep)
    figures: dict[str, object] = {}
    for market_data, suffix in ((False, ""), (True, "_market_data")):
        for name, load in loads.items():
            runner = Runner(market_data=market_data)
            runner.run(load)
            figures[f"{name}{suffix}_million_per_s"] = (load.end - load.start) / runner.seconds / 1e6
            figures[f"{name}{suffix}_reports"] = runner.reports
        runner = Runner(market_data=market_data)
        for load in sweeps:
            runner.run(load)
        figures[f"sweep{suffix}_ns_per_fill"] = runner.seconds * 1e9 / (SWEEPS * arguments.sweep)
        figures[f"sweep{suffix}_reports"] = runner.reports
    return figures
