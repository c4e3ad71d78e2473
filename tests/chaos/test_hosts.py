"""Two hosts of two workers on one PostgreSQL and one Redis, all for one account."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from faregate.credits.embedded import EmbeddedValkey
from faregate.credits.embedded import url as redis_url
from faregate.ledger.audit import audit
from faregate.ledger.book import SqlBook
from faregate.ledger.database import Database
from tests.chaos.load import Answer, Load
from tests.chaos.verify import open_in_journals, open_in_redis, verify
from tests.chaos.world import ACCOUNT, Gateway, Upstream
from tests.postgres import Cluster

pytestmark = pytest.mark.xdist_group("chaos")


@dataclass(slots=True)
class Hosts:
    """Gateways with a data directory each."""

    gateways: list[Gateway]
    upstream: Upstream
    database_url: str
    redis_folder: Path

    async def start(self) -> None:
        """All take traffic, and the account has credits."""
        await asyncio.gather(*(asyncio.to_thread(gateway.start, 20.0) for gateway in self.gateways))
        database = Database(self.database_url)
        await SqlBook(database).add_credits(ACCOUNT, 10_000_000_000)
        await database.close()

    def open(self) -> list[str]:
        """What is open in Redis and in any journal."""
        journals = [hold for gateway in self.gateways for hold in open_in_journals(gateway.data_dir)]
        return journals + open_in_redis(self.redis_folder)

    async def rest(self, timeout_s: float = 10.0) -> None:
        """Until nothing is open."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not await asyncio.to_thread(self.open):
                return
            await asyncio.sleep(0.1)

    async def findings(self, answers: Mapping[str, Answer]) -> list[str]:
        """After rest: what of the guarantees does not hold."""
        await self.rest()
        found = verify(self.redis_folder, self.upstream.account(), answers, database_url=self.database_url)
        sums = await asyncio.to_thread(audit, self.database_url)
        return [*found, *self.open(), *map(str, sums)]


@pytest.fixture
def hosts(tmp_path: Path, cluster: Cluster) -> Iterator[Hosts]:
    upstream = Upstream()
    with tempfile.TemporaryDirectory(prefix="fg") as folder, cluster.database() as url:
        valkey = EmbeddedValkey(Path(folder))
        valkey.start()
        sections = {"redis_url": redis_url(Path(folder)), "database_url": url}
        gateways = [Gateway(tmp_path / name, upstream.url, workers=2, sections=sections) for name in ("a", "b")]
        try:
            yield Hosts(gateways, upstream, url, Path(folder))
        finally:
            for gateway in gateways:
                gateway.end()
            valkey.stop()
            upstream.stop()


async def test_a_hot_account_of_four_workers_neither_deadlocks_nor_starves(hosts: Hosts, cluster: Cluster) -> None:
    await hosts.start()
    async with AsyncExitStack() as stack:
        loads = [
            await stack.enter_async_context(Load(gateway.port, name=f"host{number}", connections=20))
            for number, gateway in enumerate(hosts.gateways)
        ]
        await asyncio.sleep(4.0)
    answers = {**loads[0].answers, **loads[1].answers}
    assert sum((Counter(load.statuses()) for load in loads), Counter()).keys() == {200}
    assert min(load.whole for load in loads) > 0.25 * sum(load.whole for load in loads) > 25
    assert await hosts.findings(answers) == []
    counted = cluster.ask("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()", _name(hosts))
    assert (counted or "").strip() == "0"


async def test_a_dead_workers_journal_is_its_siblings_within_seconds(hosts: Hosts) -> None:
    await hosts.start()
    one = hosts.gateways[0]
    async with Load(one.port, connections=20) as load:
        await asyncio.sleep(1.0)
        os.kill(one.worker_pids()[0], signal.SIGKILL)
        dead = set(await asyncio.to_thread(open_in_journals, one.data_dir))
        died = time.monotonic()
        while dead & (await asyncio.to_thread(open_in_journals, one.data_dir)).keys():
            assert time.monotonic() - died < 15
            await asyncio.sleep(0.05)
    assert dead
    assert await hosts.findings(load.answers) == []


async def test_one_host_ends_while_the_other_serves(hosts: Hosts) -> None:
    await hosts.start()
    leaving, staying = hosts.gateways
    async with Load(leaving.port, name="left", connections=10) as left, Load(staying.port, connections=10) as stayed:
        await asyncio.sleep(1.0)
        leaving.terminate()
        await left.stop()
        assert await asyncio.to_thread(leaving.wait) == 0
        assert list((leaving.data_dir / "journal").iterdir()) == []
        before = stayed.whole
        await asyncio.sleep(1.0)
        assert stayed.whole > before
    assert [answer for answer in left.answers.values() if answer.status and not answer.whole] == []
    assert stayed.statuses().keys() == {200}
    assert await hosts.findings({**left.answers, **stayed.answers}) == []


async def test_postgresql_is_killed_and_comes_back_under_load(hosts: Hosts, cluster: Cluster) -> None:
    await hosts.start()
    async with Load(hosts.gateways[0].port, connections=10) as load:
        await asyncio.sleep(0.8)
        cluster.kill()
        await asyncio.sleep(0.8)
        hosts.gateways[0].kill()
        await asyncio.to_thread(cluster.start)
        await asyncio.to_thread(hosts.gateways[0].start, 20.0)
        await asyncio.sleep(0.8)
    assert load.whole > 20
    assert await hosts.findings(load.answers) == []


def _name(hosts: Hosts) -> str:
    return hosts.database_url.rpartition("@/")[2].partition("?")[0]
