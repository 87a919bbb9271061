"""
The other process of test_ring_processes.py: writes frames into its segment, or freezes and stops.

    python ring_peer.py OWN_SEGMENT CONSUMER_SEGMENT RECORDS SEED
"""

import sys

import numpy as np

import ringpit.engine  # noqa: F401 - chooses the folder of numba's cache, before the first kernel is defined
from ringpit.ipc.idle import Idle
from ringpit.ipc.ring import Producer, ring_words
from ringpit.ipc.segment import Region, Segment, SegmentLayout

RECORD = np.dtype(
    [("number", "<i8"), ("frame", "<i8"), ("size", "<i8"), ("index", "<i8"), ("mixed", "<i8", (4,))]
)
SLOTS = 1 << 10
FRAME_MAX = 300
BASE = (7 << 40) - 5  # the ring's end is met soon, and positions are large
WRITER = SegmentLayout("test-writer", ring_words("tail"), (Region("slots", RECORD, SLOTS),))
READER = SegmentLayout("test-reader", ring_words("head"))
MIX = 0x5DEECE66D


def ends(writer, reader):
    """The arguments of `Producer` and `Consumer`."""
    return writer.cells, WRITER.index("tail"), reader.cells, READER.index("head"), writer.region("slots")


def frame_of(frame, first, size):
    """A frame whose records say which frame they are of, how long it is and where they stand in it."""
    records = np.empty(size, RECORD)
    records["number"] = np.arange(first, first + size)
    records["frame"], records["size"], records["index"] = frame, size, np.arange(size)
    records["mixed"] = (records["number"] * MIX)[:, None]
    return records


def main(own, consumer, records_total, seed):
    """Write frames of random sizes until all records are written."""
    writer, reader = Segment.attach(own, WRITER), Segment.attach(consumer, READER)
    producer, waiting = Producer(*ends(writer, reader)), Idle("spin-then-yield")
    sizes = np.random.default_rng(seed)
    first = frame = 0
    while first < records_total:
        size = min(int(sizes.integers(1, FRAME_MAX)), records_total - first)
        records = frame_of(frame, first, size)
        while not producer.try_write(records):
            waiting(0)
        waiting(size)
        first, frame = first + size, frame + 1


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
