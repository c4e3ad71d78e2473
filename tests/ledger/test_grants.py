from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Connection
from tests.ledger.conftest import NOW_US, World

from faregate.errors import InvalidRequest
from faregate.ledger.audit import audit
from faregate.ledger.commit import write_batch

DAY = 86_400_000_000


async def _remaining(world: World) -> list[int]:
    def read(conn: Connection) -> list[int]:
        return [row[0] for row in conn.exec_driver_sql("SELECT remaining FROM grants ORDER BY id")]

    return await world.database.read(read)


async def test_burnt_by_priority_then_soonest_end_then_oldest(world: World) -> None:
    add = world.book.add_credits
    for priority, days in ((0, 9), (0, 5), (0, 5), (-1, 99)):
        await add(world.account_id, 100, expires_us=NOW_US + days * DAY, priority=priority)
    await add(world.account_id, 1_000)
    await world.book.commit(world.record(250))
    assert await _remaining(world) == [100, 0, 50, 0]
    await world.book.commit(world.record(200))
    assert await _remaining(world) == [0, 0, 0, 0]
    assert (await world.book.snapshot(world.account_id, [], gate=False)).posted == 950
    assert audit(world.url) == []


async def test_an_end_is_an_entry_of_its_own_at_its_moment(world: World) -> None:
    end = NOW_US + DAY
    _, before = await world.book.add_credits(world.account_id, 100, expires_us=end, description="trial")
    await world.book.commit(world.record(30))
    world.now.us = end + 5
    after = await world.book.snapshot(world.account_id, [], gate=False)
    assert before.fresh_until_ms == end // 1000
    assert (after.posted, after.seq, after.fresh_until_ms) == (0, 3, 0)
    assert audit(world.url) == []


async def test_a_call_admitted_before_the_end_burns_the_grant(world: World) -> None:
    end = NOW_US + DAY
    await world.book.add_credits(world.account_id, 100, expires_us=end)
    record = world.record(60)
    world.now.us = end + 5
    await world.book.commit(record)
    assert (await world.book.apply_due_grants(world.account_id)).posted == 0


async def test_a_call_admitted_after_the_end_does_not(world: World) -> None:
    end = NOW_US + DAY
    await world.book.add_credits(world.account_id, 100, expires_us=end)
    world.now.us = end + 5
    answer = await world.book.commit(world.record(60))
    assert (answer.snapshot.posted, answer.snapshot.seq) == (-60, 3)
    assert audit(world.url) == []


async def test_a_new_grant_first_pays_debt(world: World) -> None:
    await world.book.commit(world.record(70))
    _, snapshot = await world.book.add_credits(world.account_id, 100, expires_us=NOW_US + DAY)
    assert snapshot.posted == 30
    assert await _remaining(world) == [30]
    world.now.us += 2 * DAY
    assert (await world.book.apply_due_grants(world.account_id)).posted == 0
    assert audit(world.url) == []


async def test_a_scheduled_grant_starts_and_ends(world: World) -> None:
    start, end = NOW_US + DAY, NOW_US + 2 * DAY
    _, snapshot = await world.book.schedule_grant(world.account_id, 100, effective_us=start, expires_us=end)
    assert (snapshot.posted, snapshot.fresh_until_ms) == (0, start // 1000)
    world.now.us = start
    started = await world.book.snapshot(world.account_id, [], gate=False)
    assert (started.posted, started.fresh_until_ms) == (100, end // 1000)
    world.now.us = end
    assert (await world.book.snapshot(world.account_id, [], gate=False)).posted == 0
    assert audit(world.url) == []


async def test_a_scheduled_grant_first_pays_debt_too(world: World) -> None:
    end = NOW_US + 2 * DAY
    await world.book.commit(world.record(70))
    await world.book.schedule_grant(world.account_id, 100, effective_us=NOW_US + DAY, expires_us=end)
    world.now.us += DAY
    assert (await world.book.apply_due_grants(world.account_id)).posted == 30
    assert await _remaining(world) == [30]
    assert audit(world.url) == []


async def test_a_scheduled_grant_without_an_end_is_plain_balance_once_it_starts(world: World) -> None:
    await world.book.schedule_grant(world.account_id, 100, effective_us=NOW_US + DAY)
    world.now.us += DAY
    snapshot = await world.book.apply_due_grants(world.account_id)
    assert (snapshot.posted, snapshot.fresh_until_ms) == (100, 0)
    assert audit(world.url) == []


async def test_an_adjustment_returns_to_the_grants_it_burnt(world: World) -> None:
    await world.book.add_credits(world.account_id, 100, expires_us=NOW_US + DAY)
    await world.book.add_credits(world.account_id, 100)
    guess = world.record(150, kind="unconfirmed")
    await world.book.commit(guess)
    answer = await world.book.commit(replace(guess, kind="actual", charge_microcredits=30))
    assert answer.snapshot.posted == 170
    assert await _remaining(world) == [70]
    assert answer.snapshot.fresh_until_ms == (NOW_US + DAY) // 1000
    assert audit(world.url) == []


async def test_an_adjustment_pays_debt_before_grants(world: World) -> None:
    await world.book.add_credits(world.account_id, 100, expires_us=NOW_US + DAY)
    guess = world.record(100, kind="unconfirmed")
    await world.book.commit(guess)
    await world.book.commit(world.record(40))
    await world.book.commit(replace(guess, kind="actual", charge_microcredits=0))
    assert await _remaining(world) == [60]
    assert audit(world.url) == []


async def test_what_returns_to_a_grant_that_ended_stays_on_the_account(world: World) -> None:
    await world.book.add_credits(world.account_id, 100, expires_us=NOW_US + DAY)
    guess = world.record(100, kind="unconfirmed")
    await world.book.commit(guess)
    world.now.us += 2 * DAY
    answer = await world.book.commit(replace(guess, kind="actual", charge_microcredits=10))
    assert answer.snapshot.posted == 90
    assert await _remaining(world) == [0]
    assert audit(world.url) == []


async def test_guess_and_truth_in_one_batch_return_to_the_grant(world: World) -> None:
    await world.book.add_credits(world.account_id, 100, expires_us=NOW_US + DAY)
    guess = world.record(80, kind="unconfirmed")
    truth = replace(guess, kind="actual", charge_microcredits=20)

    def both(conn: Connection) -> None:
        write_batch(conn, [guess, truth], NOW_US)

    await world.database.write(both)
    assert await _remaining(world) == [80]
    assert audit(world.url) == []


async def test_an_end_in_the_past_is_refused(world: World) -> None:
    with pytest.raises(InvalidRequest):
        await world.book.add_credits(world.account_id, 100, expires_us=NOW_US)
