"""The journal thread makes records durable in order, says so in order, and never outlives a failure."""

import os
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from ringpit.engine.codes import CommandKind
from ringpit.engine.records import MARKER
from ringpit.ipc.idle import MODES
from ringpit.ipc.segment import Segment
from ringpit.shards import journal as journals
from ringpit.shards.config import Config
from ringpit.shards.exits import Exit
from ringpit.shards.flow import flow, frames
from ringpit.shards.journal import Journal
from ringpit.shards.layout import first_position, worker_layout
from ringpit.shards.marks import passed_ns
from ringpit.wal.batch import BatchKind, decode
from ringpit.wal.memory import MemoryLog
from ringpit.wal.reader import recover
from ringpit.wal.writer import BATCH_BYTES_LEAST, BatchWriter

DEADLINE_SECONDS = 30.0
FIRST = first_position(3)
SLOTS = 64


def until(condition, what):
    """Poll until a condition holds; fail saying what was waited for."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not after {DEADLINE_SECONDS} s")


class Shard:
    """A worker's segment, a log that is durable when it is told to, and the thread between them."""

    def __init__(self, wait_mode="sleep"):
        config = Config()
        config = replace(
            config,
            exchange=replace(config.exchange, routers=2),
            limits=replace(config.limits, events=4),
            rings=replace(config.rings, journal_slots=SLOTS, output_slots=8),
        )
        self.segment = Segment.create(f"ringpit.test-{uuid.uuid4().hex[:12]}", worker_layout(config), 3)
        for word in ("journal_tail", "journal_head"):
            self.segment.store(word, FIRST)
        self.log = MemoryLog()
        state = recover(self.log, 0, 1, 1, lambda _header, _records: None)
        self.log.held = True
        self.confirmed = 0
        self.journal = Journal(
            self.segment,
            lambda: (self.log, BatchWriter(state, batch_bytes_max=BATCH_BYTES_LEAST, in_flight_max=8)),
            routers=2,
            first_position=FIRST,
            confirmed_seq=lambda: self.confirmed,
            cores=[],
            wait_mode=wait_mode,
        )

    def close(self):
        """End the thread and remove the segment."""
        self.log.held = False
        self.log.release()
        if self.journal._thread.is_alive():
            assert self.journal.stop(DEADLINE_SECONDS, clean=True)
        self.segment.unlink()
        self.segment.close()

    def publish(self, records, *, router=0):
        """The worker publishes frames, which say where they lay in their router's ring."""
        tail = self.segment.load("journal_tail")
        placed = records.copy()
        placed.view(MARKER)["router"][placed["kind"] == 8] = router
        slots = self.segment.region("journal")
        assert len(records) <= len(slots) - (tail - self.segment.load("journal_head"))
        slots[(tail + np.arange(len(records))) & (len(slots) - 1)] = placed
        self.segment.store("journal_tail", tail + len(records))
        return placed

    def facts(self):
        """Durable seq, durable position of both routers, and slots given back."""
        words = ("durable_seq", "durable_position.0", "durable_position.1")
        return (*map(self.segment.load, words), self.segment.load("journal_head") - FIRST)

    def batches(self):
        """Headers and records that the log holds, without the claim."""
        return [decode(batch) for batch in self.log.batches[1:]]


@pytest.fixture
def shard():
    """A shard whose thread has not been started."""
    made = Shard()
    yield made
    made.close()


def frames_of(count, size=4, seed=0):
    """Frames of a seeded flow of `count` commands."""
    return frames(flow(count, seed=seed, events=1)[-count:], size, 5)


def test_nothing_is_durable_before_the_log_says_so(shard):
    """Records that are appended and held move nothing; when the log has them, everything moves."""
    records = shard.publish(frames_of(8))
    shard.journal.start()
    until(lambda: shard.log.pending, "a batch is appended")
    beats = shard.segment.load("journal_heartbeat")
    until(lambda: shard.segment.load("journal_heartbeat") > beats + 3, "the thread has looked again")
    assert (0, 0, 0, 0) == shard.facts()

    shard.log.release()
    until(lambda: shard.facts()[3] == len(records), "the slots are given back")
    position = int(records.view(MARKER)["position"][5])
    assert (len(records), position, 0, len(records)) == shard.facts()


def test_what_is_durable_is_a_prefix_of_whole_batches(shard):
    """Of three batches in flight the log has one, then all: seq, positions and slots follow."""
    shard.journal.start()
    parts = []
    for number, router in enumerate((0, 1, 0)):
        parts.append(shard.publish(frames_of(3 + number, size=9, seed=number), router=router))
        until(lambda number=number: len(shard.log.pending) == number + 1, "one more batch is in flight")
    sizes = [len(part) for part in parts]
    positions = [int(part.view(MARKER)["position"][0]) for part in parts]

    shard.log.release(1)
    until(lambda: shard.facts()[3] == sizes[0], "the first is durable")
    assert (sizes[0], positions[0], 0, sizes[0]) == shard.facts()
    shard.log.release(2)
    until(lambda: shard.facts()[3] == sum(sizes), "all are durable")
    assert (sum(sizes), positions[2], positions[1], sum(sizes)) == shard.facts()


def test_reports_are_released_before_deliveries_and_these_before_slots(shard, monkeypatch):
    """Whoever sees a slot free may rely on all that its record made durable: the order of the stores (J2)."""
    stored = []
    original = journals.store_cell
    layout = shard.segment.layout
    names = {layout.index(word): word for word in layout.words}

    def remember(cells, index, value):
        stored.append(names[index])
        original(cells, index, value)

    monkeypatch.setattr(journals, "store_cell", remember)
    shard.publish(frames_of(4))
    shard.log.held = False
    shard.journal.start()
    until(lambda: "journal_head" in stored, "something is durable")
    wanted = ["durable_seq", "durable_position.0", "durable_position.1", "log_position", "journal_head"]
    assert wanted == stored[stored.index("journal_head") - 4 :][:5]


def test_the_log_gets_what_was_published_round_the_ring(shard):
    """Three times the ring's size goes through it: the log holds every record once and in order."""
    shard.log.held = False
    shard.journal.start()
    published = []
    for number in range(3 * SLOTS // 10):
        until(
            lambda: SLOTS - (shard.segment.load("journal_tail") - shard.segment.load("journal_head")) >= 10,
            "room",
        )
        published.append(shard.publish(frames_of(8, seed=number)))
    wanted = np.concatenate(published)
    until(lambda: shard.segment.load("durable_seq") == len(wanted), "all is durable")

    got = np.concatenate([records for _, records in shard.batches()])
    assert wanted.tobytes() == got.tobytes()
    commands = int((wanted["kind"] != CommandKind.MARKER).sum())
    until(lambda: shard.segment.region("durable_ns").sum() == commands, "each record's way is measured")
    assert commands == shard.segment.region("journal_ns").sum()
    marks = shard.segment.region("durable_marks")
    assert passed_ns(marks, 1) <= passed_ns(marks, len(wanted)) <= time.time_ns()
    assert passed_ns(marks, len(wanted) + 1) == 0


def test_a_log_that_is_away_gathers_larger_batches(shard):
    """With eight batches in flight nothing more is cut; the next batch takes all that has gathered."""
    shard.journal.start()
    for number in range(8):
        shard.publish(frames_of(1, seed=number))
        until(lambda number=number: len(shard.log.pending) == number + 1, "one more batch is in flight")
    gathered = [shard.publish(frames_of(2, seed=number)) for number in range(4)]
    beats = shard.segment.load("journal_heartbeat")
    until(lambda: shard.segment.load("journal_heartbeat") > beats + 3, "the thread has looked again")
    assert 8 == len(shard.log.pending)

    shard.log.held = False
    shard.log.release()
    until(lambda: shard.segment.load("durable_seq") == 16 + 12, "all is durable")
    assert np.concatenate(gathered).tobytes() == shard.batches()[8][1].tobytes()


def test_stopping_makes_everything_durable_and_leaves_a_mark(shard):
    """What was published before the stop is in the log, then a mark with what the publisher had confirmed."""
    records = shard.publish(frames_of(10))
    shard.log.held = False
    shard.journal.start()
    until(lambda: shard.segment.load("durable_seq") == len(records), "all is durable")
    shard.confirmed = 7
    assert shard.journal.stop(DEADLINE_SECONDS, clean=True)

    header, nothing = shard.batches()[-1]
    assert (BatchKind.MARK, 7, 0) == (header["kind"], header["confirmed_seq"], len(nothing))
    assert len(records) + 1 == header["first_seq"]
    reader = recover(MemoryLog(shard.log.batches), 0, 1, 2, lambda _header, _records: None)
    assert (7, len(records) + 1) == (reader.confirmed_seq, reader.next_seq)


def test_a_stop_that_the_log_does_not_allow_is_told(shard):
    """While the log is away the thread cannot end, and `stop` says so instead of pretending."""
    shard.publish(frames_of(4))
    shard.journal.start()
    until(lambda: shard.log.pending, "a batch is appended")
    assert not shard.journal.stop(0.05, clean=False)
    assert (0, 0, 0, 0) == shard.facts()


def test_an_idle_log_is_looked_after(shard, monkeypatch):
    """A log with nothing to do is polled all the same: it may have a transaction to end, or a failure to tell."""
    polls, poll = [], shard.log.poll

    def counted(timeout_seconds):
        polls.append(timeout_seconds)
        return poll(timeout_seconds)

    monkeypatch.setattr(shard.log, "poll", counted)
    shard.journal.start()
    until(lambda: len(polls) > 2, "polls of an idle log")


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_waiting_sees_what_comes_after_an_idle_time(mode):
    """A journal thread that has been idle makes durable what is published then, and ends when it is told to."""
    shard = Shard(mode)
    try:
        shard.journal.start()
        until(lambda: shard.segment.load("journal_heartbeat") > 50, "an idle thread's heart")
        shard.publish(frames_of(20))
        shard.log.held = False
        shard.log.release()
        until(lambda: shard.segment.load("durable_seq") > 0, "what came late")
    finally:
        shard.close()


FAILURE = """
    import time
    from {name} import Shard, frames_of, until
    from ringpit.wal.errors import Fenced
    shard = Shard()
    shard.segment.unlink()
    {break_it}
    shard.journal.start()
    shard.publish(frames_of(4))
    until(lambda: False, "the process ends")
"""


@pytest.mark.parametrize(
    ("break_it", "code", "said"),
    [
        ("shard.log.fail('no space is left')", Exit.LOG_FAILED, "journal: no space is left\n"),
        ("shard.log._failure = Fenced('another owner')", Exit.FENCED, "journal: another owner\n"),
        ("shard.log.append = None", Exit.BROKEN, "TypeError: 'NoneType' object is not callable"),
    ],
)
def test_a_failure_ends_the_whole_process(break_it, code, said):
    """What became of the records in flight only recovery can learn: the process says why, and goes."""
    script = textwrap.dedent(FAILURE).format(name="test_journal", break_it=break_it)
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE_SECONDS,
        check=False,
    )
    assert code == ended.returncode, ended.stderr
    assert said in ended.stderr
