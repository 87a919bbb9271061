"""Orders that are good until a time die at it in a running exchange: once, by the log, whether anybody sends anything or not."""

import json
import time
from collections import Counter

import numpy as np
import pytest

from ringpit.engine.codes import CommandKind, Reason, TimeInForce
from ringpit.engine.records import COMMAND, MARKER
from ringpit.engine.tables import Cell
from ringpit.shards import packed
from ringpit.shards.flow import creations
from ringpit.shards.queries import Client
from ringpit.testing.exchange import RingFeeder
from ringpit.testing.submissions import PACKED, Submission
from ringpit.wal.frames import NO_ROUTER

pytestmark = pytest.mark.compiled
LIMITS = {"events": 64, "orders": 1 << 12, "levels": 1 << 14, "keys": 1 << 13}
EVENTS, SHARDS, ACCOUNT = 6, 2, 77
MS = 1_000_000
LONG_NS = 3_600_000 * MS
PATIENCE_SECONDS = 60.0


def orders(first, expiries_ns):
    """A NEW for each expiry, spread over the events; 0: good till cancelled."""
    commands = np.zeros(len(expiries_ns), COMMAND)
    commands["kind"] = CommandKind.NEW
    commands["order"] = np.arange(first, first + len(commands))
    commands["event"] = commands["order"] % EVENTS + 1
    commands["account"] = ACCOUNT
    commands["price"] = 20 + commands["order"] % 30
    commands["quantity"] = 5
    commands["time_in_force"] = np.where(np.array(expiries_ns) == 0, TimeInForce.GTC, TimeInForce.GTD)
    commands["expires_ns"] = expiries_ns
    return commands


def feed(exchange, *parts):
    """Send each part as one packed delivery, and wait until it is acknowledged."""
    feeder = RingFeeder(exchange)
    feeder.offer(
        [
            Submission(PACKED, f"{part['kind'][0]}-{part['order'][0]}", packed.encode(part), part)
            for part in parts
        ]
    )
    feeder.settle()
    feeder.close()


def lines(exchange):
    """The reports that are in the output file, each identity once."""
    path = exchange.config.data_folder() / "out" / "reports.ndjson"
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    found = [json.loads(line) for line in whole.splitlines()]
    return list({(line["Shard"], line["Seq"], line["Index"]): line for line in found}.values())


def dead(exchange):
    """
    The lines of orders that died of their time: they expired, or were refused because it was up when they came.

    Of orders with a future time a slow machine refuses some.
    """
    endings = {("Canceled", Reason.EXPIRED.name), ("Rejected", Reason.EXPIRED_ON_ARRIVAL.name)}
    return [line for line in lines(exchange) if (line["Kind"], line.get("Reason")) in endings]


def wait_for_deaths(exchange, count):
    """Wait until so many orders have died of their time."""
    exchange.wait_for(
        lambda: len(dead(exchange)) >= count,
        PATIENCE_SECONDS,
        lambda: f"{len(dead(exchange))} of {count} orders have expired",
    )


def ticks_of(exchange):
    """Log positions of the frames that workers wrote themselves, by shard. Only while it is stopped."""
    ticks = Counter()
    for shard in range(SHARDS):
        for records in exchange.logged(shard):
            ticks[shard] += int((records["kind"] == CommandKind.TICK).sum())
            markers = records.view(MARKER)[records["kind"] == CommandKind.MARKER]
            assert (markers["router"] == NO_ROUTER).sum() == (records["kind"] == CommandKind.TICK).sum()
    return ticks


@pytest.mark.parametrize("routers", [1, 2])
def test_each_order_expires_once_and_at_its_time(make_exchange, routers):
    """An idle exchange, also one of whose routers never has anything: every order that is due goes, nothing else does."""
    exchange = make_exchange(
        exchange={"name": f"test-expiry-{time.time_ns() & 0xFFFFFF}", "shards": SHARDS, "routers": routers},
        limits=LIMITS,
    )
    exchange.start()
    feed(exchange, creations(EVENTS))
    now_ns = time.time_ns()
    soon = [now_ns + (400 + 37 * (number % 13)) * MS for number in range(60)]
    late = [now_ns + LONG_NS] * 6
    feed(exchange, orders(1, soon), orders(101, late), orders(201, [0] * 6), orders(301, [1]))
    wait_for_deaths(exchange, len(soon) + 1)

    with Client(exchange.config, patience_seconds=60) as client:
        left = client.open_orders(ACCOUNT)
        assert [*range(101, 107), *range(201, 207)] == sorted(left["order"].tolist())
        live = client.digests()
    assert 0 == exchange.stop()
    gone = {line["OrderID"]: line for line in dead(exchange)}
    assert [*range(1, 61), 301] == sorted(line["OrderID"] for line in dead(exchange))
    assert "Rejected" == gone.pop(301)["Kind"]
    assert all(line["Time"] >= soon[order - 1] for order, line in gone.items())
    assert live == exchange.digests()
    ticks = ticks_of(exchange)
    assert {0, 1} == set(ticks)
    assert all(count <= len(set(soon)) for count in ticks.values()), (
        "at most one for each moment at which something was due"
    )


@pytest.mark.parametrize("end", ["stop", "kill", "kill one"])
def test_what_was_due_while_nobody_ran_expires_at_the_start(make_exchange, end):
    """However it ended, the next life logs the expiry first: a newcomer meets no order whose time is up."""
    exchange = make_exchange(limits=LIMITS)
    exchange.start()
    due_ns = time.time_ns() + 3_000 * MS
    feed(exchange, creations(EVENTS), orders(1, [due_ns] * 30), orders(201, [0] * 6))
    if end == "kill one":
        exchange.kill_one("worker-0")
        wait_for_deaths(exchange, 30)
    else:
        exchange.stop() if end == "stop" else exchange.kill()
        exchange.start()
    taker = orders(301, [0] * 6)
    taker["side"] = 1
    taker["price"] = 1
    taker["quantity"] = 1_000
    exchange.wait_for(
        lambda: time.time_ns() > due_ns, PATIENCE_SECONDS, lambda: "the orders' time has not come"
    )
    feed(exchange, taker)
    wait_for_deaths(exchange, 30)
    assert 0 == exchange.stop()

    assert list(range(1, 31)) == sorted(line["OrderID"] for line in dead(exchange))
    makers = {line["OrderID"] for line in lines(exchange) if line["Kind"] == "FillMaker"}
    assert set(range(201, 207)) == makers
    assert len(taker) == sum(int(exchange.tables(shard)[0].cells[Cell.ORDERS_USED]) for shard in range(SHARDS))
