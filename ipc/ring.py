"""
Rings: one producer process, one consumer process, records of any dtype, no lock.

    producer's segment                                   consumer's segment
      tail cell: next position to be written               head cell: next position to be read
      tail cell + 1: head as last seen (private)           head cell + 1: tail as last seen (private)
      slots: records, a power of two of them

    slots   | free | free | read me | read me | read me | free | free |       slot = position & (slots - 1)
                          ^ head                        ^ tail

Positions are 64-bit and never wrap; they may start anywhere, for example at `incarnation << 40`. Every cell has one
writer, its owner. A producer copies records into free slots and then advances the tail once: what was
pushed together becomes visible together, which is how a frame is never seen in part.

Fast here, because each side asks for the other's cell only when what it saw last time is used up (the
cached opposite index): a cell that the other core just wrote costs a trip between cores, about 100 ns. The
private copy lies in the same line as the owner's cell, and is written only when that cell is about to be.
Slow here: one record at a time, where the tail's line moves between the cores for nearly every record. And a
call of `push_batch` or `pop_batch` costs about 100 ns, from another kernel too: numba counts references to each
array that is passed. A kernel that moves single records asks `room_for` or `ready_for`, touches the slot
itself, and then calls `publish` or `release`: about 3 ns together, with nothing counted.

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

FROZEN: Final = 1 << 62  # bit of a tail cell: no more publishing
SEEN: Final = 1  # cells from a word to its owner's private copy of the opposite word
BOTH_WORDS: Final = 2  # the word and the private copy


@njit(cache=True)
def tail_of(value):
    """Position in a tail cell's value, whether it is frozen or not."""
    return value & (FROZEN - 1)


@njit(cache=True)
def free_room(tail, head_cells, head_index, slots_count):
    """
    Slots that the producer may write from `tail` on; negative or 0: none, also while the consumer has not started.

    Looks at the consumer's cell itself, each time.
    """
    head = load_acquire(head_cells, head_index)  # pairs with the release in `release`: those slots were read
    return slots_count - (tail - head)


@njit(cache=True)
def publish(cells, index, tail):
    """Make everything below `tail` visible. Only the producer calls it, for a tail that is not freezable."""
    store_release(cells, index, tail)  # pairs with the acquire in `published`: slots are written before


@njit(cache=True)
def publish_freezable(cells, index, expected_tail, new_tail):
    """Advance a freezable tail. False once it is frozen: what was written is not, and never will be, visible."""
    return compare_and_swap(cells, index, expected_tail, new_tail)  # pairs with `published` and `freeze`


@njit(cache=True)
def freeze(cells, index):
    """Stop a freezable tail for good and return where it stands. Anybody may; again: the same answer."""
    return tail_of(fetch_or(cells, index, FROZEN))  # pairs with `publish_freezable`: one of the two is first


@njit(cache=True)
def published(cells, index):
    """Position below which everything may be read."""
    return tail_of(load_acquire(cells, index))  # pairs with the release in `publish` or `publish_freezable`


@njit(cache=True)
def release(cells, index, head):
    """Give the slots below `head` back. Only the consumer calls it, after it has read them."""
    store_release(cells, index, head)  # pairs with the acquire in `free_room`: slots are read before


@njit(cache=True)
def start_at(cells, index, position):
    """Set one's own word to the ring's first position, and forget what was seen of the other side (Q3)."""
    cells[index + SEEN] = 0  # plain: only the owner reads it
    store_release(cells, index, position)  # pairs with `published` or `free_room` of the other side


@njit(cache=True)
def copy_in(slots, position, records, count):
    """Write the first `count` records into free slots, from `position` on. The caller has checked the room."""
    start = position & (slots.shape[0] - 1)
    before_end = min(count, slots.shape[0] - start)
    for i in range(before_end):
        slots[start + i] = records[i]
    for i in range(before_end, count):
        slots[i - before_end] = records[i]


@njit(cache=True)
def copy_out(slots, position, records, count):
    """Read `count` slots from `position` on into `records`. The caller has checked that they are published."""
    start = position & (slots.shape[0] - 1)
    before_end = min(count, slots.shape[0] - start)
    for i in range(before_end):
        records[i] = slots[start + i]
    for i in range(before_end, count):
        records[i] = slots[i - before_end]


@njit(cache=True)
def room_for(wanted, tail_cells, tail_index, head_cells, head_index, slots_count):
    """Slots free for the producer; asks the consumer's cell only if fewer than `wanted` were free before (Q3)."""
    tail = tail_cells[tail_index]  # plain: only the producer writes it
    room = slots_count - (tail - tail_cells[tail_index + SEEN])
    if room < wanted:
        room = free_room(tail, head_cells, head_index, slots_count)
        tail_cells[tail_index + SEEN] = tail + room - slots_count
    return room


@njit(cache=True)
def ready_for(wanted, tail_cells, tail_index, head_cells, head_index):
    """Records ready for the consumer; asks the producer's cell only if fewer than `wanted` were ready (Q3)."""
    head = head_cells[head_index]  # plain: only the consumer writes it
    ready = head_cells[head_index + SEEN] - head
    if ready < wanted:
        tail = published(tail_cells, tail_index)
        head_cells[head_index + SEEN] = tail
        ready = tail - head
    return ready


@njit(cache=True, nogil=True)
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
    tail = tail_cells[tail_index]  # plain: only the producer writes it
    copy_in(slots, tail, records, count)
    publish(tail_cells, tail_index, tail + count)
    return count


@njit(cache=True, nogil=True)
def push_some(tail_cells, tail_index, head_cells, head_index, slots, records, count):
    """Push as many of the first `count` records as fit, in order. Returns how many; otherwise as `push_batch`."""
    room = room_for(count, tail_cells, tail_index, head_cells, head_index, slots.shape[0])
    fitting = max(0, min(room, count))
    return push_batch(tail_cells, tail_index, head_cells, head_index, slots, records, fitting)


@njit(cache=True, nogil=True)
def pop_batch(tail_cells, tail_index, head_cells, head_index, slots, records, count):
    """Take up to `count` records, oldest first, into `records`, and free their slots. Returns how many."""
    taken = max(0, min(ready_for(count, tail_cells, tail_index, head_cells, head_index), count))
    if taken > 0:
        head = head_cells[head_index]  # plain: only the consumer writes it
        copy_out(slots, head, records, taken)
        release(head_cells, head_index, head + taken)
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
                raise ValueError(f"{name}_index must leave room for 2 cells of {cells.shape[0]}, was {index}")
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
