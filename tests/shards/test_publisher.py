"""The publisher's duty cycle, driven by hand: what leaves, when, once, and what is given back."""

import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from ringpit.engine import ReportKind
from ringpit.engine.image import images
from ringpit.engine.records import REPORT
from ringpit.ipc.ring import FROZEN
from ringpit.shards.flow import creations, flow, frames
from ringpit.shards.layout import first_position
from ringpit.shards.mirror import Mirror, MirrorCell, allocate_mirror, apply
from ringpit.shards.publisher import Count, Publisher, Settings
from ringpit.shards.sinks import JSON_LINES, PACKED, FileSink, Identity, MemorySink, SinkFailed, StreamSink
from ringpit.testing.outputs import SMALL, OutputRing, word

NOW = 2_000_000_000_000_000_000
INTERVAL_NS = 100_000_000
START = 1_700_000_000_000_000_000


def pair(sink, *, slots=1 << 12, **options):
    """A ring, its mirror, and a publisher attached to it as shard 0."""
    ring = OutputRing(slots=slots)
    mirror = allocate_mirror(SMALL)
    publisher = Publisher(sink, Settings(**options))
    publisher.attach_shard(0, ring.views(mirror))
    return ring, mirror, publisher


def orders(count, seed=1, **options):
    """Framed order flow, creations of three events before it."""
    return frames(flow(count, seed=seed, events=3, accounts=6, **options), 5, engine_ns=START)


def run(publisher, now_ns=NOW):
    """Step until nothing is left to do."""
    while publisher.step(now_ns):
        pass


def sent(sink, topic="reports"):
    """All lines of a topic, decoded, in the order in which they were sent."""
    return [json.loads(line) for message in sink.of(topic) for line in message.payload.splitlines()]


def identities(lines):
    """(seq, index) of lines or REPORT records."""
    if isinstance(lines, np.ndarray):
        return lines[lines["kind"] < ReportKind.LEVEL][["seq", "index"]].tolist()
    return [(line["Seq"], line["Index"]) for line in lines]


def test_whole_ring_leaves_once_in_order():
    """Every report leaves once, per account in log order; every trade once; the ring is given back."""
    sink = MemorySink()
    ring, _, publisher = pair(sink, cycle_reports=50)
    told = ring.tell(orders(300))
    run(publisher)
    lines = sent(sink)
    assert sorted(identities(told)) == sorted(identities(lines))
    for message in sink.of("reports"):
        rows = [json.loads(line) for line in message.payload.splitlines()]
        assert message.count == len(rows)
        assert message.identity == Identity(1, 0, rows[0]["Seq"], rows[0]["Index"])
        assert {message.key} == {row.get("Account", 0) if "Decimals" not in row else 0 for row in rows}
    for key in {message.key for message in sink.of("reports")}:
        mine = identities(
            [json.loads(line) for m in sink.of("reports") if m.key == key for line in m.payload.splitlines()]
        )
        assert sorted(mine) == mine
    fills = told[told["kind"] == ReportKind.FILL_TAKER]
    assert sorted(identities(fills)) == sorted(identities(sent(sink, "trades")))
    assert publisher.drained()
    assert ring.tail.cells[0] == ring.head.cells[0]
    assert ring.matched_seq.cells[0] == ring.confirmed_seq.cells[0]
    assert [len(lines), len(fills)] == publisher.counters[[Count.REPORTS, Count.TRADES]].tolist()
    sizes = [len(message.payload) for message in sink.messages]
    assert [len(sizes), sum(sizes)] == publisher.counters[[Count.MESSAGES, Count.BYTES]].tolist()
    records = told["leaves"][told["kind"] == ReportKind.FRAME].sum()
    assert records == ring.timing.whole_ns.sum() == ring.timing.publish_ns.sum()


def test_sink_without_addresses_gets_log_order():
    """A sink that is not addressed gets one message a cycle, key 0, in log order."""
    sink = MemorySink(addressed=False)
    ring, _, publisher = pair(sink, cycle_reports=64)
    told = ring.tell(orders(300))
    run(publisher)
    assert identities(told) == identities(sent(sink))
    assert {0} == {message.key for message in sink.messages}
    assert len(sink.of("reports")) <= -(-len(told) // 64)


def test_nothing_leaves_before_it_is_durable():
    """What the log has not stays in the ring (P1), and leaves when the log has it."""
    sink = MemorySink(addressed=False)
    ring, _, publisher = pair(sink)
    told = ring.tell(orders(60), durable=False)
    assert 0 == publisher.step(NOW)
    assert [] == sink.messages
    for durable_seq in (1, 17, 40, int(ring.matched_seq.cells[0])):
        ring.durable_seq.cells[0] = durable_seq
        run(publisher)
        assert identities(told[told["seq"] <= durable_seq]) == identities(sent(sink))
        assert durable_seq == ring.confirmed_seq.cells[0]
    assert publisher.drained()


def test_matched_mode_leaves_early_and_says_so():
    """In release mode "matched" reports leave before the log has them, marked as provisional."""
    sink = MemorySink(addressed=False)
    ring, _, publisher = pair(sink, release="matched")
    told = ring.tell(orders(60), durable=False)
    run(publisher)
    lines = sent(sink)
    assert identities(told) == identities(lines)
    assert all(line["Provisional"] and line["Epoch"] == 1 for line in lines)


@given(seed=st.integers(0, 1 << 20), confirms=st.lists(st.integers(0, 3), max_size=20))
@settings(max_examples=20)
def test_only_what_is_confirmed_is_given_back(seed, confirms):
    """Head and confirmed seq follow the sink's tokens, never its messages (P2), and cover whole seqs (P3)."""
    sink = MemorySink(confirms=False)
    ring, _, publisher = pair(sink, cycle_reports=30)
    told = ring.tell(orders(100, seed))
    base = first_position(1)
    while publisher.step(NOW):
        pass
    tokens = list(sink.waiting)
    assert (base, 0) == (ring.head.cells[0], ring.confirmed_seq.cells[0])
    confirmed = 0
    for wanted in confirms:
        count = min(wanted, len(sink.waiting))
        sink.confirm(count)
        confirmed += count
        publisher.step(NOW)
        head = tokens[confirmed - 1].position if confirmed else base
        assert head == ring.head.cells[0]
        before_head = told[: head - base]
        missing = told[head - base :]
        confirmed_seq = ring.confirmed_seq.cells[0]
        assert not (missing["seq"] <= confirmed_seq).any()
        assert confirmed_seq >= (before_head[-1]["seq"] - 1 if len(before_head) else 0)
        assert (confirmed == len(tokens)) == publisher.drained()


def test_half_a_command_is_not_confirmed():
    """A seq whose reports are still being published is sent but not confirmed until it is matched (P3)."""
    sink = MemorySink(addressed=False)
    ring, _, publisher = pair(sink)
    told = ring.exchange.submit(orders(5))
    last_seq = int(told[-1]["seq"])
    ring.durable_seq.cells[0] = last_seq
    ring.publish(told)
    run(publisher)
    assert identities(told) == identities(sent(sink))
    assert last_seq > ring.confirmed_seq.cells[0]
    ring.matched_seq.cells[0] = last_seq
    publisher.step(NOW)
    assert last_seq == ring.confirmed_seq.cells[0]


@given(seed=st.integers(0, 1 << 20), cut=st.floats(0, 1), keep=st.floats(0, 1))
@settings(max_examples=20)
def test_worker_restart_repeats_nothing(seed, cut, keep):
    """The next worker makes again what was not confirmed; what was sent before is dropped, the rest goes on."""
    sink = MemorySink(addressed=False, confirms=False)
    ring, mirror, publisher = pair(sink, cycle_reports=40)
    told = ring.exchange.submit(orders(120, seed))
    published = told[: int(cut * len(told))]
    ring.publish(published)
    ring.durable_seq.cells[0] = told[-1]["seq"]
    run(publisher)
    sink.confirm(int(keep * len(sink.waiting)))
    publisher.step(NOW)
    ring.tail.cells[0] |= FROZEN
    confirmed_seq = int(ring.confirmed_seq.cells[0])
    successor = ring.restarted()
    publisher.attach_shard(0, successor.views(mirror))
    assert first_position(2) == ring.head.cells[0]
    again = told[told["seq"] > confirmed_seq]
    successor.publish(again)
    successor.durable_seq.cells[0] = successor.matched_seq.cells[0] = told[-1]["seq"]
    run(publisher)
    assert identities(told) == identities(sent(sink))
    times = {line["Seq"]: line.get("Time") for line in sent(sink)}
    assert None not in times.values()
    sink.confirm(len(sink.waiting))
    run(publisher)
    assert publisher.drained()
    assert told[-1]["seq"] == ring.confirmed_seq.cells[0]
    assert successor.tail.cells[0] == ring.head.cells[0]


@given(seed=st.integers(0, 1 << 20), keep=st.floats(0, 1))
@settings(max_examples=20)
def test_publisher_restart_repeats_only_what_was_unconfirmed(seed, keep):
    """A successor begins at the head with the right time, sends the unconfirmed again, the same bytes, and nothing else."""
    first = MemorySink(addressed=False, confirms=False)
    ring, mirror, publisher = pair(first, cycle_reports=25)
    ring.tell(orders(100, seed))
    run(publisher)
    first.confirm(int(keep * len(first.waiting)))
    publisher.step(NOW)
    unconfirmed = int(ring.tail.cells[0] - ring.head.cells[0])
    second = MemorySink(addressed=False)
    successor = Publisher(second, Settings(cycle_reports=25))
    inherited = Mirror(*(array.copy() for array in mirror))
    successor.attach_shard(0, ring.views(inherited))
    run(successor)
    before, after = sent(first), sent(second)
    assert before[len(before) - len(after) :] == after
    assert successor.drained()
    assert len(after) <= unconfirmed
    assert mirror.quantity.tolist() == inherited.quantity.tolist()


@pytest.mark.parametrize("restarted", [False, True])
def test_matched_mode_takes_back_what_the_log_lost(restarted):
    """After a restart in mode "matched" other reports under the same seqs are sent, under the new epoch, by the same publisher or the next."""
    sink = MemorySink(addressed=False)
    ring, mirror, publisher = pair(sink, release="matched")
    ring.tell(frames(creations(1), 1))
    ring.tell(frames(flow(20, seed=1, events=1)[1:], 5), durable=False)
    run(publisher)
    durable_seq = int(ring.durable_seq.cells[0])
    kept = OutputRing(incarnation=2)
    kept.exchange.submit(frames(creations(1), 1))
    kept.head, kept.confirmed_seq = ring.head, ring.confirmed_seq
    kept.durable_seq.cells[0] = kept.matched_seq.cells[0] = durable_seq
    if restarted:
        publisher = Publisher(sink, Settings(release="matched"))
    publisher.attach_shard(0, kept.views(mirror))
    assert durable_seq == ring.confirmed_seq.cells[0]
    before = len(sent(sink))
    kept.publish(np.concatenate(images(kept.exchange.tables, durable_seq)))
    other = kept.tell(frames(flow(20, seed=2, events=1)[1:], 5), durable=False)
    run(publisher)
    lines = sent(sink)[before:]
    assert identities(other) == identities(lines)
    assert {(2, durable_seq)} == {(line["Epoch"], line["EpochSeq"]) for line in lines}
    books = allocate_mirror(SMALL)
    apart = OutputRing()
    apart.exchange = kept.exchange
    Publisher(MemorySink(), Settings()).attach_shard(0, apart.views(books))
    apart.publish(np.concatenate(images(kept.exchange.tables, 1)))
    apply(books, apart.slots, int(apart.head.cells[0]), int(apart.tail.cells[0]))
    assert books.quantity.tolist() == mirror.quantity.tolist(), "what was lost is out of the books, too"


def test_matched_mode_says_again_all_that_a_higher_epoch_takes_back():
    """What the log has was sent, too, but nobody knows whether it has arrived: all above what is confirmed is sent again, and says so."""
    sink = MemorySink(addressed=False, confirms=False)
    ring, mirror, publisher = pair(sink, release="matched")
    told = ring.tell(orders(60))
    run(publisher)
    for epoch, epoch_seq, confirmed_seq in ((2, 3, 0), (3, 3, 9)):
        ring = ring.restarted()
        ring.epoch_seq = epoch_seq  # after a power cut the log knows more than the publisher's word
        ring.confirmed_seq.cells[0] = confirmed_seq
        mirror.cells[MirrorCell.EPOCH_TOLD] = 1
        publisher.attach_shard(0, ring.views(mirror))
        before = len(sent(sink))
        ring.publish(told[told["seq"] > epoch_seq])
        run(publisher, NOW + epoch * 1_000_000_000)
        lines = sent(sink)[before:]
        for topic in ("prices", "books"):
            assert {1, 2, 3} == {line["Event"] for line in sent(sink, topic) if line["Epoch"] == epoch}
        standing_seq = max(epoch_seq, confirmed_seq)
        assert {(epoch, standing_seq)} == {(line["Epoch"], line["EpochSeq"]) for line in lines}
        assert identities(told[told["seq"] > standing_seq]) == identities(lines)


@pytest.mark.parametrize("told", ["nothing", "repeats", "a report"])
def test_matched_mode_takes_back_for_an_epoch_that_told_nothing(told):
    """
    Commands without a report are confirmed in silence, and what an earlier epoch said of their seqs is false: if no report of that
    epoch has told so, the next epoch's lines do, whoever sends them; one told report, and they begin behind what is confirmed.
    """
    sink = MemorySink(addressed=False)
    ring, mirror, publisher = pair(sink, release="matched")
    first = ring.tell(frames(creations(1), 1))
    ring.tell(frames(flow(20, seed=1, events=1)[1:], 5), durable=False)
    run(publisher)
    lost_seq = int(ring.durable_seq.cells[0])
    silent = OutputRing(incarnation=2)
    silent.head, silent.confirmed_seq = ring.head, ring.confirmed_seq
    silent.exchange.submit(frames(creations(1), 1))
    silent.durable_seq.cells[0] = silent.matched_seq.cells[0] = lost_seq
    publisher.attach_shard(0, silent.views(mirror))
    silent.publish(np.concatenate(images(silent.exchange.tables, lost_seq)))
    if told == "repeats":  # of what is confirmed and in the log: no line of this epoch
        silent.publish(first)
    if told == "a report":
        silent.tell(frames(flow(3, seed=2, events=1)[1:], 1))
    else:  # a marker and an idle tick: the seqs of orders that were lost
        silent.matched_seq.cells[0] = silent.durable_seq.cells[0] = lost_seq + 2
    run(publisher)
    confirmed_seq = int(silent.confirmed_seq.cells[0])
    assert confirmed_seq == silent.matched_seq.cells[0] > lost_seq
    before = len(sent(sink))
    for incarnation in (3, 4):  # and if that one, too, dies before a report
        last = OutputRing(incarnation=incarnation)
        last.exchange, last.head, last.confirmed_seq = silent.exchange, silent.head, silent.confirmed_seq
        last.durable_seq.cells[0] = last.matched_seq.cells[0] = confirmed_seq
        publisher = Publisher(sink, Settings(release="matched"))
        publisher.attach_shard(0, last.views(mirror))
    last.exchange.next_seq = confirmed_seq + 1
    last.tell(frames(flow(20, seed=3, events=1)[1:], 5))
    run(publisher)
    assert {(4, confirmed_seq if told == "a report" else lost_seq)} == {
        (line["Epoch"], line["EpochSeq"]) for line in sent(sink)[before:]
    }


def test_sink_that_is_not_ready_leaves_the_ring_alone():
    """While the sink is not ready nothing is taken; confirmations still arrive."""
    sink = MemorySink(confirms=False)
    ring, _, publisher = pair(sink, cycle_reports=20)
    ring.tell(orders(50))
    publisher.step(NOW)
    taken = len(sink.waiting)
    sink.is_ready = False
    sink.confirm(taken)
    assert taken == publisher.step(NOW)
    assert 0 == publisher.step(NOW)
    assert not publisher.drained()
    sink.is_ready = True
    assert publisher.step(NOW) > 0


def test_quotes_are_conflated():
    """Prices and books of changed events go out once an interval, the newest state only, and at the end."""
    sink = MemorySink()
    ring, _, publisher = pair(sink, depth=2)
    exchange = ring.exchange
    ring.publish(exchange.create_event(7))
    ring.durable_seq.cells[0] = 1_000
    publisher.step(NOW)
    for number in range(5):
        ring.publish(exchange.order(7, order=number, account=1, side="buy", quantity=1, price=40 + number))
        publisher.step(NOW + 1 + number)
    assert 1 == len(sink.of("prices")) == len(sink.of("books"))
    publisher.step(NOW + INTERVAL_NS)
    assert 2 == len(sink.of("prices")) == len(sink.of("books"))
    price, book = sent(sink, "prices")[-1], sent(sink, "books")[-1]
    assert ("0.44", 44, 1) == (price["Bid"], price["BidTicks"], price["BidQuantity"])
    assert [["0.44", 1], ["0.43", 1]] == book["Bids"]
    assert [7, 7] == [sink.of(topic)[-1].key for topic in ("prices", "books")]
    assert 0 == publisher.step(NOW + 2 * INTERVAL_NS)
    ring.publish(exchange.order(7, order=9, account=1, side="buy", quantity=1, price=30))
    publisher.step(NOW + 2 * INTERVAL_NS + 1)
    assert publisher.finish(0.0)
    assert 2 == len(sink.of("prices"))
    assert 3 == len(sink.of("books"))
    assert [6, 7] == [sent(sink, topic)[-1]["Seq"] for topic in ("prices", "books")]


def test_settled_event_quotes_its_end():
    """After settlement an event's price and book are empty and say so."""
    sink = MemorySink()
    ring, _, publisher = pair(sink)
    ring.publish(ring.exchange.create_event(7))
    ring.publish(ring.exchange.order(7, order=1, account=1, side="sell", quantity=3, price=60))
    ring.publish(ring.exchange.settle(7))
    ring.durable_seq.cells[0] = 100
    publisher.step(NOW)
    price, book = sent(sink, "prices")[-1], sent(sink, "books")[-1]
    assert ("Settled", "Settled", [], []) == (price["State"], book["State"], book["Bids"], book["Asks"])
    assert not {"Bid", "Ask"} & set(price)


def test_two_shards_share_a_sink():
    """Each shard has its own head, confirmed seq and lines."""
    sink = MemorySink(addressed=False)
    publisher = Publisher(sink, Settings(generation=4))
    rings = [OutputRing(), OutputRing(incarnation=9)]
    told = []
    for shard, ring in enumerate(rings):
        publisher.attach_shard(shard, ring.views(allocate_mirror(SMALL)))
        told.append(ring.tell(orders(40 + 30 * shard, seed=shard)))
    run(publisher)
    lines = sent(sink)
    for shard, ring in enumerate(rings):
        mine = [line for line in lines if line["Shard"] == shard]
        assert {4} == {line["Generation"] for line in mine}
        assert identities(told[shard]) == identities(mine)
        assert ring.tail.cells[0] == ring.head.cells[0]


def test_packed_reports_are_the_records():
    """In the packed encoding a message holds the ring's records, unchanged."""
    sink = MemorySink(addressed=False)
    ring, _, publisher = pair(sink, encoding="packed")
    told = ring.tell(orders(100))
    run(publisher)
    assert {PACKED} == {message.content_type for message in sink.of("reports")}
    assert {JSON_LINES} == {message.content_type for message in sink.of("prices")}
    records = np.frombuffer(b"".join(message.payload for message in sink.of("reports")), REPORT)
    assert told[told["kind"] < ReportKind.LEVEL].tolist() == records.tolist()


def test_files_hold_the_lines(tmp_path):
    """Over a file sink, the files hold every line, and the ring is given back in the same or the next step."""
    sink = FileSink(tmp_path)
    ring, _, publisher = pair(sink)
    told = ring.tell(orders(100))
    run(publisher)
    assert publisher.drained()
    assert publisher.finish(0.0)
    sink.close()
    lines = [json.loads(line) for line in (tmp_path / "reports.ndjson").read_text().splitlines()]
    assert identities(told) == identities(lines)
    kinds = {"trades": "Trade", "prices": "Price", "books": "Book"}
    for stem, kind in kinds.items():
        rows = [json.loads(line) for line in (tmp_path / f"{stem}.ndjson").read_text().splitlines()]
        assert {kind} == {row["Kind"] for row in rows}


def test_failed_sink_ends_the_step_and_confirms_nothing():
    """A sink that cannot go on is heard of, and nothing is given back."""
    with Path("/dev/full").open("wb", buffering=0) as full:
        ring, _, publisher = pair(StreamSink(full.fileno(), "/dev/full"))
        ring.tell(orders(20))
        with pytest.raises(SinkFailed, match="no space left"):
            publisher.step(NOW)
    assert (first_position(1), 0) == (ring.head.cells[0], ring.confirmed_seq.cells[0])


def test_mismatched_limits_are_named():
    """A level that the mirror does not have names shard, position and remedy."""
    ring, _, publisher = pair(MemorySink())
    reports = ring.exchange.create_event(1)
    reports[-1]["account"] = SMALL.events
    ring.publish(reports)
    ring.durable_seq.cells[0] = 10
    with pytest.raises(RuntimeError, match=r"shard 0 reports a level outside .* with the same \[limits\]"):
        publisher.step(NOW)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("release", "soon", "output.release must be one of durable, matched, was 'soon'"),
        ("encoding", "xml", "output.encoding must be one of json, packed, was 'xml'"),
        ("depth", 0, "output.depth must be from 1 to 10000, was 0"),
        ("books_interval_ms", 0, "output.books_interval_ms must be from 1 to 3600000, was 0"),
        ("cycle_reports", -1, "output.cycle_reports must be from 1 to 1048576, was -1"),
    ],
)
def test_settings_name_what_is_wrong(option, value, message):
    """A bad setting is refused by name, value and rule."""
    with pytest.raises(ValueError) as caught:
        Settings(**{option: value})
    assert message == str(caught.value)


def test_ring_must_be_a_power_of_two():
    """A ring of another length is refused at attachment."""
    views = OutputRing().views(allocate_mirror(SMALL))._replace(slots=np.zeros(1_000, REPORT), head=word())
    with pytest.raises(ValueError, match="slots of shard 3's output ring must be a power of two, was 1000"):
        Publisher(MemorySink(), Settings()).attach_shard(3, views)
