"""
`ringpit replay --log`: a shard's log applied again, and the books as they were at any seq.

    ringpit replay --log -c FILE --shard 0 --to 12345 --event 7      the book of event 7 at seq 12345
    ringpit replay --log --folder DIR --reports out.ndjson           every report once more
    ringpit replay --log -c FILE --digest                            a hash of each shard's open orders

It begins at the newest snapshot at or below the seq, unless it is told not to or reports are wanted from the start. Each
snapshot that it passes must agree; the last line of each shard says so. Printing only; the work is in rerun.py.
"""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from ringpit.shards.asking import print_depth, print_table
from ringpit.shards.exits import Exit
from ringpit.shards.logtool import load_config, progress_bar, told
from ringpit.shards.saying import say


class Asked(NamedTuple):
    """What is wanted, as given on the command line."""

    to_seq: int | None
    from_start: bool
    event: int | None
    depth: int
    reports: Path | None
    digest: bool


def replay_log(
    config: Path | None, folder: Path | None, shard: int | None, snapshots: Path | None, asked: Asked
) -> Exit:
    """Apply the logs that are meant, one after another; REFUSED if a snapshot does not agree. Raises typer.Exit for what cannot be done."""
    from ringpit.shards.config import ConfigError
    from ringpit.shards.logs import sources_of

    agree = True
    with told(), ExitStack() as stack:
        sources = list(sources_of(load_config(config), folder, shard, snapshots))
        if asked.to_seq is not None and len(sources) > 1:
            raise ConfigError("--to needs --shard: each shard has seqs of its own")
        descriptor = -1
        if asked.reports is not None:
            descriptor = os.open(asked.reports, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            stack.callback(os.close, descriptor)
        for source in sources:
            agree &= replay_source(source, asked, descriptor)
    return Exit.STOPPED if agree else Exit.REFUSED


def replay_source(source: Any, asked: Asked, descriptor: int) -> bool:
    """Apply one log and show what was asked for; True if every snapshot on the way agrees."""
    from ringpit.shards.config import ConfigError
    from ringpit.shards.rerun import Books, Rerun, ToldBooks, first_snapshot, snapshot_below, tables_of

    snapshot = first_snapshot(source, say) if asked.from_start else snapshot_below(source, asked.to_seq, say)
    seq = snapshot.facts.seq if snapshot else 0
    tables = tables_of(source.limits, snapshot, market_data=descriptor >= 0)
    books: Books | ToldBooks = Books(tables, seq)
    if descriptor >= 0:
        books = ToldBooks(source, tables, seq, descriptor, str(asked.reports))
    rerun = Rerun(source, books, snapshot, asked.to_seq)
    end = asked.to_seq or rerun.history.last_seq()
    with progress_bar(f"shard {source.shard}") as progress:
        for _ in rerun.steps():
            progress(books.seq, end)
    if asked.to_seq is not None and books.seq < asked.to_seq:
        raise ConfigError(
            f"--to must be at most {books.seq}, which is where the log of shard {source.shard} ends, was {asked.to_seq}"
        )
    began = f"the snapshot at seq {seq}" if snapshot else "its first batch"
    digest = books.digest()
    if asked.digest:
        print(digest)
    else:
        show_books(tables, asked)
        print(f"shard {source.shard} at seq {books.seq}, from {began}: digest {digest}")
    for check in rerun.checks:
        if check.wrong:
            say(f"shard {source.shard}: the snapshot at seq {check.facts.seq} does not agree: {check.wrong}")
        elif not asked.digest:
            print(f"shard {source.shard}: the snapshot at seq {check.facts.seq} agrees")
    return not any(check.wrong for check in rerun.checks)


def show_books(tables: Any, asked: Asked) -> None:
    """One event's depth, or the best prices of all open events. Raises ConfigError for an event that is not open."""
    from ringpit.engine.codes import EventState, Side
    from ringpit.engine.digest import depth, open_books
    from ringpit.shards.asking import best_fields, depth_fields
    from ringpit.shards.config import ConfigError
    from ringpit.shards.queries import Depth

    slots = {int(tables.books[slot]["event"]): slot for slot in open_books(tables)}
    if asked.event is not None:
        if asked.event not in slots:
            raise ConfigError(
                f"--event {asked.event} is not {EventState.OPEN.name} at this seq; open are: "
                f"{', '.join(map(str, sorted(slots))) or 'none'}"
            )
        slot = slots[asked.event]
        sides = (depth(tables, slot, side, asked.depth) for side in (Side.BUY, Side.SELL))
        print_depth(depth_fields(asked.event, Depth(*sides), tables.books[slot]))
        return
    rows = []
    for event, slot in sorted(slots.items()):
        bids, asks = (depth(tables, slot, side, 1) for side in (Side.BUY, Side.SELL))
        best = (int(bids[0, 0]) if len(bids) else None, int(asks[0, 0]) if len(asks) else None)
        rows.append(best_fields(event, best, tables.books[slot]) | {"Open": int(tables.books[slot]["orders"])})
    if len(rows) == 1:
        rows.append({})  # a table, not a row that stands upright
    print_table(rows)
