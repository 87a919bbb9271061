"""
The state machine: one command in, reports out; the same log gives the same reports, whatever the batches.

A command that makes many reports (a sweep, a settlement) goes on in steps: when the reports have no room
left, the kernel saves where it stands in `cells` and returns, and the next call goes on with the same
command. So one command's work between two returns is bounded, and nothing is ever allocated or dropped.

    START ──> MATCHING ──> TELLING ──> DONE         NEW, AMEND: trade, rest or cancel the remainder, tell levels
          ├─> CLOSING ───> TELLING ──> DONE         SETTLE: cancel what rests, tell levels
          ├──────────────> TELLING ──> DONE         CANCEL
          └──────────────────────────> DONE         refusals, and what changes no level

Fast here because a command is one pass over its own record, and no branch asks for a feature that the event
does not have. Slow where its books are cold.

The rules M10 to M12 are numbered in ARCHITECTURE.md, "Matching rules". The invariants are those of
tables.py, ladder.py, index.py and window.py.
"""

import numpy as np

from ringpit.engine.book import find_book
from ringpit.engine.codes import CommandKind, ReportFlag, Reason, ReportKind
from ringpit.engine.events import close, release_run, start_create, start_settle
from ringpit.engine.kernels import kernel, leaf
from ringpit.engine.ladder import NIL
from ringpit.engine.match import match, start_amend, start_cancel, start_new
from ringpit.engine.tables import CLOSING, DONE, MATCHING, START, Cell
from ringpit.engine.tell import emit, refuse, room, tell_levels
from ringpit.engine.window import find_key, remember_key


@leaf
def start(t, reports, commands, slot):
    """First step of a command: the stage it is in afterwards."""
    kind = commands[slot]["kind"]
    t.cells[Cell.TOUCHED] = 0
    t.cells[Cell.TOLD] = 0
    if commands[slot]["verdict"] != Reason.NONE.value:
        return refuse(t, reports, commands, slot, np.int64(commands[slot]["verdict"]))
    book = find_book(t, commands[slot]["event"])
    t.cells[Cell.BOOK] = book
    if kind == CommandKind.NEW:
        return start_new(t, reports, commands, slot, book)
    if kind == CommandKind.CANCEL:
        return start_cancel(t, reports, commands, slot, book)
    if kind == CommandKind.AMEND:
        return start_amend(t, reports, commands, slot, book)
    if kind == CommandKind.CREATE_EVENT:
        return start_create(t, reports, commands, slot, book)
    if kind == CommandKind.SETTLE:
        return start_settle(t, reports, commands, slot, book)
    if kind == CommandKind.TICK:
        return DONE
    return refuse(t, reports, commands, slot, Reason.UNSUPPORTED.value)


@leaf
def advance(t, reports, commands, slot, stage):
    """Go on with the command in hand until it is done or the reports are full; the stage it is in then."""
    while stage != DONE and room(t):
        if stage == START:
            stage = start(t, reports, commands, slot)
        elif stage == MATCHING:
            stage = match(t, reports)
        elif stage == CLOSING:
            stage = close(t, reports, commands, slot)
        else:
            stage = tell_levels(t, reports)
            if stage == DONE and commands[slot]["kind"] == CommandKind.SETTLE:
                release_run(t, t.cells[Cell.BOOK])
    return stage


@leaf
def mark(t, reports, markers, slot):
    """MARKER: engine time (M12), and whether the frame is a duplicate (M11)."""
    engine_ns = max(t.cells[Cell.ENGINE_NS], markers[slot]["engine_ns"])
    t.cells[Cell.ENGINE_NS] = engine_ns
    low = markers[slot]["key_low"]
    high = markers[slot]["key_high"]
    count = markers[slot]["count"]
    if t.cells[Cell.MARKET_DATA] != 0:
        emit(
            t,
            reports,
            ReportKind.FRAME.value,
            0,
            Reason.NONE.value,
            0,
            markers[slot]["position"],
            low,
            high,
            engine_ns,
            markers[slot]["ingress_ns"],
            count,
        )
    if low == 0 and high == 0:
        return
    known = find_key(t, low, high)
    if known == NIL:
        remember_key(t, low, high, markers[slot]["body_hash"], t.cells[Cell.SEQ])
        return
    t.cells[Cell.SKIP_LEFT] = count
    if t.keys[known]["body_hash"] != markers[slot]["body_hash"]:
        t.cells[Cell.SKIP_REASON] = Reason.KEY_REUSED.value
        return
    t.cells[Cell.SKIP_REASON] = Reason.NONE.value
    first = t.keys[known]["seq"]
    emit(
        t,
        reports,
        ReportKind.DUPLICATE.value,
        0,
        Reason.NONE.value,
        ReportFlag.REPEAT.value,
        markers[slot]["first_event"],
        first,
        0,
        0,
        0,
        count,
    )


@leaf
def skip(t, reports, commands, slot):
    """A command of a duplicate frame: nothing happens; of a frame with a reused key: refused."""
    t.cells[Cell.SKIP_LEFT] -= 1
    if t.cells[Cell.SKIP_REASON] != Reason.NONE.value:
        refuse(t, reports, commands, slot, t.cells[Cell.SKIP_REASON])


@kernel
def process(t, commands, markers, begin_at, end_at, seq, reports, out, out_limit):
    """
    Apply the records at positions [begin_at, end_at), strictly in order; return (position, out) reached.

    Args:
        t: Tables of the shard, changed in place.
        commands: COMMAND array whose length is a power of two; position p lies in slot p & (length - 1).
        markers: The same memory seen as MARKER.
        begin_at: First position; the record in hand if the last call returned in the middle of one.
        end_at: Position behind the last record.
        seq: Log position of the record at `begin_at`.
        reports: REPORT array whose length is a power of two, at least REPORTS_PER_STEP_MAX.
        out: Report position to write next.
        out_limit: Report position that may not be passed.

    A position below `end_at` in the answer means that the reports are full: call again with more room, with
    the returned position and its seq. Cost: no allocation; 20 to 200 ns a command by how cold its book is.
    """
    t.cells[Cell.OUT] = out
    t.cells[Cell.OUT_LIMIT] = out_limit
    mask = commands.shape[0] - 1
    position = begin_at
    while position < end_at:
        if not room(t):
            break
        slot = position & mask
        stage = t.cells[Cell.STAGE]
        if stage == START:
            t.cells[Cell.SEQ] = seq + position - begin_at
            t.cells[Cell.INDEX] = 0
        if t.cells[Cell.SKIP_LEFT] > 0:
            skip(t, reports, commands, slot)
        elif commands[slot]["kind"] == CommandKind.MARKER:
            mark(t, reports, markers, slot)
        else:
            stage = advance(t, reports, commands, slot, stage)
            if stage != DONE:
                t.cells[Cell.STAGE] = stage
                break
            t.cells[Cell.STAGE] = START
        position += 1
    return position, t.cells[Cell.OUT]
