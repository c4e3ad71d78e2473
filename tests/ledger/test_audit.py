from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import Connection
from tests.ledger.conftest import NOW_US, World

from faregate.ledger import audit as module
from faregate.ledger.audit import audit
from faregate.ledger.engine import transact

KEYS = ("k1.credits.month:60", "k1.tokens.day:0", "k1.requests.total:0")


async def _busy(world: World) -> None:
    await world.book.add_credits(world.account_id, 5_000, expires_us=NOW_US + 10**12)
    await world.book.add_credits(world.account_id, 9_000)
    await world.book.schedule_grant(world.other_account_id, 70, effective_us=NOW_US + 10**12)
    guess = world.record(3_000, kind="unconfirmed", limit_keys=KEYS)
    for record in (
        guess,
        world.record(4_000, limit_keys=KEYS),
        replace(guess, kind="actual", charge_microcredits=100),
        world.record(50, endpoint="credits.deduct", limit_keys=KEYS[:1]),
        world.record(0, outcome="released", limit_keys=KEYS),
        world.record(20, account_id=world.other_account_id),
    ):
        await world.book.commit(record)


async def test_a_sound_book_has_no_findings(world: World) -> None:
    await _busy(world)
    assert audit(world.url) == []


CORRUPTIONS = {
    "UPDATE accounts SET posted = posted + 1": {"posted"},
    "UPDATE accounts SET seq = seq + 1": {"seq"},
    "UPDATE entries SET amount = amount - 1, balance_after = balance_after - 1 WHERE seq = 4": {
        "balance_after",
        "posted",
        "usage",
    },
    "UPDATE entries SET balance_after = 7 WHERE seq = 3": {"balance_after"},
    "DELETE FROM entries WHERE seq = 2": {"seq", "balance_after", "posted"},
    "UPDATE entries SET seq = 99 WHERE seq = 3": {"seq", "balance_after"},
    "DELETE FROM usage_records WHERE charge = 4000": {"usage", "rollup", "window"},
    "UPDATE usage_records SET charge = 4001 WHERE charge = 4000": {"usage", "rollup", "window"},
    "UPDATE usage_records SET entry_id = NULL WHERE charge = 4000": {"usage"},
    "UPDATE usage_records SET cost = '1.0000000000000000000001' WHERE charge = 4000": {"rollup"},
    "UPDATE usage_records SET input_tokens = 11 WHERE charge = 4000": {"rollup", "window"},
    "UPDATE hour_rollups SET count = count + 1": {"rollup"},
    "DELETE FROM day_rollups": {"rollup"},
    "UPDATE hour_rollups SET hour = hour + 1": {"rollup"},
    "UPDATE limit_windows SET used = used + 1 WHERE limit_id LIKE '%tokens%'": {"window"},
    "DELETE FROM limit_windows": {"window"},
    "INSERT INTO limit_windows VALUES ('k9.credits.day', 0, 5, 1)": {"window"},
    "UPDATE grants SET remaining = 0 WHERE started": {"grant"},
    "UPDATE grants SET remaining = 69 WHERE NOT started": {"grant"},
    "UPDATE accounts SET grants_until_us = NULL": {"grant"},
    "DELETE FROM grant_moves WHERE amount < 0": {"grant"},
}


def _corrupt(conn: Connection, statement: str) -> None:
    for table in ("entries", "grant_moves"):
        for verb in ("update", "delete"):
            on = f" ON {table}" if conn.dialect.name == "postgresql" else ""
            conn.exec_driver_sql(f"DROP TRIGGER {table}_no_{verb}{on}")
    assert conn.exec_driver_sql(statement).rowcount > 0


@pytest.mark.parametrize("statement", CORRUPTIONS)
async def test_each_kind_of_corruption_is_found(world: World, statement: str) -> None:
    await _busy(world)
    transact(world.url, lambda conn: _corrupt(conn, statement))
    assert {finding.check for finding in audit(world.url)} == CORRUPTIONS[statement]


async def test_windows_are_checked_in_passes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await _busy(world)
    monkeypatch.setattr(module, "WINDOWS_PER_PASS", 1)
    assert audit(world.url) == []


async def test_findings_are_bounded(world: World) -> None:
    await _busy(world)
    assert len(audit(world.url, max_findings=0)) == 0


async def test_runs_beside_traffic(world: World) -> None:
    async def traffic() -> None:
        for _ in range(20):
            await asyncio.gather(*(world.book.commit(world.record(3, limit_keys=KEYS)) for _ in range(10)))

    running = asyncio.create_task(traffic())
    while not running.done():
        assert await asyncio.to_thread(audit, world.url) == []
    await running
