"""`kill -9` of a gateway that has a response running in the background, and the next start."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from faregate.ledger.audit import audit
from faregate.ledger.book import SqlBook
from faregate.ledger.database import Database
from tests.chaos.load import ADMIN_KEY
from tests.chaos.verify import INPUT_MICROCREDITS, OUTPUT_MICROCREDITS, open_in_journals, open_in_redis
from tests.chaos.world import ACCOUNT, Gateway
from tests.story.house import eventually
from tests.upstreams.keeper import Keeper

pytestmark = pytest.mark.xdist_group("chaos")

FARE = 10 * INPUT_MICROCREDITS + 5 * OUTPUT_MICROCREDITS


@pytest.fixture
async def keeper() -> AsyncIterator[Keeper]:
    async with Keeper(polls=1_000_000) as keeper:
        yield keeper


@pytest.fixture
async def gateway(keeper: Keeper, tmp_path: Path) -> AsyncIterator[Gateway]:
    gateway = Gateway(tmp_path, keeper.url)
    await asyncio.to_thread(gateway.start)
    database = Database(f"sqlite:///{gateway.data_dir}/faregate.db")
    await SqlBook(database).add_credits(ACCOUNT, 10**9)
    await database.close()
    yield gateway
    await asyncio.to_thread(gateway.end)


async def ask(gateway: Gateway, method: str, path: str, **body: object) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", timeout=10) as http:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        return await http.request(method, path, json=body or None, headers=headers)


def booked(gateway: Gateway) -> list[tuple[str, int]]:
    with sqlite3.connect(f"file:{gateway.data_dir}/faregate.db?mode=ro", uri=True) as book:
        return book.execute("SELECT kind, charge FROM usage_records ORDER BY created_us, is_adjustment").fetchall()


async def test_the_truth_of_a_killed_gateways_response_corrects_its_record(gateway: Gateway, keeper: Keeper) -> None:
    made = (await ask(gateway, "POST", "/v1/responses", model="m", input="hi", background=True)).json()
    assert made["status"] == "queued"
    gateway.kill()
    await asyncio.to_thread(gateway.start)

    async def replayed() -> bool:
        return bool(booked(gateway))

    await eventually(replayed)
    ((kind, guess),) = booked(gateway)
    assert kind == "unconfirmed"
    keeper.polls = 0

    async def corrected() -> bool:
        return len(booked(gateway)) == 2

    await eventually(corrected, 15)
    assert booked(gateway)[1] == ("adjustment", FARE - guess)

    async def at_rest() -> bool:
        return not open_in_journals(gateway.data_dir) and not open_in_redis(gateway.data_dir)

    await eventually(at_rest)
    assert await asyncio.to_thread(audit, f"sqlite:///{gateway.data_dir}/faregate.db") == []
    got = await ask(gateway, "GET", f"/v1/responses/{made['id']}")
    assert got.json()["status"] == "completed"
    assert len(booked(gateway)) == 2


async def test_a_get_after_the_kill_corrects_it_at_once(gateway: Gateway, keeper: Keeper) -> None:
    made = (await ask(gateway, "POST", "/v1/responses", model="m", input="hi", background=True)).json()
    gateway.kill()
    keeper.polls = 0
    await asyncio.to_thread(gateway.start)
    got = await ask(gateway, "GET", f"/v1/responses/{made['id']}")
    assert got.json()["status"] == "completed"
    assert sum(charge for _, charge in booked(gateway)) == FARE


async def test_a_stop_leaves_it_to_the_next_start(gateway: Gateway, keeper: Keeper) -> None:
    await ask(gateway, "POST", "/v1/responses", model="m", input="hi", background=True)
    assert await asyncio.to_thread(gateway.stop) == 0
    keeper.polls = 0
    await asyncio.to_thread(gateway.start)

    async def corrected() -> bool:
        return sum(charge for _, charge in booked(gateway)) == FARE

    await eventually(corrected, 15)
    assert await asyncio.to_thread(audit, f"sqlite:///{gateway.data_dir}/faregate.db") == []
