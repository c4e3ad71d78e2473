from __future__ import annotations

import pytest

from faregate.core.asks.pictures import tokens


@pytest.mark.parametrize(
    ("model", "detail", "most"),
    [
        ("gpt-4o-2024-11-20", "low", 85),
        ("gpt-4o", "high", 1541),
        ("gpt-4o-mini", None, 48_169),
        ("gpt-5-chat", "auto", 1190),
        ("gpt-5.4", "high", 3_000),
        ("gpt-5.4", None, 12_000),
        ("gpt-5-nano", "low", 6_150),
        ("o4-mini", "high", 4_300),
        ("o3", "high", 1275),
        ("eu.anthropic.claude-sonnet-4-20250514-v1:0", None, 4_784),
        ("gemini-2.5-flash", None, 6_450),
        ("my-own-model", "high", 777),
    ],
)
def test_a_picture_is_worth_what_its_models_family_bills_at_most(model: str, detail: object, most: int) -> None:
    assert tokens(model, detail, 777) == most
