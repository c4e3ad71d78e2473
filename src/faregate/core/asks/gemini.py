"""Gemini's generateContent: bounds in `generationConfig`, media by their MIME type.

All of Google's JSON takes a field by its camelCase and by its snake_case name, and so does this; both at once is
refused, since which one counts would be anybody's guess. What stands somewhere else (a file, a cache) may fill the
model's context.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from faregate.core.asks.shape import MAX_TOKENS, ONE_REQUEST, Allowances, Asked, Input, whole
from faregate.core.call import Call
from faregate.errors import InvalidRequest

MAX_CANDIDATES = 8
"""Google's limit for candidateCount."""
MOST_CONTEXT = 1_048_576
"""Of a model whose context is not known."""
_AUDIO_TOKENS_PER_S = 32
_FRAME_TOKENS = 258
_WAV_BYTES_PER_S = 8_000
_COMPRESSED_BYTES_PER_S = 1_000
"""8 kbit/s, the lowest rate of mp3."""
_VIDEO_BYTES_PER_S = 6_000
"""About 50 kbit/s: less is no film any more."""
_MOST_FPS = 24
_SEARCH: Mapping[str, Decimal] = {**ONE_REQUEST, "search": Decimal(1)}
_SEARCHES = frozenset({"googleSearch", "google_search", "googleSearchRetrieval", "google_search_retrieval"})
_CAPITAL = re.compile(r"[A-Z]")


def snake(name: str) -> str:
    """`maxOutputTokens` as max_output_tokens."""
    return _CAPITAL.sub(lambda letter: "_" + letter[0].lower(), name)


def name_in(body: Mapping[str, object], name: str) -> str:
    """The spelling a body uses; the camelCase one when it has none. Raises InvalidRequest for both at once."""
    other = snake(name)
    if other == name or body.get(other) is None:
        return name
    if body.get(name) is not None:
        raise InvalidRequest(f"{name} and {other} are the same field: send one of them", param=name)
    return other


def config_of(body: Mapping[str, object]) -> Mapping[str, object]:
    """`generationConfig`. Raises InvalidRequest when it is no object."""
    config = body.get(name_in(body, "generationConfig"))
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise InvalidRequest("generationConfig must be an object", param="generationConfig")
    return config


def generate_output(call: Call) -> Asked:
    """maxOutputTokens (thinking counts inside) times candidateCount."""
    config = config_of(call.body)
    bound_name, count_name = name_in(config, "maxOutputTokens"), name_in(config, "candidateCount")
    bound = whole(config, bound_name, 1, MAX_TOKENS)
    choices = whole(config, count_name, 1, MAX_CANDIDATES) or 1
    return Asked(bound, choices, True, None if bound is None else "generationConfig.maxOutputTokens")


def generate_input(call: Call, allow: Allowances) -> Input:
    """Text by its bytes; allowances for media, files and caches. Base64 is counted by its length, never read."""
    body, found = call.body, _Found()
    for part in _parts(body):
        _count(part, allow, found)
    if body.get(name_in(body, "cachedContent")) is not None:
        found.tokens += _context(allow)
    tokens = max(1, allow.text(call.body_bytes - found.base64) + found.tokens)
    wanted = config_of(body).get(name_in(config_of(body), "responseModalities"))
    for word in wanted if isinstance(wanted, list) else ():
        found.modalities.add(str(word).lower())
    modalities = frozenset(found.modalities & {"audio", "image"})
    return Input(tokens, modalities, _SEARCH if _searches(body) else ONE_REQUEST, _tier(body))


def embed_input(call: Call, allow: Allowances) -> Input:
    """One content, or a list of requests with a content each."""
    requests = call.body.get("requests")
    listed = requests if isinstance(requests, list) else [call.body]
    found = _Found()
    for request in listed:
        for part in _parts_of(request.get("content") if isinstance(request, dict) else None):
            _count(part, allow, found)
    modalities = frozenset(found.modalities & {"audio", "image"})
    return Input(max(1, allow.text(call.body_bytes - found.base64) + found.tokens), modalities)


@dataclass(slots=True)
class _Found:
    """What the parts come to."""

    tokens: int = 0
    base64: int = 0
    modalities: set[str] = field(default_factory=set)


def _count(part: Mapping[str, object], allow: Allowances, found: _Found) -> None:
    data, file = part.get(name_in(part, "inlineData")), part.get(name_in(part, "fileData"))
    if isinstance(data, dict):
        content = data.get("data")
        length = len(content) if isinstance(content, str) else 0
        kind = _kind(data)
        if kind != "text":
            found.base64 += length
            found.tokens += _inline(kind, length * 3 // 4, part, data, allow)
    elif isinstance(file, dict):
        kind = _kind(file)
        found.tokens += allow.image("high") if kind == "image" else _elsewhere(kind, allow)
    else:
        return
    found.modalities |= {"audio", "image"} if kind == "video" else {kind}


def _inline(kind: str, size: int, part: Mapping[str, object], data: Mapping[str, object], allow: Allowances) -> int:
    """The tokens of media of so many bytes."""
    if kind == "image":
        return allow.image("high")
    if kind == "audio":
        mime = str(data.get(name_in(data, "mimeType"))).lower()
        per_s = _WAV_BYTES_PER_S if "wav" in mime or "pcm" in mime or "l16" in mime else _COMPRESSED_BYTES_PER_S
        seconds = -(-size // per_s)
        return min(_context(allow), max(allow.sound(seconds), _AUDIO_TOKENS_PER_S * seconds))
    if kind == "video":
        per_s = _AUDIO_TOKENS_PER_S + _FRAME_TOKENS * _fps(part)
        return min(_context(allow), -(-size // _VIDEO_BYTES_PER_S) * per_s)
    return min(_context(allow), allow.document(str(data.get("data") or "")))


def _elsewhere(kind: str, allow: Allowances) -> int:
    return _context(allow) if kind in ("audio", "video", "text") else min(_context(allow), allow.document(None))


def _fps(part: Mapping[str, object]) -> int:
    told = part.get(name_in(part, "videoMetadata"))
    fps = told.get("fps") if isinstance(told, dict) else None
    if isinstance(fps, int | float) and 0 < fps < _MOST_FPS:
        return -int(-fps // 1)
    return 1 if fps is None else _MOST_FPS


def _kind(data: Mapping[str, object]) -> str:
    """image, audio, video, text; anything else is read as a document."""
    mime = data.get(name_in(data, "mimeType"))
    return mime.partition("/")[0].strip().lower() if isinstance(mime, str) else ""


def _context(allow: Allowances) -> int:
    return MOST_CONTEXT if allow.context_tokens is None else allow.context_tokens


def _parts(body: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """The parts of all contents, of the system instruction and of function responses."""
    contents = body.get("contents")
    system = body.get(name_in(body, "systemInstruction"))
    listed = contents if isinstance(contents, list) else [contents]
    for content in [*listed, system]:
        yield from _parts_of(content)


def _parts_of(content: object) -> Iterator[Mapping[str, object]]:
    parts = content.get("parts") if isinstance(content, dict) else None
    for part in parts if isinstance(parts, list) else [parts]:
        if isinstance(part, dict):
            yield part
            yield from _parts_of(part.get(name_in(part, "functionResponse")))


def _searches(body: Mapping[str, object]) -> bool:
    tools = body.get("tools")
    return any(
        isinstance(tool, dict) and _SEARCHES & tool.keys() for tool in (tools if isinstance(tools, list) else ())
    )


def _tier(body: Mapping[str, object]) -> str:
    tier = body.get(name_in(body, "serviceTier"))
    return tier.lower() if isinstance(tier, str) else "default"
