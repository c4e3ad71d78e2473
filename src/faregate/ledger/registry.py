"""Services that tell of their usage: by name, unique within the organization they belong to or the installation."""

from __future__ import annotations

import builtins
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, or_, select
from sqlalchemy.exc import IntegrityError

from faregate.core.ids import new_id
from faregate.errors import Conflict, NotFound
from faregate.ledger import tables
from faregate.ledger.admin_audit import Change, note_change
from faregate.ledger.database import Database
from faregate.ledger.users import INSTALLATION

_t = tables.services.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service; `home` INSTALLATION: it may tell of any organization's usage."""

    id: str
    home: str
    name: str
    created_us: int
    updated_us: int


class ServiceRegistry:
    """`home` None: of all homes. Every change is audited in its own transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, *, home: str, name: str, by: Change) -> Service:
        """A new service. Raises Conflict when the name is taken."""
        return await self._database.write(_create, home, name, by, self._database.now_us())

    async def get(self, service_id: str, *, home: str | None = None) -> Service:
        """Raises NotFound."""
        return await self._database.read(_get, service_id, home)

    async def named(self, name: str, organization_id: str) -> Service | None:
        """The organization's service of that name, else the installation's."""
        return await self._database.read(_named, name, organization_id)

    async def list(self, *, home: str | None, limit: int, after: str | None = None) -> builtins.list[Service]:
        """Oldest first, from the one after the id `after`."""
        return await self._database.read(_list, home, limit, after)

    async def rename(self, service_id: str, name: str, *, by: Change) -> Service:
        """Raises NotFound, Conflict. Usage keeps the name it was told by."""
        return await self._database.write(_rename, service_id, name, by, self._database.now_us())

    async def delete(self, service_id: str, *, by: Change) -> Service:
        """It cannot tell of anything any more. Raises NotFound."""
        return await self._database.write(_delete, service_id, by, self._database.now_us())


def _create(conn: Connection, home: str, name: str, by: Change, now_us: int) -> Service:
    row = {"id": new_id("svc"), "home": home, "name": name, "created_us": now_us, "updated_us": now_us}
    try:
        conn.execute(tables.services.insert().values(row))
    except IntegrityError:
        raise _taken() from None
    return _noted(conn, _get(conn, str(row["id"])), by, now_us)


def _get(conn: Connection, service_id: str, home: str | None = None) -> Service:
    query = select(tables.services).where(_t.id == service_id)
    if home is not None:
        query = query.where(_t.home == home)
    row = conn.execute(query).mappings().first()
    if row is None:
        raise NotFound("no such service")
    return _service(row)


def _named(conn: Connection, name: str, organization_id: str) -> Service | None:
    homes = or_(_t.home == organization_id, _t.home == INSTALLATION)
    query = select(tables.services).where(_t.name == name, homes).order_by(_t.home.desc()).limit(1)
    row = conn.execute(query).mappings().first()
    return None if row is None else _service(row)


def _list(conn: Connection, home: str | None, limit: int, after: str | None) -> list[Service]:
    query = select(tables.services).where(_t.id > (after or "")).order_by(_t.id).limit(limit)
    if home is not None:
        query = query.where(_t.home == home)
    return [_service(row) for row in conn.execute(query).mappings()]


def _rename(conn: Connection, service_id: str, name: str, by: Change, now_us: int) -> Service:
    _get(conn, service_id)
    try:
        conn.execute(tables.services.update().where(_t.id == service_id).values(name=name, updated_us=now_us))
    except IntegrityError:
        raise _taken() from None
    return _noted(conn, _get(conn, service_id), by, now_us)


def _delete(conn: Connection, service_id: str, by: Change, now_us: int) -> Service:
    gone = _get(conn, service_id)
    conn.execute(tables.services.delete().where(_t.id == service_id))
    return _noted(conn, gone, by, now_us)


def _noted(conn: Connection, service: Service, by: Change, now_us: int) -> Service:
    note_change(conn, by, target=service.id, organization_id=service.home or None, now_us=now_us)
    return service


def _taken() -> Conflict:
    return Conflict("a service with this name exists", param="name")


def _service(row: RowMapping) -> Service:
    return Service(**row)
