"""
Trim: shorten a log behind its snapshots, on an operator's word.

    snapshots that count, newest first:   S3   S2   S1          kept: the newest two, and the log from S2's position on
    log   ......................|-----------------------        what lies before can never be needed by a start again
                                ^ position of S2

Two snapshots are kept in force, because the newest may turn out to be damaged. May run beside a running exchange: it
removes only what no start and no follower reads. Segment files go whole, up to the one in which the position lies: up to
log.segment_bytes more than is needed stay.
"""

from dataclasses import dataclass
from typing import Final

from ringpit.shards.logs import Source
from ringpit.wal.snapshots import SnapshotStore

IN_FORCE: Final = 2  # snapshots that must remain usable


class NothingToTrim(ValueError):
    """There is nothing behind two snapshots; the sentence says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where a log can be cut."""

    seq: int  # of the older snapshot in force: every seq above it stays
    position: int
    begins_at: int  # where the log begins now
    where: str  # the position in words


def cut_of(source: Source) -> Cut:
    """Where a shard's log can be cut. Raises NothingToTrim."""
    found = SnapshotStore(source.snapshots, source.shard).listing()
    identity = source.view.identity()
    usable = [each.facts for each in found if each.facts is not None and each.facts.log_identity == identity]
    if len(usable) < IN_FORCE:
        raise NothingToTrim(
            f"shard {source.shard} must have {IN_FORCE} whole snapshots of this log before it is trimmed, has {len(usable)}: "
            f"wait for the next, or stop the exchange cleanly, which takes one"
        )
    facts = usable[IN_FORCE - 1]
    begins_at = source.view.beginning()
    if facts.log_position <= begins_at:
        raise NothingToTrim(f"shard {source.shard}: nothing lies before the snapshot at seq {facts.seq}")
    return Cut(
        seq=facts.seq,
        position=facts.log_position,
        begins_at=begins_at,
        where=source.view.locate(facts.log_position),
    )
