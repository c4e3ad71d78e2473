"""The real OpenAI SDK, sync and async, with nothing but its base_url changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from tests.story.conftest import Open
from tests.story.house import CREDIT, INPUT, OUTPUT, House
from tests.upstreams.script import Script
from tests.upstreams.scripted import Scripted

T = TypeVar("T")
FARE = 10 * INPUT + 5 * OUTPUT
HI: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def client(house: House) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=house.url + "/v1", api_key=house.me.secret) as client:
        yield client


async def sync(house: House, use: Callable[[OpenAI], T]) -> T:
    """Use the sync client in a thread; the gateway runs in this loop."""

    def run() -> T:
        with OpenAI(base_url=house.url + "/v1", api_key=house.me.secret) as client:
            return use(client)

    return await asyncio.to_thread(run)


def refusals(house: House) -> float:
    """How many calls the gateway has refused itself."""
    samples = [s for metric in house.runtime.metrics.registry.collect() for s in metric.samples]
    return sum(sample.value for sample in samples if sample.name == "faregate_refused_total")


# What goes well -----------------------------------------------------------------------------------------


async def test_a_plain_call(house: House, client: AsyncOpenAI) -> None:
    got = await client.chat.completions.create(model="up/m", messages=HI)
    assert got.choices[0].message.content == " word" * 5
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (10, 5)
    assert (await house.record()).charge_microcredits == FARE


async def test_a_plain_call_with_the_sync_client(house: House) -> None:
    got = await sync(house, lambda client: client.chat.completions.create(model="up/m", messages=HI))
    assert got.choices[0].message.content == " word" * 5
    assert (await house.record()).charge_microcredits == FARE


async def test_a_stream(house: House, client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="up/m", messages=HI, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == " word" * 5
    assert all(chunk.usage is None for chunk in chunks)
    assert (await house.record()).charge_microcredits == FARE


async def test_a_stream_with_the_sync_client(house: House) -> None:
    def use(client: OpenAI) -> str:
        stream = client.chat.completions.create(model="up/m", messages=HI, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert await sync(house, use) == " word" * 5
    assert (await house.record()).charge_microcredits == FARE


async def test_a_stream_with_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="up/m", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 15


async def test_the_stream_helper(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="up/m", messages=HI) as stream:
        got = await stream.get_final_completion()
    assert got.choices[0].message.content == " word" * 5


async def test_completions_and_embeddings(house: House, client: AsyncOpenAI) -> None:
    text = await client.completions.create(model="up/m", prompt="hi", max_tokens=2)
    vector = await client.embeddings.create(model="up/e", input="hi", encoding_format="float")
    assert text.choices[0].text == " word" * 2
    assert vector.data[0].embedding == [0.5, -0.25, 0.125]
    await house.settled()
    assert await house.balance() == 1000 * CREDIT - (20 * INPUT + 2 * OUTPUT)


async def test_a_streamed_completion(client: AsyncOpenAI) -> None:
    stream = await client.completions.create(model="up/m", prompt="hi", max_tokens=3, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == " word" * 3


async def test_models_are_listed(open_house: Open) -> None:
    house = await open_house(models={"fast": ["up/m"], "clever": ["up/n"]})
    async with AsyncOpenAI(base_url=house.url + "/v1", api_key=house.me.secret) as client:
        ids = [model.id async for model in client.models.list()]
        assert ids[:2] == ["fast", "clever"]
        assert (await client.models.retrieve("fast")).id == "fast"


async def test_raw_headers_are_there(client: AsyncOpenAI) -> None:
    got = await client.chat.completions.with_raw_response.create(model="up/m", messages=HI)
    assert got.headers["x-faregate-credits-charged"] == "0.02"


# What goes wrong ----------------------------------------------------------------------------------------


async def failing(client: AsyncOpenAI, **options: Any) -> openai.APIStatusError:
    """The error of a call."""
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(**{"model": "up/m", "messages": HI, **options})
    return caught.value


async def test_a_bad_key(house: House, client: AsyncOpenAI) -> None:
    error = await failing(client.with_options(api_key="fg_live_nobody"))
    assert isinstance(error, openai.AuthenticationError)
    assert (error.code, error.type, refusals(house)) == ("invalid_api_key", "authentication_error", 1)


async def test_an_unknown_model(client: AsyncOpenAI) -> None:
    error = await failing(client, model="nobody")
    assert isinstance(error, openai.NotFoundError)
    assert (error.code, error.param) == ("model_not_found", "model")


async def test_a_bad_request(client: AsyncOpenAI) -> None:
    error = await failing(client, max_tokens=-1)
    assert isinstance(error, openai.BadRequestError)
    assert (error.code, error.param) == ("invalid_request", "max_tokens")


async def test_a_key_that_may_not(house: House, client: AsyncOpenAI) -> None:
    key = await house.caller(of=house.me, models=("other",))
    assert isinstance(await failing(client.with_options(api_key=key.secret)), openai.PermissionDeniedError)


async def test_no_credit_is_not_retried(house: House, client: AsyncOpenAI, upstream: Scripted) -> None:
    poor = await house.caller(1000)
    error = await failing(client.with_options(api_key=poor.secret, max_retries=5))
    assert (error.status_code, error.code, refusals(house)) == (402, "insufficient_credits", 1)
    assert isinstance(error.body, dict)
    assert error.body["available_credits"] == 0.001
    assert upstream.served == []


async def test_no_credit_is_not_retried_by_the_sync_client(house: House) -> None:
    poor = await house.caller(1000)

    def use(client: OpenAI) -> int:
        with pytest.raises(openai.APIStatusError) as caught:
            client.with_options(api_key=poor.secret).chat.completions.create(model="up/m", messages=HI, stream=True)
        return caught.value.status_code

    assert (await sync(house, use), refusals(house)) == (402, 1)


async def test_a_limit_of_ours(house: House, client: AsyncOpenAI) -> None:
    key = await house.caller(of=house.me, limits=[{"kind": "requests", "window": "month", "max": 0}])
    error = await failing(client.with_options(api_key=key.secret, max_retries=0))
    assert isinstance(error, openai.RateLimitError)
    assert error.code == "limit_exceeded"


async def test_a_limit_of_the_providers(client: AsyncOpenAI) -> None:
    error = await failing(client.with_options(max_retries=0), model="up/rate-limited")
    assert isinstance(error, openai.RateLimitError)
    assert error.response.headers["retry-after"] == "7"


async def test_a_provider_that_fails(house: House, client: AsyncOpenAI) -> None:
    error = await failing(client.with_options(max_retries=0), model="up/broken")
    assert isinstance(error, openai.InternalServerError)
    assert (error.status_code, error.code) == (502, "upstream_error")
    await house.settled()


async def test_the_sdks_own_retry_is_charged_once(house: House, client: AsyncOpenAI, upstream: Scripted) -> None:
    upstream.scripts["m"] = Script(status=503)
    call = asyncio.create_task(client.chat.completions.create(model="up/m", messages=HI))
    while not upstream.served:  # noqa: ASYNC110 - a state elsewhere, nothing to be told by
        await asyncio.sleep(0.01)
    upstream.scripts["m"] = Script()
    assert (await call).usage is not None
    assert len(upstream.served) == 2
    assert (await house.record()).charge_microcredits == FARE


async def test_a_stream_that_breaks_off_is_an_error(house: House, client: AsyncOpenAI) -> None:
    with pytest.raises(openai.APIError, match=r"broke off|reset"):
        async for _ in await client.chat.completions.create(model="up/reset-mid", messages=HI, stream=True):
            pass
    await house.settled()


async def test_an_error_event_of_the_providers_is_an_error(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.APIError, match="scripted error"):
        async for _ in await client.chat.completions.create(model="up/error-event", messages=HI, stream=True):
            pass
