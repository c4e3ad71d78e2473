"""A provider's own usage object beside somebody's counts: where it splits them, it knows better. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from faregate.api.counted import MOST_COUNTED
from faregate.api.http import encode
from faregate.core.usage import Usage
from faregate.meter import meter_for

_INPUT_PARTS = (
    *("cached_input_tokens", "cache_write_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"),
    *("audio_input_tokens", "image_input_tokens", "cached_audio_input_tokens", "cached_image_input_tokens"),
)
_OUTPUT_PARTS = ("reasoning_tokens", "audio_output_tokens", "image_output_tokens")
_WRAPPERS = ("usage", "usageMetadata", "usage_metadata")
_ANTHROPIC = frozenset({"cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation"})
_CONVERSE = frozenset({"inputTokens", "outputTokens"})
_GEMINI = frozenset({"promptTokenCount", "prompt_token_count"})


def split_by(usage: Usage, raw: Mapping[str, object], *, kind: str, model: str) -> Usage:
    """The usage with the provider's split of its input and of its output, as far as it has one that can be."""
    told = _read(raw, kind, model)
    if told is None:
        return usage
    usage = _side(usage, told, "input_tokens", _INPUT_PARTS)
    return _side(usage, told, "output_tokens", _OUTPUT_PARTS)


def _side(usage: Usage, told: Usage, total: str, parts: tuple[str, ...]) -> Usage:
    split = {name: getattr(told, name) for name in parts}
    counts = [count for count in (getattr(told, total), *split.values()) if count is not None]
    if getattr(told, total) is None or len(counts) == 1 or max(counts) > MOST_COUNTED:
        return usage
    return replace(usage, **{total: getattr(told, total), **split})


def _read(raw: Mapping[str, object], kind: str, model: str) -> Usage | None:
    """By the dialect's reader, which is chosen by the names in it: SDKs hand on what they got."""
    inner = next((raw[name] for name in _WRAPPERS if isinstance(raw.get(name), Mapping)), raw)
    assert isinstance(inner, Mapping)
    names = inner.keys()
    if names & _GEMINI:
        meter = meter_for("gemini", "generatecontent", stream=False, model=model)
        body: dict[str, object] = {"usageMetadata": {_camel(name): value for name, value in inner.items()}}
    elif names & _CONVERSE:
        meter, body = meter_for("bedrock", "converse", stream=False, model=model), {"usage": inner}
    elif names & _ANTHROPIC:
        meter, body = meter_for("anthropic", "messages", stream=False, model=model), {"usage": inner}
    else:
        meter, body = meter_for(kind, "chat.completions", stream=False, model=model), {"usage": inner}
    meter.feed(encode(body))
    meter.finish(None, 0)
    reading = meter.reading(200, {})
    return reading.usage if reading.anomaly is None else None


def _camel(name: str) -> str:
    """The Python SDK's spelling as the wire's: prompt_token_count is promptTokenCount."""
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)
