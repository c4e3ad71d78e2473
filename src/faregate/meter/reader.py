"""What a dialect knows: one Reader per answer, fed with decoded events or with the whole body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from faregate.core.usage import ProviderError, Reading
from faregate.meter.problems import is_retryable, read_error
from faregate.meter.values import first_object, loads, text

PASS = 0
USAGE = 1
"""The event carries usage."""
ALONE = 2
"""It carries nothing else."""
FINAL = 4
"""It ends a choice: no text follows."""
LAST = 8
"""The dialect's terminal event: from here on everything waits for the charge."""

STRING = rb'"((?:[^"\\\r\n]++|\\.)++)'
"""The inside of a JSON string that is not empty, as one group."""


_ERROR_KEYS = ("error", "code", "type", "__type", "message", "Message", "detail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Whose answer it is: normalisation goes by provider kind, endpoint and model family."""

    kind: str
    endpoint: str
    stream: bool = False
    model: str = ""
    """The model asked for (families that the answer does not name)."""
    request: Mapping[str, object] = field(default_factory=dict)
    """The request body, for what no answer repeats (speech: its input)."""


class Reader:
    """Base of all dialects: text delivered, error, model; usage is the dialect's own business."""

    TEXT: ClassVar[re.Pattern[bytes] | None] = None
    """Finds the delivered text of one event, as group 1."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.deltas = 0
        self.text_bytes = 0
        self.complete = False
        self.model: str | None = None
        self.error: ProviderError | None = None
        self._error_body: Mapping[str, object] = {}
        self._status = 200

    # Streams --------------------------------------------------------------------------------------------

    def remarkable(self, raw: bytes) -> bool:
        """Whether raw events may carry more than text. A cheap test; saying yes too often is only slow."""
        return True

    def event(self, name: str, data: bytes) -> int:
        """Take one event; say what it is (PASS, or USAGE | ALONE | FINAL | LAST). Without streams: nothing."""
        return PASS

    def count_text(self, raw: bytes) -> None:
        """Add the text of raw events to what was delivered."""
        if self.TEXT is None:
            return
        for piece in self.TEXT.findall(raw):
            self.deltas += 1
            size = len(piece)
            if b"\\" in piece:  # \n is one byte of text, \u20ac about three
                wide = piece.count(b"\\u")
                size = max(1, size - 3 * wide - max(0, piece.count(b"\\") - wide))
            self.text_bytes += size

    # Plain bodies ---------------------------------------------------------------------------------------

    def body(self, data: bytes) -> None:
        """Take the whole body of an answer that is no stream, or that is an error."""
        value = loads(data)
        obj = first_object(value) or {}
        self.complete = value is not None
        self.deltas = self.text_bytes = 0
        self._error_body = {key: obj[key] for key in _ERROR_KEYS if key in obj}
        self.note_error(self._error_body)
        if obj:
            self.answer(obj)
        if not self.counted:
            self.count_text(data)

    def answer(self, obj: Mapping[str, object]) -> None:
        """Take the JSON object of a whole body."""

    # Bodies that are no text ----------------------------------------------------------------------------

    def passed(self, size: int) -> None:
        """So many bytes of sound have passed."""

    # What is known --------------------------------------------------------------------------------------

    @property
    def usage_present(self) -> bool:
        """The provider told usage (counts of our own, such as images returned, are not that)."""
        return False

    @property
    def counted(self) -> bool:
        """The provider told how much output there was, so that the text of a whole body need not be weighed."""
        return self.usage_present

    @property
    def retryable(self) -> bool | None:
        """Whether the same call may succeed soon; None without an error."""
        return None if self.error is None else is_retryable(self.error, self._error_body)

    @property
    def delivered_tokens(self) -> int:
        return max(self.deltas, (self.text_bytes + 3) // 4)

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        """What is known so far."""
        raise NotImplementedError

    def note_model(self, value: object) -> None:
        """Keep a model name; '' (Azure's first chunk) erases nothing."""
        self.model = text(value) or self.model

    def note_error(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> bool:
        """Keep the error in a value, if there is one."""
        error = read_error(value, status, headers)
        if error is not None:
            self.error = error
            self._error_body = first_object(value) or {}
        return error is not None

    def settle_error(self, status: int, headers: Mapping[str, str]) -> None:
        """The answer's status is known: an error body gets it, and one that only the status told appears."""
        if status >= 400:
            self.note_error(dict(self._error_body), status, headers)
