"""
The field's referee: its flow through our engine, by its protocol.

    2 M COMMANDs in memory ──> [engine, core 1] ──64-byte reports──> shared ring ──> [drainer, core 2]
                               └─────────────────── the clock runs ───────────────────────────────┘

Runs    the five scenarios of flash1-dev/matching-engine-benchmark, re-created (referee_flow.py), and `interleaved`, our own:
        limit orders, cancels and replaces of one book, 1,996,097 messages each with seed 23; levels as ladder or skip list.
Tells   million messages per second, strictly one message after the other (`strict`), and with the engine looking ahead in
        its batch to fetch memory (`prefetch`: changes no result, but does look at later messages, so it is told apart).
Checks  the SHA-256 of all reports against the published one, in a run of the same kernel whose drainer keeps them; the
        checksum of that run must be the checksum of every timed run.
Needs   2 cores of its own; refuses on fewer.

The referee's score is the worst of the five. Every report is handed to the second core inside the clock (handoff.py); a
trade makes two of ours, one for each party.

--json prints one object a line, nothing else: scenario, seed, levels, messages, reports, sha256, published_match (null where
nothing was published), strict_mps, prefetch_mps, and the medians of the yardsticks.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np

from ringpit.engine.codes import CommandKind, LevelKind, OrderType, TimeInForce
from ringpit.engine.limits import Limits
from ringpit.engine.records import COMMAND
from ringpit.perf.handoff import require_two_cores
from ringpit.perf.harness import benchmark, positive
from ringpit.perf.referee_flow import (
    CANCEL,
    MODIFY,
    NEW,
    ORDERS,
    SCENARIOS,
    SEED,
    Messages,
    alive_max,
    messages,
)
from ringpit.perf.referee_lines import digest
from ringpit.perf.referee_oracle import PUBLISHED
from ringpit.perf.stage import LEVELS, Book, Staged, creations, measure_both, power_of_two_above, staged

KINDS: Final = {
    NEW: CommandKind.NEW,
    CANCEL: CommandKind.CANCEL,
    MODIFY: CommandKind.REPLACE,
}
EVENT: Final = 1
ACCOUNT: Final = 1
POOL_MIN: Final = 1 << 12  # of orders and levels


def encode(flow: Messages) -> np.ndarray:
    """COMMAND array whose length is a power of two; message i lies in slot i."""
    count = len(flow.kind)
    slots = np.zeros(power_of_two_above(count), COMMAND)
    rows = slots[:count]
    kinds = np.zeros(len(KINDS), np.int8)
    kinds[list(KINDS)] = [int(kind) for kind in KINDS.values()]
    rows["kind"] = kinds[flow.kind]
    rows["side"] = flow.side
    rows["order_type"] = OrderType.LIMIT
    rows["time_in_force"] = np.where(flow.ioc, TimeInForce.IOC, TimeInForce.GTC)
    rows["event"] = EVENT
    rows["account"] = ACCOUNT
    rows["order"] = flow.order
    asks_price = flow.kind != CANCEL
    rows["price"] = np.where(asks_price, flow.price, 0)
    rows["quantity"] = np.where(asks_price, flow.quantity, 0)
    return slots


def book_for(flow: Messages, levels: LevelKind) -> Book:
    """A book just large enough for all orders of a flow, with a range of prices that holds them all."""
    high = power_of_two_above(int(flow.price.max())) - 1
    limits = Limits(
        events=1,
        orders=max(power_of_two_above(alive_max(flow)), POOL_MIN),
        levels=max(high + 1 if levels == LevelKind.LADDER else 0, POOL_MIN),
        keys=1 << 6,
    )
    return Book(limits, creations(1, 1, high, 0, levels))


@contextmanager
def stage(arguments: argparse.Namespace) -> Iterator[Staged]:
    """Draw the flow, and run it once with every report kept and hashed."""
    require_two_cores()
    flow = messages(arguments.scenario, seed=arguments.seed, orders=arguments.orders)
    published = (arguments.seed, arguments.orders) == (SEED, ORDERS) and arguments.scenario in PUBLISHED

    def facts_of(reports: np.ndarray) -> dict[str, object]:
        sha256 = digest(reports, flow)
        return {
            "sha256": sha256,
            "published_match": sha256 == PUBLISHED[arguments.scenario] if published else None,
        }

    book = book_for(flow, LEVELS[arguments.levels])
    with staged(book, encode(flow), len(flow.kind), facts_of) as everything:
        yield everything


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which flow, and how prices are kept."""
    parser.add_argument("--scenario", choices=[*SCENARIOS, "all"], default="all", help="default: all")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the flow; published: {SEED}")
    parser.add_argument("--orders", type=positive, default=ORDERS, help=f"new orders; published: {ORDERS:,}")
    parser.add_argument("--levels", choices=list(LEVELS), default="ladder", help="structure of price levels")


def cases(arguments: argparse.Namespace) -> list[argparse.Namespace]:
    """A case for each scenario."""
    names = SCENARIOS if arguments.scenario == "all" else [arguments.scenario]
    return [argparse.Namespace(**(vars(arguments) | {"scenario": name})) for name in names]


def line_of(record: dict) -> dict:
    """What --json prints of a scenario."""
    options, facts = record["options"], record["facts"]
    return {
        "scenario": options["scenario"],
        "seed": options["seed"],
        "levels": options["levels"],
        **{name: facts[name] for name in ("messages", "reports", "sha256", "published_match")},
        **{name: record["figures"][name]["median"] for name in ("strict_mps", "prefetch_mps")},
        "yardsticks": {name: spread["median"] for name, spread in record["yardsticks"].items()},
    }


@benchmark(
    "referee",
    "the field's referee: 2 M messages of one book, every report handed to a second core",
    options=add_options,
    stage=stage,
    cases=cases,
    line=line_of,
)
def measure(_arguments: argparse.Namespace, staged: Staged) -> dict[str, object]:
    """A strict run and one with prefetching."""
    return measure_both(staged)
