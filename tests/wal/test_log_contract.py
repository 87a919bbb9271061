"""One contract for all logs: in memory, in segment files, in a real Kafka."""

import functools
import uuid

import pytest

from ringpit.wal.kafka import KafkaLog, KafkaSettings
from ringpit.wal.memory import MemoryLog
from ringpit.wal.reader import recover
from ringpit.wal.segments import SegmentLog
from ringpit.wal.writer import BatchWriter


@pytest.fixture(params=["memory", "segments", pytest.param("kafka", marks=pytest.mark.brokers)])
def reopen(request, make, tmp_path):
    """A function that closes the log, if it is open, and opens it again over what it held."""
    if request.param == "memory":
        factory = functools.partial(MemoryLog, [])
    elif request.param == "segments":
        factory = functools.partial(SegmentLog, tmp_path, make.shard)
    else:
        bootstrap = request.getfixturevalue("kafka_bootstrap")
        topic = f"ringpit-contract-{uuid.uuid4().hex}"
        settings = KafkaSettings(
            bootstrap_servers=bootstrap, topic=topic, shards=make.shard + 1, flush_messages=1
        )
        factory = functools.partial(KafkaLog, settings, make.shard)
    opened = []

    def again():
        while opened:
            opened.pop().close()
        opened.append(factory())
        return opened[-1]

    yield again
    while opened:
        opened.pop().close()


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
