from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from faregate.core.price import PriceCard
from faregate.core.pricing import price
from faregate.core.usage import Usage
from faregate.pricing.catalog import LayeredCatalog, default_catalog
from faregate.pricing.entries import build_from_api, us
from faregate.pricing.file import parse

NOW_US = 1_795_000_000_000_000
CATALOG = default_catalog()

SEEDS = [
    ("azure", "gpt-4o-mini", "1.5e-07", "7.5e-08", "6e-07"),
    ("azure", "gpt-4o", "2.5e-06", "1.25e-06", "1e-05"),
    ("azure-2", "gpt-4.1-nano", "1e-07", "2.5e-08", "4e-07"),
    ("azure-2", "gpt-4.1-mini", "4e-07", "1e-07", "1.6e-06"),
    ("azure-2", "gpt-4.1", "2e-06", "5e-07", "8e-06"),
    ("azure-2", "gpt-5-nano", "5e-08", "5e-09", "4e-07"),
    ("azure-2", "gpt-5-mini", "2.5e-07", "2.5e-08", "2e-06"),
    ("azure-2", "gpt-5-chat", "1.25e-06", "1.25e-07", "1e-05"),
    ("azure-2", "gpt-5", "1.25e-06", "1.25e-07", "1e-05"),
    ("openai", "gpt-4.1", "2e-06", "5e-07", "8e-06"),
    ("openai", "gpt-4.1-mini", "4e-07", "1e-07", "1.6e-06"),
    ("gemini", "gemini-2.0-flash", "1e-07", "2.5e-08", "4e-07"),
    ("gemini", "gemini-2.0-flash-exp", "0", "0", "0"),
    ("gemini", "gemini-2.5-flash", "3e-07", "3e-08", "2.5e-06"),
    ("gemini", "gemini-2.5-pro", "1.25e-06", "1.25e-07", "1e-05"),
    ("gemini", "gemini-3-pro", "2e-06", "2e-07", "1.2e-05"),
    ("gemini", "gemini-3-flash", "5e-07", "5e-08", "3e-06"),
    ("deepseek", "deepseek-chat", "2.8e-07", "2.8e-08", "4.2e-07"),
    ("deepseek", "DeepSeek-V3.2", "2.8e-07", "2.8e-08", "4e-07"),
    ("deepseek", "DeepSeek-V3.2-thinking", "2.8e-07", "2.8e-08", "4e-07"),
    ("bedrock", "claude-4-sonnet", "3e-06", "3e-07", "1.5e-05"),
    ("bedrock", "global.anthropic.claude-sonnet-4-20250514-v1:0", "3e-06", "3e-07", "1.5e-05"),
    ("", "claude-3-5-sonnet-20241022", "3e-06", "3e-07", "1.5e-05"),
    ("", "claude-3-opus", "1.5e-05", "1.5e-06", "7.5e-05"),
    ("", "gemini-1.5-pro", "1.25e-06", "1.25e-06", "5e-06"),
    ("", "gemini-pro", "5e-07", "5e-07", "1.5e-06"),
]

PRICES = """
- provider: my-llm
  model: my-model
  per_million: {input: 2.50, output: 10}
- provider: "*"
  model: gpt-5*
  per_million: {input: 9, output: 9}
- provider: openai
  model: gpt-5-mini
  per_million: {input: 1, output: 1}
- provider: openai
  model: gpt-5-mini
  effective_from: 2026-11-01T00:00:00Z
  per_million: {input: 2, output: 2}
- provider: openai
  model: gpt-5-mini
  effective_from: 2100-01-01T00:00:00Z
  per_million: {input: 3, output: 3}
- provider: openai
  model: gpt-4.1
  tier: flex
  per_million: {input: 7, output: 7}
"""


def find(catalog: LayeredCatalog, provider: str, model: str, now_us: int = NOW_US, org: str | None = None) -> PriceCard:
    card = catalog.find(model, provider=provider, organization_id=org, now_us=now_us)
    assert card is not None
    return card


def rate(card: PriceCard, name: str = "input") -> Decimal:
    return card.rates[name] * 1_000_000


@pytest.mark.parametrize(("provider", "model", "given", "cached", "made"), SEEDS, ids=[f"{s[0]}/{s[1]}" for s in SEEDS])
def test_every_known_name_is_priced_as_listed(provider: str, model: str, given: str, cached: str, made: str) -> None:
    card = find(CATALOG, provider, model)
    usage = Usage(input_tokens=2000, cached_input_tokens=1000, output_tokens=1000)
    assert price(card, usage).usd == 1000 * (Decimal(given) + Decimal(cached) + Decimal(made))
    assert card.source.startswith("supplement")
    assert card.source_date


def test_whisper_costs_one_rate_a_second() -> None:
    assert price(find(CATALOG, "", "whisper-1"), Usage(audio_seconds=Decimal(60))).usd == Decimal("0.006")


def test_claude_3_opus_writes_for_an_hour_at_twice_the_input() -> None:
    assert rate(find(CATALOG, "anthropic", "claude-3-opus-20240229"), "cache_write_1h") == 30


@pytest.mark.parametrize("model", ["sandbox", "sandbox-large", "sandbox-embedding"])
def test_the_sandbox_has_pretend_prices(model: str) -> None:
    card = find(CATALOG, "sandbox", model)
    assert (rate(card), rate(card, "cached_input"), rate(card, "output")) == (
        Decimal("0.4"),
        Decimal("0.1"),
        Decimal("1.6"),
    )
    assert (card.context_window, card.max_output_tokens) == (128_000, 16_384)
    assert "pretend" in card.source


def test_a_configured_name_is_tried_before_its_kind() -> None:
    catalog = LayeredCatalog(parse(PRICES), kinds={"my-llm": "openai"})
    assert rate(find(catalog, "my-llm", "my-model")) == Decimal("2.5")
    assert rate(find(catalog, "my-llm", "gpt-5-mini")) == 2


def test_an_exact_name_comes_before_a_pattern_and_the_newest_card_in_force_wins() -> None:
    catalog = LayeredCatalog(parse(PRICES))
    assert rate(find(catalog, "openai", "gpt-5-nano")) == 9
    assert rate(find(catalog, "openai", "gpt-5-mini")) == 2


def test_a_card_changes_at_its_moment_and_not_before() -> None:
    catalog = LayeredCatalog(parse(PRICES))
    start = us(datetime(2026, 11, 1, tzinfo=UTC))
    rates = [rate(find(catalog, "openai", "gpt-5-mini", now_us=at)) for at in (NOW_US, start - 1, start, 5 * 10**15)]
    assert rates == [2, 1, 2, 3]


def test_a_tier_alone_is_laid_over_the_layers_below() -> None:
    card = find(LayeredCatalog(parse(PRICES)), "openai", "gpt-4.1")
    assert rate(card) == 2
    assert card.tiers["flex"]["input"] * 1_000_000 == 7
    assert "priority" in card.tiers


def test_an_organization_s_own_cards_come_first_and_reloads_are_seen() -> None:
    catalog = LayeredCatalog(parse(PRICES))
    assert rate(find(catalog, "openai", "gpt-5", org="org_1")) == 9
    fields = {"provider": "openai", "model": "gpt-5", "per_million": {"input": "4", "output": 4}}
    catalog.set_api_entries([build_from_api(fields, organization_id="org_1", created_at_us=1)])
    assert rate(find(catalog, "openai", "gpt-5", org="org_1")) == 4
    assert rate(find(catalog, "openai", "gpt-5", org="org_2")) == 9
    catalog.set_file_entries(())
    assert rate(find(catalog, "openai", "gpt-5", org="org_2")) == Decimal("1.25")


def test_a_later_api_card_supersedes_an_earlier_one() -> None:
    fields = {"provider": "*", "model": "m", "per_million": {"input": 1, "output": 1}}
    newer = {**fields, "per_million": {"input": 2, "output": 2}}
    entries = [build_from_api(fields, created_at_us=10), build_from_api(newer, created_at_us=20)]
    catalog = LayeredCatalog(api_entries=entries)
    assert [rate(find(catalog, "any", "m", now_us=at)) for at in (15, 25)] == [1, 2]


def test_genai_cards_take_what_they_lack_from_the_map() -> None:
    nano = find(CATALOG, "openai", "gpt-5-nano")
    assert "priority" in nano.tiers
    assert "genai-prices" in nano.source
    assert "litellm-map" in nano.source
    assert find(CATALOG, "openai", "gpt-5").max_output_tokens == 128_000
    assert find(CATALOG, "anthropic", "claude-opus-5").modifiers["geo:us"] == Decimal("1.1")


def test_audio_is_never_priced_as_text() -> None:
    for model in ("gpt-4o-audio-preview", "gpt-4o-audio-preview-2024-12-17"):
        assert rate(find(CATALOG, "openai", model), "audio_input") == 40


@pytest.mark.parametrize("model", ["gpt-5-nano-audio", "gpt-4o-mini-tts-turbo", "no-such-model", "", "x" * 9999])
def test_no_price_is_made_up(model: str) -> None:
    assert CATALOG.find(model, provider="openai", now_us=NOW_US) is None


def test_unpriced_models_are_free_or_take_the_default_card_if_the_operator_says_so() -> None:
    free = find(LayeredCatalog(unpriced="free"), "openai", "no-such-model")
    assert free.free
    default = PriceCard(id="d", provider="*", model="*", rates={"input": Decimal(1)}, source="default")
    card = find(LayeredCatalog(unpriced=default), "openai", "no-such-model")
    assert (card.rates, card.model) == (default.rates, "no-such-model")


def test_the_same_content_has_the_same_id() -> None:
    cards = [find(default_catalog(), "openai", model) for model in ("gpt-5", "gpt-5", "gpt-5-mini")]
    assert cards[0].id == cards[1].id != cards[2].id


def test_a_hit_costs_about_a_microsecond_and_the_start_nothing() -> None:
    started = time.perf_counter()
    catalog = default_catalog()
    assert time.perf_counter() - started < 0.01
    find(catalog, "openai", "gpt-5")
    best = min(_loop_s(catalog) for _ in range(5))
    assert best / 1000 < 5e-6


def _loop_s(catalog: LayeredCatalog) -> float:
    started = time.perf_counter()
    for _ in range(1000):
        catalog.card(provider="openai", kind="openai", model="gpt-5", organization_id=None, now_us=NOW_US)
    return time.perf_counter() - started


@pytest.mark.parametrize(
    ("model", "per_million", "long"),
    [
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", "3", "6"),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", "3", "6"),
        ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "3.3", "6.6"),
    ],
)
def test_bedrocks_regional_sonnets_have_their_long_context(model: str, per_million: str, long: str) -> None:
    card = LayeredCatalog().card(provider="bedrock", kind="bedrock", model=model, organization_id=None, now_us=NOW_US)
    assert card is not None
    (step,) = card.long_context
    assert (step.above, card.rates["input"], step.rates["input"]) == (
        200_000,
        Decimal(per_million).scaleb(-6),
        Decimal(long).scaleb(-6),
    )
