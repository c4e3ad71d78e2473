"""Reservations under `kill -9` of gateway and Valkey: what was answered is there, what was not can be repeated."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

import httpx
import pytest

from faregate.ledger.audit import audit
from tests.chaos.load import ADMIN_KEY
from tests.chaos.world import ACCOUNT, World

pytestmark = pytest.mark.xdist_group("chaos")

MANY = 60


async def ask(http: httpx.AsyncClient, verb: str, n: int) -> httpx.Response | None:
    """None: nobody answered."""
    bodies: dict[str, dict[str, object]] = {
        "create": {"accountId": ACCOUNT, "amount": 1, "reservationId": f"r{n}"},
        "confirm": {"reservationId": f"r{n}", "actualAmount": "0.5"},
    }
    with suppress(httpx.TransportError):
        return await http.post(f"/v1/reservations/{verb}", json=bodies[verb])
    return None


async def insist(http: httpx.AsyncClient, verb: str, n: int) -> httpx.Response:
    """Until it is done."""
    async with asyncio.timeout(20):
        while (answer := await ask(http, verb, n)) is None or answer.status_code in (409, 503):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return answer


async def killed_in_the_middle(world: World, http: httpx.AsyncClient, verb: str, *, valkey: bool) -> set[int]:
    """Who had been answered when everything died."""
    answered: set[int] = set()

    async def one(n: int) -> None:
        await asyncio.sleep(n * 0.005)
        answer = await ask(http, verb, n)
        if answer is not None and answer.status_code == 200:
            answered.add(n)

    running = asyncio.gather(*(one(n) for n in range(MANY)))
    while len(answered) < MANY // 4:  # noqa: ASYNC110 - many tasks add to it
        await asyncio.sleep(0.002)
    pid = world.gateway.valkey_pid()
    world.gateway.kill()
    if valkey:
        os.kill(pid, signal.SIGKILL)
    await running
    await asyncio.to_thread(world.gateway.start)
    return answered


async def reserved(http: httpx.AsyncClient) -> tuple[float, float]:
    body = (await http.get("/v1/accounts/balance", params={"accountId": ACCOUNT})).json()
    return body["balance"], body["reserved"]


@pytest.mark.parametrize("valkey", [False, True], ids=["gateway", "gateway and Valkey"])
async def test_what_was_answered_is_there_and_the_rest_can_be_repeated(world: World, valkey: bool) -> None:
    await world.start(MANY)
    url = f"http://127.0.0.1:{world.gateway.port}"
    async with httpx.AsyncClient(base_url=url, headers={"x-api-key": ADMIN_KEY}, timeout=20) as http:
        made = await killed_in_the_middle(world, http, "create", valkey=valkey)
        assert made
        listed = (await http.get("/v1/reservations", params={"limit": 1000, "activeOnly": "true"})).json()
        assert {f"r{n}" for n in made} <= {one["reservationId"] for one in listed["reservations"]}
        # Exactly so many credits are there: a hold that an unanswered one left behind would be in somebody's way.
        for n in range(MANY):
            assert (await _fits(http, n)).status_code == 200
        assert await reserved(http) == (MANY, MANY)
        charged = await killed_in_the_middle(world, http, "confirm", valkey=valkey)
        assert charged
        for n in range(MANY):
            assert (await insist(http, "confirm", n)).json()["released"] == 0.5
    assert await world.rest()
    async with httpx.AsyncClient(base_url=url, headers={"x-api-key": ADMIN_KEY}, timeout=20) as http:
        assert await reserved(http) == (MANY / 2, 0)
    assert await asyncio.to_thread(audit, f"sqlite:///{world.gateway.data_dir / 'faregate.db'}") == []


async def _fits(http: httpx.AsyncClient, n: int) -> httpx.Response:
    """A hold without a row is gone after its deadline and two sweeps."""
    answer = await insist(http, "create", n)
    async with asyncio.timeout(10):
        while answer.status_code == 402:
            await asyncio.sleep(0.2)
            answer = await insist(http, "create", n)
    return answer
