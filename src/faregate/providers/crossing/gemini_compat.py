"""Google's OpenAI endpoint behind a chat completion: what may take this way, and what is mended on it.

It takes text, pictures, functions, schemas and reasoning effort, and needs no library. It refuses fields that it does
not know, tells counts only as totals (so not what sound, films or searches are billed by), and its streams repeat
usage in every chunk, leave out the index of tool calls and end them with `stop`. What loses something here goes
Gemini's own way (`crossing/gemini.py`). See docs/decisions/0014-chat-in-front-of-gemini.md.
"""

from __future__ import annotations

import re
from array import array
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from faregate.core.call import Call, Candidate
from faregate.core.price import Cost
from faregate.core.usage import Reading
from faregate.errors import UpstreamError
from faregate.providers.crossing.answers import dump, parsed, sse, told, usage_of
from faregate.providers.crossing.params import NO_MATTER, NOTHING_ASKED, messages_of
from faregate.providers.openai import rewrite

_KNOWN = frozenset(
    {
        *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "stop"),
        *("temperature", "top_p", "tools", "tool_choice", "response_format", "reasoning_effort", "extra_body"),
    }
)
_HINTS = NO_MATTER - {"reasoning_effort", "seed", "service_tier"}
"""Not known there, and not missed. A seed is meant, and a tier has a price."""
_PARTS = frozenset({"text", "image_url", "refusal"})
_SIGNED = re.compile(r"gemini-(?:[3-9]|\d\d)")
"""They refuse tool calls of earlier turns without the signature of the thought that led to them."""
IN_ID = "__thought__"
"""Between a tool call's id and its signature, where a chat went Gemini's own way (`crossing/gemini.py`)."""
_UNSIGNED = {"google": {"thought_signature": "skip_thought_signature_validator"}}
"""Google's own word for a signature that a client has not kept."""


def loses_nothing(call: Call, candidate: Candidate) -> bool:
    """Whether a chat completion is understood there whole, and its answer tells all that its price depends on."""
    body = call.body
    for name, value in body.items():
        asks = value is not None and value not in NOTHING_ASKED.get(name, ())
        if asks and name not in _KNOWN and name not in _HINTS and not _is_default(name, value):
            return False
    tools = body.get("tools") or []
    if not isinstance(tools, list) or any(_type(tool) != "function" for tool in tools):
        return False
    kinds = {part.get("type") for part in _parts(body)}
    priced_apart = any("image_input" in name for name in candidate.card.rates)
    return kinds <= _PARTS and not ("image_url" in kinds and priced_apart)


def _type(value: object) -> object:
    return value.get("type") if isinstance(value, dict) else None


def _is_default(name: str, value: object) -> bool:
    return name == "service_tier" and value in ("auto", "default")


def chat_body(call: Call, candidate: Candidate, output_cap: int | None) -> bytes:
    """The request as Google's endpoint takes it. Raises InvalidRequest naming what is no message."""
    messages_of(call.body)
    body = {name: value for name, value in call.body.items() if name in _KNOWN and value is not None}
    bounds = [value for name in _BOUNDS if isinstance(value := body.pop(name, None), int)]
    if bounds:
        body["max_tokens"] = min(bounds)
    if body.get("tools") == []:
        del body["tools"]
    body["messages"] = _mended(call.body["messages"], signed=_SIGNED.search(candidate.model) is not None)
    asked = replace(call, body=body, raw_body=orjson.dumps(body), wants_usage=True)
    return rewrite(asked, candidate, output_cap)


_BOUNDS = ("max_completion_tokens", "max_tokens")


def embeddings_body(call: Call, candidate: Candidate) -> bytes:
    """Vectors are asked for as numbers: how the client gets them is done here."""
    body = {name: value for name, value in call.body.items() if name not in ("encoding_format", "user")}
    return rewrite(replace(call, body=body, raw_body=orjson.dumps(body)), candidate, None)


def _mended(messages: Any, *, signed: bool) -> list[Any]:
    """Results of tools with the tool's name, which Google wants; calls with a signature."""
    names: dict[object, object] = {}
    out = []
    for message in messages:
        calls = message.get("tool_calls")
        if message.get("role") == "tool" and "name" not in message and message.get("tool_call_id") in names:
            message = {**message, "name": names[message["tool_call_id"]]}
        elif isinstance(calls, list) and calls and all(map(_is_call, calls)):
            names |= {call["id"]: call["function"].get("name") for call in calls}
            message = {**message, "tool_calls": _signed(calls) if signed else calls}
        out.append(message)
    return out


def _is_call(call: object) -> bool:
    return isinstance(call, dict) and isinstance(call.get("id"), str) and isinstance(call.get("function"), dict)


def _signed(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With what the client has kept, what Gemini's own wire has put into the ids, or the word for neither."""
    found = []
    for call in calls:
        _, separator, signature = call["id"].partition(IN_ID)
        if separator and "extra_content" not in call:
            call = {**call, "extra_content": {"google": {"thought_signature": signature}}}
        found.append(call)
    if not any("extra_content" in call for call in found):
        found[0] = {**found[0], "extra_content": _UNSIGNED}
    return found


def _parts(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    messages = body.get("messages")
    listed = messages if isinstance(messages, list) else ()
    contents = [message.get("content") for message in listed if isinstance(message, dict)]
    return [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]


class CompatTranslator:
    """ports.Translator from what Google calls OpenAI's wire to OpenAI's."""

    def __init__(self, call: Call, status: int, redact: Callable[[bytes], bytes]) -> None:
        self._call = call
        self._status = status
        self._redact = redact
        self._failed = False
        self._said = False
        self._head: dict[str, object] = {}
        self._calls: dict[object, int] = {}
        """Tool calls so far, by choice."""

    def event(self, name: str, data: bytes) -> bytes:
        """A chunk without usage, its tool calls numbered."""
        if self._failed or data.strip() == b"[DONE]":
            return b""
        chunk = _first(parsed(data))
        if chunk.get("error"):
            self._failed = True
            return sse({"error": self._error(chunk["error"])})
        self._head = {key: chunk[key] for key in ("id", "created", "model") if key in chunk}
        choices = [self._choice(choice) for choice in chunk.get("choices") or () if isinstance(choice, dict)]
        if not choices:
            return b""
        self._said = True
        return self._chunk(choices)

    def end(self, reading: Reading, cost: Cost | None, charge_microcredits: int) -> bytes:
        """The usage, if it is wanted, and [DONE]."""
        if self._failed:
            return b""
        out = b"" if self._said else self._chunk([{"index": 0, "delta": {}, "finish_reason": "content_filter"}])
        if self._call.wants_usage or self._call.wants_cost:
            used = told(self._call, reading.usage, cost, charge_microcredits)
            out += sse({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": used})
        return out + b"data: [DONE]\n\n"

    def body(self, data: bytes, reading: Reading) -> bytes:
        """A whole answer with its usage in OpenAI's sense; errors stay as they are, for the dialect to say."""
        if self._status >= 400:
            return data
        answer = _first(parsed(data))
        if self._call.endpoint == "embeddings":
            return _embeddings(answer, data, as_base64=self._call.body.get("encoding_format") == "base64")
        choices = answer.get("choices") or [_blocked()]
        return dump({**answer, "choices": choices, "usage": usage_of(reading.usage)})

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        index, delta = choice.get("index", 0), choice.get("delta")
        if isinstance(delta, dict) and isinstance(calls := delta.get("tool_calls"), list):
            numbered = [self._numbered(index, call) for call in calls if isinstance(call, dict)]
            choice = {**choice, "delta": {**delta, "tool_calls": numbered}}
        if choice.get("finish_reason") == "stop" and index in self._calls:
            choice = {**choice, "finish_reason": "tool_calls"}
        return choice

    def _numbered(self, choice: object, call: dict[str, Any]) -> dict[str, Any]:
        """A call that is named is a new one; what is not goes on with the last."""
        function = call.get("function")
        if call.get("id") or (isinstance(function, dict) and function.get("name")):
            self._calls[choice] = self._calls.get(choice, -1) + 1
        return {**call, "index": self._calls.setdefault(choice, 0)}

    def _chunk(self, choices: list[dict[str, Any]]) -> bytes:
        usage: dict[str, object] = {"usage": None} if self._call.wants_usage else {}
        return sse({**self._head, "object": "chat.completion.chunk", "choices": choices, **usage})

    def _error(self, said: Any) -> dict[str, object]:
        error = said if isinstance(said, dict) else {"message": str(said)}
        code = error.get("status") or error.get("code")
        text = str(error.get("message") or "the provider failed")[:_MOST_MESSAGE]
        message = self._redact(text.encode()).decode("utf-8", "replace")
        return {"message": message, "type": "server_error", "param": None, "code": code}


_MOST_MESSAGE = 1000


def _blocked() -> dict[str, object]:
    """The answer to a prompt that Google would not answer."""
    message = {"role": "assistant", "content": None, "refusal": None}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": "content_filter"}


def _embeddings(answer: dict[str, Any], data: bytes, *, as_base64: bool) -> bytes:
    """As they came, or packed as the client (OpenAI's SDK, unasked) wants them."""
    if not as_base64:
        return data
    items = answer.get("data")
    packed = [_packed(item) for item in items] if isinstance(items, list) else items
    return dump({**answer, "data": packed})


def _packed(item: Any) -> Any:
    vector = item.get("embedding") if isinstance(item, dict) else None
    if not isinstance(vector, list):
        return item
    try:
        return {**item, "embedding": b64encode(array("f", vector).tobytes()).decode()}
    except (TypeError, OverflowError):
        return item


def _first(value: Any) -> dict[str, Any]:
    """Errors come as an array of one."""
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, dict):
        raise UpstreamError("the provider's answer is no JSON object")
    return first
