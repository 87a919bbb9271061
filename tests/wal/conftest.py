"""What the log's tests share: frames made of numbers, and batches with chosen headers."""

import time

import numpy as np
import pytest

from ringpit.engine.codes import CommandKind
from ringpit.engine.records import COMMAND, MARKER
from ringpit.wal.batch import BatchKind, encode
from ringpit.wal.frames import ROUTERS_MAX, checksum_of
from ringpit.wal.reader import RecoveredState

SHARD = 3
GENERATION = 5
DEADLINE_SECONDS = 60.0


def frames_of(*counts, router=0, first_order=1, engine_ns=1_000):
    """Whole frames, one for each count of commands; order ids and positions rise, so that all records differ."""
    records = np.zeros(sum(counts) + len(counts), MARKER)
    at, order = 0, first_order
    for count in counts:
        records[at]["kind"] = CommandKind.MARKER
        records[at]["router"] = router
        records[at]["count"] = count
        records[at]["position"] = order + count
        records[at]["engine_ns"] = engine_ns + order
        commands = records[at + 1 : at + 1 + count].view(COMMAND)
        commands["kind"] = CommandKind.NEW
        commands["order"] = np.arange(order, order + count)
        at += count + 1
        order += count + 1
    return records


def batch_of(records, *, before=0, first_seq=1, epoch=1, nonce=7, **facts):
    """A batch of records with a right checksum, and header facts as asked."""
    checksums = {"checksum_before": before, "checksum_after": checksum_of(records, before)}
    ours = {"shard": SHARD, "generation": GENERATION, "epoch": epoch, "nonce": nonce, "first_seq": first_seq}
    positions = np.zeros(ROUTERS_MAX, np.int64)
    return encode({"kind": BatchKind.COMMANDS, **ours, **checksums, **facts}, positions, records)


def claim_of(epoch, nonce=7, **facts):
    """A claim."""
    return batch_of(frames_of(), epoch=epoch, nonce=nonce, kind=BatchKind.CLAIM, **facts)


def state_of(**changes):
    """The state of an owner that has just claimed an empty log."""
    state = {
        "shard": SHARD,
        "generation": GENERATION,
        "epoch": 1,
        "nonce": 7,
        "next_seq": 1,
        "checksum": 0,
        "confirmed_seq": 0,
        "skip_count": 0,
        "positions": (0,) * ROUTERS_MAX,
        "batch_count": 1,
        "record_count": 0,
        "appended_count": 1,
    }
    return RecoveredState(**(state | changes))


def wait_durable(log, count):
    """Poll until so many batches are durable."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    durable = 0
    while durable < count:
        durable = log.poll(0.1)
        if time.monotonic() > deadline:
            pytest.fail(f"{durable} of {count} batches were durable after {DEADLINE_SECONDS} s")
    return durable


@pytest.fixture(name="make", scope="session")
def make_fixture():
    """The makers above, as one namespace: test folders are no packages, so tests cannot import them."""

    class Make:
        shard, generation = SHARD, GENERATION
        frames = staticmethod(frames_of)
        batch = staticmethod(batch_of)
        claim = staticmethod(claim_of)
        state = staticmethod(state_of)
        wait_durable = staticmethod(wait_durable)

    return Make
