"""The tap: byte-exact but for the one chunk, the end kept back, nothing depends on how the bytes were cut."""

from __future__ import annotations

import json
import re
import tracemalloc
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faregate.meter import StreamMeter
from faregate.meter.dialects.openai import OpenAIReader
from faregate.meter.framing import SseFraming
from faregate.meter.reader import Source
from tests.meter.support import (
    DONE,
    STREAM,
    USAGE_CHUNK,
    chat,
    chunk,
    cost_of,
    cut,
    delta,
    run,
    single_bytes,
    usage,
)


def test_complete_events_come_back_as_the_same_object() -> None:
    meter = chat()
    meter.feed(delta("warm"))  # the first one is read for the model's name
    network_chunk = delta("a", usage=None) + delta("b", usage=None)
    assert meter.feed(network_chunk) is network_chunk
    assert meter.events == 3


def test_done_waits_for_the_charge() -> None:
    passed, last, reading = run(chat(), [STREAM])
    assert (passed, last) == (STREAM.removesuffix(DONE), DONE)
    assert reading.complete
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (19, 2)


@pytest.mark.parametrize(
    "end", [b"data:[DONE]\n\n", b"data: [DONE] \r\n\r\n", b"event: done\ndata: [DONE]\n\n", b"data: [DONE]"]
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_every_spelling_of_done_is_kept_back(end: bytes, bytewise: bool) -> None:
    stream = delta("hi") + end
    passed, last, reading = run(chat(), single_bytes(stream) if bytewise else [stream])
    assert (passed, last) == (delta("hi"), end)
    assert reading.complete


def test_what_follows_done_waits_too_and_does_not_count() -> None:
    passed, last, reading = run(chat(), [STREAM, chunk(choices=[], usage=usage(999, 999))])
    assert passed + last == STREAM + chunk(choices=[], usage=usage(999, 999))
    assert reading.usage is not None
    assert reading.usage.input_tokens == 19


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_the_injected_chunk_is_taken_out(bytewise: bool, line_end: bytes) -> None:
    stream, extra = STREAM.replace(b"\n", line_end), USAGE_CHUNK.replace(b"\n", line_end)
    meter = chat(drop_usage_chunk=True)
    passed, last, reading = run(meter, single_bytes(stream) if bytewise else [stream])
    assert passed + last == stream.replace(extra, b"")
    assert b'"usage":null' in passed
    assert reading.usage is not None


def test_only_the_extra_chunk_is_taken_out() -> None:
    azure_first = chunk(choices=[], model="", prompt_filter_results=[{"prompt_index": 0}])
    deepseek_last = delta("", "stop", usage=usage(11, 11))
    groq = delta("", "stop", x_groq={"usage": usage(1, 2)})
    stream = azure_first + delta("hi") + groq + deepseek_last
    passed, last, reading = run(chat(drop_usage_chunk=True), [stream + DONE])
    assert (passed, last) == (stream, DONE)
    assert reading.model == "gpt-4.1-mini-2025-04-14"


def test_the_client_finds_its_cost_in_the_usage_chunk() -> None:
    meter = chat(wants_cost=True)
    passed, last, _ = run(meter, [STREAM], cost_of("0.00000012345678901234567890"), 1_234_567)
    assert passed == STREAM.removesuffix(USAGE_CHUNK + DONE)
    assert last.endswith(DONE)
    told = json.loads(last.splitlines()[0].removeprefix(b"data: "), parse_float=Decimal)["usage"]
    assert told == {
        **usage(19, 2),
        "cost_usd": Decimal("0.0000001234567890123456789"),
        "credits": Decimal("1.234567"),
    }


def test_without_a_price_the_usage_chunk_is_left_alone() -> None:
    passed, last, _ = run(chat(wants_cost=True), [STREAM])
    assert passed + last == STREAM


def test_cost_goes_onto_a_finish_chunk_that_carries_the_usage() -> None:
    finish = delta("", "stop", usage=usage(1, 2))
    passed, last, _ = run(chat("deepseek", wants_cost=True), [delta("a") + finish + DONE], cost_of("1"), 5)
    assert passed == delta("a")
    assert b'"cost_usd":1,"credits":0.000005}' in last


def test_text_after_a_placeholder_usage_does_not_wait() -> None:
    early = chunk(choices=[], usage=usage(19, 0))
    meter = chat(wants_cost=True)
    assert meter.feed(early) == b""
    assert meter.feed(delta("a")) == early + delta("a")


def test_a_truncated_tail_is_not_forwarded() -> None:
    passed, last, reading = run(chat(), [delta("hi"), b'data: {"choices":[{"del'])
    assert (passed, last) == (delta("hi"), b"")
    assert not reading.complete


def test_a_last_event_that_lacks_only_its_blank_line_counts_and_passes() -> None:
    passed, last, reading = run(chat(), [delta("hi"), USAGE_CHUNK.rstrip()])
    assert passed + last == delta("hi") + USAGE_CHUNK.rstrip()
    assert reading.usage is not None


def test_reading_in_mid_stream_changes_nothing() -> None:
    meter = chat()
    meter.feed(delta("hi") + USAGE_CHUNK.rstrip())
    assert meter.reading(200, {}) == meter.reading(200, {})
    assert meter.events == 1


def test_an_unterminated_delta_is_counted_once() -> None:
    meter = chat()
    meter.feed(delta("hi").rstrip())
    assert [meter.reading(200, {}).delivered_tokens for _ in range(3)] == [1, 1, 1]
    meter.feed(b"\n\n")
    assert meter.reading(200, {}).delivered_tokens == 1


def test_an_error_is_never_dropped_with_its_usage() -> None:
    stream = chunk(choices=[], usage=usage(1, 1), error={"code": 502, "message": "m"})
    passed, _, reading = run(chat(drop_usage_chunk=True), [stream])
    assert passed == stream
    assert reading.error is not None


def test_a_provider_without_done_ends_with_its_finish_reason() -> None:
    finish = delta("x", "stop", usage=usage(26, 3))
    _passed, last, reading = run(chat("perplexity"), [delta("x", usage=usage(26, 1)), finish])
    assert last == finish
    assert reading.complete


def test_an_oversized_event_passes_unread_and_is_noted() -> None:
    stream = delta("x" * 200) + STREAM
    meter = StreamMeter(OpenAIReader(Source(kind="openai", endpoint="chat.completions")), SseFraming(200))
    passed, last, reading = run(meter, single_bytes(stream))
    assert passed + last == stream
    assert meter.oversized_events == 1
    assert reading.usage is not None


def test_comments_are_no_events_but_pass_at_once() -> None:
    meter = chat()
    assert meter.feed(b": keep-alive\n\n") == b": keep-alive\n\n"
    assert meter.events == 0


def test_a_json_answer_to_a_stream_request_is_a_plain_body() -> None:
    body = b'\n {"error":{"message":"no","type":"insufficient_quota","code":"insufficient_quota"}}\n\n'
    meter = chat()
    passed = b"".join(map(meter.feed, single_bytes(body)))
    reading = meter.reading(429, {})
    assert passed + meter.finish(None, 0) == body
    assert reading.error is not None
    assert (reading.error.status, reading.error.code, reading.billable) == (429, "insufficient_quota", False)


def test_delivered_tokens_are_deltas_or_a_quarter_of_the_bytes() -> None:
    short, long = chat(), chat()
    for _ in range(5):
        short.feed(delta("a"))
    long.feed(delta("x" * 41))
    assert short.reading(200, {}).delivered_tokens == 5
    assert long.reading(200, {}).delivered_tokens == 11


def test_escapes_are_not_counted_as_text() -> None:
    meter = chat()
    meter.feed(b'data: {"choices":[{"delta":{"content":"' + b"\\u20ac" * 40 + b'"}}]}\n\n')
    assert meter.reading(200, {}).delivered_tokens == 30


def test_memory_is_bounded_on_a_long_stream() -> None:
    meter, event = chat(), delta("x" * 1000, usage=None)
    block = event * 50
    meter.feed(event)
    tracemalloc.start()
    for _ in range(50_000_000 // len(block)):
        meter.feed(block)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


EVENTS = [
    delta("Hé\u2028llo", usage=None),
    delta("x").replace(b"\n", b"\r\n"),
    delta("y").replace(b"\n", b"\r"),
    delta("z").replace(b"data: ", b"data:"),
    b'data: {\ndata: "usage": {"prompt_tokens": 3, "completion_tokens": 1}, "choices": [{}]}\n\n',
    b": keep-alive\n\n",
    b"\n",
    b"data: not json\n\n",
    b'event: error\ndata: {"message":"x"}\n\n',
    delta("", "stop", usage=usage(11, 7)),
    USAGE_CHUNK,
    USAGE_CHUNK.replace(b"\n", b"\r\n"),
    DONE,
    b'data: {"error":{"message":"m","code":502}}\n\n',
    b"\xff\xfe\x00",
    b"data: [DONE]",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(EVENTS), max_size=8), st.booleans(), st.data())
def test_any_split_of_any_stream_gives_the_same(events: list[bytes], drop: bool, data: st.DataObject) -> None:
    stream = b"".join(events)
    chunks = cut(stream, data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    one, other = chat(drop_usage_chunk=drop), chat(drop_usage_chunk=drop)
    passed, last, reading = run(one, chunks)
    passed_whole, last_whole, reading_whole = run(other, [stream])
    assert passed + last == passed_whole + last_whole
    assert (reading, one.events) == (reading_whole, other.events)
    if not drop:
        assert stream.startswith(passed + last)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.data())
def test_any_bytes_pass_in_order(stream: bytes, data: st.DataObject) -> None:
    chunks = cut(stream, data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    passed, last, reading = run(chat(), chunks)
    assert stream.startswith(passed + last)
    assert reading.usage is None or (reading.usage.input_tokens or 0) >= 0


@given(st.lists(st.text(alphabet='ab"\\\n\u2028é€', max_size=10), max_size=5), st.data())
def test_dropping_removes_exactly_the_chunk(texts: list[str], data: st.DataObject) -> None:
    stream = b"".join(map(delta, texts)) + USAGE_CHUNK + DONE
    chunks = cut(stream, data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    passed, last, _ = run(chat(drop_usage_chunk=True), chunks)
    assert passed + last == re.sub(re.escape(USAGE_CHUNK), b"", stream)
