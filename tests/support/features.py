"""
Features: a plain order flow dressed up, so that it asks for everything that the rules have, as clients may ask for it.

    featured(2_000, events=4, seed=1)      COMMAND records, extensions and bands among them

Events differ: plain, in bands, in a skip list, with limits, and the last one without a highest price. Each record can be sent
packed, and by a message that becomes the same record again (`shards.flow.messages`), so that an exchange must
answer all forms alike. Much is refused, as every combination is drawn, sensible or not.

Slow: a loop over the records.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from ringpit.engine.codes import (
    BOTH_SIDES,
    CommandKind,
    Flag,
    LevelKind,
    OrderType,
    Outcome,
    SelfTrade,
    Side,
    TimeInForce,
)
from ringpit.engine.limits import PRICE_TICKS_MAX
from ringpit.engine.records import BANDS, COMMAND, EXTENSION
from ringpit.shards.flow import flow

PAYOUT: Final = 100  # ticks, of all events but the last
BANDS_OF_CENTS: Final = ((10, 1), (90, 5), (99, 1))
LATE_NS: Final = 2 * 10**18
GROUPS: Final = 4
WIDE_SHARE: Final = 10  # of so many order ids one is for the event without a highest price
WIDE_STEP: Final = 1_000_003  # ticks between the prices of its orders
NEW, CREATE_EVENT, MASS_CANCEL = CommandKind.NEW, CommandKind.CREATE_EVENT, CommandKind.MASS_CANCEL


def featured(orders: int, *, events: int, seed: int) -> np.ndarray:
    """
    COMMAND records: `events` events in cents and one without a highest price, then `orders` commands and what completes them.

    The same arguments give the same bytes. Event ids are 1, 2, ...; accounts are few, so that they meet themselves.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    plain = flow(orders, seed=seed, events=events, accounts=5)
    wide = events + 1
    parts = [*created(plain[:events], wide)]
    for row in plain[events:]:
        command = row.reshape(1).copy()
        if command["order"][0] % WIDE_SHARE == 0:
            command["event"] = wide
            command["price"] = command["price"] * WIDE_STEP % PRICE_TICKS_MAX
        parts += dressed(command, random, wide)
        if random.random() < 0.01:
            parts.append(mass_cancel(random, events))
    return np.concatenate(parts)


def created(plain: np.ndarray, wide: int) -> Iterator[np.ndarray]:
    """The records that create the events."""
    for number, row in enumerate(plain):
        command = row.reshape(1).copy()
        if number % 4 == 1:
            yield bands(command["event"][0], BANDS_OF_CENTS)
        elif number % 4 == 2:
            command["order_type"], command["expires_ns"] = LevelKind.SKIP_LIST, LATE_NS
        elif number % 4 == 3:
            command["flags"] = Flag.EXTENDED
            yield extension(command["event"][0], orders_max=40, account_orders_max=12)
        yield command
    command = plain[:1].copy()
    command["event"], command["quantity"], command["payout"] = wide, PRICE_TICKS_MAX, 0
    yield command


def bands(event: int, rows: tuple[tuple[int, int], ...]) -> np.ndarray:
    """A BANDS record, as a COMMAND array of one."""
    record = np.zeros(1, BANDS)
    record["kind"], record["count"], record["event"] = CommandKind.BANDS, len(rows), event
    for number, (last, step) in enumerate(rows, 1):
        record[f"last_{number}"], record[f"step_{number}"] = last, step
    return record.view(COMMAND)


def extension(event: int, **fields: int) -> np.ndarray:
    """An EXTENSION record, as a COMMAND array of one."""
    record = np.zeros(1, EXTENSION)
    record["kind"], record["event"] = CommandKind.EXTENSION, event
    for name, value in fields.items():
        record[name] = value
    return record.view(COMMAND)


def mass_cancel(random: np.random.Generator, events: int) -> np.ndarray:
    """A MASS_CANCEL of some event or of all."""
    command = np.zeros(1, COMMAND)
    command["kind"] = MASS_CANCEL
    if random.random() < 0.3:
        command["flags"] = Flag.ALL_EVENTS
    else:
        command["event"] = random.integers(1, events + 3)  # one of them is not there
    command["side"] = random.choice([*Side, BOTH_SIDES])
    command["account"] = random.integers(0, 6)
    command["order"] = random.integers(0, GROUPS)
    return command


def dressed(command: np.ndarray, random: np.random.Generator, wide: int) -> list[np.ndarray]:
    """The records that one plain command becomes."""
    kind = command["kind"][0]
    if kind == CommandKind.AMEND:
        command["kind"] = random.choice([CommandKind.AMEND, CommandKind.REDUCE, CommandKind.REPLACE])
    if kind != NEW:
        return [command]
    command["self_trade"] = random.choice(list(SelfTrade))
    if command["event"][0] != wide and random.random() < 0.4:
        command["outcome"], command["side"] = Outcome.NO, 1 - command["side"][0]
        if not command["flags"][0] & Flag.NO_PRICE:
            command["price"] = PAYOUT - command["price"]
    dress = random.choice(len(DRESSES))
    fields = DRESSES[dress](command, random)
    if random.random() < 0.3:
        fields["group"] = int(random.integers(0, GROUPS))
    if not fields:
        return [command]
    command["flags"] |= Flag.EXTENDED
    return [extension(command["event"][0], **fields), command]


def as_it_is(_command: np.ndarray, _random: np.random.Generator) -> dict[str, int]:
    """Nothing more."""
    return {}


def flagged(command: np.ndarray, random: np.random.Generator) -> dict[str, int]:
    """Post-only, hidden, all-or-none, sometimes two of them."""
    for _ in range(1 + (random.random() < 0.1)):
        command["flags"] |= random.choice([Flag.POST_ONLY, Flag.HIDDEN, Flag.ALL_OR_NONE])
    return {}


def shown_in_part(_command: np.ndarray, random: np.random.Generator) -> dict[str, int]:
    """An iceberg."""
    return {"display": int(random.integers(-1, 9))}


def timed(command: np.ndarray, random: np.random.Generator) -> dict[str, int]:
    """GTD or DAY, sometimes over already or said wrongly."""
    command["time_in_force"] = random.choice([TimeInForce.GTD, TimeInForce.DAY])
    command["expires_ns"] = random.choice([0, -1, LATE_NS, LATE_NS + 1])
    return {}


def paid(command: np.ndarray, random: np.random.Generator) -> dict[str, int]:
    """An order that spends money."""
    command["order_type"] = OrderType.MONEY
    command["quantity"] = random.integers(1, 2_000)
    command["side"] = Side.BUY if random.random() < 0.9 else Side.SELL
    return {}


def stopped(command: np.ndarray, random: np.random.Generator) -> dict[str, int]:
    """A stop of any kind, whose trigger lies near its price."""
    kinds = [OrderType.STOP, OrderType.TRAILING_STOP, OrderType.STOP_LIMIT]
    if command["flags"][0] & Flag.NO_PRICE:
        kinds.remove(OrderType.STOP_LIMIT)  # the edge refuses it, with a reason of its own
    command["order_type"] = random.choice(kinds)
    near = max(int(command["price"][0]) + int(random.integers(-5, 6)), 0)
    if command["order_type"][0] != OrderType.TRAILING_STOP:
        return {"trigger": near}
    return {"trail": int(random.integers(0, 9)), "trigger": near if random.random() < 0.5 else 0}


DRESSES: Final = (as_it_is, as_it_is, flagged, shown_in_part, timed, paid, stopped)
