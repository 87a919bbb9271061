"""
One shard's log: records to durable, and back.       [records] -> batch writer -> log -> durable -> replay

Moves   frames of 100 commands, cut into batches and appended as the journal thread does it; then frames one by
        one, each waited for; then the whole log is read again through the reader rule.
Tells   records per second until the last is durable; this process's processor time for a record; the time of
        one frame from cut to durable; records per second of replay, to a function that does nothing.
Beside  the bare way to the same place with equal bytes and as many pieces in flight: write and fdatasync, or
        Kafka's client with the same settings. Both in turns of some milliseconds, so that a busy machine slows
        both alike; before the first, each has moved something, so that no code is loaded within the clock.
Checks  the replayed checksum is the written one, and the same in every repeat.
Needs   a disk folder, or a real Kafka (`make brokers`) for --log kafka.
"""

import argparse
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from ringpit.engine.codes import CommandKind
from ringpit.engine.records import MARKER, RECORD_BYTES
from ringpit.perf.harness import benchmark, positive
from ringpit.testing.brokers import kafka_bootstrap
from ringpit.wal.kafka import PRODUCER, KafkaLog, KafkaSettings
from ringpit.wal.log import Log
from ringpit.wal.memory import MemoryLog
from ringpit.wal.reader import RecoveredState, recover
from ringpit.wal.segments import SegmentLog
from ringpit.wal.writer import BATCH_BYTES_MAX, IN_FLIGHT_MAX, BatchWriter

SHARD: Final = 0
GENERATION: Final = 1
FRAME_COMMANDS: Final = 100
FRAME_RECORDS: Final = FRAME_COMMANDS + 1
TABLE_FRAMES: Final = 80  # about one full batch
TURNS: Final = 8
WAIT_SECONDS: Final = 0.1


def table_of_frames() -> np.ndarray:
    """Frames as a journal ring holds them; commands carry random words, so that nothing compresses."""
    random = np.random.default_rng(1)
    records = random.integers(0, 256, TABLE_FRAMES * FRAME_RECORDS * RECORD_BYTES, np.uint8).view(MARKER)
    records["kind"] = CommandKind.NEW
    markers = records[::FRAME_RECORDS]
    markers["kind"], markers["router"], markers["count"] = CommandKind.MARKER, 0, FRAME_COMMANDS
    return records


def append_all(log: Log, writer: BatchWriter, frames: np.ndarray, record_count: int) -> None:
    """Keep the log busy until so many records are durable."""
    end = writer.next_seq + record_count
    while writer.next_seq < end:
        while writer.ready and writer.next_seq < end:
            log.append(writer.cut(frames[: end - writer.next_seq], confirmed_seq=0)[0])
        writer.advance(log.poll(WAIT_SECONDS))
    while writer.in_flight_count:
        writer.advance(log.poll(WAIT_SECONDS))


def frame_latencies_us(log: Log, writer: BatchWriter, frames: np.ndarray, count: int) -> np.ndarray:
    """Microseconds from cut to durable of single frames, one after another, sorted."""
    latencies = np.zeros(count)
    for index in range(count):
        start_ns = time.perf_counter_ns()
        log.append(writer.cut(frames[:FRAME_RECORDS], confirmed_seq=0)[0])
        while writer.in_flight_count:
            writer.advance(log.poll(WAIT_SECONDS))
        latencies[index] = (time.perf_counter_ns() - start_ns) / 1e3
    return np.sort(latencies)


def recovered(log: Log) -> RecoveredState:
    """Take the log over, applying nothing."""
    return recover(log, SHARD, GENERATION, 1, lambda _header, _records: None)


def bare_file(folder: Path) -> Callable[[bytes, int], None]:
    """Write pieces to one file, as many between two syncs as a log may have in flight."""

    def move(piece: bytes, count: int) -> None:
        descriptor = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        for index in range(count):
            os.write(descriptor, piece)
            if index % IN_FLIGHT_MAX == IN_FLIGHT_MAX - 1:
                os.fdatasync(descriptor)
        os.fdatasync(descriptor)
        os.close(descriptor)

    return move


def bare_client(settings: KafkaSettings) -> Callable[[bytes, int], None]:
    """Produce pieces with Kafka's client, as many in flight as a log may have."""
    producer = Producer(settings.client(PRODUCER))

    def move(piece: bytes, count: int) -> None:
        for _ in range(count):
            while len(producer) >= IN_FLIGHT_MAX:
                producer.poll(WAIT_SECONDS)
            producer.produce(settings.topic, value=piece, partition=SHARD)
        producer.flush()

    move(b"", 1)  # gets the producer its id
    return move


@contextmanager
def kafka_topics(count: int, *, transactional: bool) -> Iterator[list[KafkaSettings]]:
    """Settings for topics of this run alone, deleted at the end: ten repeats would leave a gigabyte."""
    names = [f"ringpit-perf-{uuid.uuid4().hex}" for _ in range(count)]
    bootstrap = kafka_bootstrap()
    yield [
        KafkaSettings(bootstrap_servers=bootstrap, topic=name, shards=1, transactional=transactional)
        for name in names
    ]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for deleted in admin.delete_topics(names).values():
        deleted.result()


@contextmanager
def places(
    kind: str, parent: Path | None, *, transactional: bool
) -> Iterator[tuple[Callable[[], Log], Callable[[bytes, int], None]]]:
    """How to open the log, and the bare way beside it; both are gone at the end."""
    if kind == "kafka":
        with kafka_topics(2, transactional=transactional) as (settings, beside):
            KafkaLog(beside, SHARD).close()  # makes the topic
            yield lambda: KafkaLog(settings, SHARD), bare_client(beside)
    elif kind == "memory":
        batches: list[bytes] = []
        copies: list[bytearray] = []
        yield lambda: MemoryLog(batches), lambda piece, count: copies.extend(map(bytearray, [piece] * count))
    else:
        with tempfile.TemporaryDirectory(prefix="ringpit-perf-", dir=parent) as name:
            yield lambda: SegmentLog(Path(name), SHARD), bare_file(Path(name))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which log, and how much."""
    parser.add_argument("--log", choices=("segments", "kafka", "memory"), default="segments", help="where to")
    parser.add_argument("--transactional", action="store_true", help="with a fence, for --log kafka")
    parser.add_argument("--folder", type=Path, help="folder for segment files (a temporary one)")
    parser.add_argument("--records", type=positive, default=1_000_000, help="markers and commands appended")
    parser.add_argument("--frames", type=positive, default=200, help="frames appended one by one")
    parser.add_argument("--batch-bytes", type=positive, default=BATCH_BYTES_MAX, help="largest batch")


@benchmark(
    "log",
    "frames of 100 commands to one shard's log until durable, one by one, and read back",
    options=add_options,
)
def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Append and move equal bytes the bare way, in turns; then frames one by one; then read it all again."""
    frames = table_of_frames()
    turn_records = max(1, arguments.records // FRAME_RECORDS // TURNS) * FRAME_RECORDS
    turn_bytes = turn_records * RECORD_BYTES
    pieces = max(1, turn_bytes // arguments.batch_bytes)
    piece = os.urandom(turn_bytes // pieces)
    append_ns = append_cpu_ns = bare_ns = 0
    with places(arguments.log, arguments.folder, transactional=arguments.transactional) as (
        open_log,
        move_bare,
    ):
        log = open_log()
        writer = BatchWriter(recovered(log), batch_bytes_max=arguments.batch_bytes)
        append_all(log, writer, frames, turn_records)
        move_bare(piece, pieces)
        for _ in range(TURNS):
            start_ns, start_cpu_ns = time.perf_counter_ns(), time.process_time_ns()
            append_all(log, writer, frames, turn_records)
            append_ns += time.perf_counter_ns() - start_ns
            append_cpu_ns += time.process_time_ns() - start_cpu_ns
            start_ns = time.perf_counter_ns()
            move_bare(piece, pieces)
            bare_ns += time.perf_counter_ns() - start_ns
        latencies_us = frame_latencies_us(log, writer, frames, arguments.frames)
        log.close()

        start_ns = time.perf_counter_ns()
        log = open_log()
        state = recovered(log)
        replay_ns = time.perf_counter_ns() - start_ns
        log.close()
    record_count = TURNS * turn_records
    append_mb_per_s = record_count * RECORD_BYTES * 1e3 / append_ns
    bare_mb_per_s = TURNS * len(piece) * pieces * 1e3 / bare_ns
    return {
        "append_records_per_s": record_count * 1e9 / append_ns,
        "append_cpu_ns_per_record": append_cpu_ns / record_count,
        "append_mb_per_s": append_mb_per_s,
        "bare_mb_per_s": bare_mb_per_s,
        "append_percent_of_bare": 100 * append_mb_per_s / bare_mb_per_s,
        "frame_to_durable_us_p50": float(latencies_us[len(latencies_us) // 2]),
        "frame_to_durable_us_p99": float(latencies_us[len(latencies_us) * 99 // 100]),
        "open_and_replay_records_per_s": state.record_count * 1e9 / replay_ns,
        "records": state.record_count,
        "checksum": state.checksum,
    }
