from __future__ import annotations

import base64
import struct
from typing import Any

import orjson
import pytest

from faregate.core.call import Call, Candidate
from faregate.errors import UpstreamError
from faregate.meter import meter_for
from faregate.providers.sandbox import CARD, OPTIONS, SandboxProvider
from faregate.providers.upstream import Upstream


def call(endpoint: str = "chat.completions", **body: Any) -> Call:
    prompt = {"messages": [{"role": "user", "content": "hello"}]} if endpoint == "chat.completions" else {}
    body = {"model": "sandbox", **prompt, **body}
    return Call(
        id="h",
        request_id="r",
        endpoint=endpoint,
        model="sandbox",
        body=body,
        raw_body=orjson.dumps(body),
        stream=body.get("stream") is True,
        wants_usage=True,
        account_id="a",
    )


async def answer(asked: Call, cap: int | None = None) -> tuple[int, bytes]:
    place = Candidate(provider="sandbox", kind="sandbox", model=str(asked.body["model"]), card=CARD)
    got = await SandboxProvider(OPTIONS, Upstream(), meter_for).send(asked, place, cap)
    return got.status, b"".join([chunk async for chunk in got.chunks()])


async def plain(asked: Call, cap: int | None = None) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads((await answer(asked, cap))[1])
    return body


async def test_the_same_request_gets_the_same_bytes() -> None:
    assert await answer(call()) == await answer(call())
    assert await answer(call()) != await answer(call(seed=1))


async def test_as_many_words_as_asked_for_are_as_many_tokens() -> None:
    body = await plain(call(messages=[{"role": "user", "content": "Write 30 words"}]))
    assert len(body["choices"][0]["message"]["content"].split()) == 30
    assert body["usage"]["completion_tokens"] == 30
    assert body["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(("bound", "cap"), [({"max_tokens": 4}, None), ({}, 4), ({"max_tokens": 40}, 4)])
async def test_the_output_bound_is_obeyed(bound: dict[str, Any], cap: int | None) -> None:
    body = await plain(call(messages=[{"role": "user", "content": "Write 30 words"}], **bound), cap)
    assert (body["usage"]["completion_tokens"], body["choices"][0]["finish_reason"]) == (4, "length")


async def test_every_choice_is_counted() -> None:
    body = await plain(call(n=3, max_tokens=5))
    assert (len(body["choices"]), body["usage"]["completion_tokens"]) == (3, 15)


async def test_a_stream_says_what_the_plain_answer_says() -> None:
    whole = await plain(call(max_tokens=9))
    _, stream = await answer(call(max_tokens=9, stream=True, stream_options={"include_usage": True}))
    events = [orjson.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: {")]
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events if event["choices"])
    assert len(text.split()) == len(whole["choices"][0]["message"]["content"].split()) == 9
    assert events[-1]["usage"] == whole["usage"]
    assert stream.endswith(b"data: [DONE]\n\n")


async def test_completions_have_their_default_bound() -> None:
    body = await plain(call("completions", prompt="Write 99 words"))
    assert (body["object"], body["usage"]["completion_tokens"]) == ("text_completion", 16)


async def test_embeddings_have_a_vector_for_each_input() -> None:
    body = await plain(call("embeddings", input=["a", "b"], dimensions=8))
    assert [len(row["embedding"]) for row in body["data"]] == [8, 8]
    assert body["usage"] == {"prompt_tokens": 2, "total_tokens": 2}


async def test_embeddings_in_base64_are_little_endian_floats() -> None:
    numbers = await plain(call("embeddings", input="a", dimensions=4))
    packed = await plain(call("embeddings", input="a", dimensions=4, encoding_format="base64"))
    got = struct.unpack("<4f", base64.b64decode(packed["data"][0]["embedding"]))
    assert list(got) == numbers["data"][0]["embedding"]


@pytest.mark.parametrize(("model", "status"), [("sandbox-error-500", 500), ("sandbox-error-429", 429)])
async def test_error_models_fail_as_named(model: str, status: int) -> None:
    got, body = await answer(call(model=model))
    assert got == status
    assert b'"error"' in body


@pytest.mark.parametrize("stream", [True, False])
async def test_the_cut_model_breaks_off(stream: bool) -> None:
    with pytest.raises(UpstreamError):
        await answer(call(model="sandbox-cut", stream=stream))


async def test_an_aborted_answer_stops() -> None:
    place = Candidate(provider="sandbox", kind="sandbox", model="sandbox", card=CARD)
    got = await SandboxProvider(OPTIONS, Upstream(), meter_for).send(call(stream=True), place, None)
    chunks = got.chunks()
    await anext(chunks)
    got.abort()
    with pytest.raises(UpstreamError):
        await anext(chunks)


async def test_its_usage_is_read_by_the_meter() -> None:
    asked = call(stream=True, max_tokens=7, stream_options={"include_usage": True})
    place = Candidate(provider="sandbox", kind="sandbox", model="sandbox", card=CARD)
    provider = SandboxProvider(OPTIONS, Upstream(), meter_for)
    got = await provider.send(asked, place, None)
    meter = provider.meter(asked, got)
    async for chunk in got.chunks():
        meter.feed(chunk)
    usage = meter.reading(200, got.headers).usage
    assert usage is not None
    assert usage.output_tokens == 7


async def test_messages_are_said_in_anthropics_words() -> None:
    asked = {"system": "Be brief.", "messages": [{"role": "user", "content": "Write 30 words"}], "max_tokens": 40}
    body = await plain(call("messages", **asked))
    assert len(body["content"][0]["text"].split()) == 30
    assert (body["usage"]["output_tokens"], body["stop_reason"]) == (30, "end_turn")
    counted = await plain(call("messages.count_tokens", **asked))
    assert counted == {"input_tokens": body["usage"]["input_tokens"]}


async def test_streamed_messages_obey_their_bound() -> None:
    asked = call("messages", messages=[{"role": "user", "content": "Write 30 words"}], max_tokens=9, stream=True)
    place = Candidate(provider="sandbox", kind="sandbox", model="sandbox", card=CARD)
    provider = SandboxProvider(OPTIONS, Upstream(), meter_for)
    got = await provider.send(asked, place, 4)
    meter = provider.meter(asked, got)
    passed = b"".join([meter.feed(chunk) async for chunk in got.chunks()])
    reading = meter.reading(200, {})
    assert reading.usage is not None
    assert (reading.usage.output_tokens, reading.complete) == (4, True)
    assert passed.count(b"text_delta") == 4
    assert meter.finish(None, 0) == b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
