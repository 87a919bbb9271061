"""
Validation: every numbered invariant of the engine, checked on real tables.

Tests call `validate` after every step; nothing else does. It is plain Python and as slow as it looks.
"""

from collections import Counter

import numpy as np

from ringpit.engine import index
from ringpit.engine.codes import EventState
from ringpit.engine.ladder import NIL
from ringpit.engine.pool import run_bits
from ringpit.engine.tables import RUN_BITS_MAX, RUN_BITS_MIN, Cell, Tables


class InvariantBroken(Exception):
    """Our own thinking is wrong: the state may not be used any further."""

    def __init__(self, invariant: str, found: str) -> None:
        super().__init__(f"invariant {invariant} is broken: {found}")


def check(holds: bool, invariant: str, found: str) -> None:
    """Raise InvariantBroken unless the invariant holds."""
    if not holds:
        raise InvariantBroken(invariant, found)


def check_bitmap(t: Tables) -> None:
    """B1 and B2."""
    levels = t.levels.shape[0]
    free_runs = set(free_levels(t))
    base, below = 0, [int(t.levels[slot]["head"]) != NIL and slot not in free_runs for slot in range(levels)]
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
    firsts = []
    for bits in range(RUN_BITS_MIN, RUN_BITS_MAX + 1):
        first = int(t.cells[Cell.RUNS_FREE + bits])
        while first != NIL:
            firsts.append(first)
            first = int(t.levels[first]["head"])
    return firsts


def check_index(table: np.ndarray, wanted: dict[int, int], name: str) -> None:
    """H1, H2 and H3: `wanted` maps slots to fingerprints."""
    mask = len(table) - 1
    entries = {p: int(table[p]) for p in range(len(table)) if table[p] != index.GAP}
    check(2 * len(entries) <= len(table), "H2", f"{name}: {len(entries)} entries in {len(table)}")
    found = {}
    for position, entry in entries.items():
        probe = (entry >> 32) & mask
        while probe != position:
            check(probe in entries, "H1", f"{name}: a gap before the entry at {position}")
            probe = (probe + 1) & mask
        found[entry & index.SLOT_MASK] = entry >> 32
    check(found == wanted and len(found) == len(entries), "H3", f"{name}: entries do not match the records")


def check_book(t: Tables, book: int, seen: Counter[int]) -> None:
    """T2 and T3 for one open book; counts the order slots it meets."""
    row = t.books[book]
    base, orders = int(row["base"]), 0
    occupied: dict[int, list[int]] = {0: [], 1: []}
    last = base + int(row["high"]) - int(row["low"])
    for level in range(base, last + 1):
        slot, previous, total = int(t.levels[level]["head"]), NIL, 0
        while slot != NIL:
            order = t.orders[slot]
            check(
                int(order["level"]) == level and int(order["book"]) == book,
                "T2",
                f"order slot {slot} is astray",
            )
            check(int(order["previous"]) == previous, "T2", f"order slot {slot} has a wrong neighbour in front")
            check(int(order["open"]) > 0, "T2", f"order slot {slot} rests with nothing open")
            seen[slot] += 1
            total += int(order["open"])
            orders += 1
            previous, slot = slot, int(order["next"])
        check(int(t.levels[level]["tail"]) == previous, "T2", f"level {level} has a wrong tail")
        check(int(t.levels[level]["quantity"]) == total, "T2", f"level {level} has a wrong quantity")
        if total:
            occupied[0 if level <= row["best_bid"] else 1].append(level)
    check(int(row["orders"]) == orders, "T2", f"book {book} counts {row['orders']} orders, not {orders}")
    check(int(row["best_bid"]) == max(occupied[0], default=NIL), "T3", f"book {book}: best bid")
    check(int(row["best_ask"]) == min(occupied[1], default=NIL), "T3", f"book {book}: best ask")


def check_levels(t: Tables) -> None:
    """T4: runs owned and free cover exactly what was handed out, once."""
    runs = []
    for bits in range(RUN_BITS_MIN, RUN_BITS_MAX + 1):
        first = int(t.cells[Cell.RUNS_FREE + bits])
        while first != NIL:
            runs.append((first, 1 << bits))
            first = int(t.levels[first]["head"])
    for book in t.books[: t.cells[Cell.BOOKS_USED]]:
        if book["state"] == EventState.OPEN:
            runs.append((int(book["base"]), 1 << int(run_bits(int(book["high"]) - int(book["low"]) + 1))))
        else:
            check(int(book["base"]) == NIL, "T4", f"event {book['event']} is settled and owns levels")
    end = 0
    for first, length in sorted(runs):
        check(first == end, "T4", f"levels {end} to {first} are lost or owned twice")
        end = first + length
    check(end == int(t.cells[Cell.LEVELS_USED]), "T4", f"levels from {end} on are lost")


def check_pool(t: Tables, seen: Counter[int]) -> None:
    """T1."""
    used = len(seen)
    slot = int(t.cells[Cell.ORDERS_FREE])
    while slot != NIL:
        check(int(t.orders[slot]["level"]) == NIL, "T1", f"free order slot {slot} has a level")
        seen[slot] += 1
        slot = int(t.orders[slot]["next"])
    check(set(seen) == set(range(len(t.orders))), "T1", "an order slot is lost")
    check(max(seen.values()) == 1, "T1", "an order slot is used twice")
    check(int(t.cells[Cell.ORDERS_USED]) == used, "T1", "ORDERS_USED is wrong")


def check_window(t: Tables) -> None:
    """W1."""
    count = min(int(t.cells[Cell.KEYS_SEEN]), len(t.keys))
    wanted = {s: int(index.fingerprint_of(t.keys[s]["high"], t.keys[s]["low"])) for s in range(count)}
    pairs = {(int(key["low"]), int(key["high"])) for key in t.keys[:count]}
    check(len(pairs) == count, "W1", "a key is in the window twice")
    check_index(t.key_index, wanted, "key_index")


def validate(t: Tables) -> None:
    """Check every invariant; raises InvariantBroken naming the first that does not hold."""
    seen: Counter[int] = Counter()
    wanted = {}
    for book in range(int(t.cells[Cell.BOOKS_USED])):
        if t.books[book]["state"] == EventState.OPEN:
            check_book(t, book, seen)
    for slot in seen:
        order = t.orders[slot]
        wanted[slot] = int(index.fingerprint_of(int(order["book"]), int(order["id"])))
    check_index(t.index, wanted, "index")
    events = t.books[: t.cells[Cell.BOOKS_USED]]["event"]
    check_index(
        t.event_index, {s: int(index.fingerprint_of(0, int(e))) for s, e in enumerate(events)}, "event_index"
    )
    check_pool(t, seen)
    check_levels(t)
    check_bitmap(t)
    check_window(t)
