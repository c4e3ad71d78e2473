from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

from faregate.core.price import PriceCard
from faregate.pricing import litellm_map

ROOT = Path(__file__).parent.parent.parent


def find(kind: str, model: str) -> PriceCard:
    card = litellm_map.find(kind, model)
    assert card is not None
    return card


def convert(**entry: object) -> PriceCard | None:
    return litellm_map.convert("openai", "m", entry)


def test_whisper_s_second_is_listed_twice_and_counts_once() -> None:
    assert find("openai", "whisper-1").rates == {"second": Decimal("0.0001")}


def test_tier_and_threshold_keys_are_read() -> None:
    card = find("gemini", "gemini-2.5-pro")
    assert card.tiers["priority"]["input"] == Decimal("0.00000225")
    assert card.tier_long_context["priority"][0].rates["output"] == Decimal("0.000027")


def test_reasoning_priced_as_output_follows_the_tier_s_output() -> None:
    assert "reasoning" not in find("gemini", "gemini-2.5-flash").tiers["priority"]


def test_claude_s_hour_writes_are_derived_where_missing_also_for_batch_and_long_context() -> None:
    card = find("bedrock", "global.anthropic.claude-sonnet-4-20250514-v1:0")
    assert card.rates["cache_write_1h"] == Decimal("0.000006")
    assert card.long_context[0].rates["cache_write_1h"] == Decimal("0.000012")
    assert find("anthropic", "claude-opus-5").tiers["batch"]["cache_write_1h"] == Decimal("0.000005")


def test_a_write_rate_below_input_is_an_error_of_the_map() -> None:
    card = convert(
        input_cost_per_token="2e-06",
        output_cost_per_token="1e-05",
        cache_creation_input_token_cost_above_200k_tokens="2.5e-07",
        input_cost_per_token_above_200k_tokens="4e-06",
    )
    assert card is not None
    assert "cache_write_5m" not in card.long_context[0].rates


def test_zero_for_everything_and_no_price_at_all_are_unpriced() -> None:
    assert convert(input_cost_per_token="0.0", output_cost_per_token="0.0") is None
    assert convert(mode="chat") is None


def test_tokens_win_over_images_where_both_are_listed() -> None:
    card = convert(
        mode="image_generation",
        input_cost_per_token="5e-06",
        output_cost_per_image_token="4e-05",
        output_cost_per_image="0.04",
    )
    assert card is not None
    assert "image" not in card.rates
    assert card.rates["output"] == card.rates["image_output"]


def test_ranges_price_the_whole_request() -> None:
    card = find("dashscope", "qwen-flash")
    assert card.rates["input"] == Decimal("5e-8")
    assert (card.long_context[0].above, card.long_context[0].rates["input"]) == (256_000, Decimal("2.5e-7"))


def test_a_bare_key_belongs_to_its_own_seller() -> None:
    assert litellm_map.find("openai", "gemini-2.5-pro") is None
    assert find("vertex_ai", "gemini-2.5-pro").provider == "vertex_ai"


def test_numbers_are_taken_as_written() -> None:
    card = find("databricks", "databricks-claude-opus-4")
    assert card.rates["input"] == Decimal("0.000015000020000000002")


def test_every_entry_converts() -> None:
    cards = [litellm_map.find(kind, model) for kind, model in litellm_map.models()]
    assert sum(card is not None for card in cards) > 3500


def test_the_script_gives_the_same_bytes_for_the_same_map(tmp_path: Path) -> None:
    raw = {"sample_spec": {}, "GPT-x": {"input_cost_per_token": 1.5e-07, "litellm_provider": "openai", "rules": 1}}
    (tmp_path / "map.json").write_text(json.dumps(raw))
    code = (
        "import runpy, pathlib; m = runpy.run_path('scripts/price-map');"
        f"raw = m['json'].loads(pathlib.Path({str(tmp_path / 'map.json')!r}).read_text(), parse_float=str);"
        "p = m['pack'](raw, '1', 'd'); assert p == m['pack'](raw, '1', 'd'); print(m['gzip'].decompress(p).decode())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    entries = json.loads(done.stdout)["entries"]
    assert entries == {"gpt-x": {"input_cost_per_token": "1.5e-07", "litellm_provider": "openai"}}
