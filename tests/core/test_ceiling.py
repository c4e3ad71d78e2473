from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.core import ceiling as module
from faregate.core.ceiling import UNBOUNDED, affordable_output_tokens, ceiling
from faregate.core.price import LongContext, PriceCard
from faregate.core.pricing import price
from faregate.core.usage import Usage
from faregate.errors import ModelNotPriced

RATE = st.decimals(0, 1, places=9, allow_nan=False)
RATES = st.fixed_dictionaries(
    {"input": RATE, "output": RATE},
    optional=dict.fromkeys(
        (
            *("cached_input", "cache_write_5m", "cache_write_1h", "audio_input", "cached_audio_input", "image_input"),
            *("reasoning", "audio_output", "image_output"),
        ),
        RATE,
    ),
)
EVERYTHING = frozenset({"audio", "image", "cache_write", "cache_write_1h"})
TIERS = st.sampled_from(["default", "priority", "flex"])


def card(rates: Mapping[str, Decimal], **more: Any) -> PriceCard:
    return PriceCard(id=f"pc_{rates}{more}", provider="p", model="m", rates=rates, source="test", **more)


CARDS = st.builds(
    lambda base, priority, long: card(
        base, tiers={"priority": priority}, long_context=(LongContext(above=500, rates=long),)
    ),
    RATES,
    RATES,
    RATES,
)


def parts(data: st.DataObject, names: tuple[str, ...], total: int) -> dict[str, int]:
    return {name: data.draw(st.integers(0, total)) for name in names}


@given(st.data(), CARDS, st.integers(0, 1000), st.integers(0, 1000), TIERS)
def test_no_split_costs_more_than_the_ceiling(
    data: st.DataObject, a_card: PriceCard, i: int, o: int, tier: str
) -> None:
    given_in, made = data.draw(st.integers(0, i)), data.draw(st.integers(0, o))
    usage = Usage(
        input_tokens=given_in,
        output_tokens=made,
        **parts(data, ("cached_input_tokens", "cache_write_1h_tokens", "cache_write_tokens"), given_in),  # type: ignore[arg-type]
        **parts(data, ("audio_input_tokens", "cached_audio_input_tokens", "image_input_tokens"), given_in),  # type: ignore[arg-type]
        **parts(data, ("reasoning_tokens", "audio_output_tokens", "image_output_tokens"), made),  # type: ignore[arg-type]
    )
    bound = ceiling(a_card, input_tokens=i, output_tokens=o, tier=tier, modalities=EVERYTHING)
    for served in (tier, "default"):
        assert price(a_card, usage, tier=served).usd <= bound


@given(st.data(), CARDS, st.integers(0, 1000), st.integers(0, 1000))
def test_a_text_call_stays_under_the_text_ceiling(data: st.DataObject, a_card: PriceCard, i: int, o: int) -> None:
    cached, thought = data.draw(st.integers(0, i)), data.draw(st.integers(0, o))
    usage = Usage(input_tokens=i, output_tokens=o, cached_input_tokens=cached, reasoning_tokens=thought)
    assert price(a_card, usage).usd <= ceiling(a_card, input_tokens=i, output_tokens=o)


@given(CARDS, st.integers(0, 1000), st.decimals(0, 1000, places=6), TIERS)
def test_affordable_output_is_the_most_that_fits(a_card: PriceCard, i: int, budget: Decimal, tier: str) -> None:
    fit = affordable_output_tokens(a_card, input_tokens=i, budget_usd=budget, tier=tier)
    if ceiling(a_card, input_tokens=i, output_tokens=0, tier=tier) > budget:
        assert fit == 0
        return
    assert ceiling(a_card, input_tokens=i, output_tokens=fit, tier=tier) <= budget
    if fit < UNBOUNDED:
        assert ceiling(a_card, input_tokens=i, output_tokens=fit + 1, tier=tier) > budget


def test_modalities_are_held_for_only_when_told() -> None:
    a_card = card({"input": Decimal(1), "audio_input": Decimal(40), "cache_write_5m": Decimal(2), "output": Decimal(1)})
    bounds = [
        ceiling(a_card, input_tokens=1, output_tokens=0, modalities=frozenset(names))
        for names in ((), ("cache_write",), ("audio", "cache_write"))
    ]
    assert bounds == [1, 2, 40]


def test_units_and_modifiers_come_on_top() -> None:
    a_card = card(
        {"input": Decimal(10), "output": Decimal(10), "request": Decimal(3)}, modifiers={"geo:us": Decimal("1.1")}
    )
    units = {"request": Decimal(1), "nothing": Decimal(5)}
    assert ceiling(a_card, input_tokens=1, output_tokens=1, units=units) == 23
    assert ceiling(a_card, input_tokens=1, output_tokens=1, modalities=frozenset({"geo:us"})) == 22


def test_unit_priced_models_hold_nothing_for_tokens() -> None:
    assert ceiling(card({"second": Decimal(1)}), input_tokens=9, output_tokens=9, units={"second": Decimal(2)}) == 2


@pytest.mark.parametrize("rates", [{}, {"output": Decimal(1)}])
def test_a_card_without_input_rate_has_no_ceiling(rates: dict[str, Decimal]) -> None:
    with pytest.raises(ModelNotPriced):
        ceiling(card(rates), input_tokens=1, output_tokens=1)


def test_free_cards_hold_nothing_and_allow_everything() -> None:
    a_card = card({}, free=True)
    assert ceiling(a_card, input_tokens=1, output_tokens=1) == 0
    assert affordable_output_tokens(a_card, input_tokens=1, budget_usd=Decimal(0)) == UNBOUNDED


def test_a_word_of_the_client_s_is_not_kept() -> None:
    a_card = card({"input": Decimal(1), "output": Decimal(2)}, tiers={"priority": {"input": Decimal(3)}})
    module._kept.clear()
    for tier in ("default", "x" * 100_000, "y", "fast", "priority"):
        ceiling(a_card, input_tokens=1, output_tokens=1, tier=tier)
    assert [key[1] for key in module._kept] == ["default", "fast", "priority"]
