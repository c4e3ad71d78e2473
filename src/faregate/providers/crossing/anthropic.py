"""Anthropic's messages behind a chat completion.

What LiteLLM leaves open, and is closed here: tools that the provider runs by itself are nothing for the client to
call; a bound that was lowered leaves room for thinking; usage is never counted again with a tokenizer; parts that
would be left out in silence are refused; `json_object` is asked for in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import orjson

from faregate.core.call import Call, Candidate
from faregate.providers.crossing.core import DEFAULT_MAX_TOKENS, Crossed, Crossing, Parser

LEAST_THINKING = 1024
"""The smallest `thinking.budget_tokens` there is; `max_tokens` must be above it."""
_JSON_TOOL = "json_tool_call"
ONLY_JSON = "Answer with one valid JSON object and nothing else: no words around it, no code fence."
"""What `response_format: json_object` asks for: there is no other word for it where schemas are native."""
_FULL = "model_context_window_exceeded"
_NAMES = "ANTHROPIC_TOOL_NAME_REVERSE_MAP_KEY"
_NO_USAGE = {"input_tokens": 0, "output_tokens": 0, "output_tokens_details": {"thinking_tokens": 0}}


class AnthropicCrossing(Crossing):
    """Kind `anthropic`, and whoever else speaks its messages."""

    library_name = "anthropic"
    extras = frozenset({"thinking", "top_k", "cache_control"})
    parts = frozenset({"text", "image_url", "file", "refusal", "thinking", "redacted_thinking"})

    def bound(self, call: Call, candidate: Candidate, output_cap: int | None) -> int | None:
        """`max_tokens` is required."""
        return super().bound(call, candidate, output_cap) or DEFAULT_MAX_TOKENS

    def finished(self, body: dict[str, Any], call: Call) -> dict[str, Any]:
        """With `stream`, and with thinking only if there is room for it: to OpenAI's clients it is a wish."""
        if call.stream:
            body["stream"] = True
        if wants_json(call.body) and not any(tool.get("name") == _JSON_TOOL for tool in body.get("tools") or ()):
            body["system"] = [*(body.get("system") or ()), {"type": "text", "text": ONLY_JSON}]
        thinking = within(body.get("thinking"), body["max_tokens"])
        if "thinking" in body:
            body = {name: value for name, value in body.items() if name != "thinking"}
        return body if thinking is None else {**body, "thinking": thinking}

    def parser(self, crossed: Crossed) -> Parser:
        """Over LiteLLM's iterator."""
        return _Events(_iterator(crossed))

    def cleaned(self, answer: Any) -> Any:
        """Without the provider's own tools; its usage is ours to read."""
        if not isinstance(answer, dict):
            return answer
        content = [block for block in answer.get("content") or () if not _is_its_own(block)]
        return {**cut_off(answer, "stop_reason"), "content": content, "usage": _NO_USAGE}


def wants_json(body: Mapping[str, Any]) -> bool:
    """Whether `response_format` asks for JSON without a schema."""
    wanted = body.get("response_format")
    return isinstance(wanted, dict) and wanted.get("type") == "json_object"


def cut_off(said: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a full context window ended was cut off as by its bound; LiteLLM takes it for finished."""
    return {**said, name: "max_tokens"} if said.get(name) == _FULL else dict(said)


def within(thinking: Any, max_tokens: int) -> Any:
    """`thinking` under a bound that may be lower than the one it was meant for; None when there is no room."""
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    if not isinstance(budget, int) or budget < max_tokens:
        return thinking
    if max_tokens <= LEAST_THINKING:
        return None
    return {**thinking, "budget_tokens": max(LEAST_THINKING, max_tokens // 2)}


def _is_its_own(block: Any) -> bool:
    kind = block.get("type") if isinstance(block, dict) else None
    return isinstance(kind, str) and (kind in ("server_tool_use", "mcp_tool_use") or kind.endswith("_tool_result"))


def _iterator(crossed: Crossed) -> Any:
    handler = import_module("litellm.llms.anthropic.chat.handler")
    transformation = import_module("litellm.llms.anthropic.chat.transformation")
    schema = None
    if crossed.json_mode:
        schema = transformation.JsonModeRequest.model_validate(crossed.optional_params).tool_schema()
    return handler.ModelResponseIterator(
        streaming_response=iter(()),
        sync_stream=True,
        json_mode=crossed.json_mode,
        tool_name_reverse_map=crossed.litellm_params.get(getattr(transformation, _NAMES)),
        response_format_schema=schema,
    )


class _Events:
    """One stream's events: blocks that are the provider's own business are left out, and so is usage."""

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator
        self._left_out: set[object] = set()
        self._unsaid: dict[object, Any] = {}
        """Inputs of tool calls, by block, that no delta has brought (yet)."""

    def __call__(self, _: str, event: Any) -> Any:
        if not isinstance(event, dict) or event.get("type") in (None, "ping"):
            return None
        kind, index = event["type"], event.get("index")
        if kind == "content_block_start":
            self._begin(index, event.get("content_block"))
        if index in self._left_out:
            return None
        if kind == "content_block_delta":
            self._unsaid.pop(index, None)
        elif kind == "content_block_stop" and index in self._unsaid:
            said = self._iterator.chunk_parser(self._whole_input(index))
            self._iterator.chunk_parser(event)
            return said
        return self._iterator.chunk_parser(_without_usage(event))

    def _begin(self, index: object, block: Any) -> None:
        self._left_out.discard(index)
        if _is_its_own(block):
            self._left_out.add(index)
        elif isinstance(block, dict) and block.get("type") == "tool_use":
            self._unsaid[index] = block.get("input") or {}

    def _whole_input(self, index: object) -> dict[str, Any]:
        """The delta that was not sent."""
        said = orjson.dumps(self._unsaid.pop(index)).decode()
        return {
            "type": "content_block_delta",
            "index": index,
            "delta": {"type": "input_json_delta", "partial_json": said},
        }


def _without_usage(event: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in event.items() if name != "usage"}
    if isinstance(message := event.get("message"), dict):
        kept["message"] = {name: value for name, value in message.items() if name != "usage"}
    if isinstance(delta := event.get("delta"), dict):
        kept["delta"] = cut_off(delta, "stop_reason")
    return kept
