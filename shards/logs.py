"""
Logs at rest: where the operator's tools find them, and what each of them needs to read one.

    ringpit.toml ──> Source of each shard: a view of its log, the folder of its snapshots, its generation
    bare folder  ──> the same from the names in it, and from what the first batch says

A tool never opens a log for writing, but for `skip`, which takes the exchange's own locks first. A view may be read
beside a running exchange. A log that was trimmed begins with a batch in the middle of its history: what came before is
believed as that batch's header tells it (`begin_of`).

Fast enough: nothing is read here but one batch. Slow: a view of Kafka connects, some tenths of a second each.
"""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ringpit.engine.limits import Limits
from ringpit.shards.config import Config, ConfigError
from ringpit.shards.lock import LOCKS
from ringpit.shards.processes import kafka_settings
from ringpit.shards.sections import GENERATION_PREFIX
from ringpit.shards.topology import SHARD_PREFIX, resolved
from ringpit.wal.batch import BatchKind, decode
from ringpit.wal.kafka import KafkaView
from ringpit.wal.log import LogView
from ringpit.wal.reader import FIRST, Begin
from ringpit.wal.segments import SegmentView


@dataclass(frozen=True)
class Source:
    """One shard's log, and what belongs to it."""

    shard: int
    generation: int  # 0: whatever the log's first batch says
    view: LogView
    limits: Limits  # of the exchange that wrote it: a full pool is a reject, so a replay needs the same
    snapshots: Path  # folder of all shards' snapshots; need not exist
    log_folder: Path | None  # of all shards' segment files; None: the log is in Kafka

    def begin(self) -> tuple[Begin, int]:
        """What is believed before the first batch, and where that lies."""
        return begin_of(self.view)

    def generation_found(self) -> int:
        """The topology generation: the configuration's, or the first batch's; 1 for an empty log."""
        if self.generation:
            return self.generation
        for entry in self.view.read(self.view.beginning()):
            return int(decode(entry.batch, self.view.locate(entry.position))[0]["generation"])
        return 1


def sources_of(
    config: Config | None, folder: Path | None, shard: int | None, snapshots: Path | None = None
) -> Iterator[Source]:
    """
    The logs that a command line means, one after another: all shards, or the one that is named.

    `folder` names segment files directly, with or without a configuration beside it, which then only gives limits and
    snapshots: the generation is that of the files. Raises ConfigError for what cannot be meant, LogUnavailable if a log cannot be reached.
    """
    if folder is not None:
        yield from _of_folder(config, folder, shard, snapshots)
        return
    config = config or resolved(Config())
    if config.log.kind == "memory":
        raise ConfigError(
            "$.log.kind is memory: there is no log at rest; name a configuration with -c, or --folder"
        )
    if shard is not None and not 0 <= shard < config.exchange.shards:
        raise ConfigError(f"--shard must be from 0 to {config.exchange.shards - 1}, was {shard}")
    for number in range(config.exchange.shards) if shard is None else [shard]:
        yield source_of(config, number, snapshots)


def source_of(config: Config, shard: int, snapshots: Path | None = None) -> Source:
    """The log of a configuration's shard. Raises LogUnavailable."""
    segments = config.log.kind == "segments"
    return Source(
        shard,
        config.exchange.generation,
        SegmentView(config.log_folder(), shard) if segments else KafkaView(kafka_settings(config), shard),
        config.limits.limits(),
        snapshots or config.snapshots_folder(),
        config.log_folder() if segments else None,
    )


def _of_folder(
    config: Config | None, folder: Path, shard: int | None, snapshots: Path | None
) -> Iterator[Source]:
    """The logs in a folder of shard folders, or in one shard's own folder."""
    if folder.name.startswith(SHARD_PREFIX) and not any(folder.glob(f"{SHARD_PREFIX}*")):
        parent, found = folder.absolute().parent, [_number_of(folder)]
    else:
        parent, found = folder, sorted(map(_number_of, folder.glob(f"{SHARD_PREFIX}*")))
    if shard is not None and shard not in found:
        raise ConfigError(f"--shard must be one of {found}, which {folder} holds, was {shard}")
    if not found:
        raise ConfigError(
            f"{folder} must hold folders named {SHARD_PREFIX}NNNN, or be one; name the right --folder"
        )
    for number in found if shard is None else [shard]:
        yield Source(
            number,
            _generation_named(parent),
            SegmentView(parent, number),
            config.limits.limits() if config else Limits(),
            snapshots or (config.snapshots_folder() if config else _snapshots_beside(parent)),
            parent,
        )


def _generation_named(logs: Path) -> int:
    """generation-0002 -> 2; 0 for a folder of another name: its logs say it."""
    digits = logs.name.removeprefix(GENERATION_PREFIX)
    return int(digits) if logs.name.startswith(GENERATION_PREFIX) and digits.isdecimal() else 0


def _snapshots_beside(logs: Path) -> Path:
    """Where the snapshots of a folder of logs lie by default: data/snapshots, below it as data/log is divided."""
    if logs.name.startswith(GENERATION_PREFIX):
        return logs.parent.parent / "snapshots" / logs.name
    return logs.parent / "snapshots"


def _number_of(path: Path) -> int:
    """shard-0003 -> 3"""
    digits = path.name.removeprefix(SHARD_PREFIX)
    if not digits.isdecimal():
        raise ConfigError(f"{path} must be named {SHARD_PREFIX}NNNN; name the right --folder")
    return int(digits)


def begin_of(view: LogView) -> tuple[Begin, int]:
    """
    What a reader must believe before a log's first batch, and that batch's position.

    For a whole log that is nothing. For a trimmed one it is what the batch's header says came before.
    """
    position = view.beginning()
    if not position:
        return FIRST, 0
    for entry in view.read(position):
        header, _ = decode(entry.batch, view.locate(entry.position))
        is_claim = header["kind"] == BatchKind.CLAIM
        is_skip = header["kind"] == BatchKind.SKIP
        begin = Begin(
            epoch=int(header["prior_epoch"] if is_claim else header["epoch"]),
            nonce=0 if is_claim else int(header["nonce"]),
            seq=int(header["first_seq"]) - 1,
            checksum=int(header["checksum_before"]),
            skip_count=int(header["skip_count"]) - is_skip,
        )
        return begin, position
    return FIRST, position


def torn_bytes(view: LogView) -> int:
    """What lay behind the end of the last read: being written, or torn. Kafka's log has no such end."""
    return view.torn_bytes if isinstance(view, SegmentView) else 0


def lost_end(view: LogView) -> str:
    """Why what the last read took for the end cannot be the log's; empty: nothing says so."""
    return view.lost_end() if isinstance(view, SegmentView) else ""


def holders(config: Config, shard: int) -> list[str]:
    """
    Who holds the locks that a start of the exchange needs, each as "what (process N)"; empty: nobody.

    A lock is looked at by asking for a share of it and letting go at once: a start in that very microsecond would be
    refused and had to be repeated.
    """
    locks = {
        f"exchange {config.exchange.name!r}": LOCKS / f"ringpit-{config.exchange.name}.lock",
        f"data folder {config.data_folder()}": config.data_folder() / "ringpit.lock",
    }
    if config.log.kind == "segments":
        locks[f"log of shard {shard}"] = config.log_folder() / f"{SHARD_PREFIX}{shard:04}" / "lock"
    return [f"{what} (process {pid})" for what, path in locks.items() if (pid := holder(path))]


def holder(path: Path) -> str:
    """The process that holds a lock file, as it wrote itself there; empty: nobody."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
    finally:
        os.close(file)
    return ""
