"""The real OpenAI SDK in front of Gemini models, by Google's OpenAI endpoint: mended, metered, priced."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import openai
import orjson
import pytest
from openai import AsyncOpenAI

from tests.contract.test_google_sdk import MODEL, M, opened
from tests.story.conftest import Open
from tests.story.house import House, events
from tests.upstreams.google import Google
from tests.upstreams.wire import sse

HI: Any = [{"role": "user", "content": "hi"}]
DONE = b"data: [DONE]\n\n"
USED = {"prompt_tokens": 3, "completion_tokens": 18, "total_tokens": 671, "prompt_tokens_details": {"cached_tokens": 1}}
PAID = 2 * M * 30 / 100 + M * 3 / 100 + 668 * M * 250 / 100
SIGNED = {"google": {"thought_signature": "c2ln"}}


def chunk(delta: dict[str, Any], finish: str | None = None, used: object = None) -> bytes:
    choice = {"delta": {"role": "assistant", **delta}, "index": 0, **({"finish_reason": finish} if finish else {})}
    head = {"choices": [choice], "created": 1, "id": "g1", "model": "gemini-2.5-flash"}
    return sse({**head, "object": "chat.completion.chunk", "usage": used or {"prompt_tokens": 3, "total_tokens": 9}})


def whole(message: dict[str, Any], finish: str = "stop", **more: Any) -> bytes:
    choice = {"finish_reason": finish, "index": 0, "message": {"role": "assistant", **message}}
    head = {"choices": [choice], "created": 1, "id": "g1", "model": "gemini-2.5-flash", "object": "chat.completion"}
    return orjson.dumps({**head, "usage": USED, **more})


def function(name: str, arguments: str, **more: Any) -> dict[str, Any]:
    return {"id": f"id-{name}", "type": "function", "function": {"name": name, "arguments": arguments}, **more}


STREAM = [
    chunk({"content": "a"}),
    chunk({"content": "b"}, used={**USED, "completion_tokens": 9}),
    chunk({}, "stop", USED),
]


@pytest.fixture
async def google() -> AsyncIterator[Google]:
    async with Google(compat=[*STREAM, DONE]) as google:
        yield google


@pytest.fixture
async def house(open_house: Open, google: Google) -> House:
    return await opened(open_house, google)


@pytest.fixture
async def client(house: House) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=house.url + "/v1", api_key=house.me.secret, max_retries=0) as client:
        yield client


async def test_a_plain_call_shows_its_thoughts(house: House, google: Google, client: AsyncOpenAI) -> None:
    google.compat = [whole({"content": "hi"})]
    got = await client.chat.completions.create(model=MODEL, messages=HI, max_completion_tokens=900, user="u", seed=None)
    assert got.choices[0].message.content == "hi"
    assert got.usage is not None
    assert got.usage.completion_tokens_details is not None
    assert (got.usage.completion_tokens, got.usage.completion_tokens_details.reasoning_tokens) == (668, 650)
    assert (got.usage.prompt_tokens, got.usage.total_tokens) == (3, 671)
    record = await house.record()
    assert (record.cost_usd, record.usage["reasoning_tokens"], record.endpoint) == (PAID, 650, "chat.completions")
    asked = google.requests[0]
    assert (asked.path, asked.headers["authorization"]) == (
        "/v1beta/openai/chat/completions",
        "Bearer AIzaOperatorsOwn0123456789",
    )
    assert "x-goog-api-key" not in asked.headers
    assert asked.json == {"model": "gemini-2.5-flash", "messages": HI, "max_tokens": 900}


@pytest.mark.parametrize("cut", [None, 1, 7])
async def test_a_stream_has_usage_only_for_who_asks_and_only_once(
    house: House, google: Google, client: AsyncOpenAI, cut: int | None
) -> None:
    google.cut = cut
    stream = await client.chat.completions.create(model=MODEL, messages=HI, stream=True)
    chunks = [part async for part in stream]
    assert "".join(part.choices[0].delta.content or "" for part in chunks) == "ab"
    assert [part.usage for part in chunks] == [None] * 3
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert (await house.record()).cost_usd == PAID


async def test_a_stream_with_usage(house: House, client: AsyncOpenAI) -> None:
    options: Any = {"include_usage": True}
    stream = await client.chat.completions.create(model=MODEL, messages=HI, stream=True, stream_options=options)
    *before, last = [part async for part in stream]
    assert [part.usage for part in before] == [None] * 3
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens_details is not None
    assert (last.usage.completion_tokens, last.usage.completion_tokens_details.reasoning_tokens) == (668, 650)
    assert (await house.record()).cost_usd == PAID


async def test_a_client_that_wants_its_cost_finds_it(house: House) -> None:
    body = {"model": MODEL, "messages": HI, "stream": True}
    got = await house.http.post("/v1/chat/completions", json=body, headers={"x-faregate-include-cost": "true"})
    *_, last, done = events(got.content)
    assert done == "[DONE]"
    assert (last["usage"]["cost_usd"], last["choices"]) == (PAID, [])
    assert last["usage"]["credits"] == Decimal("1.67063")


async def test_parallel_tool_calls_of_a_stream_are_numbered(google: Google, client: AsyncOpenAI) -> None:
    calls = [function("f", '{"x":1}', extra_content=SIGNED), function("g", '{"y":2}')]
    google.compat = [chunk({"tool_calls": [call]}) for call in calls] + [chunk({}, "stop", USED), DONE]
    tools: Any = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in "fg"]
    async with client.chat.completions.stream(model=MODEL, messages=HI, tools=tools) as stream:
        async for _ in stream:
            pass
        choice = (await stream.get_final_completion()).choices[0]
    assert choice.finish_reason == "tool_calls"
    told = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]
    assert told == [("f", '{"x":1}'), ("g", '{"y":2}')]


async def test_arguments_that_come_in_pieces_stay_one_call(google: Google, house: House) -> None:
    pieces = [function("f", '{"x"'), {"function": {"arguments": ":1}"}}, function("g", "{}")]
    google.compat = [chunk({"tool_calls": [piece]}) for piece in pieces] + [chunk({}, "stop", USED), DONE]
    got = events(await house.stream(MODEL))
    calls = [event["choices"][0]["delta"].get("tool_calls") for event in got if isinstance(event, dict)]
    assert [call[0]["index"] for call in calls if call] == [0, 0, 1]


async def test_a_schema_and_reasoning_effort_go_along(google: Google, client: AsyncOpenAI) -> None:
    google.compat = [whole({"content": '{"a":1}'})]
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
    await client.chat.completions.create(
        model=MODEL, messages=HI, response_format=wanted, reasoning_effort="low", stop=["x"], metadata={"a": "b"}
    )
    sent = google.requests[0].json
    assert (sent["response_format"], sent["reasoning_effort"], sent["stop"]) == (wanted, "low", ["x"])
    assert "metadata" not in sent


async def test_results_of_tools_get_their_names_and_calls_their_signatures(google: Google, client: AsyncOpenAI) -> None:
    google.compat = [whole({"content": "ok"})]
    called = {"role": "assistant", "content": None, "tool_calls": [function("f", "{}"), function("g", "{}")]}
    results = [{"role": "tool", "tool_call_id": f"id-{name}", "content": "1"} for name in "fg"]
    messages: Any = [*HI, called, *results]
    await client.chat.completions.create(model="g/gemini-3-flash", messages=messages)
    _, again, first, second = google.requests[0].json["messages"]
    assert (first["name"], second["name"]) == ("f", "g")
    signature = again["tool_calls"][0]["extra_content"]["google"]["thought_signature"]
    assert signature == "skip_thought_signature_validator"
    assert "extra_content" not in again["tool_calls"][1]


@pytest.mark.parametrize("place", ["id", "beside"])
async def test_signatures_that_a_client_has_kept_go_back(google: Google, house: House, place: str) -> None:
    google.compat = [whole({"content": "ok"})]
    call = function("f", "{}", **({"extra_content": SIGNED} if place == "beside" else {}))
    call["id"] += "__thought__c2ln" if place == "id" else ""
    body = {"model": "g/gemini-3-pro", "messages": [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}]}
    assert (await house.http.post("/v1/chat/completions", json=body)).status_code == 200
    assert google.requests[0].json["messages"][1]["tool_calls"][0]["extra_content"] == SIGNED


@pytest.mark.parametrize(
    ("more", "native"),
    [
        ({}, False),
        ({"seed": None, "n": 2, "service_tier": "auto", "presence_penalty": 0, "tools": []}, False),
        ({"user": "u", "store": False, "parallel_tool_calls": True, "verbosity": "low"}, False),
        ({"seed": 7}, True),
        ({"frequency_penalty": 0.5}, True),
        ({"service_tier": "priority"}, True),
    ],
)
async def test_what_googles_openai_endpoint_would_lose_goes_the_other_way(
    google: Google, house: House, more: dict[str, Any], native: bool
) -> None:
    google.compat = [whole({"content": "ok"})]
    got = await house.http.post("/v1/chat/completions", json={"model": MODEL, "messages": HI, **more})
    assert got.status_code == 200
    assert google.requests[0].path.endswith(":generateContent") is native


async def test_a_blocked_prompt_is_an_answer_without_words(house: House, google: Google, client: AsyncOpenAI) -> None:
    used = {"prompt_tokens": 3, "total_tokens": 3}
    google.compat = [orjson.dumps({"id": "g", "object": "chat.completion", "created": 1, "model": "m", "usage": used})]
    got = await client.chat.completions.create(model=MODEL, messages=HI)
    assert (got.choices[0].finish_reason, got.choices[0].message.content) == ("content_filter", None)
    assert (await house.record()).cost_usd == 3 * M * 30 / 100


async def test_a_refusal_in_an_array_comes_in_openais_shape(house: House, google: Google, client: AsyncOpenAI) -> None:
    error = {"code": 429, "message": "Quota of projects/operator exceeded", "status": "RESOURCE_EXHAUSTED"}
    google.status, google.refusal = 404, orjson.dumps([{"error": error}])
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model=MODEL, messages=HI, stream=True)
    assert caught.value.body == {
        "message": "Quota of [redacted] exceeded",
        "type": "invalid_request_error",
        "param": None,
        "code": "RESOURCE_EXHAUSTED",
    }
    await house.settled()
    assert await house.records() == []


async def test_an_error_in_mid_stream_is_one(house: House, google: Google, client: AsyncOpenAI) -> None:
    error = sse([{"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}])
    google.compat = [STREAM[0], error]
    with pytest.raises(openai.APIError, match="overloaded"):
        async for _ in await client.chat.completions.create(model=MODEL, messages=HI, stream=True):
            pass
    assert (await house.record()).outcome == "upstream_error"


async def test_a_stream_that_breaks_off_ends_in_an_error(house: House, google: Google, client: AsyncOpenAI) -> None:
    google.breaks_after = 2
    with pytest.raises(openai.APIError):
        async for _ in await client.chat.completions.create(model=MODEL, messages=HI, stream=True):
            pass
    record = await house.record()
    assert (record.outcome, record.usage["input_tokens"]) == ("upstream_error", 3)


async def test_a_client_that_leaves_pays_for_all_of_it(house: House, google: Google) -> None:
    google.pause_s = 0.05
    async with house.streaming(MODEL) as got:
        await anext(got.aiter_bytes())
    record = await house.record()
    assert (record.outcome, record.cost_usd) == ("client_gone", PAID)


async def test_a_low_balance_lowers_the_bound(house: House, google: Google) -> None:
    poor = await house.caller(balance=1_500_000)
    google.compat = [whole({"content": "ok"})]
    got = await house.call(MODEL, by=poor, max_completion_tokens=60_000)
    assert google.requests[0].json["max_tokens"] == int(got.headers["x-faregate-output-cap"]) < 1000


# Embeddings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
async def test_embeddings_come_as_the_client_wants_them(
    house: House, google: Google, client: AsyncOpenAI, encoding: Any
) -> None:
    vector = {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}
    used = {"prompt_tokens": 7, "total_tokens": 7}
    google.compat = [orjson.dumps({"object": "list", "data": [vector], "model": "m", "usage": used})]
    wanted = {} if encoding is None else {"encoding_format": encoding}
    got = await client.embeddings.create(model="g/gemini-embedding-001", input=["a", "b"], **wanted)
    packed = b64encode(b"\x00\x00\x00?\x00\x00\x80\xbe").decode()
    assert got.data[0].embedding == (packed if encoding == "base64" else [0.5, -0.25])
    assert google.requests[0].path == "/v1beta/openai/embeddings"
    assert google.requests[0].json == {"model": "gemini-embedding-001", "input": ["a", "b"]}
    assert (await house.record()).cost_usd == 7 * M * 30 / 100


@pytest.mark.parametrize("used", [None, {"prompt_tokens": 0, "total_tokens": 0}])
async def test_embeddings_that_nobody_counted_are_estimated(house: House, google: Google, used: Any) -> None:
    google.compat = [orjson.dumps({"object": "list", "data": [], "model": "m", "usage": used})]
    body = {"model": "g/gemini-embedding-001", "input": "x" * 400}
    assert (await house.http.post("/v1/embeddings", json=body)).status_code == 200
    record = await house.record()
    assert record.estimated
    assert record.usage["input_tokens"] == -(-len(orjson.dumps(body)) // 4)
