from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert
from sqlalchemy.exc import IntegrityError
from tests.ledger.conftest import World, explain

from faregate.core.money import MAX_MICROCREDITS
from faregate.errors import Conflict, NotFound
from faregate.ledger import tables
from faregate.ledger.audit import audit
from faregate.ledger.book import SqlBook
from faregate.ledger.database import Database
from faregate.ledger.engine import transact
from faregate.ledger.plans import Assignment, Plan, Plans, StartMode
from faregate.ledger.transactions import TransactionFilter, Transactions

DAY = 86_400_000_000


async def _plan(world: World, **changes: Any) -> Plan:
    facts: dict[str, Any] = {"name": "gold", "amount": 100, "interval": "1d", **changes}
    return await Plans(world.database).create(world.organization_id, **facts)


async def _assign(world: World, plan: Plan, start: StartMode = "now") -> Assignment:
    return (await Plans(world.database).assign(world.organization_id, world.account_id, plan.id, start))[0]


async def _posted(world: World) -> int:
    return (await world.book.snapshot(world.account_id, [], gate=False)).posted


async def _entries(world: World) -> list[tuple[str, int, int]]:
    """Reason, amount, moment; oldest first."""
    wanted = TransactionFilter(organization_id=world.organization_id, account_id=world.account_id)
    page = await Transactions(world.database).list(wanted, limit=1000, offset=0)
    return [(item.entry.reason, item.entry.amount, item.entry.created_us) for item in reversed(page.items)]


def _at(world: World, text: str) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


async def test_the_first_credits_come_at_once_and_the_rest_goes_when_the_next_come(world: World) -> None:
    start = world.now.us
    await _assign(world, await _plan(world))
    await world.book.commit(world.record(30))
    world.now.us = start + DAY - 1
    assert await _posted(world) == 70
    world.now.us = start + DAY
    assert await _posted(world) == 100
    assert (await _entries(world))[2:] == [("expiry", -70, start + DAY), ("grant", 100, start + DAY)]
    assert audit(world.url) == []


async def test_credits_that_accumulate_stay(world: World) -> None:
    await _assign(world, await _plan(world, accumulate=True))
    await world.book.commit(world.record(30))
    world.now.us += 3 * DAY
    assert await _posted(world) == 370
    assert audit(world.url) == []


async def test_an_outage_is_caught_up_with_each_period_at_its_moment(world: World) -> None:
    start = world.now.us
    assigned = await _assign(world, await _plan(world, occurrences=4, accumulate=True))
    world.now.us += 100 * DAY
    assert await _posted(world) == 400
    assert await _entries(world) == [("grant", 100, start + n * DAY) for n in range(4)]
    assert assigned.expires_us == start + 4 * DAY
    assert (assigned.active_at(start + 4 * DAY - 1), assigned.active_at(start + 4 * DAY)) == (True, False)
    assert audit(world.url) == []


async def test_the_last_period_ends_too(world: World) -> None:
    await _assign(world, await _plan(world, occurrences=2))
    world.now.us += 2 * DAY - 1
    assert await _posted(world) == 100
    world.now.us += 1
    snapshot = await world.book.snapshot(world.account_id, [], gate=False)
    assert (snapshot.posted, snapshot.fresh_until_ms) == (0, 0)
    assert audit(world.url) == []


async def test_months_end_on_their_last_day_and_never_drift(world: World) -> None:
    world.now.us = _at(world, "2027-01-31T12:00:00")
    await _assign(world, await _plan(world, interval="month", accumulate=True))
    world.now.us = _at(world, "2027-05-31T12:00:00")
    await _posted(world)
    days = ["2027-01-31", "2027-02-28", "2027-03-31", "2027-04-30", "2027-05-31"]
    assert [moment for _, _, moment in await _entries(world)] == [_at(world, f"{day}T12:00:00") for day in days]


async def test_the_next_interval_begins_with_the_calendar(world: World) -> None:
    world.now.us = _at(world, "2027-01-13T12:00:00")
    await world.book.add_credits(world.account_id, 5)
    plan = await _plan(world, interval="month")
    assigned, snapshot = await Plans(world.database).assign(
        world.organization_id, world.account_id, plan.id, "next_interval"
    )
    boundary = _at(world, "2027-02-01")
    assert (assigned.started_us, snapshot.posted, snapshot.fresh_until_ms) == (boundary, 5, boundary // 1000)
    assert snapshot.seq == 2, "only a higher seq tells Redis until when its copy is fresh"
    world.now.us = boundary
    assert await _posted(world) == 105
    assert audit(world.url) == []


async def test_a_plan_replaces_the_one_before_whose_credits_stay_until_their_end(world: World) -> None:
    start = world.now.us
    first = await _assign(world, await _plan(world))
    world.now.us += DAY // 2
    second = await _assign(world, await _plan(world, name="silver", amount=7))
    assert await _posted(world) == 107
    world.now.us = start + DAY
    assert await _posted(world) == 7
    world.now.us = start + DAY + DAY // 2
    assert await _posted(world) == 7
    now, before = await Plans(world.database).of_account(world.account_id)
    assert (now.id, now.active, before.id, before.active) == (second.id, True, first.id, False)
    assert before.expires_us == before.ended_us == start + DAY // 2
    assert audit(world.url) == []


async def test_a_plan_that_has_not_begun_is_replaced_without_a_trace(world: World) -> None:
    plan = await _plan(world)
    await _assign(world, plan, "next_interval")
    await _assign(world, plan, "next_interval")
    world.now.us += DAY
    assert await _posted(world) == 100
    assert audit(world.url) == []


async def test_an_archived_plan_is_not_assigned_and_goes_on_where_it_is(world: World) -> None:
    plan, plans = await _plan(world), Plans(world.database)
    await _assign(world, plan)
    assert not (await plans.set_active(world.organization_id, plan.id, False)).active
    with pytest.raises(Conflict):
        await _assign(world, plan)
    world.now.us += DAY
    assert await _posted(world) == 100
    await plans.set_active(world.organization_id, plan.id, True)
    with pytest.raises(Conflict, match="very moment"):
        await _assign(world, plan)
    world.now.us += 1
    await _assign(world, plan)
    assert await _posted(world) == 200


async def test_another_organization_s_plans_do_not_exist(world: World) -> None:
    plan, plans = await _plan(world), Plans(world.database)
    with pytest.raises(NotFound):
        await plans.assign("org_other", world.account_id, plan.id, "now")
    with pytest.raises(NotFound):
        await plans.set_active("org_other", plan.id, False)
    assert (await plans.list("org_other", limit=9, offset=0)).items == ()
    assert (await plans.list(world.organization_id, limit=9, offset=0)).items == (plan,)


async def test_processes_that_look_at_once_book_a_period_once(world: World) -> None:
    other = Database(world.url, now_us=world.now)
    await _assign(world, await _plan(world, accumulate=True))
    world.now.us += 5 * DAY
    books = (world.book, SqlBook(other)) * 4
    found = await asyncio.gather(*(book.snapshot(world.account_id, [], gate=False) for book in books))
    assert {snapshot.posted for snapshot in found} == {600}
    await other.close()
    assert audit(world.url) == []


async def test_two_plans_assigned_at_once_leave_one(world: World) -> None:
    other = Database(world.url, now_us=world.now)
    plans = [await _plan(world, amount=amount) for amount in (100, 7)]
    await asyncio.gather(
        *(
            Plans(database).assign(world.organization_id, world.account_id, plan.id, "next_interval")
            for database, plan in zip((world.database, other), plans, strict=True)
        )
    )
    await other.close()
    assert [each.active for each in await Plans(world.database).of_account(world.account_id)] == [True, False]
    world.now.us += DAY
    assert await _posted(world) in (100, 7)


async def test_the_book_takes_one_grant_a_period(world: World) -> None:
    await _assign(world, await _plan(world))

    def again(conn: Connection) -> None:
        row = conn.execute(tables.grants.select().where(tables.grants.c.started)).mappings().one()
        conn.execute(insert(tables.grants).values({**row, "id": "grant_again"}))

    with pytest.raises(IntegrityError):
        transact(world.url, again)


async def test_what_does_not_fit_is_not_granted(world: World) -> None:
    await world.book.add_credits(world.account_id, MAX_MICROCREDITS - 30)
    await _assign(world, await _plan(world, accumulate=True))
    world.now.us += DAY
    assert await _posted(world) == MAX_MICROCREDITS
    assert [amount for _, amount, _ in await _entries(world)][1:] == [30, 0]
    assert audit(world.url) == []


async def test_a_plan_pays_debt_first(world: World) -> None:
    await world.book.commit(world.record(130))
    await _assign(world, await _plan(world))
    assert await _posted(world) == -30
    world.now.us += DAY
    assert await _posted(world) == 70
    world.now.us += DAY
    assert await _posted(world) == 100
    assert audit(world.url) == []


async def test_years_of_grants_are_not_read_again(world: World) -> None:
    def plan_of(conn: Connection) -> list[str]:
        return explain(conn, "SELECT id FROM grants WHERE remaining > 0 AND account_id = 'x'")

    assert any("ix_grants_live" in line for line in await world.database.read(plan_of))
