"""
Runs of the load generator: one rate after the other against one exchange, or search for the knee.

    orders, based ──> parts, due times ──> a sender for each router ──> exchange ──> reports ──> matcher ──> one Result a rate

Open loop: each order is due at a time that was fixed before, whatever became of those before it, and its time runs from
there. A generator that waits for answers, or forgives itself a pause, leaves out just the orders that were served worst.

One loop sends what is due, reads what came, and naps NAP_SECONDS at most when there is neither. If it is held up itself, what it
sends late is counted, and said from LATE_SHARE_TOLD on; the times include it.

The knee is the highest rate that the exchange kept up with: KEPT_SHARE of it came back while it was sent. Beyond it times are
those of a queue that grows, and say how long the run was.
"""

import ctypes
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from ringpit.ipc import histogram
from ringpit.perf.load_flow import (
    Orders,
    Part,
    based,
    before_parts,
    due_of_parts,
    orders_in,
    orders_of,
    parts_of,
    settling_parts,
    slots_of,
)
from ringpit.perf.load_match import Matcher, Seen
from ringpit.perf.load_rabbit import RabbitReports, RabbitSender
from ringpit.perf.load_ring import FileTail, NoReports, RingSender
from ringpit.shards.config import Config

PR_SET_TIMERSLACK: Final = 29
TIMER_SLACK_NS: Final = 1
NAP_SECONDS: Final = 0.00005
LEAD_NS: Final = 20_000_000  # from the end of all preparations to the beginning
PATIENCE_SECONDS: Final = 30.0  # without anything sent, seen or acknowledged a run ends: a busy disk syncs late
KEPT_SHARE: Final = 0.95
LATE_SHARE_TOLD: Final = 0.01
KNEE_RATE: Final = 1_000  # where the search begins
KNEE_RATE_MAX: Final = 4_000_000
KNEE_BISECTIONS: Final = 2
QUANTILES: Final = (
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
    ("max", 1.0),
)

Source = FileTail | RabbitReports | NoReports
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """
    What is sent, and how fast. Raises ValueError naming the option, the value and the rule.
    """

    mix: str = "demo"
    rates: tuple[float, ...] = (10_000.0,)  # orders a second
    find_knee: bool = False
    seconds: float = 5.0  # of each rate
    arrivals: str = "even"
    burst: int = 100  # orders at once, with arrivals "burst"
    events: int = 20
    zipf: float = 0.0
    encoding: str = "packed"
    frame: int = 1  # orders in a delivery
    seed: int = 7

    def __post_init__(self) -> None:
        """Check what no type does."""
        if not self.rates or min(self.rates) <= 0:
            raise ValueError(f"--rates must be numbers above 0, were {self.rates}")
        if self.seconds <= 0:
            raise ValueError(f"--seconds must be above 0, was {self.seconds}")
        if self.burst < 1:
            raise ValueError(f"--burst must be at least 1 order, was {self.burst}")


@dataclass(kw_only=True)
class Result:
    """One rate's."""

    rate: float
    offered: float  # orders a second that were due: the rate, but for what chance makes of it
    orders: int
    deliveries: int
    sent: int
    timed: int  # orders that one report answers
    answered: int
    acknowledged: int
    seconds: float  # from the beginning to the last reply, or acknowledgement where no reply can be read
    achieved: float  # orders a second that came back
    late: int  # orders sent more than a millisecond after they were due
    refused: dict[str, int]
    latency_ns: dict[str, int]  # what `measured` says
    acknowledged_ns: dict[str, int]
    lateness_ns: dict[str, int]  # from due to sent

    @property
    def kept_up(self) -> bool:
        """Whether the exchange kept up."""
        return self.achieved >= KEPT_SHARE * self.offered and self.sent == self.orders


class Senders:
    """A sender for each router, in turn, as one."""

    def __init__(self, senders: Sequence[RingSender | RabbitSender]) -> None:
        """As many as there are routers."""
        self._senders = senders

    def prepare(self, parts: list[Part], due_ns: list[np.ndarray], name: str) -> None:
        """Lay out each router's deliveries, each with a name of its own."""
        for router, (sender, part, due) in enumerate(zip(self._senders, parts, due_ns, strict=True)):
            sender.prepare(part.bodies, due, f"{name}-{router}")

    def begin(self, start_ns: int) -> None:
        """Fix when each delivery is due."""
        for sender in self._senders:
            sender.begin(start_ns)

    def step(self) -> int:
        """Send what is due; how much that was."""
        return sum(sender.step() for sender in self._senders)

    def next_due_ns(self) -> int:
        """When the next delivery is due; 0: none is left."""
        return min((due_ns for sender in self._senders if (due_ns := sender.next_due_ns())), default=0)

    @property
    def sent(self) -> int:
        """Orders sent."""
        return sum(sender.sent for sender in self._senders)

    @property
    def settled(self) -> int:
        """Orders acknowledged."""
        return sum(sender.settled for sender in self._senders)

    @property
    def late_orders(self) -> int:
        """Orders sent more than a millisecond after they were due."""
        return sum(sender.late_orders for sender in self._senders)

    @property
    def late(self) -> np.ndarray:
        """Histogram of how late orders were sent."""
        return np.sum([sender.late for sender in self._senders], axis=0)  # type: ignore[no-any-return]  # an array

    @property
    def acknowledged(self) -> np.ndarray:
        """Histogram of how long acknowledgements took."""
        return np.sum([sender.acknowledged for sender in self._senders], axis=0)  # type: ignore[no-any-return]  # an array

    def close(self) -> None:
        """Let go of all."""
        with ExitStack() as closed:
            for sender in self._senders:
                closed.callback(sender.close)


def measured(config: Config) -> str:
    """What latency means with a configuration."""
    if config.output.sink == "rabbitmq":
        return "from when an order was due to when its report was consumed from RabbitMQ"
    if config.output.sink == "files":
        return "from when an order was due to when its report was read from the exchange's file"
    return "from when an order was due to when its delivery was acknowledged: the log has it"


def open_ends(config: Config) -> tuple[Senders, Source]:
    """Where orders go in, and where reports come out. Raises SegmentMissing, BrokerAway or ValueError."""
    kind = RabbitSender if config.intake.source == "rabbitmq" else RingSender
    source: Source = NoReports()
    if config.output.sink == "files":
        source = FileTail(config.data_folder() / "out", config.output.encoding)
    elif config.output.sink == "rabbitmq":
        source = RabbitReports(config)
    with ExitStack() as opened:  # closed if a later one cannot be opened
        opened.callback(source.close)
        senders = [
            opened.enter_context(closing(kind(config, router))) for router in range(config.exchange.routers)
        ]
        opened.pop_all()
    return Senders(senders), source


def run_all(config: Config, workload: Workload, say: Say) -> list[Result]:
    """All rates, or as many as finding the knee takes; rising. Raises as `open_ends`."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0)  # else a nap is 50 us longer
    sender, source = open_ends(config)
    results: list[Result] = []
    with closing(sender), closing(source):
        for rate in rates_of(workload, results):
            results.append(run_rate(config, workload, rate, sender, source, say))
            tell(results[-1], say)
    return sorted(results, key=lambda result: result.rate)


def rates_of(workload: Workload, results: list[Result]) -> Iterator[float]:
    """The rates that are asked for; or, by what came of the ones before, doubled to the knee and then closed in on it."""
    if not workload.find_knee:
        yield from workload.rates
        return
    rate = min(workload.rates)
    while rate <= KNEE_RATE_MAX:
        yield rate
        if not results[-1].kept_up:
            break
        rate *= 2
    for _ in range(KNEE_BISECTIONS):
        kept = max((result.rate for result in results if result.kept_up), default=0.0)
        lost = min((result.rate for result in results if not result.kept_up), default=0.0)
        if not kept or not lost:
            return
        yield float(round((kept * lost) ** 0.5))


def knee_of(results: list[Result]) -> float:
    """The highest rate that was kept up with below all that were not; 0: none."""
    lost = min((result.rate for result in results if not result.kept_up), default=float("inf"))
    return max((result.rate for result in results if result.rate < lost), default=0.0)


def drawn(config: Config, workload: Workload, rate: float) -> Orders:
    """The orders of one rate; the same for the same arguments."""
    return orders_of(
        workload.mix,
        orders_in(workload.seconds, rate),
        seed=workload.seed,
        events=workload.events,
        zipf=workload.zipf,
        levels_max=config.limits.levels,
    )


def digest_of(orders: Orders) -> str:
    """A hash of what is sent, without the base of the ids."""
    return hashlib.blake2b(orders.before.tobytes() + orders.records.tobytes(), digest_size=16).hexdigest()


def run_rate(
    config: Config, workload: Workload, rate: float, sender: Senders, source: Source, say: Say
) -> Result:
    """One rate: make the events, send, wait for what is on its way, and empty the books again."""
    base = time.time_ns()
    orders = based(drawn(config, workload, rate), base)
    routers = config.exchange.routers
    parts = parts_of(orders, workload.encoding, workload.frame, routers)
    due_ns = due_of_parts(
        parts, rate=rate, arrivals=workload.arrivals, burst=workload.burst, seed=workload.seed
    )
    name = f"load-{base}"
    send_now(sender, source, before_parts(orders, routers), f"{name}-before")
    count = len(orders.starts) - 1
    due_of_order = np.zeros(count, np.int64)
    for part, due in zip(parts, due_ns, strict=True):
        due_of_order[part.orders] = np.repeat(due, np.diff(part.bodies.first))
    matcher = Matcher(slots_of(orders, base), orders.ids, base, due_of_order)
    sender.prepare(parts, due_ns, name)
    say(
        f"{rate:,.0f} orders/s for {due_of_order.max() / 1e9:.1f} s: {count:,} orders in {sum(map(len, due_ns)):,} deliveries"
    )
    start_ns = time.time_ns() + LEAD_NS
    sender.begin(start_ns)
    matcher.due_ns += start_ns
    drive(sender, source, matcher, count)
    result = result_of(sender, source, matcher, rate, parts, start_ns)
    send_now(sender, source, settling_parts(orders, routers), f"{name}-after")
    return result


def drive(sender: Senders, source: Source, matcher: Matcher, count: int) -> None:
    """Send and read until everything is answered and acknowledged, or nothing has moved for PATIENCE_SECONDS."""
    readable = not isinstance(source, NoReports)
    before, moved_ns = (-1, -1, -1), time.monotonic_ns()
    while True:
        sent = sender.step()
        reports = source.poll()
        if len(reports):
            matcher.take(reports, time.time_ns())
        state = (sender.sent, sender.settled, matcher.answered)
        if state[0] == state[1] == count and (not readable or state[2] == matcher.timed):
            return
        if state != before:
            before, moved_ns = state, time.monotonic_ns()
        due_ns = sender.next_due_ns()
        left = (due_ns - time.time_ns()) / 1e9 if due_ns else NAP_SECONDS
        if time.monotonic_ns() - moved_ns > PATIENCE_SECONDS * 1e9 and left < PATIENCE_SECONDS:
            return
        if not sent and not len(reports) and left > 0:
            time.sleep(min(left, NAP_SECONDS))


def send_now(sender: Senders, source: Source, parts: list[Part], name: str) -> None:
    """Send what is not timed, and wait until it is acknowledged. Raises ValueError if it never is."""
    count = sum(len(part.orders) for part in parts)
    sender.prepare(parts, [np.zeros(len(part.bodies.bodies), np.int64) for part in parts], name)
    sender.begin(0)
    drive(sender, source, Matcher(np.zeros(0, np.int64), 0, 0, np.zeros(0, np.int64)), count)
    if sender.settled < count:
        raise ValueError(
            f"the exchange acknowledged nothing for {PATIENCE_SECONDS:.0f} s ({sender.settled} of {count} orders): see "
            "whether all its processes run, and that nobody else feeds it"
        )


def result_of(
    sender: Senders, source: Source, matcher: Matcher, rate: float, parts: list[Part], start_ns: int
) -> Result:
    """What a run came to."""
    if isinstance(source, NoReports):
        told, back, end_ns = sender.acknowledged, sender.settled, time.time_ns()
    else:
        told, back, end_ns = matcher.told, matcher.answered, int(matcher.counts[Seen.LAST_NS])
    # A run lasts at least as long as its last order stands for, else a short one would seem faster than it was sent.
    orders = len(matcher.due_ns)
    planned = max(int(matcher.due_ns.max()) - start_ns, int(orders / rate * 1e9)) / 1e9
    seconds = max((end_ns - start_ns) / 1e9, planned)
    return Result(
        rate=rate,
        offered=orders / planned,
        orders=orders,
        deliveries=sum(len(part.bodies.bodies) for part in parts),
        sent=sender.sent,
        timed=matcher.timed,
        answered=matcher.answered,
        acknowledged=sender.settled,
        seconds=seconds,
        achieved=back / seconds,
        late=sender.late_orders,
        refused=matcher.refusals(),
        latency_ns=quantiles_of(told),
        acknowledged_ns=quantiles_of(sender.acknowledged),
        lateness_ns=quantiles_of(sender.late),
    )


def quantiles_of(counts: np.ndarray) -> dict[str, int]:
    """The percentiles that are told, ns."""
    return {name: histogram.percentile(counts, quantile) for name, quantile in QUANTILES}


def tell(result: Result, say: Say) -> None:
    """Say what a reader of the figures must know."""
    if result.late > LATE_SHARE_TOLD * result.orders:
        say(
            f"the generator fell behind: {result.late:,} of {result.orders:,} orders were sent more than 1 ms late, the worst "
            f"{result.lateness_ns['max'] / 1e6:,.1f} ms; times run from when they were due and include it"
        )
    if result.sent < result.orders:
        say(f"{result.orders - result.sent:,} orders were not sent: the way in took nothing more")
    elif result.answered < result.timed and result.answered:
        say(
            f"{result.timed - result.answered:,} orders had no report {PATIENCE_SECONDS:.0f} s after the last one"
        )
    refused = {
        reason: count
        for reason, count in result.refused.items()
        if reason not in ("UNKNOWN_ORDER", "FOK_UNFILLABLE")
    }
    if refused:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in refused.items())
        say(f"refused: {reasons}; a refusal is quicker than a trade: see to it before you trust the times")


def as_json(result: Result) -> dict[str, Any]:
    """A result as it is saved."""
    return asdict(result) | {"kept_up": result.kept_up}
