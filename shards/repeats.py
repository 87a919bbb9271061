"""
Repeats: what a subscriber has had before, dropped by identity. Delivery is at least once, this makes the effect once.

    repeats = Repeats()
    for routing_key, content_type, message_id, body in messages:
        for line in repeats.fresh_lines(routing_key, body): ...

A report's identity is (generation, shard, seq, index). For one routing key and one shard identities only rise, and what comes
again comes again from some earlier one on, in the same order: after a crash the publisher goes back to what was
confirmed, and RabbitMQ to what was not acknowledged. So the last identity of each key and shard is all that has to be
remembered, and a subscriber that wants to survive its own death keeps `state` with whatever it has made of the reports.

Not for `release = "matched"`: there the same identity may say something else in a later epoch.

Invariant:

    RP1  of all that was given, each identity of a key is given once, in the order of the log
"""

from typing import Final

import msgspec
import numpy as np

MESSAGE_ID_PARTS: Final = 4


class Named(msgspec.Struct, rename="pascal"):
    """A line's identity, whatever else it says."""

    generation: int
    shard: int
    seq: int
    index: int


_identity_of = msgspec.json.Decoder(Named).decode


class Repeats:
    """
    A filter for one subscriber.

    Attributes: `dropped`, how many reports came again; `state`, the last (seq, index) by (routing key, generation,
    shard), which may be kept and given to the next filter.
    """

    def __init__(self, state: dict[tuple[str, int, int], tuple[int, int]] | None = None) -> None:
        """Begin anew, or behind what an earlier filter had."""
        self.state = {} if state is None else state
        self.dropped = 0

    def fresh_lines(self, key: str, body: bytes) -> list[bytes]:
        """
        The lines of a message (JSON lines) that are new, in order.

        Raises msgspec.ValidationError for a line without an identity. Cost: about 0.3 microseconds a line.
        """
        return [line for line in body.splitlines() if self._is_fresh(key, _identity_of(line))]

    def fresh_records(self, key: str, message_id: str, records: np.ndarray) -> np.ndarray:
        """
        The records of a packed message (REPORT) that are new: its end.

        Args:
            message_id: Of the message, as the publisher set it: generation-shard-seq-index of its first report.
            records: In the order of the message.

        Raises ValueError for a message id of another form.
        """
        parts = message_id.split("-")
        if len(parts) != MESSAGE_ID_PARTS or not all(part.isdecimal() for part in parts):
            raise ValueError(
                f"message_id must be generation-shard-seq-index, as the publisher sets it, was {message_id!r}"
            )
        place = key, int(parts[0]), int(parts[1])
        seq, index = self.state.get(place, (-1, -1))
        known = (records["seq"] < seq) | ((records["seq"] == seq) & (records["index"] <= index))
        fresh = records[np.count_nonzero(known) :]  # identities rise: what is known comes first
        self.dropped += len(records) - len(fresh)
        if len(fresh):
            self.state[place] = int(fresh["seq"][-1]), int(fresh["index"][-1])
        return fresh

    def _is_fresh(self, key: str, named: Named) -> bool:
        """True once for each identity."""
        place = key, named.generation, named.shard
        identity = named.seq, named.index
        if identity <= self.state.get(place, (-1, -1)):
            self.dropped += 1
            return False
        self.state[place] = identity
        return True
