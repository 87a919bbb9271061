"""
The obvious exchange: the matching rules in dictionaries and lists, as plainly as they can be said.

It exists to be compared with. The fast engine, a replay of the log and the whole pipeline must give
the same reports, the same resting orders and the same digest as this page does from the orders as they were
submitted. So nothing here is shared with the engine but the vocabulary (codes, limits, record tables),
and nothing is clever: a queue is a list, the best price is `max()` or `min()` of a dictionary's keys, a
fill-or-kill adds up what it could get. The letters M1 to M12 are the rules in ARCHITECTURE.md.

    events[event].queues[side][price] = [oldest order, ..., newest order]

It is slow where the engine is fast: about 30 us a command with market data, a cancel looks through its whole
queue, and a deep book costs a scan of its prices for each fill. A million commands take half a minute.

One thing is left out: the pool of price levels. How it packs ranges is the engine's own affair, so give
the engine levels enough. BOOK_RESET therefore says 0 as first level slot here.
"""

import hashlib
import struct
from collections import OrderedDict, namedtuple
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ringpit.engine.codes import CommandKind, EventState, Flag, ReportFlag, OrderType, Reason, ReportKind, Side, TimeInForce
from ringpit.engine.limits import LADDER_LEVELS_MAX, PAYOUT_TICKS_MAX, QUANTITY_MAX, Limits
from ringpit.engine.records import COMMAND, COMMAND_FIELDS, MARKER, MARKER_FIELDS, REPORT, REPORT_FIELDS


def tuple_of(name: str, fields: tuple[tuple[str, str, str], ...]) -> Any:
    """The named tuple of a record table; every field is 0 unless given."""
    return namedtuple(name, [row[0] for row in fields], defaults=[0] * len(fields))  # noqa: PYI024 (fields are a table)


Command = tuple_of("Command", COMMAND_FIELDS)
Marker = tuple_of("Marker", MARKER_FIELDS)
Report = tuple_of("Report", REPORT_FIELDS)

DIGEST_ROW = struct.Struct("<6q")  # event, side, price, order, open, account
DECIMALS_MAX = 18  # decimals of a unit that an int64 can hold


def named(record: Any) -> Any:
    """A `Command` or `Marker` from a numpy record of either dtype; a named tuple is returned as it is."""
    if isinstance(record, tuple):
        return record
    if record["kind"] == CommandKind.MARKER:
        return Marker(*np.frombuffer(record.tobytes(), MARKER)[0].item())
    return Command(*np.frombuffer(record.tobytes(), COMMAND)[0].item())


def report_tuples(reports: np.ndarray) -> list[Any]:
    """
    The engine's REPORT array as the tuples that this exchange returns.

    A BOOK_RESET's first level slot, the allocator's own affair, becomes the 0 that it is here.
    """
    named_rows = [Report(*row) for row in reports.tolist()]
    return [row._replace(leaves=0) if row.kind == ReportKind.BOOK_RESET else row for row in named_rows]


def report_array(reports: Iterable[tuple]) -> np.ndarray:
    """This exchange's tuples as the REPORT array that the engine returns; equal reports are equal bytes."""
    return np.array([tuple(report) for report in reports], REPORT)


@dataclass(slots=True)
class Order:
    """An order that rests, or tries to: `total` is what was asked for in all, `open` what is left of it, in lots."""

    order: int
    account: int
    side: int
    price: int
    total: int
    open: int

    @property
    def filled(self) -> int:
        """Lots traded so far."""
        return self.total - self.open


@dataclass(slots=True)
class Event:
    """One market and its book. `content` is what CREATE_EVENT said: low, high, payout, tick, decimals."""

    event: int
    slot: int  # number in order of creation, 0-based
    content: tuple[int, int, int, int, int]
    state: EventState = EventState.OPEN
    orders: dict[int, Order] = field(default_factory=dict)
    queues: tuple[dict[int, list[Order]], dict[int, list[Order]]] = field(default_factory=lambda: ({}, {}))

    def prices(self, side: int) -> list[int]:
        """Prices at which a side rests, best first."""
        return sorted(self.queues[side], reverse=side == Side.BUY)

    def resting(self, side: int) -> list[Order]:
        """A side's orders, in priority order."""
        return [order for price in self.prices(side) for order in self.queues[side][price]]

    def add(self, order: Order) -> None:
        """Rest an order behind all others at its price."""
        self.orders[order.order] = order
        self.queues[order.side].setdefault(order.price, []).append(order)

    def remove(self, order: Order) -> None:
        """Take an order off the book, wherever it stands in its queue."""
        del self.orders[order.order]
        queue = self.queues[order.side][order.price]
        queue.remove(order)
        if not queue:
            del self.queues[order.side][order.price]

    def total(self, side: int, price: int) -> int:
        """Lots resting at a price."""
        return sum(order.open for order in self.queues[side].get(price, ()))

    def holds(self, price: int) -> bool:
        """True if the event's range holds the price."""
        low, high = self.content[:2]
        return low <= price <= high


class NaiveExchange:
    """
    The reference exchange of one shard.

    Args:
        limits: Ceilings on orders, events and remembered keys; the defaults of `Limits` if None.
        market_data: Also make LEVEL, BOOK_RESET and FRAME reports.
    """

    def __init__(self, limits: Limits | None = None, *, market_data: bool = False) -> None:
        self.limits = limits or Limits()
        self.market_data = market_data
        self.events: dict[int, Event] = {}
        self.keys: OrderedDict[tuple[int, int], tuple[int, int]] = OrderedDict()  # key: (seq, body hash)
        self.seq = 0
        self.engine_ns = 0
        self.frame_left = 0  # commands of the current frame still to come
        self.frame_reason: Reason | None = Reason.NONE  # NONE: apply, KEY_REUSED: refuse, None: skip in silence
        self.reports: list[Any] = []
        self.touched: dict[tuple[int, int], None] = {}  # (side, price), in the order of first touch

    # -- the face -------------------------------------------------------------------------------------------

    def apply(self, record: Any) -> list[Any]:
        """
        Sequence one COMMAND or MARKER (numpy record or named tuple) and return its reports.

        Raises ValueError if a marker stands inside the frame of another.
        """
        record = named(record)
        if isinstance(record, Marker) and self.frame_left:
            raise ValueError(f"a frame must be whole, but a marker came {self.frame_left} commands early")
        self.seq += 1
        self.reports = []
        self.touched = {}
        if isinstance(record, Marker):
            self._marker(record)
        elif self.frame_left == 0:
            self._command(record)
        else:
            self.frame_left -= 1
            if self.frame_reason is Reason.NONE:
                self._command(record)
            elif self.frame_reason is not None:
                self._reject(record, self.frame_reason)
        return self.reports

    def run(self, records: np.ndarray | Iterable[Any]) -> list[Any]:
        """Apply records one after another and return all their reports. An array may mix commands and markers."""
        if isinstance(records, np.ndarray):
            rows = zip(records.view(COMMAND).tolist(), records.view(MARKER).tolist(), strict=True)
            records = [
                Marker(*marker) if command[0] == CommandKind.MARKER else Command(*command)
                for command, marker in rows
            ]
        return [report for record in records for report in self.apply(record)]

    def resting(self, event: int) -> list[tuple[int, int, int, int, int]]:
        """Rows (side, price, order id, open lots, account): bids best first, then asks best first, oldest first."""
        book = self.events[event]
        return [(o.side, o.price, o.order, o.open, o.account) for side in Side for o in book.resting(side)]

    def depth(self, event: int) -> tuple[list[list[int]], list[list[int]]]:
        """Bids and asks as rows [price, lots], best first."""
        book = self.events[event]
        bids, asks = ([[price, book.total(side, price)] for price in book.prices(side)] for side in Side)
        return bids, asks

    def digest(self) -> str:
        """Hash of everything that rests, by ascending event id and then in priority order; 32 hexadecimal digits."""
        state = hashlib.blake2b(digest_size=16)
        for event in sorted(self.events):
            for side, price, order, lots, account in self.resting(event):
                state.update(DIGEST_ROW.pack(event, side, price, order, lots, account))
        return state.hexdigest()

    def check(self) -> None:
        """Raise AssertionError if a book is crossed, a queue is empty, or an order is in two minds about its place."""
        for event, book in self.events.items():
            bids, asks = book.prices(Side.BUY), book.prices(Side.SELL)
            assert not bids or not asks or bids[0] < asks[0], (
                f"event {event} is crossed: {bids[0]} and {asks[0]}"
            )
            assert {order.order for side in Side for order in book.resting(side)} == set(book.orders)
            for side in Side:
                for price, queue in book.queues[side].items():
                    assert queue, f"event {event} keeps an empty level at {price}"
                    assert all((side, price) == (order.side, order.price) for order in queue)
                    assert all(0 < order.open <= order.total for order in queue)

    # -- frames ---------------------------------------------------------------------------------------------

    def _marker(self, marker: Any) -> None:
        """Begin a frame; decide by its key whether the frame is applied (M11), and advance time (M12)."""
        key = (marker.key_low, marker.key_high)
        self.engine_ns = max(self.engine_ns, marker.engine_ns)
        self.frame_left = marker.count
        self.frame_reason = Reason.NONE
        if self.market_data:
            self._report(
                ReportKind.FRAME, event=marker.position, order=marker.key_low, account=marker.key_high,
                price=self.engine_ns, quantity=marker.ingress_ns, leaves=marker.count,
            )  # fmt: skip
        if key == (0, 0):
            return
        if key in self.keys:
            seq, body_hash = self.keys[key]
            if body_hash == marker.body_hash:
                self.frame_reason = None
                self._report(
                    ReportKind.DUPLICATE, flags=ReportFlag.REPEAT, event=marker.first_event, order=seq, leaves=marker.count
                )  # fmt: skip
            else:
                self.frame_reason = Reason.KEY_REUSED
            return
        if len(self.keys) == self.limits.keys:
            self.keys.popitem(last=False)
        self.keys[key] = (self.seq, marker.body_hash)

    # -- commands -------------------------------------------------------------------------------------------

    def _command(self, command: Any) -> None:
        """Answer one command, then say what became of the levels that it touched (M2)."""
        if command.verdict:
            self._reject(command, command.verdict)
        elif command.kind in (CommandKind.NEW, CommandKind.CANCEL, CommandKind.AMEND):
            reason = self._refusal(command)
            if reason:
                self._reject(command, reason)
            elif command.kind == CommandKind.NEW:
                self._new(command)
            elif command.kind == CommandKind.CANCEL:
                self._cancel(command)
            else:
                self._amend(command)
        elif command.kind == CommandKind.CREATE_EVENT:
            self._create_event(command)
        elif command.kind == CommandKind.SETTLE:
            self._settle(command)
        elif command.kind != CommandKind.TICK:
            self._reject(command, Reason.UNSUPPORTED)
        if self.market_data:
            for side, price in self.touched:
                book = self.events[command.event]
                total = book.total(side, price)
                self._report(
                    ReportKind.LEVEL, side=side, event=book.event, account=book.slot, price=price, quantity=total
                )  # fmt: skip

    def _new(self, command: Any) -> None:
        """Accept an order, trade it, and rest or cancel what is left (M1 to M4)."""
        book = self.events[command.event]
        order = Order(
            command.order, command.account, command.side, command.price, command.quantity, command.quantity
        )
        self._answer(ReportKind.ACCEPTED, command, leaves=order.open)
        self._trade(book, order, limit_of(book, command))
        if order.open and may_rest(command):
            book.add(order)
            self._touch(order)
        elif order.open:
            self._canceled(book, order, Reason.IOC_REMAINDER, flags=command.flags)

    def _cancel(self, command: Any) -> None:
        """Take an order off the book (M5)."""
        book = self.events[command.event]
        self._take_off(book, book.orders[command.order], Reason.NONE)

    def _amend(self, command: Any) -> None:
        """Change price, total, or both (M6)."""
        book = self.events[command.event]
        order = book.orders[command.order]
        price = order.price if command.flags & Flag.NO_PRICE else command.price
        total = command.quantity or order.total
        if total <= order.filled:
            self._take_off(book, order, Reason.NONE)
            return
        keeps_place = price == order.price and total <= order.total
        if (price, total) != (order.price, order.total):
            self._touch(order)
        if not keeps_place:
            book.remove(order)
        order.open = total - order.filled
        order.total = total
        order.price = price
        self._order(ReportKind.AMENDED, book, order, price, total)
        if keeps_place:
            return
        self._trade(book, order, price)
        if order.open:
            book.add(order)
            self._touch(order)

    def _create_event(self, command: Any) -> None:
        """Add a book, or say why not (M8)."""
        content = (command.price, command.quantity, command.payout, command.order, command.account)
        low, high, payout, tick, decimals = content
        book = self.events.get(command.event)
        if not sensible(*content):
            self._reject(command, Reason.UNSUPPORTED)
        elif book is not None and book.content != content:
            self._reject(command, Reason.EVENT_EXISTS)
        elif book is not None and book.state == EventState.SETTLED:
            self._reject(command, Reason.ALREADY_SETTLED)
        elif book is not None:
            self._answer(ReportKind.EVENT_CREATED, command, flags=ReportFlag.REPEAT, leaves=payout)
        elif len(self.events) == self.limits.events:
            self._reject(command, Reason.BOOK_CAPACITY)
        else:
            slot = len(self.events)
            self.events[command.event] = Event(command.event, slot, content)
            self._answer(ReportKind.EVENT_CREATED, command, leaves=payout)
            if self.market_data:
                self._report(
                    ReportKind.BOOK_RESET, event=command.event, order=tick * 32 + decimals, account=slot,
                    price=low, quantity=high,
                )  # fmt: skip

    def _settle(self, command: Any) -> None:
        """Close an event and cancel what rests in it (M9)."""
        book = self.events.get(command.event)
        if book is None:
            self._reject(command, Reason.UNKNOWN_EVENT)
            return
        flags = ReportFlag.REPEAT if book.state == EventState.SETTLED else 0
        closed = [order for side in Side for order in book.resting(side)]
        for order in closed:
            self._take_off(book, order, Reason.MARKET_CLOSED)
        book.state = EventState.SETTLED
        self._answer(ReportKind.EVENT_SETTLED, command, flags=flags, leaves=len(closed))

    # -- matching -------------------------------------------------------------------------------------------

    def _refusal(self, command: Any) -> Reason:
        """The first rule that a NEW, CANCEL or AMEND breaks, in the order of M7; NONE if it breaks none."""
        book = self.events.get(command.event)
        if book is None:
            return Reason.UNKNOWN_EVENT
        if book.state == EventState.SETTLED:
            return Reason.ALREADY_SETTLED
        if not supported(command):
            return Reason.UNSUPPORTED
        mine = book.orders.get(command.order)
        if command.kind != CommandKind.NEW:
            if mine is None:
                return Reason.UNKNOWN_ORDER
            if mine.account != command.account:
                return Reason.NOT_OWNER
        if command.kind == CommandKind.CANCEL:
            return Reason.NONE
        if command.quantity < (1 if command.kind == CommandKind.NEW else 0):
            return Reason.QTY_INVALID
        if command.quantity > QUANTITY_MAX:
            return Reason.QTY_LIMIT
        if command.flags & Flag.NO_PRICE:
            if command.kind == CommandKind.NEW and command.order_type == OrderType.LIMIT:
                return Reason.PRICE_OUT_OF_RANGE
        elif not book.holds(command.price):
            return Reason.PRICE_OUT_OF_RANGE
        if command.kind == CommandKind.AMEND:
            return Reason.NONE
        if mine is not None:
            return Reason.DUP_CLIENT_ORDER_ID
        if command.time_in_force == TimeInForce.FOK and tradable(book, command) < command.quantity:
            return Reason.FOK_UNFILLABLE
        if may_rest(command) and sum(len(every.orders) for every in self.events.values()) == self.limits.orders:
            return Reason.BOOK_CAPACITY
        return Reason.NONE

    def _trade(self, book: Event, taker: Order, limit: int) -> None:
        """Fill the taker from the best price to its limit, oldest first, each fill at the maker's price (M1)."""
        makers = book.queues[1 - taker.side]
        while taker.open and makers:
            best = min(makers) if taker.side == Side.BUY else max(makers)
            if not takes(taker.side, limit, best):
                return
            maker = makers[best][0]
            lots = min(taker.open, maker.open)
            maker.open -= lots
            taker.open -= lots
            self._touch(maker)
            if maker.open == 0:
                book.remove(maker)
            self._order(ReportKind.FILL_MAKER, book, maker, best, lots)
            self._order(ReportKind.FILL_TAKER, book, taker, best, lots)

    def _take_off(self, book: Event, order: Order, reason: Reason) -> None:
        """Remove a resting order and report it cancelled."""
        book.remove(order)
        self._touch(order)
        self._canceled(book, order, reason)

    def _touch(self, order: Order) -> None:
        """Remember that the level at which an order stands has changed."""
        self.touched[order.side, order.price] = None

    # -- reports --------------------------------------------------------------------------------------------

    def _report(self, kind: ReportKind, **fields: int) -> None:
        """Add a report of the current seq; what is not given is 0."""
        self.reports.append(Report(kind=kind, index=len(self.reports), seq=self.seq, **fields))

    def _order(self, kind: ReportKind, book: Event, order: Order, price: int, lots: int) -> None:
        """Report a fill or an amend of an order."""
        self._report(
            kind, side=order.side, event=book.event, order=order.order, account=order.account,
            price=price, quantity=lots, leaves=order.open,
        )  # fmt: skip

    def _canceled(self, book: Event, order: Order, reason: Reason, flags: int = 0) -> None:
        """Report that an order's open lots are gone."""
        self._report(
            ReportKind.CANCELED, side=order.side, reason=reason, flags=flags, event=book.event, order=order.order,
            account=order.account, price=order.price, quantity=order.open,
        )  # fmt: skip

    def _answer(
        self, kind: ReportKind, command: Any, *, reason: int = 0, flags: int = 0, leaves: int = 0
    ) -> None:
        """Report that repeats event, order, account, side, price and quantity as asked."""
        self._report(
            kind, side=command.side, reason=reason, flags=flags | command.flags & Flag.NO_PRICE,
            event=command.event, order=command.order, account=command.account, price=command.price, quantity=command.quantity, leaves=leaves,
        )  # fmt: skip

    def _reject(self, command: Any, reason: int) -> None:
        """Report a refusal, with what was asked (M10)."""
        if command.kind in (CommandKind.CREATE_EVENT, CommandKind.SETTLE):
            self._report(
                ReportKind.REJECTED,
                reason=reason,
                event=command.event,
                price=command.price,
                quantity=command.quantity,
            )
            return
        self._answer(ReportKind.REJECTED, command, reason=reason)


def may_rest(command: Any) -> bool:
    """Only a good-till-cancelled limit order rests (M3)."""
    return bool(command.order_type == OrderType.LIMIT and command.time_in_force == TimeInForce.GTC)


def limit_of(book: Event, command: Any) -> int:
    """The worst price at which an order may trade; without a price of its own, the end of the event's range."""
    if command.flags & Flag.NO_PRICE:
        low, high = book.content[:2]
        return high if command.side == Side.BUY else low
    return int(command.price)


def takes(side: int, limit: int, price: int) -> bool:
    """True if an order of that side and limit would trade at a price."""
    return price <= limit if side == Side.BUY else price >= limit


def tradable(book: Event, command: Any) -> int:
    """Lots that rest on the other side at prices the order would take."""
    other = 1 - command.side
    limit = limit_of(book, command)
    return sum(book.total(other, price) for price in book.queues[other] if takes(command.side, limit, price))


def supported(command: Any) -> bool:
    """True if nothing in a NEW, CANCEL or AMEND is outside this version."""
    return (
        command.side in tuple(Side)
        and command.order_type in tuple(OrderType)
        and command.time_in_force in tuple(TimeInForce)
        and command.flags in (0, Flag.NO_PRICE)
        and not (command.self_trade or command.outcome or command.expires_ns)
    )


def sensible(low: int, high: int, payout: int, tick: int, decimals: int) -> bool:
    """True if an event with these prices can be made in this version (M8)."""
    return (
        0 <= low <= high <= payout <= PAYOUT_TICKS_MAX
        and high - low < LADDER_LEVELS_MAX
        and tick >= 1
        and 0 <= decimals <= DECIMALS_MAX
    )
