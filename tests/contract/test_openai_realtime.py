"""The real OpenAI SDK's realtime client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from tests.story.conftest import Open
from tests.story.house import INPUT, OUTPUT, House
from tests.upstreams.talker import Talker


@pytest.fixture
async def talker() -> AsyncIterator[Talker]:
    async with Talker() as talker:
        yield talker


@pytest.fixture
async def talk(open_house: Open, talker: Talker) -> House:
    return await open_house(**{"providers.up": {"base_url": talker.url}})


async def test_a_conversation(talk: House, talker: Talker) -> None:
    kinds = []
    async with (
        AsyncOpenAI(base_url=talk.url + "/v1", api_key=talk.me.secret) as client,
        client.realtime.connect(model="up/m") as connection,
    ):
        await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        await connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
        )
        await connection.response.create()
        async for event in connection:
            kinds.append(event.type)
            if event.type == "response.done":
                break
    assert kinds[:3] == ["session.created", "session.updated", "response.created"]
    assert talker.kinds() == ["session.update", "conversation.item.create", "response.create"]
    assert (await talk.record()).charge_microcredits == 10 * INPUT + 5 * OUTPUT
