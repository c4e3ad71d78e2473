from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from tests.upstreams.scripted import Scripted


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    async with Scripted() as server:
        yield server


@pytest.fixture
async def client(server: Scripted) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
        yield client


async def test_the_real_sdk_reads_a_plain_answer(client: AsyncOpenAI) -> None:
    got = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], n=2)
    assert got.usage is not None
    assert (len(got.choices), got.usage.completion_tokens) == (2, 10)


async def test_the_real_sdk_reads_a_stream(client: AsyncOpenAI, server: Scripted) -> None:
    stream = await client.chat.completions.create(
        model="long", messages=[], stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 60
    assert server.totals() == {"requests": 1, "input_tokens": 10, "output_tokens": 60, "completed": 1}


async def test_a_prompt_can_carry_its_script(server: Scripted) -> None:
    script = {"output_tokens": 2, "usage": "zero", "headers": [["x-a", "b {}"]]}
    body = {"messages": [{"role": "user", "content": f"hi x-script: {json.dumps(script)} bye"}]}
    async with httpx.AsyncClient() as http:
        got = await http.post(server.url + "/chat/completions", json=body)
    assert got.headers["x-a"] == "b {}"
    assert got.json()["usage"]["total_tokens"] == 0


async def test_the_account_can_be_asked_for(server: Scripted) -> None:
    async with httpx.AsyncClient() as http:
        await http.post(server.url + "/completions", json={"model": "m", "prompt": "a", "max_tokens": 3})
        account: dict[str, Any] = (await http.get(server.url.removesuffix("/v1") + "/_served")).json()
    assert account["totals"]["output_tokens"] == 3
    assert account["requests"][0]["outcome"] == "completed"
