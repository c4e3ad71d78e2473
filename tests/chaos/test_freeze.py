"""Stopped processes: everything is late at once, and what went on without them must not be done twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import Callable

import pytest

from tests.chaos.load import Load
from tests.chaos.world import World

pytestmark = pytest.mark.xdist_group("chaos")


async def test_a_frozen_valkey_refuses_new_calls_and_loses_none(world: World) -> None:
    await world.start()
    async with Load(world.gateway.port) as load:
        await asyncio.sleep(0.8)
        valkey = world.gateway.valkey_pid()
        os.kill(valkey, signal.SIGSTOP)
        await asyncio.sleep(2.0)
        os.kill(valkey, signal.SIGCONT)
        before = load.whole
        await asyncio.sleep(1.5)
        assert load.whole > before
    assert load.statuses().get(503, 0) > 0
    assert await world.findings(load.answers) == []


async def test_a_frozen_worker_is_swept_and_its_late_truth_is_one_adjustment(world: World) -> None:
    world.gateway.workers = 2
    world.gateway.heartbeat_s = 0.25
    await world.start()
    async with Load(world.gateway.port) as load:
        await asyncio.sleep(0.5)
        assert await _soon(lambda: len(list((world.gateway.data_dir / "journal").iterdir())) == 2)
        await asyncio.sleep(0.5)
        frozen = world.gateway.worker_pids()[0]  # It was there first: most connections are its.
        await _freeze(world, frozen)
        assert await _soon(lambda: _count(world, "kind = 'unconfirmed'") > 0)
        await asyncio.sleep(0.5)
        os.kill(frozen, signal.SIGCONT)
        await asyncio.sleep(1.5)
    assert await world.findings(load.answers) == []
    assert _count(world, "kind = 'adjustment'") > 0


async def _freeze(world: World, pid: int) -> None:
    """Stop it, but not within a transaction: SQLite has one writer, and nobody could book anything past it."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        book = sqlite3.connect(world.gateway.data_dir / "faregate.db", isolation_level=None, timeout=0.3)
        try:
            book.execute("BEGIN IMMEDIATE")
            book.execute("ROLLBACK")
            return
        except sqlite3.OperationalError:
            os.kill(pid, signal.SIGCONT)
        finally:
            book.close()
        await asyncio.sleep(0.05)


async def _soon(condition: Callable[[], bool], timeout_s: float = 8.0) -> bool:
    for _ in range(int(timeout_s / 0.1)):
        if condition():
            return True
        await asyncio.sleep(0.1)
    return False


def _count(world: World, where: str) -> int:
    book = sqlite3.connect(f"file:{world.gateway.data_dir}/faregate.db?mode=ro", uri=True)
    try:
        return int(book.execute(f"SELECT count(*) FROM usage_records WHERE {where}").fetchone()[0])
    finally:
        book.close()
