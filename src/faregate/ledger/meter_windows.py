"""Queued amounts summed per customer and closed hour, into events whose values are whole micro-USD.

Nothing is summed twice: a row of `metered` belongs to one window, from the transaction on that adds it to its
customer's sum. A window is closed for good: what comes later belongs to the next one, in an event of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, select

from faregate.core.metering import identifier, split, timestamp_s
from faregate.core.money import EXACT
from faregate.ledger import tables
from faregate.ledger.database import Database
from faregate.ledger.dialect import exact_param, exact_sum, insert_many

CHUNK = 500
"""Rows that one transaction sums: nothing else waits long for the writer."""
_m = tables.metered.c
_s = tables.meter_sums.c
_o = tables.organizations.c


@dataclass(frozen=True, slots=True)
class Owing:
    """Who has amounts that are in no window yet."""

    organization_id: str
    customer: str


class Windows:
    """Closing windows. Any number of processes may do it at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def owing(self, until_us: int, *, limit: int = 100) -> list[Owing]:
        """Some who have amounts from before `until_us` that no window has yet. Raises BookUnavailable."""
        return await self._database.read(_owing, until_us, limit)

    async def close(self, owing: Owing, meter: str, until_us: int) -> bool:
        """Sum some of what is owed into the window that ends at `until_us`, and close it with the last of it.

        False: there is more. A window that is closed already stays as it is. Raises BookUnavailable.
        """
        return await self._database.upkeep(_close, owing, meter, until_us, self._database.now_us())


def _owing(conn: Connection, until_us: int, limit: int) -> list[Owing]:
    """Those whose sum has closed this window already are done for now."""
    closed = (_s.organization_id == _m.organization_id) & (_s.customer == _m.customer) & (_s.window_us >= until_us)
    query = (
        select(_m.organization_id, _m.customer)
        .where(_m.window_us.is_(None), _m.occurred_us < until_us, ~select(_s.customer).where(closed).exists())
        .distinct()
        .limit(limit)
    )
    return [Owing(*row) for row in conn.execute(query)]


def _close(conn: Connection, owing: Owing, meter: str, until_us: int, now_us: int) -> bool:
    mine = (_s.organization_id == owing.organization_id) & (_s.customer == owing.customer)
    carry = _locked_carry(conn, owing, mine, until_us)
    if carry is None:
        return True
    amounts = _take(conn, owing, until_us)
    for amount in amounts:
        carry = EXACT.add(carry, amount)
    changes: dict[str, Any] = {"carry": carry}
    done = len(amounts) < CHUNK
    if done:
        parts, left = split(carry)
        changes = {"carry": left, "window_us": until_us}
        _send(conn, owing, meter, until_us, parts, now_us)
    conn.execute(tables.meter_sums.update().where(mine).values(changes))
    return done


def _locked_carry(conn: Connection, owing: Owing, mine: Any, until_us: int) -> Decimal | None:
    """What waits from earlier windows; None: this one is closed. Locked to the end of the transaction."""
    row = (owing.organization_id, owing.customer, exact_param(conn, Decimal(0)), 0)
    insert_many(conn, tables.meter_sums, [row], "ON CONFLICT (organization_id, customer) DO NOTHING")
    query = select(_s.carry, _s.window_us).where(mine).with_for_update()
    carry, window_us = conn.execute(query).one()
    return None if window_us >= until_us else carry


def _take(conn: Connection, owing: Owing, until_us: int) -> list[Decimal]:
    theirs = (_m.organization_id == owing.organization_id) & (_m.customer == owing.customer)
    query = select(_m.source_id, _m.amount).where(theirs, _m.window_us.is_(None), _m.occurred_us < until_us)
    rows = conn.execute(query.order_by(_m.occurred_us, _m.source_id).limit(CHUNK)).all()
    sources = [row[0] for row in rows]
    marked = tables.metered.update().where(_m.organization_id == owing.organization_id, _m.source_id.in_(sources))
    conn.execute(marked.values(window_us=until_us))
    return [row[1] for row in rows]


def _send(conn: Connection, owing: Owing, meter: str, until_us: int, parts: Sequence[int], now_us: int) -> None:
    if not parts:
        return
    uuid = conn.execute(select(_o.uuid).where(_o.id == owing.organization_id)).scalar_one()
    rows = [
        {
            "id": identifier(uuid, owing.customer, meter, until_us, part),
            "organization_id": owing.organization_id,
            "customer": owing.customer,
            "meter": meter,
            "window_us": until_us,
            "timestamp_s": timestamp_s(until_us, part),
            "value": value,
            "state": "queued",
            "attempts": 0,
            "due_us": now_us,
            "created_us": now_us,
            "updated_us": now_us,
        }
        for part, value in enumerate(parts, 1)
    ]
    conn.execute(tables.outbox.insert(), rows)


def owed_usd(conn: Connection) -> Decimal:
    """USD that are queued and in no event yet: open windows, and what waits to be a whole micro-USD."""
    from_windows = conn.execute(select(exact_sum(_m.amount)).where(_m.window_us.is_(None))).scalar_one()
    carried = conn.execute(select(exact_sum(_s.carry))).scalar_one()
    return EXACT.add(from_windows or Decimal(0), carried or Decimal(0))
