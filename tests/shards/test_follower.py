"""A follower applies what its worker has matched, and becomes the worker: nothing is lost, doubled or changed."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine.codes import CommandKind, ReportKind
from ringpit.engine.digest import digest
from ringpit.engine.image import IMAGE_INDEX
from ringpit.engine.records import MARKER
from ringpit.engine.tables import Cell
from ringpit.ipc.ring import FROZEN
from ringpit.shards.faults import Crash, Step, armed
from ringpit.shards.follow import Behind, Follow
from ringpit.shards.follower import FellBehind, Follower, StopAsked
from ringpit.shards.layout import State, first_position, worker_layout
from ringpit.shards.peers import Peers
from ringpit.shards.serve import Own
from ringpit.shards.worker import Worker, WorkerFrozen
from ringpit.testing.house import ROUTER_FIRST, House, frames_of, house_of
from ringpit.testing.naive import NaiveExchange, report_array, report_tuples
from ringpit.wal.memory import MemoryLog
from ringpit.wal.writer import BatchWriter

TURNS_MAX = 2_000
TAKEN_OVER_FROM, FOLLOWER = 2, 3  # incarnations


class Pair:
    """A worker that serves and its follower, stepped by the test; the log is a list that both see."""

    def __init__(self, house: House):
        self.house = house
        self.batches = []
        self.log = MemoryLog(self.batches)
        self.worker = house.worker(TAKEN_OVER_FROM, lambda: self.log)
        log, state, replay = self.worker.recover()
        self.worker.begin(state, replay)
        self.journal = self.worker.journal(lambda: (log, BatchWriter(state)), first_position(TAKEN_OVER_FROM))
        self.journal.open()
        self.worker.running_journal = self.journal
        house.greet(self.worker)
        self.submitted = []
        self.follower = None
        self.successor_log = None

    def follow(self):
        """Start a follower and have it follow."""
        house = self.house
        segment = house.create("worker", worker_layout(house.config), FOLLOWER)
        house.board.store("follower.0.incarnation", FOLLOWER)
        self.successor_log = MemoryLog(self.batches)
        nap = lambda _seconds: self.journal.step(0.0)  # noqa: E731 - whoever waits lets the worker's journal thread go on
        worker = Worker(
            house.config,
            0,
            segment,
            Peers(house.config),
            lambda: self.successor_log,
            house.said.append,
            nap=nap,
        )
        self.follower = Follower(worker, lambda: MemoryLog(self.batches), house.said.append)
        self.follower.catch_up()
        self.follower.attach(self.follower.leader_running())
        return self.follower

    def submit(self, records):
        """Frames into the input ring."""
        self.submitted.append(self.house.submit(records))

    def serve(self, worker, done):
        """Step a worker until something holds."""
        for _ in range(TURNS_MAX):
            if done():
                return
            worker.step()
        raise AssertionError("the worker does not get there")

    def serve_all(self):
        """Have the worker match everything submitted, and log it."""
        count = sum(map(len, self.submitted))
        self.serve(self.worker, lambda: self.worker.segment.load("matched_seq") == count)
        self.log_all()

    def log_all(self):
        """Have the worker's journal thread make everything durable."""
        while self.journal.step(0.0):
            pass

    def follow_all(self):
        """Have the follower apply what is matched."""
        matched = self.worker.segment.load("matched_seq")
        while self.follower._follows.own[Behind.APPLIED_SEQ] < matched:
            assert Follow.TURN == self.follower.step()

    def finish(self):
        """Take over, have the successor match and log all that is in the input ring, and return all reports."""
        count = sum(map(len, self.submitted))
        assert self.follower.take_over()
        journal = self.follower.journal()
        journal.open()
        successor = self.follower.worker
        successor.running_journal = journal
        self.house.publisher.store("output_head.0", first_position(FOLLOWER))
        self.serve(successor, lambda: successor.segment.load("matched_seq") == count)
        while journal.step(0.0):
            pass
        return self.house.take_reports(successor)

    def naive(self):
        """The plain exchange after everything submitted, and its reports."""
        naive = NaiveExchange(market_data=True)
        return naive, report_array([report for records in self.submitted for report in naive.run(records)])


@pytest.fixture
def pair():
    """A worker, and the shared memory for a follower."""
    with house_of(followed=True) as house:
        yield Pair(house)


def plain(reports):
    """Reports without images and engine time, in the plain exchange's form."""
    reports = report_array(report_tuples(reports[reports["index"] < IMAGE_INDEX]))
    return timeless(reports)


def timeless(reports):
    """Reports without engine time, which is a clock's."""
    reports = reports.copy()
    reports["price"][reports["kind"] == ReportKind.FRAME] = 0
    return reports


@st.composite
def lives(draw):
    """Flows before following, while following, not yet followed, and not yet taken; and which of them are logged."""
    parts = [
        frames_of(draw(st.integers(1, 30)), seed=draw(st.integers(0, 999)), size=draw(st.integers(1, 7)))
        for _ in range(4)
    ]
    return parts, draw(st.booleans()), draw(st.booleans())


@given(lives())
def test_a_take_over_loses_doubles_and_changes_nothing(life):
    """Whatever was applied, only matched, only journaled, or only in the input ring: books and reports are the plain ones."""
    (before, followed, matched, waiting), log_followed, log_matched = life
    with house_of(followed=True) as house:
        pair = Pair(house)
        pair.submit(keyed(before, 1))
        pair.serve_all()
        pair.follow()
        pair.submit(keyed(followed, 2))
        count = sum(map(len, pair.submitted))
        pair.serve(pair.worker, lambda: pair.worker.segment.load("matched_seq") == count)
        if log_followed:
            pair.log_all()
        pair.follow_all()
        pair.submit(keyed(matched, 3))
        count = sum(map(len, pair.submitted))
        pair.serve(pair.worker, lambda: pair.worker.segment.load("matched_seq") == count)
        if log_matched:
            pair.log_all()
        pair.submit(keyed(waiting, 4))
        reports = pair.finish()

        naive, wanted = pair.naive()
        assert naive.digest() == digest(pair.follower.worker.tables)
        assert timeless(wanted).tobytes() == plain(reports).tobytes()
        fresh = house.worker(FOLLOWER + 1, lambda: MemoryLog(pair.batches))
        fresh.recover()
        assert naive.digest() == digest(fresh.tables)


def keyed(records, salt):
    """The same frames with keys of their own: parts of a flow that is given twice are no duplicates."""
    records = records.copy()
    markers = records.view(MARKER)
    markers["key_high"][records["kind"] == CommandKind.MARKER] = 1_000 + salt
    return records


def test_what_a_woken_worker_does_counts_for_nothing(pair):
    """Taken over while it is only paused, it wakes, can publish nothing, and leaves; its log's late batches are ignored."""
    pair.submit(frames_of(20))
    pair.serve_all()
    pair.follow()
    pair.follow_all()
    pair.submit(keyed(frames_of(20, seed=5), 2))
    count = sum(map(len, pair.submitted))
    pair.serve(pair.worker, lambda: pair.worker.segment.load("matched_seq") == count)
    pair.submit(keyed(frames_of(10, seed=6), 3))
    before = {word: pair.worker.segment.load(word) for word in ("journal_tail", "output_tail", "matched_seq")}
    pair.finish()
    heads = pair.follower.segment.load("input_head.0")
    with pytest.raises(WorkerFrozen):
        pair.serve(pair.worker, lambda: False)
    pair.log_all()  # what it had journaled goes into its log behind the claim
    assert before["matched_seq"] == pair.worker.segment.load("matched_seq")
    assert {FROZEN} == {pair.worker.segment.load(word) & FROZEN for word in ("journal_tail", "output_tail")}
    assert heads == pair.follower.segment.load("input_head.0")
    naive, _ = pair.naive()
    fresh = pair.house.worker(FOLLOWER + 1, lambda: MemoryLog(pair.batches))
    fresh.recover()
    assert naive.digest() == digest(fresh.tables) == digest(pair.follower.worker.tables)


def test_a_follower_that_lags_is_let_go_before_its_slots_are_written_over(pair):
    """Half a ring behind, its slots are given back, and it leaves without having applied what it may not trust."""
    pair.submit(frames_of(20))
    pair.serve_all()
    pair.follow()
    slots = len(pair.worker.segment.region("journal"))
    for seed in range(100):
        if pair.worker.segment.load("followed_by") != FOLLOWER:
            break
        pair.submit(keyed(frames_of(200, seed=seed), seed))
        pair.serve_all()
        pair.house.take_reports(pair.worker)
    assert -FOLLOWER == pair.worker.segment.load("followed_by")  # it says that it was let go
    behind = pair.worker.segment.load("journal_head") - pair.follower.segment.load("follows_position")
    assert behind > 0
    assert behind <= slots
    applied = pair.follower._follows.own[Behind.APPLIED_SEQ]
    with pytest.raises(FellBehind, match="half a journal ring behind"):
        pair.follower.step()
    assert applied == pair.follower._follows.own[Behind.APPLIED_SEQ]
    assert any("the follower is" in line and "is let go" in line for line in pair.house.said)


def test_what_the_old_worker_did_not_tell_any_more_is_told(pair):
    """It died between making a batch durable and telling that: its successor begins behind the batch, and tells of it."""
    pair.submit(frames_of(20))
    pair.serve_all()
    segment = pair.worker.segment
    durable_seq, position = segment.load("durable_seq"), segment.load("durable_position.0")
    pair.follow()
    segment.store("durable_seq", durable_seq - 7)
    segment.store("durable_position.0", 0)
    assert pair.follower.take_over()
    journal = pair.follower.journal()
    journal.open()
    told = pair.follower.segment
    assert (durable_seq, position) == (told.load("durable_seq"), told.load("durable_position.0"))
    pair.submit(keyed(frames_of(20, seed=7), 2))
    pair.house.publisher.store("output_head.0", first_position(FOLLOWER))
    count = sum(map(len, pair.submitted))
    pair.serve(pair.follower.worker, lambda: told.load("matched_seq") == count)
    while journal.step(0.0):
        pass
    assert count == told.load("durable_seq")
    naive, _ = pair.naive()
    fresh = pair.house.worker(FOLLOWER + 1, lambda: MemoryLog(pair.batches))
    fresh.recover()
    assert naive.digest() == digest(fresh.tables)


def test_a_follower_does_not_follow_a_worker_that_was_made_after_it(pair):
    """It would lead with a smaller incarnation, and ring positions would go down (FL4)."""
    pair.submit(frames_of(20))
    pair.serve_all()
    pair.follow()
    newer = pair.house.create("worker", worker_layout(pair.house.config), FOLLOWER + 1)
    newer.store("epoch", 2)
    newer.store("state", State.RUNNING)
    pair.house.board.store("worker.0.incarnation", FOLLOWER + 1)
    with pytest.raises(FellBehind, match="was started after this follower"):
        pair.follower.leader_running()


def test_slots_are_kept_for_a_follower(pair):
    """What the log has and the follower has not is not given back."""
    pair.submit(frames_of(20))
    pair.serve_all()
    pair.follow()
    pair.submit(keyed(frames_of(20, seed=1), 2))
    pair.serve_all()
    kept = pair.follower.segment.load("follows_position")
    assert kept == pair.worker.segment.load("journal_head")
    pair.follow_all()
    pair.log_all()
    assert pair.worker.segment.load("journal_tail") == pair.worker.segment.load("journal_head")


def test_only_one_can_lead(pair):
    """If the supervisor has started another worker meanwhile, a follower takes nothing over and leaves."""
    pair.submit(frames_of(20))
    pair.serve_all()
    pair.follow()
    pair.house.board.store("worker.0.incarnation", FOLLOWER + 1)
    with pytest.raises(FellBehind, match="another worker leads"):
        pair.follower.step()
    assert not pair.follower.take_over()
    assert FOLLOWER + 1 == pair.house.board.load("worker.0.incarnation")


def test_a_worker_that_is_silent_or_known_to_be_dead_is_taken_over(pair):
    """A heart that stands still for longer than the limit, or the supervisor's word: SILENT, and else not."""
    pair.submit(frames_of(20))
    pair.serve_all()
    follower = pair.follow()
    follower._follows.own[Behind.LIMIT_NS] = 1 << 60
    assert Follow.TURN == follower.step()
    pair.house.board.store("follower.0.take_over", TAKEN_OVER_FROM)
    assert Follow.SILENT == follower.step()
    pair.house.board.store("follower.0.take_over", 0)
    follower._follows.own[Behind.LIMIT_NS] = 20_000_000
    for _ in range(TURNS_MAX):
        if follower.step() == Follow.SILENT:
            return
    pytest.fail("a heart that stands still is not noticed")


def test_a_stop_comes_before_everything(pair):
    """Asked to stop it follows no more, also while it is catching up."""
    pair.submit(frames_of(20))
    pair.serve_all()
    pair.follow()
    pair.house.board.store("follower.0.stop", 1)
    assert Follow.STOP == pair.follower.step()
    pair.worker.segment.store("state", State.RECOVERING)
    with pytest.raises(StopAsked):
        pair.follower.leader_running()


@pytest.mark.parametrize("step", [Step.JOURNAL_FROZEN, Step.FROZEN])
def test_a_follower_that_dies_before_it_leads_costs_only_time(pair, step):
    """The rings are frozen and nobody leads anew: the worker leaves, and the one path brings everything back."""
    pair.submit(frames_of(20))
    pair.serve_all()
    pair.follow()
    pair.follow_all()
    pair.submit(keyed(frames_of(10, seed=3), 2))
    armed.step, armed.signal_number, armed.left = step, 0, 1
    try:
        with pytest.raises(Crash):
            pair.follower.take_over()
    finally:
        armed.step = Step.NOWHERE
    with pytest.raises(WorkerFrozen):
        pair.serve(pair.worker, lambda: False)
    assert TAKEN_OVER_FROM == pair.house.board.load("worker.0.incarnation")


def test_a_follower_takes_over_where_a_worker_was_told_to_be_careful(pair):
    """After a death in the middle of a run its successor goes one record at a time, and tells each."""
    pair.submit(frames_of(20))
    pair.serve_all()
    pair.follow()
    pair.follow_all()
    pair.house.board.store("worker.0.careful", 1_000)
    assert pair.follower.take_over()
    assert 1 == pair.follower.worker.own[Own.STEP]
    assert State.RUNNING == pair.follower.segment.load("state")
    assert 1 == pair.follower.worker.tables.cells[Cell.MARKET_DATA]
    assert np.all(pair.follower.segment.load("input_head.0") >= first_position(ROUTER_FIRST))


def test_a_follower_that_was_let_go_at_the_last_moment_takes_nothing_over(pair):
    """Let go between its last look and the copy, its slots may have been written over: it does not lead, and the one path follows."""
    pair.submit(frames_of(20))
    pair.serve_all()
    pair.follow()
    pair.submit(keyed(frames_of(10, seed=3), 2))
    count = sum(map(len, pair.submitted))
    pair.serve(pair.worker, lambda: pair.worker.segment.load("matched_seq") == count)
    pair.worker.segment.store("followed_by", -FOLLOWER)
    with pytest.raises(FellBehind, match="half a journal ring behind"):
        pair.follower.take_over()
    assert TAKEN_OVER_FROM == pair.house.board.load("worker.0.incarnation")
    assert 0 == pair.follower.segment.load("journal_tail")


def test_a_run_that_was_matched_is_not_served_again(pair):
    """Dead between telling what is matched and giving the input ring's slots back: the successor begins behind what was journaled."""
    pair.submit(frames_of(20))
    pair.serve_all()
    pair.follow()
    head = pair.worker.segment.load("input_head.0")
    pair.submit(keyed(frames_of(10, seed=3), 2))
    count = sum(map(len, pair.submitted))
    pair.serve(pair.worker, lambda: pair.worker.segment.load("matched_seq") == count)
    pair.worker.segment.store("input_head.0", head)
    pair.follow_all()
    assert pair.follower.take_over()
    assert pair.house.router.load("input_tail.0") == pair.follower.segment.load("input_head.0")


def test_a_worker_that_answers_a_question_is_not_silent(pair):
    """A digest of many orders takes longer than a short heart's limit; only as long as the worker said."""
    pair.submit(frames_of(20))
    pair.serve_all()
    follower = pair.follow()
    follower._follows.own[Behind.LIMIT_NS] = 20_000_000
    pair.worker.segment.store("busy_until_ns", 1 << 62)
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        assert Follow.TURN == follower.step()
    pair.worker.segment.store("busy_until_ns", 1)
    for _ in range(TURNS_MAX):
        if follower.step() == Follow.SILENT:
            return
    pytest.fail("a heart that stands still is not noticed")
