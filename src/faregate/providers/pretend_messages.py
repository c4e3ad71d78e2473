"""The sandbox's messages: the same pretend model in Anthropic's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256

import orjson

from faregate.providers.pretend import asked_length, text_of, tokens_of, whole_of, word

ENDPOINTS = frozenset({"messages", "messages.count_tokens"})


def pretend_message(endpoint: str, body: Mapping[str, object]) -> list[bytes]:
    """The answer: one JSON document, or the events of a stream."""
    prompt = "\n".join(text_of(body.get(name)) for name in ("system", "messages")).strip()
    input_tokens = tokens_of(prompt)
    if endpoint == "messages.count_tokens":
        return [orjson.dumps({"input_tokens": input_tokens})]
    digest = sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
    length, bound = asked_length(prompt, digest), whole_of(body.get("max_tokens"), 0)
    words = [word(digest[1], index) for index in range(min(length, bound))]
    message = {
        "id": f"msg_{digest.hex()[:24]}",
        "type": "message",
        "role": "assistant",
        "model": str(body.get("model")),
        "content": [{"type": "text", "text": "".join(words)}],
        "stop_reason": "max_tokens" if length > bound else "end_turn",
        "stop_sequence": None,
        "usage": _usage(input_tokens, len(words)),
    }
    return list(_stream(message, words)) if body.get("stream") is True else [orjson.dumps(message)]


def _usage(input_tokens: int, output_tokens: int) -> dict[str, object]:
    cached = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": input_tokens, **cached, "output_tokens": output_tokens, "service_tier": "standard"}


def _stream(message: Mapping[str, object], words: list[str]) -> Iterator[bytes]:
    used = message["usage"]
    assert isinstance(used, dict)
    empty: dict[str, object] = {
        "content": [],
        "stop_reason": None,
        "usage": {**used, "output_tokens": min(1, len(words))},
    }
    yield _event("message_start", message={**message, **empty})
    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for text in words:
        yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
    yield _event("content_block_stop", index=0)
    why = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield _event("message_delta", delta=why, usage={"output_tokens": len(words)})
    yield _event("message_stop")


def _event(kind: str, **fields: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))
