"""Grants of plans: each that starts begets the next, in the same transaction.

So the next period's grant is always there before its moment, as one that has not started: the account knows when to
look (`grants_until_us`), whoever touches it books what has come, and after an outage every missed period is booked at
its own moment. The book takes one grant per account, plan and period (a unique index).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, select

from faregate.core.ids import new_id
from faregate.core.periods import period_start
from faregate.ledger import tables
from faregate.ledger.grants import Grant

_p, _a = tables.plans.c, tables.plan_assignments.c
TERMS = (_p.id, _p.name, _p.amount, _p.interval, _p.occurrences, _p.accumulate)
"""What a period's grant depends on; none of it ever changes."""


def successor(conn: Connection, grant: Grant, now_us: int) -> Grant | None:
    """The next period's grant, inserted; None after the last one, or when the plan has been replaced."""
    query = (
        select(*TERMS, _a.account_id, _a.started_us)
        .join(tables.plan_assignments, _a.plan_id == _p.id)
        .where(_a.id == grant.assignment_id, _a.active)
    )
    terms = conn.execute(query).mappings().first()
    if terms is None or grant.period is None:
        return None
    return insert_period(conn, terms, str(grant.assignment_id), grant.period + 1, now_us)


def insert_period(
    conn: Connection, terms: RowMapping | dict[str, Any], assignment_id: str, period: int, now_us: int
) -> Grant | None:
    """The grant of a period, not started yet. Without accumulation it ends when the next period begins."""
    if terms["occurrences"] is not None and period >= terms["occurrences"]:
        return None
    try:
        starts, ends = (period_start(terms["started_us"], terms["interval"], period + more) for more in (0, 1))
    except (ValueError, OverflowError):
        return None  # The calendar ends with the year 9999.
    grant = Grant(
        id=new_id("grant"),
        account_id=terms["account_id"],
        amount=terms["amount"],
        remaining=terms["amount"],
        priority=0,
        effective_us=starts,
        expires_us=None if terms["accumulate"] else ends,
        started=False,
        description=terms["name"],
        created_us=now_us,
        plan_id=terms["id"],
        assignment_id=assignment_id,
        period=period,
    )
    insert_grant(conn, grant)
    return grant


def insert_grant(conn: Connection, grant: Grant) -> None:
    """Its row."""
    conn.execute(tables.grants.insert().values({name: getattr(grant, name) for name in Grant.__slots__}))
