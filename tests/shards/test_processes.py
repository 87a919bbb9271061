"""What a process is given, and the code and sentence with which it ends."""

import uuid

import numpy as np
import pytest
from msgspec.structs import replace

from ringpit.ipc.segment import Segment, SegmentMissing
from ringpit.shards import processes
from ringpit.shards.amqp import BrokerRefused
from ringpit.shards.config import ConfigError, load
from ringpit.shards.exits import Exit
from ringpit.shards.ingress import IngressIntake
from ringpit.shards.intake import RabbitIntake
from ringpit.shards.layout import (
    Role,
    board_layout,
    ingress_layout,
    publisher_layout,
    router_layout,
    segment_name,
    worker_layout,
)
from ringpit.shards.outlet import RabbitSink
from ringpit.shards.sinks import FileSink, NoSink, SinkFailed, StreamSink
from ringpit.shards.worker import WorkerFrozen
from ringpit.wal.errors import BatchDamaged, ChecksumMismatch, Fenced, LogFull, LogGap, LogUnavailable
from ringpit.wal.memory import MemoryLog
from ringpit.wal.segments import SegmentLog


@pytest.fixture
def config(tmp_path):
    """A small exchange of its own, changed by the environment as a user would."""

    def make(**changes):
        small = {
            "EXCHANGE__NAME": f"test-{uuid.uuid4().hex[:12]}",
            "EXCHANGE__DATA": str(tmp_path / "data"),
            "LIMITS__EVENTS": "8",
            "LIMITS__ORDERS": "64",
            "LIMITS__LEVELS": "4096",
        }
        return load(None, {f"RINGPIT__{key}": value for key, value in (small | changes).items()})

    return make


class Ended(BaseException):
    """The process would end here."""


ENDINGS = [
    (None, Exit.STOPPED),
    (BatchDamaged("batch 3 is damaged"), Exit.REFUSED),
    (LogGap(1, 5, 9, "batch 4"), Exit.REFUSED),
    (ChecksumMismatch(1, 5, "batch 4"), Exit.REFUSED),
    (SegmentMissing("segment x is missing"), Exit.REFUSED),
    (BrokerRefused("RabbitMQ refuses"), Exit.REFUSED),
    (LogUnavailable("Kafka does not answer"), Exit.UNAVAILABLE),
    (ConnectionRefusedError("nobody listens"), Exit.UNAVAILABLE),
    (LogFull("no space"), Exit.LOG_FAILED),
    (Fenced("another owner"), Exit.FENCED),
    (SinkFailed("the disk is full"), Exit.LOG_FAILED),
    (WorkerFrozen("shard 0 is frozen"), Exit.LOG_FAILED),
    (ConfigError("kafka.settings must be ..."), Exit.CONFIG),
]


def run(monkeypatch, config, error):
    """Run a worker that does nothing, or raises; its exit code."""

    def main(*_arguments):
        if error is not None:
            raise error

    def leave(code):
        raise Ended(code)

    monkeypatch.setattr(processes, "enter", lambda *_arguments: None)
    monkeypatch.setitem(processes.MAINS, Role.WORKER, main)
    monkeypatch.setattr(processes.os, "_exit", leave)
    with pytest.raises(Ended) as ended:
        processes.run_role(config, Role.WORKER, 1, 1)
    return ended.value.args[0]


@pytest.mark.parametrize(("error", "code"), ENDINGS, ids=lambda value: type(value).__name__)
def test_each_ending_has_its_code_and_one_sentence(monkeypatch, capsys, config, error, code):
    """The supervisor decides by the code; people read the sentence, with the process's name before it."""
    assert code == run(monkeypatch, config(), error)
    assert ("" if error is None else f"worker-1: {error}\n") == capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("ours"), ValueError("ours"), MemoryError(), KeyboardInterrupt()]
)
def test_what_nobody_expected_is_shown_whole(monkeypatch, capsys, config, error):
    """A mistake of ours ends with its traceback and the code that lets the supervisor try again."""
    assert Exit.BROKEN == run(monkeypatch, config(), error)
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert type(error).__name__ in told


def test_every_role_has_an_entry():
    """The supervisor can start each kind of process that there is."""
    assert set(Role) == set(processes.MAINS)


def test_the_log_is_the_configured_one(config):
    """Files lie in the data folder unless a folder is named; memory needs nothing."""
    made = processes.open_log(config(), 1)
    assert isinstance(made, SegmentLog)
    made.close()
    assert (config().data_folder() / "log").is_dir()
    assert isinstance(processes.open_log(config(LOG__KIND="memory"), 0), MemoryLog)


def test_kafka_gets_what_its_section_says(config):
    """Addresses, topic, copies, patience and librdkafka's own settings; a flush of 0 leaves it to the broker."""
    configured = config(
        KAFKA__BOOTSTRAP="a:1,b:2", KAFKA__TOPIC="t", KAFKA__REPLICATION="3", KAFKA__CONNECT_SECONDS="7",
        KAFKA__SETTINGS='{"client.id" = "x"}', EXCHANGE__SHARDS="4",
    )  # fmt: skip
    settings = processes.kafka_settings(configured)
    assert ("a:1,b:2", "t", 4, 3, 7) == (
        settings.bootstrap_servers, settings.topic, settings.shards, settings.replication_factor,
        settings.connect_timeout_seconds,
    )  # fmt: skip
    assert {"client.id": "x"} == settings.settings
    assert settings.flush_messages is None
    assert 1 == processes.kafka_settings(config(KAFKA__FLUSH_MESSAGES="1")).flush_messages


def test_rabbitmq_gets_its_password_and_nobody_else_sees_it(config):
    """The endpoint holds the real secret, and what is printed of it and of the configuration does not."""
    configured = config(RABBITMQ__USERNAME="me", RABBITMQ__PASSWORD="hunter2", RABBITMQ__HEARTBEAT_SECONDS="5")  # noqa: S106 - a password of nobody
    endpoint = processes.endpoint_of(configured)
    assert ("me", "hunter2", 5) == (endpoint.username, endpoint.password, endpoint.heartbeat_seconds)
    assert "hunter2" not in repr(endpoint) + repr(configured)


@pytest.mark.parametrize(
    ("sink", "kind"), [("files", FileSink), ("stdout", StreamSink), ("none", NoSink), ("rabbitmq", RabbitSink)]
)
def test_the_sink_is_the_configured_one(config, sink, kind):
    """Files, standard output, nothing, or the broker, which is connected to later."""
    made = processes.open_sink(config(OUTPUT__SINK=sink), print)
    assert kind is type(made)
    made.close()


def test_market_data_can_be_switched_off(config):
    """Without it reports still come; trades, prices and books do not."""
    made = processes.open_sink(config(OUTPUT__MARKET_DATA="false"), print)
    assert isinstance(made, processes.ReportsOnly)
    made.close()


def test_the_intake_is_the_configured_one(config):
    """A ring that a feeder fills, or a queue."""
    configured = config()
    with (
        Segment.create(segment_name(configured, "ingress", 0, 0), ingress_layout(configured)),
        Segment.create(segment_name(configured, "router", 0, 1), router_layout(configured), 1) as router,
    ):
        assert isinstance(processes.open_intake(configured, 0, router, print), IngressIntake)
        over_rabbit = processes.open_intake(replace(configured, intake=replace(configured.intake, source="rabbitmq")), 0, router, print)  # fmt: skip
        assert isinstance(over_rabbit, RabbitIntake)
        over_rabbit.close()


def test_a_publisher_reads_the_worker_s_words_and_writes_its_own(config):
    """Each word of a shard's views is the one that its name says, in the segment of whoever writes it."""
    configured = config()
    with (
        Segment.create(segment_name(configured, "worker", 1, 4), worker_layout(configured), 4) as worker,
        Segment.create(segment_name(configured, "publisher", 0, 1), publisher_layout(configured), 1) as own,
        Segment.create(segment_name(configured, "board", 0, 0), board_layout(configured)) as board,
    ):
        views = processes.views_of(configured, 1, own, worker, board)
        words = {
            "leads": (board, "worker.1.incarnation"),
            "tail": (worker, "output_tail"),
            "durable_seq": (worker, "durable_seq"),
            "matched_seq": (worker, "matched_seq"),
            "head": (own, "output_head.1"),
            "confirmed_seq": (own, "confirmed_seq.1"),
        }
        for number, (segment, word) in enumerate(words.values(), 1):
            segment.store(word, number)
        assert list(range(1, 7)) == [
            int(cells[index]) for cells, index in (getattr(views, name) for name in words)
        ]
        assert 4 == views.incarnation
        assert np.shares_memory(views.slots, worker.region("output"))
        assert np.shares_memory(views.mirror.quantity, own.region("quantity.1"))
        del views, segment
