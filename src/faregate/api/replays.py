"""One idempotency key at a time: what this process remembers of deductions, until the ledger's table does.

The book is what makes a repeat harmless (the hold's id derives from the key, and a hold is booked once). This only
keeps two requests of one key in this process apart, and tells a repeat with another body at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faregate.errors import IdempotencyMismatch


class Replays:
    """Bounded memory of (tenant, key, route) -> fingerprint of the body."""

    def __init__(self, size: int = 20_000) -> None:
        self._size = size
        self._seen: OrderedDict[str, bytes] = OrderedDict()
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def alone(self, name: str, fingerprint: bytes) -> AsyncIterator[None]:
        """Run alone under this name. Raises IdempotencyMismatch when it came with another body before."""
        lock, waiting = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = (lock, waiting + 1)
        try:
            async with lock:
                self._check(name, fingerprint)
                yield
        finally:
            lock, waiting = self._locks.pop(name)
            if waiting > 1:
                self._locks[name] = (lock, waiting - 1)

    def done(self, name: str, fingerprint: bytes) -> None:
        """It succeeded: refusals are not remembered."""
        self._seen[name] = fingerprint
        self._seen.move_to_end(name)
        if len(self._seen) > self._size:
            self._seen.popitem(last=False)

    def _check(self, name: str, fingerprint: bytes) -> None:
        if self._seen.get(name, fingerprint) != fingerprint:
            raise mismatch()


def mismatch() -> IdempotencyMismatch:
    """The same key, another body."""
    return IdempotencyMismatch("this Idempotency-Key came with another body before", param="Idempotency-Key")
