"""Memberships: which role a user has in which organization, at most one each."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, select
from sqlalchemy.exc import IntegrityError

from faregate.core.ids import new_id
from faregate.core.people import Role
from faregate.errors import Conflict, NotFound
from faregate.ledger import tables
from faregate.ledger.admin_audit import Change, note_change
from faregate.ledger.database import Database

_t = tables.memberships.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A user's role in an organization."""

    id: str
    user_id: str
    organization_id: str
    role: Role
    active: bool
    created_us: int
    updated_us: int


class Memberships:
    """`organization_id` None: of all organizations. Every change is audited in its own transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, *, user_id: str, organization_id: str, role: Role, active: bool, by: Change) -> Membership:
        """A new membership. Raises Conflict when there is one."""
        values = {"user_id": user_id, "organization_id": organization_id, "role": role, "active": active}
        return await self._database.write(_create, values, by, self._database.now_us())

    async def get(self, membership_id: str, *, organization_id: str | None = None) -> Membership:
        """Raises NotFound."""
        return await self._database.read(_get, membership_id, organization_id)

    async def list(
        self, *, organization_id: str | None, limit: int, after: str | None = None
    ) -> builtins.list[Membership]:
        """Oldest first, from the one after the id `after`."""
        return await self._database.read(_list, organization_id, limit, after)

    async def patch(self, membership_id: str, changes: Mapping[str, object], *, by: Change) -> Membership:
        """Change role or active. Raises NotFound."""
        return await self._database.write(_patch, membership_id, changes, by, self._database.now_us())

    async def delete(self, membership_id: str, *, by: Change) -> Membership:
        """Raises NotFound."""
        return await self._database.write(_delete, membership_id, by, self._database.now_us())


def _create(conn: Connection, values: Mapping[str, object], by: Change, now_us: int) -> Membership:
    row = {**values, "id": new_id("mem"), "created_us": now_us, "updated_us": now_us}
    try:
        conn.execute(tables.memberships.insert().values(row))
    except IntegrityError:
        raise Conflict("the user is a member of this organization already", param="userId") from None
    return _noted(conn, _get(conn, str(row["id"])), by, now_us)


def _get(conn: Connection, membership_id: str, organization_id: str | None = None) -> Membership:
    query = select(tables.memberships).where(_t.id == membership_id)
    if organization_id is not None:
        query = query.where(_t.organization_id == organization_id)
    row = conn.execute(query).mappings().first()
    if row is None:
        raise NotFound("no such membership")
    return _membership(row)


def _list(conn: Connection, organization_id: str | None, limit: int, after: str | None) -> list[Membership]:
    query = select(tables.memberships).where(_t.id > (after or "")).order_by(_t.id).limit(limit)
    if organization_id is not None:
        query = query.where(_t.organization_id == organization_id)
    return [_membership(row) for row in conn.execute(query).mappings()]


def _patch(conn: Connection, membership_id: str, changes: Mapping[str, object], by: Change, now_us: int) -> Membership:
    _get(conn, membership_id)
    change = tables.memberships.update().where(_t.id == membership_id).values({**changes, "updated_us": now_us})
    conn.execute(change)
    return _noted(conn, _get(conn, membership_id), by, now_us)


def _delete(conn: Connection, membership_id: str, by: Change, now_us: int) -> Membership:
    gone = _get(conn, membership_id)
    conn.execute(tables.memberships.delete().where(_t.id == membership_id))
    return _noted(conn, gone, by, now_us)


def _noted(conn: Connection, membership: Membership, by: Change, now_us: int) -> Membership:
    note_change(conn, by, target=membership.id, organization_id=membership.organization_id, now_us=now_us)
    return membership


def _membership(row: RowMapping) -> Membership:
    return Membership(**row)
