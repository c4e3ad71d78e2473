"""Who changed what and when, through the administration API. Appended, never edited."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from faregate.core.ids import new_id
from faregate.ledger import tables
from faregate.ledger.database import Database
from faregate.ledger.posting import from_json, to_json

_t = tables.admin_audit.c


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminEvent:
    """One change: `who` is a key's or user's id, `what` a verb such as `keys.create`, `target` an id, too."""

    id: str
    created_us: int
    organization_id: str | None
    who: str
    what: str
    target: str
    detail: Mapping[str, object]
    """Never a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Who is about to change something, and how: kept in the very transaction that does it."""

    who: str
    """A key's or user's id."""
    what: str
    detail: Mapping[str, object]
    """Never a secret."""


class AdminAudit:
    """The log of administration."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(
        self,
        *,
        who: str,
        what: str,
        target: str,
        organization_id: str | None = None,
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """Write one event down."""
        values = {
            "id": new_id("adm"),
            "created_us": self._database.now_us(),
            "organization_id": organization_id,
            "who": who,
            "what": what,
            "target": target,
            "detail": to_json(detail),
        }
        await self._database.write(_append, values)

    async def list(
        self, *, organization_id: str | None, limit: int, before: str | None = None
    ) -> builtins.list[AdminEvent]:
        """Newest first, from the one before the id `before`; None: of all organizations."""
        return await self._database.read(_list, organization_id, limit, before)


def note_change(conn: Connection, by: Change | None, *, target: str, organization_id: str | None, now_us: int) -> None:
    """Write a change down within the caller's transaction; None: it is nobody's."""
    if by is None:
        return
    values = {
        "id": new_id("adm"),
        "created_us": now_us,
        "organization_id": organization_id,
        "who": by.who,
        "what": by.what,
        "target": target,
        "detail": to_json(by.detail),
    }
    _append(conn, values)


def _append(conn: Connection, values: Mapping[str, object]) -> None:
    conn.execute(tables.admin_audit.insert().values(values))


def _list(conn: Connection, organization_id: str | None, limit: int, before: str | None) -> list[AdminEvent]:
    query = select(tables.admin_audit).order_by(_t.id.desc()).limit(limit)
    if organization_id is not None:
        query = query.where(_t.organization_id == organization_id)
    if before is not None:
        query = query.where(_t.id < before)
    return [AdminEvent(**{**row, "detail": from_json(row["detail"])}) for row in conn.execute(query).mappings()]
