"""Which of a chat completion's fields go along, which do not matter, and which must not be lost in silence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

from faregate.errors import InvalidRequest

_OURS = frozenset({"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"})
"""Said apart from the rest."""

_NOT_THE_CLIENTS = frozenset(
    {"extra_headers", "extra_body", "max_retries", "timeout", "api_key", "api_base", "base_url"}
)
"""Arguments of LiteLLM's own that it counts among a request's fields."""

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")

NO_MATTER = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "seed",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
"""Hints and labels: an answer without them is still the answer that was asked for."""

NOTHING_ASKED: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "tools": ([],),
    "stop": ([],),
    "response_format": ({"type": "text"},),
}
"""Values that many clients send and that ask for nothing."""


def chosen(body: Mapping[str, Any], supported: Set[str], extras: Set[str]) -> dict[str, Any]:
    """The fields that the provider's language has words for. Raises InvalidRequest naming one that it has not."""
    found = {}
    for name, value in body.items():
        if name in _OURS or value is None or value in NOTHING_ASKED.get(name, ()):
            continue
        if name not in _NOT_THE_CLIENTS and (name in supported or name in extras):
            found[name] = value
        elif name not in NO_MATTER:
            raise InvalidRequest(f"{name} is not supported by this model's provider", param=name)
    return found


def messages_of(body: Mapping[str, Any], parts: Set[str] | None = None) -> list[Any]:
    """The messages, as far as their shape can be told; `parts` are the types of content that can be said (None: any).

    Raises InvalidRequest naming the one at fault.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages must be a list of at least one message", param="messages")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise InvalidRequest(f"{where}.role must be one of {', '.join(_ROLES)}", param=where)
        _check_content(message.get("content"), f"{where}.content", parts)
    return messages


def in_plain_words(messages: list[Any]) -> list[Any]:
    """For models that know neither developers nor refusals. Changes the messages in place."""
    for message in messages:
        if message["role"] == "developer":
            message["role"] = "system"
        if message.get("content") is None and isinstance(message.get("refusal"), str):
            message["content"] = message["refusal"]
    return messages


def _check_content(content: object, where: str, parts: Set[str] | None) -> None:
    if not isinstance(content, str | list | None):
        raise InvalidRequest(f"{where} must be a string or a list of parts", param=where)
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise InvalidRequest(f"each part of {where} must be an object with a type", param=where)
        if parts is not None and kind not in parts:
            raise InvalidRequest(f"{where}: parts of type {kind[:32]} are not supported by this model", param=where)
        _check_source(part, where)


def _check_source(part: Mapping[str, Any], where: str) -> None:
    """Pictures and files come as data or from the web by https; nobody here fetches anything, or has kept any."""
    if part["type"] == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        if not isinstance(url, str) or not url.startswith(("data:", "https://")):
            raise InvalidRequest(f"image_url.url in {where} must be a data: or https: URL", param=where)
    elif part["type"] == "file":
        file = part.get("file")
        data, named = (file.get("file_data"), file.get("file_id")) if isinstance(file, dict) else (None, None)
        if not isinstance(data, str) and not (isinstance(named, str) and named.startswith("https://")):
            raise InvalidRequest(f"file in {where} must have its file_data, or an https: URL as file_id", param=where)


def check_fields(body: Mapping[str, Any]) -> None:
    """Shapes that would be left out, or tripped over, in silence. Raises InvalidRequest naming the field."""
    stop = body.get("stop")
    if not (stop is None or isinstance(stop, str) or _are(stop, str)):
        raise InvalidRequest("stop must be a string or a list of strings", param="stop")
    tools = body.get("tools")
    if tools is not None and not _are(tools, dict):
        raise InvalidRequest("tools must be a list of objects", param="tools")
    for index, tool in enumerate(tools or ()):
        function = tool.get("function")
        named = isinstance(function, dict) and isinstance(function.get("name"), str)
        if tool.get("type") == "function" and not named:
            raise InvalidRequest(f"tools[{index}].function must be an object with a name", param=f"tools[{index}]")


def field_in(text: str, names: Iterable[str]) -> str | None:
    """The first of the fields that an error's text speaks of."""
    named = (name for name in names if re.search(rf"\b{re.escape(name).replace('_', '[_ ]')}\b", text))
    return next(named, "messages" if re.search(r"\b(message|tool call)", text) else None)


def _are(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
