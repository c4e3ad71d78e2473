from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest

from faregate.core.asked import asked_output, measure
from faregate.core.asks.shape import Allowances
from faregate.core.call import Call
from faregate.core.estimate import CallEstimator
from faregate.errors import InvalidRequest
from tests.core.test_estimate import PRINCIPAL, candidate

ALLOW = Allowances(
    bytes_per_token=Decimal(2), tokens_per_audio_second=10, models=("claude-sonnet-4-5",), tokens_per_image=2000
)
IMAGE = 4784


def call(endpoint: str = "messages", **body: Any) -> Call:
    body = {"model": "m", "max_tokens": 100, **body}
    return Call(
        id="h",
        request_id="r",
        endpoint=endpoint,
        model="m",
        body=body,
        raw_body=orjson.dumps(body),
        stream=False,
        wants_usage=True,
        account_id="acc_1",
    )


def says(*content: Any) -> list[Any]:
    return [{"role": "user", "content": list(content)}]


def tokens(**body: Any) -> int:
    return measure(call(**body), ALLOW).tokens


def text(asked: Call, less: int = 0) -> int:
    return -(-(asked.body_bytes - less) // 2)


def test_the_bound_is_required() -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked_output(call(max_tokens=None))
    assert (caught.value.param, caught.value.message) == ("max_tokens", "max_tokens is required")


@pytest.mark.parametrize("most", [-1, 10**9, "100", 1.5, True, [1]])
def test_a_bound_that_cannot_be_meant_is_named(most: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked_output(call(max_tokens=most))
    assert caught.value.param == "max_tokens"


def test_thinking_has_a_least() -> None:
    assert asked_output(call()).least == 0
    assert asked_output(call(thinking={"type": "enabled", "budget_tokens": 4000})).least == 2048
    assert asked_output(call(thinking={"type": "adaptive"})).least == 0


def test_the_least_is_in_the_floor() -> None:
    thinks = call(max_tokens=9000, thinking={"type": "enabled", "budget_tokens": 8000})
    found = CallEstimator().estimate(thinks, [candidate(most=None)], PRINCIPAL)
    assert (found.floor_output_tokens, found.output_tokens) == (2048, 9000)


def test_pictures_are_not_text_wherever_they_are() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 4000}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [picture, {"type": "text", "text": "x"}]}
    asked = call(messages=says(picture, result))
    assert measure(asked, ALLOW).tokens == text(asked, 8000) + 2 * IMAGE


def test_documents_count_by_their_pages() -> None:
    data = "A" * 40_000  # 30,000 bytes: 11 pages
    asked = call(messages=says({"type": "document", "source": {"type": "base64", "data": data}}))
    assert measure(asked, ALLOW).tokens == text(asked, 40_000) + 11 * (IMAGE + 2000)


def test_a_document_elsewhere_is_feared() -> None:
    asked = says({"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}})
    assert tokens(messages=asked) > 1000 * IMAGE


def test_a_document_of_text_is_text_and_its_pictures_are_pictures() -> None:
    plain = call(messages=says({"type": "document", "source": {"type": "text", "data": "x" * 900}}))
    assert measure(plain, ALLOW).tokens == text(plain)
    picture = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    mixed = call(messages=says({"type": "document", "source": {"type": "content", "content": [picture]}}))
    assert measure(mixed, ALLOW).tokens == text(mixed) + IMAGE


@pytest.mark.parametrize("messages", [None, "hi", 3, [None], [{"content": 3}], [{"content": [None, {"source": 1}]}]])
def test_odd_messages_are_text(messages: object) -> None:
    asked = call(messages=messages)
    assert measure(asked, ALLOW).tokens == text(asked)


@pytest.mark.parametrize(
    ("control", "found"),
    [
        (None, set()),
        ({"type": "ephemeral"}, {"cache_write"}),
        ({"type": "ephemeral", "ttl": "5m"}, {"cache_write"}),
        ({"type": "ephemeral", "ttl": "1h"}, {"cache_write", "cache_write_1h"}),
    ],
)
def test_cache_writes_are_feared_when_they_are_asked_for(control: object, found: set[str]) -> None:
    block = {"type": "text", "text": "x", **({"cache_control": control} if control else {})}
    assert measure(call(system=[block]), ALLOW).modalities == found


def test_escaped_letters_hide_nothing() -> None:
    hidden = call()
    raw = hidden.raw_body[:-1] + b',"system":[{"cache\\u005fcontrol":{"ttl":"1h"}}]}'
    assert measure(Call(**{**_fields(hidden), "raw_body": raw}), ALLOW).modalities == {"cache_write", "cache_write_1h"}


def _fields(one: Call) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


def test_geography_and_speed_are_in_the_price() -> None:
    found = measure(call(inference_geo="us", speed="fast"), ALLOW)
    assert (found.modalities, found.tier) == (frozenset({"geo:us", "speed:fast"}), "fast")


@pytest.mark.parametrize(
    ("tools", "searches"),
    [
        ([{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}], 3),
        ([{"type": "web_search_20250305"}, {"type": "web_search_20250305", "max_uses": -5}], 20),
        ([{"type": "web_search_20250305", "max_uses": 10**9}], 50),
        ([{"name": "f"}, None, "x"], None),
        ("web_search", None),
    ],
)
def test_searches_are_bounded(tools: object, searches: int | None) -> None:
    assert measure(call(tools=tools), ALLOW).units.get("search") == searches


def test_counting_tokens_is_free() -> None:
    found = CallEstimator().estimate(call("messages.count_tokens"), [candidate()], PRINCIPAL)
    assert (found.want_microcredits, found.floor_microcredits, found.cappable) == (0, 0, False)


@pytest.mark.parametrize(
    ("tools", "hidden"),
    [
        (None, 0),
        ([], 0),
        ("x", 0),
        ([{"name": "f"}, {"type": "custom", "name": "g"}], 804),
        ([{"type": "bash_20250124", "name": "bash"}, {"name": "f"}], 3804),
    ],
)
def test_tools_bring_more_than_their_definitions(tools: object, hidden: int) -> None:
    asked = call(tools=tools)
    assert measure(asked, ALLOW).tokens == text(asked) + hidden
    assert measure(call("chat.completions", tools=tools), ALLOW).tokens == text(asked) + hidden
