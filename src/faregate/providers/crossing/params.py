"""Which of a chat completion's fields go along, which do not matter, and which must not be lost in silence."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from faregate.errors import InvalidRequest

_OURS = frozenset({"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"})
"""Said apart from the rest."""

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
        if name in supported or name in extras:
            found[name] = value
        elif name not in NO_MATTER:
            raise InvalidRequest(f"{name} is not supported by this model's provider", param=name)
    return found


def messages_of(body: Mapping[str, Any]) -> list[Any]:
    """The messages, as far as their shape can be told. Raises InvalidRequest naming the one at fault."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages must be a list of at least one message", param="messages")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequest(f"{where} must be an object with a role", param=where)
        content = message.get("content")
        if not isinstance(content, str | list | None):
            raise InvalidRequest(f"{where}.content must be a string or a list of parts", param=f"{where}.content")
        for part in content if isinstance(content, list) else ():
            _check_part(part, f"{where}.content")
    return messages


def _check_part(part: object, where: str) -> None:
    """Pictures come as data or from the web by https; nobody here fetches anything."""
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise InvalidRequest(f"each part of {where} must be an object with a type", param=where)
    if part["type"] == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        if not isinstance(url, str) or not url.startswith(("data:", "https://")):
            raise InvalidRequest(f"image_url.url in {where} must be a data: or https: URL", param=where)
