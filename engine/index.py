"""
Hash index: from a key that lies in some record to that record's slot. Open addressing, fixed size.

One entry is one int64: a 31-bit fingerprint of the key above the 32-bit slot. The fingerprint also says
where the entry wants to lie, so probing and erasing never look at a record; only a match does. One code
serves orders (event and order id), events and frame keys.

Fast here because the table is at least twice as large as what it can ever hold, so a probe usually ends
in the cache line where it began. Slow when keys are chosen to collide: a run of equal fingerprints makes each
probe walk it. The mixing makes that hard by accident, not impossible on purpose.

Invariants, checked by `validate.check_index`:

    H1  an entry lies at or behind its home, and no gap lies between
    H2  at least half of the table is gaps
    H3  entries and records that are in use correspond one to one
"""

from typing import Final

import numpy as np

from ringpit.engine.kernels import leaf

GAP: Final = -1
MISSING: Final = -1
SLOT_MASK: Final = 0xFFFF_FFFF
FINGERPRINT_MASK: Final = 0x7FFF_FFFF

# Odd multipliers below 2**29: four products of 32-bit halves add up below 2**63, so nothing wraps and
# compiled and interpreted code agree.
_M1: Final = 0x1B87_3593
_M2: Final = 0x0CC9_E2D5
_M3: Final = 0x165E_8F2B
_M4: Final = 0x1D3A_4C67
_M5: Final = 0x45D9_F3B1


def make_index(entries: int) -> np.ndarray:
    """An empty index for at most `entries` entries: int64, twice as long, a power of two."""
    return np.full(1 << (2 * entries - 1).bit_length(), GAP, np.int64)


@leaf
def fingerprint_of(high, low):
    """31 well mixed bits of a 128-bit key given as two int64."""
    mixed = (
        (low & SLOT_MASK) * _M1
        + ((low >> 32) & SLOT_MASK) * _M2
        + (high & SLOT_MASK) * _M3
        + ((high >> 32) & SLOT_MASK) * _M4
    )
    mixed = ((mixed ^ (mixed >> 31)) & SLOT_MASK) * _M5
    mixed ^= mixed >> 29
    return mixed & FINGERPRINT_MASK


@leaf
def seek(index, fingerprint, position):
    """Where, from a probe position on, the next entry with this fingerprint lies, or MISSING."""
    mask = index.shape[0] - 1
    while True:
        entry = index[position & mask]
        if entry == GAP:
            return MISSING
        if entry >> 32 == fingerprint:
            return position & mask
        position += 1


@leaf
def slot_at(index, position):
    """The slot in the entry at a position."""
    return index[position] & SLOT_MASK


@leaf
def insert(index, fingerprint, slot):
    """Add an entry. The caller keeps H2; cannot fail."""
    mask = index.shape[0] - 1
    position = fingerprint & mask
    while index[position] != GAP:
        position = (position + 1) & mask
    index[position] = (fingerprint << 32) | slot


@leaf
def erase(index, position):
    """Remove the entry at a position and close the hole, so that H1 holds without tombstones."""
    mask = index.shape[0] - 1
    hole = position
    probe = position
    while True:
        probe = (probe + 1) & mask
        entry = index[probe]
        if entry == GAP:
            break
        home = (entry >> 32) & mask
        if (probe - home) & mask >= (probe - hole) & mask:
            index[hole] = entry
            hole = probe
    index[hole] = GAP
