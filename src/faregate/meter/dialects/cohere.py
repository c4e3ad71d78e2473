"""Cohere: what is billed is `billed_units`, not `tokens` (which hold the prompt template, too)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from faregate.core.usage import Reading, Usage
from faregate.meter.reader import FINAL, LAST, PASS, STRING, USAGE, Reader, Source
from faregate.meter.values import Counts, child, load_object, merge, raw_json, says_something, text

_ENDS = ("message-end", "stream-end")


class CohereReader(Reader):
    """chat (v1 and v2), embed, rerank, classify."""

    TEXT = re.compile(rb'"text"\s*:\s*' + STRING)

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.usage: dict[str, object] = {}

    @property
    def usage_present(self) -> bool:
        return says_something(self.usage)

    def event(self, name: str, data: bytes) -> int:
        obj = load_object(data)
        if obj is None:
            return LAST if data.strip() == b"[DONE]" else PASS
        self.note_error(obj)
        kind = text(obj.get("type")) or text(obj.get("event_type")) or name
        if kind not in _ENDS:
            return PASS
        self.complete = True
        self.answer(child(obj, "delta") or child(obj, "response"))
        return LAST | FINAL | USAGE

    def answer(self, obj: Mapping[str, object]) -> None:
        for holder in (child(obj, "meta"), child(obj, "usage")):
            merge(self.usage, child(holder, "billed_units"))

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        """What is known so far."""
        self.settle_error(status, headers)
        counts = Counts(self.usage)
        usage = Usage(
            input_tokens=counts("input_tokens"),
            output_tokens=counts("output_tokens"),
            images=counts("images"),
            search_units=counts("search_units"),
        )
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
