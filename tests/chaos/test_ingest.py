"""Usage transactions under `kill -9`: what was queued is there, the rest can be repeated, Redis knows the charges."""

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

MANY, EACH = 60, 5
CHARGE = 0.4
"""Credits of one: 50 output tokens of gpt-4.1."""


def body(n: int) -> dict[str, object]:
    tokens = {"type": "tokens", "metrics": {"input_tokens": 0, "output_tokens": 50, "total_tokens": 50}}
    one = {"provider": "openai", "model": "gpt-4.1", "usage": [tokens], "context": {"billable_customer_id": ACCOUNT}}
    return {"transactions": [{**one, "idempotency_key": f"{n}.{at}"} for at in range(EACH)]}


async def tell(http: httpx.AsyncClient, n: int) -> list[str] | None:
    """The message ids; None: nobody answered, or not yet."""
    with suppress(httpx.TransportError):
        answer = await http.post("/usage/transactions", json=body(n))
        if answer.status_code == 202:
            return [result["message_id"] for result in answer.json()["results"]]
        assert answer.status_code >= 500, answer.text
    return None


async def killed_in_the_middle(world: World, http: httpx.AsyncClient, *, valkey: bool) -> dict[int, list[str]]:
    """What had been queued when everything died."""
    queued: dict[int, list[str]] = {}

    async def one(n: int) -> None:
        await asyncio.sleep(n * 0.005)
        ids = await tell(http, n)
        if ids is not None:
            queued[n] = ids

    running = asyncio.gather(*(one(n) for n in range(MANY)))
    while len(queued) < MANY // 4:  # noqa: ASYNC110 - many tasks add to it
        await asyncio.sleep(0.002)
    pid = world.gateway.valkey_pid()
    world.gateway.kill()
    if valkey:
        os.kill(pid, signal.SIGKILL)
    await running
    await asyncio.to_thread(world.gateway.start)
    return queued


async def insist(http: httpx.AsyncClient, n: int) -> list[str]:
    async with asyncio.timeout(20):
        while (ids := await tell(http, n)) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return ids


async def take(http: httpx.AsyncClient, credits: float) -> int:
    answer = await http.post("/v1/accounts/credits/deduct", json={"accountId": ACCOUNT, "amount": f"{credits:.6f}"})
    return answer.status_code


@pytest.mark.parametrize("valkey", [False, True], ids=["gateway", "gateway and Valkey"])
async def test_what_was_queued_is_there_once_and_redis_has_its_charges(world: World, valkey: bool) -> None:
    total = MANY * EACH * CHARGE
    await world.start(total + 10)
    url = f"http://127.0.0.1:{world.gateway.port}"
    async with httpx.AsyncClient(base_url=url, headers={"x-api-key": ADMIN_KEY}, timeout=20) as http:
        patched = await http.patch("/v1/admin/organizations/org_bootstrap", json={"ingestCharges": True})
        assert patched.status_code == 200
        assert await take(http, 1) == 200  # Redis knows the account, so its charges need guards.
        queued = await killed_in_the_middle(world, http, valkey=valkey)
        assert queued
        told = {n: await insist(http, n) for n in range(MANY)}
        assert {n: told[n] for n in queued} == queued
        assert await world.rest()
        summary = (await http.get("/v1/usage", params={"summary": "true", "provider": "openai"})).json()["summary"]
        assert (summary["count"], summary["totalCredits"]) == (MANY * EACH, total)
        assert await take(http, 9.000001) == 402
        assert await take(http, 9) == 200
    assert await asyncio.to_thread(audit, f"sqlite:///{world.gateway.data_dir / 'faregate.db'}") == []
