from __future__ import annotations

from typing import Any

import pytest

from faregate.core.asked import asked_output, measure
from faregate.errors import InvalidRequest
from tests.core.asks.test_anthropic import ALLOW, IMAGE
from tests.core.asks.test_anthropic import call as anthropics


def call(endpoint: str, **body: Any) -> Any:
    return anthropics(endpoint, **{"max_tokens": None, **body})


@pytest.mark.parametrize(
    ("endpoint", "body", "most", "cappable"),
    [
        ("converse", {}, None, True),
        ("converse", {"inferenceConfig": {"maxTokens": 7}}, 7, True),
        ("converse", {"inferenceConfig": None}, None, True),
        ("converse", {"max_tokens": 7}, None, True),
        ("invoke", {}, None, False),
        ("invoke", {"max_tokens": 7}, 7, True),
        ("invoke", {"max_gen_len": 7}, 7, True),
        ("invoke", {"inferenceConfig": {"max_new_tokens": 7}}, 7, True),
        ("invoke", {"textGenerationConfig": {"maxTokenCount": 7}}, 7, True),
        ("invoke", {"max_tokens": 7, "max_completion_tokens": 9}, 9, True),
    ],
)
def test_the_bound(endpoint: str, body: dict[str, Any], most: int | None, cappable: bool) -> None:
    asked = asked_output(call(endpoint, **body))
    assert (asked.per_choice, asked.choices, asked.cappable) == (most, 1, cappable)


def test_thinking_has_a_least() -> None:
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 8000}}
    assert asked_output(call("invoke", max_tokens=9000, **thinking)).least == 2048
    assert asked_output(call("converse", additionalModelRequestFields=thinking)).least == 2048
    assert asked_output(call("converse")).least == 0


@pytest.mark.parametrize("value", [-1, 10**9, 1.5, "9", True, []])
def test_a_bound_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked_output(call("converse", inferenceConfig={"maxTokens": value}))
    assert caught.value.param == "maxTokens"


def test_a_holder_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="inferenceConfig must be an object"):
        asked_output(call("converse", inferenceConfig=[1]))


def test_pictures_are_not_counted_as_text() -> None:
    picture = {"image": {"format": "png", "source": {"bytes": "A" * 100_000}}}
    said = [{"role": "user", "content": [{"text": "hi"}, {"toolResult": {"toolUseId": "t", "content": [picture]}}]}]
    tokens = measure(call("converse", messages=said), ALLOW).tokens
    assert IMAGE < tokens < IMAGE + 300


def test_a_document_is_counted_by_its_pages() -> None:
    document = {"document": {"format": "pdf", "name": "a", "source": {"bytes": "A" * 100_000}}}
    tokens = measure(call("converse", messages=[{"role": "user", "content": [document]}]), ALLOW).tokens
    assert tokens > 20 * IMAGE


@pytest.mark.parametrize(
    ("block", "found"),
    [({"cachePoint": {"type": "default"}}, {"cache_write"}), ({"text": "hi"}, set())],
)
def test_cache_points_are_writes(block: dict[str, Any], found: set[str]) -> None:
    asked = measure(call("converse", messages=[{"role": "user", "content": [block]}]), ALLOW)
    assert asked.modalities == found


@pytest.mark.parametrize(("tier", "read"), [({"type": "flex"}, "flex"), ("flex", "default"), (None, "default")])
def test_the_tier(tier: object, read: str) -> None:
    assert measure(call("converse", serviceTier=tier), ALLOW).tier == read


@pytest.mark.parametrize("body", [{"messages": 1}, {"messages": [1, {"content": 1}]}, {"messages": [{"content": [1]}]}])
def test_what_has_no_shape_is_text(body: dict[str, Any]) -> None:
    assert measure(call("converse", **body), ALLOW).tokens > 0
    assert measure(call("invoke", **body), ALLOW).tokens > 0
