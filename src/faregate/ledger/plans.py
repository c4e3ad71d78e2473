"""Plans: credits that come by themselves, every day, week or month; and which account has which."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, RowMapping, func, select
from sqlalchemy.exc import IntegrityError

from faregate.core.call import Snapshot
from faregate.core.ids import new_id
from faregate.core.money import MAX_MICROCREDITS
from faregate.core.periods import Interval, next_boundary, period_start
from faregate.errors import Conflict, InvalidRequest, NotFound
from faregate.ledger import tables
from faregate.ledger.accounts import Page
from faregate.ledger.database import Database
from faregate.ledger.periods import insert_period
from faregate.ledger.posting import Line, Posting, Wallet

_p, _a = tables.plans.c, tables.plan_assignments.c
StartMode = Literal["now", "next_interval"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`amount` microcredits each `interval`. Only `active` ever changes: a plan is what it was when it was assigned."""

    id: str
    organization_id: str
    name: str
    amount: int
    interval: Interval
    occurrences: int | None
    """How many periods; None: no end."""
    accumulate: bool
    """False: what is left of a period's credits is taken out when the period ends."""
    active: bool
    """It may be assigned."""
    created_us: int
    updated_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A plan of an account."""

    id: str
    account_id: str
    plan: Plan
    active: bool
    """It has not been replaced."""
    started_us: int
    """The first period's beginning, in the future perhaps."""
    ended_us: int | None
    """When it was replaced."""
    created_us: int

    @property
    def expires_us(self) -> int | None:
        """When its last period ends, or when it was replaced; None: it goes on."""
        if self.ended_us is not None or self.plan.occurrences is None:
            return self.ended_us
        try:
            return period_start(self.started_us, self.plan.interval, self.plan.occurrences)
        except (ValueError, OverflowError):
            return None  # beyond the year 9999

    def active_at(self, now_us: int) -> bool:
        """It has not been replaced, and its last period has not ended."""
        return self.active and (self.expires_us is None or now_us < self.expires_us)


class Plans:
    """The plans of an organization; another organization's do not exist."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        organization_id: str,
        *,
        name: str,
        amount: int,
        interval: Interval,
        occurrences: int | None = None,
        accumulate: bool = False,
        active: bool = True,
    ) -> Plan:
        """A new plan. Raises InvalidRequest."""
        if not 0 < amount <= MAX_MICROCREDITS:
            raise InvalidRequest("amount must be greater than 0 and not too large", param="amount")
        now_us = self._database.now_us()
        plan = Plan(
            id=new_id("plan"),
            organization_id=organization_id,
            name=name,
            amount=amount,
            interval=interval,
            occurrences=occurrences,
            accumulate=accumulate,
            active=active,
            created_us=now_us,
            updated_us=now_us,
        )
        return await self._database.write(_insert, plan)

    async def list(self, organization_id: str, *, limit: int, offset: int) -> Page[Plan]:
        """Oldest first, closed ones included."""
        return await self._database.read(_list, organization_id, limit, offset)

    async def set_active(self, organization_id: str, plan_id: str, active: bool) -> Plan:
        """Open or close it for new assignments; running ones go on. Raises NotFound."""
        return await self._database.write(_set_active, organization_id, plan_id, active, self._database.now_us())

    async def assign(
        self, organization_id: str, account_id: str, plan_id: str, start: StartMode
    ) -> tuple[Assignment, Snapshot]:
        """Give an account a plan in place of the one it has. Raises NotFound, Conflict when the plan is not active.

        `now`: its first credits come at once; `next_interval`: with the next calendar day, Monday or month in UTC.
        Of the plan it replaces no more credits come; those that have come stay until their own end.
        """
        now_us = self._database.now_us()
        return await self._database.write(_assign, organization_id, account_id, plan_id, start, now_us)

    async def of_account(self, account_id: str, *, limit: int = 1000) -> builtins.list[Assignment]:
        """The active one, then those before it, newest first."""
        return await self._database.read(_of_account, account_id, limit)


def _insert(conn: Connection, plan: Plan) -> Plan:
    conn.execute(tables.plans.insert().values({name: getattr(plan, name) for name in Plan.__slots__}))
    return plan


def _list(conn: Connection, organization_id: str, limit: int, offset: int) -> Page[Plan]:
    mine = _p.organization_id == organization_id
    total = conn.execute(select(func.count()).select_from(tables.plans).where(mine)).scalar_one()
    query = select(tables.plans).where(mine).order_by(_p.id).limit(limit).offset(offset)
    items = tuple(Plan(**row) for row in conn.execute(query).mappings())
    return Page(items=items, total=total, limit=limit, offset=offset)


def _find(conn: Connection, organization_id: str, plan_id: str) -> Plan:
    query = select(tables.plans).where(_p.id == plan_id, _p.organization_id == organization_id)
    row = conn.execute(query.with_for_update(read=True)).mappings().first()
    if row is None:
        raise NotFound("no such plan", param="planId")
    return Plan(**row)


def _set_active(conn: Connection, organization_id: str, plan_id: str, active: bool, now_us: int) -> Plan:
    mine = (_p.id == plan_id, _p.organization_id == organization_id)
    conn.execute(tables.plans.update().where(*mine, _p.active != active).values(active=active, updated_us=now_us))
    return _find(conn, organization_id, plan_id)


# Assigning ----------------------------------------------------------------------------------------------


def _assign(
    conn: Connection, organization_id: str, account_id: str, plan_id: str, start: StartMode, now_us: int
) -> tuple[Assignment, Snapshot]:
    plan = _find(conn, organization_id, plan_id)
    if not plan.active:
        raise Conflict("this plan is not active: it cannot be assigned", param="planId")
    posting = Posting(conn, [account_id], now_us)
    wallet = posting.wallets.get(account_id)
    if wallet is None or wallet.organization_id != organization_id:
        raise NotFound("no such account", param="accountId")
    posting.apply_due(wallet, now_us)
    _end_present(conn, posting, wallet, now_us)
    assignment = Assignment(
        id=new_id("asg"),
        account_id=account_id,
        plan=plan,
        active=True,
        started_us=now_us if start == "now" else next_boundary(now_us, plan.interval),
        ended_us=None,
        created_us=now_us,
    )
    _begin(conn, posting, wallet, assignment)
    posting.flush()
    return assignment, wallet.snapshot()


def _end_present(conn: Connection, posting: Posting, wallet: Wallet, now_us: int) -> None:
    for grant_id in posting.purse(wallet).withdraw():
        conn.execute(tables.grants.delete().where(tables.grants.c.id == grant_id))
    present = tables.plan_assignments.update().where(_a.account_id == wallet.id, _a.active)
    conn.execute(present.values(active=False, ended_us=now_us))


def _begin(conn: Connection, posting: Posting, wallet: Wallet, assignment: Assignment) -> None:
    plan = assignment.plan
    values = {
        "id": assignment.id,
        "organization_id": wallet.organization_id,
        "account_id": wallet.id,
        "plan_id": plan.id,
        "active": True,
        "started_us": assignment.started_us,
        "created_us": assignment.created_us,
    }
    conn.execute(tables.plan_assignments.insert().values(values))
    terms = {name: getattr(plan, name) for name in ("id", "name", "amount", "interval", "occurrences", "accumulate")}
    terms |= {"account_id": wallet.id, "started_us": assignment.started_us}
    try:
        first = insert_period(conn, terms, assignment.id, 0, posting.now_us)
    except IntegrityError:
        raise Conflict("credits of this plan have come in this very moment", param="planId") from None
    assert first is not None, "a plan has at least one period"
    purse = posting.purse(wallet)
    purse.add(first)
    wallet.grants_until_us = purse.until_us()
    if first.effective_us > posting.now_us:  # Only a higher `seq` takes the new `grants_until_us` to Redis.
        posting.post(wallet, 0, Line(reason="plan", type="credit", description=plan.name))
    posting.apply_due(wallet, posting.now_us)


def _of_account(conn: Connection, account_id: str, limit: int) -> list[Assignment]:
    query = (
        select(tables.plan_assignments)
        .where(_a.account_id == account_id)
        .order_by(_a.active.desc(), _a.id.desc())
        .limit(limit)
    )
    rows = conn.execute(query).mappings().all()
    found = conn.execute(select(tables.plans).where(_p.id.in_({row["plan_id"] for row in rows}))).mappings()
    plans = {row["id"]: Plan(**row) for row in found}
    return [_assignment(row, plans[row["plan_id"]]) for row in rows]


def _assignment(row: RowMapping, plan: Plan) -> Assignment:
    names = ("id", "account_id", "active", "started_us", "ended_us", "created_us")
    return Assignment(plan=plan, **{name: row[name] for name in names})
