"""
The referee's oracle, re-created: what a flow must give, by a matcher that is plain rather than fast.

It shares no line with the engine: dictionaries, queues and heaps of Python. Price-time priority; a trade is at the maker's price;
what an immediate-or-cancel order leaves is cancelled; a modify takes the order out, sends it to the back of
its new price with its new quantity, and it may trade first; a cancel or modify of an order that does not rest is
rejected.

Each report is a line of text: its type, the number of the message that caused it, from 0, and the rest.

    0 accepted   seq, side, order, price, quantity        3 modified         seq, side, order, price, quantity
    1 trade      seq, price, quantity, maker, taker       4 cancel rejected  seq, order
    2 cancelled  seq, side, order, price                  5 modify rejected  seq, order

Lines are sorted by (seq, type), stable, and joined by line feeds; the SHA-256 of that text is what the referee publishes for its
five scenarios: PUBLISHED.

Fast nowhere: about ten seconds a scenario. What is emptied or cancelled stays where it is until it comes to the front of
its queue or heap.
"""

import hashlib
import heapq
from collections import defaultdict, deque
from typing import Final

from ringpit.perf.referee_flow import BUY, CANCEL, NEW, Messages

ACCEPTED, TRADE, CANCELED, MODIFIED, CANCEL_REJECTED, MODIFY_REJECTED = range(6)  # types of reports

PUBLISHED: Final = {  # seed 23, a million orders
    "static": "9803843ee404fc29c9a0aa5614f8f0d5a58b5c44fcac9ef89067886fcaaa30d1",
    "normal": "e9b2e3926854410b01a035aeb25dd05f1e597c233be8263de9eb49b6713d367e",
    "swing-25": "61a84be9469661bd039e00dbc9a7c011e70b6ace37aadfe60045ea083b05f4df",
    "swing-40": "3cb0175e7982ff09ea220d1feaee3844cf9116a5ce455757879dea1d880b9b9f",
    "flash-crash": "cff8d3f94b709fc64a8b2058a6ca4fb6920364904796e46906895e362d2bb16b",
}


class _Order:
    """An order that rests, or whose place in a queue is still to be cleared away: `quantity` 0."""

    __slots__ = ("order", "price", "quantity", "side")

    def __init__(self, order: int, side: int, price: int, quantity: int) -> None:
        self.order = order
        self.side = side
        self.price = price
        self.quantity = quantity


class Oracle:
    """
    One book and the reports so far.

    Attributes:
        reports: (seq, type, line) of each report, as they happened.
    """

    def __init__(self) -> None:
        """An empty book."""
        self.reports: list[tuple[int, int, str]] = []
        self._resting: dict[int, _Order] = {}
        self._queues: tuple[dict[int, deque[_Order]], ...] = (defaultdict(deque), defaultdict(deque))
        self._heaps: tuple[list[int], list[int]] = ([], [])  # best first: bids by their negative price

    def new(self, seq: int, side: int, order: int, price: int, quantity: int, *, ioc: bool) -> None:
        """A new order."""
        self._say(seq, ACCEPTED, side, order, price, quantity)
        left = self._trade(seq, side, order, price, quantity)
        if left and ioc:
            self._say(seq, CANCELED, side, order, price)
        elif left:
            self._rest(_Order(order, side, price, left))

    def cancel(self, seq: int, order: int) -> None:
        """Take an order out."""
        found = self._take(order)
        if found is None:
            self._say(seq, CANCEL_REJECTED, order)
        else:
            self._say(seq, CANCELED, found.side, order, found.price)

    def modify(self, seq: int, order: int, price: int, quantity: int) -> None:
        """Give an order a new price and quantity, and the last place there."""
        found = self._take(order)
        if found is None:
            self._say(seq, MODIFY_REJECTED, order)
            return
        self._say(seq, MODIFIED, found.side, order, price, quantity)
        left = self._trade(seq, found.side, order, price, quantity)
        if left:
            self._rest(_Order(order, found.side, price, left))

    def resting(self) -> int:
        """How many orders rest."""
        return len(self._resting)

    def text(self) -> str:
        """All lines, as they are published."""
        return "\n".join(line for _, _, line in sorted(self.reports, key=lambda report: report[:2]))

    def _say(self, seq: int, kind: int, *rest: int) -> None:
        """Make a report."""
        self.reports.append((seq, kind, ",".join(map(str, (kind, seq, *rest)))))

    def _trade(self, seq: int, side: int, taker: int, price: int, quantity: int) -> int:
        """Trade with the best of the other side as far as the price allows; the lots left."""
        sign = 1 if side == BUY else -1
        heap, queues = self._heaps[1 - side], self._queues[1 - side]
        while quantity and heap and sign * abs(heap[0]) <= sign * price:
            best = abs(heap[0])
            queue = queues[best]
            if not queue:
                heapq.heappop(heap)
                del queues[best]
                continue
            maker = queue[0]
            filled = min(maker.quantity, quantity)
            if filled:
                self._say(seq, TRADE, best, filled, maker.order, taker)
                maker.quantity -= filled
                quantity -= filled
            if maker.quantity == 0:
                queue.popleft()
                if filled:
                    del self._resting[maker.order]
        return quantity

    def _rest(self, order: _Order) -> None:
        """Put an order at the end of its price's queue."""
        queues = self._queues[order.side]
        if order.price not in queues:
            heapq.heappush(self._heaps[order.side], -order.price if order.side == BUY else order.price)
        queues[order.price].append(order)
        self._resting[order.order] = order

    def _take(self, order: int) -> _Order | None:
        """Take a resting order out of the book: its place stays, with nothing in it. None: it does not rest."""
        found = self._resting.pop(order, None)
        if found is not None:
            found.quantity = 0
        return found


def play(flow: Messages) -> Oracle:
    """The oracle after all messages of a flow; message i has seq i."""
    oracle = Oracle()
    columns = zip(*(column.tolist() for column in flow), strict=True)
    for seq, (kind, side, ioc, order, price, quantity) in enumerate(columns):
        if kind == NEW:
            oracle.new(seq, side, order, price, quantity, ioc=bool(ioc))
        elif kind == CANCEL:
            oracle.cancel(seq, order)
        else:
            oracle.modify(seq, order, price, quantity)
    return oracle


def digest(text: str) -> str:
    """SHA-256 of a text of reports, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
