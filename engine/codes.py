"""
The engine's vocabulary: what a command asks, what a report says, and why.

Numbers are part of the wire, the rings and the log: append, never renumber. Reason codes 1 to 35 follow
the list that venues' reject codes were gathered into (ARCHITECTURE.md, "Reason codes").
"""

from enum import IntEnum
from typing import Final


class CommandKind(IntEnum):
    """What a command asks of the engine."""

    NEW = 1
    CANCEL = 2
    AMEND = 3
    CREATE_EVENT = 4
    SETTLE = 5
    TICK = 6  # only a worker makes it: whatever is due expires
    EXTENSION = 7  # rarely used fields of the command right behind it, see EXTENSION in records.py
    MARKER = 8
    REDUCE = 9
    REPLACE = 10
    MASS_CANCEL = 11
    BANDS = 12  # price bands of the CREATE_EVENT behind it, see BANDS in records.py


class Side(IntEnum):
    """Which side an order is on, in the terms of its own outcome."""

    BUY = 0
    SELL = 1


BOTH_SIDES: Final = 2  # `side` of a MASS_CANCEL that spares neither


class Outcome(IntEnum):
    """Which contract an order is for. NO at price q is the other side of YES at payout - q."""

    YES = 0
    NO = 1


class OrderType(IntEnum):
    """How an order meets the book."""

    LIMIT = 0
    MARKET = 1
    MONEY = 2  # a market order that spends at most `quantity` of money (ticks x lots)
    STOP = 3  # a market order once its trigger is reached
    STOP_LIMIT = 4  # a limit order once its trigger is reached
    TRAILING_STOP = 5  # a STOP whose trigger follows the last price at a distance


class LevelKind(IntEnum):
    """Structure of an event's price levels: `order_type` of a CREATE_EVENT."""

    AUTO = 0  # by the width of the price range
    LADDER = 1
    SKIP_LIST = 2


class TimeInForce(IntEnum):
    """How long an order lives."""

    GTC = 0  # until cancelled
    IOC = 1  # now, in parts if need be; the rest is cancelled
    FOK = 2  # now and whole, or not at all
    GTD = 3  # until `expires_ns`
    DAY = 4  # until the event's closing time


class SelfTrade(IntEnum):
    """What happens where an order meets another of its own account. The taker's mode decides."""

    NONE = 0  # they trade
    CANCEL_TAKER = 1
    CANCEL_MAKER = 2
    CANCEL_BOTH = 3
    DECREMENT = 4  # both lose the smaller quantity, without a trade


class Flag(IntEnum):
    """Bits of a command's `flags`."""

    NO_PRICE = 1  # an order without a price of its own, or an amend that keeps the price
    POST_ONLY = 4  # rather refused than taking
    HIDDEN = 8  # not shown, and behind all that is shown at its price
    ALL_OR_NONE = 16  # whole or not yet
    EXTENDED = 32  # the EXTENSION right before it belongs to it
    ALL_EVENTS = 64  # MASS_CANCEL: in every event of the shard


class ReportFlag(IntEnum):
    """Bits of a report's `flags`."""

    NO_PRICE = 1  # the order has no price of its own
    REPEAT = 2  # asked before, answered again, nothing changed
    NO = 4  # the order is for NO: side and price are NO's
    MINT = 8  # fill: BUY YES met BUY NO, a pair of contracts is made
    BURN = 16  # fill: SELL YES met SELL NO, a pair is destroyed; neither bit: a contract changes hands
    MONEY = 32  # quantity (ACCEPTED, CANCELED) and leaves are money, not lots


class Trait(IntEnum):
    """Bits of what an open order is, in `traits` of its record; the lowest three are its SelfTrade mode."""

    SELF_TRADE = 7
    NO = 8
    POST_ONLY = 16
    HIDDEN = 32
    ICEBERG = 64
    ALL_OR_NONE = 128
    TIMED = 256  # it expires
    GROUPED = 512  # it belongs to a group
    STOP = 1024  # it waits for its trigger
    TRAILING = 2048  # and the trigger follows the price
    NO_PRICE = 4096  # a stop without a price of its own
    MARKET = 8192  # a stop whose remainder will not rest


class Queue(IntEnum):
    """The lists of an event in which orders wait; the order in which digests, mass cancels and settlements go."""

    BIDS = 0  # best price first
    ASKS = 1
    BUY_STOPS = 2  # lowest trigger first
    SELL_STOPS = 3  # highest trigger first
    BUY_ALL_OR_NONE = 4  # best limit first
    SELL_ALL_OR_NONE = 5


class ReportKind(IntEnum):
    """What happened. Everything from LEVEL on is market data or bookkeeping, addressed to nobody."""

    ACCEPTED = 1
    FILL_MAKER = 2
    FILL_TAKER = 3
    CANCELED = 4
    AMENDED = 5
    REJECTED = 6
    EVENT_CREATED = 7
    EVENT_SETTLED = 8
    DUPLICATE = 9
    TRIGGERED = 10  # a stop's trigger was reached; it trades now
    PREVENTED = 11  # lots taken off by self-trade prevention (DECREMENT); the order is gone when leaves is 0
    MASS_CANCELED = 12  # the end of a MASS_CANCEL, with the number of orders cancelled
    LEVEL = 16
    BOOK_RESET = 17
    FRAME = 18


class Reason(IntEnum):
    """Why an order was refused or died."""

    NONE = 0
    MALFORMED = 1
    UNSUPPORTED = 2
    UNKNOWN_EVENT = 3
    EVENT_EXISTS = 4
    NOT_OPEN = 5
    CANCEL_ONLY = 6
    POST_ONLY_PHASE = 7
    MARKET_CLOSED = 8
    ALREADY_SETTLED = 9
    PRICE_OUT_OF_RANGE = 10
    PRICE_NOT_ON_TICK = 11
    QTY_INVALID = 12
    QTY_LIMIT = 13
    DUP_CLIENT_ORDER_ID = 14
    UNKNOWN_ORDER = 15
    TOO_LATE = 16
    NOT_OWNER = 17
    POST_ONLY_CROSS = 18
    FOK_UNFILLABLE = 19
    IOC_REMAINDER = 20
    SELF_TRADE = 21
    EXPIRED = 22
    EXPIRED_ON_ARRIVAL = 23
    STALE_MARKET_VERSION = 24
    OPEN_ORDER_LIMIT = 25
    RATE_LIMIT = 26
    BOOK_CAPACITY = 27
    GROUP_TRIGGERED = 28
    DEAD_MAN = 29
    MASS_CANCEL = 30
    MARKET_HALTED = 31
    PRICE_COLLAR = 32
    RISK = 33
    ENGINE_RECOVERING = 34
    OPERATOR = 35
    KEY_REUSED = 36  # the frame's key was seen before with another body
    POOL_CAPACITY = 37  # no order slot, or no node of a skip list, is free on the shard
    SKIPPED = 38  # an operator skipped the command, because the shard died at it


class EventState(IntEnum):
    """Life of an event, as far as it is built: the full lifecycle takes the numbers between."""

    FREE = 0
    OPEN = 1
    SETTLED = 9
