"""OpenAI responses: usage and the end are one event, `response.completed | incomplete | failed`; there is no [DONE].

Tool fees are counted from the output items: searches (not page visits), file searches, distinct code containers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from faregate.core.usage import Reading, Usage
from faregate.meter.dialects.openai import UsageReader
from faregate.meter.problems import event_error
from faregate.meter.reader import FINAL, LAST, PASS, STRING, USAGE, Source
from faregate.meter.values import child, items, load_object, text

_TERMINAL = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
_ID = re.compile(r"[!-~]{1,256}")
"""Whatever else is no id that anybody could ask for."""
_PENDING = ("queued", "in_progress")


class ResponsesReader(UsageReader):
    """POST /responses, plain, streamed or polled."""

    TEXT = re.compile(rb'"delta"\s*:\s*' + STRING)

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._tools: dict[str, Mapping[str, object]] = {}
        self._status_text: str | None = None
        self._model_known = False
        self._id: str | None = None
        self._stored = True

    def remarkable(self, raw: bytes) -> bool:
        return not self._model_known or b".delta" not in raw or raw.count(b'"type"') > 1

    def count_text(self, raw: bytes) -> None:
        if self.source.stream:
            super().count_text(raw)
            return
        for piece in _BODY_TEXT.findall(raw):
            self.deltas += 1
            self.text_bytes += len(piece)

    def event(self, name: str, data: bytes) -> int:
        obj = load_object(data)
        if obj is None:
            return LAST if data.strip() == b"[DONE]" else PASS
        kind = text(obj.get("type")) or name
        if kind == "error":
            self.error = event_error(obj)
            return PASS
        if kind == "response.output_item.done":
            self._note_tools([obj.get("item")])
        response = child(obj, "response")
        if response:
            self.answer(response)
        if kind in _TERMINAL:
            self.complete = True
            return LAST | FINAL | (USAGE if response.get("usage") else PASS)
        return PASS

    def answer(self, obj: Mapping[str, object]) -> None:
        self.note_model(obj.get("model"))
        self._model_known = self._model_known or self.model is not None
        self.service_tier = text(obj.get("service_tier")) or self.service_tier
        self._status_text = text(obj.get("status"))
        key = text(obj.get("id"))
        self._id = key if key and _ID.fullmatch(key) else self._id
        self._stored = obj.get("store") is not False
        self.note_error(obj)
        self.note_usage(obj.get("usage"))
        self._note_tools(obj.get("output"))

    def _note_tools(self, output: object) -> None:
        for item in items(output):
            kind = text(item.get("type")) or ""
            if kind.endswith("_call"):
                key = text(item.get("id")) or f"{kind} {len(self._tools)}"
                self._tools[key] = {
                    "type": kind,
                    "action": item.get("action"),
                    "container_id": item.get("container_id"),
                }

    def _calls(self, kind: str) -> list[Mapping[str, object]]:
        return [item for item in self._tools.values() if item["type"] == kind]

    def complete_usage(self, usage: Usage) -> Usage | None:
        if not self.usage_present:
            return None
        searches, files, code = (
            self._calls(f"{tool}_call") for tool in ("web_search", "file_search", "code_interpreter")
        )
        tools: dict[str, Any] = {}
        if searches and usage.web_search_requests is None:
            tools["web_search_requests"] = sum(child(s, "action").get("type", "search") == "search" for s in searches)
        if files and usage.file_search_calls is None:
            tools["file_search_calls"] = len(files)
        if code:
            tools["code_interpreter_sessions"] = len({str(c["container_id"]) for c in code})
        return replace(usage, **tools)

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        """A background response that is still running is pending: poll it again."""
        reading = super().reading(status, headers)
        pending = self._status_text in _PENDING and not self.source.stream
        kept = self._id if self._stored else None
        return replace(reading, pending=pending, complete=reading.complete and not pending, response_id=kept)


_BODY_TEXT = re.compile(rb'"(?:text|arguments)"\s*:\s*' + STRING)
