from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
import pytest
from starlette.applications import Starlette
from tests.api.conftest import World

from faregate.api.routes import routes
from faregate.errors import BookUnavailable, StoreUnavailable


async def test_all_is_well(world: World) -> None:
    assert (await world.http.get("/health/live")).json() == {"status": "ok"}
    ready = await world.http.get("/health/ready")
    assert ready.json() == {"status": "ok", "checks": {"redis": "ok", "sql": "ok"}, "modes": {}}
    assert (await world.http.head("/health/ready")).status_code == 200


async def test_without_redis_nothing_is_admitted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: object) -> None:
        raise StoreUnavailable("down")

    monkeypatch.setattr(world.pipe, "command", down)
    ready = await world.http.get("/health/ready")
    assert (ready.status_code, ready.json()["checks"]) == (503, {"redis": "down", "sql": "ok"})


async def test_without_the_book_calls_go_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: object) -> None:
        raise BookUnavailable("down")

    monkeypatch.setattr(world.ledger.database, "read", down)
    ready = await world.http.get("/health/ready")
    assert (ready.status_code, ready.json()["status"], ready.json()["checks"]["sql"]) == (200, "degraded", "down")


async def test_a_dependency_that_hangs_is_down_within_a_second(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(world.pipe, "command", hang)
    async with asyncio.timeout(3):
        assert (await world.http.get("/health/ready")).status_code == 503


async def test_other_probes_count_and_askers_share_one_answer(world: World) -> None:
    asked = 0

    async def journal() -> None:
        nonlocal asked
        asked += 1
        raise StoreUnavailable("the disk is full")

    app = Starlette(routes=routes(replace(world.services, probes={"journal": journal})))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://faregate.test") as http:
        answers = await asyncio.gather(*(http.get("/health/ready") for _ in range(50)))
        assert {answer.status_code for answer in answers} == {503}
        assert answers[0].json()["checks"]["journal"] == "down"
        assert asked == 1
        await asyncio.sleep(0.55)
        await http.get("/health/ready")
        assert asked == 2


async def test_metrics_are_prometheus_s_text(world: World) -> None:
    answer = await world.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "faregate_open_holds" in answer.text
