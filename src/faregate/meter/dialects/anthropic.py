"""Anthropic messages: input, cache writes and cache reads stand side by side and are added; thinking is inside output.

A stream tells the input in `message_start` (its output is a placeholder) and cumulative counts in `message_delta`.
With `iterations` the bill is theirs, per model: compactions, declined attempts and advisors are not in the top level.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import reduce

from faregate.core.usage import Reading, Usage
from faregate.meter.dialects.openai_realtime import add_usage
from faregate.meter.reader import FINAL, LAST, PASS, STRING, USAGE, Reader, Source
from faregate.meter.values import Counts, add, child, count, items, load_object, merge, raw_json, says_something, text

_GROWING = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_METRICS = "amazon-bedrock-invocationMetrics"


class AnthropicReader(Reader):
    """POST /v1/messages, also inside Bedrock's InvokeModel."""

    TEXT = re.compile(rb'"(?:text|thinking|partial_json)"\s*:\s*' + STRING)

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.usage: dict[str, object] = {}
        self._output_known = False
        self._stop_reason: str | None = None
        self._has_content = False

    @property
    def usage_present(self) -> bool:
        return says_something(self.usage)

    def remarkable(self, raw: bytes) -> bool:
        return b'"content_block_delta"' not in raw or b'"message_' in raw or b'"error"' in raw or not self._has_content

    def event(self, name: str, data: bytes) -> int:
        obj = load_object(data) or {}
        kind = text(obj.get("type")) or name
        fate = PASS
        if kind == "message_start":
            self._note_message(child(obj, "message"))
            fate = USAGE
        elif kind == "message_delta":
            self._stop_reason = text(child(obj, "delta").get("stop_reason")) or self._stop_reason
            self._note_usage(obj.get("usage"), final=True)
            fate = USAGE | FINAL
        elif kind == "content_block_delta":
            self._has_content = True
        elif kind == "error":
            self.note_error(obj)
        elif kind == "message_stop":
            self.complete = True
            fate = LAST
        self._note_metrics(obj.get(_METRICS))
        return fate

    def answer(self, obj: Mapping[str, object]) -> None:
        self._note_message(obj)
        self._output_known = count(self.usage.get("output_tokens")) is not None
        self._has_content = bool(items(obj.get("content")))

    def _note_message(self, message: Mapping[str, object]) -> None:
        self.note_model(message.get("model"))
        self._stop_reason = text(message.get("stop_reason")) or self._stop_reason
        self._note_usage(message.get("usage"), final=False)

    def _note_usage(self, usage: object, *, final: bool) -> None:
        """Counts of the input only grow (server tools add to it), so the larger wins; the output replaces."""
        if not isinstance(usage, dict):
            return
        new = dict(usage)
        for key in _GROWING:
            old, now = count(self.usage.get(key)), count(new.get(key))
            if old is not None and now is not None and now < old:
                del new[key]
        output = count(new.get("output_tokens"))
        merge(self.usage, new)
        if final and output is not None:
            self._output_known = True
            self.usage["output_tokens"] = output

    def _note_metrics(self, metrics: object) -> None:
        """Bedrock repeats the counts on the last event: they fill what is missing and never add."""
        if isinstance(metrics, dict):
            counts = Counts(metrics)
            told = {
                "input_tokens": counts("inputTokenCount"),
                "cache_read_input_tokens": counts("cacheReadInputTokenCount"),
                "cache_creation_input_tokens": counts("cacheWriteInputTokenCount"),
            }
            merge(self.usage, {key: value for key, value in told.items() if self.usage.get(key) is None})
            if not self._output_known and (output := counts("outputTokenCount")) is not None:
                self._output_known = True
                self.usage["output_tokens"] = output

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        """What is known so far."""
        self.settle_error(status, headers)
        usage, per_model, negative = self._normalise()
        return Reading(
            usage=usage,
            complete=self.complete,
            billable=self._is_billable(status),
            output_is_placeholder=usage is not None and not self._output_known and self.source.stream,
            error=self.error,
            anomaly="negative_tokens" if negative else None,
            service_tier=text(self.usage.get("service_tier")),
            speed=text(self.usage.get("speed")),
            inference_geo=text(self.usage.get("inference_geo")),
            model=self.model,
            per_model=per_model,
            delivered_tokens=self.delivered_tokens,
            raw_usage=raw_json(self.usage) if self.usage else b"",
        )

    def _is_billable(self, status: int) -> bool:
        """A refusal before any output is free, though its usage is not zero."""
        if self._stop_reason == "refusal" and not self._has_content:
            return False
        return self.usage_present or status < 400

    def _normalise(self) -> tuple[Usage | None, Mapping[str, Usage] | None, bool]:
        if not self.usage_present:
            return None, None, False
        counts = Counts(self.usage)
        usage = one_usage(counts, output_known=self._output_known)
        billed = _billed_iterations(items(self.usage.get("iterations")))
        if not billed or not self._output_known:
            return usage, None, counts.negative
        return *_from_iterations(billed, usage, self.model or self.source.model), counts.negative


def one_usage(counts: Counts, *, output_known: bool = True) -> Usage:
    """One usage object: the three inputs added, writes split by their time to live (5 minutes unless told)."""
    fresh, read = counts("input_tokens"), counts("cache_read_input_tokens")
    short = counts("cache_creation.ephemeral_5m_input_tokens")
    long = counts("cache_creation.ephemeral_1h_input_tokens")
    written = counts("cache_creation_input_tokens")
    if written is None:
        written = add((short, long))
    if short is None and long is None:
        short = written
    return Usage(
        input_tokens=add((fresh, read, written)) if fresh is not None else None,
        output_tokens=counts("output_tokens") if output_known else None,
        cached_input_tokens=read,
        cache_write_tokens=written,
        cache_write_5m_tokens=short,
        cache_write_1h_tokens=long,
        reasoning_tokens=counts("output_tokens_details.thinking_tokens"),
        web_search_requests=counts("server_tool_use.web_search_requests"),
        web_fetch_requests=counts("server_tool_use.web_fetch_requests"),
    )


def _billed_iterations(iterations: list[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """All of them, but where a fallback served, an attempt that declined without output is free."""
    if not any(entry.get("type") == "fallback_message" for entry in iterations):
        return iterations
    return [
        e for e in iterations if e.get("type") not in ("message", "fallback_message") or count(e.get("output_tokens"))
    ]


def _from_iterations(
    iterations: list[Mapping[str, object]], top: Usage, model: str
) -> tuple[Usage, Mapping[str, Usage] | None]:
    per_model: dict[str, Usage] = {}
    for entry in iterations:
        name = text(entry.get("model")) or model
        per_model[name] = add_usage(per_model.get(name), one_usage(Counts(entry)))
    if any(entry.get("type") in ("message", "fallback_message") for entry in iterations):
        rest = _apart_from_tokens(top)
    else:
        rest = top  # only extras are listed: the answer itself is the top level
    per_model[model] = add_usage(per_model.get(model), rest)
    total = reduce(add_usage, per_model.values(), Usage())
    named = any(text(entry.get("model")) for entry in iterations)
    return total, per_model if named or len(per_model) > 1 else None


def _apart_from_tokens(top: Usage) -> Usage:
    """What iterations do not repeat: thinking (a part of output) and the tools' fees."""
    return Usage(
        reasoning_tokens=top.reasoning_tokens,
        web_search_requests=top.web_search_requests,
        web_fetch_requests=top.web_fetch_requests,
    )
