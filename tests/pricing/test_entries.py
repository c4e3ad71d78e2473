from __future__ import annotations

from decimal import Decimal

import pytest

from faregate.errors import InvalidRequest
from faregate.pricing.entries import build_from_api, choose

FIELDS: dict[str, object] = {
    "provider": "openai",
    "model": "gpt-5",
    "per_million": {"input": Decimal("1.5"), "output": 2},
}


def test_numbers_of_the_api_are_exact() -> None:
    entry = build_from_api(FIELDS)
    assert entry.card.rates == {"input": Decimal("0.0000015"), "output": Decimal("0.000002")}
    assert entry.card.source == "api"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"per_million": {"input": 0.5}}, "per_million.input"),
        ({"per_million": {"input": True}}, "per_million.input"),
        ({"per_million": 5}, "per_million"),
        ({"surprise": 1}, "surprise"),
        ({"model": 5}, "model"),
        ({"long_context": [{"above": "x", "per_million": {"input": 1}}]}, "long_context.0.above"),
        ({"aliases": ["a", "b*c"]}, "aliases.1"),
        ({"effective_from": 5}, "effective_from"),
    ],
)
def test_mistakes_name_the_field(change: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        build_from_api({**FIELDS, **change})
    assert caught.value.param == param


def test_xai_thresholds_include_their_limit() -> None:
    long = {"above": 200_000, "per_million": {"input": 4, "output": 12}}
    entries = [build_from_api({**FIELDS, "provider": name, "long_context": long}) for name in ("xai", "openai")]
    assert [entry.card.long_context[0].inclusive for entry in entries] == [True, False]


def test_of_two_patterns_the_first_in_order_wins() -> None:
    entries = [
        build_from_api({**FIELDS, "model": model, "provider": who}) for model, who in (("gpt*", "*"), ("*", "openai"))
    ]
    card, tiers = choose(entries, ("openai",), "gpt-5", 0)
    assert card is entries[0].card
    assert tiers == {}
