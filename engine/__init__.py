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
    LevelKind,
    OrderType,
    Outcome,
    Reason,
    ReportFlag,
    ReportKind,
    SelfTrade,
    Side,
    TimeInForce,
)
from ringpit.engine.exchange import Exchange, UnknownEvent  # noqa: E402  (as above)
from ringpit.engine.limits import Limits  # noqa: E402  (as above)
from ringpit.engine.records import BANDS, COMMAND, EXTENSION, MARKER, REPORT  # noqa: E402  (as above)

__all__ = [
    "BANDS",
    "COMMAND",
    "EXTENSION",
    "MARKER",
    "REPORT",
    "CommandKind",
    "EventState",
    "Exchange",
    "Flag",
    "LevelKind",
    "Limits",
    "OrderType",
    "Outcome",
    "Reason",
    "ReportFlag",
    "ReportKind",
    "SelfTrade",
    "Side",
    "TimeInForce",
    "UnknownEvent",
]
