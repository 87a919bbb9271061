"""
Mutations: each takes one rule out of the code, by an edit of one or two lines, and must break seeds.

    simulate(seed, mutate=MUTATIONS["reader ignores epochs"].apply)
    python -m ringpit.testing.mutations --count 1000        the table of tests/simulation/README.md

A simulation that no mutation breaks proves nothing. An edit is text in, text out, on the source of the function as it
is today: if the code changes so that the text is not there any more, the mutation says so instead of doing nothing.

SEEDS names for each mutation a seed that is known to break; the table says how many do. Where none is known, `why` says what
else guards the promise, or what the simulation is too blind for.
"""

import argparse
import inspect
import multiprocessing
import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Final

import numpy as np

from ringpit.engine import index
from ringpit.engine.codes import CommandKind
from ringpit.engine.records import MARKER
from ringpit.engine.tables import Cell, Tables
from ringpit.ipc.ring import FROZEN
from ringpit.shards import (
    directory,
    follow,
    follower,
    journal,
    keeper,
    output,
    processes,
    publisher,
    router,
    serve,
    supervisor,
    worker,
)
from ringpit.testing.rewiring import Changes
from ringpit.testing.simulation import simulate
from ringpit.wal import reader, writer

USERS: Final = (
    directory, follow, follower, journal, keeper, output, processes, publisher, router, serve, supervisor, worker,
    reader, writer,
)  # fmt: skip


def forget_keys(tables: Tables) -> None:
    """Empty the window of keys."""
    tables.keys[:] = np.zeros(1, tables.keys.dtype)[0]
    tables.key_index[:] = index.make_index(len(tables.keys))
    tables.cells[Cell.KEYS_SEEN] = 0


def store_blindly(cells: np.ndarray, index_of: int, _expected: int, tail: int) -> bool:
    """A tail that is stored, whatever it was."""
    cells[index_of] = tail
    return True


def walk(spans: tuple[np.ndarray, ...], count: int, positions: np.ndarray, _where: str = "") -> tuple[int, int]:
    """Positions of all markers among records, wherever frames begin and end."""
    engine_ns = 0
    for row in np.concatenate(spans)[:count].view(MARKER):
        if row["kind"] == CommandKind.MARKER:
            engine_ns = int(row["engine_ns"])
            if row["router"] >= 0:
                positions[row["router"]] = row["position"]
    return min(count, sum(map(len, spans))), engine_ns


SEEDS: Final = {  # mutation to a seed that it breaks
    "frame split over two batches": 1,
    "acknowledgements with gaps": 3,
    "acknowledged before durable": 1,
    "not delivered again after a worker's death": 2,
    "window lost in recovery": 3,
    "same key with another body accepted": 1,
    "router keeps duplicates of its own": 1,
    "reader ignores epochs": 122,
    "claim not read back": 114,
    "of two equal epochs the second wins": 44,
    "seqs that are known are not skipped": 4,
    "snapshot counts before the log has it": 1_532,
    "snapshot counts before it is confirmed": 41,
    "snapshot counts at once": 1,
    "window not in the snapshot": 18,
    "journal slots free when read": 96,
    "journal slots not kept for the follower": 199,
    "a copy counts that may be torn": 45,
    "input slots free before they are journaled": 120,
    "matched before published": 341,
    "nobody looks again who leads": 2,
    "tails without compare-and-swap": 438,
    "leads before it has frozen": 1_544,
    "follows beyond what is matched": 22,
    "takes over what the log had and the worker had not matched": 11,
    "claims above what is durable": 19,
    "durable positions are told with the next batch only": 1_151,
    "follows a younger worker": 14,
    "writes over what is not known yet": 9,
    "leadership without compare-and-swap": 328,
    "reports before durable": 1,
    "publisher starts behind what is confirmed": 1,
    "publisher does not drop what it has sent": 1,
    "what the log has lost is not taken back": 2,
    "only what the log has lost is taken back": 1_661,
    "what is taken back is not said again": 2,
    "commands are taken before what is lost is taken back": 4_578,
    "a follower's ring begins without a time": 583,
    "the time at which a ring begins is not kept": 737,
    "confirmed when sent": 1,
    "a confirmed seq ahead of its reports": 1,
    "reports are not made again": 1,
    "a successor copies no reports": 1,
}

HELPERS: Final[dict[str, Any]] = {
    "forget_keys": forget_keys,
    "store_blindly": store_blindly,
    "walk": walk,
    "FROZEN": FROZEN,
}


class EditMissing(Exception):
    """The code is not as a mutation expects it: it takes out nothing, and breaks nothing."""


@dataclass(frozen=True)
class Edit:
    """A piece of a function's source, and what stands there instead."""

    module: ModuleType
    name: str  # of a function, or of a class and its method
    old: str
    new: str


@dataclass(frozen=True)
class Mutation:
    """A rule, and the edits that take it out."""

    rule: str  # as DESIGN says it, or the module that keeps it
    edits: tuple[Edit, ...]
    why: str = ""  # the rule is there, if no seed is known to break

    def apply(self, changes: Changes) -> None:
        """Put the edited functions in their places, also where they were imported to."""
        sources: dict[tuple[ModuleType, str], str] = {}
        for edit in self.edits:
            key = (edit.module, edit.name)
            source = sources.get(key) or source_of(*key)
            if edit.old not in source:
                raise EditMissing(
                    f"{edit.module.__name__}.{edit.name} must hold {edit.old!r}: mend the mutation"
                )
            sources[key] = source.replace(edit.old, edit.new)
        for (module, name), source in sources.items():
            put(changes, module, name, source)


@cache
def source_of(module: ModuleType, name: str) -> str:
    """A function's source, as it is when it is first asked for."""
    return textwrap.dedent(inspect.getsource(found(module, name)))


def found(module: ModuleType, name: str) -> Any:
    """A function by its name, or a class's method."""
    owner: Any = module
    for part in name.split("."):
        owner = getattr(owner, part)
    return getattr(owner, "py_func", owner)


def put(changes: Changes, module: ModuleType, name: str, source: str) -> None:
    """Compile a function anew and put it where the old one was."""
    body = source[source.index("def ") :]  # without decorators
    names = {key: value for key, value in HELPERS.items() if not hasattr(module, key)}
    for key, value in names.items():
        setattr(module, key, value)
    made: dict[str, Any] = {}
    code = compile("from __future__ import annotations\n" + body, f"<{name}, mutated>", "exec")
    exec(code, vars(module), made)  # noqa: S102 - the point of it
    owner_name, _, last = name.rpartition(".")
    if owner_name:
        changes.put(getattr(module, owner_name), last, made[last])
        return
    old = getattr(module, last)
    for user in USERS:
        if getattr(user, last, None) is old:
            changes.put(user, last, made[last])
    mains = {role: made[last] if main is old else main for role, main in processes.MAINS.items()}
    changes.put(processes, "MAINS", mains)


def rules() -> dict[str, Mutation]:
    """The table."""
    return {
        **rules_of_frames(),
        **rules_of_the_log(),
        **rules_of_rings(),
        **rules_of_take_over(),
        **rules_of_early_release(),
        **rules_of_output(),
    }


def rules_of_frames() -> dict[str, Mutation]:
    """What the router and the window of keys promise."""
    return {
        "frame split over two batches": Mutation(
            "A frame is atomic: never split over two log batches.",
            (
                Edit(writer, "BatchWriter.cut", "taken, engine_ns = whole_frames(spans, self._records_max, positions, where)",
                     "taken, engine_ns = walk(spans, 3, positions)"),
                Edit(reader, "Reader._take_records", "whole, _ = whole_frames((taken,), len(taken), np.zeros(ROUTERS_MAX, np.int64), where)",
                     "whole = len(taken)"),
                Edit(follower, "Follower._know", "whole_frames(", "walk("),
                Edit(follower, "Follower._input_heads", "whole_frames(", "walk("),
            ),
        ),
        "acknowledgements with gaps": Mutation(
            "A delivery is acknowledged only as part of the contiguous durable prefix.",
            (Edit(router, "Router._settled_from", "first = int(settled_until(self._dealer.pending, first, end, self._durable))",
                  "first = 1 + max((n for n in range(first, end) if settled_until(self._dealer.pending, n, n + 1, self._durable) > n), "
                  "default=first - 1)"),),
        ),
        "acknowledged before durable": Mutation(
            "A delivery is acknowledged only when every shard that it touched has made it durable.",
            (Edit(router, "Router._acknowledge", "self._durable[shard] = durable", "self._durable[shard] = 1 << 62"),),
        ),
        "not delivered again after a worker's death": Mutation(
            "The routers reopen their channels, RabbitMQ redelivers what was not acknowledged.",
            (Edit(router, "Router._greet", "self._redeliver = True", "self._redeliver = not self._opened"),),
        ),
        "window lost in recovery": Mutation(
            "The state machine keeps a window of recent keys; a start is a replay.",
            (Edit(worker, "Worker.prepare", "last_seq = state.next_seq - 1", "last_seq = state.next_seq - 1; forget_keys(self.tables)"),),
        ),
        "same key with another body accepted": Mutation(
            "The same key with another body is refused.",
            (Edit(router, "Router._gather_packed", "body_hash(body)",
                  "self.__dict__.setdefault('seen', {}).setdefault((low, high), body_hash(body))"),
             Edit(router, "Router._gather_decoded", "body_hash(body)",
                  "self.__dict__.setdefault('seen', {}).setdefault((low, high), body_hash(body))")),
        ),
        "router keeps duplicates of its own": Mutation(
            "A frame whose key is in the window is a duplicate; the decision uses logged data only.",
            (Edit(router, "Router._gather", "    size = 0\n",
                  "    size = 0\n"
                  "    seen = self.__dict__.setdefault('seen', set())\n"
                  "    if self._waiting[0].key in seen:\n"
                  "        owe(self._dealer, self._waiting.popleft().tag, 0)\n"
                  "        return\n"
                  "    seen.add(self._waiting[0].key)\n"
                  "    count_max = 1\n"),),
        ),
    }  # fmt: skip


def rules_of_the_log() -> dict[str, Mutation]:
    """What readers and owners of the log promise."""
    return {
        "reader ignores epochs": Mutation(
            "Readers ignore batches of an epoch older than the newest claim before them.",
            (Edit(reader, "Reader._is_owner", 'if header["epoch"] != self.epoch:\n        return False', ""),
             Edit(reader, "Reader._is_owner", 'return bool(header["nonce"] == self.nonce)', "return True")),
        ),
        "claim not read back": Mutation(
            "Every start appends an epoch claim and reads the partition up to its own claim.",
            (Edit(reader, "await_claim", "if (reader.epoch, reader.nonce) ==", "if True or (reader.epoch, reader.nonce) =="),),
        ),
        "of two equal epochs the second wins": Mutation(
            "Of two equal epochs the first in log order wins.",
            (Edit(reader, "Reader._take_claim", 'if header["epoch"] <= self.epoch:', 'if header["epoch"] < self.epoch:'),),
        ),
        "seqs that are known are not skipped": Mutation(
            "Command by command: smaller than the next seq, skip; equal, apply; larger, stop.",
            (Edit(reader, "Reader._take_records", "records[self.next_seq - first_seq :].view", "records.view"),
             Edit(reader, "Reader._take_records", 'header["checksum_before"] != self.checksum', "False"),
             Edit(reader, "Reader._take_records", 'header["checksum_after"] != self.checksum', "False")),
        ),
        "snapshot counts before the log has it": Mutation(
            "A snapshot at seq S counts only once the log has S.",
            (Edit(keeper, "Keeper.step", "min(durable_seq, confirmed_seq)", "confirmed_seq"),),
        ),
        "snapshot counts before it is confirmed": Mutation(
            "A snapshot at seq S counts only once the publisher has confirmed S.",
            (Edit(keeper, "Keeper.step", "min(durable_seq, confirmed_seq)", "durable_seq"),),
        ),
        "snapshot counts at once": Mutation(
            "A snapshot at seq S counts only once the log has S and the publisher has confirmed S.",
            (Edit(keeper, "Keeper.step", "min(durable_seq, confirmed_seq) < self._written.facts.seq", "False"),),
        ),
        "window not in the snapshot": Mutation(
            "Snapshots hold windows.",
            (Edit(keeper, "load_newest", "    begin = begin_behind(facts)\n", "    begin = begin_behind(facts)\n    forget_keys(tables)\n"),),
        ),
    }  # fmt: skip


def rules_of_rings() -> dict[str, Mutation]:
    """What shared memory promises."""
    return {
        "journal slots free when read": Mutation(
            "A journal slot is free at min(durable_seq, follower).",
            (Edit(journal, "Journal._give_back", "head = self._durable_head\n", "head = self._cursor\n"),),
        ),
        "journal slots not kept for the follower": Mutation(
            "A journal slot is free at min(durable_seq, follower).",
            (Edit(journal, "Followed.head", "return min(durable_head, kept)", "return durable_head"),),
        ),
        "a copy counts that may be torn": Mutation(
            "FO2: a copy counts only if the worker still keeps its slots for us afterwards.",
            (Edit(follow, "copy_run", "return load_acquire(f.cells, f.at[Over.FOLLOWED_BY]) == f.incarnations[1]", "return True"),
             Edit(follow, "follow", "load_acquire(f.cells, f.at[Over.FOLLOWED_BY]) != f.incarnations[1]", "False")),
        ),
        "input slots free before they are journaled": Mutation(
            "V2: the input head passes a frame only when it is journaled.",
            (Edit(serve, "publish_run", "journal_tail = w.own[Own.RUN_END]\n",
                  "journal_tail = w.own[Own.RUN_END]; release(w.cells, w.at[At.INPUT_HEAD], input_end)\n"),),
        ),
        "matched before published": Mutation(
            "Match, writing reports to the output ring; then advance matched_seq.",
            (Edit(serve, "match_run", "    if written != out:\n",
                  "    if reached == w.own[Own.RUN_END]:\n"
                  "        store_release(w.cells, w.at[At.MATCHED_SEQ], w.own[Own.SEQ] - 1)\n"
                  "    if written != out:\n"),),
        ),
        "nobody looks again who leads": Mutation(
            "Readers follow the leadership word.",
            (Edit(processes, "run_router", "if current != seen[shard]:", "if current != seen[shard] and not seen[shard]:"),
             Edit(processes, "run_publisher", "if current != seen[shard]:", "if current != seen[shard] and not seen[shard]:")),
        ),
        "tails without compare-and-swap": Mutation(
            "The tails of the old worker's rings carry a frozen bit and are only ever advanced by compare-and-swap.",
            (Edit(serve, "publish_run", "publish_freezable(", "store_blindly("),
             Edit(serve, "match_run", "publish_freezable(", "store_blindly(")),
        ),
    }  # fmt: skip


def rules_of_take_over() -> dict[str, Mutation]:
    """What a follower promises."""
    return {
        "leads before it has frozen": Mutation(
            "Setting the bits makes every later publish of the old worker fail; then the leadership word names the follower.",
            (Edit(follower, "Follower.take_over", 'journal_end = int(freeze(leader.cells, index("journal_tail")))',
                  'journal_end = leader.load("journal_tail") & (FROZEN - 1)'),
             Edit(follower, "Follower.take_over", 'output_end = int(freeze(leader.cells, index("output_tail")))',
                  'output_end = leader.load("output_tail") & (FROZEN - 1)'),
             Edit(follower, "Follower.take_over", "self._publish_rest(rest)",
                  'freeze(leader.cells, index("journal_tail")); freeze(leader.cells, index("output_tail")); '
                  "self._publish_rest(rest)")),
        ),
        "follows beyond what is matched": Mutation(
            "The follower reads the worker's journal ring up to matched_seq.",
            (Edit(follow, "follow", "matched_seq = load_acquire(f.cells, f.at[Over.MATCHED_SEQ])",
                  "matched_seq = f.own[Behind.APPLIED_SEQ] + (load_acquire(f.cells, f.at[Over.JOURNAL_TAIL]) & (FROZEN - 1)) "
                  "- f.own[Behind.POSITION]"),),
        ),
        "takes over what the log had and the worker had not matched": Mutation(
            "It stands at the old matched_seq.",
            (Edit(follower, "Follower.attach", 'min(leader.load("matched_seq"), leader.load("durable_seq")) < self.applied_seq', "False"),),
        ),
        "claims above what is durable": Mutation(
            "Its journal thread claims the next epoch, repeats what was not yet durable, and goes on.",
            (Edit(follower, "Follower._stand", "self._know(durable_seq)", "self._know(applied_seq)"),),
        ),
        "durable positions are told with the next batch only": Mutation(
            "As acknowledgements arrive, advances durable_seq and, per router, durable_position.",
            (Edit(follower, "Follower._stand", "int(self._known_positions[router])", "told[router]"),
             Edit(journal, "Journal.open", "self._tell_durable()", "None")),
        ),
        "follows a younger worker": Mutation(
            "A position of an earlier incarnation is always smaller than every position of a later one.",
            (Edit(follower, "Follower._require_older", "if leader.incarnation > self.segment.incarnation:", "if False:"),),
        ),
        "writes over what is not known yet": Mutation(
            "FO4: nothing in the follower's journal is written over before it lives on in checksum and positions.",
            (Edit(follow, "follow", "if f.own[Behind.APPLIED_SEQ] + count - f.own[Behind.KNOWN_SEQ] > w.journal.shape[0]:", "if False:"),),
        ),
        "leadership without compare-and-swap": Mutation(
            "Leadership moves by compare-and-swap only.",
            (Edit(follower, "Follower.take_over", "swap_cell(", "store_blindly("),
             Edit(supervisor, "Supervisor._make_segment", "swap_cell(", "store_blindly(")),
        ),
    }  # fmt: skip


def rules_of_early_release() -> dict[str, Mutation]:
    """What holds where reports leave before the log has their commands."""
    taken_back = (
        "P5: a higher epoch takes back all that lower ones said above what is confirmed, and says it again."
    )
    unseen = "none of 12,000 seeds: two crashes must meet, and between them nothing but markers; tests/shards/test_publisher.py holds it"
    return {
        "what the log has lost is not taken back": Mutation(
            'Released before the log has them ("matched"), reports are provisional, and may be contradicted.',
            (Edit(output, "Output._begin_epoch", "cells[MirrorCell.EPOCH_SEQ] = epoch_seq", "cells[MirrorCell.EPOCH_SEQ] = INT64_MAX"),),
        ),
        "only what the log has lost is taken back": Mutation(
            taken_back,
            (Edit(output, "Output._begin_epoch", "cells[MirrorCell.EPOCH_SEQ] = epoch_seq", "cells[MirrorCell.EPOCH_SEQ] = durable_seq"),),
        ),
        "what is taken back is not said again": Mutation(
            taken_back,
            (Edit(output, "Output._begin_epoch", "self.progress[:] = standing_seq, INDEX_MAX, frame_ns", "pass"),),
        ),
        "an epoch that told nothing is forgotten": Mutation(
            "P5: a higher epoch takes back all that lower ones said, that of an epoch of which no report was heard included.",
            (Edit(output, "Output._begin_epoch", "not cells[MirrorCell.EPOCH_TOLD]", "False"),),
            why=unseen,
        ),
        "a repeat counts as told": Mutation(
            "P5: only a report under an epoch itself tells what it takes back.",
            (Edit(publisher, "Publisher._send", "output.told |= self._send_range(output, start, end)",
                  "self._send_range(output, start, end)\n    output.told = True"),),
            why=unseen,
        ),
        "commands are taken before what is lost is taken back": Mutation(
            "P4: a worker takes no commands before the publisher has forgotten what was sent of others.",
            (Edit(worker, "Worker.settled", "self._provisional and not self._taken_up()", "False"),),
        ),
    }  # fmt: skip


def rules_of_output() -> dict[str, Mutation]:
    """What the publisher promises."""
    return {
        "reports before durable": Mutation(
            "A report leaves only after the log has the command that caused it.",
            (Edit(output, "Output.next_cycle", "limit_seq = INT64_MAX if self.early else load_cell(*views.durable_seq)",
                  "limit_seq = INT64_MAX"),),
        ),
        "publisher starts behind what is confirmed": Mutation(
            "Restarted at its last confirmed position; what lies between that and durable_seq goes out again.",
            (Edit(output, "Output.__init__", "    self.tokens = 0", "    self.position = max(self.position, published(*views.tail))\n    self.tokens = 0"),),
        ),
        "publisher does not drop what it has sent": Mutation(
            "The publisher drops repeats by identity.",
            (Edit(output, "Output.__init__", "self.progress: np.ndarray = before.progress",
                  "self.progress: np.ndarray = np.array([load_cell(*views.confirmed_seq), INDEX_MAX, 0], np.int64)"),),
        ),
        "a follower's ring begins without a time": Mutation(
            "P6: a report's frame time is known wherever a publisher begins.",
            (Edit(output, "Output.__init__", "frame_ns_at(views.mirror, head)", "frame_ns_at(views.mirror, self.position)"),),
        ),
        "the time at which a ring begins is not kept": Mutation(
            "P6: a report's frame time is kept beside each head.",
            (Edit(output, "Output.__init__", "if self.position != head:", "if False:"),),
        ),
        "a batch confirms what it has not": Mutation(
            "W3: no batch calls a seq confirmed that lies behind its own end.",
            (Edit(writer, "BatchWriter._batch", 'min(facts["confirmed_seq"], self.next_seq + taken - 1)', 'facts["confirmed_seq"]'),),
            why="none of 3,000 seeds: two power cuts must meet; tests/wal/test_batch_writer.py holds it",
        ),
        "confirmed when sent": Mutation(
            "Publishes with confirms; the confirmed position only covers what the broker has confirmed.",
            (Edit(publisher, "Publisher._send", "    output.position = end\n",
                  "    output.position = end\n    output.confirm_seq(complete_seq)\n"),),
        ),
        "a confirmed seq ahead of its reports": Mutation(
            "P3: every report up to the confirmed seq lies before the head.",
            (Edit(output, "Output.next_cycle", 'complete_seq = matched_seq if end == tail else int(self.report_at(end)["seq"]) - 1',
                  "complete_seq = matched_seq"),),
        ),
        "reports are not made again": Mutation(
            "The worker makes again every report above the publisher's confirmed seq.",
            (Edit(worker, "Worker.prepare", "again = replay.unconfirmed()", "again = []"),),
        ),
        "a successor copies no reports": Mutation(
            "Readers follow the leadership word; what the old worker had finished is copied out of its ring.",
            (Edit(follower, "Follower._take_reports", "reports[:finished]", "reports[:0]"),),
        ),
    }  # fmt: skip


MUTATIONS: Final = rules()


def breaks(task: tuple[str, int]) -> str:
    """What a seed says under a mutation; empty if all is well. Raises EditMissing."""
    name, seed = task
    try:
        simulate(seed, MUTATIONS[name].apply)
    except EditMissing:
        raise
    except Exception as error:  # noqa: BLE001 - a mutated exchange may end in any way
        return str(error) or repr(error)
    return ""


def table_of(count: int, processes_count: int, only: str = "") -> Iterator[str]:
    """For each mutation a line of README.md: its rule, how many of the first `count` seeds break, and the first of them."""
    for mutation in MUTATIONS.values():
        for edit in mutation.edits:
            source_of(edit.module, edit.name)
    with multiprocessing.get_context("spawn").Pool(processes_count) as pool:
        for name, mutation in MUTATIONS.items():
            if only not in name:
                continue
            said = pool.map(breaks, [(name, seed) for seed in range(1, count + 1)], chunksize=5)
            broken = [seed for seed, text in enumerate(said, 1) if text]
            first = ", ".join(map(str, broken[:2]))
            yield f"| {name} | {mutation.rule} | {len(broken)} | {first or mutation.why} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--count", type=int, default=1_000, help="seeds for each mutation")
    parser.add_argument("--only", default="", help="only mutations whose names hold this")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="worker processes")
    parser.add_argument("--name", default="", help="print what one mutation says, seed by seed")
    arguments = parser.parse_args()
    if arguments.name:
        for seed in range(1, arguments.count + 1):
            print(seed, breaks((arguments.name, seed)))
        return
    for row in table_of(arguments.count, arguments.processes, arguments.only):
        print(row, flush=True)


if __name__ == "__main__":
    main()
