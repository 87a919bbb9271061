"""
Output rings without processes: what a worker would have written, in plain arrays, for whatever reads it.

    OutputRing(Limits(...), slots=1 << 12).tell(commands)      matched by a real Exchange, market data on
    ring.views(mirror)                                         what a publisher is given
"""

import numpy as np

from ringpit.engine import Exchange, Limits
from ringpit.engine.records import REPORT
from ringpit.shards.feed import no_timing
from ringpit.shards.layout import first_position
from ringpit.shards.mirror import Mirror
from ringpit.shards.output import ShardViews, Word

SMALL: Limits = Limits(events=16, orders=1 << 10, levels=1 << 12, keys=64)


def word(value: int = 0) -> Word:
    """A word of nobody's shared memory."""
    return Word(np.array([value], np.int64), 0)


class OutputRing:
    """A worker's output ring, its words and those that the publisher writes; `exchange` is the truth behind it."""

    def __init__(self, *, slots: int = 1 << 12, incarnation: int = 1, limits: Limits = SMALL) -> None:
        self.exchange = Exchange(limits, market_data=True)
        self.slots = np.zeros(slots, REPORT)
        self.incarnation = incarnation
        self.tail = word(first_position(incarnation))
        self.durable_seq = word()
        self.matched_seq = word()
        self.head = word()
        self.confirmed_seq = word()
        self.timing = no_timing()
        self.epoch_seq = 0

    def tell(self, commands: np.ndarray, *, durable: bool = True) -> np.ndarray:
        """Match commands and publish what they cause; the reports."""
        reports = self.exchange.submit(commands)
        self.publish(reports)
        self.matched_seq.cells[0] = self.exchange.next_seq - 1
        if durable:
            self.durable_seq.cells[0] = self.exchange.next_seq - 1
        return reports

    def publish(self, reports: np.ndarray) -> None:
        """Write reports behind the last ones. Raises ValueError if they do not fit."""
        tail = int(self.tail.cells[0])
        base = max(int(self.head.cells[0]), first_position(self.incarnation))
        if len(reports) > len(self.slots) - (tail - base):
            raise ValueError(f"{len(reports)} reports do not fit the ring of {len(self.slots)} slots")
        for report in reports:
            self.slots[tail & (len(self.slots) - 1)] = report
            tail += 1
        self.tail.cells[0] = tail

    def views(self, mirror: Mirror) -> ShardViews:
        """What a publisher is given."""
        return ShardViews(
            slots=self.slots,
            incarnation=self.incarnation,
            epoch=self.incarnation,
            epoch_seq=self.epoch_seq,
            tail=self.tail,
            durable_seq=self.durable_seq,
            matched_seq=self.matched_seq,
            head=self.head,
            confirmed_seq=self.confirmed_seq,
            mirror=mirror,
            timing=self.timing,
        )

    def restarted(self) -> "OutputRing":
        """The ring of the worker's next incarnation, empty; the publisher's words and the exchange stay."""
        successor = OutputRing(
            slots=len(self.slots), incarnation=self.incarnation + 1, limits=self.exchange.limits
        )
        successor.exchange = self.exchange
        successor.head = self.head
        successor.confirmed_seq = self.confirmed_seq
        successor.timing = self.timing
        successor.matched_seq.cells[0] = self.matched_seq.cells[0]
        successor.durable_seq.cells[0] = self.durable_seq.cells[0]
        return successor
