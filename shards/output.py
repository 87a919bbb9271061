"""
One shard's output ring as its publisher sees it: what may be taken, and what has been confirmed.

    head                 position                 end          tail
      | sent, unconfirmed  | this cycle, released  | not durable |

`head` and `confirmed_seq` are the publisher's words, which the worker reads: slots below the head are free, and
reports up to the confirmed seq need not be made again after a restart. All else is read from the worker.

Invariants:

    P1  nothing is taken before its seq is durable (release mode "durable")
    P2  head and confirmed seq only cover what the sink has confirmed
    P3  every report up to the confirmed seq lies before the head, or before the one that is stored next: a seq counts as
        complete when the worker has matched it or a later one lies in the ring
    P4  release mode "matched": a worker takes no commands before we have forgotten what was sent of others that the
        log has lost, and whose seqs its own will have
    P5  release mode "matched": a higher epoch takes back all that lower ones said above a seq, which each line names, and
        says all above it again
    P6  a report's frame time is known wherever a publisher begins: it is kept beside each head, and a follower's ring begins
        where the head in its worker's ring was
"""

from typing import NamedTuple

import numpy as np

from ringpit.engine.limits import INT64_MAX, power_of_two
from ringpit.ipc.atomics import load_cell, store_cell
from ringpit.ipc.ring import published, release
from ringpit.shards import feed, render
from ringpit.shards.faults import Step, met
from ringpit.shards.feed import INDEX_MAX, Timing
from ringpit.shards.layout import first_position
from ringpit.shards.mirror import Mirror, MirrorCell, clear, frame_ns_at, rebuild, remember_frame_ns
from ringpit.shards.sinks import Token


class Word(NamedTuple):
    """One word of shared memory: int64 cells, and which of them."""

    cells: np.ndarray
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody wants here


class ShardViews(NamedTuple):
    """What a publisher reads and writes of one shard."""

    slots: np.ndarray  # REPORT x a power of two: the worker's output ring
    incarnation: int  # of the worker
    epoch: int  # of the log, in which its reports are true
    epoch_seq: int  # reports above it are made again in that epoch
    tail: Word  # worker: where the ring ends, freezable
    durable_seq: Word  # worker: what the log has
    matched_seq: Word  # worker: what is matched, and all its reports published
    head: Word  # publisher: what is confirmed
    confirmed_seq: Word  # publisher: every report up to it is confirmed
    mirror: Mirror  # publisher: its depth mirror
    timing: Timing  # what the way of its frames is measured by
    leads: Word | None = None  # board: the incarnation that leads the shard; None: this one, always


class Output:
    """
    One incarnation of a shard's output ring.

    Args:
        early: Take reports before the log has them (release mode "matched").
        before: The output of the shard's previous worker, if this publisher had it: what that one
            sent is not sent again.

    Raises ValueError if the ring's length is no power of two.
    """

    def __init__(
        self, shard: int, views: ShardViews, *, generation: int, early: bool, before: "Output | None" = None
    ) -> None:  # fmt: skip
        if not power_of_two(len(views.slots)):
            raise ValueError(
                f"slots of shard {shard}'s output ring must be a power of two, was {len(views.slots)}"
            )
        self.shard = shard
        self.views = views
        self.early = early
        self.words = render.words_of(views.slots)
        head = load_cell(*views.head)
        self.position: int = max(head, first_position(views.incarnation))  # behind what was taken
        self.tokens = 0  # barriers of this ring that are not confirmed
        self.told: bool = before is not None and before.told  # a report was sent under this epoch, by us
        # A follower's ring goes on behind our head in its worker's ring, maybe in the middle of a frame (P6).
        frame_ns = frame_ns_at(views.mirror, head)
        if before is not None:
            self.progress: np.ndarray = before.progress
        else:
            rebuild(views.mirror)
            self.progress = np.array([load_cell(*views.confirmed_seq), INDEX_MAX, frame_ns], np.int64)
        # A follower that took over has lost nothing, and reports under its worker's epoch.
        if early and views.mirror.cells[MirrorCell.EPOCH] != views.epoch:
            self._begin_epoch(load_cell(*views.durable_seq), frame_ns)  # P4
        epoch, epoch_seq = views.mirror.cells[MirrorCell.EPOCH : MirrorCell.EPOCH_SEQ + 1].tolist()
        self.script = render.make_script(shard, generation, epoch=epoch, epoch_seq=epoch_seq)
        if self.position != head:
            remember_frame_ns(views.mirror, head, self.position, frame_ns)
        # Pairs with the worker's `free_room`: now it may write; and with its `settled`: now it may take commands.
        release(*views.head, self.position)

    def next_cycle(self, reports_max: int) -> tuple[int, int]:
        """Where the next cycle ends, and up to which seq all reports lie before that."""
        views = self.views
        matched_seq = load_cell(*views.matched_seq)  # before the tail: reports up to it lie below the tail (P3)
        tail = published(*views.tail)
        limit_seq = INT64_MAX if self.early else load_cell(*views.durable_seq)
        if views.leads is not None and load_cell(*views.leads) != views.incarnation:
            return self.position, load_cell(*views.confirmed_seq)  # what it says now may count for no reader
        end = min(feed.releasable(views.slots, self.position, tail, limit_seq), self.position + reports_max)
        complete_seq = matched_seq if end == tail else int(self.report_at(end)["seq"]) - 1
        return end, min(complete_seq, limit_seq)

    def report_at(self, position: int) -> np.void:
        """The report at a position below the tail."""
        report: np.void = self.views.slots[position & (len(self.views.slots) - 1)]
        return report

    def at_tail(self) -> bool:
        """True if everything published was taken."""
        return bool(self.position == published(*self.views.tail))

    def confirm(self, token: Token, now_ns: int) -> None:
        """Everything before a token of this ring is safe: free its slots. Tokens of earlier rings do nothing."""
        if token.position < first_position(self.views.incarnation):
            return
        views = self.views
        head = views.head.cells[views.head.index]  # plain: only this process writes it
        feed.measure(views.timing, views.slots, head, token.position, now_ns, self.early)
        self.tokens -= 1
        if token.told:
            views.mirror.cells[MirrorCell.EPOCH_TOLD] = 1  # first: what counts as confirmed is never taken back
        # Before the head: whoever begins at the new head with its time must tell nothing that lies below it (P6).
        self.confirm_seq(token.seq)
        remember_frame_ns(views.mirror, head, token.position, token.frame_ns)
        release(*views.head, token.position)  # pairs with the worker's `free_room`
        met(Step.GIVEN_BACK)

    def confirm_seq(self, seq: int) -> None:
        """Raise the confirmed seq; it never goes down."""
        word = self.views.confirmed_seq
        if seq > word.cells[word.index]:  # plain: only this process writes it
            store_cell(*word, seq)  # pairs with the worker's acquire, which logs it and recovers from it

    def _begin_epoch(self, durable_seq: int, frame_ns: int) -> None:
        """
        Release mode "matched", in another epoch: what was sent and the log has not is no longer true (P5).

        What is confirmed and in the log stands. Above that nobody knows which epoch's reports have arrived, so all are sent
        again, as by a publisher that starts. What of the market data came of what is lost nobody knows either; it begins
        anew with the images that a worker sends first.

        A line takes back what is lost since the last epoch of which a report was heard: if of the one before ours none was,
        ours take back what its lines would have, too.
        """
        views = self.views
        confirmed_seq = load_cell(*views.confirmed_seq)
        if confirmed_seq > durable_seq:
            store_cell(*views.confirmed_seq, durable_seq)  # pairs with the worker's acquire
        # After a power cut our word knows nothing, and the log knows what was confirmed.
        standing_seq = min(max(confirmed_seq, views.epoch_seq), durable_seq)
        self.progress[:] = standing_seq, INDEX_MAX, frame_ns
        cells = views.mirror.cells
        unheard = cells[MirrorCell.EPOCH] != 0 and not cells[MirrorCell.EPOCH_TOLD]
        # What it confirmed without a report above the lower seq had none, so nothing true is taken back.
        epoch_seq = min(standing_seq, int(cells[MirrorCell.EPOCH_SEQ])) if unheard else standing_seq
        if cells[MirrorCell.APPLIED_SEQ] > durable_seq:
            clear(views.mirror)
        else:
            rebuild(views.mirror)  # and tell all prices and books again: what lower epochs told is taken back
        views.timing.measured[0] = min(views.timing.measured[0], durable_seq)
        cells[MirrorCell.EPOCH_SEQ] = epoch_seq
        cells[MirrorCell.EPOCH_TOLD] = self.told = False
        cells[MirrorCell.EPOCH] = views.epoch  # last: until then a successor does all this again
