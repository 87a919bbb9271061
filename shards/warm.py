"""
Warm-up: every kernel of the processes compiled, or loaded from numba's cache, before the first order.

A small exchange is run through once in one process, with the argument types that the real one uses; so
whatever a process needs is in the cache, and in the memory of the fork server from which processes are forked.
The first start on a machine compiles for 40 seconds or so; later starts load in about a second.

Imported by the fork server (it preloads this module by name): importing is warming.
"""

import os
import signal
import time
from typing import Final

import numpy as np
from numba import typeof, types

from ringpit.engine import COMMAND, Exchange, Limits, machine, match
from ringpit.engine.codes import CommandKind, ReportKind, Side
from ringpit.engine.image import images
from ringpit.engine.records import MARKER, REPORT
from ringpit.engine.state import export, restore
from ringpit.ipc import histogram, idle
from ringpit.ipc.atomics import load_cell, store_cell, swap_cell
from ringpit.ipc.ring import freeze, publish_freezable, published
from ringpit.shards import dealing, packed, serve
from ringpit.shards.answers import MAKERS
from ringpit.shards.directory import Directory
from ringpit.shards.faults import fault_cells
from ringpit.shards.feed import no_timing
from ringpit.shards.fitting import misfit
from ringpit.shards.flow import frames
from ringpit.shards.follow import Behind, Leader, Over, copy_run, follow
from ringpit.shards.journal import record_cut
from ringpit.shards.lanes import REQUEST
from ringpit.shards.marks import MARK_CELLS, mark
from ringpit.shards.mirror import TICK_SHIFT, allocate_mirror
from ringpit.shards.output import ShardViews, Word
from ringpit.shards.publisher import Publisher, Settings
from ringpit.shards.sections import Placement
from ringpit.shards.sinks import NoSink
from ringpit.wal.memory import MemoryLog
from ringpit.wal.reader import recover
from ringpit.wal.writer import BatchWriter

SMALL: Final = Limits(events=4, orders=64, levels=4_096, keys=64)
SLOTS: Final = 64
LAST_OF_THE_ENGINE: Final = (  # a third of its compilation, and how many numbers each takes behind its arrays
    (match.start_cancel, 3),
    (machine.advance_special, 2),
)
OUTPUT_TAIL: Final = int(serve.At.OUTPUT_TAIL) * serve.CELLS_APART


def commands_of_a_frame() -> np.ndarray:
    """An event and an order in it."""
    commands = np.zeros(2, COMMAND)
    commands["kind"] = CommandKind.CREATE_EVENT, CommandKind.NEW
    commands["event"] = 1
    commands["order"] = 1
    commands["account"] = 2, 7
    commands["price"] = 1, 50
    commands["quantity"] = 99, 5
    commands["payout"] = 100, 0
    return commands


def warm_engine() -> Exchange:
    """Every kind of command once; the exchange that had them."""
    exchange = Exchange(SMALL, market_data=True)
    exchange.create_event(1)
    exchange.order(1, order=1, account=1, side="buy", price=50, quantity=3)
    exchange.order(1, order=2, account=1, side="sell", price=50, quantity=1)
    return exchange


def warm_state(exchange: Exchange) -> None:
    """What looks at a whole shard: answers, images, snapshots."""
    warm_answers(exchange)
    images(exchange.tables, exchange.next_seq - 1)
    restore(export(exchange.tables), SMALL, market_data=True)


def warm_answers(exchange: Exchange) -> None:
    """Every question that a client can ask: a worker that compiles one matches nothing meanwhile."""
    request = np.zeros(1, REQUEST)[0]
    request["event"] = request["order"] = request["account"] = request["levels"] = 1
    for make in MAKERS.values():
        make(exchange.tables, request)


def warm_router(commands: np.ndarray) -> np.ndarray:
    """Check, deal and settle one delivery; the input ring."""
    directory = Directory(1, 4, Placement(events={1: 0}))
    directory.place()
    block = np.zeros(SLOTS * COMMAND.itemsize + histogram.BUCKETS * 8, np.uint8)
    slots = block[: SLOTS * COMMAND.itemsize].view(COMMAND)
    memory, starts = dealing.words_over([slots, block[slots.nbytes :].view(np.int64)])
    zero, own = np.zeros(1, np.int64), np.zeros(len(dealing.Own), np.int64)
    own[dealing.Own.SLOTS] = SLOTS
    dealer = dealing.Dealer(
        homes=directory.homes,
        memory=memory,
        ring_at=starts[:1].copy(),
        ingress_at=starts[1:].copy(),
        cells=np.zeros(16, np.int64),
        tail_at=zero.copy(),
        tails=zero.copy(),
        heads=zero.copy(),
        counts=zero.copy(),
        pending=np.zeros((2, dealing.Owed.POSITIONS + 1), np.int64),
        own=own,
        fault=fault_cells(),
    )
    body = packed.encode(commands)
    packed.check(commands, len(commands))
    row = (1, 0, 0, 0, 0, len(body) // 8, dealing.PACKED, 0)
    rows = np.frombuffer(np.array([row], np.int64).tobytes(), np.int64).reshape(1, len(row))
    dealing.deal_rows(dealer, np.frombuffer(body, np.int64), rows, 0, 1)
    dealing.owe(dealer, 2, 1)
    dealing.settled_until(dealer.pending, 0, 2, zero)
    return slots


def warm_worker(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Serve one frame; the cells, the journal and the output ring."""
    exchange = Exchange(SMALL, market_data=True)
    journal, output = np.zeros(SLOTS, COMMAND), np.zeros(SLOTS, REPORT)
    wires = serve.lone_wires(exchange.tables, inputs, journal, output, SMALL.events)
    store_cell(wires.router, int(wires.at[serve.At.INPUT_TAIL]), 3)
    serve.serve(exchange.tables, wires)
    serve.match_run(exchange.tables, wires)  # what a worker calls from Python while no router is there
    serve.take_tick(exchange.tables, wires, 0)
    warm_follower(wires)
    return wires.cells, journal, output


def warm_follower(wires: serve.Wires) -> None:
    """Follow a worker that has one frame, and copy the rest of its journal."""
    exchange = Exchange(SMALL, market_data=True)
    theirs, ours = np.zeros(len(Over), np.int64), np.zeros(len(Behind), np.int64)
    at = np.arange(len(Over))
    theirs[Over.MATCHED_SEQ] = 3
    ours[Behind.LIMIT_NS] = 1 << 60
    theirs[Over.FOLLOWED_BY] = 1
    journal = wires.journal.copy()
    leader = Leader(theirs, at, ours, np.array([0, 1]), journal, journal.view(MARKER))
    own = wires._replace(
        cells=np.zeros_like(wires.cells), board=np.zeros_like(wires.board), journal=np.zeros_like(wires.journal)
    )
    own = own._replace(journal_markers=own.journal.view(MARKER))
    follow(exchange.tables, own, leader)
    copy_run(own, leader, 0)


def warm_journal(journal: np.ndarray) -> None:
    """One batch written and read back."""
    log = MemoryLog()
    writer = BatchWriter(recover(log, 0, 1, 1, lambda _header, _records: None))
    batch, _ = writer.cut(journal[:3], journal[:0], confirmed_seq=0)
    log.append(batch)
    warm_times(journal)
    again = MemoryLog(log.batches)
    recover(again, 0, 1, 2, lambda _header, _records: None)


def warm_times(journal: np.ndarray) -> None:
    """What the journal thread counts of a batch."""
    histogram.record_many(histogram.empty(), 1, 1)
    record_cut(journal.view(MARKER), 0, 3, 1, histogram.empty())
    mark(np.zeros(MARK_CELLS, np.int64), 1, 1)


def warm_publisher(cells: np.ndarray, output: np.ndarray) -> None:
    """One cycle of each encoding."""
    for encoding in ("json", "packed"):
        words = np.zeros(6, np.int64)
        words[0] = load_cell(cells, OUTPUT_TAIL)
        words[1] = words[2] = 3
        views = ShardViews(
            slots=output,
            incarnation=0,
            epoch=0,
            epoch_seq=0,
            tail=Word(words, 0),
            durable_seq=Word(words, 1),
            matched_seq=Word(words, 2),
            head=Word(words, 3),
            confirmed_seq=Word(words, 4),
            mirror=allocate_mirror(SMALL),
            timing=no_timing(),
        )
        publisher = Publisher(NoSink(), Settings(encoding=encoding))
        publisher.attach_shard(0, views)
        publisher.step(1)
        publisher.step(1 << 60)


def compile_engine() -> None:
    """The engine, and what lies around it; a part of `compiling.py`."""
    warm_worker(warm_router(commands_of_a_frame()))
    warm_state(warm_engine())


def compile_last() -> None:
    """What `compile_engine` comes to last: ready before it does, if this begins when that does; a part of `compiling.py`."""
    t, reports, commands = (
        typeof(Exchange(SMALL).tables),
        typeof(np.zeros(1, REPORT)),
        typeof(np.zeros(1, COMMAND)),
    )
    for function, numbers in LAST_OF_THE_ENGINE:
        function.compile((t, reports, commands, *(types.int64,) * numbers))


def reports_of_a_frame() -> np.ndarray:
    """An event and an order in it, as a worker would tell of them."""
    kinds = (
        ReportKind.FRAME,
        ReportKind.BOOK_RESET,
        ReportKind.EVENT_CREATED,
        ReportKind.ACCEPTED,
        ReportKind.LEVEL,
    )
    reports = np.zeros(SLOTS, REPORT)
    told = reports[: len(kinds)]
    told["kind"] = kinds
    told["seq"] = 1, 2, 2, 3, 3
    told["index"] = 0, 0, 1, 0, 1
    told["event"][1:] = 1
    told["order"][1] = 1 << TICK_SHIFT
    told["side"][3:] = Side.BUY
    told["price"][1:] = 1, 1, 50, 50
    told["quantity"][1:] = 99, 99, 5, 5
    return reports


def compile_edge() -> None:
    """What does not match; a part of `compiling.py`."""
    cells = np.zeros(len(serve.At) * serve.CELLS_APART, np.int64)
    reports = reports_of_a_frame()
    cells[OUTPUT_TAIL] = np.count_nonzero(reports["kind"])
    warm_publisher(cells, reports)
    misfit()  # the scanner
    warm_journal(frames(commands_of_a_frame(), 2))
    warm_state(Exchange(SMALL, market_data=True))
    warm_waiting()


def warm_waiting() -> None:
    """One poll without work of a loop in Python that waits itself, and of one whose next poll does."""
    idle.Idle("spin")(0)
    idle.Idle("sleep").seconds_after(0)


def warm() -> float:
    """Compile or load everything; seconds that it took."""
    began = time.perf_counter()
    warm_state(warm_engine())
    cells, journal, output = warm_worker(warm_router(commands_of_a_frame()))
    warm_journal(journal)
    warm_publisher(cells, output)
    misfit()  # compiles the scanner
    published(cells, 0)
    swap_cell(cells, 0, int(cells[0]), int(cells[0]))
    publish_freezable(cells, 0, int(cells[0]), int(cells[0]))
    freeze(cells, 0)
    warm_waiting()
    return time.perf_counter() - began


if os.environ.get("RINGPIT_FORK_SERVER"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends with the supervisor, not with its process group
    warm()
