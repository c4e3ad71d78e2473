from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Connection
from tests.ledger.conftest import World

from faregate.errors import BookUnavailable


def _posted(conn: Connection) -> list[int]:
    sql = "SELECT posted FROM accounts ORDER BY id"
    first = [int(row[0]) for row in conn.exec_driver_sql(sql)]
    assert [int(row[0]) for row in conn.exec_driver_sql(sql)] == first
    return first


async def test_a_read_sees_one_state_of_the_book(world: World) -> None:
    writes = [world.book.commit(world.record(1)) for _ in range(50)]
    reads = [world.database.read(_posted) for _ in range(50)]
    await asyncio.gather(*writes, *reads)
    assert (await world.database.read(_posted))[0] == -50


async def test_a_failing_read_is_unavailable(world: World) -> None:
    with pytest.raises(BookUnavailable):
        await world.database.read(lambda conn: conn.exec_driver_sql("SELECT * FROM nowhere").all())
