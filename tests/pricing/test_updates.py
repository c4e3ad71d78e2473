from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from faregate.pricing import genai_model
from faregate.pricing.catalog import LayeredCatalog
from faregate.pricing.entries import build_from_api, us
from faregate.pricing.updates import Update, Updates
from tests.pricing.releases import model

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
FILE = [build_from_api({"provider": "openai", "model": "gpt-5", "per_million": {"input": 7}})]


def update(seller: str, raw: dict[str, Any], start: datetime = START) -> Update:
    return Update(seller=seller, info=genai_model.build(raw), source="genai-prices 9", start=start)


def gpt5(rate: object) -> dict[str, Any]:
    return {"id": "gpt-5", "match": {"starts_with": "gpt-5"}, "prices": {"input_mtok": rate, "output_mtok": 99}}


def catalog(*updates: Update) -> LayeredCatalog:
    made = LayeredCatalog()
    made.set_updates(Updates(updates))
    return made


def rate(of: LayeredCatalog, model_id: str, provider: str, at: datetime = START) -> Decimal | None:
    card = of.find(model_id, provider=provider, now_us=us(at))
    return None if card is None else card.rates["input"] * 1_000_000


def test_an_update_counts_from_its_moment_on() -> None:
    made = catalog(update("openai", gpt5("3")), update("openai", gpt5("4"), START + timedelta(days=1)))
    moments = [START - timedelta(microseconds=1), START, START + timedelta(days=1), START - timedelta(days=300)]
    assert [rate(made, "gpt-5", "openai", at) for at in moments] == [Decimal("1.25"), 3, 4, Decimal("1.25")]


def test_of_two_with_one_start_the_later_one_counts() -> None:
    assert rate(catalog(update("openai", gpt5("3")), update("openai", gpt5("4"))), "gpt-5", "openai") == 4


def test_the_operator_s_own_cards_stay_above() -> None:
    made = catalog(update("openai", gpt5("3")))
    made.set_file_entries(FILE)
    assert rate(made, "gpt-5", "openai") == 7


def test_dated_names_follow_and_other_models_do_not() -> None:
    made = catalog(update("openai", gpt5("3")))
    assert rate(made, "gpt-5-2025-08-07", "openai") == 3
    assert rate(made, "gpt-5-mini", "openai") == Decimal("0.25")
    card = made.find("gpt-5-2025-08-07", provider="openai", now_us=us(START))
    assert card is not None
    assert card.source == "genai-prices 9"


def test_sellers_of_another_s_models_follow() -> None:
    """azure has no price of its own for a model that is new at openai."""
    raw = {"id": "gpt-99", "match": {"equals": "gpt-99"}, "prices": {"input_mtok": 3, "output_mtok": 9}}
    made = catalog(update("openai", raw))
    assert (rate(made, "gpt-99", "openai"), rate(made, "gpt-99", "azure")) == (Decimal(3), Decimal(3))
    assert ("openai", "gpt-99") in set(made.names())


def test_the_supplement_gives_way_to_what_is_newer() -> None:
    shipped = rate(catalog(), "gemini-3-pro", "gemini")
    made = catalog(update("google", model("gemini-3-pro", input_mtok="2.5", output_mtok=1)))
    assert (shipped, rate(made, "gemini-3-pro", "gemini")) == (Decimal(2), Decimal("2.5"))


def test_no_price_leaves_the_shipped_one() -> None:
    raw = {"id": "gpt-4.1-mini", "match": {"equals": "gpt-4.1-mini"}, "prices": {"input_mtok": 0, "output_mtok": 0}}
    assert rate(catalog(update("openai", raw)), "gpt-4.1-mini", "openai") == Decimal("0.4")
