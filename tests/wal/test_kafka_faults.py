"""Kafka's log behind a proxy that cuts, delays and swallows: nothing is lost, doubled or swapped, or it says that it failed."""

import random
import uuid

import pytest

from ringpit.testing.proxy import END_TRANSACTION, PRODUCE, Fault, KafkaProxy
from ringpit.wal.errors import LogError
from ringpit.wal.kafka import KafkaLog, KafkaSettings, KafkaView
from ringpit.wal.reader import Reader, recover
from ringpit.wal.writer import BatchWriter

pytestmark = pytest.mark.brokers
BATCHES = 60
FAULTS = [fault for fault in Fault if fault is not Fault.NONE]
# A request whose answer never comes is given up after a second, not after a minute; reconnecting does not wait.
PATIENCE = {
    "socket.timeout.ms": 1000,
    "reconnect.backoff.ms": 10,
    "reconnect.backoff.max.ms": 50,
    "retry.backoff.ms": 10,
}


@pytest.fixture
def proxy(kafka_bootstrap):
    """A proxy before the real Kafka."""
    with KafkaProxy(kafka_bootstrap) as proxy:
        yield proxy


@pytest.fixture(params=[False, True], ids=["plain", "transactional"])
def settings(request, kafka_bootstrap, make):
    """A function that makes settings of one topic, over the proxy or not."""
    topic = f"ringpit-fault-{uuid.uuid4().hex}"

    def made(proxy=None):
        return KafkaSettings(
            bootstrap_servers=proxy.bootstrap if proxy else kafka_bootstrap,
            topic=topic,
            shards=make.shard + 1,
            transactional=request.param,
            connect_timeout_seconds=60,
            settings=PATIENCE,
        )

    return made


class Stream:
    """An owner that appends a stream of batches, each of other records."""

    def __init__(self, settings, make):
        """Open and take over."""
        self.log = KafkaLog(settings, make.shard)
        self.make = make
        self.writer = BatchWriter(
            recover(self.log, make.shard, make.generation, 11, lambda *_: None), in_flight_max=4
        )
        self.written = []
        self.failure = None

    def append(self, count):
        """Append so many batches and wait until all are durable, or the log fails."""
        try:
            for _ in range(count):
                records = self.make.frames(2, 1, first_order=self.writer.next_seq, router=1)
                self.written.append(records.tobytes())
                self.log.append(self.writer.cut(records, confirmed_seq=0)[0])
                while not self.writer.ready:
                    self.writer.advance(self.log.poll(0.1))
            while self.writer.in_flight_count:
                self.writer.advance(self.log.poll(0.1))
        except LogError as error:
            self.failure = error


def require_whole(stream, settings, make):
    """
    Exactly what was written, in order; after a failure a prefix of it that holds all that was called durable.

    Read by the reader rule, then by a recovery, which must find the same.
    """
    view = KafkaView(settings, make.shard)
    reader = Reader(make.shard, make.generation)
    taken = b"".join(
        reader.take(entry.batch, view.locate(entry.position))[1].tobytes() for entry in view.read()
    )
    written = b"".join(stream.written)
    assert written.startswith(taken)
    assert stream.writer.durable_seq <= reader.next_seq - 1
    assert stream.failure or written == taken, stream.failure
    stream.log.close()
    log, seen = KafkaLog(settings, make.shard), []
    state = recover(log, make.shard, make.generation, 12, lambda _, records: seen.append(records.tobytes()))
    log.close()
    assert taken == b"".join(seen)[: len(taken)]
    assert written.startswith(b"".join(seen))
    assert (2, reader.next_seq) <= (state.epoch, state.next_seq)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.lower())
def test_fault_under_a_stream(proxy, settings, make, fault):
    """
    A fault that comes again and again: the log goes on by itself, and holds each batch once.

    But an answer that alone is swallowed, which no network does, is too much for the client if others came after it.
    """
    stream = Stream(settings(proxy), make)
    proxy.plan(
        PRODUCE, [Fault.NONE, Fault.NONE, fault, Fault.NONE, Fault.NONE, Fault.NONE, fault, Fault.NONE] * 2
    )
    stream.append(BATCHES)
    assert proxy.done[fault]
    assert stream.failure is None or fault is Fault.DROP
    require_whole(stream, settings(), make)


@pytest.mark.parametrize(
    ("seed", "faults"), [(0, 12), *(pytest.param(seed, 80, marks=pytest.mark.soak) for seed in range(1, 20))]
)
def test_faults_in_any_order(proxy, settings, make, seed, faults):
    """Random faults, also of commits: whatever the client makes of them, the log holds a prefix and no gap."""
    chance = random.Random(seed)
    stream = Stream(settings(proxy), make)
    swift = [fault for fault in Fault if fault is not Fault.DROP]  # that one costs a second each
    proxy.plan(PRODUCE, chance.choices(swift, [8, 1, 2, 2, 2], k=faults))
    proxy.plan(END_TRANSACTION, chance.choices(swift, [1, 1, 2, 2, 2], k=4))
    while stream.failure is None and proxy.planned_count(PRODUCE):
        stream.append(BATCHES)
    require_whole(stream, settings(), make)


def test_connections_cut_at_any_moment(proxy, settings, make):
    """Cutting all connections again and again is only slow."""
    stream = Stream(settings(proxy), make)
    for _ in range(3):
        stream.append(BATCHES // 3)
        proxy.cut()
    assert stream.failure is None
    require_whole(stream, settings(), make)


def test_appended_and_never_acknowledged(proxy, settings, make):
    """The owner dies before the answer: what Kafka had appended is found by the next owner, though nobody called it durable."""
    stream = Stream(settings(proxy), make)
    stream.append(5)
    durable_seq = stream.writer.durable_seq
    proxy.plan(PRODUCE, [Fault.DROP] * 100)  # however often the client tries again while we look
    records = make.frames(2, 1, first_order=stream.writer.next_seq, router=1)
    stream.written.append(records.tobytes())
    stream.log.append(stream.writer.cut(records, confirmed_seq=0)[0])
    appended = KafkaView(settings(), make.shard)
    while len(list(appended.read())) < 7:  # the claim and six batches
        assert 0 == stream.writer.advance(stream.log.poll())
    log, seen = KafkaLog(settings(), make.shard), []
    state = recover(log, make.shard, make.generation, 12, lambda _, records: seen.append(records.tobytes()))
    assert b"".join(stream.written) == b"".join(seen)
    assert durable_seq + 5 == state.next_seq - 1
    log.close()
    stream.log.close()
