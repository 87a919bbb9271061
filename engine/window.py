"""
The window of recent frame keys: what makes at-least-once delivery an exactly-once effect.

Keys lie in a circle; the newest replaces the oldest. The window is part of the replicated state: whether
a frame is a duplicate is decided from logged data alone, so a replay decides alike.

Fast here because a new key costs one probe that misses, one erase and one insert. Slow never; it is as large
as everything that can come again (prefetch times routers, and what publishers may send again), and
the memory is 48 bytes a key.

Invariant, checked by `validate.check_window`:

    W1  the last min(KEYS_SEEN, length) keys are in the index, each once, and no other
"""

from ringpit.engine import index
from ringpit.engine.kernels import leaf
from ringpit.engine.ladder import NIL
from ringpit.engine.tables import Cell


@leaf
def find_key(t, low, high):
    """Slot of a key in the window, or NIL."""
    fingerprint = index.fingerprint_of(high, low)
    position = index.seek(t.key_index, fingerprint, fingerprint)
    while position != index.MISSING:
        slot = index.slot_at(t.key_index, position)
        if t.keys[slot]["low"] == low and t.keys[slot]["high"] == high:
            return slot
        position = index.seek(t.key_index, fingerprint, position + 1)
    return NIL


@leaf
def remember_key(t, low, high, body_hash, seq):
    """Take a key that is not in the window; the oldest leaves when the circle is full."""
    slot = t.cells[Cell.KEYS_SEEN] % t.keys.shape[0]
    if t.cells[Cell.KEYS_SEEN] >= t.keys.shape[0]:
        oldest = index.fingerprint_of(t.keys[slot]["high"], t.keys[slot]["low"])
        position = index.seek(t.key_index, oldest, oldest)
        while index.slot_at(t.key_index, position) != slot:
            position = index.seek(t.key_index, oldest, position + 1)
        index.erase(t.key_index, position)
    t.keys[slot]["low"] = low
    t.keys[slot]["high"] = high
    t.keys[slot]["body_hash"] = body_hash
    t.keys[slot]["seq"] = seq
    index.insert(t.key_index, index.fingerprint_of(high, low), slot)
    t.cells[Cell.KEYS_SEEN] += 1
