from __future__ import annotations

import pytest

from faregate.core.asks.hearing import tokens_per_second


@pytest.mark.parametrize(
    ("model", "most"),
    [("gpt-4o-audio-preview", 10), ("gpt-4o-transcribe", 17), ("gemini-2.5-flash", 32), ("my-own", 99)],
)
def test_sound_is_worth_what_its_models_family_bills_at_most(model: str, most: int) -> None:
    assert tokens_per_second(model, 99) == most
