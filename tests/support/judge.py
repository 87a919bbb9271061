"""
Judge: what came out of an exchange, held against what was submitted. Each function fails with what differs.

    received_by(exchange)                       everything that its output files hold
    assert_exact(received, deliveries)          once each, with the seq and index it must have
    assert_once_in_effect(received, deliveries) whatever came twice, every delivery had effect once
"""

from collections.abc import Sequence
from itertools import chain
from typing import Final

from ringpit.shards.sinks import JSON_LINES
from ringpit.testing.exchange import RunningExchange
from ringpit.testing.received import Received
from ringpit.testing.submissions import Model, Submission, by_event, differences, one_exchange

SHARDS: Final = 2


def answers_of(deliveries: Sequence[Submission]) -> int:
    """How many reports a naive exchange makes of deliveries that each have effect once."""
    return sum(map(len, one_exchange(deliveries).values()))


def received_by(exchange: RunningExchange) -> Received:
    """Everything in the output files."""
    received = Received()
    for topic in ("reports", "trades", "prices", "books"):
        path = exchange.config.data_folder() / "out" / f"{topic}.ndjson"
        received.take(topic, JSON_LINES, path.read_bytes() if path.exists() else b"")
    return received


def model_of(received: Received, deliveries: Sequence[Submission]) -> Model:
    """What the deliveries must have done in this order; those that repeat a message id are judged by M11."""
    model = Model(SHARDS, received.homes().__getitem__)
    model.submit(deliveries)
    return model


def assert_exact(received: Received, deliveries: Sequence[Submission]) -> Model:
    """Every report and trade of deliveries in this order came once, with the seq and index it must have; the model."""
    model = model_of(received, deliveries)
    assert differences(dict(enumerate(model.reports)), received.by_shard(received.reports)) == []
    assert differences(dict(enumerate(model.trades())), received.by_shard(received.trades)) == []
    assert received.disordered() == []
    assert received.repeated == 0
    return model


def assert_once_in_effect(received: Received, deliveries: Sequence[Submission]) -> Model:
    """Whatever came twice, each event said what it must, in order, and reports that came again said the same; the model."""
    assert received.contradicted == []
    assert received.disordered() == []
    assert differences(one_exchange(deliveries), by_event(received.by_log_order())) == []
    model = model_of(received, deliveries)
    expected, got = dict(enumerate(model.trades())), received.by_shard(received.trades)
    assert differences(by_event(chain(*expected.values())), by_event(chain(*got.values()))) == []
    return model
