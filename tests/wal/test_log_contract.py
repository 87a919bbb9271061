"""One contract for all logs: in memory, in segment files, in a real Kafka."""

import functools
import uuid

import pytest

from ringpit.wal.errors import LogGap
from ringpit.wal.kafka import KafkaLog, KafkaSettings, KafkaView
from ringpit.wal.memory import MemoryLog
from ringpit.wal.reader import recover
from ringpit.wal.segments import SegmentLog, SegmentView
from ringpit.wal.writer import BatchWriter


class Place:
    """Where a log lives: opens it, looks at it, and lets go of everything at the end."""

    def __init__(self, log_factory, view_factory):
        """Nothing is open yet."""
        self.log_factory = log_factory
        self.view_factory = view_factory
        self.opened = []

    def reopen(self):
        """Close the log, if it is open, and open it again over what it held."""
        self.close()
        self.opened.append(self.log_factory())
        return self.opened[-1]

    def view(self):
        """Look at what the log holds."""
        return self.view_factory()

    def close(self):
        """Let the log go."""
        while self.opened:
            self.opened.pop().close()


@pytest.fixture(
    params=[
        "memory",
        "segments",
        "short segments",
        *(pytest.param(kind, marks=pytest.mark.brokers) for kind in ("kafka", "transactional")),
    ]
)
def place(request, make, tmp_path):
    """A log of each kind, not open yet."""
    if request.param == "memory":
        factories = [functools.partial(MemoryLog, [])] * 2
    elif request.param.endswith("segments"):
        size = {"segment_bytes": 1} if request.param == "short segments" else {}  # each batch has a file
        factories = [functools.partial(SegmentLog, **size), SegmentView]
        factories = [functools.partial(each, tmp_path, make.shard) for each in factories]
    else:
        bootstrap = request.getfixturevalue("kafka_bootstrap")
        topic = f"ringpit-contract-{uuid.uuid4().hex}"
        settings = KafkaSettings(
            bootstrap_servers=bootstrap,
            topic=topic,
            shards=make.shard + 1,
            flush_messages=1,
            transactional=request.param == "transactional",
            connect_timeout_seconds=60,
        )
        factories = [functools.partial(each, settings, make.shard) for each in (KafkaLog, KafkaView)]
    place = Place(*factories)
    yield place
    place.close()


@pytest.fixture
def reopen(place):
    """A function that closes the log, if it is open, and opens it again over what it held."""
    return place.reopen


def batches_in(log, position=0):
    """All batches from a position on."""
    return [entry.batch for entry in log.read(position)]


def test_new_log_is_empty(reopen):
    """A log begins with nothing in it and nothing durable, and says what durable means."""
    log = reopen()
    assert [] == batches_in(log)
    assert 0 == log.poll(0.0)
    assert "durable" in log.describe() or "lost" in log.describe()


def test_appends_become_durable_in_order_and_read_back(reopen, make):
    """What was appended reads back in order, at once and after opening again."""
    batches = [make.claim(1), *(make.batch(make.frames(order % 5), first_seq=order) for order in range(1, 50))]
    log = reopen()
    for batch in batches:
        log.append(batch)
    assert len(batches) == make.wait_durable(log, len(batches))
    assert batches == batches_in(log)
    log = reopen()
    assert 0 == log.poll()
    assert batches == batches_in(log)
    assert sum(map(len, batches)) <= log.bytes_total


def test_reading_goes_on_where_it_stopped(reopen, make):
    """Any entry's `following` continues right behind it, also across owners; the end gives nothing."""
    log = reopen()
    log.append(make.claim(1))
    log.append(make.batch(make.frames(2)))
    make.wait_durable(log, 2)
    log = reopen()
    log.append(make.claim(2))
    make.wait_durable(log, 1)
    entries = list(log.read())
    assert 3 == len(entries)
    for index, entry in enumerate(entries):
        assert [later.batch for later in entries[index + 1 :]] == batches_in(log, entry.following)
        assert entry.position < entry.following
        assert log.locate(entry.position)
    log.append(make.batch(make.frames(1), epoch=2))
    make.wait_durable(log, 2)
    assert [make.batch(make.frames(1), epoch=2)] == batches_in(log, entries[-1].following)


def test_the_newest_batches_are_found_without_reading_all(place, make):
    """The last batches, oldest first, across owners; as many as there are, for who appends and who looks on alike."""
    log = place.reopen()
    log.append(make.claim(1))
    log.append(make.batch(make.frames(2)))
    make.wait_durable(log, 2)
    log = place.reopen()
    assert [make.batch(make.frames(2))] == [entry.batch for entry in log.newest(1)]
    log.append(make.claim(2))
    make.wait_durable(log, 1)
    entries = list(log.read())
    for count in (1, 2, 3, 9):
        assert entries[-count:] == log.newest(count)
        assert entries[-count:] == place.view().newest(count)


def test_an_empty_log_has_no_newest_batch(reopen):
    """There is nothing to look at."""
    assert [] == reopen().newest(1)


def test_start_write_stop_start_again(reopen, make):
    """Three lives of a shard: each finds all that the lives before it made durable, and the numbers go on."""
    written, confirmed = [], 0
    for life in (1, 2, 3):
        log, seen = reopen(), []
        state = recover(
            log, make.shard, make.generation, 100 + life, lambda _, records, seen=seen: seen.append(records)
        )
        assert life == state.epoch
        assert b"".join(written) == b"".join(records.tobytes() for records in seen)
        assert confirmed == state.confirmed_seq
        writer = BatchWriter(state)
        for round_index in range(20):
            records = make.frames(round_index % 4, 2, router=life, first_order=state.next_seq)
            confirmed = writer.durable_seq
            batch, taken = writer.cut(records, confirmed_seq=confirmed)
            written.append(records[:taken].tobytes())
            log.append(batch)
            while not writer.ready:
                writer.advance(log.poll(1.0))
        while writer.in_flight_count:
            writer.advance(log.poll(1.0))
        assert writer.next_seq - 1 == writer.durable_seq
        assert writer.durable_positions[life] > 0


def test_two_owners_cannot_both_go_on(reopen, make):
    """An owner that recovers again over the same open log gets a newer epoch; the old one's batches stop counting."""
    log = reopen()
    first = recover(log, make.shard, make.generation, 1, lambda *_: None)
    second = recover_on(log, make, 2, already=1)
    assert (1, 2) == (first.epoch, second.epoch)
    stale, _ = BatchWriter(first).cut(make.frames(1), confirmed_seq=0)
    log.append(stale)
    make.wait_durable(log, 3)
    log, seen = reopen(), []
    third = recover(log, make.shard, make.generation, 3, lambda _, records: seen.append(records))
    assert [] == seen
    assert (3, 1) == (third.epoch, third.next_seq)


def recover_on(log, make, nonce, already):
    """Recover over a log to which this process has appended before."""
    make.wait_durable(log, already)
    return recover(log, make.shard, make.generation, nonce, lambda *_: None)


def test_view_reads_beside_the_writer(place, make):
    """A view gives the same entries as the log, also those that come while it is open, and names the same log."""
    log = place.reopen()
    log.append(make.claim(1))
    make.wait_durable(log, 1)
    view = place.view()
    assert list(log.read()) == list(view.read())
    log.append(make.batch(make.frames(2)))
    make.wait_durable(log, 2)
    entries = list(log.read())
    assert entries == list(view.read())
    assert entries[1:] == list(view.read(entries[1].position))
    assert [] == list(view.read(entries[1].following))
    assert (log.identity(), log.beginning()) == (view.identity(), view.beginning())
    assert log.locate(entries[1].position) == view.locate(entries[1].position)
    assert view.describe()
    view.close()


def test_identity_is_kept_for_life(place):
    """Every opener of a log finds the same name."""
    name = place.reopen().identity()
    assert name
    assert name == place.reopen().identity()


def test_durable_end_is_where_ours_ends(place, make):
    """durable_end is 0 until the claim is durable, then behind the newest durable batch of this owner."""
    log = place.reopen()
    assert 0 == log.durable_end
    for count, batch in enumerate([make.claim(1), make.batch(make.frames(2)), make.batch(make.frames(3))], 1):
        log.append(batch)
        make.wait_durable(log, count)
        assert list(log.read())[-1].following == log.durable_end
    log = place.reopen()
    assert 0 == log.durable_end
    log.append(make.claim(2, prior_epoch=1))
    make.wait_durable(log, 1)
    assert list(log.read())[-1].following == log.durable_end


def test_trimmed_log_begins_later(place, make):
    """Trimming forgets what is below a position and nothing else: that can be read on, the beginning is a gap."""
    for epoch in (1, 2, 3):
        log = place.reopen()
        log.append(make.claim(epoch, prior_epoch=epoch - 1))
        log.append(make.batch(make.frames(epoch), epoch=epoch))
        make.wait_durable(log, 2)
    entries = list(log.read())
    assert (6, 0) == (len(entries), log.beginning())
    log.trim(entries[0].position)
    assert entries == list(log.read())
    log.trim(entries[4].position)
    log.append(make.batch(make.frames(9), epoch=3))
    make.wait_durable(log, 3)
    for each in (log, place.view(), place.reopen(), place.view()):
        assert entries[2].position < each.beginning() <= entries[4].position
        assert [*entries[4:]] == list(each.read(entries[4].position))[:2]
        assert entries[5].batch == next(each.read(entries[5].position)).batch
        assert entries[4] == next(each.read(each.beginning()))
        for gone in (0, entries[0].following, entries[2].position):
            with pytest.raises(LogGap):
                list(each.read(gone))
        each.close()


def test_trim_never_takes_all(place, make):
    """Trimming at the newest batch leaves it, and the log goes on."""
    log = place.reopen()
    log.append(make.claim(1))
    log.append(make.batch(make.frames(1)))
    make.wait_durable(log, 2)
    log.trim(list(log.read())[-1].position)
    assert [make.batch(make.frames(1))] == batches_in(log, list(log.read(log.beginning()))[-1].position)
    log.append(make.batch(make.frames(2)))
    make.wait_durable(log, 3)
    assert make.batch(make.frames(2)) == batches_in(log, log.beginning())[-1]
