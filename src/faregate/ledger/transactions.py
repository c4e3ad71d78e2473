"""Transactions: the entries of an organization's accounts, newest first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, func, select

from faregate.core.call import Reservation
from faregate.errors import NotFound
from faregate.ledger import tables
from faregate.ledger.accounts import Page
from faregate.ledger.database import Database
from faregate.ledger.posting import Entry, from_json
from faregate.ledger.rows import read_reservation
from faregate.ledger.usage import UsageRecord, records_by_id, records_paid_by

_t = tables.entries.c


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionFilter:
    """What to look at; None is no condition. Times are UTC microseconds, `end_us` is exclusive."""

    organization_id: str
    account_id: str | None = None
    type: Literal["credit", "debit"] | None = None
    start_us: int | None = None
    end_us: int | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        found = [_t.organization_id == self.organization_id]
        if self.account_id is not None:
            found.append(_t.account_id == self.account_id)
        if self.type is not None:
            found.append(_t.type == self.type)
        if self.start_us is not None:
            found.append(_t.created_us >= self.start_us)
        if self.end_us is not None:
            found.append(_t.created_us < self.end_us)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """An entry, with what was asked to be included."""

    entry: Entry
    usage: UsageRecord | None = None
    reservation: Reservation | None = None


class Transactions:
    """Reading entries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(
        self,
        wanted: TransactionFilter,
        *,
        limit: int,
        offset: int,
        include: frozenset[Literal["reservation", "usage"]] = frozenset(),
    ) -> Page[Transaction]:
        """A page, newest first."""
        return await self._database.read(_list, wanted, limit, offset, include)

    async def get(self, organization_id: str, transaction_id: str) -> Entry:
        """One entry. Raises NotFound."""
        return await self._database.read(get_entry, organization_id, transaction_id)

    async def by_hold(self, organization_id: str, hold_id: str) -> Entry | None:
        """The entry of a debit without a usage record, by its hold's id."""
        return await self._database.read(_by_hold, organization_id, hold_id)


def _list(
    conn: Connection,
    wanted: TransactionFilter,
    limit: int,
    offset: int,
    include: frozenset[Literal["reservation", "usage"]],
) -> Page[Transaction]:
    conditions = wanted.conditions()
    total = conn.execute(select(func.count()).select_from(tables.entries).where(*conditions)).scalar_one()
    order = _t.id if wanted.account_id is None else _t.seq
    query = select(tables.entries).where(*conditions).order_by(order.desc()).limit(limit).offset(offset)
    items = [Transaction(entry=read_entry(row)) for row in conn.execute(query).mappings()]
    if "usage" in include:
        items = _with_usage(conn, items)
    if "reservation" in include:
        items = _with_reservations(conn, items)
    return Page(items=tuple(items), total=total, limit=limit, offset=offset)


def _with_usage(conn: Connection, items: list[Transaction]) -> list[Transaction]:
    found = records_by_id(conn, [item.entry.usage_id for item in items if item.entry.usage_id is not None])
    paid = records_paid_by(conn, [item.entry.id for item in items if item.entry.usage_id is None])
    return [replace(item, usage=found.get(item.entry.usage_id or "") or paid.get(item.entry.id)) for item in items]


def _with_reservations(conn: Connection, items: list[Transaction]) -> list[Transaction]:
    holds = [item.entry.hold_id for item in items if item.entry.hold_id is not None]
    query = select(tables.reservations).where(tables.reservations.c.hold_id.in_(holds))
    found = {row["hold_id"]: read_reservation(row) for row in conn.execute(query).mappings()}
    return [replace(item, reservation=found.get(item.entry.hold_id or "")) for item in items]


def get_entry(conn: Connection, organization_id: str, transaction_id: str) -> Entry:
    """One entry, within the caller's transaction. Raises NotFound."""
    query = select(tables.entries).where(_t.id == transaction_id, _t.organization_id == organization_id)
    row = conn.execute(query).mappings().first()
    if row is None:
        raise NotFound("no such transaction", param="transactionId")
    return read_entry(row)


def _by_hold(conn: Connection, organization_id: str, hold_id: str) -> Entry | None:
    query = select(tables.entries).where(_t.hold_id == hold_id, _t.organization_id == organization_id)
    row = conn.execute(query).mappings().first()
    return None if row is None else read_entry(row)


def read_entry(row: RowMapping) -> Entry:
    """A row as an entry."""
    values = {name: value for name, value in row.items() if name != "meta"}
    return Entry(**values, metadata=from_json(row["meta"]))
