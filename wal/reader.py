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
    R6  a command that an operator skipped is taken with the verdict SKIPPED, whoever reads, from wherever: the
        checksum is over what was written, and the engine refuses it with that reason
    R7  ring positions are of the rings of the newest owner that counts: a start begins with none, a follower that takes
        over goes on with its predecessor's; those of an earlier life may be larger and mean other rings
    R8  whoever finds its epoch claimed by another ends, unless that is kin: nonces that agree above KIN_BITS, and are not 0
        there, are of one data folder, so that claim is a dead process's, and the epoch after it is claimed

A reader may begin at a snapshot instead of the first batch (`Begin`), and must then know of skips that lie further on
than the command (R6). The last header says how many there are (B6): nearly always as many as the snapshot knew, and
nothing is searched; else `skips_of` looks through the headers once, before anything is applied.

Taking over reads the log once. The claim is appended when the end has been reached (its epoch can only be
known then), and reading goes on from there up to the claim: by then usually one batch, the claim itself.
Claiming first would need a scan of all headers before, which for Kafka means fetching every byte twice.

A log that was written under light load has a few records in each batch, so batches are read ahead and taken in runs (`runs`): of
a run, the batches that hold nothing but the next commands of the owner are looked at all at once, and what is anything else, or
anything wrong, is left to `take`, which knows what to say.

Cost: about 15 ns a record (CRC, checksum, frames, one copy) and 5 microseconds a batch, beside reading the bytes.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from ringpit.engine.codes import CommandKind, Reason
from ringpit.engine.records import COMMAND, MARKER
from ringpit.wal.batch import HEADER, BatchKind, decode, decode_run, encode, furthest_positions, positions_of
from ringpit.wal.errors import (
    BatchDamaged,
    ChecksumMismatch,
    Fenced,
    LogError,
    LogGap,
    LogUnavailable,
    LogVersionMismatch,
    SkipRefused,
)
from ringpit.wal.frames import (
    CHECKSUM_START,
    ROUTERS_MAX,
    FrameTorn,
    agreeing,
    checksum_of,
    whole_frames,
)
from ringpit.wal.log import Entry, Log, LogView

CLAIM_TIMEOUT_SECONDS: Final = 30.0
CLAIMS_MAX: Final = 8  # more of one's own dead than can be on their way
KIN_BITS: Final = 31  # of a nonce; those above name whose it is
POLL_SECONDS: Final = 0.05
RUN_BYTES: Final = (
    1 << 18
)  # of a run, so that it is in the caches from its checks to the books; one batch may have more
RUN_BATCHES: Final = 512
NOT_SKIPPABLE: Final = (CommandKind.MARKER, CommandKind.EXTENSION, CommandKind.BANDS)  # no command by itself
_NOTHING: Final = np.empty(0, MARKER)
_COMMANDS: Final = int(BatchKind.COMMANDS)
_MARK: Final = int(BatchKind.MARK)

Apply = Callable[[np.void, np.ndarray], None]


@dataclass(frozen=True, kw_only=True)
class Begin:
    """Where a reader begins: what a snapshot knows. The defaults are the beginning of a log."""

    epoch: int = 0  # of the newest claim that counts
    nonce: int = 0  # of that claim; 0: not known, see `_is_owner`
    seq: int = 0  # last record applied
    checksum: int = CHECKSUM_START  # including that record
    confirmed_seq: int = 0
    skip_count: int = 0  # SKIP batches that the log had by then
    log_seq: int = 0  # the log had everything up to it, before the position from which it is read on


FIRST: Final = Begin()


class Reader:
    """
    Pure state of the reader rule for one shard and generation. Feed it batches in log order.

    Args:
        shard, generation: Whose log it is; another's is refused.
        begin: What has been applied before the first batch that is fed.
        skips: Seqs of commands that an operator skipped, as `skips_of` finds them.
    """

    def __init__(
        self, shard: int, generation: int, *, begin: Begin | None = None, skips: frozenset[int] = frozenset()
    ) -> None:
        """Begin before the first batch of the generation, or behind a snapshot."""
        begin = begin or FIRST
        self.shard = shard
        self.generation = generation
        self.skips = skips
        self.begin_seq = begin.seq
        self.log_seq = begin.log_seq  # last record seen in a batch that counts, taken or skipped
        self.epoch = begin.epoch  # of the newest claim that counts
        self.nonce = begin.nonce
        self.next_seq = begin.seq + 1
        self.checksum = begin.checksum
        self.confirmed_seq = begin.confirmed_seq
        self.skip_count = begin.skip_count
        self.clean = False  # the last batch that counted is the mark of a clean stop
        self.positions = np.zeros(ROUTERS_MAX, np.int64)
        self.batch_count = 0  # batches that counted
        self.record_count = 0  # records taken: markers and commands

    def take(self, batch: bytes, where: str) -> tuple[np.void, np.ndarray]:
        """
        The batch's header, and the records of it to apply now (perhaps none): whole frames, in order.

        The records are a writable copy, so that kernels see the same kind of array as in a ring and are not
        compiled a second time for read-only ones. `where` names the batch in messages.

        Raises BatchDamaged, LogVersionMismatch, LogGap, ChecksumMismatch, FrameTorn or SkipRefused; the reader is
        then of no further use.
        """
        header, records = decode(batch, where)
        self._require_ours(header, where)
        if header["kind"] == BatchKind.CLAIM:
            self._take_claim(header, where)
            return header, _NOTHING
        if header["epoch"] > self.epoch or self.epoch == 0:
            reason = "an epoch without its claim; the numbers are epochs"
            raise LogGap(self.shard, self.epoch, int(header["epoch"]), where, reason)
        if not self._is_owner(header):
            return header, _NOTHING  # R2: an owner that was replaced before this arrived
        self.batch_count += 1
        self.log_seq = max(self.log_seq, int(header["first_seq"] + header["count"]) - 1)
        self.clean = bool(header["clean"])
        self.confirmed_seq = max(self.confirmed_seq, int(header["confirmed_seq"]))
        np.maximum(self.positions, positions_of(header), out=self.positions)
        self._take_skip(header, where)
        return header, self._take_records(header, records, where)

    def take_run(self, batches: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """
        Take the batches at the front that hold nothing but the owner's next records: their headers, and the records of them all.

        Perhaps none: then the first is to be given to `take`, which takes it or says what is wrong. Like `take`, for many.
        """
        headers, records = decode_run(batches)
        headers = headers[: self._plain(headers)]
        counts = headers["count"].astype(np.int64)
        before, after = headers["checksum_before"].copy(), headers["checksum_after"].copy()
        taken, record_count, checksum = agreeing(records, counts, before, after, self.checksum)
        headers, records = headers[:taken], records[:record_count]
        if taken:
            self.checksum = checksum
            self.next_seq += record_count
            self.record_count += record_count
            self.batch_count += taken
            self.log_seq = max(self.log_seq, self.next_seq - 1)
            self.clean = bool(headers["clean"][-1])
            self.confirmed_seq = max(self.confirmed_seq, int(headers["confirmed_seq"].max()))
            self.skip_count = max(self.skip_count, int(headers["skip_count"].max()))
            np.maximum(self.positions, furthest_positions(headers), out=self.positions)
        return headers, records

    def _plain(self, headers: np.ndarray) -> int:
        """How many at the front are the owner's, follow one another from `next_seq` on, and hold no command that was skipped."""
        first_seqs, counts = headers["first_seq"], headers["count"]
        plain = (headers["kind"] == _COMMANDS) | (headers["kind"] == _MARK)
        for name, ours in (
            ("shard", self.shard),
            ("generation", self.generation),
            ("epoch", self.epoch),
            ("nonce", self.nonce),
        ):
            plain &= headers[name] == ours
        plain &= first_seqs == self.next_seq + np.cumsum(counts) - counts
        for seq in self.skips:
            plain &= (first_seqs > seq) | (first_seqs + counts <= seq)
        return len(headers) if plain.all() else int(plain.argmin())

    def _is_owner(self, header: np.void) -> bool:
        """
        R2. Behind a snapshot that knows the epoch and not the nonce, the first batch tells it: of two owners that claimed one
        epoch the loser never appends anything but its claim.
        """
        if header["epoch"] != self.epoch:
            return False
        self.nonce = self.nonce or int(header["nonce"])
        return bool(header["nonce"] == self.nonce)

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
        self.positions = positions_of(header)  # R7
        self.clean = False
        self.batch_count += 1

    def require_reached(self, where: str) -> None:
        """Raise LogGap if a log that was read to its end does not have what the reader began behind."""
        if self.log_seq < self.begin_seq:
            raise LogGap(
                self.shard,
                self.begin_seq,
                self.log_seq,
                where,
                "the log ends before the snapshot: it lost its end, or is another one",
            )

    def _take_skip(self, header: np.void, where: str) -> None:
        """R6: a skip must have been known before its command was taken."""
        self.skip_count = max(self.skip_count, int(header["skip_count"]))
        seq = int(header["skip_seq"])
        if header["kind"] == BatchKind.SKIP and seq > self.begin_seq and seq not in self.skips:
            raise SkipRefused(
                f"{where}: seq {seq} of shard {self.shard} is skipped, but was taken before this was known; start "
                f"again: a start looks for skips first"
            )

    def _take_records(self, header: np.void, records: np.ndarray, where: str) -> np.ndarray:
        """R3, R4 and R5."""
        first_seq = int(header["first_seq"])
        if first_seq > self.next_seq:
            raise LogGap(self.shard, self.next_seq, first_seq, where)
        # As words: numpy copies records field by field.
        taken = records[self.next_seq - first_seq :].view(np.int64).copy().view(MARKER)
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
        self._apply_skips(taken, where)
        self.next_seq += len(taken)
        self.record_count += len(taken)
        return taken

    def _apply_skips(self, taken: np.ndarray, where: str) -> None:
        """R6: write the verdict into our copy."""
        for seq in [seq for seq in self.skips if 0 <= seq - self.next_seq < len(taken)]:
            command = taken.view(COMMAND)[seq - self.next_seq]
            if command["kind"] in NOT_SKIPPABLE:
                raise SkipRefused(
                    f"{where}: seq {seq} of shard {self.shard} is skipped, but is a "
                    f"{CommandKind(command['kind']).name}; only commands can be skipped: restore the log from a copy"
                )
            command["verdict"] = Reason.SKIPPED


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
    skip_count: int
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
    begin: Begin | None = None,
    position: int = 0,
    timeout_seconds: float = CLAIM_TIMEOUT_SECONDS,
) -> RecoveredState:
    """
    Take over a shard: replay its log into `apply`, claim the next epoch, and read on up to the claim.

    `apply(header, records)` is called in order for each run of batches of which records count, with the header of the last one; the
    array is its own.
    `nonce` is random and not 0. `log` was opened by this process and nothing has been appended to it yet. With a
    snapshot, `begin` says what it holds and `position` where the log goes on; skips are looked for first.

    Raises Fenced if another owner claimed the epoch first, LogUnavailable if the claim is not in the log
    after the timeout, and whatever the log and the reader raise; `apply` may have been called by then.
    """
    skips = skips_of(log, begin=begin, position=position)
    reader = Reader(shard, generation, begin=begin, skips=skips)
    position = _replay(log, reader, position, apply)
    reader.require_reached(log.describe())
    claim = claim_of(reader, nonce)
    positions = np.zeros(ROUTERS_MAX, np.int64)  # R7: rings begin anew
    log.append(encode(claim, positions))
    appended_count = await_claim(log, reader, claim, positions, position, apply, timeout_seconds)
    return RecoveredState(
        shard=shard,
        generation=generation,
        epoch=reader.epoch,
        nonce=nonce,
        next_seq=reader.next_seq,
        checksum=reader.checksum,
        confirmed_seq=reader.confirmed_seq,
        skip_count=reader.skip_count,
        positions=tuple(map(int, reader.positions)),
        batch_count=reader.batch_count,
        record_count=reader.record_count,
        appended_count=appended_count,
    )


def await_claim(
    log: Log,
    reader: Reader,
    claim: dict[str, int],
    positions: np.ndarray,
    position: int,
    apply: Apply,
    timeout_seconds: float,
) -> int:
    """
    Read on until a claim that was appended counts; over a dead one of our kin that was first, claim again (R8).

    `claim` and `positions` are as they were encoded, `position` is where the reader stands. Returns how many claims were
    appended; raises as `recover`.
    """
    deadline = time.monotonic() + timeout_seconds
    appended_count = 1
    while True:
        while log.poll(POLL_SECONDS) < appended_count:
            require_time(deadline, reader.shard, log)
        while reader.epoch < claim["epoch"]:
            position = _replay(log, reader, position, apply)
            require_time(deadline, reader.shard, log)
        if (reader.epoch, reader.nonce) == (claim["epoch"], claim["nonce"]):
            return appended_count
        if not _is_kin(reader.nonce, claim["nonce"]) or appended_count == CLAIMS_MAX:
            raise Fenced(
                f"shard {reader.shard} was claimed by another owner with epoch {reader.epoch} while this one claimed epoch "
                f"{claim['epoch']}; stop one of the two (one supervisor per log)"
            )
        claim = claim | {"epoch": reader.epoch + 1, "prior_epoch": reader.epoch}
        log.append(encode(claim, positions))
        appended_count += 1


def _is_kin(nonce: int, other: int) -> bool:
    """True if two claims are of one data folder (R8)."""
    return nonce >> KIN_BITS == other >> KIN_BITS != 0


def claim_of(reader: Reader, nonce: int) -> dict[str, int]:
    """The header of a claim by whoever has read what the reader has."""
    return {
        "kind": BatchKind.CLAIM,
        "shard": reader.shard,
        "generation": reader.generation,
        "epoch": reader.epoch + 1,
        "prior_epoch": reader.epoch,
        "nonce": nonce,
        "first_seq": reader.next_seq,
        "checksum_before": reader.checksum,
        "checksum_after": reader.checksum,
        "confirmed_seq": min(reader.confirmed_seq, reader.next_seq - 1),  # W3 of writer.py
        "skip_count": reader.skip_count,
    }


def skips_of(log: LogView, *, begin: Begin | None = None, position: int = 0) -> frozenset[int]:
    """
    Seqs of the commands that were skipped by batches from a position on: what a Reader that begins there must know.

    Cost: the last batch; only if it says that there are more skips than `begin` knew, every header once.
    Raises what the log raises, BatchDamaged and LogVersionMismatch.
    """
    begin = begin or FIRST
    if all(int(_header(log, entry)["skip_count"]) <= begin.skip_count for entry in log.newest(1)):
        return frozenset()
    epoch, nonce = begin.epoch, begin.nonce
    skips = set()
    for entry in log.read(position):
        header = _header(log, entry)
        if header["kind"] == BatchKind.CLAIM and header["epoch"] > epoch:
            epoch, nonce = int(header["epoch"]), int(header["nonce"])
        elif header["kind"] == BatchKind.SKIP and header["epoch"] == epoch and nonce in (0, header["nonce"]):
            skips.add(int(header["skip_seq"]))  # R2 holds for skips, too
    return frozenset(skips)


def _header(log: LogView, entry: Entry) -> np.void:
    """A batch's header, checked."""
    return decode(entry.batch, log.locate(entry.position))[0]


class Run(NamedTuple):
    """Batches that were taken at once."""

    entries: Sequence[Entry]
    headers: np.ndarray  # HEADER, one of each
    records: np.ndarray  # MARKER: what is to be applied of all of them, our own copy
    counts: bool  # False: a single batch, of an owner that was replaced before


def runs(log: LogView, reader: Reader, position: int = 0) -> Iterator[Run]:
    """
    Feed a reader what a log holds from a position on, and give back what was taken, in order.

    Raises what the log and the reader raise, when all that comes before it has been given back.
    """
    for entries in _ahead(log.read(position)):
        rest = entries
        while rest:
            headers, records = reader.take_run([entry.batch for entry in rest])
            taken, counts = len(headers), True
            if not taken:
                count_before = reader.batch_count
                try:
                    header, records = reader.take(rest[0].batch, log.locate(rest[0].position))
                except BatchDamaged as damage:
                    raise BatchDamaged(
                        f"{damage}; restore this part of the log from a copy before starting"
                    ) from damage
                headers, taken = np.array([header], HEADER), 1
                counts = reader.batch_count > count_before
            yield Run(rest[:taken], headers, records, counts)
            rest = rest[taken:]


def _ahead(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries in lists: a run's worth in each, and what comes before an error before the error."""
    gathered: list[Entry] = []
    gathered_bytes = 0
    try:
        for entry in entries:
            gathered.append(entry)
            gathered_bytes += len(entry.batch)
            if gathered_bytes >= RUN_BYTES or len(gathered) == RUN_BATCHES:
                yield gathered
                gathered, gathered_bytes = [], 0
    except LogError:
        if gathered:
            yield gathered
        raise
    if gathered:
        yield gathered


def _replay(log: Log, reader: Reader, position: int, apply: Apply) -> int:
    """Feed what the log holds from a position on, and return where to read on."""
    for run in runs(log, reader, position):
        if len(run.records):
            apply(run.headers[-1], run.records)
        position = run.entries[-1].following
    return position


def require_time(deadline: float, shard: int, log: Log) -> None:
    """Give up on a claim that does not come back."""
    if time.monotonic() > deadline:
        raise LogUnavailable(
            f"the claim on shard {shard} is not in its log yet ({log.describe()}); check that the log accepts writes"
        )
