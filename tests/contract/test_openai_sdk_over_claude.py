"""The real OpenAI SDK in front of Anthropic's models: asked in one language, served in the other, metered once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.contract.claude import KEY, MODEL
from tests.contract.claude import claude as claude
from tests.contract.claude import house as house
from tests.story.conftest import Open
from tests.story.house import CREDIT, House
from tests.upstreams.claude import Claude, Turn

HI: Any = [{"role": "user", "content": "hi"}]
FARE = (10 * 3 + 5 * 15) * 1000
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALLS = (
    {"type": "text", "text": "Let me look."},
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln\u2028 am Rhein"}},
    {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {}},
)
THOUGHTS = (
    {"type": "thinking", "thinking": "two and two", "signature": "c2lnbmF0dXJl"},
    {"type": "text", "text": "four"},
)
CACHED = {
    "input_tokens": 100,
    "cache_read_input_tokens": 2000,
    "cache_creation_input_tokens": 700,
    "cache_creation": {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 400},
    "output_tokens": 50,
}
PICTURE = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture
async def client(house: House) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=house.url + "/v1", api_key=house.me.secret, max_retries=0) as client:
        yield client


async def ask(client: AsyncOpenAI, **options: Any) -> Any:
    """A plain call."""
    return await client.chat.completions.create(**{"model": MODEL, "messages": HI, **options})


async def stream(client: AsyncOpenAI, **options: Any) -> list[Any]:
    """A stream's chunks."""
    return [chunk async for chunk in await ask(client, stream=True, **options)]


# What is asked ------------------------------------------------------------------------------------------


async def test_a_plain_call(house: House, claude: Claude, client: AsyncOpenAI) -> None:
    got = await ask(client, max_tokens=100, stop=["END"], temperature=0.5)
    assert (got.choices[0].message.content, got.choices[0].finish_reason) == ("hello there", "stop")
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (10, 5, 15)
    asked = claude.asked[0]
    assert (asked.path, asked.headers["x-api-key"], asked.headers["anthropic-version"]) == (
        "/v1/messages",
        KEY,
        "2023-06-01",
    )
    assert (asked.body["max_tokens"], asked.body["stop_sequences"], asked.body["temperature"]) == (100, ["END"], 0.5)
    record = await house.record()
    assert (record.charge_microcredits, record.endpoint, record.estimated) == (FARE, "chat.completions", False)


async def test_what_the_users_sends_beside_does_not_go_along(claude: Claude, client: AsyncOpenAI) -> None:
    await ask(client, user="me@example.org", seed=7, store=True, metadata={"a": "b"}, n=1, presence_penalty=0)
    assert claude.asked[0].body.keys() == {"model", "messages", "max_tokens"}


async def test_a_conversation_with_pictures_and_tools(claude: Claude, client: AsyncOpenAI) -> None:
    call = {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Köln"}'}}
    look = [{"type": "image_url", "image_url": {"url": url}} for url in (PICTURE, "https://example.org/a.png")]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Look:"}, *look]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "rain"},
    ]
    await ask(client, messages=messages, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
    asked = claude.asked[0].body
    assert asked["system"] == [{"type": "text", "text": "Be brief."}]
    assert [part.get("source", {}).get("type") for part in asked["messages"][0]["content"]] == [None, "base64", "url"]
    assert asked["messages"][1]["content"] == [
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln"}}
    ]
    assert asked["messages"][2]["content"][0]["tool_use_id"] == "toolu_1"
    assert asked["tools"][0]["input_schema"] == WEATHER["function"]["parameters"]
    assert asked["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}


async def test_a_schema(claude: Claude, client: AsyncOpenAI) -> None:
    class City(BaseModel):
        name: str

    claude.turn = Turn(content=[{"type": "text", "text": '{"name":"Köln"}'}])
    got = await client.chat.completions.parse(model=MODEL, messages=HI, response_format=City)
    assert got.choices[0].message.parsed == City(name="Köln")
    schema = claude.asked[0].body["output_format"]["schema"]
    assert schema["properties"]["name"]["type"] == "string"
    assert "structured-outputs" in claude.asked[0].headers["anthropic-beta"]


async def test_a_schema_of_a_model_that_knows_only_tools(claude: Claude, client: AsyncOpenAI) -> None:
    schema: Any = {"type": "object", "properties": {"name": {"type": "string"}}}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    answer = {"type": "tool_use", "id": "t", "name": "json_tool_call", "input": {"name": "Köln"}}
    claude.turn = Turn(content=[answer], stop_reason="tool_use")
    old = {"model": "up/claude-3-5-sonnet-20241022", "response_format": wanted}
    plain = await ask(client, **old)
    chunks = await stream(client, **old)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert [json.loads(text) for text in (plain.choices[0].message.content, streamed)] == [{"name": "Köln"}] * 2
    assert plain.choices[0].finish_reason == "stop"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_effort_becomes_thinking_below_the_bound(claude: Claude, client: AsyncOpenAI) -> None:
    await ask(client, reasoning_effort="high", max_completion_tokens=3000)
    asked = claude.asked[0].body
    assert asked["thinking"] == {"type": "enabled", "budget_tokens": 1500}
    await ask(client, reasoning_effort="high", max_completion_tokens=500)
    assert "thinking" not in claude.asked[1].body


# What is answered ---------------------------------------------------------------------------------------


async def test_parallel_tools(claude: Claude, client: AsyncOpenAI) -> None:
    claude.turn = Turn(content=CALLS, stop_reason="tool_use")
    got = await ask(client, tools=[WEATHER])
    choice = got.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Let me look.", "tool_calls")
    assert [(call.id, call.function.name) for call in choice.message.tool_calls] == [
        ("toolu_1", "weather"),
        ("toolu_2", "weather"),
    ]


async def test_parallel_tools_in_a_stream(house: House, claude: Claude, client: AsyncOpenAI) -> None:
    claude.turn = Turn(content=CALLS, stop_reason="tool_use")
    async with client.chat.completions.stream(model=MODEL, messages=HI, tools=[WEATHER]) as events:
        final = await events.get_final_completion()
    message = final.choices[0].message
    assert (message.content, final.choices[0].finish_reason) == ("Let me look. ", "tool_calls")
    assert message.tool_calls is not None
    assert [call.function.arguments for call in message.tool_calls] == ['{"city":"Köln\u2028 am Rhein"}', "{}"]
    assert (await house.record()).charge_microcredits == FARE


async def test_thinking_goes_round(claude: Claude, client: AsyncOpenAI) -> None:
    claude.turn = Turn(content=THOUGHTS)
    got = await ask(client, reasoning_effort="low", max_tokens=4000)
    message = got.choices[0].message
    assert message.reasoning_content == "two and two"
    back = {"role": "assistant", "content": message.content, "thinking_blocks": message.thinking_blocks}
    await ask(client, messages=[*HI, back, *HI], reasoning_effort="low", max_tokens=4000)
    assert claude.asked[1].body["messages"][1]["content"] == list(THOUGHTS)


async def test_thinking_in_a_stream(claude: Claude, client: AsyncOpenAI) -> None:
    claude.turn = Turn(content=THOUGHTS)
    deltas = [chunk.choices[0].delta for chunk in await stream(client, reasoning_effort="low", max_tokens=4000)]
    blocks = [block for delta in deltas for block in getattr(delta, "thinking_blocks", None) or ()]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "two and two"
    assert [block["signature"] for block in blocks if block.get("signature")] == ["c2lnbmF0dXJl"]


@pytest.mark.parametrize("include_usage", [True, False])
async def test_usage_and_cost_of_a_stream(
    house: House, claude: Claude, client: AsyncOpenAI, include_usage: bool
) -> None:
    claude.turn = Turn(usage=CACHED)
    options: Any = {"stream_options": {"include_usage": True}} if include_usage else {}
    chunks = await stream(client, **options)
    used = [chunk.usage for chunk in chunks if chunk.usage is not None]
    if include_usage:
        (usage,) = used
        assert chunks[-1].choices == []
        assert (usage.prompt_tokens, usage.completion_tokens) == (2800, 50)
        assert usage.prompt_tokens_details.cached_tokens == 2000
        assert usage.prompt_tokens_details.cache_creation_tokens == 700
    else:
        assert used == []
    charge = 100 * 3000 + 2000 * 300 + 300 * 3750 + 400 * 6000 + 50 * 15000
    assert (await house.record()).charge_microcredits == charge


async def test_the_cost_is_in_the_usage_chunk(claude: Claude, client: AsyncOpenAI) -> None:
    chunks = await stream(client, extra_headers={"x-faregate-include-cost": "true"})
    extra = chunks[-1].usage.model_extra
    assert (Decimal(str(extra["cost_usd"])), extra["credits"]) == (Decimal("0.000105"), 0.105)


@pytest.mark.parametrize(
    ("told", "said"),
    [("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("refusal", "content_filter")],
)
async def test_why_it_ended(claude: Claude, client: AsyncOpenAI, told: str, said: str) -> None:
    claude.turn = Turn(stop_reason=told)
    assert (await ask(client)).choices[0].finish_reason == said
    assert (await stream(client))[-1].choices[0].finish_reason == said


async def test_done_comes_after_the_charge(house: House, claude: Claude) -> None:
    async with house.streaming(MODEL) as got:
        lines = [line async for line in got.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert got.headers["content-type"].startswith("text/event-stream")
    assert len(await house.records()) == 1


# What goes wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"messages": []}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y"}}]}]},
            None,
        ),
    ],
)
async def test_what_cannot_be_said_is_refused_by_name(
    house: House, claude: Claude, client: AsyncOpenAI, options: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(client, **options)
    assert caught.value.param == (param or "messages[0].content")
    assert claude.asked == []
    await house.settled()
    assert await house.balance() == 1000 * CREDIT


async def test_a_refusal_of_the_providers_is_in_openais_shape(claude: Claude, client: AsyncOpenAI) -> None:
    claude.turn = Turn(status=400, error=("invalid_request_error", f"bad {KEY}"))
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(client, stream=True)
    assert caught.value.body == {
        "message": "bad [redacted]",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_request_error",
    }


async def test_a_key_at_the_end_of_a_long_refusal_is_taken_out_whole(claude: Claude, client: AsyncOpenAI) -> None:
    claude.turn = Turn(status=400, error=("invalid_request_error", "x" * 990 + KEY))
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(client)
    assert caught.value.body is not None
    assert KEY[:8] not in str(caught.value.body)


async def test_an_error_event_is_an_error(house: House, claude: Claude, client: AsyncOpenAI) -> None:
    claude.turn = Turn(fault="error_event", error=("overloaded_error", "too busy"))
    with pytest.raises(openai.APIError, match="too busy"):
        await stream(client)
    assert (await house.record()).outcome == "upstream_error"


async def test_a_stream_that_is_cut_is_an_error(house: House, claude: Claude, client: AsyncOpenAI) -> None:
    claude.turn = Turn(fault="cut")
    with pytest.raises(openai.APIError, match=r"broke off|reset|ended before"):
        await stream(client)
    await house.settled()


async def test_a_failure_is_not_charged(house: House, claude: Claude, client: AsyncOpenAI) -> None:
    claude.turns = [Turn(status=529, error=("overloaded_error", "busy"))]
    with pytest.raises(openai.InternalServerError):
        await ask(client)
    assert (await ask(client)).choices[0].message.content == "hello there"
    assert (await house.record()).charge_microcredits == FARE


async def test_an_answer_that_makes_no_sense_is_a_502(house: House, claude: Claude, client: AsyncOpenAI) -> None:
    claude.turn = Turn(content=[{"type": "text"}])
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(client)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")
    await house.settled()


async def test_another_language_takes_over(open_house: Open, claude: Claude) -> None:
    """Fallbacks cross the languages, both ways; the charge is that of the one that answered."""
    up = {"kind": "anthropic", "base_url": claude.url, "api_key": KEY}
    prices = '- {provider: "*", model: "*", per_million: {input: 1, output: 2}, max_output_tokens: 1000}'
    models = {"smart": ["up/claude-sonnet-4-5", "bare/m"], "fast": ["bare/broken", "up/claude-sonnet-4-5"]}
    house = await open_house(providers__up=up, prices=prices, models=models)
    claude.turns = [Turn(status=529, error=("overloaded_error", "busy"))]
    async with AsyncOpenAI(base_url=house.url + "/v1", api_key=house.me.secret, max_retries=0) as client:
        smart = await client.chat.completions.create(model="smart", messages=HI, max_tokens=50)
        fast = await client.chat.completions.create(model="fast", messages=HI, max_tokens=50)
    assert (smart.choices[0].message.content, fast.choices[0].message.content) == (" word" * 5, "hello there")
    await house.settled()
    assert [record.provider_kind for record in await house.records()] == ["anthropic", "openai"]
    assert await house.balance() == 1000 * CREDIT - 2 * (10 + 2 * 5) * 1000
