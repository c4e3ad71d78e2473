from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.pricing.catalog import default_catalog
from faregate.pricing.filter import price_line, text

VECTORS = [
    json.loads(line, parse_float=Decimal)
    for line in (Path(__file__).parent.parent / "vectors" / "price_vectors.jsonl").read_text().splitlines()
]
CATALOG = default_catalog()
NOW_US = 1_795_000_000_000_000
TEXT = {"input": "0.000002", "cached": "0.0000005", "output": "0.000008"}


def run(usage: object, prices: object = None, options: object = None, **more: object) -> dict[str, Any]:
    line = {
        "id": "x",
        "provider": "openai",
        "model": "gpt-5",
        "usage": usage,
        "options": options,
        "prices": prices,
        **more,
    }
    return price_line(line, CATALOG, now_us=NOW_US)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
def test_vector(vector: dict[str, Any]) -> None:
    answer = price_line({key: value for key, value in vector.items() if key != "expect_usd"}, CATALOG)
    if vector["expect_usd"] is None:
        assert answer["usd"] is None
        return
    assert answer["usd"] == text(Decimal(vector["expect_usd"]))
    lines = answer["lines"]
    assert isinstance(lines, list)
    assert sum(Decimal(line["amount"]) for line in lines) == Decimal(answer["usd"])
    shown = {(line["item"], line["quantity"], line["rate"], line["amount"]) for line in lines}
    for part in vector.get("breakdown", ()):
        assert (part["item"], part["count"], part["rate"], part["usd"]) in shown


@pytest.mark.parametrize(
    "usage",
    [
        {"input_tokens": 1, "output_tokens": 1, "quantum_tokens": 5},
        {"input_tokens": True, "output_tokens": 1},
        {"input_tokens": "7", "output_tokens": 1},
        {"input_tokens": 7.0, "output_tokens": 1},
        {"input_tokens": float("nan"), "output_tokens": 1},
        {"input_tokens": Decimal("1e999999"), "output_tokens": 1},
        {"input_tokens": Decimal("1.5"), "output_tokens": 1},
        {"input_tokens": 10**30, "output_tokens": 1},
        {"input_tokens": [1], "output_tokens": 1},
        {"input_tokens": 1, "output_tokens": None},
        {"output_tokens": 1},
        {"audio_seconds": "NaN"},
        {"audio_seconds": "-1"},
        {"images": 3},
        {"web_search_requests": 1, "input_tokens": 1, "output_tokens": 1},
        {"provider_cost": "-1"},
        {"per_model": {}},
        {"per_model": {"a": 1}},
        {},
        None,
        [],
    ],
)
def test_nonsense_is_refused_and_never_free(usage: object) -> None:
    answer = run(usage, TEXT)
    assert answer["usd"] is None
    assert answer["error"]


@pytest.mark.parametrize("rate", [True, 0.5, "-1", "NaN", "1e-999999", "x", [], {}])
def test_bad_rates_are_refused(rate: object) -> None:
    assert run({"input_tokens": 1, "output_tokens": 1}, {"input": rate, "output": "1"})["usd"] is None


@pytest.mark.parametrize("line", [None, 5, "x", [], {}, {"id": 1, "usage": {}}, {"usage": {"input_tokens": 1}}])
def test_lines_that_are_none_are_answered(line: object) -> None:
    assert price_line(line, CATALOG)["usd"] is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["input", "output", "a"]), inner),
    max_leaves=5,
)
USAGE = st.dictionaries(
    st.sampled_from(["input_tokens", "output_tokens", "audio_seconds", "provider_cost", "per_model", "x", "images"]),
    JSON,
)
OPTIONS = st.dictionaries(
    st.sampled_from(["multiplier", "markup_percent", "tier_mode", "batch", "service_tier", "credits_per_usd"]),
    JSON | st.just("graduated"),
)


@given(USAGE | JSON, OPTIONS | JSON, st.dictionaries(st.sampled_from(["input", "output", "image"]), JSON) | JSON)
def test_never_raises_and_never_answers_a_float(usage: object, options: object, prices: object) -> None:
    answer = run(usage, prices, options)
    assert "float" not in repr([type(value) for value in answer.values()])
    assert answer["usd"] is None or Decimal(answer["usd"]) >= 0


@pytest.mark.parametrize(
    ("usage", "prices", "options", "usd"),
    [
        ({"input_tokens": 10, "output_tokens": 0, "tool_use_input_tokens": 5}, TEXT, {}, "0.00003"),
        (
            {"input_tokens": 10, "output_tokens": 0, "tool_use_input_tokens": 5, "tool_use_billable": False},
            TEXT,
            {},
            "0.00002",
        ),
        ({"video_seconds": "2.5"}, {"per_video_second": "0.1"}, {}, "0.25"),
        ({"output_characters": 4}, {"per_output_character": "0.5"}, {}, "2"),
        ({"gpu_minutes": "1.5"}, {"per_gpu_minute": "2"}, {}, "3"),
        ({"provider_cost": "0.5", "upstream_cost": "0.25"}, {}, {}, "0.5"),
        ({"provider_cost": "0.5", "upstream_cost": "0.25"}, {}, {"is_byok": True}, "0.75"),
        (
            {"input_tokens": 5, "output_tokens": 0, "cache_write_1h_tokens": 5},
            {"input": "1", "cache_write_5m": "2"},
            {},
            "10",
        ),
        ({"input_tokens": 5, "output_tokens": 0, "web_fetch_requests": 2}, {"input": "1", "output": "2"}, {}, "5"),
        ({"input_tokens": 0, "output_tokens": 0}, TEXT, {}, "0"),
        ({"input_tokens": 5, "output_tokens": 0}, {"input": "1"}, {"markup_percent": "-100"}, "0"),
    ],
)
def test_explicit_rates(usage: object, prices: object, options: object, usd: str) -> None:
    assert run(usage, prices, options)["usd"] == usd


def test_a_markup_cannot_make_a_price_negative() -> None:
    assert run({"input_tokens": 5, "output_tokens": 0}, {"input": "1"}, {"markup_percent": "-101"})["usd"] is None


def test_the_catalog_prices_at_the_served_tier() -> None:
    usage = {"input_tokens": 10_000, "output_tokens": 1000, "cached_input_tokens": 4000}
    tiers: list[dict[str, object]] = [{}, {"service_tier": "flex"}, {"service_tier": "priority"}, {"batch": True}]
    assert [run(usage, None, options)["usd"] for options in tiers] == ["0.018", "0.009", "0.036", "0.009"]


def test_an_unknown_model_has_no_price() -> None:
    usage = {"input_tokens": 1, "output_tokens": 1}
    assert run(usage, model="no-such-model")["usd"] is None
    assert run(usage, provider="no-such-provider")["usd"] is None


def test_per_model_usage_is_priced_by_each_model_of_the_catalog() -> None:
    part = {"input_tokens": 1000, "output_tokens": 0}
    answer = run({"per_model": {"gpt-4.1": part, "gpt-4.1-mini": part}})
    assert answer["usd"] == "0.0024"
    assert [line["model"] for line in answer["lines"]] == ["gpt-4.1", "gpt-4.1-mini"]


def test_credits_follow_the_rate_of_exchange() -> None:
    assert run({"input_tokens": 500, "output_tokens": 0}, TEXT)["credits"] == "1"
    assert run({"input_tokens": 500, "output_tokens": 0}, TEXT, {"credits_per_usd": 10})["credits"] == "0.01"
