"""What the load generator sends: the same for the same seed, in all encodings, at the times that were asked for."""

import json

import numpy as np
import pytest

from ringpit.engine.codes import CommandKind
from ringpit.perf.load_flow import (
    ENCODINGS,
    MIXES,
    based,
    before_parts,
    due_ns_of,
    due_of_parts,
    orders_of,
    parts_of,
    popularity,
    settling_parts,
)
from ringpit.shards import packed
from ringpit.shards.flow import messages
from ringpit.shards.messages import decode, to_commands
from ringpit.shards.routes import router_of

COUNT, EVENTS = 500, 4


def drawn(mix="demo", *, seed=7, events=EVENTS, zipf=0.0, count=COUNT, levels_max=1 << 20):
    """Orders of a mix."""
    return orders_of(mix, count, seed=seed, events=events, zipf=zipf, levels_max=levels_max)


@pytest.mark.parametrize("mix", MIXES)
def test_the_same_seed_gives_the_same_orders(mix):
    """Every mix: as many as asked for, the same bytes again, others with another seed."""
    first, again, other = drawn(mix), drawn(mix), drawn(mix, seed=8)
    assert COUNT == len(first.starts) - 1
    assert first.records.tobytes() == again.records.tobytes()
    assert first.before.tobytes() == again.before.tobytes()
    assert first.records.tobytes() != other.records.tobytes()
    assert set(first.events.tolist()) >= set(first.records["event"].tolist())


@pytest.mark.parametrize("mix", MIXES)
def test_a_base_moves_ids_and_nothing_else(mix):
    """Order ids and event ids are so much larger; all other fields are the same."""
    orders = drawn(mix)
    moved = based(orders, 10**6)
    for before, after in ((orders.before, moved.before), (orders.records, moved.records)):
        for name in before.dtype.names:
            if name not in ("order", "event"):
                assert before[name].tolist() == after[name].tolist()
    assert (orders.records["order"] + 10**6).tolist() == moved.records["order"].tolist()
    assert [10**6 + 1, 10**6 + EVENTS] == [moved.events[0], moved.events[-1]]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [1, 7])
def test_all_encodings_say_the_same(encoding, size):
    """Decoded as a router decodes them, all deliveries give the same commands."""
    orders = drawn()
    [(_, made)] = parts_of(orders, encoding, size, 1)
    if encoding == "packed":
        parts = [packed.view(body) for body in made.bodies]
    else:
        parts = [to_commands(decode(made.content_type, body), {}.get) for body in made.bodies]
    assert [size] * (COUNT // size) == [len(part) for part in parts][: COUNT // size]
    assert list(messages(orders.records)) == list(messages(np.concatenate(parts)))
    assert [0, COUNT] == [made.first[0], made.first[-1]]


@pytest.mark.parametrize("arrivals", ["even", "poisson", "burst"])
@pytest.mark.parametrize("routers", [1, 2, 4])
def test_each_router_gets_the_orders_of_its_events_and_no_other(routers, arrivals):
    """Every order goes to one router, in order, by the rule that publishers share; together they are due as one flow would be."""
    orders, how = drawn(events=40), {"rate": 1_000, "arrivals": arrivals, "burst": 8, "seed": 3}
    parts = parts_of(orders, "packed", 7, routers)
    assert routers == len(parts)
    due_ns = due_of_parts(parts, **how)
    found, due_of_order = np.zeros(COUNT, orders.records.dtype), np.full(COUNT, -1)
    for router, (part, due) in enumerate(zip(parts, due_ns, strict=True)):
        records = np.concatenate([packed.view(body) for body in part.bodies.bodies])
        assert {router} == {router_of(event, routers) for event in records["event"].tolist()}
        assert sorted(part.orders) == part.orders.tolist()
        assert sorted(due) == due.tolist()
        found[part.orders] = records
        due_of_order[part.orders] = np.repeat(due, np.diff(part.bodies.first))
    assert orders.records.tobytes() == found.tobytes()
    if routers == 1:
        [part] = parts
        assert due_ns_of(part.bodies.first, **how).tolist() == due_ns[0].tolist()
    assert due_of_order.min() >= 0
    if arrivals == "even":  # each delivery when so many orders are sent
        times = np.concatenate(due_ns)
        sizes = np.concatenate([np.diff(part.bodies.first) for part in parts])[np.argsort(times)]
        assert (np.append(0, np.cumsum(sizes[:-1])) * 1_000_000).tolist() == sorted(times)


def test_a_router_without_an_event_gets_nothing():
    """One event, four routers: three parts are empty, and nothing is due there."""
    parts = parts_of(drawn(events=1), "json", 3, 4)
    assert [0, 0, 0, COUNT] == sorted(len(part.orders) for part in parts)
    due_ns = due_of_parts(parts, rate=1_000, arrivals="even", burst=1, seed=1)
    assert [len(part.bodies.bodies) for part in parts] == list(map(len, due_ns))


@pytest.mark.parametrize("routers", [1, 3])
def test_a_file_that_creates_no_event_needs_nothing_before_and_after(tmp_path, routers):
    """Its events are there already: the parts are empty."""
    file = tmp_path / "orders"
    file.write_bytes(packed.encode(drawn().records))
    orders = orders_of(str(file), 0, seed=7, events=EVENTS, zipf=0.0)
    assert COUNT == len(orders.starts) - 1
    for part in (*before_parts(orders, routers), *settling_parts(orders, routers)):
        assert (0, []) == (len(part.orders), part.bodies.bodies)


def test_what_comes_before_and_after_creates_and_settles_each_event():
    """One CREATE_EVENT and one SETTLE for each."""
    orders = drawn()
    created, settled = (
        np.concatenate([packed.view(body) for body in part.bodies.bodies])
        for part in (*before_parts(orders, 1), *settling_parts(orders, 1))
    )
    assert orders.events.tolist() == created["event"].tolist() == settled["event"].tolist()
    assert {CommandKind.SETTLE} == set(settled["kind"].tolist())


def test_popular_events_get_more():
    """Zipf: the first of events has 1/1, the second 1/2 of it; 0 treats all alike."""
    assert [0.25] * 4 == popularity(4, 0).tolist()
    chances = popularity(3, 1)
    assert chances[0] == pytest.approx(2 * chances[1]) == pytest.approx(3 * chances[2])
    counts = np.bincount(drawn("uniform", zipf=2.0).records["event"])
    assert counts[1] > 2 * counts[2] > 0


def test_wide_books_get_skip_lists():
    """Where ladders would not fit the pool of levels."""
    narrow, wide = drawn("referee"), drawn("referee", levels_max=1_000)
    assert [0, 2] == [int(each.before["order_type"][0]) for each in (narrow, wide)]


def test_even_arrivals_are_evenly_spread():
    """At 1,000 orders a second in deliveries of 10, one every 10 ms."""
    first = np.append(np.arange(0, 100, 10), 100)
    due_ns = due_ns_of(first, rate=1_000, arrivals="even", burst=1, seed=1)
    assert [10_000_000 * number for number in range(10)] == due_ns.tolist()


def test_bursts_are_due_at_once():
    """Bursts of 4 at 1,000 a second: four at 0, four at 4 ms."""
    due_ns = due_ns_of(np.arange(9), rate=1_000, arrivals="burst", burst=4, seed=1)
    assert [0] * 4 + [4_000_000] * 4 == due_ns.tolist()


def test_poisson_arrivals_have_the_rate_and_its_spread():
    """Gaps with a mean, and a deviation, of 1 ms at 1,000 a second; the same for the same seed."""
    first = np.arange(20_001)
    due_ns, again = (due_ns_of(first, rate=1_000, arrivals="poisson", burst=1, seed=5) for _ in range(2))
    gaps = np.diff(due_ns)
    assert due_ns.tolist() == again.tolist()
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(1e6, rel=0.05)
    assert gaps.std() == pytest.approx(1e6, rel=0.05)


def test_a_file_is_replayed_in_either_form(tmp_path):
    """The same orders from lines of JSON and from packed bodies; events first, extensions kept with their orders."""
    lines = [
        {"Task": "CreateEvent", "ID": 3},
        {
            "Task": "Order",
            "ID": 3,
            "Order": {"OrderID": 9, "Account": 1, "Side": "Buy", "Price": "0.4", "Quantity": 2},
        },
        {
            "Task": "Order",
            "ID": 3,
            "Order": {
                "OrderID": 10,
                "Account": 1,
                "Side": "Sell",
                "Price": "0.6",
                "Quantity": 50,
                "Display": 5,
            },
        },
        {"Task": "Order", "ID": 3, "Order": {"OrderID": 9, "Account": 1, "Action": "Cancel"}},
    ]
    text, frames = tmp_path / "orders.ndjson", tmp_path / "orders.packed"
    text.write_text("\n".join(map(json.dumps, lines)))
    frames.write_bytes(
        b"".join(
            packed.encode(to_commands(decode(None, json.dumps(line).encode()), {}.get)) for line in lines[:1]
        )
        + b"".join(
            packed.encode(
                to_commands(decode(None, json.dumps(line | {"Order": priced(line)}).encode()), {}.get)
            )
            for line in lines[1:]
        )
    )
    first, second = (drawn(str(path), count=0) for path in (text, frames))
    assert first.records.tobytes() == second.records.tobytes()
    assert 3 == len(first.starts) - 1
    assert [1, 2, 1] == np.diff(first.starts).tolist()
    assert 2 == first.ids


def priced(line):
    """The order with its price in ticks: a packed body needs no event's tick."""
    order = dict(line["Order"])
    if "Price" in order:
        order["PriceTicks"] = int(float(order.pop("Price")) * 100)
    return order


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "holds no order"),
        (b"nonsense", "line 1: "),
        (b"RPIT" + bytes(80), "byte 0: "),
        (b'{"Task":"CreateEvent","ID":7}\n{', "line 2: "),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_place(tmp_path, content, sentence):
    """The path, the place, and what is wrong."""
    file = tmp_path / "orders"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        drawn(str(file), count=0)


def test_a_mix_that_is_none_is_refused_with_those_that_are():
    """The sentence names the mixes, and that a file would do."""
    with pytest.raises(
        ValueError, match="--mix must be one of demo, referee, exchange-core, uniform, or a file"
    ):
        drawn("heavy")


@pytest.mark.parametrize("size", [0, 4_097])
def test_deliveries_of_impossible_sizes_are_refused(size):
    """1 to 4,096 orders."""
    with pytest.raises(ValueError, match=f"--frame must be from 1 to 4096 orders, was {size}"):
        parts_of(drawn(), "packed", size, 1)
