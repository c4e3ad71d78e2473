"""Repeats of a call's Idempotency-Key: a finished plain answer again, charged nothing (`replay` of the configuration).

A layer in front of the flow. It keeps what went to the client, after it went; whatever fails here, and whatever is
lost, makes a repeat a call like any other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Protocol

import orjson

from faregate.core.call import Call, Principal
from faregate.errors import BookUnavailable, FaregateError, InvalidRequest
from faregate.ports import Accounts, Clock, Dialect, Inbound, Keys, ReplayClaim, ReplayedAnswer, ReplayStore, Reply

log = logging.getLogger("faregate.gateway")

_MOST_KEY = 255
_MOST_READ = 1 << 16
"""Bytes of a body that are worth parsing twice."""
_SHOWN = ("content-type", "x-faregate-provider", "x-faregate-model", "x-faregate-usage-id")
_AGAIN: Mapping[str, str] = {
    "idempotent-replayed": "true",
    "x-faregate-cost-usd": "0",
    "x-faregate-credits-charged": "0",
}
_MEANT = ("x-faregate-account", "x-faregate-multiplier", "x-faregate-include-cost", "anthropic-beta", "openai-beta")
_LEASES = 3


class Serves(Protocol):
    """The flow."""

    async def serve(self, inbound: Inbound, dialect: Dialect, reply: Reply) -> None: ...


class Replays:
    """`Serves` with a memory. One object per process."""

    def __init__(
        self,
        flow: Serves,
        *,
        keys: Keys,
        accounts: Accounts,
        allow: Callable[[Principal], None],
        store: ReplayStore,
        clock: Clock,
        ttl_s: int,
        max_bytes: int,
        heartbeat_s: float,
    ) -> None:
        self._flow = flow
        self._keys = keys
        self._accounts = accounts
        self._allow = allow
        self._store = store
        self._clock = clock
        self._ttl_us = ttl_s * 1_000_000
        self._max_bytes = max_bytes
        self._heartbeat_s = heartbeat_s
        self._open = 0

    async def run(self) -> None:
        """Keep what is being answered from being taken for abandoned, and forget what has expired; never returns."""
        while True:
            await asyncio.sleep(self._heartbeat_s)
            try:
                if self._open:
                    await self._store.renew(self._lease_us())
                await self._store.purge()
            except BookUnavailable as error:
                log.info("kept answers wait for the book: %s", error)

    async def serve(self, inbound: Inbound, dialect: Dialect, reply: Reply) -> None:
        """Raises what the flow raises, IdempotencyMismatch, InProgress, InvalidRequest."""
        key = inbound.headers.get("idempotency-key")
        if key is None:
            return await self._flow.serve(inbound, dialect, reply)
        claim = await self._claim(inbound, key)
        found = await self._begin(claim)
        if isinstance(found, ReplayedAnswer):
            length = {"content-length": str(len(found.body))}
            await reply.start(200, {**found.headers, **_AGAIN, **length})
            return await reply.finish(found.body)
        if not found:
            return await self._flow.serve(inbound, dialect, reply)
        return await self._first(claim, inbound, dialect, reply)

    async def _first(self, claim: ReplayClaim, inbound: Inbound, dialect: Dialect, reply: Reply) -> None:
        watched, noted = _Watched(reply, self._max_bytes), _Noted(dialect)
        self._open += 1
        try:
            await self._flow.serve(inbound, noted, watched)
        finally:
            self._open -= 1
            await self._end(claim, watched.answer() if noted.is_plain else None)

    async def _claim(self, inbound: Inbound, key: str) -> ReplayClaim:
        if not 0 < len(key) <= _MOST_KEY or not key.isprintable():
            message = f"Idempotency-Key must be 1 to {_MOST_KEY} printable characters"
            raise InvalidRequest(message, param="Idempotency-Key")
        principal = await self._keys.authenticate(inbound.secret)
        self._allow(principal)
        account_id = await self._accounts.resolve(principal, inbound.headers.get("x-faregate-account"))
        return ReplayClaim(
            organization_id=principal.organization_id,
            key=sha256(key.encode()).hexdigest(),
            fingerprint=_fingerprint(inbound, principal, account_id),
        )

    async def _begin(self, claim: ReplayClaim) -> ReplayedAnswer | bool:
        try:
            return await self._store.begin(claim, self._lease_us())
        except BookUnavailable as error:
            log.info("an Idempotency-Key is not looked up: %s", error)
            return False

    async def _end(self, claim: ReplayClaim, answer: ReplayedAnswer | None) -> None:
        try:
            if answer is None:
                await self._store.drop(claim)
            else:
                await self._store.keep(claim, answer, self._clock.now_us() + self._ttl_us)
        except BookUnavailable as error:  # Its lease ends by itself.
            log.info("an answer is not kept: %s", error)

    def _lease_us(self) -> int:
        return self._clock.now_us() + int(_LEASES * self._heartbeat_s * 1_000_000)


class _Watched:
    """`ports.Reply` that remembers a short answer with status 200."""

    def __init__(self, reply: Reply, most: int) -> None:
        self.started = reply.started
        self._reply = reply
        self._most = most
        self._pieces: list[bytes] = []
        self._size = 0
        self._ok = self._ended = False
        self._headers: Mapping[str, str] = {}

    def on_gone(self, act: Callable[[], object] | None) -> None:
        self._reply.on_gone(act)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self._ok, self.started = status == 200, True
        self._headers = {name: headers[name] for name in _SHOWN if name in headers}
        await self._reply.start(status, headers)

    async def send(self, chunk: bytes) -> None:
        self._note(chunk)
        await self._reply.send(chunk)

    async def finish(self, chunk: bytes) -> None:
        self._note(chunk)
        self._ended = True
        await self._reply.finish(chunk)

    def answer(self) -> ReplayedAnswer | None:
        """What can be said again; None: it is too long, has not ended, or is a refusal."""
        if not self._ok or not self._ended or self._size > self._most:
            return None
        return ReplayedAnswer(headers=self._headers, body=b"".join(self._pieces))

    def _note(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._ok and self._size <= self._most:
            self._pieces.append(chunk)
        else:
            self._pieces.clear()


class _Noted:
    """`ports.Dialect` that remembers what kind of call was read, and whether its answer broke off."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.is_plain = False

    def read(self, inbound: Inbound, principal: Principal, account_id: str, call_id: str) -> Call:
        call = self._dialect.read(inbound, principal, account_id, call_id)
        self.is_plain = not call.stream and not call.background
        return call

    def error(self, error: FaregateError) -> tuple[dict[str, str], bytes]:
        return self._dialect.error(error)

    def refusal(self, status: int, body: bytes) -> bytes:
        return self._dialect.refusal(status, body)

    def error_event(self, error: Exception) -> bytes:
        self.is_plain = False
        return self._dialect.error_event(error)


def _fingerprint(inbound: Inbound, principal: Principal, account_id: str) -> str:
    """What is asked for, of whose account, by a key that may ask for the same models."""
    headers = inbound.headers
    facts = [
        *(inbound.path, inbound.query.decode("latin-1"), account_id, principal.test),
        *(principal.models, [headers.get(name) for name in _MEANT]),
    ]
    digest = sha256(orjson.dumps(facts))
    digest.update(_meaning(inbound.body, headers.get("content-type", "")))
    return digest.hexdigest()


def _meaning(body: bytes, content_type: str) -> bytes:
    """JSON without its order and spaces, a form without its boundary: a client that tries again may write anew."""
    kind, _, rest = content_type.partition(";")
    if kind.strip().lower() == "multipart/form-data":
        boundary = rest.partition("boundary=")[2].partition(";")[0].strip().strip('"').encode("latin-1", "replace")
        return body.replace(boundary, b"") if boundary else body
    try:
        return orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS) if len(body) <= _MOST_READ else body
    except (orjson.JSONDecodeError, TypeError):
        return body
