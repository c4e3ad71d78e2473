"""What a request body asks for: its input measured, its output bound read and validated. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import ceil

from faregate.core.call import Call
from faregate.errors import InvalidRequest

MAX_TOKENS = 10_000_000
"""Far over any model's output; a bound beyond is a mistake."""
MAX_CHOICES = 128
"""OpenAI's limit for n; its best_of allows 20."""
DEFAULT_COMPLETION_TOKENS = 16
"""`max_tokens` of /completions when it is not sent: OpenAI's own default."""

_WAV_BYTES_PER_S = 8_000
"""The least bytes a second of sound takes: 8 kHz, 8 bit, mono."""
_COMPRESSED_BYTES_PER_S = 1_000
"""8 kbit/s, the lowest rate of mp3."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The output a request allows."""

    per_choice: int | None
    """None: the model's own maximum."""
    choices: int
    """n or best_of, times the number of prompts."""
    cappable: bool
    param: str | None = None
    """The field that set the bound."""


@dataclass(frozen=True, slots=True)
class Input:
    """The input's upper bound, and what besides text is in it."""

    tokens: int
    images: int
    audio: int


def asked_output(call: Call) -> Asked:
    """The output bound of a body. Raises InvalidRequest naming the field that cannot be meant."""
    body = call.body
    if call.endpoint == "chat.completions":
        names = ("max_completion_tokens", "max_tokens")
        bounds = {name: count for name in names if (count := _count(body, name, 1, MAX_TOKENS)) is not None}
        param = max(bounds, key=bounds.__getitem__, default=None)
        choices = _count(body, "n", 1, MAX_CHOICES) or 1
        return Asked(None if param is None else bounds[param], choices, True, param)
    if call.endpoint == "completions":
        bound = _count(body, "max_tokens", 0, MAX_TOKENS)
        choices = max(_count(body, name, 1, MAX_CHOICES) or 1 for name in ("n", "best_of"))
        per_choice = DEFAULT_COMPLETION_TOKENS if bound is None else bound
        return Asked(per_choice, choices * _prompts(body.get("prompt")), True, "max_tokens")
    return Asked(0, 1, False)


def measure(call: Call, *, bytes_per_token: Decimal, tokens_per_image: int, tokens_per_audio_second: int) -> Input:
    """The most tokens a body can hold. Base64 is counted by its length alone, never read."""
    text_bytes, images, recordings, seconds = call.body_bytes, 0, 0, 0
    for part in _parts(call.body):
        url, sound = _image_url(part), part.get("input_audio")
        if url is not None:
            images += 1
            text_bytes -= len(url) if url[:5].lower() == "data:" else 0
        elif isinstance(sound, dict) and isinstance(data := sound.get("data"), str):
            recordings += 1
            text_bytes -= len(data)
            seconds += _seconds(len(data), sound.get("format"))
    tokens = max(_ceil(text_bytes, bytes_per_token), _listed_tokens(call.body))
    tokens += images * tokens_per_image + seconds * tokens_per_audio_second
    return Input(max(1, tokens), images, recordings)


def _count(body: Mapping[str, object], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{name} must be an integer", param=name)
    if not least <= value <= most:
        raise InvalidRequest(f"{name} must be between {least} and {most}", param=name)
    return value


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


def _image_url(part: Mapping[str, object]) -> str | None:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return url if isinstance(url, str) else None


def _seconds(base64_length: int, kind: object) -> int:
    per_second = _WAV_BYTES_PER_S if kind == "wav" else _COMPRESSED_BYTES_PER_S
    return -(-base64_length * 3 // (4 * per_second))


def _ceil(size: int, bytes_per_token: Decimal) -> int:
    return ceil(max(0, size) / bytes_per_token)


def _listed_tokens(body: Mapping[str, object]) -> int:
    """Token arrays (completions' prompt, embeddings' input) are counted, not estimated."""
    listed = body.get("prompt", body.get("input"))
    if not isinstance(listed, list) or not listed:
        return 0
    if isinstance(listed[0], int):
        return len(listed)
    return sum(len(item) for item in listed if isinstance(item, list))
