"""The depth mirror beside the exchange whose reports it reads."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from ringpit.engine import EventState, ReportFlag, ReportKind, Side
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import PRICE_TICKS_MAX
from ringpit.engine.records import REPORT
from ringpit.shards import mirror as mirrors
from ringpit.shards.flow import flow, frames
from ringpit.shards.mirror import MirrorCell, allocate_mirror, apply, clear, rebuild
from ringpit.testing.outputs import SMALL, OutputRing

ROOM = 1 << 14


def told(seed, count=120, events=3):
    """A ring that holds everything that some order flow caused, and its reports."""
    ring = OutputRing(slots=ROOM)
    return ring, ring.tell(frames(flow(count, seed=seed, events=events, accounts=7), 5))


def depth_of(mirror, event):
    """Rows (price, lots) of a mirror's book, bids and asks, best first, found without the bitmap."""
    book = mirrors.book_of(mirror, event)
    record = mirror.books[book]
    span = mirror.quantity[record["first"] : record["first"] + record["high"] - record["low"] + 1]
    rows = [(int(record["low"]) + slot, int(lots)) for slot, lots in enumerate(span) if lots]
    return [[p, q] for p, q in rows[::-1] if q > 0], [[p, -q] for p, q in rows if q < 0]


def best_of(mirror, event):
    """Best bid and ask that a mirror keeps, in ticks, None if none."""
    record = mirror.books[mirrors.book_of(mirror, event)]
    return tuple(
        None if record[name] == NIL else int(record[name] - record["first"] + record["low"])
        for name in ("best_bid", "best_ask")
    )


def image(mirror):
    """All that a mirror says, as bytes, but for what is dirty."""
    return [array.tobytes() for name, array in mirror._asdict().items() if name != "dirty"]


@given(seed=st.integers(0, 1 << 30), cut=st.floats(0, 1))
@settings(max_examples=40)
def test_mirror_is_the_book(seed, cut):
    """After any part of a ring and then the rest, depth, best prices and state are the exchange's (F1, F2)."""
    ring, reports = told(seed)
    mirror = allocate_mirror(SMALL)
    start = int(ring.tail.cells[0]) - len(reports)
    middle = start + int(cut * len(reports))
    assert middle == apply(mirror, ring.slots, start, middle)
    assert middle + len(reports) - (middle - start) == apply(mirror, ring.slots, middle, start + len(reports))
    for event in ring.exchange.events():
        expected = [side.tolist() for side in ring.exchange.depth(event, 200)]
        assert expected == list(depth_of(mirror, event))
        assert ring.exchange.best(event) == best_of(mirror, event)


@given(seed=st.integers(0, 1 << 30), cut=st.floats(0, 1))
@settings(max_examples=25)
def test_applying_again_changes_nothing(seed, cut):
    """A part of the ring that was applied already leaves the mirror as it is (F3)."""
    ring, reports = told(seed)
    mirror = allocate_mirror(SMALL)
    start = int(ring.tail.cells[0]) - len(reports)
    apply(mirror, ring.slots, start, start + len(reports))
    before = image(mirror)
    assert start + int(cut * len(reports)) == apply(mirror, ring.slots, start, start + int(cut * len(reports)))
    assert before == image(mirror)


def test_settled_levels_may_be_anothers():
    """Reading a settlement again does not touch the book that got the settled one's levels."""
    ring = OutputRing(slots=ROOM)
    exchange = ring.exchange
    parts = [exchange.create_event(1), exchange.order(1, order=1, account=1, side="buy", quantity=5, price=50)]
    parts += [exchange.settle(1), exchange.create_event(2)]
    parts += [exchange.order(2, order=1, account=1, side="buy", quantity=7, price=50)]
    reports = np.concatenate(parts)
    ring.publish(reports)
    start, end = int(ring.tail.cells[0]) - len(reports), int(ring.tail.cells[0])
    mirror = allocate_mirror(SMALL)
    apply(mirror, ring.slots, start, end)
    first, second = (mirror.books[mirrors.book_of(mirror, event)] for event in (1, 2))
    assert first["first"] == second["first"]
    apply(mirror, ring.slots, start, end)
    assert ([[50, 7]], []) == depth_of(mirror, 2)
    assert (EventState.SETTLED, EventState.OPEN) == (first["state"], second["state"])
    rebuild(mirror)
    assert (None, None) == best_of(mirror, 1)
    assert (50, None) == best_of(mirror, 2)


def test_cleared_it_still_knows_of_epochs():
    """All is as at first, but not what it knows of epochs: a publisher that dies meanwhile leaves that to the next."""
    ring, reports = told(seed=4)
    mirror = allocate_mirror(SMALL)
    end = int(ring.tail.cells[0])
    assert end == apply(mirror, ring.slots, end - len(reports), end)
    mirror.cells[MirrorCell.EPOCH :] = 7, 5, 1
    clear(mirror)
    assert [7, 5, 1] == mirror.cells[MirrorCell.EPOCH :].tolist()
    mirror.cells[MirrorCell.EPOCH :] = 0
    assert image(allocate_mirror(SMALL)) == image(mirror)


def test_emptied_side_leaves_the_other():
    """A level that changes sides within a command is told twice; the empty side does not clear the other."""
    ring = OutputRing(slots=ROOM)
    exchange = ring.exchange
    parts = [exchange.create_event(1), exchange.order(1, order=1, account=1, side="sell", quantity=5, price=50)]
    parts += [exchange.order(1, order=2, account=2, side="buy", quantity=8, price=50)]
    levels = [tuple(r)[1] for r in parts[-1] if r["kind"] == ReportKind.LEVEL]
    assert [Side.SELL, Side.BUY] == levels
    reports = np.concatenate(parts)
    reports[-2:] = reports[-2:][::-1].copy()  # even if the rest was told before the sweep
    reports[-2:]["index"] = reports[-2:]["index"][::-1].copy()
    ring.publish(reports)
    mirror = allocate_mirror(SMALL)
    end = int(ring.tail.cells[0])
    assert end == apply(mirror, ring.slots, end - len(reports), end)
    assert ([[50, 3]], []) == depth_of(mirror, 1)
    assert (50, None) == best_of(mirror, 1)


def test_trade_and_time():
    """A book remembers its newest trade, and the seq and engine time of its newest change."""
    ring, reports = told(seed=3, count=200)
    mirror = allocate_mirror(SMALL)
    end = int(ring.tail.cells[0])
    apply(mirror, ring.slots, end - len(reports), end)
    for event in ring.exchange.events():
        record = mirror.books[mirrors.book_of(mirror, event)]
        trades = reports[(reports["event"] == event) & (reports["kind"] == ReportKind.FILL_TAKER)]
        assert (trades[-1]["price"], trades[-1]["quantity"]) == (record["last_price"], record["last_quantity"])
        changes = [ReportKind.LEVEL, ReportKind.FILL_TAKER, ReportKind.BOOK_RESET, ReportKind.EVENT_SETTLED]
        newest = reports[(reports["event"] == event) & np.isin(reports["kind"], changes)][-1]
        assert newest["seq"] == record["seq"]
        frame = reports[(reports["kind"] == ReportKind.FRAME) & (reports["seq"] <= newest["seq"])][-1]
        assert frame["price"] == record["updated_ns"]


def test_rebuild_repairs_everything_derived():
    """A successor makes bitmap, index and best prices anew from quantities and books."""
    ring, reports = told(seed=11)
    mirror = allocate_mirror(SMALL)
    end = int(ring.tail.cells[0])
    apply(mirror, ring.slots, end - len(reports), end)
    expected = {event: (depth_of(mirror, event), best_of(mirror, event)) for event in ring.exchange.events()}
    mirror.bitmap[:] = -1
    mirror.event_index[:] = -1
    mirror.books["best_bid"][: len(expected)] = 5
    mirror.dirty[:] = 0
    rebuild(mirror)
    assert expected == {event: (depth_of(mirror, event), best_of(mirror, event)) for event in expected}
    assert [3] * len(expected) == mirror.dirty[: mirror.cells[MirrorCell.BOOKS]].tolist()


@pytest.mark.parametrize(
    ("field", "value"), [("account", SMALL.events), ("account", -1), ("price", 100), ("price", 0)]
)
def test_level_out_of_bounds_is_found(field, value):
    """A report that names a book or level outside the mirror stops the reading at its position."""
    ring = OutputRing(slots=ROOM)
    reports = np.concatenate(
        [
            ring.exchange.create_event(1),
            ring.exchange.order(1, order=1, account=1, side="buy", quantity=5, price=50),
        ]
    )
    reports[-1][field] = value
    ring.publish(reports)
    end = int(ring.tail.cells[0])
    assert end - 1 == apply(allocate_mirror(SMALL), ring.slots, end - len(reports), end)


@pytest.mark.parametrize(
    ("field", "value"), [("leaves", -2), ("leaves", SMALL.levels - 5), ("quantity", 0), ("price", -1)]
)
def test_book_out_of_bounds_is_found(field, value):
    """A book whose levels do not lie in the mirror stops the reading."""
    ring = OutputRing(slots=ROOM)
    reports = ring.exchange.create_event(1)
    assert ReportKind.BOOK_RESET == reports[-1]["kind"]
    reports[-1][field] = value
    ring.publish(reports)
    end = int(ring.tail.cells[0])
    assert end - 1 == apply(allocate_mirror(SMALL), ring.slots, end - len(reports), end)


def test_levels_of_an_unknown_book_wait_for_its_image():
    """Levels told before the book's reset are passed over; the image that follows says them again."""
    level = np.zeros(1, REPORT)
    level["kind"], level["seq"], level["account"], level["price"], level["quantity"] = (
        ReportKind.LEVEL,
        9,
        0,
        50,
        3,
    )
    reset = np.zeros(1, REPORT)
    reset["kind"], reset["seq"], reset["index"], reset["event"] = ReportKind.BOOK_RESET, 9, 1, 77
    reset["price"], reset["quantity"], reset["order"] = 1, 99, 32 + 2
    again = level.copy()
    again["index"] = 2
    slots = np.concatenate([level, reset, again, np.zeros(1, REPORT)])
    mirror = allocate_mirror(SMALL)
    assert 1 == apply(mirror, slots, 0, 1)
    assert 0 == mirror.quantity.sum()
    assert 3 == apply(mirror, slots, 1, 3)
    assert ([[50, 3]], []) == depth_of(mirror, 77)
    assert (1, 2) == (mirror.books[0]["tick_units"], mirror.books[0]["decimals"])


def test_time_of_a_head_survives_between_two_stores():
    """Whichever of the last two heads a successor finds, it finds that head's engine time; however many died before they stored theirs."""
    mirror = allocate_mirror(SMALL)
    for head, position in ((0, 10), (10, 20), (20, 30), (20, 40), (20, 50)):
        mirrors.remember_frame_ns(mirror, head, position, position * 1_000)
        assert [head * 1_000, position * 1_000] == [mirrors.frame_ns_at(mirror, at) for at in (head, position)]
    assert 0 == mirrors.frame_ns_at(mirror, 40)


# Wide books -----------------------------------------------------------------------------------------------

WIDE_BOOKS = 3
TOP = PRICE_TICKS_MAX
FEW = replace(SMALL, nodes=64)


def report(kind, seq, **fields):
    """One report, of index 0."""
    row = np.zeros(1, REPORT)
    row["kind"], row["seq"] = kind, seq
    for name, value in fields.items():
        row[name] = value
    return row


def reset(seq, book, low=0, high=TOP):
    """BOOK_RESET of a wide book; its event is 100 above the book's slot."""
    return report(
        ReportKind.BOOK_RESET,
        seq,
        event=100 + book,
        account=book,
        price=low,
        quantity=high,
        leaves=-1,
        order=32 + 2,
    )


def level(seq, book, side, price, lots):
    """A LEVEL report."""
    return report(ReportKind.LEVEL, seq, account=book, side=side, price=price, quantity=lots)


def heard(mirror, *rows):
    """Apply reports; how many were taken."""
    slots = np.zeros(1 << len(rows).bit_length(), REPORT)
    slots[: len(rows)] = np.concatenate(rows)
    return apply(mirror, slots, 0, len(rows))


def walked(mirror, book):
    """Rows (price, lots) of bids and asks, best first, as quotes walk them."""
    sides = []
    for name, step in (("best_bid", mirrors.next_bid), ("best_ask", mirrors.next_ask)):
        at, rows = mirror.books[book][name], []
        while at != NIL:
            rows.append((int(mirrors.price_at(mirror, book, at)), abs(int(mirrors.lots_at(mirror, book, at)))))
            at = step(mirror, book, at)
        sides.append(rows)
    return tuple(sides)


def expected_of(levels, book):
    """The same from a dict of (book, price) to lots, bids above zero."""
    mine = {price: lots for (owner, price), lots in levels.items() if owner == book and lots}
    bids = [(price, lots) for price, lots in sorted(mine.items(), reverse=True) if lots > 0]
    return bids, [(price, -lots) for price, lots in sorted(mine.items()) if lots < 0]


PRICES = st.one_of(st.integers(0, 12), st.sampled_from([TOP - 1, TOP]), st.integers(0, TOP))
LEVELS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(list(Side)), PRICES, st.integers(0, 3)), max_size=60
)


@given(told_levels=LEVELS, killed=st.integers(0, 60))
@settings(max_examples=60)
def test_wide_books_hold_what_they_were_told(told_levels, killed):
    """After any levels, depth and best prices of each book are those of a dict, also for a successor half way (F1, F2)."""
    mirror, levels = allocate_mirror(FEW), {}
    heard(mirror, *(reset(1 + book, book) for book in range(WIDE_BOOKS)))
    for number, (book, side, price, lots) in enumerate(told_levels):
        assert 1 == heard(mirror, level(10 + number, book, side, price, lots))
        before = levels.get((book, price), 0)
        if lots or (before > 0) == (side == Side.BUY):
            levels[book, price] = lots if side == Side.BUY else -lots
        if number == killed:
            scramble(mirror)
            rebuild(mirror)
    assert [expected_of(levels, book) for book in range(WIDE_BOOKS)] == [
        walked(mirror, book) for book in range(3)
    ]
    assert len(mirror.nodes) - sum(map(bool, levels.values())) == free_count(mirror)


def scramble(mirror):
    """Spoil everything that follows from books and nodes."""
    mirror.links[:] = 5
    mirror.free[:] = 5
    mirror.nodes["back"] = 5
    mirror.books["best_bid"] = mirror.books["best_ask"] = 5


def free_count(mirror):
    """Nodes in the chain of free ones."""
    count, node = 0, mirror.free[0]
    while node != NIL:
        assert 0 == mirror.nodes[node]["lots"]
        count, node = count + 1, mirror.nodes[node]["back"]
    return count


@pytest.mark.parametrize("end", ["reset", "settled", "killed while settling"])
def test_a_wide_book_that_ends_gives_its_nodes_back(end):
    """A reset and a settlement take its levels away, and no other's, also where a kill lies between."""
    mirror = allocate_mirror(FEW)
    heard(mirror, *(reset(1 + book, book) for book in range(WIDE_BOOKS)))
    heard(mirror, *(level(10 + n, n % 3, Side.BUY, 1_000 * n, 1) for n in range(30)))
    if end == "reset":
        heard(mirror, reset(50, 1))
    elif end == "settled":
        heard(mirror, report(ReportKind.EVENT_SETTLED, 50, event=101))
    else:
        mirror.books[1]["state"] = EventState.SETTLED
        rebuild(mirror)
    assert [10, 0, 10] == [len(walked(mirror, book)[0]) for book in range(3)]
    assert len(mirror.nodes) - 20 == free_count(mirror)
    assert NIL == mirror.books[1]["best_bid"]


def test_more_levels_than_there_are_nodes_stop_the_reading():
    """The engine cannot have so many: the report is named, and nothing is overwritten."""
    mirror = allocate_mirror(FEW)
    heard(mirror, reset(1, 0))
    rows = [level(2 + n, 0, Side.SELL, n, 1) for n in range(len(mirror.nodes) + 1)]
    assert len(mirror.nodes) == heard(mirror, *rows)
    assert [(n, 1) for n in range(len(mirror.nodes))] == walked(mirror, 0)[1]


@pytest.mark.parametrize("price", [4, 51])
def test_a_wide_book_has_bounds(price):
    """A level outside its range stops the reading, as with other books."""
    mirror = allocate_mirror(FEW)
    heard(mirror, reset(1, 0, low=5, high=50))
    assert 0 == heard(mirror, level(2, 0, Side.BUY, price, 1))


@pytest.mark.parametrize("first", [0, -1])
def test_the_last_price_is_in_terms_of_yes(first):
    """A taker for NO at 30 traded YES at 70, where the payout is 100."""
    mirror = allocate_mirror(FEW)
    heard(mirror, report(ReportKind.BOOK_RESET, 1, event=7, price=1, quantity=99, leaves=first, order=32 + 2))
    fill = report(
        ReportKind.FILL_TAKER, 2, event=7, price=30, quantity=4, flags=ReportFlag.NO | ReportFlag.MINT
    )
    heard(mirror, fill)
    assert (70, 4) == (mirror.books[0]["last_price"], mirror.books[0]["last_quantity"])
    fill["seq"], fill["flags"] = 3, 0
    heard(mirror, fill)
    assert 30 == mirror.books[0]["last_price"]


def test_a_level_told_twice_is_as_told_last():
    """One command may touch a level, another one, and the first again."""
    mirror = allocate_mirror(FEW)
    heard(mirror, reset(1, 0))
    heard(
        mirror,
        *(
            level(2 + n, 0, Side.BUY, price, lots)
            for n, (price, lots) in enumerate([(5, 1), (6, 2), (5, 0), (5, 3)])
        ),
    )
    assert [(6, 2), (5, 3)] == walked(mirror, 0)[0]
