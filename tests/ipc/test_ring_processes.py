"""One ring between two real processes."""

import importlib.util
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from ringpit.ipc import ring
from ringpit.ipc.idle import Idle
from ringpit.ipc.ring import Consumer
from ringpit.ipc.segment import Segment

PEER = Path(__file__).with_name("ring_peer.py")
pytestmark = pytest.mark.compiled
RECORDS = 3_000_000
SEED = 20_240_601
DEADLINE_SECONDS = 120
PUBLISHED_MAX = 10_000_000  # a producer that misses its freeze ends too, and is found out


@pytest.fixture(scope="module")
def peer():
    """The peer's program, as a module."""
    spec = importlib.util.spec_from_file_location("ring_peer", PEER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def killed_if_failed(child):
    """Let no child wait for ever for a test that has failed."""
    try:
        yield
    except BaseException:
        child.kill()
        raise


def check_whole_frames(records):
    """Every record is whole, and the batch begins and ends with whole frames."""
    assert (records["index"] < records["size"]).all()
    assert 0 == records[0]["index"]
    assert records[-1]["size"] == records[-1]["index"] + 1
    within = np.diff(records["frame"]) == 0
    assert (np.diff(records["index"])[within] == 1).all()
    assert (records["index"][1:][~within] == 0).all()
    assert (records["size"][:-1][~within] == records["index"][:-1][~within] + 1).all()


def test_millions_of_records_arrive_whole_and_in_order_and_no_frame_is_seen_in_part(peer, segment_name):
    """Everything that is ready is always whole frames; numbers are dense; the checksum over all fields agrees."""
    with (
        Segment.create(f"{segment_name}-writer", peer.WRITER) as writer,
        Segment.create(f"{segment_name}-reader", peer.READER) as reader,
    ):
        ends = peer.ends(writer, reader)
        ring.start_at(ends[0], ends[1], peer.BASE)
        consumer, waiting = Consumer(*ends), Idle("spin-then-yield")
        consumer.start_at(peer.BASE)
        command = [sys.executable, str(PEER), writer.name, reader.name, str(RECORDS), str(SEED)]
        deadline = time.monotonic() + DEADLINE_SECONDS
        taken = batches = total = 0
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child, killed_if_failed(child):
            while taken < RECORDS and child.poll() in (None, 0):
                assert time.monotonic() < deadline, f"{taken} of {RECORDS} records after {DEADLINE_SECONDS} s"
                records = consumer.read(peer.SLOTS)
                waiting(len(records))
                if len(records):
                    check_whole_frames(records)
                    assert (records["number"] == np.arange(taken, taken + len(records))).all()
                    assert (records["mixed"] == (records["number"] * peer.MIX)[:, None]).all()
                    total += int(records["number"].sum())
                    taken, batches = taken + len(records), batches + 1
            _, complaint = child.communicate(timeout=60)
        assert (0, "") == (child.returncode, complaint)
        assert RECORDS * (RECORDS - 1) // 2 == total
        assert peer.BASE + RECORDS == consumer.position
        assert batches > RECORDS // peer.SLOTS


@njit(cache=True, nogil=True)
def publish_until_frozen(cells, index, slots, count_max):
    """Number slots and publish them one by one until that fails, or so many are; returns the tail that stands."""
    tail = ring.published(cells, index)
    last = tail + count_max
    while tail < last:
        slots[tail & (slots.shape[0] - 1)] = tail
        if not ring.publish_freezable(cells, index, tail, tail + 1):
            return tail
        tail += 1
    return tail


def freeze_while_publishing(slots, base, published_before):
    """Freeze a tail that another thread advances, once so much is published. Returns both sides' tails and the cells."""
    cells, stopped_at = np.zeros(32, np.int64), []
    ring.start_at(cells, 0, base)
    thread = threading.Thread(
        target=lambda: stopped_at.append(publish_until_frozen(cells, 0, slots, PUBLISHED_MAX))
    )
    thread.start()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while ring.published(cells, 0) < base + published_before:
        assert time.monotonic() < deadline
    frozen_at = ring.freeze(cells, 0)
    thread.join()
    return frozen_at, stopped_at[0], cells


def test_of_a_publish_and_a_freeze_exactly_one_wins():
    """The tail that the freezer got is the tail that the producer stopped at, whenever the freeze came."""
    slots = np.zeros(1 << 10, np.int64)
    publish_until_frozen(np.full(2, ring.FROZEN, np.int64), 0, slots, 1)  # compiles
    for repeat in range(50):
        base = repeat << 40
        frozen_at, stopped_at, cells = freeze_while_publishing(slots, base, 100 * repeat)
        assert frozen_at == stopped_at == ring.published(cells, 0)
        assert base + 100 * repeat <= frozen_at
