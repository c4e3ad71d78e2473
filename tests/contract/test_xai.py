"""Kind xai behind the real OpenAI SDK: reasoning on top, its own price, its own error shape."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import openai
import orjson
import pytest
from openai import AsyncOpenAI

from faregate.providers.xai import XAIProvider
from tests.contract.test_openai_sdk import HI
from tests.story.conftest import Open
from tests.story.house import House
from tests.story.raw import RawUpstream
from tests.upstreams.wire import sse, usage_event

USED: dict[str, Any] = {
    "prompt_tokens": 32,
    "completion_tokens": 9,
    "total_tokens": 135,
    "prompt_tokens_details": {"cached_tokens": 6},
    "completion_tokens_details": {"reasoning_tokens": 94},
}
PRICES = """
- {provider: xai, model: m, per_million: {input: 3, cached_input: 0.75, output: 15}}
- {provider: up, model: "*", per_million: {input: 1, output: 2}}
"""
PAID = (Decimal(26) * 3 + Decimal(6) * Decimal("0.75") + Decimal(103) * 15) / 1_000_000


def client(house: House) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=house.url + "/v1", api_key=house.me.secret, max_retries=0)


async def opened(open_house: Open, raw: RawUpstream) -> House:
    place = {"kind": "xai", "base_url": raw.url}
    return await open_house(prices=PRICES, providers__xai=place, models={"both": ["xai/m", "up/m"]})


def answer(used: object) -> bytes:
    message = {"role": "assistant", "content": "hi", "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return orjson.dumps(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": used}
    )


async def test_reasoning_is_charged_on_top(open_house: Open) -> None:
    async with RawUpstream([answer(USED)], content_type="application/json") as raw:
        house = await opened(open_house, raw)
        async with client(house) as sdk:
            got = await sdk.chat.completions.create(model="xai/m", messages=HI)
        assert got.usage is not None
        assert (got.usage.completion_tokens, got.usage.total_tokens) == (9, 135)
        record = await house.record()
    assert (record.usage["output_tokens"], record.usage["reasoning_tokens"]) == (103, 94)
    assert record.cost_usd == PAID


async def test_a_stream_is_charged_the_same_and_shows_usage_to_who_asks(open_house: Open) -> None:
    delta = {"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}
    text = sse({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [delta]})
    async with RawUpstream([text, usage_event("c", "m", USED), b"data: [DONE]\n\n"]) as raw:
        house = await opened(open_house, raw)
        async with client(house) as sdk:
            chunks = [part async for part in await sdk.chat.completions.create(model="xai/m", messages=HI, stream=True)]
        assert [part.usage for part in chunks] == [None]
        assert (await house.record()).cost_usd == PAID


async def test_what_xai_says_it_cost_counts_on_cards_that_say_so(open_house: Open) -> None:
    """The catalogue's own cards of xAI do; a card of the operator's does not."""
    used = {**USED, "cost_in_usd_ticks": 12_345_678}
    async with RawUpstream([answer(used)], content_type="application/json") as raw:
        house = await opened(open_house, raw)
        async with client(house) as sdk:
            await sdk.chat.completions.create(model="xai/grok-4", messages=HI)
            await sdk.chat.completions.create(model="xai/m", messages=HI)
        await house.settled()
        own, stated = await house.records()
    assert (stated.cost_usd, own.cost_usd) == (Decimal("0.0012345678"), PAID)


async def test_responses_hold_reasoning_inside_and_tell_their_cost(open_house: Open) -> None:
    used = {
        "input_tokens": 32,
        "output_tokens": 103,
        "output_tokens_details": {"reasoning_tokens": 94},
        "total_tokens": 135,
        "cost_in_usd_ticks": 10_000_000,
    }
    said = {"id": "resp_1", "object": "response", "status": "completed", "model": "m", "output": [], "usage": used}
    async with RawUpstream([orjson.dumps(said)], content_type="application/json") as raw:
        house = await opened(open_house, raw)
        async with client(house) as sdk:
            await sdk.responses.create(model="xai/m", input="hi")
            await sdk.responses.create(model="xai/grok-4", input="hi")
        await house.settled()
        stated, own = await house.records()
    assert (own.usage["output_tokens"], own.usage["reasoning_tokens"]) == (103, 94)
    assert own.cost_usd == (Decimal(32) * 3 + Decimal(103) * 15) / 1_000_000
    assert stated.cost_usd == Decimal("0.001")


async def test_pictures_cost_what_xai_says(open_house: Open) -> None:
    said = {"created": 1, "data": [{"url": "https://x/1"}], "usage": {"cost_in_usd_ticks": 200_000_000}}
    async with RawUpstream([orjson.dumps(said)], content_type="application/json") as raw:
        house = await opened(open_house, raw)
        async with client(house) as sdk:
            got = await sdk.images.generate(model="xai/grok-imagine-image", prompt="a cat")
        assert got.data is not None
        record = await house.record()
    assert (record.cost_usd, record.usage["images"]) == (Decimal("0.02"), 1)


def test_what_xai_has_is_served() -> None:
    assert {"chat.completions", "completions", "embeddings", "responses", "images.generations"} == set(
        XAIProvider.PATHS
    )


async def test_an_error_comes_in_openais_shape(open_house: Open) -> None:
    said = orjson.dumps({"code": "Client specified an invalid argument", "error": "Argument not supported: foo"})
    async with RawUpstream([said], status="400 Bad Request", content_type="application/json") as raw:
        house = await opened(open_house, raw)
        async with client(house) as sdk:
            with pytest.raises(openai.BadRequestError) as caught:
                await sdk.chat.completions.create(model="xai/m", messages=HI)
    assert caught.value.body == {
        "message": "Argument not supported: foo",
        "type": "invalid_request_error",
        "param": None,
        "code": "Client specified an invalid argument",
    }
    await house.settled()
    assert await house.records() == []


async def test_a_bad_key_of_the_operators_is_not_the_clients(open_house: Open) -> None:
    said = b'{"code":"Client specified an invalid argument","error":"Incorrect API key provided: xa***ZZ."}'
    async with RawUpstream([said], status="400 Bad Request", content_type="application/json") as raw:
        house = await opened(open_house, raw)
        async with client(house) as sdk:
            with pytest.raises(openai.InternalServerError) as caught:
                await sdk.chat.completions.create(model="xai/m", messages=HI)
            got = await sdk.chat.completions.create(model="both", messages=HI)
    assert "xa***ZZ" not in str(caught.value)
    assert got.choices[0].message.content == " word" * 5
