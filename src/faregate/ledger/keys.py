"""API keys. The book keeps the SHA-256 of a key, never the key: its secret is 256 random bits, so there is nothing
to guess that a slow hash would protect. Hashes are compared by the caller, in constant time (auth/)."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson
from sqlalchemy import Connection, RowMapping, bindparam, select

from faregate.core.call import Limit
from faregate.core.keys import StoredKey
from faregate.errors import InvalidRequest, NotFound
from faregate.ledger import tables
from faregate.ledger.accounts import find_account
from faregate.ledger.admin_audit import Change, note_change
from faregate.ledger.database import Database

_t = tables.keys.c
PATCHABLE = frozenset({"name", "scopes", "models", "limits", "max_multiplier", "expires_us"})


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """A key as lists show it: never its secret, nor its hash."""

    id: str
    organization_id: str
    account_id: str | None
    name: str
    prefix: str
    scopes: frozenset[str]
    models: tuple[str, ...] | None
    limits: tuple[Limit, ...]
    rev: int
    max_multiplier: Decimal
    test: bool
    above_organizations: bool
    expires_us: int | None
    revoked_us: int | None
    last_used_us: int | None
    created_us: int
    updated_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFacts:
    """What is chosen when a key is made. `id`, `prefix` and `secret_hash` come from auth.keys.make."""

    id: str
    prefix: str
    secret_hash: str
    name: str
    organization_id: str
    account_id: str | None = None
    scopes: frozenset[str]
    models: tuple[str, ...] | None = None
    limits: tuple[Limit, ...] = ()
    max_multiplier: Decimal = Decimal(1)
    test: bool = False
    expires_us: int | None = None


class ApiKeys:
    """The book's side of keys; `by_id` is what authentication reads. Changes are audited in their own transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_id(self, key_id: str) -> StoredKey | None:
        """The key with its organization's facts, revoked ones included. Raises BookUnavailable."""
        return await self._database.read(_stored, key_id)

    async def create(self, facts: KeyFacts, *, by: Change | None = None) -> KeyInfo:
        """Raises NotFound when the account is not the organization's."""
        return await self._database.write(_create, facts, by, self._database.now_us())

    async def get(self, key_id: str, *, organization_id: str | None = None) -> KeyInfo:
        """Raises NotFound; with `organization_id` also for another's key."""
        return await self._database.read(_get, key_id, organization_id)

    async def list(
        self, *, organization_id: str | None, limit: int, after: str | None = None
    ) -> builtins.list[KeyInfo]:
        """In id order, from the one after the id `after`; None: of all organizations."""
        return await self._database.read(_list, organization_id, limit, after)

    async def patch(
        self,
        key_id: str,
        changes: Mapping[str, object],
        *,
        organization_id: str | None = None,
        by: Change | None = None,
    ) -> KeyInfo:
        """Change some of PATCHABLE (KeyInfo's fields); raises the rev. Raises InvalidRequest, NotFound."""
        if not changes.keys() <= PATCHABLE:
            raise InvalidRequest(f"cannot be changed: {', '.join(sorted(changes.keys() - PATCHABLE))}")
        return await self._change(key_id, _columns(changes), organization_id, by)

    async def rotate(
        self,
        key_id: str,
        *,
        secret_hash: str,
        prefix: str,
        organization_id: str | None = None,
        by: Change | None = None,
    ) -> KeyInfo:
        """A new secret for the same key: the old one stops with its next call."""
        return await self._change(key_id, {"secret_hash": secret_hash, "prefix": prefix}, organization_id, by)

    async def revoke(self, key_id: str, *, organization_id: str | None = None, by: Change | None = None) -> KeyInfo:
        """The key stops with its next call. A second time changes nothing."""
        info = await self.get(key_id, organization_id=organization_id)
        if info.revoked_us is not None:
            return info
        return await self._change(key_id, {"revoked_us": self._database.now_us()}, organization_id, by)

    async def touch(self, last_used_us: Mapping[str, int]) -> None:
        """Note when keys were last used; one write for many."""
        if last_used_us:
            await self._database.upkeep(_touch, [(key, used) for key, used in sorted(last_used_us.items())])

    async def _change(
        self, key_id: str, values: Mapping[str, object], organization_id: str | None, by: Change | None
    ) -> KeyInfo:
        return await self._database.write(_update, key_id, values, organization_id, by, self._database.now_us())


def _stored(conn: Connection, key_id: str) -> StoredKey | None:
    organization = tables.organizations.c
    query = (
        select(tables.keys, organization.default_account_id, organization.credits_per_usd, organization.markup_percent)
        .join(tables.organizations, organization.id == _t.organization_id)
        .where(_t.id == key_id)
    )
    row = conn.execute(query).mappings().first()
    if row is None:
        return None
    return StoredKey(
        id=row["id"],
        rev=row["rev"],
        secret_hash=row["secret_hash"],
        organization_id=row["organization_id"],
        account_id=row["account_id"],
        default_account_id=row["default_account_id"],
        scopes=frozenset(row["scopes"].split()),
        models=_models(row["models"]),
        limits=_limits(row["limits"]),
        max_multiplier=row["max_multiplier"],
        test=row["test"],
        above_organizations=row["above_organizations"],
        revoked=row["revoked_us"] is not None,
        expires_at=None if row["expires_us"] is None else row["expires_us"] / 1_000_000,
        credits_per_usd=row["credits_per_usd"],
        markup_percent=row["markup_percent"],
    )


def _create(conn: Connection, facts: KeyFacts, by: Change | None, now_us: int) -> KeyInfo:
    if facts.account_id is not None:
        find_account(conn, facts.organization_id, facts.account_id)
    values: dict[str, object] = {
        name: getattr(facts, name) for name in ("id", "prefix", "secret_hash", "organization_id", "account_id", "test")
    }
    chosen = _columns({name: getattr(facts, name) for name in PATCHABLE})
    fixed = {"rev": 1, "above_organizations": False, "created_us": now_us, "updated_us": now_us}
    conn.execute(tables.keys.insert().values({**values, **chosen, **fixed}))
    note_change(conn, by, target=facts.id, organization_id=facts.organization_id, now_us=now_us)
    return _get(conn, facts.id, None)


def _get(conn: Connection, key_id: str, organization_id: str | None) -> KeyInfo:
    query = select(tables.keys).where(_t.id == key_id)
    if organization_id is not None:
        query = query.where(_t.organization_id == organization_id)
    row = conn.execute(query).mappings().first()
    if row is None:
        raise NotFound("no such key")
    return _info(row)


def _list(conn: Connection, organization_id: str | None, limit: int, after: str | None) -> list[KeyInfo]:
    query = select(tables.keys).where(_t.id > (after or "")).order_by(_t.id).limit(limit)
    if organization_id is not None:
        query = query.where(_t.organization_id == organization_id)
    return [_info(row) for row in conn.execute(query).mappings()]


def _update(
    conn: Connection,
    key_id: str,
    values: Mapping[str, object],
    organization_id: str | None,
    by: Change | None,
    now_us: int,
) -> KeyInfo:
    found = _get(conn, key_id, organization_id)
    note_change(conn, by, target=key_id, organization_id=found.organization_id, now_us=now_us)
    change = {**values, "rev": _t.rev + 1, "updated_us": now_us}
    conn.execute(tables.keys.update().where(_t.id == key_id).values(change))
    return _get(conn, key_id, None)


def _touch(conn: Connection, used: Sequence[tuple[str, int]]) -> None:
    older = _t.last_used_us.is_(None) | (_t.last_used_us < bindparam("used"))
    update = tables.keys.update().where(_t.id == bindparam("key"), older).values(last_used_us=bindparam("used"))
    conn.execute(update, [{"key": key, "used": moment} for key, moment in used])


def _columns(changes: Mapping[str, Any]) -> dict[str, object]:
    columns: dict[str, object] = dict(changes)
    if "scopes" in columns:
        columns["scopes"] = " ".join(sorted(changes["scopes"]))
    if columns.get("models") is not None:
        columns["models"] = orjson.dumps(list(changes["models"])).decode()
    if "limits" in columns:
        columns["limits"] = _dump_limits(changes["limits"])
    return columns


def _dump_limits(limits: Iterable[Limit]) -> str:
    return orjson.dumps([[limit.id, limit.kind, limit.window, limit.max] for limit in limits]).decode()


def _limits(stored: str) -> tuple[Limit, ...]:
    return tuple(
        Limit(id=limit_id, kind=kind, window=window, max=most) for limit_id, kind, window, most in orjson.loads(stored)
    )


def _models(stored: str | None) -> tuple[str, ...] | None:
    return None if stored is None else tuple(orjson.loads(stored))


def _info(row: RowMapping) -> KeyInfo:
    values = {name: value for name, value in row.items() if name != "secret_hash"}
    values["scopes"] = frozenset(row["scopes"].split())
    values["models"] = _models(row["models"])
    values["limits"] = _limits(row["limits"])
    return KeyInfo(**values)
