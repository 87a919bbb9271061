"""
Rings: one producer process, one consumer process, records of any dtype, no lock.

    producer's segment                                   consumer's segment
      tail: next position to be written                    head: next position to be read
      tail's own line: the same, head as last seen         head's own line: the same, tail as last seen
      slots: records, a power of two of them

    slots   | free | free | read me | read me | read me | free | free |       slot = position & (slots - 1)
                          ^ head                        ^ tail

Positions are 64-bit and never wrap; they may start anywhere, for example at `incarnation << 40`. Every cell has one
writer, its owner. A producer copies records into free slots and then advances the tail once: what was
pushed together becomes visible together, which is how a frame is never seen in part.

Fast here, because each side asks for the other's cell only when what it saw last time is used up (the
cached opposite index): a cell that the other core just wrote costs a trip between cores, 50 to 300 ns. For the same reason
a side never reads the cell that it shows to the other: its own position and what it saw lie in a word of their own
behind it (`ring_words`), which nobody else touches: a reading of the shown cell waits until the other core gives the line back. Measured beside
a textbook ring in C++ that reads it (`perf ring`): a record at a time takes 18 ns here and 43 there between near cores, 87 and 194 between distant ones.
Nothing counts references (`_nrt=False`), and a batch is copied as bytes, past the producer's caches where that is
faster (`ipc/copying.py`). Slow here: one record at a time, where the tail's line moves between the cores for nearly every record.
A kernel that moves single records asks `room_for` or `ready_for`, touches the slot itself, and then calls
`publish` or `give_back`; one that reads batches may read them where they lie, in at most two spans, and release them together.

Freezable tails. A tail that a successor may have to stop is advanced by `publish_freezable` only, a
compare-and-swap. `freeze` sets bit 62 and returns the tail as it was: every later publish fails, so that
what lies below the returned tail is final. Readers mask the bit with `tail_of`.

Invariants:

    Q1  0 <= tail - head <= slots, once both sides have started at the same position
    Q2  slots from head to tail belong to the consumer, all others to the producer
    Q3  a position seen by the other side is never larger than the true one, so a stale copy only makes
        the ring look fuller to its producer, emptier to its consumer
    Q4  tail and head never go down; frozen, the tail never changes again
"""

from typing import Final

import numpy as np
from numba import njit

from ringpit.ipc.atomics import compare_and_swap, fetch_or, load_acquire, load_cell, store_release
from ringpit.ipc.copying import copy_records, stream_records

FROZEN: Final = 1 << 62  # bit of a tail cell: no more publishing
OWN: Final = 16  # cells from a word to its owner's own line, a pair of cache lines further: the word again
SEEN: Final = OWN + 1  # and the opposite word as last seen
BOTH_WORDS: Final = SEEN + 1


def ring_words(name: str) -> tuple[str, str]:
    """The two words that a tail or head takes in a segment's layout, in this order: what is shown, and its owner's line."""
    return name, f"{name}.own"


@njit(cache=True, nogil=True, _nrt=False)
def tail_of(value):
    """Position in a tail cell's value, whether it is frozen or not."""
    return value & (FROZEN - 1)


@njit(cache=True, nogil=True, _nrt=False)
def free_room(tail, head_cells, head_index, slots_count):
    """
    Slots that the producer may write from `tail` on; negative or 0: none, also while the consumer has not started.

    Looks at the consumer's cell itself, each time.
    """
    head = load_acquire(head_cells, head_index)  # pairs with the release in `release`: those slots were read
    return slots_count - (tail - head)


@njit(cache=True, nogil=True, _nrt=False)
def publish(cells, index, tail):
    """Make everything below `tail` visible. Only the producer calls it, for a tail that is not freezable."""
    cells[index + OWN] = tail  # plain: nobody else reads it
    store_release(cells, index, tail)  # pairs with the acquire in `published`: slots are written before


@njit(cache=True, nogil=True, _nrt=False)
def publish_freezable(cells, index, expected_tail, new_tail):
    """Advance a freezable tail. False once it is frozen: what was written is not, and never will be, visible."""
    return compare_and_swap(cells, index, expected_tail, new_tail)  # pairs with `published` and `freeze`


@njit(cache=True, nogil=True, _nrt=False)
def freeze(cells, index):
    """Stop a freezable tail for good and return where it stands. Anybody may; again: the same answer."""
    return tail_of(fetch_or(cells, index, FROZEN))  # pairs with `publish_freezable`: one of the two is first


@njit(cache=True, nogil=True, _nrt=False)
def published(cells, index):
    """Position below which everything may be read."""
    return tail_of(load_acquire(cells, index))  # pairs with the release in `publish` or `publish_freezable`


@njit(cache=True, nogil=True, _nrt=False)
def release(cells, index, head):
    """Give the slots below `head` back. Only the consumer calls it, after it has read them."""
    store_release(cells, index, head)  # pairs with the acquire in `free_room`: slots are read before


@njit(cache=True, nogil=True, _nrt=False)
def give_back(cells, index, head):
    """`release`, of a head that has a line of its own."""
    cells[index + OWN] = head  # plain: nobody else reads it
    release(cells, index, head)


@njit(cache=True, nogil=True, _nrt=False)
def start_at(cells, index, position):
    """Set one's own word to the ring's first position, and forget what was seen of the other side (Q3)."""
    cells[index + OWN] = position  # plain: nobody else reads it, nor the next
    cells[index + SEEN] = 0
    store_release(cells, index, position)  # pairs with `published` or `free_room` of the other side


@njit(cache=True, nogil=True, _nrt=False)
def copy_in(slots, position, records, count):
    """Write the first `count` records into free slots, from `position` on. The caller has checked the room."""
    start = position & (slots.shape[0] - 1)
    before_end = min(count, slots.shape[0] - start)
    stream_records(slots, start, records, 0, before_end)
    stream_records(slots, 0, records, before_end, count - before_end)


@njit(cache=True, nogil=True, _nrt=False)
def copy_out(slots, position, records, count):
    """Read `count` slots from `position` on into `records`. The caller has checked that they are published."""
    start = position & (slots.shape[0] - 1)
    before_end = min(count, slots.shape[0] - start)
    copy_records(records, 0, slots, start, before_end)
    copy_records(records, before_end, slots, 0, count - before_end)


@njit(cache=True, nogil=True, _nrt=False)
def carry(slots, position, from_slots, from_position, count):
    """Copy `count` records from one ring's slots into another's, which this core reads again. No bounds are checked."""
    mask, from_mask = slots.shape[0] - 1, from_slots.shape[0] - 1
    done = 0
    while done < count:
        at, from_at = (position + done) & mask, (from_position + done) & from_mask
        span = min(count - done, slots.shape[0] - at, from_slots.shape[0] - from_at)
        copy_records(slots, at, from_slots, from_at, span)
        done += span


@njit(cache=True, nogil=True, _nrt=False)
def room_for(wanted, tail_cells, tail_index, head_cells, head_index, slots_count):
    """Slots free for the producer; asks the consumer's cell only if fewer than `wanted` were free before (Q3)."""
    tail = tail_cells[tail_index + OWN]  # plain: nobody else touches it
    room = slots_count - (tail - tail_cells[tail_index + SEEN])
    if room < wanted:
        room = free_room(tail, head_cells, head_index, slots_count)
        tail_cells[tail_index + SEEN] = tail + room - slots_count
    return room


@njit(cache=True, nogil=True, _nrt=False)
def ready_for(wanted, tail_cells, tail_index, head_cells, head_index):
    """Records ready for the consumer; asks the producer's cell only if fewer than `wanted` were ready (Q3)."""
    head = head_cells[head_index + OWN]  # plain: nobody else touches it
    ready = head_cells[head_index + SEEN] - head
    if ready < wanted:
        tail = published(tail_cells, tail_index)
        head_cells[head_index + SEEN] = tail
        ready = tail - head
    return ready


@njit(cache=True, nogil=True, _nrt=False)
def push_batch(tail_cells, tail_index, head_cells, head_index, slots, records, count):
    """
    Push the first `count` records, all together or none: a whole frame. Returns `count` or 0.

    Args:
        tail_cells, tail_index: The producer's cells, and where the tail lies in them.
        head_cells, head_index: The consumer's.
        slots: The ring, a power of two of records.
        records: Of the same dtype; at least `count`.
    """
    if room_for(count, tail_cells, tail_index, head_cells, head_index, slots.shape[0]) < count:
        return 0
    tail = tail_cells[tail_index + OWN]  # plain: nobody else touches it
    copy_in(slots, tail, records, count)
    publish(tail_cells, tail_index, tail + count)
    return count


@njit(cache=True, nogil=True, _nrt=False)
def push_some(tail_cells, tail_index, head_cells, head_index, slots, records, count):
    """Push as many of the first `count` records as fit, in order. Returns how many; otherwise as `push_batch`."""
    room = room_for(count, tail_cells, tail_index, head_cells, head_index, slots.shape[0])
    fitting = max(0, min(room, count))
    return push_batch(tail_cells, tail_index, head_cells, head_index, slots, records, fitting)


@njit(cache=True, nogil=True, _nrt=False)
def pop_batch(tail_cells, tail_index, head_cells, head_index, slots, records, count):
    """Take up to `count` records, oldest first, into `records`, and free their slots. Returns how many."""
    taken = max(0, min(ready_for(count, tail_cells, tail_index, head_cells, head_index), count))
    if taken > 0:
        head = head_cells[head_index + OWN]  # plain: nobody else touches it
        copy_out(slots, head, records, taken)
        give_back(head_cells, head_index, head + taken)
    return taken


class _End:
    """What both ends of a ring know: whose cells are whose, and where the slots are."""

    def __init__(
        self,
        tail_cells: np.ndarray,
        tail_index: int,
        head_cells: np.ndarray,
        head_index: int,
        slots: np.ndarray,
    ) -> None:
        """Check the ring once; ValueError names what cannot be."""
        count = slots.shape[0]
        if slots.ndim != 1 or count < 1 or count & (count - 1):
            raise ValueError(f"slots of a ring must be a power of two, was {slots.shape}")
        for name, cells, index in (("tail", tail_cells, tail_index), ("head", head_cells, head_index)):
            if not 0 <= index <= cells.shape[0] - BOTH_WORDS:
                raise ValueError(
                    f"{name}_index must leave room for {BOTH_WORDS} cells of {cells.shape[0]}, was {index}: see `ring_words`"
                )
        self._ends = (tail_cells, tail_index, head_cells, head_index)
        self.slots = slots


class Producer(_End):
    """
    The writing end of a ring, for Python: edges and tests. One process, one thread.

    Args: as `push_batch`.

    Cost: about 2 microseconds a call, whatever the size, and a copy.
    """

    @property
    def position(self) -> int:
        """Position that the next record gets."""
        return int(tail_of(load_cell(self._ends[0], self._ends[1])))

    def start_at(self, position: int) -> None:
        """Begin the ring at a position, before anything is written."""
        start_at(self._ends[0], self._ends[1], position)

    def room(self) -> int:
        """Records that fit now; 0 while the consumer has not started at our position."""
        return max(0, int(free_room(self.position, self._ends[2], self._ends[3], self.slots.shape[0])))

    def try_write(self, records: np.ndarray) -> bool:
        """
        Write all records, seen by the consumer all at once, or none. False: no room now.

        Raises:
            ValueError: They are of another dtype, or more than the ring has slots: they would never fit.
        """
        count = self._checked(records)
        if count > self.slots.shape[0]:
            raise ValueError(f"records must be at most the ring's {self.slots.shape[0]} slots, were {count}")
        return bool(count == push_batch(*self._ends, self.slots, records, count))

    def write_some(self, records: np.ndarray) -> int:
        """Write as many as fit, in order, and return how many. ValueError: another dtype."""
        return int(push_some(*self._ends, self.slots, records, self._checked(records)))

    def _checked(self, records: np.ndarray) -> int:
        """How many there are, if they are of the ring's dtype."""
        if records.dtype != self.slots.dtype or records.ndim != 1:
            raise ValueError(
                f"records must be one-dimensional of {self.slots.dtype}, were {records.ndim}-d {records.dtype}"
            )
        return int(records.shape[0])


class Consumer(_End):
    """
    The reading end of a ring, for Python: edges and tests. One process, one thread.

    Args: as `pop_batch`.

    Cost: about 2 microseconds a call, whatever the size, and a copy.
    """

    @property
    def position(self) -> int:
        """Position of the next record to be read."""
        return int(load_cell(self._ends[2], self._ends[3]))

    def start_at(self, position: int) -> None:
        """Begin to read at a position: the producer's first."""
        start_at(self._ends[2], self._ends[3], position)

    def ready(self) -> int:
        """Records that can be read now; 0 while the producer has not started at our position."""
        return max(0, int(published(self._ends[0], self._ends[1])) - self.position)

    def read(self, count_max: int) -> np.ndarray:
        """Take up to `count_max` records, oldest first: an array of their copies, empty if there are none."""
        records = np.empty(min(count_max, self.slots.shape[0]), self.slots.dtype)
        return records[: pop_batch(*self._ends, self.slots, records, records.shape[0])]
