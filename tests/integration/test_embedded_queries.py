"""A running exchange answers while it trades: what it says is what its log says, and asking changes nothing."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from ringpit.engine import queries
from ringpit.engine.codes import CommandKind, Flag
from ringpit.shards.exits import Exit
from ringpit.shards.queries import Client, NoAnswer, NotRunning, ShardAway, Unknown
from ringpit.testing.exchange import RingFeeder
from ringpit.testing.submissions import Model, cut, day

pytestmark = pytest.mark.compiled
ORDERS, EVENTS, SHARDS, SEED, CLIENTS = 20_000, 20, 2, 20_261_125, 3
LIMITS = {"events": 64, "orders": 1 << 14, "levels": 1 << 14, "keys": 1 << 13}
RINGPIT = Path(sys.executable).with_name("ringpit")


@pytest.fixture
def exchange(make_exchange):
    """An embedded exchange that runs."""
    made = make_exchange(limits=LIMITS)
    made.start()
    return made


def feed(exchange, deliveries):
    """Offer deliveries and wait until they are acknowledged."""
    feeder = RingFeeder(exchange)
    feeder.offer(deliveries)
    feeder.settle()
    feeder.close()


def homes_of(exchange):
    """Event to the shard that answered for it, unknown ones too."""
    text = (exchange.config.data_folder() / "out" / "reports.ndjson").read_text()
    return {line["Event"]: line["Shard"] for line in map(json.loads, text.splitlines())}


class Asking:
    """Clients that ask everything they can think of until told to stop."""

    def __init__(self, exchange):
        self.counts, self.failures = [0] * CLIENTS, []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(exchange, number)) for number in range(CLIENTS)
        ]

    def _run(self, exchange, number):
        try:
            with Client(exchange.config, patience_seconds=60) as client:
                while not self._stop.is_set():
                    self._ask(client, number, self.counts[number])
                    self.counts[number] += 1
        except BaseException as error:  # noqa: BLE001 - it is raised again in the test's own thread
            self.failures.append(error)

    def _ask(self, client, number, turn):
        """One round; what is asked must hold together, whatever the moment."""
        seq = dict.fromkeys(client.shards, 0)
        event = (number + turn) % EVENTS + 1
        try:
            bids, asks = client.depth(event, 5)
        except Unknown:
            return  # not created yet
        assert sorted(bids[:, 0], reverse=True) == bids[:, 0].tolist()
        assert sorted(asks[:, 0]) == asks[:, 0].tolist()
        assert not len(bids) or not len(asks) or bids[0, 0] < asks[0, 0]
        for row in client.open_orders(turn % 50)[:3]:
            try:
                client.order_status(int(row["event"]), int(row["order"]))
                client.queue_position(int(row["event"]), int(row["order"]))
            except Unknown:
                continue  # it has traded since
        for shard in client.shards:
            client.digest(shard)
            assert client.moment.seq >= seq[shard]
            seq[shard] = client.moment.seq

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_questions_under_load_change_nothing_and_tell_the_truth(exchange):
    """While orders flow, clients ask; in the end log, books and digests are those of the orders alone."""
    deliveries = cut(day(ORDERS, events=EVENTS, seed=SEED), seed=SEED)
    with Asking(exchange) as asking:
        feed(exchange, deliveries)
        exchange.wait_for(
            lambda: asking.failures or min(asking.counts) > EVENTS,
            60,
            lambda: f"clients have asked {asking.counts}",
        )
    assert [] == asking.failures
    with Client(exchange.config, patience_seconds=60) as client:
        live = client.digests()
        seqs = [client.statistics(shard)["seq"] for shard in client.shards]
        told = {event: [side.tolist() for side in client.depth(event, 1_000)] for event in range(1, EVENTS + 1)}
        owned = {account: client.open_orders(account).tobytes() for account in range(1, 20)}
    assert 0 == exchange.stop()

    assert live == exchange.digests()
    assert seqs == [exchange.tables(shard)[1] - 1 for shard in range(SHARDS)]
    homes = homes_of(exchange)
    model = Model(SHARDS, homes.__getitem__)
    model.submit(deliveries)
    assert model.digests() == live
    tables = [exchange.tables(shard)[0] for shard in range(SHARDS)]
    for account, rows in owned.items():
        assert b"".join(queries.open_orders(shard, account).tobytes() for shard in tables) == rows
    for event, sides in told.items():
        wanted = model.shards[homes[event]].depth(event)
        assert [[list(level) for level in side] for side in wanted] == sides, f"event {event}"
    records = [part for shard in range(SHARDS) for part in exchange.logged(shard)]
    commands = sum(int((part["kind"] != CommandKind.MARKER).sum()) for part in records)
    sent = np.concatenate([delivery.commands for delivery in deliveries])
    everywhere = (sent["kind"] == CommandKind.MASS_CANCEL) & (sent["flags"] & Flag.ALL_EVENTS != 0)
    assert len(sent) + (SHARDS - 1) * int(everywhere.sum()) == commands, (
        "what was sent is logged, and nothing else"
    )


def test_clients_see_a_worker_die_and_come_back(exchange):
    """A client that asks all the time gets answers, or a sentence, and answers again when the next worker serves."""
    deliveries = cut(day(2_000, events=EVENTS, seed=SEED + 1), seed=SEED + 1)
    feed(exchange, deliveries)
    with Client(exchange.config, patience_seconds=60) as client:
        before = client.digests()
        exchange.kill_one("worker-0")
        lives = set()

        def answered_anew():
            try:
                digest = client.digest(0)
            except (ShardAway, NoAnswer):
                return False
            assert before[0] == digest
            lives.add(client.moment.incarnation)
            return 2 in lives

        exchange.wait_for(answered_anew, 60, lambda: f"answers came of the lives {sorted(lives)}")
        assert before == client.digests()
    assert 0 == exchange.stop()
    with pytest.raises(NotRunning, match="start it with `ringpit run`"):
        Client(exchange.config)


def asked(exchange, *arguments, code=Exit.STOPPED):
    """What `ringpit query` prints."""
    done = subprocess.run(
        [RINGPIT, "query", "--patience", "60", "-c", exchange.file, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert code == done.returncode, done.stderr
    return done.stdout if code == Exit.STOPPED else done.stderr


def test_the_command_line_asks(exchange):
    """Each question as a table for people, and as one JSON object a line for programs."""
    deliveries = cut(day(1_000, events=EVENTS, seed=SEED + 2), seed=SEED + 2)
    feed(exchange, deliveries)
    with Client(exchange.config, patience_seconds=60) as client:
        digests = client.digests()
        event, account, row = next(
            (int(row["event"]), account, row)
            for account in range(1, 1_000)
            for row in client.open_orders(account)
        )
        bids, asks = client.depth(event)
        best = client.best(event)
    order = int(row["order"])

    (line,) = map(json.loads, asked(exchange, "order", event, order, "--json").splitlines())
    assert (event, order, account, int(row["open"])) == tuple(
        line[name] for name in ("Event", "OrderID", "Account", "Open")
    )
    assert line["Price"] == f"{line['PriceTicks'] / 100:.2f}"
    mine = [json.loads(text) for text in asked(exchange, "--json", "orders", account).splitlines()]
    assert line in mine
    (book,) = map(json.loads, asked(exchange, "depth", event, "--levels", 3, "--json").splitlines())
    assert [[f"{ticks / 100:.2f}", lots] for ticks, lots in bids[:3].tolist()] == book["Bids"]
    assert [[f"{ticks / 100:.2f}", lots] for ticks, lots in asks[:3].tolist()] == book["Asks"]
    (top,) = map(json.loads, asked(exchange, "best", event, "--json").splitlines())
    assert best == (top.get("BidTicks"), top.get("AskTicks"))
    assert digests == [json.loads(text)["Digest"] for text in asked(exchange, "digest", "--json").splitlines()]
    (stats,) = map(json.loads, asked(exchange, "stats", "--shard", 1, "--json").splitlines())
    assert 1 == stats["Shard"]
    assert SHARDS == len(asked(exchange, "stats", "--json").splitlines())
    assert json.loads(asked(exchange, "position", event, order, "--json"))["OrderID"] == order
    for question in (
        ("order", event, order),
        ("orders", account),
        ("depth", event),
        ("position", event, order),
        ("digest",),
    ):
        assert "┃" in asked(exchange, *question)
    assert "no shard knows event 777" in asked(exchange, "depth", 777, code=Exit.REFUSED)
    assert "--shard must be from 0 to 1, was 2" in asked(exchange, "stats", "--shard", 2, code=Exit.CONFIG)
    assert 0 == exchange.stop()
    assert "start it with `ringpit run`" in asked(exchange, "digest", code=Exit.UNAVAILABLE)
