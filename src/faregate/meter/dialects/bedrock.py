"""Bedrock: Converse (its own usage names) and InvokeModel (the vendor's body, plus Bedrock's own counts).

Converse counts only fresh input in `inputTokens`; reads and writes are added. GPT-5.6 on ConverseStream breaks that:
there inputTokens holds them already, and only the model's name tells.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import replace

from faregate.core.usage import ProviderError, Reading, Usage
from faregate.meter.dialects.anthropic import AnthropicReader
from faregate.meter.dialects.openai_usage import anomaly, normalise
from faregate.meter.reader import FINAL, LAST, PASS, STRING, USAGE, Reader, Source
from faregate.meter.values import Counts, add, child, count, items, load_object, merge, raw_json, says_something, text

_INCLUSIVE_STREAM = re.compile(r"openai\.gpt-5\.6")
_METRICS = "amazon-bedrock-invocationMetrics"
_TIER_HEADER = "x-amzn-bedrock-service-tier"


def exception(name: str, data: bytes) -> ProviderError:
    """An exception frame: its name and its message."""
    obj = load_object(data) or {}
    return ProviderError(code=name[1:], message=text(obj.get("message")) or text(obj.get("Message")))


class ConverseReader(Reader):
    """POST /model/{id}/converse and /converse-stream. Usage comes after the end: `metadata` follows `messageStop`."""

    TEXT = re.compile(rb'"(?:text|input)"\s*:\s*' + STRING)

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.usage: dict[str, object] = {}
        self._tier: str | None = None

    @property
    def usage_present(self) -> bool:
        return says_something(self.usage)

    def event(self, name: str, data: bytes) -> int:
        if name.startswith("!"):
            self.error = exception(name, data)
            return PASS
        if name == "messageStop":
            self.complete = True
            return LAST | FINAL
        if name == "metadata":
            self.answer(load_object(data) or {})
            return USAGE
        return PASS

    def answer(self, obj: Mapping[str, object]) -> None:
        merge(self.usage, child(obj, "usage"))
        self._tier = text(child(obj, "serviceTier").get("type")) or self._tier

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        """What is known so far."""
        self.settle_error(status, headers)
        counts = Counts(self.usage)
        usage = self._normalise(counts) if self.usage_present else None
        return Reading(
            usage=usage,
            complete=self.complete,
            billable=self.usage_present or status < 400,
            error=self.error,
            anomaly=anomaly(usage, negative=counts.negative) if usage is not None else None,
            service_tier=self._tier or text(headers.get(_TIER_HEADER)),
            model=self.model,
            delivered_tokens=self.delivered_tokens,
            raw_usage=raw_json(self.usage) if self.usage else b"",
        )

    def _normalise(self, counts: Counts) -> Usage:
        fresh = counts("inputTokens")
        read = counts("cacheReadInputTokens", "cacheReadInputTokenCount")
        written = counts("cacheWriteInputTokens", "cacheWriteInputTokenCount")
        inclusive = self.source.stream and _INCLUSIVE_STREAM.search(self.source.model) is not None
        by_ttl = self._writes_by_ttl()
        usage = Usage(
            input_tokens=fresh if inclusive or fresh is None else add((fresh, read, written)),
            output_tokens=counts("outputTokens"),
            cached_input_tokens=read,
            cache_write_tokens=written,
            cache_write_5m_tokens=by_ttl.get("5m"),
            cache_write_1h_tokens=by_ttl.get("1h"),
        )
        if fresh is None and usage.output_tokens is None:
            return replace(usage, total_tokens=counts("totalTokens"))
        return usage

    def _writes_by_ttl(self) -> dict[str, int]:
        split: dict[str, int] = {}
        for item in items(self.usage.get("cacheDetails")):
            ttl, tokens = text(item.get("ttl")), count(item.get("inputTokens"))
            if ttl and tokens is not None:
                split[ttl] = split.get(ttl, 0) + tokens
        return split


class InvokeReader(AnthropicReader):
    """POST /model/{id}/invoke, /invoke-with-response-stream: Anthropic's events for Claude, else the vendor's names."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._is_claude = "anthropic" in source.model or "claude" in source.model
        self._vendor: dict[str, object] = {}

    @property
    def usage_present(self) -> bool:
        return super().usage_present or says_something(self._vendor)

    def remarkable(self, raw: bytes) -> bool:
        return True  # base64 hides what is inside

    def count_text(self, raw: bytes) -> None:
        if not self.source.stream:
            self._count_vendor_text(raw)

    def _count_vendor_text(self, data: bytes) -> None:
        for piece in _VENDOR_TEXT.findall(data):
            self.deltas += 1
            self.text_bytes += len(piece)

    def event(self, name: str, data: bytes) -> int:
        if name.startswith("!"):
            self.error = exception(name, data)
            return PASS
        inner = _unwrap(data)
        self._count_vendor_text(inner)
        obj = load_object(inner) or {}
        if self._is_claude:
            fate = super().event(name, inner)
        else:
            self.answer(obj)
            fate = PASS
        if _METRICS in obj:
            self.complete = True
            fate |= LAST | USAGE
        return fate

    def answer(self, obj: Mapping[str, object]) -> None:
        if self._is_claude:
            super().answer(obj)
            return
        self.note_model(obj.get("model"))
        merge(self._vendor, _vendor_usage(obj))

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        """What is known so far; Bedrock's own headers where the vendor's body tells nothing."""
        if status < 400 and not self._is_claude:
            merge(self._vendor, _header_usage(headers, self._vendor))
        reading = super().reading(status, headers)
        tier = reading.service_tier or text(headers.get(_TIER_HEADER))
        if not says_something(self._vendor):
            return replace(reading, service_tier=tier)
        usage, strange = normalise(self._vendor, self.source)
        return replace(
            reading,
            usage=usage,
            anomaly=strange,
            service_tier=tier,
            output_is_placeholder=False,
            raw_usage=raw_json(self._vendor),
        )


_VENDOR_TEXT = re.compile(rb'"(?:text|thinking|partial_json|generation|outputText|content)"\s*:\s*' + STRING)


def _unwrap(payload: bytes) -> bytes:
    """`{"bytes": "<base64>"}`: the vendor's JSON."""
    encoded = text((load_object(payload) or {}).get("bytes"))
    if encoded is None:
        return payload
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _vendor_usage(obj: Mapping[str, object]) -> dict[str, object]:
    """Nova, Titan, Llama, OpenAI-like bodies under one pair of names. Bedrock's metrics repeat, and exclude caches."""
    counts, usage = Counts(obj), child(obj, "usage")
    metrics = Counts(child(obj, _METRICS))
    found: dict[str, object] = dict(usage) if "prompt_tokens" in usage or "input_tokens" in usage else {}
    nova = Counts(usage)
    cached, written = nova("cacheReadInputTokenCount", "cacheReadInputTokens"), nova("cacheWriteInputTokenCount")
    results = [count(item.get("tokenCount")) for item in items(obj.get("results"))]
    told = {
        "input_tokens": _first(
            add((nova("inputTokens"), cached, written)) if nova("inputTokens") is not None else None,
            counts("prompt_token_count"),
            counts("inputTextTokenCount"),
        ),
        "output_tokens": _first(nova("outputTokens"), counts("generation_token_count"), add(results)),
    }
    if not found:
        found = {**told, "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written}}
    total_in = add(
        (metrics("inputTokenCount"), metrics("cacheReadInputTokenCount"), metrics("cacheWriteInputTokenCount"))
    )
    for key, short, value in (
        ("input_tokens", "prompt_tokens", total_in),
        ("output_tokens", "completion_tokens", metrics("outputTokenCount")),
    ):
        if value is not None and count(found.get(short)) is None:
            found[key] = value
    return found


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _header_usage(headers: Mapping[str, str], known: Mapping[str, object]) -> dict[str, object]:
    pairs = (
        ("input_tokens", "prompt_tokens", "x-amzn-bedrock-input-token-count"),
        ("output_tokens", "completion_tokens", "x-amzn-bedrock-output-token-count"),
    )
    return {
        key: headers[header]
        for key, other, header in pairs
        if header in headers and known.get(key) is None and known.get(other) is None
    }
