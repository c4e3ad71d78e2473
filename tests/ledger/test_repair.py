"""What is corrupted by hand is corrected by entries of their own; nothing is edited, and the audit is clean again."""

from __future__ import annotations

import asyncio
import time

import pytest
from sqlalchemy import Connection
from tests.ledger.conftest import World
from tests.ledger.test_audit import CORRUPTIONS, _busy, _corrupt

from faregate.ledger.audit import REPAIR, audit
from faregate.ledger.engine import transact
from faregate.ledger.repair import repair, would

Entries = dict[str, tuple[object, ...]]


def entries(world: World) -> Entries:
    """All of them, by id."""

    def read(conn: Connection) -> Entries:
        rows = conn.exec_driver_sql("SELECT id, seq, amount, balance_after, reason, meta FROM entries")
        return {row[0]: tuple(row) for row in rows}

    return transact(world.url, read, readonly=True)


@pytest.mark.parametrize("statement", CORRUPTIONS)
async def test_each_kind_of_corruption_is_repaired_and_no_entry_is_edited(world: World, statement: str) -> None:
    await _busy(world)
    transact(world.url, lambda conn: _corrupt(conn, statement))
    before = entries(world)
    assert all(would(finding) for finding in audit(world.url))
    assert await asyncio.to_thread(repair, world.url)
    assert audit(world.url) == []
    after = entries(world)
    assert {name: after[name] for name in before} == before
    assert {row[4] for name, row in after.items() if name not in before} <= {REPAIR}


@pytest.mark.parametrize("statement", list(CORRUPTIONS)[:6])
async def test_a_second_repair_does_nothing_and_traffic_goes_on(world: World, statement: str) -> None:
    await _busy(world)
    transact(world.url, lambda conn: _corrupt(conn, statement))
    await asyncio.to_thread(repair, world.url)
    before = entries(world)
    assert await asyncio.to_thread(repair, world.url) == []
    assert entries(world) == before
    await world.book.commit(world.record(10))
    assert audit(world.url) == []


async def test_a_sound_book_is_left_alone(world: World) -> None:
    await _busy(world)
    before = entries(world)
    assert await asyncio.to_thread(repair, world.url) == []
    assert entries(world) == before


@pytest.mark.parametrize(
    ("statement", "moved"),
    [
        ("UPDATE accounts SET posted = posted + 1", 0),
        ("UPDATE entries SET amount = amount - 1, balance_after = balance_after - 1 WHERE seq = 4", 0),
        ("DELETE FROM entries WHERE seq = 2", 0),
        ("UPDATE usage_records SET charge = 4001 WHERE charge = 4000", 0),
    ],
)
async def test_the_balance_afterwards_is_the_right_one(world: World, statement: str, moved: int) -> None:
    await _busy(world)
    right = (await world.book.snapshot(world.account_id, (), gate=False)).posted
    transact(world.url, lambda conn: _corrupt(conn, statement))
    await asyncio.to_thread(repair, world.url)
    snapshot = await world.book.snapshot(world.account_id, (), gate=False)
    assert snapshot.posted == right + moved


async def test_a_record_that_was_never_charged_is_charged_once(world: World) -> None:
    await _busy(world)
    await world.book.commit(world.record(77))
    right = (await world.book.snapshot(world.account_id, (), gate=False)).posted

    def lose(conn: Connection) -> None:
        _corrupt(conn, "DELETE FROM entries WHERE amount = -77")  # the last one, and the account as it was before it
        conn.exec_driver_sql("UPDATE accounts SET seq = seq - 1, posted = posted + 77 WHERE posted > 1000")

    transact(world.url, lose)
    await asyncio.to_thread(repair, world.url)
    assert (await world.book.snapshot(world.account_id, (), gate=False)).posted == right
    assert audit(world.url) == []


async def test_what_was_explained_is_found_again_when_it_changes(world: World) -> None:
    await _busy(world)
    transact(world.url, lambda conn: _corrupt(conn, "UPDATE usage_records SET charge = 4001 WHERE charge = 4000"))
    await asyncio.to_thread(repair, world.url)

    def again(conn: Connection) -> None:
        conn.exec_driver_sql("UPDATE usage_records SET charge = 4002 WHERE charge = 4001")

    transact(world.url, again)
    assert "usage" in {finding.check for finding in audit(world.url)}


async def test_it_runs_beside_traffic_and_stops_nobody(world: World) -> None:
    await _busy(world)
    transact(
        world.url, lambda conn: _corrupt(conn, "UPDATE limit_windows SET used = used + 1 WHERE limit_id LIKE '%tok%'")
    )
    transact(world.url, lambda conn: conn.exec_driver_sql("UPDATE day_rollups SET count = count + 1"))
    transact(world.url, lambda conn: conn.exec_driver_sql("UPDATE accounts SET posted = posted + 5"))
    slowest, busy = 0.0, True

    async def traffic() -> None:
        nonlocal slowest
        while busy:
            began = time.monotonic()
            await world.book.commit(world.record(3, limit_keys=("k1.tokens.day:0",)))
            slowest = max(slowest, time.monotonic() - began)

    running = asyncio.create_task(traffic())
    for _ in range(4):
        await asyncio.to_thread(repair, world.url)
        await asyncio.to_thread(audit, world.url)
    busy = False
    await running
    assert audit(world.url) == []
    assert slowest < 2
