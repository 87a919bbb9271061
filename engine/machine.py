"""
The state machine: one command in, reports out; the same log gives the same reports, whatever the batches.

A command that makes many reports (a sweep, a settlement) goes on in steps: when the reports have no room
left, the kernel saves where it stands in `cells` and returns, and the next call goes on with the same
command. It also returns after VISITS_MAX orders that it only looked at, between two fills or two stages; what one stage may look at is bounded by the pools alone (ARCHITECTURE.md, "Choices"). Nothing is ever allocated or dropped.

    START ──> MATCHING ─────────────────> TELLING ──> DONE   NEW, AMEND, ... : trade, rest or cancel the remainder, tell levels
          ├─> TRADING ──> LINE ──> ASIDE ──> TELLING         the same with anything special in the book (trade.py)
          │      ^─────────┴─────────┘                       stops and all-or-none orders trade in their turn
          ├─> CANCELING ──> TELLING ──> NEXT_EVENT ──> DONE  MASS_CANCEL; SETTLE ends after TELLING
          ├─> EXPIRING ──> TELLING ──> EXPIRING ──> DONE     TICK: one order after another
          ├────────────────────────────> TELLING ──> DONE    CANCEL
          └────────────────────────────────────────> DONE    refusals, and what changes no level

Fast here because a plain command is one pass over its own record, inlined in one loop, and two words of the book say that it is
plain. Slow where its books are cold; see ahead.py.

The rules M10 to M12 are numbered in ARCHITECTURE.md, "Matching rules". The invariants are those of
tables.py, ladder.py, index.py and window.py.
"""

from typing import Final

import numpy as np

from ringpit.engine.ahead import fingerprint_seen, is_deep, look_ahead, look_first, names_order
from ringpit.engine.aside import try_aside
from ringpit.engine.book import find_book
from ringpit.engine.codes import CommandKind, Reason, ReportFlag, ReportKind
from ringpit.engine.events import hold_bands, hold_extension, release_levels, start_create
from ringpit.engine.index import MISSING, fingerprint_of
from ringpit.engine.kernels import kernel, leaf, outlined
from ringpit.engine.ladder import NIL
from ringpit.engine.match import match, start_cancel, start_change, start_new
from ringpit.engine.prefetch import prefetch_for_write
from ringpit.engine.stops import advance_line
from ringpit.engine.tables import (
    ASIDE,
    CANCELING,
    DONE,
    EXPIRING,
    LINE,
    MATCHING,
    NEXT_EVENT,
    START,
    TELLING,
    TRADING,
    Cell,
)
from ringpit.engine.tell import emit, refuse, room, tell_levels
from ringpit.engine.trade import VISITS_MAX, trade
from ringpit.engine.walk import cancel_on, expire, go_on_with_events, start_mass_cancel, start_settle
from ringpit.engine.window import find_key, remember_key

REPORTS_AHEAD: Final = 12  # reports between asking for a slot, which another core has read last, and writing it


@leaf
def completes(kind):
    """True for records that only complete the command behind them."""
    return kind == CommandKind.EXTENSION.value or kind == CommandKind.BANDS.value  # noqa: PLR1714 (numba)


@outlined
def complete(t, commands, slot, kind):
    """Keep an EXTENSION or BANDS. An EXTENSION is for the next record only; BANDS may have more of them, and an EXTENSION, behind them."""
    if kind == CommandKind.EXTENSION.value:
        hold_extension(t, commands, slot)
    else:
        t.cells[Cell.EXTENDED] = 0
        hold_bands(t, commands, slot)


@leaf
def book_of(t, event):
    """Book slot of an event, or NIL; commands in a row are often for the same one."""
    book = t.cells[Cell.BOOK]
    if book != NIL and t.books[book]["event"] == event:
        return book
    return find_book(t, event)


@leaf
def begin_record(t, seq):
    """A record is next: its reports count from 0, and it has touched nothing yet."""
    t.cells[Cell.SEQ] = seq
    t.cells[Cell.INDEX] = 0
    t.cells[Cell.TOUCHED] = 0
    t.cells[Cell.TOLD] = 0


@outlined
def start_rare(t, reports, commands, slot, book, kind):
    """First step of a command that is not about one order."""
    if kind == CommandKind.CREATE_EVENT.value:
        return start_create(t, reports, commands, slot, book)
    if kind == CommandKind.SETTLE.value:
        return start_settle(t, reports, commands, slot, book)
    if kind == CommandKind.MASS_CANCEL.value:
        return start_mass_cancel(t, reports, commands, slot, book)
    if kind == CommandKind.TICK.value:
        return EXPIRING
    return refuse(t, reports, commands, slot, Reason.UNSUPPORTED.value)


@outlined
def advance_special(t, reports, commands, slot, stage):
    """One step of a stage that plain commands do not have."""
    if stage == TRADING:
        return trade(t, reports)
    if stage == LINE:
        return advance_line(t, reports)
    if stage == ASIDE:
        return try_aside(t)
    if stage == CANCELING:
        return cancel_on(t, reports, commands, slot)
    if stage == EXPIRING:
        return expire(t, reports)
    if stage == NEXT_EVENT:
        return go_on_with_events(t, reports, commands, slot)
    return tell_and_go_on(t, reports, commands, slot)


@leaf
def tell_and_go_on(t, reports, commands, slot):
    """TELLING, and what comes behind it."""
    if tell_levels(t, reports) == TELLING:
        return TELLING
    kind = commands[slot]["kind"]
    if kind == CommandKind.SETTLE.value:
        release_levels(t, t.cells[Cell.BOOK])
    elif kind == CommandKind.MASS_CANCEL.value:
        return NEXT_EVENT
    elif kind == CommandKind.TICK.value:
        return EXPIRING
    return DONE


@outlined
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


@outlined
def skip(t, reports, commands, slot):
    """A record of a duplicate frame: nothing happens; a command of a frame with a reused key: refused."""
    t.cells[Cell.SKIP_LEFT] -= 1
    kind = commands[slot]["kind"]
    if t.cells[Cell.SKIP_REASON] != Reason.NONE.value and not completes(kind):
        refuse(t, reports, commands, slot, t.cells[Cell.SKIP_REASON])


@kernel
def process(t, commands, markers, begin_at, end_at, seq, reports, out, out_limit, ahead):
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
        ahead: 1: look ahead among these records, only to prefetch memory (ahead.py); 0: do not. Results are the same.

    A position below `end_at` in the answer means that the reports are full, or that the command in hand has looked at so much
    that the caller shall have a turn: call again with the returned position and its seq. Cost: no allocation; 20 to 200 ns
    a command by how cold its book is. This is the one long function of the engine: every call in it is a leaf, inlined, or rare.
    """
    t.cells[Cell.OUT] = out
    t.cells[Cell.OUT_LIMIT] = out_limit
    t.cells[Cell.VISITS] = 0
    mask = commands.shape[0] - 1
    position = begin_at
    deep = is_deep(t)
    if ahead != 0:
        look_first(t, commands, begin_at, end_at, mask)
    while position < end_at and room(t):
        prefetch_for_write(reports, (t.cells[Cell.OUT] + REPORTS_AHEAD) & (reports.shape[0] - 1))
        if ahead != 0:
            look_ahead(t, commands, position, end_at, mask, deep)
        slot = position & mask
        kind = commands[slot]["kind"]
        stage = t.cells[Cell.STAGE]
        if t.cells[Cell.SKIP_LEFT] > 0:
            begin_record(t, seq + position - begin_at)
            skip(t, reports, commands, slot)
        elif kind == CommandKind.MARKER.value:
            begin_record(t, seq + position - begin_at)
            mark(t, reports, markers, slot)
        elif completes(kind):
            complete(t, commands, slot, kind)
            position += 1
            continue
        else:
            if stage == START:
                begin_record(t, seq + position - begin_at)
                if commands[slot]["verdict"] != Reason.NONE.value:
                    stage = refuse(t, reports, commands, slot, np.int64(commands[slot]["verdict"]))
                else:
                    book = book_of(t, commands[slot]["event"])
                    t.cells[Cell.BOOK] = book
                    if not names_order(kind):
                        stage = start_rare(t, reports, commands, slot, book, kind)
                    else:
                        fingerprint = np.int64(MISSING)
                        if ahead != 0:
                            fingerprint = fingerprint_seen(t, position, book)
                        if fingerprint == MISSING:
                            fingerprint = fingerprint_of(book, commands[slot]["order"])
                        if kind == CommandKind.NEW.value:
                            stage = start_new(t, reports, commands, slot, book, fingerprint)
                        elif kind == CommandKind.CANCEL.value:
                            stage = start_cancel(t, reports, commands, slot, book, fingerprint)
                        else:
                            stage = start_change(t, reports, commands, slot, book, fingerprint)
            while stage != DONE:
                if stage == TELLING and t.cells[Cell.TOUCHED] == 0 and names_order(kind):
                    stage = DONE  # nothing to tell: market data is off
                elif not room(t) or t.cells[Cell.VISITS] >= VISITS_MAX:
                    break
                elif stage == MATCHING:
                    stage = match(t, reports)
                else:
                    stage = advance_special(t, reports, commands, slot, stage)
            t.cells[Cell.STAGE] = START if stage == DONE else stage
            if stage != DONE:
                break
        t.cells[Cell.EXTENDED] = 0
        t.cells[Cell.BANDS] = 0
        position += 1
    return position, t.cells[Cell.OUT]
