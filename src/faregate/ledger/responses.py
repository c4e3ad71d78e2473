"""Responses that providers keep: whose they are. A row is written with the record that charges it, or before.

A background response has its row from the moment the provider took it: `running`, with the record as far as it is
known, and until when its poller answers for it. Ended rows are kept as long as OpenAI keeps responses.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, select, tuple_, update

from faregate.core.call import Record
from faregate.core.codec import decode_record
from faregate.ledger import tables
from faregate.ledger.database import Database
from faregate.ledger.kept import KEPT_S, note_running
from faregate.ports import Kept

_t = tables.responses.c


class Responses:
    """`ports.KeptStore` over SQL. `name` is this process's."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name

    async def find(self, organization_id: str, response_id: str) -> Kept | None:
        return await self._database.read(_find, organization_id, response_id)

    async def begin(self, record: Record, lease_us: int) -> None:
        await self._database.write(note_running, record, self._name, lease_us)

    async def renew(self, lease_us: int) -> None:
        await self._database.write(_renew, self._name, lease_us)

    async def claim(self, lease_us: int, most: int) -> list[Kept]:
        return await self._database.write(_claim, self._name, self._database.now_us(), lease_us, most)

    async def end(self, kept: Kept) -> None:
        await self._database.write(_end, kept, self._database.now_us())

    async def drop(self, kept: Kept) -> None:
        await self._database.write(_drop, kept)

    async def purge(self, most: int) -> int:
        return await self._database.write(_purge, self._database.now_us(), most)


def _find(conn: Connection, organization_id: str, response_id: str) -> Kept | None:
    wanted = (_t.organization_id == organization_id) & (_t.id == response_id)
    row = conn.execute(select(tables.responses).where(wanted)).mappings().first()
    return None if row is None else _kept(row)


def _renew(conn: Connection, name: str, lease_us: int) -> None:
    conn.execute(update(tables.responses).where(_t.state == "running", _t.poller == name).values(due_us=lease_us))


def _claim(conn: Connection, name: str, now_us: int, lease_us: int, most: int) -> list[Kept]:
    due = select(tables.responses).where(_t.state == "running", _t.due_us < now_us).order_by(_t.due_us).limit(most)
    rows = conn.execute(due.with_for_update(skip_locked=True)).mappings().all()
    found = [_kept(row) for row in rows]
    for kept in found:
        conn.execute(update(tables.responses).where(*_this(kept)).values(poller=name, due_us=lease_us))
    return found


def _end(conn: Connection, kept: Kept, now_us: int) -> None:
    ended = {"state": "ended", "meta": None, "poller": None, "due_us": now_us + KEPT_S * 1_000_000}
    conn.execute(update(tables.responses).where(*_this(kept)).values(ended))


def _drop(conn: Connection, kept: Kept) -> None:
    conn.execute(delete(tables.responses).where(*_this(kept)))


def _this(kept: Kept) -> tuple[ColumnElement[bool], ...]:
    return (_t.organization_id == kept.organization_id, _t.id == kept.id, _t.hold_id == kept.hold_id)


def _purge(conn: Connection, now_us: int, most: int) -> int:
    old = select(_t.organization_id, _t.id).where(_t.state == "ended", _t.due_us < now_us).limit(most)
    return conn.execute(delete(tables.responses).where(tuple_(_t.organization_id, _t.id).in_(old))).rowcount


def _kept(row: RowMapping) -> Kept:
    meta = row["meta"]
    return Kept(
        id=row["id"],
        organization_id=row["organization_id"],
        account_id=row["account_id"],
        key_id=row["key_id"],
        hold_id=row["hold_id"],
        provider=row["provider"],
        model=row["model"],
        tokens=row["tokens"],
        created_us=row["created_us"],
        running=decode_record(meta.encode()) if meta is not None and row["state"] == "running" else None,
    )
