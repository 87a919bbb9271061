"""What only Kafka's log does: settings, topics, trimming, and brokers that are not there."""

import multiprocessing
import uuid
from concurrent.futures import Future

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from ringpit.testing.house import until
from ringpit.wal.errors import BatchDamaged, LogFailed, LogGap, LogUnavailable
from ringpit.wal.kafka import (
    RECORD_BYTES_CEILING,
    KafkaLog,
    KafkaSettings,
    KafkaView,
    _create_topic,
    _watermarks,
)

NOBODY = "127.0.0.1:1"  # a port on which nothing listens


@pytest.fixture
def fresh(kafka_bootstrap):
    """A function that makes settings for a topic of its own."""

    def settings(**changes):
        wanted = {
            "topic": f"ringpit-log-{uuid.uuid4().hex}",
            "shards": 1,
            "connect_timeout_seconds": 60,
        } | changes
        return KafkaSettings(bootstrap_servers=kafka_bootstrap, **wanted)

    return settings


def admin_of(settings):
    """An admin client of the same broker."""
    return AdminClient({"bootstrap.servers": settings.bootstrap_servers})


def test_missing_broker_is_named_within_the_time_given():
    """Nobody listens: the sentence names the servers and what to do."""
    settings = KafkaSettings(bootstrap_servers=NOBODY, topic="t", shards=1, connect_timeout_seconds=0.5)
    with pytest.raises(
        LogUnavailable, match=rf"Kafka at {NOBODY} did not do .* within 0.5 s .*start it, or correct"
    ):
        KafkaLog(settings, 0)


@pytest.mark.parametrize("name", ["acks", "enable.idempotence", "bootstrap.servers", "isolation.level"])
def test_settings_that_carry_guarantees_are_refused(name):
    """What the log's guarantees rest on cannot be set from outside."""
    with pytest.raises(
        ValueError, match=rf"kafka.settings may not set {name}: the log depends on its own value"
    ):
        KafkaSettings(bootstrap_servers=NOBODY, topic="t", shards=1, settings={name: "hunter2"})


def test_credentials_are_never_shown():
    """Neither repr nor errors carry a setting's value (K3)."""
    settings = {"sasl.password": "hunter2", "security.protocol": "s3cr3t"}
    config = KafkaSettings(bootstrap_servers=NOBODY, topic="t", shards=1, settings=settings)
    with pytest.raises(ValueError, match=r"librdkafka refuses them .*security.protocol") as caught:
        KafkaLog(config, 0)
    for text in (repr(config), str(caught.value), repr(caught.value.__cause__)):
        assert "hunter2" not in text
        assert "s3cr3t" not in text


def test_unknown_setting_is_named():
    """A setting that librdkafka does not know is the config's fault, and named."""
    config = KafkaSettings(bootstrap_servers=NOBODY, topic="t", shards=1, settings={"no.such": "x"})
    with pytest.raises(ValueError, match=r"No such configuration property: .no.such"):
        KafkaLog(config, 0)


class Unready:
    """A consumer whose broker has not made the partition yet, for some questions."""

    def __init__(self, refusals, code):
        self.refusals = refusals
        self.code = code

    def get_watermark_offsets(self, partition, timeout):
        """The partition's number as its end, once the refusals are used up."""
        assert timeout > 0
        self.refusals -= 1
        if self.refusals >= 0:
            raise KafkaException(KafkaError(self.code))
        return 0, partition.partition


def settings_of(seconds):
    """Settings with so much patience."""
    return KafkaSettings(bootstrap_servers=NOBODY, topic="t", shards=8, connect_timeout_seconds=seconds)


@pytest.mark.parametrize("code", [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE])
def test_a_broker_that_has_not_made_the_partition_yet_is_asked_again(monkeypatch, code):
    """Metadata names the leader of a new topic before that broker knows of it: asked again, within the time given."""
    monkeypatch.setattr("ringpit.wal.kafka.POLL_SECONDS", 0.001)
    assert (0, 7) == _watermarks(Unready(20, code), settings_of(30), 7)
    with pytest.raises(KafkaException, match=r"eader"):
        _watermarks(Unready(1_000_000, code), settings_of(0.02), 7)


class Short:
    """An admin client of a cluster that counts too few brokers, for some tries."""

    def __init__(self, refusals):
        self.refusals = refusals
        self.made = []

    def create_topics(self, topics, request_timeout):
        """Refused until the refusals are used up."""
        assert request_timeout > 0
        self.refusals -= 1
        answer = Future()
        if self.refusals >= 0:
            answer.set_exception(KafkaException(KafkaError(KafkaError.INVALID_REPLICATION_FACTOR)))
        else:
            self.made += [topic.topic for topic in topics]
            answer.set_result(None)
        return {topics[0].topic: answer}


def test_a_topic_for_which_there_are_too_few_brokers_is_asked_for_again(monkeypatch):
    """A broker that was silent for its session is not counted, though it lives: asked again, within the time given."""
    monkeypatch.setattr("ringpit.wal.kafka.POLL_SECONDS", 0.001)
    admin = Short(20)
    _create_topic(admin, settings_of(30))
    assert ["t"] == admin.made
    with pytest.raises(KafkaException, match=r"eplication"):
        _create_topic(Short(1_000_000), settings_of(0.02))


def test_what_does_not_pass_by_itself_is_said_at_once():
    """A refusal that waiting does not mend is no reason to wait."""
    consumer = Unready(2, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(KafkaException, match=r"uthorization"):
        _watermarks(consumer, settings_of(30), 7)
    assert 1 == consumer.refusals


@pytest.mark.brokers
def test_topic_is_made_with_the_settings_of_a_log(fresh):
    """A new topic keeps everything for ever, and the description says what an ack means."""
    settings = fresh(shards=3, flush_messages=1)
    log = KafkaLog(settings, 2)
    assert "1 replicas, at least 1 in sync), on disk of each" in log.describe()
    assert log.cluster_id in log.describe()
    log.close()
    topic = admin_of(settings).list_topics(settings.topic, timeout=10).topics[settings.topic]
    assert 3 == len(topic.partitions)
    assert "page cache" in KafkaLog(fresh(), 0).describe()


@pytest.mark.brokers
@pytest.mark.parametrize("shards", [1, 4])
def test_topic_with_other_partitions_is_refused(fresh, shards):
    """A shard without a partition could never log, and a partition without a shard would be forgotten: refused."""
    settings = fresh(shards=2)
    KafkaLog(settings, 0).close()
    rule = rf"partition for each of the {shards} shards and no other, has 2.*name a new topic"
    with pytest.raises(ValueError, match=rule):
        KafkaLog(fresh(topic=settings.topic, shards=shards), 0)


@pytest.mark.brokers
def test_compacted_topic_is_refused(fresh):
    """Compaction would remove commands."""
    settings = fresh()
    admin = admin_of(settings)  # kept alive: its futures end with it
    [made] = admin.create_topics(
        [NewTopic(settings.topic, 1, 1, config={"cleanup.policy": "compact"})]
    ).values()
    made.result(30)
    with pytest.raises(ValueError, match=r"cleanup.policy=delete, was compact"):
        KafkaLog(settings, 0)


@pytest.mark.brokers
def test_trimmed_log_is_a_gap(fresh, make):
    """A log whose beginning was deleted is refused when read from the beginning, and read on behind it."""
    settings = fresh()
    log = KafkaLog(settings, 0)
    for epoch in (1, 2, 3):
        log.append(make.claim(epoch))
    make.wait_durable(log, 3)
    admin = admin_of(settings)  # kept alive: its futures end with it
    [deleted] = admin.delete_records([TopicPartition(settings.topic, 0, 2)]).values()
    deleted.result(30)
    with pytest.raises(LogGap, match=r"expected 0, found 2 .*trimmed"):
        list(log.read())
    with pytest.raises(LogGap, match=r"expected 9, found 3"):
        list(log.read(9))
    assert [make.claim(3)] == [entry.batch for entry in log.read(2)]
    log.close()


@pytest.mark.brokers
def test_view_of_a_missing_topic_is_a_sentence(fresh):
    """A view makes no topic: it names the one that is missing."""
    settings = fresh()
    with pytest.raises(LogUnavailable, match=rf"there is no topic '{settings.topic}' at .*name the right one"):
        KafkaView(settings, 0)
    assert settings.topic not in admin_of(settings).list_topics(timeout=30).topics


@pytest.mark.brokers
def test_topic_made_again_is_another_log(fresh):
    """The identity tells a topic from another one of the same name."""
    settings = fresh()
    first = KafkaLog(settings, 0)
    admin = admin_of(settings)
    [deleted] = admin.delete_topics([settings.topic]).values()
    deleted.result(30)
    # The broker learns it from the controller.
    until(lambda: settings.topic not in admin.list_topics(timeout=30).topics, "the topic goes")
    second = KafkaLog(settings, 0)
    assert first.cluster_id == second.cluster_id
    assert first.identity() != second.identity()
    first.close()
    second.close()


@pytest.mark.brokers
def test_record_without_a_batch_is_damage(fresh):
    """Somebody else's empty record in the partition is refused with its offset."""
    log = KafkaLog(fresh(), 0)
    log._producer.produce(log.settings.topic, value=None, partition=0)
    assert 0 == log._producer.flush(60)
    with pytest.raises(BatchDamaged, match=r"offset 0: a record must carry a batch, was empty"):
        list(log.read())
    log.close()


@pytest.mark.brokers
def test_batch_that_kafka_refuses_fails_the_log_for_good(fresh, make):
    """A batch above the record limit is an error of ours: nothing is counted after it."""
    log = KafkaLog(fresh(), 0)
    log.append(make.claim(1))
    make.wait_durable(log, 1)
    with pytest.raises(
        LogFailed, match=r"Kafka refused a batch for topic .*, partition 0 .*this process must stop"
    ):
        log.append(bytes(RECORD_BYTES_CEILING * 2))
    with pytest.raises(LogFailed):
        log.append(make.claim(2))
    with pytest.raises(LogFailed):
        log.poll()
    log.close()


@pytest.mark.brokers
@pytest.mark.parametrize("transactional", [False, True])
def test_broker_that_goes_away_and_comes_back(fresh, make, brokers, transactional):
    """While Kafka is away batches stay pending; when it is back they become durable, each once and in order."""
    log = KafkaLog(fresh(flush_messages=1, transactional=transactional), 0)
    batches = [make.claim(1), *(make.batch(make.frames(2), first_seq=1 + 3 * index) for index in range(30))]
    for batch in batches[:10]:
        log.append(batch)
    make.wait_durable(log, 10)
    with brokers.stopped("kafka"):
        for batch in batches[10:]:
            log.append(batch)
        assert 10 == log.poll(0.5)
    make.wait_durable(log, len(batches))
    assert batches == [entry.batch for entry in log.read()]
    log.close()


def append_in_child(log, batch, answer):
    """Try to use an inherited log."""
    try:
        log.append(batch)
    except RuntimeError as error:
        answer.put(str(error))


@pytest.mark.brokers
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # that is the point
def test_log_that_came_through_a_fork_is_refused(fresh, make):
    """A client's threads do not survive a fork: using one is refused at once instead of hanging."""
    log = KafkaLog(fresh(), 0)
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    child = context.Process(target=append_in_child, args=(log, make.claim(1), answer))
    child.start()
    assert "must be opened in the process that uses it" in answer.get(timeout=60)
    child.kill()
    child.join()
    log.close()
