"""Users. Each belongs to one organization (its home) or to the installation; an email is unique within its home.

An organization sees its own users, and the installation's that are its members; others do not exist for it.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, or_, select
from sqlalchemy.exc import IntegrityError

from faregate.core.ids import new_id, uuid7
from faregate.errors import Conflict, NotFound
from faregate.ledger import tables
from faregate.ledger.admin_audit import Change, note_change
from faregate.ledger.database import Database

_t = tables.users.c
_m = tables.memberships.c
INSTALLATION = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user as lists show them."""

    id: str
    uuid: str
    home: str
    """The organization they belong to; INSTALLATION: none."""
    email: str
    name: str | None
    subject: str | None
    active: bool
    created_us: int
    updated_us: int


class Users:
    """`seen_by` None: by those who stand above organizations. Every change is audited in its own transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, *, home: str, email: str, name: str | None = None, subject: str | None = None, by: Change
    ) -> User:
        """A new user. Raises Conflict when the email (in this home) or the subject is taken."""
        values = {"home": home, "email": email, "name": name, "subject": subject}
        return await self._database.write(_create, values, by, self._database.now_us())

    async def get(self, reference: str, *, seen_by: str | None = None) -> User:
        """By id or uuid. Raises NotFound."""
        return await self._database.read(find_user, reference, seen_by)

    async def list(self, *, seen_by: str | None, limit: int, after: str | None = None) -> builtins.list[User]:
        """Oldest first, from the one after the id `after`."""
        return await self._database.read(_list, seen_by, limit, after)

    async def patch(self, user_id: str, changes: Mapping[str, object], *, by: Change) -> User:
        """Change columns. Raises NotFound, Conflict."""
        return await self._database.write(_patch, user_id, changes, by, self._database.now_us())

    async def delete(self, user_id: str, *, by: Change) -> User:
        """With memberships and app passwords; what was billed stays. Raises NotFound."""
        return await self._database.write(_delete, user_id, by, self._database.now_us())


def find_user(conn: Connection, reference: str, seen_by: str | None = None) -> User:
    """Within the caller's transaction. Raises NotFound."""
    query = select(tables.users).where(or_(_t.id == reference, _t.uuid == reference))
    if seen_by is not None:
        query = query.where(_visible(seen_by))
    row = conn.execute(query).mappings().first()
    if row is None:
        raise NotFound("no such user", param="userId")
    return _user(row)


def _visible(organization_id: str) -> ColumnElement[bool]:
    member = select(_m.user_id).where(_m.organization_id == organization_id)
    return or_(_t.home == organization_id, and_(_t.home == INSTALLATION, _t.id.in_(member)))


def _create(conn: Connection, values: Mapping[str, object], by: Change, now_us: int) -> User:
    row = {
        **values,
        "id": new_id("usr"),
        "uuid": str(uuid7()),
        "active": True,
        "created_us": now_us,
        "updated_us": now_us,
    }
    try:
        conn.execute(tables.users.insert().values(row))
    except IntegrityError:
        raise _taken() from None
    user = find_user(conn, str(row["id"]))
    note_change(conn, by, target=user.id, organization_id=user.home or None, now_us=now_us)
    return user


def _list(conn: Connection, seen_by: str | None, limit: int, after: str | None) -> list[User]:
    query = select(tables.users).where(_t.id > (after or "")).order_by(_t.id).limit(limit)
    if seen_by is not None:
        query = query.where(_visible(seen_by))
    return [_user(row) for row in conn.execute(query).mappings()]


def _patch(conn: Connection, user_id: str, changes: Mapping[str, object], by: Change, now_us: int) -> User:
    find_user(conn, user_id)
    try:
        conn.execute(tables.users.update().where(_t.id == user_id).values({**changes, "updated_us": now_us}))
    except IntegrityError:
        raise _taken() from None
    user = find_user(conn, user_id)
    note_change(conn, by, target=user.id, organization_id=user.home or None, now_us=now_us)
    return user


def _delete(conn: Connection, user_id: str, by: Change, now_us: int) -> User:
    user = find_user(conn, user_id)
    for table in (tables.memberships, tables.app_passwords):
        conn.execute(table.delete().where(table.c.user_id == user.id))
    conn.execute(tables.users.delete().where(_t.id == user.id))
    note_change(conn, by, target=user.id, organization_id=user.home or None, now_us=now_us)
    return user


def _taken() -> Conflict:
    return Conflict("a user with this email or subject exists", param="email")


def _user(row: RowMapping) -> User:
    return User(**row)
