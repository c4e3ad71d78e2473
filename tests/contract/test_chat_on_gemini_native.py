"""The real OpenAI SDK in front of Gemini, translated to Gemini's own wire: what its OpenAI endpoint would lose."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.contract.test_google_sdk import MODEL, M, opened
from tests.story.conftest import Open
from tests.story.house import House, events
from tests.upstreams.google import Google, answer, part_of, refused, usage

SOUND = b64encode(b"\0" * 900).decode()
HEAR: Any = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "what is said?"},
            {"type": "input_audio", "input_audio": {"data": SOUND, "format": "wav"}},
        ],
    },
]
DETAILS = [{"modality": "TEXT", "tokenCount": 10}, {"modality": "AUDIO", "tokenCount": 90}]
USED = usage(100, 5, 20, promptTokensDetails=DETAILS)
PAID = 10 * M * 30 / 100 + 90 * M + 25 * M * 250 / 100


@pytest.fixture
async def google() -> AsyncIterator[Google]:
    async with Google(answer("hi", used=USED)) as google:
        yield google


@pytest.fixture
async def house(open_house: Open, google: Google) -> House:
    return await opened(open_house, google)


@pytest.fixture
async def client(house: House) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=house.url + "/v1", api_key=house.me.secret, max_retries=0) as client:
        yield client


async def test_sound_is_heard_and_priced_as_sound(house: House, google: Google, client: AsyncOpenAI) -> None:
    got = await client.chat.completions.create(model=MODEL, messages=HEAR, max_tokens=300, seed=7)
    assert got.choices[0].message.content == "hi"
    assert got.usage is not None
    assert got.usage.prompt_tokens_details is not None
    assert got.usage.completion_tokens_details is not None
    assert (got.usage.prompt_tokens, got.usage.prompt_tokens_details.audio_tokens) == (100, 90)
    assert (got.usage.completion_tokens, got.usage.completion_tokens_details.reasoning_tokens) == (25, 20)
    assert (await house.record()).cost_usd == PAID
    asked = google.requests[0]
    assert asked.path == "/v1beta/models/gemini-2.5-flash:generateContent"
    assert asked.json["generationConfig"] == {"max_output_tokens": 300, "seed": 7}
    assert asked.json["system_instruction"]["parts"] == [{"text": "Be brief."}]
    assert asked.json["contents"][0]["parts"][1]["inline_data"] == {"data": SOUND, "mime_type": "audio/wav"}


@pytest.mark.parametrize("cut", [None, 1, 7])
async def test_a_stream(house: House, google: Google, client: AsyncOpenAI, cut: int | None) -> None:
    google.cut = cut
    thought = {"text": "hm", "thought": True}
    google.said = [part_of(thought, {"text": "a"}, finish=None, used=usage(100, 1)), answer("b", used=USED)]
    options: Any = {"include_usage": True}
    stream = await client.chat.completions.create(model=MODEL, messages=HEAR, stream=True, stream_options=options)
    *chunks, last = [part async for part in stream]
    assert "".join(part.choices[0].delta.content or "" for part in chunks) == "ab"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage is not None
    assert (last.usage.completion_tokens, last.usage.total_tokens) == (25, 125)
    assert google.requests[0].path.endswith(":streamGenerateContent?alt=sse")
    assert (await house.record()).cost_usd == PAID


async def test_a_search_pays_its_fee(house: House, google: Google, client: AsyncOpenAI) -> None:
    said = answer("found", used=usage(10, 5))
    said["candidates"][0]["groundingMetadata"] = {"webSearchQueries": ["a"]}
    google.said = said
    await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "news?"}], web_search_options={}
    )
    assert google.requests[0].json["tools"] == [{"googleSearch": {}}]
    assert (await house.record()).cost_usd == 10 * M * 30 / 100 + 5 * M * 250 / 100 + Decimal("0.035")


@pytest.mark.parametrize("stream", [False, True])
async def test_parallel_tools_go_there_and_come_back(house: House, google: Google, stream: bool) -> None:
    calls = [{"functionCall": {"name": f"f{n}", "args": {"x": n}}} for n in range(2)]
    google.said = (
        [part_of(call, finish="STOP" if n else None) for n, call in enumerate(calls)] if stream else part_of(*calls)
    )
    function = {"name": "f0", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
    body = {"model": MODEL, "messages": HEAR, "tools": [{"type": "function", "function": function}], "stream": stream}
    got = await house.http.post("/v1/chat/completions", json=body)
    if stream:
        choices = [event["choices"][0] for event in events(got.content) if isinstance(event, dict)]
        told = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
        assert [call["index"] for call in told] == [0, 1]
    else:
        choices = got.json()["choices"]
        told = choices[0]["message"]["tool_calls"]
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in told] == [
        ("f0", '{"x": 0}'),
        ("f1", '{"x": 1}'),
    ]
    assert choices[-1]["finish_reason"] == "tool_calls"
    assert google.requests[0].json["tools"][0]["function_declarations"][0]["name"] == "f0"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_blocked_prompt_is_an_answer_without_words(house: House, google: Google, stream: bool) -> None:
    google.said = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 10}}
    got = await house.http.post("/v1/chat/completions", json={"model": MODEL, "messages": HEAR, "stream": stream})
    assert got.status_code == 200
    choices = [e["choices"][0] for e in events(got.content) if isinstance(e, dict)] if stream else got.json()["choices"]
    assert choices[-1]["finish_reason"] == "content_filter"
    assert (await house.record()).cost_usd == 10 * M * 30 / 100


@pytest.mark.parametrize("stream", [False, True])
async def test_pictures_come_out_and_are_priced_as_pictures(house: House, google: Google, stream: bool) -> None:
    details = [{"modality": "IMAGE", "tokenCount": 1290}]
    picture = {"inlineData": {"mimeType": "image/png", "data": "aGk="}}
    google.said = part_of({"text": "here"}, picture, used=usage(10, 1290, candidatesTokensDetails=details))
    body = {"model": MODEL, "messages": [*HEAR[:1], {"role": "user", "content": "draw"}], "stream": stream}
    got = await house.http.post("/v1/chat/completions", json={**body, "modalities": ["text", "image"]})
    said = got.json()["choices"] if not stream else [e["choices"][0] for e in events(got.content) if e != "[DONE]"]
    images = [image for choice in said for image in choice["delta" if stream else "message"].get("images", ())]
    assert [image["image_url"]["url"] for image in images] == ["data:image/png;base64,aGk="]
    assert google.requests[0].json["generationConfig"]["responseModalities"] == ["TEXT", "IMAGE"]
    assert (await house.record()).cost_usd == 10 * M * 30 / 100 + 1290 * M * 30


async def test_logprobs_are_told(house: House, google: Google, client: AsyncOpenAI) -> None:
    said = answer("hi", used=usage(10, 1))
    chosen = {"token": "hi", "logProbability": -0.5}
    said["candidates"][0]["logprobsResult"] = {
        "chosenCandidates": [chosen],
        "topCandidates": [{"candidates": [chosen]}],
    }
    google.said = said
    got = await client.chat.completions.create(model=MODEL, messages=HEAR, logprobs=True)
    told = got.choices[0].logprobs
    assert told is not None
    assert [(each.token, each.logprob) for each in told.content or ()] == [("hi", -0.5)]


async def test_a_refusal_comes_in_openais_shape(house: House, google: Google, client: AsyncOpenAI) -> None:
    google.status, google.refusal = 400, refused(400, "INVALID_ARGUMENT", "no such voice of projects/operator")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=HEAR, stream=True)
    assert "no such voice of [redacted]" in str(caught.value)
    await house.settled()
    assert await house.records() == []


async def test_an_error_in_mid_stream_is_one(house: House, google: Google, client: AsyncOpenAI) -> None:
    google.said = [answer("a", finish=None, used=usage(100, 1)), {"error": {"code": 503, "message": "overloaded"}}]
    with pytest.raises(openai.APIError, match="overloaded"):
        async for _ in await client.chat.completions.create(model=MODEL, messages=HEAR, stream=True):
            pass
    assert (await house.record()).outcome == "upstream_error"


async def test_a_low_balance_lowers_the_bound(house: House, google: Google) -> None:
    poor = await house.caller(balance=1_500_000)
    got = await house.call(MODEL, by=poor, seed=1)
    cap = int(got.headers["x-faregate-output-cap"])
    assert google.requests[0].json["generationConfig"]["max_output_tokens"] == cap


@pytest.mark.parametrize(
    ("more", "param"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]}]},
            "messages[0].content",
        ),
        (
            {"seed": 1, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://in/x"}]}]},
            "messages[0].content",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "messages[0].content"),
        (
            {
                "seed": 1,
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": "data:image/png;base64,gs://in/x"}]}
                ],
            },
            "messages[0].content",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "input_audio", "input_audio": {"data": "gs://in/x", "format": "wav"}}],
                    }
                ]
            },
            "messages[0].content",
        ),
        ({"stream": True, "n": 2, "seed": 1}, "n"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
    ],
)
async def test_what_cannot_be_said_is_refused_by_name(
    house: House, google: Google, more: dict[str, Any], param: str
) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **more}
    got = await house.http.post("/v1/chat/completions", json=body)
    assert (got.status_code, got.json()["error"]["param"]) == (400, param)
    assert google.requests == []
    await house.settled()
