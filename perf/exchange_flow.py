"""
The order flow of exchange-core's performance tests, re-created: one book that is kept full, and mostly moves.

That project's generator (TestOrdersGenerator, single book) has been the yardstick of Java engines since 2019. Written again from
its description: the shape is the same, the random numbers are numpy's, so the bytes are not.

    start price  10^(3.3 + 1.5 U + 1.5 U); deviation D: 5 % of it, at most 10,000; band: start - 5 D to start + 5 D
    new order    GTC, a distance up to D from the last trade, on its own side of it; 1 + abc lots, each 0 to 5
    before       `resting` new orders, which may trade
    then         by how many orders its side lacks (counted every 512 commands and after each rejection):
                 many, or never yet full    new
                 some                       of 10: 2 new, 1 cancel, 1 reduce, 6 move
                 none                       of 40: 2 instant, 1 cancel, 1 reduce, 36 move
    target       of cancel, reduce, move: any of the 512 oldest open orders
    reduce       by 1 to all of its lots
    move         1 % of the distance towards the last trade, at least a tick; at most to the top of the band
    instant      IOC limited at the band's edge, or, 1 of 32, FOK: 1 + abc lots, each 0 to 7, limited there too

The original's FOK has a budget of its lots at the band's edge. Nothing trades beyond the edge, so the budget is kept
exactly when the limit is: a FOK limit order at the edge is the same order.

The generator has a book of its own, a table of open orders that is searched from end to end: which order to aim at, and where the
last trade was, is for it to say. Its trades come with the flow, and whoever plays the flow must make the same ones.

Fast enough: about 5 seconds for 3 million commands. Slow with many resting orders.
"""

from typing import Final, NamedTuple

import numpy as np
from numba import njit

from ringpit.engine.codes import CommandKind, OrderType, Side, TimeInForce
from ringpit.engine.records import COMMAND

SEED: Final = 101_572_685
COMMANDS: Final = 3_000_000
RESTING: Final = 1_000
ACCOUNTS: Final = 1_000
EVENT: Final = 1

PRICE_POWER: Final = 3.3  # of ten: lowest start price
PRICE_SPREAD: Final = 1.5
DEVIATION_SHARE: Final = 0.05
DEVIATION_MAX: Final = 10_000  # ticks
BAND_DEVIATIONS: Final = 5
LOTS_FACTOR: Final = 6  # of a new order: 1 + product of three integers below
INSTANT_LOTS_FACTOR: Final = 8
SAMPLE_COMMANDS: Final = 512
TARGETS: Final = 512
LACK_MAX: Final = 512
FOK_OF: Final = 32
GROWING_OF, FULL_OF = 10, 40  # equal outcomes of a draw
MOVE_OF: Final = 100

PRICE, SIDE, LEFT, ORDER, ACCOUNT, AGE = range(6)  # columns of the table of open orders
LAST, AGES, ORDERS, TRADES = range(4)  # cells: last trade price, ages given, ids given, trades made
TRADE_COLUMNS: Final = 4  # price, lots, maker, taker


class Flow(NamedTuple):
    """A flow and what it must give."""

    commands: np.ndarray  # COMMAND: those before the clock, then those that are timed
    before: int  # how many come before
    low: int  # lowest price of any command, ticks
    high: int  # highest
    trades: np.ndarray  # int64 rows: price, lots, maker, taker, of all commands
    open_orders: int  # at the end


def exchange_flow(*, seed: int = SEED, commands: int = COMMANDS, resting: int = RESTING) -> Flow:
    """
    The flow of one book.

    Args:
        seed: Of numpy's PCG64.
        commands: How many come after the book was filled.
        resting: New orders before, and what the flow aims to keep open.

    Raises ValueError for fewer than 2 resting orders.
    """
    if resting < 2:
        raise ValueError(f"resting must be at least 2, was {resting}")
    random = np.random.Generator(np.random.PCG64(seed))
    start = int(10 ** (PRICE_POWER + PRICE_SPREAD * (random.random() + random.random())))
    deviation = min(int(start * DEVIATION_SHARE), DEVIATION_MAX)
    rows = np.zeros(resting + commands, COMMAND)
    table = np.zeros((2 * (resting + LACK_MAX) + SAMPLE_COMMANDS, 6), np.int64)
    cells = np.zeros(4, np.int64)
    cells[LAST] = start
    trades = np.empty((2 * len(rows), TRADE_COLUMNS), np.int64)
    edge = BAND_DEVIATIONS * deviation
    open_orders = _draw(random, rows, resting, start - edge, start + edge, deviation, table, cells, trades)
    priced = rows["price"][rows["price"] > 0]
    return Flow(
        rows, resting, int(priced.min()), int(priced.max()), trades[: cells[TRADES]].copy(), open_orders
    )


@njit(cache=True)
def _draw(random, rows, resting, bottom, top, deviation, table, cells, trades):
    """Write all commands; the number of open orders at the end."""
    count = 0
    for i in range(resting):
        count, _ = _new(random, rows, i, bottom, top, deviation, table, count, cells, trades)
    half = resting // 2
    sampled = _sample(table, count)
    ever_full = False
    for i in range(resting, rows.shape[0]):
        if (i - resting) % SAMPLE_COMMANDS == 0:
            sampled = _sample(table, count)
        side = _below(random, 2)
        lack = half - sampled[side]
        ever_full = ever_full or lack <= 0
        drawn = _below(random, GROWING_OF if lack > 0 else FULL_OF)
        rejected = False
        if count == 0 or not ever_full or lack > min(LACK_MAX, half * 3 // 4) or (lack > 0 and drawn < 2):
            count, rejected = _new(random, rows, i, bottom, top, deviation, table, count, cells, trades, side)
        elif drawn < 2:
            count, rejected = _instant(random, rows, i, bottom, top, table, count, cells, trades)
        else:
            target = _below(random, min(count, TARGETS))
            if drawn == 2:
                _aim(rows, i, CommandKind.CANCEL, table, target)
                count = _remove(table, count, target)
            elif drawn == 3:
                count = _reduce(random, rows, i, table, count, target)
            else:
                count = _move(rows, i, bottom, top, table, count, target, cells, trades)
        if rejected:
            sampled = _sample(table, count)
    return count


@njit(cache=True)
def _below(random, limit):
    """A uniform integer from 0 to below the limit."""
    return int(random.random() * limit)


@njit(cache=True)
def _lots(random, factor):
    """1 and a product of three."""
    return 1 + _below(random, factor) * _below(random, factor) * _below(random, factor)


@njit(cache=True)
def _sample(table, count):
    """Open orders of each side."""
    sells = 0
    for row in range(count):
        sells += table[row, SIDE]
    return count - sells, sells


@njit(cache=True)
def _new(random, rows, i, bottom, top, deviation, table, count, cells, trades, side=-1):
    """A GTC order of a side, -1: either; it trades first. Returns (open orders, False: never rejected)."""
    if side < 0:
        side = _below(random, 2)
    spread = 1 + int(random.random() ** 2 * deviation)
    total = 0
    for _ in range(4):
        total += _below(random, spread)
    offset = abs(2 * (total // 4) - spread)
    price = cells[LAST] - offset if side == Side.BUY else cells[LAST] + offset
    account, lots = 1 + _below(random, ACCOUNTS), _lots(random, LOTS_FACTOR)
    order = _write_new(rows, i, TimeInForce.GTC, side, account, price, lots, cells)
    count, left = _trade(table, count, side, order, price, lots, bottom, top, cells, trades)
    if left > 0:
        table[count, PRICE], table[count, SIDE], table[count, LEFT] = price, side, left
        table[count, ORDER], table[count, ACCOUNT] = order, account
        _age(table, count, cells)
        count += 1
    return count, False


@njit(cache=True)
def _instant(random, rows, i, bottom, top, table, count, cells, trades):
    """An IOC or FOK order at the edge of the band. Returns (open orders, whether anything of it was refused)."""
    side = _below(random, 2)
    whole = _below(random, FOK_OF) == 0
    lots = _lots(random, INSTANT_LOTS_FACTOR if whole else LOTS_FACTOR)
    price = top if side == Side.BUY else bottom
    account = 1 + _below(random, ACCOUNTS)
    order = _write_new(
        rows, i, TimeInForce.FOK if whole else TimeInForce.IOC, side, account, price, lots, cells
    )
    if whole:
        offered = 0
        for row in range(count):
            if table[row, SIDE] != side and _meets(side, price, table[row, PRICE]):
                offered += table[row, LEFT]
        if offered < lots:
            return count, True
    count, left = _trade(table, count, side, order, price, lots, bottom, top, cells, trades)
    return count, left > 0


@njit(cache=True)
def _reduce(random, rows, i, table, count, target):
    """Take some or all lots off an order. Returns the open orders."""
    _aim(rows, i, CommandKind.REDUCE, table, target)
    lots = 1 + _below(random, table[target, LEFT])
    rows[i]["quantity"] = lots
    table[target, LEFT] -= lots
    return count if table[target, LEFT] > 0 else _remove(table, count, target)


@njit(cache=True)
def _move(rows, i, bottom, top, table, count, target, cells, trades):
    """Give an order a price nearer to the last trade; it goes to the back there and may trade. Returns the open orders."""
    distance = cells[LAST] - table[target, PRICE]
    shift = (abs(distance) + MOVE_OF - 1) // MOVE_OF
    price = min(table[target, PRICE] + (shift if distance > 0 else -shift), top)
    if distance == 0:
        price = table[target, PRICE] + 1 - 2 * (i & 1)
    _aim(rows, i, CommandKind.AMEND, table, target)
    rows[i]["price"] = price
    if price == table[target, PRICE]:
        return count
    order, side = table[target, ORDER], table[target, SIDE]
    count, left = _trade(table, count, side, order, price, table[target, LEFT], bottom, top, cells, trades)
    target = 0
    while table[target, ORDER] != order:
        target += 1
    if left == 0:
        return _remove(table, count, target)
    table[target, PRICE], table[target, LEFT] = price, left
    _age(table, target, cells)
    return count


@njit(cache=True)
def _trade(table, count, side, taker, price, lots, bottom, top, cells, trades):
    """Trade with the other side, best price first, oldest first. Returns (open orders, lots left)."""
    while lots > 0:
        best = -1
        for row in range(count):
            meets = table[row, SIDE] != side and _meets(side, price, table[row, PRICE])
            if meets and (best < 0 or _before(side, table, row, best)):
                best = row
        if best < 0:
            break
        filled = min(lots, table[best, LEFT])
        trade = cells[TRADES]
        trades[trade, 0], trades[trade, 1] = table[best, PRICE], filled
        trades[trade, 2], trades[trade, 3] = table[best, ORDER], taker
        cells[TRADES] = trade + 1
        cells[LAST] = min(max(table[best, PRICE], bottom), top)
        lots -= filled
        table[best, LEFT] -= filled
        if table[best, LEFT] == 0:
            count = _remove(table, count, best)
    return count, lots


@njit(cache=True)
def _meets(side, price, other):
    """Whether an order of a side takes a price of the other side."""
    return other <= price if side == Side.BUY else other >= price


@njit(cache=True)
def _before(side, table, row, best):
    """Whether a row is a better maker than another for a taker of a side."""
    if table[row, PRICE] != table[best, PRICE]:
        return (table[row, PRICE] < table[best, PRICE]) == (side == Side.BUY)
    return table[row, AGE] < table[best, AGE]


@njit(cache=True)
def _remove(table, count, target):
    """Take a row out; those behind move up. Returns the rows left."""
    for row in range(target, count - 1):
        for column in range(table.shape[1]):
            table[row, column] = table[row + 1, column]
    return count - 1


@njit(cache=True)
def _age(table, row, cells):
    """Put an order behind all others of its price."""
    table[row, AGE] = cells[AGES]
    cells[AGES] += 1


@njit(cache=True)
def _write_new(rows, i, time_in_force, side, account, price, lots, cells):
    """A NEW. Returns its order id."""
    cells[ORDERS] += 1
    rows[i]["kind"] = CommandKind.NEW
    rows[i]["order_type"] = OrderType.LIMIT
    rows[i]["time_in_force"] = time_in_force
    rows[i]["side"] = side
    rows[i]["event"] = EVENT
    rows[i]["order"] = cells[ORDERS]
    rows[i]["account"] = account
    rows[i]["price"] = price
    rows[i]["quantity"] = lots
    return cells[ORDERS]


@njit(cache=True)
def _aim(rows, i, kind, table, target):
    """A CANCEL, REDUCE or AMEND of an open order."""
    rows[i]["kind"] = kind
    rows[i]["event"] = EVENT
    rows[i]["order"] = table[target, ORDER]
    rows[i]["account"] = table[target, ACCOUNT]
