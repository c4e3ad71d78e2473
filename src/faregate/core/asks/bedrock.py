"""Bedrock's own operations: Converse, and InvokeModel, whose body is the vendor's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from faregate.core.asks.anthropic import least_of, messages_input
from faregate.core.asks.shape import MAX_CHOICES, MAX_TOKENS, Allowances, Asked, Input, whole
from faregate.core.call import Call
from faregate.errors import InvalidRequest

CONVERSE_BOUNDS = (("inferenceConfig", "maxTokens"),)
INVOKE_BOUNDS = (
    ("max_tokens",),  # Claude, Mistral, Cohere, DeepSeek, OpenAI's
    ("max_completion_tokens",),
    ("max_tokens_to_sample",),
    ("max_gen_len",),  # Llama
    ("maxTokens",),  # AI21
    ("inferenceConfig", "maxTokens"),  # Nova
    ("inferenceConfig", "max_new_tokens"),
    ("textGenerationConfig", "maxTokenCount"),  # Titan
)
"""Where the vendors' bodies bound their output."""


def converse_output(call: Call) -> Asked:
    """`inferenceConfig.maxTokens`, else the model's own maximum; it can be lowered either way."""
    bounds = bounds_in(call.body, CONVERSE_BOUNDS)
    more = call.body.get("additionalModelRequestFields")
    least = least_of(more) if isinstance(more, dict) else 0
    return Asked(next(iter(bounds.values()), None), 1, True, "inferenceConfig.maxTokens" if bounds else None, least)


def invoke_output(call: Call) -> Asked:
    """The largest bound in the vendor's body. Only one that is there can be lowered: its name is the vendor's."""
    bounds = bounds_in(call.body, INVOKE_BOUNDS)
    path = max(bounds, key=bounds.__getitem__, default=())
    choices = whole(call.body, "n", 1, MAX_CHOICES) or 1
    return Asked(bounds.get(path), choices, bool(bounds), ".".join(path) or None, least_of(call.body))


def converse_input(call: Call, allow: Allowances) -> Input:
    """Text by its bytes; allowances for pictures and documents. Base64 is counted by its length, never read."""
    base64 = tokens = 0
    for kind, source in _sources(call.body):
        data = source.get("bytes")
        content = data if isinstance(data, str) else None
        base64 += len(content or "")
        tokens += allow.image() if kind == "image" else allow.document(content)
    writes = frozenset({"cache_write"}) if b"cachePoint" in call.raw_body or b"\\u00" in call.raw_body else frozenset()
    if writes and (b"1h" in call.raw_body or b"\\u00" in call.raw_body):
        writes |= {"cache_write_1h"}
    text = allow.text(call.body_bytes - base64)
    return Input(max(1, text + tokens), writes, tier=_tier(call))


def invoke_input(call: Call, allow: Allowances) -> Input:
    """Claude's blocks are Anthropic's; of other vendors' bodies every byte is taken for text."""
    return messages_input(call, allow)


def bounds_in(body: Mapping[str, object], paths: tuple[tuple[str, ...], ...]) -> dict[tuple[str, ...], int]:
    """The bounds that are there, by path. Raises InvalidRequest naming one that cannot be meant."""
    found = {}
    for path in paths:
        holder: object = body
        for name in path[:-1]:
            holder = holder.get(name) if isinstance(holder, dict) else None
            if holder is not None and not isinstance(holder, dict):
                raise InvalidRequest(f"{name} must be an object", param=name)
        if isinstance(holder, Mapping) and (value := whole(holder, path[-1], 0, MAX_TOKENS)) is not None:
            found[path] = value
    return found


def _sources(body: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Pictures, documents and videos in all messages, those inside tool results included."""
    waiting: list[object] = [body.get("messages"), body.get("system")]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            for name, value in item.items():
                source = value.get("source") if isinstance(value, dict) else None
                if name in ("image", "document", "video", "audio") and isinstance(source, dict):
                    yield name, source
                elif name in ("content", "toolResult", "guardContent"):
                    waiting.append(value)


def _tier(call: Call) -> str:
    tier = call.body.get("serviceTier")
    kind = tier.get("type") if isinstance(tier, dict) else None
    return kind if isinstance(kind, str) else "default"
