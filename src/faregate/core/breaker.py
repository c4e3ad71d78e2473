"""When to stop asking something that does not answer, and how to begin again. Pure: the caller brings the time.

closed   everybody asks                              -> open, after `most` failures in a row
open     nobody asks, one probe at a time excepted   -> half open, when a probe is answered
half     a few ask, one more with each answer        -> closed, after as many answers; open, at the first failure
"""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import Literal

State = Literal["closed", "open", "half"]
Word = Literal["ask", "probe", "refuse"]

_RESTS_S = (0.05, 0.1, 0.25, 0.5, 1.0)
_ROOM = 8
"""How many may ask at once when a circuit is half open."""
_ANSWERS = 32
"""How many answers close it."""


class Breaker:
    """One circuit. Every `ask` and `probe` is followed by one of `answered`, `failed` and `left`."""

    def __init__(self, *, most: int = 5, jitter: Callable[[], float] = random) -> None:
        """`jitter`: from 0 to 1; probes of many processes must not come together."""
        self._most = most
        self._jitter = jitter
        self.state: State = "closed"
        self._failures = 0
        self._rests = 0
        self._probe_at = 0.0
        self._probing = False
        self._asking = 0
        self._answers = 0

    def admit(self, now: float) -> Word:
        """Whether to ask now (seconds, monotonic)."""
        if self.state == "closed":
            return "ask"
        if self.state == "open":
            if self._probing or now < self._probe_at:
                return "refuse"
            self._probing = True
            return "probe"
        if self._asking >= _ROOM + self._answers:
            return "refuse"
        self._asking += 1
        return "ask"

    def answered(self, word: Word) -> None:
        """It did. One that was asked before the circuit opened says nothing of now."""
        if word == "probe":
            self.state, self._probing, self._rests = "half", False, 0
            self._asking = self._answers = 0
        elif self.state == "half":
            self._asking = max(0, self._asking - 1)
            self._answers += 1
            if self._answers >= _ANSWERS:
                self.state, self._failures = "closed", 0
        elif self.state == "closed":
            self._failures = 0

    def failed(self, word: Word, now: float) -> None:
        """It did not, or not in time."""
        self._failures += 1
        if word == "probe" or self.state == "half" or (self.state == "closed" and self._failures >= self._most):
            self._open(now)

    def left(self, word: Word) -> None:
        """Nobody waited for the answer."""
        if word == "probe":
            self._probing = False
        elif self.state == "half":
            self._asking = max(0, self._asking - 1)

    def _open(self, now: float) -> None:
        self.state, self._probing = "open", False
        rest_s = _RESTS_S[min(self._rests, len(_RESTS_S) - 1)]
        self._probe_at = now + rest_s * (0.5 + self._jitter())
        self._rests += 1
