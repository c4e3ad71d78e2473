"""Ollama native: newline-delimited JSON, counts on the line that says `done`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from faregate.core.usage import Reading, Usage
from faregate.meter.reader import FINAL, LAST, PASS, STRING, USAGE, Reader, Source
from faregate.meter.values import Counts, load_object, merge, raw_json, says_something

_COUNTS = ("prompt_eval_count", "eval_count")


class OllamaReader(Reader):
    """POST /api/chat, /api/generate, /api/embed."""

    TEXT = re.compile(rb'"(?:content|response|thinking)"\s*:\s*' + STRING)

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.usage: dict[str, object] = {}

    @property
    def usage_present(self) -> bool:
        return says_something(self.usage)

    def event(self, name: str, data: bytes) -> int:
        obj = load_object(data)
        if obj is None:
            return PASS
        self.note_error(obj)
        self.answer(obj)
        if obj.get("done") is not True:
            return PASS
        self.complete = True
        return LAST | FINAL | USAGE

    def answer(self, obj: Mapping[str, object]) -> None:
        self.note_model(obj.get("model"))
        merge(self.usage, {key: obj[key] for key in _COUNTS if key in obj})

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        """What is known so far. A prompt that came from the cache may have no count: unknown."""
        self.settle_error(status, headers)
        counts = Counts(self.usage)
        usage = Usage(input_tokens=counts("prompt_eval_count"), output_tokens=counts("eval_count"))
        return Reading(
            usage=usage if self.usage_present else None,
            complete=self.complete,
            billable=self.usage_present or status < 400,
            error=self.error,
            anomaly="negative_tokens" if counts.negative else None,
            model=self.model,
            delivered_tokens=self.delivered_tokens,
            raw_usage=raw_json(self.usage) if self.usage else b"",
        )
