"""
The obvious exchange: the matching rules in dictionaries and lists, as plainly as they can be said.

It exists to be compared with. The fast engine, a replay of the log and the whole pipeline must give
the same reports, the same open orders and the same digest as these pages do from the orders as they were
submitted. So nothing here is shared with the engine but the vocabulary (codes, limits, record tables),
and nothing is clever: a list of orders is a list, every stop is looked at after every trade, and whether an order can be
filled whole is found out by trying it with copies. The letters M1 to M23 are the rules in ARCHITECTURE.md.

    naive.py         this page: commands come in, reports go out
    naive_checks.py  what is refused, and why
    naive_book.py    orders, books, and who trades with whom

It is slow where the engine is fast: about 50 us a command with market data, more in a deep book, whose lists are
moved at every arrival, and most for an all-or-none order, which is tried again after every command.

Two things are left out: the pool of price levels and the pool of skip lists' nodes. How they are packed is the engine's own
affair, so give the engine enough of both. BOOK_RESET therefore says 0 as first level slot here.
"""

import hashlib
import struct
from collections import OrderedDict, namedtuple
from collections.abc import Iterable
from typing import Any

import numpy as np

from ringpit.engine.codes import (
    BOTH_SIDES,
    CommandKind,
    EventState,
    Flag,
    OrderType,
    Outcome,
    Reason,
    ReportFlag,
    ReportKind,
    Side,
)
from ringpit.engine.limits import Limits
from ringpit.engine.records import (
    BANDS,
    BANDS_FIELDS,
    COMMAND,
    COMMAND_FIELDS,
    EXTENSION,
    EXTENSION_FIELDS,
    MARKER,
    MARKER_FIELDS,
    REPORT,
    REPORT_FIELDS,
)
from ringpit.testing.naive_book import Event, Order, order_of, trade, trades_whole
from ringpit.testing.naive_checks import (
    content_of,
    moved_to,
    refusal,
    refusal_of_creation,
    refusal_of_mass_cancel,
)


def tuple_of(name: str, fields: tuple[tuple[str, str, str], ...]) -> Any:
    """The named tuple of a record table; every field is 0 unless given."""
    return namedtuple(name, [row[0] for row in fields], defaults=[0] * len(fields))  # noqa: PYI024 (fields are a table)


Command = tuple_of("Command", COMMAND_FIELDS)
Marker = tuple_of("Marker", MARKER_FIELDS)
Extension = tuple_of("Extension", EXTENSION_FIELDS)
Bands = tuple_of("Bands", BANDS_FIELDS)
Report = tuple_of("Report", REPORT_FIELDS)

DIGEST_EVENT = struct.Struct("<2q")  # event, price of its last trade
DIGEST_ROW = struct.Struct("<14q")  # a row of RESTING
NOTHING = Extension()  # completes a command that has no extension
ORDER_VERBS = (CommandKind.NEW, CommandKind.CANCEL, CommandKind.AMEND, CommandKind.REDUCE, CommandKind.REPLACE)
EVENT_VERBS = (CommandKind.CREATE_EVENT, CommandKind.SETTLE, CommandKind.MASS_CANCEL)
# Named tuple and dtype of a record, by its kind; every other kind is a command's.
KINDS: dict[int, tuple[Any, np.dtype]] = {
    CommandKind.MARKER: (Marker, MARKER),
    CommandKind.EXTENSION: (Extension, EXTENSION),
    CommandKind.BANDS: (Bands, BANDS),
}


def named(record: Any) -> Any:
    """A `Command`, `Extension`, `Bands` or `Marker` from a numpy record of any of the dtypes; a named tuple is returned as it is."""
    if isinstance(record, tuple):
        return record
    make, dtype = KINDS.get(int(record["kind"]), (Command, COMMAND))
    return make(*np.frombuffer(record.tobytes(), dtype)[0].item())


def record_array(records: Iterable[Any]) -> np.ndarray:
    """Named tuples of all kinds as the one COMMAND array that the engine takes."""
    rows = list(records)
    array = np.zeros(len(rows), COMMAND)
    for make, dtype in ((Command, COMMAND), *KINDS.values()):
        places = [place for place, row in enumerate(rows) if type(row) is make]
        array.view(dtype)[places] = np.array([tuple(rows[place]) for place in places], dtype)
    return array


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


class NaiveExchange:
    """
    The reference exchange of one shard.

    Args:
        limits: Ceilings on orders, events, bands and remembered keys; the defaults of `Limits` if None.
        market_data: Also make LEVEL, BOOK_RESET and FRAME reports.
    """

    def __init__(self, limits: Limits | None = None, *, market_data: bool = False) -> None:
        self.limits = limits or Limits()
        self.market_data = market_data
        self.events: dict[int, Event] = {}
        self.pool: set[tuple[int, int]] = set()  # (event, order) of every open order
        self.keys: OrderedDict[tuple[int, int], tuple[int, int]] = OrderedDict()  # key: (seq, body hash)
        self.seq = 0
        self.accepted = 0  # orders ever accepted
        self.engine_ns = 0
        self.frame_left = 0  # records of the current frame still to come
        self.frame_reason: Reason | None = Reason.NONE  # NONE: apply, KEY_REUSED: refuse, None: skip in silence
        self.extension: Any = None  # the record just before this one, if it was an extension
        self.bands: list[Any] = []  # the bands just before this record
        self.reports: list[Any] = []
        self.touched: list[tuple[Event, int, int]] = []  # (event, side, price), in the order of touch
        self.line: list[Order] = []  # triggered stops whose turn is still to come, first to trade first

    # -- the face -------------------------------------------------------------------------------------------

    def apply(self, record: Any) -> list[Any]:
        """
        Sequence one record (numpy record or named tuple) and return its reports.

        Raises ValueError if a marker stands inside the frame of another.
        """
        record = named(record)
        if isinstance(record, Marker) and self.frame_left:
            raise ValueError(f"a frame must be whole, but a marker came {self.frame_left} commands early")
        self.seq += 1
        self.reports = []
        reason: Reason | None = Reason.NONE
        if self.frame_left:
            self.frame_left -= 1
            reason = self.frame_reason
        if isinstance(record, Marker):
            self._marker(record)
        elif isinstance(record, Command):
            if reason is Reason.NONE:
                self._command(record)
            elif reason is not None:
                self._reject(record, reason)
        self._remember(record if reason is Reason.NONE else None)
        return self.reports

    def run(self, records: np.ndarray | Iterable[Any]) -> list[Any]:
        """Apply records one after another and return all their reports. An array may mix records of all kinds."""
        if isinstance(records, np.ndarray):
            rows = {kind: records.view(dtype).tolist() for kind, (_, dtype) in KINDS.items()}
            records = [
                KINDS[row[0]][0](*rows[row[0]][number]) if row[0] in KINDS else Command(*row)
                for number, row in enumerate(records.view(COMMAND).tolist())
            ]
        return [report for record in records for report in self.apply(record)]

    def resting(self, event: int) -> list[tuple[int, ...]]:
        """The event's open orders as rows of RESTING without the event, list by list, each in priority order."""
        return [
            (
                order.queue, order.price, order.order, order.open, order.account, order.filled, order.shown, order.traits,
                order.display, order.group, order.expires_ns, order.trigger if order.is_stop else 0,
                order.trail if order.is_stop else 0,
            )
            for order in self.events[event].waiting()
        ]  # fmt: skip

    def depth(self, event: int) -> tuple[list[list[int]], list[list[int]]]:
        """Bids and asks as rows [price, lots], best first; only what is shown."""
        bids, asks = (self.events[event].depth(side) for side in Side)
        return bids, asks

    def digest(self) -> str:
        """Hash of every open event and its orders (M23), as 32 hexadecimal digits."""
        state = hashlib.blake2b(digest_size=16)
        for event in sorted(self.events):
            book = self.events[event]
            if book.state == EventState.OPEN:
                state.update(DIGEST_EVENT.pack(event, book.last))
                for row in self.resting(event):
                    state.update(DIGEST_ROW.pack(event, *row))
        return state.hexdigest()

    def check(self) -> None:
        """Raise AssertionError if a book is crossed, a list is out of order, or an order is in two minds about itself."""
        assert not self.line, "a triggered stop never had its turn"
        for book in self.events.values():
            book.check()

    # -- frames ---------------------------------------------------------------------------------------------

    def _remember(self, record: Any) -> None:
        """Keep an extension for the very next record, and bands for the command behind them."""
        self.extension = record if isinstance(record, Extension) else None
        if isinstance(record, Bands):
            self.bands.append(record)
        elif not isinstance(record, Extension):
            self.bands = []

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
        elif command.kind in (*ORDER_VERBS, CommandKind.CREATE_EVENT) and self._malformed(command):
            self._reject(command, Reason.MALFORMED)
        elif command.kind in ORDER_VERBS:
            self._order_verb(command, self.extension if command.flags & Flag.EXTENDED else NOTHING)
        elif command.kind == CommandKind.CREATE_EVENT:
            self._create_event(command, self.extension if command.flags & Flag.EXTENDED else NOTHING)
        elif command.kind == CommandKind.SETTLE:
            self._settle(command)
        elif command.kind == CommandKind.MASS_CANCEL:
            self._mass_cancel(command)
        elif command.kind == CommandKind.TICK:
            self._tick()
        else:
            self._reject(command, Reason.UNSUPPORTED)
        self._tell_levels()

    def _malformed(self, command: Any) -> bool:
        """True if the extension that a command says it has is missing, or belongs to another event (M7)."""
        if not command.flags & Flag.EXTENDED:
            return False
        return self.extension is None or self.extension.event != command.event

    def _order_verb(self, command: Any, extension: Any) -> None:
        """Carry out a command about one order, or say why not; then stops and all-or-none orders have their turns."""
        reason = refusal(command, extension, self.events, self.limits, self.engine_ns)
        if reason:
            self._reject(command, reason)
            return
        book = self.events[command.event]
        if command.kind == CommandKind.CANCEL:
            self._take_off(book, book.orders[command.order], Reason.NONE)
            return
        if command.kind == CommandKind.NEW:
            self._new(book, command, extension)
        elif command.kind == CommandKind.AMEND:
            self._amend(book, book.orders[command.order], command)
        elif command.kind == CommandKind.REDUCE:
            self._reduce(book, book.orders[command.order], command.quantity)
        else:
            order = book.orders[command.order]
            self._move(book, order, command, order.filled + command.quantity)
        self._serve_waiting(book)

    def _new(self, book: Event, command: Any, extension: Any) -> None:
        """Accept an order and let it meet the book, unless it is a stop whose trigger is still to come (M18)."""
        self.accepted += 1
        order = order_of(command, extension, book, self.accepted)
        self._answer(ReportKind.ACCEPTED, command, flags=flags_of(command), leaves=order.open)
        if order.is_stop and not book.has_reached(order):
            book.add(order)
            return
        if order.is_stop:
            self._trigger(book, order)
        self._meet(book, order)

    def _amend(self, book: Event, order: Order, command: Any) -> None:
        """Change price, total, or both (M6)."""
        total = command.quantity or order.total
        if total <= order.filled:
            self._take_off(book, order, Reason.NONE)
        elif total > order.total or (not command.flags & Flag.NO_PRICE and self._is_elsewhere(order, command)):
            self._move(book, order, command, total)
        else:
            self._shrink(book, order, order.total - total)

    def _is_elsewhere(self, order: Order, command: Any) -> bool:
        """True if the price of a command is another than the order's."""
        return not order.has_price or moved_to(order, command) != order.price

    def _reduce(self, book: Event, order: Order, lots: int) -> None:
        """Take lots off an order (M15)."""
        if lots >= order.open:
            self._take_off(book, order, Reason.NONE)
        else:
            self._shrink(book, order, lots)

    def _shrink(self, book: Event, order: Order, lots: int) -> None:
        """An order loses lots, perhaps none, and keeps its place."""
        order.shrink(lots)
        if lots:
            self._touch(book, order)
        self._amended(book, order)

    def _move(self, book: Event, order: Order, command: Any, total: int) -> None:
        """An order goes to the back of its new place, and if it neither waits for a trigger nor to trade whole, it may trade first."""
        self._touch(book, order)
        book.remove(order)
        order.open = total - order.filled
        order.total = total
        if not command.flags & Flag.NO_PRICE:
            order.price = moved_to(order, command)
            order.has_price = True
        self._amended(book, order)
        if order.is_stop or order.all_or_none:
            book.add(order)
        else:
            self._meet(book, order)

    def _create_event(self, command: Any, extension: Any) -> None:
        """Add a book, or say why not (M8)."""
        reason = refusal_of_creation(command, extension, self.bands, self.events, self.limits)
        if reason:
            self._reject(command, reason)
            return
        is_known = command.event in self.events
        self._answer(
            ReportKind.EVENT_CREATED, command, flags=ReportFlag.REPEAT if is_known else 0, leaves=command.payout
        )
        if is_known:
            return
        slot = len(self.events)
        content = content_of(command, extension, self.bands)
        self.events[command.event] = Event(command.event, slot, content, self.pool)
        if self.market_data:
            self._report(
                ReportKind.BOOK_RESET, event=command.event, order=content.tick * 32 + content.decimals, account=slot,
                price=content.low, quantity=content.high,
            )  # fmt: skip

    def _settle(self, command: Any) -> None:
        """Close an event and cancel what is open in it (M9)."""
        book = self.events.get(command.event)
        if book is None:
            self._reject(command, Reason.UNKNOWN_EVENT)
            return
        flags = ReportFlag.REPEAT if book.state == EventState.SETTLED else 0
        closed = book.waiting()
        for order in closed:
            self._take_off(book, order, Reason.MARKET_CLOSED)
        book.state = EventState.SETTLED
        self._answer(ReportKind.EVENT_SETTLED, command, flags=flags, leaves=len(closed))

    def _mass_cancel(self, command: Any) -> None:
        """Cancel what is of a side, an account and a group, in one event or in all (M22)."""
        reason = refusal_of_mass_cancel(command, self.events)
        if reason:
            self._reject(command, reason)
            return
        count = 0
        every = command.flags & Flag.ALL_EVENTS
        for book in list(self.events.values()) if every else [self.events[command.event]]:
            for order in book.waiting():
                if (
                    command.side in (order.own_side, BOTH_SIDES)
                    and command.account in (order.account, 0)
                    and command.order in (order.group, 0)
                ):
                    self._take_off(book, order, Reason.MASS_CANCEL)
                    count += 1
            self._tell_levels()
        self._report(
            ReportKind.MASS_CANCELED, side=command.side, event=command.event, order=command.order,
            account=command.account, leaves=count,
        )  # fmt: skip

    def _tick(self) -> None:
        """Cancel what is due, earliest first, then by age (M13)."""
        due = [
            (order.expires_ns, order.age, book, order)
            for book in self.events.values()
            for order in book.waiting()
            if 0 < order.expires_ns <= self.engine_ns
        ]
        for _, _, book, order in sorted(due, key=lambda row: row[:2]):
            self._take_off(book, order, Reason.EXPIRED)
            self._tell_levels()

    # -- matching -------------------------------------------------------------------------------------------

    def _meet(self, book: Event, order: Order) -> None:
        """An order meets the book: it trades if it may, and what is left of it rests, waits or is cancelled (M3)."""
        if not order.all_or_none or trades_whole(book, order):
            self._trade(book, order)
        if order.open and order.may_rest:
            book.add(order)
            self._touch(book, order)
        elif order.open:
            self._canceled(book, order, Reason.IOC_REMAINDER)
        self._line_up(book)

    def _trade(self, book: Event, taker: Order) -> None:
        """Trade, and report what happens as it happens (M1, M17)."""
        for kind, order, lots in trade(book, taker):
            if kind == ReportKind.CANCELED:
                if order is not taker:
                    self._touch(book, order)
                self._canceled(book, order, Reason.SELF_TRADE)
                continue
            self._touch(book, order)
            if kind == ReportKind.PREVENTED:
                self._traded(kind, book, order, order.price, lots)
                self._traded(kind, book, taker, order.price, lots)
            else:
                flags = pair_flag(order, taker)
                self._traded(ReportKind.FILL_MAKER, book, order, order.price, lots, flags)
                self._traded(ReportKind.FILL_TAKER, book, taker, order.price, lots, flags)
                self._follow(book, order.price)

    def _follow(self, book: Event, price: int) -> None:
        """After each single trade: trailing stops move, oldest first, and then every stop is looked at (M18)."""
        book.last = price
        stops = [order for order in book.stops() if not order.is_triggered]
        for order in sorted(stops, key=lambda order: order.age):
            if order.trail and order.trailed(price) != order.trigger:
                book.remove(order)
                order.trigger = order.trailed(price)
                book.add(order)
        for order in stops:
            order.is_triggered = order.is_reached(price)

    def _line_up(self, book: Event) -> None:
        """What an order's trades have triggered goes to the end of the line, in the order in which it waited (M18)."""
        for order in book.stops():
            if order.is_triggered:
                book.remove(order)
                self.line.append(order)

    def _serve_waiting(self, book: Event) -> None:
        """Triggered stops have their turns (M18); then the first all-or-none order that can trade whole; and again (M19)."""
        while True:
            while self.line:
                order = self.line.pop(0)
                self._trigger(book, order)
                self._meet(book, order)
            eager = next((order for order in book.all_or_none() if trades_whole(book, order)), None)
            if eager is None:
                return
            book.remove(eager)
            self._trade(book, eager)
            self._line_up(book)

    def _trigger(self, book: Event, order: Order) -> None:
        """A stop becomes an order like others."""
        order.is_stop = order.is_triggered = False
        self._report(
            ReportKind.TRIGGERED, side=order.own_side, flags=report_flags(order) & ~ReportFlag.NO_PRICE, event=book.event,
            order=order.order, account=order.account, price=order.own_price(order.trigger), quantity=order.open,
            leaves=order.open,
        )  # fmt: skip

    def _take_off(self, book: Event, order: Order, reason: Reason) -> None:
        """Cancel an open order."""
        self._touch(book, order)
        book.remove(order)
        self._canceled(book, order, reason)

    # -- reports --------------------------------------------------------------------------------------------

    def _touch(self, book: Event, order: Order) -> None:
        """Remember that the level at which an order stands has changed, if everybody sees that (M2)."""
        touched = (book, order.side, order.price)
        if order.is_shown and self.touched[-1:] != [touched]:
            self.touched.append(touched)

    def _tell_levels(self) -> None:
        """Say what is shown now at each level that was touched (M2)."""
        for book, side, price in self.touched if self.market_data else ():
            self._report(
                ReportKind.LEVEL, side=side, event=book.event, account=book.slot, price=price,
                quantity=book.shown(side, price),
            )  # fmt: skip
        self.touched = []

    def _report(self, kind: ReportKind, **fields: int) -> None:
        """Add a report of the current seq; what is not given is 0."""
        self.reports.append(Report(kind=kind, index=len(self.reports), seq=self.seq, **fields))

    def _traded(
        self, kind: ReportKind, book: Event, order: Order, price: int, lots: int, flags: int = 0
    ) -> None:
        """Report lots traded or prevented, in the order's own terms."""
        self._report(
            kind, side=order.own_side, reason=Reason.SELF_TRADE if kind == ReportKind.PREVENTED else Reason.NONE,
            flags=report_flags(order) & ~ReportFlag.NO_PRICE | flags, event=book.event, order=order.order,
            account=order.account, price=order.own_price(price), quantity=lots, leaves=order.open,
        )  # fmt: skip

    def _amended(self, book: Event, order: Order) -> None:
        """Report what an order is after an AMEND, REDUCE or REPLACE (M6, M15)."""
        self._report(
            ReportKind.AMENDED, side=order.own_side, flags=report_flags(order), event=book.event, order=order.order,
            account=order.account, price=order.own_limit, quantity=order.total, leaves=order.open,
        )  # fmt: skip

    def _canceled(self, book: Event, order: Order, reason: Reason) -> None:
        """Report that what is open of an order is gone (M5)."""
        self._report(
            ReportKind.CANCELED, side=order.own_side, reason=reason, flags=report_flags(order), event=book.event,
            order=order.order, account=order.account, price=order.own_limit, quantity=order.open,
        )  # fmt: skip

    def _answer(
        self, kind: ReportKind, command: Any, *, reason: int = 0, flags: int = 0, leaves: int = 0
    ) -> None:
        """Report that repeats event, order, account, side, price and quantity as asked (M10)."""
        self._report(
            kind, side=command.side, reason=reason, flags=flags, event=command.event, order=command.order,
            account=command.account, price=command.price, quantity=command.quantity, leaves=leaves,
        )  # fmt: skip

    def _reject(self, command: Any, reason: int) -> None:
        """Report a refusal, with what was asked (M10)."""
        if command.kind in EVENT_VERBS:
            self._report(
                ReportKind.REJECTED,
                reason=reason,
                event=command.event,
                price=command.price,
                quantity=command.quantity,
            )
            return
        self._answer(ReportKind.REJECTED, command, reason=reason, flags=flags_of(command))


def flags_of(command: Any) -> int:
    """The report flags of a command as it was asked (M10)."""
    no_price = ReportFlag.NO_PRICE if command.flags & Flag.NO_PRICE else 0
    no = ReportFlag.NO if command.outcome == Outcome.NO else 0
    return no_price | no | (ReportFlag.MONEY if command.order_type == OrderType.MONEY else 0)


def report_flags(order: Order) -> int:
    """The report flags of an order."""
    no_price = 0 if order.has_price else ReportFlag.NO_PRICE
    return no_price | (ReportFlag.NO if order.is_no else 0) | (ReportFlag.MONEY if order.is_money else 0)


def pair_flag(maker: Order, taker: Order) -> int:
    """MINT where two buyers meet, BURN where two sellers do; 0 where a contract changes hands (M1)."""
    if maker.own_side != taker.own_side:
        return 0
    return ReportFlag.MINT if taker.own_side == Side.BUY else ReportFlag.BURN
