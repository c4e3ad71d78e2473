"""An Azure resource behind the gateway, seen by the real OpenAI SDK: its URLs, its odd first chunk, its errors."""

from __future__ import annotations

import json
from decimal import Decimal

import openai
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from tests.story.conftest import Open
from tests.story.house import House
from tests.upstreams.script import Script
from tests.upstreams.scripted import Scripted

HI: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "hi"}]
FIRST = {
    "choices": [],
    "created": 0,
    "id": "",
    "model": "",
    "object": "",
    "prompt_filter_results": [{"prompt_index": 0}],
}
FILTERED = {
    "error": {
        "message": "The response was filtered",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation"},
    }
}


@pytest.fixture
async def house(open_house: Open, upstream: Scripted) -> House:
    base_url = upstream.url.removesuffix("/v1")
    azure = {"kind": "azure", "base_url": base_url, "deployments": {"gpt-5": "mine"}, "api_version": "2024-10-21"}
    zoned = {**azure, "deployment_type": "datazone"}
    return await open_house(providers__azure=azure, **{"providers__azure-2": zoned})


def client(house: House) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=house.url + "/v1", api_key=house.me.secret, max_retries=0)


@pytest.mark.parametrize(("provider", "usd"), [("azure", "0.0000625"), ("azure-2", "0.00006875")])
async def test_a_call_is_charged_at_its_deployments_price(house: House, provider: str, usd: str) -> None:
    async with client(house) as sdk:
        await sdk.chat.completions.create(model=f"{provider}/gpt-5", messages=HI)
    assert house.upstream.served[0].path == "/openai/deployments/mine/chat/completions?api-version=2024-10-21"
    record = await house.record()
    assert record.cost_usd == Decimal(usd)
    assert record.charge_microcredits == Decimal(usd) * 10**9


def stream_of(*events: object) -> tuple[str, ...]:
    return (*(f"data: {json.dumps(event)}\n\n" for event in events), "data: [DONE]\n\n")


async def test_the_first_chunk_that_is_no_usage_chunk_reaches_the_client(house: House) -> None:
    word = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5-2025-08-07"}
    said = {**word, "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}], "usage": None}
    used = {**word, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}}
    house.upstream.scripts["mine"] = Script(raw=stream_of(FIRST, said, used))
    async with client(house) as sdk:
        stream = await sdk.chat.completions.create(model="azure/gpt-5", messages=HI, stream=True)
        chunks = [chunk async for chunk in stream]
    assert [len(chunk.choices) for chunk in chunks] == [0, 1]
    record = await house.record()
    assert (record.usage["input_tokens"], record.usage["output_tokens"], record.estimated) == (3, 1, False)


async def test_a_filtered_prompt_is_the_clients_error_and_costs_nothing(house: House) -> None:
    house.upstream.scripts["mine"] = Script(status=400, raw=(json.dumps(FILTERED),))
    async with client(house) as sdk:
        with pytest.raises(openai.BadRequestError) as refused:
            await sdk.chat.completions.create(model="azure/gpt-5", messages=HI)
    assert refused.value.code == "content_filter"
    assert refused.value.response.json() == FILTERED
    assert await house.balance() == 1_000_000_000


# Azure's client in front of the gateway -----------------------------------------------------------------


def azure_client(house: House, deployment: str | None = None) -> AsyncAzureOpenAI:
    return AsyncAzureOpenAI(
        azure_endpoint=house.url,
        azure_deployment=deployment,
        api_key=house.me.secret,
        api_version="2024-10-21",
        max_retries=0,
    )


async def test_azures_client_works_with_its_endpoint_changed(house: House) -> None:
    async with azure_client(house) as sdk:
        got = await sdk.chat.completions.create(model="up/m", messages=HI)
        vectors = await sdk.embeddings.create(model="up/m", input="hi")
        stream = await sdk.chat.completions.create(model="up/m", messages=HI, stream=True)
        said = [chunk async for chunk in stream]
    assert got.choices[0].message.content == " word" * 5
    assert vectors.data[0].embedding
    assert said
    assert [served.path for served in house.upstream.served] == [
        "/v1/chat/completions",
        "/v1/embeddings",
        "/v1/chat/completions",
    ]
    assert [record.model for record in await house.records()] == ["m"] * 3


async def test_the_deployment_of_azures_client_is_the_model(house: House) -> None:
    async with azure_client(house, "up/m") as sdk:
        await sdk.chat.completions.create(model="whatever", messages=HI)
    assert house.upstream.served[0].json["model"] == "m"
    assert (await house.record()).public_model == "up/m"


async def test_a_body_without_a_model_has_the_deployments(house: House) -> None:
    got = await house.http.post("/openai/deployments/up%2Fm/chat/completions?api-version=x", json={"messages": HI})
    assert got.status_code == 200
    assert house.upstream.served[0].json["model"] == "m"


async def test_azures_client_sees_our_errors(house: House) -> None:
    async with azure_client(house) as sdk:
        with pytest.raises(openai.NotFoundError) as missing:
            await sdk.chat.completions.create(model="nothing", messages=HI)
        with pytest.raises(openai.AuthenticationError):
            await sdk.with_options(api_key="fg_live_none").chat.completions.create(model="up/m", messages=HI)
    assert missing.value.code == "model_not_found"
