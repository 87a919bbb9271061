"""
Sessions: seeded records that use everything the exchange can do, so that everything meets everything.

    session(50_000, seed=1)                         COMMAND array: frames of commands, extensions, bands and markers
    with_levels(records, LevelKind.SKIP_LIST)       the same, with events of the other structure

Where `ringpit.shards.flow` draws a day as it might be, this draws what is hard: a few events of different kinds, few accounts
that meet themselves, ids that come back, prices close together, and each type of order beside each other. Time goes
on and orders expire; frames come twice, or with a key that was used; a share of everything is spoilt in one field.

Nothing here knows a book. About 10 us a record. The same arguments give the same bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import numpy as np

from ringpit.engine.codes import (
    BOTH_SIDES,
    CommandKind,
    Flag,
    LevelKind,
    OrderType,
    Outcome,
    SelfTrade,
    Side,
    TimeInForce,
)
from ringpit.engine.limits import LADDER_LEVELS_MAX, QUANTITY_MAX
from ringpit.testing.naive import Bands, Command, Extension, Marker, record_array

FRAME_RECORDS_MAX: Final = 60
STEP_NS: Final = 1_000  # from frame to frame, at most
LIFETIME_NS: Final = 40_000  # of an order that expires, at most
SPOILT_SHARE: Final = 0.03
FRAMED_SHARE: Final = 0.9  # the other batches come without a marker
REPEATED_SHARE: Final = 0.02  # frames that come again, and frames whose key is used for another body
IDS: Final = 250  # order ids of an event
DISTANCE_TICKS: Final = 5
AT_END_SHARE: Final = 0.04  # orders at an end of the event's range

# What is asked for, and how often.
VERBS: Final = {
    CommandKind.NEW: 60,
    CommandKind.CANCEL: 14,
    CommandKind.AMEND: 8,
    CommandKind.REDUCE: 4,
    CommandKind.REPLACE: 5,
    CommandKind.TICK: 3,
    CommandKind.MASS_CANCEL: 0.4,
    CommandKind.CREATE_EVENT: 0.3,
    CommandKind.SETTLE: 0.05,
}
TYPES: Final = {
    OrderType.LIMIT: 70,
    OrderType.MARKET: 6,
    OrderType.MONEY: 5,
    OrderType.STOP: 6,
    OrderType.STOP_LIMIT: 7,
    OrderType.TRAILING_STOP: 6,
}
RESTING_TIMES: Final = (TimeInForce.GTC, TimeInForce.GTC, TimeInForce.GTD, TimeInForce.GTD, TimeInForce.DAY)
TAKING_TIMES: Final = (TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK)
SPECIAL: Final = (
    "plain",
    "plain",
    "plain",
    "taking",
    "post-only",
    "hidden",
    "iceberg",
    "iceberg",
    "all-or-none",
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of event: what its CREATE_EVENT says."""

    low: int
    high: int
    payout: int
    lifetime_ns: int = 0
    limits: dict[str, int] = field(default_factory=dict)
    bands: tuple[tuple[int, int], ...] = ()


KINDS: Final = (
    Kind(low=1, high=99, payout=100),
    Kind(low=1, high=99, payout=100, limits={"orders_max": 40, "account_orders_max": 12}),
    Kind(low=1, high=99, payout=100, bands=((10, 1), (90, 5), (99, 1)), lifetime_ns=400_000),
    Kind(low=0, high=400_000, payout=400_000),
    Kind(low=0, high=2_000_000_000, payout=0, bands=((1_000_000_000, 1), (2_000_000_000, 1_000))),
    Kind(low=0, high=20, payout=20, lifetime_ns=900_000, limits={"account_orders_max": 30}),
)


def step_at(kind: Kind, price: int) -> int:
    """Distance of two prices around a price."""
    return next((step for last, step in kind.bands if price <= last), 1)


def on_step(kind: Kind, price: int) -> int:
    """The price on a step of its band that is at or below a price of the range."""
    begin = max((last for last, _ in kind.bands if last < price), default=kind.low)
    return price - (price - begin) % step_at(kind, price)


@dataclass(kw_only=True)
class Market:
    """An event as whoever draws orders sees it: around which price it trades, and which orders came last."""

    event: int
    kind: Kind
    middle: int
    recent: list[tuple[int, int]] = field(default_factory=list)  # order id, account


class Session:
    """
    Draws records.

    Args:
        random: Everything comes from it.
        accounts: Accounts 1 to `accounts` trade.
    """

    def __init__(self, random: Random, accounts: int) -> None:
        self.random = random
        self.accounts = accounts
        self.now_ns = 0
        self.markets: list[Market] = []
        self.frames: list[list[Any]] = []  # frames with a key, marker first
        self.keys = 0

    def chosen(self, shares: Mapping[Any, float]) -> Any:
        """One of the keys, as often as its share says."""
        return self.random.choices(list(shares), list(shares.values()))[0]

    # -- events ---------------------------------------------------------------------------------------------

    def open_event(self, event: int) -> list[Any]:
        """Records that create an event of the next kind."""
        kind = KINDS[event % len(KINDS)]
        self.markets.append(Market(event=event, kind=kind, middle=(kind.low + kind.high) // 2))
        return self.creation(self.markets[-1])

    def creation(self, market: Market) -> list[Any]:
        """CREATE_EVENT with what completes it."""
        kind, event = market.kind, market.event
        command = Command(
            kind=CommandKind.CREATE_EVENT, event=event, price=kind.low, quantity=kind.high, payout=kind.payout,
            order=1, account=2, expires_ns=kind.lifetime_ns, flags=Flag.EXTENDED if kind.limits else 0,
        )  # fmt: skip
        bands = {f"last_{number}": last for number, (last, _) in enumerate(kind.bands, 1)}
        bands |= {f"step_{number}": step for number, (_, step) in enumerate(kind.bands, 1)}
        records = [Bands(kind=CommandKind.BANDS, count=len(kind.bands), event=event, **bands)] if bands else []
        if kind.limits:
            records.append(Extension(kind=CommandKind.EXTENSION, event=event, **kind.limits))
        return [*records, command]

    # -- orders ---------------------------------------------------------------------------------------------

    def price(self, market: Market, side: int, outcome: int, *, away: int = DISTANCE_TICKS) -> int:
        """A price around the middle, more often on the order's own side, in the order's own terms."""
        kind = market.kind
        if self.random.random() < AT_END_SHARE:
            return self.random.choice((kind.low, kind.high))
        worse = self.random.randint(-2, away) * step_at(kind, market.middle)
        is_bid = side == (Side.SELL if outcome == Outcome.NO else Side.BUY)
        price = on_step(kind, min(max(market.middle + (-worse if is_bid else worse), kind.low), kind.high))
        return kind.payout - price if outcome == Outcome.NO else price

    def drift(self, market: Market) -> None:
        """The middle moves a step, or not."""
        kind = market.kind
        moved = market.middle + self.random.choice((-1, 0, 0, 0, 1)) * step_at(kind, market.middle)
        market.middle = min(max(moved, kind.low), kind.high)

    def new(self, market: Market) -> list[Any]:
        """A NEW of any type, with its extension if it needs one."""
        random = self.random
        order_type = self.chosen(TYPES)
        special = random.choice(SPECIAL) if order_type == OrderType.LIMIT else ""
        side = Side.BUY if order_type == OrderType.MONEY else random.choice(tuple(Side))
        outcome = random.choice(tuple(Outcome)) if market.kind.payout else Outcome.YES
        order, account = random.randint(1, IDS), random.randint(1, self.accounts)
        times = TAKING_TIMES if special == "taking" or order_type == OrderType.MARKET else RESTING_TIMES
        time_in_force = random.choice(times)
        has_price = order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) or random.random() < 0.3
        flags = {"post-only": Flag.POST_ONLY, "hidden": Flag.HIDDEN, "all-or-none": Flag.ALL_OR_NONE}.get(
            special, 0
        )
        extension = self.extension(market, order_type, special, side, outcome)
        self.drift(market)
        if times is RESTING_TIMES and order_type != OrderType.MONEY:
            market.recent = [*market.recent[-25:], (order, account)]
        command = Command(
            kind=CommandKind.NEW, side=side, order_type=order_type, time_in_force=time_in_force,
            flags=flags | (0 if has_price else Flag.NO_PRICE) | (Flag.EXTENDED if extension else 0),
            self_trade=random.choice(tuple(SelfTrade)), outcome=outcome, event=market.event, order=order, account=account,
            price=self.price(market, side, outcome) if has_price else 0,
            quantity=self.quantity(order_type),
            expires_ns=self.now_ns + random.randint(1, LIFETIME_NS) if time_in_force == TimeInForce.GTD else 0,
        )  # fmt: skip
        if not extension:
            return [command]
        return [Extension(kind=CommandKind.EXTENSION, event=market.event, **extension), command]

    def quantity(self, order_type: OrderType) -> int:
        """Lots, or money."""
        lots = self.random.choice((self.random.randint(1, 9), self.random.randint(1, 60)))
        return lots * self.random.randint(1, 90) if order_type == OrderType.MONEY else lots

    def extension(
        self, market: Market, order_type: OrderType, special: str, side: int, outcome: int
    ) -> dict[str, int]:
        """Fields of the extension of a NEW; none if it needs none."""
        random = self.random
        fields: dict[str, int] = {}
        if special == "iceberg":
            fields["display"] = random.randint(1, 6)
        if order_type >= OrderType.STOP:
            fields["trigger"] = self.price(market, 1 - side, outcome)
        if order_type == OrderType.TRAILING_STOP:
            fields["trail"] = random.randint(1, 4)
            fields["trigger"] *= random.randint(0, 1)
        if random.random() < 0.2:
            fields["group"] = random.randint(1, 3)
        return fields

    def change(self, market: Market, kind: CommandKind) -> list[Any]:
        """A CANCEL, AMEND, REDUCE or REPLACE of an order that came lately, if it is still open."""
        random = self.random
        order, account = random.choice(market.recent) if market.recent else (1, 1)
        has_price = kind in (CommandKind.AMEND, CommandKind.REPLACE) and random.random() < 0.6
        side, outcome = random.choice(tuple(Side)), random.choice(tuple(Outcome)) if market.kind.payout else 0
        quantity = random.randint(1, 40)
        if kind == CommandKind.AMEND and random.random() < 0.4:
            quantity = 0
        return [
            Command(
                kind=kind, event=market.event, order=order, account=account, quantity=quantity,
                price=self.price(market, side, outcome) if has_price else 0, flags=0 if has_price else Flag.NO_PRICE,
            )
        ]  # fmt: skip

    def mass_cancel(self, market: Market) -> list[Any]:
        """A MASS_CANCEL, of one event or of all."""
        random = self.random
        return [
            Command(
                kind=CommandKind.MASS_CANCEL, event=market.event, side=random.choice((*Side, BOTH_SIDES, BOTH_SIDES)),
                account=random.randint(0, self.accounts), order=random.choice((0, 0, 1, 2)),
                flags=random.choice((0, 0, Flag.ALL_EVENTS)),
            )
        ]  # fmt: skip

    def spoilt(self, records: list[Any]) -> list[Any]:
        """The same with one thing wrong: a field, an edge's verdict, or an extension that is missing or out of place."""
        random = self.random
        way = random.choice(("field", "field", "field", "verdict", "drop", "turn", "extension"))
        *before, command = records
        if way == "verdict":
            return [*before, command._replace(verdict=random.randint(1, 37))]
        if way == "drop":
            return [command]
        if way == "turn":
            return [command, *before]
        if way == "extension" and before:
            name = random.choice(("event", "trigger", "trail", "display", "group", "orders_max"))
            name = name if hasattr(before[-1], name) else "event"
            return [*before[:-1], before[-1]._replace(**{name: random.randint(-1, 3)}), command]
        byte = random.randint(-128, 127)
        name, value = random.choice(
            (
                ("side", byte), ("order_type", random.randint(-1, 6)), ("time_in_force", random.randint(-1, 5)),
                ("flags", byte), ("self_trade", random.randint(-1, 5)), ("outcome", byte), ("event", random.randint(0, 99)),
                ("order", random.randint(-1, 400)), ("account", random.randint(0, 9)), ("payout", random.randint(-1, 1)),
                ("price", random.choice((-1, 0, 100, command.price + 1, 1 << 40, -(1 << 63)))), ("expires_ns", random.randint(-1, 9_000)),
                ("quantity", random.choice((-1, 0, QUANTITY_MAX, QUANTITY_MAX + 1, (1 << 62), (1 << 63) - 1))),
                ("kind", random.choice((0, 13, 127, -1))),
            )
        )  # fmt: skip
        if command.kind == CommandKind.CREATE_EVENT and name == "order_type":
            value = 3  # a structure that does not exist: which one an event has is for `with_levels` to say
        return [*before, command._replace(**{name: value})]

    # -- steps and frames -----------------------------------------------------------------------------------

    def step(self) -> list[Any]:
        """One command with what completes it."""
        kind = self.chosen(VERBS)
        market = self.random.choice(self.markets)
        if kind == CommandKind.NEW:
            records = self.new(market)
        elif kind == CommandKind.TICK:
            records = [Command(kind=kind)]
        elif kind == CommandKind.MASS_CANCEL:
            records = self.mass_cancel(market)
        elif kind == CommandKind.CREATE_EVENT:
            records = self.creation(market)
        elif kind == CommandKind.SETTLE:
            records = [Command(kind=kind, event=market.event), *self.open_event(self.markets[-1].event + 1)]
            self.markets.remove(market)
        else:
            records = self.change(market, kind)
        return self.spoilt(records) if self.random.random() < SPOILT_SHARE else records

    def frame(self, records: list[Any]) -> list[Any]:
        """Records behind a marker; sometimes an earlier frame once more, or its key with these records."""
        random = self.random
        self.now_ns += random.randint(0, STEP_NS)
        if self.frames and random.random() < REPEATED_SHARE:
            earlier = random.choice(self.frames[-20:])
            if random.random() < 0.5:
                return earlier
            return [earlier[0]._replace(count=len(records), body_hash=-1), *records]
        self.keys += 1
        key = self.keys if random.random() < 0.9 else 0
        marker = Marker(
            kind=CommandKind.MARKER, count=len(records), key_low=key, key_high=5 if key else 0, body_hash=self.keys,
            engine_ns=self.now_ns, ingress_ns=self.now_ns, position=self.keys, first_event=self.markets[0].event,
        )  # fmt: skip
        if key:
            self.frames.append([marker, *records])
        return [marker, *records]


def session(count: int, *, seed: int = 0, events: int = 6, accounts: int = 5) -> np.ndarray:
    """
    COMMAND array of at least `count` commands with all that belongs to them, behind `events` CREATE_EVENTs.

    Args:
        count: Commands after the creations; extensions, bands and markers come on top.
        seed: Of everything random.
        events: Events open at a time, with ids from 1.
        accounts: Accounts 1 to `accounts` trade.
    """
    drawn = Session(Random(seed), accounts)
    records = [record for event in range(1, events + 1) for record in drawn.open_event(event)]
    left = count
    while left > 0:
        steps = [drawn.step() for _ in range(drawn.random.randint(1, FRAME_RECORDS_MAX))]
        left -= len(steps)
        batch = [record for step in steps for record in step]
        records += drawn.frame(batch) if drawn.random.random() < FRAMED_SHARE else batch
    return record_array(records)


def with_levels(records: np.ndarray, kind: LevelKind) -> np.ndarray:
    """The same records, with events of the structure `kind` where they leave the choice and the range is narrow enough."""
    changed = records.copy()
    is_creation = (changed["kind"] == CommandKind.CREATE_EVENT) & (changed["order_type"] == LevelKind.AUTO)
    with np.errstate(over="ignore"):
        narrow = (changed["quantity"] - changed["price"] < LADDER_LEVELS_MAX) & (changed["price"] >= 0)
    changed["order_type"][is_creation & narrow] = kind
    return changed
