"""The requests with an Idempotency-Key that this process is handling: one of a key at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from faregate.errors import InProgress
from faregate.ledger.claims import Claim, mismatch


class Once:
    """The requests with a key that this process is handling."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], Claim] = {}

    @contextmanager
    def alone(self, claim: Claim) -> Iterator[None]:
        """One request of a key at a time. Raises InProgress, IdempotencyMismatch."""
        name = (claim.tenant, claim.key)
        first = self._running.get(name)
        if first is not None:
            if first != claim:
                raise mismatch()
            raise InProgress("the first request with this Idempotency-Key has not ended yet", retry_after_s=1)
        self._running[name] = claim
        try:
            yield
        finally:
            del self._running[name]
