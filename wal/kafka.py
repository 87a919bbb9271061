"""
A log in Kafka: one topic, one partition for a shard, one idempotent producer; and a view that only reads.

The producer is made inside the process that uses it and writes its own partition only (librdkafka's
threads do not survive a fork, and an epoch bump for one partition was seen to double records in another).
It asks for acks=all, never gives up on a record (a record that timed out would leave a gap behind which
later ones go on), and waits for no timer before sending. A broker that is away therefore looks like a log
that is slow: records stay pending, and go out when it is back.

Kafka's idempotence is not trusted alone: the reader rule drops what comes twice and stops at a gap.

What an acknowledgement means is the topic's business: `describe` reads it from the broker. One replica
acknowledges from the page cache unless flush.messages is 1; three replicas with two in sync is the
production setting.

With `transactional` the producer has an id that all owners of the shard share (transactions.py), and the brokers
refuse all but the last one: an owner on another host that was only paused then ends with Fenced. Offsets
have holes there, because a commit takes one: nothing here counts on offset + 1 being a record.

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
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from ringpit.wal.errors import (
    BatchDamaged,
    Fenced,
    LogFailed,
    LogGap,
    LogMissing,
    LogNotEmpty,
    LogUnavailable,
)
from ringpit.wal.log import PENDING_BYTES_MAX, Entry
from ringpit.wal.transactions import TRANSACTIONAL, LongTransaction, transactional_id

RECORD_BYTES_CEILING: Final = 1_000_000  # the client's limit; the broker's default is 1,048,588
CLOSE_TIMEOUT_SECONDS: Final = 5.0
FATAL_SECONDS: Final = 2.0  # for the reason of a fatal error
POLL_SECONDS: Final = 0.1
MILLISECOND: Final = 0.001
INVALID_ARGUMENT: Final = KafkaError._INVALID_ARG  # noqa: SLF001  the client's only name for it
PARTITION_END: Final = KafkaError._PARTITION_EOF  # noqa: SLF001  likewise
FATAL: Final = KafkaError._FATAL  # noqa: SLF001  likewise
PASSING: Final = frozenset(  # what a broker says while it takes a partition over, or makes a new one
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
# Said of a live broker too that was silent for its session.
TOO_FEW_BROKERS: Final = frozenset({KafkaError.INVALID_REPLICATION_FACTOR})
FENCED: Final = (
    KafkaError._FENCED,  # noqa: SLF001  likewise
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
)

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
OWN: Final = frozenset(
    {"bootstrap.servers", "transactional.id", *PRODUCER, *TRANSACTIONAL, *CONSUMER} - {"fetch.wait.max.ms"}
)

_T = TypeVar("_T")
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
    transactional: bool = False  # the brokers refuse a former owner of a shard
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


class KafkaView:
    """
    One shard's partition, for reading: makes no topic and no producer.

    Attributes: `cluster_id`; `topic_id`; `bytes_total`, what was read and appended through this object.
    """

    def __init__(self, settings: KafkaSettings, shard: int) -> None:
        """
        Connect.

        Raises LogUnavailable naming the servers if no broker answers within connect_timeout_seconds, or if there is
        no such topic; ValueError if the topic or a setting does not fit.
        """
        self.settings = settings
        self.shard = shard
        self.bytes_total = 0
        self._counted_offset = 0  # everything below is in bytes_total
        self._trouble = ""
        self._where = f"topic {settings.topic!r}, partition {shard}"
        try:
            self._connect()
        except KafkaException as error:
            if isinstance(error.args[0], KafkaError) and error.args[0].code() == INVALID_ARGUMENT:
                reason = settings.redacted(_reason(error))
                raise ValueError(f"kafka.settings: librdkafka refuses them ({reason}); correct them") from None
            raise self._unavailable(error) from None  # the cause may repeat a setting's value

    def _connect(self) -> None:
        """Learn what the topic is."""
        admin = AdminClient(self.settings.client({}))
        if not _replicas(admin, self.settings):
            raise LogMissing(
                f"there is no topic {self.settings.topic!r} at {self.settings.bootstrap_servers}; name the right one "
                f"in kafka.topic, or start the exchange once"
            )
        self._learn(admin)

    def _learn(self, admin: AdminClient) -> None:
        """Check the topic and keep what it is."""
        self._durability = _durability(admin, self.settings)
        self.cluster_id, self.topic_id = _identity(admin, self.settings)

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

    def newest(self, count: int) -> list[Entry]:
        """The last records; looks further back each time that what lies there is no record of ours."""
        counted = self._counted_offset, self.bytes_total
        consumer = Consumer(self.settings.client(CONSUMER))
        try:
            low, high = _watermarks(consumer, self.settings, self.shard)
        except KafkaException as error:
            raise self._unavailable(error) from None
        finally:
            consumer.close()
        found: list[Entry] = []
        reach = count
        while len(found) < count and high - reach // 4 > low:
            found = list(self.read(max(high - reach, low)))
            reach *= 4
        self._counted_offset, self.bytes_total = counted  # a look ahead does not count as read
        return found[-count:]

    def beginning(self) -> int:
        """The partition's low watermark: 0, or where a trim has cut it."""
        consumer = Consumer(self.settings.client(CONSUMER))
        try:
            return _watermarks(consumer, self.settings, self.shard)[0]
        except KafkaException as error:
            raise self._unavailable(error) from None
        finally:
            consumer.close()

    def trim(self, position: int) -> None:
        """Let the brokers delete the records below an offset; files of theirs go whole, and later."""
        admin = AdminClient(self.settings.client({}))
        partition = TopicPartition(self.settings.topic, self.shard, position)
        timeout_seconds = self.settings.connect_timeout_seconds
        try:
            _only(admin.delete_records([partition], request_timeout=timeout_seconds))
        except KafkaException as error:
            raise self._unavailable(error) from None

    def locate(self, position: int) -> str:
        """Topic, partition and offset."""
        return f"{self._where}, offset {position}"

    def identity(self) -> str:
        """Cluster and topic id: a topic that is made again under the same name has another."""
        return f"{self.cluster_id}/{self.topic_id}"

    def describe(self) -> str:
        """Where the log is and what the topic's settings make of an acknowledgement."""
        return (
            f"log in Kafka, {self._where} of cluster {self.cluster_id} at {self.settings.bootstrap_servers}: "
            f"durable means {self._durability}"
        )

    def close(self) -> None:
        """Nothing is held."""

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
        low, high = _watermarks(consumer, self.settings, self.shard)
        if not low <= position <= high:
            reason = (
                "the numbers are offsets; the partition was trimmed or lost records, or is another cluster's"
            )
            raise LogGap(self.shard, position, low if position < low else high, self._where, reason)
        consumer.assign([partition])
        return high

    def _unavailable(self, cause: object) -> LogUnavailable:
        """The sentence for a Kafka that does not answer."""
        reason = self.settings.redacted("; ".join(filter(None, (_reason(cause), self._trouble))))
        return LogUnavailable(
            f"the log's Kafka at {self.settings.bootstrap_servers} did not do what was asked within "
            f"{self.settings.connect_timeout_seconds:g} s ({reason}); start it, or correct "
            f"kafka.bootstrap and kafka.settings"
        )


class KafkaLog(KafkaView):
    """One shard's partition, open for appending."""

    def __init__(self, settings: KafkaSettings, shard: int) -> None:
        """
        Connect, make the topic if it is missing, and fence the former owner if the settings are transactional.

        Raises LogUnavailable naming the servers if no broker answers within connect_timeout_seconds, ValueError
        if the topic or a setting does not fit.
        """
        self._pending_bytes = 0
        self._pending_count = 0
        self._durable_count = 0
        self._durable_end = 0
        self._failure: LogFailed | Fenced | None = None
        self._unexplained = False  # a delivery failed because of a fatal error that was not raised yet
        self._transaction: LongTransaction | None = None
        self._waiting: deque[bytes] = deque()  # appended while a commit was under way
        self._pid = os.getpid()
        self._transactional_id = transactional_id(settings.topic, shard)
        super().__init__(settings, shard)

    def _connect(self) -> None:
        """Make the topic if it is missing, and the producer."""
        admin = AdminClient(self.settings.client({}))
        _ensure_topic(admin, self.settings)
        self._learn(admin)
        own = dict(PRODUCER)
        if self.settings.transactional:
            own |= {**TRANSACTIONAL, "transactional.id": self._transactional_id}
        self._producer = Producer({**self.settings.client(own), "error_cb": self._on_error})
        if self.settings.transactional:
            self._transaction = LongTransaction(self._producer, self.settings.connect_timeout_seconds)

    def describe(self) -> str:
        """Where the log is, what an acknowledgement means, and who may write."""
        fence = (
            f"; a former owner is refused, transactional.id {self._transactional_id!r}"
            if self._transaction
            else ""
        )
        return super().describe() + fence

    @property
    def durable_end(self) -> int:
        """Offset behind the last batch of this owner that was acknowledged."""
        return self._durable_end

    def append(self, batch: bytes) -> None:
        """Hand a batch to the client; waits only while PENDING_BYTES_MAX are unacknowledged."""
        if os.getpid() != self._pid:
            raise RuntimeError(
                "a Kafka log must be opened in the process that uses it; this one came through a fork"
            )
        while self._pending_bytes >= PENDING_BYTES_MAX and self._failure is None:
            self._serve(POLL_SECONDS)
        self._require_sound()
        self._pending_bytes += len(batch)
        self._pending_count += 1
        self._waiting.append(batch)
        self._send()
        self._require_sound()

    def poll(self, timeout_seconds: float = 0.0) -> int:
        """How many appended batches the brokers have acknowledged; also commits when it is time to."""
        self._serve(_whole_milliseconds(timeout_seconds) if self._pending_count else 0)
        self._require_sound()
        return self._durable_count

    def _serve(self, timeout_seconds: float) -> None:
        """Let the client call back, then commit and send what waits for that."""
        with self._failing():
            self._producer.poll(timeout_seconds)
            if self._transaction is not None:
                self._transaction.advance()
        self._send()

    def _send(self) -> None:
        """Hand the client what it takes now."""
        with self._failing():
            while self._waiting and (self._transaction is None or self._transaction.may_send()):
                batch = self._waiting.popleft()
                self._producer.produce(
                    self.settings.topic, value=batch, partition=self.shard, on_delivery=self._on_delivery
                )

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """
        K2: whatever the client raises is the end of this life.

        A fatal error is raised by whichever call serves callbacks next, and runs on into our callbacks, where it
        becomes the cause of a SystemError. Other calls only say that there is one.
        """
        try:
            yield
        except (KafkaException, BufferError, SystemError) as error:
            if _code(error) == FATAL:
                self._learn_the_fatal_error()
            self._fail(error.__cause__ if isinstance(error, SystemError) else error)

    def _learn_the_fatal_error(self) -> None:
        """Serve callbacks until the client raises what is wrong: it is on its way."""
        deadline = time.monotonic() + FATAL_SECONDS
        while time.monotonic() < deadline:
            try:
                self._producer.poll(POLL_SECONDS)
            except (KafkaException, SystemError) as error:
                self._fail(error.__cause__ if isinstance(error, SystemError) else error)
                return

    def close(self) -> None:
        """Wait a little for what is pending, then give it up: it may or may not be in the log."""
        if os.getpid() != self._pid:
            return
        deadline = time.monotonic() + CLOSE_TIMEOUT_SECONDS
        while self._pending_count and self._failure is None and time.monotonic() < deadline:
            self._serve(POLL_SECONDS)
        with self._failing():
            if self._transaction is not None and self._failure is None:
                self._transaction.commit(CLOSE_TIMEOUT_SECONDS)
        with self._failing():
            self._producer.purge()
            self._producer.flush(1)

    # -- callbacks: run inside poll and flush, K1

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        """Count in order; one partition of an idempotent producer answers in the order of produce."""
        size = len(message)
        self._pending_bytes -= size
        self._pending_count -= 1
        if error is not None:
            self._unexplained |= error.code() == FATAL
            self._fail(error)
        elif self._failure is None:
            self._durable_count += 1
            self._durable_end = message.offset() + 1
            self._count(message.offset(), size)

    def _on_error(self, error: KafkaError) -> None:
        """Fatal is for good; anything else the client repairs by itself, and is kept to explain a time-out."""
        self._trouble = error.str()
        if error.fatal():
            self._fail(error)

    # -- the rest

    def _fail(self, cause: object) -> None:
        """K2: keep the first failure; but that another instance has the shard explains whatever else went wrong."""
        fenced = self._transaction is not None and _code(cause) in FENCED
        if isinstance(self._failure, Fenced) or (self._failure is not None and not fenced):
            return
        reason = self.settings.redacted(_reason(cause))
        if fenced:
            self._failure = Fenced(
                f"another instance owns shard {self.shard} now: Kafka refuses this one's producer, transactional.id "
                f"{self._transactional_id!r} ({reason}). Nothing that was called durable is lost; let the other one "
                f"run, or stop it before this one is started again: one supervisor for a topic"
            )
        else:
            self._failure = LogFailed(
                f"Kafka refused a batch for {self._where} ({reason}); this process must stop: the next one recovers "
                f"from what the log holds"
            )

    def _require_sound(self) -> None:
        """L2: a failure is for good."""
        if self._unexplained:
            self._unexplained = False
            self._learn_the_fatal_error()
        if self._failure is not None:
            raise self._failure


def partitions_of(settings: KafkaSettings) -> int:
    """How many partitions the topic has; 0: there is no such topic. Raises LogUnavailable."""
    try:
        return len(_replicas(AdminClient(settings.client({})), settings))
    except KafkaException as error:
        raise LogUnavailable(
            f"the log's Kafka at {settings.bootstrap_servers} does not answer ({settings.redacted(_reason(error))}); start it, "
            f"or correct kafka.bootstrap and kafka.settings"
        ) from None  # the cause may repeat a setting's value


def remove_empty_topic(settings: KafkaSettings) -> bool:
    """
    Remove a topic into which nothing was ever written, and wait until it is gone; False if there is none.

    Raises LogNotEmpty if it holds records or has held some, LogUnavailable if the brokers do not do it in time.
    """
    try:
        return _remove_empty_topic(settings)
    except KafkaException as error:
        raise LogUnavailable(
            f"the log's Kafka at {settings.bootstrap_servers} did not remove topic {settings.topic!r} "
            f"({settings.redacted(_reason(error))}); start it, or remove the topic by hand"
        ) from None  # the cause may repeat a setting's value


def _remove_empty_topic(settings: KafkaSettings) -> bool:
    """The same, with the client's own exceptions."""
    timeout_seconds = settings.connect_timeout_seconds
    admin = AdminClient(settings.client({}))
    partitions = len(_replicas(admin, settings))
    if not partitions:
        return False
    consumer = Consumer(settings.client(CONSUMER))
    try:
        for number in range(partitions):
            _, high = _watermarks(consumer, settings, number)
            if high:
                raise LogNotEmpty(
                    f"topic {settings.topic!r} must be empty to be removed, partition {number} has had {high} records: "
                    f"somebody has used it; copy or remove it by hand"
                )
    finally:
        consumer.close()
    _only(admin.delete_topics([settings.topic], request_timeout=timeout_seconds))
    deadline = time.monotonic() + timeout_seconds
    while _replicas(admin, settings):
        if time.monotonic() > deadline:
            raise KafkaException("it is still there")
        time.sleep(POLL_SECONDS)
    return True


def _patiently(ask: Callable[[float], _T], settings: KafkaSettings, passing: frozenset[int] = PASSING) -> _T:
    """
    Ask again what a broker could not say yet, until time is up; `ask` gets the seconds that are left.

    Metadata may name a leader before that broker has made the partition (seen for a new topic on a busy disk), and
    the client itself asks three times within half a second. Raises what the last try raised, KafkaException.
    """
    left_seconds = settings.connect_timeout_seconds
    deadline = time.monotonic() + left_seconds
    while True:
        try:
            return ask(left_seconds)
        except KafkaException as error:
            if _code(error) not in passing:
                raise
            time.sleep(POLL_SECONDS)
            left_seconds = deadline - time.monotonic()
            if left_seconds < POLL_SECONDS:
                raise  # the reason; a last try in no time would only say that time was up


def _watermarks(consumer: Consumer, settings: KafkaSettings, number: int) -> tuple[int, int]:
    """Offsets of a partition's first record and behind its last one. Raises KafkaException."""
    partition = TopicPartition(settings.topic, number)
    low, high = _patiently(lambda seconds: consumer.get_watermark_offsets(partition, seconds), settings)
    return int(low), int(high)


def _whole_milliseconds(timeout_seconds: float) -> float:
    """The client cuts time-outs to milliseconds, and what is below one would not wait at all."""
    return max(timeout_seconds, MILLISECOND) if timeout_seconds > 0 else 0.0


def _code(cause: object) -> int | None:
    """The client's number for what went wrong."""
    if isinstance(cause, KafkaException):
        cause = cause.args[0]
    return cause.code() if isinstance(cause, KafkaError) else None


def _reason(cause: object) -> str:
    """What the client says went wrong, without the name of its exception."""
    if isinstance(cause, KafkaException):
        cause = cause.args[0]
    return cause.str() if isinstance(cause, KafkaError) else str(cause)


def _ensure_topic(admin: AdminClient, settings: KafkaSettings) -> None:
    """Make the topic if it is missing, and wait until each partition has a leader."""
    replicas = _replicas(admin, settings)
    if not replicas:
        _create_topic(admin, settings)
    deadline = time.monotonic() + settings.connect_timeout_seconds
    while not replicas or not all(replicas):  # a new topic takes a moment to show
        if time.monotonic() > deadline:
            raise KafkaException(f"topic {settings.topic!r} has partitions without a leader")
        time.sleep(POLL_SECONDS)
        replicas = _replicas(admin, settings)


def _durability(admin: AdminClient, settings: KafkaSettings) -> str:
    """What an acknowledgement of the topic means; refuses a topic that does not fit the shards or loses commands."""
    replicas = _replicas(admin, settings)
    if len(replicas) != settings.shards:
        raise ValueError(
            f"topic {settings.topic!r} must have a partition for each of the {settings.shards} shards and no other, has "
            f"{len(replicas)}: events of the others would be unknown; name a new topic in kafka.topic, or set exchange.shards"
        )
    resource = ConfigResource(ConfigResource.Type.TOPIC, settings.topic)
    facts = _patiently(
        lambda seconds: _only(admin.describe_configs([resource], request_timeout=seconds)), settings
    )
    policy = facts["cleanup.policy"].value
    if policy != "delete":
        raise ValueError(
            f"topic {settings.topic!r} must have cleanup.policy=delete, was {policy}: compaction removes commands"
        )
    in_sync = facts["min.insync.replicas"].value
    where = "on disk" if facts["flush.messages"].value == "1" else "in the page cache"
    return f"acknowledged by all in-sync replicas ({min(replicas)} replicas, at least {in_sync} in sync), {where} of each"


def _identity(admin: AdminClient, settings: KafkaSettings) -> tuple[str, str]:
    """Cluster id and topic id."""
    cluster = admin.list_topics(settings.topic, timeout=settings.connect_timeout_seconds).cluster_id
    topics = TopicCollection([settings.topic])
    topic = _patiently(lambda seconds: _only(admin.describe_topics(topics, request_timeout=seconds)), settings)
    return str(cluster), str(topic.topic_id)


def _only(answers: Mapping[Any, Any]) -> Any:
    """The result of an administrator's request about one thing. Raises KafkaException."""
    [answer] = answers.values()
    return answer.result()


def _replicas(admin: AdminClient, settings: KafkaSettings) -> list[int]:
    """Replicas of each partition, 0 where it has no leader; empty if there is no topic."""
    metadata = admin.list_topics(settings.topic, timeout=settings.connect_timeout_seconds)
    topic = metadata.topics[settings.topic]
    partitions = topic.partitions.values() if topic.error is None else ()
    return [len(partition.replicas) if partition.leader >= 0 else 0 for partition in partitions]


def _create_topic(admin: AdminClient, settings: KafkaSettings) -> None:
    """Make the topic, as soon as Kafka counts enough brokers; another worker may make it at the same moment."""
    configuration = dict(TOPIC)
    if settings.flush_messages is not None:
        configuration["flush.messages"] = str(settings.flush_messages)
    topic = NewTopic(settings.topic, settings.shards, settings.replication_factor, config=configuration)
    try:
        _patiently(
            lambda seconds: _only(admin.create_topics([topic], request_timeout=seconds)),
            settings,
            TOO_FEW_BROKERS,
        )
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
