"""OpenAI realtime: a session of responses. Each `response.done` has its own usage, so here, and only here, they add up.

Input transcriptions are billed at the price of the model that hears (`asr`), apart from the session's model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from faregate.core.usage import Reading, Usage
from faregate.meter.dialects.openai_usage import normalise
from faregate.meter.problems import event_error
from faregate.meter.reader import PASS, STRING, USAGE, Reader, Source
from faregate.meter.values import child, decimal, load_object, raw_json, says_something, text

_TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
ASR = "asr"


def add_usage(one: Usage | None, other: Usage) -> Usage:
    """Field by field; unknown plus known is what is known."""
    if one is None:
        return other
    sums: dict[str, Any] = {}
    for field in fields(Usage):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if field.name not in ("custom", "tool_use_billable"):
            sums[field.name] = right if left is None else left if right is None else left + right
    return replace(one, **sums)


class RealtimeReader(Reader):
    """WebSocket /realtime, server events."""

    TEXT = re.compile(rb'"delta"\s*:\s*' + STRING)

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._session: Usage | None = None
        self._heard: Usage | None = None
        self._open: set[str] = set()
        self._anomaly: str | None = None
        self._last_usage: Mapping[str, object] = {}
        self._done: set[str] = set()

    def remarkable(self, raw: bytes) -> bool:
        return b".delta" not in raw

    def count_text(self, raw: bytes) -> None:
        if b"audio.delta" not in raw:  # base64 is no text
            super().count_text(raw)

    @property
    def usage_present(self) -> bool:
        return self._session is not None or self._heard is not None

    def event(self, name: str, data: bytes) -> int:
        obj = load_object(data) or {}
        kind = text(obj.get("type")) or name
        response = child(obj, "response")
        key = text(response.get("id")) or ""
        if kind == "session.created":
            self.note_model(child(obj, "session").get("model"))
        elif kind == "response.created":
            self._open.add(key)
        elif kind == "response.done":
            return self._note_response(key, response)
        elif kind == _TRANSCRIBED:
            return self._note_transcription(obj)
        elif kind == "error":
            self.error = event_error(obj)
        return PASS

    def _note_response(self, key: str, response: Mapping[str, object]) -> int:
        self.complete = True
        self._open.discard(key)
        if key and key in self._done:
            return PASS  # told twice, billed once
        self._done.add(key)
        self.note_error(child(response, "status_details"))
        usage = self._usage(response)
        if usage is not None:
            self._session = add_usage(self._session, usage)
        return USAGE

    def _note_transcription(self, obj: Mapping[str, object]) -> int:
        self.complete = True
        usage = self._usage(obj)
        if usage is not None:
            self._heard = add_usage(self._heard, usage)
        return USAGE

    def _usage(self, holder: Mapping[str, object]) -> Usage | None:
        raw = child(holder, "usage")
        if not says_something(raw):
            return None
        self._last_usage = raw
        usage, anomaly = normalise(raw, self.source)
        self._anomaly = self._anomaly or anomaly
        seconds = decimal(raw.get("seconds"))
        return usage if seconds is None else replace(usage, audio_seconds=seconds)

    def answer(self, obj: Mapping[str, object]) -> None:
        self.event("", raw_json(obj))

    @property
    def billed_model(self) -> str | None:
        """`asr` when transcription is all there is."""
        return ASR if self._session is None and self._heard is not None else None

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        self.settle_error(status, headers)
        own = self.model or self.source.model
        both = self._session is not None and self._heard is not None
        return Reading(
            usage=self._session if self._session is not None else self._heard,
            complete=self.complete and not self._open,
            billable=self.usage_present or status < 400,
            error=self.error,
            anomaly=self._anomaly,
            model=self.billed_model or self.model,
            per_model={own: self._session, ASR: self._heard} if both else None,  # type: ignore[dict-item]
            delivered_tokens=self.delivered_tokens,
            raw_usage=raw_json(self._last_usage) if self._last_usage else b"",
        )
