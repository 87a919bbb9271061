"""
Validation: every numbered invariant of the engine, checked on real tables.

Tests call `validate` after every step; nothing else does. It is plain Python and as slow as it looks.
"""

from collections import Counter

import numpy as np

from ringpit.engine import index, skiplist, trails
from ringpit.engine.book import SPECIAL
from ringpit.engine.codes import EventState, LevelKind, Queue, Trait
from ringpit.engine.ladder import NIL
from ringpit.engine.levels import LISTS_OF_A_BOOK
from ringpit.engine.limits import INT64_MAX
from ringpit.engine.pool import run_bits
from ringpit.engine.tables import RUN_BITS_MAX, RUN_BITS_MIN, Cell, Check, Tables


class InvariantBroken(Exception):
    """Our own thinking is wrong: the state may not be used any further."""

    def __init__(self, invariant: str, found: str) -> None:
        super().__init__(f"invariant {invariant} is broken: {found}")


def check(holds: bool, invariant: str, found: str) -> None:
    """Raise InvariantBroken unless the invariant holds."""
    if not holds:
        raise InvariantBroken(invariant, found)


def ladder_levels(t: Tables) -> int:
    """Level slots that belong to ladders."""
    return len(t.levels) - len(t.nodes)


def check_bitmap(t: Tables) -> None:
    """B1 and B2."""
    levels = ladder_levels(t)
    free_runs = set(free_levels(t))
    heads = t.levels["head"][:levels].tolist()
    base, below = 0, [head != NIL and slot not in free_runs for slot, head in enumerate(heads)]
    name = "B1"
    while len(below) > 1:
        words = max(len(below) // 64, 1)
        above = []
        for word in range(words):
            bits = int(t.bitmap[base + word]) & ((1 << 64) - 1)
            wanted = sum(1 << i for i, is_set in enumerate(below[word * 64 : word * 64 + 64]) if is_set)
            check(bits == wanted, name, f"word {word} is {bits:#x}, not {wanted:#x}")
            above.append(bits != 0)
        base, below, name = base + words, above, "B2"


def free_levels(t: Tables) -> list[int]:
    """First level slot of every free run."""
    return [first for first, _ in free_runs_of(t)]


def free_runs_of(t: Tables) -> list[tuple[int, int]]:
    """(first level slot, length) of every free run."""
    runs = []
    for bits in range(RUN_BITS_MIN, RUN_BITS_MAX + 1):
        first = int(t.cells[Cell.RUNS_FREE + bits])
        while first != NIL:
            runs.append((first, 1 << bits))
            first = int(t.levels[first]["head"])
    return runs


def check_index(table: np.ndarray, wanted: dict[int, int], name: str) -> None:
    """H1, H2 and H3: `wanted` maps slots to fingerprints."""
    mask = len(table) - 1
    entries = {int(p): int(table[p]) for p in np.flatnonzero(table != index.GAP)}
    check(2 * len(entries) <= len(table), "H2", f"{name}: {len(entries)} entries in {len(table)}")
    found = {}
    for position, entry in entries.items():
        probe = (entry >> 32) & mask
        while probe != position:
            check(probe in entries, "H1", f"{name}: a gap before the entry at {position}")
            probe = (probe + 1) & mask
        found[entry & index.SLOT_MASK] = entry >> 32
    check(found == wanted and len(found) == len(entries), "H3", f"{name}: entries do not match the records")


def orders_at(t: Tables, level: int, seen: Counter[int]) -> list[int]:
    """Order slots of a level, after their links were checked (T1, T2)."""
    slots = []
    slot, previous = int(t.levels[level]["head"]), NIL
    while slot != NIL:
        order = t.orders[slot]
        check(int(order["level"]) == level, "T1", f"order slot {slot} is astray")
        check(int(order["previous"]) == previous, "T1", f"order slot {slot} has a wrong neighbour in front")
        check(int(order["open"]) > 0, "T1", f"order slot {slot} is open with nothing open")
        check(seen[slot] == 0, "T1", f"order slot {slot} is open twice")
        seen[slot] += 1
        slots.append(slot)
        previous, slot = slot, int(order["next"])
    check(int(t.levels[level]["tail"]) == previous, "T2", f"level {level} has a wrong tail")
    return slots


def shown_of(t: Tables, slot: int, queue: int) -> int:
    """Lots that an open order must show at most, by its traits."""
    traits, lots = int(t.orders[slot]["traits"]), int(t.orders[slot]["open"])
    if queue > Queue.ASKS or traits & Trait.HIDDEN:
        return 0
    return min(lots, int(t.details[slot]["display"])) if traits & Trait.ICEBERG else lots


def check_level(t: Tables, book: int, queue: int, level: int, seen: Counter[int]) -> int:
    """T2 for one level of a list; how many orders it has."""
    slots = orders_at(t, level, seen)
    row = t.levels[level]
    check(bool(slots), "T5", f"level {level} of list {queue} is empty")
    check(int(row["side"]) == queue & 1, "T2", f"level {level} is on the wrong side")
    hidden = [slot for slot in slots if t.orders[slot]["traits"] & Trait.HIDDEN]
    check(
        slots[len(slots) - len(hidden) :] == hidden, "T2", f"level {level} has hidden orders before shown ones"
    )
    check(
        int(row["hidden"]) == (hidden[0] if hidden else NIL),
        "T2",
        f"level {level} has a wrong first hidden order",
    )
    check(
        int(row["quantity"]) == sum(int(t.orders[slot]["shown"]) for slot in slots),
        "T2",
        f"level {level}: quantity",
    )
    for slot in slots:
        shown, most = int(t.orders[slot]["shown"]), shown_of(t, slot, queue)
        check(int(t.orders[slot]["book"]) == book, "T1", f"order slot {slot} is in another book")
        check(shown == most or 0 < shown < most, "T2", f"order slot {slot} shows {shown} of {most}")
        waits = bool(t.orders[slot]["traits"] & (Trait.STOP | Trait.ALL_OR_NONE))
        check(waits == (queue > Queue.ASKS), "T2", f"order slot {slot} is in list {queue} with wrong traits")
    return len(slots)


def levels_of_list(t: Tables, book: int, queue: int, nodes: Counter[int]) -> list[int]:
    """Level slots of a skip list, after its structure was checked (T5)."""
    head = int(t.lists[book, queue])
    if head == NIL:
        return []
    nodes[head] += 1
    chains = []
    for height in range(skiplist.HEIGHT_MAX):
        chain, node = [], int(t.links[head, skiplist.LINKS + height])
        while node != NIL:
            chain.append(node)
            node = int(t.links[node, skiplist.LINKS + height])
        chains.append(chain)
    for height, chain in enumerate(chains):
        tall = [node for node in chains[0] if t.links[node, skiplist.HEIGHT] > height]
        check(chain == tall, "T5", f"list {queue} of book {book} is torn at height {height}")
    before = [int(t.links[node, skiplist.PREVIOUS]) for node in chains[0]]
    check(before == [head, *chains[0]][:-1], "T5", f"list {queue} of book {book} does not run backwards")
    keys = [int(t.nodes[node, skiplist.KEY]) for node in chains[0]]
    check(keys == sorted(set(keys)), "T5", f"list {queue} of book {book} is out of order")
    for node in chains[0]:
        nodes[node] += 1
        check(
            int(t.links[node, skiplist.OWNER]) == book * LISTS_OF_A_BOOK + queue,
            "T5",
            f"node {node} is in another list",
        )
    levels = [ladder_levels(t) + node for node in chains[0]]
    sign = -1 if queue in (Queue.BIDS, Queue.SELL_STOPS, Queue.BUY_ALL_OR_NONE) else 1
    check(
        [sign * int(t.levels[level]["price"]) for level in levels] == keys,
        "T5",
        f"list {queue}: prices and keys differ",
    )
    return levels


def ladder_of(t: Tables, book: int) -> tuple[list[int], list[int]]:
    """Occupied levels of a ladder: bids best first, asks best first."""
    row = t.books[book]
    base = int(row["base"])
    slots = range(base, base + int(row["high"]) - int(row["low"]) + 1)
    occupied = [level for level in slots if t.levels[level]["head"] != NIL]
    for level in set(slots) - set(occupied):
        empty = (
            t.levels[level]["tail"] == NIL
            and t.levels[level]["hidden"] == NIL
            and t.levels[level]["quantity"] == 0
        )
        check(bool(empty), "T2", f"empty level {level} of a ladder is not clean")
    for level in occupied:
        check(
            int(t.levels[level]["price"]) == level - base + int(row["low"]),
            "T2",
            f"level {level} has a wrong price",
        )
    bids = [level for level in occupied if t.levels[level]["side"] == 0]
    return bids[::-1], [level for level in occupied if t.levels[level]["side"] == 1]


def check_book(t: Tables, book: int, seen: Counter[int], nodes: Counter[int]) -> None:
    """T2, T3, T5 and T7 for one open book; counts the order slots and nodes that it meets."""
    row = t.books[book]
    before = seen.total()
    lists = [levels_of_list(t, book, queue, nodes) for queue in Queue]
    if row["kind"] == LevelKind.LADDER:
        check(not lists[0] and not lists[1], "T5", f"book {book} has a ladder and skip lists for its prices")
        lists[0], lists[1] = ladder_of(t, book)
    for queue, levels in enumerate(lists):
        for level in levels:
            check_level(t, book, queue, level, seen)
    best = [levels[0] if levels else NIL for levels in lists[:2]]
    check([int(row["best_bid"]), int(row["best_ask"])] == best, "T3", f"book {book}: best prices")
    bid, ask = ([int(t.levels[level]["price"]) for level in levels] for levels in lists[:2])
    check(not bid or not ask or max(bid) < min(ask), "T3", f"book {book} is crossed")
    check(int(row["orders"]) == seen.total() - before, "T7", f"book {book} counts {row['orders']} orders")
    mine = [slot for slot in seen if t.orders[slot]["book"] == book]
    special = sum(bool(t.orders[slot]["traits"] & SPECIAL) for slot in mine)
    check(
        int(row["special"]) == special,
        "T7",
        f"book {book} counts {row['special']} special orders, not {special}",
    )
    check_trails(t, book, mine)


def check_trails(t: Tables, book: int, mine: list[int]) -> None:
    """T7: the trailing stops of a book are those in its two trails."""
    trailing = []
    for side in range(2):
        slot, before = int(t.lists[book, trails.FIRST + 2 * side]), NIL
        while slot != NIL:
            check(int(t.details[slot]["previous_trailing"]) == before, "T7", f"trailing stop {slot} is astray")
            check(
                int(t.levels[t.orders[slot]["level"]]["side"]) == side,
                "T7",
                f"trailing stop {slot}: wrong side",
            )
            trailing.append(slot)
            before, slot = slot, int(t.details[slot]["next_trailing"])
        check(
            int(t.lists[book, trails.LAST + 2 * side]) == before, "T7", f"trail of book {book} has a wrong end"
        )
    wanted = [slot for slot in mine if t.orders[slot]["traits"] & Trait.TRAILING]
    check(sorted(trailing) == sorted(wanted), "T7", f"trails of book {book} are incomplete")


def check_levels(t: Tables) -> None:
    """T4: runs owned and free cover exactly what was handed out, once."""
    runs = free_runs_of(t)
    for book in t.books[: t.cells[Cell.BOOKS_USED]]:
        if book["state"] == EventState.OPEN and book["kind"] == LevelKind.LADDER:
            runs.append((int(book["base"]), 1 << int(run_bits(int(book["high"]) - int(book["low"]) + 1))))
        else:
            check(int(book["base"]) == NIL, "T4", f"event {book['event']} owns levels and has no ladder")
    end = 0
    for first, length in sorted(runs):
        check(first == end, "T4", f"levels {end} to {first} are lost or owned twice")
        end = first + length
    check(end == int(t.cells[Cell.LEVELS_USED]), "T4", f"levels from {end} on are lost")


def chain(first: int, following: np.ndarray) -> list[int]:
    """Slots of a free list."""
    slots = []
    while first != NIL:
        slots.append(first)
        first = int(following[first])
    return slots


def check_pools(t: Tables, seen: Counter[int], nodes: Counter[int]) -> None:
    """T1 and T5: every slot and node is used once, or free."""
    free = chain(int(t.cells[Cell.ORDERS_FREE]), t.orders["next"])
    check(all(t.orders[slot]["level"] == NIL for slot in free), "T1", "a free order slot has a level")
    check(sorted([*seen, *free]) == list(range(len(t.orders))), "T1", "an order slot is lost or used twice")
    check(int(t.cells[Cell.ORDERS_USED]) == len(seen), "T1", "ORDERS_USED is wrong")
    free = chain(int(t.cells[Cell.NODES_FREE]), t.links[:, 0])
    check(sorted([*nodes.elements(), *free]) == list(range(len(t.nodes))), "T5", "a node is lost or used twice")
    check(int(t.cells[Cell.NODES_USED]) == nodes.total(), "T5", "NODES_USED is wrong")


def check_timers(t: Tables, seen: Counter[int]) -> None:
    """T6."""
    heap = t.timers[: t.cells[Cell.TIMERS]].tolist()
    keys = [(int(t.details[slot]["expires_ns"]), int(t.details[slot]["stamp"])) for slot in heap]
    timed = [slot for slot in seen if t.orders[slot]["traits"] & Trait.TIMED]
    check(sorted(heap) == sorted(timed), "T6", "the timers are not those of the open orders that expire")
    check(
        [int(t.orders[slot]["timer"]) for slot in heap] == list(range(len(heap))),
        "T6",
        "an order does not know its timer",
    )
    check(all(keys[(i - 1) // 2] < keys[i] for i in range(1, len(keys))), "T6", "the timers are no heap")
    check(int(t.cells[Cell.NEXT_EXPIRY]) == (keys[0][0] if keys else INT64_MAX), "T6", "NEXT_EXPIRY is wrong")


def check_holders(t: Tables, seen: Counter[int]) -> None:
    """T7: accounts' open orders in books that limit them."""
    wanted: Counter[tuple[int, int]] = Counter()
    for slot in seen:
        book = int(t.orders[slot]["book"])
        if t.books[book]["checks"] & Check.ACCOUNTS:
            wanted[book, int(t.orders[slot]["account"])] += 1
    free = set(chain(int(t.cells[Cell.HOLDERS_FREE]), t.holders["orders"]))
    used = [slot for slot in range(len(t.holders)) if slot not in free]
    found = {
        (int(t.holders[s]["book"]), int(t.holders[s]["account"])): int(t.holders[s]["orders"]) for s in used
    }
    check(found == dict(wanted), "T7", "holders do not count the accounts' open orders")
    prints = {
        s: int(index.fingerprint_of(int(t.holders[s]["book"]), int(t.holders[s]["account"]))) for s in used
    }
    check_index(t.holder_index, prints, "holder_index")


def check_grids(t: Tables) -> None:
    """T7: rows of price bands know how many open books use them."""
    books = t.books[: t.cells[Cell.BOOKS_USED]]
    used = Counter(books["grid"][(books["state"] == EventState.OPEN) & (books["grid"] != NIL)].tolist())
    check(
        t.grids[:, 0].tolist() == [used[row] for row in range(len(t.grids))],
        "T7",
        "a grid counts its books wrongly",
    )


def check_window(t: Tables) -> None:
    """W1."""
    count = min(int(t.cells[Cell.KEYS_SEEN]), len(t.keys))
    wanted = {s: int(index.fingerprint_of(t.keys[s]["high"], t.keys[s]["low"])) for s in range(count)}
    pairs = {(int(key["low"]), int(key["high"])) for key in t.keys[:count]}
    check(len(pairs) == count, "W1", "a key is in the window twice")
    check_index(t.key_index, wanted, "key_index")


def check_line(t: Tables) -> None:
    """Between commands nothing is in line."""
    for cell in (
        Cell.LINE_FIRST,
        Cell.LINE_LAST,
        Cell.RISEN_FIRST,
        Cell.RISEN_LAST,
        Cell.FALLEN_FIRST,
        Cell.FALLEN_LAST,
    ):
        check(int(t.cells[cell]) == NIL, "T1", f"an order is still in line: {cell.name}")


def level_fingerprints(t: Tables, nodes: Counter[int]) -> dict[int, int]:
    """Level slots of all nodes in use that are no heads, and their fingerprints in the level index."""
    heads = set(t.lists[: t.cells[Cell.BOOKS_USED], : len(Queue)].ravel().tolist())
    return {
        ladder_levels(t) + node: int(
            index.fingerprint_of(
                int(t.links[node, skiplist.OWNER]), int(t.levels[ladder_levels(t) + node]["price"])
            )
        )
        for node in nodes
        if node not in heads
    }


def validate(t: Tables) -> None:
    """Check every invariant; raises InvariantBroken naming the first that does not hold."""
    seen: Counter[int] = Counter()
    nodes: Counter[int] = Counter()
    for book in range(int(t.cells[Cell.BOOKS_USED])):
        if t.books[book]["state"] == EventState.OPEN:
            check_book(t, book, seen, nodes)
    prints = {s: int(index.fingerprint_of(int(t.orders[s]["book"]), int(t.orders[s]["id"]))) for s in seen}
    check_index(t.index, prints, "index")
    events = t.books[: t.cells[Cell.BOOKS_USED]]["event"]
    check_index(
        t.event_index, {s: int(index.fingerprint_of(0, int(e))) for s, e in enumerate(events)}, "event_index"
    )
    check_index(t.level_index, level_fingerprints(t, nodes), "level_index")
    check_line(t)
    check_pools(t, seen, nodes)
    check_timers(t, seen)
    check_holders(t, seen)
    check_grids(t)
    check_levels(t)
    check_bitmap(t)
    check_window(t)
