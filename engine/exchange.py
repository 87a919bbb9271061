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

from typing import Final

import numpy as np

from ringpit.engine import digest as digests
from ringpit.engine.book import find_book, find_order
from ringpit.engine.codes import CommandKind, EventState, Flag, OrderType, Side, TimeInForce
from ringpit.engine.index import MISSING, slot_at
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import REPORTS_PER_STEP_MAX, Limits, power_of_two
from ringpit.engine.machine import process
from ringpit.engine.records import COMMAND, MARKER, REPORT
from ringpit.engine.tables import Cell, Tables, allocate
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
        record = np.zeros(1, COMMAND)
        record["kind"] = kind
        record["event"] = event
        for name, value in fields.items():
            record[name] = value
        return self.submit(record)

    def create_event(
        self,
        event: int,
        low: int = 1,
        high: int = 99,
        payout: int = 100,
        *,
        tick_units: int = 1,
        decimals: int = 2,
    ) -> np.ndarray:
        """Add an event whose book takes prices from `low` to `high` ticks; a tick is tick_units / 10**decimals."""
        return self.command(
            CommandKind.CREATE_EVENT,
            event,
            price=low,
            quantity=high,
            payout=payout,
            order=tick_units,
            account=decimals,
        )

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
    ) -> np.ndarray:
        """Submit one new order; its reports. A market order may leave out the price."""
        return self.command(
            CommandKind.NEW,
            event,
            order=order,
            account=account,
            side=_code(Side, side),
            order_type=_code(OrderType, order_type),
            time_in_force=_code(TimeInForce, time_in_force),
            quantity=quantity,
            price=0 if price is None else price,
            flags=Flag.NO_PRICE if price is None else 0,
        )

    def cancel(self, event: int, *, order: int, account: int) -> np.ndarray:
        """Cancel an open order; its reports."""
        return self.command(CommandKind.CANCEL, event, order=order, account=account)

    def amend(
        self, event: int, *, order: int, account: int, price: int | None = None, quantity: int = 0
    ) -> np.ndarray:
        """Change price, total quantity (including what is filled; 0 keeps it), or both; its reports."""
        return self.command(
            CommandKind.AMEND,
            event,
            order=order,
            account=account,
            quantity=quantity,
            price=0 if price is None else price,
            flags=Flag.NO_PRICE if price is None else 0,
        )

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
        position = find_order(self.tables, self._book(event), order)
        return (
            0 if position == MISSING else int(self.tables.orders[slot_at(self.tables.index, position)]["open"])
        )

    def digest(self) -> str:
        """Hash of everything that rests, independent of memory layout."""
        return digests.digest(self.tables)

    def validate(self) -> None:
        """Check every invariant. Slow: for tests and doubts."""
        validate(self.tables)

    def statistics(self) -> dict[str, int]:
        """How full the pools are."""
        cells = self.tables.cells
        return {
            "seq": self.next_seq - 1,
            "events": int(cells[Cell.BOOKS_USED]),
            "orders": int(cells[Cell.ORDERS_USED]),
            "levels": int(cells[Cell.LEVELS_USED]),
            "keys": int(cells[Cell.KEYS_SEEN]),
        }
