"""A worker recovers what the log holds, says again what may be missing, and serves whoever counts."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine.codes import CommandKind, Reason, ReportKind, TimeInForce
from ringpit.engine.digest import digest
from ringpit.engine.image import IMAGE_INDEX
from ringpit.engine.records import COMMAND
from ringpit.engine.tables import Cell
from ringpit.ipc.idle import SLEEP, SLEEP_LIGHTLY, SPIN, SPIN_THEN_YIELD
from ringpit.ipc.ring import freeze
from ringpit.shards.config import Config
from ringpit.shards.flow import creations, frames
from ringpit.shards.layout import (
    State,
    first_position,
)
from ringpit.shards.queries import Client
from ringpit.shards.sections import Follower, Wait
from ringpit.shards.serve import Own
from ringpit.shards.worker import Replay, Worker, WorkerFrozen
from ringpit.testing.house import (
    DEADLINE_SECONDS,
    ROUTER_FIRST,
    at_positions,
    frames_of,
    house_of,
    starts_of,
    until,
)
from ringpit.testing.naive import NaiveExchange, report_array, report_tuples
from ringpit.wal.batch import HEADER, BatchKind, decode
from ringpit.wal.memory import MemoryLog
from ringpit.wal.reader import recover
from ringpit.wal.segments import SegmentLog
from ringpit.wal.writer import BatchWriter

GENERATION = Config().exchange.generation


@pytest.fixture
def house():
    """A house with a router and a publisher."""
    with house_of() as made:
        yield made


def log_of(records, batch_ends):
    """What an owner wrote: a claim, then frames in batches that end where they are told to."""
    log = MemoryLog()
    writer = BatchWriter(recover(log, 0, GENERATION, 1, lambda _header, _records: None))
    start = 0
    for end in batch_ends:
        batch, taken = writer.cut(records[start:end], confirmed_seq=0)
        assert taken == end - start
        log.append(batch)
        start = end
    return log


def naive_of(*records):
    """The plain exchange after frames as submitted, and its reports."""
    naive = NaiveExchange(market_data=True)
    return naive, report_array([report for part in records for report in naive.run(part)])


def plain(reports):
    """Reports without images, in the plain exchange's form."""
    return report_array(report_tuples(reports[reports["index"] < IMAGE_INDEX]))


def timeless(reports):
    """Reports without engine time, which is a clock's."""
    reports = reports.copy()
    reports["price"][reports["kind"] == ReportKind.FRAME] = 0
    return reports


# Recovery -------------------------------------------------------------------------------------------------


def test_a_replay_tells_what_it_tries(house):
    """One record at a time up to where a process died, then the rest at once; a death there is of that rest, not of the last one."""
    records = frames_of(3, seed=1, size=3)
    told = []
    replay = Replay(
        house.worker(2, MemoryLog).tables,
        0,
        careful_seq=2,
        trying=lambda first, last: told.append((first, last)),
    )
    replay.apply(np.zeros(1, HEADER)[0], records)
    assert [(1, 1), (2, 2), (3, len(records)), (0, 0)] == told


@st.composite
def deaths(draw):
    """A flow, where its batches end, how many of them reached the log, and how far the publisher had confirmed."""
    records = frames_of(draw(st.integers(1, 60)), seed=draw(st.integers(0, 999)), size=draw(st.integers(1, 9)))
    starts = starts_of(records)
    inner = draw(st.sets(st.sampled_from(starts.tolist()))) - {0}
    ends = [*sorted(inner), len(records)]
    survived = draw(st.integers(0, len(ends)))
    durable = ends[survived - 1] if survived else 0
    return records, ends[:survived], durable, draw(st.integers(0, durable))


@given(deaths())
def test_wherever_it_was_killed_the_log_s_prefix_is_its_state(death):
    """Books, events and next seq are those of the plain exchange after the frames that reached the log."""
    records, ends, durable, confirmed = death
    naive, wanted = naive_of(records[:durable])
    with house_of() as house:
        house.publisher.store("confirmed_seq.0", confirmed)
        log = log_of(records, ends)
        worker = house.worker(2, lambda: log)
        _, state, replay = worker.recover()
        assert State.RECOVERING == worker.segment.load("state")
        worker.begin(state, replay)
        sent = house.take_reports(worker)

        assert naive.digest() == digest(worker.tables)
        assert durable + 1 == state.next_seq
        words = ("matched_seq", "durable_seq", "recovered_seq", "events_count", "state")
        assert (durable, durable, durable, len(naive.events), State.RUNNING) == tuple(
            worker.segment.load(word) for word in words
        )
        assert list(naive.events) == worker.segment.region("events")["event"][: len(naive.events)].tolist()
        again = plain(sent)
        assert missing(wanted, confirmed, records).tobytes() == again.tobytes()


@pytest.mark.parametrize("release", ["durable", "matched"])
def test_provisional_reports_are_forgotten_before_commands_are_taken(release):
    """With nothing to send a worker serves at once; in release mode "matched" only when the publisher has taken up its ring."""
    with house_of(release=release) as house:
        house.worker(2, log_of)
        log = log_of(frames_of(1), [])
        worker = house.worker(3, lambda: log)
        house.publisher.store("output_head.0", first_position(2) + 5)  # it still stands in the last one's
        _, state, replay = worker.recover()
        worker.prepare(state, replay)
        assert (release == "durable") == worker.settled()
        assert (State.RUNNING if release == "durable" else State.RECOVERING) == worker.segment.load("state")
        house.publisher.store("output_head.0", first_position(3))
        assert worker.settled()
        assert State.RUNNING == worker.segment.load("state")


def missing(reports, confirmed, records):
    """The reports above a seq, and before them, if the first is inside a frame, that frame's own report."""
    above = reports[reports["seq"] > confirmed]
    if not len(above) or above[0]["kind"] == ReportKind.FRAME:
        return above
    starts = starts_of(records) + 1  # seqs of the markers
    marker_seq = starts[np.searchsorted(starts, above[0]["seq"], "right") - 1]
    frame = reports[(reports["seq"] == marker_seq) & (reports["kind"] == ReportKind.FRAME)]
    return np.concatenate([frame, above])


def test_nothing_counts_as_matched_before_its_reports_are_in_the_ring(house, monkeypatch):
    """The publisher confirms up to the matched seq when the ring is empty: until all is said again, that is what it had."""
    records = frames_of(20)
    house.publisher.store("confirmed_seq.0", 4)
    worker = house.worker(2, lambda: log_of(records, [len(records)]))
    _, state, replay = worker.recover()
    send, seen = worker._send, []

    def watched(reports):
        """Note what the publisher could confirm now."""
        seen.append(worker.segment.load("matched_seq"))
        return send(reports)

    monkeypatch.setattr(worker, "_send", watched)
    worker.begin(state, replay)

    assert {4} == set(seen)
    assert len(records) == worker.segment.load("matched_seq")


def test_what_the_log_says_was_confirmed_is_not_said_again(house):
    """After a cold start the publisher knows nothing; the newest batch or mark of the log does."""
    records = frames_of(20)
    log = MemoryLog()
    writer = BatchWriter(recover(log, 0, GENERATION, 1, lambda _header, _records: None))
    log.append(writer.cut(records, confirmed_seq=0)[0])
    log.append(writer.mark(len(records), clean=False))
    worker = house.worker(2, lambda: log)
    _, state, replay = worker.recover()
    worker.begin(state, replay)

    sent = house.take_reports(worker)
    assert [] == sent[sent["index"] < IMAGE_INDEX].tolist()
    assert {len(records)} == set(sent["seq"].tolist())
    assert 3 == (sent["kind"] == ReportKind.BOOK_RESET).sum()


def test_a_start_waits_for_a_publisher_with_a_small_ring():
    """More reports than the ring holds are sent in pieces, as the publisher makes room, and each once."""
    with house_of(output_slots=64) as house:
        records = frames_of(200)
        log = log_of(records, [len(records)])
        worker = house.worker(2, lambda: log)
        _, state, replay = worker.recover()
        thread = threading.Thread(target=worker.begin, args=(state, replay))
        thread.start()

        def running():
            house.take_reports(worker, 10)
            return worker.segment.load("state") == State.RUNNING

        until(running, "the worker runs")
        thread.join()
        house.take_reports(worker)
        _, wanted = naive_of(records)
        assert wanted.tobytes() == plain(np.concatenate(house.reported)).tobytes()


def test_a_start_that_cannot_finish_can_be_stopped():
    """Without a publisher the reports made again wait; a stop ends the waiting."""
    with house_of(output_slots=64) as house:
        log = log_of(frames_of(200), [len(frames_of(200))])
        worker = house.worker(2, lambda: log)
        house.publisher.store("output_head.0", 0)
        house.board.store("worker.0.stop", 1)
        _, state, replay = worker.recover()
        worker.begin(state, replay)
        assert first_position(2) == worker.segment.load("output_tail")


def test_a_frozen_ring_ends_a_start(house):
    """A successor froze the output ring while this one recovered: it must leave."""
    records = frames_of(10)
    log = log_of(records, [len(records)])
    worker = house.worker(2, lambda: log)
    _, state, replay = worker.recover()
    worker.segment.store("output_tail", 0)
    original = worker._word

    def then_freeze(word, value):
        original(word, value)
        if word == "output_tail":
            freeze(worker.segment.cells, worker.segment.layout.index("output_tail"))

    worker._word = then_freeze
    with pytest.raises(WorkerFrozen, match="shard 0: the output ring is frozen"):
        worker.begin(state, replay)


# Neighbours -----------------------------------------------------------------------------------------------


def started(house, incarnation=1, log=None):
    """A worker that has recovered and begun."""
    log = MemoryLog() if log is None else log
    worker = house.worker(incarnation, lambda: log)
    _, state, replay = worker.recover()
    worker.begin(state, replay)
    return worker


def test_nothing_is_served_before_the_router_has_said_where(house):
    """What lies in the ring from an earlier worker's life is the router's to send again, not ours to take."""
    worker = started(house)
    house.submit(frames_of(5))
    house.router.store("input_peer.0", 99)
    worker._serve_one(0)
    assert 0 == worker.segment.load("matched_seq")

    house.greet(worker)
    worker._serve_one(0)
    assert 0 == worker.segment.load("matched_seq")
    assert house.router.load("input_tail.0") == worker.segment.load("input_head.0")
    fresh = house.submit(frames_of(5, seed=1))
    worker._serve_one(0)
    assert len(fresh) == worker.segment.load("matched_seq")


def test_a_dead_router_s_ring_is_served_to_its_end_first(house):
    """Whole frames that the old router had published count; then the new router's ring is taken up."""
    worker = started(house)
    house.greet(worker)
    records = frames_of(30, size=4)
    half = starts_of(records)[4]
    worker._serve_one(0)
    old = house.submit(records[:half])
    house.start_router(ROUTER_FIRST + 1)
    worker._serve_one(0)
    worker._serve_one(0)
    assert half == worker.segment.load("matched_seq")

    house.greet(worker)
    new = house.submit(records[half:])
    until(
        lambda: worker._serve_one(0) or worker.segment.load("matched_seq") == len(records),
        "the new ring is served",
    )
    _, wanted = naive_of(old, new)
    assert timeless(wanted).tobytes() == timeless(plain(house.take_reports(worker))).tobytes()


def test_a_new_publisher_is_followed(house):
    """Room in the output ring is what the publisher of the newest incarnation says."""
    worker = started(house)
    house.greet(worker)
    worker._serve_one(0)
    head = house.publisher.load("output_head.0")
    house.publisher.store("output_head.0", 0)  # the old one takes nothing any more
    placed = house.submit(frames_of(9))
    house.start_publisher(2, output_head=head)
    until(lambda: worker._serve_one(0) or worker.segment.load("matched_seq") == len(placed), "it is matched")
    _, wanted = naive_of(placed)
    assert timeless(wanted).tobytes() == timeless(plain(house.take_reports(worker))).tobytes()


def test_a_frozen_worker_leaves(house):
    """Another process took over: the frozen journal is noticed with the next frame."""
    worker = started(house)
    house.greet(worker)
    freeze(worker.segment.cells, worker.segment.layout.index("journal_tail"))
    house.submit(frames_of(3))
    with pytest.raises(WorkerFrozen, match="shard 0: another process took over; this one leaves"):
        worker._serve_one(0)


# Time and questions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "followed", "workers", "followers"),
    [
        ("sleep", False, SLEEP, SLEEP),
        ("sleep", True, SLEEP_LIGHTLY, SLEEP_LIGHTLY),
        ("spin-then-yield", True, SPIN_THEN_YIELD, SPIN),
    ],
)
def test_a_worker_waits_as_its_kind_is_told_and_lightly_where_its_heart_is_watched(
    mode, followed, workers, followers
):
    """A lull of many milliseconds would look like death to a follower; one that spins has none."""
    told = "spin" if mode == "spin-then-yield" else ""
    config = Config(wait=Wait(mode=mode, followers=told), follower=Follower(enabled=followed))
    waits = SimpleNamespace(config=config, own=np.zeros(len(Own), np.int64))
    modes = []
    for kind in ("workers", "followers"):
        Worker.wait_as(waits, kind)
        modes.append(waits.own[Own.MODE])
    assert [workers, followers] == modes


def timed_frames(expires_ns):
    """An event and two orders that are good till a time, as frames of engine time 1000."""
    commands = np.zeros(3, COMMAND)
    commands[:1] = creations(1)
    commands["event"] = 1
    orders = commands[1:]
    orders["kind"], orders["quantity"], orders["price"] = CommandKind.NEW, 5, 50
    orders["order"], orders["account"] = [1, 2], 9
    orders["time_in_force"], orders["expires_ns"] = TimeInForce.GTD, expires_ns
    return frames(commands, 3, 99, engine_ns=1_000)


def expired(reports):
    """Ids of orders that expired."""
    return reports["order"][reports["reason"] == Reason.EXPIRED].tolist()


def test_what_was_due_while_nobody_ran_expires_before_anything_is_served(house):
    """The next life needs no router to log it, and a newcomer meets nobody whose time was up."""
    records = timed_frames(2_000)
    worker = started(house, 2, log_of(records, [len(records)]))
    head = worker.segment.load("input_head.0")
    worker._serve_one(0)
    until(lambda: worker._serve_one(0) or not worker._in_hand(), "it is matched")

    assert [1, 2] == expired(house.take_reports(worker))
    assert head == worker.segment.load("input_head.0")
    assert 0 == worker.segment.load("orders_resting")
    assert len(records) + 2 == worker.segment.load("matched_seq")

    worker = started(house, 3, log_of(records, [len(records)]))
    house.greet(worker)
    house.submit(frames_of(5, seed=1))
    worker._serve_one(0)
    reports = house.take_reports(worker)
    assert [1, 2] == expired(reports)
    assert {len(records) + 2} == set(reports["seq"][reports["reason"] == Reason.EXPIRED].tolist())
    assert len(records) + 2 < reports["seq"][-1]


def test_a_run_of_its_own_is_finished_before_a_router_is_greeted(house):
    """A router that comes while the worker waits for room to tell an expiry finds its ring's head where it was put."""
    records = timed_frames(2_000)
    worker = started(house, 2, log_of(records, [len(records)]))
    house.take_reports(worker)
    head = house.publisher.load("output_head.0")
    house.publisher.store("output_head.0", head - len(worker.segment.region("output")))  # no room
    worker._serve_one(0)
    assert worker._in_hand()
    placed = house.submit(frames_of(5, seed=1))
    house.greet(worker)
    house.router.store("input_base.0", first_position(ROUTER_FIRST))
    worker._serve_one(0)
    assert 0 == worker.segment.load("input_head.0")

    house.publisher.store("output_head.0", head)
    wanted = len(records) + 2 + len(placed)
    until(lambda: worker._serve_one(0) or worker.segment.load("matched_seq") == wanted, "all is matched")
    assert house.router.load("input_tail.0") == worker.segment.load("input_head.0")
    assert [1, 2] == expired(house.take_reports(worker))


@pytest.mark.parametrize("greeted", [False, True])
def test_a_worker_answers_with_or_without_a_router(house, greeted):
    """Whoever asks gets what the tables hold, and the position up to which that is true."""
    records = frames_of(40)
    worker = started(house, 2, log_of(records, [len(records)]))
    house.take_reports(worker)
    if greeted:
        house.greet(worker)
    asked = []

    def ask():
        with Client(house.config, patience_seconds=DEADLINE_SECONDS) as client:
            asked.append((client.digest(0), client.moment.seq, client.statistics(0)["orders"]))

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: worker._serve_one(0) or not thread.is_alive(), "the client is answered")
    orders = int(worker.tables.cells[Cell.ORDERS_USED])
    assert [(digest(worker.tables), len(records), orders)] == asked
    assert len(records) == worker.segment.load("matched_seq")


# Whole lives ----------------------------------------------------------------------------------------------


def live(house, worker, records):
    """Run a worker's whole life in a thread, feed it records, take everything, stop it; the frames as submitted."""
    failures = []

    def run():
        try:
            worker.run()
        except BaseException as error:  # noqa: BLE001 - it is raised again in the test's own thread
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    segment = worker.segment

    def reached(seq):
        def look():
            if failures:
                raise failures[0]
            house.take_reports(worker)
            return segment.load("durable_seq") >= seq

        return look

    until(lambda: failures or segment.load("state") == State.RUNNING, "the worker runs")
    house.greet(worker)
    placed = house.submit(records)
    until(reached(segment.load("recovered_seq") + len(records)), "everything is durable")
    # The router is told after the publisher (J2).
    until(lambda: house.router.load("input_tail.0") == segment.load("durable_position.0"), "the router is told")
    house.board.store("worker.0.stop", 1)
    until(lambda: failures or segment.load("state") == State.DRAINED, "the worker has drained")
    house.take_reports(worker)
    house.publisher.store("confirmed_seq.0", segment.load("matched_seq"))
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()
    house.board.store("worker.0.stop", 0)
    assert [] == failures
    return placed


@pytest.fixture(params=["memory", "segments"])
def open_log(request, tmp_path):
    """Opens the same log again and again, and the batches in it."""
    if request.param == "memory":
        batches = []
        return lambda: MemoryLog(batches)
    return lambda: SegmentLog(tmp_path, 0, fsync=False)


def test_three_lives_are_one_history(house, open_log):
    """Stopped and started again, books, keys and seq go on: what comes out is as if nothing had happened."""
    records = frames_of(120, size=7)
    cuts = [0, *starts_of(records)[[5, 11]], len(records)]
    submitted, tables = [], None
    for incarnation in (1, 2, 3):
        worker = house.worker(incarnation, open_log)
        again = records[cuts[incarnation - 1] : cuts[incarnation]]
        if incarnation == 3:
            again = np.concatenate([records[: cuts[1]], again])  # the first life's frames come once more
        submitted.append(live(house, worker, again))
        tables = worker.tables

    naive, wanted = naive_of(*submitted)
    assert naive.digest() == digest(tables)
    assert timeless(wanted).tobytes() == timeless(plain(np.concatenate(house.reported))).tobytes()
    assert 5 == (wanted["kind"] == ReportKind.DUPLICATE).sum()
    log = open_log()
    headers = [decode(entry.batch)[0] for entry in log.read()]
    log.close()
    assert [1, 2, 3] == [int(header["epoch"]) for header in headers if header["kind"] == BatchKind.CLAIM]
    assert BatchKind.MARK == headers[-1]["kind"]
    assert int(wanted["seq"][-1]) == headers[-1]["confirmed_seq"]


def test_a_killed_worker_s_frames_come_again_and_count_once(house):
    """The log has some of what was sent; the router sends all of it again, and nothing is applied twice."""
    records = frames_of(60)
    cut = starts_of(records)[7]
    placed = at_positions(records, 0)
    log = log_of(placed, [cut])
    again = live(house, house.worker(2, lambda: MemoryLog(log.batches)), records)

    naive, wanted = naive_of(placed[:cut], again)
    assert 7 == (wanted["kind"] == ReportKind.DUPLICATE).sum()
    once, _ = naive_of(placed)
    assert once.digest() == naive.digest()
    assert timeless(wanted).tobytes() == timeless(plain(np.concatenate(house.reported))).tobytes()


def test_it_says_what_it_found(house):
    """One line of facts for each recovery, one for what is said again."""
    records = frames_of(30)
    naive, wanted = naive_of(records)
    log = log_of(records, [len(records)])
    worker = started(house, 2, log)
    resting = sum(len(naive.resting(event)) for event in naive.events)
    assert resting == worker.tables.cells[Cell.ORDERS_USED] == worker.segment.load("orders_resting")
    assert house.said[0].startswith(f"shard 0: epoch 2, {len(records)} records replayed in ")
    assert f"next seq {len(records) + 1}, {resting} orders rest; log in memory" in house.said[0]
    assert [f"shard 0: {len(wanted)} reports above seq 0 are made again"] == house.said[1:]


def test_a_busy_router_does_not_keep_others_waiting():
    """Router 0's ring is never empty: one run of it, and router 1's frame is next."""
    with house_of(routers=2) as house:
        worker = house.worker(2, MemoryLog)
        log, state, replay = worker.recover()
        worker.begin(state, replay)
        routers = [house.segments[names] for names in range(2, 4)]
        for house.router in routers:
            house.greet(worker)
        house.router = routers[0]
        for part in range(35):
            house.submit(frames_of(100, seed=part, size=100))
        house.router = routers[1]
        house.submit(frames_of(5, seed=99, size=5))
        last = house.router.load("input_tail.0")
        until(lambda: worker.step() or worker.segment.load("input_head.1") == last, "router 1 is not served")
        assert worker.segment.load("input_head.0") < routers[0].load("input_tail.0")
        log.close()
