"""The ingress ring: wrapping, filling, what is refused, and what two processes see of each other."""

import json
import multiprocessing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpit.engine.records import RECORD_BYTES
from ringpit.ipc.segment import Region, Segment, SegmentLayout
from ringpit.shards.delivery import NO_KEY
from ringpit.shards.ingress import (
    INGRESS,
    INGRESS_FIELDS,
    SLOT_BYTES,
    Cell,
    IngressBrokenError,
    IngressFeeder,
    IngressIntake,
    slots_of,
)

POSITION_FIRST = 5 << 40


class Ring:
    """Both ends in one process."""

    def __init__(self, folder, slots=16):
        self.slots = np.zeros(slots, INGRESS)
        self.cells = np.full(32, POSITION_FIRST, np.int64)
        self.path = folder / "dead.ndjson"
        self.feeder = IngressFeeder(self.slots, Cell(self.cells, 0), Cell(self.cells, 16))
        self.intake = self.new_intake()

    def new_intake(self):
        return IngressIntake(self.slots, Cell(self.cells, 0), Cell(self.cells, 16), self.path)

    def offer(self, body, content_type="t"):
        return self.feeder.offer(content_type, NO_KEY, body)


@pytest.fixture
def ring(tmp_path):
    return Ring(tmp_path)


def test_the_header_fills_one_slot():
    """Eight words, each at a multiple of its size."""
    assert SLOT_BYTES == INGRESS.itemsize == RECORD_BYTES
    assert [8 * number for number in range(8)] == [INGRESS.fields[name][1] for name, _, _ in INGRESS_FIELDS]


@pytest.mark.parametrize(("type_bytes", "body_bytes", "slots"), [(0, 0, 1), (0, 64, 2), (1, 56, 2), (1, 57, 3)])
def test_slots_of_a_delivery(type_bytes, body_bytes, slots):
    """A header, and as many slots as the padded content type and the body need."""
    assert slots == slots_of(type_bytes, body_bytes)


def test_a_full_ring_refuses_until_something_is_acknowledged(ring):
    """Handing out frees nothing; acknowledging does."""
    offered = 0
    while ring.offer(b"%d" % offered):
        offered += 1
    deliveries = ring.intake.poll(0.0)

    assert 8 == offered == len(deliveries)
    assert not ring.offer(b"more")
    assert 16 == ring.feeder.unacknowledged_slots()
    ring.intake.acknowledge(deliveries[0].tag)
    assert ring.offer(b"more")
    assert not ring.offer(b"and more")


def test_a_delivery_that_never_fits_is_refused(ring):
    """Waiting would be for ever: an error names the sizes and the remedy."""
    with pytest.raises(
        ValueError, match=r"takes 18 slots, but the ingress ring has 16: make rings.ingress_slots larger"
    ):
        ring.offer(bytes(16 * SLOT_BYTES))
    with pytest.raises(ValueError, match="a content type must be at most 255 bytes, was 256"):
        ring.offer(b"", "t" * 256)


def test_a_ring_of_another_size_than_a_power_of_two_is_refused():
    """Positions become slots by a mask."""
    with pytest.raises(ValueError, match=r"rings.ingress_slots must be a power of two, was 12"):
        IngressFeeder(np.zeros(12, INGRESS), Cell(np.zeros(1, np.int64), 0), Cell(np.zeros(1, np.int64), 0))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.binary(max_size=400), st.text(max_size=20)), min_size=1, max_size=30))
def test_bodies_survive_wrapping(tmp_path_factory, messages):
    """Whatever the sizes, and wherever the end of the ring falls, the same bytes come out in order."""
    ring = Ring(tmp_path_factory.mktemp("ring"))
    for body, content_type in messages:
        assert ring.offer(body, content_type)
        (delivery,) = ring.intake.poll(0.0)
        assert (body, content_type) == (bytes(delivery.body), delivery.content_type)
        ring.intake.acknowledge(delivery.tag)

    assert 0 == ring.feeder.unacknowledged_slots()


def test_a_body_that_does_not_wrap_is_not_copied(ring):
    """It is a read-only view of the slots."""
    ring.offer(b"abc", "")
    (delivery,) = ring.intake.poll(0.0)
    ring.slots.view(np.uint8)[SLOT_BYTES] = ord("X")

    assert isinstance(delivery.body, memoryview)
    assert delivery.body.readonly
    assert b"Xbc" == delivery.body


def test_a_poll_is_bounded(tmp_path):
    """One poll hands out at most `deliveries_max`; the next goes on there."""
    ring = Ring(tmp_path)
    intake = IngressIntake(ring.slots, Cell(ring.cells, 0), Cell(ring.cells, 16), ring.path, deliveries_max=3)
    for number in range(5):
        ring.offer(b"%d" % number)

    assert [3, 2, 0] == [len(intake.poll(0.0)) for _ in range(3)]


def test_the_next_router_gets_what_was_not_acknowledged(ring):
    """A router that starts at the head of a dead one is handed the rest again."""
    for number in range(4):
        ring.offer(b"%d" % number)
    ring.intake.acknowledge(ring.intake.poll(0.0)[1].tag)
    later = ring.new_intake()

    assert [b"2", b"3"] == [bytes(delivery.body) for delivery in later.poll(0.0)]


def test_a_feeder_goes_on_where_its_tail_stands(ring):
    """A second feeder of the same ring continues the positions, and can follow another head."""
    ring.offer(b"0")
    head = np.full(1, POSITION_FIRST, np.int64)
    later = IngressFeeder(ring.slots, Cell(ring.cells, 0), Cell(ring.cells, 16))
    later.follow(Cell(head, 0))
    later.offer("t", NO_KEY, b"1")

    assert [b"0", b"1"] == [bytes(delivery.body) for delivery in ring.intake.poll(0.0)]
    assert 4 == later.unacknowledged_slots()


@pytest.mark.parametrize("field", ["magic", "position", "slots", "body_bytes", "type_bytes"])
def test_a_header_that_no_feeder_writes_is_fatal_and_says_where(ring, field):
    """G2: a broken ring is not guessed at."""
    ring.offer(b"abc")
    ring.slots[0][field] = -7
    with pytest.raises(IngressBrokenError, match=f"no delivery at position {POSITION_FIRST} .slot 0."):
        ring.intake.poll(0.0)


def test_dead_letters_are_appended_to_what_is_there(ring):
    """The file of an earlier run is kept; no dead letter, no file."""
    assert [] == ring.intake.settled_dead_letters()
    assert not ring.path.exists()
    ring.path.write_text("{}\n")
    ring.offer(b"\xff", "text/plain")
    delivery = ring.intake.poll(0.0)[0]
    ring.intake.dead_letter(delivery, "MALFORMED", "not UTF-8 \u2603")
    ring.intake.settled_dead_letters()
    ring.intake.close()
    line = json.loads(ring.path.read_text().splitlines()[1])

    assert {"Reason", "Detail", "ContentType", "Key", "SentNs", "Body"} == set(line)
    assert ("/w==", "not UTF-8 \u2603", ["0", "0"]) == (line["Body"], line["Detail"], line["Key"])


def test_a_folder_for_dead_letters_that_cannot_be_written_is_named(tmp_path):
    """The error names the file and what to do."""
    ring = Ring(tmp_path / "nosuch")
    ring.offer(b"x")
    with pytest.raises(
        OSError, match=r"cannot keep a dead letter in .*dead.ndjson: No such file.*make the folder writable"
    ):
        ring.intake.dead_letter(ring.intake.poll(0.0)[0], "MALFORMED", "x")


LAYOUT = SegmentLayout("test_ingress", ("tail", "head"), (Region("slots", INGRESS, 256),))
DELIVERIES = 5_000


def feed(name):
    """The other process: offer numbered bodies of many sizes, as fast as there is room."""
    segment = Segment.attach(name, LAYOUT)
    cells = segment.cells
    feeder = IngressFeeder(
        segment.region("slots"), Cell(cells, LAYOUT.index("tail")), Cell(cells, LAYOUT.index("head"))
    )
    for number in range(DELIVERIES):
        while not feeder.offer("n", (number, -number), b"%d," % number * (number % 50)):
            pass
    segment.close()


@pytest.mark.compiled
def test_another_process_feeds_in_order(tmp_path):
    """Thousands of deliveries through a small ring: each whole, each once, in order."""
    with Segment.create("ringpit.test.ingress", LAYOUT) as segment:
        tail, head = (Cell(segment.cells, LAYOUT.index(word)) for word in ("tail", "head"))
        intake = IngressIntake(segment.region("slots"), tail, head, tmp_path / "dead.ndjson")
        process = multiprocessing.get_context("spawn").Process(target=feed, args=("ringpit.test.ingress",))
        process.start()
        taken = 0
        while taken < DELIVERIES:
            assert process.is_alive() or not process.exitcode
            deliveries = intake.poll(0.01)
            for delivery in deliveries:
                assert (taken, -taken) == delivery.key
                assert b"%d," % taken * (taken % 50) == delivery.body
                taken += 1
            if deliveries:
                intake.acknowledge(deliveries[-1].tag)
        process.join()

        assert 0 == process.exitcode
        del delivery, deliveries, intake, tail, head  # views of the segment
