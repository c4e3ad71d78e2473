from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.core.money import MAX_MICROCREDITS, charge_microcredits, credits, parse_credits, parse_decimal, plain
from faregate.errors import InvalidRequest

HOSTILE: list[Any] = [
    *(None, True, False, 1.5, float("nan"), [], {}, b"1"),
    *("", " 1", "1 ", "1_000", "1,5", "NaN", "-NaN", "sNaN", "Infinity", "-inf", "0x10", "1e", "--1", "9" * 65),
    *(Decimal("NaN"), Decimal("-Infinity")),
]


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
def test_what_is_no_number_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_decimal(value, "amount")
    assert caught.value.param == "amount"


@pytest.mark.parametrize(
    ("value", "microcredits"),
    [(1, 10**6), ("0.000001", 1), ("1.50", 1_500_000), (Decimal("2.5"), 2_500_000), ("1e3", 10**9), ("+2", 2 * 10**6)],
)
def test_credits_become_whole_microcredits(value: object, microcredits: int) -> None:
    assert parse_credits(value, "amount") == microcredits


@pytest.mark.parametrize("value", ["0.0000001", "1.0000005", Decimal("1e-7"), "1e-400000"])
def test_a_seventh_place_is_refused_not_rounded(value: object) -> None:
    with pytest.raises(InvalidRequest, match="6 decimal places"):
        parse_credits(value, "amount")


def test_the_largest_amount_is_what_a_double_holds_exactly() -> None:
    most = credits(MAX_MICROCREDITS)
    assert parse_credits(most, "amount") == 2**53
    with pytest.raises(InvalidRequest, match="too large"):
        parse_credits(most + Decimal("0.000001"), "amount")
    with pytest.raises(InvalidRequest, match="too large"):
        parse_credits(-most - Decimal("0.000001"), "amount", minimum=None)


@pytest.mark.parametrize("value", ["1e13", "1e999999", "-1e999999", 2**70, 2**63])
def test_a_huge_number_is_refused_before_it_is_multiplied(value: object) -> None:
    with pytest.raises(InvalidRequest, match="too large"):
        parse_credits(value, "amount", minimum=None)


def test_the_least_is_one_microcredit_unless_said_otherwise() -> None:
    for value, minimum in (("0", 1), ("-1", 1), ("-0.000001", 0), ("0.4", 500_000)):
        with pytest.raises(InvalidRequest, match="must be"):
            parse_credits(value, "amount", minimum=minimum)
    assert parse_credits("0", "amount", minimum=0) == 0
    assert parse_credits("-7", "amount", minimum=None) == -7_000_000


@given(st.integers(-MAX_MICROCREDITS, MAX_MICROCREDITS))
def test_microcredits_survive_being_printed(amount: int) -> None:
    text = f"{credits(amount)}"
    assert "E" not in text
    assert not ("." in text and text.endswith("0"))
    assert parse_credits(text, "amount", minimum=None) == amount


@pytest.mark.parametrize(("number", "text"), [("1E+3", "1000"), ("1.500", "1.5"), ("0.00", "0"), ("1E-7", "1E-7")])
def test_plain_has_no_trailing_zeros_and_no_positive_exponent(number: str, text: str) -> None:
    assert str(plain(Decimal(number))) == text


@pytest.mark.parametrize(("halves", "charge"), [(1, 0), (3, 2), (5, 2), (7, 4), (-1, 0), (-3, -2)])
def test_a_half_microcredit_goes_to_the_even_neighbour(halves: int, charge: int) -> None:
    half = Decimal("0.5").scaleb(-9)
    assert charge_microcredits(halves * half, Decimal(1000)) == charge


def test_markup_is_a_percentage_on_top_and_the_multiplier_a_factor() -> None:
    assert charge_microcredits(Decimal("0.001"), Decimal(1000), Decimal(20), Decimal("1.5")) == 1_800_000


def test_nothing_is_rounded_before_the_last_step() -> None:
    """A third of a microcredit, three times over by the multiplier, is a whole one: rounding the cost first gives 0."""
    assert charge_microcredits(Decimal("0.4e-9"), Decimal(1000), Decimal(0), Decimal("2.5")) == 1


DECIMALS = st.decimals(0, 10**6, allow_nan=False, allow_infinity=False, places=12)
FACTORS = st.decimals(1, 10, allow_nan=False, allow_infinity=False, places=6)
PERCENTS = st.decimals(0, 500, allow_nan=False, allow_infinity=False, places=4)


@given(DECIMALS, st.decimals(1, 10**6, places=6), PERCENTS, FACTORS)
def test_a_charge_is_the_exact_product_rounded_once(
    cost: Decimal, per_usd: Decimal, markup: Decimal, multiplier: Decimal
) -> None:
    exact = Fraction(cost) * Fraction(multiplier) * (1 + Fraction(markup) / 100) * Fraction(per_usd) * 10**6
    assert charge_microcredits(cost, per_usd, markup, multiplier) == round(exact)
