from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from faregate.chores import Chores
from faregate.core.call import Hold, Snapshot
from faregate.errors import BookRefused, StoreUnavailable
from faregate.ledger.claims import KEPT_US, Claim
from faregate.ledger.queries import Ledger
from faregate.ledger.schema import prepare

DAY = 86_400_000_000


@dataclass
class Now:
    us: int = 1_790_000_000_000_000

    def __call__(self) -> int:
        return self.us


@dataclass
class Told:
    """The gate's side: what it was told."""

    posted: dict[str, int] = field(default_factory=dict)
    away: bool = False

    async def settle(self, hold: Hold | None, snapshot: Snapshot, bucket: int) -> None:
        if self.away:
            raise StoreUnavailable("down")
        self.posted[snapshot.account_id] = snapshot.posted


@dataclass
class Site:
    ledger: Ledger
    now: Now
    told: Told
    accounts: list[str]

    def chores(self, name: str = "one") -> Chores:
        return Chores(self.ledger, self.told, name=name, every_s=0.01)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    url, now = f"sqlite:///{tmp_path}/book.db", Now()
    prepare(url)
    ledger = Ledger(url, now_us=now)
    organization = await ledger.organizations.create(name="Acme")
    accounts = [(await ledger.accounts.create(organization.id, name=f"a{n}")).id for n in range(3)]
    plan = await ledger.plans.create(organization.id, name="gold", amount=100, interval="1d", accumulate=True)
    for account in accounts:
        await ledger.plans.assign(organization.id, account, plan.id, "now")
    yield Site(ledger, now, Told(), accounts)
    await ledger.close()


async def test_what_is_due_is_booked_and_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faregate.chores._BATCH", 2)
    assert await site.chores().grants() == 0
    site.now.us += 2 * DAY
    assert await site.chores().grants() == 3
    assert site.told.posted == dict.fromkeys(site.accounts, 300)
    assert await site.chores().grants() == 0


async def test_one_process_at_a_time_until_its_lease_runs_out(site: Site) -> None:
    site.now.us += DAY
    assert await site.ledger.leases.take("grants", "one", 5 * DAY)
    assert await site.chores("two").grants() == 0
    site.now.us += 5 * DAY - 1
    assert not await site.ledger.leases.take("grants", "two", DAY)
    site.now.us += 1
    assert await site.chores("two").grants() == 3


async def test_one_account_s_trouble_is_its_own(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.now.us += DAY
    apply = site.ledger.book.apply_due_grants

    async def refuse(account_id: str) -> Snapshot:
        if account_id == site.accounts[0]:
            raise BookRefused("no")
        return await apply(account_id)

    monkeypatch.setattr(site.ledger.book, "apply_due_grants", refuse)
    assert await site.chores().grants() == 2
    assert site.told.posted == dict.fromkeys(site.accounts[1:], 200)


async def test_without_redis_the_book_goes_on(site: Site) -> None:
    site.now.us += DAY
    site.told.away = True
    assert await site.chores().grants() == 3
    assert (await site.ledger.book.snapshot(site.accounts[0], [], gate=False)).posted == 200


async def test_the_loop_does_both(site: Site) -> None:
    claim = Claim(tenant="t", key="k", route="POST /x", fingerprint="f")
    await site.ledger.idempotency.complete(claim, 200, "{}")
    site.now.us += KEPT_US
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(site.chores().run(), 0.5)
    assert site.told.posted == dict.fromkeys(site.accounts, 200)
    assert not await site.ledger.idempotency.any_expired()
