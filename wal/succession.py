"""
Succession: how somebody who has a shard's state already takes its log over.

    log      claim 1   A   A   A   | claim 2   A   B   B          | A's that arrive behind claim 2 count for nothing
                           ^ here the successor begins to read
    written again:             A'                                   the same records as A, from the first not durable one on

A worker that starts replays its log and then claims (reader.py). A follower has the state; it only has to learn that its
own claim is the one that counts, and then writes again whatever its predecessor was not told to be durable. Whether
that was in the log or not makes no difference: the reader rule skips what it has.

Fast here: what is read is what was appended since the predecessor last said where its log stands.

Invariant:

    SU1  the claim's first seq is not above what the log has, because its predecessor said that it is durable
"""

from dataclasses import dataclass

import numpy as np

from ringpit.wal.batch import encode
from ringpit.wal.log import Log
from ringpit.wal.reader import (
    CLAIM_TIMEOUT_SECONDS,
    Begin,
    Reader,
    RecoveredState,
    await_claim,
    claim_of,
)


@dataclass(frozen=True, kw_only=True)
class Inheritance:
    """What a successor knows of the log when it takes over."""

    shard: int
    generation: int
    epoch: int  # of the predecessor
    nonce: int  # of the predecessor
    next_seq: int  # first seq that is perhaps not durable
    checksum: int  # over everything below it
    confirmed_seq: int
    skip_count: int
    position: int  # in the log; batches behind it hold no record above next_seq that is not preceded by those from it on
    positions: tuple[int, ...]  # per router, input ring position below next_seq


def claim(log: Log, inheritance: Inheritance, nonce: int) -> None:
    """Append the claim on the next epoch; `log` was opened by this process and nothing was appended to it yet."""
    facts = claim_of(_reader_of(inheritance), nonce)
    log.append(encode(facts, np.array(inheritance.positions, np.int64)))


def _reader_of(inheritance: Inheritance) -> Reader:
    """A reader that stands where the successor begins to write."""
    begin = Begin(
        epoch=inheritance.epoch,
        nonce=inheritance.nonce,
        seq=inheritance.next_seq - 1,
        checksum=inheritance.checksum,
        confirmed_seq=inheritance.confirmed_seq,
        skip_count=inheritance.skip_count,
    )
    return Reader(inheritance.shard, inheritance.generation, begin=begin)


def _look_away(_header: np.void, _records: np.ndarray) -> None:
    """A successor has applied it, or writes it again."""


def succeed(
    log: Log, inheritance: Inheritance, nonce: int, *, timeout_seconds: float = CLAIM_TIMEOUT_SECONDS
) -> RecoveredState:
    """
    Wait for the claim, and read the log up to it.

    Raises Fenced if another owner claimed first, LogUnavailable if the claim is not in the log after the timeout, and
    whatever the log and the reader raise.
    """
    reader = _reader_of(inheritance)
    facts, positions = claim_of(reader, nonce), np.array(inheritance.positions, np.int64)
    appended_count = await_claim(
        log, reader, facts, positions, inheritance.position, _look_away, timeout_seconds
    )
    return RecoveredState(
        shard=inheritance.shard,
        generation=inheritance.generation,
        epoch=reader.epoch,
        nonce=nonce,
        next_seq=inheritance.next_seq,
        checksum=inheritance.checksum,
        confirmed_seq=inheritance.confirmed_seq,
        skip_count=inheritance.skip_count,
        positions=inheritance.positions,
        batch_count=reader.batch_count,
        record_count=reader.record_count,
        appended_count=appended_count,
    )
