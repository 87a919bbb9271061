"""
Submissions: deliveries as clients send them, and what an exchange must answer to them.

    deliveries = cut(day(100_000, events=20, seed=1), seed=1)     packed, JSON and MessagePack, in order
    model = Model(shards=2, home=home_of(received))
    model.submit(deliveries)
    model.reports[shard]                                          every report, with its seq and index

The model is one `NaiveExchange` for each shard, fed the commands that went into the deliveries, not what came out of
a decoder, a ring or a log. It knows one thing about the router: a delivery becomes one frame on each shard that it
touches, in the order of sending. Which shard an event lives on is read from the reports.

`differences` compares without looking at seq, for runs in which a crash made deliveries come twice.
"""

import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from ringpit.engine.codes import CommandKind, Flag, ReportFlag, ReportKind
from ringpit.engine.records import COMMAND
from ringpit.shards import packed
from ringpit.shards.flow import flow, messages
from ringpit.testing.naive import Command, Marker, NaiveExchange

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
PACKED: Final = packed.CONTENT_TYPE
FORMS: Final = (  # content type, largest number of commands, share of the deliveries
    (PACKED, 100, 0.5),
    (JSON, 40, 0.15),
    (MSGPACK, 40, 0.15),
    (JSON, 1, 0.2),
)
LOW, HIGH, CENTS = 1, 99, 100  # ticks of the default spec, and how many make a payout
DECIMAL_SHARE: Final = 0.5  # of prices in messages are decimals
TEXT_SHARE: Final = 0.2  # of event ids in messages are strings


class Submission(NamedTuple):
    """One delivery, and the commands that it stands for. Without a message id it has no key."""

    content_type: str
    message_id: str
    body: bytes
    commands: np.ndarray
    headers: dict[str, Any] | None = None


def day(orders: int, *, events: int, seed: int) -> np.ndarray:
    """
    COMMAND array of a day: events are created, traded, and two of them settled twice before the end.

    Some events are created again, once with the same content and once with another.
    """
    commands = flow(orders, seed=seed, events=events)
    extra = np.zeros(6, COMMAND)
    extra[:2] = commands[:2]  # the same again
    extra["price"][1] += 1  # another content
    extra["quantity"][1] -= 1
    extra["kind"][2:] = CommandKind.SETTLE
    extra["event"][2:] = [1, 1, 2, 2]
    places = [events + orders * part // 10 for part in (2, 3, 7, 8, 7, 9)]
    return np.insert(commands, places, extra)


def cut(commands: np.ndarray, *, seed: int, prefix: str = "delivery") -> list[Submission]:
    """The commands as deliveries of mixed sizes and encodings, with message ids that follow from prefix and number."""
    random = np.random.Generator(np.random.PCG64(seed))
    known = set(commands["event"][commands["kind"] == CommandKind.CREATE_EVENT].tolist())
    shares = [share for *_, share in FORMS]
    deliveries: list[Submission] = []
    start = 0
    while start < len(commands):
        content_type, largest, _ = FORMS[random.choice(len(FORMS), p=shares)]
        size = largest if content_type == PACKED else int(random.integers(1, largest + 1))
        end = whole(commands, start + size)
        part = commands[start:end]
        body = encoded(part, content_type, random, known, single=largest == 1)
        deliveries.append(Submission(content_type, f"{prefix}-{seed}-{len(deliveries)}", body, part))
        start = end
    return deliveries


def whole(commands: np.ndarray, end: int) -> int:
    """The first end at or behind one at which no command is parted from what completes it."""
    while 0 < end < len(commands) and commands["kind"][end - 1] in (CommandKind.EXTENSION, CommandKind.BANDS):
        end += 1
    return end


def encoded(
    commands: np.ndarray,
    content_type: str,
    random: np.random.Generator,
    known: set[int],
    *,
    single: bool = False,
) -> bytes:
    """The body of a delivery: packed, or messages whose prices and ids are spelled in the several ways there are."""
    if content_type == PACKED:
        return packed.encode(commands)
    spelled = [respelled(message, random, known) for message in messages(commands)]
    delivery = spelled[0] if single else spelled
    return msgspec.msgpack.encode(delivery) if content_type == MSGPACK else json.dumps(delivery).encode()


def respelled(message: dict[str, Any], random: np.random.Generator, known: set[int]) -> dict[str, Any]:
    """The same message with some ticks as decimals, where the event is known, and some ids as strings."""
    order = message.get("Order", {})
    if message.get("ID") in known:
        for name in ("Price", "Trigger", "Trail"):
            ticks = order.get(f"{name}Ticks", 0)
            if LOW <= ticks <= HIGH and random.random() < DECIMAL_SHARE:
                del order[f"{name}Ticks"]
                order[name] = f"{ticks / CENTS:.2f}" if random.random() < DECIMAL_SHARE else ticks / CENTS
        if order.get("Type") == "Money" and order["Action"] == "New" and order["Quantity"] > 0:
            order["Money"] = f"{Decimal(order.pop('Quantity')) / CENTS:.2f}"
    if "ID" in message and random.random() < TEXT_SHARE:
        message["ID"] = str(message["ID"])
    return message


class Model:
    """
    What the shards of an exchange must say and hold, from the deliveries in the order of their first sending.

    Args:
        shards: How many.
        home: Event id to shard.

    Attributes: `shards`, the naive exchanges; `reports`, per shard, every report that is sent to somebody.
    """

    def __init__(self, shards: int, home: Callable[[int], int]) -> None:
        """Empty books."""
        self.shards = [NaiveExchange(market_data=True) for _ in range(shards)]
        self.reports: list[list[Any]] = [[] for _ in range(shards)]
        self._home = home

    def submit(self, deliveries: Iterable[Submission]) -> None:
        """Apply deliveries in order; those that repeat a message id are judged by M11."""
        for delivery in deliveries:
            parts: dict[int, list[Any]] = defaultdict(list)
            for row in delivery.commands.tolist():
                command = Command(*row)
                everywhere = command.kind == CommandKind.MASS_CANCEL and command.flags & Flag.ALL_EVENTS
                for shard in range(len(self.shards)) if everywhere else (self._home(command.event),):
                    parts[shard].append(command)
            for shard, commands in parts.items():
                self._apply(shard, delivery, commands)

    def _apply(self, shard: int, delivery: Submission, commands: list[Any]) -> None:
        """One shard's part of a delivery, as a frame."""
        key = zlib.crc32(delivery.message_id.encode()) + 1 if delivery.message_id else 0
        marker = Marker(
            kind=CommandKind.MARKER,
            count=len(commands),
            first_event=commands[0].event,
            key_low=key,
            body_hash=zlib.crc32(delivery.body),
        )
        self.reports[shard] += addressed(self.shards[shard].run([marker, *commands]))

    def digests(self) -> list[str]:
        """What rests on each shard."""
        return [shard.digest() for shard in self.shards]

    def depth(self, event: int, levels: int) -> tuple[list[list[Any]], list[list[Any]]]:
        """An event's best bids and asks as rows of decimal price and lots."""
        shard = next(shard for shard in self.shards if event in shard.events)
        bids, asks = (
            [[f"{price / CENTS:.2f}", lots] for price, lots in side[:levels]] for side in shard.depth(event)
        )
        return bids, asks

    def trades(self) -> list[list[Any]]:
        """Per shard, the reports of takers as the tape tells them."""
        return [
            [as_trade(row) for row in reports if row.kind == ReportKind.FILL_TAKER] for reports in self.reports
        ]


def as_trade(row: Any, payout: int = CENTS) -> Any:
    """A taker's report as the tape tells it: without order, account and leaves, and in terms of YES."""
    if row.flags & ReportFlag.NO:
        row = row._replace(side=1 - row.side, price=payout - row.price)
    flags = row.flags & ~(ReportFlag.NO | ReportFlag.MONEY)
    return row._replace(order=0, account=0, leaves=0, flags=flags)


def addressed(reports: Iterable[Any]) -> list[Any]:
    """The reports that are sent to somebody: no levels, book images and frames."""
    return [report for report in reports if report.kind < ReportKind.LEVEL]


def one_exchange(deliveries: Iterable[Submission]) -> dict[int, list[Any]]:
    """What each event must say, in order, if every delivery has effect once: seq and index are 0."""
    naive = NaiveExchange()
    commands = [Command(*row) for delivery in deliveries for row in delivery.commands.tolist()]
    return by_event(naive.run(commands))


def by_event(reports: Iterable[Any]) -> dict[int, list[Any]]:
    """Event to its reports in order, without seq and index, and without those that only say "again"."""
    events: dict[int, list[Any]] = defaultdict(list)
    for report in reports:
        if report.kind != ReportKind.DUPLICATE:
            events[report.event].append(report._replace(seq=0, index=0))
    return events


def differences(expected: Mapping[Any, list[Any]], got: Mapping[Any, list[Any]]) -> list[str]:
    """A sentence for each stream (of an event, of a shard) that is not as expected; none if all is well."""
    said = []
    for name in sorted(expected.keys() | got.keys()):
        wanted, have = expected.get(name, []), got.get(name, [])
        if wanted != have:
            pairs = enumerate(zip(wanted, have, strict=False))
            place = next((at for at, (one, other) in pairs if one != other), min(len(wanted), len(have)))
            said.append(
                f"{name}: expected {told(wanted, place)}; received {told(have, place)}; "
                f"report {place}, {len(wanted)} expected, {len(have)} received"
            )
    return said


def told(reports: list[Any], place: int) -> str:
    """A report for a person, or that there is none."""
    if place >= len(reports):
        return "none"
    report = reports[place]
    fields = ", ".join(
        f"{name} {value}" for name, value in report._asdict().items() if value and name != "kind"
    )
    return f"{ReportKind(report.kind).name} {fields}"
