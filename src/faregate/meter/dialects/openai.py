"""OpenAI chat.completions, completions and embeddings, and everyone who speaks them (Azure, DeepSeek, xAI, vLLM, ...).

Where usage is found: `usage` at the top (in an extra chunk with `choices: []`, on the finish chunk, or cumulative on
every chunk), `x_groq.usage`, `choices[0].usage` (Moonshot). Later ones replace earlier ones, field by field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from faregate.core.usage import MOST_TOKENS, Reading, Usage
from faregate.meter.dialects.openai_usage import normalise, provider_cost_usd, upstream_cost_usd
from faregate.meter.problems import event_error
from faregate.meter.reader import ALONE, FINAL, LAST, PASS, STRING, USAGE, Reader, Source
from faregate.meter.values import child, items, load_object, merge, raw_json, says_something, text

_ENDS_WITHOUT_DONE = frozenset({"perplexity"})
"""Kinds that never send [DONE]: their finish_reason is the end."""
_MODEL_TRIES = 8
_SEARCH_MODEL = re.compile(r"search-(preview|api)")


class UsageReader(Reader):
    """What all readers of OpenAI-like usage share: a merged usage object and its normal form."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.usage: dict[str, object] = {}
        self.service_tier: str | None = None

    @property
    def usage_present(self) -> bool:
        return says_something(self.usage)

    @property
    def counted(self) -> bool:
        if self.source.endpoint == "embeddings":
            return self.usage_present
        told = self.usage.get("completion_tokens", self.usage.get("output_tokens"))
        return type(told) is int and 0 <= told <= MOST_TOKENS

    def note_usage(self, value: object) -> bool:
        """Merge a usage object; False when there is none."""
        if not isinstance(value, dict) or not value:
            return False
        merge(self.usage, value)
        return True

    def complete_usage(self, usage: Usage) -> Usage | None:
        """The endpoint's own additions. `usage` is empty when the provider told none."""
        return usage if self.usage_present else None

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        """What is known so far."""
        self.settle_error(status, headers)
        usage, anomaly = normalise(self.usage, self.source)
        complete_usage = self.complete_usage(usage)
        return Reading(
            usage=complete_usage,
            complete=self.complete,
            billable=status < 400 or self.usage_present,
            error=self.error,
            anomaly=anomaly,
            service_tier=self.service_tier,
            model=self.model,
            provider_cost_usd=provider_cost_usd(self.usage),
            upstream_cost_usd=upstream_cost_usd(self.usage),
            delivered_tokens=self.delivered_tokens,
            raw_usage=raw_json(self.usage) if self.usage else b"",
        )


class OpenAIReader(UsageReader):
    """chat.completions, completions, embeddings."""

    TEXT = re.compile(rb'"(?:content|text|arguments|refusal|reasoning|reasoning_content)"\s*:\s*' + STRING)

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._ends_without_done = source.kind in _ENDS_WITHOUT_DONE
        self._model_tries = _MODEL_TRIES

    def remarkable(self, raw: bytes) -> bool:
        """Null usage on every chunk is the rule with include_usage, and not remarkable."""
        return (
            self._model_tries > 0
            or raw.count(b'"usage"') != raw.count(b'"usage":null')
            or b"error" in raw  # the key, or the event's name
            or b"[DONE]" in raw
            or (self._ends_without_done and b'"finish_reason"' in raw)
        )

    def event(self, name: str, data: bytes) -> int:
        if data.strip() == b"[DONE]":
            self.complete = True
            return LAST
        obj = load_object(data)
        if obj is None:
            return PASS
        if self.complete and self.usage_present:
            return PASS  # after the end nothing counts
        return self._chunk(name, obj)

    def answer(self, obj: Mapping[str, object]) -> None:
        self._chunk("", obj)

    def _chunk(self, name: str, obj: Mapping[str, object]) -> int:
        self._model_tries -= 1
        self.note_model(obj.get("model"))
        if self.model:
            self._model_tries = 0
        self.service_tier = text(obj.get("service_tier")) or self.service_tier
        failed = self.note_error(obj)
        if name == "error" and not failed:
            self.error, failed = event_error(obj), True
        choices = items(obj.get("choices"))
        has_usage = self._find_usage(obj, choices)
        finished = any(choice.get("finish_reason") for choice in choices)
        alone = has_usage and not obj.get("choices") and not failed
        if finished and self._ends_without_done:
            self.complete = True
            return LAST | FINAL | (USAGE if has_usage else PASS)
        return (USAGE if has_usage else PASS) | (ALONE if alone else PASS) | (FINAL if finished else PASS)

    def _find_usage(self, obj: Mapping[str, object], choices: list[Mapping[str, object]]) -> bool:
        if "x_groq" in obj:
            self.note_usage(child(obj, "x_groq").get("usage"))
        for choice in choices:
            self.note_usage(choice.get("usage"))
        return self.note_usage(obj.get("usage"))

    def complete_usage(self, usage: Usage) -> Usage | None:
        """Search models bill one search per request and do not count it."""
        if not self.usage_present or (self.source.endpoint == "embeddings" and _says_nothing(self.source, usage)):
            return None
        if usage.web_search_requests is None and self.source.kind in ("openai", "azure") and self._is_search_model():
            return replace(usage, web_search_requests=1)
        return usage

    def _is_search_model(self) -> bool:
        return _SEARCH_MODEL.search(self.model or self.source.model) is not None


def _says_nothing(source: Source, usage: Usage) -> bool:
    """Gemini's OpenAI endpoint does not count what it embeds: its zero is no value."""
    return source.kind == "gemini" and not usage.input_tokens
