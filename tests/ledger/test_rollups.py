from __future__ import annotations

from decimal import Decimal

import pytest
from tests.ledger.conftest import NOW_US, World

from faregate.ledger.rollups import DAY_US, HOUR_US


async def _rollups(world: World, unit: str = "hour", more: str = "") -> list[tuple[object, ...]]:
    place = "hour" if unit == "hour" else "day"
    sql = f"SELECT {place}, {more} cost, charge, input_tokens, count FROM {unit}_rollups ORDER BY 1, 2"
    return await world.database.read(lambda conn: [tuple(row) for row in conn.exec_driver_sql(sql)])


@pytest.mark.parametrize(("unit", "unit_us"), [("hour", HOUR_US), ("day", DAY_US), ("detail", DAY_US)])
async def test_records_of_a_unit_share_a_row_across_commits(world: World, unit: str, unit_us: int) -> None:
    for cost in ("0.000000000000000000001", "12345678.9"):
        await world.book.commit(world.record(3, cost_usd=Decimal(cost)))
    [(place, cost_usd, *sums)] = await _rollups(world, unit)
    assert (place, *sums) == (NOW_US // unit_us, 6, 20, 2)
    assert Decimal(str(cost_usd)) == Decimal("12345678.900000000000000000001")


async def test_hours_do_not_know_attributions_and_days_do(world: World) -> None:
    await world.book.commit(world.record(3, attribution={"agent": "a"}))
    await world.book.commit(world.record(3, occurred_at_us=NOW_US + HOUR_US))
    assert [row[0] for row in await _rollups(world)] == [NOW_US // HOUR_US, NOW_US // HOUR_US + 1]
    assert [row[1] for row in await _rollups(world, "detail", "agent,")] == ["", "a"]


async def test_a_duplicate_counts_nothing(world: World) -> None:
    record = world.record(3)
    await world.book.commit(record)
    before = await _rollups(world)
    await world.book.commit(record)
    assert await _rollups(world) == before
