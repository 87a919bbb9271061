"""`ringpit latency` beside a running exchange: what it says lies within what a client measures, and names who was stopped."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ringpit.engine.codes import CommandKind
from ringpit.ipc.histogram import ERROR_MAX, MIDDLES_NS, percentile
from ringpit.shards.flow import creations, flow
from ringpit.shards.layout import Role
from ringpit.shards.peers import Peers
from ringpit.shards.stages import NAMES, STAGES, WAYS, WHOLE
from ringpit.shards.watching import Watch
from ringpit.testing.exchange import RingFeeder
from ringpit.testing.submissions import cut

pytestmark = pytest.mark.compiled
EVENTS, ORDERS, SEED = 8, 4_000, 20_261_125
LIMITS = {"events": 64, "orders": 1 << 14, "levels": 1 << 14, "keys": 1 << 13}
RINGPIT = Path(sys.executable).with_name("ringpit")
PATIENCE_SECONDS = 60.0


class Outside:
    """A client of an exchange of one shard that has its own clock, and sees what anybody sees."""

    def __init__(self, exchange):
        self.exchange = exchange
        self.feeder = RingFeeder(exchange)
        self.watch = Watch(exchange.config)
        self.worker = Peers(exchange.config).attach(Role.WORKER, 0)
        self.offered = 0

    def close(self):
        """Let go of the memory."""
        self.feeder.close()

    def offer(self, commands, name):
        """Offer commands, packed or not."""
        deliveries = cut(commands, seed=SEED, prefix=name)
        self.feeder.offer(deliveries)
        self.offered += sum(len(delivery.commands) for delivery in deliveries)

    def wait(self, *stages):
        """Wait until everything offered is counted in these stages; without any, in all: none is the last one counted."""
        names = stages or NAMES
        indices = [NAMES.index(stage) for stage in names]

        def passed():
            return self.watch.read()[0, indices].sum(axis=1)

        self.exchange.wait_for(
            lambda: {self.offered} == set(passed().tolist()),
            PATIENCE_SECONDS,
            lambda: f"of {self.offered} have passed {dict(zip(names, passed(), strict=True))}",
        )

    def counts(self):
        """The histograms of all stages."""
        return self.watch.read()[0].copy()


@pytest.fixture
def outside(make_exchange):
    """A client of a running embedded exchange that knows its events."""
    exchange = make_exchange(
        exchange={"name": f"test-{os.getpid()}-latency", "shards": 1, "hang_seconds": 60}, limits=LIMITS
    )
    exchange.start()
    made = Outside(exchange)
    made.offer(creations(EVENTS), "creation")
    made.wait()
    yield made
    made.close()


def orders(seed):
    """Orders, cancels and amends of the events that are there."""
    commands = flow(ORDERS, seed=seed, events=EVENTS)
    return commands[commands["kind"] != CommandKind.CREATE_EVENT]


def test_inside_lies_within_outside(outside):
    """
    No command takes longer than from before the first was offered until all were seen through, by the client's clock;
    and the stages that follow each other take as long as the whole way, command by command and so together.
    """
    before = outside.counts()
    began_ns = time.time_ns()
    outside.offer(orders(1), "order")
    outside.wait()
    outside_ns = time.time_ns() - began_ns
    counts = outside.counts() - before

    assert {int(counts[WHOLE].sum())} == {int(each.sum()) for each in counts}
    assert 0 < percentile(counts[WHOLE], 1.0) <= outside_ns * (1 + ERROR_MAX)
    for index in range(len(STAGES)):
        for quantile in (0.5, 0.9, 0.99, 1.0):
            assert percentile(counts[index], quantile) <= percentile(counts[WHOLE], quantile) * (1 + ERROR_MAX)
    spent = dict(zip(NAMES, counts @ MIDDLES_NS, strict=True))
    in_turn = sum(spent[name] for name in WAYS["durable"])
    longer = spent[
        "match"
    ]  # where matching took longer than the log, the whole way is longer by less than that
    assert in_turn * (1 - 2 * ERROR_MAX) <= spent["whole way"] <= (in_turn + longer) * (1 + 2 * ERROR_MAX)


def test_a_publisher_that_stands_still_is_named(outside):
    """
    Stopped by a signal, it is the slowest stage by far: at least as long as the client saw it stand, and
    `ringpit latency` says so.
    """
    before = outside.counts()
    publisher = outside.exchange.child("publisher-0")
    began_ns = time.time_ns()
    publisher.suspend()
    outside.offer(orders(2), "stopped")
    outside.wait("durable")
    durable_ns = time.time_ns()
    said = asked(outside.exchange, "--seconds", "0.2")
    outside.exchange.wait_for(  # longer than whatever came before, or that would be the slowest
        lambda: time.time_ns() - durable_ns > durable_ns - began_ns,
        PATIENCE_SECONDS,
        lambda: "it has not stood long",
    )
    woken_ns = time.time_ns()
    publisher.resume()
    outside.wait()
    outside_ns = time.time_ns() - began_ns
    counts = outside.counts() - before

    assert (None, "no command has come through") == (said["Slowest"], said["Sentence"])
    stood_ns = (woken_ns - durable_ns) * (1 - ERROR_MAX)
    for name in ("publish", "whole way"):
        index = NAMES.index(name)
        least = int(np.flatnonzero(counts[index])[0])
        assert stood_ns <= MIDDLES_NS[least] * (1 + ERROR_MAX)
        assert percentile(counts[index], 1.0) <= outside_ns * (1 + ERROR_MAX)
    said = asked(outside.exchange, "--once")
    assert ("publish", "publish") == (said["Slowest"], said["SlowestAtP99"])
    assert said["Sentence"].startswith("slowest stage: publish, ")


def asked(exchange, *arguments):
    """What `ringpit latency` says at the end, in a process of its own."""
    done = subprocess.run(
        [RINGPIT, "latency", "-c", exchange.file, "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
