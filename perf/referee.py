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
from typing import Final, NamedTuple

import numpy as np

from ringpit.engine.codes import CommandKind, LevelKind, OrderType, ReportKind, TimeInForce
from ringpit.engine.limits import Limits
from ringpit.engine.records import COMMAND, MARKER, REPORT
from ringpit.engine.tables import Tables, allocate
from ringpit.perf import referee_flow
from ringpit.perf.handoff import PREFETCH, STRICT, Handoff, Run, process
from ringpit.perf.harness import FactsDifferError, benchmark, positive
from ringpit.perf.referee_flow import CANCEL, NEW, ORDERS, SCENARIOS, SEED, Messages, alive_max, messages
from ringpit.perf.referee_lines import digest
from ringpit.perf.referee_oracle import PUBLISHED

LEVELS: Final = {"ladder": LevelKind.LADDER, "skiplist": LevelKind.SKIP_LIST}
KINDS: Final = {
    NEW: CommandKind.NEW,
    CANCEL: CommandKind.CANCEL,
    referee_flow.MODIFY: CommandKind.REPLACE,
}
EVENT: Final = 1
ACCOUNT: Final = 1
POOL_MIN: Final = 1 << 12  # of orders and levels


def encode(flow: Messages) -> np.ndarray:
    """COMMAND array whose length is a power of two; message i lies in slot i."""
    count = len(flow.kind)
    commands = np.zeros(power_of_two_above(count), COMMAND)
    rows = commands[:count]
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
    return commands


def creation(high: int, levels: LevelKind) -> np.ndarray:
    """COMMAND array of the one event, with prices from 1 to `high`."""
    commands = np.zeros(1, COMMAND)
    commands["kind"] = CommandKind.CREATE_EVENT
    commands["order_type"] = levels
    commands["event"] = EVENT
    commands["order"] = 1  # unit of a tick
    commands["price"], commands["quantity"] = 1, high
    return commands


def power_of_two_above(count: int) -> int:
    """The smallest power of two that is larger."""
    return 1 << count.bit_length()


class Book:
    """
    Tables of a shard with events, which can be put back to how they were before anything was matched.

    Args:
        limits: Sizes.
        created: COMMAND array of a power of two CREATE_EVENTs.

    Raises RuntimeError if the engine refuses one.
    """

    def __init__(self, limits: Limits, created: np.ndarray) -> None:
        """Allocate and create."""
        tables = allocate(limits)
        reports = np.zeros(power_of_two_above(len(created) + 16), REPORT)
        _, out = process(
            tables, created, created.view(MARKER), 0, len(created), 0, reports, 0, len(reports), STRICT
        )
        if out != len(created) or (reports["kind"][:out] != ReportKind.EVENT_CREATED).any():
            raise RuntimeError(f"the events of the benchmark must be created, reports were {reports[:out]}")
        self.tables = tables
        self._clean = [array.copy() for array in tables]

    def reset(self) -> Tables:
        """The tables as they were after the creation, every page touched."""
        for array, clean in zip(self.tables, self._clean, strict=True):
            np.copyto(array, clean)
        return self.tables


def book_for(flow: Messages, levels: LevelKind) -> Book:
    """A book just large enough for all orders of a flow, with a range of prices that holds them all."""
    high = power_of_two_above(int(flow.price.max())) - 1
    limits = Limits(
        events=1,
        orders=max(power_of_two_above(alive_max(flow)), POOL_MIN),
        levels=max(high + 1 if levels == LevelKind.LADDER else 0, POOL_MIN),
        keys=1 << 6,
    )
    return Book(limits, creation(high, levels))


class Staged(NamedTuple):
    """What all repeats of a scenario share."""

    handoff: Handoff
    book: Book
    commands: np.ndarray
    facts: dict[str, object]  # and `checksum`, which every timed run must reach

    def run(self, ahead: int, keep_max: int = 0) -> Run:
        """Everything once, from an empty book."""
        count = int(self.facts["messages"])  # type: ignore[call-overload]  # a fact is an object
        return self.handoff.run(self.book.reset(), self.commands, count, ahead, keep_max)


@contextmanager
def stage(arguments: argparse.Namespace) -> Iterator[Staged]:
    """Draw the flow, start the drainer, compile, and run once with every report kept."""
    with Handoff() as handoff:
        flow = messages(arguments.scenario, seed=arguments.seed, orders=arguments.orders)
        count = len(flow.kind)
        book = book_for(flow, LEVELS[arguments.levels])
        staged = Staged(handoff, book, encode(flow), {"messages": count})
        handoff.warm_up(book.reset())
        kept = staged.run(STRICT, keep_max=3 * count)  # two fills a message at most, on average, and its answer
        sha256 = digest(kept.kept, flow)
        published = (arguments.seed, arguments.orders) == (SEED, ORDERS) and arguments.scenario in PUBLISHED
        staged.facts.update(
            reports=kept.reports,
            sha256=sha256,
            published_match=sha256 == PUBLISHED[arguments.scenario] if published else None,
            checksum=kept.checksum,
        )
        yield staged


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
    figures: dict[str, object] = {}
    for name, ahead in (("strict_mps", STRICT), ("prefetch_mps", PREFETCH)):
        run = staged.run(ahead)
        for fact, told in (("checksum", run.checksum), ("reports", run.reports)):
            if told != staged.facts[fact]:
                raise FactsDifferError(
                    f"{fact} of a timed run must be that of the kept run, {staged.facts[fact]}, was {told}"
                )
        figures[name] = int(staged.facts["messages"]) / run.seconds / 1e6  # type: ignore[call-overload]  # as above
    return figures | staged.facts
