"""Peers: callers ask each time, and get the segment of the incarnation that counts now."""

import uuid
from contextlib import ExitStack

import pytest
from msgspec.structs import replace

from ringpit.ipc.segment import Segment, SegmentMismatch, SegmentMissing
from ringpit.shards import peers as peers_module
from ringpit.shards.config import Config
from ringpit.shards.layout import Role, board_layout, router_layout, segment_name, worker_layout
from ringpit.shards.peers import Peers


@pytest.fixture
def config():
    """A small exchange of a name of its own."""
    default = Config()
    return replace(
        default,
        exchange=replace(default.exchange, name=f"peers-{uuid.uuid4().hex[:12]}"),
        limits=replace(default.limits, events=16, orders=64, levels=4_096, keys=64),
        rings=replace(default.rings, input_slots=1 << 14, journal_slots=1 << 14, output_slots=1 << 14),
    )


@pytest.fixture
def segments():
    """Closes and removes what is entered."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def board(config, segments):
    """The supervisor's board."""
    return segments.enter_context(Segment.create(segment_name(config, "board", 0, 0), board_layout(config)))


def worker(config, segments, incarnation):
    """A worker's segment, as the supervisor makes it."""
    name = segment_name(config, "worker", 0, incarnation)
    return segments.enter_context(Segment.create(name, worker_layout(config), incarnation))


def test_without_a_board_there_are_no_peers(config):
    """The constructor names the segment that is missing."""
    with pytest.raises(SegmentMissing, match=segment_name(config, "board", 0, 0)):
        Peers(config)


def test_the_board_says_who_counts_and_who_shall_stop(config, board):
    """Incarnation 0 before the first start; what the supervisor writes is seen at once."""
    peers = Peers(config)
    assert 0 == peers.incarnation(Role.WORKER, 1)
    assert not peers.stop_wanted(Role.WORKER, 1)
    board.store("worker.1.incarnation", 4)
    board.store("worker.1.stop", 1)
    assert 4 == peers.incarnation(Role.WORKER, 1)
    assert peers.stop_wanted(Role.WORKER, 1)
    assert not peers.stop_wanted(Role.WORKER, 0)


def test_a_segment_is_attached_once(config, segments, board):
    """As long as the board names the same incarnation, the same mapping is answered."""
    own = worker(config, segments, 1)
    board.store("worker.0.incarnation", 1)
    peers = Peers(config)
    attached = peers.attach(Role.WORKER, 0)
    assert attached is peers.attach(Role.WORKER, 0)
    own.store("durable_seq", 42)
    assert 42 == attached.load("durable_seq")


def test_a_new_incarnation_is_followed(config, segments, board):
    """When the board names the next life, its segment is answered; what somebody holds of the old one stays readable."""
    old = worker(config, segments, 1)
    board.store("worker.0.incarnation", 1)
    peers = Peers(config)
    before = peers.attach(Role.WORKER, 0)
    new = worker(config, segments, 2)
    board.store("worker.0.incarnation", 2)
    old.store("durable_seq", 1)
    new.store("durable_seq", 2)
    old.unlink()
    assert 2 == peers.attach(Role.WORKER, 0).load("durable_seq")
    assert 1 == before.load("durable_seq")


def test_a_segment_that_never_comes_is_named(config, board, monkeypatch):
    """After the patience, the name of what is missing."""
    monkeypatch.setattr(peers_module, "ATTACH_TIMEOUT_SECONDS", 0.0)
    board.store("publisher.0.incarnation", 3)
    with pytest.raises(SegmentMissing, match=segment_name(config, "publisher", 0, 3)):
        Peers(config).attach(Role.PUBLISHER, 0)


def test_a_segment_of_other_sizes_is_refused(config, segments, board):
    """A segment that was made by a process with another configuration is not read."""
    other = replace(config, rings=replace(config.rings, input_slots=1 << 15))
    name = segment_name(config, "router", 0, 1)
    segments.enter_context(Segment.create(name, router_layout(other), 1))
    board.store("router.0.incarnation", 1)
    with pytest.raises(SegmentMismatch, match=name):
        Peers(config).attach(Role.ROUTER, 0)
