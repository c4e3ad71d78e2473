"""A body that is no stream: kept whole, byte-exact, and read at its end."""

from __future__ import annotations

from collections.abc import Mapping

from faregate.core.price import Cost
from faregate.core.usage import Reading
from faregate.meter.reader import Reader

_BLANK = b" \t\r\n"


class PlainMeter:
    """Implements ports.Meter. The caller bounds what it feeds; over `max_bytes` the body passes unread."""

    def __init__(self, reader: Reader, max_bytes: int | None = None) -> None:
        self.reader = reader
        self._max = max_bytes
        self._pieces: list[bytes] = []
        self._size = 0
        self._events = 0
        self._read_at: int | None = None

    @property
    def events(self) -> int:
        """1 from the first byte that is not a blank (DeepSeek keeps connections alive with empty lines)."""
        return self._events

    def feed(self, chunk: bytes) -> bytes:
        """Keep it; nothing goes to the client before the charge."""
        if not self._events and chunk.strip(_BLANK):
            self._events = 1
        self._pieces.append(chunk)
        self._size += len(chunk)
        return self._take() if self._max is not None and self._size > self._max else b""

    def finish(self, cost: Cost | None, charge_microcredits: int) -> bytes:
        """The whole body, as it came."""
        self._read()
        return self._take()

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        """What the body says."""
        self._read()
        return self.reader.reading(status, headers)

    def _take(self) -> bytes:
        body = b"".join(self._pieces)
        self._pieces.clear()
        return body

    def _read(self) -> None:
        if self._pieces and self._read_at != self._size:
            self._read_at = self._size
            self._pieces = [b"".join(self._pieces)]
            self.reader.body(self._pieces[0].strip(_BLANK))
