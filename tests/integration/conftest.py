"""What the tests of a whole exchange share: exchanges that end with their test."""

import itertools
import os
import uuid

import pytest
from confluent_kafka.admin import AdminClient

from ringpit.testing.clients import Clients
from ringpit.testing.exchange import RunningExchange
from ringpit.testing.judge import SHARDS

NUMBERS = itertools.count(1)
LIMITS = {"events": 64, "orders": 1 << 16, "levels": 1 << 14, "keys": 1 << 14}


@pytest.fixture
def make_exchange(tmp_path):
    """Make exchanges of names that no other run uses, from sections of a configuration."""
    made = []

    def make(**sections):
        number = next(NUMBERS)
        folder = tmp_path / f"exchange-{number}"
        folder.mkdir()
        settings = {"exchange": {"name": f"test-{os.getpid()}-{number}", "shards": SHARDS}, **sections}
        made.append(RunningExchange(folder, settings))
        return made[-1]

    yield make
    for exchange in made:
        exchange.close()


@pytest.fixture
def make_clients(make_exchange, rabbitmq_url, kafka_bootstrap):
    """Make an exchange with queue, exchanges and topic of its own, and its clients; it does not run yet."""
    names = []
    open_clients = []

    def make(sections=(), **output):
        name = f"ringpit.test.{uuid.uuid4().hex[:12]}"
        names.append(name)
        topics = ("reports", "trades", "prices", "books")
        rabbitmq = {
            "queue": f"{name}.orders",
            **{f"{topic}_exchange": f"{name}.{topic}" for topic in topics},
            "dead_letter_exchange": f"{name}.dead",
        }
        exchange = make_exchange(
            limits=LIMITS,
            intake={"source": "rabbitmq"},
            output={"sink": "rabbitmq", **output},
            log={"kind": "kafka"},
            kafka={"bootstrap": kafka_bootstrap, "topic": name},
            rabbitmq={"url": rabbitmq_url, **rabbitmq},
            **dict(sections),
        )
        open_clients.append(Clients(exchange, rabbitmq_url))
        return exchange, open_clients[-1]

    yield make
    for clients in open_clients:
        clients.exchange.close()
        clients.close()
    AdminClient({"bootstrap.servers": kafka_bootstrap}).delete_topics(names)
