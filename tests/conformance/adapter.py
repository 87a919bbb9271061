"""
Ringpit as a candidate of Tracebook's: one exchange behind its protocol of events, outcomes and states.

    tracebook-conformance qualify --profile fifo-full-v1 --candidate-cmd '.venv/bin/python tests/conformance/adapter.py'

As a program it reads the protocol (one JSON object a line) on standard input and answers on standard output; a
test may also call `Candidate` in its own process, which saves a start for each trace. It translates and
decides nothing: what is refused, what trades and in which order things rest comes from the engine's reports
and its list of resting orders.

    new, cancel, reduce   NEW, CANCEL, REDUCE
    replace               REPLACE; without a quantity, what is open stays open
    clear                 MASS_CANCEL of the event
    symbol                an event without payout, created when it is first named by new or clear
    price                 ticks, rounded to the nearest one, from 0.01 to 106.00
    quantity              lots of 2**-20: the campaigns halve what is open again and again
    owner                 account; Tracebook's "nobody" (-1) has no self-trade prevention

With `verbs="composed"` the last three verbs are made of older ones: `reduce` is an AMEND to a smaller total,
`replace` a CANCEL and a NEW with the same id, `clear` a CANCEL for each order. Outcomes must be the same.

Where the two differ, and what this translation does about it (the letters are the rules in ARCHITECTURE.md):

- M3: a fill-or-kill order that cannot fill is REJECTED here and "applied" without a trade there. Translated.
- M7: ours has a reason for each of a dozen mistakes, theirs five in all. Several of ours make one of theirs. The order of
  checks is different too: theirs looks for the id first, ours last. No trace here makes two mistakes at once.
- M7, M8: there a price between two ticks is moved to the nearest; here the edge refuses it (PRICE_NOT_ON_TICK)
  before the engine is asked. Rounding is the adapter's doing, so the case "tick-grid" proves only what comes after it.
- M8: theirs takes any price above 0, ours those of the event. Traces stay between 0.01 and 106.00.
- M5: theirs cancels, reduces and replaces by id alone, ours by id and account. The adapter remembers who asked.
- M15: to reduce by more than is open is INVALID_ORDER there and cancels the order here. No trace does it.
- M6: their only way to change a price is `replace`, which always goes to the back. AMEND, which keeps the place
  where it may, has no counterpart there but `reduce`.
- M17: they have two of our four modes, CANCEL_RESTING (our CANCEL_MAKER) and CANCEL_INCOMING (CANCEL_TAKER), one
  for a whole book. Their own profiles use neither; `SELF_TRADE_PROFILES` are campaigns of their generator with them.
- Pro-rata allocation is not among our rules: the case "pro-rata-allocation" is left out.
- Stops, icebergs, hidden and all-or-none orders, post-only, expiry, MONEY, outcomes (M13, M16, M18 to M21) are
  not in Tracebook.
"""

import os
import sys
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final

import numpy as np
from tracebook import NO_OWNER, MarketEvent, OrderSide, OrderType, SelfTradePolicy
from tracebook.conformance import (
    BookSnapshot,
    BookState,
    ConformanceConfig,
    EngineMetadata,
    Observation,
    Outcome,
    RestingOrder,
    TradeFill,
    canonical_decimal,
    serve_stdio,
)

from ringpit.engine.codes import (
    BOTH_SIDES,
    CommandKind,
    Flag,
    LevelKind,
    Queue,
    Reason,
    ReportKind,
    SelfTrade,
    Side,
    TimeInForce,
)
from ringpit.engine.codes import OrderType as Type
from ringpit.engine.exchange import Exchange
from ringpit.engine.limits import Limits
from ringpit.engine.records import REPORT, RULES_VERSION

LOTS: Final = 1 << 20  # lots in a quantity of 1
HIGH: Final = 10_600  # highest price, ticks
PAYOUT: Final = 0  # there is no NO
LIMITS: Final = Limits(events=64, orders=1 << 12, levels=1 << 16)

SIDES: Final = {OrderSide.BUY: Side.BUY, OrderSide.SELL: Side.SELL}
TYPES: Final = {
    OrderType.LIMIT: (Type.LIMIT, TimeInForce.GTC),
    OrderType.MARKET: (Type.MARKET, TimeInForce.IOC),
    OrderType.IOC: (Type.LIMIT, TimeInForce.IOC),
    OrderType.FOK: (Type.LIMIT, TimeInForce.FOK),
}
MODES: Final = {
    SelfTradePolicy.NONE: SelfTrade.NONE,
    SelfTradePolicy.CANCEL_RESTING: SelfTrade.CANCEL_MAKER,
    SelfTradePolicy.CANCEL_INCOMING: SelfTrade.CANCEL_TAKER,
}
REASONS: Final = {
    Reason.UNKNOWN_ORDER: "ORDER_NOT_ACTIVE",
    Reason.UNKNOWN_EVENT: "ORDER_NOT_ACTIVE",
    Reason.DUP_CLIENT_ORDER_ID: "DUPLICATE_ORDER_ID",
}


def lots_of(quantity: float) -> int:
    """Lots of a quantity; raises ValueError if it is no whole number of them."""
    lots = Decimal(str(quantity)) * LOTS
    if lots != int(lots):
        raise ValueError(f"a quantity must be a multiple of 1/{LOTS}, was {quantity}")
    return int(lots)


class Candidate:
    """An exchange as Tracebook's `EngineAdapter`. `verbs` is "own" or "composed"; `levels` is how books keep theirs."""

    metadata = EngineMetadata("ringpit", f"rules-{RULES_VERSION}", "Python")

    def __init__(
        self, config: ConformanceConfig, verbs: str = "own", levels: LevelKind = LevelKind.LADDER
    ) -> None:
        if config.matching_algorithm != "fifo":
            raise ValueError(f"matching_algorithm must be fifo, was {config.matching_algorithm}")
        self.config = config
        self.verbs = verbs
        self.levels = levels
        self.exchange = Exchange(LIMITS)
        self.events: dict[str, int] = {}
        self.owners: dict[tuple[str, int], int] = {}  # who sent an order in last

    # -- asking ---------------------------------------------------------------------------------------------

    def event_of(self, symbol: str) -> int:
        """The event of a symbol, created if there is none."""
        if symbol not in self.events:
            reports = self.exchange.command(
                CommandKind.CREATE_EVENT,
                len(self.events) + 1,
                price=1,
                quantity=HIGH,
                payout=PAYOUT,
                order=1,
                order_type=self.levels,
            )
            if reports[0]["kind"] != ReportKind.EVENT_CREATED:
                raise ValueError(f"the exchange must take an event of {HIGH} ticks, said {reports[0]}")
            self.events[symbol] = len(self.events) + 1
        return self.events[symbol]

    def ticks_of(self, price: float) -> int:
        """A price in ticks, moved to the nearest."""
        return round(price / self.config.tick_size)

    def mode_of(self, owner: int) -> SelfTrade:
        """The self-trade mode of an owner's orders: the book's, but nobody never meets himself."""
        return SelfTrade.NONE if owner == NO_OWNER else MODES[self.config.self_trade_policy]

    def command(self, kind: CommandKind, asked: MarketEvent, **fields: int) -> np.ndarray:
        """Send one command about an order; its reports."""
        order = asked.order_id or 0
        return self.exchange.command(
            kind,
            self.events.get(asked.symbol, 0),
            order=order,
            account=self.owners.get((asked.symbol, order), NO_OWNER),
            **fields,
        )

    def new(self, asked: MarketEvent) -> np.ndarray:
        """NEW."""
        event = self.event_of(asked.symbol)
        order_type, time_in_force = TYPES[asked.order_type]
        priced = order_type != Type.MARKET
        reports = self.exchange.command(
            CommandKind.NEW,
            event,
            order=asked.order_id,
            account=asked.owner,
            side=SIDES[asked.side],
            order_type=order_type,
            time_in_force=time_in_force,
            price=self.ticks_of(asked.price) if priced else 0,
            flags=0 if priced else Flag.NO_PRICE,
            quantity=lots_of(asked.quantity),
            self_trade=self.mode_of(asked.owner),
        )
        if reports[0]["kind"] == ReportKind.ACCEPTED:
            self.owners[asked.symbol, asked.order_id] = asked.owner
        return reports

    def reduce(self, asked: MarketEvent) -> np.ndarray:
        """REDUCE, or AMEND to a smaller total."""
        lots = lots_of(asked.quantity)
        if self.verbs == "own":
            return self.command(CommandKind.REDUCE, asked, quantity=lots)
        row = self.row_of(asked)
        total = int(row["open"] + row["filled"]) - lots if row is not None else lots
        if row is not None and lots == row["open"]:
            return self.command(CommandKind.CANCEL, asked)  # a total of 0 would mean: keep it
        return self.command(CommandKind.AMEND, asked, quantity=total, flags=Flag.NO_PRICE)

    def replace(self, asked: MarketEvent) -> np.ndarray:
        """REPLACE, or CANCEL and NEW with the same id."""
        row = self.row_of(asked)
        kept = int(row["open"]) if row is not None else 1
        lots = kept if asked.quantity is None else lots_of(asked.quantity)
        price = None if asked.price is None else self.ticks_of(asked.price)
        if self.verbs == "own":
            flags = Flag.NO_PRICE if price is None else 0
            return self.command(CommandKind.REPLACE, asked, price=price or 0, quantity=lots, flags=flags)
        if row is None:
            return self.command(CommandKind.CANCEL, asked)
        return np.concatenate(
            (
                self.command(CommandKind.CANCEL, asked),
                self.command(
                    CommandKind.NEW,
                    asked,
                    side=row["queue"],
                    price=row["price"] if price is None else price,
                    quantity=lots,
                    self_trade=self.mode_of(row["account"]),
                ),
            )
        )

    def clear(self, asked: MarketEvent) -> np.ndarray:
        """MASS_CANCEL, or CANCEL of one order after the other."""
        event = self.event_of(asked.symbol)
        if self.verbs == "own":
            return self.exchange.command(CommandKind.MASS_CANCEL, event, side=BOTH_SIDES)
        rows = self.exchange.resting(event)
        canceled = [self.exchange.cancel(event, order=row["order"], account=row["account"]) for row in rows]
        return np.concatenate(canceled) if canceled else np.zeros(0, REPORT)

    # -- saying what happened -------------------------------------------------------------------------------

    def row_of(self, asked: MarketEvent) -> Any:
        """The RESTING row of an order, or None."""
        if asked.symbol in self.events:
            for row in self.exchange.resting(self.events[asked.symbol]):
                if row["order"] == asked.order_id:
                    return row
        return None

    def outcome_of(self, asked: MarketEvent, reports: np.ndarray) -> Outcome:
        """Applied, or rejected and why."""
        for report in reports:
            if report["kind"] == ReportKind.REJECTED and report["reason"] != Reason.FOK_UNFILLABLE:
                reason = Reason(int(report["reason"]))
                other = "INVALID_REPLACEMENT" if asked.op == "replace" else "INVALID_ORDER"
                return Outcome("rejected", REASONS.get(reason, other), reason.name)
        return Outcome("applied")

    def trades_of(self, symbol: str, reports: np.ndarray) -> Iterable[TradeFill]:
        """Each pair of fill reports as one trade; raises ValueError where they are no pair."""
        fills = [each for each in reports if each["kind"] in (ReportKind.FILL_MAKER, ReportKind.FILL_TAKER)]
        for maker, taker in zip(fills[::2], fills[1::2], strict=True):
            if (maker["kind"], maker["index"] + 1) != (ReportKind.FILL_MAKER, taker["index"]):
                raise ValueError(f"fills must come in pairs, maker first: {maker} {taker}")
            buy, sell = (taker, maker) if maker["side"] else (maker, taker)
            if (buy["side"], sell["side"], buy["price"]) != (Side.BUY, Side.SELL, sell["price"]):
                raise ValueError(f"a trade has a buyer, a seller and one price: {maker} {taker}")
            yield TradeFill(
                symbol, int(buy["order"]), int(sell["order"]), self.price(buy), self.quantity(buy["quantity"])
            )

    def price(self, row: Any) -> str:
        """Price of a report or a resting order."""
        return canonical_decimal(int(row["price"]) * Decimal(canonical_decimal(self.config.tick_size)))

    def quantity(self, lots: int) -> str:
        """Lots as a quantity."""
        return canonical_decimal(Decimal(int(lots)) / LOTS, self.config.quantity_decimal_places)

    def snapshot(self) -> BookState:
        """All that rests, in the order in which it would trade."""
        books = []
        for symbol in sorted(self.events):
            queues: dict[int, list[RestingOrder]] = {Queue.BIDS: [], Queue.ASKS: []}
            for row in self.exchange.resting(self.events[symbol]):
                queues[int(row["queue"])].append(
                    RestingOrder(
                        int(row["order"]), self.price(row), self.quantity(row["open"]), int(row["account"])
                    )
                )
            books.append(BookSnapshot(symbol, tuple(queues[Queue.BIDS]), tuple(queues[Queue.ASKS])))
        return BookState(tuple(books))

    def apply(self, event: MarketEvent, index: int) -> Observation:
        """Carry out one event of a trace."""
        verbs = {"new": self.new, "reduce": self.reduce, "replace": self.replace, "clear": self.clear}
        if event.op == "cancel":
            reports = self.command(CommandKind.CANCEL, event)
        else:
            reports = verbs[event.op](event)
        outcome = self.outcome_of(event, reports)
        state = self.snapshot()
        trades = tuple(self.trades_of(event.symbol, reports))
        return Observation(index, outcome, trades, state.digest(), state.order_count)

    def close(self) -> None:
        """Nothing to give back."""


if __name__ == "__main__":
    status = serve_stdio(Candidate)
    sys.stdout.flush()
    os._exit(status)  # Tracebook gives a program half a second to end; taking numba down may take longer
