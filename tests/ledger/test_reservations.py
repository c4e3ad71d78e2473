"""Reservations in the book, on both databases: each is ended once, whoever comes first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from tests.ledger.conftest import POSTGRES, World, explain

from faregate.core.call import Reservation
from faregate.core.reservation import new_reservation_id
from faregate.errors import LimitExceeded, NotFound
from faregate.ledger.audit import audit
from faregate.ledger.database import Database
from faregate.ledger.reservations import ReservationFilter, Reservations, due_query

TTL_US = 60_000_000


@pytest.fixture
def rows(world: World) -> Reservations:
    return Reservations(world.database)


def wanted(world: World, amount: int = 600, **facts: Any) -> Reservation:
    return Reservation(
        **{
            "id": new_reservation_id(),
            "organization_id": world.organization_id,
            "account_id": world.account_id,
            "microcredits": amount,
            "expires_us": world.now.us + TTL_US,
            "created_us": world.now.us,
            "updated_us": world.now.us,
            **facts,
        }
    )


async def made(world: World, rows: Reservations, amount: int = 600, **facts: Any) -> Reservation:
    return (await rows.create(wanted(world, amount, **facts)))[0]


async def posted(world: World) -> int:
    return (await world.book.snapshot(world.account_id, (), gate=False)).posted


async def test_everything_comes_back_as_it_went_in(world: World, rows: Reservations) -> None:
    facts: dict[str, Any] = {"caller_id": "mine", "operation": "o", "model": "m", "metadata": {"n": 1}}
    one = await made(world, rows, limit_keys=("k.credits.day:0", "k.concurrency.total:0"), **facts)
    assert await rows.find(world.organization_id, "mine") == one
    assert await rows.find(world.organization_id, one.id) == one
    assert await rows.pending(world.account_id) == (one,)
    assert (await world.book.snapshot(world.account_id, (), gate=True)).reservations == (one,)
    assert (await world.book.snapshot(world.account_id, (), gate=False)).reservations == ()


async def test_an_id_of_ours_is_not_shadowed_by_somebodys_own(world: World, rows: Reservations) -> None:
    one = await made(world, rows)
    await made(world, rows, caller_id=one.id)
    assert (await rows.find(world.organization_id, one.id)).id == one.id
    with pytest.raises(NotFound):
        await rows.find("org_other", one.id)


async def test_a_callers_id_is_taken_once(world: World, rows: Reservations) -> None:
    answers = await asyncio.gather(*(rows.create(wanted(world, caller_id="mine")) for _ in range(5)))
    assert sum(new for _, new in answers) == 1
    assert len({one.id for one, _ in answers}) == 1


async def test_it_is_confirmed_once_and_keeps_the_first_amount(world: World, rows: Reservations) -> None:
    await world.book.add_credits(world.account_id, 1_000)
    one = await made(world, rows, operation="render", metadata={"n": 1})
    answers = await asyncio.gather(*(rows.confirm(one.id, n) for n in (700, 700, 800, 900)))
    assert sum(answer.new for answer in answers) == 1
    assert len({answer.entry.id for answer in answers if answer.entry}) == 1
    (actual,) = {answer.reservation.actual for answer in answers}
    assert await posted(world) == 1_000 - (actual or 0)
    entry = answers[0].entry
    assert entry is not None
    assert (entry.description, entry.metadata, entry.hold_id) == ("render", {"n": 1}, one.id)
    assert await asyncio.to_thread(audit, world.url) == []


async def test_a_charge_of_nothing_has_an_entry_too(world: World, rows: Reservations) -> None:
    one = await made(world, rows)
    done = await rows.confirm(one.id, 0)
    assert done.entry is not None
    assert (done.entry.amount, done.new, (await rows.confirm(one.id, 5)).new) == (0, True, False)
    assert await asyncio.to_thread(audit, world.url) == []


async def test_its_windows_count_the_charge(world: World, rows: Reservations) -> None:
    one = await made(world, rows, limit_keys=("k.credits.day:0", "k.requests.day:0", "k.concurrency.total:0"))
    done = await rows.confirm(one.id, 400)
    assert done.snapshot is not None
    assert {state.key: state.used for state in done.snapshot.limits} == {"k.credits.day:0": 400, "k.requests.day:0": 1}
    assert (await rows.confirm(one.id, 400)).snapshot == done.snapshot
    assert await asyncio.to_thread(audit, world.url) == []


@pytest.mark.parametrize("verb", ["cancel", "expire_due"])
async def test_what_has_ended_cannot_be_confirmed(world: World, rows: Reservations, verb: str) -> None:
    one = await made(world, rows)
    if verb == "cancel":
        assert (await rows.cancel(one.id)).state == "released"
    else:
        world.now.us += TTL_US
        assert [each.id for each in await rows.expire_due(9)] == [one.id]
        assert await rows.expire_due(9) == ()
    done = await rows.confirm(one.id, 1)
    assert (done.entry, done.new) == (None, False)
    assert (await rows.extend(one.id, 2**60)).state == done.reservation.state != "pending"
    assert await posted(world) == 0


async def test_the_deadline_alone_ends_it(world: World, rows: Reservations) -> None:
    one = await made(world, rows)
    world.now.us += TTL_US
    assert await rows.pending(world.account_id) == ()
    assert (await rows.confirm(one.id, 1)).reservation.state == "expired"
    assert await rows.expire_due(9) == ()


async def test_an_extension_lets_it_live_on(world: World, rows: Reservations) -> None:
    one = await made(world, rows)
    assert (await rows.extend(one.id, world.now.us)).expires_us == one.expires_us
    await rows.extend(one.id, one.expires_us + TTL_US)
    world.now.us += TTL_US
    assert await rows.expire_due(9) == ()
    assert (await rows.confirm(one.id, 1)).new


@pytest.mark.parametrize("rival", ["cancel", "expire"])
async def test_of_confirm_and_its_rival_one_wins(world: World, rows: Reservations, rival: str) -> None:
    """Two processes: each has a book of its own on the same database."""
    other_database = Database(world.url, now_us=lambda: world.now.us + (TTL_US if rival == "expire" else 0))
    other = Reservations(other_database)
    for _ in range(8):
        one = await made(world, rows)
        before = await posted(world)
        against = other.cancel(one.id) if rival == "cancel" else other.expire_due(9)
        done, _ = await asyncio.gather(rows.confirm(one.id, 10), against)
        state = (await rows.find(world.organization_id, one.id)).state
        assert (done.new, state) in ((True, "settled"), (False, "released"), (False, "expired"))
        assert await posted(world) == before - (10 if done.new else 0)
    await other_database.close()
    assert await asyncio.to_thread(audit, world.url) == []


async def test_two_processes_confirm_once(world: World, rows: Reservations) -> None:
    other_database = Database(world.url, now_us=world.now)
    other = Reservations(other_database)
    for _ in range(5):
        one = await made(world, rows)
        answers = await asyncio.gather(rows.confirm(one.id, 1), other.confirm(one.id, 2), rows.confirm(one.id, 3))
        assert sum(answer.new for answer in answers) == 1
    await other_database.close()
    assert await asyncio.to_thread(audit, world.url) == []


@POSTGRES
async def test_two_processes_expire_each_once(world: World, rows: Reservations) -> None:
    other_database = Database(world.url, now_us=world.now)
    other = Reservations(other_database)
    ids = {(await made(world, rows)).id for _ in range(20)}
    world.now.us += TTL_US
    first, second = await asyncio.gather(rows.expire_due(99), other.expire_due(99))
    rest = await rows.expire_due(99)
    assert sorted(one.id for one in (*first, *second, *rest)) == sorted(ids)
    await other_database.close()


async def test_nobody_was_told_so_it_is_forgotten(world: World, rows: Reservations) -> None:
    one = await made(world, rows, caller_id="mine")
    await rows.forget(one.id)
    again = await made(world, rows, caller_id="mine")
    assert again.id != one.id
    await rows.confirm(again.id, 1)
    await rows.forget(again.id)
    assert (await rows.find(world.organization_id, "mine")).state == "settled"


async def test_pending_ones_of_an_account_are_bounded(world: World, rows: Reservations) -> None:
    await rows.create(wanted(world), most=1)
    with pytest.raises(LimitExceeded):
        await rows.create(wanted(world), most=1)
    assert (await rows.create(wanted(world, account_id=world.other_account_id), most=1))[1]


async def test_lists_by_what_is_asked(world: World, rows: Reservations) -> None:
    first, second = await made(world, rows, caller_id="a"), await made(world, rows, account_id=world.other_account_id)
    mine = ReservationFilter(organization_id=world.organization_id)
    page = await rows.list(mine, limit=1, offset=0)
    assert ([one.id for one in page.items], page.total, page.has_more) == ([second.id], 2, True)
    of_one = ReservationFilter(organization_id=world.organization_id, account_id=world.account_id, active_only=True)
    assert [one.id for one in (await rows.list(of_one, limit=9, offset=0)).items] == [first.id]
    world.now.us += TTL_US
    assert (await rows.list(of_one, limit=9, offset=0)).total == 0
    named = ReservationFilter(organization_id=world.organization_id, reference="a")
    assert [one.id for one in (await rows.list(named, limit=9, offset=0)).items] == [first.id]


async def test_what_is_due_is_found_by_an_index(world: World, rows: Reservations) -> None:
    sql = str(due_query(9, 5)).replace(":expires_us_1", "5").replace(":param_1", "9")
    assert ":" not in sql
    plan = "\n".join(await world.database.read(lambda conn: explain(conn, sql)))
    assert "ix_reservations_expires_us" in plan


@pytest.mark.parametrize(
    "change", ["actual = 7", "state = 'released'", "entry_id = 'txn_other'", "hold_id = 'res_other'"]
)
async def test_the_audit_compares_it_with_its_entry(world: World, rows: Reservations, change: str) -> None:
    one = await made(world, rows)
    await rows.confirm(one.id, 5)
    assert await asyncio.to_thread(audit, world.url) == []

    def spoil(conn: Any) -> None:
        conn.execute(text(f"UPDATE reservations SET {change}"))

    await world.database.write(spoil)
    assert [finding.check for finding in await asyncio.to_thread(audit, world.url)] == ["reservation"]
