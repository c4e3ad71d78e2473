"""Kind `litellm` by the real OpenAI SDK: LiteLLM's library in front of a server on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.story.conftest import Open
from tests.story.house import INPUT, OUTPUT, PROVIDER_KEY, House, said
from tests.upstreams.scripted import Scripted

pytestmark = pytest.mark.filterwarnings("default")
"""The library has warnings of its own."""
FARE = 10 * INPUT + 5 * OUTPUT
HI: Any = [{"role": "user", "content": "hi"}]
PRICES = """
- {provider: lib, model: "*", per_million: {input: 1, output: 2}, max_output_tokens: 1000}
- {provider: up, model: "*", per_million: {input: 1, output: 2}}
"""
MODEL = "lib/mistral/mistral-small"
STREAMED = "lib/hosted_vllm/small"
"""Mistral tells its usage unasked; the server here wants to be asked, as others do."""


@pytest.fixture
async def house(open_house: Open, upstream: Scripted) -> House:
    return await open_house(providers__lib=configured(), prices=PRICES)


def configured(**more: object) -> dict[str, object]:
    """The house adds base_url and api_key of its scripted upstream."""
    return {"kind": "litellm", **more}


@pytest.fixture
async def client(house: House) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=house.url + "/v1", api_key=house.me.secret, max_retries=0) as client:
        yield client


async def test_a_plain_call(house: House, client: AsyncOpenAI) -> None:
    got = await client.chat.completions.create(model=MODEL, messages=HI, temperature=0.5)
    assert got.choices[0].message.content == " word" * 5
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (10, 5)
    (served,) = house.upstream.served
    assert served.headers["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert (served.model, served.json["temperature"]) == ("mistral-small", 0.5)
    assert (await house.record()).charge_microcredits == FARE


async def test_a_stream(house: House, client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=STREAMED, messages=HI, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == " word" * 5
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    assert (await house.record()).charge_microcredits == FARE


async def test_a_stream_with_usage(client: AsyncOpenAI) -> None:
    wanted: Any = {"include_usage": True}
    stream = await client.chat.completions.create(model=STREAMED, messages=HI, stream=True, stream_options=wanted)
    last = [chunk async for chunk in stream][-1]
    assert last.usage is not None
    assert (last.choices, last.usage.prompt_tokens, last.usage.completion_tokens) == ([], 10, 5)


async def test_usage_that_comes_unasked_with_the_last_words(house: House) -> None:
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    first = {**head, "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]}
    second = {**head, "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}], "usage": usage}
    raw = [f"data: {json.dumps(event)}\n\n" for event in (first, second)] + ["data: [DONE]\n\n"]
    got = await house.stream(MODEL, script={"raw": raw})
    assert said(got) == "hi"
    assert (await house.record()).charge_microcredits == FARE


async def test_embeddings(house: House, client: AsyncOpenAI) -> None:
    got = await client.embeddings.create(model="lib/openai/text-embedding-3-small", input=["a", "b"])
    assert len(got.data) > 0
    assert got.usage.prompt_tokens == 10
    assert (await house.record()).charge_microcredits == 10 * INPUT


async def test_many_calls_at_once_do_not_mix(house: House) -> None:
    got = await asyncio.gather(*(house.stream(MODEL, script={"output_tokens": n}) for n in range(1, 9)))
    assert [said(body) for body in got] == [" word" * n for n in range(1, 9)]


async def test_an_answer_without_usage_is_estimated_not_free(house: House) -> None:
    got = await house.call(MODEL, script={"usage": "none"})
    assert "usage" not in got.json()
    record = await house.record()
    assert record.estimated
    assert record.charge_microcredits > 0


async def test_a_stream_without_usage_is_estimated_not_counted_by_the_library(house: House) -> None:
    got = await house.stream(MODEL, script={"usage": "none"}, stream_options={"include_usage": True})
    assert b'"usage"' not in got
    assert (await house.record()).estimated


async def test_the_balance_bounds_the_output(house: House) -> None:
    poor = await house.caller(2_000_000)
    got = await house.call(MODEL, by=poor, max_tokens=100_000)
    assert got.status_code == 200, got.text
    (served,) = house.upstream.served
    assert served.json["max_tokens"] == int(got.headers["x-faregate-output-cap"]) < 1000


@pytest.mark.parametrize("field", ["api_base", "base_url", "api_key", "extra_headers", "mock_response", "fallbacks"])
async def test_the_librarys_other_arguments_are_not_the_clients(house: House, field: str) -> None:
    changes: dict[str, Any] = {field: "http://127.0.0.1:9"}
    got = await house.call(MODEL, **changes)
    assert (got.status_code, got.json()["error"]["param"]) == (400, field)
    assert house.upstream.served == []


@pytest.mark.parametrize("model", ["lib/huggingface/http://127.0.0.1:9/x", "lib/openai/http://127.0.0.1:9"])
async def test_a_models_name_does_not_say_where_to_go(house: House, model: str) -> None:
    assert (await house.call(model)).status_code == 400


async def test_only_the_named_vendors_are_called(open_house: Open) -> None:
    house = await open_house(providers__lib=configured(vendors=["mistral"]), prices=PRICES)
    assert (await house.call("lib/openai/gpt-4o")).status_code == 400
    assert (await house.call(MODEL)).status_code == 200


# What goes wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "seen"), [(400, 400), (401, 502), (404, 404), (422, 422), (429, 429), (500, 502)])
async def test_the_status_is_kept(house: House, status: int, seen: int) -> None:
    got = await house.call(MODEL, script={"status": status})
    assert got.status_code == seen, got.text
    assert PROVIDER_KEY not in got.text
    assert len(house.upstream.served) == 1
    await house.settled()
    assert await house.balance() == 1000 * 1_000_000


async def test_the_library_does_not_retry_the_gateway_does(open_house: Open) -> None:
    house = await open_house(providers__lib=configured(retries=1), prices=PRICES)
    assert (await house.call(MODEL, script={"status": 503})).status_code == 502
    assert len(house.upstream.served) == 2


async def test_no_answer_is_a_time_out(open_house: Open) -> None:
    house = await open_house(providers__lib=configured(timeout_s=0.3), prices=PRICES)
    got = await house.call(MODEL, script={"fault": "hang_before_headers"})
    assert (got.status_code, got.json()["error"]["code"]) == (504, "upstream_timeout")


async def test_silence_in_a_stream_is_a_time_out(open_house: Open) -> None:
    house = await open_house(providers__lib=configured(idle_timeout_s=0.3), prices=PRICES)
    got = await house.stream(MODEL, script={"fault": "hang_mid", "output_tokens": 10})
    assert json.loads(got.split(b"data: ")[-1])["error"]["code"] == "upstream_timeout"
    assert (await house.record()).outcome == "upstream_error"


@pytest.mark.parametrize("fault", ["truncate", "reset_mid"])
async def test_a_stream_that_breaks_does_not_look_finished(house: House, fault: str) -> None:
    got = await house.stream(MODEL, script={"fault": fault, "output_tokens": 10})
    assert b"[DONE]" not in got
    assert b'"error"' in got
    record = await house.record()
    assert (record.estimated, record.charge_microcredits > 0) == (True, True)


async def test_a_client_that_leaves_ends_the_call(open_house: Open) -> None:
    house = await open_house(providers__lib=configured(on_disconnect="cancel"), prices=PRICES)
    async with house.streaming(MODEL, script={"output_tokens": 500, "delay_s": 0.02}) as got:
        await anext(got.aiter_bytes())
    record = await house.record()
    assert record.outcome == "client_gone"
    assert house.upstream.served[0].output_tokens < 400


async def test_a_bad_field_is_named(client: AsyncOpenAI) -> None:
    tools: Any = [{"type": "mcp", "server_url": "litellm_proxy"}]
    with pytest.raises(openai.BadRequestError, match=r"tools\[0\]"):
        await client.chat.completions.create(model=MODEL, messages=HI, tools=tools)
