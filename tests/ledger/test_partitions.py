"""Usage records by month, on PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection
from tests.ledger.conftest import POSTGRES, SQLITE, World, explain, rival

from faregate.core.ids import uuid7
from faregate.errors import BookUnavailable
from faregate.ledger.audit import audit
from faregate.ledger.database import Database
from faregate.ledger.partitions import AHEAD, KINDS, Month, Partitions, missing
from faregate.ledger.usage import UsageRecords
from faregate.ledger.usage_filter import UsageFilter

YEAR_US = 366 * 86_400_000_000


def _us(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1_000_000


def _hold(kind: str, at_us: int) -> str:
    return f"{kind}_{at_us // 1000:012x}{uuid7().hex[12:]}"


async def _places(world: World) -> dict[str, str]:
    sql = "SELECT hold_id, tableoid::regclass::text FROM usage_records"
    return await world.database.read(lambda conn: {row[0]: row[1] for row in conn.exec_driver_sql(sql)})


def test_months_are_ranges_of_ids() -> None:
    december = Month.at(_us(2027, 1) - 1)
    assert december.table("call") == "usage_records_call_2026_12"
    assert (december + 1).table("api") == "usage_records_api_2027_01"
    assert december.first_id("call") <= _hold("call", _us(2026, 12)) < (december + 1).first_id("call")
    assert _hold("call", _us(2027, 1) - 1000) < (december + 1).first_id("call") <= _hold("call", _us(2027, 1))
    assert Month.at(time.time_ns() // 1000).first_id("call") < f"call_{uuid7().hex}"


@POSTGRES
async def test_a_new_book_has_the_months_that_come(world: World) -> None:
    assert not await world.database.read(missing, time.time_ns() // 1000)
    assert len(await world.database.read(missing, time.time_ns() // 1000 + YEAR_US)) == len(KINDS) * (AHEAD + 1)


@POSTGRES
async def test_records_land_in_their_month_and_odd_ones_are_not_refused(world: World) -> None:
    now_us = time.time_ns() // 1000
    this = Month.at(now_us)
    homes = {
        f"call_{uuid7().hex}": this.table("call"),
        f"api_{uuid7().hex}": this.table("api"),
        _hold("call", _us(2001, 1)): "usage_records_call_other",
        "call_": "usage_records_call_other",
        "call_zzz": "usage_records_call_other",
        "api_own name": "usage_records_api_other",
        "res_0199": "usage_records_other",
        "": "usage_records_other",
        "\U0001f600": "usage_records_other",
    }
    answers = await asyncio.gather(*(world.book.commit(world.record(5, hold_id=hold)) for hold in homes))
    assert all(answer.new for answer in answers)
    again = await asyncio.gather(*(world.book.commit(world.record(5, hold_id=hold)) for hold in homes))
    assert not any(answer.new for answer in again)
    assert await _places(world) == homes
    assert audit(world.url) == []


@POSTGRES
async def test_a_late_truth_finds_its_guess_of_another_month(world: World) -> None:
    hold = _hold("call", time.time_ns() // 1000 + 40 * 86_400_000_000)
    await world.book.commit(world.record(900, hold_id=hold, kind="unconfirmed"))
    settled = await world.book.commit(world.record(500, hold_id=hold))
    assert (settled.new, settled.snapshot.posted) == (True, -500)
    assert len(set((await _places(world)).values())) == 1
    assert audit(world.url) == []


@POSTGRES
async def test_a_month_takes_over_what_came_before_it_was_made(world: World) -> None:
    world.now.us = _us(2031, 5)
    early, odd = _hold("call", world.now.us + 1_000), "call_odd"
    for hold in (early, odd):
        await world.book.commit(world.record(5, hold_id=hold))
    partitions = Partitions(world.database)
    assert await partitions.wanted()
    assert await partitions.make() == len(KINDS) * (AHEAD + 1)
    assert await partitions.make() == 0
    assert not await partitions.wanted()
    assert await _places(world) == {early: "usage_records_call_2031_05", odd: "usage_records_call_other"}
    assert not (await world.book.commit(world.record(5, hold_id=early))).new
    assert audit(world.url) == []


@POSTGRES
async def test_many_make_the_same_month_under_traffic(world: World) -> None:
    world.now.us = _us(2031, 5)
    databases = [Database(world.url, now_us=world.now) for _ in range(4)]

    async def work(database: Database) -> None:
        for _ in range(20):
            await database.commit(world.record(1, hold_id=_hold("call", world.now.us)))

    made = asyncio.gather(*(Partitions(database).make() for database in databases))
    await asyncio.gather(*(work(database) for database in databases))
    assert sorted(await made) == [0, 0, 0, len(KINDS) * (AHEAD + 1)]
    await asyncio.gather(*(database.close() for database in databases))
    assert set((await _places(world)).values()) <= {"usage_records_call_2031_05"}
    assert audit(world.url) == []


@POSTGRES
async def test_a_long_reader_delays_the_months_and_no_writer(world: World) -> None:
    world.now.us = _us(2031, 5)
    writer = Database(world.url, now_us=world.now)
    async with rival(world) as other:
        await other.fetchval("SELECT count(*) FROM usage_records")
        making = asyncio.create_task(Partitions(world.database).make())
        await asyncio.sleep(0.3)
        begin = time.monotonic()
        assert (await writer.commit(world.record(5, hold_id=f"call_{uuid7().hex}"))).new
        assert time.monotonic() - begin < 0.5
        with pytest.raises(BookUnavailable, match="55P03"):
            await making
    assert await Partitions(world.database).make()
    await writer.close()


@POSTGRES
async def test_a_month_is_detached_whole(world: World) -> None:
    this = Month.at(time.time_ns() // 1000)
    gone, kept = f"call_{uuid7().hex}", _hold("call", time.time_ns() // 1000 + 40 * 86_400_000_000)
    for hold in (gone, kept):
        await world.book.commit(world.record(5, hold_id=hold))

    def detach(conn: Connection) -> None:
        conn.exec_driver_sql(f"ALTER TABLE usage_records_call DETACH PARTITION {this.table('call')}")

    await world.database.write(detach)
    records = (
        await UsageRecords(world.database).list(UsageFilter(organization_id=world.organization_id), limit=9)
    ).records
    assert [record.hold_id for record in records] == [kept]


@POSTGRES
async def test_each_month_is_asked_by_its_indexes(world: World) -> None:
    wanted = "organization_id = 'o' AND occurred_us < 9 ORDER BY occurred_us DESC, id DESC LIMIT 5"
    plan = await world.database.read(lambda conn: explain(conn, f"SELECT * FROM usage_records WHERE {wanted}"))
    assert "Merge Append" in "".join(plan)
    assert not any("Seq Scan" in line or "Sort  " in line for line in plan)
    hold = f"call_{uuid7().hex}"
    plan = await world.database.read(
        lambda conn: explain(conn, f"SELECT 1 FROM usage_records WHERE hold_id = '{hold}'")
    )
    assert Month.at(time.time_ns() // 1000).table("call") in plan[0]


@SQLITE
async def test_sqlite_has_no_months(world: World) -> None:
    assert not await Partitions(world.database).wanted()
    assert await Partitions(world.database).make() == 0
