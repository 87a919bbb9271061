"""
What a router pays to read a delivery.     bytes -> [decode, check, prices to ticks] -> COMMAND records

Reads   the same orders as JSON, as MessagePack and packed, one to a delivery and a hundred.
Tells   CPU nanoseconds per command, from the body's bytes to records that could go into a ring.
Checks  the sum of the records' order ids and of their prices is the same in every encoding, and a fact of the result.
Needs   1 core.
"""

import argparse
import time
from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np

import ringpit.engine  # noqa: F401 - chooses the folder of numba's cache, before the first kernel is defined
from ringpit.engine.codes import CommandKind
from ringpit.engine.records import COMMAND
from ringpit.perf.harness import benchmark, cores_for, pin, positive
from ringpit.shards import messages, packed
from ringpit.shards.prices import spec_of

SEED: Final = 7
EVENTS: Final = 20
BATCHES: Final = (1, 100)
CENTS: Final = spec_of()


def add_options(parser: argparse.ArgumentParser) -> None:
    """How much is read."""
    parser.add_argument("--commands", type=positive, default=20_000, help="orders in each encoding")


def orders_of(count: int) -> np.ndarray:
    """Seeded limit orders in cents over a few events, as packed records."""
    rng = np.random.default_rng(SEED)
    commands = np.zeros(count, COMMAND)
    commands["kind"] = CommandKind.NEW
    commands["side"] = rng.integers(0, 2, count)
    commands["event"] = rng.integers(1, EVENTS + 1, count)
    commands["order"] = np.arange(1, count + 1)
    commands["account"] = rng.integers(1, 1_000, count)
    commands["price"] = rng.integers(1, 100, count)
    commands["quantity"] = rng.integers(1, 100, count)
    return commands


def messages_of(commands: np.ndarray) -> list[messages.Order]:
    """The same orders as a client writes them: a decimal price, and every field that has a default left out."""
    sides = list(messages.SideName)
    return [
        messages.Order(
            event=event,
            order=messages.OrderFields(
                order=order,
                account=account,
                side=sides[side],
                price=price / CENTS.payout_ticks,
                quantity=quantity,
            ),
        )
        for side, event, order, account, price, quantity in commands[
            ["side", "event", "order", "account", "price", "quantity"]
        ].tolist()
    ]


def bodies(commands: np.ndarray, batch: int, encode: Callable) -> list[bytes]:
    """Deliveries of `batch` commands each; one command travels without a list around it."""
    if encode is packed.encode:
        return [encode(commands[first : first + batch]) for first in range(0, len(commands), batch)]
    sent = messages_of(commands)
    return [
        encode(sent[first] if batch == 1 else sent[first : first + batch])
        for first in range(0, len(sent), batch)
    ]


def read_json(body: bytes) -> np.ndarray:
    """A JSON delivery as records."""
    return messages.to_commands(messages.decode("application/json", body), lambda _event: CENTS)


def read_msgpack(body: bytes) -> np.ndarray:
    """A MessagePack delivery as records."""
    return messages.to_commands(messages.decode("application/msgpack", body), lambda _event: CENTS)


ENCODINGS: Final[dict[str, tuple[Callable, Callable]]] = {
    "json": (msgspec.json.encode, read_json),
    "msgpack": (msgspec.msgpack.encode, read_msgpack),
    "packed": (packed.encode, packed.decode),
}


@benchmark(
    "decode", "router decode: JSON, MessagePack and packed deliveries of 1 and 100 orders", options=add_options
)
def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """CPU nanoseconds per command in every encoding and batch, and the sums that must agree."""
    pin(cores_for(1)[0])
    commands = orders_of(arguments.commands)
    figures: dict[str, object] = {}
    sums = set()
    for name, (encode, read) in ENCODINGS.items():
        for batch in BATCHES:
            sent = bodies(commands, batch, encode)
            start_ns = time.thread_time_ns()
            records = [read(body) for body in sent]
            spent_ns = time.thread_time_ns() - start_ns
            figures[f"{name}_{batch}_cpu_ns_per_command"] = spent_ns / len(commands)
            read_back = np.concatenate(records)
            sums.add((int(read_back["order"].sum()), int(read_back["price"].sum())))
    [(order_sum, price_sum)] = sums  # one encoding that reads something else makes two
    return {**figures, "order_sum": order_sum, "price_sum": price_sum}
