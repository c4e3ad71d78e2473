from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.core.price import LongContext, PriceCard
from faregate.core.pricing import MAX_COUNT, overlay, price, token_classes
from faregate.core.usage import Usage
from faregate.errors import InvalidRequest, ModelNotPriced


def card(rates: Mapping[str, str], **more: Any) -> PriceCard:
    exact = {name: Decimal(rate) for name, rate in rates.items()}
    return PriceCard(id="pc_1", provider="p", model="m", rates=exact, source="test", **more)


TEXT = card({"input": "0.000002", "cached_input": "0.0000005", "output": "0.000008"})
COUNT = st.integers(0, 10**9)
RATE = st.decimals(0, 1, places=12, allow_nan=False)
CLASSES = (
    *("cached_input_tokens", "cache_write_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"),
    *("audio_input_tokens", "image_input_tokens", "cached_audio_input_tokens", "cached_image_input_tokens"),
    *("reasoning_tokens", "audio_output_tokens", "image_output_tokens"),
)
USAGES = st.builds(Usage, input_tokens=COUNT, output_tokens=COUNT, **dict.fromkeys(CLASSES, COUNT | st.none()))
CARDS = st.fixed_dictionaries(
    {"input": RATE, "output": RATE},
    optional=dict.fromkeys(("cached_input", "cache_write_5m", "cache_write_1h", "audio_input", "reasoning"), RATE),
).map(lambda rates: PriceCard(id="x", provider="p", model="m", rates=rates, source="test"))


@given(CARDS, USAGES)
def test_lines_add_up_and_cover_every_token_once(a_card: PriceCard, usage: Usage) -> None:
    cost = price(a_card, usage)
    assert sum(line.amount for line in cost.lines) == cost.usd >= 0
    assert sum(line.quantity for line in cost.lines) == (usage.input_tokens or 0) + (usage.output_tokens or 0)


@given(CARDS, USAGES, st.integers(0, 10**6))
def test_more_output_never_costs_less(a_card: PriceCard, usage: Usage, more: int) -> None:
    longer = replace(usage, output_tokens=(usage.output_tokens or 0) + more, reasoning_tokens=0)
    assert price(a_card, longer).usd >= price(a_card, replace(usage, reasoning_tokens=0, audio_output_tokens=0)).usd


@given(CARDS, COUNT, COUNT, COUNT, COUNT)
def test_text_costs_are_additive(a_card: PriceCard, i1: int, o1: int, i2: int, o2: int) -> None:
    apart = (
        price(a_card, Usage(input_tokens=i1, output_tokens=o1)),
        price(a_card, Usage(input_tokens=i2, output_tokens=o2)),
    )
    assert sum(cost.usd for cost in apart) == price(a_card, Usage(input_tokens=i1 + i2, output_tokens=o1 + o2)).usd


def test_parts_larger_than_their_total_are_clamped() -> None:
    assert price(TEXT, Usage(input_tokens=10, output_tokens=3, cached_input_tokens=64)).usd == Decimal("0.000029")


def test_tool_use_prompts_are_inside_the_input_already() -> None:
    usage = Usage(input_tokens=10, output_tokens=0, tool_use_input_tokens=4)
    assert price(TEXT, usage).usd == Decimal("0.00002")


def test_write_tokens_without_a_split_are_five_minute_writes() -> None:
    classes = token_classes(Usage(input_tokens=9, output_tokens=0, cache_write_tokens=5), has_output_rate=True)
    assert (classes["cache_write_5m"], classes["cache_write_1h"], classes["input"]) == (5, 0, 4)


@pytest.mark.parametrize(
    ("missing", "falls_back_to"),
    [
        ("cached_input_tokens", "input"),
        ("cache_write_1h_tokens", "cache_write_5m"),
        ("cached_audio_input_tokens", "input"),
        ("audio_input_tokens", "input"),
    ],
)
def test_a_missing_rate_falls_back(missing: str, falls_back_to: str) -> None:
    a_card = card({"input": "1", "cache_write_5m": "3", "output": "2"})
    counts = {"input_tokens": 5, "output_tokens": 0, "cached_input_tokens": 0, missing: 5}
    if missing.startswith("cached_audio"):
        counts["cached_input_tokens"] = 5
    assert price(a_card, Usage(**counts)).usd == 5 * a_card.rates[falls_back_to]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=None, output_tokens=9),
        Usage(input_tokens=9, output_tokens=None),
        Usage(cached_input_tokens=9),
        Usage(total_tokens=9),
        Usage(),
        Usage(input_tokens=-5, output_tokens=3),
        Usage(input_tokens=5, output_tokens=3, reasoning_tokens=-1),
        Usage(input_tokens=MAX_COUNT + 1, output_tokens=3),
        Usage(input_tokens=True, output_tokens=3),
        Usage(audio_seconds=Decimal("NaN")),
        Usage(custom={"gpu": Decimal("-1")}),
    ],
)
def test_what_cannot_be_counted_is_refused(usage: Usage) -> None:
    with pytest.raises(InvalidRequest):
        price(replace(TEXT, rates={**TEXT.rates, "second": Decimal(1)}), usage)


@pytest.mark.parametrize(
    ("rates", "usage"),
    [
        ({}, Usage(input_tokens=1, output_tokens=1)),
        ({}, Usage(input_tokens=0, output_tokens=0)),
        ({"output": "1"}, Usage(input_tokens=1, output_tokens=1)),
        ({"input": "1"}, Usage(input_tokens=1, output_tokens=1)),
        ({"input": "1", "output": "1"}, Usage(images=2)),
        ({"input": "1", "output": "1"}, Usage(custom={"gpu": Decimal(1)})),
    ],
)
def test_what_has_no_rate_is_refused_and_never_free(rates: dict[str, str], usage: Usage) -> None:
    with pytest.raises(ModelNotPriced):
        price(card(rates), usage)


def test_embeddings_need_no_output() -> None:
    a_card = card({"input": "0.00000002"})
    assert price(a_card, Usage(input_tokens=5)).usd == price(a_card, Usage(total_tokens=5)).usd == Decimal("0.0000001")


def test_a_fee_without_a_rate_is_reported_beside_the_tokens() -> None:
    cost = price(TEXT, Usage(input_tokens=1, output_tokens=1, web_search_requests=2, web_fetch_requests=3))
    assert cost.usd == Decimal("0.00001")
    assert cost.unpriced == ("web_search_requests",)


def test_seconds_beside_priced_tokens_are_not_billed_twice() -> None:
    a_card = card({"input": "1", "output": "1", "second": "5"})
    assert price(a_card, Usage(input_tokens=1, output_tokens=1, audio_seconds=Decimal(9))).usd == 2
    assert price(a_card, Usage(audio_seconds=Decimal("1.5"))).usd == Decimal("7.5")


def test_the_served_tier_has_its_own_rates() -> None:
    a_card = card({"input": "2", "output": "2"}, tiers={"priority": {"input": Decimal(7), "output": Decimal(7)}})
    usage = Usage(input_tokens=1, output_tokens=0)
    assert [price(a_card, usage, tier=tier).usd for tier in ("default", "flex", "priority", "fast", None)] == [
        2,
        2,
        7,
        7,
        2,
    ]
    assert price(a_card, usage, tier="flex").tier == "default"


def test_geography_and_speed_multiply_token_rates_only() -> None:
    a_card = card(
        {"input": "10", "output": "10", "search": "1"},
        modifiers={"geo:us": Decimal("1.1"), "speed:fast": Decimal(2)},
    )
    usage = Usage(input_tokens=1, output_tokens=0, web_search_requests=1)
    assert price(a_card, usage, geo="us").usd == 12
    assert price(a_card, usage, geo="us", speed="fast").usd == 23


def test_long_context_switches_the_whole_request() -> None:
    step = LongContext(above=100, rates={"input": Decimal(2), "output": Decimal(3)})
    a_card = card({"input": "1", "cached_input": "1", "output": "2", "reasoning": "2"}, long_context=(step,))
    below, above = Usage(input_tokens=100, output_tokens=1), Usage(input_tokens=101, output_tokens=1)
    assert price(a_card, below).usd == 102
    assert price(a_card, above).usd == 205
    assert price(a_card, replace(above, cached_input_tokens=101, reasoning_tokens=1)).usd == 205


def test_overlay_keeps_what_was_priced_apart() -> None:
    base = {"input": Decimal(4), "cached_input": Decimal(1), "audio_input": Decimal(4)}
    assert overlay(base, {"input": Decimal(8)}) == {"input": Decimal(8), "cached_input": Decimal(1)}


def test_a_stated_cost_counts_only_where_the_card_says_so() -> None:
    usage = Usage(input_tokens=1, output_tokens=0)
    assert price(TEXT, usage, provider_cost_usd=Decimal(9)).usd == Decimal("0.000002")
    assert price(replace(TEXT, provider_cost=True), usage, provider_cost_usd=Decimal(9)).usd == 9


def test_a_free_card_costs_nothing() -> None:
    assert price(card({}, free=True), Usage(input_tokens=5, output_tokens=5)).usd == 0


def test_digits_are_never_dropped() -> None:
    with pytest.raises(InvalidRequest):
        price(card({"input": "1." + "3" * 50, "output": "1"}), Usage(input_tokens=MAX_COUNT, output_tokens=0))
