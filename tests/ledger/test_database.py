from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Connection
from tests.ledger.conftest import World

from faregate.errors import BookUnavailable
from faregate.ledger import database


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


async def test_reads_beyond_the_bound_are_refused_and_those_before_are_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "MAX_READS", 5)
    got = await asyncio.gather(*(world.database.read(_posted) for _ in range(20)), return_exceptions=True)
    refused = [one for one in got if isinstance(one, BookUnavailable)]
    assert len(refused) == 15
    assert (refused[0].retry_after_s, got[0]) == (1, [0, 0])
    assert await world.database.read(_posted) == [0, 0]
