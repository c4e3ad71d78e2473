"""OpenAI images: tokens (gpt-image), images returned (DALL-E), a stated price (xAI). Streams end with `*.completed`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from faregate.core.usage import Reading, Usage
from faregate.meter.dialects.openai import UsageReader
from faregate.meter.reader import FINAL, LAST, PASS, USAGE, Source
from faregate.meter.values import items, load_object, text

_PARTIAL_TOKENS = 100
"""What a partial image is billed as."""


class ImagesReader(UsageReader):
    """POST /images/generations, /images/edits."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._images: int | None = None
        self._partial = 0

    def count_text(self, raw: bytes) -> None:
        self._partial += raw.count(b'.partial_image"')

    @property
    def delivered_tokens(self) -> int:
        """Of partial images, while the picture itself has not come; what that took nobody can count."""
        return 0 if self._images else self._partial * _PARTIAL_TOKENS

    def remarkable(self, raw: bytes) -> bool:
        """Partial images are megabytes of base64: not worth parsing."""
        return b"partial_image" not in raw or b".completed" in raw or b'"error"' in raw

    def event(self, name: str, data: bytes) -> int:
        obj = load_object(data)
        if obj is None:
            return LAST if data.strip() == b"[DONE]" else PASS
        self.note_error(obj)
        self.note_usage(obj.get("usage"))
        if not (text(obj.get("type")) or name).endswith(".completed"):
            return PASS
        self._images = (self._images or 0) + 1
        self.complete = True
        return LAST | FINAL | USAGE

    def body(self, data: bytes) -> None:
        super().body(data)
        if data[:1] not in (b"{", b"["):
            self._images = 0  # a page of somebody's, but no picture

    def answer(self, obj: Mapping[str, object]) -> None:
        self.note_model(obj.get("model"))
        self.note_usage(obj.get("usage"))
        if isinstance(obj.get("data"), list):
            self._images = len(items(obj["data"]))

    def complete_usage(self, usage: Usage) -> Usage | None:
        """Images returned, not asked for (some may have been filtered). Without details all output is image tokens."""
        if self._images is None and not self.usage_present:
            return None
        image_output = usage.image_output_tokens
        if image_output is None and "output_tokens_details" not in self.usage:
            image_output = usage.output_tokens
        return replace(usage, images=self._images, image_output_tokens=image_output)


class FreeReader(UsageReader):
    """POST /moderations, and whoever counts tokens: what they answer costs nothing."""

    def complete_usage(self, usage: Usage) -> Usage | None:
        return None

    def answer(self, obj: Mapping[str, object]) -> None:
        self.note_model(obj.get("model"))

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        """Never billable."""
        return replace(super().reading(status, headers), billable=False)
