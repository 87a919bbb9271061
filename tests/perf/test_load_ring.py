"""The load generator's way through shared memory: what lies in the ring is what a router takes, and no time is forgiven."""

import json
import time

import numpy as np
import pytest

from ringpit.engine.codes import ReportKind
from ringpit.engine.records import REPORT
from ringpit.ipc import histogram
from ringpit.ipc.segment import Segment
from ringpit.perf.load_flow import Bodies
from ringpit.perf.load_ring import FileTail, RingSender, reports_of
from ringpit.shards.ingress import Cell, IngressIntake
from ringpit.shards.layout import ingress_layout, segment_name
from ringpit.shards.sinks import JSON_LINES, PACKED
from ringpit.testing.house import house_of

KIND = "application/json"
MS = 1_000_000


@pytest.fixture
def ends(tmp_path):
    """A sender, and the intake that a router would have."""
    with house_of() as house:
        config, router = house.config, house.router
        with Segment.create(segment_name(config, "ingress", 0, 0), ingress_layout(config)) as ingress:
            sender = RingSender(config, 0)
            intake = IngressIntake(
                ingress.region("slots"),
                Cell(ingress.cells, ingress.layout.index("tail")),
                Cell(router.cells, router.layout.index("ingress_head")),
                tmp_path / "dead.ndjson",
            )
            yield sender, intake
            intake.close()
            sender.close()


def deliveries(sizes):
    """Bodies of these sizes, one order each."""
    return Bodies(
        KIND, [bytes([number % 251]) * size for number, size in enumerate(sizes)], np.arange(len(sizes) + 1)
    )


def test_a_router_takes_what_was_prepared_in_order_and_round_the_end(ends):
    """More bytes than the ring has, acknowledged as they come: every body, each with a key of its own."""
    sender, intake = ends
    made = deliveries([1, 40, 4_000, 64, 90_000] * 60)
    sender.prepare(made, np.zeros(len(made.bodies), np.int64), "test")
    sender.begin(time.time_ns())
    taken = []
    while len(taken) < len(made.bodies):
        sender.step()
        for delivery in intake.poll(0.0):
            taken.append((delivery.content_type, delivery.key, bytes(delivery.body)))
            intake.acknowledge(delivery.tag)
    sender.step()
    assert made.bodies == [body for _, _, body in taken]
    assert {KIND} == {kind for kind, _, _ in taken}
    assert len(taken) == len({key for _, key, _ in taken}) == sender.sent == sender.settled
    assert len(taken) == sender.late.sum() == sender.acknowledged.sum()


def test_nothing_goes_out_before_it_is_due(ends):
    """Of two deliveries the one that is due an hour later stays."""
    sender, intake = ends
    sender.prepare(deliveries([8, 8]), np.array([0, 3_600 * 10**9]), "test")
    begin_ns = time.time_ns()
    sender.begin(begin_ns)
    assert 1 == sender.step()
    assert 1 == len(intake.poll(0.0))
    assert begin_ns + 3_600 * 10**9 == sender.next_due_ns()


def test_a_generator_that_comes_late_says_so_and_times_from_when_it_was_due(ends):
    """Three orders of a second ago: late, and their acknowledgement took a second, although they were sent just now."""
    sender, intake = ends
    sender.prepare(deliveries([8] * 3), np.zeros(3, np.int64), "test")
    sender.begin(time.time_ns() - 1_000 * MS)
    sender.step()
    for delivery in intake.poll(0.0):
        intake.acknowledge(delivery.tag)
    sender.step()
    assert 3 == sender.late_orders
    assert histogram.percentile(sender.late, 0.01) >= 1_000 * MS
    assert histogram.percentile(sender.acknowledged, 0.01) >= 1_000 * MS


def test_a_full_ring_holds_nothing_back_from_the_times(ends):
    """What finds no room goes out later, and counts from when it was due."""
    sender, intake = ends
    made = deliveries([60_000] * 100)
    sender.prepare(made, np.zeros(100, np.int64), "test")
    sender.begin(time.time_ns() - 100 * MS)
    while sender.step():
        pass
    assert sender.sent < 100
    while sender.sent < 100:
        for delivery in intake.poll(0.0):
            intake.acknowledge(delivery.tag)
        sender.step()
    assert 100 == sender.late_orders


def test_a_delivery_that_never_fits_is_refused_before_anything_is_sent(ends):
    """The sentence names both sizes and both remedies."""
    sender, _ = ends
    with pytest.raises(
        ValueError, match=r"does not fit rings.ingress_slots = 65536: make that larger, or --frame smaller"
    ):
        sender.prepare(deliveries([65_536 * 64]), np.zeros(1, np.int64), "test")


def test_a_tail_gives_whole_reports_only_and_what_comes_later_later(tmp_path):
    """What was there before is not given; half a record waits for its other half."""
    records = np.zeros(3, REPORT)
    records["order"] = 1, 2, 3
    content = records.tobytes()
    path = tmp_path / "reports.records"
    path.write_bytes(content[:64])
    tail = FileTail(tmp_path, "packed")
    assert 0 == len(tail.poll())
    with path.open("ab") as file:
        file.write(content[64:150])
        file.flush()
        assert [2] == tail.poll()["order"].tolist()
        file.write(content[150:])
    assert [3] == tail.poll()["order"].tolist()
    tail.close()


def test_lines_and_records_say_the_same():
    """Order, seq, kind and reason of a report from either form."""
    record = np.zeros(1, REPORT)
    record["kind"], record["order"], record["seq"], record["reason"] = ReportKind.REJECTED, 5, 9, 15
    line = {"Seq": 9, "Index": 0, "Kind": "Rejected", "OrderID": 5, "Reason": "UNKNOWN_ORDER", "Event": 1}
    other = {"Seq": 10, "Index": 0, "Kind": "EventSettled", "Event": 1}
    lines = reports_of(JSON_LINES, (json.dumps(line) + "\n" + json.dumps(other) + "\n").encode())
    same = reports_of(PACKED, record.tobytes())
    for name in ("kind", "order", "seq", "reason"):
        assert same[name].tolist() == lines[name][:1].tolist()
    assert [0, 0] == [lines["order"][1], lines["reason"][1]]
