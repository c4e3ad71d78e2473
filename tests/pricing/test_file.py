from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from faregate.errors import ConfigError
from faregate.pricing.file import parse, read, supplement

FULL = """\
- provider: my-llm
  model: my-model
  effective_from: 2026-01-01T00:00:00Z
  tier: default
  per_million: {input: 2.50, cached_input: 1.25, cache_write_5m: 3.125, cache_write_1h: 5, output: 10}
  per_unit: {second: 0.0001, gpu_minutes: 0.3}
  long_context: {above: 200000, per_million: {input: 5, output: 15}}
  aliases: [my-model-latest]
  context_window: 128000
  max_output_tokens: 16384
"""


def test_every_field_is_read_exactly() -> None:
    (entry,) = parse(FULL)
    card = entry.card
    assert entry.names == ("my-model", "my-model-latest")
    assert card.rates["input"] == Decimal("0.0000025")
    assert card.rates["second"] == Decimal("0.0001")
    assert card.rates["gpu_minutes"] == Decimal("0.3")
    assert card.long_context[0].above == 200_000
    assert (card.context_window, card.max_output_tokens) == (128_000, 16_384)
    assert card.effective_from is not None
    assert card.source == "override:prices"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("- provider: a\n  model: b\n  per_milion: {input: 1}\n", 3, "unknown key 'per_milion'; allowed: provider"),
        ("- provider: a\n  model: b\n  per_million:\n    input: 1\n    ouput: 2\n", 5, "unknown key 'ouput'"),
        ("- provider: a\n  model: b\n  per_million: {input: abc}\n", 3, "decimal number"),
        ("- provider: a\n  model: b\n  per_million: {input: -1}\n", 3, "from 0"),
        ("- provider: a\n  model: b\n  per_million: {input: .nan}\n", 3, "decimal number"),
        ("- provider: a\n  model: b\n  per_million: {input: }\n", 3, "decimal number"),
        ("- provider: a\n  model: b\n", 1, "at least one rate"),
        ("- provider: a\n  per_million: {input: 1}\n", 1, "model is needed"),
        ("- provider: a\n  model: a*b\n  per_million: {input: 1}\n", 2, "one trailing"),
        ("- provider: a\n  model: b\n  tier: gold\n  per_million: {input: 1}\n", 3, "default, flex, priority, batch"),
        ("- provider: a\n  model: b\n  effective_from: soon\n  per_million: {input: 1}\n", 3, "date and time"),
        ("- provider: a\n  model: b\n  context_window: 1.5\n  per_million: {input: 1}\n", 3, "whole number"),
        ("- provider: a\n  model: b\n  per_unit: {input: 1}\n", 3, "per_million"),
        ("- provider: a\n  model: b\n  per_million: {input: 1}\n  long_context: {above: 5}\n", 4, "per_million"),
        ("- provider: a\n  model: b\n  model: c\n", 3, "twice"),
        ("- provider: a\n  model: b\n  aliases: c\n  per_million: {input: 1}\n", 3, "list"),
        ("- x\n", 1, "mapping"),
        ("provider: a\n", 1, "list of price cards"),
        ("- provider: [a\n", 2, "not YAML"),
        ("- provider: a\n  model: b\n  source: me\n  per_million: {input: 1}\n", 3, "unknown key"),
    ],
)
def test_mistakes_name_file_line_and_what_is_allowed(text: str, line: int, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, name="prices.yaml")
    assert caught.value.message.startswith(f"prices.yaml:{line}: ")
    assert says in caught.value.message


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        read(tmp_path / "nothing.yaml")


def test_a_file_is_named_as_the_source(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(FULL)
    assert read(tmp_path / "p.yaml")[0].card.source == "override:p.yaml"


def test_an_empty_file_has_no_cards() -> None:
    assert parse("") == parse("# nothing\n") == ()


def test_every_shipped_card_has_a_source_and_a_date() -> None:
    cards = [entry.card for entry in supplement()]
    assert len(cards) > 30
    assert all(card.source_date and ": " in card.source for card in cards)
