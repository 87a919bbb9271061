"""
Routes: which router's queue an event's messages go to, for everybody who publishes.

    router = ((event * 11400714819323198485 mod 2**64) >> 32) * routers >> 32        ROUTE_VERSION 1

All messages of an event must go through one queue, or their order is lost; so whoever publishes sends by this rule, and it never
changes for a number of routers. It is a multiplication and two shifts, to be written again in any language (an event's id that is
negative counts as its two's complement). RabbitMQ's own hash exchange would not do: it moves keys when its bindings change.

A MASS_CANCEL of all events has no event: through any queue it reaches every shard, in no order with what other queues carry.

A change of `exchange.routers` moves events to other queues: stop publishing, let the queues run empty, then change it.
"""

from typing import Final

import numpy as np

from ringpit.shards.config import Config

ROUTE_VERSION: Final = 1
MULTIPLIER: Final = 11_400_714_819_323_198_485  # 2**64 divided by the golden ratio: neighbours end far apart
WORD: Final = (1 << 64) - 1
HALF_BITS: Final = 32


def router_of(event: int, routers: int) -> int:
    """
    The router of an event among so many.

    Raises ValueError unless the event's id is a 64-bit integer, signed or not, and there is a router.
    """
    if not -(1 << 63) <= event <= WORD:
        raise ValueError(f"an event's id must be a 64-bit integer, was {event}; see `ringpit schema`")
    if routers < 1:
        raise ValueError(f"routers must be at least 1, was {routers}; see $.exchange.routers")
    return ((event * MULTIPLIER & WORD) >> HALF_BITS) * routers >> HALF_BITS


def routers_of(events: np.ndarray, routers: int) -> np.ndarray:
    """The same for an int64 array of ids."""
    mixed = events.astype(np.uint64) * np.uint64(MULTIPLIER) >> np.uint64(HALF_BITS)
    return (mixed * np.uint64(routers) >> np.uint64(HALF_BITS)).astype(np.int64)


def queue_of(config: Config, router: int) -> str:
    """The order queue of a router: the configured name for the first, with the router's number for others."""
    return config.rabbitmq.queue if router == 0 else f"{config.rabbitmq.queue}.{router}"


def queue_for(config: Config, event: int) -> str:
    """The queue that an event's messages go to."""
    return queue_of(config, router_of(event, config.exchange.routers))
