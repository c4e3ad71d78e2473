"""API keys: `/v1/admin/keys…`. A secret is shown once, when it is made; the book keeps its hash."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import WithJsonSchema

from faregate.api.admin import CursorQuery, change, page_of, spread
from faregate.api.describe import (
    CURSOR,
    FLAG,
    MOMENT,
    NUMBER,
    TEXT,
    described,
    many,
    maybe,
    named,
    obj,
    success,
)
from faregate.api.fields import Amount, Moment, Name, bounded_decimal, expiry, iso
from faregate.api.http import Body, Reply, Request, created, ok
from faregate.api.services import Services
from faregate.api.tenancy import Reference, organization_of
from faregate.auth.keys import make
from faregate.auth.limits import KINDS, WINDOWS, limit_json, parse_limits
from faregate.auth.scopes import ALL_SCOPES, MAX_MODEL_LENGTH, MAX_MODELS, parse_models, parse_scopes
from faregate.core.call import Principal
from faregate.core.keys import BOOTSTRAP_KEY_ID
from faregate.core.money import plain
from faregate.errors import Conflict, InvalidRequest, PermissionDenied
from faregate.ledger.keys import KeyFacts, KeyInfo

_SCOPE = {"type": "string", "enum": sorted(ALL_SCOPES)}
_MODEL = {"type": "string", "minLength": 1, "maxLength": MAX_MODEL_LENGTH}
_NEW_LIMIT = {
    "type": "object",
    "properties": {
        "kind": {"enum": list(KINDS)},
        "window": {"enum": list(WINDOWS)},
        "max": {"type": ["number", "string"]},
    },
    "required": ["kind", "max"],
    "additionalProperties": False,
}
_NONE = {"type": "null"}
Scopes = Annotated[Any, WithJsonSchema({"type": "array", "items": _SCOPE, "minItems": 1})]
Models = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "array", "items": _MODEL, "maxItems": MAX_MODELS}, _NONE]})]
Limits = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "array", "items": _NEW_LIMIT}, _NONE]})]


class NewApiKey(Body):
    """POST /v1/admin/keys. Lists are checked by auth.scopes and auth.limits."""

    name: Name
    organization_id: Reference | None = None
    account_id: Reference | None = None
    scopes: Scopes
    models: Models = None
    limits: Limits = None
    expires_at: Moment | None = None
    max_multiplier: Amount = 1
    test: bool = False


class ApiKeyPatch(Body):
    """PATCH /v1/admin/keys/{id}. null lifts models, limits and expiry."""

    name: Name | None = None
    scopes: Scopes = None
    models: Models = None
    limits: Limits = None
    expires_at: Moment | None = None
    max_multiplier: Amount = None


_LIMIT = obj(kind=TEXT, window=TEXT, max=NUMBER)
KEY = named(
    "Key",
    obj(
        id=TEXT,
        prefix=TEXT,
        name=TEXT,
        organizationId=TEXT,
        accountId=maybe(TEXT),
        scopes=many(TEXT),
        models=maybe(many(TEXT)),
        limits=many(_LIMIT),
        maxMultiplier=NUMBER,
        test=FLAG,
        expiresAt=maybe(MOMENT),
        revokedAt=maybe(MOMENT),
        lastUsedAt=maybe(MOMENT),
        createdAt=MOMENT,
        updatedAt=MOMENT,
    ),
)
_MADE = success(key=KEY, optional={"secret": {**TEXT, "description": "Shown once: a repeat has it no more."}})
_RULES = (
    "expiresAt lies in the future; no limit twice; the multiplier is from 1 to 10; the bootstrap key stays as it is"
)


@described(
    body=NewApiKey,
    status=201,
    answer=_MADE,
    rules=_RULES,
    example={"name": "web", "scopes": ["proxy"], "limits": [{"kind": "credits", "window": "month", "max": 500}]},
)
async def create(services: Services, request: Request) -> Reply:
    """A new key: `{key, secret}`."""
    body = request.body(NewApiKey)
    organization_id = await organization_of(services, request.principal, body.organization_id)
    made = make(test=body.test)
    facts = KeyFacts(
        id=made.id,
        prefix=made.prefix,
        secret_hash=made.secret_hash,
        name=body.name,
        organization_id=organization_id,
        account_id=await _account(services, organization_id, body.account_id),
        scopes=parse_scopes(body.scopes),
        models=parse_models(body.models),
        limits=parse_limits(made.id, body.limits),
        max_multiplier=_multiplier(body.max_multiplier),
        test=body.test,
        expires_us=expiry(services.clock.now_us(), body.expires_at),
    )
    by = change(request, "keys.create", name=facts.name, scopes=sorted(facts.scopes))
    info = await services.ledger.keys.create(facts, by=by)
    return created(key=key_json(info), secret=made.secret)


@described(query=CursorQuery, answer=success(keys=many(KEY), nextCursor=CURSOR))
async def list_all(services: Services, request: Request) -> Reply:
    """Keys with prefix and last use; the bootstrap key sees those of all organizations unless it names one."""
    query, principal = request.params(CursorQuery), request.principal
    organization_id = None
    if query.organization_id is not None or not principal.above_organizations:
        organization_id = await organization_of(services, principal, query.organization_id)
    found = await services.ledger.keys.list(organization_id=organization_id, limit=query.limit + 1, after=query.cursor)
    page, cursor = page_of(found, query.limit, lambda key: key.id)
    return ok(keys=[key_json(key) for key in page], nextCursor=cursor)


@described(answer=success(key=KEY))
async def get(services: Services, request: Request) -> Reply:
    """One key, never its secret."""
    return ok(key=key_json(await _own(services, request)))


@described(body=ApiKeyPatch, answer=success(key=KEY), rules=_RULES, example={"name": "web 2"})
async def patch(services: Services, request: Request) -> Reply:
    """Limits, scopes, models, expiry, name; in force at the key's next call."""
    body, key = request.body(ApiKeyPatch), await _changeable(services, request)
    changes = _changes(services, key.id, body)
    by = change(request, "keys.patch", fields=sorted(changes))
    info = await services.ledger.keys.patch(key.id, changes, organization_id=key.organization_id, by=by)
    await spread(services, [info])
    return ok(key=key_json(info))


@described(answer=success(key=KEY))
async def revoke(services: Services, request: Request) -> Reply:
    """The key stops at its next call, everywhere."""
    key = await _changeable(services, request, revoked=True)
    by = change(request, "keys.revoke")
    info = await services.ledger.keys.revoke(key.id, organization_id=key.organization_id, by=by)
    await spread(services, [info])
    return ok(key=key_json(info))


@described(answer=_MADE)
async def rotate(services: Services, request: Request) -> Reply:
    """A new secret: the old one stops at its next call."""
    key = await _changeable(services, request)
    made = make(test=key.test, key_id=key.id)
    info = await services.ledger.keys.rotate(
        key.id,
        secret_hash=made.secret_hash,
        prefix=made.prefix,
        organization_id=key.organization_id,
        by=change(request, "keys.rotate"),
    )
    await spread(services, [info])
    return ok(key=key_json(info), secret=made.secret)


# What they share ----------------------------------------------------------------------------------------


def _reach(principal: Principal) -> str | None:
    """The organization whose keys it may see; None: all."""
    return None if principal.above_organizations else principal.organization_id


async def _own(services: Services, request: Request) -> KeyInfo:
    return await services.ledger.keys.get(request.path_params["id"], organization_id=_reach(request.principal))


async def _changeable(services: Services, request: Request, *, revoked: bool = False) -> KeyInfo:
    key = await _own(services, request)
    if key.id == BOOTSTRAP_KEY_ID:
        raise PermissionDenied("the bootstrap admin key is changed by FAREGATE_ADMIN_KEY only")
    if key.revoked_us is not None and not revoked:
        raise Conflict("this key is revoked")
    return key


async def _account(services: Services, organization_id: str, named: str | None) -> str | None:
    return None if named is None else (await services.ledger.accounts.get(organization_id, named)).id


def _changes(services: Services, key_id: str, body: ApiKeyPatch) -> dict[str, object]:
    read: dict[str, Callable[[], object]] = {
        "name": lambda: _not_null(body.name, "name"),
        "scopes": lambda: parse_scopes(body.scopes),
        "models": lambda: parse_models(body.models),
        "limits": lambda: parse_limits(key_id, body.limits),
        "max_multiplier": lambda: _multiplier(body.max_multiplier),
        "expires_at": lambda: expiry(services.clock.now_us(), body.expires_at),
    }
    changes: dict[str, object] = {name: read[name]() for name in body.model_fields_set}
    if not changes:
        raise InvalidRequest("nothing to change")
    if "expires_at" in changes:
        changes["expires_us"] = changes.pop("expires_at")
    return changes


def _not_null(value: object, param: str) -> object:
    if value is None:
        raise InvalidRequest(f"{param} cannot be null", param=param)
    return value


def _multiplier(value: object) -> Decimal:
    return bounded_decimal(value, "maxMultiplier", Decimal(1), Decimal(10))


def key_json(info: KeyInfo) -> Mapping[str, object]:
    """The key as the API shows it."""
    return {
        "id": info.id,
        "prefix": info.prefix,
        "name": info.name,
        "organizationId": info.organization_id,
        "accountId": info.account_id,
        "scopes": sorted(info.scopes),
        "models": None if info.models is None else list(info.models),
        "limits": [limit_json(limit) for limit in info.limits],
        "maxMultiplier": plain(info.max_multiplier),
        "test": info.test,
        "expiresAt": iso(info.expires_us),
        "revokedAt": iso(info.revoked_us),
        "lastUsedAt": iso(info.last_used_us),
        "createdAt": iso(info.created_us),
        "updatedAt": iso(info.updated_us),
    }
