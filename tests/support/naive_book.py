"""
Orders and books of the obvious exchange: who waits where, and who trades with whom.

A book is six lists, one for each `Queue`, each always in the order in which its orders would trade. A newcomer goes
behind its equals, and nothing else is ever reordered. All prices here are prices of YES; an order for NO lies
on the other side, at what is left of the payout, and `own_side` and `own_price` give back what its owner said.

    book.lists[Queue.BIDS] = [best and oldest, ..., hidden ones behind the shown ones of a price, ..., worst]

`trade` is the whole of matching. It changes a book and says step by step what happened; whether it is told to
anybody is the caller's affair. So a fill-or-kill is not calculated but tried, with copies of the orders that it
could meet (`trades_whole`). The letters are the rules in ARCHITECTURE.md.
"""

from bisect import bisect_left, bisect_right, insort_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ringpit.engine.codes import (
    EventState,
    Flag,
    OrderType,
    Outcome,
    Queue,
    ReportKind,
    SelfTrade,
    Side,
    TimeInForce,
    Trait,
)
from ringpit.engine.limits import INT64_MAX

NO_EXPIRY = 0
NO_TRADE = -1  # price of the last trade where there was none
RESTING_TIMES = (TimeInForce.GTC, TimeInForce.GTD, TimeInForce.DAY)
STOP_TYPES = (OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAILING_STOP)


@dataclass(slots=True, eq=False, kw_only=True)
class Order:
    """
    An order from its acceptance to its end.

    Side, price and trigger are those of YES; without a limit of its own the price is 0 here, and `price_asked` is what the
    command had there, for the reports: 0 for a stop. `total` is what was asked for
    in all, `open` what is left of it: lots, or money if the order `is_money`.
    """

    order: int
    account: int
    age: int  # how many orders were accepted before it
    side: int
    price: int
    has_price: bool
    price_asked: int
    is_no: bool
    payout: int
    total: int
    open: int
    self_trade: int = SelfTrade.NONE
    is_money: bool = False
    may_rest: bool = True
    post_only: bool = False
    hidden: bool = False
    all_or_none: bool = False
    display: int = 0
    slice: int = 0  # of an iceberg: what is left of the lots that it shows now
    group: int = 0
    expires_ns: int = NO_EXPIRY
    is_stop: bool = False  # and still waits for its trigger
    trigger: int = 0
    trail: int = 0  # not 0: the trigger follows the price
    is_triggered: bool = False  # a trade has reached the trigger; its turn comes when the trader is done

    @property
    def own_side(self) -> int:
        """The side in the terms of the order's own outcome."""
        return 1 - self.side if self.is_no else self.side

    def own_price(self, price: int) -> int:
        """A price of YES in the terms of the order's own outcome."""
        return self.payout - price if self.is_no else price

    @property
    def own_limit(self) -> int:
        """Its limit in the terms of its own outcome."""
        return self.own_price(self.price) if self.has_price else self.price_asked

    @property
    def filled(self) -> int:
        """Lots traded so far."""
        return self.total - self.open

    @property
    def is_shown(self) -> bool:
        """True if everybody sees it when it rests."""
        return not (self.hidden or self.all_or_none or self.is_stop)

    @property
    def shown(self) -> int:
        """Lots that everybody sees."""
        if not self.is_shown:
            return 0
        return self.slice if self.display else self.open

    @property
    def offered(self) -> int:
        """Lots that a single fill can take from it (M20)."""
        return self.slice if self.display else self.open

    @property
    def traits(self) -> int:
        """Bits of Trait."""
        has = {
            Trait.NO: self.is_no,
            Trait.POST_ONLY: self.post_only,
            Trait.HIDDEN: self.hidden,
            Trait.ICEBERG: self.display > 0,
            Trait.ALL_OR_NONE: self.all_or_none,
            Trait.TIMED: self.expires_ns != NO_EXPIRY,
            Trait.GROUPED: self.group != 0,
            Trait.STOP: self.is_stop,
            Trait.TRAILING: self.is_stop and self.trail > 0,
            Trait.NO_PRICE: not self.has_price,
            Trait.MARKET: not self.may_rest,
        }
        return self.self_trade + sum(trait for trait, holds in has.items() if holds)

    @property
    def queue(self) -> Queue:
        """The list in which it waits."""
        if self.is_stop:
            return (Queue.BUY_STOPS, Queue.SELL_STOPS)[self.side]
        if self.all_or_none:
            return (Queue.BUY_ALL_OR_NONE, Queue.SELL_ALL_OR_NONE)[self.side]
        return (Queue.BIDS, Queue.ASKS)[self.side]

    @property
    def place(self) -> tuple[int, bool]:
        """Where it belongs in its list: smaller is earlier, and equals come in the order of their arrival."""
        if self.is_stop:
            return (self.trigger if self.side == Side.BUY else -self.trigger, False)
        return (rank(self.side, self.price), self.hidden)

    def takes(self, price: int) -> bool:
        """True if its limit lets it trade at a price."""
        return not self.has_price or rank(1 - self.side, price) <= rank(1 - self.side, self.price)

    def wants(self, price: int) -> int:
        """Lots that it would take at a price (M21)."""
        if not self.is_money:
            return self.open
        own_price = self.own_price(price)
        return self.open // own_price if own_price else INT64_MAX

    def lose(self, lots: int, price: int) -> int:
        """Lots go from what is open, or the money for them; returns how much that was."""
        amount = lots * self.own_price(price) if self.is_money else lots
        self.open -= amount
        if self.display:
            self.slice -= min(lots, self.slice)
        return amount

    def shrink(self, lots: int) -> None:
        """Lots go from the total; an iceberg gives what is not shown first."""
        self.total -= lots
        self.open -= lots
        self.slice = min(self.slice, self.open)

    def show_afresh(self) -> None:
        """An iceberg shows its next slice."""
        self.slice = min(self.display, self.open)

    def is_reached(self, price: int) -> bool:
        """True if a trade at the price triggers it (M18)."""
        return price >= self.trigger if self.side == Side.BUY else price <= self.trigger

    def trailed(self, price: int) -> int:
        """The trigger of a trailing stop after a trade: it only moves towards the market (M18)."""
        if self.side == Side.BUY:
            return min(self.trigger, price + self.trail)
        return max(self.trigger, price - self.trail)


def rank(side: int, price: int) -> int:
    """A number that is the smaller the better a price is for those who trade against this side."""
    return -price if side == Side.BUY else price


class Content(NamedTuple):
    """What CREATE_EVENT said, with the level kind that AUTO stands for."""

    low: int
    high: int
    payout: int
    tick: int
    decimals: int
    closes_ns: int
    level_kind: int
    orders_max: int
    account_orders_max: int
    bands: tuple[tuple[int, int], ...]  # (highest price, step)

    def holds(self, price: int) -> bool:
        """True if the range holds a price."""
        return self.low <= price <= self.high

    def steps_on(self, price: int) -> bool:
        """True if a price of the range lies on a step of its band."""
        begin = self.low
        for last, step in self.bands:
            if price <= last:
                return (price - begin) % step == 0
            begin = last
        return True


@dataclass(slots=True, eq=False)
class Event:
    """One market: its book, and the price of its last trade."""

    event: int
    slot: int  # number in order of creation, 0-based
    content: Content
    pool: set[tuple[int, int]]  # (event, order) of every open order of the shard, whatever its event
    state: EventState = EventState.OPEN
    last: int = NO_TRADE
    orders: dict[int, Order] = field(default_factory=dict)
    lists: dict[Queue, list[Order]] = field(default_factory=lambda: {queue: [] for queue in Queue})

    def waiting(self) -> list[Order]:
        """Every open order, list by list."""
        return [order for queue in Queue for order in self.lists[queue]]

    def stops(self) -> list[Order]:
        """Orders that wait for their trigger."""
        return self.lists[Queue.BUY_STOPS] + self.lists[Queue.SELL_STOPS]

    def all_or_none(self) -> list[Order]:
        """Orders that wait to trade whole."""
        return self.lists[Queue.BUY_ALL_OR_NONE] + self.lists[Queue.SELL_ALL_OR_NONE]

    def has_reached(self, stop: Order) -> bool:
        """True if the last trade has reached a stop's trigger already (M18)."""
        return self.last != NO_TRADE and stop.is_reached(self.last)

    def add(self, order: Order) -> None:
        """Put an order into its list, behind its equals; an iceberg shows a slice."""
        order.show_afresh()
        self.orders[order.order] = order
        self.pool.add((self.event, order.order))
        insort_right(self.lists[order.queue], order, key=place_of)

    def remove(self, order: Order) -> None:
        """Take an order out, wherever it stands."""
        del self.orders[order.order]
        self.pool.remove((self.event, order.order))
        self.lists[order.queue].remove(order)

    def at(self, side: int, price: int) -> list[Order]:
        """Orders that rest at a price, in priority order."""
        orders = self.lists[(Queue.BIDS, Queue.ASKS)[side]]
        begin = bisect_left(orders, (rank(side, price), False), key=place_of)
        return orders[begin : bisect_right(orders, (rank(side, price), True), key=place_of)]

    def shown(self, side: int, price: int) -> int:
        """Lots that everybody sees at a price."""
        return sum(order.shown for order in self.at(side, price))

    def depth(self, side: int) -> list[list[int]]:
        """Rows [price, lots] of a side, best first; a price that shows nothing is left out."""
        lots: dict[int, int] = {}
        for order in self.lists[(Queue.BIDS, Queue.ASKS)[side]]:
            lots[order.price] = lots.get(order.price, 0) + order.shown
        return [[price, shown] for price, shown in lots.items() if shown]

    def crossed_by(self, order: Order) -> list[Order]:
        """Orders of the book, all-or-none ones left out, that an order would take at its price (M16)."""
        return [maker for maker in self.lists[(Queue.ASKS, Queue.BIDS)[order.side]] if order.takes(maker.price)]

    def next_maker(self, taker: Order) -> Order | None:
        """
        The order with which a taker trades next, or None.

        The first of the book, or an all-or-none order that has a better price, and whose lots are all wanted (M19).
        A post-only order does not look at those.
        """
        makers = self.lists[(Queue.ASKS, Queue.BIDS)[taker.side]][:1]
        if not taker.post_only:
            aside = self.lists[(Queue.SELL_ALL_OR_NONE, Queue.BUY_ALL_OR_NONE)[taker.side]]
            makers += [maker for maker in aside if taker.wants(maker.price) >= maker.open]
        makers.sort(key=lambda maker: (rank(maker.side, maker.price), maker.all_or_none))
        if makers and taker.takes(makers[0].price):
            return makers[0]
        return None

    def copy_for(self, taker: Order) -> "Event":
        """A book of copies of those orders that a taker could trade with."""
        copied = Event(self.event, self.slot, self.content, {(self.event, order) for order in self.orders})
        for queue in (Queue.BIDS, Queue.ASKS, Queue.BUY_ALL_OR_NONE, Queue.SELL_ALL_OR_NONE):
            for order in self.lists[queue]:
                if order.side != taker.side and taker.takes(order.price):
                    copied.orders[order.order] = replace(order)
                    copied.lists[queue].append(copied.orders[order.order])
        return copied

    def check(self) -> None:
        """Raise AssertionError if the book is crossed, a list is out of order, or an order is in two minds about itself."""
        bids, asks = self.lists[Queue.BIDS], self.lists[Queue.ASKS]
        assert not bids or not asks or bids[0].price < asks[0].price, f"event {self.event} is crossed"
        assert {id(order) for order in self.waiting()} == {id(order) for order in self.orders.values()}
        assert len(self.waiting()) == len(self.orders)
        assert set(self.orders) == {order for event, order in self.pool if event == self.event}
        assert self.state == EventState.OPEN or not self.orders
        for queue, orders in self.lists.items():
            places = [order.place for order in orders]
            assert sorted(places) == places, f"event {self.event} has {queue.name} out of order: {places}"
            for order in orders:
                assert queue == order.queue
                assert 0 < order.open <= order.total
                assert order.is_stop or order.has_price
                assert not order.is_triggered, f"stop {order.order} was triggered and never had its turn"
                assert (
                    order.slice == 0
                    if order.display == 0
                    else 0 < order.slice <= min(order.display, order.open)
                )


def place_of(order: Order) -> tuple[int, bool]:
    """Where an order belongs in its list, as a function."""
    return order.place


def order_of(command: Any, extension: Any, book: Event, age: int) -> Order:
    """The order that a NEW asks for; a trailing stop without a trigger takes it from the event's last trade."""
    is_no = command.outcome == Outcome.NO
    content = book.content

    def yes(price: int) -> int:
        return content.payout - price if is_no else price

    has_price = not command.flags & Flag.NO_PRICE
    order = Order(
        order=command.order,
        account=command.account,
        age=age,
        side=1 - command.side if is_no else command.side,
        price=yes(command.price) if has_price else 0,
        has_price=has_price,
        price_asked=0 if command.order_type in STOP_TYPES else command.price,
        is_no=is_no,
        payout=content.payout,
        total=command.quantity,
        open=command.quantity,
        self_trade=command.self_trade,
        is_money=command.order_type == OrderType.MONEY,
        may_rest=may_rest(command),
        post_only=bool(command.flags & Flag.POST_ONLY),
        hidden=bool(command.flags & Flag.HIDDEN),
        all_or_none=bool(command.flags & Flag.ALL_OR_NONE),
        display=extension.display,
        group=extension.group,
        expires_ns=expiry_of(command, content),
        is_stop=command.order_type in STOP_TYPES,
        trigger=yes(extension.trigger) if extension.trigger else 0,
        trail=extension.trail,
    )
    if order.trail and not extension.trigger:
        order.trigger = book.last + (order.trail if order.side == Side.BUY else -order.trail)
    return order


def may_rest(command: Any) -> bool:
    """True if a NEW's remainder rests in the book ("Words")."""
    return (
        command.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) and command.time_in_force in RESTING_TIMES
    )


def expiry_of(command: Any, content: Content) -> int:
    """When a NEW expires, in ns since the epoch, or 0 (M13)."""
    if command.time_in_force == TimeInForce.DAY:
        return content.closes_ns
    return int(command.expires_ns)


# -- trading ------------------------------------------------------------------------------------------------


class Happening(NamedTuple):
    """A step of trading: a FILL_TAKER or PREVENTED of so many lots with a maker, or CANCELED of the maker or the taker."""

    kind: ReportKind
    order: Order
    lots: int = 0


def trade(book: Event, taker: Order) -> Iterator[Happening]:
    """
    Trade a taker as far as it may, each fill at the maker's price (M1); yields what happens after it has happened.

    A cancelled maker is out of the book when that is said; a cancelled taker is told and then has nothing left.
    """
    while taker.open:
        maker = book.next_maker(taker)
        if maker is None:
            return
        lots = min(taker.wants(maker.price), maker.offered)
        if lots == 0:
            return  # the money that is left does not buy a lot
        if maker.account == taker.account and taker.self_trade != SelfTrade.NONE:
            yield from prevent(book, taker, maker, lots)
            continue
        taker.lose(lots, maker.price)
        maker.lose(lots, maker.price)
        come_again(book, maker)
        yield Happening(ReportKind.FILL_TAKER, maker, lots)


def come_again(book: Event, maker: Order) -> None:
    """After a fill: an order without lots goes, an iceberg without shown lots shows more at the back (M20)."""
    if maker.open == 0:
        book.remove(maker)
    elif maker.display and maker.slice == 0:
        book.remove(maker)
        book.add(maker)


def prevent(book: Event, taker: Order, maker: Order, lots: int) -> Iterator[Happening]:
    """What happens instead of a trade of an account with itself, by the taker's mode (M17)."""
    if taker.self_trade == SelfTrade.DECREMENT:
        for order in (maker, taker):
            order.total -= order.lose(lots, maker.price)
        come_again(book, maker)
        yield Happening(ReportKind.PREVENTED, maker, lots)
    if taker.self_trade in (SelfTrade.CANCEL_MAKER, SelfTrade.CANCEL_BOTH):
        book.remove(maker)
        yield Happening(ReportKind.CANCELED, maker)
    if taker.self_trade in (SelfTrade.CANCEL_TAKER, SelfTrade.CANCEL_BOTH):
        yield Happening(ReportKind.CANCELED, taker)
        taker.open = 0


def trades_whole(book: Event, taker: Order) -> bool:
    """True if trading now would fill all of an order: tried with copies of everybody (M3, M17, M19)."""
    tried = trade(book.copy_for(taker), replace(taker))
    return taker.open == sum(each.lots for each in tried if each.kind == ReportKind.FILL_TAKER)
