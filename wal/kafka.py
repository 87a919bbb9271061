"""
A log in Kafka: one topic, one partition for a shard, one idempotent producer.

The producer is made inside the process that uses it and writes its own partition only (librdkafka's
threads do not survive a fork, and an epoch bump for one partition was seen to double records in another).
It asks for acks=all, never gives up on a record (a record that timed out would leave a gap behind which
later ones go on), and waits for no timer before sending. A broker that is away therefore looks like a log
that is slow: records stay pending, and go out when it is back.

Kafka's idempotence is not trusted alone: the reader rule drops what comes twice and stops at a gap.

What an acknowledgement means is the topic's business: `describe` reads it from the broker. One replica
acknowledges from the page cache unless flush.messages is 1; three replicas with two in sync is the
production setting.

Slow here: the first delivery of an idempotent producer takes 0.05 to 1 s (it must get an id first), so a
start does. Reading gives about 400 MB/s.

Invariants:

    K1  callbacks set fields and never raise: the client would swallow all exceptions but one
    K2  after a delivery error or a fatal error nothing more is counted as durable
    K3  no setting's value appears in a message or a repr: they may be credentials
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from ringpit.wal.errors import BatchDamaged, LogFailed, LogGap, LogUnavailable
from ringpit.wal.log import PENDING_BYTES_MAX, Entry

RECORD_BYTES_CEILING: Final = 1_000_000  # the client's limit; the broker's default is 1,048,588
CLOSE_TIMEOUT_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.1
MILLISECOND: Final = 0.001
INVALID_ARGUMENT: Final = KafkaError._INVALID_ARG  # noqa: SLF001  the client's only name for it
PARTITION_END: Final = KafkaError._PARTITION_EOF  # noqa: SLF001  likewise

PRODUCER: Final[Mapping[str, Any]] = {
    "acks": "all",
    "enable.idempotence": True,
    "linger.ms": 0,
    "message.timeout.ms": 0,  # never: a record that is given up leaves a gap
    "message.max.bytes": RECORD_BYTES_CEILING,
    "queue.buffering.max.kbytes": 2 * PENDING_BYTES_MAX >> 10,
}
CONSUMER: Final[Mapping[str, Any]] = {
    "group.id": "ringpit-log",  # the client insists; no group is ever joined
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "check.crcs": True,
    "isolation.level": "read_uncommitted",
    "fetch.wait.max.ms": 10,
}
TOPIC: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "CreateTime",
}
OWN: Final = frozenset({"bootstrap.servers", *PRODUCER, *CONSUMER}) - {"fetch.wait.max.ms"}

_log = logging.getLogger("ringpit.kafka")
_log.addHandler(logging.NullHandler())  # librdkafka's lines go where the process sends its log, or nowhere


@dataclass(frozen=True, kw_only=True)
class KafkaSettings:
    """
    Where the log is and how the topic is made if it is missing.

    `settings` are librdkafka's own (security.protocol, sasl.*, ssl.*, ...), passed through; what the log's
    guarantees rest on cannot be set. Raises ValueError naming the setting and the rule.
    """

    bootstrap_servers: str
    topic: str
    shards: int  # partitions at least
    replication_factor: int = 1
    flush_messages: int | None = None  # flush.messages of a new topic; 1 makes one replica's ack mean disk
    connect_timeout_seconds: float = 10.0
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)  # K3

    def __post_init__(self) -> None:
        """Refuse what would undo a guarantee."""
        for name in self.settings:
            if name in OWN:
                raise ValueError(
                    f"kafka.settings may not set {name}: the log depends on its own value; remove it"
                )
        if self.shards < 1:
            raise ValueError(f"kafka.shards must be at least 1, was {self.shards}")

    def redacted(self, text: str) -> str:
        """K3: a text of the client's without any value that was passed through."""
        for value in self.settings.values():
            if isinstance(value, str) and value:
                text = text.replace(value, "***")
        return text

    def client(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration of a client: ours, then what is passed through."""
        return {"bootstrap.servers": self.bootstrap_servers, **settings, **self.settings, "logger": _log}


class KafkaLog:
    """
    One shard's partition.

    Attributes: `cluster_id`; `bytes_total`.
    """

    def __init__(self, settings: KafkaSettings, shard: int) -> None:
        """
        Connect, and make the topic if it is missing.

        Raises LogUnavailable naming the servers if no broker answers within connect_timeout_seconds, ValueError
        if the topic or a setting does not fit.
        """
        self.settings = settings
        self.shard = shard
        self.bytes_total = 0
        self._counted_offset = 0  # everything below is in bytes_total
        self._pending_bytes = 0
        self._pending_count = 0
        self._durable_count = 0
        self._failure: LogFailed | None = None
        self._trouble = ""
        self._pid = os.getpid()
        self._where = f"topic {settings.topic!r}, partition {shard}"
        try:
            self._durability = _ensure_topic(settings)
            self._producer = Producer({**settings.client(PRODUCER), "error_cb": self._on_error})
            self.cluster_id = self._producer.cluster_id(settings.connect_timeout_seconds)
        except KafkaException as error:
            if isinstance(error.args[0], KafkaError) and error.args[0].code() == INVALID_ARGUMENT:
                reason = settings.redacted(_reason(error))
                raise ValueError(f"kafka.settings: librdkafka refuses them ({reason}); correct them") from None
            raise self._unavailable(error) from None  # the cause may repeat a setting's value

    def append(self, batch: bytes) -> None:
        """Hand a batch to the client; waits only while PENDING_BYTES_MAX are unacknowledged."""
        if os.getpid() != self._pid:
            raise RuntimeError(
                "a Kafka log must be opened in the process that uses it; this one came through a fork"
            )
        while self._pending_bytes >= PENDING_BYTES_MAX and self._failure is None:
            self._producer.poll(POLL_SECONDS)
        self._require_sound()
        try:
            self._producer.produce(
                self.settings.topic, value=batch, partition=self.shard, on_delivery=self._on_delivery
            )
        except (KafkaException, BufferError) as error:
            raise self._fail(_reason(error)) from None
        self._pending_bytes += len(batch)
        self._pending_count += 1

    def poll(self, timeout_seconds: float = 0.0) -> int:
        """How many appended batches the brokers have acknowledged."""
        self._producer.poll(_whole_milliseconds(timeout_seconds) if self._pending_count else 0)
        self._require_sound()
        return self._durable_count

    def read(self, position: int = 0) -> Iterator[Entry]:
        """Every record from an offset to the end of the partition as it is now."""
        consumer = Consumer(self.settings.client(CONSUMER))
        try:
            end = self._seek(consumer, position)
            last_word = time.monotonic()
            while position < end:
                message = consumer.poll(POLL_SECONDS)
                now = time.monotonic()
                if message is not None:
                    last_word = now
                elif now - last_word > self.settings.connect_timeout_seconds:
                    raise self._unavailable(f"nothing was read for {now - last_word:.0f} s")
                if message is None:
                    continue
                if message.error() is not None:
                    if message.error().code() == PARTITION_END:
                        return
                    raise self._unavailable(message.error())
                position = message.offset() + 1
                yield self._entry(message)
        except KafkaException as error:
            raise self._unavailable(error) from None
        finally:
            consumer.close()

    def locate(self, position: int) -> str:
        """Topic, partition and offset."""
        return f"{self._where}, offset {position}"

    def describe(self) -> str:
        """Where the log is and what the topic's settings make of an acknowledgement."""
        return (
            f"log in Kafka, {self._where} of cluster {self.cluster_id} at {self.settings.bootstrap_servers}: "
            f"durable means {self._durability}"
        )

    def close(self) -> None:
        """Wait a little for what is pending, then give it up: it may or may not be in the log."""
        if os.getpid() != self._pid:
            return
        if self._producer.flush(CLOSE_TIMEOUT_SECONDS if self._failure is None else 0):
            self._producer.purge()
            self._producer.flush(1)

    # -- callbacks: run inside poll and flush, K1

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        """Count in order; one partition of an idempotent producer answers in the order of produce."""
        size = len(message)
        self._pending_bytes -= size
        self._pending_count -= 1
        if error is not None:
            self._fail(error.str())
        elif self._failure is None:
            self._durable_count += 1
            self._count(message.offset(), size)

    def _on_error(self, error: KafkaError) -> None:
        """Fatal is for good; anything else the client repairs by itself, and is kept to explain a time-out."""
        self._trouble = error.str()
        if error.fatal():
            self._fail(error.str())

    # -- the rest

    def _fail(self, reason: str) -> LogFailed:
        """K2: keep the first failure."""
        if self._failure is None:
            self._failure = LogFailed(
                f"Kafka refused a batch for {self._where} ({reason}); this process must stop: the next one recovers "
                f"from what the log holds"
            )
        return self._failure

    def _require_sound(self) -> None:
        """L2: a failure is for good."""
        if self._failure is not None:
            raise self._failure

    def _count(self, offset: int, size: int) -> None:
        """Count a record once, whether it was read or appended."""
        if offset >= self._counted_offset:
            self._counted_offset = offset + 1
            self.bytes_total += size

    def _entry(self, message: Message) -> Entry:
        """A record as an Entry."""
        batch = message.value()
        if not isinstance(batch, bytes):
            raise BatchDamaged(f"{self.locate(message.offset())}: a record must carry a batch, was empty")
        self._count(message.offset(), len(batch))
        return Entry(message.offset(), message.offset() + 1, batch)

    def _seek(self, consumer: Consumer, position: int) -> int:
        """Assign the partition from an offset and return its end; a trimmed or a lost log is refused before."""
        partition = TopicPartition(self.settings.topic, self.shard, position)
        low, high = consumer.get_watermark_offsets(partition, self.settings.connect_timeout_seconds)
        if not low <= position <= high:
            reason = (
                "the numbers are offsets; the partition was trimmed or lost records, or is another cluster's"
            )
            raise LogGap(self.shard, position, low if position < low else high, self._where, reason)
        consumer.assign([partition])
        return int(high)

    def _unavailable(self, cause: object) -> LogUnavailable:
        """The sentence for a Kafka that does not answer."""
        reason = self.settings.redacted("; ".join(filter(None, (_reason(cause), self._trouble))))
        return LogUnavailable(
            f"the log's Kafka at {self.settings.bootstrap_servers} did not do what was asked within "
            f"{self.settings.connect_timeout_seconds:g} s ({reason}); start it, or correct "
            f"kafka.bootstrap and kafka.settings"
        )


def _whole_milliseconds(timeout_seconds: float) -> float:
    """The client cuts time-outs to milliseconds, and what is below one would not wait at all."""
    return max(timeout_seconds, MILLISECOND) if timeout_seconds > 0 else 0.0


def _reason(cause: object) -> str:
    """What the client says went wrong, without the name of its exception."""
    if isinstance(cause, KafkaException):
        cause = cause.args[0]
    return cause.str() if isinstance(cause, KafkaError) else str(cause)


def _ensure_topic(settings: KafkaSettings) -> str:
    """Make the topic if it is missing, refuse it if it has not one partition a shard, and say what its acks mean."""
    admin = AdminClient(settings.client({}))
    deadline = time.monotonic() + settings.connect_timeout_seconds
    replicas = _replicas(admin, settings)
    if not replicas:
        _create_topic(admin, settings)
    while not replicas or not all(replicas):  # a new topic takes a moment to show
        if time.monotonic() > deadline:
            raise KafkaException(f"topic {settings.topic!r} has partitions without a leader")
        time.sleep(POLL_SECONDS)
        replicas = _replicas(admin, settings)
    if len(replicas) != settings.shards:
        raise ValueError(
            f"topic {settings.topic!r} must have a partition for each of the {settings.shards} shards and no other, has "
            f"{len(replicas)}: events of the others would be unknown; name a new topic in kafka.topic, or set exchange.shards"
        )
    resource = ConfigResource(ConfigResource.Type.TOPIC, settings.topic)
    [answer] = admin.describe_configs([resource], request_timeout=settings.connect_timeout_seconds).values()
    facts = answer.result()
    policy = facts["cleanup.policy"].value
    if policy != "delete":
        raise ValueError(
            f"topic {settings.topic!r} must have cleanup.policy=delete, was {policy}: compaction removes commands"
        )
    in_sync = facts["min.insync.replicas"].value
    where = "on disk" if facts["flush.messages"].value == "1" else "in the page cache"
    return f"acknowledged by all in-sync replicas ({min(replicas)} replicas, at least {in_sync} in sync), {where} of each"


def _replicas(admin: AdminClient, settings: KafkaSettings) -> list[int]:
    """Replicas of each partition, 0 where it has no leader; empty if there is no topic."""
    metadata = admin.list_topics(settings.topic, timeout=settings.connect_timeout_seconds)
    topic = metadata.topics[settings.topic]
    partitions = topic.partitions.values() if topic.error is None else ()
    return [len(partition.replicas) if partition.leader >= 0 else 0 for partition in partitions]


def _create_topic(admin: AdminClient, settings: KafkaSettings) -> None:
    """Make the topic; another worker may make it at the same moment."""
    configuration = dict(TOPIC)
    if settings.flush_messages is not None:
        configuration["flush.messages"] = str(settings.flush_messages)
    topic = NewTopic(settings.topic, settings.shards, settings.replication_factor, config=configuration)
    [answer] = admin.create_topics([topic], request_timeout=settings.connect_timeout_seconds).values()
    try:
        answer.result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
