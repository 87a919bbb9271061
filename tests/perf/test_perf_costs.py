"""The benchmarks of what an order and a delivery cost, at a size of moments."""

import json

import numpy as np
import pytest

from ringpit.perf import __main__ as command_line
from ringpit.perf import worker
from ringpit.perf.costs import SIZES, table_of
from ringpit.perf.decode import ENCODINGS
from ringpit.perf.pipeline import Outcome
from ringpit.shards.feeders import FORMS, Flow
from ringpit.shards.flow import flow, frames
from ringpit.shards.messages import decode, to_commands
from ringpit.shards.prices import spec_of


def run(tmp_path, name, *argv):
    """Run a benchmark; its record."""
    results = tmp_path / f"{name}.jsonl"
    assert 0 == command_line.main([name, "--results", str(results), *argv])
    return json.loads(results.read_text())


@pytest.mark.compiled
def test_a_router_alone_deals_the_same_in_every_encoding(tmp_path):
    """What lies in the rings is what was sent, whatever the encoding and the batch; and every rate is above 0."""
    record = run(tmp_path, "router", "--repeat", "2", "--commands", "3000", "--shards", "3")
    assert 0 == record["facts"]["differences"]
    names = {f"{name}_{batch}_orders_per_s" for name in ENCODINGS for batch in (1, 100)}
    assert names <= set(record["figures"])
    assert all(record["figures"][name]["lowest"] > 0 for name in names)


@pytest.mark.compiled
def test_a_worker_alone_reports_what_the_engine_does(tmp_path):
    """The loop's reports are those of the engine over the same records, or the run fails."""
    record = run(tmp_path, "worker", "--repeat", "2", "--orders", "20000", "--frame", "7")
    assert record["facts"]["commands"] < record["facts"]["reports"]


def test_a_chunk_is_whole_frames_and_fits_the_ring():
    """Nothing is left out, no frame is cut."""
    records = frames(flow(30_000, seed=1), 100)
    pieces = list(worker.chunks(records))
    assert 1 < len(pieces)
    assert records.tobytes() == b"".join(piece.tobytes() for piece in pieces)
    assert all(len(piece) <= worker.INPUT_SLOTS and piece["kind"][0] == records["kind"][0] for piece in pieces)


@pytest.mark.compiled
def test_every_form_costs_every_process_something(tmp_path, capsys):
    """The same reports in every form and size; a line of the table for each."""
    record = run(
        tmp_path, "costs", "--repeat", "1", "--orders", "1200", "--events", "3", "--folder", str(tmp_path)
    )
    for size in SIZES:
        for form in FORMS:
            assert record["figures"][f"{form}_{size}_router_cpu_ns_per_order"]["lowest"] > 0
    assert len(SIZES) * len(FORMS) == capsys.readouterr().out.count(" a delivery  ")


def test_the_table_has_a_row_for_each_form_and_a_column_for_each_process():
    """Nanoseconds per order of each process, and the rate."""
    outcome = Outcome(2_000.0, 1, 1, 1, 1, {"router": 500, "worker": 2_500_000}, {})
    head, row = table_of({("json", 100): (1_000, outcome)}).splitlines()
    assert ["cpu", "ns", "per", "order", "router", "worker", "orders/s"] == head.split()
    assert ["json,", "100", "a", "delivery", "0", "2,500", "2,000"] == row.split()


@pytest.mark.parametrize("form", ["json", "msgpack"])
@pytest.mark.parametrize("size", [1, 50])
def test_the_feeder_s_messages_ask_for_the_packed_commands(form, size):
    """Decoded again they are the records that the packed form carries."""
    sent = Flow(100, seed=7, events=3, frame_orders=size, form=form)
    read = [to_commands(decode(sent.content_type, body), lambda _event: spec_of()) for body in sent.bodies]
    assert sent.commands.tobytes() == np.concatenate(read).tobytes()


@pytest.mark.compiled
@pytest.mark.brokers
def test_scanned_and_decoded_deliveries_are_the_same(tmp_path, monkeypatch, rabbitmq_url):
    """Over a real RabbitMQ: bodies and keys agree, or there is no checksum."""
    monkeypatch.setenv("RINGPIT_RABBITMQ_URL", rabbitmq_url)
    record = run(tmp_path, "intake", "--repeat", "1", "--deliveries", "3000", "--prefetch", "200")
    assert 16 == len(record["facts"]["checksum"])


def test_without_a_broker_the_intake_is_not_measured(monkeypatch, capsys):
    """A sentence says what is missing."""
    monkeypatch.delenv("RINGPIT_RABBITMQ_URL", raising=False)
    assert 3 == command_line.main(["intake", "--repeat", "1"])
    assert "needs a RabbitMQ" in capsys.readouterr().err
