"""
The matching engine: numbers in, numbers out; no clock, no I/O, no randomness.

`Exchange` is the way in; records, codes and limits are its vocabulary.
"""

from ringpit.engine.cache import use_cache_of_these_sources

use_cache_of_these_sources()

from ringpit.engine.codes import (  # noqa: E402  (kernels may only be defined once the cache is chosen)
    CommandKind,
    EventState,
    Flag,
    OrderType,
    Reason,
    ReportKind,
    Side,
    TimeInForce,
)
from ringpit.engine.exchange import Exchange, UnknownEvent  # noqa: E402  (as above)
from ringpit.engine.limits import Limits  # noqa: E402  (as above)
from ringpit.engine.records import COMMAND, MARKER, REPORT  # noqa: E402  (as above)

__all__ = [
    "COMMAND",
    "MARKER",
    "REPORT",
    "CommandKind",
    "EventState",
    "Exchange",
    "Flag",
    "Limits",
    "OrderType",
    "Reason",
    "ReportKind",
    "Side",
    "TimeInForce",
    "UnknownEvent",
]
