from __future__ import annotations

from decimal import Decimal

import pytest

from faregate.pricing.catalog import LayeredCatalog, wall_us
from faregate.pricing.entries import build
from faregate.pricing.zones import zoned_providers
from faregate.settings import Settings

AZURE = LayeredCatalog(kinds={"azure": "azure", "azure-2": "azure"}, zoned={"azure-2"})


def rates(provider: str, model: str) -> dict[str, str]:
    card = AZURE.card(provider=provider, kind="azure", model=model, organization_id=None, now_us=wall_us())
    assert card is not None
    return {name: f"{card.rates[name].normalize():f}" for name in ("input", "cached_input", "output")}


@pytest.mark.parametrize(
    ("model", "listed", "within"),
    [
        ("gpt-4o", ("0.0000025", "0.00000125", "0.00001"), ("0.00000275", "0.000001375", "0.000011")),
        ("gpt-4o-mini", ("0.00000015", "0.000000075", "0.0000006"), ("0.000000165", "0.000000083", "0.00000066")),
        ("gpt-5-mini", ("0.00000025", "0.000000025", "0.000002"), ("0.000000275", "0.0000000275", "0.0000022")),
    ],
)
def test_a_deployment_within_a_zone_costs_more_than_a_global_one(
    model: str, listed: tuple[str, ...], within: tuple[str, ...]
) -> None:
    assert tuple(rates("azure", model).values()) == listed
    assert tuple(rates("azure-2", model).values()) == within


def test_what_the_map_does_not_list_is_raised_by_a_tenth_on_tokens_only() -> None:
    card = AZURE.card(provider="azure-2", kind="azure", model="gpt-image-1", organization_id=None, now_us=wall_us())
    speech = AZURE.card(provider="azure-2", kind="azure", model="tts-1", organization_id=None, now_us=wall_us())
    assert card is not None
    assert speech is not None
    assert card.rates["image_output"] == Decimal("0.000044")
    assert "x 1.1 (deployment type)" in card.source
    assert speech.rates == {"character": Decimal("0.000015")}


def test_the_operators_own_price_is_not_raised() -> None:
    fields = {"provider": "azure-2", "model": "gpt-4o", "per_million": {"input": Decimal(1)}}
    entry = build(fields, source="override:f")
    catalog = LayeredCatalog([entry], kinds={"azure-2": "azure"}, zoned={"azure-2"})
    card = catalog.card(provider="azure-2", kind="azure", model="gpt-4o", organization_id=None, now_us=wall_us())
    assert card is not None
    assert card.rates == {"input": Decimal("0.000001")}


def test_which_providers_are_within_a_zone() -> None:
    each = {
        kind: {"kind": "azure", "base_url": "https://h", "deployment_type": kind} for kind in ("global", "regional")
    }
    settings = Settings.model_validate({"providers": {**each, "o": {"kind": "openai"}}})
    assert zoned_providers(settings.providers) == {"regional"}
