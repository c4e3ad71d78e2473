"""OpenAI's wire as bytes: bodies, chunks and errors of the scripted upstream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import orjson

CREATED = 1_760_000_000
WORD = " word"
"""One token of output."""


def usage(endpoint: str, input_tokens: int, output_tokens: int) -> dict[str, object]:
    """The usage object an endpoint reports."""
    total = {"prompt_tokens": input_tokens, "total_tokens": input_tokens + output_tokens}
    if endpoint == "embeddings":
        return {**total}
    return {
        **total,
        "completion_tokens": output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def plain(endpoint: str, call_id: str, model: str, per_choice: int, choices: int) -> dict[str, object]:
    """A whole answer without its usage."""
    if endpoint == "embeddings":
        vector = {"object": "embedding", "index": 0, "embedding": [0.5, -0.25, 0.125]}
        return {"object": "list", "data": [vector], "model": model}
    text = WORD * per_choice
    kind = "chat.completion" if endpoint == "chat.completions" else "text_completion"
    listed = [{"index": index, **_said(endpoint, text), "finish_reason": "stop"} for index in range(choices)]
    return {"id": call_id, "object": kind, "created": CREATED, "model": model, "choices": listed}


def _said(endpoint: str, text: str) -> dict[str, object]:
    if endpoint == "completions":
        return {"text": text, "logprobs": None}
    return {"message": {"role": "assistant", "content": text}, "logprobs": None}


def events(
    endpoint: str, call_id: str, model: str, per_choice: int, choices: int, *, usage_null: bool
) -> Iterator[tuple[bytes, int]]:
    """Each event of a stream with the tokens it carries; the usage chunk and [DONE] are the caller's."""
    kind = "chat.completion.chunk" if endpoint == "chat.completions" else "text_completion"
    head: dict[str, object] = {"id": call_id, "object": kind, "created": CREATED, "model": model}
    tail: dict[str, object] = {"usage": None} if usage_null else {}
    for _ in range(per_choice):
        for index in range(choices):
            yield sse({**head, "choices": [_delta(endpoint, index, WORD, None)], **tail}), 1
    for index in range(choices):
        yield sse({**head, "choices": [_delta(endpoint, index, "", "stop")], **tail}), 0


def _delta(endpoint: str, index: int, text: str, finish: str | None) -> dict[str, object]:
    if endpoint == "completions":
        return {"index": index, "text": text, "finish_reason": finish}
    return {"index": index, "delta": {"content": text} if text else {}, "finish_reason": finish}


def usage_event(call_id: str, model: str, used: Mapping[str, object]) -> bytes:
    """The extra chunk of include_usage: no choices."""
    head = {"id": call_id, "object": "chat.completion.chunk", "created": CREATED, "model": model}
    return sse({**head, "choices": [], "usage": used})


def error(message: str, kind: str, code: str | None) -> dict[str, object]:
    """OpenAI's error body."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def sse(value: object) -> bytes:
    """One data event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"
