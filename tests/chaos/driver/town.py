"""What the two settings share: hosts, a book, a store, and the accounts that traffic is charged to."""

from __future__ import annotations

import asyncio
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import redis

from faregate.ledger.book import SqlBook
from faregate.ledger.database import Database
from faregate.ledger.queries import Ledger
from tests.chaos.driver.clock import SteppedClock
from tests.chaos.driver.host import Host
from tests.chaos.driver.plan import Fault
from tests.chaos.driver.shim import Shim
from tests.chaos.world import Gateway, Upstream

ORGANIZATION = "org_bootstrap"
_CREDIT = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse:
    """An account as the run begins, in credits."""

    external_id: str
    credits: float
    overdraft: float = 0


PURSES = (
    Purse(external_id="rich", credits=1_000_000),
    Purse(external_id="tight", credits=0.5),
    Purse(external_id="overdrawn", credits=1, overdraft=1),
    Purse(external_id="reserving", credits=40),
    Purse(external_id="ingesting", credits=100_000),
)
FIRST_MICROCREDITS = {purse.external_id: int(purse.credits * _CREDIT) for purse in PURSES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast the world turns. `long_s` is longer than three heartbeats."""

    heartbeat_s: float
    long_s: float


def _no_sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".sock")]


class Town(ABC):
    """A setting. `missing` says what cannot be done here, and why."""

    def __init__(self, folder: Path, pace: Pace) -> None:
        self.folder = folder
        self.pace = pace
        self.missing: list[str] = []
        self.upstream = Upstream()
        self.hosts: list[Host] = []
        self.accounts: dict[str, str] = {}
        """Internal id by external id."""
        self.shims: list[Shim] = []
        self.keep = False
        """Leave the folder, logs and books in it (what is on a small disk is copied out)."""

    @property
    @abstractmethod
    def book_url(self) -> str:
        """Where the checks read the book, past every shim."""

    @abstractmethod
    async def start(self) -> None:
        """Everything runs, and the accounts are there."""

    @abstractmethod
    def faults(self) -> Iterator[Fault]:
        """All that can be done here."""

    @abstractmethod
    def stores(self) -> list[redis.Redis]:
        """A client for each node of the store."""

    async def stop(self) -> None:
        """Leave nothing behind."""
        for host in self.hosts:
            await asyncio.to_thread(host.gateway.end)
            if host.disk is not None:
                if self.keep:
                    kept = self.folder / f"kept{host.name}"
                    await asyncio.to_thread(shutil.copytree, host.disk.folder, kept, ignore=_no_sockets)
                await asyncio.to_thread(host.disk.unmount)
        for shim in self.shims:
            await shim.stop()
        self.upstream.stop()
        if not self.keep:
            await asyncio.to_thread(shutil.rmtree, self.folder, True)

    async def shim(self, target: tuple[str, int] | Path, address: str = "127.0.0.1") -> Shim:
        """A new one that runs."""
        shim = Shim(target, address)
        await shim.start()
        self.shims.append(shim)
        return shim

    async def upstream_shim(self, address: str = "127.0.0.1") -> Shim:
        """In front of the provider."""
        parts = urlsplit(self.upstream.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return await self.shim((parts.hostname, parts.port), address)

    def clock(self, name: str) -> SteppedClock | None:
        """A clock that can be set, if this machine can make one."""
        clock = SteppedClock(self.folder / f"clock-{name}")
        trouble = clock.make()
        if trouble:
            self.missing.append(f"clock step: {trouble}")
        return None if trouble else clock

    def gateway(self, folder: Path, upstream: Shim, clock: SteppedClock | None, *, workers: int) -> Gateway:
        """A gateway that is not started yet."""
        url = f"http://{upstream.address}:{upstream.port}/v1"
        provider = f'{{kind: openai, base_url: "{url}", api_key: sk-up, retries: 0'
        sections = {
            "providers": f"{{up: {provider}, timeout_s: 6, idle_timeout_s: 4, connect_timeout_s: 2}}}}",
        }
        gateway = Gateway(folder, url, workers=workers, heartbeat_s=self.pace.heartbeat_s, sections=sections)
        if clock is not None:
            gateway.environment = clock.environment
        return gateway

    async def open_accounts(self) -> None:
        """In the book itself, before the first call."""
        database = Database(self.book_url)
        try:
            ledger, book = Ledger(self.book_url), SqlBook(database)
            for purse in PURSES:
                account = await ledger.accounts.create(
                    ORGANIZATION, name=purse.external_id, external_id=purse.external_id
                )
                self.accounts[purse.external_id] = account.id
                if purse.overdraft:
                    await book.set_overdraft(account.id, int(purse.overdraft * _CREDIT))
                await book.add_credits(account.id, FIRST_MICROCREDITS[purse.external_id])
            await ledger.close()
        finally:
            await database.close()
