"""A running exchange is asked through lanes: each client gets its own whole answer, or a sentence that says why not."""

import os
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from msgspec.structs import replace

from ringpit.engine import Exchange, queries
from ringpit.ipc.segment import Segment, SegmentMismatch
from ringpit.shards import answers as answers_module
from ringpit.shards.answers import Answers
from ringpit.shards.config import Config
from ringpit.shards.lanes import CHUNK_BYTES, LANES, REQUEST, REQUESTS, Answered, Ask, request_slot
from ringpit.shards.layout import (
    State,
    board_layout,
    queries_layout,
    queries_name,
    segment_name,
    worker_layout,
)
from ringpit.shards.queries import Client, NoAnswer, NotRunning, ShardAway, Unknown

DEADLINE_SECONDS = 30.0
SHORT_SECONDS = 0.05
SHARDS = 2
SIZES = {"events": 8, "orders": 1 << 12, "levels": 4_096, "keys": 256}
ORDERS_MANY = 2 * CHUNK_BYTES // 64  # more rows than fit two pieces


class House:
    """Shared memory of an exchange of two shards, of which the test plays the workers and the supervisor."""

    def __init__(self, stack):
        config = Config()
        self.config = replace(
            config,
            exchange=replace(config.exchange, name=f"test-{uuid.uuid4().hex[:12]}", shards=SHARDS),
            limits=replace(config.limits, **SIZES),
            rings=replace(config.rings, journal_slots=1 << 12, output_slots=1 << 12),
        )
        self._stack = stack
        self.board = self.create(segment_name(self.config, "board", 0, 0), board_layout(self.config), 0)
        self.queries = self.create(queries_name(self.config), queries_layout(self.config), 0)
        self.exchanges = [Exchange(self.config.limits.limits()) for _ in range(SHARDS)]
        self.workers, self.answers = {}, {}
        self.heard = [0] * SHARDS
        for shard in range(SHARDS):
            self.exchanges[shard].create_event(shard + 1)
            self.start(shard, 1)

    def create(self, name, layout, incarnation):
        """A segment that goes with the test."""
        segment = Segment.create(name, layout, incarnation)
        self._stack.callback(segment.close)
        self._stack.callback(segment.unlink)
        return segment

    def start(self, shard, incarnation):
        """A life of a worker, which shows its event and is named by the board."""
        name = segment_name(self.config, "worker", shard, incarnation)
        worker = self.create(name, worker_layout(self.config), incarnation)
        worker.region("events")[0]["event"] = shard + 1
        worker.store("events_count", 1)
        worker.store("durable_seq", 1 << 40)
        worker.store("state", State.RUNNING)
        self.workers[shard] = worker
        self.answers[shard] = Answers(shard, worker, self.queries, self.exchanges[shard].tables)
        self.board.store(f"worker.{shard}.incarnation", incarnation)

    def turn(self, shard):
        """What a worker does between two runs; how many it answered."""
        bell = self.answers[shard].bell()
        if bell == self.heard[shard]:
            return 0
        self.heard[shard] = bell
        return self.answers[shard].answer(self.exchanges[shard].next_seq - 1, time.time_ns())

    @contextmanager
    def answering(self):
        """Workers answer as long as this lasts."""
        stop = threading.Event()

        def work():
            while not stop.is_set():
                for shard in range(SHARDS):
                    self.turn(shard)
                os.sched_yield()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def client(self, seconds=DEADLINE_SECONDS):
        """A client that is closed with the test."""
        return self._stack.enter_context(Client(self.config, patience_seconds=seconds))


@pytest.fixture
def house():
    """A house that runs."""
    with ExitStack() as stack:
        yield House(stack)


@pytest.fixture
def trading(house):
    """The same with orders on both shards."""
    for shard, exchange in enumerate(house.exchanges):
        event = shard + 1
        for order in range(1, 6):
            exchange.order(
                event, order=order, account=10 + order % 2, side="buy", price=40 + order, quantity=order
            )
            exchange.order(event, order=10 + order, account=10, side="sell", price=60 + order, quantity=9)
    return house


def test_every_question_gets_the_engine_s_own_answer(trading):
    """Order, open orders, depth, queue position, best, statistics and digest are those of the shard's tables."""
    client = trading.client()
    with trading.answering():
        for shard, exchange in enumerate(trading.exchanges):
            tables, event = exchange.tables, shard + 1
            assert queries.order_row(tables, event, 3).tobytes() == client.order_status(event, 3).tobytes()
            bids, asks = client.depth(event, 3)
            for side, found in enumerate((bids, asks)):
                wanted = exchange.depth(event, 3)[side]
                assert wanted.tolist() == found.tolist()
            assert (45, 61) == client.best(event)
            assert queries.queue_position(tables, event, 2) == client.queue_position(event, 2)
            assert queries.statistics(tables).items() <= client.statistics(shard).items()
            assert queries.digest(exchange.tables) == client.digest(shard)
            assert (shard, 1, exchange.next_seq - 1) == client.moment[:3]
        wanted = [queries.open_orders(exchange.tables, 11).tobytes() for exchange in trading.exchanges]
        assert b"".join(wanted) == client.open_orders(11).tobytes()
        assert [queries.digest(exchange.tables) for exchange in trading.exchanges] == client.digests()
        assert 0 == len(client.open_orders(99))


def test_a_long_answer_comes_in_pieces(house):
    """More rows than fit a piece arrive whole and in order, and nothing of them is kept afterwards."""
    exchange = house.exchanges[0]
    for order in range(1, ORDERS_MANY + 1):
        exchange.order(1, order=order, account=7, side="buy", price=order % 90 + 1, quantity=order)
    client = house.client()
    with house.answering():
        rows = client.open_orders(7)
    assert ORDERS_MANY == len(rows)
    assert queries.open_orders(exchange.tables, 7).tobytes() == rows.tobytes()
    assert {} == house.answers[0]._kept


def test_an_answer_that_the_next_worker_does_not_know_is_asked_for_anew(house, monkeypatch):
    """The worker dies between two pieces: the answer is the next one's, whole."""
    lives = []

    def make(_tables, _request):
        lives.append(len(lives))
        if lives == [0]:
            house.workers[0].store("events_count", 1)
        return Answered.DONE, bytes([len(lives)]) * (CHUNK_BYTES + 5)

    monkeypatch.setitem(answers_module.MAKERS, Ask.DIGEST, make)
    client = house.client()
    piece, asked = client._piece, []

    def then_die(*arguments):
        found = piece(*arguments)
        asked.append(arguments[2])
        if len(asked) == 1:
            house.start(0, 2)
        return found

    monkeypatch.setattr(client, "_piece", then_die)
    with house.answering():
        assert b"\2" * (CHUNK_BYTES + 5) == client._ask(0, Ask.DIGEST).content
    assert [0, CHUNK_BYTES, 0, CHUNK_BYTES] == asked
    assert 2 == client.moment.incarnation


def test_what_is_not_there_is_named(trading):
    """No such event, no such open order."""
    client = trading.client()
    with trading.answering():
        with pytest.raises(Unknown, match="no shard knows event 77: create it first"):
            client.depth(77)
        with pytest.raises(
            Unknown, match="event 2 has no open order 99: it never came, was filled or cancelled"
        ):
            client.order_status(2, 99)
        with pytest.raises(Unknown, match="event 2 has no open order 99"):
            client.queue_position(2, 99)
        with pytest.raises(ValueError, match="levels must be from 1 to 1000, was 0"):
            client.depth(1, 0)


# Who is away -----------------------------------------------------------------------------------------------


def test_no_exchange_says_so():
    """Without shared memory of that name there is nobody to ask."""
    config = Config()
    config = replace(config, exchange=replace(config.exchange, name=f"none-{uuid.uuid4().hex[:12]}"))
    with pytest.raises(
        NotRunning, match=r"no exchange 'none-\w+' runs on this machine: start it with `ringpit run`"
    ):
        Client(config)


def test_another_configuration_is_refused(house):
    """Sizes that differ from the running exchange's would read other words."""
    limits = replace(house.config.limits, events=9)
    client = Client(replace(house.config, limits=limits))
    with client, pytest.raises(SegmentMismatch):
        client.statistics(0)


@pytest.mark.parametrize(
    ("state", "doing"),
    [(State.STARTING, "is starting"), (State.RECOVERING, "is recovering"), (State.DRAINED, "has stopped")],
)
def test_a_worker_that_does_not_serve_says_so(house, state, doing):
    """Who starts, recovers or leaves is not waited for; nor is an event called unknown that may be there."""
    client = house.client()
    house.workers[1].store("state", state)
    with pytest.raises(ShardAway, match=f"shard 1 {doing} and answers nothing now"):
        client.digest(1)
    with pytest.raises(ShardAway):
        client.depth(3)
    with house.answering():
        assert queries.digest(house.exchanges[0].tables) == client.digest(0)


def test_a_worker_that_begins_to_recover_ends_the_waiting(house, monkeypatch):
    """The worker dies after it was asked: the next one says that it recovers."""
    client = house.client()
    ring = client._ring

    def then_die(shard):
        ring(shard)
        house.start(0, 2)
        house.workers[0].store("state", State.RECOVERING)

    monkeypatch.setattr(client, "_ring", then_die)
    with pytest.raises(ShardAway, match="shard 0 is recovering"):
        client.digest(0)


def test_patience_ends(house):
    """Nobody answers: a sentence after the time that was given, and the request is not answered later."""
    client = house.client(SHORT_SECONDS)
    with pytest.raises(NoAnswer, match=r"shard 0 gave no answer within 0\.05 s"):
        client.digest(0)
    assert 0 == house.turn(0)


def test_an_answer_waits_for_the_log(house):
    """What the log has not got yet is not told, unless reports are released before the log has them, too."""
    worker, digest = house.workers[0], queries.digest(house.exchanges[0].tables)
    worker.store("durable_seq", 0)
    early = replace(house.config, output=replace(house.config.output, release="matched"))
    client = house.client()
    with house.answering():
        with Client(early, patience_seconds=DEADLINE_SECONDS) as hasty:
            assert digest == hasty.digest(0)
        answer = client._whole(0, Ask.DIGEST, time.monotonic() + DEADLINE_SECONDS, {})
        with pytest.raises(NoAnswer, match="its log has not taken what the answer tells of"):
            client._durable(answer, time.monotonic())
        worker.store("durable_seq", answer.moment.seq)
        assert client._durable(answer, time.monotonic())
        assert digest == client.digest(0)
        house.start(0, 2)
        assert not client._durable(answer, time.monotonic()), "its seq may be another command's now"


def test_whatever_is_asked_the_worker_goes_on(house):
    """Numbers that mean nothing are answered as such, or not at all."""
    client = house.client()
    with house.answering():
        assert Answered.MALFORMED == client._ask(0, 99).status
        assert (
            Answered.GONE
            == client._piece(0, Ask.DIGEST, 5, time.monotonic() + DEADLINE_SECONDS, {})[0]["status"]
        )
        assert Answered.UNKNOWN_EVENT == client._ask(0, Ask.DEPTH, event=2, levels=-5).status
        with pytest.raises(NoAnswer):
            client._piece(0, Ask.DIGEST, 0, time.monotonic() + SHORT_SECONDS, {"shard": 7})
        assert queries.digest(house.exchanges[0].tables) == client.digest(0)


# Lanes -----------------------------------------------------------------------------------------------------


def test_each_client_has_a_lane_of_its_own(house):
    """As many clients as lanes; the next one waits, gives up with a sentence, and gets the first lane that is free."""
    clients = [house.client() for _ in range(LANES)]
    assert list(range(LANES)) == [client._lane for client in clients]
    with pytest.raises(NoAnswer, match=r"all 8 lanes have been taken by other clients for 0\.05 s"):
        house.client(SHORT_SECONDS)
    clients[3].close()
    clients[3].close()
    assert 3 == house.client()._lane


@pytest.mark.compiled
def test_a_client_that_dies_blocks_nobody(house):
    """A process that is killed with a question half asked gives its lane back, and the next client is answered."""
    names = {"EXCHANGE__NAME": house.config.exchange.name, "EXCHANGE__SHARDS": SHARDS}
    names |= {f"LIMITS__{name.upper()}": value for name, value in SIZES.items()}
    script = (
        "import sys\nfrom ringpit.shards.config import load\nfrom ringpit.shards.queries import Client\n"
        "client = Client(load())\nclient._queries.store(f'asked.{client._lane}', 41)\n"
        "print(client._lane, flush=True)\nsys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {f"RINGPIT__{name}": str(value) for name, value in names.items()},
    )
    assert b"0\n" == process.stdout.readline()
    assert 1 == house.client()._lane
    process.kill()
    process.communicate()
    client = house.client()
    assert 0 == client._lane
    with house.answering():
        assert queries.digest(house.exchanges[0].tables) == client.digest(0)
    assert 42 == house.queries.load("asked.0")


def test_many_clients_at_once_each_get_their_own_answer(trading):
    """More clients than lanes ask different things at the same time; nobody gets a neighbour's answer."""
    wanted = {
        account: queries.open_orders(trading.exchanges[0].tables, account).tobytes() for account in (10, 11)
    }

    def ask(number):
        with Client(trading.config, patience_seconds=DEADLINE_SECONDS) as client:
            for turn in range(10):
                event, account = (number + turn) % 2 + 1, 10 + (number + turn) % 2
                assert (
                    trading.exchanges[event - 1].depth(event, 2)[0].tolist()
                    == client.depth(event, 2).bids.tolist()
                )
                assert wanted[account] == client._ask(0, Ask.ORDERS, account=account).content
        return True

    with trading.answering(), ThreadPoolExecutor(LANES + 4) as pool:
        assert all(pool.map(ask, range(LANES + 4)))


def test_requests_in_a_row_do_not_share_a_slot():
    """A lane's slots are its own, and a number's slot is not the next one's."""
    slots = [request_slot(lane, number) for lane in range(LANES) for number in range(REQUESTS)]
    assert list(range(LANES * REQUESTS)) == slots
    assert request_slot(2, 5) != request_slot(2, 6)


def test_a_request_that_is_written_over_is_read_again(house):
    """A client that gave up asks again while the worker reads: the worker answers the newer one."""
    client = house.client(SHORT_SECONDS)
    with pytest.raises(NoAnswer):
        client.digest(0)
    real, numbers = house.queries.load, []

    def load(word):
        found = real(word)
        if word == f"asked.{client._lane}" and found and not numbers:
            numbers.append(found)
            house.queries.region("requests")[request_slot(client._lane, found + 1)] = np.zeros(1, REQUEST)
            house.queries.store(word, found + 1)
        return found

    house.queries.load = load
    assert 0 == house.turn(0)
    assert 2 == house.answers[0]._seen[client._lane]
