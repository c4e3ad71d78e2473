"""The one clock of the process."""

from __future__ import annotations

import time


class SystemClock:
    """`ports.Clock` on the machine's clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()
