"""
Exchange: the engine in one process, for notebooks, replays and tests.

    from ringpit.engine import Exchange

    exchange = Exchange()
    exchange.create_event(7)                                   # ticks 1 to 99, payout 100
    exchange.order(7, order=1, account=10, side="sell", price=55, quantity=5)
    exchange.order(7, order=2, account=11, side="buy", price=60, quantity=3)

It starts empty. The same kernels run in a shard's worker; here commands come as numpy arrays or one by one,
and reports go back as numpy arrays. Prices are ticks, quantities lots: no decimals, no clock, no randomness.

Fast with arrays: one call, one kernel. Slow one by one: a call from Python costs microseconds, the match
itself tens of nanoseconds.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from ringpit.engine import digest as digests
from ringpit.engine import queries
from ringpit.engine.book import find_book
from ringpit.engine.codes import (
    BOTH_SIDES,
    CommandKind,
    EventState,
    Flag,
    LevelKind,
    OrderType,
    Outcome,
    SelfTrade,
    Side,
    TimeInForce,
)
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import REPORTS_PER_STEP_MAX, Limits, power_of_two
from ringpit.engine.machine import process
from ringpit.engine.records import BANDS, BANDS_PER_RECORD, COMMAND, EXTENSION, MARKER, REPORT
from ringpit.engine.tables import Tables, allocate
from ringpit.engine.validate import validate

REPORT_SLOTS: Final = 1 << 16


class UnknownEvent(KeyError):
    """No event has this id."""


def _code(kind: type, name: object) -> int:
    """A code from its member, number or name in any case."""
    if isinstance(name, str):
        members = kind.__members__  # type: ignore[attr-defined]  # `kind` is an enumeration
        if name.upper() not in members:
            known = ", ".join(member.lower() for member in members)
            raise ValueError(f"{kind.__name__} must be one of {known}, was {name!r}")
        return int(members[name.upper()])
    return int(kind(name))


def _record(dtype: np.dtype, kind: CommandKind, event: int, fields: dict[str, int]) -> np.ndarray:
    """One record of a dtype, as a COMMAND array of length 1."""
    record = np.zeros(1, dtype)
    record["kind"] = kind
    record["event"] = event
    for name, value in fields.items():
        record[name] = value
    return record.view(COMMAND)


def _band_fields(bands: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Fields of a BANDS record."""
    fields = {"count": len(bands)}
    for number, (last, step) in enumerate(bands, 1):
        fields |= {f"last_{number}": last, f"step_{number}": step}
    return fields


class Exchange:
    """
    Events, their books, and everything that can be asked of them.

    Args:
        limits: Sizes of the preallocated pools.
        market_data: Also report level changes (LEVEL), new books (BOOK_RESET) and frames (FRAME).
        report_slots: Size of the report buffer, a power of two; longer answers take several rounds.
    """

    def __init__(
        self, limits: Limits | None = None, *, market_data: bool = False, report_slots: int = REPORT_SLOTS
    ) -> None:
        if not power_of_two(report_slots) or report_slots < REPORTS_PER_STEP_MAX:
            raise ValueError(
                f"report_slots must be a power of two of at least {REPORTS_PER_STEP_MAX}, was {report_slots}"
            )
        self.limits = limits or Limits()
        self.tables: Tables = allocate(self.limits, market_data=market_data)
        self.next_seq = 1
        self._reports = np.zeros(report_slots, REPORT)

    def submit(self, commands: np.ndarray) -> np.ndarray:
        """
        Apply an array of COMMAND records (or frames: MARKER records in the same array) in order.

        Returns the REPORT records they cause, in order. Raises TypeError for another dtype.
        Cost: about a microsecond for the call, 20 to 200 ns a command.
        """
        if commands.dtype != COMMAND:
            raise TypeError(f"commands must have the dtype ringpit.engine.COMMAND, had {commands.dtype}")
        count = len(commands)
        slots = np.zeros(1 << max(count - 1, 0).bit_length(), COMMAND)
        slots[:count] = commands
        markers = slots.view(MARKER)
        chunks = []
        done = 0
        while done < count:
            reached, out = process(
                self.tables, slots, markers, done, count, self.next_seq, self._reports, 0, len(self._reports), 1
            )
            self.next_seq += reached - done
            done = reached
            chunks.append(self._reports[:out].copy())
        return np.concatenate(chunks) if chunks else np.zeros(0, REPORT)

    def command(self, kind: CommandKind, event: int, **fields: int) -> np.ndarray:
        """Submit one command given by its fields; its reports."""
        return self.submit(_record(COMMAND, kind, event, fields))

    def create_event(
        self,
        event: int,
        low: int = 1,
        high: int = 99,
        payout: int = 100,
        *,
        tick_units: int = 1,
        decimals: int = 2,
        levels: LevelKind | str = LevelKind.AUTO,
        closes_ns: int = 0,
        bands: Sequence[tuple[int, int]] = (),
        orders_max: int = 0,
        account_orders_max: int = 0,
    ) -> np.ndarray:
        """
        Add an event whose book takes prices from `low` to `high` ticks; a tick is tick_units / 10**decimals.

        `payout` is low + high, or 0 for an event without NO. `bands` are (last price, step) pairs that end at `high`.
        """
        records = [
            _record(BANDS, CommandKind.BANDS, event, _band_fields(bands[start : start + BANDS_PER_RECORD]))
            for start in range(0, len(bands), BANDS_PER_RECORD)
        ]
        limits = {"orders_max": orders_max, "account_orders_max": account_orders_max}
        fields = {
            "price": low,
            "quantity": high,
            "payout": payout,
            "order": tick_units,
            "account": decimals,
            "order_type": _code(LevelKind, levels),
            "expires_ns": closes_ns,
        }
        return self._extended(CommandKind.CREATE_EVENT, event, fields, limits, records)

    def order(
        self,
        event: int,
        *,
        order: int,
        account: int,
        side: Side | str,
        quantity: int,
        price: int | None = None,
        order_type: OrderType | str = OrderType.LIMIT,
        time_in_force: TimeInForce | str = TimeInForce.GTC,
        outcome: Outcome | str = Outcome.YES,
        self_trade: SelfTrade | str = SelfTrade.NONE,
        post_only: bool = False,
        hidden: bool = False,
        all_or_none: bool = False,
        expires_ns: int = 0,
        trigger: int = 0,
        trail: int = 0,
        display: int = 0,
        group: int = 0,
    ) -> np.ndarray:
        """
        Submit one new order; its reports.

        Prices are in ticks of the outcome. Market orders and stops may leave out the price; a money order's quantity is
        ticks x lots. Rules M3 and M13 to M21 of ARCHITECTURE.md say what goes together.
        """
        flags = (
            (Flag.NO_PRICE if price is None else 0)
            | (Flag.POST_ONLY if post_only else 0)
            | (Flag.HIDDEN if hidden else 0)
            | (Flag.ALL_OR_NONE if all_or_none else 0)
        )
        fields = {
            "order": order,
            "account": account,
            "side": _code(Side, side),
            "order_type": _code(OrderType, order_type),
            "time_in_force": _code(TimeInForce, time_in_force),
            "outcome": _code(Outcome, outcome),
            "self_trade": _code(SelfTrade, self_trade),
            "quantity": quantity,
            "price": 0 if price is None else price,
            "flags": flags,
            "expires_ns": expires_ns,
        }
        extension = {"trigger": trigger, "trail": trail, "display": display, "group": group}
        return self._extended(CommandKind.NEW, event, fields, extension, [])

    def cancel(self, event: int, *, order: int, account: int) -> np.ndarray:
        """Cancel an open order; its reports."""
        return self.command(CommandKind.CANCEL, event, order=order, account=account)

    def amend(
        self, event: int, *, order: int, account: int, price: int | None = None, quantity: int = 0
    ) -> np.ndarray:
        """Change price, total quantity (including what is filled; 0 keeps it), or both; its reports."""
        return self._change(CommandKind.AMEND, event, order, account, price, quantity)

    def replace(
        self, event: int, *, order: int, account: int, quantity: int, price: int | None = None
    ) -> np.ndarray:
        """Give an order new open lots, and perhaps a price; it goes to the back of its queue. Its reports."""
        return self._change(CommandKind.REPLACE, event, order, account, price, quantity)

    def reduce(self, event: int, *, order: int, account: int, quantity: int) -> np.ndarray:
        """Take lots off an order, which keeps its place; its reports."""
        return self._change(CommandKind.REDUCE, event, order, account, None, quantity)

    def _change(
        self, kind: CommandKind, event: int, order: int, account: int, price: int | None, quantity: int
    ) -> np.ndarray:
        """Submit one command about an open order."""
        return self.command(
            kind,
            event,
            order=order,
            account=account,
            quantity=quantity,
            price=0 if price is None else price,
            flags=Flag.NO_PRICE if price is None else 0,
        )

    def mass_cancel(
        self, event: int | None = None, *, account: int = 0, side: Side | str | None = None, group: int = 0
    ) -> np.ndarray:
        """Cancel the open orders of an event (None: of all), of an account, a side and a group where they are given."""
        return self.command(
            CommandKind.MASS_CANCEL,
            event or 0,
            account=account,
            order=group,
            side=BOTH_SIDES if side is None else _code(Side, side),
            flags=Flag.ALL_EVENTS if event is None else 0,
        )

    def advance(self, engine_ns: int) -> np.ndarray:
        """Let the engine's time be at least `engine_ns`, and expire what is due by then; its reports."""
        marker = np.zeros(1, MARKER)
        marker["kind"], marker["count"], marker["engine_ns"] = CommandKind.MARKER, 1, engine_ns
        return self.submit(np.concatenate([marker.view(COMMAND), _record(COMMAND, CommandKind.TICK, 0, {})]))

    def _extended(
        self,
        kind: CommandKind,
        event: int,
        fields: dict[str, int],
        extension: dict[str, int],
        before: list[np.ndarray],
    ) -> np.ndarray:
        """Submit a command behind the records that complete it; without an extension if that would say nothing."""
        records = before
        if any(extension.values()):
            records = [*records, _record(EXTENSION, CommandKind.EXTENSION, event, extension)]
            fields = fields | {"flags": fields.get("flags", 0) | Flag.EXTENDED}
        return self.submit(np.concatenate([*records, _record(COMMAND, kind, event, fields)]))

    def settle(self, event: int) -> np.ndarray:
        """Close an event: cancel what rests, give its memory back; its reports."""
        return self.command(CommandKind.SETTLE, event)

    def _book(self, event: int) -> int:
        book = find_book(self.tables, event)
        if book == NIL:
            raise UnknownEvent(f"no event {event}: create it with create_event({event})")
        return int(book)

    def _open_book(self, event: int) -> int | None:
        book = self._book(event)
        return book if self.tables.books[book]["state"] == EventState.OPEN else None

    def events(self) -> list[int]:
        """Ids of all open events, ascending."""
        return [int(self.tables.books[book]["event"]) for book in digests.open_books(self.tables)]

    def state(self, event: int) -> EventState:
        """Where the event stands in its life. Raises UnknownEvent."""
        return EventState(int(self.tables.books[self._book(event)]["state"]))

    def depth(self, event: int, levels: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Bids and asks: int64 arrays of (price in ticks, lots), best first. Raises UnknownEvent."""
        book = self._open_book(event)
        if book is None:
            return np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64)
        return (
            digests.depth(self.tables, book, Side.BUY, levels),
            digests.depth(self.tables, book, Side.SELL, levels),
        )

    def best(self, event: int) -> tuple[int | None, int | None]:
        """Best bid and best ask in ticks, None where there is none. Raises UnknownEvent."""
        bids, asks = self.depth(event, 1)
        return (int(bids[0, 0]) if len(bids) else None, int(asks[0, 0]) if len(asks) else None)

    def resting(self, event: int) -> np.ndarray:
        """RESTING rows of the event's orders in priority order. Raises UnknownEvent."""
        book = self._open_book(event)
        return np.zeros(0, digests.RESTING) if book is None else digests.resting(self.tables, book)

    def open_lots(self, event: int, order: int) -> int:
        """Lots of an order that can still trade, 0 if it is not open. Raises UnknownEvent."""
        self._book(event)
        rows = queries.order_row(self.tables, event, order)
        return int(rows["open"].sum())

    def order_status(self, event: int, order: int) -> np.void | None:
        """The RESTING row of an open order, or None if no open order of the event has this id. Raises UnknownEvent."""
        self._book(event)
        rows = queries.order_row(self.tables, event, order)
        return rows[0] if len(rows) else None

    def open_orders(self, account: int) -> np.ndarray:
        """RESTING rows of all open orders of an account, event by event. Cost: one look at each order slot."""
        return queries.open_orders(self.tables, account)

    def queue_position(self, event: int, order: int) -> tuple[int, int] | None:
        """Orders, and their lots, that stand before an open order at its price; None if it is not open. Raises UnknownEvent."""
        self._book(event)
        return queries.queue_position(self.tables, event, order)

    def digest(self) -> str:
        """Hash of everything that rests, independent of memory layout."""
        return digests.digest(self.tables)

    def validate(self) -> None:
        """Check every invariant. Slow: for tests and doubts."""
        validate(self.tables)

    def statistics(self) -> dict[str, int]:
        """How full the pools are, and how much there is room for."""
        return {"seq": self.next_seq - 1, **queries.statistics(self.tables)}
