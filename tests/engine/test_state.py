"""A shard that goes on from its state answers every later command as the one that the state was taken from; so do its parts."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine import Exchange, Limits
from ringpit.engine.codes import CommandKind, EventState, Flag, LevelKind, ReportFlag, ReportKind, Side, Trait
from ringpit.engine.digest import digest_of, digest_of_each, resting
from ringpit.engine.machine import process
from ringpit.engine.records import COMMAND, MARKER, REPORT
from ringpit.engine.state import (
    TABLES_OF_STATE,
    State,
    StateTooLarge,
    StateUnfinished,
    export,
    restore,
    split,
)
from ringpit.engine.tables import Cell
from ringpit.testing.naive import Command, Marker, record_array
from ringpit.testing.sessions import session, with_levels

LIMITS = Limits(events=64, orders=256, levels=1 << 14, keys=64, nodes=256, grids=4)
LARGER = Limits(events=100, orders=1_024, levels=1 << 15, keys=1 << 10, nodes=1_024, grids=9)
SEEDS = st.integers(0, 1 << 16)
LEVELS = st.sampled_from([LevelKind.LADDER, LevelKind.SKIP_LIST])
COMMANDS = 160


def continued(state, limits, next_seq, *, market_data=True):
    """An exchange that goes on from a state."""
    exchange = Exchange(limits, market_data=market_data)
    exchange.tables = restore(state, limits, market_data=market_data)
    exchange.next_seq = next_seq
    return exchange


def same(one, other):
    """Names of the tables in which two states differ."""
    return [name for name in State._fields if getattr(one, name).tobytes() != getattr(other, name).tobytes()]


def cut(records, share):
    """The records before and from a marker on."""
    markers = np.flatnonzero(records["kind"] == CommandKind.MARKER)
    at = markers[int(share * (len(markers) - 1))] if len(markers) else len(records)
    return records[:at], records[at:]


def narrow(records):
    """Market data says where ladders lie, and wide ones use up the levels: the same records with events of moderate width."""
    changed = records.copy()
    wide = (changed["kind"] == CommandKind.CREATE_EVENT) & (changed["quantity"] == 400_000)
    changed["quantity"][wide] = changed["payout"][wide] = 4_000
    return changed


def assert_goes_on(first, second, records):
    """Two exchanges answer records alike, and are in the same state behind them."""
    assert first.submit(records).tobytes() == second.submit(records).tobytes()
    assert first.digest() == second.digest()
    assert first.statistics() == second.statistics()
    assert [] == same(export(first.tables), export(second.tables))
    second.validate()


# -- going on


@given(SEEDS, st.floats(0, 1), LEVELS, st.booleans())
def test_a_restored_shard_goes_on_as_the_one_it_comes_from(seed, share, levels, market_data):
    """Cut at any frame: same digest, same state, then the same reports and the same state again."""
    before, after = cut(with_levels(narrow(session(COMMANDS, seed=seed)), levels), share)
    exchange = Exchange(LIMITS, market_data=market_data)
    exchange.submit(before)
    state = export(exchange.tables)
    restored = continued(state, LIMITS, exchange.next_seq, market_data=market_data)

    restored.validate()
    assert exchange.digest() == restored.digest() == digest_of(export(exchange.tables))
    assert [] == same(state, export(restored.tables))
    assert_goes_on(exchange, restored, after)


@given(SEEDS, st.floats(0, 1), LEVELS)
def test_other_pools_change_no_answer_while_they_have_room(seed, share, levels):
    """A shard with room to spare goes on in larger pools, and comes back into its own."""
    before, after = cut(with_levels(narrow(session(COMMANDS, seed=seed)), levels), share)
    exchange = Exchange(LARGER)
    exchange.submit(before)
    state = export(exchange.tables)
    larger = continued(
        state,
        Limits(events=128, orders=2_048, levels=1 << 16, nodes=2_048),
        exchange.next_seq,
        market_data=False,
    )

    larger.validate()
    assert [] == same(state, export(larger.tables))
    assert exchange.submit(after).tobytes() == larger.submit(after).tobytes()
    assert exchange.digest() == larger.digest()
    back = continued(export(larger.tables), LARGER, larger.next_seq, market_data=False)
    back.validate()
    assert larger.digest() == back.digest()


def test_what_a_full_shard_refuses_it_refuses_still():
    """Levels given back in pieces, nodes held by lists that are empty and bands out of use count as they did."""
    limits = Limits(events=32, orders=64, levels=4_096, keys=64, nodes=64, grids=1)
    exchange = Exchange(limits, market_data=True)
    for event in range(1, 9):
        exchange.create_event(event, 0, 500, 500)
    for event in (2, 7, 3):
        exchange.settle(event)
    exchange.create_event(20, 0, 60, 60)
    exchange.create_event(21, 0, 99, 99, bands=[(99, 3)])
    exchange.settle(21)
    exchange.order(1, order=1, account=1, side="buy", price=9, quantity=1, all_or_none=True)
    exchange.cancel(1, order=1, account=1)
    restored = continued(export(exchange.tables), limits, exchange.next_seq)
    restored.validate()

    asked = np.concatenate(
        [
            record_array([Command(kind=CommandKind.CREATE_EVENT, event=event, price=0, quantity=high, payout=high, order=1)])
            for event, high in enumerate((100, 60, 60, 500, 30, 250, 500, 100, 500, 60, 60, 100, 30), 40)
        ]
    )  # fmt: skip
    answers = exchange.submit(asked)

    assert ReportKind.REJECTED in answers["kind"]
    assert ReportKind.BOOK_RESET in answers["kind"]
    assert answers.tobytes() == restored.submit(asked).tobytes()
    assert [] == same(export(exchange.tables), export(restored.tables))


def test_a_settled_event_is_remembered():
    """With its bands: the same content is answered otherwise than another one."""
    exchange = Exchange(LIMITS)
    exchange.create_event(1, 0, 100, 100, bands=[(100, 2)])
    exchange.order(1, order=1, account=1, side="buy", price=10, quantity=1)
    exchange.settle(1)
    restored = continued(export(exchange.tables), LIMITS, exchange.next_seq, market_data=False)

    assert EventState.SETTLED == restored.state(1)
    for step in (2, 4):
        expected = exchange.create_event(1, 0, 100, 100, bands=[(100, step)])
        assert expected.tobytes() == restored.create_event(1, 0, 100, 100, bands=[(100, step)]).tobytes()


def test_an_empty_shard_has_a_state():
    """Nothing is in it, and what is restored from it begins anew."""
    exchange, other = Exchange(LIMITS, market_data=True), Exchange(LIMITS, market_data=True)
    state = export(exchange.tables)
    assert [1, 0, 0, 0, 0, 0, 0, 0] == [len(table) for table in state]
    assert_goes_on(other, continued(state, LIMITS, 1), narrow(session(50, seed=3)))


# -- what is in it


@given(SEEDS)
def test_orders_lie_as_the_digest_takes_them(seed):
    """Event by event in the order of creation, as RESTING has them; details and trails as E3 says."""
    exchange = Exchange(LIMITS)
    exchange.submit(narrow(session(COMMANDS, seed=seed)))
    tables = exchange.tables
    state = export(tables)

    books = [book for book in range(len(state.events)) if state.events[book]["state"] == EventState.OPEN]
    rows = np.concatenate([resting(tables, book) for book in books])
    for mine, name in (
        ("id", "order"),
        ("account",) * 2,
        ("open",) * 2,
        ("filled",) * 2,
        ("shown",) * 2,
        ("price",) * 2,
    ):
        assert rows[name].tolist() == state.orders[mine].tolist()
    assert rows["queue"].tolist() == state.orders["queue"].tolist()
    for name in ("trigger", "trail", "display", "group", "expires_ns"):
        assert rows[name][state.details["row"]].tolist() == state.details[name].tolist()
        assert not np.delete(rows[name], state.details["row"]).any()
    events = np.repeat(np.arange(len(state.events)), state.events["orders"])
    trailing = state.details[state.orders["traits"][state.details["row"]] & Trait.TRAILING != 0]
    for book in range(len(state.events)):
        for side in Side:
            chain, slot = [], int(tables.lists[book, 6 + 2 * side])
            while slot >= 0:
                chain.append(int(tables.details[slot]["stamp"]))
                slot = int(tables.details[slot]["next_trailing"])
            mine = (events[trailing["row"]] == book) & (state.orders["queue"][trailing["row"]] & 1 == side)
            assert chain == sorted(trailing["stamp"][mine].tolist())


def test_a_state_shares_no_memory_with_the_shard():
    """The worker goes on while its state is written."""
    exchange = Exchange(LIMITS, market_data=True)
    exchange.submit(narrow(session(60, seed=8)))
    state = export(exchange.tables)
    kept = [table.copy() for table in state]
    exchange.submit(narrow(session(60, seed=9)))
    assert all(np.array_equal(before, now) for before, now in zip(kept, state, strict=True))


def test_a_state_is_found_among_arrays_by_name():
    """Other arrays may lie beside it; a table that is missing or of another version is named."""
    state = export(Exchange(LIMITS).tables)
    arrays = state._asdict() | {"positions": np.zeros(8, np.int64)}
    assert [] == same(state, State.of(arrays))
    arrays["keys"] = np.zeros(3, COMMAND)
    with pytest.raises(ValueError, match=r"table keys of a state must have the fields of engine/state.py"):
        State.of(arrays)
    del arrays["events"]
    with pytest.raises(ValueError, match=r"table events .* has nothing: it was written by another version"):
        State.of(arrays)
    for dtype in TABLES_OF_STATE.values():
        assert all(offset % kind.itemsize == 0 for kind, offset in dtype.fields.values())


# -- the window


def keyed(number):
    """A frame of one TICK with a key."""
    return record_array(
        [
            Marker(kind=CommandKind.MARKER, count=1, key_low=number, body_hash=number),
            Command(kind=CommandKind.TICK),
        ]
    )


@pytest.mark.parametrize("length", [64, 128, 512])
@pytest.mark.parametrize("seen", [0, 10, 64, 65, 128, 200])
def test_the_window_keeps_its_newest_keys_in_order(seen, length):
    """Into a window of any length: what fits is known with the seq of its first coming, and the oldest leaves first."""
    exchange = Exchange(Limits(keys=128))
    exchange.submit(np.concatenate([np.zeros(0, COMMAND), *(keyed(number) for number in range(1, seen + 1))]))
    limits = Limits(keys=length)
    restored = continued(export(exchange.tables), limits, exchange.next_seq, market_data=False)
    restored.validate()
    known = min(seen, 128, length)
    assert list(range(seen - known + 1, seen + 1)) == export(restored.tables).keys["low"].tolist()
    for number in range(seen - known + 1, seen + 1):
        (report,) = restored.submit(keyed(number))
        assert (ReportKind.DUPLICATE, 2 * number - 1) == (report["kind"], report["order"])
    for number in range(1_000, 1_010):
        assert 0 == len(restored.submit(keyed(number)))
    left = min(known, length - 10)
    expected = [*range(seen - left + 1, seen + 1), *range(1_000, 1_010)]
    assert expected == export(restored.tables).keys["low"].tolist()
    for number in range(2_000, 2_000 + 2 * length):
        assert 0 == len(restored.submit(keyed(number)))
    restored.validate()
    assert length == len(export(restored.tables).keys)


# -- refusals


def test_half_a_frame_has_no_state():
    """Neither a command that waits for room, nor a duplicate whose records are still to come."""
    exchange = Exchange(LIMITS, report_slots=8)
    exchange.create_event(1)
    for order in range(1, 20):
        exchange.order(1, order=order, account=1, side="buy", price=50, quantity=1)
    sweep = record_array(
        [Command(kind=CommandKind.NEW, event=1, order=99, account=2, side=1, price=50, quantity=30)]
    )
    reports = np.zeros(8, REPORT)
    process(exchange.tables, sweep, sweep.view(MARKER), 0, 1, 21, reports, 0, 8, 0)
    with pytest.raises(StateUnfinished, match="the command at seq 21 is half done"):
        export(exchange.tables)

    exchange = Exchange(LIMITS)
    exchange.submit(keyed(1))
    exchange.submit(keyed(1)[:1])
    with pytest.raises(StateUnfinished, match="1 records of a duplicate frame are still to come"):
        export(exchange.tables)
    exchange.submit(keyed(1)[1:])
    export(exchange.tables)


def filled():
    """An exchange in which every pool is used."""
    exchange = Exchange(Limits(events=70, orders=128, levels=1 << 14, nodes=128, grids=3, keys=64))
    for event in range(1, 66):
        exchange.create_event(event, 0, 99, 99, bands=[(99, (1, 3)[event == 9])] if event < 10 else ())
    for order in range(1, 67):
        exchange.order(1, order=order, account=1, side="buy", price=order, quantity=1, all_or_none=True)
    return exchange


@pytest.mark.parametrize(
    ("pool", "limit", "need", "enough"),
    [
        ("events", 64, 65, 65), ("orders", 64, 66, 128), ("levels", 1 << 12, 65 * 128, 1 << 14),
        ("nodes", 64, 67, 128), ("grids", 1, 2, 2),
    ],
)  # fmt: skip
def test_a_state_that_does_not_fit_names_the_pool(pool, limit, need, enough):
    """With what it needs, what there is, and what to set."""
    sizes = {"events": 65, "orders": 128, "levels": 1 << 14, "nodes": 128, "grids": 2, "keys": 64}
    state = export(filled().tables)
    restore(state, Limits(**sizes), market_data=False)
    with pytest.raises(
        StateTooLarge, match=rf"limits.{pool} must be at least {need} .*, was {limit}: .* to {enough} "
    ) as told:
        restore(state, Limits(**sizes | {pool: limit}), market_data=False)
    assert (pool, need, limit) == (told.value.pool, told.value.need, told.value.limit)


# -- splitting


@given(SEEDS, st.integers(1, 4), LEVELS)
def test_parts_hold_the_books_of_the_whole(seed, shards, levels):
    """Each event is on the shard that it was meant for, with the book that it had; and so it is when all are one again."""
    exchange = Exchange(LIMITS)
    exchange.submit(with_levels(narrow(session(COMMANDS, seed=seed)), levels))
    state = export(exchange.tables)
    parts = split([state], lambda events: events % shards, shards)

    found = {}
    for shard, part in enumerate(parts):
        tables = continued(part, LARGER, 1).tables
        assert all(event % shards == shard for event in part.events["event"])
        assert part.keys.tobytes() == state.keys.tobytes()
        assert [] == same(part, export(tables))
        found |= digest_of_each(tables)
    assert digest_of_each(exchange.tables) == found
    (whole,) = split(parts, np.zeros_like, 1)
    again = continued(whole, LARGER, exchange.next_seq, market_data=False)
    again.validate()
    assert exchange.digest() == again.digest()
    assert [] == same(whole, export(again.tables))
    (compact,) = split([whole], np.zeros_like, 1)
    assert [] == same(whole, compact)


@given(SEEDS, st.integers(2, 4))
def test_a_part_goes_on_with_its_events(seed, shards):
    """What happens to an event is what would have happened on the old shard."""
    records = narrow(session(COMMANDS, seed=seed))
    before, after = cut(records, 0.5)
    exchange = Exchange(LARGER)
    exchange.submit(before)
    parts = split([export(exchange.tables)], lambda events: events % shards, shards)
    restored = [continued(part, LARGER, 1, market_data=False) for part in parts]
    mine = np.isin(after["kind"], [CommandKind.NEW, CommandKind.CANCEL, CommandKind.AMEND]) & (
        after["flags"] & Flag.EXTENDED == 0
    )
    orders = after[mine & (after["verdict"] == 0)]
    exchange.submit(orders)
    for shard, part in enumerate(restored):
        part.submit(orders[orders["event"] % shards == shard])
        part.validate()
    assert digest_of_each(exchange.tables) == {
        k: v for part in restored for k, v in digest_of_each(part.tables).items()
    }


def test_what_was_created_earlier_comes_earlier():
    """The events of each old shard keep their order, and take turns with those of the others."""
    one, other = Exchange(LIMITS), Exchange(LIMITS)
    for event in (9, 3, 7):
        one.create_event(event)
    for event in (8, 2):
        other.create_event(event)
    states = [export(one.tables), export(other.tables)]
    (whole,) = split(states, np.zeros_like, 1)
    assert [9, 8, 3, 2, 7] == whole.events["event"].tolist()
    assert [0, 128, 256, 384, 512] == whole.events["base"].tolist()
    parts = split(states, lambda events: (events > 3).astype(np.int64), 3)
    assert [[3, 2], [9, 8, 7], []] == [part.events["event"].tolist() for part in parts]


def test_orders_that_expire_together_keep_their_age():
    """Stamps of two shards are counted anew: by stamp, then by shard."""
    exchanges = Exchange(LIMITS), Exchange(LIMITS)
    for shard, exchange in enumerate(exchanges):
        exchange.create_event(1 + shard)
        for order in range(1, 4):
            exchange.order(
                1 + shard,
                order=order,
                account=1,
                side="buy",
                price=5,
                quantity=1,
                time_in_force="gtd",
                expires_ns=9,
            )
    (whole,) = split([export(exchange.tables) for exchange in exchanges], np.zeros_like, 1)
    told = continued(whole, LIMITS, 1, market_data=False).advance(10)
    assert [(1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (2, 3)] == [
        (int(row["event"]), int(row["order"])) for row in told
    ]


def test_windows_are_joined_from_the_newest_key_back():
    """A key of several shards counts once; every new shard gets them all; time is the latest of any."""
    exchanges = Exchange(LIMITS), Exchange(LIMITS)
    exchanges[0].submit(np.concatenate([keyed(number) for number in (1, 2, 3)]))
    exchanges[1].submit(np.concatenate([keyed(number) for number in (9, 3)]))
    exchanges[1].advance(77)
    parts = split([export(exchange.tables) for exchange in exchanges], lambda events: events, 2)
    for part in parts:
        assert [1, 9, 2, 3] == part.keys["low"].tolist()
        restored = continued(part, LIMITS, 1, market_data=False)
        restored.validate()
        (report,) = restored.submit(keyed(9))
        assert (ReportKind.DUPLICATE, ReportFlag.REPEAT) == (report["kind"], report["flags"])
        assert 77 == restored.tables.cells[Cell.ENGINE_NS]


def test_what_cannot_be_shared_out_is_refused():
    """An event in two states, and a function that names no shard."""
    exchange = Exchange(LIMITS)
    exchange.create_event(5)
    state = export(exchange.tables)
    with pytest.raises(ValueError, match="event 5 is in several states"):
        split([state, state], np.zeros_like, 1)
    for wrong in (lambda _: np.array([2]), lambda _: np.array([-1]), lambda _: np.array([0, 0])):
        with pytest.raises(ValueError, match="shard_of must give each event a shard from 0 to 1"):
            split([state], wrong, 2)


def test_columns_follow_one_another():
    """The tables of a state are padded nowhere, so that their bytes say all there is to compare."""
    for name, dtype in TABLES_OF_STATE.items():
        ends = sorted((offset, offset + kind.itemsize) for kind, offset in dtype.fields.values())
        assert all(before[1] == behind[0] for before, behind in pairwise(ends)), name
