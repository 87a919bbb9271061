"""
Resharding: an exchange's events dealt out to another number of shards, while it does not run.

    each old shard   newest snapshot ──> log to its end, a clean mark ──> books ──> state ─┐
                                                                                           split by each event's home
    each new shard   empty log with an identity, snapshot at seq 0  <── state ─────────────┘
                       └──> read back as a start reads it ──> each event's digest as before ──> topology.json renamed

Nothing of the old generation is touched, and until the rename it is the one that counts. An attempt that was killed leaves files of a
generation that nothing names; the next attempt removes them first, unless somebody has written into their logs.

Orders keep their place, ids and owners, events their settlement; the keys of all frames are known to every new shard, so that a
delivery that comes again changes nothing. Hence the clean stop: a delivery that only some of the old shards had would be a
duplicate for the others (engine/state.py, `split`). seq begins at 1 again, and reports carry the new generation.

Fast enough: what a start takes for each old shard, and again for each new one. Slow: they follow one another, and all states are in
memory at once.

Invariants:

    RS1  nothing is written before all old books are read, and the new shards are known to fit the limits
    RS2  topology.json is renamed only when every new shard, read back, has the books of before
    RS3  killed at any point, either generation is whole and the topology names one that is
"""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from msgspec.structs import replace

from ringpit.engine.codes import EventState
from ringpit.engine.digest import digest_of, digest_of_each
from ringpit.engine.state import State, StateTooLarge, export, require_room, split
from ringpit.engine.tables import Cell, Tables
from ringpit.shards.config import Config, ConfigError, broken_placement_rules
from ringpit.shards.directory import Directory
from ringpit.shards.faults import Step, met
from ringpit.shards.keeper import load_newest, newest_of, store_of
from ringpit.shards.layout import pool_limits
from ringpit.shards.lock import AlreadyRunning, lock_of_folder, lock_of_name
from ringpit.shards.logs import holders, lost_end, source_of
from ringpit.shards.processes import kafka_settings, open_log, open_view
from ringpit.shards.rerun import Books, Rerun, tables_of
from ringpit.shards.topology import SHARD_PREFIX, Topology, at, of_generation, path_of, read, write
from ringpit.wal.errors import LogNotEmpty
from ringpit.wal.kafka import remove_empty_topic
from ringpit.wal.reader import FIRST
from ringpit.wal.segment_files import sync_folder
from ringpit.wal.snapshots import SnapshotFacts

Say = Callable[[str], None]

# What an event is, wherever it lives; where its ladder lies and its row of bands are the shard's business.
EVENT_FACTS: Final = (
    "event",
    "low",
    "high",
    "payout",
    "last",
    "closes_ns",
    "tick_units",
    "orders_max",
    "account_orders_max",
    "orders",
    "state",
    "kind",
    "decimals",
    "bands",
)


class ReshardRefused(Exception):
    """An exchange that cannot be recut as it is. Nothing was changed that counts; the sentence says what to do."""


@dataclass(frozen=True)
class ShardBooks:
    """A shard's books as they are compared and told: `digests` of open events; `facts` of all events, by id."""

    generation: int
    shard: int
    digests: dict[int, str]
    facts: np.ndarray
    orders: int

    @classmethod
    def of(cls, config: Config, shard: int, tables: Tables) -> "ShardBooks":
        """What is in a shard's tables."""
        events = tables.books[: tables.cells[Cell.BOOKS_USED]]
        facts = np.zeros(len(events), [(name, np.int64) for name in EVENT_FACTS])
        for name in EVENT_FACTS:
            facts[name] = events[name]
        orders = int(tables.cells[Cell.ORDERS_USED])
        return cls(config.exchange.generation, shard, digest_of_each(tables), facts, orders)


def reshard(config: Config, shards: int, say: Say, confirm: Callable[[str], bool]) -> list[ShardBooks]:
    """
    Make the next generation of an exchange, with so many shards; all old and new books, or nothing if `confirm` says no.

    Args:
        config: As loaded; its `exchange.shards` may be the old or the new number.
        shards: How many there shall be.
        say: Gets a line for each step.
        confirm: Is asked one question before anything is written.

    Raises ConfigError (also for limits that are too small), AlreadyRunning, ReshardRefused, LogError, SnapshotError, OSError, each with a sentence;
    then the old generation counts, as before.
    """
    with ExitStack() as stack:
        topology = _topology_of(config)
        for shard in range(topology.shards):
            for holder in holders(at(config, topology.generation, topology.shards), shard):
                raise AlreadyRunning(f"{holder} holds the lock: stop that ringpit first, then reshard")
        stack.enter_context(lock_of_name(config.exchange.name))
        stack.enter_context(lock_of_folder(config.data_folder()))
        topology = _topology_of(config)  # nobody writes it from now on
        old = of_generation(config, topology.generation, topology.shards)
        new = _next(config, topology, shards)
        before, states = _read_all(old, say)
        met(Step.RESHARD_READ)
        parts = _deal(old, new, before, states, say)
        events = sum(len(each.facts) for each in before)
        question = f"Deal {events} events of {topology.shards} shards out to {shards}, as topology generation {new.exchange.generation}?"
        if not confirm(question):
            return []
        _clear(new, say)
        met(Step.RESHARD_CLEARED)
        for shard, state in enumerate(parts):
            _write_shard(new, shard, state, say)
        after = [_read_back(new, shard) for shard in range(shards)]
        _require_equal(before, after)
        say(f"all {events} events have the same books on the new shards, each by its digest")
        met(Step.RESHARD_COMPARED)
        write(new, Topology(new.exchange.generation, shards))
        say(f"{path_of(new)}: topology generation {new.exchange.generation} counts from now on")
    return [*before, *after]


def _topology_of(config: Config) -> Topology:
    """The topology that counts. Raises ConfigError if there is none to recut."""
    if config.log.kind == "memory":
        raise ConfigError(
            "$.log.kind is memory: nothing lasts that could be dealt out; start with another number of shards"
        )
    topology = read(config)
    if topology is None:
        raise ConfigError(
            f"there is no {path_of(config)}: an exchange that never ran has nothing to deal out; name the right configuration "
            f"with -c, or start the exchange once and stop it"
        )
    return topology


def _next(config: Config, topology: Topology, shards: int) -> Config:
    """The configuration of the next generation, whose files are durable whatever `log.fsync` says."""
    durable = replace(config, log=replace(config.log, fsync=True))
    following = at(durable, topology.generation + 1, shards)
    for key, rule, remedy in broken_placement_rules(following):
        source = config.sources.get(key, "default")
        value = getattr(config.placement, key.partition(".")[2])
        raise ConfigError(f"{source}: $.{key} {rule}, was {value}; {remedy}, or reshard to more shards")
    return following


# -- the old books


def _read_all(old: Config, say: Say) -> tuple[list[ShardBooks], list[State]]:
    """The books and the state of every old shard, at the end of its log."""
    before, states = [], []
    for shard in range(old.exchange.shards):
        tables = _replayed(old, shard, say)
        before.append(ShardBooks.of(old, shard, tables))
        states.append(export(tables))
    return before, states


def _replayed(old: Config, shard: int, say: Say) -> Tables:
    """A shard's tables from its newest snapshot and its log, which must end with a clean stop."""
    source = source_of(old, shard)
    snapshot = newest_of(old, shard, source.view, say)
    seq = snapshot.facts.seq if snapshot else 0
    rerun = Rerun(source, Books(tables_of(source.limits, snapshot), seq), snapshot)
    for _ in rerun.steps():
        pass
    rerun.history.reader.require_reached(source.view.describe())
    for check in rerun.checks:
        if check.wrong:
            raise ReshardRefused(
                f"shard {shard}: the snapshot at seq {check.facts.seq} and the log do not agree: {check.wrong}; "
                f"`ringpit wal verify` says what is sound"
            )
    if lost := lost_end(source.view):
        raise ReshardRefused(f"shard {shard}: {lost}; `ringpit wal verify` says what to do")
    if not rerun.history.ended_clean():
        raise ReshardRefused(
            f"the log of shard {shard} does not end with a clean stop ({source.view.describe()}), so some shards may lack deliveries "
            f"that others have: start the exchange and stop it cleanly first"
        )
    source.view.close()
    began = f"the snapshot at seq {seq}" if snapshot else "its log's first batch"
    say(
        f"shard {shard} of {old.exchange.shards}: {rerun.books.seq - seq} records replayed behind {began}, up to seq {rerun.books.seq}"
    )
    return rerun.books.tables


# -- dealing them out


def _deal(old: Config, new: Config, before: list[ShardBooks], states: list[State], say: Say) -> list[State]:
    """The states of the new shards. Raises StateTooLarge if the limits are too small, ConfigError if nothing would move."""
    shards = new.exchange.shards
    directory = Directory(shards, 1, new.placement)
    directory.place()

    def homes(events: np.ndarray) -> np.ndarray:
        """The new shard of each event."""
        return np.array([directory.shard_of(int(event)) for event in events], np.int64)

    if shards == old.exchange.shards and all(
        (homes(each.facts["event"]) == each.shard).all() for each in before
    ):
        raise ConfigError(
            f"--shards {shards}: there are as many already (topology generation {old.exchange.generation}), and each event is where "
            f"it would be; name another number, or place events in [placement]"
        )
    parts = split(states, homes, shards)
    for shard, state in enumerate(parts):
        try:
            require_room(state, pool_limits(new))
        except StateTooLarge as error:
            raise ConfigError(f"new shard {shard} of {shards}: {error}; nothing was written") from None
    keys, window = len(parts[0].keys), new.limits.keys
    if keys > window:
        say(
            f"the old shards remember {keys} frame keys, the new ones the newest {window} of them (limits.keys)"
        )
    dealt = ", ".join(f"{len(state.events)} events and {len(state.orders)} orders" for state in parts)
    say(f"dealt out to {shards} shards: {dealt}")
    return parts


# -- the new books


def _clear(new: Config, say: Say) -> None:
    """
    Remove what an attempt before has left, and make the new folders durable.

    Raises LogNotEmpty if somebody has written to a log of that generation; nothing is removed then.
    """
    folders = [new.snapshots_folder()]
    _require_unused(new.snapshots_folder(), "seq-*[1-9]*.snapshot")
    if new.log.kind == "segments":
        _require_unused(new.log_folder(), "epoch-*.log")
        folders.append(new.log_folder())
    elif remove_empty_topic(kafka_settings(new)):
        say(f"removed the empty topic {new.log_topic()!r}, left by an attempt before")
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)
            say(f"removed {folder}, left by an attempt before")
        folder.mkdir(parents=True)
        sync_folder(folder.parent.parent)
        sync_folder(folder.parent)


def _require_unused(folder: Path, pattern: str) -> None:
    """An attempt leaves empty logs, and snapshots at seq 0; files of a life must not be removed."""
    for path in sorted(folder.glob(f"{SHARD_PREFIX}*/{pattern}")):
        raise LogNotEmpty(
            f"{path} is of the generation that would be made now: the exchange has run with it, but topology.json names an older one; "
            f"restore topology.json, or move {folder} away"
        )


def _write_shard(new: Config, shard: int, state: State, say: Say) -> None:
    """Make a new shard's log, which stays empty, and the snapshot from which it goes on."""
    log = open_log(new, shard)
    identity = log.identity()
    log.close()
    met(Step.RESHARD_LOG_MADE)
    facts = SnapshotFacts(
        shard=shard,
        generation=new.exchange.generation,
        seq=FIRST.seq,
        epoch=FIRST.epoch,
        nonce=FIRST.nonce,
        checksum=FIRST.checksum,
        confirmed_seq=FIRST.confirmed_seq,
        engine_ns=int(state.shard["engine_ns"][0]),
        skip_count=FIRST.skip_count,
        log_position=0,
        log_seq=FIRST.log_seq,
        log_identity=identity,
        digest=digest_of(state),
    )
    written = store_of(new, shard).write(facts, state._asdict())
    met(Step.RESHARD_SHARD_WRITTEN)
    path = written.publish()
    met(Step.RESHARD_SHARD_PUBLISHED)
    say(f"shard {shard} of {new.exchange.shards}: {written.file_bytes} bytes, {path}")


def _read_back(new: Config, shard: int) -> ShardBooks:
    """A new shard's books, the way a start takes."""
    view = open_view(new, shard)
    loaded = load_newest(new, shard, view, lambda _text: None)
    view.close()
    if loaded is None:
        raise ReshardRefused(f"shard {shard}: the snapshot that was just written is not there; check the disk")
    return ShardBooks.of(new, shard, loaded.tables)


def _require_equal(before: list[ShardBooks], after: list[ShardBooks]) -> None:
    """RS2: every event is there once, and is what it was."""
    was, is_now = _by_event(before), _by_event(after)
    different = [event for event in {**was, **is_now} if was.get(event) != is_now.get(event)]
    if different or sum(len(each.facts) for each in before) != sum(len(each.facts) for each in after):
        event = min(different, default=0)
        raise ReshardRefused(
            f"event {event} must be the same on the new shards, was {was.get(event)} and is {is_now.get(event)}: the old generation "
            f"counts as before; report this, with a copy of its logs and snapshots"
        )


def _by_event(books: list[ShardBooks]) -> dict[int, tuple[str, tuple[int, ...]]]:
    """Digest (of what is open) and facts of every event."""
    return {
        int(facts["event"]): (
            each.digests.get(int(facts["event"]), EventState.SETTLED.name),
            tuple(facts.tolist()),
        )
        for each in books
        for facts in each.facts
    }


def remains_of(config: Config, generation: int) -> str:
    """A sentence on what the generation before has left, and how to remove it."""
    old = at(config, generation, 1)
    shards = "" if old.generation_folder() else f"/{SHARD_PREFIX}*"
    snapshots = f"{old.snapshots_folder()}{shards}"
    if old.log.kind == "kafka":
        how = f"`rm -r {snapshots}`, and delete the topic {old.log_topic()!r} with your Kafka's tools"
    else:
        how = f"`rm -r {old.log_folder()}{shards} {snapshots}`"
    return (
        f"generation {generation} is left as it was and nothing reads it any more; when the exchange has run well with the new one, and "
        f"nobody wants to look back, remove it: {how}"
    )
