"""Prices are converted exactly or refused with a reason, at every scale and in every form."""

from decimal import Decimal
from itertools import pairwise
from math import inf, nan, nextafter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine.codes import CommandKind, Flag, LevelKind, Reason
from ringpit.engine.limits import PAYOUT_TICKS_MAX, PRICE_TICKS_MAX
from ringpit.engine.records import BANDS, COMMAND, EXTENSION
from ringpit.shards.prices import (
    PRICE_LENGTH_MAX,
    PRICES_REMEMBERED,
    PriceSpec,
    PriceSpecError,
    shown,
    spec_of,
    spec_of_records,
)

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
        ("1e99999999999999999999", Reason.PRICE_OUT_OF_RANGE), ("1e16", Reason.PRICE_OUT_OF_RANGE),
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
        ({"high": "1.01"}, Reason.UNSUPPORTED, "low_ticks must be from 0 to 101, was -1"),
        ({"low": "0.02", "high": "0.99"}, Reason.UNSUPPORTED, "add up to the payout of 100 ticks, were 2 and 99: .*Payout 0"),
        ({"payout": 0}, Reason.UNSUPPORTED, "high must be given, or Unbounded, where there is no payout"),
        ({"unbounded": True}, Reason.UNSUPPORTED, "an unbounded event must have neither High nor Payout"),
        ({"unbounded": True, "payout": None, "high": 5}, Reason.UNSUPPORTED, "an unbounded event must have neither"),
        ({"payout": 0, "high": "21474836.48"}, Reason.UNSUPPORTED, "high_ticks must be from 0 to 2147483647, was"),
        ({"bands": [("0.99", "0.005")]}, Reason.PRICE_NOT_ON_TICK, "tick of a band must be a whole number of ticks"),
        ({"bands": [("0.995", "0.01")]}, Reason.PRICE_NOT_ON_TICK, "last of a band must be a whole number of ticks"),
        ({"bands": [("0.50", "0.01")]}, Reason.UNSUPPORTED, "last band must end at the highest price, 99 ticks"),
        ({"bands": [("0.50", 0), ("0.99", "0.01")]}, Reason.UNSUPPORTED, "band 1 must .* with step 0"),
        ({"bands": [("0.50", "0.02"), ("0.99", "0.07")]}, Reason.UNSUPPORTED, "band 1 must end above 1 and at most at"),
        ({"bands": [("0.01", "0.01"), ("0.99", "0.01")]}, Reason.UNSUPPORTED, "band 1 must .* ended at 1"),
        ({"bands": [("1.00", "0.01")]}, Reason.UNSUPPORTED, "band 1 must .* ended at 100"),
        ({"bands": [("0.49", "0.04"), ("0.99", "0.01")]}, Reason.UNSUPPORTED, "read the same from both ends"),
        ({"bands": [(f"0.{n:02}", "0.01") for n in range(2, 15)]}, Reason.UNSUPPORTED, "bands must be at most 12, were 13"),
        ({"tick": "0.000001", "levels": LevelKind.LADDER}, Reason.UNSUPPORTED, "a ladder must have at most 262144 prices"),
        ({"tick": 1}, Reason.UNSUPPORTED, "low_ticks must be from 0 to 0, was 1"),
    ],
)  # fmt: skip
def test_bad_specs_are_refused(fields, reason, message):
    """A spec that no event can have is refused with its code and a sentence that names the field."""
    with pytest.raises(PriceSpecError, match=message) as caught:
        spec_of(**fields)
    assert reason == caught.value.reason


def test_a_bound_left_out_lies_as_far_from_its_end_as_the_other():
    """Low alone or High alone make a range that reads the same for YES and for NO."""
    assert spec_of(low="0.10", high="0.90") == spec_of(low="0.10") == spec_of(high="0.90")


def test_events_without_no():
    """Payout 0 and null are one: any range, also one up to the highest price of all."""
    assert PriceSpec(1, 5_000, 0, 1, 2) == spec_of(payout=0, high=50) == spec_of(payout=None, high="50.00")
    assert PriceSpec(0, PRICE_TICKS_MAX, 0, 1, 2) == spec_of(payout="0.00", low=0, unbounded=True)


@pytest.mark.parametrize("places", [2, 3, 4])
def test_tapered_bands_convert_every_tick_of_the_finest_unit(places):
    """At scales of 100, 1,000 and 10,000, bands change no conversion: exhaustively, in every form, and money alike."""
    scale = 10**places
    tick = Decimal(1).scaleb(-places)
    spec = spec_of(tick, bands=[("0.10", tick), ("0.90", "0.01"), (1 - tick, tick)])
    assert ((scale // 10, 1), (scale * 9 // 10, scale // 100), (scale - 1, 1)) == spec.bands
    for ticks in range(scale + 1):
        text = f"{ticks * tick:f}"
        for form in (text, float(text), Decimal(text), f"{text}0", ticks / scale):
            assert (ticks, OK) == spec.to_ticks(form)
        assert (ticks * 7, OK) == spec.to_money(f"{7 * ticks * tick:f}")
        assert (0, Reason.PRICE_NOT_ON_TICK) == spec.to_ticks(f"{text}5")
        assert (0, Reason.QTY_INVALID) == spec.to_money(f"{text}5")


def test_money_is_ticks_times_lots():
    """12.50 at a tick of 0.01 is 1,250; what is not whole or beyond every range has the reasons of a quantity."""
    assert (1_250, OK) == CENT.to_money("12.50") == CENT.to_money(12.5)
    assert (250, OK) == SPECS["five cents"].to_money("12.5")
    assert (10**16, OK) == CENT.to_money("100000000000000")
    assert (0, Reason.QTY_INVALID) == CENT.to_money("12.505") == SPECS["five cents"].to_money("0.01")
    assert (0, Reason.QTY_LIMIT) == CENT.to_money("1e17") == CENT.to_money(1e14)
    assert (0, Reason.MALFORMED) == CENT.to_money("much")


@pytest.mark.parametrize("ticks", [1, 99, 12_345_678, PRICE_TICKS_MAX - 1, PRICE_TICKS_MAX])
@pytest.mark.parametrize("tick", ["0.01", "0.000001", "0.99999999", "1e-12", "100000000"])
def test_prices_of_unbounded_events(tick, ticks):
    """P1 up to the highest price: as texts and Decimals always, as numbers below 10**15 units."""
    spec = spec_of(tick, None, unbounded=True)
    text = spec.to_decimal(ticks)
    assert (ticks, OK) == spec.to_ticks(text) == spec.to_ticks(Decimal(text))
    beyond = ticks * spec.tick_units >= 10**15
    assert ((0, Reason.PRICE_OUT_OF_RANGE) if beyond else (ticks, OK)) == spec.to_ticks(float(text))


def records(*rows):
    """COMMAND records of 64 bytes each, from arrays of one record."""
    return np.concatenate([row.view(COMMAND) for row in rows])


def creation(**changes):
    """A CREATE_EVENT of cents as one record, with fields changed."""
    command = np.zeros(1, COMMAND)
    fields = {
        "kind": CommandKind.CREATE_EVENT, "event": 7, "order": 1, "account": 2, "price": 1, "quantity": 99, "payout": 100,
    } | changes  # fmt: skip
    for name, value in fields.items():
        command[name] = value
    return command


def extension(**fields):
    """An EXTENSION of event 7."""
    record = np.zeros(1, EXTENSION)
    record["kind"], record["event"] = CommandKind.EXTENSION, 7
    for name, value in fields.items():
        record[name] = value
    return record


def bands(*rows):
    """A BANDS record of event 7."""
    record = np.zeros(1, BANDS)
    record["kind"], record["count"], record["event"] = CommandKind.BANDS, len(rows), 7
    for number, row in enumerate(rows, 1):
        record[f"last_{number}"], record[f"step_{number}"] = row
    return record


def test_spec_of_records_is_the_spec_sent():
    """What CREATE_EVENT carries, with all that stands before it, makes the same spec again."""
    assert CENT == spec_of_records(records(creation()), 0)
    assert spec_of(levels=LevelKind.SKIP_LIST) == spec_of_records(
        records(creation(order_type=LevelKind.SKIP_LIST)), 0
    )
    rows = [(10 * n, 1) for n in range(1, 7)], [(70, 1), (99, 1)]
    whole = records(
        creation(),
        bands(*rows[0]),
        bands(*rows[1]),
        extension(orders_max=5),
        creation(flags=Flag.EXTENDED, payout=0),
    )
    spec = spec_of_records(whole, 4)
    assert ((1, 99, 0), (*rows[0], *rows[1])) == (
        (spec.low_ticks, spec.high_ticks, spec.payout_ticks),
        spec.bands,
    )


@pytest.mark.parametrize(
    "refused",
    [
        records(creation(account=1 << 40)),
        records(creation(quantity=98)),
        records(creation(flags=Flag.POST_ONLY)),
        records(creation(expires_ns=-1)),
        records(creation(order_type=3)),
        records(creation(flags=Flag.EXTENDED)),
        records(extension(group=1), creation(flags=Flag.EXTENDED)),
        records(extension(orders_max=-1), creation(flags=Flag.EXTENDED)),
        records(extension(account_orders_max=-1), creation(flags=Flag.EXTENDED)),
        records(bands((50, 1)), creation()),
        records(creation(quantity=PRICE_TICKS_MAX, payout=0, order_type=LevelKind.LADDER)),
    ],
)
def test_records_of_events_that_the_engine_refuses_have_no_spec(refused):
    """P4: whoever learns prices from a CREATE_EVENT learns none from one that is refused."""
    with pytest.raises(PriceSpecError):
        spec_of_records(refused, len(refused) - 1)


def test_what_is_remembered_is_bounded():
    """A scale's answers are forgotten together when they become too many, and stay right."""
    spec = spec_of("0.000000001", None, unbounded=True)
    for number in range(PRICES_REMEMBERED + 10):
        assert (number, OK) == spec.to_ticks(f"{number}e-9")
    assert len(spec.remembered) <= PRICES_REMEMBERED
    assert (5, OK) == spec.to_ticks("5e-9")


def test_shown_prices_are_short():
    """A message repeats a price in full or says how long it is."""
    assert "0.5" == shown("0.5")
    assert "99999999999999999" not in shown(10**22)
