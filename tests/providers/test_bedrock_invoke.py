from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

import orjson
import pytest

from faregate.core.call import Call
from faregate.core.price import Cost
from faregate.core.usage import Reading
from faregate.errors import UpstreamError
from faregate.providers.bedrock_invoke import CountTranslator, MessagesTranslator, body_of

METRICS = {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 3, "outputTokenCount": 1}}
COST = Cost(usd=Decimal("0.5"), lines=())


def call(body: dict[str, Any], **headers: str) -> Call:
    return Call(
        id="call_1",
        request_id="r",
        endpoint="messages",
        model="m",
        body=body,
        raw_body=orjson.dumps(body),
        stream=True,
        wants_usage=False,
        account_id="a",
        forward_headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def wrapped(said: object) -> bytes:
    inner = said if isinstance(said, bytes) else orjson.dumps(said)
    return orjson.dumps({"bytes": base64.b64encode(inner).decode(), "p": "abc"})


def translator(status: int = 200, wants_cost: bool = False, **headers: str) -> MessagesTranslator:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return MessagesTranslator(status, named, wants_cost=wants_cost)


def test_the_body_names_neither_model_nor_stream() -> None:
    body = {"model": "m", "stream": True, "max_tokens": 9, "messages": [], "service_tier": "auto"}
    assert json.loads(body_of(call(body), None)) == {
        "max_tokens": 9,
        "messages": [],
        "anthropic_version": "bedrock-2023-05-31",
    }


def test_betas_of_header_and_body_each_once() -> None:
    sent = body_of(call({"anthropic_beta": ["b", "c"]}, anthropic_beta="a, b,"), None)
    assert json.loads(sent)["anthropic_beta"] == ["a", "b", "c"]


@pytest.mark.parametrize(("asked", "cap", "sent"), [(100, 7, 7), (5, 7, 5), (5, None, 5)])
def test_the_bound_is_lowered_never_raised(asked: int, cap: int | None, sent: int) -> None:
    assert json.loads(body_of(call({"max_tokens": asked}), cap))["max_tokens"] == sent


def test_events_are_anthropics_byte_for_byte() -> None:
    inner = b'{"type":"content_block_delta","index":0, "delta":{"type":"text_delta","text":"\xc3\xa9"}}'
    assert translator().event("chunk", wrapped(inner)) == b"event: content_block_delta\ndata: " + inner + b"\n\n"


def test_the_last_event_waits_and_comes_without_bedrocks_metrics() -> None:
    made = translator()
    assert made.event("chunk", wrapped({"type": "message_stop", **METRICS})) == b""
    assert made.end(Reading(), COST, 1) == b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def test_who_wants_the_cost_finds_it_in_the_last_usage() -> None:
    made = translator(wants_cost=True)
    assert made.event("chunk", wrapped({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 1}})) == b""
    made.event("chunk", wrapped({"type": "message_stop"}))
    first, second = made.end(Reading(), COST, 1_500_000).decode().split("\n\n")[:2]
    assert json.loads(first.partition("data: ")[2])["usage"] == {"output_tokens": 1, "cost_usd": 0.5, "credits": 1.5}
    assert second.startswith("event: message_stop")


def test_a_line_break_inside_an_event_does_not_break_it() -> None:
    assert translator().event("chunk", wrapped(b'{\n"type": "ping"\r\n}')) == b'event: ping\ndata: {"type":"ping"}\n\n'


def test_an_exception_is_an_error_event() -> None:
    said = translator().event("!modelStreamErrorException", b'{"message": "no"}')
    assert said == b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"no"}}\n\n'


@pytest.mark.parametrize("payload", [b"{}", b"[]", b"", b'{"bytes": "!"}', b'{"bytes": 1}', wrapped([]), wrapped(b"{")])
def test_what_cannot_be_read_breaks_the_stream(payload: bytes) -> None:
    with pytest.raises(UpstreamError, match="cannot be read"):
        translator().event("chunk", payload)


def test_a_whole_answer_is_claudes_own() -> None:
    assert translator().body(b'{"id": "msg_1"}', Reading(complete=True)) == b'{"id": "msg_1"}'


def test_what_is_no_json_is_no_answer_of_claudes() -> None:
    with pytest.raises(UpstreamError, match="not valid JSON"):
        translator().body(b"<html>", Reading())


def test_a_refusal_is_anthropics() -> None:
    made = translator(400, x_amzn_errortype="ValidationException:http://x", x_amzn_requestid="r1")
    assert json.loads(made.body(b'{"message": "no arn:aws:bedrock:us-east-1:123456789012:x"}', Reading())) == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "no arn:aws:bedrock:us-east-1:[redacted]:x"},
        "request_id": "r1",
    }


def test_a_count() -> None:
    made = CountTranslator(200, {}, wants_cost=False)
    assert made.body(b'{"inputTokens": 7}', Reading()) == b'{"input_tokens":7}'


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"inputTokens": "7"}'])
def test_a_count_that_is_none(body: bytes) -> None:
    with pytest.raises(UpstreamError, match="cannot be read"):
        CountTranslator(200, {}, wants_cost=False).body(body, Reading())
