"""
State: everything that a shard's future depends on, as tables that know neither slots of memory nor other shards.

    export(tables) ──> State ──> restore(state, limits) ──> tables that answer every later command alike
                         └─────> split([state, ...], shard_of, shards) ──> a State for each new shard

Orders lie event by event in the order of creation, list by list, in priority order; what only icebergs, stops, groups
and expiring orders have lies in `details`, in the same order. What follows from these is not kept: indexes, levels and
their totals, best prices, counters, timers, trails, the heights of skip lists' nodes. Two things look like memory and are
kept, because reports tell of them: where an event's ladder lies and which runs of levels are free (BOOK_RESET says where
a ladder lies, and a full shard refuses events). Which skip lists an event has begun is kept too: each holds a node.

It is taken between two frames. What only completes a record (EXTENSION, BANDS) never outlives its frame, so it is not kept.

Fast because the queues of many levels are followed at a time, so that their cache misses overlap, and because orders are restored
in the order in which they will be read: a restored shard is better packed than the one it comes from. Slow where one level holds
most orders and they lie far apart in memory: each is found by the one before it, about 0.2 us each.

Invariants, which tests check:

    E1  export(restore(state, limits)) is state, if its keys fit the window
    E2  a restored shard makes the same reports, byte for byte, of every later command, if the limits are the same
    E3  the orders of `details` are those whose traits say so; trailing stops of a side are in the order of their stamps
    E4  split changes no event's orders, and keeps the order in which events of one old shard were created
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Self

import numpy as np

from ringpit.engine import index, skiplist, trails
from ringpit.engine.book import (
    DETAILED,
    SPECIAL,
    WAITS_ASIDE,
    append,
    level_for,
    new_order,
    queue_of,
)
from ringpit.engine.codes import EventState, LevelKind, Queue, Trait
from ringpit.engine.kernels import kernel, leaf
from ringpit.engine.ladder import NIL
from ringpit.engine.levels import first_level, next_level
from ringpit.engine.limits import BANDS_MAX, INT64_MAX, QUANTITY_MAX, Limits
from ringpit.engine.pool import give_run, run_bits
from ringpit.engine.prefetch import prefetch
from ringpit.engine.records import dtype_of
from ringpit.engine.tables import KEY, RUN_BITS_MAX, RUN_BITS_MIN, START, Cell, Check, Tables, allocate

SHARD_FIELDS: Final = (
    ("engine_ns", "<i8", "engine time"),
    ("stamp", "<i8", "orders that ever got details"),
    ("keys_seen", "<i8", "keys ever taken into the window"),
    ("levels_used", "<i8", "levels ever handed out to ladders"),
)
EVENT_FIELDS: Final = (
    ("event", "<i8", "the event's id"),
    ("low", "<i8", "lowest price, ticks"),
    ("high", "<i8", "highest price, ticks"),
    ("payout", "<i8", "payout of one lot, ticks; 0: there is no NO"),
    ("last", "<i8", "price of the last trade, ticks; -1: none yet"),
    ("closes_ns", "<i8", "closing time, or 0"),
    ("tick_units", "<i8", "one tick in units of 10**-decimals"),
    ("orders_max", "<i8", "most open orders, 0: no limit"),
    ("account_orders_max", "<i8", "most open orders of one account, 0: no limit"),
    ("orders", "<i8", "open orders: so many rows of `orders` are this event's"),
    ("base", "<i4", "first level of the ladder, as BOOK_RESET tells it; -1: a skip list, or settled"),
    ("state", "<i4", "EventState"),
    ("kind", "<i4", "LevelKind"),
    ("decimals", "<i4", "decimals of a unit"),
    ("bands", "<i4", "fingerprint of the price bands, 0 without"),
    ("grid", "<i4", "row of `grids`; -1: no bands, or settled"),
)
GRID_FIELDS: Final = (
    ("count", "<i8", "bands"),
    *(
        row
        for number in range(1, BANDS_MAX + 1)
        for row in (
            (f"last_{number}", "<i8", "highest price of the band, ticks; 0 behind the last band"),
            (f"step_{number}", "<i8", "distance of two prices in the band, ticks; 0 behind the last band"),
        )
    ),
)
LIST_FIELDS: Final = (
    ("event", "<i4", "row of `events`"),
    ("queue", "<i4", "Queue: a skip list that was begun"),
    ("generator", "<i8", "state of the generator of heights"),
)
RUN_FIELDS: Final = (
    ("bits", "<i4", "size class of a free run of levels: its length is 1 << bits"),
    ("first", "<i4", "its first level; runs of a size are in the order in which they will be taken"),
)
OPEN_ORDER_FIELDS: Final = (
    ("id", "<i8", "the order's id"),
    ("account", "<i8", "owner"),
    ("open", "<i8", "lots that can still trade"),
    ("filled", "<i8", "lots traded so far"),
    ("shown", "<i8", "lots that everybody sees"),
    ("price", "<i8", "limit in ticks of YES; 0 with the trait NO_PRICE"),
    ("traits", "<i4", "bits of Trait"),
    ("queue", "<i4", "Queue: the list in which the order waits"),
)
OPEN_DETAIL_FIELDS: Final = (
    ("row", "<i8", "row of `orders`"),
    ("trigger", "<i8", "of a stop, ticks of YES; else 0"),
    ("trail", "<i8", "of a trailing stop, ticks; else 0"),
    ("display", "<i8", "lots an iceberg shows at a time; else 0"),
    ("group", "<i8", "group, or 0"),
    ("expires_ns", "<i8", "when it expires, or 0"),
    ("stamp", "<i8", "age among the orders with details"),
)
TABLES_OF_STATE: Final = {
    "shard": dtype_of(SHARD_FIELDS),
    "events": dtype_of(EVENT_FIELDS),
    "grids": dtype_of(GRID_FIELDS),
    "lists": dtype_of(LIST_FIELDS),
    "runs": dtype_of(RUN_FIELDS),
    "orders": dtype_of(OPEN_ORDER_FIELDS),
    "details": dtype_of(OPEN_DETAIL_FIELDS),
    "keys": KEY,
}

QUEUES: Final = len(Queue)
LANES: Final = 16  # levels that are followed at a time: about as many cache misses as a core has in hand
SLOT, AT = range(2)  # rows of `lanes`: the order slot to visit next, and which level it is of

# Fields of an event that a book has under the same name, and its row takes over as they are.
SAME_IN_BOOK: Final = tuple(name for name, _, _ in EVENT_FIELDS if name not in ("orders", "grid"))


class State(NamedTuple):
    """A shard's state, one array of records a table; TABLES_OF_STATE has their dtypes."""

    shard: np.ndarray  # one row
    events: np.ndarray  # in the order of creation, settled ones too
    grids: np.ndarray  # different tables of price bands of open events, in the order of their first use
    lists: np.ndarray  # skip lists, by event and queue
    runs: np.ndarray  # free runs of levels, by size
    orders: np.ndarray  # open orders, event by event, list by list, in priority order
    details: np.ndarray  # what some of them have besides, in the same order
    keys: np.ndarray  # window of frame keys, oldest first

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The state among arrays by name. Raises ValueError naming a table that is missing or has other fields."""
        for name, dtype in TABLES_OF_STATE.items():
            found = arrays[name].dtype if name in arrays else "nothing"
            if found != dtype:
                raise ValueError(
                    f"table {name} of a state must have the fields of engine/state.py, has {found}: it was written by "
                    f"another version; use the ringpit that wrote it"
                )
        return cls(**{name: arrays[name] for name in TABLES_OF_STATE})


class StateUnfinished(RuntimeError):
    """The engine is in the middle of a frame: its state can only be taken between two."""


class StateTooLarge(ValueError):
    """
    A state does not fit the limits it shall be restored into.

    Attributes: `pool`, the limit's name; `need` and `limit`, what the state needs and what there is.
    """

    def __init__(self, pool: str, need: int, limit: int) -> None:
        """Say it as a sentence."""
        self.pool, self.need, self.limit = pool, need, limit
        enough = need if pool in ("events", "grids") else 1 << (need - 1).bit_length()
        super().__init__(
            f"limits.{pool} must be at least {need} to hold this state, was {limit}: set limits.{pool} to {enough} or more"
        )


# -- taking a state


@kernel
def _list_levels(t, levels):
    """Fill `levels` with the occupied levels of all books, book by book, list by list, best first; how many there are."""
    count = 0
    for book in range(t.cells[Cell.BOOKS_USED]):
        if t.books[book]["orders"] == 0:
            continue
        for queue in range(QUEUES):
            level = np.int64(first_level(t, book, queue))
            while level != NIL:
                levels[count] = level
                count += 1
                level = np.int64(next_level(t, book, queue, level))
    return count


@leaf
def _follow_level(t, levels, begun, lanes, lane):
    """Let a lane follow the next level, if there is one; how many are begun then."""
    if begun == levels.shape[0]:
        lanes[SLOT, lane] = NIL
        return begun
    prefetch(t.levels, levels[min(begun + LANES, levels.shape[0] - 1)])
    slot = np.int64(t.levels[levels[begun]]["head"])
    prefetch(t.orders, slot)
    lanes[SLOT, lane] = slot
    lanes[AT, lane] = begun
    return begun + 1


@kernel
def _follow_levels(t, levels, counts, visited, places, lanes):
    """
    Visit all orders of `levels`, each level's from its head on: the slots `visited`, for each the place of its level, and counts[place].

    LANES levels are followed by turns: while one waits for its next order to come from memory, the others go on.
    """
    begun = 0
    ended = 0
    count = 0
    for lane in range(LANES):
        begun = _follow_level(t, levels, begun, lanes, lane)
    while ended < levels.shape[0]:
        for lane in range(LANES):
            slot = lanes[SLOT, lane]
            if slot == NIL:
                continue
            visited[count] = slot
            places[count] = lanes[AT, lane]
            counts[lanes[AT, lane]] += 1
            count += 1
            behind = np.int64(t.orders[slot]["next"])
            if behind != NIL:
                prefetch(t.orders, behind)
                lanes[SLOT, lane] = behind
            else:
                ended += 1
                begun = _follow_level(t, levels, begun, lanes, lane)


@kernel
def _sort_slots(visited, places, rows, slots):
    """Put the visited slots in order: those of the level at a place into rows from rows[place] on."""
    for at in range(visited.shape[0]):
        place = places[at]
        slots[rows[place]] = visited[at]
        rows[place] += 1


@kernel
def _write_orders(t, slots, orders):
    """Fill `orders`, without what lies in their details."""
    last = slots.shape[0] - 1
    for row in range(slots.shape[0]):
        prefetch(t.orders, slots[min(row + LANES, last)])
        slot = np.int64(slots[row])
        orders[row]["id"] = t.orders[slot]["id"]
        orders[row]["account"] = t.orders[slot]["account"]
        orders[row]["open"] = t.orders[slot]["open"]
        orders[row]["filled"] = t.orders[slot]["filled"]
        orders[row]["shown"] = t.orders[slot]["shown"]
        orders[row]["price"] = t.levels[t.orders[slot]["level"]]["price"]
        orders[row]["traits"] = t.orders[slot]["traits"]
        orders[row]["queue"] = queue_of(t, slot)


@kernel
def _write_details(t, slots, orders, details):
    """Fill `details`, and the prices of orders that wait aside; return how many orders have details."""
    count = 0
    for row in range(slots.shape[0]):
        ahead = min(row + LANES, slots.shape[0] - 1)
        if orders[ahead]["traits"] & DETAILED:
            prefetch(t.details, slots[ahead])
        traits = orders[row]["traits"]
        if traits & DETAILED == 0:
            continue
        slot = slots[row]
        if traits & WAITS_ASIDE:
            orders[row]["price"] = t.details[slot]["price"]
        details[count]["row"] = row
        details[count]["trigger"] = t.details[slot]["trigger"]
        details[count]["trail"] = t.details[slot]["trail"]
        details[count]["display"] = t.details[slot]["display"]
        details[count]["group"] = t.details[slot]["group"]
        details[count]["expires_ns"] = t.details[slot]["expires_ns"]
        details[count]["stamp"] = t.details[slot]["stamp"]
        count += 1
    return count


def _orders_of(t: Tables) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `orders` and `details`. What is not filled of an array is never touched, and so takes no memory."""
    count = int(t.cells[Cell.ORDERS_USED])
    levels, visited, places, slots = (np.empty(count, np.int32) for _ in range(4))
    levels = levels[: _list_levels(t, levels)]
    counts = np.zeros(len(levels), np.int64)
    _follow_levels(t, levels, counts, visited, places, np.zeros((2, LANES), np.int64))
    _sort_slots(visited, places, np.cumsum(counts) - counts, slots)
    orders = np.empty(count, TABLES_OF_STATE["orders"])
    _write_orders(t, slots, orders)
    details = np.empty(count, TABLES_OF_STATE["details"])
    return orders, details[: _write_details(t, slots, orders, details)]


def _require_between_frames(t: Tables) -> None:
    """Raise StateUnfinished in the middle of a frame, as far as the engine can tell."""
    if t.cells[Cell.STAGE] != START:
        raise StateUnfinished(
            f"a state is taken between frames: the command at seq {t.cells[Cell.SEQ]} is half done (stage "
            f"{t.cells[Cell.STAGE]}); apply the rest of its frame first"
        )
    if t.cells[Cell.SKIP_LEFT] > 0:
        raise StateUnfinished(
            f"a state is taken between frames: {t.cells[Cell.SKIP_LEFT]} records of a duplicate frame are still to "
            f"come; apply the rest of the frame first"
        )


def _events_of(t: Tables) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `events`, and those of `grids` that they name."""
    books = t.books[: t.cells[Cell.BOOKS_USED]]
    events = np.zeros(len(books), TABLES_OF_STATE["events"])
    for name in SAME_IN_BOOK:
        events[name] = books[name]
    events["orders"] = books["orders"]
    used = np.where(books["state"] == EventState.OPEN, books["grid"], NIL)
    events["grid"], kept = _by_first_use(used)
    grids = np.zeros(len(kept), TABLES_OF_STATE["grids"])
    words = grids.view(np.int64).reshape(len(kept), 1 + 2 * BANDS_MAX)
    words[:] = t.grids[kept, 1:]
    for row in words:
        row[1 + 2 * row[0] :] = 0  # what bands of an earlier grid left behind
    return events, grids


def _by_first_use(used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers that are not NIL counted anew from 0 in the order in which they come first; and the old numbers in that order."""
    _, firsts = np.unique(used, return_index=True)
    kept = used[np.sort(firsts)]
    kept = kept[kept != NIL]
    renumbered = np.full(max(used.max(initial=0) + 1, 1), NIL, used.dtype)
    renumbered[kept] = np.arange(len(kept))
    return np.where(used == NIL, NIL, renumbered[used]), kept


def _lists_of(t: Tables) -> np.ndarray:
    """Rows of `lists`."""
    heads = t.lists[: t.cells[Cell.BOOKS_USED], :QUEUES]
    begun = np.argwhere(heads != NIL)
    lists = np.zeros(len(begun), TABLES_OF_STATE["lists"])
    lists["event"], lists["queue"] = begun.T
    lists["generator"] = t.links[heads[begun[:, 0], begun[:, 1]], skiplist.STATE]
    return lists


def _runs_of(t: Tables) -> np.ndarray:
    """Rows of `runs`."""
    runs = []
    for bits in range(RUN_BITS_MIN, RUN_BITS_MAX + 1):
        first = int(t.cells[Cell.RUNS_FREE + bits])
        while first != NIL:
            runs.append((bits, first))
            first = int(t.levels[first]["head"])
    return np.array(runs, TABLES_OF_STATE["runs"])


def _keys_of(t: Tables) -> np.ndarray:
    """The window, oldest first."""
    seen, length = int(t.cells[Cell.KEYS_SEEN]), len(t.keys)
    oldest = seen % length if seen > length else 0
    return np.concatenate([t.keys[oldest : min(seen, length)], t.keys[:oldest]])


def export(t: Tables) -> State:
    """
    Take a shard's state. The tables stay as they are, and share no memory with it.

    Raises StateUnfinished if the frame in hand is not applied whole. That all records of a frame were given to the engine is
    for the caller to see to. Cost: one visit an open order, a copy of the window, some microseconds beside.
    """
    _require_between_frames(t)
    cells = t.cells
    numbers = (cells[Cell.ENGINE_NS], cells[Cell.STAMP], cells[Cell.KEYS_SEEN], cells[Cell.LEVELS_USED])
    events, grids = _events_of(t)
    orders, details = _orders_of(t)
    return State(
        shard=np.array([numbers], TABLES_OF_STATE["shard"]),
        events=events,
        grids=grids,
        lists=_lists_of(t),
        runs=_runs_of(t),
        orders=orders,
        details=details,
        keys=_keys_of(t),
    )


# -- restoring one


@leaf
def _place_of(orders, details, row, at):
    """Price or, of a stop, trigger: what the order's list is sorted by. `at` is its row of `details`, if it has one."""
    if orders[row]["traits"] & Trait.STOP.value:
        return details[at]["trigger"]
    return orders[row]["price"]


@kernel
def _nodes_needed(events, lists, orders, details):
    """Nodes that the skip lists need: a head each, and one a level."""
    nodes = lists.shape[0]
    row = 0
    at = 0
    for book in range(events.shape[0]):
        queue = np.int64(NIL)
        place = np.int64(0)
        for _ in range(events[book]["orders"]):
            here = np.int64(orders[row]["queue"])
            there = _place_of(orders, details, row, at)
            aside = here > Queue.ASKS.value or events[book]["kind"] == LevelKind.SKIP_LIST.value
            if aside and (here != queue or there != place):
                nodes += 1
            queue = here
            place = there
            if orders[row]["traits"] & DETAILED:
                at += 1
            row += 1
    return nodes


@kernel
def _begin_events(t, lists):
    """Index the events, and begin their skip lists."""
    for book in range(t.cells[Cell.BOOKS_USED]):
        index.insert(t.event_index, index.fingerprint_of(0, t.books[book]["event"]), book)
    for row in range(lists.shape[0]):
        t.lists[lists[row]["event"], lists[row]["queue"]] = skiplist.begin_list(t)


@leaf
def _restore_detail(t, slot, price, details, at):
    """Give an order what it has besides."""
    t.details[slot]["price"] = price
    t.details[slot]["trigger"] = details[at]["trigger"]
    t.details[slot]["trail"] = details[at]["trail"]
    t.details[slot]["display"] = details[at]["display"]
    t.details[slot]["group"] = details[at]["group"]
    t.details[slot]["expires_ns"] = details[at]["expires_ns"]
    t.details[slot]["stamp"] = details[at]["stamp"]


@kernel
def _open_orders(t, events, orders, details):
    """Open all orders, each at the end of its level: order slots of fresh tables are taken in order, so row r gets slot r."""
    row = 0
    at = 0
    for book in range(events.shape[0]):
        queue = np.int64(NIL)
        place = np.int64(0)
        level = np.int64(NIL)
        for _ in range(events[book]["orders"]):
            here = np.int64(orders[row]["queue"])
            there = _place_of(orders, details, row, at)
            if here != queue or there != place:
                queue = here
                place = there
                level = np.int64(level_for(t, book, queue, place))
            order = orders[row]["id"]
            traits = orders[row]["traits"]
            shown = orders[row]["shown"]
            slot = new_order(
                t,
                book,
                order,
                orders[row]["account"],
                orders[row]["open"],
                orders[row]["filled"],
                traits,
                index.fingerprint_of(book, order),
            )
            append(t, level, slot)
            t.orders[slot]["shown"] = shown
            t.levels[level]["quantity"] += shown
            if traits & Trait.HIDDEN.value and t.levels[level]["hidden"] == NIL:
                t.levels[level]["hidden"] = slot
            if traits & SPECIAL:
                t.books[book]["special"] += 1
            if traits & DETAILED:
                _restore_detail(t, slot, orders[row]["price"], details, at)
                at += 1
            row += 1


@kernel
def _join_trails(t, slots):
    """Trailing stops join the trails of their books, oldest first."""
    for at in range(slots.shape[0]):
        slot = slots[at]
        side = np.int64(t.levels[t.orders[slot]["level"]]["side"])
        trails.add(t, np.int64(t.orders[slot]["book"]), side, slot)


@kernel
def _give_runs(t, runs):
    """Free runs of levels go to their lists, the first one last."""
    for row in range(runs.shape[0] - 1, -1, -1):
        give_run(t, np.int64(runs[row]["first"]), runs[row]["bits"])


@kernel
def _index_keys(t, count):
    """Index the first `count` slots of the window."""
    for slot in range(count):
        index.insert(t.key_index, index.fingerprint_of(t.keys[slot]["high"], t.keys[slot]["low"]), slot)


def require_room(state: State, limits: Limits) -> None:
    """Raise StateTooLarge unless every pool is large enough; the window of keys always is."""
    for pool, need in (
        ("events", len(state.events)),
        ("orders", len(state.orders)),
        ("levels", int(state.shard["levels_used"][0])),
        ("nodes", int(_nodes_needed(state.events, state.lists, state.orders, state.details))),
        ("grids", len(state.grids)),
    ):
        limit = getattr(limits, pool)
        if need > limit:
            raise StateTooLarge(pool, need, limit)


def _restore_events(t: Tables, state: State) -> None:
    """Fill in books and grids."""
    events, books = state.events, t.books[: len(state.events)]
    for name in SAME_IN_BOOK:
        books[name] = events[name]
    worth = np.maximum(events["high"], 1) * np.maximum(events["payout"], 1)
    books["quantity_max"] = np.minimum(QUANTITY_MAX, INT64_MAX // worth)  # quantity_max_of
    books["grid"] = events["grid"]
    books["best_bid"] = books["best_ask"] = NIL
    books["checks"] = (
        np.where(events["grid"] != NIL, Check.GRID, 0)
        | np.where(events["orders_max"] > 0, Check.ORDERS, 0)
        | np.where(events["account_orders_max"] > 0, Check.ACCOUNTS, 0)
    )
    count = len(state.grids)
    t.grids[:count, 0] = np.bincount(events["grid"][events["grid"] != NIL], minlength=count)
    t.grids[:count, 1:] = np.ascontiguousarray(state.grids).view(np.int64).reshape(count, 1 + 2 * BANDS_MAX)
    t.cells[Cell.BOOKS_USED] = len(events)


def _restore_details(t: Tables, state: State) -> None:
    """Timers and trails, which follow from the details."""
    details = state.details
    traits = state.orders["traits"][details["row"]]
    timed = details[traits & Trait.TIMED != 0]
    timed = timed[np.lexsort((timed["stamp"], timed["expires_ns"]))]  # what is sorted is a heap
    t.timers[: len(timed)] = timed["row"]
    t.orders["timer"][timed["row"]] = np.arange(len(timed))
    t.cells[Cell.TIMERS] = len(timed)
    t.cells[Cell.NEXT_EXPIRY] = timed["expires_ns"][0] if len(timed) else INT64_MAX
    trailing = details[traits & Trait.TRAILING != 0]
    _join_trails(t, trailing["row"][np.argsort(trailing["stamp"], kind="stable")])


def _restore_keys(t: Tables, state: State) -> None:
    """Put the newest keys that fit into the window, each where it lay if the window has its old length."""
    length = len(t.keys)
    kept = state.keys[max(len(state.keys) - length, 0) :]
    seen = int(state.shard["keys_seen"][0])
    if min(seen, length) != len(kept):
        seen = len(kept)  # the window is longer now, and has room
    t.keys[: len(kept)] = np.roll(kept, seen % length) if len(kept) == length else kept
    t.cells[Cell.KEYS_SEEN] = seen
    _index_keys(t, len(kept))


def restore(state: State, limits: Limits, *, market_data: bool) -> Tables:
    """
    Tables of a shard in this state, in pools of any size that is large enough.

    A smaller window keeps the newest keys. Raises StateTooLarge. Cost: allocating the tables, and a visit of the index an order.
    """
    require_room(state, limits)
    t = allocate(limits, market_data=market_data)
    for cell, name in ((Cell.ENGINE_NS, "engine_ns"), (Cell.STAMP, "stamp"), (Cell.LEVELS_USED, "levels_used")):
        t.cells[cell] = state.shard[name][0]
    _restore_events(t, state)
    _begin_events(t, state.lists)
    _open_orders(t, state.events, state.orders, state.details)
    heads = t.lists[state.lists["event"], state.lists["queue"]]
    t.links[heads, skiplist.STATE] = state.lists["generator"]
    _restore_details(t, state)
    _give_runs(t, state.runs)
    _restore_keys(t, state)
    return t


# -- cutting states anew


def _dense(stamps: np.ndarray, *before: np.ndarray) -> np.ndarray:
    """Ranks from 1 of stamps; among equal ones by `before`."""
    ranks = np.empty(len(stamps), np.int64)
    ranks[np.lexsort((*before, stamps))] = np.arange(1, len(stamps) + 1)
    return ranks


def _shifted(states: list[State], table: str, fields: tuple[str, ...], counted: str) -> np.ndarray:
    """A table of all states, one behind the other; `fields` name rows of the table `counted`, and still do."""
    parts, begin = [], 0
    for state in states:
        part = getattr(state, table).copy()
        for name in fields:
            part[name] += np.where(part[name] == NIL, 0, begin).astype(part[name].dtype)
        parts.append(part)
        begin += len(getattr(state, counted))
    return np.concatenate(parts)


def _windows_joined(states: list[State]) -> np.ndarray:
    """
    The keys of all windows, oldest first, each once.

    There is no clock that all shards share, so age is counted from the newest key of each window back: the newest
    of every shard are newer than the second newest of any, and those of one age come by shard.
    """
    keys = np.concatenate([state.keys for state in states])
    ages = np.concatenate([np.arange(len(state.keys))[::-1] for state in states])
    shards = np.repeat(np.arange(len(states)), [len(state.keys) for state in states])
    newest_first = keys[np.lexsort((shards, ages))]
    _, firsts = np.unique(newest_first[["low", "high"]], return_index=True)
    return newest_first[np.sort(firsts)][::-1].copy()


def _joined(states: list[State]) -> State:
    """One state of all, the events of one old shard behind those of another; ladders and free runs lie nowhere yet."""
    details = _shifted(states, "details", ("row",), "orders")
    shards = np.repeat(np.arange(len(states)), [len(state.details) for state in states])
    details["stamp"] = _dense(details["stamp"], shards)
    keys = _windows_joined(states)
    engine_ns = max(int(state.shard["engine_ns"][0]) for state in states)
    return State(
        shard=np.array([(engine_ns, len(details), len(keys), 0)], TABLES_OF_STATE["shard"]),
        events=_shifted(states, "events", ("grid",), "grids"),
        grids=np.concatenate([state.grids for state in states]),
        lists=_shifted(states, "lists", ("event",), "events"),
        runs=np.zeros(0, TABLES_OF_STATE["runs"]),
        orders=np.concatenate([state.orders for state in states]),
        details=details,
        keys=keys,
    )


def _rows_of(counts: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Rows of the orders of chosen events, event by event, where all events have `counts` rows in a row."""
    begins = np.cumsum(counts) - counts
    lengths = counts[chosen]
    ends = np.cumsum(lengths)
    rows: np.ndarray = np.arange(lengths.sum()) + np.repeat(begins[chosen] - (ends - lengths), lengths)
    return rows


def _lay_ladders(events: np.ndarray) -> int:
    """Give open ladders runs of levels, one behind the other; how many levels they take."""
    has_ladder = (events["state"] == EventState.OPEN) & (events["kind"] == LevelKind.LADDER)
    widths = np.where(has_ladder, events["high"] - events["low"] + 1, 0)
    lengths = np.array([1 << run_bits(int(width)) if width else 0 for width in widths], np.int64)
    ends = np.cumsum(lengths)
    events["base"] = np.where(has_ladder, ends - lengths, NIL)
    return int(ends[-1]) if len(ends) else 0


def _part(whole: State, chosen: np.ndarray) -> State:
    """The state of a shard that has some events of a whole, in the order in which they are chosen."""
    events = whole.events[chosen]
    levels_used = _lay_ladders(events)
    rows = _rows_of(whole.events["orders"], chosen)
    row_of = np.full(len(whole.orders), NIL, np.int64)
    row_of[rows] = np.arange(len(rows))
    details = whole.details[row_of[whole.details["row"]] != NIL]
    details["row"] = row_of[details["row"]]
    details = details[np.argsort(details["row"])]
    details["stamp"] = _dense(details["stamp"])
    row_of_event = np.full(len(whole.events), NIL, np.int32)
    row_of_event[chosen] = np.arange(len(chosen))
    lists = whole.lists[row_of_event[whole.lists["event"]] != NIL]
    lists["event"] = row_of_event[lists["event"]]
    lists = lists[np.lexsort((lists["queue"], lists["event"]))]
    grids, same = np.unique(whole.grids, return_inverse=True)
    used = np.where(events["grid"] == NIL, NIL, np.append(same, NIL)[events["grid"]])
    events["grid"], kept = _by_first_use(used)
    shard = whole.shard.copy()
    shard["stamp"], shard["levels_used"] = len(details), levels_used
    return State(shard, events, grids[kept], lists, whole.runs, whole.orders[rows], details, whole.keys)


def split(states: list[State], shard_of: Callable[[np.ndarray], np.ndarray], shards: int) -> list[State]:
    """
    Share the events of some shards out to others, for a new number of shards: the states of shards 0 to `shards` - 1.

    Args:
        states: Of all old shards, by shard. They must stand at a clean stop: every new shard gets the keys of all windows, so a frame that only
            some of the old shards have would never be applied by the rest.
        shard_of: From an array of event ids to the new shard of each.
        shards: How many there will be.

    Events come in the order of their creation, those of the same place in it by old shard; ladders are laid anew and
    leave no free runs. Raises ValueError if two states have the same event, or `shard_of` names no shard for one.
    """
    whole = _joined(states)
    ids = whole.events["event"]
    events, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"an event lives on one shard, event {events[counts > 1][0]} is in several states: give each shard's once"
        )
    targets = np.asarray(shard_of(ids))
    wrong = (targets < 0) | (targets >= shards)
    if targets.shape != ids.shape or wrong.any():
        raise ValueError(
            f"shard_of must give each event a shard from 0 to {shards - 1}, gave {targets[wrong][:3]}"
        )
    old_shards = np.repeat(np.arange(len(states)), [len(state.events) for state in states])
    places = np.concatenate([np.arange(len(state.events)) for state in states])
    by_age = np.lexsort((old_shards, places))
    return [_part(whole, by_age[targets[by_age] == shard]) for shard in range(shards)]
