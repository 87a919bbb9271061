"""JSON lines beside a renderer in plain Python, and packed records beside the ring."""

import json
from decimal import Decimal

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from ringpit.engine import Reason, ReportFlag, ReportKind, Side
from ringpit.engine.codes import BOTH_SIDES
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import PRICE_TICKS_MAX
from ringpit.engine.records import REPORT
from ringpit.shards import feed, quotes, render
from ringpit.shards.flow import flow, frames
from ringpit.shards.mirror import allocate_mirror, apply
from ringpit.shards.text import SLACK_BYTES
from ringpit.testing.outputs import SMALL, OutputRing

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
KINDS = [kind for kind in ReportKind if kind < ReportKind.LEVEL]
OWNED = {
    ReportKind.ACCEPTED, ReportKind.FILL_MAKER, ReportKind.FILL_TAKER, ReportKind.CANCELED, ReportKind.AMENDED,
    ReportKind.REJECTED, ReportKind.TRIGGERED, ReportKind.PREVENTED,
}  # fmt: skip
FILLS = (ReportKind.FILL_MAKER, ReportKind.FILL_TAKER)
REASONED = (ReportKind.CANCELED, ReportKind.REJECTED, ReportKind.PREVENTED)
ASKED = (
    ReportKind.ACCEPTED,
    ReportKind.CANCELED,
    ReportKind.REJECTED,
)  # their quantity is money where money is meant
SHARD, GENERATION, EVENT, TIME = 3, 2, 77, 1_700_000_000_000_000_001


def price_fields(name, ticks, tick_units, decimals):
    """A price as a renderer without kernels would put it."""
    if tick_units and abs(ticks) <= PRICE_TICKS_MAX:
        text = f"{Decimal(ticks * tick_units).scaleb(-decimals):.{decimals}f}"
        return {name: text, f"{name}Ticks": ticks}
    return {f"{name}Ticks": ticks}


def money_fields(name, amount, tick_units, decimals):
    """Money as a renderer without kernels would put it."""
    if tick_units and abs(amount) <= render.MONEY_UNITS_MAX // tick_units:
        text = f"{Decimal(amount * tick_units).scaleb(-decimals):.{decimals}f}"
        return {name: text, f"{name}Ticks": amount}
    return {f"{name}Ticks": amount}


def fill_kind(flags):
    """What a fill did to the number of contracts."""
    return "Mint" if flags & ReportFlag.MINT else "Burn" if flags & ReportFlag.BURN else "Transfer"


def plain(report, tick_units, decimals, time_ns):
    """The object that a report's line must hold, fields in order."""
    kind = ReportKind(int(report["kind"]))
    at = {name: int(report[name]) for name in REPORT.names}
    name = "".join(word.title() for word in kind.name.split("_"))
    line = {"Seq": at["seq"], "Index": at["index"], "Shard": SHARD, "Generation": GENERATION, "Kind": name}
    line["Event"] = at["event"]
    money = at["flags"] & ReportFlag.MONEY
    if kind in OWNED:
        line |= {"OrderID": at["order"], "Account": at["account"], "Side": Side(at["side"]).name.title()}
        if at["flags"] & ReportFlag.NO:
            line["Outcome"] = "NO"
        if not at["flags"] & ReportFlag.NO_PRICE:
            line |= price_fields("Price", at["price"], tick_units, decimals)
        if money and kind in ASKED:
            line |= money_fields("Money", at["quantity"], tick_units, decimals)
        else:
            line["Quantity"] = at["quantity"]
        if kind != ReportKind.REJECTED:
            left = {"Leaves": at["leaves"]}
            line |= money_fields("MoneyLeft", at["leaves"], tick_units, decimals) if money else left
        if kind in FILLS:
            line["FillKind"] = fill_kind(at["flags"])
        if kind in REASONED and at["reason"]:
            line["Reason"] = Reason(at["reason"]).name
    elif kind == ReportKind.MASS_CANCELED:
        line["Account"] = at["account"]
        if at["side"] != BOTH_SIDES:
            line["Side"] = Side(at["side"]).name.title()
            if at["flags"] & ReportFlag.NO:
                line["Outcome"] = "NO"
        line |= {"Group": at["order"], "OrdersCanceled": at["leaves"]}
    elif kind == ReportKind.EVENT_CREATED:
        line |= {"LowTicks": at["price"], "HighTicks": at["quantity"], "PayoutTicks": at["leaves"]}
        line |= {"TickUnits": at["order"], "Decimals": at["account"]}
    elif kind == ReportKind.EVENT_SETTLED:
        line["OrdersCanceled"] = at["leaves"]
    else:
        line |= {"FirstSeq": at["order"], "Commands": at["leaves"]}
    if kind in (ReportKind.EVENT_CREATED, ReportKind.EVENT_SETTLED) and at["flags"] & ReportFlag.REPEAT:
        line["Repeat"] = True
    return line | ({"Time": time_ns} if time_ns else {})


def mirror_of(tick_units, decimals):
    """A mirror that knows one event's tick, or none if it is 0."""
    mirror = allocate_mirror(SMALL)
    if tick_units:
        reset = np.zeros(1, REPORT)
        reset["kind"], reset["seq"], reset["event"] = ReportKind.BOOK_RESET, 1, EVENT
        reset["price"], reset["quantity"], reset["order"] = 1, 99, tick_units * 32 + decimals
        assert 1 == apply(mirror, reset, 0, 1)
    return mirror


def lines_of(script, mirror, slots, picks, count, *, trades=False):
    """Render picks 0 to count - 1 as one group; the bytes."""
    batches = feed.allocate_batches(max(count, 1))
    groups = feed.group(batches, np.arange(count), picks.key, count, False)
    out = np.full(count * render.line_bytes_max(script) + SLACK_BYTES, 255, np.uint8)
    ends = np.zeros(max(count, 1), np.int64)
    written = render.render(
        script, mirror, slots, render.words_of(slots), picks, batches, groups, trades, out, ends
    )
    assert [written] == ends[:groups].tolist()
    return out[:written].tobytes()


@st.composite
def reports(draw):
    """Any report below LEVEL, also such as no engine would make."""
    report = np.zeros(1, REPORT)
    report["kind"] = draw(st.sampled_from(KINDS))
    sides = [*Side, BOTH_SIDES] if report["kind"] == ReportKind.MASS_CANCELED else list(Side)
    report["side"] = draw(st.sampled_from(sides))
    report["reason"] = draw(st.sampled_from(list(Reason)))
    report["flags"] = draw(st.integers(0, 63))
    report["index"] = draw(st.integers(0, (1 << 31) - 1))
    for name in ("order", "account", "quantity", "leaves", "seq"):
        report[name] = draw(INT64)
    report["price"] = draw(st.one_of(st.integers(-200, 200), INT64))
    report["event"] = EVENT
    return report


@given(
    report=reports(),
    tick_units=st.sampled_from([0, 1, 5, 25, 12_345_678, render.TICK_UNITS_MAX]),
    decimals=st.integers(0, 18),
    time_ns=st.sampled_from([0, TIME]),
)
@settings(max_examples=300)
def test_line_is_the_plain_one(report, tick_units, decimals, time_ns):
    """Any report's line, as two JSON readers see it, is what plain Python makes of the report, in the same order."""
    mirror = mirror_of(tick_units, decimals)
    picks = feed.allocate_picks(1)
    picks.book[0] = 0 if tick_units else -1
    picks.frame_ns[0] = time_ns
    line = lines_of(render.make_script(SHARD, GENERATION), mirror, report, picks, 1)
    expected = plain(report[0], tick_units, decimals, time_ns)
    assert line.endswith(b"}\n")
    assert list(expected.items()) == list(json.loads(line).items())
    assert expected == msgspec.json.decode(line)


@pytest.mark.parametrize("ticks", [-(1 << 63), PRICE_TICKS_MAX + 1, -PRICE_TICKS_MAX - 1, PRICE_TICKS_MAX])
def test_price_too_large_is_told_in_ticks_only(ticks):
    """A refused price that no event could have is not turned into a decimal."""
    slots = np.zeros(1, REPORT)
    slots["kind"], slots["event"], slots["price"] = ReportKind.REJECTED, EVENT, ticks
    picks = feed.allocate_picks(1)
    line = json.loads(lines_of(render.make_script(SHARD, GENERATION), mirror_of(5, 2), slots, picks, 1))
    assert ticks == line["PriceTicks"]
    assert (ticks == PRICE_TICKS_MAX) == ("Price" in line)


@pytest.mark.parametrize("money", [0, ReportFlag.MONEY])
def test_longest_line_fits(money):
    """No report is longer than the room that is kept for it."""
    script = render.make_script((1 << 63) - 1, (1 << 63) - 1, epoch=(1 << 63) - 1, epoch_seq=(1 << 63) - 1)
    mirror = mirror_of(1, 18)
    slots = np.zeros(16, REPORT)
    slots["kind"][: len(KINDS)] = KINDS
    slots["kind"][len(KINDS) :] = ReportKind.REJECTED
    for name in ("seq", "event", "order", "account", "quantity", "leaves"):
        slots[name] = -(1 << 62 if money else 1 << 63)  # money below that is told in ticks only
    slots["price"] = -PRICE_TICKS_MAX
    slots["index"] = (1 << 31) - 1
    slots["side"] = Side.SELL
    slots["flags"] = ReportFlag.REPEAT | ReportFlag.NO | money
    slots["reason"] = max(Reason, key=lambda reason: len(reason.name))
    picks = feed.allocate_picks(16)
    picks.position[:] = np.arange(16)
    picks.frame_ns[:] = -(1 << 63)
    lines = lines_of(script, mirror, slots, picks, 16).splitlines(keepends=True)
    assert 16 == len([json.loads(line) for line in lines])
    assert max(map(len, lines)) <= render.line_bytes_max(script)


def test_early_release_is_told():
    """Before the log has them, reports say that they are provisional, and above which seq they take back what was said before."""
    slots = np.zeros(1, REPORT)
    slots["kind"] = ReportKind.ACCEPTED
    line = lines_of(
        render.make_script(0, 1, epoch=9, epoch_seq=4), mirror_of(0, 0), slots, feed.allocate_picks(1), 1
    )
    assert {"Provisional": True, "Epoch": 9, "EpochSeq": 4}.items() <= json.loads(line).items()


@given(seed=st.integers(0, 1 << 30), apart=st.booleans())
@settings(max_examples=20)
def test_real_reports_by_account(seed, apart):
    """Lines and records of a real flow, grouped or not: each group holds its account's reports, all of them, in order."""
    ring = OutputRing(slots=1 << 14)
    told = ring.tell(frames(flow(120, seed=seed, events=3, accounts=5), 5, engine_ns=TIME))
    end = int(ring.tail.cells[0])
    mirror = allocate_mirror(SMALL)
    apply(mirror, ring.slots, end - len(told), end)
    picks = feed.allocate_picks(len(told))
    feed.pick(picks, np.zeros(3, np.int64), mirror, ring.slots, end - len(told), end)
    count = int(picks.counts[feed.PICKED])
    batches = feed.allocate_batches(count)
    groups = feed.group(batches, np.arange(count), picks.key, count, apart)
    script = render.make_script(SHARD, GENERATION)
    out = np.zeros(count * render.line_bytes_max(script) + SLACK_BYTES, np.uint8)
    ends = np.zeros(count, np.int64)
    words = render.words_of(ring.slots)
    render.render(script, mirror, ring.slots, words, picks, batches, groups, False, out, ends)
    records = np.zeros((count, render.WORDS), np.int64)
    packed_ends = np.zeros(count, np.int64)
    assert 64 * count == render.gather(mirror, words, picks, batches, groups, False, records, packed_ends)
    owned = told[told["kind"] < ReportKind.LEVEL]
    known = ring.exchange.events()
    begin = packed_begin = 0
    for group in range(groups):
        key = int(batches.key[group])
        chosen = picks.key[:count] == key if apart else np.ones(count, bool)
        mine = owned[chosen]
        expected = [
            plain(report, int(report["event"] in known), 2, int(frame_ns))
            for report, frame_ns in zip(mine, picks.frame_ns[:count][chosen], strict=True)
        ]
        assert expected == [json.loads(line) for line in out[begin : ends[group]].tobytes().splitlines()]
        packed = records.view(np.uint8).reshape(-1)[packed_begin : packed_ends[group]].view(REPORT)
        assert mine.tolist() == packed.tolist()
        begin, packed_begin = int(ends[group]), int(packed_ends[group])


@pytest.mark.parametrize("side", list(Side))
def test_trade_hides_its_owners(side):
    """A trade tells event, taker's side, price and lots, as a line and as a record, and nobody's order or account."""
    slots = np.zeros(1, REPORT)
    slots["kind"], slots["side"], slots["event"] = ReportKind.FILL_TAKER, side, EVENT
    slots["order"], slots["account"], slots["price"], slots["quantity"], slots["leaves"] = 11, 12, 55, 13, 14
    slots["seq"], slots["index"] = 9, 2
    picks = feed.allocate_picks(1)
    picks.frame_ns[0] = TIME
    line = lines_of(render.make_script(SHARD, GENERATION), mirror_of(1, 2), slots, picks, 1, trades=True)
    expected = {
        "Seq": 9, "Index": 2, "Shard": SHARD, "Generation": GENERATION, "Kind": "Trade", "Event": EVENT,
        "Side": side.name.title(), "Price": "0.55", "PriceTicks": 55, "Quantity": 13, "FillKind": "Transfer", "Time": TIME,
    }  # fmt: skip
    assert expected == json.loads(line)
    batches = feed.allocate_batches(1)
    feed.group(batches, np.arange(1), picks.key, 1, True)
    records = np.zeros((1, render.WORDS), np.int64)
    mirror = mirror_of(1, 2)
    render.gather(mirror, render.words_of(slots), picks, batches, 1, True, records, np.zeros(1, np.int64))
    packed = records.view(REPORT)[0, 0]
    assert (0, 0, 0) == (packed["order"], packed["account"], packed["leaves"])
    assert (ReportKind.FILL_TAKER, side, EVENT, 55, 13) == tuple(
        packed[name] for name in ("kind", "side", "event", "price", "quantity")
    )


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("side", list(Side))
def test_trades_are_in_terms_of_yes(side, known):
    """A taker for NO is turned round, as a line and as a record; of an event that is not known it is told as it was."""
    slots = np.zeros(1, REPORT)
    slots["kind"], slots["side"], slots["event"], slots["price"] = ReportKind.FILL_TAKER, side, EVENT, 30
    slots["quantity"], slots["leaves"] = 13, 1 << 60
    slots["flags"] = ReportFlag.NO | ReportFlag.BURN | ReportFlag.MONEY
    picks, mirror = feed.allocate_picks(1), mirror_of(int(known), 2)
    picks.book[0] = 0 if known else NIL
    line = json.loads(lines_of(render.make_script(SHARD, GENERATION), mirror, slots, picks, 1, trades=True))
    turned = Side(1 - side) if known else side
    assert (turned.name.title(), 70 if known else 30, 13, "Burn") == tuple(
        line[name] for name in ("Side", "PriceTicks", "Quantity", "FillKind")
    )
    assert ("0.70", None) == (line["Price"], line.get("Outcome")) if known else line["Outcome"] == "NO"

    batches, records = feed.allocate_batches(1), np.zeros((1, render.WORDS), np.int64)
    feed.group(batches, np.arange(1), picks.key, 1, True)
    render.gather(mirror, render.words_of(slots), picks, batches, 1, True, records, np.zeros(1, np.int64))
    packed = records.view(REPORT)[0, 0]
    flags = ReportFlag.BURN if known else ReportFlag.BURN | ReportFlag.NO
    assert (ReportKind.FILL_TAKER, turned, flags, 70 if known else 30, 13, 0, 0) == tuple(
        packed[name] for name in ("kind", "side", "flags", "price", "quantity", "leaves", "reason")
    )


def test_a_money_order_is_told_in_money():
    """What was asked, what is left and what was cancelled are money; fills are lots."""
    slots = np.zeros(4, REPORT)
    slots["kind"] = [ReportKind.ACCEPTED, ReportKind.FILL_TAKER, ReportKind.CANCELED, ReportKind.REJECTED]
    slots["flags"] = ReportFlag.MONEY | ReportFlag.NO_PRICE
    slots["quantity"], slots["leaves"] = [1_250, 20, 30, 1_250], [1_250, 30, 0, 0]
    picks = feed.allocate_picks(4)
    picks.position[:] = np.arange(4)
    script = render.make_script(SHARD, GENERATION)
    accepted, fill, canceled, rejected = map(
        json.loads, lines_of(script, mirror_of(1, 2), slots, picks, 4).splitlines()
    )
    assert ("12.50", 1_250, "12.50", 1_250) == tuple(
        accepted[name] for name in ("Money", "MoneyTicks", "MoneyLeft", "MoneyLeftTicks")
    )
    assert (20, "0.30", None) == (fill["Quantity"], fill["MoneyLeft"], fill.get("Money"))
    assert ("0.30", "0.00", None) == (canceled["Money"], canceled["MoneyLeft"], canceled.get("Quantity"))
    assert ("12.50", None) == (rejected["Money"], rejected.get("MoneyLeft"))


@given(seed=st.integers(0, 1 << 30), depth=st.integers(1, 12))
@settings(max_examples=20)
def test_quotes_are_the_exchanges(seed, depth):
    """Price and book lines say what the exchange says, in decimals, best first and no deeper than asked."""
    ring = OutputRing(slots=1 << 14)
    told = ring.tell(frames(flow(150, seed=seed, events=3, accounts=5), 5, engine_ns=TIME))
    end = int(ring.tail.cells[0])
    mirror = allocate_mirror(SMALL)
    apply(mirror, ring.slots, end - len(told), end)
    script = render.make_script(SHARD, GENERATION)
    books = np.arange(3)
    out = np.zeros(3 * quotes.quote_bytes_max(depth) + SLACK_BYTES, np.uint8)
    ends = np.zeros(3, np.int64)
    prices = out[: quotes.render_quotes(script, mirror, books, 3, 0, out, ends)].tobytes().splitlines()
    depths = out[: quotes.render_quotes(script, mirror, books, 3, depth, out, ends)].tobytes().splitlines()
    for book in range(3):
        event = int(mirror.books[book]["event"])
        head = {"Seq": int(mirror.books[book]["seq"]), "Shard": SHARD, "Generation": GENERATION}
        tail = {"Event": event, "State": ring.exchange.state(event).name.title()}
        tail["Time"] = int(mirror.books[book]["updated_ns"])
        sides = [side.tolist() for side in ring.exchange.depth(event, depth)]
        best = {}
        for name, rows in zip(("Bid", "Ask"), sides, strict=True):
            if rows:
                best |= {**price_fields(name, rows[0][0], 1, 2), f"{name}Quantity": rows[0][1]}
        fills = told[(told["event"] == event) & (told["kind"] == ReportKind.FILL_TAKER)]
        if len(fills):
            best |= {
                **price_fields("Last", int(fills[-1]["price"]), 1, 2),
                "LastQuantity": int(fills[-1]["quantity"]),
            }
        assert head | {"Kind": "Price"} | tail | best == json.loads(prices[book])
        levels = {
            name: [[f"{Decimal(price).scaleb(-2):.2f}", lots] for price, lots in rows]
            for name, rows in zip(("Bids", "Asks"), sides, strict=True)
        }
        assert head | {"Kind": "Book"} | tail | levels == json.loads(depths[book])


def test_widest_quote_fits():
    """No price or book is longer than the room that is kept for it."""
    mirror = mirror_of(1, 18)
    record = mirror.books[0]
    for name in ("event", "seq", "updated_ns"):
        record[name] = -(1 << 63)
    record["tick_units"] = render.TICK_UNITS_MAX
    record["low"], record["high"] = PRICE_TICKS_MAX - 98, PRICE_TICKS_MAX
    record["last_price"], record["last_quantity"] = PRICE_TICKS_MAX, (1 << 63) - 1
    levels = np.zeros(99, REPORT)
    levels["kind"], levels["seq"], levels["index"] = ReportKind.LEVEL, 2, np.arange(99)
    levels["price"], levels["side"] = PRICE_TICKS_MAX - 98 + np.arange(99), np.arange(99) > 48
    levels["quantity"] = (1 << 63) - 1
    slots = np.zeros(128, REPORT)
    slots[:99] = levels
    assert 99 == apply(mirror, slots, 0, 99)
    record["seq"] = record["updated_ns"] = -(1 << 63)
    script = render.make_script((1 << 63) - 1, (1 << 63) - 1, epoch=(1 << 63) - 1, epoch_seq=(1 << 63) - 1)
    for depth in (0, 1, 40):
        room_bytes = quotes.quote_bytes_max(depth)
        out = np.zeros(room_bytes + SLACK_BYTES, np.uint8)
        written = quotes.render_quotes(
            script, mirror, np.zeros(1, np.int64), 1, depth, out, np.zeros(1, np.int64)
        )
        assert written <= room_bytes
        assert (1 << 63) - 1 == json.loads(out[:written].tobytes())["Shard"]
