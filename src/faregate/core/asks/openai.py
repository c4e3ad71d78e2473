"""OpenAI's chat.completions, completions and embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from faregate.core.asks.anthropic import hidden_tokens
from faregate.core.asks.shape import (
    MAX_CHOICES,
    MAX_TOKENS,
    ONE_REQUEST,
    Allowances,
    Asked,
    Input,
    tier_of,
    whole,
)
from faregate.core.call import Call

DEFAULT_COMPLETION_TOKENS = 16
"""`max_tokens` of /completions when it is not sent: OpenAI's own default."""

_WAV_BYTES_PER_S = 8_000
"""The least bytes a second of sound takes: 8 kHz, 8 bit, mono."""
_COMPRESSED_BYTES_PER_S = 1_000
"""8 kbit/s, the lowest rate of mp3."""

_TEXT = frozenset({"cache_write"})
"""Some providers write caches unasked and bill the write instead of the input."""
_SEARCH: Mapping[str, Decimal] = {**ONE_REQUEST, "search": Decimal(1)}


def chat_output(call: Call) -> Asked:
    """The higher of the two bounds there are names for, times n."""
    names = ("max_completion_tokens", "max_tokens")
    bounds = {name: count for name in names if (count := whole(call.body, name, 1, MAX_TOKENS)) is not None}
    param = max(bounds, key=bounds.__getitem__, default=None)
    choices = whole(call.body, "n", 1, MAX_CHOICES) or 1
    return Asked(None if param is None else bounds[param], choices, True, param)


def completions_output(call: Call) -> Asked:
    """max_tokens times n or best_of times the prompts."""
    bound = whole(call.body, "max_tokens", 0, MAX_TOKENS)
    choices = max(whole(call.body, name, 1, MAX_CHOICES) or 1 for name in ("n", "best_of"))
    per_choice = DEFAULT_COMPLETION_TOKENS if bound is None else bound
    return Asked(per_choice, choices * _prompts(call.body.get("prompt")), True, "max_tokens")


def chat_input(call: Call, allow: Allowances) -> Input:
    """Text by its bytes; allowances for pictures, recordings and files. Base64 is counted by its length, never read."""
    found = _Found()
    for part in _parts(call.body):
        _count(part, allow, found)
    if any("claude" in model for model in allow.models):
        found.tokens += hidden_tokens(call.body.get("tools"))
    tokens = max(1, allow.text(call.body_bytes - found.base64) + found.tokens)
    asked = call.body.get("modalities")
    wanted = asked if isinstance(asked, list) else []
    modalities = _TEXT
    if found.sounds or "audio" in wanted:
        modalities |= {"audio"}
    if found.images or "image" in wanted:
        modalities |= {"image"}
    if b'"1h"' in call.raw_body:  # Anthropic's `cache_control`, which crosses over
        modalities |= {"cache_write_1h"}
    units = ONE_REQUEST if call.body.get("web_search_options") is None else _SEARCH
    return Input(tokens, modalities, units, tier_of(call))


def listed_input(call: Call, allow: Allowances) -> Input:
    """Token arrays (completions' prompt, embeddings' input) are counted, not estimated."""
    tokens = max(1, allow.text(call.body_bytes), _listed_tokens(call.body))
    return Input(tokens, _TEXT, ONE_REQUEST, tier_of(call))


@dataclass(slots=True)
class _Found:
    """What the parts of a chat come to."""

    tokens: int = 0
    base64: int = 0
    images: int = 0
    sounds: int = 0


def _count(part: Mapping[str, object], allow: Allowances, found: _Found) -> None:
    image, sound, file = part.get("image_url"), part.get("input_audio"), part.get("file")
    url = image.get("url") if isinstance(image, dict) else image
    if isinstance(url, str):
        found.images += 1
        found.tokens += allow.image(image.get("detail") if isinstance(image, dict) else None)
        found.base64 += len(url) if url[:5].lower() == "data:" else 0
    elif isinstance(sound, dict) and isinstance(data := sound.get("data"), str):
        found.sounds += 1
        found.tokens += allow.sound(seconds_of(len(data), sound.get("format")))
        found.base64 += len(data)
    elif isinstance(file, dict):
        data = file.get("file_data")
        found.images += 1
        found.tokens += allow.document(data if isinstance(data, str) else None)
        found.base64 += len(data) if isinstance(data, str) else 0


def _prompts(prompt: object) -> int:
    """How many prompts: a string or one token array is one, a list is its length."""
    if not isinstance(prompt, list) or not prompt or isinstance(prompt[0], int):
        return 1
    return len(prompt)


def _parts(body: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """The content parts of all messages."""
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict):
                yield part


def seconds_of(base64_length: int, kind: object) -> int:
    """The most seconds that so much base64 can hold."""
    per_second = _WAV_BYTES_PER_S if kind == "wav" else _COMPRESSED_BYTES_PER_S
    return -(-base64_length * 3 // (4 * per_second))


def _listed_tokens(body: Mapping[str, object]) -> int:
    listed = body.get("prompt", body.get("input"))
    if not isinstance(listed, list) or not listed:
        return 0
    if isinstance(listed[0], int):
        return len(listed)
    return sum(len(item) for item in listed if isinstance(item, list))
