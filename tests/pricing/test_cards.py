from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from faregate.core.price import PriceCard
from faregate.pricing.cards import mend, with_id

CARD = PriceCard(id="", provider="p", model="m", rates={"input": Decimal("1.0"), "output": Decimal(2)}, source="s")


def test_the_id_depends_on_content_not_on_how_numbers_are_written() -> None:
    same = replace(CARD, rates={"output": Decimal("2.00"), "input": Decimal(1)})
    assert with_id(CARD).id == with_id(same).id
    for other in (replace(CARD, source="t"), replace(CARD, free=True), replace(CARD, modifiers={"geo:us": Decimal(2)})):
        assert with_id(other).id != with_id(CARD).id


def test_zero_token_rates_beside_a_unit_price_are_no_price() -> None:
    rates = {"input": Decimal(0), "output": Decimal(0), "query": Decimal("0.002")}
    mended = mend(replace(CARD, rates=rates))
    assert mended is not None
    assert mended.rates == {"query": Decimal("0.002")}


def test_a_free_output_beside_a_priced_input_is_a_price() -> None:
    mended = mend(replace(CARD, rates={"input": Decimal(1), "output": Decimal(0)}))
    assert mended is not None
    assert mended.rates["output"] == 0


def test_only_claude_has_its_hour_writes_derived() -> None:
    rates = {**CARD.rates, "cache_write_5m": Decimal("1.25")}
    found = [mend(replace(CARD, model=model, rates=rates)) for model in ("claude-x", "gpt-x")]
    assert [card.rates.get("cache_write_1h") for card in found if card] == [2, None]
