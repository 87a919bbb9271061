"""
What a load generator sends: seeded orders of a mix, spread over events, cut into deliveries, each due at a time.

    orders_of(mix)  ──> Orders      COMMAND records; `before` (events, and what fills the books) goes out before the clock
    parts_of        ──> Part        for each router the orders of its events, as packed frames, MessagePack or JSON
    due_ns_of       ──> int64       when each delivery is due, ns after the beginning

    demo            the demonstration's: new, cancel, amend around a drifting mid of 1 to 99 ticks (shards/flow.py)
    referee         the field's referee, scenario normal: each order's life goes to one event (referee_flow.py)
    exchange-core   that project's single book, likewise, filled before the clock (exchange_flow.py)
    uniform         half new, a quarter cancel, a quarter amend; prices, lots and targets drawn evenly
    a file          EventMessages as lines of JSON, or packed bodies one behind the other

Events are chosen with weight 1 / rank**zipf; 0 chooses all alike. The same arguments give the same records. Two runs against
one exchange must not meet each other's ids, so `based` moves all ids behind a base, and nothing else.

Fast: a million orders in a second or two, packed; as JSON or MessagePack some 10 microseconds each, before the clock runs.
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from ringpit.engine.codes import CommandKind, LevelKind, OrderType, Side, TimeInForce
from ringpit.engine.limits import FRAME_COMMANDS_MAX
from ringpit.engine.records import COMMAND, LAYOUT_VERSION, RECORD_BYTES
from ringpit.perf.exchange_flow import exchange_flow
from ringpit.perf.referee import encode as encode_referee
from ringpit.perf.referee_flow import messages as referee_messages
from ringpit.shards import packed
from ringpit.shards.flow import aim, creations, flow, messages, positions_by_event
from ringpit.shards.messages import MalformedMessage, decode, to_commands
from ringpit.shards.prices import PriceSpec, spec_of_records
from ringpit.shards.routes import routers_of

MIXES: Final = ("demo", "referee", "exchange-core", "uniform")
ENCODINGS: Final = {
    "packed": packed.CONTENT_TYPE,
    "msgpack": "application/msgpack",
    "json": "application/json",
}
ACCOUNTS: Final = 100
LOW, HIGH = 1, 99  # ticks of an event of demo and uniform
QUANTITY_MAX: Final = 100
TARGET_AGE_MAX: Final = 1_000  # orders of the event
REFEREE_MESSAGES_PER_ORDER: Final = 1.9  # less than it makes
RESTING: Final = 1_000
NS_PER_SECOND: Final = 1_000_000_000
COMPLETING: Final = (CommandKind.EXTENSION, CommandKind.BANDS)  # stand before the command that they complete
UNTIMED: Final = (CommandKind.SETTLE, CommandKind.MASS_CANCEL)  # no single report answers them


class Orders(NamedTuple):
    """A flow."""

    before: np.ndarray  # COMMAND: what is sent before the clock
    records: np.ndarray  # COMMAND: what is timed
    starts: np.ndarray  # int64: where the records of each order begin, and behind them the number of records
    events: np.ndarray  # int64: ids of the events that `before` creates
    ids: int  # order ids are 1 to this, above the base


class Bodies(NamedTuple):
    """Orders as deliveries."""

    content_type: str
    bodies: list[bytes]
    first: np.ndarray  # int64: the first order of each, and behind them the number of orders


class Part(NamedTuple):
    """What goes to one router."""

    orders: np.ndarray  # int64: which orders, by number, rising
    bodies: Bodies  # the first of these orders in each, not by number


def orders_of(
    mix: str, count: int, *, seed: int, events: int, zipf: float, levels_max: int = 1 << 20
) -> Orders:
    """
    So many orders of a mix, or all of a file.

    Args:
        mix: One of MIXES, or the name of a file.
        count: Orders, cancels, amends and so on; of a file at most so many, 0: all.
        seed: 0 to 2**32 - 1.
        events: Events that they are spread over; a file has its own.
        zipf: Exponent of popularity.
        levels_max: Levels a shard's ladders have room for; wider books get skip lists.

    Raises ValueError with a sentence for a mix that is none, a file that cannot be read, or a number out of range.
    """
    if mix not in MIXES:
        return with_dense_ids(*of_file(Path(mix), count))
    if zipf < 0:
        raise ValueError(f"--zipf must be 0 or more, was {zipf}")
    chances = popularity(events, zipf)
    if mix == "demo":
        drawn = flow(
            count + 64 * events, seed=seed, events=events, accounts=ACCOUNTS, invalid_share=0, weights=chances
        )
        timed = drawn[events:]
        timed = timed[timed["order"] != 0]  # the first cancels of an event have no target
        return with_dense_ids(drawn[:events], timed[:count])
    if mix == "uniform":
        timed = uniform(count + 64 * events, seed, chances)
        return with_dense_ids(creations(events, low=LOW, high=HIGH), timed[:count])
    random = np.random.Generator(np.random.PCG64(seed))
    if mix == "referee":
        lives = max(int(count / REFEREE_MESSAGES_PER_ORDER) + 2, 2)
        drawn_messages = referee_messages("normal", seed=seed, orders=lives)
        timed, filling = encode_referee(drawn_messages)[:count], 0
    else:
        core = exchange_flow(seed=seed, commands=count, resting=RESTING)
        timed, filling = core.commands, core.before
    event_of = 1 + random.choice(events, int(timed["order"].max()) + 1, p=chances)
    timed["event"] = event_of[timed["order"]]
    timed["account"] = 1 + timed["order"] % ACCOUNTS
    made = books_of(timed, events, levels_max)
    return with_dense_ids(np.concatenate([made, timed[:filling]]), timed[filling:])


def popularity(events: int, zipf: float) -> np.ndarray:
    """Chance of each event, the most popular first."""
    weights = 1.0 / np.arange(1, events + 1) ** zipf
    return np.asarray(weights / weights.sum())


def uniform(count: int, seed: int, chances: np.ndarray) -> np.ndarray:
    """COMMAND array of new orders, cancels and amends; fewer than `count`, as those without a target are left out."""
    random = np.random.Generator(np.random.PCG64(seed))
    commands = np.zeros(count, COMMAND)
    kinds = np.array([CommandKind.NEW, CommandKind.NEW, CommandKind.CANCEL, CommandKind.AMEND])
    commands["kind"] = kinds[random.integers(0, len(kinds), count)]
    is_new = commands["kind"] == CommandKind.NEW
    commands["order_type"] = OrderType.LIMIT
    commands["time_in_force"] = TimeInForce.GTC
    commands["event"] = 1 + random.choice(len(chances), count, p=chances)
    commands["account"] = random.integers(1, ACCOUNTS + 1, count)
    commands["side"] = np.where(random.integers(0, 2, count) == 0, Side.BUY, Side.SELL)
    commands["price"] = random.integers(LOW, HIGH + 1, count)
    commands["quantity"] = random.integers(1, QUANTITY_MAX + 1, count)
    commands["order"] = np.where(is_new, np.cumsum(is_new), 0)
    ages = random.integers(0, TARGET_AGE_MAX, count)
    for positions in positions_by_event(commands["event"]):
        aim(commands, positions, ages)
    is_cancel = commands["kind"] == CommandKind.CANCEL
    for name in ("price", "quantity", "side"):
        commands[name][is_cancel] = 0
    return np.asarray(commands[commands["order"] != 0])


def books_of(timed: np.ndarray, events: int, levels_max: int) -> np.ndarray:
    """CREATE_EVENTs whose range holds all prices of a flow."""
    prices = timed["price"][timed["price"] > 0]
    low, high = int(prices.min()), int(prices.max())
    made = creations(events, low=low, high=high, payout=0)
    if 2 * events * (high - low + 1) > levels_max:
        made["order_type"] = LevelKind.SKIP_LIST
    return made


# A file ----------------------------------------------------------------------------------------------------


def of_file(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """What creates events in a file, and everything else; ValueError names the place that cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"--mix must be one of {', '.join(MIXES)}, or a file of orders: {path} cannot be read ({error.strerror})"
        ) from None
    records = of_packed(path, content) if content.startswith(packed.MAGIC) else of_lines(path, content)
    starts = starts_of(records)
    ends = np.append(starts[1:], len(records))[: len(starts)]
    kinds = records["kind"][ends - 1]
    creating = kinds == CommandKind.CREATE_EVENT
    timed = np.flatnonzero(~creating)[: count or None]
    if not len(timed):
        raise ValueError(f"{path} holds no order: it must have lines of EventMessages, or packed bodies")
    parts = [[records[starts[i] : ends[i]] for i in each] for each in (np.flatnonzero(creating), timed)]
    return tuple(np.concatenate(part) if part else records[:0] for part in parts)  # type: ignore[return-value]  # two


def of_lines(path: Path, content: bytes) -> np.ndarray:
    """COMMAND records of lines of JSON."""
    specs: dict[int, PriceSpec] = {}
    parts = [np.zeros(0, COMMAND)]
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            commands = to_commands(decode(None, line), specs.get)
        except MalformedMessage as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if commands["verdict"].any():
            raise ValueError(
                f"{path}, line {number}: an exchange refuses this at its edge; leave it out: a generator sends what can trade"
            )
        for at in np.flatnonzero(commands["kind"] == CommandKind.CREATE_EVENT).tolist():
            specs.setdefault(int(commands[at]["event"]), spec_of_records(commands, at))
        parts.append(commands)
    return np.concatenate(parts)


def of_packed(path: Path, content: bytes) -> np.ndarray:
    """COMMAND records of packed bodies that lie one behind the other."""
    parts, at = [np.zeros(0, COMMAND)], 0
    while at < len(content):
        count = int.from_bytes(content[at + 8 : at + 12], "little")
        end = at + packed.HEADER_BYTES + count * RECORD_BYTES
        try:
            commands = packed.view(content[at:end])
            packed.encode(commands)  # refuses what may not be sent
        except (MalformedMessage, ValueError) as error:
            raise ValueError(f"{path}, byte {at}: {error}") from None
        parts.append(commands)
        at = end
    return np.concatenate(parts)


def starts_of(records: np.ndarray) -> np.ndarray:
    """Where orders begin: not behind a record that completes the next one."""
    completes = np.isin(records["kind"], COMPLETING)
    return np.flatnonzero(~np.append(False, completes[:-1])) if len(records) else np.zeros(0, np.int64)


def starts_to_commands(records: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Where the command itself of each order lies: its last record."""
    return np.asarray(np.append(starts[1:], len(records))[: len(starts)] - 1)


# Ids -------------------------------------------------------------------------------------------------------


def with_dense_ids(before: np.ndarray, records: np.ndarray) -> Orders:
    """A flow whose order ids are 1, 2, ... over all its events: (event, order) becomes a number."""
    everything = np.concatenate([before, records])
    named = np.flatnonzero(np.isin(everything["kind"], _NAMING))
    pairs = np.stack([everything["event"][named], everything["order"][named]], axis=1)
    _, numbers = np.unique(pairs, axis=0, return_inverse=True)
    everything["order"][named] = 1 + numbers.reshape(-1)
    before, records = everything[: len(before)], everything[len(before) :]
    starts = starts_of(records)
    created = before["event"][before["kind"] == CommandKind.CREATE_EVENT]
    return Orders(
        before, records, np.append(starts, len(records)), np.unique(created), int(numbers.max(initial=-1)) + 1
    )


_NAMING: Final = (
    CommandKind.NEW,
    CommandKind.CANCEL,
    CommandKind.AMEND,
    CommandKind.REDUCE,
    CommandKind.REPLACE,
)


def based(orders: Orders, base: int) -> Orders:
    """The same with order ids above `base`, and likewise the ids of events that it creates itself."""
    moved = []
    for records in (orders.before, orders.records):
        copy = records.copy()
        named = np.isin(copy["kind"], _NAMING)
        copy["order"][named] += base
        own = np.isin(copy["event"], orders.events)
        copy["event"][own] = base + 1 + np.searchsorted(orders.events, copy["event"][own])
        moved.append(copy)
    return orders._replace(
        before=moved[0], records=moved[1], events=base + 1 + np.arange(len(orders.events), dtype=np.int64)
    )


def slots_of(orders: Orders, base: int) -> np.ndarray:
    """For each order the number of its id, from 0; -1 where no single report answers it."""
    commands = orders.records[starts_to_commands(orders.records, orders.starts[:-1])]
    return np.where(np.isin(commands["kind"], UNTIMED), -1, commands["order"] - base - 1)


# Deliveries ------------------------------------------------------------------------------------------------


def packed_bodies(commands: np.ndarray, starts: np.ndarray, size: int) -> list[bytes]:
    """Packed deliveries of `size` orders each. ValueError for what may not be sent."""
    if found := packed.first_complaint(commands):
        raise ValueError(found[0])
    cuts = starts[np.append(np.arange(0, len(starts) - 1, size), len(starts) - 1)]
    headers = np.zeros(len(cuts) - 1, packed.HEADER)
    headers["magic"], headers["layout_version"], headers["count"] = packed.MAGIC, LAYOUT_VERSION, np.diff(cuts)
    heads, records = headers.tobytes(), commands.tobytes()
    return [
        heads[i * packed.HEADER_BYTES : (i + 1) * packed.HEADER_BYTES]
        + records[a * RECORD_BYTES : b * RECORD_BYTES]
        for i, (a, b) in enumerate(pairwise(cuts.tolist()))
    ]


def before_parts(orders: Orders, routers: int) -> list[Part]:
    """What goes out before the clock, packed whatever the encoding."""
    return cut(orders.before, np.append(starts_of(orders.before), len(orders.before)), "packed", 100, routers)


def settling_parts(orders: Orders, routers: int) -> list[Part]:
    """What empties the books afterwards."""
    commands = np.zeros(len(orders.events), COMMAND)
    commands["kind"] = CommandKind.SETTLE
    commands["event"] = orders.events
    return cut(commands, np.arange(len(commands) + 1), "packed", 100, routers)


def parts_of(orders: Orders, encoding: str, size: int, routers: int) -> list[Part]:
    """
    The timed orders as deliveries of `size` orders, the last of each router perhaps shorter.

    Raises ValueError for a size out of range.
    """
    if not 1 <= size <= FRAME_COMMANDS_MAX:
        raise ValueError(f"--frame must be from 1 to {FRAME_COMMANDS_MAX} orders, was {size}")
    return cut(orders.records, orders.starts, encoding, size, routers)


def cut(records: np.ndarray, starts: np.ndarray, encoding: str, size: int, routers: int) -> list[Part]:
    """
    A part for each router: all messages of an event go through one, or their order is lost (routes.py).

    What names no event goes through whichever its event 0 would.
    """
    counts = np.diff(starts)
    router_of = routers_of(records["event"][starts_to_commands(records, starts[:-1])], routers)
    parts = []
    for router in range(routers):
        chosen = np.flatnonzero(router_of == router)
        own = records[np.repeat(router_of == router, counts)]
        parts.append(Part(chosen, bodies_of(own, np.append(0, np.cumsum(counts[chosen])), encoding, size)))
    return parts


def bodies_of(records: np.ndarray, starts: np.ndarray, encoding: str, size: int) -> Bodies:
    """Orders as deliveries of `size` orders, the last perhaps shorter."""
    count = len(starts) - 1
    first = np.append(np.arange(0, count, size), count)
    if encoding == "packed":
        return Bodies(ENCODINGS[encoding], packed_bodies(records, starts, size), first)
    encode = msgspec.json.encode if encoding == "json" else msgspec.msgpack.encode
    asked = list(messages(records))
    if size == 1:
        return Bodies(ENCODINGS[encoding], [encode(each) for each in asked], first)
    bodies = [encode(asked[a:b]) for a, b in pairwise(first.tolist())]
    return Bodies(ENCODINGS[encoding], bodies, first)


def due_of_parts(parts: list[Part], **how: Any) -> list[np.ndarray]:
    """When each delivery of each part is due: in the order of their first orders, as `due_ns_of` says."""
    begins = np.concatenate([part.orders[part.bodies.first[:-1]] for part in parts])
    turns = np.argsort(begins)
    sizes = np.concatenate([np.diff(part.bodies.first) for part in parts])
    due_ns = np.zeros(len(turns), np.int64)
    due_ns[turns] = due_ns_of(np.append(0, np.cumsum(sizes[turns])), **how)
    return np.split(due_ns, np.cumsum([len(part.bodies.bodies) for part in parts])[:-1])


def due_ns_of(first: np.ndarray, *, rate: float, arrivals: str, burst: int, seed: int) -> np.ndarray:
    """
    When each delivery is due, ns after the beginning, never falling.

    Args:
        first: As in Bodies.
        rate: Orders a second on average.
        arrivals: even: every 1 / rate; poisson: at random, independent of each other; burst: `burst` orders at once.
    """
    orders = first[:-1]
    if arrivals == "poisson":
        random = np.random.Generator(np.random.PCG64(seed))
        gaps = random.exponential(NS_PER_SECOND / rate, len(orders)) * np.diff(first)
        return np.cumsum(gaps).astype(np.int64)
    if arrivals == "burst":
        orders = orders // burst * burst
    return (orders * (NS_PER_SECOND / rate)).astype(np.int64)


def orders_in(seconds: float, rate: float) -> int:
    """Orders of a run; at least one."""
    return max(1, math.floor(seconds * rate))
