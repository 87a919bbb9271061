"""
The reader rule: which records of a log count, and how a new owner takes a shard over.

Everybody who reads a log (recovery, a follower, a tool) applies the same rule to the same batches in the same
order, and so everybody agrees on the history, whatever a dying owner still managed to append:

    claim 1   A   A   claim 2   A   B   B        A's batch behind claim 2 is ignored, by all, for good

Invariants:

    R1  a claim counts if its epoch is newer than every claim before it; of two equal epochs the first in
        log order wins
    R2  a batch counts if its epoch and nonce are those of the newest claim that counts
    R3  record by record: seq below the next one, skip; equal, take; above, stop: a gap is fatal
    R4  after every batch that is taken, even in part, the running checksum agrees with the batch's
    R5  what is taken is whole frames

Taking over reads the log once. The claim is appended when the end has been reached (its epoch can only be
known then), and reading goes on from there up to the claim: by then usually one batch, the claim itself.
Claiming first would need a scan of all headers before, which for Kafka means fetching every byte twice.

Cost: about 15 ns a record (CRC, checksum, frames, one copy), beside reading the bytes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from ringpit.engine.records import MARKER
from ringpit.wal.batch import BatchKind, decode, encode, positions_of
from ringpit.wal.errors import ChecksumMismatch, Fenced, LogGap, LogUnavailable, LogVersionMismatch
from ringpit.wal.frames import CHECKSUM_START, ROUTERS_MAX, FrameTorn, checksum_of, whole_frames
from ringpit.wal.log import Log

CLAIM_TIMEOUT_SECONDS: Final = 30.0
_NOTHING: Final = np.empty(0, MARKER)

Apply = Callable[[np.void, np.ndarray], None]


class Reader:
    """Pure state of the reader rule for one shard and generation. Feed it batches in log order."""

    def __init__(self, shard: int, generation: int) -> None:
        """Begin before the first batch of the generation."""
        self.shard = shard
        self.generation = generation
        self.epoch = 0  # of the newest claim that counts
        self.nonce = 0
        self.next_seq = 1
        self.checksum = CHECKSUM_START
        self.confirmed_seq = 0
        self.positions = np.zeros(ROUTERS_MAX, np.int64)
        self.batch_count = 0  # batches that counted
        self.record_count = 0  # records taken: markers and commands

    def take(self, batch: bytes, where: str) -> tuple[np.void, np.ndarray]:
        """
        The batch's header, and the records of it to apply now (perhaps none): whole frames, in order.

        The records are a writable copy, so that kernels see the same kind of array as in a ring and are not
        compiled a second time for read-only ones. `where` names the batch in messages.

        Raises BatchDamaged, LogVersionMismatch, LogGap, ChecksumMismatch or FrameTorn; the reader is then of no
        further use.
        """
        header, records = decode(batch, where)
        self._require_ours(header, where)
        if header["kind"] == BatchKind.CLAIM:
            self._take_claim(header, where)
            return header, _NOTHING
        if header["epoch"] > self.epoch or self.epoch == 0:
            reason = "an epoch without its claim; the numbers are epochs"
            raise LogGap(self.shard, self.epoch, int(header["epoch"]), where, reason)
        if header["epoch"] < self.epoch or header["nonce"] != self.nonce:
            return header, _NOTHING  # R2: an owner that was replaced before this arrived
        self.batch_count += 1
        self.confirmed_seq = max(self.confirmed_seq, int(header["confirmed_seq"]))
        np.maximum(self.positions, positions_of(header), out=self.positions)
        return header, self._take_records(header, records, where)

    def _require_ours(self, header: np.void, where: str) -> None:
        """Refuse another shard's or generation's log before anything of it is believed."""
        for name, ours in (("shard", self.shard), ("generation", self.generation)):
            if header[name] != ours:
                raise LogVersionMismatch(
                    f"{where}: {name} must be {ours}, was {header[name]}; the log belongs to another shard or "
                    f"topology: name the right folder or topic, or begin an empty one"
                )

    def _take_claim(self, header: np.void, where: str) -> None:
        """R1. What the claimant had seen when it claimed must have been seen by us too."""
        if header["epoch"] <= self.epoch:
            return
        first_seq = int(header["first_seq"])
        if first_seq > self.next_seq:
            raise LogGap(self.shard, self.next_seq, first_seq, where)
        if first_seq == self.next_seq and header["checksum_before"] != self.checksum:
            raise ChecksumMismatch(self.shard, first_seq, where)
        self.epoch = int(header["epoch"])
        self.nonce = int(header["nonce"])
        self.batch_count += 1

    def _take_records(self, header: np.void, records: np.ndarray, where: str) -> np.ndarray:
        """R3, R4 and R5."""
        first_seq = int(header["first_seq"])
        if first_seq > self.next_seq:
            raise LogGap(self.shard, self.next_seq, first_seq, where)
        taken = records[self.next_seq - first_seq :].copy()
        if not len(taken):
            return _NOTHING
        if len(taken) == len(records) and header["checksum_before"] != self.checksum:
            raise ChecksumMismatch(self.shard, first_seq, where)
        whole, _ = whole_frames((taken,), len(taken), np.zeros(ROUTERS_MAX, np.int64), where)
        if whole != len(taken):
            raise FrameTorn(f"{where}: the last frame must be whole, but the batch ends inside it")
        self.checksum = checksum_of(taken, self.checksum)
        if header["checksum_after"] != self.checksum:
            raise ChecksumMismatch(self.shard, self.next_seq, where)
        self.next_seq += len(taken)
        self.record_count += len(taken)
        return taken


@dataclass(frozen=True, kw_only=True)
class RecoveredState:
    """Where a new owner goes on: what `BatchWriter` starts from."""

    shard: int
    generation: int
    epoch: int  # ours now
    nonce: int
    next_seq: int
    checksum: int
    confirmed_seq: int
    positions: tuple[int, ...]  # per router, input ring position that is durable
    batch_count: int  # batches that counted, our claim among them
    record_count: int  # records applied: markers and commands
    appended_count: int  # batches that recovery appended to the log: what Log.poll counts already


def recover(
    log: Log,
    shard: int,
    generation: int,
    nonce: int,
    apply: Apply,
    *,
    timeout_seconds: float = CLAIM_TIMEOUT_SECONDS,
) -> RecoveredState:
    """
    Take over a shard: replay its log into `apply`, claim the next epoch, and read on up to the claim.

    `apply(header, records)` is called in order for each batch of which records count; the array is its own.
    `nonce` is random and not 0. `log` was opened by this process and nothing has been appended to it yet.

    Raises Fenced if another owner claimed the epoch first, LogUnavailable if the claim is not in the log
    after the timeout, and whatever the log and the reader raise; `apply` may have been called by then.
    """
    reader = Reader(shard, generation)
    position = _replay(log, reader, 0, apply)
    claim = {
        "kind": BatchKind.CLAIM,
        "shard": shard,
        "generation": generation,
        "epoch": reader.epoch + 1,
        "prior_epoch": reader.epoch,
        "nonce": nonce,
        "first_seq": reader.next_seq,
        "checksum_before": reader.checksum,
        "checksum_after": reader.checksum,
        "confirmed_seq": reader.confirmed_seq,
    }
    log.append(encode(claim, reader.positions))
    deadline = time.monotonic() + timeout_seconds
    while log.poll(0.1) < 1:
        _require_time(deadline, shard, log)
    while reader.epoch < claim["epoch"]:
        position = _replay(log, reader, position, apply)
        _require_time(deadline, shard, log)
    if (reader.epoch, reader.nonce) != (claim["epoch"], nonce):
        raise Fenced(
            f"shard {shard} was claimed by another owner with epoch {reader.epoch} while this one claimed epoch "
            f"{claim['epoch']}; stop one of the two (one supervisor per log)"
        )
    return RecoveredState(
        shard=shard,
        generation=generation,
        epoch=reader.epoch,
        nonce=nonce,
        next_seq=reader.next_seq,
        checksum=reader.checksum,
        confirmed_seq=reader.confirmed_seq,
        positions=tuple(map(int, reader.positions)),
        batch_count=reader.batch_count,
        record_count=reader.record_count,
        appended_count=1,
    )


def _replay(log: Log, reader: Reader, position: int, apply: Apply) -> int:
    """Feed what the log holds from a position on, and return where to read on."""
    for entry in log.read(position):
        header, records = reader.take(entry.batch, log.locate(entry.position))
        if len(records):
            apply(header, records)
        position = entry.following
    return position


def _require_time(deadline: float, shard: int, log: Log) -> None:
    """Give up on a claim that does not come back."""
    if time.monotonic() > deadline:
        raise LogUnavailable(
            f"the claim on shard {shard} is not in its log yet ({log.describe()}); check that the log accepts writes"
        )
