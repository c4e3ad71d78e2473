"""The real OpenAI SDK's Responses: create, stream, retrieve, cancel, delete, go on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI

from tests.story.house import CREDIT, INPUT, OUTPUT, House
from tests.upstreams.keeper import Keeper

FARE = 10 * INPUT + 5 * OUTPUT


@pytest.fixture
async def client(kept: House) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=kept.url + "/v1", api_key=kept.me.secret) as client:
        yield client


async def test_a_response(kept: House, client: AsyncOpenAI) -> None:
    got = await client.responses.create(model="up/m", input="hi")
    assert got.output_text == "hello there"
    assert got.usage is not None
    assert got.usage.input_tokens_details.cached_tokens == 4
    assert (await kept.record()).charge_microcredits == FARE


async def test_a_stream(kept: House, client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model="up/m", input="hi", stream=True)
    kinds = [event.type async for event in stream]
    assert kinds == [
        "response.created",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.completed",
    ]
    assert (await kept.record()).charge_microcredits == FARE


async def test_the_sandbox_through_the_stream_helper(kept: House) -> None:
    caller = await kept.caller(test=True)
    client = AsyncOpenAI(base_url=kept.url + "/v1", api_key=caller.secret)
    async with client, client.responses.stream(model="up/m", input="say 4 words") as stream:
        kinds = [event.type async for event in stream]
        got = await stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert len(got.output_text.split()) == 4


async def test_an_error_in_the_middle_is_an_event(client: AsyncOpenAI, keeper: Keeper) -> None:
    keeper.fault = "cut"
    stream = await client.responses.create(model="up/m", input="hi", stream=True)
    last = [event async for event in stream][-1]
    assert last.type == "error"
    assert last.code == "upstream_error"


async def test_background_from_queued_to_its_end(kept: House, client: AsyncOpenAI, keeper: Keeper) -> None:
    keeper.polls = 1_000_000
    made = await client.responses.create(model="up/m", input="hi", background=True)
    assert made.status == "queued"
    assert (await client.responses.retrieve(made.id)).status == "queued"
    keeper.polls = 0
    assert (await client.responses.retrieve(made.id)).output_text == "hello there"
    assert (await kept.record()).charge_microcredits == FARE


async def test_cancel_and_delete(kept: House, client: AsyncOpenAI, keeper: Keeper) -> None:
    keeper.polls = 1_000_000
    made = await client.responses.create(model="up/m", input="hi", background=True)
    assert (await client.responses.cancel(made.id)).status == "cancelled"
    await client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(made.id)
    assert (await kept.record()).charge_microcredits == FARE


async def test_going_on_from_one(kept: House, client: AsyncOpenAI, keeper: Keeper) -> None:
    first = await client.responses.create(model="up/m", input="hi")
    await client.responses.create(model="up/m", input="and?", previous_response_id=first.id)
    assert keeper.bodies[-1]["previous_response_id"] == first.id
    assert [item.id async for item in client.responses.input_items.list(first.id)] == []
    await kept.settled()
    assert await kept.balance() == 1000 * CREDIT - 2 * FARE
