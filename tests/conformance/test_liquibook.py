"""
Liquibook, a matching engine in C++ that has been public since 2012, gives the same fills for the same orders.

Random limit, immediate, fill-or-kill orders, cancels and replacements go to both. After each command everything that
was said is compared, at the end two orders sweep each side, so the whole queue was compared, too.

Only where the rules are the same. Liquibook's all-or-none orders stand in the book in price-time order and are shown (ours wait
aside, M19), its market orders and market stops may rest (ours never, M3), its stops are triggered trade by trade (ours after the order
that is trading, M18), it knows no accounts. A fill-or-kill order that cannot fill is accepted and cancelled there, and refused
here (M3). `replace` changes what is open by a difference there. Its book with depth is not used: its depth forgets fills when an
order is replaced, and then raises.

The wheel is Liquibook's own code behind SWIG; it exists for Linux on x86 only up to Python 3.13, elsewhere this is skipped.
"""

import random
import warnings

import pytest

from ringpit.engine.codes import CommandKind, LevelKind, Reason, ReportKind, Side, TimeInForce
from ringpit.engine.exchange import Exchange
from ringpit.engine.limits import Limits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # SWIG's types have no module, which newer Pythons complain of
    liquibook = pytest.importorskip("liquibook")

EVENT = 7
ACCOUNT = 1
SEEDS = range(4)
COMMANDS = 2_000
SOAK_SEEDS = range(100, 200)
SOAK_COMMANDS = 20_000
PRICES = (90, 110)
LOTS = (1, 20)
CONDITIONS = {
    TimeInForce.GTC: liquibook.oc_no_conditions,
    TimeInForce.IOC: liquibook.oc_immediate_or_cancel,
    TimeInForce.FOK: liquibook.oc_fill_or_kill,
}


class Listener(liquibook.OrderListener):
    """What Liquibook says, as tuples."""

    def __init__(self):
        super().__init__()
        self.said = []

    def on_accept(self, order):
        order.accept()  # else it does not let itself be replaced
        self.said.append(("accept", order.order_id_))

    def on_reject(self, order, _reason):
        self.said.append(("reject", order.order_id_))

    def on_cancel(self, order):
        self.said.append(("cancel", order.order_id_))

    def on_cancel_reject(self, order, _reason):
        self.said.append(("no order", order.order_id_))

    def on_replace(self, order, difference, price):
        order.replace(difference, price)  # it finds an order again by the price that the order itself remembers
        self.said.append(("replace", order.order_id_))

    def on_replace_reject(self, order, _reason):
        self.said.append(("no order", order.order_id_))

    def on_fill(self, taker, maker, lots, price):
        self.said.append(("fill", maker.order_id_, taker.order_id_, lots, price))


class Pair:
    """Both engines, asked the same."""

    def __init__(self, levels):
        self.exchange = Exchange(Limits(events=4, orders=1 << 12, levels=4_096))
        created = self.exchange.command(
            CommandKind.CREATE_EVENT, EVENT, price=1, quantity=199, order=1, order_type=levels
        )
        assert ReportKind.EVENT_CREATED == created[0]["kind"]
        self.listener = Listener()
        self.book = liquibook.liquibook_book_OrderBook()
        self.book.set_symbol("X")
        self.book.set_order_listener(self.listener)
        self.orders = {}  # Liquibook keeps pointers to them, so all must live

    def ours(self, kind, order, **fields):
        """Return what the exchange says, in Liquibook's words."""
        said = []
        reports = iter(self.exchange.command(kind, EVENT, order=order, account=ACCOUNT, **fields))
        for report in reports:
            said_of, reason = ReportKind(int(report["kind"])), int(report["reason"])
            number = int(report["order"])
            if said_of == ReportKind.FILL_MAKER:
                taker = next(reports)
                said.append(
                    ("fill", number, int(taker["order"]), int(report["quantity"]), int(report["price"]))
                )
            elif reason == Reason.FOK_UNFILLABLE:
                said += [("accept", number), ("cancel", number)]
            elif said_of == ReportKind.REJECTED:
                assert Reason.UNKNOWN_ORDER == reason
                said.append(("no order", number))
            else:
                words = {
                    ReportKind.ACCEPTED: "accept",
                    ReportKind.CANCELED: "cancel",
                    ReportKind.AMENDED: "replace",
                }
                said.append((words[said_of], number))
        return said

    def theirs(self):
        """Return what Liquibook has said since it was asked last."""
        said, self.listener.said = self.listener.said, []
        return said

    def add(self, side, price, lots, time_in_force):
        """Send a new order to both and compare."""
        condition = CONDITIONS[time_in_force]
        order = liquibook.SimpleOrder(side == Side.BUY, price, lots, 0, condition)
        number = order.order_id_
        self.orders[number] = order
        self.book.add(order, condition)
        assert self.theirs() == self.ours(
            CommandKind.NEW, number, side=side, price=price, quantity=lots, time_in_force=time_in_force
        )

    def cancel(self, number):
        """Cancel an order in both and compare."""
        self.book.cancel(self.orders[number])
        assert self.theirs() == self.ours(CommandKind.CANCEL, number)

    def replace(self, number, price, lots):
        """Give an order a new price and new open lots in both and compare."""
        self.book.replace(self.orders[number], lots - self.exchange.open_lots(EVENT, number), price)
        assert self.theirs() == self.ours(CommandKind.REPLACE, number, price=price, quantity=lots)

    def one_of(self, chance):
        """Return an order that is open, or now and then any that ever was."""
        if chance.random() < 0.1:
            return chance.choice(list(self.orders))
        return chance.choice(self.exchange.resting(EVENT)["order"].tolist() or list(self.orders))


def compare(seed, commands):
    """Play a random flow on both; seeds take turns between a ladder and a skip list."""
    chance = random.Random(seed)
    pair = Pair(LevelKind.SKIP_LIST if seed % 2 else LevelKind.LADDER)
    pair.add(Side.BUY, 100, 1, TimeInForce.GTC)
    for _ in range(commands):
        price, lots = chance.randint(*PRICES), chance.randint(*LOTS)
        action = chance.random()
        if action < 0.25:
            pair.cancel(pair.one_of(chance))
        elif action < 0.4:
            pair.replace(pair.one_of(chance), price, lots)
        else:
            time_in_force = chance.choice([*(TimeInForce.GTC,) * 4, TimeInForce.IOC, TimeInForce.FOK])
            pair.add(chance.choice(list(Side)), price, lots, time_in_force)
    pair.add(Side.SELL, 1, 1_000_000, TimeInForce.IOC)
    pair.add(Side.BUY, 199, 1_000_000, TimeInForce.IOC)
    assert 0 == len(pair.exchange.resting(EVENT))
    pair.exchange.validate()


@pytest.mark.parametrize("seed", SEEDS)
def test_liquibook_says_the_same(seed):
    """A few thousand random commands, and the sweep of what is left."""
    compare(seed, COMMANDS)


@pytest.mark.soak
@pytest.mark.parametrize("seed", SOAK_SEEDS)
def test_liquibook_says_the_same_for_long(seed):
    """Many more of them."""
    compare(seed, SOAK_COMMANDS)
