"""Who has a shard's state takes its log over: the claim that counts, and nothing lost or doubled whatever was in flight."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine.records import COMMAND
from ringpit.shards.flow import flow, frames
from ringpit.wal.batch import positions_of
from ringpit.wal.errors import Fenced, LogUnavailable
from ringpit.wal.frames import checksum_of
from ringpit.wal.memory import MemoryLog
from ringpit.wal.reader import KIN_BITS, Reader, recover
from ringpit.wal.succession import Inheritance, claim, succeed
from ringpit.wal.writer import BatchWriter

SHARD, GENERATION = 0, 1
RECORDS = frames(flow(60, seed=3), 4, 9)
KIN = 5 << KIN_BITS
ENDS = [*np.flatnonzero(RECORDS["kind"] == 8)[1:].tolist(), len(RECORDS)]  # behind each frame


def look_away(_header, _records):
    """Nothing is applied."""


def owner(batches):
    """A first owner and its log, whose appends are held."""
    log = MemoryLog(batches)
    state = recover(log, SHARD, GENERATION, 1, look_away)
    log.held = True
    return log, state


def history(batches):
    """What every reader takes."""
    reader = Reader(SHARD, GENERATION)
    taken = [reader.take(batch, "here")[1].view(COMMAND) for batch in batches]
    return reader, np.concatenate([np.zeros(0, COMMAND), *taken])


def inheritance(state, durable, position, **changed):
    """What a successor knows: everything up to `durable` is in the log before `position`, or behind it."""
    facts = {
        "shard": SHARD,
        "generation": GENERATION,
        "epoch": state.epoch,
        "nonce": state.nonce,
        "next_seq": durable + 1,
        "checksum": checksum_of(RECORDS[:durable]),
        "confirmed_seq": 0,
        "skip_count": 0,
        "position": position,
        "positions": (0, 7) + (0,) * 6,  # of a router that sent nothing since
    }
    return Inheritance(**(facts | changed))


@given(st.data())
def test_whatever_was_in_flight_the_history_is_one(data):
    """Batches told durable, arrived and not told, and arriving behind the claim: each record once, in order."""
    batches = []
    log, state = owner(batches)
    writer = BatchWriter(state, in_flight_max=99)
    cuts = sorted(data.draw(st.sets(st.sampled_from(range(len(ENDS))), max_size=6)))
    start = 0
    for end in (ENDS[cut] for cut in cuts):
        batch, _ = writer.cut(RECORDS[start:end], confirmed_seq=0)
        log.append(batch)
        start = end
    told = data.draw(st.integers(0, len(cuts)))
    arrived = data.draw(st.integers(told, len(cuts)))
    log.release(told)
    position = data.draw(st.integers(1, len(batches)))  # at or before what was told
    durable = ENDS[cuts[told - 1]] if told else 0
    log.release(arrived - told)

    successor = MemoryLog(batches)
    knows = inheritance(state, durable, position if position == len(batches) else 1 + told)
    claim(successor, knows, 2)
    taken_over = succeed(successor, knows, 2)
    log.release()  # late: behind the claim
    again = BatchWriter(taken_over, positions=np.array(knows.positions, np.int64))
    at = durable
    while at < len(RECORDS):
        batch, taken = again.cut(RECORDS[at : at + data.draw(st.sampled_from([9, 30, 200]))], confirmed_seq=0)
        if not taken:
            batch, taken = again.cut(RECORDS[at:], confirmed_seq=0)
        successor.append(batch)
        again.advance(successor.poll())
        at += taken
    log.release()
    reader, records = history(batches)
    assert RECORDS.tobytes() == records.tobytes()
    assert (2, 2) == (reader.epoch, reader.nonce)
    assert 7 == positions_of(reader.take(batches[-1], "again")[0])[1]


def test_another_claim_that_was_first_wins():
    """Two successors of one owner: the second finds the other's claim before its own."""
    batches = []
    _, state = owner(batches)
    knows = inheritance(state, 0, 1)
    first, second = MemoryLog(batches), MemoryLog(batches)
    claim(first, knows, 2)
    claim(second, knows, 3)
    assert 2 == succeed(first, knows, 2).epoch
    with pytest.raises(Fenced, match=r"was claimed by another owner with epoch 2.*stop one of the two"):
        succeed(second, knows, 3)


def test_a_dead_claim_of_our_kin_is_claimed_over():
    """A successor that died before it led has claimed first: the next one takes the epoch after it, and the history is one."""
    batches = []
    _, state = owner(batches)
    knows = inheritance(state, 0, 1)
    dead, living = MemoryLog(batches), MemoryLog(batches)
    claim(dead, knows, KIN | 2)
    claim(living, knows, KIN | 3)
    taken_over = succeed(living, knows, KIN | 3)
    assert (3, 1, 2) == (taken_over.epoch, taken_over.next_seq, taken_over.appended_count)
    writer = BatchWriter(taken_over, positions=np.array(knows.positions, np.int64))
    living.append(writer.cut(RECORDS, confirmed_seq=0)[0])
    reader, records = history(batches)
    assert RECORDS.tobytes() == records.tobytes()
    assert (3, KIN | 3) == (reader.epoch, reader.nonce)


def test_a_claim_that_does_not_come_back_is_given_up():
    """The log takes nothing: a sentence, after the patience."""
    batches = []
    _, state = owner(batches)
    log = MemoryLog(batches, held=True)
    knows = inheritance(state, 0, 1)
    claim(log, knows, 2)
    with pytest.raises(LogUnavailable, match="the claim on shard 0 is not in its log yet"):
        succeed(log, knows, 2, timeout_seconds=0.0)
