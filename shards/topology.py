"""
Topology: which generation of an exchange counts, and how many shards it has.

    <data>/topology.json   {"generation":2,"shards":3}

The first start makes it, from the configuration. From then on it says where logs and snapshots are: `resolved` puts the generation
that counts into a configuration, and folders and topic follow from that (sections.py). Whoever opens a log, a snapshot or
shared memory goes through there, so nobody reads one generation's log with another's number of shards.

A number of shards or a generation in the configuration that says otherwise is refused. `ringpit reshard` (resharding.py) makes
the next generation, and the rename of this file is the moment from which it counts.

Invariants:

    TO1  topology.json is there whole or not at all: temporary name, fsync, rename, fsync of the folder
    TO2  it is written by whoever holds the lock of the data folder
    TO3  the first generation begins with empty books, every later one with a snapshot at seq 0 of each shard
"""

import os
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from ringpit.shards.config import Config, ConfigError
from ringpit.shards.faults import Step, met
from ringpit.shards.sections import GENERATION_PREFIX
from ringpit.wal.segment_files import sync_folder

NAME: Final = "topology.json"
SHARD_PREFIX: Final = "shard-"


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What topology.json says."""

    generation: Annotated[int, Meta(ge=1, le=1 << 30)]
    shards: Annotated[int, Meta(ge=1, le=64)]


def path_of(config: Config) -> Path:
    """Where an exchange's topology is."""
    return config.data_folder() / NAME


def read(config: Config) -> Topology | None:
    """The topology that counts; None before the first start. Raises ConfigError if the file says none."""
    path = path_of(config)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Topology)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); let this user read it") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f'{path}: must be like {{"generation":1,"shards":2}} ({error}); restore it from a copy: it says which logs count'
        ) from None


def write(config: Config, topology: Topology) -> None:
    """Make a topology count (TO1). Raises OSError; the one before counts on then, unless syncing the folder failed."""
    path = path_of(config)
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        file.write(msgspec.json.encode(topology) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    met(Step.TOPOLOGY_WRITTEN)
    unfinished.replace(path)
    sync_folder(path.parent)
    met(Step.TOPOLOGY_COUNTS)


def resolved(config: Config) -> Config:
    """
    The configuration with the generation that counts. Before the first start that is the first.

    Raises ConfigError if the configuration names another generation or another number of shards.
    """
    if config.log.kind == "memory":  # nothing lasts, so nothing can be of another topology
        return of_generation(config, 1)
    topology = read(config)
    if topology is not None:
        _require_shards(config, topology)
    return of_generation(config, topology.generation if topology else 1)


def of_generation(config: Config, generation: int, shards: int = 0) -> Config:
    """
    The configuration of a generation, and of so many shards; 0: as many as it says.

    Raises ConfigError if it names another generation.
    """
    named = config.exchange.generation
    if named not in (0, generation):
        source = config.sources.get("exchange.generation", "default")
        raise ConfigError(
            f"{source}: $.exchange.generation must be {generation}, which counts by {path_of(config)}, or 0 for whatever counts "
            f"there, was {named}; leave it out"
        )
    return at(config, generation, shards or config.exchange.shards)


def at(config: Config, generation: int, shards: int) -> Config:
    """The configuration with this generation and number of shards."""
    return replace(config, exchange=replace(config.exchange, generation=generation, shards=shards))


def _require_shards(config: Config, topology: Topology) -> None:
    """A log of more shards than are started would lose the events of the others without a word."""
    shards = config.exchange.shards
    if shards != topology.shards:
        source = config.sources.get("exchange.shards", "default")
        raise ConfigError(
            f"{source}: $.exchange.shards is {shards}, but the exchange in {config.data_folder()} has {topology.shards} (topology "
            f"generation {topology.generation}): write {topology.shards}, or stop it cleanly and deal its events out anew with "
            f"`ringpit reshard --shards {shards}`"
        )


def established(config: Config) -> Config:
    """
    As `resolved`; the first start's topology is made (TO2).

    Raises ConfigError also if there are logs or snapshots without the topology that they must have, OSError if it cannot be written.
    """
    found = resolved(config)
    if config.log.kind != "memory" and read(config) is None:
        _require_no_trace(found)
        write(found, Topology(found.exchange.generation, found.exchange.shards))
    return found


def _require_no_trace(config: Config) -> None:
    """Without its topology a later generation would be taken for the first one, and the events of missing shards for unknown."""
    for folder in (config.log_folder(), config.snapshots_folder()):
        for later in sorted(folder.glob(f"{GENERATION_PREFIX}[0-9]*"), reverse=True):
            shards = len(list(later.glob(f"{SHARD_PREFIX}*")))
            raise ConfigError(
                f"{path_of(config)} is missing, but {later} is there, which is of generation "
                f"{int(later.name.removeprefix(GENERATION_PREFIX))}: restore it from a copy (it may say {shards} shards), or name "
                f"another data folder"
            )
        for shard_folder in sorted(folder.glob(f"{SHARD_PREFIX}*")):
            number = shard_folder.name.removeprefix(SHARD_PREFIX)
            if number.isdigit() and int(number) >= config.exchange.shards:
                raise ConfigError(
                    f"$.exchange.shards is {config.exchange.shards}, but {shard_folder} is of shard {int(number)}, whose events would "
                    f"be unknown: start with {int(number) + 1} shards or more, or name another data folder"
                )
