"""Anthropic's Messages API on Bedrock: InvokeModel takes the same body, with three fields moved.

`model` stands in the path, `stream` in the operation's name, the `anthropic-beta` header in the body. A stream's
events are Anthropic's own, each in the base64 of an AWS frame; they go to the client as Anthropic would send them.
Source: docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import orjson

from faregate.core.call import Call
from faregate.core.money import credits, plain
from faregate.core.price import Cost
from faregate.core.usage import Reading
from faregate.errors import UpstreamError
from faregate.providers import bedrock_errors as errors
from faregate.providers.anthropic import capped

VERSION = "bedrock-2023-05-31"

_MOVED = frozenset({"model", "stream", "service_tier"})
"""Bedrock refuses what it does not know; its tiers are named by a header of its own."""
_METRICS = "amazon-bedrock-invocationMetrics"


def body_of(call: Call, output_cap: int | None) -> bytes:
    """The body of InvokeModel for a call of /v1/messages. Raises InvalidRequest when thinking does not fit the cap."""
    body = {name: value for name, value in call.body.items() if name not in _MOVED}
    body["anthropic_version"] = VERSION
    if betas := _betas(call):
        body["anthropic_beta"] = betas
    if output_cap is not None:
        body |= capped(call.body, output_cap)
    return orjson.dumps(body)


def count_body_of(call: Call) -> bytes:
    """The body of CountTokens: an InvokeModel's, which must have a bound, in base64."""
    inner = orjson.loads(body_of(call, None))
    inner.setdefault("max_tokens", 1)
    return orjson.dumps({"input": {"invokeModel": {"body": base64.b64encode(orjson.dumps(inner)).decode()}}})


def _betas(call: Call) -> list[str]:
    """Those of the header and of the body, each once, in order."""
    named = [name.strip() for name in call.forward_headers.get("anthropic-beta", "").split(",")]
    given = call.body.get("anthropic_beta")
    inside = [name for name in given if isinstance(name, str)] if isinstance(given, list) else []
    return list(dict.fromkeys(name for name in (*named, *inside) if name))


class MessagesTranslator:
    """ports.Translator from InvokeModel's answers to Anthropic's. Kept for the end: the event that ends the stream."""

    def __init__(self, status: int, headers: Mapping[str, str], *, wants_cost: bool) -> None:
        self._status = status
        self._headers = headers
        self._wants_cost = wants_cost
        self._usage: dict[str, Any] | None = None
        self._last: list[bytes] = []

    def event(self, name: str, data: bytes) -> bytes:
        """One frame as Anthropic's event; an exception as its `error`."""
        if name.startswith("!"):
            return _sse("error", orjson.dumps(errors.of_frame(name[1:], data).anthropic()))
        said, inner = _inner(data)
        kind = str(said.get("type", ""))
        event = _sse(kind, inner)
        if kind == "message_delta" and self._wants_cost:
            self._usage = said
            return b""
        if kind == "message_stop":
            self._last.append(event)
            return b""
        return b"" if self._last else event

    def end(self, reading: Reading, cost: Cost | None, charge_microcredits: int) -> bytes:
        """What was kept for the end."""
        if self._usage is not None:
            self._last.insert(0, _sse("message_delta", _with_cost(self._usage, cost, charge_microcredits)))
        return b"".join(self._last)

    def body(self, data: bytes, reading: Reading) -> bytes:
        """Claude's own JSON as it came; an error in Anthropic's shape. Raises UpstreamError for what is no JSON."""
        if self._status < 400:
            if not reading.complete:
                raise UpstreamError("the provider's answer is not valid JSON")
            return data
        error = errors.of_answer(self._status, self._headers, data)
        return orjson.dumps(error.anthropic(self._headers.get("x-amzn-requestid")))


class CountTranslator(MessagesTranslator):
    """From CountTokens' answers to those of /v1/messages/count_tokens."""

    def body(self, data: bytes, reading: Reading) -> bytes:
        """`{"input_tokens": n}`, or an error in Anthropic's shape."""
        if self._status >= 400:
            return super().body(data, reading)
        try:
            counted = orjson.loads(data)["inputTokens"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            counted = None
        if not isinstance(counted, int):
            raise UpstreamError("the provider's count cannot be read")
        return orjson.dumps({"input_tokens": counted})


def _inner(payload: bytes) -> tuple[dict[str, Any], bytes]:
    """The event in a frame, read and as it came; Bedrock's own metrics taken out of it."""
    try:
        inner = base64.b64decode(orjson.loads(payload)["bytes"], validate=True)
        said = orjson.loads(inner)
    except (orjson.JSONDecodeError, binascii.Error, KeyError, TypeError, ValueError):
        said = None
    if not isinstance(said, dict):
        raise UpstreamError("the provider's stream has an event that cannot be read")
    if said.pop(_METRICS, None) is not None or b"\n" in inner or b"\r" in inner:
        inner = orjson.dumps(said)
    return said, inner


def _with_cost(event: dict[str, Any], cost: Cost | None, charge_microcredits: int) -> bytes:
    if cost is None:
        return orjson.dumps(event)
    exact = {
        "cost_usd": orjson.Fragment(f"{plain(cost.usd):f}"),
        "credits": orjson.Fragment(f"{credits(charge_microcredits):f}"),
    }
    return orjson.dumps({**event, "usage": {**event.get("usage", {}), **exact}})


def _sse(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
