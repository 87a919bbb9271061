"""Two owners of one shard in a real Kafka: one is paused, another takes over, the first is woken."""

import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringpit.testing.proxy import PRODUCE, KafkaProxy
from ringpit.wal.errors import Fenced
from ringpit.wal.kafka import KafkaLog, KafkaSettings, KafkaView
from ringpit.wal.reader import Reader, recover
from ringpit.wal.writer import BatchWriter

pytestmark = pytest.mark.brokers
DEADLINE_SECONDS = 60.0
PAUSES = 3

# Appends for ever, as a worker does; "frozen" says how many batches are out and not acknowledged. Ends with the log's error.
OWNER = """
import sys
sys.path.insert(0, {folder!r})
from conftest import frames_of, SHARD, GENERATION
from ringpit.wal.errors import LogError
from ringpit.wal.kafka import KafkaLog, KafkaSettings
from ringpit.wal.reader import recover
from ringpit.wal.writer import BatchWriter
log = KafkaLog(KafkaSettings(bootstrap_servers={bootstrap!r}, topic={topic!r}, shards=SHARD + 1, transactional={transactional}, connect_timeout_seconds=60), SHARD)
writer = BatchWriter(recover(log, SHARD, GENERATION, {nonce}, lambda *_: None), in_flight_max=8)
try:
    while True:
        while writer.ready:
            log.append(writer.cut(frames_of(3, first_order=writer.next_seq, router=1), confirmed_seq=0)[0])
        if writer.advance(log.poll(0.01)):
            print(writer.durable_seq, writer.in_flight_count, flush=True)
except LogError as error:
    print(type(error).__name__, error, flush=True)
"""


@pytest.fixture
def settings(kafka_bootstrap, make):
    """A function that makes settings for a topic of its own."""

    def made(*, transactional):
        return KafkaSettings(
            bootstrap_servers=kafka_bootstrap,
            topic=f"ringpit-fence-{uuid.uuid4().hex}",
            shards=make.shard + 1,
            transactional=transactional,
            connect_timeout_seconds=60,
        )

    return made


class Owner:
    """Instance A: a process of its own that appends without end."""

    def __init__(self, settings, nonce=1001):
        """Start it, and wait until it has made something durable."""
        program = OWNER.format(
            folder=str(Path(__file__).parent),
            bootstrap=settings.bootstrap_servers,
            topic=settings.topic,
            transactional=settings.transactional,
            nonce=nonce,
        )
        self.process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        self.lines = []
        while not self.lines or int(self.lines[-1].split()[0]) < 400:
            self.lines.append(self.process.stdout.readline())

    def pause(self):
        """SIGSTOP; returns when it stands still."""
        os.kill(self.process.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "A stands still")

    def wake(self):
        """SIGCONT."""
        os.kill(self.process.pid, signal.SIGCONT)

    def last_words(self):
        """What it says until it ends by itself; the last line is the error."""
        self.lines += self.process.stdout.read().splitlines()
        assert 0 == self.process.wait(DEADLINE_SECONDS)
        return self.lines[-1]

    def durable_seq(self):
        """What it called durable at last."""
        return max(int(line.split()[0]) for line in self.lines if line[:1].isdigit())

    def close(self):
        """End it, however it stands."""
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)
        self.process.stdout.close()


@pytest.fixture
def owner():
    """A function that starts instance A."""
    started = []

    def start(settings):
        started.append(Owner(settings))
        return started[-1]

    yield start
    for each in started:
        each.close()


class History:
    """All that a reader takes from the log, by the reader rule."""

    def __init__(self, settings, make):
        """Read from the beginning to the end as it is now."""
        view = KafkaView(settings, make.shard)
        reader = Reader(make.shard, make.generation)
        taken, self.nonces = [], []
        for entry in view.read():
            header, records = reader.take(entry.batch, view.locate(entry.position))
            self.nonces.append(int(header["nonce"]))
            taken.append(records.tobytes())
        view.close()
        self.records = b"".join(taken)
        self.next_seq, self.epoch = reader.next_seq, reader.epoch


def until(condition, what):
    """Poll until a condition holds; fail saying what was waited for."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        os.sched_yield()


def take_over(settings, make):
    """Instance B: the whole way of a start, and a few batches of its own; what it read and where it ended."""
    log, seen = KafkaLog(settings, make.shard), []
    state = recover(log, make.shard, make.generation, 2002, lambda _, records: seen.append(records.copy()))
    assert 2 == state.epoch
    assert sum(map(len, seen)) == state.next_seq - 1
    writer = BatchWriter(state)
    for _ in range(5):
        while not writer.ready:
            writer.advance(log.poll(0.1))
        log.append(writer.cut(make.frames(2, first_order=writer.next_seq, router=2), confirmed_seq=0)[0])
    while writer.in_flight_count:
        writer.advance(log.poll(0.1))
    return log, np.concatenate(seen).tobytes(), writer


@pytest.mark.parametrize("pause", range(PAUSES))
def test_paused_owner_is_fenced(settings, owner, make, pause):
    """A wakes to find itself fenced: no record of its is behind B's claim, readers agree with B, and A says why it ends."""
    chosen = settings(transactional=True)
    first = owner(chosen)
    for _ in range(pause * 20):  # another moment each time
        first.lines.append(first.process.stdout.readline())
    first.pause()
    log, inherited, writer = take_over(chosen, make)
    before = History(chosen, make)
    assert before.records.startswith(inherited)
    first.wake()
    words = first.last_words()
    assert words.startswith("Fenced another instance owns shard 3 now"), words
    assert "let the other one run" in words
    after = History(chosen, make)
    assert (before.records, before.nonces, 2) == (after.records, after.nonces, after.epoch)
    assert first.durable_seq() < len(inherited) // 64 + 1
    log.append(writer.mark(0, clean=True))
    while writer.in_flight_count:
        writer.advance(log.poll(0.1))
    log.close()
    again = KafkaLog(chosen, make.shard)
    assert writer.next_seq == recover(again, make.shard, make.generation, 3, lambda *_: None).next_seq
    again.close()


def test_reader_rule_alone_ignores_a_woken_owner(settings, owner, make):
    """Without transactions Kafka takes what A sends when it wakes, and calls it durable; no reader does."""
    chosen = settings(transactional=False)
    first = owner(chosen)
    first.pause()
    log, inherited, writer = take_over(chosen, make)
    before = History(chosen, make)
    first.wake()
    wanted = first.durable_seq() + 4 * 200
    while first.durable_seq() < wanted:
        first.lines.append(first.process.stdout.readline())
    first.close()
    after = History(chosen, make)
    assert 1001 in after.nonces[len(before.nonces) :]
    assert (before.records, before.next_seq, 2) == (after.records, after.next_seq, after.epoch)
    assert before.records.startswith(inherited)
    assert writer.next_seq == after.next_seq
    log.close()


@pytest.mark.parametrize("transactional", [True, False])
def test_batches_that_arrive_after_the_next_claim(settings, owner, make, kafka_bootstrap, transactional):
    """A's batches are still on their way to Kafka when B claims. They come behind the claim or are refused, and count for nobody."""
    chosen = settings(transactional=transactional)
    with KafkaProxy(kafka_bootstrap) as proxy:
        first = owner(replace(chosen, bootstrap_servers=proxy.bootstrap))
        with proxy.requests_held(PRODUCE):
            until(lambda: proxy.standing_count(PRODUCE), "a batch on its way")
            first.pause()
            log, inherited, _ = take_over(chosen, make)
            before = History(chosen, make)
        until(lambda: not proxy.standing_count(PRODUCE), "all batches on their way again")
        if not transactional:
            until(lambda: len(History(chosen, make).nonces) > len(before.nonces), "A's batch in the log")
        first.wake()
        if transactional:
            assert first.last_words().startswith("Fenced another instance owns shard 3 now")
        after = History(chosen, make)
        assert (before.records, before.next_seq, 2) == (after.records, after.next_seq, after.epoch)
        assert before.records.startswith(inherited)
        assert not transactional or before.nonces == after.nonces
        first.close()
        log.close()


def test_fenced_in_the_middle_of_nothing(settings, make):
    """An owner without anything in flight learns it at its next append or commit, and for good."""
    chosen = settings(transactional=True)
    first = KafkaLog(chosen, make.shard)
    assert "a former owner is refused" in first.describe()
    recover(first, make.shard, make.generation, 1, lambda *_: None)
    second = KafkaLog(chosen, make.shard)
    recover(second, make.shard, make.generation, 2, lambda *_: None)
    with pytest.raises(Fenced, match=r"another instance owns shard 3 now: .*transactional.id 'ringpit\."):
        append_until_told(first, make)
    with pytest.raises(Fenced):
        first.append(make.claim(9))
    with pytest.raises(Fenced):
        first.poll()
    first.close()
    assert 2 == History(chosen, make).epoch
    second.close()


def append_until_told(log, make):
    """Append and poll until the log raises."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    log.append(make.batch(make.frames(1)))
    while time.monotonic() < deadline:
        log.poll(0.1)


def test_commits_leave_holes_that_nobody_falls_into(settings, make, monkeypatch):
    """Commits take offsets: positions, ends and reading on do not mind, nor does a log that ends with one."""
    monkeypatch.setattr("ringpit.wal.transactions.COMMIT_SECONDS", 0.0)
    log = KafkaLog(settings(transactional=True), make.shard)
    batches = [make.claim(1), *(make.batch(make.frames(1), first_seq=1 + 2 * n) for n in range(30))]
    for count, batch in enumerate(batches, 1):
        log.append(batch)
        make.wait_durable(log, count)
    log.poll()
    entries = list(log.read())
    assert batches == [entry.batch for entry in entries]
    assert entries[-1].position > 2 * (len(batches) - 1) - 1
    for index, entry in enumerate(entries):
        assert entries[index:] == list(log.read(entry.position))
        assert entries[index + 1 :] == list(log.read(entry.following))
    assert [] == list(log.read(log.durable_end))
    log.trim(entries[7].position)
    assert entries[7:] == list(log.read(log.beginning()))
    log.close()
