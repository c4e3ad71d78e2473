"""The sandbox in Gemini's words: generateContent and its kin, as pure functions of the request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

import orjson

from faregate.core.asks.gemini import config_of, name_in
from faregate.core.call import Call
from faregate.providers.pretend import (
    MAX_OUTPUT_TOKENS,
    asked_length,
    sse,
    text_of,
    tokens_of,
    vector_of,
    whole_of,
    word,
)

ENDPOINTS = frozenset({"generatecontent", "counttokens", "embedcontent", "batchembedcontents"})
_DIMENSIONS = 256


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is going to be said."""

    id: str
    model: str
    words: tuple[str, ...]
    finish: str
    choices: int
    input_tokens: int

    def chunk(self, text: str, made: int, finish: str | None) -> bytes:
        """One GenerateContentResponse with the usage so far; Google leaves out what is 0."""
        made *= self.choices
        used: dict[str, int] = {"promptTokenCount": self.input_tokens}
        if made:
            used["candidatesTokenCount"] = made
        end = {} if finish is None else {"finishReason": finish}
        said = {"content": {"parts": [{"text": text}], "role": "model"}, **end}
        return orjson.dumps(
            {
                "candidates": [{**said, "index": index} for index in range(self.choices)],
                "usageMetadata": {**used, "totalTokenCount": self.input_tokens + made},
                "modelVersion": self.model,
                "responseId": self.id,
            }
        )


def pretend_gemini(call: Call, model: str, output_cap: int | None) -> tuple[str, list[bytes]]:
    """Content type and pieces of an answer."""
    if call.endpoint == "counttokens":
        return _JSON, [orjson.dumps({"totalTokens": tokens_of(_prompt(call.body))})]
    if call.endpoint == "embedcontent":
        return _JSON, [orjson.dumps({"embedding": _embedding(call.body)})]
    if call.endpoint == "batchembedcontents":
        requests = call.body.get("requests")
        listed = requests if isinstance(requests, list) else []
        return _JSON, [orjson.dumps({"embeddings": [_embedding(request) for request in listed]})]
    plan = _plan(call.body, model, output_cap)
    if not call.stream:
        return _JSON, [plan.chunk("".join(plan.words), len(plan.words), plan.finish)]
    last = len(plan.words)
    chunks = [plan.chunk(said, count, None) for count, said in enumerate(plan.words, 1)]
    chunks.append(plan.chunk("", last, plan.finish))
    if "alt" in call.query:
        return "text/event-stream", [sse(chunk) for chunk in chunks]
    return _JSON, [*((b"[" if number == 0 else b",\n") + chunk for number, chunk in enumerate(chunks)), b"]"]


_JSON = "application/json"


def _plan(body: Mapping[str, object], model: str, output_cap: int | None) -> _Plan:
    prompt, config = _prompt(body), config_of(body)
    digest = sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
    length = asked_length(prompt, digest)
    bound = whole_of(config.get(name_in(config, "maxOutputTokens")), MAX_OUTPUT_TOKENS)
    bound = bound if output_cap is None else min(bound, output_cap)
    return _Plan(
        id=digest.hex()[:24],
        model=model,
        words=tuple([word(digest[1], index) for index in range(min(length, bound))]),
        finish="MAX_TOKENS" if length > bound else "STOP",
        choices=whole_of(config.get(name_in(config, "candidateCount")), 1),
        input_tokens=tokens_of(prompt),
    )


def _prompt(body: Mapping[str, object]) -> str:
    contents = body.get("contents")
    listed = contents if isinstance(contents, list) else [contents]
    return "\n".join(filter(None, map(_text, [body.get(name_in(body, "systemInstruction")), *listed])))


def _text(content: object) -> str:
    return text_of(content.get("parts")) if isinstance(content, dict) else ""


def _embedding(request: object) -> dict[str, object]:
    asked = request if isinstance(request, dict) else {}
    size = whole_of(asked.get(name_in(asked, "outputDimensionality")), _DIMENSIONS)
    return {"values": vector_of(asked.get("content"), size)}
