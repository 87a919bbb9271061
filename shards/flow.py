"""
Order flow: seeded commands that look like a day on an exchange of events, and the shapes they travel in.

    flow(1_000_000, seed=7)                    COMMAND array: the events, then a million commands
    frames(commands, 100, publisher_key=1)     the same behind markers, as a router writes them
    messages(commands)                         the same as EventMessages, as a user writes them

Each event has a mid price that drifts in its range. New orders lie around it, a few ticks away, some through
it; cancels and amends aim at an order that the same event got a little earlier, so that most are still
open and some are not; and a share of everything is wrong in a way that a client could be wrong. Nothing
here knows a book: what trades is for the exchange to say.

Fast because every column is drawn at once; the only loop is over the events. About a second for a million
commands. Slow with very many events of few commands each. The same arguments give the same bytes.
"""

import hashlib
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, Final

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
from ringpit.engine.limits import FRAME_COMMANDS_MAX, QUANTITY_MAX
from ringpit.engine.records import BANDS, COMMAND, EXTENSION, MARKER
from ringpit.shards.prices import bands_of

TICK_UNITS: Final = 1  # a tick is 1 unit of 10**-DECIMALS, as in the exchange's default spec
DECIMALS: Final = 2

# What a command is: its kind, type and time in force, and its share of the flow.
MIX: Final = (
    (CommandKind.NEW, OrderType.LIMIT, TimeInForce.GTC, 0.47),
    (CommandKind.NEW, OrderType.LIMIT, TimeInForce.IOC, 0.06),
    (CommandKind.NEW, OrderType.LIMIT, TimeInForce.FOK, 0.03),
    (CommandKind.NEW, OrderType.MARKET, TimeInForce.IOC, 0.02),
    (CommandKind.NEW, OrderType.MARKET, TimeInForce.GTC, 0.01),
    (CommandKind.NEW, OrderType.MARKET, TimeInForce.FOK, 0.01),
    (CommandKind.CANCEL, OrderType.LIMIT, TimeInForce.GTC, 0.30),
    (CommandKind.AMEND, OrderType.LIMIT, TimeInForce.GTC, 0.10),
)
WITHOUT_PRICE_SHARE: Final = 0.5  # of market orders and of amends
DISTANCE_MEAN_TICKS: Final = 6.0  # from the mid, on the order's own side
CROSSING_TICKS: Final = 1  # an order may lie this far on the other side of the mid
QUANTITY_MEAN_LOTS: Final = 20.0
AGE_MEAN_ORDERS: Final = 10.0  # how many orders ago a cancel's or amend's target came


def creations(
    events: int, *, first_event: int = 1, low: int = 1, high: int = 99, payout: int = 100
) -> np.ndarray:
    """COMMAND array that creates `events` events with consecutive ids."""
    commands = np.zeros(events, COMMAND)
    commands["kind"] = CommandKind.CREATE_EVENT
    commands["event"] = first_event + np.arange(events)
    commands["price"] = low
    commands["quantity"] = high
    commands["payout"] = payout
    commands["order"] = TICK_UNITS
    commands["account"] = DECIMALS
    return commands


def flow(
    count: int,
    *,
    seed: int = 0,
    events: int = 8,
    accounts: int = 100,
    invalid_share: float = 0.02,
    first_event: int = 1,
    low: int = 1,
    high: int = 99,
    payout: int = 100,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """
    COMMAND array of `events` CREATE_EVENTs, then `count` orders, cancels and amends.

    Args:
        count: Commands after the creations.
        seed: Of numpy's PCG64; everything random comes from it.
        events: Events with consecutive ids from `first_event`, each with prices from `low` to `high` ticks.
        accounts: Accounts 1 to `accounts` trade.
        invalid_share: Share of commands that are made wrong, each in one of the ways of `spoil`.
        weights: How often each event is chosen, adding up to 1; without them all are chosen alike.

    Order ids are 1, 2, ... over all events. Raises ValueError for a share outside 0 to 1 or a number below 1.
    """
    if not 0 <= invalid_share <= 1:
        raise ValueError(f"invalid_share must be from 0 to 1, was {invalid_share}")
    for name, value in (("count", count), ("events", events), ("accounts", accounts)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, was {value}")
    random = np.random.Generator(np.random.PCG64(seed))
    commands = np.zeros(count, COMMAND)
    draw_orders(random, commands, accounts)
    chosen = random.integers(0, events, count) if weights is None else random.choice(events, count, p=weights)
    commands["event"] = first_event + chosen
    ages = random.exponential(AGE_MEAN_ORDERS, count).astype(np.int64)
    offsets = random.exponential(DISTANCE_MEAN_TICKS, count).astype(np.int64) - CROSSING_TICKS
    steps = random.integers(-1, 2, count)
    for positions in positions_by_event(commands["event"]):
        mids = reflected(low + (high - low) // 2 + np.cumsum(steps[positions]), low, high)
        aim(commands, positions, ages)
        away = np.where(commands["side"][positions] == Side.BUY, -1, 1)
        commands["price"][positions] = np.clip(mids + away * offsets[positions], low, high)
    commands["price"][commands["kind"] == CommandKind.CANCEL] = 0
    drop_prices(random, commands)
    spoil(random, commands, invalid_share, low, high, first_event + events)
    return np.concatenate(
        [creations(events, first_event=first_event, low=low, high=high, payout=payout), commands]
    )


def draw_orders(random: np.random.Generator, commands: np.ndarray, accounts: int) -> None:
    """Draw what does not depend on the event: kinds by the MIX, sides, owners, quantities, ids of new orders."""
    count = len(commands)
    rows = random.choice(len(MIX), count, p=[share for *_, share in MIX])
    for column, name in enumerate(("kind", "order_type", "time_in_force")):
        commands[name] = np.array([row[column] for row in MIX])[rows]
    is_new = commands["kind"] == CommandKind.NEW
    commands["side"] = random.integers(0, 2, count)
    commands["account"] = random.integers(1, accounts + 1, count)
    commands["quantity"] = 1 + random.exponential(QUANTITY_MEAN_LOTS, count).astype(np.int64)
    commands["quantity"][commands["kind"] == CommandKind.CANCEL] = 0
    commands["order"] = np.where(is_new, np.cumsum(is_new), 0)


def positions_by_event(events: np.ndarray) -> list[np.ndarray]:
    """For each event, by ascending id, where its commands stand, in order."""
    order = np.argsort(events, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(events[order])) + 1)


def reflected(walk: np.ndarray, low: int, high: int) -> np.ndarray:
    """A random walk folded into the range from low to high, bouncing off both ends."""
    span = max(high - low, 1)
    folded = np.abs((walk - low + span) % (2 * span) - span)
    return np.asarray(np.minimum(low + folded, high))


def aim(commands: np.ndarray, positions: np.ndarray, ages: np.ndarray) -> None:
    """Give each cancel and amend of one event the id, owner and side of an order that came `ages` orders before it."""
    is_new = commands["kind"][positions] == CommandKind.NEW
    sources = positions[is_new]
    came = np.cumsum(is_new)[~is_new]  # orders that came before each cancel or amend
    aimed = positions[~is_new][came > 0]
    if not len(aimed):
        return
    came = came[came > 0]
    targets = sources[came - 1 - ages[aimed] % came]
    for name in ("order", "account", "side"):
        commands[name][aimed] = commands[name][targets]
    commands["side"][commands["kind"] == CommandKind.CANCEL] = 0


def drop_prices(random: np.random.Generator, commands: np.ndarray) -> None:
    """Leave the price out of some market orders and amends; let some of the other amends keep their total."""
    is_amend = commands["kind"] == CommandKind.AMEND
    may_drop = is_amend | (commands["order_type"] == OrderType.MARKET)
    dropped = may_drop & (random.random(len(commands)) < WITHOUT_PRICE_SHARE)
    commands["price"][dropped] = 0
    commands["flags"][dropped] = Flag.NO_PRICE
    keeps_total = is_amend & ~dropped & (random.random(len(commands)) < WITHOUT_PRICE_SHARE)
    commands["quantity"][keeps_total] = 0


def spoil(
    random: np.random.Generator, commands: np.ndarray, share: float, low: int, high: int, unknown_event: int
) -> None:
    """Make a share of the commands wrong: an id, owner, price, event or quantity that cannot be, or an id used twice."""
    victims = np.flatnonzero(random.random(len(commands)) < share)
    groups = np.array_split(random.permutation(victims), 7)
    commands["order"][groups[0]] += len(commands)  # unknown, if it is no new order
    commands["account"][groups[1]] += 1_000_000  # not the owner
    commands["event"][groups[2]] = unknown_event
    again = groups[3][groups[3] > 0]
    commands["order"][again] = commands["order"][again - 1]  # another's id, or one used twice
    is_cancel = commands["kind"] == CommandKind.CANCEL  # a cancel says neither price nor quantity
    has_price = ~is_cancel & (commands["flags"] == 0)
    for group, price in ((groups[4], low - 1), (groups[5], high + 1)):
        commands["price"][group[has_price[group]]] = price
    odd = groups[6][~is_cancel[groups[6]]]
    commands["quantity"][odd] = random.choice([-1, 0, QUANTITY_MAX + 1], len(odd))


def frames(
    commands: np.ndarray, size: int, publisher_key: int = 0, *, engine_ns: int = 0, step_ns: int = 1_000
) -> np.ndarray:
    """
    The commands behind markers, `size` to a frame (the last may be shorter): one COMMAND array.

    Args:
        commands: COMMAND array without markers.
        size: Commands to a frame.
        publisher_key: High half of every key; the low half is the frame's number, from 1. 0: frames without keys.
        engine_ns: Time of the first frame; each later one comes `step_ns` after it.

    Raises ValueError if `size` is not from 1 to FRAME_COMMANDS_MAX.
    """
    if not 1 <= size <= FRAME_COMMANDS_MAX:
        raise ValueError(f"size must be from 1 to {FRAME_COMMANDS_MAX}, was {size}")
    starts = np.arange(0, len(commands), size)
    records = np.insert(commands, starts, np.zeros(1, COMMAND))
    slots = starts + np.arange(len(starts))
    markers = np.zeros(len(starts), MARKER)
    markers["kind"] = CommandKind.MARKER
    markers["count"] = np.diff(np.append(starts, len(commands)))
    if publisher_key:
        markers["key_low"] = 1 + np.arange(len(starts))
        markers["key_high"] = publisher_key
    markers["body_hash"] = [body_hash(commands[start : start + size]) for start in starts]
    markers["engine_ns"] = engine_ns + step_ns * np.arange(len(starts))
    markers["ingress_ns"] = markers["engine_ns"]
    markers["position"] = slots + 1 + markers["count"]
    markers["first_event"] = commands["event"][starts]
    records.view(MARKER)[slots] = markers
    return records


def body_hash(commands: np.ndarray) -> int:
    """A signed 64-bit hash of a frame's commands."""
    return int.from_bytes(hashlib.blake2b(commands.tobytes(), digest_size=8).digest(), "little", signed=True)


def messages(commands: np.ndarray) -> Iterator[dict[str, Any]]:
    """
    The EventMessages that ask for these records, as dictionaries ready for JSON, with prices in ticks.

    Extensions and bands become fields of the message of the command that they complete. Raises ValueError at a record
    that no message can ask for: a marker, a tick, a verdict.
    """
    extension: dict[str, int] | None = None
    bands: list[tuple[int, int]] = []
    for row, raw in zip(commands.tolist(), commands, strict=True):
        command = dict(zip(COMMAND.names or (), row, strict=True))
        kind = command["kind"]
        if kind == CommandKind.EXTENSION:
            extension = {
                name: int(value)
                for name, value in zip(EXTENSION.names or (), raw.view(EXTENSION).item(), strict=True)
            }
        elif kind == CommandKind.BANDS:
            bands += bands_of(raw.view(BANDS))
        elif command["verdict"] or kind not in MESSAGE_KINDS:
            raise ValueError(f"no message asks for this command: {command}")
        else:
            yield message_of(command, extension, bands)
            extension, bands = None, []


ACTIONS: Final = {
    CommandKind.NEW: "New", CommandKind.CANCEL: "Cancel", CommandKind.AMEND: "Amend", CommandKind.REDUCE: "Reduce",
    CommandKind.REPLACE: "Replace",
}  # fmt: skip
MESSAGE_KINDS: Final = {*ACTIONS, CommandKind.CREATE_EVENT, CommandKind.SETTLE, CommandKind.MASS_CANCEL}
SIDES: Final = {Side.BUY: "Buy", Side.SELL: "Sell"}
TYPES: Final = {kind: kind.name.title().replace("_", "") for kind in OrderType}
SELF_TRADES: Final = {mode: mode.name.title().replace("_", "") for mode in SelfTrade}
LEVELS: Final = {kind: kind.name.title().replace("_", "") for kind in LevelKind}
FLAG_NAMES: Final = {Flag.POST_ONLY: "PostOnly", Flag.HIDDEN: "Hidden", Flag.ALL_OR_NONE: "AllOrNone"}
EXTENSION_NAMES: Final = {
    "trigger": "TriggerTicks",
    "trail": "TrailTicks",
    "display": "Display",
    "group": "Group",
}
LIMIT_NAMES: Final = {"orders_max": "OrdersMax", "account_orders_max": "AccountOrdersMax"}


def message_of(
    command: dict[str, int], extension: dict[str, int] | None, bands: list[tuple[int, int]]
) -> dict[str, Any]:
    """The message that asks for a command with what completes it."""
    kind = command["kind"]
    if kind == CommandKind.CREATE_EVENT:
        return {"Task": "CreateEvent", "ID": command["event"], "Spec": spec_of(command, extension, bands)}
    if kind == CommandKind.SETTLE:
        return {"Task": "Settlement", "ID": command["event"]}
    if kind == CommandKind.MASS_CANCEL:
        message: dict[str, Any] = {
            "Task": "MassCancel",
            "Account": command["account"],
            "Group": command["order"],
        }
        if not command["flags"] & Flag.ALL_EVENTS:
            message["ID"] = command["event"]
        return message | ({} if command["side"] == BOTH_SIDES else {"Side": SIDES[Side(command["side"])]})
    return {"Task": "Order", "ID": command["event"], "Order": order_of(command, extension)}


def order_of(command: dict[str, int], extension: dict[str, int] | None) -> dict[str, Any]:
    """The `Order` of a message; a cancel says no more than whose order it means."""
    order: dict[str, Any] = {
        "OrderID": command["order"],
        "Account": command["account"],
        "Action": ACTIONS[CommandKind(command["kind"])],
    }
    if command["kind"] == CommandKind.CANCEL:
        return order
    order["Side"] = SIDES[Side(command["side"])]
    order["Quantity"] = command["quantity"]
    order["Type"] = TYPES[OrderType(command["order_type"])]
    order["TimeInForce"] = TimeInForce(command["time_in_force"]).name
    if not command["flags"] & Flag.NO_PRICE:
        order["PriceTicks"] = command["price"]
    if command["outcome"]:
        order["Outcome"] = Outcome(command["outcome"]).name
    if command["self_trade"]:
        order["SelfTrade"] = SELF_TRADES[SelfTrade(command["self_trade"])]
    if command["expires_ns"]:
        order["ExpiresNs"] = command["expires_ns"]
    order |= {name: True for flag, name in FLAG_NAMES.items() if command["flags"] & flag}
    if extension is not None:
        order |= {name: extension[field] for field, name in EXTENSION_NAMES.items()}
    return order


def spec_of(
    command: dict[str, int], extension: dict[str, int] | None = None, bands: Iterable[tuple[int, int]] = ()
) -> dict[str, Any]:
    """The `Spec` of a CreateEvent: tick, payout, range and bands as decimal strings, and its limits."""
    tick = Decimal(command["order"]).scaleb(-command["account"])
    ticks: Iterable[tuple[str, int]] = (
        ("Tick", 1),
        ("Payout", command["payout"]),
        ("Low", command["price"]),
        ("High", command["quantity"]),
    )
    spec: dict[str, Any] = {name: f"{count * tick:f}" for name, count in ticks}
    if rows := [{"Last": f"{last * tick:f}", "Tick": f"{step * tick:f}"} for last, step in bands]:
        spec["Bands"] = rows
    if command["order_type"]:
        spec["Levels"] = LEVELS[LevelKind(command["order_type"])]
    if command["expires_ns"]:
        spec["ClosesNs"] = command["expires_ns"]
    if extension is not None:
        spec |= {name: extension[field] for field, name in LIMIT_NAMES.items()}
    return spec
