"""OpenAI audio: transcriptions and translations (tokens or seconds), speech (characters, or tokens over SSE).

`text`, `srt` and `vtt` bodies and binary speech say nothing: no usage, so the request has to be measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from faregate.core.usage import Usage
from faregate.meter.dialects.openai import UsageReader
from faregate.meter.reader import FINAL, LAST, PASS, STRING, USAGE, Source
from faregate.meter.values import child, count, decimal, load_object, text

_SPOKEN_TOKENS_PER_2_BYTES = 3
"""Output tokens of speech: some 20 a second, at some 14 bytes of text a second."""


class TranscriptionReader(UsageReader):
    """POST /audio/transcriptions, /audio/translations. Ends with `transcript.text.done`."""

    TEXT = re.compile(rb'"(?:delta)"\s*:\s*' + STRING)

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._duration: object = None

    @property
    def usage_present(self) -> bool:
        return super().usage_present or self._seconds() is not None

    def event(self, name: str, data: bytes) -> int:
        obj = load_object(data)
        if obj is None:
            return LAST if data.strip() == b"[DONE]" else PASS
        self.answer(obj)
        if (text(obj.get("type")) or name) != "transcript.text.done":
            return PASS
        self.complete = True
        return LAST | FINAL | (USAGE if obj.get("usage") else PASS)

    def body(self, data: bytes) -> None:
        super().body(data)
        self.complete = self.complete or bool(data)  # srt, vtt and text are no JSON

    def answer(self, obj: Mapping[str, object]) -> None:
        self.note_error(obj)
        self.note_model(obj.get("model"))
        self.note_usage(obj.get("usage") or child(obj, "x_groq").get("usage"))
        if obj.get("duration") is not None:
            self._duration = obj["duration"]

    def _seconds(self) -> object:
        """Billed seconds; the raw duration only where nothing better is told."""
        if self.usage.get("seconds") is not None:
            return self.usage["seconds"]
        has_tokens = any(count(self.usage.get(key)) is not None for key in ("input_tokens", "prompt_tokens"))
        return None if has_tokens else self._duration

    def complete_usage(self, usage: Usage) -> Usage | None:
        if not self.usage_present:
            return None
        seconds = decimal(self._seconds())
        return usage if seconds is None else replace(usage, audio_seconds=seconds)


class SpeechReader(UsageReader):
    """POST /audio/speech. Characters: code points of the request's input. A stream ends with `speech.audio.done`."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._heard = False

    def passed(self, size: int) -> None:
        self._heard = self._heard or size > 0

    def count_text(self, raw: bytes) -> None:
        self._heard = self._heard or b"speech.audio.delta" in raw

    @property
    def delivered_tokens(self) -> int:
        """Sound has no tokens that could be counted: what the text comes to when it is spoken."""
        spoken = self.source.request.get("input")
        text_bytes = len(spoken.encode("utf-8", "replace")) if isinstance(spoken, str) else 0
        return -(-text_bytes * _SPOKEN_TOKENS_PER_2_BYTES // 2) if self._heard else 0

    def event(self, name: str, data: bytes) -> int:
        obj = load_object(data)
        if obj is None:
            return LAST if data.strip() == b"[DONE]" else PASS
        self.note_error(obj)
        self.note_usage(obj.get("usage"))
        if (text(obj.get("type")) or name) != "speech.audio.done":
            return PASS
        self.complete = True
        return LAST | FINAL | USAGE

    def remarkable(self, raw: bytes) -> bool:
        return b"speech.audio.delta" not in raw or b"speech.audio.done" in raw or b'"error"' in raw

    def body(self, data: bytes) -> None:
        super().body(data if data[:1] in (b"{", b"[") else b"")
        self.complete = True  # audio is binary: nothing in it tells an end

    def answer(self, obj: Mapping[str, object]) -> None:
        self.note_usage(obj.get("usage"))

    def complete_usage(self, usage: Usage) -> Usage | None:
        spoken = self.source.request.get("input")
        characters = len(spoken) if isinstance(spoken, str) else None
        if characters is None:
            return usage if self.usage_present else None
        return replace(usage, characters=characters)
