"""
What lies in each shared-memory segment, and which process writes it.

One segment belongs to one incarnation of one process and holds every word that this process writes; the
others only read it. So a process that was replaced, and wakes, can scribble on nothing that counts.

    board        supervisor    who lives: the incarnation of each process, and whether it shall stop
    router.R     router R      one input ring a shard, and the handshake with the shard's worker
    worker.S     worker S      journal ring, output ring, heads of the input rings, what is durable
    publisher.P  publisher P   heads of the output rings, what is confirmed, the depth mirror
    ingress.R    the feeder    deliveries for router R (embedded mode)
    queries      clients       what is asked of a running exchange (lanes.py); each lane belongs to whoever has locked it

Ring positions are `incarnation << POSITION_BITS | index`, so a position of an earlier life is smaller than any
of a later one and nothing has to be reset.
"""

from enum import IntEnum
from typing import Final

import numpy as np

from ringpit.engine.limits import Limits
from ringpit.engine.records import COMMAND, LAYOUT_VERSION, REPORT, dtype_of
from ringpit.ipc.histogram import BUCKETS
from ringpit.ipc.segment import Region, SegmentLayout
from ringpit.shards.config import Config
from ringpit.shards.ingress import INGRESS
from ringpit.shards.lanes import ANSWER, CHUNK_BYTES, LANES, REQUEST, REQUESTS
from ringpit.shards.marks import MARK_CELLS
from ringpit.shards.mirror import mirror_regions
from ringpit.shards.stages import regions_of

POSITION_BITS: Final = 40
CELL: Final = np.dtype("<i8")
BYTE: Final = np.dtype("u1")

EVENT: Final = dtype_of(
    (
        ("event", "<i8", "the event's id"),
        ("low", "<i8", "lowest price, ticks"),
        ("high", "<i8", "highest price, ticks"),
        ("payout", "<i8", "payout of one lot, ticks"),
        ("tick_units", "<i8", "one tick in units of 10**-decimals"),
        ("decimals", "<i8", "decimals of a unit"),
    )
)


class State(IntEnum):
    """Where a process stands in its life; a word of its segment."""

    STARTING = 0
    RECOVERING = 1
    RUNNING = 2
    DRAINED = 3
    FOLLOWING = 4  # a follower that could take over now


class Role(IntEnum):
    """
    The kinds of process, in the order in which they stop: a follower first, or it would take over what stops; then
    whoever feeds others.
    """

    FOLLOWER = 0
    ROUTER = 1
    WORKER = 2
    PUBLISHER = 3

    @property
    def label(self) -> str:
        """The name as it appears in messages, on the board and in process titles."""
        return self.name.lower()

    @property
    def memory(self) -> str:
        """The label of its segments: a follower's is a worker's, which it may become."""
        return Role.WORKER.label if self is Role.FOLLOWER else self.label


def first_position(incarnation: int) -> int:
    """Where the rings of an incarnation begin."""
    return incarnation << POSITION_BITS


def prefix(config: Config) -> str:
    """What the names of all segments of an exchange begin with."""
    return f"ringpit.{config.exchange.name}."


def segment_name(config: Config, label: str, index: int, incarnation: int) -> str:
    """Name of one process's segment."""
    return f"{prefix(config)}{label}.{index}.{incarnation}"


BOARD_WORDS: Final = {  # besides incarnation and stop
    Role.FOLLOWER: ("take_over",),  # incarnation of a worker that is known to be dead
    Role.WORKER: ("careful",),  # up to this seq: one record at a time, because a worker died there
}
# Besides those for each router and lane. `followed_...` are what a worker tells its follower, `follows_...` what a follower tells
# its worker. From `frozen_ns` on: when a take-over reached each point, and how far behind the follower was; the last two are told
# of any start.
WORKER_WORDS: Final = (
    "pid",
    "heartbeat",
    "journal_heartbeat",
    "state",
    "epoch",
    "matched_seq",
    "in_hand_seq",
    "trying_seq",
    "durable_seq",
    "log_position",
    "busy_until_ns",
    "followed_by",
    "followed_from",
    "follows",
    "follows_position",
    "continues",
    "frozen_ns",
    "lag_records",
    "sequenced_ns",
    "first_match_ns",
    "first_durable_ns",
    "journal_tail",
    "journal_head",
    "output_tail",
    "events_count",
    "orders_resting",
    "log_bytes",
    "recovered_seq",
    "report_epoch",
    "report_epoch_seq",
    "replayed_seq",
    "replay_to_seq",
    "cpu_ns",
    "journal_cpu_ns",
)


def board_layout(config: Config) -> SegmentLayout:
    """
    Incarnation and stop request of every process.

    A worker's incarnation is its shard's leadership: a word that only moves by compare-and-swap, by the supervisor or by
    the follower that takes over.
    """
    return SegmentLayout(
        "board",
        tuple(
            f"{role.label}.{index}.{word}"
            for role, count in counts(config).items()
            for index in range(count)
            for word in ("incarnation", "stop", *BOARD_WORDS.get(role, ()))
        ),
        version=LAYOUT_VERSION,
    )


def counts(config: Config) -> dict[Role, int]:
    """How many processes of each role a configuration asks for."""
    return {
        Role.ROUTER: config.exchange.routers,
        Role.WORKER: config.exchange.shards,
        Role.PUBLISHER: 1,
        Role.FOLLOWER: config.exchange.shards if config.follower.enabled else 0,
    }


def histograms(role: Role, shards: int) -> tuple[Region, ...]:
    """The histograms of the stages that a process counts."""
    return tuple(Region(name, CELL, BUCKETS) for name in regions_of(role.label, shards))


def router_layout(config: Config) -> SegmentLayout:
    """A router's words, its input rings and its histograms."""
    shards = range(config.exchange.shards)
    words = [
        "heartbeat",
        "state",
        "deliveries",
        "commands",
        "malformed",
        "acknowledged",
        "ingress_head",
        "cpu_ns",
    ]
    for shard in shards:
        words += [f"input_tail.{shard}", f"input_base.{shard}", f"input_peer.{shard}"]
    return SegmentLayout(
        "router",
        tuple(words),
        (
            *(Region(f"input.{shard}", COMMAND, config.rings.input_slots) for shard in shards),
            *histograms(Role.ROUTER, len(shards)),
        ),
        LAYOUT_VERSION,
    )


def worker_layout(config: Config) -> SegmentLayout:
    """A worker's or a follower's words, its journal and output rings, its events, its histograms, its marks (marks.py) and its answers."""
    words = list(WORKER_WORDS)
    for router in range(config.exchange.routers):
        words += [f"input_head.{router}", f"durable_position.{router}"]
    words += [f"answered.{lane}" for lane in range(LANES)]
    return SegmentLayout(
        "worker",
        tuple(words),
        (
            Region("journal", COMMAND, config.rings.journal_slots),
            Region("output", REPORT, config.rings.output_slots),
            Region("events", EVENT, config.limits.events),
            *histograms(Role.WORKER, config.exchange.shards),
            Region("matched_marks", CELL, MARK_CELLS),
            Region("durable_marks", CELL, MARK_CELLS),
            Region("answers", ANSWER, LANES),
            Region("answer_bytes", BYTE, LANES * CHUNK_BYTES),
        ),
        LAYOUT_VERSION,
    )


def publisher_layout(config: Config) -> SegmentLayout:
    """The publisher's words, and for each shard its depth mirror and its histograms."""
    words = ["heartbeat", "state", "reports", "messages", "bytes", "cpu_ns"]
    regions = []
    for shard in range(config.exchange.shards):
        words += [f"output_head.{shard}", f"confirmed_seq.{shard}"]
        regions += [
            Region(f"{name}.{shard}", dtype, count)
            for name, dtype, count in mirror_regions(config.limits.limits())
        ]
    regions += histograms(Role.PUBLISHER, config.exchange.shards)
    return SegmentLayout("publisher", tuple(words), tuple(regions), LAYOUT_VERSION)


def ingress_layout(config: Config) -> SegmentLayout:
    """A feeder's tail and slots."""
    return SegmentLayout(
        "ingress", ("tail",), (Region("slots", INGRESS, config.rings.ingress_slots),), LAYOUT_VERSION
    )


def queries_layout(config: Config) -> SegmentLayout:
    """A bell for each shard; for each lane of clients the number of its last request, and its requests."""
    bells = [f"bell.{shard}" for shard in range(config.exchange.shards)]
    asked = [f"asked.{lane}" for lane in range(LANES)]
    return SegmentLayout(
        "queries", (*bells, *asked), (Region("requests", REQUEST, LANES * REQUESTS),), LAYOUT_VERSION
    )


def queries_name(config: Config) -> str:
    """Name of the segment in which clients ask."""
    return segment_name(config, "queries", 0, 0)


def pool_limits(config: Config) -> Limits:
    """The engine's limits, by which mirrors are sized too."""
    return config.limits.limits()
