"""OpenAI's and Anthropic's SDKs for Node, with nothing but their base URL changed."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests import node_sdks
from tests.contract.claude import PRICES
from tests.contract.claude import claude as claude
from tests.story.conftest import Open
from tests.story.house import INPUT, OUTPUT, House
from tests.upstreams.claude import Claude, Turn
from tests.upstreams.script import Script
from tests.upstreams.scripted import Scripted

Say = Callable[..., Awaitable[dict[str, Any]]]
FARE = 10 * INPUT + 5 * OUTPUT
WORDS = " word" * 5


@pytest.fixture(scope="session")
def sdks() -> Path:
    return node_sdks.installed()


@pytest.fixture
def say(sdks: Path) -> Say:
    """Run one case in front of a house, as its caller; what it said, or its error."""

    async def run(house: House, case: str, model: str = "up/m", **options: Any) -> dict[str, Any]:
        given = {"url": house.url, "key": house.me.secret, "model": model, **options}
        node = await asyncio.create_subprocess_exec(
            *("node", str(node_sdks.HERE / "sdks.cjs"), case, json.dumps(given)),
            env={"SDKS": str(sdks), "PATH": os.environ["PATH"]},
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, _ = await node.communicate()
        assert node.returncode == 0
        told: dict[str, Any] = json.loads(out)
        return told

    return run


@pytest.fixture
async def claudes(open_house: Open, claude: Claude) -> House:
    """A house in front of a scripted Claude."""
    return await open_house(
        providers__up={"kind": "anthropic", "base_url": claude.url, "api_key": "x" * 20}, prices=PRICES
    )


async def test_openai_plain(house: House, say: Say) -> None:
    said = (await say(house, "openai.plain"))["said"]
    assert (said["text"], said["usage"]["total_tokens"]) == (WORDS, 15)
    assert (await house.record()).charge_microcredits == FARE


async def test_openai_stream(house: House, say: Say) -> None:
    said = (await say(house, "openai.stream"))["said"]
    assert (said["text"], said["usage"]["completion_tokens"]) == (WORDS, 5)
    assert (await house.record()).charge_microcredits == FARE


def chunk(delta: object, finish: str | None = None, **more: object) -> str:
    """One event of a stream."""
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return f"data: {json.dumps({**head, **more})}\n\n"


def call(**fields: object) -> dict[str, object]:
    """A piece of a tool call."""
    return {"tool_calls": [{"index": 0, **fields}]}


async def test_openai_tools_in_a_stream(house: House, say: Say, upstream: Scripted) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    raw = (
        chunk({"role": "assistant", **call(id="t", type="function", function={"name": "weather", "arguments": ""})}),
        chunk(call(function={"arguments": '{"city":'})),
        chunk(call(function={"arguments": '"Köln"}'})),
        chunk({}, "tool_calls", usage=usage),
        "data: [DONE]\n\n",
    )
    upstream.scripts["tools"] = Script(raw=raw)
    said = (await say(house, "openai.tools", "up/tools"))["said"]
    assert [(one["name"], json.loads(one["arguments"])) for one in said] == [("weather", {"city": "Köln"})]
    assert (await house.record()).charge_microcredits == FARE


async def test_openai_responses(kept: House, say: Say) -> None:
    said = (await say(kept, "openai.responses"))["said"]
    assert (said["usage"]["output_tokens"], said["first"], said["last"]) == (
        5,
        "response.created",
        "response.completed",
    )
    assert [record.charge_microcredits for record in await kept.records()] == [FARE, FARE]


async def test_openai_embeddings(house: House, say: Say, upstream: Scripted) -> None:
    """It asks for base64 by itself, and decodes it."""
    vector = base64.b64encode(struct.pack("<2f", 0.5, -1.0)).decode()
    data = [{"object": "embedding", "index": at, "embedding": vector} for at in (0, 1)]
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    upstream.scripts["e"] = Script(raw=(json.dumps({"object": "list", "data": data, "model": "e", "usage": usage}),))
    said = (await say(house, "openai.embeddings", "up/e"))["said"]
    assert (said["vectors"], said["numbers"]) == (2, "number")
    assert (await house.record()).charge_microcredits == 7 * INPUT


async def test_openai_errors_are_its_own(house: House, say: Say) -> None:
    bad_key = await say(house, "openai.plain", key="fg_live_wrong")
    unknown = await say(house, "openai.plain", "no/such")
    assert (bad_key["error"], bad_key["status"]) == ("AuthenticationError", 401)
    assert (unknown["error"], unknown["body"]["code"]) == ("NotFoundError", "model_not_found")


async def test_openai_does_not_try_again_without_credit(house: House, say: Say, upstream: Scripted) -> None:
    poor = await house.caller(1000)
    refused = await say(house, "openai.plain", key=poor.secret, retries=5)
    assert (refused["status"], refused["body"]["code"], upstream.served) == (402, "insufficient_credits", [])
    assert (
        house.runtime.metrics.registry.get_sample_value("faregate_refused_total", {"code": "insufficient_credits"}) == 1
    )


async def test_openai_s_own_retry_is_charged_once(open_house: Open, say: Say, upstream: Scripted) -> None:
    house = await open_house(providers__up={"retries": 0})
    upstream.scripts["m"] = Script(status=503)
    refused = await say(house, "openai.plain", retries=1)
    assert (refused["status"], len(upstream.served), await house.records()) == (502, 2, [])


async def test_anthropic_plain_and_stream(claudes: House, say: Say) -> None:
    plain = (await say(claudes, "anthropic.plain", "up/claude-sonnet-4-5"))["said"]
    streamed = (await say(claudes, "anthropic.stream", "up/claude-sonnet-4-5"))["said"]
    assert (plain["text"], plain["usage"]["output_tokens"]) == ("hello there", 5)
    assert (streamed["text"].strip(), streamed["usage"]["output_tokens"]) == ("hello there", 5)
    assert [record.charge_microcredits for record in await claudes.records()] == [105_000, 105_000]


async def test_anthropic_tools(claudes: House, claude: Claude, say: Say) -> None:
    call = {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Köln"}}
    claude.turn = Turn(content=[call], stop_reason="tool_use")
    said = (await say(claudes, "anthropic.tools", "up/claude-sonnet-4-5"))["said"]
    assert said == [{"name": "weather", "input": {"city": "Köln"}}]


async def test_anthropic_errors_are_its_own(claudes: House, claude: Claude, say: Say) -> None:
    poor = await claudes.caller(1000)
    bad_key = await say(claudes, "anthropic.plain", "up/claude-sonnet-4-5", key="fg_live_wrong")
    refused = await say(claudes, "anthropic.plain", "up/claude-sonnet-4-5", key=poor.secret, retries=5)
    assert (bad_key["error"], bad_key["body"]["type"]) == ("AuthenticationError", "error")
    assert (refused["status"], claude.asked) == (402, [])
