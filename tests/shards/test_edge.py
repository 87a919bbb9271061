"""The whole edge without processes: every form of a delivery goes to an engine, and what it answers comes back whole."""

from collections import defaultdict

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from ringpit.engine import Limits, ReportKind
from ringpit.engine.codes import CommandKind
from ringpit.engine.limits import FRAME_COMMANDS_MAX
from ringpit.engine.records import REPORT
from ringpit.shards import feed, mirror, packed, quotes, render
from ringpit.shards.messages import decode, to_commands
from ringpit.shards.prices import spec_of_records
from ringpit.shards.sinks import JSON_LINES, PACKED
from ringpit.shards.text import SLACK_BYTES
from ringpit.testing.features import PAYOUT, featured
from ringpit.testing.naive import Report
from ringpit.testing.outputs import OutputRing
from ringpit.testing.received import Received
from ringpit.testing.submissions import as_trade, cut

SEEDS = st.integers(0, 1 << 30)
EVENTS = 4
LIMITS = Limits(events=16, orders=1 << 12, levels=1 << 12, keys=64, nodes=1 << 12)


def specs_of(records):
    """Event to price spec, from the records that create them."""
    places = np.flatnonzero(records["kind"] == CommandKind.CREATE_EVENT).tolist()
    return {int(records["event"][at]): spec_of_records(records, at) for at in places}


@given(seed=SEEDS)
@settings(max_examples=20)
def test_every_form_of_a_delivery_is_the_records_it_stands_for(seed):
    """Packed, JSON and MessagePack, whatever the features and however numbers are spelled."""
    records = featured(300, events=EVENTS, seed=seed)
    specs = specs_of(records)
    forms = defaultdict(int)
    for delivery in cut(records, seed=seed):
        forms[delivery.content_type] += 1
        if delivery.content_type == packed.CONTENT_TYPE:
            read = packed.decode(delivery.body)
        else:
            read = to_commands(decode(delivery.content_type, delivery.body), specs.get)
        assert delivery.commands.tolist() == read.tolist()
        assert len(read) <= FRAME_COMMANDS_MAX


def told(seed, count=400):
    """A ring that holds what every feature caused, its reports, and a mirror of them."""
    ring = OutputRing(slots=1 << 15, limits=LIMITS)
    reports = ring.tell(featured(count, events=EVENTS, seed=seed))
    end = int(ring.tail.cells[0])
    depth_mirror = mirror.allocate_mirror(LIMITS)
    assert end == mirror.apply(depth_mirror, ring.slots, end - len(reports), end)
    return ring, reports, depth_mirror


def sent(ring, reports, depth_mirror, encoding):
    """What a subscriber gets of them."""
    end = int(ring.tail.cells[0])
    picks, batches = feed.allocate_picks(len(reports)), feed.allocate_batches(len(reports))
    feed.pick(picks, np.zeros(3, np.int64), depth_mirror, ring.slots, end - len(reports), end)
    script, words = render.make_script(0, 1), render.words_of(ring.slots)
    lines = np.zeros(len(reports) * render.line_bytes_max(script) + SLACK_BYTES, np.uint8)
    records, ends = np.zeros((len(reports), render.WORDS), np.int64), np.zeros(len(reports), np.int64)
    received = Received()
    everything = np.arange(len(reports))
    for topic, entries, keys, count in (
        ("reports", everything, picks.key, picks.counts[feed.PICKED]),
        ("trades", picks.trades, picks.trade_key, picks.counts[feed.TRADED]),
    ):
        groups, trades = feed.group(batches, entries, keys, count, False), topic == "trades"
        if encoding == JSON_LINES:
            size = render.render(
                script, depth_mirror, ring.slots, words, picks, batches, groups, trades, lines, ends
            )
            received.take(topic, JSON_LINES, lines[:size].tobytes())
        else:
            size = render.gather(depth_mirror, words, picks, batches, groups, trades, records, ends)
            received.take(topic, PACKED, records.tobytes()[:size], "1-0-1-0")
    return received


@pytest.mark.parametrize("encoding", [JSON_LINES, PACKED])
@given(seed=SEEDS)
@settings(max_examples=15)
def test_every_report_comes_back(encoding, seed):
    """What subscribers read of reports is what the engine said, and trades are the takers' in terms of YES."""
    ring, reports, depth_mirror = told(seed)
    received = sent(ring, reports, depth_mirror, encoding)
    said = [Report(*row) for row in reports[reports["kind"] < ReportKind.LEVEL].tolist()]
    assert said == received.by_shard(received.reports)[0]
    trades = [as_trade(report, PAYOUT) for report in said if report.kind == ReportKind.FILL_TAKER]
    assert trades == received.by_shard(received.trades).get(0, [])


@given(seed=SEEDS)
@settings(max_examples=15)
def test_books_and_last_prices_are_the_engines(seed):
    """The mirror's depth of every event, in a ladder or in a skip list, is the exchange's; so is the last price, in YES."""
    ring, reports, depth_mirror = told(seed)
    script = render.make_script(0, 1)
    received = Received()
    for event in ring.exchange.events():
        book = np.array([mirror.book_of(depth_mirror, event)])
        out, ends = np.zeros(quotes.quote_bytes_max(200) + SLACK_BYTES, np.uint8), np.zeros(1, np.int64)
        for topic, depth in (("prices", 0), ("books", 200)):
            size = quotes.render_quotes(script, depth_mirror, book, 1, depth, out, ends)
            received.take(topic, JSON_LINES, out[:size].tobytes())
        sides = [
            [[f"{price / 100:.2f}", lots] for price, lots in side.tolist()]
            for side in ring.exchange.depth(event, 200)
        ]
        assert sides == [received.books[event][name] for name in ("Bids", "Asks")]
        takers = reports[(reports["event"] == event) & (reports["kind"] == ReportKind.FILL_TAKER)]
        if len(takers):
            last = as_trade(Report(*takers[-1].item()), PAYOUT)
            line = received.prices[event]
            assert (last.price, last.quantity) == (line["LastTicks"], line["LastQuantity"])


def test_the_features_are_all_there():
    """The flow that proves it causes every kind of report and has every kind of record."""
    _, reports, _ = told(5, 3_000)
    caused = set(reports["kind"].tolist())
    assert set(ReportKind) - {ReportKind.DUPLICATE, ReportKind.FRAME, ReportKind.EVENT_SETTLED} <= caused
    flags = int(np.bitwise_or.reduce(reports["flags"]))
    assert 4 + 8 + 16 + 32 == flags & (4 + 8 + 16 + 32), "NO, MINT, BURN and MONEY"
    kinds = set(featured(3_000, events=EVENTS, seed=5)["kind"].tolist())
    alone = {CommandKind.TICK, CommandKind.MARKER, CommandKind.SETTLE}
    assert set(CommandKind) - alone == kinds
    assert REPORT == reports.dtype
