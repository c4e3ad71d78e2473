"""Identifiers: time-ordered UUIDv7, so that new rows land at the end of every index."""

from __future__ import annotations

import os
import threading
import time
from uuid import UUID

_RANDOM_BITS = 74
_STEP_BITS = 40
_lock = threading.Lock()
_last = 0


def uuid7() -> UUID:
    """A UUIDv7 (RFC 9562): milliseconds, then 74 random bits; each greater than the one before."""
    return UUID(int=_next())


def uuid7_hex() -> str:
    """The same as 32 hex digits."""
    return f"{_next():032x}"


def _next() -> int:
    """Within a millisecond the last value is raised by a random step, not by one: forked workers share `_last`."""
    global _last
    noise = int.from_bytes(os.urandom(10)) >> 6
    with _lock:
        value = (time.time_ns() // 1_000_000) << _RANDOM_BITS | noise
        if value <= _last:
            value = _last + 1 + (noise & ((1 << _STEP_BITS) - 1))
        _last = value
    high, low = value >> 62, value & ((1 << 62) - 1)
    return (high >> 12) << 80 | 0x7 << 76 | (high & 0xFFF) << 64 | 0b10 << 62 | low


def new_id(prefix: str) -> str:
    """`<prefix>_<32 hex digits>`, in order of creation: `acc_0199…`."""
    return f"{prefix}_{uuid7_hex()}"
