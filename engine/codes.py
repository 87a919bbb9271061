"""
The engine's vocabulary: what a command asks, what a report says, and why.

Numbers are part of the wire, the rings and the log: append, never renumber. Reason codes 1 to 35 follow
the list that venues' reject codes were gathered into (ARCHITECTURE.md, "Reason codes").
"""

from enum import IntEnum


class CommandKind(IntEnum):
    """What a command asks of the engine."""

    NEW = 1
    CANCEL = 2
    AMEND = 3
    CREATE_EVENT = 4
    SETTLE = 5
    TICK = 6
    MARKER = 8


class Side(IntEnum):
    """Side of the YES book."""

    BUY = 0
    SELL = 1


class OrderType(IntEnum):
    """How an order meets the book."""

    LIMIT = 0
    MARKET = 1


class TimeInForce(IntEnum):
    """How long an order lives: until cancelled; now or not at all in parts; now and whole or not at all."""

    GTC = 0
    IOC = 1
    FOK = 2


class Flag(IntEnum):
    """Bits of `flags` in commands and reports."""

    NO_PRICE = 1  # command: a market order without protection, or an amend that keeps the price
    REPEAT = 2  # report: asked before, answered again, nothing changed


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


class EventState(IntEnum):
    """Life of an event, as far as it is built: the full lifecycle takes the numbers between."""

    FREE = 0
    OPEN = 1
    SETTLED = 9
