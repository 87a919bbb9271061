"""The demonstration empties only its own folder, ends when all is through, and prints what the processes say."""

import re
import uuid
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from ringpit.ipc import histogram
from ringpit.ipc.segment import Segment
from ringpit.shards.config import Config
from ringpit.shards.demo import FOLDER_MARK, Demo, costs, demo_config, drained, prepare_folder, standing
from ringpit.shards.layout import (
    Role,
    State,
    counts,
    publisher_layout,
    router_layout,
    segment_name,
    worker_layout,
)
from ringpit.shards.stages import STAGES
from ringpit.shards.supervisor import Child

LAYOUTS = {Role.ROUTER: router_layout, Role.WORKER: worker_layout, Role.PUBLISHER: publisher_layout}


@pytest.fixture
def config(tmp_path):
    """A small exchange of two shards with its files below the test's folder."""
    default = Config()
    return replace(
        default,
        exchange=replace(default.exchange, name=f"test-{uuid.uuid4().hex[:12]}", data=str(tmp_path / "data")),
        limits=replace(default.limits, events=8, orders=64, levels=4_096, keys=64),
        rings=replace(default.rings, input_slots=64, journal_slots=64, output_slots=64),
    )


@pytest.fixture
def exchange(config):
    """What the demonstration sees of a running exchange: children with their segments."""
    children = {}
    with ExitStack() as stack:
        for role, count in counts(config).items():
            for index in range(count):
                name = segment_name(config, role.label, index, 1)
                segment = stack.enter_context(Segment.create(name, LAYOUTS[role](config), 1))
                segment.store("state", State.RUNNING)
                children[role, index] = Child(role, index, incarnation=1, segment=segment)
        yield SimpleNamespace(children=children, config=config)


def demo_of(config, **changes):
    """A demonstration that is not run."""
    arguments = {
        "orders": 1_000,
        "seed": 1,
        "events": 4,
        "frame_orders": 100,
        "orders_per_second": 0.0,
        "say": print,
    }
    return Demo(config, **(arguments | changes))


# Folder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_or_empty_folder_is_taken_and_marked(tmp_path, exists):
    """The mark says that whatever will lie there may be removed by the next run."""
    folder = tmp_path / "new" / "demo"
    if exists:
        folder.mkdir(parents=True)
    prepare_folder(folder)
    assert [folder / FOLDER_MARK] == list(folder.iterdir())


def test_a_folder_of_an_earlier_run_is_emptied(tmp_path):
    """Log and output of the last demonstration go, with everything below."""
    prepare_folder(tmp_path / "demo")
    (tmp_path / "demo" / "log").mkdir()
    (tmp_path / "demo" / "log" / "0.wal").write_bytes(b"old")
    prepare_folder(tmp_path / "demo")
    assert [FOLDER_MARK] == [path.name for path in (tmp_path / "demo").iterdir()]


def test_anybody_else_s_folder_is_left_alone(tmp_path):
    """Files that no demonstration made are not removed; the sentence names the folder and the remedy."""
    precious = tmp_path / "thesis.tex"
    precious.write_text("years of work")
    with pytest.raises(
        FileExistsError, match=f"{tmp_path} holds files that it did not make: name another with --data"
    ):
        prepare_folder(tmp_path)
    assert "years of work" == precious.read_text()


# Configuration --------------------------------------------------------------------------------------------


def test_an_embedded_demonstration_needs_nothing_from_outside(config, tmp_path):
    """Whatever the file says, orders come over a ring and everything goes to files in the run's own folder."""
    over_brokers = replace(
        config,
        intake=replace(config.intake, source="rabbitmq"),
        log=replace(config.log, kind="kafka", folder="elsewhere"),
        output=replace(config.output, sink="rabbitmq"),
    )
    made = demo_config(over_brokers, tmp_path / "demo", brokers=False)
    assert ("ring", "segments", "files") == (made.intake.source, made.log.kind, made.output.sink)
    assert tmp_path / "demo" / "log" == made.log_folder()
    assert "demo" == made.exchange.name


def test_a_demonstration_over_brokers_meets_nothing_of_an_earlier_one(config, tmp_path):
    """Each run has a topic and a queue of its own; addresses and everything else stay as configured."""
    first, second = (demo_config(config, tmp_path, brokers=True) for _ in range(2))
    assert ("rabbitmq", "kafka", "rabbitmq") == (first.intake.source, first.log.kind, first.output.sink)
    assert first.kafka.topic != second.kafka.topic
    assert first.rabbitmq.queue != second.rabbitmq.queue
    assert (config.kafka.bootstrap, config.rabbitmq.url) == (first.kafka.bootstrap, first.rabbitmq.url)


# The end --------------------------------------------------------------------------------------------------


def test_standing_adds_the_shards_up(exchange):
    """Durable, confirmed and matched records of both shards, and the publisher's reports."""
    publisher = exchange.children[Role.PUBLISHER, 0].memory
    for shard in (0, 1):
        worker = exchange.children[Role.WORKER, shard].memory
        worker.store("durable_seq", 10 + shard)
        worker.store("matched_seq", 20 + shard)
        publisher.store(f"confirmed_seq.{shard}", 5 + shard)
    publisher.store("reports", 99)
    assert (21, 11, 41, 99) == standing(exchange)


def test_it_is_over_when_every_delivery_sent_is_acknowledged(exchange):
    """Neither a delivery under way, nor one that the broker still holds, nor a process that is starting is the end."""
    router = exchange.children[Role.ROUTER, 0].memory
    router.store("deliveries", 7)
    router.store("malformed", 1)
    router.store("acknowledged", 7)
    assert not drained(exchange, 8)
    router.store("acknowledged", 8)
    assert not drained(exchange, 9)
    assert drained(exchange, 8)
    router.store("state", State.STARTING)
    assert not drained(exchange, 8)


def test_a_router_that_counts_anew_needs_only_to_have_nothing_left(exchange):
    """After a restart its counters say nothing about what came before."""
    exchange.children[Role.ROUTER, 0].restarts = 1
    assert drained(exchange, 1_000)


# The table ------------------------------------------------------------------------------------------------


def test_the_table_says_what_the_processes_say(config, exchange, capsys):
    """Every figure is a word of somebody's segment, a histogram, or the time that it took."""
    demo = demo_of(config, orders=2_000)
    demo._idle_ns = costs(exchange)
    for number, child in enumerate(exchange.children.values(), 1):
        child.memory.store("cpu_ns", number * 2_000_000)
    for shard in (0, 1):
        worker = exchange.children[Role.WORKER, shard].memory
        worker.store("journal_cpu_ns", 1_000_000)
        worker.store("log_bytes", 3_000_000)
        worker.store("orders_resting", 17)
        for region in ("wait_ns", "match_ns", "journal_ns", "durable_ns"):
            histogram.record(worker.region(region), 5_000 * (1 + shard))
        for region, way_ns in (("publish_ns", 50_000), ("whole_ns", 70_000)):
            histogram.record(exchange.children[Role.PUBLISHER, 0].memory.region(f"{region}.{shard}"), way_ns)
    exchange.children[Role.ROUTER, 0].memory.store("deliveries", 21)
    exchange.children[Role.PUBLISHER, 0].memory.store("reports", 4_321)
    exchange.children[Role.WORKER, 1].restarts = 1
    (config.data_folder() / "out").mkdir(parents=True)
    (config.data_folder() / "out" / "trades.ndjson").write_bytes(b"{}\n" * 12)

    facts = demo._facts(exchange, 0.5, 0.004)
    assert {"router": 2_000_000, "worker": 10_000_000, "journal": 2_000_000, "publisher": 8_000_000, "feeder": 4_000_000} == facts["cpu_ns"]  # fmt: skip
    assert 2 == facts["stages"]["match"]["count"]
    demo._print(facts, exchange)
    told = capsys.readouterr().out
    rows = {
        "orders (new, cancel, amend)": "2,000",
        "deliveries of packed frames": "21 of 100 orders",
        "reports published": "4,321",
        "trades published": "12",
        "orders resting at the end": "34",
        "orders per second": "4,000",
        "reports per second": "8,642",
        "log": "6.0 MB",
        "processes started again": "1",
    }
    for name, value in rows.items():
        assert re.search(rf"│ {re.escape(name)} +│ +{re.escape(value)} │", told), (
            f"{name}: {value} is not in\n{told}"
        )
    assert re.search(r"│ +1,000 │ +5,000 │ +1,000 │ +4,000 │ +2,000 │", told), told
    for stage in STAGES:
        assert f"  {stage.name:<11}{' '.join(stage.start.split()[:4])}" in told
    assert re.search(r"match +│ +5\.\d │ +1\d\.\d │", told), told
    assert "slowest stage: publish, 72% of the whole way at p50 (50.2 us of 70.1 us)" in " ".join(told.split())


def test_with_a_rate_the_table_says_so(config, exchange, capsys):
    """Latency at an open-loop rate is another thing than queueing at full speed."""
    (config.data_folder() / "out").mkdir(parents=True)
    for rate, expected in ((20_000.0, "at 20,000 orders/s"), (0.0, "full speed")):
        demo = demo_of(config, orders_per_second=rate)
        demo._idle_ns = costs(exchange)
        demo._print(demo._facts(exchange, 1.0, 0.0), exchange)
        assert expected in capsys.readouterr().out
