"""The worker's loop journals what it takes, matches what it journaled, waits for room, and says why it came back."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine import Exchange, Limits
from ringpit.engine.codes import CommandKind, Reason, ReportKind, TimeInForce
from ringpit.engine.limits import INT64_MAX
from ringpit.engine.records import COMMAND, MARKER, REPORT
from ringpit.engine.tables import Cell
from ringpit.ipc.atomics import load_cell, store_cell
from ringpit.ipc.ring import FROZEN, freeze
from ringpit.shards.flow import creations, flow, frames
from ringpit.shards.layout import first_position
from ringpit.shards.marks import passed_ns
from ringpit.shards.serve import (
    RUN_SLOTS_MAX,
    At,
    Own,
    Turn,
    keep_time,
    lone_wires,
    match_run,
    run_length,
    serve,
    take_run,
    take_tick,
)
from ringpit.testing.naive import NaiveExchange, report_array, report_tuples
from ringpit.wal.frames import NO_ROUTER

LIMITS = Limits(events=8, orders=64, levels=4_096, keys=64)
INPUT_FIRST = first_position(2)
OWN_FIRST = first_position(5)  # of the journal and output rings
TURNS_MAX = 10_000
FAR_NS = 1 << 62  # a time that no clock of ours reaches
TIMED_EVENT = 99  # no other order is in it
DEADLINE_SECONDS = 30.0


class Rig:
    """The loop with arrays for its neighbours; the test plays router, journal thread, publisher and supervisor."""

    def __init__(self, *, inputs=64, journal=64, output=64):
        self.tables = Exchange(LIMITS, market_data=True).tables
        slots, copy, reports = np.zeros(inputs, COMMAND), np.zeros(journal, COMMAND), np.zeros(output, REPORT)
        self.wires = w = lone_wires(self.tables, slots, copy, reports, LIMITS.events)
        self.own_cells, self.router, self.publisher, self.board, self.queries = w[:5]
        self.at, own = w.at, w.own
        own[Own.RUN_AT] = own[Own.RUN_END] = own[Own.OUT] = own[Own.OUT_FIRST] = OWN_FIRST
        for word in (At.JOURNAL_TAIL, At.JOURNAL_HEAD, At.OUTPUT_TAIL, At.OUTPUT_HEAD):
            self.put(word, OWN_FIRST)
        for word in (At.INPUT_TAIL, At.INPUT_HEAD):
            self.put(word, INPUT_FIRST)
        self.submitted = []  # frames
        self.journaled = []  # chunks of COMMAND
        self.reported = []  # chunks of REPORT

    def cells_of(self, word):
        """The cells in which a word lies."""
        if word >= At.STOP:
            return self.board
        elsewhere = {At.INPUT_TAIL: self.router, At.OUTPUT_HEAD: self.publisher, At.BELL: self.queries}
        return elsewhere.get(word, self.own_cells)

    def get(self, word):
        """A word."""
        return int(load_cell(self.cells_of(word), int(self.at[word])))

    def put(self, word, value):
        """Set a word, as its owner would."""
        store_cell(self.cells_of(word), int(self.at[word]), value)

    def submit(self, frame):
        """Write a frame into the input ring; False if it has no room."""
        tail, slots = self.get(At.INPUT_TAIL), self.wires.inputs
        if len(frame) > len(slots) - (tail - self.get(At.INPUT_HEAD)):
            return False
        slots[(tail + np.arange(len(frame))) & (len(slots) - 1)] = frame
        self.put(At.INPUT_TAIL, tail + len(frame))
        self.submitted.append(frame)
        return True

    def serve(self):
        """Let the loop run until it has nothing to do or is told something."""
        return Turn(serve(self.tables, self.wires))

    def log(self, count):
        """The journal thread makes so many more records durable, as far as there are any."""
        head, slots = self.get(At.JOURNAL_HEAD), self.wires.journal
        count = min(count, (self.get(At.JOURNAL_TAIL) & (FROZEN - 1)) - head)
        self.journaled.append(slots[(head + np.arange(count)) & (len(slots) - 1)])
        self.put(At.JOURNAL_HEAD, head + count)

    def publish(self, count):
        """The publisher takes so many more reports, as far as there are any."""
        head, slots = self.get(At.OUTPUT_HEAD), self.wires.output
        count = min(count, self.visible() - head)
        self.reported.append(slots[(head + np.arange(count)) & (len(slots) - 1)])
        self.put(At.OUTPUT_HEAD, head + count)

    def visible(self):
        """Where the output ring ends."""
        return self.get(At.OUTPUT_TAIL) & (FROZEN - 1)

    def finish(self):
        """Let everything through."""
        for _ in range(TURNS_MAX):
            self.serve()
            self.log(len(self.wires.journal))
            self.publish(len(self.wires.output))
            if self.get(At.INPUT_HEAD) == self.get(At.INPUT_TAIL) and self.visible() == self.get(
                At.OUTPUT_HEAD
            ):
                return
        pytest.fail(f"not through after {TURNS_MAX} turns: {self.wires.own}")

    def reports(self):
        """What the publisher got, with engine time left out: it is a clock's."""
        got = np.concatenate([np.zeros(0, REPORT), *self.reported])
        got["price"][got["kind"] == ReportKind.FRAME] = 0
        return got


def frames_of(*sizes, seed=0):
    """Frames of a seeded flow over two events, with keys, one for each size."""
    commands = flow(max(sum(sizes), 3), seed=seed, events=2, accounts=5, invalid_share=0.1)
    cut, made = 0, []
    for number, size in enumerate(sizes):
        frame = frames(commands[cut : cut + size], size, 77)
        frame.view(MARKER)[0]["key_low"] = 1 + number
        made.append(frame)
        cut += size
    return made


def expected_reports(submitted):
    """Reports that the plain exchange makes of the frames as they were submitted."""
    return report_array(NaiveExchange(LIMITS, market_data=True).run(np.concatenate(submitted)))


def comparable(reports):
    """Reports without what is the engine's own affair."""
    return report_array(report_tuples(reports))


def test_reports_are_those_of_the_frames_as_submitted():
    """What comes out of the loop is what the plain exchange makes of what went in, byte for byte."""
    rig = Rig(inputs=128, journal=128, output=512)
    for frame in frames_of(3, 10, 1, 20, seed=3):
        assert rig.submit(frame)
    rig.finish()

    wanted = expected_reports(rig.submitted)
    assert wanted.tobytes() == comparable(rig.reports()).tobytes()
    assert sum(map(len, rig.submitted)) == rig.get(At.MATCHED_SEQ)


@st.composite
def schedules(draw):
    """Ring sizes, frame sizes, and who moves when and how far."""
    inputs = draw(st.sampled_from([16, 32, 64]))
    rings = {"inputs": inputs, "journal": inputs * draw(st.sampled_from([1, 2])), "output": draw(st.sampled_from([8, 16, 64]))}  # fmt: skip
    sizes = draw(st.lists(st.integers(1, 15), min_size=1, max_size=8))
    moves = st.tuples(st.sampled_from(["router", "worker", "journal", "publisher"]), st.integers(1, 64))
    return rings, sizes, draw(st.integers(0, 99)), draw(st.lists(moves, max_size=40))


@given(schedules())
def test_whatever_waits_for_whom_nothing_is_lost_or_early(schedule):
    """
    With tiny rings and neighbours that move when they like: nothing is reported before it is journaled (V1), the
    input is released only behind what is matched (V2), and in the end everything has come out once and in order.
    """
    rings, sizes, seed, moves = schedule
    rig = Rig(**rings)
    coming = frames_of(*sizes, seed=seed)
    seqs = expected_reports(coming)["seq"]
    for who, count in moves:
        if who == "router" and coming and rig.submit(coming[0]):
            coming.pop(0)
        elif who == "worker":
            rig.serve()
        elif who == "journal":
            rig.log(count)
        elif who == "publisher":
            rig.publish(count)
        shown = rig.visible() - OWN_FIRST
        matched = rig.get(At.INPUT_HEAD) - INPUT_FIRST
        assert rig.get(At.JOURNAL_TAIL) - OWN_FIRST >= (seqs[shown - 1] if shown else 0)
        assert shown >= np.searchsorted(seqs, matched, "right")
        assert matched == rig.get(At.MATCHED_SEQ)
    while coming:
        if rig.submit(coming[0]):
            coming.pop(0)
        else:
            rig.finish()
    rig.finish()

    submitted = np.concatenate(rig.submitted)
    assert expected_reports(rig.submitted).tobytes() == comparable(rig.reports()).tobytes()
    journaled = np.concatenate(rig.journaled)
    stamps = journaled.view(MARKER)["engine_ns"][journaled["kind"] == CommandKind.MARKER]
    for records in (journaled, submitted):
        records.view(MARKER)["engine_ns"][records["kind"] == CommandKind.MARKER] = 0
    assert submitted.tobytes() == journaled.tobytes()
    assert np.all(np.diff(stamps) >= 0)
    assert np.all(stamps > 0)


def test_the_stamp_in_the_log_is_the_engine_s_time():
    """A FRAME report tells the very time that is logged with the frame, so that a replay tells it too."""
    rig = Rig(output=512)
    for frame in frames_of(3, 4):
        rig.submit(frame)
    rig.finish()

    journaled = np.concatenate(rig.journaled)
    stamps = journaled.view(MARKER)["engine_ns"][journaled["kind"] == CommandKind.MARKER]
    told = np.concatenate(rig.reported)
    assert stamps.tolist() == told["price"][told["kind"] == ReportKind.FRAME].tolist()


def test_engine_time_never_runs_backwards():
    """A clock that was set back does not take the engine with it (M12)."""
    rig = Rig()
    ahead = 1 << 62
    for number, frame in enumerate(frames_of(3, 1)):
        rig.submit(frame)
        assert 1 == take_run(rig.wires, ahead * number)
        assert 1 == match_run(rig.tables, rig.wires)
    second = rig.wires.journal_markers[4]
    assert ahead == second["engine_ns"]


def test_a_frame_is_journaled_before_it_is_matched():
    """Taking a run publishes it to the journal and releases nothing; matching shows reports, then frees the input."""
    rig = Rig()
    rig.submit(frames_of(3)[0])
    assert 1 == take_run(rig.wires, 0)
    assert OWN_FIRST + 4 == rig.get(At.JOURNAL_TAIL)
    assert OWN_FIRST == rig.visible()
    assert INPUT_FIRST == rig.get(At.INPUT_HEAD)

    assert 1 == match_run(rig.tables, rig.wires)
    assert INPUT_FIRST + 4 == rig.get(At.INPUT_HEAD)
    assert OWN_FIRST < rig.visible()


def test_a_full_journal_makes_it_wait():
    """While the log is away nothing is taken; what was taken before is still reported."""
    rig = Rig(inputs=16, journal=16, output=512)
    first, second = frames_of(9, 6)
    rig.submit(first)
    assert Turn.IDLE == rig.serve()
    rig.submit(second)
    assert Turn.IDLE == rig.serve()
    assert (INPUT_FIRST + 10, OWN_FIRST + 10) == (rig.get(At.INPUT_HEAD), rig.get(At.JOURNAL_TAIL))

    rig.log(1)
    rig.serve()
    assert INPUT_FIRST + 17 == rig.get(At.INPUT_HEAD)


def test_a_full_output_ring_stops_in_the_middle_of_a_command_and_goes_on():
    """One order that trades with fifty is reported in pieces; the input stays until the last piece (V2, V3)."""
    rig = Rig(inputs=128, journal=128, output=8)
    commands = np.zeros(52, COMMAND)
    commands[:1] = creations(1)
    commands["kind"][1:] = CommandKind.NEW
    commands["event"] = 1
    commands["order"][1:] = np.arange(1, 52)
    commands["price"][1:] = 50
    commands["quantity"][1:] = [1] * 50 + [50]
    commands["side"][1:] = [1] * 50 + [0]
    rig.submit(frames(commands, 52))
    seen = set()
    while rig.get(At.INPUT_HEAD) == INPUT_FIRST:
        rig.serve()
        assert rig.visible() - rig.get(At.OUTPUT_HEAD) <= 8
        seen.add(int(rig.wires.own[Own.RUN_AT]))
        rig.publish(3)
        assert len(rig.reported) < TURNS_MAX
    rig.finish()

    assert max(seen) == rig.wires.own[Own.RUN_END]
    assert expected_reports(rig.submitted).tobytes() == comparable(rig.reports()).tobytes()
    assert 50 == (rig.reports()["kind"] == ReportKind.FILL_MAKER).sum()


@pytest.mark.parametrize("early", [0, first_position(4) + 9])
def test_a_publisher_that_has_not_started_has_the_ring_once(early):
    """Its word empty or of an earlier life: every slot is written once, none twice, and nothing is lost when it comes."""
    rig = Rig(output=16)
    rig.put(At.OUTPUT_HEAD, early)
    for frame in frames_of(30):
        rig.submit(frame)
    for _ in range(3):
        assert Turn.IDLE == rig.serve()
        assert OWN_FIRST < rig.visible() <= OWN_FIRST + 16
    assert rig.wires.own[Own.RUN_AT] < rig.wires.own[Own.RUN_END]
    first = rig.wires.output.copy()
    rig.serve()
    assert first.tobytes() == rig.wires.output.tobytes()
    rig.put(At.OUTPUT_HEAD, OWN_FIRST)
    rig.finish()
    assert expected_reports(rig.submitted).tobytes() == comparable(rig.reports()).tobytes()


def test_a_frozen_journal_stops_it_before_anything_is_matched():
    """A successor that froze the journal reads a final log: nothing is taken, nothing reported."""
    rig = Rig()
    rig.submit(frames_of(3)[0])
    assert OWN_FIRST == freeze(rig.own_cells, int(rig.at[At.JOURNAL_TAIL]))
    assert Turn.FROZEN == rig.serve()
    assert (INPUT_FIRST, OWN_FIRST) == (rig.get(At.INPUT_HEAD), rig.visible())
    assert Turn.FROZEN == rig.serve()


def test_a_frozen_ring_is_told_also_when_python_wants_its_turn():
    """With several routers Python goes round after each run: a frozen journal must not be taken for a turn without work."""
    rig = Rig()
    rig.wires.own[Own.WAKE_NS] = rig.wires.own[Own.TAKEN_NS] = 1
    rig.submit(frames_of(3)[0])
    freeze(rig.own_cells, int(rig.at[At.JOURNAL_TAIL]))
    assert Turn.FROZEN == rig.serve()


def test_a_question_is_told_also_when_python_wants_its_turn():
    """Likewise: whoever asks a worker of several routers is answered."""
    rig = Rig()
    rig.wires.own[Own.WAKE_NS] = rig.wires.own[Own.TAKEN_NS] = 1
    assert Turn.IDLE == rig.serve()
    rig.put(At.BELL, 1)
    assert Turn.QUERY == rig.serve()


def test_a_frozen_output_ring_shows_nothing_more():
    """What is matched after the freeze is never seen, and its input is not released."""
    rig = Rig()
    rig.submit(frames_of(3)[0])
    freeze(rig.own_cells, int(rig.at[At.OUTPUT_TAIL]))
    assert Turn.FROZEN == rig.serve()
    assert (INPUT_FIRST, OWN_FIRST) == (rig.get(At.INPUT_HEAD), rig.visible())


@pytest.mark.parametrize("word", [At.ROUTER_INCARNATION, At.PUBLISHER_INCARNATION])
def test_a_neighbour_s_new_life_is_told_at_once(word):
    """Nothing is taken while the wires lead to a process that no longer counts."""
    rig = Rig()
    rig.submit(frames_of(3)[0])
    rig.put(word, 1)
    assert Turn.PEERS_CHANGED == rig.serve()
    assert OWN_FIRST == rig.get(At.JOURNAL_TAIL)

    rig.wires.attached[:] = rig.get(At.ROUTER_INCARNATION), rig.get(At.PUBLISHER_INCARNATION)
    assert Turn.IDLE == rig.serve()
    assert INPUT_FIRST + 4 == rig.get(At.INPUT_HEAD)


def test_told_to_stop_it_first_serves_what_is_there():
    """A stop is obeyed when there is nothing to do, or nothing can be done."""
    rig = Rig(output=8)
    rig.submit(frames_of(12)[0])
    rig.put(At.STOP, 1)
    assert Turn.STOP == rig.serve()
    assert INPUT_FIRST == rig.get(At.INPUT_HEAD), "the output ring is full, and the run in hand is not done"
    rig.finish()
    assert Turn.STOP == rig.serve()
    assert INPUT_FIRST + 13 == rig.get(At.INPUT_HEAD)


def test_patience_ends():
    """Without work the loop comes back after so many polls, and its heart has beaten for each."""
    rig = Rig()
    rig.wires.own[Own.PATIENCE] = 5
    before = rig.get(At.HEARTBEAT)
    assert Turn.IDLE == rig.serve()
    assert 6 == rig.get(At.HEARTBEAT) - before


def test_created_events_are_shown():
    """Routers can read what each event's prices are, as soon as the run that created it is matched."""
    rig = Rig()
    commands = creations(3, first_event=40, low=5, high=90, payout=95)
    rig.submit(frames(commands, 3))
    rig.finish()

    assert 3 == rig.get(At.EVENTS_COUNT)
    assert [(40 + n, 5, 90, 95, 1, 2) for n in range(3)] == rig.wires.events[:3].tolist()


def test_each_record_is_counted_once():
    """The wait and the matching of each record but markers are in the histograms."""
    rig = Rig(output=512)
    for frame in frames_of(3, 7):
        rig.submit(frame)
    rig.finish()
    assert (10, 10) == (rig.wires.wait_ns.sum(), rig.wires.match_ns.sum())
    assert all(passed_ns(rig.wires.matched_marks, seq) > 0 for seq in range(1, 13))
    assert passed_ns(rig.wires.matched_marks, 13) == 0


def test_a_run_is_whole_frames_and_bounded():
    """A run holds the first frame whatever its size, and more only while they fit."""
    markers = np.zeros(1 << 13, MARKER)
    sizes = [RUN_SLOTS_MAX // 2, RUN_SLOTS_MAX // 2 - 2, 1, 3_000, 5]
    position, ends = 0, []
    for size in sizes:
        markers[position]["count"] = size
        position += 1 + size
        ends.append(position)
    assert ends[1] == run_length(markers, 0, ends[4])
    assert ends[0] == run_length(markers, 0, ends[0])
    assert 2 == run_length(markers, ends[1], ends[4])
    assert 3_001 == run_length(markers, ends[2], ends[4])


# Time and questions ---------------------------------------------------------------------------------------


def timed_orders(*expiries_ns):
    """A frame that creates an event and places an order good till each of some times."""
    commands = np.zeros(1 + len(expiries_ns), COMMAND)
    commands[:1] = creations(1, first_event=TIMED_EVENT)
    orders = commands[1:]
    orders["kind"] = CommandKind.NEW
    orders["order"] = np.arange(1, 1 + len(orders))
    orders["account"] = 9
    orders["price"] = 50
    orders["quantity"] = 7
    orders["time_in_force"] = TimeInForce.GTD
    orders["expires_ns"] = expiries_ns
    commands["event"] = TIMED_EVENT
    return frames(commands, len(commands))


def waiting(*expiries_ns, **rings):
    """A rig in which such orders rest, with nothing else left to do."""
    rig = Rig(**rings)
    rig.submit(timed_orders(*expiries_ns))
    rig.finish()
    assert min(expiries_ns) == rig.tables.cells[Cell.NEXT_EXPIRY]
    return rig


def expired(rig):
    """Order ids that the publisher saw expire, in order."""
    reports = rig.reports()
    died = (reports["kind"] == ReportKind.CANCELED) & (reports["reason"] == Reason.EXPIRED)
    return reports["order"][died].tolist()


def test_when_an_order_s_time_is_up_a_frame_says_so():
    """At the time and not before, a frame of the worker's own is journaled and matched; no input ring moves."""
    rig = waiting(FAR_NS, FAR_NS + 5)
    head, journaled, matched = rig.get(At.INPUT_HEAD), rig.get(At.JOURNAL_TAIL), rig.get(At.MATCHED_SEQ)
    assert 0 == take_tick(rig.tables, rig.wires, FAR_NS - 1)
    assert 1 == take_tick(rig.tables, rig.wires, FAR_NS)
    assert 1 == match_run(rig.tables, rig.wires)
    rig.finish()

    marker, tick = rig.wires.journal[(journaled + np.arange(2)) & (len(rig.wires.journal) - 1)]
    assert CommandKind.TICK == tick["kind"]
    fields = marker.reshape(1).view(MARKER)[0]
    assert (CommandKind.MARKER, NO_ROUTER, 1) == tuple(fields[["kind", "router", "count"]])
    assert (0, 0, FAR_NS, FAR_NS, head) == tuple(
        fields[["key_low", "key_high", "engine_ns", "ingress_ns", "position"]]
    )
    assert (head, journaled + 2, matched + 2) == (
        rig.get(At.INPUT_HEAD),
        rig.get(At.JOURNAL_TAIL),
        rig.get(At.MATCHED_SEQ),
    )
    assert [1] == expired(rig)
    assert FAR_NS + 5 == rig.tables.cells[Cell.NEXT_EXPIRY]
    assert 0 == take_tick(rig.tables, rig.wires, FAR_NS + 4)


def test_a_clock_that_was_set_back_keeps_nobody_alive():
    """Engine time that is ahead of the clock counts (M12)."""
    rig = waiting(FAR_NS, FAR_NS)
    rig.tables.cells[Cell.ENGINE_NS] = FAR_NS
    assert 1 == take_tick(rig.tables, rig.wires, 1)
    rig.finish()
    assert [1, 2] == expired(rig)
    assert INT64_MAX == rig.tables.cells[Cell.NEXT_EXPIRY]


def test_an_idle_loop_lets_orders_expire():
    """Nobody sends anything: the loop looks at the clock by itself, and at each order's time once."""
    soon = time.time_ns() + 50_000_000
    rig = Rig()
    rig.submit(timed_orders(soon, soon + 10_000_000, soon, FAR_NS))
    deadline = time.monotonic() + DEADLINE_SECONDS
    while rig.tables.cells[Cell.NEXT_EXPIRY] != FAR_NS and time.monotonic() < deadline:
        rig.finish()

    reports = rig.reports()
    late = reports["order"][reports["reason"] == Reason.EXPIRED_ON_ARRIVAL].tolist()  # on a very slow machine
    assert [1, 2, 3] == sorted(expired(rig) + late)
    assert 1 == rig.tables.cells[Cell.ORDERS_USED]
    assert (np.concatenate(rig.journaled)["kind"] == CommandKind.TICK).sum() <= 2


@pytest.mark.parametrize("word", [At.STOP, At.BELL])
def test_nothing_else_that_is_wanted_keeps_an_order_alive(word):
    """Told to stop, or asked something, the loop first does what is due."""
    rig = waiting(FAR_NS)
    rig.tables.cells[Cell.ENGINE_NS] = FAR_NS  # which the loop takes for the time, as it is ahead of the clock
    rig.put(word, 1)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not expired(rig) and time.monotonic() < deadline:
        assert rig.serve() in (Turn.STOP, Turn.QUERY)
        rig.publish(99)
    assert [1] == expired(rig)


def test_expiry_waits_for_room_in_the_journal():
    """While the log is away nothing expires; then it does, once."""
    rig = waiting(FAR_NS, journal=16, inputs=16, output=512)
    rig.submit(frames_of(14)[0])
    rig.serve()
    rig.publish(99)
    assert 0 == take_tick(rig.tables, rig.wires, FAR_NS)
    rig.log(1)
    assert 1 == take_tick(rig.tables, rig.wires, FAR_NS)
    rig.finish()
    assert [1] == expired(rig)


def test_a_replay_of_the_journal_expires_the_same():
    """What was journaled gives the same reports again, without a clock."""
    rig = waiting(FAR_NS, FAR_NS + 1, FAR_NS + 2)
    assert 1 == take_tick(rig.tables, rig.wires, FAR_NS + 1)
    rig.submit(frames_of(5)[0])
    rig.finish()
    again = Exchange(LIMITS, market_data=True)
    wanted = again.submit(np.concatenate(rig.journaled))
    assert wanted.tobytes() == np.concatenate(rig.reported).tobytes()
    assert [1, 2] == expired(rig)


def test_without_a_router_a_run_is_finished_and_orders_expire():
    """What needs no router goes on without one: first the run in hand, then what is due."""
    rig = waiting(FAR_NS, output=8)
    rig.submit(frames_of(9)[0])
    assert Turn.IDLE == rig.serve()
    assert rig.wires.own[Own.RUN_AT] < rig.wires.own[Own.RUN_END]
    for _ in range(TURNS_MAX):
        rig.publish(8)
        if keep_time(rig.tables, rig.wires, FAR_NS) == 0 and expired(rig):
            break
    assert [1] == expired(rig)
    assert rig.get(At.INPUT_HEAD) == rig.get(At.INPUT_TAIL)


def test_a_question_is_answered_between_runs():
    """The bell brings Python in after a turn of work, never inside a run, and until Python has heard it."""
    rig = Rig(output=8)
    rig.submit(frames_of(12)[0])
    rig.put(At.BELL, 3)
    assert Turn.IDLE == rig.serve(), "the output ring is full, and the run in hand is not done"
    while rig.wires.own[Own.RUN_AT] < rig.wires.own[Own.RUN_END]:
        turn = rig.serve()
        rig.publish(3)
        assert len(rig.reported) < TURNS_MAX
    assert Turn.QUERY == turn
    assert INPUT_FIRST + 13 == rig.get(At.INPUT_HEAD)
    assert Turn.QUERY == rig.serve()
    rig.wires.own[Own.BELL] = 3
    assert Turn.IDLE == rig.serve()
