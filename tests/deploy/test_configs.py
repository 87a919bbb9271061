"""The files of deploy/: the sample configurations load, say what is the default, and the compose file stays on loopback."""

import re
import tomllib
from pathlib import Path

import pytest

from ringpit.shards.config import load
from ringpit.shards.sections import Config
from ringpit.wal.kafka import OWN

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@pytest.mark.parametrize("name", ["ringpit.toml", "ringpit-brokers.toml"])
def test_sample_configurations_load(name):
    """Each sample is valid as it stands, with nothing in the environment."""
    config = load(DEPLOY / name, environment={})
    assert 2 == config.exchange.shards


def test_the_embedded_sample_says_the_defaults():
    """Every value in ringpit.toml is the default, as its header claims."""
    defaults = Config()
    for section, table in tomllib.loads((DEPLOY / "ringpit.toml").read_text()).items():
        assert {key: getattr(getattr(defaults, section), key) for key in table} == table


def test_the_brokers_sample_uses_both_brokers():
    """Orders come from RabbitMQ, reports go there, and the log is Kafka."""
    config = load(DEPLOY / "ringpit-brokers.toml", environment={})
    assert set() == OWN & set(config.kafka.settings)
    assert ("rabbitmq", "rabbitmq", "kafka") == (config.intake.source, config.output.sink, config.log.kind)


def test_addresses_of_make_brokers_win_over_the_file():
    """The names in brokers.env are names that the configuration knows."""
    named = {
        "RINGPIT_RABBITMQ_URL": "amqp://guest:guest@127.0.0.1:20001/%2F",
        "RINGPIT_KAFKA_BOOTSTRAP": "127.0.0.1:20002",
    }
    config = load(DEPLOY / "ringpit-brokers.toml", environment=named)
    assert list(named.values()) == [config.rabbitmq.url, config.kafka.bootstrap]


def test_a_full_batch_fits_the_broker():
    """The log's batch in the sample is smaller than what the broker of deploy/ takes."""
    properties = (DEPLOY / "kafka" / "server.properties").read_text()
    message_bytes_max = int(re.search(r"^message\.max\.bytes=(\d+)$", properties, re.MULTILINE)[1])
    assert message_bytes_max > load(DEPLOY / "ringpit-brokers.toml", environment={}).log.batch_bytes


def test_containers_listen_on_loopback_only():
    """Every published port in compose.yaml is bound to 127.0.0.1, and every image has a tag."""
    text = (DEPLOY / "compose.yaml").read_text()
    ports = re.findall(r'^ +- "([\d.:]+)"$', text, re.MULTILINE)
    assert ["127.0.0.1:5672:5672", "127.0.0.1:9092:9092"] == ports
    assert all(":" in image and not image.endswith("latest") for image in re.findall(r"image: (\S+)", text))
