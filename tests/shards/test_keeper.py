"""A snapshot is taken when it is due, counts when log and publisher have it, and is what a start goes on from."""

import shutil

import pytest
from msgspec.structs import replace

from ringpit.engine.digest import digest
from ringpit.engine.exchange import Exchange
from ringpit.engine.limits import Limits
from ringpit.engine.state import StateTooLarge
from ringpit.shards import keeper as keepers
from ringpit.shards.config import Config
from ringpit.shards.keeper import Keeper, Place, load_newest, store_of
from ringpit.testing.house import until
from ringpit.wal.errors import SnapshotFailed, SnapshotForeign, SnapshotMissing
from ringpit.wal.memory import MemoryLog
from ringpit.wal.snapshots import SnapshotStore

SEQ = 40


@pytest.fixture
def config(tmp_path):
    """A configuration whose snapshots lie in the test's folder."""
    default = Config()
    return replace(
        default,
        exchange=replace(default.exchange, data=str(tmp_path), generation=1),
        limits=replace(default.limits, events=8, orders=64, levels=4_096, keys=64),
    )


@pytest.fixture
def said():
    """What was said."""
    return []


@pytest.fixture
def store(config):
    """The snapshots of shard 0."""
    return SnapshotStore(config.snapshots_folder(), 0)


@pytest.fixture
def tables():
    """A shard with an order that rests."""
    exchange = Exchange(Limits(events=8, orders=64, levels=4_096, keys=64), market_data=True)
    exchange.create_event(1)
    exchange.create_event(2)
    exchange.order(1, order=1, account=1, side="buy", price=50, quantity=3)
    return exchange.tables


def place(seq=SEQ, **changed):
    """Where a snapshot is taken."""
    facts = {
        "generation": 1,
        "seq": seq,
        "epoch": 3,
        "nonce": 9,
        "confirmed_seq": seq - 5,
        "skip_count": 0,
        "log_position": 7,
        "log_seq": seq - 2,
        "log_identity": MemoryLog().identity(),
    }
    return Place(**(facts | changed))


def keeper_for(store, said, **changed):
    """A keeper that is due at once."""
    options = {"interval_seconds": 1e-9, "keep": 2, "say": said.append}
    return Keeper(store, **(options | changed))


def take(keeper, tables, seq=SEQ, durable=SEQ, confirmed=SEQ):
    """Take a snapshot and wait until the keeper has nothing on its way."""
    keeper.take(tables, place(seq), lambda: 77)
    until(lambda: keeper.step(durable, confirmed, 1_000), "the snapshot is there")


@pytest.mark.parametrize(("durable", "confirmed"), [(SEQ - 1, SEQ), (SEQ, SEQ - 1), (0, 0)])
def test_it_counts_only_when_log_and_publisher_have_it(store, said, tables, durable, confirmed):
    """Until both have its seq there is nothing that a start would find (KE2)."""
    keeper = keeper_for(store, said)
    assert keeper.due()
    keeper.take(tables, place(), lambda: 77)
    until(lambda: any(store.folder.glob("*.unfinished")) and not keeper._thread.is_alive(), "it is written")
    assert not keeper.step(durable, confirmed, 0)
    assert not keeper.due(), "one is on its way (KE1)"
    assert store.newest(said.append) is None
    assert keeper.step(SEQ, SEQ, 0)
    assert SEQ == store.newest(said.append).facts.seq
    assert f"snapshot at seq {SEQ}" in said[-1]


def test_what_is_loaded_is_what_was_taken(config, store, said, tables):
    """Books, and where a reader begins."""
    take(keeper_for(store, said), tables)
    loaded = load_newest(config, 0, MemoryLog(), said.append)
    assert digest(tables) == digest(loaded.tables)
    begin = loaded.begin
    assert (3, 9, SEQ, 77, SEQ, 0, SEQ - 2, 7) == (
        begin.epoch, begin.nonce, begin.seq, begin.checksum, begin.confirmed_seq, begin.skip_count, begin.log_seq,
        loaded.position,
    )  # fmt: skip


def test_the_checksum_may_come_later(store, said, tables):
    """The log may still be busy with what the snapshot holds: it is asked again until it knows."""
    known = iter([None, None, 5])
    keeper = keeper_for(store, said)
    keeper.take(tables, place(), lambda: next(known))
    until(lambda: keeper.step(SEQ, SEQ, 0), "the snapshot is there")
    assert 5 == store.newest(said.append).facts.checksum


def test_older_ones_go_and_growth_is_told(store, said, tables):
    """As many as wanted are kept; from the second on, the line says how fast the log grows and when the disk is full."""
    keeper = keeper_for(store, said)
    for seq, log_bytes in ((40, 1_000), (50, 2_000), (60, 9_000)):
        keeper.take(tables, place(seq), lambda: 1)
        until(lambda log_bytes=log_bytes: keeper.step(100, 100, log_bytes), "the snapshot is there")
    assert [60, 50] == [found.seq for found in store.listing()]
    assert "grows" not in said[0]
    assert "GiB a day: this disk is full in" in said[2]


def test_the_same_seq_is_not_taken_again(store, said, tables):
    """Nothing has happened: the file that is there is as good."""
    keeper = keeper_for(store, said)
    take(keeper, tables)
    take(keeper, tables)
    assert 1 == len(said)


def test_one_that_fails_is_told_and_tried_again(store, said, tables, monkeypatch):
    """The disk is full: a sentence, and the next at its time."""

    def full(_facts, _arrays):
        raise SnapshotFailed("no room for a snapshot")

    keeper = keeper_for(store, said)
    with monkeypatch.context() as patched:
        patched.setattr(store, "write", full)
        take(keeper, tables)
    assert ["shard 0: no room for a snapshot"] == said
    assert keeper.due()
    take(keeper, tables)
    assert SEQ == store.newest(said.append).facts.seq


def test_a_log_that_does_not_last_has_none(config, store, said, tables):
    """A snapshot would outlive the log, and be newer than it."""
    keeper = keepers.keeper_of(
        replace(config, log=replace(config.log, kind="memory")), 0, said.append, timed=True
    )
    take(keeper, tables)
    assert [] == store.listing()
    take(keeper_for(store, said), tables)
    assert (
        load_newest(replace(config, log=replace(config.log, kind="memory")), 0, MemoryLog(), said.append)
        is None
    )


def test_what_does_not_belong_together_is_refused(config, store, said, tables):
    """Another log, another generation, too small pools: each a sentence with the remedy."""
    take(keeper_for(store, said), tables)
    other = replace(config, exchange=replace(config.exchange, generation=4))
    with pytest.raises(SnapshotMissing, match=r"shard 0 of topology generation 4 begins with a snapshot"):
        load_newest(other, 0, MemoryLog(), said.append)
    shutil.copytree(store.folder, store_of(other, 0).folder)
    with pytest.raises(SnapshotForeign, match=r"its topology generation must be 4, was 1.*snapshots\.folder"):
        load_newest(other, 0, MemoryLog(), said.append)
    log = MemoryLog()
    log.identity = lambda: "another"
    with pytest.raises(SnapshotForeign, match=r"its log must be 'another'.*name the right log"):
        load_newest(config, 0, log, said.append)
    small = replace(config, limits=replace(config.limits, events=1))
    with pytest.raises(StateTooLarge, match="events"):
        load_newest(small, 0, MemoryLog(), said.append)


def test_at_the_end_it_waits_for_what_is_on_its_way(store, said, tables):
    """In time: it counts. Not in time: it is left, and no start finds it."""
    keeper = keeper_for(store, said, interval_seconds=0)
    assert not keeper.due()
    keeper.take(tables, place(), lambda: 1)
    assert not keeper.finish(lambda: (0, 0, 0), 0.05)
    assert store.newest(said.append) is None
    assert keeper.finish(lambda: (SEQ, SEQ, 0), 30)
    assert SEQ == store.newest(said.append).facts.seq
