"""OpenAI's audio and images: recordings by their seconds, speech by its characters, pictures by quality and size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from math import isqrt

from faregate.core.asks.shape import MAX_CHOICES, ONE_REQUEST, Allowances, Asked, Input, whole
from faregate.core.call import Call
from faregate.errors import InvalidRequest

SPOKEN_TOKENS_PER_BYTE = 4
"""Output tokens for a byte of text, at most: some 20 tokens a second, read as slowly as 5 bytes a second."""
MOST_CHARACTERS = 4096
"""Of one speech: OpenAI's limit for its own voices; other servers have theirs."""
_OPENAIS_VOICES = re.compile(r"tts-1|gpt-4o-mini-tts")
_LEAST_SPOKEN_TOKENS = 200
"""A single letter is spoken with a breath before and after."""
_AUDIO = frozenset({"audio"})
_IMAGE = frozenset({"image"})

_PICTURE_TOKENS: Mapping[str, int] = {"low": 800, "medium": 2_000, "high": 7_100, "auto": 7_100}
"""At 1536 x 1024; the highest of the gpt-image family."""
_ANY_PICTURE = 14_200
_PICTURE_PIXELS = 1536 * 1024
_PARTIAL_TOKENS = 100
_MOST_PIXELS = 100_000_000
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


def transcription_output(call: Call) -> Asked:
    """As much as the model writes."""
    return Asked(None, 1, False)


def transcription_input(call: Call, allow: Allowances) -> Input:
    """The recording's seconds, as tokens and as seconds: the card decides which are billed."""
    seconds = (call.form.most_seconds if call.form is not None else None) or 0
    tokens = allow.sound(seconds) + allow.text(_text_bytes(call))
    return Input(max(1, tokens), _AUDIO, {**ONE_REQUEST, "second": Decimal(seconds)})


def speech_output(call: Call) -> Asked:
    """What the text comes to when it is spoken. Raises InvalidRequest."""
    size = len(_spoken(call).encode("utf-8", "replace"))
    return Asked(_LEAST_SPOKEN_TOKENS + SPOKEN_TOKENS_PER_BYTE * size, 1, False, "input")


def speech_input(call: Call, allow: Allowances) -> Input:
    """The text's characters, and its tokens: the card decides which are billed. Raises InvalidRequest."""
    characters = len(_spoken(call))
    if characters > MOST_CHARACTERS and all(_OPENAIS_VOICES.match(model) for model in allow.models):
        raise InvalidRequest(f"input must have at most {MOST_CHARACTERS} characters", param="input")
    return Input(max(1, allow.text(call.body_bytes)), _AUDIO, {**ONE_REQUEST, "character": Decimal(characters)})


def drawing_output(call: Call) -> Asked:
    """n pictures of that quality and size, with the partial ones. Raises InvalidRequest."""
    body = call.body
    pictures = whole(body, "n", 1, MAX_CHOICES) or 1
    partial = whole(body, "partial_images", 0, MAX_CHOICES) or 0
    tokens = _PICTURE_TOKENS.get(_word(body, "quality", "auto"), _ANY_PICTURE)
    larger = max(10, 1 + isqrt(100 * picture_pixels(body) // _PICTURE_PIXELS))
    return Asked(tokens * larger // 10 + partial * _PARTIAL_TOKENS, pictures, False, "n")


def drawing_input(call: Call, allow: Allowances) -> Input:
    """The prompt and the pictures that come with it; n pictures for cards that have a rate for one."""
    form, pictures = call.form, Decimal(whole(call.body, "n", 1, MAX_CHOICES) or 1)
    given = len(form.files) if form is not None else _linked(call.body)
    size = _text_bytes(call) if form is not None else call.body_bytes
    units = {
        **ONE_REQUEST,
        "image": pictures,
        picture_rate(call.body): pictures,
        "pixel": pictures * picture_pixels(call.body),
    }
    return Input(max(1, allow.text(size) + given * allow.image("high")), _IMAGE, units)


def picture_rate(body: Mapping[str, object]) -> str:
    """The name of the rate for one picture as asked: `image:hd:1792x1024`."""
    quality, size = _word(body, "quality", "auto"), _word(body, "size", "auto")
    known = size if _SIZE.fullmatch(size) else "1024x1024"
    return f"image:{'standard' if quality == 'auto' else quality}:{known}"


def picture_pixels(body: Mapping[str, object]) -> int:
    """Of one picture as asked; without a size, of a square of 1024."""
    found = _SIZE.fullmatch(_word(body, "size", "auto"))
    return min(int(found[1]) * int(found[2]), _MOST_PIXELS) if found else 1024 * 1024


def _word(body: Mapping[str, object], name: str, default: str) -> str:
    value = body.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= 32 else default


def _spoken(call: Call) -> str:
    text = call.body.get("input")
    if not isinstance(text, str):
        raise InvalidRequest("input must be a string", param="input")
    return text


def _linked(body: Mapping[str, object]) -> int:
    """The pictures of an edit that is asked for in JSON."""
    images = body.get("images")
    return (len(images) if isinstance(images, list) else 0) + (body.get("mask") is not None)


def _text_bytes(call: Call) -> int:
    """Of a form's text fields."""
    texts = (item for value in call.body.values() for item in (value if isinstance(value, list) else [value]))
    return sum(len(text.encode("utf-8", "replace")) for text in texts if isinstance(text, str))
