"""The real google-genai SDK, sync and async, with nothing but its base_url changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, TypeVar

import httpx
import pytest
from google import genai
from google.genai import errors, types
from google.genai.models import AsyncModels, Models

from tests.story.conftest import Open
from tests.story.house import House
from tests.upstreams.google import Google, answer, part_of, refused, usage

T = TypeVar("T")
MODEL = "g/gemini-2.5-flash"
PRICES = """
- provider: gemini
  model: "*"
  per_million: {input: 0.30, cached_input: 0.03, audio_input: 1.00, output: 2.50, image_output: 30}
  per_unit: {search: 0.035}
  max_output_tokens: 65536
  context_window: 1048576
"""
M = Decimal("0.000001")


async def opened(open_house: Open, google: Google, **changes: Any) -> House:
    place = {"kind": "gemini", "base_url": google.url, "api_key": "AIzaOperatorsOwn0123456789"}
    return await open_house(prices=PRICES, providers__g=place, models={"fast": [MODEL]}, **changes)


@asynccontextmanager
async def speaking(house: House, secret: str | None = None) -> AsyncIterator[AsyncModels]:
    """The async client, over httpx: the SDK's own use of aiohttp warns."""
    async with httpx.AsyncClient(timeout=30) as http:
        options = types.HttpOptions(base_url=house.url, httpx_async_client=http)
        yield genai.Client(api_key=secret or house.me.secret, http_options=options).aio.models


async def sync(house: House, use: Callable[[Models], T]) -> T:
    """Use the sync client in a thread; the gateway runs in this loop."""

    def run() -> T:
        options = types.HttpOptions(base_url=house.url)
        with genai.Client(api_key=house.me.secret, http_options=options) as client:
            return use(client.models)

    return await asyncio.to_thread(run)


async def ask(house: House, secret: str | None = None, **options: Any) -> types.GenerateContentResponse:
    """A plain answer."""
    async with speaking(house, secret) as models:
        return await models.generate_content(**{"model": MODEL, "contents": "hi", **options})


async def stream_of(house: House, seen: list[str | None] | None = None, **options: Any) -> list[str | None]:
    """The texts of a stream, as they come in `seen`."""
    seen = [] if seen is None else seen
    async with speaking(house) as models:
        async for part in await models.generate_content_stream(**{"model": MODEL, "contents": "hi", **options}):
            seen.append(part.text)
    return seen


@pytest.fixture
async def google() -> AsyncIterator[Google]:
    async with Google() as google:
        yield google


@pytest.fixture
async def house(open_house: Open, google: Google) -> House:
    return await opened(open_house, google)


# What goes well -----------------------------------------------------------------------------------------


async def test_a_plain_call(house: House, google: Google) -> None:
    got = await ask(house)
    assert got.text == "hi"
    record = await house.record()
    assert (record.cost_usd, record.provider_kind, record.endpoint) == (
        10 * 30 * M / 100 + 5 * 250 * M / 100,
        "gemini",
        "generatecontent",
    )
    assert record.public_model == MODEL


async def test_a_plain_call_with_the_sync_client(house: House) -> None:
    got = await sync(house, lambda models: models.generate_content(model=MODEL, contents="hi"))
    assert got.text == "hi"
    assert (await house.record()).outcome == "ok"


async def test_a_stream_is_charged_once_for_its_cumulative_usage(house: House, google: Google) -> None:
    google.said = [
        answer("a", finish=None, used=usage(10, 1)),
        answer("b", finish=None, used=usage(10, 2, 20)),
        answer("c", used=usage(10, 3, 20, cachedContentTokenCount=4)),
    ]
    assert await stream_of(house) == ["a", "b", "c"]
    record = await house.record()
    assert record.cost_usd == 6 * M * 30 / 100 + 4 * M * 3 / 100 + 23 * M * 250 / 100
    assert (record.usage["output_tokens"], record.usage["reasoning_tokens"], record.estimated) == (23, 20, False)


async def test_a_stream_with_the_sync_client(house: House, google: Google) -> None:
    google.said = [answer("a", finish=None), answer("b")]

    def use(models: Models) -> list[str | None]:
        return [part.text for part in models.generate_content_stream(model=MODEL, contents="hi")]

    assert await sync(house, use) == ["a", "b"]
    assert (await house.record()).outcome == "ok"


async def test_tools_come_and_go_as_they_are(house: House, google: Google) -> None:
    calls = [{"functionCall": {"name": f"f{n}", "args": {"x": n}}, "thoughtSignature": "c2ln"} for n in range(2)]
    google.said = part_of(*calls)
    declared = types.FunctionDeclaration(name="f0", parameters_json_schema={"type": "object"})
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declared])])
    got = await ask(house, config=config)
    assert [(call.name, call.args) for call in got.function_calls or ()] == [("f0", {"x": 0}), ("f1", {"x": 1})]
    assert google.requests[0].json["tools"][0]["functionDeclarations"][0]["name"] == "f0"


async def test_sound_and_searches_have_their_own_price(house: House, google: Google) -> None:
    details = [{"modality": "TEXT", "tokenCount": 10}, {"modality": "AUDIO", "tokenCount": 90}]
    said = answer(used=usage(100, 5, promptTokensDetails=details))
    said["candidates"][0]["groundingMetadata"] = {"webSearchQueries": ["a", "b"]}
    google.said = said
    sound = types.Part.from_bytes(data=b"\0" * 900, mime_type="audio/wav")
    await ask(house, contents=[sound, "what is said?"])
    assert (await house.record()).cost_usd == 10 * M * 30 / 100 + 90 * M + 5 * M * 250 / 100 + Decimal("0.035")


async def test_public_names_and_the_operators_key(house: House, google: Google) -> None:
    await ask(house, model="fast")
    asked = google.requests[0]
    assert asked.path == "/v1beta/models/gemini-2.5-flash:generateContent"
    assert asked.headers["x-goog-api-key"] == "AIzaOperatorsOwn0123456789"
    assert house.me.secret not in str(asked)
    assert (await house.record()).public_model == "fast"


async def test_counting_is_free(house: House, google: Google) -> None:
    google.said = {"totalTokens": 31, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 31}]}
    poor = await house.caller(balance=0)
    async with speaking(house, poor.secret) as models:
        got = await models.count_tokens(model="fast", contents="how long is this?")
    assert got.total_tokens == 31
    assert google.requests[0].path == "/v1beta/models/gemini-2.5-flash:countTokens"
    await house.settled(poor)
    assert [record.charge_microcredits for record in await house.records(poor)] in ([], [0])


async def test_embeddings_are_estimated_for_want_of_a_count(house: House, google: Google) -> None:
    google.said = {"embeddings": [{"values": [0.5, -0.25]}, {"values": [1]}]}
    async with speaking(house) as models:
        got = await models.embed_content(model="g/gemini-embedding-001", contents=["a" * 100, "b" * 100])
    assert [each.values for each in got.embeddings or ()] == [[0.5, -0.25], [1]]
    asked = google.requests[0]
    assert asked.path == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    assert {request["model"] for request in asked.json["requests"]} == {"models/gemini-embedding-001"}
    record = await house.record()
    assert (record.estimated, record.endpoint) == (True, "batchembedcontents")
    assert record.usage["input_tokens"] in range(len(asked.body) // 4, len(asked.body) // 4 + 40)  # spaces, and names


# What does not --------------------------------------------------------------------------------------------


async def test_an_unknown_key(house: House) -> None:
    with pytest.raises(errors.ClientError) as caught:
        await ask(house, "fg_live_nobody")
    assert (caught.value.code, caught.value.status) == (401, "UNAUTHENTICATED")


async def test_an_empty_account(house: House) -> None:
    poor = await house.caller(balance=0)
    with pytest.raises(errors.ClientError) as caught:
        await ask(house, poor.secret)
    assert (caught.value.code, caught.value.status) == (402, "FAILED_PRECONDITION")
    assert caught.value.details["error"]["details"][0]["reason"] == "INSUFFICIENT_CREDITS"


async def test_a_model_that_is_nowhere(house: House) -> None:
    with pytest.raises(errors.ClientError) as caught:
        await ask(house, model="nowhere")
    assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")


async def test_a_refusal_of_googles_passes_as_it_came(house: House, google: Google) -> None:
    google.status, google.refusal = 400, refused(400, "INVALID_ARGUMENT", "no such field")
    with pytest.raises(errors.ClientError) as caught:
        await stream_of(house)
    assert (caught.value.status, caught.value.message) == ("INVALID_ARGUMENT", "no such field")
    await house.settled()
    assert await house.records() == []


async def test_a_bad_key_of_the_operators_is_not_the_clients(house: House, google: Google) -> None:
    reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    google.status, google.refusal = 400, refused(400, "INVALID_ARGUMENT", "API key not valid.", reason)
    with pytest.raises(errors.ServerError) as caught:
        await ask(house)
    assert (caught.value.code, caught.value.status) == (502, "UNAVAILABLE")


async def test_an_error_in_mid_stream_reaches_the_client(house: House, google: Google) -> None:
    google.said = [answer("a", finish=None, used=usage(10, 1)), answer("b")]
    google.breaks_after = 1
    seen: list[str | None] = []
    with pytest.raises(errors.ServerError) as caught:
        await stream_of(house, seen)
    assert (seen, caught.value.code) == (["a"], 502)
    record = await house.record()
    assert (record.outcome, record.charge_microcredits > 0) == ("upstream_error", True)
