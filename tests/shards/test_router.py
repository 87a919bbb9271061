"""The router deals whole frames in order, waits where there is no room, and acknowledges only what is durable."""

import json
import uuid
from contextlib import contextmanager

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ringpit.engine.codes import CommandKind, Flag, Reason, SelfTrade
from ringpit.engine.records import BANDS, COMMAND, MARKER
from ringpit.ipc.segment import Segment
from ringpit.shards.config import Config
from ringpit.shards.delivery import publisher_key
from ringpit.shards.directory import Directory
from ringpit.shards.layout import State, first_position, router_layout, segment_name, worker_layout
from ringpit.shards.packed import CONTENT_TYPE, encode
from ringpit.shards.router import Router, body_hash
from ringpit.shards.sections import Placement
from ringpit.testing.fake_broker import FakeBroker, FakeIntake

SHARDS = 2
EVENTS = 6
INCARNATION = 3
JSON = "application/json"


def home(event):
    """Where the tests place an event: even ones on shard 0, odd ones on shard 1."""
    return event % SHARDS


def orders(*events, first_order=1):
    """One new order for each event named, with rising ids."""
    commands = np.zeros(len(events), COMMAND)
    commands["kind"] = CommandKind.NEW
    commands["event"] = events
    commands["order"] = first_order + np.arange(len(events))
    commands["price"] = 50
    commands["quantity"] = 1
    return commands


class Rig:
    """A router over a queue in memory; plain segments stand for its workers, and the tests play them."""

    def __init__(self, input_slots, *, placement=None, started=True, index=0, self_trade=SelfTrade.NONE):
        config = Config()
        self.config = replace(
            config,
            exchange=replace(
                config.exchange, name=f"test-{uuid.uuid4().hex[:12]}", shards=SHARDS, routers=index + 1
            ),
            limits=replace(config.limits, events=EVENTS),
            rings=replace(config.rings, input_slots=input_slots, journal_slots=8, output_slots=8),
        )
        placement = {event: home(event) for event in range(EVENTS)} if placement is None else placement
        self.broker = FakeBroker()
        self.intake = FakeIntake(self.broker)
        self.segment = self._create("router", router_layout(self.config), index, INCARNATION)
        self.workers = [None] * SHARDS
        self.dead_workers = []
        self.read = [first_position(INCARNATION)] * SHARDS  # how far the tests have looked
        directory = Directory(SHARDS, EVENTS * SHARDS, Placement(events=placement))
        self.router = Router(
            index,
            self.segment,
            first_position(INCARNATION),
            self.intake,
            directory,
            SHARDS,
            lambda _text: None,
            self_trade,
        )
        self.index = index
        for shard in range(SHARDS if started else 0):
            self.start_worker(shard, 1)
        if started:
            self.router.step(0)

    def _create(self, label, layout, index, incarnation):
        return Segment.create(segment_name(self.config, label, index, incarnation), layout, incarnation)

    def close(self):
        for segment in [self.segment, *filter(None, self.workers), *self.dead_workers]:
            segment.unlink()
            segment.close()

    def start_worker(self, shard, incarnation, *, events=(), state=State.RUNNING):
        """A worker that has recovered, showing the events of its log; it reads from where the router says."""
        if self.workers[shard] is not None:
            self.dead_workers.append(self.workers[shard])
            self.router.lose(shard)
        worker = self._create("worker", worker_layout(self.config), shard, incarnation)
        for row, event in enumerate(events):
            worker.region("events")[row] = (event, 1, 99, 100, 1, 2)
        worker.store("events_count", len(events))
        worker.store("state", state)
        worker.store(f"input_head.{self.index}", first_position(INCARNATION))
        self.workers[shard] = worker
        self.router.attach(shard, worker)

    def publish(self, commands, message_id=b""):
        """Put a packed delivery into the queue."""
        self.broker.publish(CONTENT_TYPE, encode(commands), publisher_key(b"", b"", message_id))

    def publish_json(self, *messages):
        """Put a JSON delivery into the queue."""
        self.broker.publish(JSON, json.dumps(messages).encode())

    def tail(self, shard):
        """Where a ring ends."""
        return self.segment.load(f"input_tail.{shard}")

    def take(self, shard):
        """Frames that have appeared in a ring since the last look: (marker, commands)."""
        slots = self.segment.region(f"input.{shard}")
        found = []
        while self.read[shard] < self.tail(shard):
            position = self.read[shard]
            marker = slots.view(MARKER)[position & (len(slots) - 1)].copy()
            count = int(marker["count"])
            places = (position + 1 + np.arange(count)) & (len(slots) - 1)
            found.append((marker, slots[places]))
            self.read[shard] += 1 + count
            assert self.read[shard] == marker["position"]
        assert self.read[shard] == self.tail(shard)
        return found

    def free(self, shard, position=None):
        """The worker has matched everything, or everything below a position."""
        head = self.tail(shard) if position is None else position
        self.workers[shard].store(f"input_head.{self.index}", head)

    def durable(self, shard, position=None):
        """The log has everything, or everything below a position."""
        durable = self.tail(shard) if position is None else position
        self.workers[shard].store(f"durable_position.{self.index}", durable)

    def unacknowledged(self):
        """Deliveries that the intake has handed out and still holds."""
        return len(self.intake._held)


@contextmanager
def rig_of(input_slots=64, **options):
    """A rig, and nothing left of it."""
    made = Rig(input_slots, **options)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def rig():
    """A rig with two workers that have been greeted."""
    with rig_of() as made:
        yield made


# Frames ---------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, EVENTS - 1), min_size=1, max_size=7), max_size=12))
def test_a_delivery_is_one_frame_on_each_shard_that_it_touches(deliveries):
    """Each shard gets the commands of its events, in the order submitted, one whole frame for each delivery."""
    with rig_of(128) as rig:
        expected = [[] for _ in range(SHARDS)]
        for number, events in enumerate(deliveries):
            commands = orders(*events, first_order=1 + 100 * number)
            rig.publish(commands)
            for shard in range(SHARDS):
                mine = [command for command in commands.tolist() if home(command[8]) == shard]
                if mine:
                    expected[shard].append(mine)
        rig.router.step(0)

        for shard in range(SHARDS):
            found = rig.take(shard)
            assert expected[shard] == [commands.tolist() for _, commands in found]
            assert [frame[0][8] for frame in expected[shard]] == [
                int(marker["first_event"]) for marker, _ in found
            ]


def test_a_marker_names_the_delivery():
    """Kind, router, key, hash of the body, when it came and when it was written; engine time is the worker's to say."""
    with rig_of(index=1) as rig:
        commands = orders(1, 3)
        rig.publish(commands, b"m-1")
        rig.router.step(0)
        ((marker, _),) = rig.take(1)

        assert CommandKind.MARKER == marker["kind"]
        assert 1 == marker["router"]
        assert 2 == marker["count"]
        assert publisher_key(b"", b"", b"m-1") == (marker["key_low"], marker["key_high"])
        body = encode(commands)
        assert len(body) << 32 | google_crc32c.value(body) == marker["body_hash"]
        assert marker["reserved"] == 0
        assert 0 < marker["ingress_ns"] <= marker["engine_ns"]
        counted = [int(rig.segment.region(f"ingress_ns.{shard}").sum()) for shard in range(SHARDS)]
        assert [0, 2] == counted
        assert [] == rig.take(0)


def test_the_body_hash_is_fixed_for_ever():
    """A hash that is logged may not change: length above CRC32C, whose check value is well known."""
    assert 9 << 32 | 0xE306_9283 == body_hash(b"123456789")
    assert body_hash(b"123456789") == body_hash(memoryview(b"123456789"))


def test_a_frame_becomes_visible_all_at_once(rig):
    """A frame of the whole ring is there after one step, or not at all."""
    first = first_position(INCARNATION)
    rig.publish(orders(*[0] * 63))
    rig.publish(orders(0))
    rig.router.step(0)
    assert [63] == [len(commands) for _, commands in rig.take(0)]

    rig.free(0, first + 1)
    rig.router.step(0)
    assert first + 64 == rig.tail(0), "one free slot is not room for a marker and an order"

    rig.free(0, first + 2)
    rig.router.step(0)
    assert [1] == [len(commands) for _, commands in rig.take(0)]


# Back-pressure --------------------------------------------------------------------------------------------


def test_a_full_ring_holds_everything_behind_it(rig):
    """What waits for one shard keeps later deliveries of other shards waiting: order is order."""
    rig.publish(orders(*[0] * 60))
    rig.publish(orders(0, 0, 0, 0, first_order=100))
    rig.publish(orders(1, first_order=200))
    rig.router.step(0)
    assert [60] == [len(commands) for _, commands in rig.take(0)]
    assert [] == rig.take(1)

    rig.free(0)
    rig.router.step(0)
    assert [[100, 101, 102, 103]] == [commands["order"].tolist() for _, commands in rig.take(0)]
    assert [[200]] == [commands["order"].tolist() for _, commands in rig.take(1)]


def test_a_delivery_of_two_shards_waits_for_both(rig):
    """A shard with room gets nothing of a delivery for which another shard has none."""
    rig.publish(orders(*[0] * 63))
    rig.publish(orders(1, 0, first_order=100))
    rig.router.step(0)
    rig.take(0)
    assert first_position(INCARNATION) == rig.tail(1)

    rig.free(0)
    rig.router.step(0)
    assert [[100]] == [commands["order"].tolist() for _, commands in rig.take(1)]
    assert [[101]] == [commands["order"].tolist() for _, commands in rig.take(0)]


def test_a_full_ring_pauses_the_intake_until_there_is_room(rig):
    """With enough waiting nothing more is taken in; when the ring empties everything comes, once and in order."""
    for number in range(1, 201):
        rig.publish(orders(0, first_order=number))
    for _ in range(3):
        rig.router.step(0)
    rig.publish(orders(0, first_order=201))
    rig.router.step(0)
    assert rig.intake.paused
    assert 1 == len(rig.broker.queue)

    dealt = []
    for _ in range(20):
        dealt += [int(commands["order"][0]) for _, commands in rig.take(0)]
        rig.free(0)
        rig.router.step(0)
    assert list(range(1, 202)) == dealt
    assert not rig.intake.paused


# Acknowledgement ------------------------------------------------------------------------------------------


@st.composite
def histories(draw):
    """Deliveries (events of each, None: garbage), and what happens to the shards between the router's steps."""
    events = st.lists(st.integers(0, EVENTS - 1), min_size=1, max_size=4)
    deliveries = draw(st.lists(st.none() | events, min_size=1, max_size=15))
    moves = st.tuples(st.sampled_from(["durable 0", "durable 1", "dead"]), st.integers(0, 100))
    return deliveries, draw(st.lists(moves, max_size=25))


@given(histories())
def test_only_a_prefix_that_is_durable_everywhere_is_acknowledged(history):
    """After each step exactly those deliveries are acknowledged before which nothing can be lost any more."""
    deliveries, moves = history
    with rig_of(256) as rig:
        rig.broker.confirms_dead_letters = False
        ends = [first_position(INCARNATION)] * SHARDS
        needs = []  # of each delivery: position on each shard; None: its dead letter
        for events in deliveries:
            if events is None:
                rig.broker.publish(JSON, b"{")
                needs.append(None)
                continue
            rig.publish(orders(*events))
            need = {}
            for shard in range(SHARDS):
                count = sum(home(event) == shard for event in events)
                if count:
                    ends[shard] += 1 + count
                    need[shard] = ends[shard]
            needs.append(need)
        rig.router.step(0)

        durable = [first_position(INCARNATION)] * SHARDS
        for move, percent in moves:
            if move == "dead":
                rig.broker.confirms_dead_letters = True
            else:
                shard = int(move[-1])
                durable[shard] += (ends[shard] - durable[shard]) * percent // 100
                rig.durable(shard, durable[shard])
            rig.router.step(0)

            safe = 0
            for need in needs:
                if need is None and not rig.broker.confirms_dead_letters:
                    break
                if need is not None and any(durable[shard] < end for shard, end in need.items()):
                    break
                safe += 1
            assert len(deliveries) - safe == rig.unacknowledged()
            assert safe == rig.segment.load("acknowledged")


def test_garbage_is_put_aside_in_its_turn(rig):
    """A malformed delivery goes to the dead letters with its reason; it is acknowledged after what came before it."""
    rig.publish(orders(0))
    rig.broker.publish(JSON, b'{"Task": "Nonsense", "ID": 1}')
    rig.publish(orders(1))
    rig.durable(1, rig.tail(1) + 100)
    for _ in range(3):
        rig.router.step(0)
    assert 3 == rig.unacknowledged(), "the first one is not durable"
    assert [("MALFORMED", JSON)] == [(letter.reason, letter.content_type) for letter in rig.broker.dead]
    assert "Nonsense" in rig.broker.dead[0].detail
    assert b'{"Task": "Nonsense", "ID": 1}' == rig.broker.dead[0].body

    rig.durable(0)
    rig.router.step(0)
    assert 0 == rig.unacknowledged()
    assert (2, 1, 3) == tuple(rig.segment.load(word) for word in ("deliveries", "malformed", "acknowledged"))


def test_packed_garbage_touches_no_ring(rig):
    """One command that a client may not send refuses its whole delivery."""
    body = bytearray(encode(orders(0, 1)))
    body[16 + 64] = CommandKind.MARKER
    rig.broker.publish(CONTENT_TYPE, bytes(body))
    for _ in range(2):
        rig.router.step(0)

    assert [] == rig.take(0) + rig.take(1)
    [detail] = [letter.detail for letter in rig.broker.dead]
    assert detail.startswith("record 1 of 2: kind must be one of 1 NEW, ")
    assert detail.endswith(", was 8 (byte 80)")


# Workers come and go --------------------------------------------------------------------------------------


def test_nothing_is_dealt_before_every_worker_was_greeted():
    """A worker that still recovers is not greeted, and holds everything back, on other shards too."""
    with rig_of(started=False) as rig:
        rig.start_worker(0, 1)
        rig.start_worker(1, 1, state=State.RECOVERING)
        rig.publish(orders(0))
        rig.router.step(0)
        assert rig.intake.paused
        assert [] == rig.take(0)
        assert (1, 0) == tuple(rig.segment.load(f"input_peer.{shard}") for shard in range(SHARDS))

        rig.workers[1].store("state", State.RUNNING)
        for _ in range(2):
            rig.router.step(0)
        assert [1] == [len(commands) for _, commands in rig.take(0)]
        assert first_position(INCARNATION) == rig.segment.load("input_base.1")
        assert not rig.intake.paused


def test_a_new_worker_gets_everything_unacknowledged_again(rig):
    """The new one is told where to begin, and what was not acknowledged is dealt from there, with the same keys."""
    rig.publish(orders(0, first_order=1), b"durable")
    rig.publish(orders(0, 1, first_order=2), b"lost")
    rig.publish(orders(1, first_order=4), b"lost too")
    rig.router.step(0)
    rig.durable(0, first_position(INCARNATION) + 2)
    rig.router.step(0)
    before = {shard: rig.take(shard) for shard in range(SHARDS)}
    assert 2 == rig.unacknowledged()

    rig.start_worker(0, 2, state=State.RECOVERING)
    rig.router.step(0)
    assert [] == rig.take(0) + rig.take(1)
    rig.workers[0].store("state", State.RUNNING)
    base = rig.tail(0)
    for _ in range(2):
        rig.router.step(0)

    assert (2, base) == (rig.segment.load("input_peer.0"), rig.segment.load("input_base.0"))
    for shard, again in ((0, before[0][1:]), (1, before[1])):
        found = rig.take(shard)
        assert [commands.tolist() for _, commands in again] == [commands.tolist() for _, commands in found]
        for name in ("key_low", "key_high", "body_hash"):
            assert [marker[name] for marker, _ in again] == [marker[name] for marker, _ in found]


def test_counters_say_what_is_under_way_also_after_a_worker_was_replaced(rig):
    """Deliveries that come again are not counted twice: when all is durable, all counts agree."""
    rig.publish(orders(0))
    rig.broker.publish(JSON, b"[")
    rig.publish(orders(1))
    rig.durable(1, rig.tail(1) + 100)
    rig.router.step(0)
    rig.start_worker(0, 2)
    for _ in range(3):
        rig.router.step(0)
    for shard in range(SHARDS):
        rig.durable(shard)
    for _ in range(3):
        rig.router.step(0)

    assert 0 == rig.unacknowledged()
    assert (2, 1, 3) == tuple(rig.segment.load(word) for word in ("deliveries", "malformed", "acknowledged"))
    assert rig.router.idle


def test_what_became_durable_while_a_worker_was_replaced_is_counted_once(rig):
    """It is void with everything else that was not acknowledged in time, comes again, and is acknowledged then."""
    rig.publish(orders(1))
    rig.router.step(0)
    rig.start_worker(0, 2)
    rig.durable(1)
    rig.router.step(0)
    assert (1, 0) == tuple(rig.segment.load(word) for word in ("deliveries", "acknowledged"))

    rig.durable(1)
    rig.router.step(0)
    assert (1, 1) == tuple(rig.segment.load(word) for word in ("deliveries", "acknowledged"))
    assert 0 == rig.unacknowledged()


def test_a_broker_that_goes_away_delivers_again(rig):
    """Everything unacknowledged is void with the connection, and is dealt again when it is back."""
    rig.publish(orders(0), b"key")
    rig.router.step(0)
    rig.broker.up = False
    rig.router.step(0)
    assert rig.router.idle
    rig.broker.up = True
    rig.router.step(0)

    first, second = rig.take(0)
    assert first[0]["key_low"] == second[0]["key_low"]
    rig.durable(0)
    rig.router.step(0)
    assert 0 == rig.unacknowledged()


def test_draining_takes_nothing_more_in_and_loses_nothing(rig):
    """What waits for room when the stop comes stays in the queue; only what was dealt is still acknowledged."""
    rig.publish(orders(*[0] * 60))
    rig.publish(orders(*[0] * 10, first_order=100))
    rig.router.step(0)
    rig.router.drain()
    rig.publish(orders(1, first_order=200))
    rig.free(0)
    for _ in range(3):
        rig.router.step(0)
    assert [60] == [len(commands) for _, commands in rig.take(0)]
    assert [] == rig.take(1)
    assert not rig.router.idle

    rig.durable(0)
    rig.router.step(0)
    assert rig.router.idle
    rig.router.close()
    assert [10, 1] == [(len(message.body) - 16) // 64 for message in rig.broker.queue]


# Events and prices ----------------------------------------------------------------------------------------


def test_an_event_of_the_log_stays_where_it_is():
    """A changed placement decides for new events only; what a worker's log holds lives there for ever."""
    with rig_of(placement={2: 1, 4: 1}, started=False) as rig:
        rig.start_worker(0, 1, events=[2])
        rig.start_worker(1, 1)
        rig.publish(orders(2, 4))
        for _ in range(2):
            rig.router.step(0)

        assert [[2]] == [commands["event"].tolist() for _, commands in rig.take(0)]
        assert [[4]] == [commands["event"].tolist() for _, commands in rig.take(1)]


def test_orders_for_unknown_events_all_go_to_one_shard():
    """Who knows no event still knows where it would be created, so creation and orders keep their order."""
    with rig_of(placement={}) as rig:
        rig.publish(orders(4711, 4711))
        rig.publish_json({"Task": "CreateEvent", "ID": 4711}, {"Task": "Settlement", "ID": 4711})
        rig.router.step(0)

        assert sorted([[], [2, 2]]) == sorted(
            [len(commands) for _, commands in rig.take(shard)] for shard in (0, 1)
        )


def order_message(event, price, order=1):
    """An order in JSON at a decimal price."""
    return {
        "Task": "Order",
        "ID": event,
        "Order": {"OrderID": order, "Account": 1, "Side": "Buy", "Price": price, "Quantity": 1},
    }


def test_decimal_prices_use_the_event_s_own_tick(rig):
    """Known from the worker's log, from an earlier delivery, or from the same delivery; else the order is refused."""
    rig.start_worker(0, 2, events=[0])
    create = {"Task": "CreateEvent", "ID": 2, "Spec": {"Tick": "0.001", "Payout": "1"}}
    rig.publish_json(order_message(0, 0.57), order_message(2, "0.5"))
    rig.publish_json(order_message(2, "0.5"), create, order_message(2, "0.571"))
    rig.publish_json(order_message(2, 0.5715), order_message(2, 0.25))
    for _ in range(2):
        rig.router.step(0)

    found = [
        [(int(command["price"]), Reason(command["verdict"])) for command in commands if command["kind"] == CommandKind.NEW]
        for _, commands in rig.take(0)
    ]  # fmt: skip
    assert [
        [(57, Reason.NONE), (0, Reason.UNKNOWN_EVENT)],
        [(0, Reason.UNKNOWN_EVENT), (571, Reason.NONE)],
        [(0, Reason.PRICE_NOT_ON_TICK), (250, Reason.NONE)],
    ] == found


def test_a_packed_creation_teaches_prices_too(rig):
    """An event created in a packed frame has its tick in the next JSON delivery; one that cannot be teaches nothing."""
    commands = np.zeros(2, COMMAND)
    commands["kind"] = CommandKind.CREATE_EVENT
    commands["event"] = 0, 2
    commands["order"], commands["account"] = 1, 3  # a tick of 0.001
    commands["price"] = 1
    commands["quantity"] = 999, 2_000
    commands["payout"] = 1_000
    rig.publish(commands)
    rig.publish_json(order_message(0, 0.571), order_message(2, 0.5))
    rig.router.step(0)

    _, (_, asked) = rig.take(0)
    assert [(571, Reason.NONE), (0, Reason.UNKNOWN_EVENT)] == [
        (int(command["price"]), Reason(command["verdict"])) for command in asked
    ]


# What completes a command, and what is for all ------------------------------------------------------------


def test_a_mass_cancel_of_all_events_is_one_frame_on_every_shard(rig):
    """Alone or among others it stands once in each frame, and the delivery waits for all of them."""
    mass = np.zeros(1, COMMAND)
    mass["kind"], mass["flags"], mass["account"] = CommandKind.MASS_CANCEL, Flag.ALL_EVENTS, 42
    rig.publish_json({"Task": "MassCancel", "Account": 42})
    rig.publish(np.concatenate([orders(0), mass, orders(1, 3)]), b"among others")
    rig.router.step(0)

    frames = [rig.take(shard) for shard in (0, 1)]
    assert [[1, 2], [1, 3]] == [[int(marker["count"]) for marker, _ in taken] for taken in frames]
    kinds = [[commands["kind"].tolist() for _, commands in taken] for taken in frames]
    new, cancel = CommandKind.NEW, CommandKind.MASS_CANCEL
    assert [[[cancel], [new, cancel]], [[cancel], [cancel, new, new]]] == kinds
    assert all(42 == taken[0][1]["account"][0] for taken in frames)
    rig.durable(0)
    rig.router.step(0)
    assert 2 == rig.unacknowledged()
    rig.durable(1)
    rig.router.step(0)
    assert 0 == rig.unacknowledged()


def test_what_completes_a_command_goes_with_it(rig):
    """Extensions and bands stand right before their command in its shard's frame, whatever else is in the delivery."""
    hidden = order_message(0, 0.5)
    hidden["Order"] |= {"PriceTicks": 50, "Display": 3}
    del hidden["Order"]["Price"]
    bands = [
        {"Last": "0.49", "Tick": "0.02"},
        {"Last": "0.51", "Tick": "0.01"},
        {"Last": "0.99", "Tick": "0.02"},
    ]
    create = {"Task": "CreateEvent", "ID": 3, "Spec": {"Bands": bands, "OrdersMax": 5}}
    rig.publish_json(create, hidden, {"Task": "Settlement", "ID": 3}, hidden | {"ID": 1})
    rig.router.step(0)

    kinds = [
        [kind for _, commands in rig.take(shard) for kind in commands["kind"].tolist()] for shard in (0, 1)
    ]
    extension = CommandKind.EXTENSION
    assert [extension, CommandKind.NEW] == kinds[0]
    assert [
        CommandKind.BANDS, extension, CommandKind.CREATE_EVENT, CommandKind.SETTLE, extension, CommandKind.NEW,
    ] == kinds[1]  # fmt: skip


def test_a_creation_with_unsound_bands_teaches_nothing(rig):
    """The engine refuses it, so its tick must not be taken for that of an event created later."""
    commands = np.zeros(4, COMMAND)
    commands["kind"] = [CommandKind.BANDS, CommandKind.CREATE_EVENT] * 2
    commands["event"] = [0, 0, 2, 2]
    for place, last in ((0, 998), (2, 999)):
        record = commands[place : place + 1].view(BANDS)[0]
        record["count"], record["last_1"], record["step_1"] = 1, last, 1
    for place in (1, 3):
        commands[place]["order"], commands[place]["account"] = 1, 3
        commands[place]["price"], commands[place]["quantity"], commands[place]["payout"] = 1, 999, 1_000
    rig.publish(commands)
    rig.publish_json(order_message(0, 0.5), order_message(2, 0.5))
    rig.router.step(0)
    _, (_, asked) = rig.take(0)
    assert [(0, Reason.UNKNOWN_EVENT), (500, Reason.NONE)] == [
        (int(command["price"]), Reason(command["verdict"])) for command in asked
    ]


def test_more_records_than_a_frame_holds_are_put_aside(rig):
    """A list whose extensions make it too long is refused whole, with the number of records that it made."""
    one = order_message(0, 0.5)
    one["Order"]["Group"] = 5
    rig.publish_json(*[one] * 2_049)
    for _ in range(2):
        rig.router.step(0)
    assert [] == rig.take(0)
    [detail] = [letter.detail for letter in rig.broker.dead]
    assert detail.startswith("a delivery must make at most 4096 records, made 4098")


def test_the_configured_self_trade_mode_is_for_messages():
    """Messages that name none get it, packed orders never."""
    with rig_of(self_trade=SelfTrade.DECREMENT) as rig:
        rig.publish_json(order_message(0, 0.5))
        rig.publish(orders(0))
        rig.router.step(0)
        modes = [int(commands["self_trade"][0]) for _, commands in rig.take(0)]
        assert [SelfTrade.DECREMENT, SelfTrade.NONE] == modes
