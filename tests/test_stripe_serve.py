"""The whole command against a server that speaks Stripe's shapes: serve, kill -9, status, retry, health, memory."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from faregate.core.metering import HOUR_US
from faregate.ledger.audit import audit
from faregate.ledger.database import Database
from faregate.ledger.engine import wall_us
from faregate.ledger.metering import queue
from faregate.ledger.outbox import Outbox
from faregate.ledger.queries import Ledger
from faregate.ledger.schema import prepare
from tests.cli_support import Running, faregate, running
from tests.upstreams.stripe import KEY, FakeStripe, Play

SENDER = """
import asyncio, sys
from faregate.billing import Billing
from faregate.clock import SystemClock
from faregate.export.stripe import StripeMeters
from faregate.gateway.metrics import Metrics
from faregate.ledger.database import Database

async def main(url, stripe):
    async def connect():
        return StripeMeters(sys.argv[3], stripe)
    database = Database(url, metered="external")
    billing = Billing(database, meter="llm_usage", connect=connect, clock=SystemClock(), events=Metrics(),
                      every_s=0.05, lease_us=400_000)
    await billing.run()

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


@pytest.fixture
async def stripe() -> AsyncIterator[FakeStripe]:
    stripe = await FakeStripe.started(wall_us)
    yield stripe
    await stripe.stop()


async def owe(data_dir: Path, amount: str, source: str = "u1") -> str:
    """Usage of an earlier hour, of a customer of Stripe. The book's URL."""
    url = f"sqlite:///{data_dir}/faregate.db"
    prepare(url)
    ledger = Ledger(url, metered="external")
    organization = (await ledger.bootstrap(None)).organization_id
    await ledger.organizations.patch(organization, {"stripe_customer_id": "cus_1"})
    now_us = wall_us()
    await ledger.database.write(
        queue,
        organization_id=organization,
        source_id=source,
        amount_usd=Decimal(amount),
        occurred_us=now_us - 2 * HOUR_US,
        now_us=now_us,
    )
    await ledger.close()
    return url


async def until_counted(stripe: FakeStripe, value: int) -> None:
    async with asyncio.timeout(30):
        while stripe.total() < value:  # noqa: ASYNC110  # the fake tells of arrivals, not of sums
            await asyncio.sleep(0.05)


@asynccontextmanager
async def served(data_dir: Path, stripe: FakeStripe, command: str = "serve", **more: str) -> AsyncIterator[Running]:
    """A server beside the test's event loop, where Stripe's stand-in lives."""
    told = more | {"FAREGATE_STRIPE__API_KEY": KEY, "FAREGATE_STRIPE__BASE_URL": stripe.url}
    server = running(command, data_dir=data_dir, **told)
    try:
        yield await asyncio.to_thread(server.__enter__)
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


def sender(url: str, stripe: FakeStripe) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SENDER, url, stripe.url, KEY])


async def until_sent(url: str) -> None:
    database = Database(url)
    async with asyncio.timeout(30):
        while (await Outbox(database).status()).counts["sent"] != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await database.close()


async def test_serve_sends_what_is_owed_and_counts_it(tmp_path: Path, stripe: FakeStripe) -> None:
    url = await owe(tmp_path, "1.25")
    async with served(tmp_path, stripe) as server, httpx.AsyncClient(base_url=server.url) as client:
        await until_sent(url)
        health = (await client.get("/health/ready")).json()
        metrics = (await client.get("/metrics")).text
    assert stripe.total() == 1_250_000
    assert (health["status"], set(health["checks"].values())) == ("ok", {"ok"})
    assert 'faregate_stripe_tries_total{outcome="delivered"} 1.0' in metrics


async def test_dead_letters_show_in_health_and_status_and_can_be_retried(tmp_path: Path, stripe: FakeStripe) -> None:
    stripe.plays.append("400")
    url = await owe(tmp_path, "2")
    async with served(tmp_path, stripe) as server:
        await asyncio.wait_for(stripe.arrived.wait(), 30)
        health = await noted(server)
        shown = await asyncio.to_thread(faregate, "stripe", "status", "--json", data_dir=tmp_path)
        (letter,) = json.loads(shown.stdout)["deadLetters"]
        done = await asyncio.to_thread(faregate, "stripe", "retry", letter["id"], data_dir=tmp_path)
        await until_sent(url)
    assert (health["status"], health["checks"]["stripe"]) == ("ok", "dead letters: 1 (faregate stripe status)")
    assert (shown.returncode, letter["usd"], letter["code"]) == (1, 2, "resource_missing")
    assert (done.stdout, stripe.total()) == ("1 queued again\n", 2_000_000)
    assert KEY not in "".join(server.said) + shown.stdout + shown.stderr


async def noted(server: Running) -> dict[str, Any]:
    """What readiness says once it has a note."""
    async with httpx.AsyncClient(base_url=server.url) as client, asyncio.timeout(30):
        while "stripe" not in (health := (await client.get("/health/ready")).json())["checks"]:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    return dict(health)


@pytest.mark.parametrize("play", ["hang", "hang_applied"])
async def test_a_sender_that_is_killed_in_the_middle_leaves_its_event_to_the_next(
    tmp_path: Path, stripe: FakeStripe, play: Play
) -> None:
    stripe.plays.append(play)
    url = await owe(tmp_path, "0.5")
    first = sender(url, stripe)
    await asyncio.wait_for(stripe.arrived.wait(), 30)
    first.send_signal(signal.SIGKILL)
    await asyncio.to_thread(first.wait)
    second = sender(url, stripe)
    try:
        await until_sent(url)
    finally:
        second.kill()
        await asyncio.to_thread(second.wait)
    assert (stripe.total(), len(stripe.requests), stripe.overlaps) == (500_000, 2, 0)
    assert audit(url) == []


async def test_status_and_retry_on_the_command_line(tmp_path: Path, stripe: FakeStripe) -> None:
    await owe(tmp_path, "0.5")
    status = await asyncio.to_thread(faregate, "stripe", "status", data_dir=tmp_path)
    assert status.returncode == 0
    assert re.search(r"openUsd +0\.5\n", status.stdout)
    for words, message in (
        (["retry"], "name the dead letters, or say --all"),
        (["retry", "fg-none"], "no dead letter: fg-none"),
        (["retry", "--all", "--again", "--delivered"], "exclude each other"),
    ):
        wrong = await asyncio.to_thread(faregate, "stripe", *words, data_dir=tmp_path)
        assert (wrong.returncode, message in wrong.stderr) == (2, True)


async def test_every_charge_is_metered_by_whoever_books_it(tmp_path: Path, stripe: FakeStripe) -> None:
    """On SQLite the clerk does, a process of its own."""
    more = {"FAREGATE_STRIPE__METER": "all", "FAREGATE_ADMIN_KEY": "a" * 40}
    async with served(tmp_path, stripe, "demo", **more) as server, httpx.AsyncClient(base_url=server.url) as client:
        await asyncio.to_thread(server.read_until, r"^print\(")
        client.headers["authorization"] = f"Bearer {'a' * 40}"
        customer = {"stripeCustomerId": "cus_1"}
        await client.patch("/v1/admin/organizations/org_bootstrap", json=customer)
        key = json.loads((tmp_path / "demo.json").read_text())["key"]
        body = {"model": "sandbox", "messages": [{"role": "user", "content": "hello"}]}
        await client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
        text = (await client.get("/v1/usage")).text
    (record,) = json.loads(text, parse_float=Decimal)["usageRecords"]
    database = Database(f"sqlite:///{tmp_path}/faregate.db")
    owed = (await Outbox(database).status()).owed_usd
    await database.close()
    assert 0 < owed == Decimal(str(record["creditsCharged"])) / 1000
