"""
Verify: is a log whole, and do its snapshots tell the truth?

The whole log goes through the reader rule: CRC of each batch, contiguous seqs, the running checksum, whole frames, claims. If there
are snapshots, the books are made again on the way and compared at each of them. Nothing is written, and a running exchange is not disturbed.

Fast without snapshots: reading and checking only. With them, as fast as a start that begins at the first batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ringpit.engine.state import StateTooLarge
from ringpit.shards.history import History, Summary
from ringpit.shards.logs import Source, lost_end, torn_bytes
from ringpit.shards.rerun import Books, Rerun, foreign, tables_of
from ringpit.wal.errors import (
    BatchDamaged,
    ChecksumMismatch,
    LogError,
    LogGap,
    LogVersionMismatch,
    SnapshotMissing,
)
from ringpit.wal.frames import FrameTorn
from ringpit.wal.snapshots import SnapshotFacts, SnapshotStore

LOST: Final = (
    "do not start the exchange on it: keep a copy of the log as it is, then put the damaged part back from a copy "
    "(a segment file, or a replica of the partition) and verify again"
)
ADVICE: Final[tuple[tuple[type[LogError], str], ...]] = (
    (BatchDamaged, LOST),
    (LogGap, LOST),
    (ChecksumMismatch, LOST),
    (FrameTorn, LOST),
    (LogVersionMismatch, "the log itself may be sound: use the ringpit that wrote it"),
)

Progress = Callable[[int, int], None]  # seq reached, seq of the end


@dataclass(kw_only=True)
class Verdict:
    """What verify found of one shard."""

    summary: Summary
    snapshots: list[tuple[str, str]] = field(default_factory=list)  # name, what is wrong with it or nothing
    damage: str = ""  # the first damage of the log, with its position
    advice: str = ""

    @property
    def good(self) -> bool:
        """True if nothing is damaged."""
        return not self.damage and not any(wrong for _, wrong in self.snapshots)


def verify(source: Source, progress: Progress = lambda _seq, _end: None) -> Verdict:
    """Walk a shard's whole log and compare its snapshots. Raises LogUnavailable if the log cannot be reached."""
    verdict = Verdict(summary=Summary(shard=source.shard))
    sound = _snapshots(source, verdict)
    try:
        _walk(source, verdict, sound, progress)
    except (LogError, StateTooLarge) as error:
        verdict.damage = str(error)
        verdict.advice = _advice(error, verdict, sound)
    verdict.summary.torn_bytes = torn_bytes(source.view)
    if not verdict.damage:
        verdict.damage = lost_end(source.view)
        if verdict.damage:
            verdict.advice = f"everything up to seq {verdict.summary.last_seq} is sound; {LOST}"
    return verdict


def _snapshots(source: Source, verdict: Verdict) -> list[tuple[Path, SnapshotFacts]]:
    """
    The sound snapshots of this log, oldest first; what is wrong with the others goes into the verdict.

    One that lies before what a trim has left is no start's any more, and nothing is wrong with it.
    """
    sound = []
    begins_at = source.view.beginning()
    for found in reversed(SnapshotStore(source.snapshots, source.shard).listing()):
        wrong = found.damage if found.facts is None else foreign(source, found.facts)
        if wrong:
            verdict.snapshots.append((str(found.path), wrong))
        elif found.facts and found.facts.log_position >= begins_at:
            sound.append((found.path, found.facts))
    return sound


def _walk(
    source: Source, verdict: Verdict, sound: list[tuple[Path, SnapshotFacts]], progress: Progress
) -> None:
    """Read everything; with snapshots, apply it too: from empty books, or from the oldest one if the log begins behind it."""
    rerun = None
    later = source.generation_found() > 1
    if sound:
        store = SnapshotStore(source.snapshots, source.shard)
        first = store.load(sound[0][0]) if later or source.view.beginning() else None
        seq = first.facts.seq if first else 0
        rerun = Rerun(source, Books(tables_of(source.limits, first), seq), first)
        history, steps = rerun.history, rerun.steps()
    else:
        if later:
            missing = SnapshotMissing(source.shard, source.generation_found(), source.snapshots)
            verdict.snapshots.append(("the first snapshot", str(missing)))
        history = History(source, lenient=True)
        steps = history.steps()
    end = history.last_seq()
    try:
        for step in steps:
            verdict.summary.add(step.row)
            progress(verdict.summary.last_seq, end)
    finally:
        for check in rerun.checks if rerun else ():
            verdict.snapshots.append((f"snapshot at seq {check.facts.seq}", check.wrong))
    reached = verdict.summary.last_seq
    for _, facts in sound:
        if facts.seq > max(reached, rerun.books.seq if rerun else 0):
            wrong = f"it holds seq {facts.seq}, but the log ends at {reached}: the log has lost its end; {LOST}"
            verdict.snapshots.append((f"snapshot at seq {facts.seq}", wrong))


def _advice(error: Exception, verdict: Verdict, sound: list[tuple[Path, SnapshotFacts]]) -> str:
    """What to do, and what is still good."""
    kept = f"everything up to seq {verdict.summary.last_seq} is sound"
    behind = [facts.seq for _, facts in sound if facts.seq > verdict.summary.last_seq]
    if behind and not isinstance(error, LogVersionMismatch):
        return (
            f"{kept}; the snapshot at seq {behind[-1]} may lie behind the damage: `ringpit wal plan` says whether a start "
            f"from it works. Keep a copy of the log first"
        )
    advice = next((text for kind, text in ADVICE if isinstance(error, kind)), "")
    return f"{kept}; {advice}" if advice else kept
