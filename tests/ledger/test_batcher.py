from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from sqlalchemy import Connection
from tests.ledger.conftest import POSTGRES, SQLITE, World, rival

from faregate.core.call import Record
from faregate.errors import BookRefused, BookUnavailable
from faregate.ledger import postgres
from faregate.ledger.audit import audit
from faregate.ledger.database import Database

TWO_THOUSAND_DEBITS = """
import asyncio, sys
from decimal import Decimal
from faregate.core.call import Record
from faregate.core.ids import uuid7
from faregate.ledger.database import Database

def record(account, organization):
    return Record(hold_id=uuid7().hex, hold_kind="call", kind="actual", organization_id=organization,
                  account_id=account, key_id=None, request_id="r", occurred_at_us=1, charge_microcredits=3,
                  cost_usd=Decimal("0.000000003"))

async def main(url, account, organization):
    database = Database(url)
    for _ in range(40):
        await asyncio.gather(*(database.commit(record(account, organization)) for _ in range(50)))
    await database.close()

asyncio.run(main(*sys.argv[1:]))
"""


def _debits(world: World) -> Popen[bytes]:
    args = [sys.executable, "-c", TWO_THOUSAND_DEBITS, world.url, world.account_id, world.organization_id]
    return Popen(args, stderr=PIPE)


async def test_two_processes_debit_one_account_exactly(world: World) -> None:
    for process in [_debits(world), _debits(world)]:
        _, errors = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0, errors.decode()
    snapshot = await world.book.snapshot(world.account_id, [], gate=False)
    assert (snapshot.posted, snapshot.seq) == (-12_000, 4_000)
    assert audit(world.url) == []


async def test_a_poisoned_row_is_parked_and_blocks_nobody(world: World) -> None:
    records = [world.record(5) for _ in range(20)]
    records[7] = world.record(5, description="\ud800")
    records[12] = world.record(5, account_id="acc_unknown")
    answers = await asyncio.gather(*(world.book.commit(record) for record in records), return_exceptions=True)
    refused = [place for place, answer in enumerate(answers) if isinstance(answer, BookRefused)]
    assert refused == [7, 12]
    assert (await world.book.snapshot(world.account_id, [], gate=False)).posted == -90
    assert audit(world.url) == []


async def test_a_cancelled_caller_is_charged_all_the_same(world: World) -> None:
    tasks = [asyncio.create_task(world.book.commit(world.record(5))) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await world.book.commit(world.record(5))).snapshot.posted == -55
    assert world.database.writer.queued == 0


@SQLITE
async def test_a_locked_database_is_unavailable_for_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faregate.ledger.engine.BUSY_TIMEOUT_MS", 50)
    monkeypatch.setattr("faregate.ledger.engine._PRAGMAS", ("PRAGMA busy_timeout=50",))
    database = Database(world.url)
    lock = sqlite3.connect(world.url.removeprefix("sqlite:///"), isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    records = [world.record(5) for _ in range(5)]
    answers = await asyncio.gather(*(database.commit(record) for record in records), return_exceptions=True)
    assert [type(answer) for answer in answers] == [BookUnavailable] * 5
    lock.execute("ROLLBACK")
    lock.close()
    again = await asyncio.gather(*(database.commit(record) for record in records))
    assert [answer.new for answer in again] == [True] * 5
    await database.close()


@POSTGRES
async def test_a_locked_account_is_unavailable_within_the_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(postgres._BOUNDED, "lock_timeout", "50")
    database = Database(world.url)
    async with rival(world) as lock:
        await lock.execute("SELECT * FROM accounts FOR UPDATE")
        records = [world.record(5) for _ in range(5)]
        answers = await asyncio.gather(*(database.commit(record) for record in records), return_exceptions=True)
        assert [str(answer) for answer in answers] == ["the book cannot be reached: DBAPIError 55P03"] * 5
    again = await asyncio.gather(*(database.commit(record) for record in records))
    assert [answer.new for answer in again] == [True] * 5
    await database.close()


@POSTGRES
async def test_a_locked_account_is_the_trouble_of_its_own_records(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres._BOUNDED, "lock_timeout", "50")
    database = Database(world.url)
    async with rival(world) as lock:
        await lock.execute("SELECT * FROM accounts WHERE id = $1 FOR UPDATE", world.other_account_id)
        records = [world.record(5, account_id=world.other_account_id) for _ in range(2)] + [world.record(5)]
        answers = await asyncio.gather(*(database.commit(record) for record in records), return_exceptions=True)
        assert [isinstance(answer, BookUnavailable) for answer in answers] == [True, True, False]
    await database.close()


async def test_the_queue_is_bounded(world: World) -> None:
    database = Database(world.url, max_queued=10)
    answers = await asyncio.gather(*(database.commit(world.record(1)) for _ in range(15)), return_exceptions=True)
    assert [isinstance(answer, BookUnavailable) for answer in answers].count(True) == 5
    assert (await database.commit(world.record(1))).new
    await database.close()


async def test_whatever_the_writer_throws_every_future_is_resolved(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[Record]:
        raise MemoryError

    monkeypatch.setattr("faregate.ledger.committer.write_batch", broken)
    answers = await asyncio.gather(*(world.book.commit(world.record()) for _ in range(5)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [BookUnavailable] * 5
    monkeypatch.undo()
    assert (await world.book.commit(world.record())).new


async def test_closing_finishes_what_is_queued_then_refuses(world: World) -> None:
    database = Database(world.url)
    tasks = [asyncio.create_task(database.commit(world.record(5))) for _ in range(30)]
    await asyncio.sleep(0)
    await database.close()
    assert all(answer.new for answer in await asyncio.gather(*tasks))
    with pytest.raises(BookUnavailable):
        await database.commit(world.record(5))


async def test_what_a_job_raises_rolls_it_back_and_reaches_its_caller(world: World) -> None:
    def job(conn: Connection) -> None:
        conn.exec_driver_sql("UPDATE accounts SET posted = 5")
        raise KeyError("mine")

    with pytest.raises(KeyError):
        await world.database.write(job)
    assert (await world.book.snapshot(world.account_id, [], gate=False)).posted == 0


async def test_a_database_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/missing/book.db")

    def nothing(conn: Connection) -> None:
        pass

    with pytest.raises(BookUnavailable):
        await database.read(nothing)
    with pytest.raises(BookUnavailable):
        await database.write(nothing)
    await database.close()
