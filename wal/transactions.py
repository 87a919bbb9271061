"""
Long transactions: what makes Kafka refuse the producer of a shard's former owner.

Nobody reads transactions here: a record counts when the brokers have acknowledged it, readers read what is
uncommitted, and an abort removes no record from a partition. What is wanted is the fence. A producer with a
transactional id takes that id over from whoever used it before (`init_transactions`), and the brokers refuse the
other from then on, on whatever host it is, even if it was only paused. The price is that records can only be sent
inside a transaction; so one is kept open, and committed about once a second.

    begin ── record ── record ── ... ── commit          nothing can be sent during a commit: about a millisecond
            `---- COMMIT_SECONDS at least ----'

A transaction that is left open too long is aborted by the brokers, and its producer fenced: hence whoever appends
polls now and then, too, when it has nothing to append.

Invariants:

    T1  a commit is begun long before TRANSACTION_TIMEOUT_MS, and a record is given up before it
    T2  a commit that did not end in time is gone on with, never begun a second time
"""

import time
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import KafkaException, Producer

COMMIT_SECONDS: Final = 1.0
STEP_SECONDS: Final = 0.05  # longest time in one call; a commit that needs longer is gone on with in the next
TRANSACTION_TIMEOUT_MS: Final = 300_000  # Kafka allows 900,000 by default
TRANSACTIONAL: Final[Mapping[str, Any]] = {
    "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
    "message.timeout.ms": TRANSACTION_TIMEOUT_MS * 4 // 5,  # T1
}


def transactional_id(topic: str, shard: int) -> str:
    """The id that all owners of a shard share, and nobody else."""
    return f"ringpit.{topic}.{shard}"


class LongTransaction:
    """Keeps a transaction open while records are sent, and commits it now and then."""

    def __init__(self, producer: Producer, timeout_seconds: float) -> None:
        """Take the transactional id over: its former user is fenced. Raises KafkaException if that does not succeed."""
        self._producer = producer
        self._begun_at = 0.0  # 0: none is open
        self._committing = False
        producer.init_transactions(timeout_seconds)

    def may_send(self) -> bool:
        """True if a record can be sent now, which begins a transaction if none is open. Raises KafkaException."""
        if self._committing:
            return False
        if not self._begun_at:
            self._producer.begin_transaction()
            self._begun_at = time.monotonic()
        return True

    def advance(self) -> None:
        """Commit if it is time to, or go on committing, for at most STEP_SECONDS. Raises KafkaException."""
        if self._committing or (self._begun_at and time.monotonic() - self._begun_at >= COMMIT_SECONDS):
            self.commit(STEP_SECONDS)

    def commit(self, timeout_seconds: float) -> None:
        """Commit what is open; if it takes longer, the next call goes on. Raises KafkaException."""
        if not self._begun_at:
            return
        self._committing = True
        try:
            self._producer.commit_transaction(timeout_seconds)
        except KafkaException as error:
            if not error.args[0].retriable():
                raise
            return  # T2
        self._committing = False
        self._begun_at = 0.0
