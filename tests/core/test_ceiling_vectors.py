"""No usage of the price vectors costs more than what would have been held for it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from faregate.core.ceiling import ceiling
from faregate.core.price import PriceCard
from faregate.core.pricing import price
from faregate.core.usage import Usage
from faregate.errors import FaregateError
from faregate.pricing.filter import _explicit_rates, usage_of

VECTORS = Path(__file__).parents[1] / "vectors" / "price_vectors.jsonl"
ALL = frozenset({"audio", "image", "cache_write", "cache_write_1h"})
UNITS = {
    "audio_seconds": "second",
    "characters": "character",
    "images": "image",
    "pages": "page",
    "requests": "request",
    "web_search_requests": "search",
    "x_search_calls": "x_search",
    "file_search_calls": "file_search",
    "code_interpreter_sessions": "session",
    "search_units": "query",
    "num_sources_used": "source",
    "video_seconds": "video_second",
    "output_characters": "output_character",
    "pixels": "pixel",
    "citation_tokens": "citation",
}


def priced() -> list[tuple[str, PriceCard, Usage, Decimal]]:
    """Id, card, usage and cost of every vector that one card prices."""
    found = []
    for line in VECTORS.read_text().splitlines():
        vector: dict[str, Any] = json.loads(line)
        try:
            rates = _explicit_rates(vector["prices"])
            card = PriceCard(id=vector["id"], provider="p", model="m", rates=rates, source="vector")
            usage = usage_of(vector["usage"], rates)
            found.append((vector["id"], card, usage, price(card, usage).usd))
        except FaregateError:
            continue
    return found


PRICED = priced()


def test_most_vectors_are_priced_by_one_card() -> None:
    assert len(PRICED) > 60


@pytest.mark.parametrize(("card", "usage", "usd"), [row[1:] for row in PRICED], ids=[row[0] for row in PRICED])
def test_the_ceiling_of_a_usage_is_not_below_its_price(card: PriceCard, usage: Usage, usd: Decimal) -> None:
    counts = {rate: getattr(usage, name) for name, rate in UNITS.items() if getattr(usage, name)}
    units = {rate: Decimal(count) for rate, count in counts.items()} | dict(usage.custom)
    given = usage.input_tokens or usage.total_tokens or 0
    most = ceiling(card, input_tokens=given, output_tokens=usage.output_tokens or 0, modalities=ALL, units=units)
    assert most >= usd
