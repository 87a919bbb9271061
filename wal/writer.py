"""
Batch writer: the journal thread's bookkeeping, without thread, ring or log.

Records come out of the journal ring as one or two spans; a batch is cut from their front, whole frames
only. What was cut is in flight until the log says that it is durable; then durable_seq and each router's
durable position move up to the end of that batch.

    ring ──cut──> in flight (at most in_flight_max batches) ──advance──> durable

The bound on batches in flight is what makes batches grow: while the log is busy nothing is cut, records
gather in the ring, and the next batch takes all of them, up to batch_bytes_max. An idle log gets small
batches at once, a busy one large batches, and no timer is involved.

Invariants:

    W1  frames are never split over batches; a batch larger than batch_bytes_max holds exactly one frame
    W2  durable_seq and durable_positions only grow, and only to ends of batches
    W3  no batch calls a seq confirmed that lies behind its own end: reports may be released before the log has their
        commands, and if it never gets them, their seqs become other commands'
"""

from collections import deque
from typing import Final, NamedTuple

import numpy as np

from ringpit.engine.limits import FRAME_SLOTS_MAX
from ringpit.engine.records import RECORD_BYTES
from ringpit.wal.batch import HEADER_BYTES, BatchKind, encode
from ringpit.wal.frames import ROUTERS_MAX, checksum_of, whole_frames
from ringpit.wal.reader import RecoveredState

BATCH_BYTES_MAX: Final = 512 << 10  # past the knee of every log, below Kafka's default limit of 1 MB
BATCH_BYTES_LEAST: Final = HEADER_BYTES + FRAME_SLOTS_MAX * RECORD_BYTES  # the largest frame must fit
IN_FLIGHT_MAX: Final = 2  # one under way, one behind it: with 8, Kafka got smaller batches and cost the worker 0.2 us an order more


class InFlight(NamedTuple):
    """End of a batch that is not durable yet."""

    last_seq: int
    positions: np.ndarray


class BatchWriter:
    """
    Cuts batches for one owner of one shard and follows them until they are durable.

    Attributes: `next_seq`, the seq of the next record cut; `checksum`, over all before it; `durable_seq`; `durable_positions`, int64 per router.
    """

    def __init__(
        self,
        state: RecoveredState,
        *,
        positions: np.ndarray | None = None,
        batch_bytes_max: int = BATCH_BYTES_MAX,
        in_flight_max: int = IN_FLIGHT_MAX,
    ) -> None:
        """
        Go on where recovery ended.

        `positions` (int64, ROUTERS_MAX) are those of rings that go on, behind what is durable; positions in the log are
        of rings that are gone. Raises ValueError naming the limit, the value and the rule.
        """
        if batch_bytes_max < BATCH_BYTES_LEAST:
            raise ValueError(
                f"log.batch_bytes must be at least {BATCH_BYTES_LEAST}, so that every frame fits, was {batch_bytes_max}"
            )
        if in_flight_max < 1:
            raise ValueError(f"log.in_flight must be at least 1, was {in_flight_max}")
        self._records_max = (batch_bytes_max - HEADER_BYTES) // RECORD_BYTES
        self._in_flight_max = in_flight_max
        self._facts = {
            "shard": state.shard,
            "generation": state.generation,
            "epoch": state.epoch,
            "nonce": state.nonce,
            "skip_count": state.skip_count,  # B6: every header repeats it
        }
        self.checksum = state.checksum
        self._positions = np.zeros(ROUTERS_MAX, np.int64) if positions is None else positions.copy()
        self._in_flight: deque[InFlight] = deque()
        self._durable_count = state.appended_count
        self.next_seq = state.next_seq
        self.durable_seq = state.next_seq - 1
        self.durable_positions = self._positions.copy()

    @property
    def in_flight_count(self) -> int:
        """Batches cut and not durable."""
        return len(self._in_flight)

    @property
    def ready(self) -> bool:
        """True if another batch may be cut now; else poll the log first."""
        return len(self._in_flight) < self._in_flight_max

    def cut(self, *spans: np.ndarray, confirmed_seq: int) -> tuple[bytes, int]:
        """
        Make a batch of the whole frames at the front of one or two spans of records, and say how many it took.

        Takes as many frames as fit batch_bytes_max, at least one. The bytes are a copy: the spans may be reused
        when the batch is durable, or at once if nobody wants to read them again. Append the batch to the log
        exactly once, in order. (b"", 0) if the spans hold no whole frame.

        Raises FrameTorn if the spans do not begin with a frame; nothing is changed then.
        """
        where = f"records of shard {self._facts['shard']} at seq {self.next_seq}"
        positions = self._positions.copy()
        taken, engine_ns = whole_frames(spans, self._records_max, positions, where)
        if taken == 0:
            return b"", 0
        facts = {"kind": BatchKind.COMMANDS, "engine_ns": engine_ns, "confirmed_seq": confirmed_seq}
        return self._batch(facts, positions, _front(spans, taken), taken), taken

    def mark(self, confirmed_seq: int, *, clean: bool) -> bytes:
        """
        A batch without records that makes confirmed_seq durable, for a stop.

        `clean` says that the routers were drained and that everything taken was served, made durable and confirmed.
        """
        facts = {"kind": BatchKind.MARK, "confirmed_seq": confirmed_seq, "clean": int(clean)}
        return self._batch(facts, self._positions, [], 0)

    def skip(self, seq: int, confirmed_seq: int) -> bytes:
        """A batch without records that says: the command at `seq`, which the log has, is refused unseen (R6 of reader.py)."""
        self._facts["skip_count"] += 1
        facts = {"kind": BatchKind.SKIP, "skip_seq": seq, "confirmed_seq": confirmed_seq}
        return self._batch(facts, self._positions, [], 0)

    def advance(self, durable_count: int) -> bool:
        """
        Take note of Log.poll's answer; True if durable_seq or durable_positions may have moved.

        Raises ValueError if more is durable than was cut.
        """
        newly = durable_count - self._durable_count
        if newly > len(self._in_flight):
            raise ValueError(f"the log calls {newly} batches durable, but {len(self._in_flight)} are in flight")
        for _ in range(newly):
            end = self._in_flight.popleft()
            self.durable_seq = end.last_seq
            self.durable_positions[:] = end.positions
        self._durable_count = durable_count
        return newly > 0

    def _batch(
        self, facts: dict[str, int], positions: np.ndarray, parts: list[np.ndarray], taken: int
    ) -> bytes:
        """Encode, and move on behind it."""
        checksum = self.checksum
        for part in parts:
            checksum = checksum_of(part, checksum)
        facts |= self._facts
        facts["confirmed_seq"] = min(facts["confirmed_seq"], self.next_seq + taken - 1)  # W3
        facts |= {
            "first_seq": self.next_seq,
            "checksum_before": self.checksum,
            "checksum_after": checksum,
        }
        batch = encode(facts, positions, *parts)
        self.checksum = checksum
        self._positions = positions
        self.next_seq += taken
        self._in_flight.append(InFlight(self.next_seq - 1, positions))
        return batch


def _front(spans: tuple[np.ndarray, ...], taken: int) -> list[np.ndarray]:
    """The first `taken` records of the spans."""
    first = spans[0][:taken]
    rest = taken - len(first)
    return [first, spans[1][:rest]] if rest else [first]
