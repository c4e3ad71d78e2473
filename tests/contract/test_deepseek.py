"""Kind deepseek behind the real OpenAI SDK: keep-alives, usage on the finish chunk, whose 402 it is."""

from __future__ import annotations

from decimal import Decimal

import openai
import orjson
import pytest
from openai import AsyncOpenAI

from tests.contract.test_openai_sdk import HI
from tests.story.conftest import Open
from tests.story.house import House
from tests.story.raw import RawUpstream
from tests.upstreams.wire import sse

MODEL = "ds/deepseek-chat"
USED = {
    "prompt_tokens": 1000,
    "completion_tokens": 200,
    "total_tokens": 1200,
    "prompt_cache_hit_tokens": 896,
    "prompt_cache_miss_tokens": 104,
    "completion_tokens_details": {"reasoning_tokens": 150},
}
PAID = Decimal("104") * Decimal("2.8E-7") + Decimal("896") * Decimal("2.8E-8") + Decimal("200") * Decimal("4.2E-7")
PRICES = """
- {provider: deepseek, model: deepseek-chat, per_million: {input: 0.28, cached_input: 0.028, output: 0.42}}
- {provider: up, model: "*", per_million: {input: 1, output: 2}}
"""


async def opened(open_house: Open, base_url: str, **options: object) -> House:
    place = {"kind": "deepseek", "base_url": base_url.removesuffix("/v1"), **options}
    return await open_house(prices=PRICES, providers__ds=place, models={"both": [MODEL, "up/m"]})


def client(house: House) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=house.url + "/v1", api_key=house.me.secret, max_retries=0)


def chunk(delta: dict[str, object], finish: str | None = None, usage: object = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return sse(
        {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    )


STREAM = [
    b": keep-alive\n\n" * 3,
    chunk({"role": "assistant", "reasoning_content": "hm"}),
    chunk({"content": "hi"}),
    chunk({"content": ""}, "stop", USED),
    b"data: [DONE]\n\n",
]


@pytest.mark.parametrize("cut", [1, 7, 10_000])
async def test_a_stream_is_charged_by_its_finish_chunk(open_house: Open, cut: int) -> None:
    whole = b"".join(STREAM)
    async with RawUpstream([whole[at : at + cut] for at in range(0, len(whole), cut)]) as raw:
        house = await opened(open_house, raw.url)
        async with client(house) as sdk:
            stream = await sdk.chat.completions.create(model=MODEL, messages=HI, stream=True)
            chunks = [part async for part in stream]
        assert "".join(part.choices[0].delta.content or "" for part in chunks) == "hi"
        record = await house.record()
    assert (record.cost_usd, record.estimated, record.outcome) == (PAID, False, "ok")
    assert (record.provider_kind, record.usage["reasoning_tokens"]) == ("deepseek", 150)


async def test_blank_lines_before_a_plain_answer_are_kept_and_cost_nothing(open_house: Open) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    whole = orjson.dumps({**head, "choices": [choice], "usage": USED})
    async with RawUpstream([b"\n\n", b"\n", whole], content_type="application/json") as raw:
        house = await opened(open_house, raw.url)
        async with client(house) as sdk:
            got = await sdk.chat.completions.create(model=MODEL, messages=HI)
        assert got.choices[0].message.content == "hi"
        assert (await house.record()).cost_usd == PAID


@pytest.mark.parametrize(("stream", "noise"), [(True, b": keep-alive\n\n"), (False, b"\n")])
async def test_noise_before_an_answer_does_not_stop_the_clock_nor_the_fallback(
    open_house: Open, stream: bool, noise: bytes
) -> None:
    async with RawUpstream([noise] * 400, pause_s=0.01) as raw:
        house = await opened(open_house, raw.url, timeout_s=0.3, idle_timeout_s=60, retries=0)
        got = await house.http.post("/v1/chat/completions", json={"model": "both", "messages": HI, "stream": stream})
    assert (got.status_code, got.headers["x-faregate-provider"]) == (200, "up")
    assert b" word" in got.content
    assert b"keep-alive" not in got.content
    assert (await house.record()).provider == "up"


async def test_the_operators_empty_purse_is_not_the_clients(open_house: Open) -> None:
    refused = orjson.dumps({"error": {"message": "Insufficient Balance", "type": "unknown_error", "code": "x"}})
    async with RawUpstream([refused], status="402 Payment Required", content_type="application/json") as raw:
        house = await opened(open_house, raw.url)
        async with client(house) as sdk:
            with pytest.raises(openai.InternalServerError) as caught:
                await sdk.chat.completions.create(model=MODEL, messages=HI)
            assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")
            assert "Insufficient" not in str(caught.value)
            got = await sdk.chat.completions.create(model="both", messages=HI)
        assert got.choices[0].message.content == " word" * 5
    assert (await house.record()).provider == "up"
