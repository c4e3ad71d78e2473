"""`Idempotency-Key`: every POST of the route table takes it, by passing through here; no handler can forget it.

The first request runs, and its 2xx is kept for 24 hours; a repeat gets status and body again, without secrets. A
request that was cut off by a crash is run again, and finds what it has done already: transactions in the ledger
(ledger/claims.py), holds by a name that derives from the key (`ledger.idempotency.claim()`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from hashlib import sha256

import orjson

from faregate.api.http import Reply, Request, parse_object
from faregate.api.services import Services
from faregate.errors import BookUnavailable, Conflict, FaregateError, InProgress, InvalidRequest
from faregate.ledger.claims import Claim, Running, steps_of

log = logging.getLogger("faregate.api")

MAX_KEY = 255
_MOST_READ = 1 << 16
"""Bytes of a body that are worth parsing twice."""
REPLAYED: Mapping[str, str] = {"idempotent-replayed": "true"}
SECRETS = frozenset({"secret", "token", "accessToken", "refreshToken", "password"})
"""Fields that are shown once: in no replay, and never in the book. At the top of an answer, or one level below."""


async def answer_once(
    services: Services, request: Request, handler: Callable[[Services, Request], Awaitable[Reply]]
) -> Reply:
    """The handler's answer, or the one it gave the first time.

    Raises InvalidRequest, IdempotencyMismatch, InProgress, BookUnavailable, and what the handler raises.
    """
    key = key_of(request)
    if key is None:
        return await handler(services, request)
    claim = _claim(request, key)
    with services.once.alone(claim):
        kept = await services.ledger.idempotency.find(claim)
        if kept is not None and kept.status is not None:
            return Reply(body=(kept.body or "").encode(), status=kept.status, headers=REPLAYED)
        with steps_of(claim) as running:
            reply = await _run(services, request, handler, running)
        if not 200 <= reply.status < 300:
            return reply
        await _complete(services, claim, reply)
        if kept is None and not running.found:
            return reply
        return replace(reply, body=_without_secrets(reply), headers={**reply.headers, **REPLAYED})


def key_of(request: Request) -> str | None:
    """The request's key. Raises InvalidRequest."""
    key = request.headers.get("idempotency-key")
    if key is not None and (not 0 < len(key) <= MAX_KEY or not key.isprintable()):
        raise InvalidRequest(f"Idempotency-Key must be 1 to {MAX_KEY} printable characters", param="Idempotency-Key")
    return key


async def _run(
    services: Services,
    request: Request,
    handler: Callable[[Services, Request], Awaitable[Reply]],
    running: Running,
) -> Reply:
    """A refusal frees a key that was claimed in advance; after a 5xx or an `in_progress` nobody knows, so it stays."""
    try:
        reply = await handler(services, request)
    except FaregateError as error:
        if running.claimed and error.status < 500 and not isinstance(error, InProgress):
            await _forget(services, running.claim)
        raise
    if running.claimed and 400 <= reply.status < 500:
        await _forget(services, running.claim)
    return reply


async def _complete(services: Services, claim: Claim, reply: Reply) -> None:
    try:
        await services.ledger.idempotency.complete(claim, reply.status, _without_secrets(reply).decode())
    except (BookUnavailable, Conflict) as error:  # A repeat runs again, and finds what has been done.
        log.info("the answer to an Idempotency-Key is not kept: %s", error)


async def _forget(services: Services, claim: Claim) -> None:
    try:
        await services.ledger.idempotency.forget(claim)
    except BookUnavailable as error:
        log.info("an Idempotency-Key stays claimed by a refused request: %s", error)


def _without_secrets(reply: Reply) -> bytes:
    body = orjson.loads(reply.encoded()) if not isinstance(reply.body, dict) else reply.body
    if not isinstance(body, dict):
        return reply.encoded()
    shown = {
        name: {inner: item for inner, item in value.items() if inner not in SECRETS}
        if isinstance(value, Mapping)
        else value
        for name, value in body.items()
        if name not in SECRETS
    }
    return replace(reply, body=shown).encoded()


# What a request is --------------------------------------------------------------------------------------


def _claim(request: Request, key: str) -> Claim:
    """Keys are an organization's own, or a user's. A key bound to an account, or a test key, never gets another's
    answer."""
    tenant, bounds = _whose(request)
    facts = [request.path_params, request.query, *bounds, _meaning(request.raw_body)]
    text = json.dumps(facts, sort_keys=True, default=str)
    return Claim(
        tenant=tenant,
        key=key,
        route=f"{request.method} {request.route}",
        fingerprint=sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
    )


def _whose(request: Request) -> tuple[str, tuple[object, ...]]:
    if request.caller is None:
        return f"user:{request.person.who}", ()
    return request.caller.organization_id, (request.caller.account_id, request.caller.test)


def _meaning(raw_body: bytes) -> object:
    """JSON without its order and spaces; what is large, or no JSON object, by its bytes."""
    try:
        if len(raw_body) <= _MOST_READ:
            return parse_object(raw_body)
    except InvalidRequest:
        pass  # The handler will say so.
    return sha256(raw_body).hexdigest()
