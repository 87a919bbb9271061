"""
The referee's order flow, re-created: the same messages for the same seed, whatever the machine.

The field has a public referee, flash1-dev/matching-engine-benchmark; engines are compared by what they make of
its flow. This is that flow, written again from its description: a million orders around a mid price that walks
at random, each of which may be modified and cancelled later.

    shape    for each order a step of the mid price, a distance from it, a quantity      4 draws an order
    shuffle  of all orders, so that ids and prices of neighbours have nothing to do with each other
    life     new ── 15 % immediate-or-cancel, gone
              └─ 20 % modified 30 to 99 us later ── 95 % cancelled after an exponential time
                 2 % of cancels come twice, 2 % of what was modified and cancelled is modified once more

SCENARIOS differ in the volatility of the mid price: `static` does not move, `flash-crash` goes from 27,506 to
65,365 ticks with seed 23. The first half of the orders in the order of the walk are buys, the second sells.

One weakness is known: the clock waits for each order's end before the next begins, so that every cancel and
modify hits the newest order, which caches love. The scenario `interleaved` is ours and no part of the referee:
the same draws with a swing of 0.05 %, but each new order comes INTERLEAVED_GAP_US after the one before,
whatever happens to that one, and all that an order does later comes INTERLEAVED_STRETCH times as late after its
arrival. Messages are sorted by time, stable. So about 6,000 orders live at once besides those that nobody cancels,
and half of the cancels that find their order find one that is more than 9,000 messages old.

Fast because all uniforms are drawn at once and the rest is two kernels: about a second for a million orders.
Slow never; 250 bytes of memory an order while it works.

Invariants:

    F1  chance is numpy's legacy Mersenne Twister seeded with the integer, two words a uniform, as the referee's
    F2  uniforms are taken in the order of the text above: nothing is drawn that is not used
    F3  seed 23 and a million orders give PUBLISHED_MESSAGES messages in every scenario
"""

import math
from typing import Final, NamedTuple

import numpy as np
from numba import njit

import ringpit.engine  # noqa: F401 - chooses the folder of numba's cache, before the first kernel is defined

SEED: Final = 23
ORDERS: Final = 1_000_000
PUBLISHED_MESSAGES: Final = 1_996_097

NEW, CANCEL, MODIFY = range(3)  # Messages.kind
BUY, SELL = range(2)  # Messages.side

TICK: Final = 0.005  # dollars
MID: Final = 167.52  # dollars, where the walk begins
LEVELS: Final = 800  # distances from the mid, ticks
LEVEL_POWER: Final = -2.23  # weight of a distance: a power law, and a hump around HUMP_LEVEL
HUMP_WEIGHT: Final = 5.0
HUMP_LEVEL: Final = 8
QUANTITY_MAX: Final = 100  # lots
IOC_SHARE: Final = 0.15
MODIFIED_SHARE: Final = 0.20
MODIFY_AFTER_US: Final = 30
MODIFY_WITHIN_US: Final = 70
TOWARDS_SHARE: Final = 0.80  # of modifies go a tick towards the other side
CANCELED_SHARE: Final = 0.95
HALF_LIFE_US: Final = 431.0  # of an order at distance 0; times the root of 1 + distance
AGAIN_SHARE: Final = 0.02
AGAIN_WITHIN_US: Final = 20

SHAPE_DRAWS: Final = 4
LIFE_DRAWS_MAX: Final = 10
MESSAGES_MAX: Final = 5  # of one order: new, modify, cancel, cancel again, modify again

INTERLEAVED_GAP_US: Final = 1
INTERLEAVED_STRETCH: Final = 4


class Scenario(NamedTuple):
    """How the mid price walks and how lives follow each other."""

    volatility: float  # a year's
    swing: float  # standard deviation of the whole walk, as a share of the price
    stretch: int = 0  # 0: one life after the other; else: interleaved, each so many times as long


SCENARIOS: Final = {
    "static": Scenario(0.0, 0.0),
    "normal": Scenario(0.15, 0.02),
    "swing-25": Scenario(0.5, 0.25),
    "swing-40": Scenario(0.5, 0.40),
    "flash-crash": Scenario(0.5, 0.60),
    "interleaved": Scenario(0.15, 0.0005, INTERLEAVED_STRETCH),
}


class Messages(NamedTuple):
    """A flow, one item of each array a message, in the order of time."""

    kind: np.ndarray  # int8: NEW, CANCEL, MODIFY
    side: np.ndarray  # int8: BUY, SELL
    ioc: np.ndarray  # int8: 1 immediate or cancel
    order: np.ndarray  # int32: from 1, dense over the NEWs
    price: np.ndarray  # int32: ticks; of a CANCEL: where the order was sent to last
    quantity: np.ndarray  # int32: lots; of a CANCEL: 0


def messages(scenario: str, *, seed: int = SEED, orders: int = ORDERS) -> Messages:
    """
    The flow of a scenario.

    Args:
        scenario: One of SCENARIOS.
        seed: 0 to 2**32 - 1.
        orders: NEWs; the published flow has a million.

    Raises ValueError for an unknown scenario or fewer than 2 orders.
    """
    if scenario not in SCENARIOS:
        raise ValueError(f"scenario must be one of {', '.join(SCENARIOS)}, was {scenario}")
    if orders < 2:
        raise ValueError(f"orders must be at least 2, was {orders}")
    chosen = SCENARIOS[scenario]
    uniforms = np.random.RandomState(seed).random_sample(orders * (SHAPE_DRAWS + 1 + LIFE_DRAWS_MAX))
    shapes = np.empty((orders, 3), np.int64)
    drawn = _draw_shapes(uniforms, chosen.volatility, chosen.swing, shapes)
    rows = np.empty((orders * MESSAGES_MAX, 7), np.int64)
    count = _draw_lives(uniforms, drawn, shapes, chosen.stretch, rows)
    rows = rows[:count]
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return Messages(
        kind=rows[:, 1].astype(np.int8),
        side=rows[:, 2].astype(np.int8),
        ioc=rows[:, 3].astype(np.int8),
        order=rows[:, 4].astype(np.int32),
        price=rows[:, 5].astype(np.int32),
        quantity=rows[:, 6].astype(np.int32),
    )


def alive_max(flow: Messages) -> int:
    """Most orders that can rest at once, if nothing traded: how many a book must have room for."""
    comes = (flow.kind == NEW) & (flow.ioc == 0)
    goes = np.zeros(len(flow.kind), bool)
    cancels = np.flatnonzero(flow.kind == CANCEL)
    goes[cancels[np.unique(flow.order[cancels], return_index=True)[1]]] = True
    return int(np.cumsum(comes.astype(np.int64) - goes).max())


@njit(cache=True)
def _draw_shapes(uniforms, volatility, swing, shapes):
    """Level, price and quantity of each order, in the order of the walk. Returns how many uniforms were used."""
    orders = shapes.shape[0]
    totals = np.empty(LEVELS)
    total = 0.0
    for level in range(LEVELS):
        total += (level + 1) ** LEVEL_POWER + HUMP_WEIGHT * math.exp(-((level - HUMP_LEVEL) ** 2) / 2)
        totals[level] = total
    step = 0.0
    if volatility > 0.0:
        step = volatility * math.sqrt((swing / volatility) ** 2 / orders)
    mid = MID
    at = 0
    for i in range(orders):
        normal = math.sqrt(-2.0 * math.log(uniforms[at])) * math.cos(2.0 * math.pi * uniforms[at + 1])
        mid = mid * math.exp(-step * step / 2.0 + step * normal)
        mid_ticks = math.floor(mid / TICK + 0.5)
        level = np.searchsorted(totals, uniforms[at + 2] * total)
        distance = level + 1 if i >= orders // 2 else -(level + 1)
        shapes[i, 0] = level
        shapes[i, 1] = max(mid_ticks + distance, 1)
        shapes[i, 2] = 1 + math.floor(uniforms[at + 3] * QUANTITY_MAX)
        at += SHAPE_DRAWS
    return at


@njit(cache=True)
def _draw_lives(uniforms, at, shapes, stretch, rows):
    """Shuffle the orders and write the rows of each life: time, then the columns of Messages. Returns their number."""
    orders = shapes.shape[0]
    shuffled = np.arange(orders)
    for i in range(orders - 1, 0, -1):
        j = math.floor(uniforms[at] * (i + 1))
        at += 1
        shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
    count = 0
    clock = 0
    for i in shuffled:
        before = count
        at, count = _draw_life(uniforms, at, shapes, i, clock, rows, count)
        if stretch == 0:
            clock = rows[count - 1, 0] + 1
        else:
            for row in range(before, count):
                rows[row, 0] = clock + (rows[row, 0] - clock) * stretch
            clock += INTERLEAVED_GAP_US
    return count


@njit(cache=True)
def _draw_life(uniforms, at, shapes, i, time, rows, count):
    """One order from its NEW at `time` on. Returns the uniforms used and the rows written so far."""
    level, price, quantity = shapes[i, 0], shapes[i, 1], shapes[i, 2]
    side = 0 if i < shapes.shape[0] // 2 else 1
    ioc = uniforms[at] < IOC_SHARE
    at += 1
    _write(rows, count, time, NEW, side, ioc, i + 1, price, quantity)
    count += 1
    if ioc:
        return at, count
    modified = uniforms[at] < MODIFIED_SHARE
    at += 1
    if modified:
        time += MODIFY_AFTER_US + math.floor(uniforms[at] * MODIFY_WITHIN_US)
        quantity += 1
        if uniforms[at + 1] < TOWARDS_SHARE:
            price = price + 1 if side == BUY else max(price - 1, 1)
        at += 2
        _write(rows, count, time, MODIFY, side, 0, i + 1, price, quantity)
        count += 1
    canceled = uniforms[at] < CANCELED_SHARE
    at += 1
    if not canceled:
        return at, count
    time += math.floor(-math.log(uniforms[at]) / (math.log(2.0) / HALF_LIFE_US / math.sqrt(1.0 + level)))
    _write(rows, count, time, CANCEL, side, 0, i + 1, price, 0)
    count += 1
    again = uniforms[at + 1] < AGAIN_SHARE
    at += 2
    if again:
        time += 1 + math.floor(uniforms[at] * AGAIN_WITHIN_US)
        at += 1
        _write(rows, count, time, CANCEL, side, 0, i + 1, price, 0)
        count += 1
    if modified:
        again = uniforms[at] < AGAIN_SHARE
        at += 1
        if again:
            time += 1 + math.floor(uniforms[at] * AGAIN_WITHIN_US)
            at += 1
            _write(rows, count, time, MODIFY, side, 0, i + 1, price, quantity)
            count += 1
    return at, count


@njit(cache=True)
def _write(rows, row, time, kind, side, ioc, order, price, quantity):
    """One row."""
    rows[row, 0] = time
    rows[row, 1] = kind
    rows[row, 2] = side
    rows[row, 3] = ioc
    rows[row, 4] = order
    rows[row, 5] = price
    rows[row, 6] = quantity
