"""The sandbox's pretend ears, voice and brush: pure functions from a request to the pieces of its answer."""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from zlib import compress, crc32

import orjson

from faregate.core.call import Form
from faregate.providers.pretend import CREATED, sse, tokens_of

_TEXT = "the gate opens once a fare is held"
_TOKENS_PER_SECOND = 10
_TOKENS_PER_IMAGE = 272
_RATE = 8_000
_CHARACTERS_PER_SECOND = 15
_MOST_SOUND_S = 60
_PIECE = 8_192
_SSE = "text/event-stream; charset=utf-8"
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Pretence:
    """An answer: what it is, and its pieces."""

    content_type: str
    pieces: list[bytes]


def pretend_media(endpoint: str, body: Mapping[str, object], form: Form | None) -> Pretence | None:
    """The answer of an endpoint for sound, pictures or judgement; None for any other."""
    if endpoint == "moderations":
        return Pretence(_JSON, [orjson.dumps(_moderation(body))])
    if endpoint in ("audio.transcriptions", "audio.translations"):
        return _transcript(body, (form.seconds if form else None) or 0)
    if endpoint == "audio.speech":
        return _speech(body)
    if endpoint in ("images.generations", "images.edits"):
        return _pictures(endpoint, body)
    return None


# Judgement ----------------------------------------------------------------------------------------------

_CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent"),
    *("self-harm", "self-harm/intent", "self-harm/instructions"),
    *("sexual", "sexual/minors", "violence", "violence/graphic"),
)


def _moderation(body: Mapping[str, object]) -> dict[str, object]:
    asked = body.get("input")
    result = {
        "flagged": False,
        "categories": dict.fromkeys(_CATEGORIES, False),
        "category_scores": dict.fromkeys(_CATEGORIES, 0.0),
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }
    count = len(asked) if isinstance(asked, list) and all(isinstance(item, str) for item in asked) else 1
    return {"id": "modr-sandbox", "model": str(body.get("model")), "results": [result] * count}


# Ears ---------------------------------------------------------------------------------------------------


def _transcript(body: Mapping[str, object], seconds: int) -> Pretence:
    wanted = body.get("response_format", "json")
    usage = {
        "type": "tokens",
        "input_tokens": seconds * _TOKENS_PER_SECOND,
        "input_token_details": {"audio_tokens": seconds * _TOKENS_PER_SECOND, "text_tokens": 0},
        "output_tokens": len(_TEXT.split()),
        "total_tokens": seconds * _TOKENS_PER_SECOND + len(_TEXT.split()),
    }
    if wanted == "text":
        return Pretence("text/plain; charset=utf-8", [_TEXT.encode() + b"\n"])
    if wanted == "srt":
        return Pretence("text/plain; charset=utf-8", [f"1\n{_span(seconds, ',')}\n{_TEXT}\n\n".encode()])
    if wanted == "vtt":
        return Pretence("text/vtt; charset=utf-8", [f"WEBVTT\n\n{_span(seconds, '.')}\n{_TEXT}\n\n".encode()])
    if wanted == "verbose_json":
        told = {"task": "transcribe", "language": "english", "duration": float(seconds), "text": _TEXT, "segments": []}
        return Pretence(_JSON, [orjson.dumps({**told, "usage": {"type": "duration", "seconds": seconds}})])
    if body.get("stream") is True:
        words = [{"type": "transcript.text.delta", "delta": word + " "} for word in _TEXT.split()]
        events = [*words, {"type": "transcript.text.done", "text": _TEXT, "usage": usage}]
        return Pretence(_SSE, [sse(orjson.dumps(event)) for event in events])
    return Pretence(_JSON, [orjson.dumps({"text": _TEXT, "usage": usage})])


def _span(seconds: int, point: str) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"00:00:00{point}000 --> {hours:02}:{rest // 60:02}:{rest % 60:02}{point}000"


# Voice --------------------------------------------------------------------------------------------------


def _speech(body: Mapping[str, object]) -> Pretence:
    """Silence as long as the text takes: WAV (or bare samples for pcm), whatever else is asked for."""
    text = str(body.get("input") or "")
    samples = bytes(2 * _RATE * min(1 + len(text) // _CHARACTERS_PER_SECOND, _MOST_SOUND_S))
    if body.get("stream_format") == "sse":
        spoken = len(samples) // (2 * _RATE) * 20
        usage = {
            "input_tokens": tokens_of(text),
            "output_tokens": spoken,
            "total_tokens": tokens_of(text) + spoken,
        }
        pieces = [{"type": "speech.audio.delta", "audio": b64encode(piece).decode()} for piece in _cut(samples)]
        done = {"type": "speech.audio.done", "usage": usage}
        return Pretence(_SSE, [sse(orjson.dumps(event)) for event in (*pieces, done)])
    if body.get("response_format") == "pcm":
        return Pretence("audio/pcm", list(_cut(samples)))
    return Pretence("audio/wav", list(_cut(_wav(samples))))


def _wav(samples: bytes) -> bytes:
    """Mono, 16 bit."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _RATE, 2 * _RATE, 2, 16)
    data = struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(data), b"WAVE") + form + data


def _cut(data: bytes) -> Iterator[bytes]:
    yield from (data[at : at + _PIECE] for at in range(0, len(data), _PIECE))


# Brush --------------------------------------------------------------------------------------------------


def _pictures(endpoint: str, body: Mapping[str, object]) -> Pretence:
    asked = body.get("n")
    count = min(asked, 10) if isinstance(asked, int) and asked > 0 else 1
    prompt = tokens_of(str(body.get("prompt") or ""))
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"text_tokens": prompt, "image_tokens": 0},
        "output_tokens": _TOKENS_PER_IMAGE * count,
        "total_tokens": prompt + _TOKENS_PER_IMAGE * count,
    }
    if body.get("stream") is True:
        name = "image_generation" if endpoint == "images.generations" else "image_edit"
        shown = {"b64_json": _PNG, "created_at": CREATED, "size": "1024x1024", "quality": "low"}
        shown |= {"background": "opaque", "output_format": "png"}
        partial = {"type": f"{name}.partial_image", **shown, "partial_image_index": 0}
        events = ([partial] if body.get("partial_images") else []) + [
            {"type": f"{name}.completed", **shown, "usage": usage}
        ]
        return Pretence(_SSE, [b"event: " + str(e["type"]).encode() + b"\n" + sse(orjson.dumps(e)) for e in events])
    return Pretence(_JSON, [orjson.dumps({"created": CREATED, "data": [{"b64_json": _PNG}] * count, "usage": usage})])


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc32(name + data))


def _png() -> str:
    """One grey pixel."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    data = _chunk(b"IDAT", compress(b"\x00\x80"))
    return b64encode(b"\x89PNG\r\n\x1a\n" + head + data + _chunk(b"IEND", b"")).decode()


_PNG = _png()
