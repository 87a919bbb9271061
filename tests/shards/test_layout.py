"""Where each word and record lies in shared memory, and that no two versions are taken for each other."""

import pytest
from msgspec.structs import replace

from ringpit.ipc.segment import LINE_CELLS
from ringpit.shards.config import Config
from ringpit.shards.layout import (
    POSITION_BITS,
    Role,
    board_layout,
    counts,
    first_position,
    ingress_layout,
    prefix,
    publisher_layout,
    queries_layout,
    router_layout,
    segment_name,
    worker_layout,
)

CONFIG = Config()
LAYOUTS = (board_layout, router_layout, worker_layout, publisher_layout, ingress_layout, queries_layout)


def sized(**sections):
    """The default configuration with some keys changed, section by section."""
    changed = {name: replace(getattr(CONFIG, name), **values) for name, values in sections.items()}
    return replace(CONFIG, **changed)


@pytest.mark.parametrize("make", LAYOUTS)
def test_every_word_has_a_line_of_its_own(make):
    """No two words, and none and the header, share a pair of cache lines: who writes one disturbs no reader of another."""
    layout = make(CONFIG)
    lines = [layout.index(word) // LINE_CELLS for word in layout.words]
    assert list(range(1, len(layout.words) + 1)) == sorted(lines)
    assert all(layout.index(word) % LINE_CELLS == 0 for word in layout.words)


@pytest.mark.parametrize("make", LAYOUTS)
def test_regions_follow_each_other(make):
    """Words come first, then each region behind the one before, all within the segment."""
    layout = make(CONFIG)
    end = layout.cells_total * 8
    for region in layout.regions:
        assert layout.offset(region.name) >= end
        end = layout.offset(region.name) + region.count * region.dtype.itemsize
    assert end <= layout.bytes_total


def test_layouts_of_different_kinds_have_different_digests():
    """A worker's segment is never taken for a router's."""
    assert len(LAYOUTS) == len({make(CONFIG).digest for make in LAYOUTS})


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (board_layout, sized(exchange={"shards": 3})),
        (board_layout, sized(exchange={"routers": 2})),
        (router_layout, sized(exchange={"shards": 3})),
        (router_layout, sized(rings={"input_slots": 1 << 15})),
        (worker_layout, sized(exchange={"routers": 2})),
        (worker_layout, sized(rings={"journal_slots": 1 << 15})),
        (worker_layout, sized(rings={"output_slots": 1 << 15})),
        (worker_layout, sized(limits={"events": 64})),
        (publisher_layout, sized(limits={"levels": 1 << 15})),
        (publisher_layout, sized(exchange={"shards": 3})),
        (ingress_layout, sized(rings={"ingress_slots": 1 << 15})),
        (queries_layout, sized(exchange={"shards": 3})),
    ],
)
def test_a_configuration_that_moves_anything_changes_the_digest(make, other):
    """Attaching with another idea of the sizes is refused, because the digest differs."""
    assert make(CONFIG).digest != make(other).digest


def test_positions_of_a_later_life_are_larger():
    """However far an earlier incarnation came, its positions are below the next one's first."""
    assert 0 < first_position(1)
    for incarnation in (1, 2, 1_000):
        last = first_position(incarnation) + (1 << POSITION_BITS) - 1
        assert last < first_position(incarnation + 1)


def test_positions_leave_room_for_the_frozen_bit():
    """A million lives fit below bit 62, which says that a ring is frozen."""
    assert first_position(1_000_000) + (1 << POSITION_BITS) < 1 << 62


def test_segment_names_tell_exchange_role_and_life():
    """Every segment of an exchange begins with its prefix, and no other exchange's does."""
    assert "ringpit.ringpit.worker.1.7" == segment_name(CONFIG, Role.WORKER.label, 1, 7)
    longer = sized(exchange={"name": "ringpit-2"})
    assert not segment_name(longer, "board", 0, 0).startswith(prefix(CONFIG))


def test_processes_stop_in_the_order_of_the_flow():
    """Followers stop first, or they would take over; then whoever feeds others."""
    assert [Role.FOLLOWER, Role.ROUTER, Role.WORKER, Role.PUBLISHER] == list(Role)
    config = sized(exchange={"routers": 2, "shards": 5})
    wanted = {Role.ROUTER: 2, Role.WORKER: 5, Role.PUBLISHER: 1, Role.FOLLOWER: 0}
    assert wanted == counts(config)
    followed = replace(config, follower=replace(config.follower, enabled=True))
    assert wanted | {Role.FOLLOWER: 5} == counts(followed)


def test_the_board_names_every_process():
    """An incarnation and a stop request for each process, for workers how careful they shall be, and nothing else."""
    words = board_layout(sized(exchange={"routers": 2, "shards": 3})).words
    assert 2 * (2 + 3 + 1) + 3 == len(words)
    assert {"router.1.incarnation", "worker.2.stop", "worker.2.careful", "publisher.0.stop"} <= set(words)
