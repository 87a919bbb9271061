"""An event's shard is decided once, by the log, the placement or a hash that never changes."""

import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine.limits import INT64_MAX
from ringpit.ipc.segment import Region, Segment, SegmentLayout
from ringpit.shards.directory import PLACEMENT_VERSION, Directory, home_of, settle_home
from ringpit.shards.layout import EVENT
from ringpit.shards.prices import spec_of
from ringpit.shards.sections import Placement

LAYOUT = SegmentLayout("worker", ("events_count",), (Region("events", EVENT, 16),))
CENT = spec_of()
EVENTS = st.integers(-INT64_MAX - 1, INT64_MAX)


@pytest.fixture
def worker():
    """What a worker shows of its events; it shows none yet."""
    with Segment.create(f"ringpit.test-{uuid.uuid4().hex[:12]}", LAYOUT) as segment:
        yield segment


def show(worker, *rows):
    """The worker shows more events: (event, low, high, payout, tick units, decimals)."""
    count = worker.load("events_count")
    for place, row in enumerate(rows, count):
        worker.region("events")[place] = row
    worker.store("events_count", count + len(rows))


def test_the_hash_is_fixed_for_ever():
    """Logs were written by this placement: the first version's answers may never change."""
    assert 1 == PLACEMENT_VERSION
    two, seven, sixty_four = (Directory(shards, 1) for shards in (2, 7, 64))
    expected = {
        0: (0, 0, 0),
        1: (0, 1, 40),
        2: (0, 0, 16),
        7: (0, 6, 8),
        4711: (1, 2, 19),
        1000000000000: (1, 3, 33),
        -1: (1, 4, 59),
        9223372036854775807: (1, 1, 47),
        -9223372036854775808: (0, 5, 8),
    }
    assert expected == {
        event: (two.shard_of(event), seven.shard_of(event), sixty_four.shard_of(event)) for event in expected
    }


def test_consecutive_events_are_spread():
    """No shard of eight gets more than a quarter above its share of ten thousand consecutive ids."""
    directory = Directory(8, 1)
    counts = np.bincount([directory.shard_of(event) for event in range(10_000)], minlength=8)
    assert 10_000 == counts.sum()
    assert counts.max() < 1_250 * 1.25


@given(st.lists(st.tuples(EVENTS, st.integers(0, 4)), max_size=20), st.lists(EVENTS, max_size=5))
def test_an_event_stays_where_it_was_settled_first(settled, strangers):
    """The first home holds; who was never settled goes by hash, whatever else is in the table."""
    directory = Directory(5, 20)
    empty = Directory(5, 20)
    expected = {}
    for event, shard in settled:
        directory._settle(event, shard)
        expected.setdefault(event, shard)
    for event in strangers:
        expected.setdefault(event, empty.shard_of(event))

    assert expected == {event: directory.shard_of(event) for event in expected}


def test_an_event_whose_prices_are_no_decimals_has_no_spec(worker):
    """The engine takes ticks that the edge has no decimals for; the router goes on, and prices come as ticks."""
    directory = Directory(2, 8)
    directory.create(7, CENT)
    show(worker, (7, 1, 99, 100, 1, 18), (8, 1, 99, 100, 1, 2))
    assert 2 == directory.learn(1, worker)
    assert (None, CENT) == (directory.spec_of(7), directory.spec_of(8))
    assert 1 == directory.shard_of(7)


def test_a_full_table_sends_later_events_by_hash():
    """Nothing is overwritten: what does not fit is as if it were unknown."""
    homes = Directory(2, 2).homes
    assert settle_home(homes, 10, 1)
    assert settle_home(homes, 11, 1)
    assert not settle_home(homes, 12, 1 - home_of(Directory(2, 2).homes, 12))
    assert [1, 1] == [home_of(homes, event) for event in (10, 11)]
    assert home_of(Directory(2, 2).homes, 12) == home_of(homes, 12)


def test_the_log_wins_over_the_placement(worker):
    """An event that a worker shows stays with it; the placement is for events that no log has."""
    directory = Directory(2, 4, Placement(events={7: 1, 8: 1}))
    show(worker, (7, 1, 99, 100, 1, 2))
    assert 1 == directory.learn(0, worker)
    directory.place()
    assert [0, 1] == [directory.shard_of(event) for event in (7, 8)]


def test_placing_twice_changes_nothing():
    """Each time a worker was replaced the placement is applied again."""
    directory = Directory(2, 1, Placement(events={7: 1}))
    directory.place()
    directory.place()
    assert 1 == directory.homes.cells[0]
    assert 1 == directory.shard_of(7)


def test_what_a_worker_shows_is_learned_once_and_completely(worker):
    """Only rows that are counted are read; the next look goes on behind them, also for a new incarnation."""
    directory = Directory(2, 8)
    show(worker, (7, 1, 99, 100, 1, 2))
    assert 1 == directory.learn(1, worker)
    assert 0 == directory.learn(1, worker)
    show(worker, (8, 10, 50, 60, 25, 3), (9, 1, 9, 10, 1, 1))
    assert 2 == directory.learn(1, worker)

    assert [1, 1, 1] == [directory.shard_of(event) for event in (7, 8, 9)]
    spec = directory.spec_of(8)
    assert (10, 50, 60, 25, 3) == (
        spec.low_ticks, spec.high_ticks, spec.payout_ticks, spec.tick_units, spec.decimals
    )  # fmt: skip


def test_the_log_s_prices_win_over_those_that_were_only_asked_for(worker):
    """A creation under way teaches its prices, the first one for good, until the log says what became of it."""
    directory = Directory(2, 8)
    assert directory.spec_of(7) is None
    directory.create(7, CENT)
    directory.create(7, spec_of("0.001"))
    assert CENT is directory.spec_of(7)

    show(worker, (7, 1, 999, 1_000, 1, 3))
    directory.learn(0, worker)
    assert spec_of("0.001") == directory.spec_of(7)


# Ranges and shards of their own ---------------------------------------------------------------------------


PLACED = Placement(
    events={1_500: 0},
    ranges={"1000..1999": 2, "-5..-1": 1, "9223372036854775807..9223372036854775807": 2},
    reserved=[2],
)


def test_a_range_of_events_has_a_shard_of_its_own():
    """From its first id to its last; one event's own place goes before; nobody else gets to a reserved shard."""
    directory = Directory(3, 8, PLACED)
    directory.place()
    assert [2, 2, 0, 2] == [directory.shard_of(event) for event in (1_000, 1_999, 1_500, 1_501)]
    assert [1, 1, 2] == [directory.shard_of(event) for event in (-5, -1, (1 << 63) - 1)]
    others = {directory.shard_of(event) for event in (*range(1_000), *range(2_000, 5_000), *range(-1_000, -5))}
    assert {0, 1} == others


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_ranges_are_as_a_plain_program_places_them(event):
    """One by one, in the order of the rule."""
    directory = Directory(3, 8, PLACED)
    directory.place()
    ranges = [(*map(int, text.split("..")), shard) for text, shard in PLACED.ranges.items()]
    placed = [PLACED.events[event]] if event in PLACED.events else []
    placed += [shard for first, last, shard in ranges if first <= event <= last]
    assert directory.shard_of(event) == (placed[0] if placed else Directory(2, 1).shard_of(event))
