"""
The worker's jitted loop: take frames, journal them, match them, let them go.

    input ring ──copy, stamp──> journal ring ──match in place──> output ring
         head <──────────────── after matching                     tail

A run of whole frames is taken at once. They are copied into the journal ring with the engine time in
their markers, and published to the journal thread by one compare-and-swap before the first of them is
matched: the log never waits for the book. Matching reads the journaled copy, so what is matched is what is logged.
The reports go straight into the output ring, and become visible in the middle of a long command when
the ring fills.

The loop waits only for stages further down: for room in the journal ring (journal thread, log) and in the output
ring (publisher). While it waits or idles it watches the board, and returns to Python when it is told to stop,
when a neighbour has a new incarnation, when somebody asks something, or when its patience ends.

Time passes without frames, too: when an open order's time is up, the loop journals a frame of its own between
two others, with one TICK in it, and matches it like any run. It comes through no input ring and moves none.

Fast here because nothing is allocated, a run costs one exchange with each neighbour, and the GIL is free
throughout. Slow here: a first report after an idle spell pays for the nap that the waiting policy chose.

Invariants:

    V1  a frame is journaled before its first report is published
    V2  the input head passes a frame only when it is journaled: as it is, when it is matched
    V3  a run in hand is finished before the next is taken, also across returns to Python
    V4  Python is asked to answer only while no run is in hand, and only after a turn of work: whoever asks without
        end slows matching down and does not stop it
"""

from enum import IntEnum, auto
from typing import Final, NamedTuple

import numpy as np
from numba import njit

from ringpit.engine.codes import CommandKind
from ringpit.engine.limits import INT64_MAX, REPORTS_PER_STEP_MAX
from ringpit.engine.records import COMMAND, MARKER
from ringpit.engine.tables import Cell, Tables
from ringpit.engine.through import address_of_process, process_through
from ringpit.ipc import histogram
from ringpit.ipc.atomics import clock_ns, load_acquire, store_release
from ringpit.ipc.histogram import record_many
from ringpit.ipc.idle import idle_step
from ringpit.ipc.ring import carry, free_room, publish_freezable, published, release
from ringpit.shards.faults import Step, fault_cells, passed
from ringpit.shards.layout import EVENT
from ringpit.shards.marks import MARK_CELLS, mark
from ringpit.wal.frames import NO_ROUTER

RING_FROZEN: Final = -1  # what a step answers: another process has frozen our rings
BROKEN_OFF: Final = -2  # a simulation ends here
STEP_MAX: Final = 1 << 40  # a whole run
PATIENCE_AGAIN: Final = 150  # idle polls between two turns of Python in a lull: about a second
CELLS_APART: Final = 16  # between two words of `lone_wires`: a line and its neighbour
RUN_SLOTS_MAX: Final = 2_048  # slots a run takes beyond its first frame: bounds the work between two heartbeats


class At(IntEnum):
    """Where the words lie that the loop touches: indices into `Wires.at`."""

    HEARTBEAT = 0
    INPUT_HEAD = auto()
    JOURNAL_TAIL = auto()
    JOURNAL_HEAD = auto()
    OUTPUT_TAIL = auto()
    MATCHED_SEQ = auto()
    EVENTS_COUNT = auto()
    ORDERS_RESTING = auto()
    IN_HAND_SEQ = auto()
    TRYING_SEQ = auto()
    FIRST_MATCH_NS = auto()
    INPUT_TAIL = auto()  # in the router's cells
    OUTPUT_HEAD = auto()  # in the publisher's cells
    BELL = auto()  # in the clients' cells
    STOP = auto()  # the rest: in the board's cells
    ROUTER_INCARNATION = auto()
    PUBLISHER_INCARNATION = auto()


class Own(IntEnum):
    """The loop's own numbers, kept between returns to Python, in `Wires.own`."""

    SEQ = 0  # log position of the record at RUN_AT
    RUN_AT = auto()  # journal position reached in the run in hand
    RUN_END = auto()  # behind the run; equal to RUN_AT: none in hand
    INPUT_END = auto()  # input position behind the run in hand
    OUT = auto()  # output ring position
    OUT_FIRST = auto()  # where the output ring began
    IDLE = auto()  # polls without work, for the waiting policy
    MODE = auto()  # waiting policy
    PATIENCE = auto()  # idle polls after which Python gets a turn
    TAKEN_NS = auto()  # when the run in hand was taken
    TAKEN = auto()  # records of it, without markers
    BELL = auto()  # the clients' bell as it was when Python last looked what they ask
    STEP = auto()  # most records matched at once
    WAKE_NS = auto()  # engine time from which on Python wants a turn between two runs; 0: never


class Turn(IntEnum):
    """Why the loop came back to Python."""

    IDLE = 0
    STOP = 1
    PEERS_CHANGED = 2
    FROZEN = 3
    QUERY = 4
    BROKEN_OFF = 5  # a simulation ended it at a fault point


class Wires(NamedTuple):
    """Everything the loop touches besides the engine's tables."""

    cells: np.ndarray  # int64, the worker's own segment
    router: np.ndarray  # int64, the router's segment
    publisher: np.ndarray  # int64, the publisher's segment
    board: np.ndarray  # int64, the supervisor's segment
    queries: np.ndarray  # int64, the clients' segment
    at: np.ndarray  # int64, see At
    own: np.ndarray  # int64, see Own
    attached: np.ndarray  # int64: incarnations of the router and of the publisher behind these wires
    inputs: np.ndarray  # COMMAND, a power of two
    input_markers: np.ndarray  # the same as MARKER
    journal: np.ndarray  # COMMAND, a power of two
    journal_markers: np.ndarray  # the same as MARKER
    tick: np.ndarray  # COMMAND x 2: a frame of our own, see `tick_frame`
    output: np.ndarray  # REPORT, a power of two
    events: np.ndarray  # EVENT
    wait_ns: np.ndarray  # histograms, int64
    match_ns: np.ndarray
    matched_marks: np.ndarray  # int64, see marks.py
    clock: np.ndarray  # int64 x 1: the time in a simulation; 0: the machine's
    fault: np.ndarray  # int64, see faults.py
    process_at: int  # address of the engine's `process`, see through.py


def lone_wires(
    t: Tables, inputs: np.ndarray, journal: np.ndarray, output: np.ndarray, events_max: int = 1
) -> Wires:
    """Wires of a loop all of whose neighbours are arrays: for the warm-up, benchmarks and tests. Nothing was served."""
    cells, router, publisher, board, queries = (np.zeros(len(At) * CELLS_APART, np.int64) for _ in range(5))
    own = np.zeros(len(Own), np.int64)
    own[Own.SEQ], own[Own.STEP] = 1, STEP_MAX
    return Wires(
        cells=cells,
        router=router,
        publisher=publisher,
        board=board,
        queries=queries,
        at=np.arange(len(At)) * CELLS_APART,
        own=own,
        attached=np.zeros(2, np.int64),
        inputs=inputs,
        input_markers=inputs.view(MARKER),
        journal=journal,
        journal_markers=journal.view(MARKER),
        tick=tick_frame(),
        output=output,
        events=np.zeros(events_max, EVENT),
        wait_ns=histogram.empty(),
        match_ns=histogram.empty(),
        matched_marks=np.zeros(MARK_CELLS, np.int64),
        clock=np.zeros(1, np.int64),
        fault=fault_cells(),
        process_at=address_of_process(t, journal, journal.view(MARKER), output),
    )


def tick_frame() -> np.ndarray:
    """The frame that makes orders expire, but for its times: a marker of no router and no key, and a TICK."""
    frame = np.zeros(2, COMMAND)
    marker = frame.view(MARKER)
    marker[0]["kind"] = CommandKind.MARKER
    marker[0]["router"] = NO_ROUTER
    marker[0]["count"] = 1
    frame[1]["kind"] = CommandKind.TICK
    return frame


@njit(cache=True, nogil=True, _nrt=False)
def time_of(w):
    """Nanoseconds since the epoch."""
    return w.clock[0] if w.clock[0] != 0 else clock_ns()


@njit(cache=True, nogil=True, _nrt=False)
def run_length(markers, head, tail):
    """Slots of the whole frames from head on: the first one, and more while they fit a run."""
    mask = markers.shape[0] - 1
    end = head
    while end < tail:
        frame = 1 + markers[end & mask]["count"]
        if end > head and end + frame - head > RUN_SLOTS_MAX:
            break
        end += frame
    return end - head


@njit(cache=True, nogil=True, _nrt=False)
def journal_run(w, head, count, tail, now_ns):
    """Copy a run into the journal ring behind `tail` and stamp its markers. Returns its records without markers."""
    carry(w.journal, tail, w.inputs, head, count)
    input_mask, journal_mask = w.inputs.shape[0] - 1, w.journal.shape[0] - 1
    i = 0
    records = 0
    while i < count:
        marker = (head + i) & input_mask
        frame_records = w.input_markers[marker]["count"]
        w.journal_markers[(tail + i) & journal_mask]["engine_ns"] = now_ns
        record_many(
            w.wait_ns, now_ns - w.input_markers[marker]["engine_ns"], frame_records
        )  # as the router wrote it
        records += frame_records
        i += 1 + frame_records
    return records


@njit(cache=True, nogil=True, _nrt=False)
def publish_run(w, count, records, input_end, now_ns):
    """
    Give the journal what was written behind the last run, and take it in hand. Returns 1, or RING_FROZEN or BROKEN_OFF.

    Of its `count` slots `records` hold no marker.
    """
    journal_tail = w.own[Own.RUN_END]
    if passed(w.fault, Step.COPIED):
        return BROKEN_OFF
    if not publish_freezable(w.cells, w.at[At.JOURNAL_TAIL], journal_tail, journal_tail + count):
        return RING_FROZEN
    w.own[Own.RUN_AT] = journal_tail
    w.own[Own.RUN_END] = journal_tail + count
    w.own[Own.INPUT_END] = input_end
    w.own[Own.TAKEN_NS] = now_ns
    w.own[Own.TAKEN] = records
    store_release(w.cells, w.at[At.IN_HAND_SEQ], w.own[Own.SEQ] + count - 1)  # for whoever finds us dead
    return BROKEN_OFF if passed(w.fault, Step.JOURNALED) else 1


@njit(cache=True, nogil=True, _nrt=False)
def take_tick(t, w, clock):
    """
    Take a frame of our own if an order's time is up at `clock`, and the journal has room. Returns as `take_run`.

    Engine time may be ahead of a clock that was set back; then it counts.
    """
    now_ns = max(clock, t.cells[Cell.ENGINE_NS])
    journal_tail = w.own[Own.RUN_END]
    count = w.tick.shape[0]
    if now_ns < t.cells[Cell.NEXT_EXPIRY]:
        return 0
    if free_room(journal_tail, w.cells, w.at[At.JOURNAL_HEAD], w.journal.shape[0]) < count:
        return 0
    head = w.cells[w.at[At.INPUT_HEAD]]  # plain: only this process writes it; it stays where it is
    mask = w.journal.shape[0] - 1
    carry(w.journal, journal_tail, w.tick, 0, count)
    w.journal_markers[journal_tail & mask]["engine_ns"] = now_ns
    w.journal_markers[journal_tail & mask]["ingress_ns"] = now_ns
    w.journal_markers[journal_tail & mask]["position"] = head
    return publish_run(w, count, count - 1, head, now_ns)


@njit(cache=True, nogil=True, _nrt=False)
def take_run(w, last_ns):
    """Take the frames that wait, if the journal has room. Returns 1 taken, 0 nothing to do, or RING_FROZEN or BROKEN_OFF."""
    head = w.cells[w.at[At.INPUT_HEAD]]  # plain: only this process writes it
    tail = published(w.router, w.at[At.INPUT_TAIL])
    if tail <= head:
        return 0
    count = run_length(w.input_markers, head, tail)
    journal_tail = w.own[Own.RUN_END]
    if free_room(journal_tail, w.cells, w.at[At.JOURNAL_HEAD], w.journal.shape[0]) < count:
        return 0
    now_ns = max(time_of(w), last_ns)
    records = journal_run(w, head, count, journal_tail, now_ns)
    return publish_run(w, count, records, head + count, now_ns)


@njit(cache=True, nogil=True, _nrt=False)
def tell_events(t, w):
    """Show events created since the last look to the routers."""
    shown = w.cells[w.at[At.EVENTS_COUNT]]  # plain: only this process writes it
    used = t.cells[Cell.BOOKS_USED]
    if shown == used:
        return
    for book in range(shown, used):
        w.events[book]["event"] = t.books[book]["event"]
        w.events[book]["low"] = t.books[book]["low"]
        w.events[book]["high"] = t.books[book]["high"]
        w.events[book]["payout"] = t.books[book]["payout"]
        w.events[book]["tick_units"] = t.books[book]["tick_units"]
        w.events[book]["decimals"] = t.books[book]["decimals"]
    store_release(w.cells, w.at[At.EVENTS_COUNT], used)  # pairs with the acquire in Directory.learn


@njit(cache=True, nogil=True, _nrt=False)
def end_run(t, w):
    """The run in hand is matched, and its reports are in the ring: let it count, and give its slots back. Returns 1, or BROKEN_OFF."""
    tell_events(t, w)  # before the run counts as matched: whoever follows us shows no event later than we do
    # pairs with publisher's, follower's acquire
    store_release(w.cells, w.at[At.MATCHED_SEQ], w.own[Own.SEQ] - 1)
    if passed(w.fault, Step.MATCHED):
        return BROKEN_OFF
    release(w.cells, w.at[At.INPUT_HEAD], w.own[Own.INPUT_END])
    if passed(w.fault, Step.SERVED):
        return BROKEN_OFF
    # relaxed would do: for whoever watches
    store_release(w.cells, w.at[At.ORDERS_RESTING], t.cells[Cell.ORDERS_USED])
    return 1


@njit(cache=True, nogil=True, _nrt=False)
def match_run(t, w):
    """
    Match the run in hand as far as the output ring has room.

    Returns 1 if anything was done, 0 if the ring is full, RING_FROZEN if it takes nothing more, or BROKEN_OFF.
    """
    out = w.own[Own.OUT]
    slots = w.output.shape[0]
    # Slots that were never written are free, also before the publisher has seen that this ring is the one to read.
    room = max(free_room(out, w.publisher, w.at[At.OUTPUT_HEAD], slots), slots - (out - w.own[Own.OUT_FIRST]))
    if room > slots:
        return 0  # the publisher stands in a later ring: another worker leads
    at = w.own[Own.RUN_AT]
    store_release(w.cells, w.at[At.TRYING_SEQ], w.own[Own.SEQ])  # for whoever finds us dead
    reached, written = process_through(
        w.process_at,
        t,
        w.journal,
        w.journal_markers,
        at,
        min(w.own[Own.RUN_END], at + w.own[Own.STEP]),
        w.own[Own.SEQ],
        w.output,
        out,
        out + max(room, 0),
        1,
    )
    store_release(w.cells, w.at[At.TRYING_SEQ], 0)
    w.own[Own.SEQ] += reached - at
    w.own[Own.RUN_AT] = reached
    if reached == w.own[Own.RUN_END]:
        matched_ns = time_of(w)
        record_many(w.match_ns, matched_ns - w.own[Own.TAKEN_NS], w.own[Own.TAKEN])
        mark(w.matched_marks, w.own[Own.SEQ] - 1, matched_ns)  # before the publisher sees the reports
    if written != out:
        if passed(w.fault, Step.REPORTED):
            return BROKEN_OFF
        if not publish_freezable(w.cells, w.at[At.OUTPUT_TAIL], out, written):
            return RING_FROZEN
        w.own[Own.OUT] = written
        if w.cells[w.at[At.FIRST_MATCH_NS]] == 0:  # plain: only this process writes it
            store_release(w.cells, w.at[At.FIRST_MATCH_NS], time_of(w))  # for whoever measures a take-over
    if passed(w.fault, Step.PUBLISHED):
        return BROKEN_OFF
    if reached == w.own[Own.RUN_END]:
        return end_run(t, w)
    # Nothing came out although there was room: a long walk over orders that are not concerned, which goes on.
    return int(reached != at or written != out or room >= REPORTS_PER_STEP_MAX)


def keep_time(t: Tables, w: Wires, clock: int) -> int:
    """
    Do what needs no router: finish the run in hand, else expire what is due. Returns as `match_run`.

    Not compiled: it is rarely called, and would hold all of matching once more.
    """
    if w.own[Own.RUN_AT] < w.own[Own.RUN_END]:
        return int(match_run(t, w))
    return int(take_tick(t, w, clock))


@njit(cache=True, nogil=True, _nrt=False)
def serve(t, w):
    """Run until Python is needed; the answer is a Turn."""
    patience = w.own[Own.PATIENCE]
    # Python had its turn because nothing happens: the lull goes on, where there is one.
    w.own[Own.IDLE] = max(patience - PATIENCE_AGAIN, 0) if w.own[Own.IDLE] >= patience else 0
    while True:
        heartbeat = w.at[At.HEARTBEAT]
        store_release(w.cells, heartbeat, w.cells[heartbeat] + 1)  # for whoever watches
        in_hand = w.own[Own.RUN_AT] < w.own[Own.RUN_END]
        if (
            load_acquire(w.board, w.at[At.ROUTER_INCARNATION]) != w.attached[0]  # pairs with the supervisor's
            or load_acquire(w.board, w.at[At.PUBLISHER_INCARNATION]) != w.attached[1]  # stores
        ):
            return Turn.PEERS_CHANGED
        if in_hand:
            worked = match_run(t, w)
        else:
            worked = 0
            if t.cells[Cell.NEXT_EXPIRY] != INT64_MAX:  # else the clock need not be read
                worked = take_tick(t, w, time_of(w))
            if worked == 0:
                worked = take_run(w, t.cells[Cell.ENGINE_NS])
        if worked < 0:  # before anything else: it must not be forgotten
            return Turn.FROZEN if worked == RING_FROZEN else Turn.BROKEN_OFF
        if (
            load_acquire(w.queries, w.at[At.BELL]) != w.own[Own.BELL]  # pairs with the swap in Client
            and w.own[Own.RUN_AT] == w.own[Own.RUN_END]  # V4
        ):
            return Turn.QUERY
        if (
            w.own[Own.WAKE_NS] != 0
            and w.own[Own.TAKEN_NS] >= w.own[Own.WAKE_NS]
            and w.own[Own.RUN_AT] == w.own[Own.RUN_END]
        ):
            return Turn.IDLE
        if worked == 0:
            if load_acquire(w.board, w.at[At.STOP]) != 0:  # pairs with the supervisor's store
                return Turn.STOP
            if w.own[Own.IDLE] >= patience:
                return Turn.IDLE
        idle_step(w.own, Own.IDLE, w.own[Own.MODE], worked)
