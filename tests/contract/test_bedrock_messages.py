"""The real Anthropic SDK in front of Claude on Bedrock: InvokeModel on the wire, Anthropic at the door."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from tests.contract.test_bedrock_chat import CLAUDE, PRICES, configured
from tests.contract.test_bedrock_chat import aws as aws
from tests.contract.test_bedrock_chat import house as house
from tests.story.conftest import Open
from tests.story.house import INPUT, OUTPUT, House
from tests.upstreams.bedrock import API_KEY, Bedrock, Reply, chunk, exception, plain, refusal, stream

MODEL = f"aws/{CLAUDE}"
HI: Any = [{"role": "user", "content": "hi"}]
USAGE = {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
MESSAGE = {
    "id": "msg_bdrk_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-20250514",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": USAGE,
}
METRICS = {"inputTokenCount": 10, "outputTokenCount": 5, "invocationLatency": 7, "firstByteLatency": 3}
EVENTS: list[dict[str, object]] = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "usage": {**USAGE, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hel"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop", "amazon-bedrock-invocationMetrics": METRICS},
]


def told(*, until: int | None = None, more: bytes = b"", cut: bool = False) -> Reply:
    return stream(*[chunk(event) for event in EVENTS[:until]], *([more] if more else []), cut=cut)


@pytest.fixture
async def client(house: House) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=house.url, api_key=house.me.secret, max_retries=0) as client:
        yield client


async def test_a_plain_call(house: House, client: AsyncAnthropic, aws: Bedrock) -> None:
    aws.replies = [plain(MESSAGE)]
    got = await client.messages.create(model=MODEL, max_tokens=100, messages=HI)
    assert (got.id, got.content[0].type, got.usage.output_tokens) == ("msg_bdrk_1", "text", 5)
    assert got._request_id == "aws-1"
    assert aws.last.path == "/model/global.anthropic.claude-sonnet-4-20250514-v1%3A0/invoke"
    assert aws.last.body == {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 100, "messages": HI}
    assert (await house.record()).charge_microcredits == 10 * INPUT + 5 * OUTPUT


async def test_a_stream(house: House, client: AsyncAnthropic, aws: Bedrock) -> None:
    aws.replies = [told()]
    async with client.messages.stream(model=MODEL, max_tokens=100, messages=HI) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert (text, final.stop_reason, final.usage.output_tokens) == ("hello", "end_turn", 5)
    assert aws.last.operation == "invoke-with-response-stream"
    assert (await house.record()).charge_microcredits == 10 * INPUT + 5 * OUTPUT


async def test_the_events_are_those_anthropic_would_send(house: House, aws: Bedrock) -> None:
    aws.replies = [told()]
    body = {"model": MODEL, "max_tokens": 9, "messages": HI, "stream": True}
    got = await house.http.post("/v1/messages", json=body)
    assert got.headers["content-type"].startswith("text/event-stream")
    sent = [{**event} for event in EVENTS]
    del sent[-1]["amazon-bedrock-invocationMetrics"]
    blocks = [block.split("\ndata: ") for block in got.text.split("\n\n") if block]
    assert [name for name, _ in blocks] == [f"event: {event['type']}" for event in sent]
    assert [json.loads(data) for _, data in blocks] == sent


async def test_betas_go_into_the_body(client: AsyncAnthropic, aws: Bedrock) -> None:
    aws.replies = [plain(MESSAGE)]
    await client.beta.messages.create(model=MODEL, max_tokens=9, messages=HI, betas=["context-1m-2025-08-07"])
    assert aws.last.body["anthropic_beta"] == ["context-1m-2025-08-07"]
    assert "anthropic-beta" not in aws.last.headers


async def test_tokens_are_counted_for_nothing(house: House, client: AsyncAnthropic, aws: Bedrock) -> None:
    aws.replies = [plain({"inputTokens": 42})]
    got = await client.messages.count_tokens(model=MODEL, messages=HI, system="be brief")
    assert got.input_tokens == 42
    asked = json.loads(base64.b64decode(aws.last.body["input"]["invokeModel"]["body"]))
    assert (aws.last.operation, asked["messages"], asked["system"]) == ("count-tokens", HI, "be brief")
    await house.settled()
    assert await house.balance() == 1000 * 1_000_000


async def test_the_cost_is_in_the_last_usage(house: House, aws: Bedrock) -> None:
    aws.replies = [told()]
    body = {"model": MODEL, "max_tokens": 9, "messages": HI, "stream": True}
    got = await house.http.post("/v1/messages", json=body, headers={"x-faregate-include-cost": "true"})
    delta = got.text.partition("event: message_delta\ndata: ")[2].partition("\n")[0]
    assert json.loads(delta)["usage"] == {"output_tokens": 5, "cost_usd": 0.00002, "credits": 0.02}


async def test_the_balance_bounds_the_output(house: House, aws: Bedrock) -> None:
    aws.replies = [plain(MESSAGE)]
    poor = await house.caller(2_000_000)
    body = {"model": MODEL, "max_tokens": 100_000, "messages": HI}
    got = await house.http.post("/v1/messages", json=body, headers={"authorization": f"Bearer {poor.secret}"})
    assert got.status_code == 200, got.text
    assert aws.last.body["max_tokens"] == int(got.headers["x-faregate-output-cap"]) < 1000


# What goes wrong ----------------------------------------------------------------------------------------


async def test_a_refusal_is_in_anthropics_shape(client: AsyncAnthropic, aws: Bedrock) -> None:
    aws.replies = [refusal(400, "ValidationException", "max_tokens: too large")]
    with pytest.raises(anthropic.BadRequestError) as caught:
        await client.messages.create(model=MODEL, max_tokens=100, messages=HI)
    assert caught.value.body == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "max_tokens: too large"},
        "request_id": "aws-1",
    }


async def test_throttling_is_tried_again(open_house: Open, aws: Bedrock) -> None:
    house = await open_house(providers__aws=configured(aws, api_key=API_KEY, retries=1), prices=PRICES)
    aws.replies = [refusal(429, "ThrottlingException", "slow"), plain(MESSAGE)]
    got = await house.http.post("/v1/messages", json={"model": MODEL, "max_tokens": 9, "messages": HI})
    assert (got.status_code, len(aws.asked)) == (200, 2)


async def test_an_exception_in_a_stream_is_an_error_event(house: House, client: AsyncAnthropic, aws: Bedrock) -> None:
    aws.replies = [told(until=4, more=exception("modelStreamErrorException", "broke"))]
    with pytest.raises(anthropic.APIStatusError, match="broke"):
        async with client.messages.stream(model=MODEL, max_tokens=100, messages=HI) as stream:
            await stream.get_final_message()
    record = await house.record()
    assert (record.outcome, record.estimated) == ("upstream_error", True)


@pytest.mark.parametrize("until", [4, 6])
async def test_a_cut_stream_has_no_end(house: House, aws: Bedrock, until: int) -> None:
    aws.replies = [told(until=until, cut=True)]
    body = {"model": MODEL, "max_tokens": 9, "messages": HI, "stream": True}
    got = await house.http.post("/v1/messages", json=body)
    assert "message_stop" not in got.text
    assert "event: error" in got.text
    assert (await house.record()).estimated == (until == 4)


async def test_a_model_that_is_not_claude_is_refused(house: House) -> None:
    body = {"model": "aws/amazon.nova-pro-v1:0", "max_tokens": 9, "messages": HI}
    got = await house.http.post("/v1/messages", json=body)
    assert (got.status_code, got.json()["error"]["type"]) == (400, "invalid_request_error")
