"""
Prices: from the decimal that a client writes to the engine's integer ticks, exactly or not at all.

A `PriceSpec` belongs to one event. A *unit* is 10**-decimals of the currency, a *tick* is `tick_units`
units, and the engine counts ticks only. Tick 0.05, payout 1: decimals 2, tick_units 5, payout_ticks 20.

    "0.35"  ->  35 units  ->  7 ticks  ->  "0.35"        always `decimals` digits, never "0.350" or "0.4"

Nothing is ever rounded to a neighbour: a price between two ticks is refused. A client's bad price is an
answer (`Reason`), not an exception; `spec_of` raises, because a bad spec has no ticks to answer with.

Bands make ticks coarser in parts of the range. They change no conversion: a price becomes ticks of the finest
unit, and whether it stands on its band's step is the engine's to say. Money (a price times lots) converts alike.

Why it is fast: answers are remembered in one dict for each scale, bounded, and an exchange has few prices; a float
that is new needs a multiplication, a rounding and a division. Where it is slow: the first sight of a
string (about 2 microseconds), and Decimals, which are never remembered.

Invariants:

    P1  to_ticks(to_decimal(t)) == t for every tick of every event; for floats below NUMBER_UNITS_MAX units too
    P2  a float is accepted only if it is the double nearest to a tick's decimal value; what is computed
        (0.1 + 0.2) and lands one bit beside it is refused
    P3  units of numbers stay below NUMBER_UNITS_MAX < 2**53, so that two ticks never share a double; those of texts
        and Decimals stay below UNITS_MAX, so that nothing overflows 63 bits
    P4  a PriceSpec that exists is one whose event the engine takes, if it has room (ARCHITECTURE.md, M8)
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation
from functools import lru_cache
from math import isnan
from typing import Any, Final

import numpy as np

from ringpit.engine.codes import CommandKind, Flag, LevelKind, Reason
from ringpit.engine.limits import BANDS_MAX, LADDER_LEVELS_MAX, PAYOUT_TICKS_MAX, PRICE_TICKS_MAX, require
from ringpit.engine.records import BANDS, BANDS_PER_RECORD, EXTENSION

DECIMALS_MAX: Final = 12
TICK_UNITS_MAX: Final = 10**8
UNITS_MAX: Final = 10**18  # a price this large, in units, is out of every range
NUMBER_UNITS_MAX: Final = 10**15  # the same for numbers, which readers of JSON hold as doubles
UNITS_MAX_DOUBLE: Final = float(NUMBER_UNITS_MAX)  # comparing a double with an integer of 50 bits is slow
PRICE_LENGTH_MAX: Final = 40  # characters of a decimal string
PRICES_REMEMBERED: Final = 1 << 12  # prices whose ticks are kept, for each scale
SCALES_SHARED: Final = 64  # scales whose events remember together

require(PRICE_TICKS_MAX * TICK_UNITS_MAX < UNITS_MAX, "every tick must be below UNITS_MAX units")
require(PAYOUT_TICKS_MAX * TICK_UNITS_MAX < NUMBER_UNITS_MAX, "every tick of a payout must be a number")
require(NUMBER_UNITS_MAX < 1 << 53, "a double must tell neighbouring units apart")

MONEY_REASONS: Final = {
    Reason.PRICE_NOT_ON_TICK: Reason.QTY_INVALID,
    Reason.PRICE_OUT_OF_RANGE: Reason.QTY_LIMIT,
}

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


@lru_cache(maxsize=SCALES_SHARED)
def memory_of(_tick_units: int, _decimals: int) -> dict[int | float | str, Answer]:
    """What is remembered of a scale: price to answer, for all events that have it."""
    return {}


@dataclass(frozen=True, slots=True)
class PriceSpec:
    """
    One event's prices. All ticks are counted from 0; `payout_ticks` is what one lot pays at most, 0 if there is
    no NO. `bands` are rows (last, step) in ticks, as in a BANDS record.

    Raises PriceSpecError, with the field, the value and the rule, for what no event can have (P4).
    """

    low_ticks: int
    high_ticks: int
    payout_ticks: int
    tick_units: int
    decimals: int
    bands: tuple[tuple[int, int], ...] = ()
    levels: int = LevelKind.AUTO
    remembered: dict[int | float | str, Answer] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the rules that the engine has (ARCHITECTURE.md, M8), and two narrower ones, of decimals and tick."""
        for name, value, low, high in (
            ("decimals", self.decimals, 0, DECIMALS_MAX),
            ("tick_units", self.tick_units, 1, TICK_UNITS_MAX),
            ("payout_ticks", self.payout_ticks, 0, PAYOUT_TICKS_MAX),
            ("high_ticks", self.high_ticks, 0, PRICE_TICKS_MAX),
            ("low_ticks", self.low_ticks, 0, self.high_ticks),
            ("levels", self.levels, min(LevelKind), max(LevelKind)),
        ):
            if not low <= value <= high:
                raise PriceSpecError(f"{name} must be from {low} to {high}, was {value}", Reason.UNSUPPORTED)
        ends = self.low_ticks + self.high_ticks
        if self.payout_ticks not in (0, ends):
            raise PriceSpecError(
                f"low and high must add up to the payout of {self.payout_ticks} ticks, were {self.low_ticks} and "
                f"{self.high_ticks}: a price of NO is the payout less one of YES; set Payout 0 for a market without NO",
                Reason.UNSUPPORTED,
            )
        prices = self.high_ticks - self.low_ticks + 1
        if self.levels == LevelKind.LADDER and prices > LADDER_LEVELS_MAX:
            raise PriceSpecError(
                f"a ladder must have at most {LADDER_LEVELS_MAX} prices, had {prices}; leave Levels out",
                Reason.UNSUPPORTED,
            )
        check_bands(self)
        object.__setattr__(self, "remembered", memory_of(self.tick_units, self.decimals))

    def to_ticks(self, price: PriceLike) -> Answer:
        """
        Ticks of a price, exactly: (ticks, Reason.NONE), or (0, reason). Never raises.

        PRICE_NOT_ON_TICK: between two ticks. PRICE_OUT_OF_RANGE: beyond every range; ticks outside this
        event's own range are returned, the engine answers for them. MALFORMED: not a number.
        Cost: 0.1 microseconds for a float, int or string seen before.
        """
        kind = type(price)
        if kind is not float and kind is not str and kind is not int:
            return ticks_of(price, self.tick_units, self.decimals)
        answer = self.remembered.get(price)  # type: ignore[arg-type]  # it is one of the three
        if answer is None:
            answer = ticks_of(price, self.tick_units, self.decimals)
            if len(self.remembered) >= PRICES_REMEMBERED:
                self.remembered.clear()
            self.remembered[price] = answer  # type: ignore[index]  # as above
        return answer

    def to_money(self, money: PriceLike) -> Answer:
        """
        Money in ticks x lots, exactly, or (0, reason) as `to_ticks`, with the reasons that quantities have:
        QTY_INVALID for what is not a whole number of ticks, QTY_LIMIT for what is beyond every range.
        """
        ticks, reason = self.to_ticks(money)
        return ticks, MONEY_REASONS.get(reason, reason)

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
        return ticks_of_units(price * POWERS[decimals], tick_units, NUMBER_UNITS_MAX)
    if isinstance(price, Decimal):
        return ticks_of_decimal(price, tick_units, decimals)
    return 0, Reason.MALFORMED  # bool, None, ...: not prices


# Floats and ints that are equal have equal answers, as one dict remembers both. Decimals must stay out of it: Decimal(0.1)
# equals the double 0.1 and is off tick.


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


def ticks_of_units(units: int, tick_units: int, units_max: int) -> Answer:
    """Ticks of a whole number of units, which must be below `units_max`."""
    if not -units_max < units < units_max:
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
    return ticks_of_units(int(whole), tick_units, UNITS_MAX)


def ticks_of_text(text: str, tick_units: int, decimals: int) -> Answer:
    """Ticks of a decimal string: plain or with an exponent, any zeros; no spaces, underscores or names."""
    if len(text) > PRICE_LENGTH_MAX or not NUMBER.fullmatch(text):
        return 0, Reason.MALFORMED
    try:
        price = Decimal(text)
    except InvalidOperation:  # an exponent of twenty digits
        return 0, Reason.PRICE_OUT_OF_RANGE
    return ticks_of_decimal(price, tick_units, decimals)


def check_bands(spec: PriceSpec) -> None:
    """Raise PriceSpecError for bands that no event can have."""
    if not spec.bands:
        return
    if len(spec.bands) > BANDS_MAX:
        raise PriceSpecError(f"bands must be at most {BANDS_MAX}, were {len(spec.bands)}", Reason.UNSUPPORTED)
    begin = spec.low_ticks
    for number, (last, step) in enumerate(spec.bands, 1):
        if not begin < last <= spec.high_ticks or step < 1 or (last - begin) % step:
            raise PriceSpecError(
                f"band {number} must end above {begin} and at most at {spec.high_ticks} ticks and be divided by its step, "
                f"ended at {last} with step {step}",
                Reason.UNSUPPORTED,
            )
        begin = last
    if begin != spec.high_ticks:
        raise PriceSpecError(
            f"the last band must end at the highest price, {spec.high_ticks} ticks, ended at {begin}",
            Reason.UNSUPPORTED,
        )
    if spec.payout_ticks and spec.bands != turned(spec):
        raise PriceSpecError(
            "bands must read the same from both ends, so that a price of NO stands on a step where its price of YES does",
            Reason.UNSUPPORTED,
        )


def turned(spec: PriceSpec) -> tuple[tuple[int, int], ...]:
    """The bands as a market for NO would have them."""
    begins = [spec.low_ticks, *(last for last, _ in spec.bands)]
    rows = zip(begins, (step for _, step in spec.bands), strict=False)
    return tuple((spec.payout_ticks - begin, step) for begin, step in reversed(list(rows)))


def spec_of_records(records: np.ndarray, at: int) -> PriceSpec:
    """
    The spec that the CREATE_EVENT at index `at` of COMMAND records carries, with the BANDS and EXTENSION before it.

    Raises PriceSpecError where the engine would refuse the event, too, whatever room it has.
    """
    command = records[at]
    before = at - 1
    extended = int(command["flags"])
    if extended not in (0, Flag.EXTENDED) or command["expires_ns"] < 0:
        raise PriceSpecError("flags and closing time must be those of an event", Reason.UNSUPPORTED)
    if extended:
        extension = records[before : before + 1].view(EXTENSION)
        if not len(extension) or extension["kind"] != CommandKind.EXTENSION:
            raise PriceSpecError("an extended command must have its extension before it", Reason.MALFORMED)
        row = extension[0]
        if any(row[name] for name in ("trigger", "trail", "display", "group")) or any(
            row[name] < 0 for name in ("orders_max", "account_orders_max")
        ):
            raise PriceSpecError("an event's extension must hold limits and nothing else", Reason.UNSUPPORTED)
        before -= 1
    bands: list[tuple[int, int]] = []
    while before >= 0 and records[before]["kind"] == CommandKind.BANDS:
        bands = bands_of(records[before : before + 1].view(BANDS)[0]) + bands
        before -= 1
    return PriceSpec(
        int(command["price"]), int(command["quantity"]), int(command["payout"]), int(command["order"]),
        int(command["account"]), tuple(bands), int(command["order_type"]),
    )  # fmt: skip


def bands_of(record: Any) -> list[tuple[int, int]]:
    """The rows (last, step) of one BANDS record."""
    return [
        (int(record[f"last_{number}"]), int(record[f"step_{number}"]))
        for number in range(1, min(max(int(record["count"]), 0), BANDS_PER_RECORD) + 1)
    ]


def spec_of(
    tick: PriceLike = "0.01",
    payout: PriceLike | None = "1",
    low: PriceLike | None = None,
    high: PriceLike | None = None,
    *,
    unbounded: bool = False,
    bands: Iterable[tuple[PriceLike, PriceLike]] = (),
    levels: int = LevelKind.AUTO,
) -> PriceSpec:
    """
    The spec of an event from what its CreateEvent says, all in decimals of the currency.

    The same event is the same spec however it is written: tick "0.010", 0.01 and "1e-2" are one. `low` and
    `high` are the lowest and highest price; one that is left out lies as far from its end of the payout as the other,
    or one tick. Payout 0 or None: there is no NO, and `high` must be given, or `unbounded`, which is the highest of
    all prices. `bands` are rows (last price, step).

    Raises PriceSpecError: not a number (MALFORMED), payout, a bound or a band not a whole number of ticks
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
    payout_ticks = 0 if payout is None else on_tick(whole, "payout", payout)
    if unbounded and (payout_ticks or high is not None):
        raise PriceSpecError(
            "an unbounded event must have neither High nor Payout: a price of NO would be payout less price",
            Reason.UNSUPPORTED,
        )
    if not payout_ticks and high is None and not unbounded:
        raise PriceSpecError("high must be given, or Unbounded, where there is no payout", Reason.UNSUPPORTED)
    low_ticks = None if low is None else on_tick(whole, "low", low)
    high_ticks = PRICE_TICKS_MAX if unbounded else None if high is None else on_tick(whole, "high", high)
    if low_ticks is None:
        low_ticks = 1 if high_ticks is None or not payout_ticks else payout_ticks - high_ticks
    if high_ticks is None:
        high_ticks = payout_ticks - low_ticks
    rows = [
        (on_tick(whole, "last of a band", last), on_tick(whole, "tick of a band", step)) for last, step in bands
    ]
    return PriceSpec(low_ticks, high_ticks, payout_ticks, units, places, tuple(rows), levels)


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
    if isinstance(price, int) and abs(price) >= NUMBER_UNITS_MAX:
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
