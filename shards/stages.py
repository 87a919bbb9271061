"""
Stages: where the time of a command goes, from the delivery in a router's hand to its reports' release.

    router            worker                  journal thread            log           publisher
    in hand ─ingress─> written ─ring wait─> taken ─journal─> cut and handed over ─durable─> durable ─publish─> confirmed
                                              └──────match──────> matched ─────────────────────┘

One table says where each stage begins and ends and who counts it. Journal and log work beside matching: a command
can be published when both are done. So for every command, and with `release = "durable"`,

    whole way = ingress + ring wait + max(match, journal + durable) + publish

With "matched" nobody waits for the log, and the middle is `match` alone. Every stage counts a delivery's records, so
a delivery of 100 orders weighs a hundred times as much as one of a single order; and the shares of the stages that
follow each other add up to the whole way's time.

A shard's frames of its own (orders that expire) begin where the worker takes them: they have no ingress and no ring wait.

Fast here: nothing in this module runs in an exchange; it is arithmetic on counts that were copied. See ipc/histogram.py
for what counting costs.

Invariants:

    ST1  every histogram has one writer: the process, or the thread, that the table names
"""

from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from ringpit.ipc.histogram import BUCKETS, mean, percentile


class Stage(NamedTuple):
    """A part of the way. `region` names its histogram in the segment of `process`, for each shard."""

    name: str
    region: str
    process: str
    writer: str
    start: str
    end: str
    remedy: str  # where to look when it is the slowest


STAGES: Final = (
    Stage(
        "ingress",
        "ingress_ns",
        "router",
        "router",
        "the router has the delivery in hand",
        "it writes the frame into the shard's input ring",
        "the router decodes and deals one delivery after another: send larger deliveries, or packed ones instead of JSON; "
        "more routers (exchange.routers)",
    ),
    Stage(
        "ring wait",
        "wait_ns",
        "worker",
        "worker",
        "the router writes the frame into the shard's input ring",
        "the worker takes it",
        "the worker comes late: it naps (wait.mode), shares its core ([cpu]), or has more than it can match (more shards)",
    ),
    Stage(
        "match",
        "match_ns",
        "worker",
        "worker",
        "the worker takes the frame",
        "its run is matched and its reports are in the output ring",
        "runs are long, or the worker waits for room in its output ring, which the publisher empties: look at publish",
    ),
    Stage(
        "journal",
        "journal_ns",
        "worker",
        "journal thread",
        "the worker takes the frame",
        "the journal thread hands its batch to the log",
        "the journal thread comes late: it naps, shares its core ([cpu] journals), or may not send more while the log is "
        "busy: look at durable",
    ),
    Stage(
        "durable",
        "durable_ns",
        "worker",
        "journal thread",
        "the journal thread hands the batch to the log",
        "the log says that it has it",
        "the log: with segments the disk's sync (another disk for log.folder), with Kafka its acknowledgement (replicas, "
        "flush.messages, the network)",
    ),
    Stage(
        "publish",
        "publish_ns",
        "publisher",
        "publisher",
        "the frame is matched and durable: its reports may leave",
        "the sink has them: written, or confirmed by RabbitMQ",
        "the publisher or its sink: RabbitMQ's confirms and the queues bound to its exchanges, the disk of the files, the "
        "publisher's core ([cpu])",
    ),
    Stage(
        "whole way",
        "whole_ns",
        "publisher",
        "publisher",
        "the router has the delivery in hand",
        "the sink has its reports: written, or confirmed by RabbitMQ",
        "",
    ),
)
NAMES: Final = tuple(stage.name for stage in STAGES)
WHOLE: Final = NAMES.index("whole way")
WAYS: Final = {  # stages that follow each other, by what a report's release waits for
    "durable": ("ingress", "ring wait", "journal", "durable", "publish"),
    "matched": ("ingress", "ring wait", "match", "publish"),
}
BESIDE: Final = {"durable": ("match",), "matched": ()}  # at the same time as others, yet waited for
MEDIAN: Final = ("p50", 0.5)
TAIL: Final = ("p99", 0.99)


def regions_of(process: str, shards: int) -> tuple[str, ...]:
    """Names of the histograms in a process's segment: a worker's are of its shard, the others' of each."""
    names = [stage.region for stage in STAGES if stage.process == process]
    if process == "worker":
        return tuple(names)
    return tuple(f"{name}.{shard}" for name in names for shard in range(shards))


def region_of(stage: Stage, shard: int) -> str:
    """Name of a stage's histogram of a shard."""
    return stage.region if stage.process == "worker" else f"{stage.region}.{shard}"


def nothing(shards: int) -> np.ndarray:
    """No counts yet: int64 of shards x stages x buckets."""
    return np.zeros((shards, len(STAGES), BUCKETS), np.int64)


def since(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """What was counted between two looks. A histogram that has begun anew meanwhile counts as it is."""
    fresh = now - before
    anew = (fresh < 0).any(axis=-1, keepdims=True)
    return np.where(anew, now, fresh)


class Verdict(NamedTuple):
    """A stage, and how much of the whole way it is, at a quantile."""

    stage: Stage
    share: float
    stage_ns: int
    whole_ns: int


def waited_for(release: str) -> list[int]:
    """The stages that a report's release waits for, as indices into STAGES."""
    names = {*WAYS[release], *BESIDE[release]}
    return [index for index, name in enumerate(NAMES) if name in names]


def slowest(counts: np.ndarray, quantile: float, release: str) -> Verdict | None:
    """
    The stage with the largest share of the whole way; None if nothing has come through.

    Args:
        counts: Of stages x buckets.
        quantile: Of each stage and of the whole way.
        release: What a report's release waits for.
    """
    whole_ns = percentile(counts[WHOLE], quantile)
    if whole_ns == 0:
        return None
    each = {index: percentile(counts[index], quantile) for index in waited_for(release)}
    index = max(each, key=each.__getitem__)
    return Verdict(STAGES[index], min(each[index] / whole_ns, 1.0), each[index], whole_ns)


def shares(counts: np.ndarray) -> list[float]:
    """Each stage's mean by that of the whole way, 0 if nothing came through: in a short look they have met other commands."""
    whole_ns = mean(counts[WHOLE])
    return [mean(of_stage) / whole_ns if whole_ns else 0.0 for of_stage in counts]


def stuck_at(counts: np.ndarray, release: str) -> Stage | None:
    """Where nothing comes out although something went into the stage before it; None if there is no such place."""
    way = [NAMES.index(name) for name in WAYS[release]]
    totals = counts.sum(axis=-1)
    for before, after in pairwise(way):
        if totals[before] and not totals[after]:
            return STAGES[after]
    return None
