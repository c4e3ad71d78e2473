"""The real OpenAI SDK in front of Bedrock's Converse: frames on the wire, chat completions at the door."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.story.conftest import Open
from tests.story.house import INPUT, OUTPUT, House
from tests.upstreams.bedrock import (
    ACCESS_KEY,
    API_KEY,
    REGION,
    SECRET_KEY,
    SESSION_TOKEN,
    Bedrock,
    Reply,
    event,
    exception,
    plain,
    refusal,
    stream,
)

CLAUDE = "global.anthropic.claude-sonnet-4-20250514-v1:0"
ARN = f"arn:aws:bedrock:{REGION}:123456789012:inference-profile/{CLAUDE}"
HI: Any = [{"role": "user", "content": "hi"}]
USAGE = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}
PRICES = """
- {provider: aws, model: "*", per_million: {input: 1, output: 2, cached_input: 0.1, cache_write_5m: 1.25}}
- {provider: up, model: "*", per_million: {input: 1, output: 2}}
"""


def answered(*content: object, stop: str = "end_turn", usage: object = USAGE) -> Reply:
    message = {"role": "assistant", "content": list(content)}
    return plain({"output": {"message": message}, "stopReason": stop, "usage": usage, "metrics": {"latencyMs": 7}})


def told(*words: str, stop: str = "end_turn", usage: object = USAGE) -> Reply:
    return stream(
        event("messageStart", role="assistant"),
        *[event("contentBlockDelta", contentBlockIndex=0, delta={"text": word}) for word in words],
        event("contentBlockStop", contentBlockIndex=0),
        event("messageStop", stopReason=stop),
        event("metadata", usage=usage, metrics={"latencyMs": 7}),
    )


@pytest.fixture
async def aws() -> AsyncIterator[Bedrock]:
    async with Bedrock() as aws:
        yield aws


@pytest.fixture
async def house(open_house: Open, aws: Bedrock) -> House:
    return await open_house(providers__aws=configured(aws, api_key=API_KEY), prices=PRICES)


def configured(aws: Bedrock, **more: object) -> dict[str, object]:
    return {"kind": "bedrock", "base_url": aws.url, "region": REGION, "api_key": "", **more}


@pytest.fixture
async def client(house: House) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=house.url + "/v1", api_key=house.me.secret, max_retries=0) as client:
        yield client


async def test_a_plain_call(house: House, client: AsyncOpenAI, aws: Bedrock) -> None:
    aws.replies = [answered({"text": "hello"})]
    got = await client.chat.completions.create(
        model=f"aws/{CLAUDE}",
        messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        max_completion_tokens=50,
        stop=["END"],
        temperature=0.5,
    )
    assert (got.choices[0].message.content, got.choices[0].finish_reason) == ("hello", "stop")
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (10, 5)
    assert aws.last.path == "/model/global.anthropic.claude-sonnet-4-20250514-v1%3A0/converse"
    assert aws.last.body["messages"] == [{"role": "user", "content": [{"text": "hi"}]}]
    assert aws.last.body["system"] == [{"text": "be brief"}]
    assert aws.last.body["inferenceConfig"] == {"maxTokens": 50, "stopSequences": ["END"], "temperature": 0.5}
    assert (await house.record()).charge_microcredits == 10 * INPUT + 5 * OUTPUT


async def test_a_stream(house: House, client: AsyncOpenAI, aws: Bedrock) -> None:
    aws.replies = [told("hel", "lo")]
    chunks = [c async for c in await client.chat.completions.create(model=f"aws/{CLAUDE}", messages=HI, stream=True)]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "hello"
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
    assert all(c.usage is None for c in chunks)
    assert aws.last.operation == "converse-stream"
    assert (await house.record()).charge_microcredits == 10 * INPUT + 5 * OUTPUT


async def test_a_stream_with_usage_and_caches(client: AsyncOpenAI, aws: Bedrock) -> None:
    aws.replies = [told("hi", usage={**USAGE, "cacheReadInputTokens": 100, "cacheWriteInputTokens": 20})]
    stream = await client.chat.completions.create(
        model=f"aws/{CLAUDE}", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    last = [chunk async for chunk in stream][-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.prompt_tokens == 130
    assert last.usage.prompt_tokens_details is not None
    assert last.usage.prompt_tokens_details.cached_tokens == 100


async def test_the_cost_is_in_the_usage_of_a_stream(house: House, aws: Bedrock) -> None:
    aws.replies = [told("hi")]
    got = await house.stream(f"aws/{CLAUDE}", headers={"x-faregate-include-cost": "true"})
    usage = json.loads(got.split(b"data: ")[-2])["usage"]
    assert (usage["cost_usd"], usage["credits"]) == (0.00002, 0.02)


TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


async def test_tools_and_their_results(client: AsyncOpenAI, aws: Bedrock) -> None:
    uses = [{"toolUse": {"toolUseId": f"t{n}", "name": "weather", "input": {"city": c}}} for n, c in enumerate("ab")]
    aws.replies = [answered(*uses, stop="tool_use")]
    got = await client.chat.completions.create(model=f"aws/{CLAUDE}", messages=HI, tools=TOOLS, tool_choice="auto")
    calls = got.choices[0].message.tool_calls or []
    assert [(c.id, json.loads(c.function.arguments)["city"]) for c in calls if c.type == "function"] == [
        ("t0", "a"),
        ("t1", "b"),
    ]
    assert got.choices[0].finish_reason == "tool_calls"
    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": f"{call.id}: sun"} for call in calls]
    said: Any = got.choices[0].message.model_dump(exclude_none=True)
    aws.replies = [answered({"text": "sun"})]
    await client.chat.completions.create(model=f"aws/{CLAUDE}", messages=[*HI, said, *results], tools=TOOLS)
    sent = aws.last.body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert [block["toolResult"]["toolUseId"] for block in sent[2]["content"]] == ["t0", "t1"]
    assert aws.last.body["toolConfig"]["tools"][0]["toolSpec"]["name"] == "weather"


async def test_arguments_of_parallel_calls_come_in_pieces(client: AsyncOpenAI, aws: Bedrock) -> None:
    frames = [event("messageStart", role="assistant")]
    for index in (0, 1):
        use = {"toolUse": {"toolUseId": f"t{index}", "name": "weather"}}
        frames.append(event("contentBlockStart", contentBlockIndex=index, start=use))
        frames += [
            event("contentBlockDelta", contentBlockIndex=index, delta={"toolUse": {"input": piece}})
            for piece in ('{"city": ', f'"{index}"}}')
        ]
        frames.append(event("contentBlockStop", contentBlockIndex=index))
    aws.replies = [stream(*frames, event("messageStop", stopReason="tool_use"), event("metadata", usage=USAGE))]
    calls: dict[int, list[str]] = {}
    async for got in await client.chat.completions.create(model=f"aws/{CLAUDE}", messages=HI, tools=TOOLS, stream=True):
        for call in got.choices[0].delta.tool_calls or []:
            assert call.function is not None
            calls.setdefault(call.index, []).append(call.function.arguments or "")
        finish = got.choices[0].finish_reason
    assert {index: json.loads("".join(pieces)) for index, pieces in calls.items()} == {
        0: {"city": "0"},
        1: {"city": "1"},
    }
    assert finish == "tool_calls"


async def test_a_schema(client: AsyncOpenAI, aws: Bedrock) -> None:
    schema: Any = {
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
    use = {"toolUse": {"toolUseId": "t", "name": "json_tool_call", "input": {"a": 1}}}
    aws.replies = [answered(use, stop="tool_use")]
    got = await client.chat.completions.create(model=f"aws/{CLAUDE}", messages=HI, response_format=schema)
    assert json.loads(got.choices[0].message.content or "") == {"a": 1}
    assert (got.choices[0].finish_reason, got.choices[0].message.tool_calls) == ("stop", None)


async def test_a_schema_in_a_stream(client: AsyncOpenAI, aws: Bedrock) -> None:
    schema: Any = {
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
    aws.replies = [
        stream(
            event("messageStart", role="assistant"),
            event(
                "contentBlockStart",
                contentBlockIndex=0,
                start={"toolUse": {"toolUseId": "t", "name": "json_tool_call"}},
            ),
            event("contentBlockDelta", contentBlockIndex=0, delta={"toolUse": {"input": '{"a": 1}'}}),
            event("contentBlockStop", contentBlockIndex=0),
            event("messageStop", stopReason="tool_use"),
            event("metadata", usage=USAGE),
        )
    ]
    made = await client.chat.completions.create(model=f"aws/{CLAUDE}", messages=HI, response_format=schema, stream=True)
    chunks = [chunk async for chunk in made]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == '{"a": 1}'
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_thinking(client: AsyncOpenAI, aws: Bedrock) -> None:
    thought = {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}}
    aws.replies = [answered(thought, {"text": "ok"})]
    got = await client.chat.completions.create(
        model=f"aws/{CLAUDE}", messages=HI, reasoning_effort="low", max_completion_tokens=4000
    )
    assert aws.last.body["additionalModelRequestFields"]["thinking"]["type"] == "enabled"
    assert (got.choices[0].message.content, got.choices[0].message.model_extra) == (
        "ok",
        {
            "reasoning_content": "hm",
            "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "sig"}],
        },
    )


async def test_a_picture(client: AsyncOpenAI, aws: Bedrock) -> None:
    aws.replies = [answered({"text": "a dot"})]
    picture: Any = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]
    await client.chat.completions.create(model=f"aws/{CLAUDE}", messages=[{"role": "user", "content": picture}])
    (block,) = aws.last.body["messages"][0]["content"]
    assert block["image"] == {"format": "png", "source": {"bytes": "aGk="}}


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "image_url", "image_url": {"url": "https://127.0.0.1/x.png"}}, "data: URLs only"),
        ({"type": "file", "file": {"file_data": "https://127.0.0.1/x.pdf"}}, "file_data"),
        ({"type": "video_url", "video_url": {"url": "https://127.0.0.1/x.mp4"}}, "are of type"),
    ],
)
async def test_nothing_is_fetched(client: AsyncOpenAI, aws: Bedrock, part: Any, said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        await client.chat.completions.create(model=f"aws/{CLAUDE}", messages=[{"role": "user", "content": [part]}])
    assert aws.asked == []


async def test_what_a_guardrail_stopped(client: AsyncOpenAI, aws: Bedrock) -> None:
    aws.replies = [answered({"text": "no"}, stop="guardrail_intervened")]
    config = {"guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1"}}
    got = await client.chat.completions.create(model=f"aws/{CLAUDE}", messages=HI, extra_body=config)
    assert got.choices[0].finish_reason == "content_filter"
    assert aws.last.body["guardrailConfig"] == config["guardrailConfig"]


# What goes wrong ----------------------------------------------------------------------------------------


async def test_a_refusal_is_in_openais_shape_without_account_numbers(client: AsyncOpenAI, aws: Bedrock) -> None:
    aws.replies = [refusal(400, "ValidationException", f"no such thing: {ARN}")]
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=f"aws/{CLAUDE}", messages=HI)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"] == "ValidationException"
    assert "123456789012" not in caught.value.body["message"]


async def test_throttling_is_tried_again(open_house: Open, aws: Bedrock) -> None:
    house = await open_house(providers__aws=configured(aws, api_key=API_KEY, retries=1), prices=PRICES)
    aws.replies = [refusal(429, "ThrottlingException", "slow down"), answered({"text": "hello"})]
    got = await house.call(f"aws/{CLAUDE}")
    assert got.json()["choices"][0]["message"]["content"] == "hello"
    assert len(aws.asked) == 2
    assert (await house.record()).charge_microcredits == 10 * INPUT + 5 * OUTPUT


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (400, "ServiceQuotaExceededException", 429),
        (424, "ModelErrorException", 502),
        (408, "ModelTimeoutException", 502),
        (403, "AccessDeniedException", 502),
        (404, "ResourceNotFoundException", 404),
    ],
)
async def test_the_class_decides(house: House, aws: Bedrock, status: int, kind: str, said: int) -> None:
    aws.replies = [refusal(status, kind, "no")]
    assert (await house.call(f"aws/{CLAUDE}")).status_code == said
    await house.settled()
    assert await house.balance() == 1000 * 1_000_000


async def test_an_exception_in_a_stream_is_an_error_and_charged_for_what_came(house: House, aws: Bedrock) -> None:
    word = event("contentBlockDelta", contentBlockIndex=0, delta={"text": "hello world"})
    aws.replies = [stream(event("messageStart", role="assistant"), word, exception("throttlingException", "slow"))]
    got = await house.stream(f"aws/{CLAUDE}")
    assert json.loads(got.split(b"data: ")[-1])["error"]["code"] == "ThrottlingException"
    assert b"[DONE]" not in got
    record = await house.record()
    assert (record.outcome, record.estimated) == ("upstream_error", True)


async def test_a_cut_stream_does_not_look_finished(house: House, aws: Bedrock) -> None:
    word = event("contentBlockDelta", contentBlockIndex=0, delta={"text": "hello world"})
    aws.replies = [stream(event("messageStart", role="assistant"), word, word[:20], cut=True)]
    got = await house.stream(f"aws/{CLAUDE}")
    assert b'"hello world"' in got
    assert b"[DONE]" not in got
    assert (await house.record()).estimated


# Where, and who -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [CLAUDE, ARN])
@pytest.mark.parametrize("token", ["", SESSION_TOKEN])
async def test_requests_are_signed(open_house: Open, aws: Bedrock, model: str, token: str) -> None:
    keys = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY, "session_token": token}
    house = await open_house(providers__aws=configured(aws, **keys), prices=PRICES)
    aws.replies = [answered({"text": "hello"})]
    got = await house.call(f"aws/{model}")
    assert got.status_code == 200, got.text
    assert (aws.last.signed, aws.last.model) == (True, model)


async def test_the_balance_bounds_the_output(house: House, aws: Bedrock) -> None:
    aws.replies = [answered({"text": "hello"})]
    poor = await house.caller(2_000_000)
    got = await house.call(f"aws/{CLAUDE}", by=poor, max_tokens=100_000)
    assert got.status_code == 200, got.text
    assert aws.last.body["inferenceConfig"]["maxTokens"] == int(got.headers["x-faregate-output-cap"]) < 1000


async def test_openais_models_keep_their_own_wire(house: House, aws: Bedrock) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    aws.replies = [plain({"object": "chat.completion", "choices": [choice], "usage": usage})]
    got = await house.call("aws/openai.gpt-oss-120b-1:0")
    assert got.json()["choices"] == [choice]
    assert (aws.last.path, aws.last.body["model"]) == ("/openai/v1/chat/completions", "openai.gpt-oss-120b-1:0")
    assert (await house.record()).charge_microcredits == 10 * INPUT + 5 * OUTPUT
