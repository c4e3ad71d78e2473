"""An identity provider's keys: fetched beside the event loop's work, cached, and kept while the provider is down.

A `kid` nobody knows is a reason to fetch, but not more often than `retry_s`: forged tokens cost the provider nothing.
Keys that are older than `fresh_s` are fetched again in the background; those of a provider that does not answer are
good for `stale_s`, so its pause is not ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from faregate.auth.flights import Flights
from faregate.errors import FaregateError, StoreUnavailable
from faregate.ports import Clock

log = logging.getLogger("faregate.auth")

MOST_BYTES = 262_144
"""Of a key set."""
Fetch = Callable[[], Awaitable[bytes]]
"""Gets the document, bounded in time and size. Raises FaregateError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwksTiming:
    """Seconds, monotonic."""

    fresh_s: float = 600.0
    stale_s: float = 86_400.0
    retry_s: float = 10.0


class Jwks:
    """The key set of one provider. `read` makes keys of a document, or raises ValueError."""

    def __init__(
        self,
        fetch: Fetch,
        read: Callable[[bytes], Mapping[str, Any]],
        clock: Clock,
        timing: JwksTiming | None = None,
    ) -> None:
        self._fetch = fetch
        self._read = read
        self._clock = clock
        self._timing = timing or JwksTiming()
        self._keys: Mapping[str, Any] = {}
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._flights = Flights(self._refresh)
        self._background: asyncio.Task[None] | None = None

    async def key(self, kid: str) -> Any | None:
        """The key of that id; None: the provider has none. Raises StoreUnavailable while there are no keys at all."""
        age = self._age()
        if age >= self._timing.stale_s:
            self._keys = {}
        if kid in self._keys:
            if age >= self._timing.fresh_s and self._may_ask():
                self._background = asyncio.create_task(self._flights.join(""))
            return self._keys[kid]
        await self._ask()
        if not self._keys:
            raise StoreUnavailable("the identity provider's keys cannot be read now", retry_after_s=1)
        return self._keys.get(kid)

    async def _ask(self) -> None:
        """Fetch, or wait for the fetch that runs; nothing, when the last one is too short ago."""
        if self._may_ask() or self._flights.running(""):
            await self._flights.join("")

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else self._clock.monotonic() - self._fetched_at

    def _may_ask(self) -> bool:
        return self._asked_at is None or self._clock.monotonic() >= self._asked_at + self._timing.retry_s

    async def _refresh(self, _: str) -> None:
        self._asked_at = self._clock.monotonic()
        try:
            keys = self._read(await self._fetch())
        except FaregateError as error:
            log.warning("the identity provider's keys were not read: %s", error.message)
        except ValueError:
            log.warning("the identity provider's keys were not read: its document is no JWK set")
        else:
            self._keys, self._fetched_at = keys, self._clock.monotonic()
