"""A body that is sound: it passes as it comes, only its last piece waits for the charge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from faregate.core.price import Cost
from faregate.core.usage import Reading
from faregate.meter.reader import Reader


class BinaryMeter:
    """Implements ports.Meter. A body of one piece is known whole before its headers leave."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._last = b""
        self._events = 0

    @property
    def events(self) -> int:
        """Pieces so far."""
        return self._events

    def feed(self, chunk: bytes) -> bytes:
        """The piece before this one."""
        self._events += 1
        self.reader.passed(len(chunk))
        passing, self._last = self._last, chunk
        return passing

    def finish(self, cost: Cost | None, charge_microcredits: int) -> bytes:
        """The last piece."""
        last, self._last = self._last, b""
        return last

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        """Nothing, until something has come."""
        known = self.reader.reading(status, headers)
        return replace(known, complete=True) if self._events else replace(known, usage=None)
