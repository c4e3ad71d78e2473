"""App passwords: what a user's programs log in with. The book keeps the SHA-256 of a token, never the token: its
secret is 256 random bits, so there is nothing to guess that a slow hash would protect."""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field

from sqlalchemy import Connection, RowMapping, select

from faregate.errors import NotFound
from faregate.ledger import tables
from faregate.ledger.admin_audit import Change, note_change
from faregate.ledger.database import Database
from faregate.ledger.users import find_user

_t = tables.app_passwords.c


@dataclass(frozen=True, slots=True, kw_only=True)
class AppPassword:
    """An app password as lists show it: never its token, nor its hash."""

    id: str
    user_id: str
    name: str
    expires_us: int | None
    revoked_us: int | None
    last_used_us: int | None
    created_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAppPassword:
    """What is chosen when one is made. `id` and `secret_hash` come from auth.app_tokens.make."""

    id: str
    secret_hash: str = field(repr=False)
    user_id: str
    name: str
    expires_us: int | None


class AppPasswords:
    """A user's own. Every change is audited in its own transaction, in the user's home."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, new: NewAppPassword, *, by: Change) -> AppPassword:
        """Raises NotFound for the user."""
        return await self._database.write(_create, new, by, self._database.now_us())

    async def get(self, password_id: str, *, user_id: str) -> AppPassword:
        """Raises NotFound; also for another user's."""
        return await self._database.read(_get, password_id, user_id)

    async def list(self, *, user_id: str, limit: int, after: str | None = None) -> builtins.list[AppPassword]:
        """Oldest first, from the one after the id `after`; revoked ones included."""
        return await self._database.read(_list, user_id, limit, after)

    async def revoke(self, password_id: str, *, user_id: str, by: Change) -> AppPassword:
        """It, and every token it was exchanged for, stops with its next request. Raises NotFound."""
        return await self._database.write(_revoke, password_id, user_id, by, self._database.now_us())


def _create(conn: Connection, new: NewAppPassword, by: Change, now_us: int) -> AppPassword:
    user = find_user(conn, new.user_id)
    row = {name: getattr(new, name) for name in ("id", "secret_hash", "name", "expires_us")}
    conn.execute(tables.app_passwords.insert().values({**row, "user_id": user.id, "created_us": now_us}))
    note_change(conn, by, target=new.id, organization_id=user.home or None, now_us=now_us)
    return _get(conn, new.id, user.id)


def _get(conn: Connection, password_id: str, user_id: str) -> AppPassword:
    query = select(tables.app_passwords).where(_t.id == password_id, _t.user_id == user_id)
    row = conn.execute(query).mappings().first()
    if row is None:
        raise NotFound("no such app password")
    return _password(row)


def _list(conn: Connection, user_id: str, limit: int, after: str | None) -> list[AppPassword]:
    query = select(tables.app_passwords).where(_t.user_id == user_id, _t.id > (after or "")).order_by(_t.id)
    return [_password(row) for row in conn.execute(query.limit(limit)).mappings()]


def _revoke(conn: Connection, password_id: str, user_id: str, by: Change, now_us: int) -> AppPassword:
    found = _get(conn, password_id, user_id)
    if found.revoked_us is not None:
        return found
    conn.execute(tables.app_passwords.update().where(_t.id == password_id).values(revoked_us=now_us))
    user = find_user(conn, user_id)
    note_change(conn, by, target=password_id, organization_id=user.home or None, now_us=now_us)
    return _get(conn, password_id, user_id)


def _password(row: RowMapping) -> AppPassword:
    return AppPassword(**{name: value for name, value in row.items() if name != "secret_hash"})
