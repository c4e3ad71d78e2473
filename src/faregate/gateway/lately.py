"""What has happened within the last minute, for people who ask whether all is well. Counted in six slices."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from time import monotonic

WINDOW_S = 60.0
_SLICE_S = 10.0


class Lately:
    """Counts by name. Names come from fixed lists, so it stays small."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        """`now`: seconds, monotonic."""
        self._now = now
        self._slices: deque[tuple[float, Counter[str]]] = deque()

    def add(self, name: str) -> None:
        """It has happened once more."""
        now = self._now()
        if not self._slices or now - self._slices[-1][0] >= _SLICE_S:
            self._slices.append((now, Counter()))
            self._forget(now)
        self._slices[-1][1][name] += 1

    def count(self, name: str) -> int:
        """How often, within the last minute."""
        self._forget(self._now())
        return sum(counts[name] for _, counts in self._slices)

    def _forget(self, now: float) -> None:
        while self._slices and now - self._slices[0][0] >= WINDOW_S:
            self._slices.popleft()
