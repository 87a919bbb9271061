"""Prices are converted exactly or refused with a reason, at every scale and in every form."""

from decimal import Decimal
from itertools import pairwise
from math import inf, nan, nextafter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine.codes import CommandKind, Reason
from ringpit.engine.limits import LADDER_LEVELS_MAX, PAYOUT_TICKS_MAX
from ringpit.engine.records import COMMAND
from ringpit.shards.prices import PRICE_LENGTH_MAX, PriceSpec, PriceSpecError, shown, spec_of

CENT = spec_of()
SPECS = {
    "cent": CENT,
    "tenth of a cent": spec_of("0.001"),
    "hundredth of a cent": spec_of("0.0001"),
    "millionth": spec_of("0.000001"),
    "five cents": spec_of("0.05"),
    "quarter": spec_of("0.25"),
    "quarters of a hundred": spec_of("0.25", "100"),
    "whole": spec_of("1", "100"),
    "tens": spec_of("10", "10000"),
    "largest": spec_of("0.99999999", "4194303.95805696"),
    "finest": spec_of("1e-12", "1e-6"),
}
OK = Reason.NONE


def test_default_is_a_hundred_cents():
    """A CreateEvent that says nothing trades from 0.01 to 0.99 and pays 1."""
    assert PriceSpec(low_ticks=1, high_ticks=99, payout_ticks=100, tick_units=1, decimals=2) == CENT


@pytest.mark.parametrize("name", SPECS)
def test_every_tick_survives_every_form(name):
    """P1: decimal string, float, Decimal and padded forms of each tick give that tick back."""
    spec = SPECS[name]
    step = max(1, spec.payout_ticks // 20_000)  # the scale of a million: every 50th, coprime steps below
    for ticks in {*range(0, spec.payout_ticks + 1, step), *range(1, spec.payout_ticks, step | 1)}:
        text = spec.to_decimal(ticks)
        assert (ticks, OK) == spec.to_ticks(text)
        assert (ticks, OK) == spec.to_ticks(float(text))
        assert (ticks, OK) == spec.to_ticks(Decimal(text))


@pytest.mark.parametrize("payout", [100, 1_000, 10_000, 1_000_000])
def test_all_floats_of_a_scale(payout):
    """Every tick of the usual scales is reached by its own double, and by none beside it (P2)."""
    spec = spec_of(1 / payout)
    assert payout == spec.payout_ticks
    for ticks in range(payout + 1):
        value = ticks / payout
        assert (ticks, OK) == spec.to_ticks(value)
        if ticks % max(1, payout // 10_000) == 0:
            assert (0, Reason.PRICE_NOT_ON_TICK) == spec.to_ticks(nextafter(value, inf))
            assert (0, Reason.PRICE_NOT_ON_TICK) == spec.to_ticks(nextafter(value, -inf))


@pytest.mark.parametrize("name", SPECS)
def test_ticks_never_share_a_double(name):
    """P3: the doubles of neighbouring ticks differ, up to the largest payout."""
    spec = SPECS[name]
    top = spec.payout_ticks
    values = [float(spec.to_decimal(ticks)) for ticks in range(max(0, top - 1_000), top + 1)]
    assert all(low < high for low, high in pairwise(values))


@pytest.mark.parametrize(
    ("price", "ticks"),
    [
        ("0.5", 50), ("0.50", 50), ("0.5000000", 50), (".5", 50), ("+0.5", 50), ("00.5", 50), ("5e-1", 50),
        ("50E-2", 50), ("0.005e2", 50), ("1", 100), ("1.", 100), ("1e0", 100), ("0", 0), ("-0", 0), ("-0.0", 0),
        ("0e99999", 0), ("-0.01", -1), ("1.01", 101), ("12345678901", 1_234_567_890_100), (0, 0), (1, 100),
        (-1, -100), (0.57, 57), (0.29, 29), (-0.0, 0), (1e0, 100), (0.07, 7), (1.15, 115), (Decimal("5E-1"), 50),
        (Decimal("0.50"), 50), (np.float64(0.57), 57),
    ],
)  # fmt: skip
def test_forms_of_one_price(price, ticks):
    """Zeros, signs and exponents do not change a price; a price outside the event's range keeps its ticks."""
    assert (ticks, OK) == CENT.to_ticks(price)


@pytest.mark.parametrize(
    ("price", "reason"),
    [
        ("0.575", Reason.PRICE_NOT_ON_TICK), (0.575, Reason.PRICE_NOT_ON_TICK), (0.1 + 0.2, Reason.PRICE_NOT_ON_TICK),
        ("0.010000000000000000000000000000000001", Reason.PRICE_NOT_ON_TICK), ("1e-400", Reason.PRICE_NOT_ON_TICK),
        ("1e-999999999", Reason.PRICE_NOT_ON_TICK), (5e-324, Reason.PRICE_NOT_ON_TICK),
        (Decimal("0.5" + "0" * 5_000 + "1"), Reason.PRICE_NOT_ON_TICK),
        ("1e400", Reason.PRICE_OUT_OF_RANGE), ("-1e400", Reason.PRICE_OUT_OF_RANGE),
        ("1e99999999999999999999", Reason.PRICE_OUT_OF_RANGE), ("1e13", Reason.PRICE_OUT_OF_RANGE),
        (1e13, Reason.PRICE_OUT_OF_RANGE), (1e308, Reason.PRICE_OUT_OF_RANGE), (-1e308, Reason.PRICE_OUT_OF_RANGE),
        (inf, Reason.PRICE_OUT_OF_RANGE), (-inf, Reason.PRICE_OUT_OF_RANGE), (10**22, Reason.PRICE_OUT_OF_RANGE),
        (10**13, Reason.PRICE_OUT_OF_RANGE), (-(10**6_000), Reason.PRICE_OUT_OF_RANGE),
        (Decimal("Infinity"), Reason.PRICE_OUT_OF_RANGE), (Decimal("1e999999"), Reason.PRICE_OUT_OF_RANGE),
        (nan, Reason.MALFORMED), (Decimal("NaN"), Reason.MALFORMED), (Decimal("sNaN"), Reason.MALFORMED),
        ("NaN", Reason.MALFORMED), ("Infinity", Reason.MALFORMED), ("", Reason.MALFORMED), (".", Reason.MALFORMED),
        ("abc", Reason.MALFORMED), ("0x10", Reason.MALFORMED), (" 0.5", Reason.MALFORMED), ("0.5\n", Reason.MALFORMED),
        ("0,5", Reason.MALFORMED), ("0_5", Reason.MALFORMED), ("\u0660.\u0665", Reason.MALFORMED), ("--1", Reason.MALFORMED),
        ("1e", Reason.MALFORMED), ("0." + "0" * PRICE_LENGTH_MAX, Reason.MALFORMED), (True, Reason.MALFORMED),
        (None, Reason.MALFORMED), (b"0.5", Reason.MALFORMED), ([0.5], Reason.MALFORMED),
    ],
    ids=lambda value: repr(value)[:20] if not isinstance(value, int) else str(value.bit_length()),
)  # fmt: skip
def test_bad_prices_are_answered(price, reason):
    """Whatever is no price of this event gets a reason, and never an exception."""
    assert (0, reason) == CENT.to_ticks(price)


@given(
    st.one_of(
        st.floats(), st.integers(), st.text(), st.decimals(), st.from_regex(r"-?\d{0,9}\.?\d{0,9}(e-?\d{1,4})?")
    )
)
def test_an_accepted_price_is_worth_its_ticks(price):
    """No input of any kind raises; what is accepted is the exact decimal of its ticks."""
    for spec in (CENT, SPECS["five cents"], SPECS["finest"]):
        ticks, reason = spec.to_ticks(price)
        if reason == OK:
            value = Decimal(repr(price)) if isinstance(price, float) else Decimal(price)
            assert Decimal(spec.to_decimal(ticks)) == value
        else:
            assert ticks == 0


def test_decimals_are_always_the_same_number():
    """A price is written with the event's decimals, whatever its value."""
    assert "0.05" == CENT.to_decimal(5)
    assert "1.00" == CENT.to_decimal(100)
    assert "-0.01" == CENT.to_decimal(-1)
    assert "0.00" == CENT.to_decimal(0)
    assert "0.35" == SPECS["five cents"].to_decimal(7)
    assert "0.75" == SPECS["quarter"].to_decimal(3)
    assert "7" == SPECS["whole"].to_decimal(7)
    assert "70" == SPECS["tens"].to_decimal(7)


def test_one_spec_however_it_is_written():
    """Trailing zeros, floats and exponents make the same spec, so that a repeated CreateEvent is a repeat."""
    ticks, payouts = ("0.010", 0.01, "1e-2", Decimal("0.01")), (1, "1.0", 1.0)
    assert {CENT} == {spec_of(tick, payout) for tick in ticks for payout in payouts}


def test_bounds_are_prices():
    """Low and high of a CreateEvent are decimals on the event's tick."""
    assert PriceSpec(2, 18, 20, 5, 2) == spec_of("0.05", "1", low="0.10", high=0.9)


@pytest.mark.parametrize(
    ("fields", "reason", "message"),
    [
        ({"tick": "0"}, Reason.UNSUPPORTED, "tick must be above 0, of at most 12 decimals and 100000000 units, was 0"),
        ({"tick": "-0.01"}, Reason.UNSUPPORTED, "tick must be above 0, .* was -0.01"),
        ({"tick": "1e-13"}, Reason.UNSUPPORTED, "tick must be above 0, .* was 1e-13"),
        ({"tick": "1e99"}, Reason.UNSUPPORTED, "tick is beyond every range, was 1e99"),
        ({"tick": 10**6_000}, Reason.MALFORMED, "tick must be a decimal number, was an integer of 19932 bits"),
        ({"tick": "1e99999999999999999999"}, Reason.UNSUPPORTED, "tick is beyond every range"),
        ({"tick": "a cent"}, Reason.MALFORMED, "tick must be a decimal number, was a cent"),
        ({"tick": True}, Reason.MALFORMED, "tick must be a decimal number, was True"),
        ({"tick": nan}, Reason.MALFORMED, "tick must be a decimal number, was nan"),
        ({"payout": "0.995"}, Reason.PRICE_NOT_ON_TICK, "payout must be a whole number of ticks of 0.01, was 0.995"),
        ({"payout": "1" * 60}, Reason.MALFORMED, r"payout must be .*\.\.\. \(60 characters\)"),
        ({"payout": "-1"}, Reason.UNSUPPORTED, f"payout_ticks must be from 0 to {PAYOUT_TICKS_MAX}, was -100"),
        ({"payout": 41944}, Reason.UNSUPPORTED, "payout_ticks must be from 0 to 4194304, was 4194400"),
        ({"low": "0.9", "high": "0.1"}, Reason.UNSUPPORTED, "low_ticks must be from 0 to 10, was 90"),
        ({"high": "1.01"}, Reason.UNSUPPORTED, "high_ticks must be from 0 to 100, was 101"),
        ({"tick": 1}, Reason.UNSUPPORTED, "low_ticks must be from 0 to 0, was 1"),
    ],
)  # fmt: skip
def test_bad_specs_are_refused(fields, reason, message):
    """A spec that no event can have is refused with its code and a sentence that names the field."""
    with pytest.raises(PriceSpecError, match=message) as caught:
        spec_of(**fields)
    assert reason == caught.value.reason


def test_spec_of_a_command_is_the_spec_sent():
    """What CREATE_EVENT carries makes the same spec again; a record with decimals past the table is refused."""
    command = np.zeros(1, COMMAND)
    command[0] = (CommandKind.CREATE_EVENT, 0, 0, 0, 0, 0, 0, 0, 7, 5, 2, 1, 19, 20, 0)
    assert spec_of("0.05") == PriceSpec.of_command(command[0])
    command[0]["account"] = 1 << 40
    with pytest.raises(PriceSpecError, match="decimals must be from 0 to 12"):
        PriceSpec.of_command(command[0])


def test_width_of_the_ladder():
    """The engine's ladder holds LADDER_LEVELS_MAX prices and not one more."""
    assert PriceSpec(1, LADDER_LEVELS_MAX, 1 << 20, 1, 6).fits_ladder
    assert not PriceSpec(0, LADDER_LEVELS_MAX, 1 << 20, 1, 6).fits_ladder
    assert not SPECS["millionth"].fits_ladder


def test_shown_prices_are_short():
    """A message repeats a price in full or says how long it is."""
    assert "0.5" == shown("0.5")
    assert "99999999999999999" not in shown(10**22)
