"""
Received: what subscribers got from an exchange, decoded without the exchange's own tables of texts.

    received = Received()
    received.take("reports", content_type, body)      a message from RabbitMQ, or a file's content
    received.shard_reports(0)                         in the order of seq and index, each once

A report is known by its identity (generation, shard, seq, index). One that comes again must say the same, and
`repeated` counts it. Lines of prices and books are absolute: the one with the largest Seq of an event holds.
"""

from collections import defaultdict
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from ringpit.engine.codes import BOTH_SIDES, Reason, ReportFlag, ReportKind, Side
from ringpit.engine.records import REPORT
from ringpit.shards.sinks import JSON_LINES, PACKED
from ringpit.testing.naive import Report

KINDS: Final = {"".join(map(str.title, kind.name.split("_"))): kind for kind in ReportKind}
KINDS["Trade"] = ReportKind.FILL_TAKER
ORDER_KINDS: Final = {  # reports about an order
    kind
    for kind in ReportKind
    if kind <= ReportKind.REJECTED or kind in (ReportKind.TRIGGERED, ReportKind.PREVENTED)
}
ADDRESSED: Final = ORDER_KINDS | {ReportKind.MASS_CANCELED}  # and those that have an account, too
FILL_FLAGS: Final = {"Transfer": 0, "Mint": int(ReportFlag.MINT), "Burn": int(ReportFlag.BURN)}


class Told(NamedTuple):
    """A report, its engine time if that was told, and where it is provisional under which epoch, which takes back what lower ones said above a seq."""

    shard: int
    report: Any
    time_ns: int = 0
    epoch: int = 0
    epoch_seq: int = 0


class Line(msgspec.Struct, rename="pascal", forbid_unknown_fields=True):
    """A line of reports or trades, with every name that one may have."""

    seq: int
    index: int
    shard: int
    generation: int
    kind: str
    event: int
    order_id: int = msgspec.field(name="OrderID", default=0)
    account: int = 0
    side: str = ""
    outcome: str = "YES"
    price: str = ""
    price_ticks: int | None = None
    quantity: int = 0
    leaves: int = 0
    money: str = ""
    money_ticks: int | None = None
    money_left: str = ""
    money_left_ticks: int | None = None
    fill_kind: str = "Transfer"
    group: int = 0
    reason: str = "NONE"
    repeat: bool = False
    time: int = 0
    low_ticks: int = 0
    high_ticks: int = 0
    payout_ticks: int = 0
    tick_units: int = 0
    decimals: int = 0
    orders_canceled: int = 0
    first_seq: int = 0
    commands: int = 0
    provisional: bool = False
    epoch: int = 0
    epoch_seq: int = 0

    def report(self) -> Any:
        """The report that the line tells of."""
        kind = KINDS[self.kind]
        order, account, quantity, leaves = self.order_id, self.account, self.quantity, self.leaves
        price = self.price_ticks or 0
        flags = self.flags(kind)
        if kind == ReportKind.EVENT_CREATED:
            order, account, price, quantity = self.tick_units, self.decimals, self.low_ticks, self.high_ticks
            leaves = self.payout_ticks
        elif kind == ReportKind.EVENT_SETTLED:
            leaves = self.orders_canceled
        elif kind == ReportKind.MASS_CANCELED:
            order, leaves = self.group, self.orders_canceled
        elif kind == ReportKind.DUPLICATE:
            order, leaves = self.first_seq, self.commands
        if self.money_ticks is not None:
            quantity = self.money_ticks
        if self.money_left_ticks is not None:
            leaves = self.money_left_ticks
        return Report(
            kind=kind, side=self.side_of(kind), reason=Reason[self.reason], flags=flags,
            index=self.index, seq=self.seq, event=self.event, order=order, account=account, price=price,
            quantity=quantity, leaves=leaves,
        )  # fmt: skip

    def flags(self, kind: ReportKind) -> int:
        """The report's flags; a DUPLICATE is always a repeat."""
        flags = FILL_FLAGS[self.fill_kind]
        if self.price_ticks is None and kind in ORDER_KINDS:
            flags |= ReportFlag.NO_PRICE
        if self.repeat or kind == ReportKind.DUPLICATE:
            flags |= ReportFlag.REPEAT
        if self.outcome == "NO":
            flags |= ReportFlag.NO
        if self.money_ticks is not None or self.money_left_ticks is not None:
            flags |= ReportFlag.MONEY
        return flags

    def side_of(self, kind: ReportKind) -> int:
        """The report's side; a mass cancel without one is for both, and what has none is 0."""
        if self.side:
            return Side[self.side.upper()]
        return BOTH_SIDES if kind == ReportKind.MASS_CANCELED else Side.BUY


DECODER: Final = msgspec.json.Decoder(Line)


class Received:
    """
    Everything that came, as it came.

    Attributes:
        reports, trades: Per shard, (seq, index) to report, in the order of first arrival.
        prices, books: Event to its newest line.
        repeated: Reports and trades that came again.
        contradicted: Reports that came again and said something else.
        answered: Reports that are no DUPLICATE.
    """

    def __init__(self) -> None:
        """Nothing has come."""
        self.reports: dict[int, dict[tuple[int, int], Any]] = defaultdict(dict)
        self.trades: dict[int, dict[tuple[int, int], Any]] = defaultdict(dict)
        self.prices: dict[int, dict[str, Any]] = {}
        self.books: dict[int, dict[str, Any]] = {}
        self.repeated = 0
        self.contradicted: list[Any] = []
        self.answered = 0

    def take(self, topic: str, content_type: str, body: bytes, message_id: str = "") -> None:
        """
        One message of reports, trades, prices or books.

        `message_id` is generation-shard-seq-index of the first report; packed messages need it for the shard.
        """
        if topic in {"prices", "books"}:
            newest = self.prices if topic == "prices" else self.books
            for text in body.splitlines():
                line = msgspec.json.decode(text)
                if line["Seq"] >= newest.get(line["Event"], line)["Seq"]:
                    newest[line["Event"]] = line
            return
        streams = self.reports if topic == "reports" else self.trades
        for told in decoded(content_type, body, message_id):
            self._keep(streams[told.shard], told.report, counts=topic == "reports")

    def _keep(self, stream: dict[tuple[int, int], Any], report: Any, *, counts: bool) -> None:
        """Keep a report that is new; look that one that is not says the same."""
        identity = (report.seq, report.index)
        known = stream.get(identity)
        if known is None:
            stream[identity] = report
            self.answered += counts and report.kind != ReportKind.DUPLICATE
            return
        self.repeated += 1
        if known != report:
            self.contradicted.append((known, report))

    def by_shard(self, streams: dict[int, dict[tuple[int, int], Any]]) -> dict[int, list[Any]]:
        """Shard to its reports (or trades) in the order of seq and index."""
        return {shard: [stream[identity] for identity in sorted(stream)] for shard, stream in streams.items()}

    def by_log_order(self) -> list[Any]:
        """All reports, each shard's in the order of its log."""
        return [report for reports in self.by_shard(self.reports).values() for report in reports]

    def homes(self) -> dict[int, int]:
        """Event to the shard that it lives on, without 0, which is no event. Raises ValueError for an event of two shards."""
        homes: dict[int, int] = {}
        for shard, stream in self.reports.items():
            for report in stream.values():
                if report.event and homes.setdefault(report.event, shard) != shard:
                    raise ValueError(
                        f"event {report.event} is answered by shards {homes[report.event]} and {shard}"
                    )
        return homes

    def disordered(self) -> list[str]:
        """A sentence for each account (of reports) and event (of trades) whose first arrivals are out of order."""
        said = []
        for name, streams in (("account", self.reports), ("event", self.trades)):
            for shard, stream in streams.items():
                newest: dict[int, tuple[int, int]] = {}
                for identity, report in stream.items():
                    key = getattr(report, name) if report.kind in ADDRESSED else 0
                    if identity < newest.get(key, (0, 0)):
                        said.append(f"shard {shard}, {name} {key}: {identity} came behind {newest[key]}")
                    newest[key] = identity
        return said


def decoded(content_type: str, body: bytes, message_id: str) -> list[Told]:
    """Each line or record of a message. Raises ValueError for another content type."""
    if content_type == JSON_LINES:
        lines = [DECODER.decode(text) for text in body.splitlines()]
        return [Told(line.shard, line.report(), line.time, line.epoch, line.epoch_seq) for line in lines]
    if content_type != PACKED:
        raise ValueError(f"reports must be {JSON_LINES} or {PACKED}, were {content_type!r}")
    shard = int(message_id.split("-")[1])
    return [Told(shard, Report(*row)) for row in np.frombuffer(body, REPORT).tolist()]
