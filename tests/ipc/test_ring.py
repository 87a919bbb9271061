"""Rings against a deque, and the life of a freezable tail; two real processes are in test_ring_processes.py."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ringpit.ipc import ring
from ringpit.ipc.ring import FROZEN, SEEN, Consumer, Producer

RECORD = np.dtype([("number", "<i8"), ("rest", "<i8", (7,))])
CELLS, TAIL, HEAD = 32, 2, 5  # where the words lie in so many cells
BASES = (0, 1, 13, (1 << 40) - 3, 1 << 40, (1 << 61) + 5)


def numbered(first, count):
    """Records that are numbered, in every cell of theirs."""
    records = np.zeros(count, RECORD)
    records["number"] = np.arange(first, first + count)
    records["rest"] = records["number"][:, None]
    return records


def pair(slots_count, base=0):
    """Both ends of a new ring, each with cells of its own."""
    tail_cells, head_cells, slots = (
        np.zeros(CELLS, np.int64),
        np.zeros(CELLS, np.int64),
        np.zeros(slots_count, RECORD),
    )
    ends = (tail_cells, TAIL, head_cells, HEAD, slots)
    producer, consumer = Producer(*ends), Consumer(*ends)
    producer.start_at(base)
    consumer.start_at(base)
    return producer, consumer


class RingMachine(RuleBasedStateMachine):
    """A ring and a deque never disagree, whatever is pushed and popped and wherever positions begin."""

    @initialize(bits=st.integers(0, 5), base=st.sampled_from(BASES))
    def start(self, bits, base):
        """A new ring of 1 to 32 slots."""
        self.slots_count, self.base = 1 << bits, base
        self.producer, self.consumer = pair(self.slots_count, base)
        self.model = deque()
        self.pushed = 0

    @rule(share=st.floats(0, 1))
    def push_frame(self, share):
        """A frame goes in whole exactly if there is room for all of it."""
        count = round(share * self.slots_count)
        fits = len(self.model) + count <= self.slots_count
        assert fits == self.producer.try_write(numbered(self.pushed, count))
        self.expect_pushed(count if fits else 0)

    @rule(count=st.integers(0, 80))
    def push_some(self, count):
        """What fits goes in, the rest stays out."""
        fitting = min(count, self.slots_count - len(self.model))
        assert fitting == self.producer.write_some(numbered(self.pushed, count))
        self.expect_pushed(fitting)

    @rule(count=st.integers(0, 40))
    def read(self, count):
        """Records come out in order, each whole, and no more than asked for."""
        expected = [self.model.popleft() for _ in range(min(count, len(self.model)))]
        records = self.consumer.read(count)
        assert expected == records["number"].tolist()
        assert (records["rest"] == records["number"][:, None]).all()

    @precondition(lambda self: self.model)
    @rule()
    def drain(self):
        """Everything there is comes out at once."""
        assert list(self.model) == self.consumer.read(self.slots_count)["number"].tolist()
        self.model.clear()

    @invariant()
    def positions_agree(self):
        """Q1 and Q3, and positions count from the base."""
        if not hasattr(self, "model"):
            return
        tail, head = self.base + self.pushed, self.base + self.pushed - len(self.model)
        assert (tail, head) == (self.producer.position, self.consumer.position)
        assert (self.slots_count - len(self.model), len(self.model)) == (
            self.producer.room(),
            self.consumer.ready(),
        )
        tail_cells, _, head_cells, _ = self.producer._ends
        assert tail_cells[TAIL + SEEN] <= head
        assert head_cells[HEAD + SEEN] <= tail

    def expect_pushed(self, count):
        """The model takes what the ring took."""
        self.model.extend(range(self.pushed, self.pushed + count))
        self.pushed += count


TestRingAgainstDeque = RingMachine.TestCase


@given(st.sampled_from(BASES), st.integers(0, 4), st.data())
def test_copies_in_and_out_are_each_others_inverse_across_the_end(base, bits, data):
    """A copy that runs over the last slot goes on at the first, at every position."""
    slots = np.zeros(1 << bits, RECORD)
    position = base + data.draw(st.integers(0, 2 * slots.shape[0]))
    count = data.draw(st.integers(0, slots.shape[0]))
    records = numbered(100, count)
    ring.copy_in(slots, position, records, count)
    for i in range(count):
        assert 100 + i == slots[(position + i) % slots.shape[0]]["number"]
    assert slots.shape[0] - count == np.count_nonzero(slots["number"] == 0)
    back = np.zeros(count, RECORD)
    ring.copy_out(slots, position, back, count)
    assert records.tobytes() == back.tobytes()


def test_a_producer_whose_consumer_has_not_started_has_no_room():
    """A ring that begins at a high position is full until its consumer begins there too."""
    producer, consumer = pair(4)
    producer.start_at(3 << 40)
    assert 0 == producer.room()
    assert not producer.try_write(numbered(0, 1))
    assert 0 == producer.write_some(numbered(0, 1))
    consumer.start_at(3 << 40)
    assert producer.try_write(numbered(0, 4))


def test_a_consumer_whose_producer_has_not_started_has_nothing_to_read():
    """A consumer that is ahead of an old tail reads none of the old slots."""
    producer, consumer = pair(4)
    assert producer.try_write(numbered(0, 4))
    consumer.start_at(3 << 40)
    assert 0 == consumer.ready()
    assert 0 == len(consumer.read(4))
    assert 3 << 40 == consumer.position


def test_a_ring_that_starts_again_forgets_what_it_saw():
    """After start_at at a lower position nothing of the earlier life is taken for room or for records."""
    producer, consumer = pair(4, 1 << 40)
    assert producer.try_write(numbered(0, 4))
    assert 4 == len(consumer.read(4))
    producer.start_at(0)
    consumer.start_at(0)
    assert 0 == len(consumer.read(4))
    assert producer.try_write(numbered(7, 3))
    assert not producer.try_write(numbered(10, 2))
    assert [7, 8, 9] == consumer.read(9)["number"].tolist()


def test_the_opposite_cell_is_asked_only_when_what_was_seen_is_used_up():
    """The producer does not see room freed before it needs it, the consumer no records."""
    producer, consumer = pair(4)
    tail_cells, _, head_cells, _ = producer._ends
    assert producer.try_write(numbered(0, 3))
    assert 3 == len(consumer.read(3))
    assert producer.try_write(numbered(3, 1))
    assert 0 == tail_cells[TAIL + SEEN]
    assert 3 == head_cells[HEAD + SEEN]
    assert producer.try_write(numbered(4, 3))
    assert 3 == tail_cells[TAIL + SEEN]


def test_a_frozen_tail_is_final():
    """Publishing fails once a tail is frozen; readers still see all that was published, and nothing later."""
    cells, base = np.zeros(CELLS, np.int64), 5 << 40
    ring.start_at(cells, TAIL, base)
    assert ring.publish_freezable(cells, TAIL, base, base + 3)
    assert base + 3 == ring.freeze(cells, TAIL)
    assert not ring.publish_freezable(cells, TAIL, base + 3, base + 4)
    assert base + 3 == ring.freeze(cells, TAIL)
    assert base + 3 == ring.published(cells, TAIL)
    assert FROZEN | (base + 3) == cells[TAIL]


def test_a_reader_drains_a_frozen_ring_to_the_tail_at_the_freeze():
    """What was published before the freeze is read to the end, and then there is nothing."""
    producer, consumer = pair(8, 1 << 40)
    assert producer.try_write(numbered(0, 5))
    tail_cells = producer._ends[0]
    assert (1 << 40) + 5 == ring.freeze(tail_cells, TAIL)
    assert [0, 1, 2] == consumer.read(3)["number"].tolist()
    assert [3, 4] == consumer.read(8)["number"].tolist()
    assert 0 == len(consumer.read(8))
    assert (1 << 40) + 5 == producer.position


@given(st.integers(0, FROZEN - 1))
def test_every_position_survives_the_frozen_bit(position):
    """The bit lies above every position, and takes nothing of it."""
    assert position == ring.tail_of(position) == ring.tail_of(position | FROZEN)


def test_records_that_can_never_fit_or_are_of_another_kind_are_refused():
    """Misuse is a sentence, not a short write."""
    producer, _ = pair(4)
    with pytest.raises(ValueError, match="records must be at most the ring's 4 slots, were 5"):
        producer.try_write(numbered(0, 5))
    with pytest.raises(ValueError, match=r"records must be one-dimensional of .*, were 1-d int64"):
        producer.write_some(np.zeros(2, np.int64))


@pytest.mark.parametrize("slots_count", [0, 3, 1_000])
def test_a_ring_of_another_size_than_a_power_of_two_is_refused(slots_count):
    """The error gives the size."""
    with pytest.raises(ValueError, match=rf"slots of a ring must be a power of two, was \({slots_count},\)"):
        pair(slots_count)


def test_a_word_without_room_for_its_private_copy_is_refused():
    """The last cell of an array cannot be a tail."""
    cells = np.zeros(CELLS, np.int64)
    with pytest.raises(ValueError, match="tail_index must leave room for 18 cells of 32, was 15"):
        Producer(cells, 15, cells, 0, np.zeros(4, RECORD))
