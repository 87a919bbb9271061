"""What the supervisor decides when a process ends, with processes that end as they are told to."""

import os
import uuid
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count

import pytest
from msgspec.structs import replace

from ringpit.ipc.segment import SHARED_MEMORY, Segment
from ringpit.shards import supervisor as supervisor_module
from ringpit.shards.config import Config
from ringpit.shards.exits import Exit
from ringpit.shards.layout import Role, State, board_layout, counts, first_position, prefix, segment_name
from ringpit.shards.supervisor import Child, Supervisor


class Process:
    """A process that runs until `end`, or until it is joined if it is told how to leave."""

    def __init__(self, *, leaves_with=None, **_arguments):
        self.exitcode = None
        self.leaves_with = leaves_with
        self.sentinel, self._life = os.pipe()

    def start(self):
        """Nothing to start."""

    def end(self, code):
        """End with an exit code, or a signal's number below 0."""
        self.exitcode = code
        os.close(self._life)

    def join(self, _timeout_seconds=None):
        """Reap it, if it has ended, or does as it is asked to."""
        if self.exitcode is None and self.leaves_with is not None:
            self.end(self.leaves_with)
        if self.exitcode is not None and self.sentinel >= 0:
            os.close(self.sentinel)
            self.sentinel = -1

    def kill(self):
        """As by SIGKILL."""
        self.end(-9)


class Context:
    """Makes processes."""

    Process = Process


@pytest.fixture
def config():
    """A small exchange of a name of its own."""
    default = Config()
    return replace(
        default,
        exchange=replace(default.exchange, name=f"sup-{uuid.uuid4().hex[:12]}", shards=1),
        limits=replace(default.limits, events=16, orders=64, levels=4_096, keys=64),
        rings=replace(default.rings, input_slots=1 << 14, journal_slots=1 << 14, output_slots=1 << 14),
    )


@pytest.fixture
def clock(monkeypatch):
    """A monotonic clock that goes on by an hour at each look, so that whatever is due is due now."""
    hours = count(0, 3_600)
    monkeypatch.setattr(supervisor_module.time, "monotonic", lambda: float(next(hours)))


@pytest.fixture
def said():
    """The lines that the supervisor says."""
    return []


@contextmanager
def started(config, said):
    """A supervisor of one process of each role, which have been started."""
    made = Supervisor(config, said.append)
    with ExitStack() as stack:
        made._board = Segment.create(segment_name(config, "board", 0, 0), board_layout(config))
        made._context = Context()
        stack.callback(made._remove, made._board)
        for role in (role for role, number in counts(config).items() if number):
            child = made.children[role, 0] = Child(role, 0)
            made._make_segment(child)
            made._start(child)
        yield made
        for child in made.children.values():
            if child.segment is not None:
                made._remove(child.segment)
            if child.process is not None:
                child.process.kill()
                child.process.join()
    assert [] == list(SHARED_MEMORY.glob(prefix(config) + "*"))


@pytest.fixture
def supervisor(config, said):
    """A supervisor of one router, one worker and one publisher that have been started."""
    with started(config, said) as made:
        yield made


def die(supervisor, role, code):
    """End a role's process, and have the supervisor look; whether the exchange goes on."""
    supervisor.children[role, 0].process.end(code)
    return supervisor.watch(0.0)


def serve(supervisor):
    """The worker has read its log and serves."""
    segment = supervisor.children[Role.WORKER, 0].segment
    segment.store("output_tail", first_position(segment.incarnation))
    segment.store("state", State.RUNNING)


def come_back(supervisor, role):
    """Have the supervisor look until a role's process runs again; a bounded number of looks."""
    for _ in range(1_000):
        supervisor.watch(0.01)
        if supervisor.children[role, 0].process is not None:
            return
    pytest.fail(f"{role.label} is not started again")


def test_a_killed_process_comes_back_with_a_segment_of_its_own(supervisor, config, said):
    """The next incarnation has a new segment, the board names it, and the old one's name is gone."""
    assert die(supervisor, Role.WORKER, -9)
    come_back(supervisor, Role.WORKER)
    assert 2 == supervisor._board.load("worker.0.incarnation")
    assert 1 == supervisor._board.load("router.0.incarnation")
    assert (SHARED_MEMORY / segment_name(config, "worker", 0, 2)).exists()
    assert not (SHARED_MEMORY / segment_name(config, "worker", 0, 1)).exists()
    assert [
        "worker-0: was killed by signal 9 (SIGKILL); it is started again in 0.05 s",
        "worker-0: started again, incarnation 2",
    ] == said


def test_a_publisher_goes_on_where_the_last_one_was(supervisor):
    """Heads, confirmed seqs and the depth mirror are the successor's, the heartbeat is not."""
    old = supervisor.children[Role.PUBLISHER, 0].segment
    for word, value in (
        ("output_head.0", 7),
        ("confirmed_seq.0", 5),
        ("heartbeat", 3),
        ("state", State.RUNNING),
    ):
        old.store(word, value)
    old.region("quantity.0")[11] = 13
    die(supervisor, Role.PUBLISHER, -9)
    come_back(supervisor, Role.PUBLISHER)
    new = supervisor.children[Role.PUBLISHER, 0].segment
    assert [7, 5, 0, State.STARTING] == [
        new.load(word) for word in ("output_head.0", "confirmed_seq.0", "heartbeat", "state")
    ]
    assert 13 == new.region("quantity.0")[11]


def test_a_router_goes_on_behind_what_is_acknowledged(supervisor):
    """The ingress head is the successor's; its input rings are empty, as its workers will be told."""
    old = supervisor.children[Role.ROUTER, 0].segment
    old.store("ingress_head", 99)
    old.store("input_tail.0", 77)
    die(supervisor, Role.ROUTER, -9)
    come_back(supervisor, Role.ROUTER)
    new = supervisor.children[Role.ROUTER, 0].segment
    assert [99, 0] == [new.load(word) for word in ("ingress_head", "input_tail.0")]


@pytest.mark.parametrize("code", [Exit.CONFIG, Exit.REFUSED, Exit.FENCED])
def test_what_another_try_cannot_mend_ends_the_exchange(supervisor, said, code):
    """A wrong configuration or a damaged log: no second try, and the exchange ends with that code."""
    assert not die(supervisor, Role.WORKER, code)
    assert code == supervisor.code
    assert "another try would not help" in said[-1]


def test_a_log_that_is_away_at_the_start_ends_the_exchange(supervisor):
    """Unavailable before the worker ever ran is a mistake in the configuration more often than an outage."""
    assert not die(supervisor, Role.WORKER, Exit.UNAVAILABLE)
    assert Exit.UNAVAILABLE == supervisor.code


def test_a_log_that_goes_away_later_is_waited_for(supervisor):
    """Unavailable after the worker has run is an outage: it is started again."""
    supervisor.children[Role.WORKER, 0].segment.store("state", State.RUNNING)
    assert die(supervisor, Role.WORKER, Exit.UNAVAILABLE)
    come_back(supervisor, Role.WORKER)


def test_the_pauses_grow_while_lives_are_short(supervisor, said):
    """Each death soon after a start doubles the pause before the next try."""
    for _ in range(3):
        die(supervisor, Role.WORKER, Exit.BROKEN)
        come_back(supervisor, Role.WORKER)
    assert ["0.05 s", "0.10 s", "0.20 s"] == [line[-6:] for line in said if "ended with code 70" in line]


def test_too_many_short_lives_end_the_exchange(supervisor):
    """A process that cannot live is not started for ever."""
    child = supervisor.children[Role.WORKER, 0]
    child.deaths = supervisor_module.DEATHS_IN_A_ROW_MAX - 1
    assert die(supervisor, Role.WORKER, Exit.BROKEN)
    child.process = Process()
    assert not die(supervisor, Role.WORKER, Exit.BROKEN)
    assert Exit.BROKEN == supervisor.code


@pytest.mark.usefixtures("clock")
def test_a_long_life_starts_the_count_again(supervisor, said):
    """Who lived long dies for a new reason: the pause is the shortest again."""
    supervisor.children[Role.WORKER, 0].deaths = supervisor_module.DEATHS_IN_A_ROW_MAX
    assert die(supervisor, Role.WORKER, -11)
    assert "worker-0: was killed by signal 11 (SIGSEGV); it is started again in 0.05 s" in said


def test_a_stop_that_was_not_clean_is_no_success(supervisor, said):
    """All are asked to stop, in the order of the flow; one that ends otherwise than asked makes the exit code not 0."""
    serve(supervisor)
    for role, code in ((Role.ROUTER, 0), (Role.WORKER, -9), (Role.PUBLISHER, 0)):
        supervisor.children[role, 0].process.leaves_with = code
    supervisor.stop()
    assert Exit.BROKEN == supervisor.code
    assert ["worker-0: left with code -9", "stopped: router-0, worker-0, publisher-0"] == said
    stopped = [child.role.label for child in supervisor.children.values()]
    assert [1, 1, 1] == [supervisor._board.load(f"{label}.0.stop") for label in stopped]


@pytest.mark.parametrize("role", [Role.WORKER, Role.PUBLISHER])
@pytest.mark.parametrize("seen", [False, True])
def test_a_stop_brings_back_whoever_has_work_left(supervisor, role, seen):
    """Dead, seen or not yet, and waiting for its next start, a worker or publisher is started and then asked to stop."""
    serve(supervisor)
    child = supervisor.children[role, 0]
    child.deaths = 8  # it would wait for seconds
    child.process.end(-9)
    if seen:
        supervisor.watch(0.0)
    supervisor._context.Process = partial(Process, leaves_with=0)
    for other in supervisor.children.values():
        if other is not child:
            other.process.leaves_with = 0
    supervisor.stop()
    assert (2, [-9, 0], Exit.STOPPED) == (child.incarnation, child.exits, supervisor.code)


@pytest.mark.parametrize("died", [False, True])
def test_a_stop_waits_for_nobody_who_still_reads_the_log(supervisor, said, died):
    """Nothing was dealt yet, and its log may be long: everything is left to the next start, also if it died and waits for another try."""
    worker = supervisor.children[Role.WORKER, 0]
    worker.segment.store("state", State.RECOVERING)
    if died:
        worker.deaths = 8  # it waits for seconds
        worker.process.end(-9)
    supervisor.stop()
    assert "ended while worker-0 read the log: the next start reads it again" == said[-1]
    assert (not died, Exit.STOPPED) == (worker.process is not None, supervisor.code)
    assert all(child.process.exitcode is None for child in supervisor.children.values() if child.process)


def test_a_stop_that_finds_a_refusal_says_it(supervisor, said):
    """A worker that ended with one just before is no longer one that reads."""
    supervisor.children[Role.WORKER, 0].process.end(Exit.REFUSED)
    for role in (Role.ROUTER, Role.PUBLISHER):
        supervisor.children[role, 0].process.leaves_with = 0
    supervisor.stop()
    assert Exit.REFUSED == supervisor.code
    assert not any("read the log" in line for line in said)


def test_a_stop_waits_for_a_worker_that_has_died_and_reads_the_log(supervisor, said):
    """It has answered before, and what it has to tell again goes out before the stop."""
    serve(supervisor)
    assert die(supervisor, Role.WORKER, -9)
    come_back(supervisor, Role.WORKER)
    for child in supervisor.children.values():
        child.process.leaves_with = 0
    supervisor.children[Role.WORKER, 0].segment.store("state", State.RECOVERING)
    supervisor.stop()
    assert "stopped: router-0, worker-0, publisher-0" == said[-1]


@pytest.mark.parametrize("looks", [0, 2])
def test_a_stop_that_shall_end_at_once_waits_for_nobody(supervisor, said, looks):
    """Asked before or while it waits for a process that does not end: it says so, and leaves the rest as it is."""
    serve(supervisor)
    answers = iter([False] * looks)
    supervisor._at_once = lambda: next(answers, True)
    supervisor.stop()
    assert ["ended at once: what is not confirmed yet, the next start makes again from the log"] == said
    assert [None] * 3 == [child.process.exitcode for child in supervisor.children.values()]
    assert 0 == supervisor._board.load("worker.0.stop")


# Followers ------------------------------------------------------------------------------------------------


@pytest.fixture
def followed(config):
    """The configuration with a follower for the shard."""
    return replace(config, follower=replace(config.follower, enabled=True))


@pytest.fixture
def pair(followed, said):
    """A supervisor whose worker has a follower that could take over."""
    with started(followed, said) as made:
        made.children[Role.FOLLOWER, 0].segment.store("state", State.FOLLOWING)
        yield made


def lead(supervisor):
    """The follower takes the leadership."""
    incarnation = supervisor.children[Role.FOLLOWER, 0].incarnation
    supervisor._board.store("worker.0.incarnation", incarnation)
    return incarnation


def test_who_leads_is_the_worker(pair, said):
    """A follower that took over moves up with its process and segment, the old worker is killed, the next follower comes."""
    worker, follower = (pair.children[role, 0] for role in (Role.WORKER, Role.FOLLOWER))
    old, new, segment = worker.process, follower.process, follower.segment
    incarnation = lead(pair)
    assert pair.watch(0.0)
    assert (new, segment, incarnation, 1) == (
        worker.process,
        worker.segment,
        worker.incarnation,
        worker.take_overs,
    )
    assert -9 == old.exitcode
    assert -1 == old.sentinel, "it was reaped"
    assert 0 == pair._board.load("follower.0.incarnation")
    come_back(pair, Role.FOLLOWER)
    assert incarnation + 1 == follower.incarnation == pair._board.load("follower.0.incarnation")
    assert any("worker-0: incarnation 2, until now follower-0, has taken over" in line for line in said)


def test_a_stop_gives_a_follower_the_time_to_take_over(pair, monkeypatch):
    """Its worker died just before: the follower becomes it, and is then asked to stop as the worker."""
    serve(pair)
    worker, follower = (pair.children[role, 0] for role in (Role.WORKER, Role.FOLLOWER))
    old, watch, looks = worker.process, pair.watch, []
    for child in pair.children.values():
        child.process.leaves_with = 0
    old.end(-9)

    def look(_timeout_seconds=0.0):
        looks.append(pair._board.load("follower.0.take_over"))
        if len(looks) == 3:
            lead(pair)
        return watch(0.0)

    monkeypatch.setattr(pair, "watch", look)
    pair.stop()
    assert [0, worker.incarnation - 1, worker.incarnation - 1] == looks
    assert (1, [-9, 0], Exit.STOPPED) == (worker.take_overs, worker.exits, pair.code)
    assert follower.process is None


def test_a_stop_that_shall_end_at_once_does_not_wait_for_a_take_over(pair, monkeypatch):
    """Nor for a follower that has been called, and does not come."""
    serve(pair)
    pair.children[Role.WORKER, 0].process.end(-9)
    pair._at_once = lambda: True
    looks, watch = [], pair.watch
    monkeypatch.setattr(pair, "watch", lambda *_: looks.append(watch(0.0)))
    pair.stop()
    assert 1 == len(looks)


def test_a_follower_that_takes_over_in_a_stop_is_asked_as_the_worker(pair):
    """It had found its worker silent, and looks at its own word no more: who waits for it sees that it leads."""
    serve(pair)
    worker, follower = (pair.children[role, 0] for role in (Role.WORKER, Role.FOLLOWER))
    for child in pair.children.values():
        child.process.leaves_with = 0
    old, new, join = worker.process, follower.process, follower.process.join

    def take_over(_timeout_seconds=None):
        lead(pair)
        new.join = join

    new.join = take_over
    pair.stop()
    assert (1, [-9, 0], Exit.STOPPED) == (worker.take_overs, worker.exits, pair.code)
    assert (-9, 0, None) == (old.exitcode, new.exitcode, follower.process)


@pytest.mark.usefixtures("clock")
def test_a_follower_that_takes_over_when_time_is_up_is_counted_as_the_worker(pair, said):
    """It leads when it is killed: its death is the worker's, and that is no clean stop."""
    serve(pair)
    worker, follower = (pair.children[role, 0] for role in (Role.WORKER, Role.FOLLOWER))
    for child in pair.children.values():
        child.process.leaves_with = None if child is follower else 0
    new, kill = follower.process, follower.process.kill

    def killed():
        lead(pair)
        kill()

    new.kill = killed
    pair.stop()
    assert (None, [-9, -9], Exit.BROKEN) == (follower.process, worker.exits, pair.code)
    assert "worker-0: left with code -9" in said


@pytest.mark.usefixtures("clock")
def test_a_dead_worker_s_follower_is_called_and_given_time(pair, said):
    """It is told which worker is dead; if it does not take over in time, a worker is started after all."""
    dead = pair.children[Role.WORKER, 0].incarnation
    assert die(pair, Role.WORKER, -9)
    assert any("its follower takes over" in line for line in said)
    assert dead == pair._board.load("follower.0.take_over")
    come_back(pair, Role.WORKER)
    assert pair.children[Role.WORKER, 0].incarnation == pair._board.load("worker.0.incarnation") > dead


def test_a_follower_that_was_quicker_is_not_replaced(pair):
    """The leadership moved while the next worker was being made: nothing is started over it."""
    pair.children[Role.WORKER, 0].process.end(-9)
    pair._bury(pair.children[Role.WORKER, 0])
    incarnation = lead(pair)
    before = pair.children[Role.WORKER, 0].segment
    pair._start_again(pair.children[Role.WORKER, 0])
    assert before is pair.children[Role.WORKER, 0].segment
    assert pair.watch(0.0)
    assert incarnation == pair.children[Role.WORKER, 0].incarnation


@pytest.mark.usefixtures("clock")
def test_a_follower_s_death_ends_nothing(pair):
    """Whatever it dies of, the exchange runs without it, and the next one comes."""
    for code in (Exit.CONFIG, Exit.REFUSED, Exit.FELL_BEHIND, -11):
        assert die(pair, Role.FOLLOWER, code)
        come_back(pair, Role.FOLLOWER)
    assert Exit.STOPPED == pair.code


@pytest.mark.usefixtures("clock")
def test_a_shard_that_died_twice_at_one_record_stops(supervisor, said):
    """After the first death the next goes carefully; the second at the same record is the last, and the line says what to do."""
    worker = supervisor.children[Role.WORKER, 0]
    for trying, in_hand in ((10, 40), (17, 40)):
        worker.segment.store("trying_seq", trying)
        worker.segment.store("in_hand_seq", in_hand)
        assert die(supervisor, Role.WORKER, -11)
        assert 40 == supervisor._board.load("worker.0.careful")
        come_back(supervisor, Role.WORKER)
    worker.segment.store("trying_seq", 17)
    assert die(supervisor, Role.WORKER, -11)
    assert worker.stopped
    for _ in range(5):
        assert supervisor.watch(0.0)
    assert worker.process is None
    assert "died twice at seq 17" in said[-1]
    assert "`ringpit wal skip --shard 0 --seq 17`" in said[-1]


@pytest.mark.usefixtures("clock")
def test_a_death_between_two_records_counts_for_nothing(supervisor):
    """Killed by hand, again and again, while nothing is tried: always started again."""
    for _ in range(5):
        assert die(supervisor, Role.WORKER, -9)
        come_back(supervisor, Role.WORKER)
    assert 0 == supervisor._board.load("worker.0.careful")


# What hangs -----------------------------------------------------------------------------------------------


@pytest.fixture
def seconds(monkeypatch):
    """A monotonic clock that goes on by a second at each look."""
    ticks = count(0)
    monkeypatch.setattr(supervisor_module.time, "monotonic", lambda: float(next(ticks)))


@pytest.mark.usefixtures("seconds")
@pytest.mark.parametrize("role", [Role.ROUTER, Role.WORKER, Role.PUBLISHER])
def test_a_heart_that_stands_still_ends_a_process(supervisor, said, role):
    """Running, silent for longer than the patience: killed, and started again; not while it is only starting, or beats."""
    child = supervisor.children[role, 0]
    looks = 2 * supervisor.config.exchange.hang_seconds
    for _ in range(looks):
        supervisor.watch(0.0)
    assert 0 == child.restarts, "it has not said that it runs"
    child.segment.store("state", State.RUNNING)
    for beat in range(looks):
        child.segment.store("heartbeat", beat)
        supervisor.watch(0.0)
    assert 0 == child.restarts
    for _ in range(looks):
        supervisor.watch(0.0)
        if child.exits:
            break
    assert [-9] == child.exits
    assert any(f"{child.name}: its heart has stood still for 30 s; it is killed" in line for line in said)
    come_back(supervisor, role)


@pytest.mark.usefixtures("seconds")
def test_a_follower_that_was_let_go_and_stays_is_ended(pair):
    """It hangs: the next one can do what it should."""
    follower = pair.children[Role.FOLLOWER, 0]
    worker = pair.children[Role.WORKER, 0]
    worker.segment.store("followed_by", -follower.incarnation)
    for _ in range(2 * pair.config.exchange.hang_seconds):
        pair.watch(0.0)
        if follower.exits:
            break
    assert [-9] == follower.exits
