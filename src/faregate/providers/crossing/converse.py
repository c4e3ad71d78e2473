"""Bedrock's Converse behind a chat completion.

What LiteLLM leaves open, and is closed here: pictures and files come as data only (its class would fetch a URL); tool
names are as OpenAI allows them (others it renames, and remembers the names across calls); exception frames; a bound
that was lowered leaves room for thinking; usage is never taken from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import orjson

from faregate.core.call import Call, Candidate
from faregate.core.usage import Reading
from faregate.errors import InvalidRequest
from faregate.ports import Translator
from faregate.providers import bedrock_errors as errors
from faregate.providers.crossing.answers import ChatTranslator
from faregate.providers.crossing.anthropic import ONLY_JSON, cut_off, wants_json, within
from faregate.providers.crossing.core import Crossed, Crossing, Parser
from faregate.providers.crossing.library import load

_NO_USAGE = {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0}
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_PARTS = frozenset({"text", "image_url", "file", "refusal", "thinking", "redacted_thinking", "guarded_text"})


class ConverseCrossing(Crossing):
    """Kind `bedrock`."""

    library_name = "bedrock"
    extras = frozenset({"guardrailConfig", "performanceConfig", "requestMetadata", "thinking", "top_k"})

    def __init__(self, region: str) -> None:
        self._region = region

    async def request(self, call: Call, candidate: Candidate, output_cap: int | None) -> Crossed:
        """As all do, after a look at what LiteLLM must not see."""
        _check_messages(call.body.get("messages"))
        _check_tools(call.body.get("tools"))
        return await super().request(call, candidate, output_cap)

    def config(self, model: str) -> Any:
        """LiteLLM's class by name: whatever way it would choose for the model itself."""
        load()
        return import_module("litellm.llms.bedrock.chat.converse_transformation").AmazonConverseConfig()

    def bound(self, call: Call, candidate: Candidate, output_cap: int | None) -> int | None:
        """Unset is the model's own maximum."""
        asked = [value for name in ("max_completion_tokens", "max_tokens") if (value := call.body.get(name))]
        return super().bound(call, candidate, output_cap) if asked or output_cap is not None else None

    def library_params(self, call: Call) -> dict[str, Any]:
        return {"aws_region_name": self._region}

    def finished(self, body: dict[str, Any], call: Call) -> dict[str, Any]:
        """With thinking only as far as there is room for it; JSON without a schema is asked for in words."""
        if wants_json(call.body):
            body = {**body, "system": [*(body.get("system") or ()), {"text": ONLY_JSON}]}
        more = body.get("additionalModelRequestFields")
        most = body.get("inferenceConfig", {}).get("maxTokens")
        if not isinstance(more, dict) or "thinking" not in more or most is None:
            return body
        thinking = within(more["thinking"], most)
        kept = {name: value for name, value in more.items() if name != "thinking"}
        return {**body, "additionalModelRequestFields": kept if thinking is None else {**kept, "thinking": thinking}}

    def parser(self, crossed: Crossed) -> Parser:
        """Over LiteLLM's decoder; usage comes from the meter."""
        handler = import_module("litellm.llms.bedrock.chat.invoke_handler")
        return _Events(handler.AWSEventStreamDecoder(model=crossed.model, json_mode=crossed.json_mode))

    def cleaned(self, answer: Any) -> Any:
        """Without usage, which is ours to read."""
        return {**cut_off(answer, "stopReason"), "usage": _NO_USAGE} if isinstance(answer, dict) else answer

    def translated(self, call: Call, crossed: Crossed, status: int, headers: Mapping[str, str]) -> Translator:
        """For an answer's way back."""
        return ConverseTranslator(self, call, crossed, status, errors.redact, headers)


class _Events:
    """One stream's events. A schema that was given as a tool is no call of the client's tools: it ends with `stop`."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._called = False

    def __call__(self, name: str, event: Any) -> Any:
        if name in ("messageStart", "metadata"):
            return None
        chunk = self._decoder.converse_chunk_parser(cut_off(event, "stopReason") if name == "messageStop" else event)
        for choice in chunk.choices:
            self._called = self._called or bool(choice.delta.tool_calls)
            if choice.finish_reason == "tool_calls" and self._decoder.json_mode and not self._called:
                choice.finish_reason = "stop"
        return chunk


class ConverseTranslator(ChatTranslator):
    """Errors are AWS's: exception frames, and bodies whose class stands in a header."""

    def __init__(
        self,
        crossing: ConverseCrossing,
        call: Call,
        crossed: Crossed,
        status: int,
        redact: Callable[[bytes], bytes],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(crossing, call, crossed, status, redact)
        self._headers = headers

    def event(self, name: str, data: bytes) -> bytes:
        """A frame's chunks, or the error that it is."""
        if not name.startswith("!") or self._failed:
            return super().event(name, data)
        self._failed = True
        return b"data: " + orjson.dumps(errors.of_frame(name[1:], data).openai()) + b"\n\n"

    def body(self, data: bytes, reading: Reading) -> bytes:
        """The completion, or AWS's error in OpenAI's shape."""
        if self._status >= 400:
            return orjson.dumps(errors.of_answer(self._status, self._headers, data).openai())
        return super().body(data, reading)


def _check_messages(messages: object) -> None:
    """Of the parts, those that are data. What is no list of messages is told of by `messages_of`."""
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict):
                _check_part(part, f"messages[{index}].content")


def _check_part(part: Mapping[str, Any], where: str) -> None:
    kind = part.get("type")
    if kind not in _PARTS:
        allowed = ", ".join(sorted(_PARTS))
        raise InvalidRequest(f"{where}: parts of this model's provider are of type {allowed}", param=where)
    value = part.get(kind)
    if kind == "image_url":
        url = value.get("url") if isinstance(value, dict) else value
        if not _is_data(url):
            raise InvalidRequest(f"{where}: this model's provider takes pictures as data: URLs only", param=where)
    if kind == "file" and (not isinstance(value, dict) or not _is_data(value.get("file_data")) or "file_id" in value):
        raise InvalidRequest(f"{where}: this model's provider takes files as file_data, a data: URL, only", param=where)


def _is_data(url: object) -> bool:
    return isinstance(url, str) and re.match(r"data:[\w.+-]+/[\w.+-]+;base64,[^,]+\Z", url) is not None


def _check_tools(tools: object) -> None:
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
            raise InvalidRequest(
                f"tools[{index}].function.name must be 1 to 64 letters, digits, _ or -", param=f"tools[{index}]"
            )
