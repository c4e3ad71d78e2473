"""The sandbox's pretend model: a pure function from an OpenAI request body to the pieces of its answer."""

from __future__ import annotations

import re
import struct
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import orjson

CREATED = 1_767_225_600
"""Always the same moment (2026-01-01): an answer depends on its request alone."""

MAX_OUTPUT_TOKENS = 16_384
_DEFAULT_COMPLETION = 16
_DEFAULT_DIMENSIONS = 256
_WORDS = (
    "the",
    "gate",
    "opens",
    "once",
    "a",
    "fare",
    "is",
    "held",
    "and",
    "closes",
    "when",
    "it",
    "has",
    "been",
    "paid",
)
_ASKED = re.compile(r"\b(\d{1,6}) (?:words|tokens)\b")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is going to be said."""

    id: str
    chat: bool
    model: str
    text: tuple[str, ...]
    """The tokens of each choice."""
    finish: str
    choices: int
    input_tokens: int

    @property
    def usage(self) -> dict[str, object]:
        output_tokens = len(self.text) * self.choices
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": self.input_tokens + output_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def head(self, kind: str) -> dict[str, object]:
        return {"id": self.id, "object": kind, "created": CREATED, "model": self.model}


def pretend(endpoint: str, body: Mapping[str, object]) -> list[bytes]:
    """The answer: one JSON document, or the events of a stream."""
    if endpoint == "embeddings":
        return [orjson.dumps(_embeddings(body))]
    plan = _plan(endpoint == "chat.completions", body)
    if body.get("stream") is True:
        options = body.get("stream_options")
        return list(_stream(plan, isinstance(options, dict) and options.get("include_usage") is True))
    return [orjson.dumps(_plain(plan))]


def _plan(chat: bool, body: Mapping[str, object]) -> _Plan:
    prompt = text_of(body.get("messages") if chat else body.get("prompt"))
    digest = sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
    length = asked_length(prompt, digest)
    bound = _bound(chat, body)
    return _Plan(
        id=("chatcmpl-" if chat else "cmpl-") + digest.hex()[:24],
        chat=chat,
        model=str(body.get("model")),
        text=tuple(word(digest[1], index) for index in range(min(length, bound))),
        finish="length" if length > bound else "stop",
        choices=whole_of(body.get("n"), 1),
        input_tokens=tokens_of(prompt),
    )


def asked_length(prompt: str, digest: bytes) -> int:
    """How many tokens a prompt asks for; else its hash decides."""
    asked = _ASKED.findall(prompt)
    return min(int(asked[-1]), MAX_OUTPUT_TOKENS) if asked else 12 + digest[0] % 24


def _bound(chat: bool, body: Mapping[str, object]) -> int:
    names = ("max_completion_tokens", "max_tokens") if chat else ("max_tokens",)
    asked = [whole_of(body.get(name), MAX_OUTPUT_TOKENS) for name in names if body.get(name) is not None]
    return min(asked, default=MAX_OUTPUT_TOKENS if chat else _DEFAULT_COMPLETION)


def word(seed: int, index: int) -> str:
    """One token of output: the first begins the sentence."""
    chosen = _WORDS[(seed + index) % len(_WORDS)]
    return chosen.capitalize() if index == 0 else f" {chosen}"


def _plain(plan: _Plan) -> dict[str, object]:
    text = "".join(plan.text)
    said: dict[str, object] = {"text": text}
    if plan.chat:
        said = {"message": {"role": "assistant", "content": text, "refusal": None}}
    choices = [
        {"index": index, **said, "logprobs": None, "finish_reason": plan.finish} for index in range(plan.choices)
    ]
    head = plan.head("chat.completion" if plan.chat else "text_completion")
    return {**head, "choices": choices, "usage": plan.usage}


def _stream(plan: _Plan, include_usage: bool) -> Iterator[bytes]:
    head = plan.head("chat.completion.chunk" if plan.chat else "text_completion")
    tail: dict[str, object] = {"usage": None} if include_usage else {}
    for index, delta, finish in _deltas(plan):
        said: dict[str, object] = {"delta": delta} if plan.chat else {"text": delta.get("content", "")}
        choice = {"index": index, **said, "logprobs": None, "finish_reason": finish}
        yield sse(orjson.dumps({**head, "choices": [choice], **tail}))
    if include_usage:
        yield sse(orjson.dumps({**head, "choices": [], "usage": plan.usage}))
    yield sse(b"[DONE]")


def _deltas(plan: _Plan) -> Iterator[tuple[int, dict[str, str], str | None]]:
    if plan.chat:
        yield from ((index, {"role": "assistant", "content": ""}, None) for index in range(plan.choices))
    for word in plan.text:
        yield from ((index, {"content": word}, None) for index in range(plan.choices))
    yield from ((index, {}, plan.finish) for index in range(plan.choices))


def _embeddings(body: Mapping[str, object]) -> dict[str, object]:
    inputs = _inputs(body.get("input"))
    size = whole_of(body.get("dimensions"), _DEFAULT_DIMENSIONS)
    packed = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _pack(vector) if packed else vector}
        for index, vector in enumerate(vector_of(item, size) for item in inputs)
    ]
    tokens = sum(len(item) if isinstance(item, list) else tokens_of(text_of(item)) for item in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": str(body.get("model")), "usage": usage}


def _inputs(value: object) -> Sequence[object]:
    """A string, a list of them, one token array, or a list of those."""
    if isinstance(value, list) and value and not isinstance(value[0], int):
        return value
    return [value]


def vector_of(item: object, size: int) -> list[float]:
    """`size` numbers between -1 and 1, exact as 32-bit floats."""
    seed = orjson.dumps(item)
    blocks = b"".join(sha256(seed + bytes([part % 256])).digest() for part in range(size // 32 + 1))
    return [(byte - 128) / 128 for byte in blocks[:size]]


def _pack(vector: Sequence[float]) -> str:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def text_of(value: object) -> str:
    """All text of a prompt: strings, messages, content parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(map(text_of, value))
    if isinstance(value, dict):
        return text_of(value.get("content", value.get("text", "")))
    return ""


def tokens_of(text: str) -> int:
    """Four bytes to a token, at least one."""
    return max(1, -(-len(text.encode()) // 4))


def whole_of(value: object, default: int) -> int:
    """A whole number of a body that is no mistake, else the default."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def sse(data: bytes) -> bytes:
    """One event."""
    return b"data: " + data + b"\n\n"
