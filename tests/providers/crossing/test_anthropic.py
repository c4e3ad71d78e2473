"""Chat completions over Anthropic's messages: what is asked, and how answers are read."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from faregate.errors import InvalidRequest
from faregate.providers.crossing.anthropic import AnthropicCrossing, within
from tests.providers.crossing.parts import HI, candidate, chat, chunks, meter, sse

MODEL = "claude-sonnet-4-5"
START = {
    "type": "message_start",
    "message": {"id": "msg_1", "model": MODEL, "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}},
}
STOP = {"type": "message_stop"}


async def asked(cap: int | None = None, **body: Any) -> dict[str, Any]:
    """What goes upstream."""
    return (await AnthropicCrossing().request(chat(**body), candidate("anthropic", MODEL), cap)).body


async def streamed(*events: dict[str, Any], usage: bool = False, **body: Any) -> list[Any]:
    """What a client gets for these events."""
    crossing = AnthropicCrossing()
    call = chat(stream=True, stream_options={"include_usage": usage}, **body)
    crossed = await crossing.request(call, candidate("anthropic", MODEL), None)
    tap = meter(crossing, call, crossed, kind="anthropic", endpoint="messages")
    return chunks(tap.feed(sse(events)) + tap.finish(None, 0))


def delta(index: int, **said: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": said}


def begun(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def ended(reason: str) -> list[dict[str, Any]]:
    return [{"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 4}}, STOP]


async def test_text_and_bound() -> None:
    assert await asked(max_tokens=50, stop="x") == {
        "model": MODEL,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "max_tokens": 50,
        "stop_sequences": ["x"],
    }


async def test_the_bound_is_the_cards_without_the_clients() -> None:
    assert (await asked())["max_tokens"] == 1000
    assert (await asked(cap=70))["max_tokens"] == 70
    assert (await asked(cap=70, max_completion_tokens=30))["max_tokens"] == 30


@pytest.mark.parametrize(
    ("budget", "most", "left"), [(2000, 4000, 2000), (4000, 4000, 2000), (4000, 1500, 1024), (4000, 1024, None)]
)
def test_thinking_stays_below_the_bound(budget: int, most: int, left: int | None) -> None:
    thinking = within({"type": "enabled", "budget_tokens": budget}, most)
    assert (thinking and thinking["budget_tokens"]) == left


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"reasoning_effort": "wild"}, "reasoning_effort"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 3}}]}, None),
    ],
)
async def test_what_cannot_be_said_is_refused_in_our_words(options: dict[str, Any], param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await asked(**options)
    assert caught.value.param == param
    assert "litellm" not in caught.value.message.lower()


async def test_developers_and_refusals() -> None:
    no = {"role": "assistant", "content": None, "refusal": "no"}
    made = await asked(messages=[{"role": "developer", "content": "Be brief."}, *HI, no, *HI])
    assert made["system"] == [{"type": "text", "text": "Be brief."}]
    assert made["messages"][1] == {"role": "assistant", "content": [{"type": "text", "text": "no"}]}


async def test_json_without_a_schema_is_asked_for_in_words() -> None:
    assert "JSON object" in (await asked(response_format={"type": "json_object"}))["system"][0]["text"]


async def test_names_that_anthropic_does_not_allow_come_back_as_they_were() -> None:
    tool = {"type": "function", "function": {"name": "files/read.one", "parameters": {"type": "object"}}}
    made = await asked(tools=[tool])
    name = made["tools"][0]["name"]
    got = await streamed(
        START, begun(0, type="tool_use", id="t", name=name, input={}), *ended("tool_use"), tools=[tool]
    )
    assert name != "files/read.one"
    assert got[1]["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "files/read.one"


async def test_a_call_is_not_changed_by_its_crossing() -> None:
    call = chat(messages=[{"role": "developer", "content": "x"}, *HI], tools=[])
    before = orjson.dumps(call.body)
    await AnthropicCrossing().request(call, candidate("anthropic", MODEL), 5)
    assert orjson.dumps(call.body) == before


async def test_a_stream_of_text() -> None:
    got = await streamed(
        START, begun(0, type="text", text=""), delta(0, type="text_delta", text="a\u2028b"), *ended("end_turn")
    )
    assert [chunk["choices"][0]["delta"] for chunk in got[:-1]] == [
        {"role": "assistant", "content": ""},
        {"content": "a\u2028b"},
        {},
    ]
    assert got[-2]["choices"][0]["finish_reason"] == "stop"
    assert got[-1] == "[DONE]"


async def test_the_usage_chunk_is_what_was_metered() -> None:
    got = await streamed(START, *ended("max_tokens"), usage=True)
    assert got[-2]["choices"] == []
    assert (got[-2]["usage"]["prompt_tokens"], got[-2]["usage"]["completion_tokens"]) == (9, 4)
    assert got[-3]["choices"][0]["finish_reason"] == "length"


async def test_parallel_tool_calls_keep_their_index() -> None:
    got = await streamed(
        START,
        begun(0, type="server_tool_use", id="srv", name="web_search", input={}),
        delta(0, type="input_json_delta", partial_json="{}"),
        {"type": "content_block_stop", "index": 0},
        begun(1, type="tool_use", id="t1", name="f", input={}),
        delta(1, type="input_json_delta", partial_json='{"a":'),
        delta(1, type="input_json_delta", partial_json="1}"),
        {"type": "content_block_stop", "index": 1},
        begun(2, type="tool_use", id="t2", name="g", input={}),
        {"type": "content_block_stop", "index": 2},
        *ended("tool_use"),
    )
    calls = [call for chunk in got[1:-2] for call in chunk["choices"][0]["delta"]["tool_calls"]]
    assert [(call["index"], call.get("id"), call["function"]["arguments"]) for call in calls] == [
        (0, "t1", ""),
        (0, None, '{"a":'),
        (0, None, "1}"),
        (1, "t2", ""),
        (1, None, "{}"),
    ]
    assert got[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_an_error_event_is_one_in_openais_shape() -> None:
    got = await streamed(START, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}})
    assert got[-1] == {
        "error": {"message": "busy", "type": "overloaded_error", "param": None, "code": "overloaded_error"}
    }


async def test_an_answer_that_filled_the_window_was_cut_off() -> None:
    got = await streamed(START, *ended("model_context_window_exceeded"))
    assert got[-2]["choices"][0]["finish_reason"] == "length"


async def test_a_plain_answer() -> None:
    crossing, call = AnthropicCrossing(), chat()
    crossed = await crossing.request(call, candidate("anthropic", MODEL), None)
    tap = meter(crossing, call, crossed, kind="anthropic", endpoint="messages")
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "hello"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ]
    usage = {"input_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2, "output_tokens": 4}
    answer = {"id": "msg_1", "model": MODEL, "content": content, "stop_reason": "tool_use", "usage": usage}
    tap.feed(orjson.dumps(answer))
    got = orjson.loads(tap.finish(None, 0))
    message = got["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("hello", "hm")
    assert message["thinking_blocks"] == [{"type": "thinking", "thinking": "hm", "signature": "s"}]
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert got["choices"][0]["finish_reason"] == "tool_calls"
    assert (got["usage"]["prompt_tokens"], got["usage"]["total_tokens"]) == (10, 14)
    assert got["usage"]["prompt_tokens_details"]["cached_tokens"] == 3
    assert got["usage"]["prompt_tokens_details"]["cache_creation_tokens"] == 2
