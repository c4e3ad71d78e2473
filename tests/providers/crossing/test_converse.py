"""What Bedrock's Converse asks of a crossing beside the others, on LiteLLM itself."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from faregate.errors import InvalidRequest, UpstreamError
from faregate.providers.crossing.converse import ConverseCrossing
from tests.providers.crossing.parts import candidate, chat

CLAUDE = "us.anthropic.claude-sonnet-4-20250514-v1:0"
THINKING = {"type": "enabled", "budget_tokens": 4000}


async def body_of(cap: int | None = None, model: str = CLAUDE, **asked: Any) -> dict[str, Any]:
    crossed = await ConverseCrossing("eu-west-3").request(chat(**asked), candidate("bedrock", model), cap)
    assert isinstance(orjson.loads(orjson.dumps(crossed.body)), dict)
    return crossed.body


async def test_an_unset_bound_stays_unset() -> None:
    assert "maxTokens" not in (await body_of()).get("inferenceConfig", {})


@pytest.mark.parametrize(
    ("asked", "cap", "sent"), [({"max_tokens": 9}, None, 9), ({"max_tokens": 9}, 5, 5), ({}, 5, 5)]
)
async def test_the_bound(asked: dict[str, Any], cap: int | None, sent: int) -> None:
    assert (await body_of(cap, **asked))["inferenceConfig"]["maxTokens"] == sent


@pytest.mark.parametrize(("cap", "thinks"), [(None, 4000), (3000, 1500), (500, None)])
async def test_thinking_stays_below_the_bound(cap: int | None, thinks: int | None) -> None:
    body = await body_of(cap, max_tokens=8000, thinking=THINKING)
    found = body.get("additionalModelRequestFields", {}).get("thinking")
    assert (found and found["budget_tokens"]) == thinks


async def test_a_tier_is_bedrocks_own_field() -> None:
    assert (await body_of(service_tier="flex"))["serviceTier"] == {"type": "flex"}


async def test_json_without_a_schema_is_asked_for_in_words() -> None:
    system = (await body_of(response_format={"type": "json_object"}))["system"]
    assert ["JSON object" in part["text"] for part in system] == [True]


async def test_nova_is_asked_the_same_way() -> None:
    body = await body_of(model="amazon.nova-pro-v1:0", max_tokens=9, temperature=0.5)
    assert body["inferenceConfig"] == {"maxTokens": 9, "temperature": 0.5}


@pytest.mark.parametrize("name", ["a b", "", "x" * 65, None, "ü"])
async def test_tools_have_names_that_need_no_change(name: object) -> None:
    tool = {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    with pytest.raises(InvalidRequest) as caught:
        await body_of(tools=[tool])
    assert caught.value.param == "tools[0]"


@pytest.mark.parametrize("asked", [{"n": 2}, {"logprobs": True}, {"logit_bias": {"1": 1}}])
async def test_what_converse_has_no_word_for_is_refused_by_name(asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await body_of(**asked)
    assert caught.value.param == next(iter(asked))


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1/x.png", "http://x", "file:///etc/passwd", "s3://b/k", "data:image/png;base64,", "data:,x", 1],
)
async def test_pictures_are_data(url: object) -> None:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    with pytest.raises(InvalidRequest) as caught:
        await body_of(messages=[{"role": "tool", "tool_call_id": "t", "content": content}])
    assert caught.value.param == "messages[0].content"


@pytest.mark.parametrize("event", [[], "x", {"delta": 1}, {"start": {"toolUse": {}}}])
async def test_events_that_make_no_sense_break_the_stream(event: object) -> None:
    crossing, call = ConverseCrossing("eu-west-3"), chat(stream=True)
    crossed = await crossing.request(call, candidate("bedrock", CLAUDE), None)
    with pytest.raises(UpstreamError):
        crossing.translated(call, crossed, 200, {}).event("contentBlockDelta", orjson.dumps(event))
