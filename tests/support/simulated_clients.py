"""
What clients send in a simulation: deliveries with keys, some of them twice, some wrong, in the order of each queue.

    plans = plan(random, queues=2, events=4)      one list of sendings a queue
    send(plans, queue, random)                    one more

An event belongs to one queue, as at any exchange whose publishers want order. A delivery may touch every shard: by
commands for several events, or by a mass cancel of all. A client that missed its confirm sends again with the same key,
at once or much later. A few keys come again with another body, and a few bodies are nonsense.
"""

from random import Random
from typing import Final, NamedTuple

import numpy as np

from ringpit.engine.codes import CommandKind, Flag, OrderType, TimeInForce
from ringpit.engine.records import COMMAND
from ringpit.shards.delivery import Key
from ringpit.shards.flow import creations, flow
from ringpit.shards.packed import encode
from ringpit.testing.simulated_brokers import Queue

AGAIN_SHARE: Final = 0.15  # of deliveries are sent a second time
OTHER_BODY_SHARE: Final = 0.03
NONSENSE_SHARE: Final = 0.04
EVERYWHERE_SHARE: Final = 0.04  # of deliveries are a mass cancel of all events
EXPIRING_SHARE: Final = 0.1  # of new orders
LIFE_NS_MAX: Final = 40_000_000


class Sending(NamedTuple):
    """One message, as often as it stands in a plan."""

    key: Key
    body: bytes
    valid: bool


def plan(random: Random, *, queues: int, events: int, orders: int, start_ns: int) -> list[list[Sending]]:
    """What each queue gets, in order."""
    commands = flow(orders, seed=random.getrandbits(31), events=events, accounts=5)[events:]
    expiring = (
        (commands["kind"] == CommandKind.NEW)
        & (commands["order_type"] == OrderType.LIMIT)
        & (commands["time_in_force"] == TimeInForce.GTC)
    )
    for at in np.flatnonzero(expiring).tolist():
        if random.random() < EXPIRING_SHARE:
            commands[at]["time_in_force"] = TimeInForce.GTD
            commands[at]["expires_ns"] = start_ns + random.randrange(LIFE_NS_MAX)
    queue_of = commands["event"] % queues
    plans = []
    for queue in range(queues):
        created = creations(events)
        own = np.concatenate([created[created["event"] % queues == queue], commands[queue_of == queue]])
        plans.append(repeated(random, cut(random, own, queue)))
    return plans


def cut(random: Random, commands: np.ndarray, queue: int) -> list[Sending]:
    """Commands as deliveries of one to four."""
    sendings = []
    start = 0
    while start < len(commands):
        end = start + random.randint(1, 4)
        key = (1 + random.getrandbits(60), queue)
        sendings.append(Sending(key, encode(commands[start:end]), valid=True))
        start = end
        if random.random() < NONSENSE_SHARE:
            sendings.append(Sending((1 + random.getrandbits(60), queue), b"nonsense", valid=False))
        if random.random() < EVERYWHERE_SHARE:
            sendings.append(Sending((1 + random.getrandbits(60), queue), encode(mass_cancel()), valid=True))
    return sendings


def mass_cancel() -> np.ndarray:
    """A command that touches every shard."""
    command = np.zeros(1, COMMAND)
    command["kind"] = CommandKind.MASS_CANCEL
    command["side"] = 2
    command["flags"] = Flag.ALL_EVENTS
    return command


def repeated(random: Random, sendings: list[Sending]) -> list[Sending]:
    """The same with some sent again behind themselves, and some keys with another body."""
    places: list[tuple[float, Sending]] = []
    for at, sending in enumerate(sendings):
        places.append((at, sending))
        if sending.valid and random.random() < AGAIN_SHARE:
            places.append((at + random.choice((0.5, random.uniform(0.5, len(sendings)))), sending))
        if sending.valid and random.random() < OTHER_BODY_SHARE:
            other = random.choice([each for each in sendings if each.valid])
            places.append((at + random.uniform(0.5, 10), sending._replace(body=other.body)))
    return [sending for _, sending in sorted(places, key=lambda place: place[0])]


def send(plans: list[list[Sending]], queues: list[Queue], random: Random) -> None:
    """One client sends its next message."""
    waiting = [number for number, sendings in enumerate(plans) if sendings]
    if waiting:
        number = random.choice(waiting)
        sending = plans[number].pop(0)
        queues[number].put(sending.key, sending.body, valid=sending.valid)
