"""
Every ceiling of the engine, and the proofs that the ceilings agree.

All memory is bounded and allocated at start. `Limits` sizes one shard; the constants below are part
of the layout and the same in every process that shares memory or a log.
"""

from dataclasses import dataclass
from typing import Final

FRAME_COMMANDS_MAX: Final = 4_096  # commands behind one marker
FRAME_SLOTS_MAX: Final = FRAME_COMMANDS_MAX + 1  # the marker takes a slot of its own
REPORTS_PER_STEP_MAX: Final = 8  # reports one step of a command may need at once
QUANTITY_MAX: Final = (1 << 40) - 1  # lots
PAYOUT_TICKS_MAX: Final = 1 << 22  # ticks
LADDER_LEVELS_MAX: Final = 1 << 18  # ticks a ladder can span; wider events have a skip list
PRICE_TICKS_MAX: Final = (1 << 31) - 1  # ticks
MONEY_MAX: Final = (1 << 62) - 1  # ticks x lots
ICEBERG_SLICES_MAX: Final = 1_024  # times that an iceberg can show afresh: each is a trade of one command
ORDERS_MAX: Final = 1 << 22  # open orders of a shard; all of them at one level must add up
BANDS_MAX: Final = 12  # price bands of one event
INT64_MAX: Final = (1 << 63) - 1


def require(holds: bool, rule: str) -> None:
    """Raise at import if two ceilings contradict each other (asserts vanish under -O)."""
    if not holds:
        raise RuntimeError(f"limits contradict each other: {rule}")


require(QUANTITY_MAX * ORDERS_MAX <= INT64_MAX, "the lots of one level must fit an int64")
require(LADDER_LEVELS_MAX <= PRICE_TICKS_MAX, "a ladder spans at most the price range")


def quantity_max_of(high: int, payout: int) -> int:
    """Most lots of one order where prices end at `high`: price x quantity x payout must fit 63 bits."""
    return min(QUANTITY_MAX, INT64_MAX // (max(high, 1) * max(payout, 1)))


def power_of_two(count: int) -> bool:
    """True if `count` is a power of two, as every ring and hash table must be."""
    return count > 0 and count & (count - 1) == 0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """
    Sizes of one shard's preallocated pools.

    Raises ValueError naming the limit, the value and the rule.
    """

    events: int = 1 << 14  # events ever created on the shard; a settled one is remembered
    orders: int = 1 << 18  # resting orders, all events together; a power of two
    levels: int = 1 << 20  # price levels, all events together; a power of two
    keys: int = 1 << 16  # frame keys remembered against duplicates; a power of two
    nodes: int = (
        1 << 14
    )  # levels of skip lists: wide events' prices, triggers, all-or-none limits; a power of two
    grids: int = 64  # different tables of price bands

    def __post_init__(self) -> None:
        """Check every ceiling once, here."""
        for name, low, high in (
            ("events", 1, 1 << 24),
            ("orders", 64, ORDERS_MAX),
            ("levels", 4_096, 1 << 24),
            ("keys", 64, 1 << 26),
            ("nodes", 64, 1 << 24),
            ("grids", 1, 1 << 16),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"limits.{name} must be from {low} to {high}, was {value}")
            if name not in ("events", "grids") and not power_of_two(value):
                raise ValueError(f"limits.{name} must be a power of two, was {value}")
