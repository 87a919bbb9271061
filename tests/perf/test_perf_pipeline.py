"""The benchmark of the whole exchange, at a size of moments: real processes, and real brokers where they are asked for."""

import json

import pytest

from ringpit.engine.codes import ReportKind
from ringpit.engine.exchange import Exchange
from ringpit.perf import __main__ as command_line
from ringpit.perf import pipeline
from ringpit.shards.flow import flow

ORDERS = 2_000
EVENTS = 4
FRAME = 50
SIZES = [
    "--orders",
    str(ORDERS),
    "--paced-orders",
    "500",
    "--rate",
    "5000",
    "--events",
    str(EVENTS),
    "--frame",
    str(FRAME),
]
ROLES = ("router", "worker", "journal", "publisher", "feeder")


def reports_of(orders):
    """How many reports the engine alone makes of the flow that is submitted."""
    reports = Exchange().submit(flow(orders, seed=pipeline.SEED, events=EVENTS))
    return int((reports["kind"] < ReportKind.LEVEL).sum())


def run(tmp_path, *more):
    """Run the benchmark once; its record."""
    results = tmp_path / "pipeline.jsonl"
    argv = ["pipeline", "--repeat", "1", "--results", str(results), "--folder", str(tmp_path), *SIZES, *more]
    assert 0 == command_line.main(argv)
    return json.loads(results.read_text())


def check(record):
    """Every report of what was submitted came out, in both runs; no rate and no latency is 0."""
    assert reports_of(ORDERS) == record["facts"]["reports"]
    assert reports_of(500) == record["facts"]["paced_reports"]
    assert -(-(ORDERS + EVENTS) // FRAME) == record["facts"]["deliveries"]
    assert {f"{role}_cpu_ns_per_order" for role in ROLES} <= set(record["figures"])
    assert all(
        spread["lowest"] > 0
        for name, spread in record["figures"].items()
        if not name.endswith("cpu_ns_per_order")
    )


@pytest.mark.compiled
def test_the_pipeline_benchmark_publishes_every_report_of_what_was_submitted(tmp_path):
    """Embedded: the number of reports is the engine's own for the same orders, at full speed and at a rate."""
    check(run(tmp_path))
    assert [tmp_path / "pipeline.jsonl"] == list(tmp_path.iterdir())


@pytest.mark.compiled
@pytest.mark.brokers
def test_over_brokers_the_plain_loop_runs_beside_the_pipeline(
    tmp_path, monkeypatch, rabbitmq_url, kafka_bootstrap
):
    """Over RabbitMQ and Kafka as many reports come out, and the ratio is that of the two rates."""
    monkeypatch.setenv("RINGPIT_RABBITMQ_URL", rabbitmq_url)
    monkeypatch.setenv("RINGPIT_KAFKA_BOOTSTRAP", kafka_bootstrap)
    record = run(tmp_path, "--brokers")
    check(record)
    figures = {name: spread["median"] for name, spread in record["figures"].items()}
    assert figures["orders_per_s"] / figures["loop_orders_per_s"] == figures["loop_ratio"]
