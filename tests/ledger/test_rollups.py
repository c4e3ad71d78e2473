from __future__ import annotations

from decimal import Decimal

from tests.ledger.conftest import NOW_US, World

from faregate.ledger.rollups import HOUR_US


async def _rollups(world: World) -> list[tuple[object, ...]]:
    sql = "SELECT hour, agent, cost, charge, input_tokens, count FROM rollups ORDER BY hour, agent"
    return await world.database.read(lambda conn: [tuple(row) for row in conn.exec_driver_sql(sql)])


async def test_records_of_an_hour_share_a_row_across_commits(world: World) -> None:
    for cost in ("0.000000000000000000001", "12345678.9"):
        await world.book.commit(world.record(3, cost_usd=Decimal(cost)))
    [(hour, agent, cost_usd, *sums)] = await _rollups(world)
    assert (hour, agent, *sums) == (NOW_US // HOUR_US, "", 6, 20, 2)
    assert Decimal(str(cost_usd)) == Decimal("12345678.900000000000000000001")


async def test_hours_and_attributions_are_kept_apart(world: World) -> None:
    await world.book.commit(world.record(3, attribution={"agent": "a"}))
    await world.book.commit(world.record(3, occurred_at_us=NOW_US + HOUR_US))
    assert [row[:2] for row in await _rollups(world)] == [
        (NOW_US // HOUR_US, "a"),
        (NOW_US // HOUR_US + 1, ""),
    ]


async def test_a_duplicate_counts_nothing(world: World) -> None:
    record = world.record(3)
    await world.book.commit(record)
    before = await _rollups(world)
    await world.book.commit(record)
    assert await _rollups(world) == before
