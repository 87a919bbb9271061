"""
Skip: tell a shard to refuse a command at which it died.

    look (the log is only read) ──> show ──> ask ──> claim the next epoch ──> SKIP ──> durable

The command stays where it is; whoever reads the log from now on applies it as refused, with the reason SKIPPED. The exchange
must not run: a worker that has applied the command already would differ from all later ones. For a log in Kafka the locks
of this machine say nothing about others, but the claim ends whoever writes there.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from ringpit.engine.codes import CommandKind
from ringpit.engine.records import COMMAND
from ringpit.shards.config import Config
from ringpit.shards.decoded import Fields, fields_of, kind_of
from ringpit.shards.history import History
from ringpit.shards.keeper import begin_behind
from ringpit.shards.lock import lock_of_folder, lock_of_name
from ringpit.shards.logs import Source
from ringpit.shards.processes import open_log
from ringpit.shards.rerun import snapshot_below
from ringpit.wal.errors import LogUnavailable
from ringpit.wal.reader import NOT_SKIPPABLE, Begin, recover
from ringpit.wal.writer import BatchWriter

DURABLE_SECONDS = 30.0


class NotSkippable(ValueError):
    """The seq names nothing that can be skipped; the sentence says what to skip instead."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A command that can be skipped."""

    seq: int
    fields: Fields
    completed_by: list[Fields]  # EXTENSION and BANDS before it, which then say nothing either
    confirmed: bool  # its reports have gone out
    begin: Begin | None  # where reading begins when it is skipped
    position: int


def candidate(source: Source, seq: int) -> Candidate:
    """
    Find the command at a seq.

    Raises NotSkippable if there is none that can be skipped, LogError if the log is damaged.
    """
    snapshot = snapshot_below(source, None, lambda _text: None)
    begin, position = source.begin()
    if snapshot is not None:
        begin, position = begin_behind(snapshot.facts), snapshot.facts.log_position
        if seq <= snapshot.facts.seq:
            raise NotSkippable(
                f"--seq must be above {snapshot.facts.seq}, was {seq}: the newest snapshot holds its effect, and no "
                f"start applies it again; cancel what it did instead"
            )
    history = History(source, begin, position)
    if seq in history.reader.skips:
        raise NotSkippable(f"seq {seq} of shard {source.shard} is skipped already; start the exchange")
    found: tuple[np.ndarray, int] | None = None
    for step in history.steps():
        if step.first_seq <= seq < step.first_seq + len(step.records):
            found = step.records, seq - step.first_seq
    last_seq = history.reader.next_seq - 1
    if found is None:
        raise NotSkippable(
            f"--seq must be from {begin.seq + 1} to {last_seq}, which is what the log of shard {source.shard} holds, was "
            f"{seq}; `ringpit wal inspect --records` shows them"
        )
    records, at = found
    _require_command(records, at, seq)
    start = at
    while start and int(records.view(COMMAND)[start - 1]["kind"]) in (CommandKind.EXTENSION, CommandKind.BANDS):
        start -= 1
    completed_by = [fields_of(records[index], seq - at + index) for index in range(start, at)]
    return Candidate(
        seq=seq,
        fields=fields_of(records[at], seq),
        completed_by=completed_by,
        confirmed=history.reader.confirmed_seq >= seq,
        begin=begin if snapshot is not None else None,
        position=position if snapshot is not None else 0,
    )


def _require_command(records: np.ndarray, at: int, seq: int) -> None:
    """Refuse what is no command by itself, and name what to skip instead."""
    kind = int(records[at]["kind"])
    if kind not in NOT_SKIPPABLE:
        return
    name = kind_of(records[at])
    if kind == CommandKind.MARKER:
        count = int(records[at]["count"])
        raise NotSkippable(
            f"seq {seq} is a MARKER, the head of a frame: skip one of its commands, seqs {seq + 1} to {seq + count}"
        )
    behind = at
    while behind < len(records) and int(records[behind]["kind"]) in NOT_SKIPPABLE[1:]:
        behind += 1
    command = kind_of(records[behind]) if behind < len(records) else "command"
    raise NotSkippable(
        f"seq {seq} is an {name} and belongs to the {command} at seq {seq + behind - at}: skip that instead"
    )


def skip(config: Config, shard: int, chosen: Candidate, nonce: int) -> None:
    """
    Claim the next epoch and append the skip, with the exchange's locks in hand.

    Raises AlreadyRunning if the exchange runs, and what `recover` and the log raise.
    """
    with ExitStack() as stack:
        stack.enter_context(lock_of_name(config.exchange.name))
        stack.enter_context(lock_of_folder(config.data_folder()))
        log: Any = open_log(config, shard)
        stack.callback(log.close)
        generation = config.exchange.generation
        state = recover(log, shard, generation, nonce, _look_away, begin=chosen.begin, position=chosen.position)
        writer = BatchWriter(state)
        log.append(writer.skip(chosen.seq, state.confirmed_seq))
        wanted = state.appended_count + 1
        if log.poll(DURABLE_SECONDS) < wanted and log.poll(DURABLE_SECONDS) < wanted:
            raise LogUnavailable(
                f"the skip of seq {chosen.seq} is not durable after {2 * DURABLE_SECONDS:g} s; `ringpit wal tail` shows "
                f"whether it arrived"
            )


def _look_away(_header: np.void, _records: np.ndarray) -> None:
    """Nothing is applied."""
