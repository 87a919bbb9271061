"""
Prices: from the decimal that a client writes to the engine's integer ticks, exactly or not at all.

A `PriceSpec` belongs to one event. A *unit* is 10**-decimals of the currency, a *tick* is `tick_units`
units, and the engine counts ticks only. Tick 0.05, payout 1: decimals 2, tick_units 5, payout_ticks 20.

    "0.35"  ->  35 units  ->  7 ticks  ->  "0.35"        always `decimals` digits, never "0.350" or "0.4"

Nothing is ever rounded to a neighbour: a price between two ticks is refused. A client's bad price is an
answer (`Reason`), not an exception; `spec_of` raises, because a bad spec has no ticks to answer with.

Why it is fast: the answers are remembered in a table of fixed size, and an exchange has few prices; a float
that is new needs a multiplication, a rounding and a division. Where it is slow: the first sight of a
string (about 2 microseconds), and Decimals, which are never remembered.

Invariants:

    P1  to_ticks(to_decimal(t)) == t for every tick, and so for int, float, string and Decimal alike
    P2  a float is accepted only if it is the double nearest to a tick's decimal value; what is computed
        (0.1 + 0.2) and lands one bit beside it is refused
    P3  units stay below UNITS_MAX < 2**53, so that two ticks never share a double and nothing overflows
"""

import re
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation
from functools import lru_cache
from math import isnan
from typing import Any, Final, Self

from ringpit.engine.codes import Reason
from ringpit.engine.limits import LADDER_LEVELS_MAX, PAYOUT_TICKS_MAX, require

DECIMALS_MAX: Final = 12
TICK_UNITS_MAX: Final = 10**8
UNITS_MAX: Final = 10**15  # a price this large, in units, is out of every range
UNITS_MAX_DOUBLE: Final = float(UNITS_MAX)  # comparing a double with an integer of 50 bits is slow
PRICE_LENGTH_MAX: Final = 40  # characters of a decimal string
PRICES_REMEMBERED: Final = 1 << 14  # prices whose ticks are kept, all events together

require(PAYOUT_TICKS_MAX * TICK_UNITS_MAX < UNITS_MAX, "every tick must be below UNITS_MAX units")
require(UNITS_MAX < 1 << 53, "a double must tell neighbouring units apart")

PriceLike = int | float | str | Decimal  # what a client may write where a price is asked for
Answer = tuple[int, Reason]  # ticks and NONE, or 0 and why not

NONE: Final = Reason.NONE  # a global is found faster than a member of its enumeration
POWERS: Final = tuple(10**exponent for exponent in range(DECIMALS_MAX + 1))
NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# Precise enough for PRICE_LENGTH_MAX digits times a scale, with every exponent the library knows: no step rounds.
EXACT: Final = Context(prec=2 * PRICE_LENGTH_MAX, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])


class PriceSpecError(ValueError):
    """A spec that no event can have. `reason` is the code with which its CreateEvent is refused."""

    def __init__(self, message: str, reason: Reason) -> None:
        """Keep the code beside the sentence."""
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PriceSpec:
    """
    One event's prices. All ticks are counted from 0; `payout_ticks` is what one lot pays at most.

    Raises PriceSpecError, with the field, the value and the rule, for what no event can have. A range wider
    than the engine's ladder is a spec like any other: see `fits_ladder`.
    """

    low_ticks: int
    high_ticks: int
    payout_ticks: int
    tick_units: int
    decimals: int

    def __post_init__(self) -> None:
        """Check the rules that the engine has (ARCHITECTURE.md, M8), and the two narrower ones of P3."""
        for name, value, low, high in (
            ("decimals", self.decimals, 0, DECIMALS_MAX),
            ("tick_units", self.tick_units, 1, TICK_UNITS_MAX),
            ("payout_ticks", self.payout_ticks, 0, PAYOUT_TICKS_MAX),
            ("high_ticks", self.high_ticks, 0, self.payout_ticks),
            ("low_ticks", self.low_ticks, 0, self.high_ticks),
        ):
            if not low <= value <= high:
                raise PriceSpecError(f"{name} must be from {low} to {high}, was {value}", Reason.UNSUPPORTED)

    @classmethod
    def of_command(cls, command: Any) -> Self:
        """
        The spec that a CREATE_EVENT record carries. `command` is one element of a COMMAND array.

        Raises PriceSpecError where the engine would refuse the event, too.
        """
        price, quantity, payout = int(command["price"]), int(command["quantity"]), int(command["payout"])
        return cls(price, quantity, payout, int(command["order"]), int(command["account"]))

    @property
    def fits_ladder(self) -> bool:
        """True if the range is narrow enough for the engine's ladder of levels."""
        return self.high_ticks - self.low_ticks < LADDER_LEVELS_MAX

    def to_ticks(self, price: PriceLike) -> Answer:
        """
        Ticks of a price, exactly: (ticks, Reason.NONE), or (0, reason). Never raises.

        PRICE_NOT_ON_TICK: between two ticks. PRICE_OUT_OF_RANGE: beyond every range; ticks outside this
        event's own range are returned, the engine answers for them. MALFORMED: not a number.
        Cost: 0.2 microseconds for a float, int or string seen before.
        """
        kind = type(price)
        if kind is float or kind is str or kind is int:
            return ticks_remembered(price, self.tick_units, self.decimals)
        return ticks_of(price, self.tick_units, self.decimals)

    def to_decimal(self, ticks: int) -> str:
        """The decimal string of a number of ticks, always with `decimals` digits behind the point."""
        whole, part = divmod(abs(ticks) * self.tick_units, POWERS[self.decimals])
        sign = "-" if ticks < 0 else ""
        return f"{sign}{whole}.{part:0{self.decimals}d}" if self.decimals else f"{sign}{whole}"


def ticks_of(price: PriceLike, tick_units: int, decimals: int) -> Answer:
    """Ticks of a price of any type."""
    if isinstance(price, float):
        return ticks_of_float(price, tick_units, POWERS[decimals])
    if isinstance(price, str):
        return ticks_of_text(price, tick_units, decimals)
    if isinstance(price, int) and not isinstance(price, bool):
        return ticks_of_units(price * POWERS[decimals], tick_units)
    if isinstance(price, Decimal):
        return ticks_of_decimal(price, tick_units, decimals)
    return 0, Reason.MALFORMED  # bool, None, ...: not prices


# Floats and ints that are equal have equal answers. Decimals must stay out: Decimal(0.1) equals the double 0.1 and is off tick.
ticks_remembered: Final = lru_cache(maxsize=PRICES_REMEMBERED)(ticks_of)


def ticks_of_float(price: float, tick_units: int, scale: int) -> Answer:
    """Ticks of a double (P2): the tick nearest to it, if that tick's own double is this one."""
    units = price * scale
    if not -UNITS_MAX_DOUBLE < units < UNITS_MAX_DOUBLE:
        return 0, Reason.MALFORMED if isnan(price) else Reason.PRICE_OUT_OF_RANGE
    ticks = round(units / tick_units)
    # Division of two integers is rounded correctly once, so it gives the double nearest to the decimal.
    if ticks * tick_units / scale == price:
        return ticks, NONE
    return 0, Reason.PRICE_NOT_ON_TICK


def ticks_of_units(units: int, tick_units: int) -> Answer:
    """Ticks of a whole number of units."""
    if not -UNITS_MAX < units < UNITS_MAX:
        return 0, Reason.PRICE_OUT_OF_RANGE
    ticks, rest = divmod(units, tick_units)
    return (0, Reason.PRICE_NOT_ON_TICK) if rest else (ticks, NONE)


def ticks_of_decimal(price: Decimal, tick_units: int, decimals: int) -> Answer:
    """Ticks of a Decimal of any exponent; Decimals of thousands of digits cost no more than a refusal."""
    if price.is_nan():
        return 0, Reason.MALFORMED
    if price.is_infinite() or (price and price.adjusted() + decimals >= len(str(UNITS_MAX)) - 1):
        return 0, Reason.PRICE_OUT_OF_RANGE
    units = EXACT.multiply(price, POWERS[decimals])
    whole = units.to_integral_value()
    # Digits beyond the context's precision can be neither units nor zeros to ignore: compare with the price as it came.
    if whole.scaleb(-decimals, EXACT) != price:
        return 0, Reason.PRICE_NOT_ON_TICK
    return ticks_of_units(int(whole), tick_units)


def ticks_of_text(text: str, tick_units: int, decimals: int) -> Answer:
    """Ticks of a decimal string: plain or with an exponent, any zeros; no spaces, underscores or names."""
    if len(text) > PRICE_LENGTH_MAX or not NUMBER.fullmatch(text):
        return 0, Reason.MALFORMED
    try:
        price = Decimal(text)
    except InvalidOperation:  # an exponent of twenty digits
        return 0, Reason.PRICE_OUT_OF_RANGE
    return ticks_of_decimal(price, tick_units, decimals)


def spec_of(
    tick: PriceLike = "0.01",
    payout: PriceLike = "1",
    low: PriceLike | None = None,
    high: PriceLike | None = None,
) -> PriceSpec:
    """
    The spec of an event from what its CreateEvent says, all in decimals of the currency.

    The same event is the same spec however it is written: tick "0.010", 0.01 and "1e-2" are one. `low` and
    `high` are the lowest and highest price, by default one tick above 0 and one tick below the payout.

    Raises PriceSpecError: not a number (MALFORMED), payout or a bound not a whole number of ticks
    (PRICE_NOT_ON_TICK), or outside what an event can have (UNSUPPORTED).
    """
    sign, digits, exponent = exact_decimal("tick", tick).as_tuple()
    places = max(0, -int(exponent))
    units = int("".join(map(str, digits))) * 10 ** max(0, int(exponent))
    if sign or places > DECIMALS_MAX or not 0 < units <= TICK_UNITS_MAX:
        raise PriceSpecError(
            f"tick must be above 0, of at most {DECIMALS_MAX} decimals and {TICK_UNITS_MAX} units, was {shown(tick)}",
            Reason.UNSUPPORTED,
        )
    whole = PriceSpec(0, 0, 0, units, places)  # converts; the range comes next
    payout_ticks = on_tick(whole, "payout", payout)
    low_ticks = 1 if low is None else on_tick(whole, "low", low)
    high_ticks = payout_ticks - 1 if high is None else on_tick(whole, "high", high)
    return PriceSpec(low_ticks, high_ticks, payout_ticks, units, places)


def exact_decimal(name: str, price: PriceLike) -> Decimal:
    """A number in its shortest form, without trailing zeros; a float stands for its shortest decimal form."""
    text = shown(price)
    if isinstance(price, bool) or not NUMBER.fullmatch(text):
        raise PriceSpecError(f"{name} must be a decimal number, was {text}", Reason.MALFORMED)
    try:
        number = EXACT.normalize(Decimal(text))
    except InvalidOperation:  # an exponent of twenty digits
        number = Decimal("Infinity")
    if not number.is_finite() or abs(number.adjusted()) > PRICE_LENGTH_MAX:
        raise PriceSpecError(f"{name} is beyond every range, was {text}", Reason.UNSUPPORTED)
    return number


def shown(price: PriceLike) -> str:
    """A price as it stands in messages; what is too long to be one is described instead."""
    if isinstance(price, int) and abs(price) >= UNITS_MAX:
        return f"an integer of {price.bit_length()} bits"  # str() of a huge one raises
    text = str(price)
    return text if len(text) <= PRICE_LENGTH_MAX else f"{text[:PRICE_LENGTH_MAX]}... ({len(text)} characters)"


def on_tick(spec: PriceSpec, name: str, price: PriceLike) -> int:
    """Ticks of a field of a CreateEvent, or PriceSpecError."""
    ticks, reason = spec.to_ticks(price)
    if reason:
        rule = f"must be a whole number of ticks of {spec.to_decimal(1)}"
        raise PriceSpecError(f"{name} {rule}, was {shown(price)}", reason)
    return ticks
