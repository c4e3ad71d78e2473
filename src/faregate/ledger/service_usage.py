"""Which service told of a usage record, whose use it was, and what it is billed at.

Written in the transaction that books the record, so one is never there without the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import ColumnElement, Connection, select

from faregate.core.call import Record
from faregate.errors import NotFound
from faregate.ledger import tables
from faregate.ledger.database import Database
from faregate.ledger.dialect import exact_sum
from faregate.ledger.ingested import Also
from faregate.ledger.metering import queue

_t = tables.service_usage.c


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLink:
    """What a usage record does not say itself. `billed`: USD."""

    service_id: str
    service_name: str
    user_id: str
    reported_by: str
    channel: str
    billed: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledUse:
    """One use, as its user is told of it."""

    hold_id: str
    service_name: str
    organization_id: str
    model: str
    input_tokens: int
    output_tokens: int
    billed: Decimal
    metered: bool
    """It is queued for the organization's meter."""
    occurred_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Billed:
    """Newest first; `total` is of all in the span, `more`: there are more than are shown."""

    total: Decimal
    uses: tuple[BilledUse, ...]
    more: bool


class ServiceUsage:
    """Usage that services told of."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def linked(self, link: ServiceLink) -> Also:
        """For `Ingested.write`: what to do in its transaction with the records that are new."""
        now_us = self._database.now_us()
        return lambda conn, records: _link(conn, link, records, now_us)

    async def of_user(
        self, user_id: str, *, start_us: int | None, end_us: int | None, limit: int, organization_id: str | None = None
    ) -> Billed:
        """A user's uses between two moments (`end_us` exclusive), in one organization or all."""
        return await self._database.read(_of_user, user_id, start_us, end_us, limit, organization_id)

    async def of_record(self, usage_id: str) -> BilledUse:
        """What a service told of that record. Raises NotFound."""
        return await self._database.read(_of_record, usage_id)


def _link(conn: Connection, link: ServiceLink, records: Sequence[Record], now_us: int) -> None:
    """The rows, and what is billed on its way to the organization's meter."""
    for record in records:
        metered = queue(
            conn,
            organization_id=record.organization_id,
            source_id=record.hold_id,
            amount_usd=link.billed,
            occurred_us=record.occurred_at_us,
            now_us=now_us,
        )
        values = {
            "hold_id": record.hold_id,
            "service_id": link.service_id,
            "service_name": link.service_name,
            "user_id": link.user_id,
            "reported_by": link.reported_by,
            "organization_id": record.organization_id,
            "channel": link.channel,
            "model": record.public_model,
            "input_tokens": record.usage.get("input_tokens", 0),
            "output_tokens": record.usage.get("output_tokens", 0),
            "billed": link.billed,
            "metered": metered,
            "occurred_us": record.occurred_at_us,
        }
        conn.execute(tables.service_usage.insert().values(values))


_USE = (
    _t.hold_id,
    _t.service_name,
    _t.organization_id,
    _t.model,
    _t.input_tokens,
    _t.output_tokens,
    _t.billed,
    _t.metered,
    _t.occurred_us,
)


def _of_user(
    conn: Connection, user_id: str, start_us: int | None, end_us: int | None, limit: int, organization_id: str | None
) -> Billed:
    wanted: list[ColumnElement[bool]] = [_t.user_id == user_id]
    if start_us is not None:
        wanted.append(_t.occurred_us >= start_us)
    if end_us is not None:
        wanted.append(_t.occurred_us < end_us)
    if organization_id is not None:
        wanted.append(_t.organization_id == organization_id)
    total = conn.execute(select(exact_sum(_t.billed)).where(*wanted)).scalar_one()
    query = select(*_USE).where(*wanted).order_by(_t.occurred_us.desc(), _t.hold_id.desc())
    rows = conn.execute(query.limit(limit + 1)).mappings().all()
    uses = tuple(BilledUse(**row) for row in rows[:limit])
    return Billed(total=total or Decimal(0), uses=uses, more=len(rows) > limit)


def _of_record(conn: Connection, usage_id: str) -> BilledUse:
    records = tables.usage_records.c
    query = select(*_USE).join(tables.usage_records, records.hold_id == _t.hold_id).where(records.id == usage_id)
    row = conn.execute(query.limit(1)).mappings().first()
    if row is None:
        raise NotFound("no service told of this record")
    return BilledUse(**row)
