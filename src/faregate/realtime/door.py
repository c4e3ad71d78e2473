"""The handshake: who it is, where it goes, a first hold, and only then a connection."""

from __future__ import annotations

from collections.abc import Callable

from faregate.core.call import Call, Principal
from faregate.errors import StoreUnavailable, UpstreamError
from faregate.ports import Inbound, Talker
from faregate.realtime.fares import Fares, Parts
from faregate.realtime.session import Session

MOST_SESSIONS = 400
"""Of one process: each has a connection of its own to the provider."""

Read = Callable[[Inbound, Principal, str], Call]
"""A session's call out of its request. Raises InvalidRequest."""


class Realtime:
    """Opens sessions. One object per process."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._open = 0

    async def open(self, inbound: Inbound, read: Read) -> Session:
        """A session whose provider is connected. Raises FaregateError; then nothing is left open."""
        if self._open >= MOST_SESSIONS:
            raise StoreUnavailable("too many realtime sessions are open", retry_after_s=5)
        parts = self._parts
        principal = await parts.keys.authenticate(inbound.secret)
        parts.allow(principal)
        account_id = await parts.accounts.resolve(principal, inbound.headers.get("x-faregate-account"))
        call = read(inbound, principal, account_id)
        candidates = parts.router.candidates(
            call.model, endpoint=call.endpoint, principal=principal, now_us=parts.clock.now_us()
        )
        failed = UpstreamError("no provider of this model has realtime sessions")
        for candidate in candidates:
            fares = Fares(parts, principal, call, candidate)
            await fares.begin()
            try:
                return await self._connect(fares, call)
            except UpstreamError as error:
                failed = error
            except BaseException:
                await fares.end()
                raise
            await fares.end()
        raise failed

    async def _connect(self, fares: Fares, call: Call) -> Session:
        provider = self._parts.providers[fares.candidate.provider]
        if not isinstance(provider, Talker):
            raise UpstreamError(f"the provider {fares.candidate.provider!r} has no realtime sessions")
        upstream = await provider.talk(fares.candidate.model, call.query, call.forward_headers)
        self._open += 1
        return Session(self._parts, fares, provider, upstream, call.model, self._closed)

    def _closed(self) -> None:
        self._open -= 1
