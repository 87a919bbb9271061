"""The load generator against real exchanges: it tells every order, and does not hide a pause."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from ringpit.engine import Exchange, Limits, ReportKind
from ringpit.engine.codes import Reason
from ringpit.perf.load_flow import orders_of

pytestmark = pytest.mark.compiled
RATE, SECONDS, PAUSE_SECONDS = 1_000, 6, 0.3
LIMITS = {"events": 512, "orders": 1 << 14, "levels": 1 << 14, "keys": 1 << 14}


def load(exchange, folder, *options, meanwhile=lambda: None):
    """Run `ringpit load` against an exchange, call something once it sends, and return what it saved and said."""
    command = [sys.executable, "-m", "ringpit.shards.cli", "load", "-c", str(exchange.file), "--json"]
    said = []
    with subprocess.Popen(
        [*command, "--save", str(folder), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            said.append(line)
            if "orders/s for" in line:
                meanwhile()
        out = process.stdout.read()
    assert 0 == process.returncode, "".join(said)
    return json.loads(out), "".join(said)


def pause(exchange, name):
    """Hold one process of an exchange for PAUSE_SECONDS."""
    process = exchange.child(name)
    began = time.monotonic()
    exchange.wait_for(lambda: time.monotonic() > began + 0.5, 60, lambda: "half a second has not passed")
    os.kill(process.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        exchange.wait_for(
            lambda: time.monotonic() > stopped + PAUSE_SECONDS, 60, lambda: "the pause has not passed"
        )
    finally:
        os.kill(process.pid, signal.SIGCONT)


def assert_complete(result, orders):
    """Every order was sent, acknowledged and answered once."""
    told = [result[name] for name in ("orders", "sent", "acknowledged", "timed", "answered")]
    assert [orders] * 5 == told


@pytest.mark.parametrize("name", ["publisher-0", "worker-0"])
def test_a_pause_of_the_exchange_shows_in_the_percentiles(make_exchange, tmp_path, name):
    """
    A process stands still for 300 ms. All that was due meanwhile waited: the longest at least the pause, and as many as were
    due in its first half longer than half of it. A generator that waits for answers would have sent one order in all that time.
    """
    exchange = make_exchange(exchange={"name": f"load-{os.getpid()}-{name[:4]}", "shards": 1}, limits=LIMITS)
    exchange.start()
    record, _ = load(
        exchange,
        tmp_path,
        "--rates",
        str(RATE),
        "--seconds",
        str(SECONDS),
        meanwhile=lambda: pause(exchange, name),
    )
    (result,) = record["rates"]
    orders = RATE * SECONDS
    assert_complete(result, orders)
    assert PAUSE_SECONDS * 1e9 <= result["latency_ns"]["max"]
    longer_than_half = RATE * PAUSE_SECONDS / 2
    assert longer_than_half / orders > 0.01  # so it shows at p99, whatever else the machine did
    assert PAUSE_SECONDS / 2 * 1e9 <= result["latency_ns"]["p99"]
    assert 0 == exchange.stop()


@pytest.mark.parametrize("encoding", ["packed", "msgpack", "json"])
def test_every_encoding_is_answered(make_exchange, tmp_path, encoding):
    """Several rates against one exchange, popular events, bursts and deliveries of several: nothing is missing, all is saved."""
    output = {"encoding": "json" if encoding == "packed" else "packed"}
    exchange = make_exchange(
        exchange={"name": f"load-{os.getpid()}-{encoding}", "shards": 2}, limits=LIMITS, output=output
    )
    exchange.start()
    options = ["--encoding", encoding, "--rates", "500,1000", "--seconds", "1", "--frame", "3", "--zipf", "1"]
    record, said = load(exchange, tmp_path, *options, "--mix", "uniform", "--burst", "50")
    for result, orders in zip(record["rates"], (500, 1_000), strict=True):
        assert_complete(result, orders)
    assert {"knee", "machine", "yardsticks", "workload", "config", "measured"} <= record.keys()
    assert "***" not in record["config"]["$.exchange.name"]
    (saved,) = tmp_path.glob("load-*.json")
    assert record == json.loads(saved.read_text())
    assert saved.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "saved" in said
    assert 0 == exchange.stop()


def test_each_router_gets_its_events(make_exchange, tmp_path):
    """Three routers: all orders are answered once, and as if there were one: those of an event in order."""
    exchange = make_exchange(
        exchange={"name": f"load-{os.getpid()}-routers", "shards": 2, "routers": 3}, limits=LIMITS
    )
    exchange.start()
    options = ["--rates", "1000", "--seconds", "2", "--frame", "3", "--events", "30"]
    record, _ = load(exchange, tmp_path, *options)
    assert_complete(record["rates"][0], 2_000)
    orders = orders_of("demo", 2_000, seed=7, events=30, zipf=0.0)
    reports = Exchange(Limits(orders=1 << 14)).submit(np.concatenate([orders.before, orders.records]))
    refused = reports["reason"][reports["kind"] == ReportKind.REJECTED].tolist()
    assert Counter(Reason(reason).name for reason in refused) == record["rates"][0]["refused"]
    assert 0 == exchange.stop()


def test_an_exchange_of_its_own_is_gone_afterwards(tmp_path):
    """One command gives a figure, and leaves nothing but that."""
    config = tmp_path / "ringpit.toml"
    config.write_text('[exchange]\nshards = 1\n[output]\nsink = "none"\n')
    command = [sys.executable, "-m", "ringpit.shards.cli", "load", "-c", str(config), "--own", "--json"]
    options = ["--rates", "500", "--seconds", "1", "--mix", "referee", "--save", str(tmp_path / "saved")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    (result,) = json.loads(done.stdout)["rates"]
    assert [500, 500, 0] == [result[name] for name in ("sent", "acknowledged", "answered")]
    assert 0 < result["latency_ns"]["p50"]
    assert {".json", ".png"} == {path.suffix for path in (tmp_path / "saved").iterdir()}


def test_without_an_exchange_a_sentence_says_what_to_do(tmp_path):
    """Exit 2, and three ways on."""
    command = [sys.executable, "-m", "ringpit.shards.cli", "load", "--save", str(tmp_path)]
    named = {**os.environ, "RINGPIT__EXCHANGE__NAME": f"none-{os.getpid()}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=named)
    assert 2 == done.returncode
    assert "no exchange of this name runs on this machine: start it with `ringpit run`" in done.stderr


@pytest.mark.brokers
def test_orders_over_rabbitmq_come_back_over_rabbitmq(make_clients, tmp_path):
    """Published with confirms, consumed from the reports exchange, matched to the orders."""
    exchange, _ = make_clients()
    exchange.start()
    record, _ = load(exchange, tmp_path, "--rates", "200", "--seconds", "1", "--encoding", "json")
    assert_complete(record["rates"][0], 200)
    assert "consumed from RabbitMQ" in record["measured"]
    assert 0 == exchange.stop()
