from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from faregate.core.price import PriceCard
from faregate.pricing import genai

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def find(kind: str, model: str, now: datetime = NOW) -> PriceCard:
    card, _ = genai.find(kind, model, now)
    assert card is not None
    return card


@pytest.mark.parametrize(
    ("kind", "model", "found"),
    [
        ("openai", "gpt-5-nano-2025-08-07", "gpt-5-nano"),
        ("anthropic", "claude-sonnet-4-20250514", "claude-sonnet-4-0"),
        ("anthropic", "claude-3-opus-20240229", "claude-3-opus-latest"),
        ("gemini", "gemini-2.0-flash-001", "gemini-2.0-flash"),
        ("openai", "gpt-5.2-20251211", "gpt-5.2"),
        ("azure", "gpt-4o", "gpt-4o"),
    ],
)
def test_dates_and_versions_do_not_make_another_model(kind: str, model: str, found: str) -> None:
    assert find(kind, model).model == found


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("openai", "gpt-5-nano-audio"),
        ("openai", "gpt-4o-realtime-preview-mini"),
        ("anthropic", "claude-sonnet-4-5-mini"),
        ("anthropic", "claude-opus-4-1-5"),
        ("gemini", "gemini-2.0-flash-exp-image-generation"),
        ("azure", "my-o4-mini"),
        ("azure", "o4-mini-deep-dive"),
        ("nobody", "gpt-5"),
    ],
)
def test_a_part_of_a_name_does_not_price_another_model(kind: str, model: str) -> None:
    assert genai.find(kind, model, NOW)[0] is None


def test_tiers_are_whole_rate_sets() -> None:
    tiers = find("openai", "gpt-5").tiers
    assert tiers["priority"]["input"] == Decimal("0.0000025")
    assert tiers["flex"]["search"] == find("openai", "gpt-5").rates["search"]


def test_an_early_clock_still_sees_the_tiers() -> None:
    assert "priority" in find("openai", "gpt-5", datetime(2020, 1, 1, tzinfo=UTC)).tiers


def test_gemini_s_batch_keeps_its_cached_rate_and_its_long_context() -> None:
    card = find("gemini", "gemini-2.5-pro")
    assert card.tiers["batch"]["cached_input"] == card.rates["cached_input"]
    assert card.tier_long_context["batch"][0].rates["input"] == Decimal("0.00000125")


def test_xai_switches_at_its_threshold() -> None:
    (step,) = find("xai", "grok-4.5").long_context
    assert step.applies(200_000)
    assert not step.applies(199_999)
    assert not find("gemini", "gemini-2.5-pro").long_context[0].inclusive


def test_off_peak_prices_hold_until_the_hour_ends() -> None:
    peak, until = genai.find("deepseek", "deepseek-v4-flash", datetime(2026, 11, 20, 2, tzinfo=UTC))
    assert peak is not None
    assert peak.rates["input"] == Decimal("0.0000003")
    assert until == datetime(2026, 11, 20, 4, tzinfo=UTC)
    assert find("deepseek", "deepseek-v4-flash", until).rates["input"] == Decimal("0.00000015")


def test_zero_for_everything_is_no_price() -> None:
    assert genai.find("github-copilot", "gpt-4o", NOW)[0] is None


def test_a_price_an_hour_without_an_exact_second_is_left_to_the_next_layer() -> None:
    assert genai.find("groq", "whisper-large-v3", NOW)[0] is None
    assert find("openai", "whisper-1").rates == {"second": Decimal("0.0001")}
