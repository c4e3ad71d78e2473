"""`--store external`: PostgreSQL and Redis with its append-only file, two hosts with two workers each.

Host a has its journals on a small disk. Host b, where that is possible, is behind a cable of its own; its disk can be
lost for good. Both reach Redis, PostgreSQL and the provider through shims.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import redis

from tests import postgres
from tests.chaos.driver.disk import SmallDisk
from tests.chaos.driver.host import Host, family
from tests.chaos.driver.link import Link
from tests.chaos.driver.plan import Fault, Mark
from tests.chaos.driver.shim import Shim
from tests.chaos.driver.town import Pace, Town
from tests.redis_cluster import Server

_PROCESS: frozenset[Mark] = frozenset({"process"})
_CUT_OFF: frozenset[Mark] = frozenset({"process", "upstream"})
_STORE: frozenset[Mark] = frozenset({"store"})
_BOOK: frozenset[Mark] = frozenset({"book"})
_AOF = ("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction")
_TAIL_MOST_BYTES = 20_000


@dataclass(slots=True, kw_only=True)
class _Ways:
    """How one host reaches what all share."""

    host: Host
    store: Shim
    book: Shim
    link: Link | None = None


class ExternalTown(Town):
    """Two machines, and the servers between them."""

    def __init__(self, folder: Path, pace: Pace, *, workers: int = 2) -> None:
        super().__init__(folder, pace)
        self._workers = workers
        self._stack = ExitStack()
        self._redis = Server(folder / "redis", *_AOF)
        self._ways: list[_Ways] = []

    @property
    def book_url(self) -> str:
        return self._postgres.url("book")

    async def start(self) -> None:
        self._postgres = await asyncio.to_thread(lambda: self._stack.enter_context(postgres.running()))
        await asyncio.to_thread(self._postgres.sql, "CREATE DATABASE book")
        await asyncio.to_thread(lambda: self._redis.start().ready())
        first = await self._host("a", None)
        disk = SmallDisk(first.gateway.data_dir / "journal", self.folder / "disk.img", megabytes=24)
        trouble = await asyncio.to_thread(disk.mount)
        if trouble:
            self.missing.append(f"disk full, disk stalls: {trouble}")
        else:
            first.disk = disk
        link = Link(1)
        trouble = await asyncio.to_thread(link.plug)
        if trouble:
            self.missing.append(f"cable pulled: {trouble}")
        second = await self._host("b", None if trouble else link)
        await asyncio.gather(first.revive(), second.revive())
        await self.open_accounts()

    async def _host(self, name: str, link: Link | None) -> Host:
        near = link.outside if link is not None else "127.0.0.1"
        upstream, clock = await self.upstream_shim(near), self.clock(name)
        store = await self.shim(("127.0.0.1", self._redis.port), near)
        book = await self.shim(self._postgres.folder / ".s.PGSQL.5432", near)
        gateway = self.gateway(self.folder / name, upstream, clock, workers=self._workers)
        address = link.inside if link is not None else "127.0.0.1"
        gateway.prefix = link.prefix if link is not None else ()
        gateway.sections = {
            **gateway.sections,
            "server": f"{{host: {address}, port: {gateway.port}, workers: {self._workers}}}",
            "redis_url": f'"redis://{near}:{store.port}"',
            "database_url": f'"postgresql://{postgres.USER}@{near}:{book.port}/book"',
        }
        host = Host(name, gateway, upstream, self.pace.long_s, address=address, clock=clock)
        self.hosts.append(host)
        self._ways.append(_Ways(host=host, store=store, book=book, link=link))
        return host

    async def stop(self) -> None:
        await super().stop()
        for ways in self._ways:
            if ways.link is not None:
                await asyncio.to_thread(ways.link.unplug)
        self._redis.kill()
        await asyncio.to_thread(self._stack.close)

    def stores(self) -> list[redis.Redis]:
        return [self._redis.client()]

    # Faults ---------------------------------------------------------------------------------------------

    def faults(self) -> Iterator[Fault]:
        for ways in self._ways:
            yield from ways.host.faults()
            yield from self._on_the_way(ways)
        yield Fault(name="host b lost for good", target="host b", act=self._lose_disk, marks=_LOST)
        yield Fault(name="kill -9 Redis, cut AOF tail", target="store", act=self._kill_redis, marks=_STORE)
        yield Fault(name="SIGSTOP Redis", target="store", act=self._freeze_redis, marks=_STORE)
        yield Fault(name="FLUSHALL", target="store", act=self._flush, marks=_STORE)
        yield Fault(name="kill -9 PostgreSQL", target="book", act=self._kill_postgres, marks=_BOOK)
        yield Fault(name="SIGSTOP PostgreSQL", target="book", act=self._freeze_postgres, marks=_BOOK)

    def _on_the_way(self, ways: _Ways) -> Iterator[Fault]:
        host = ways.host

        async def lose_store(dice: random.Random) -> str:
            return await self._lose_replies(ways.store)

        async def lose_book(dice: random.Random) -> str:
            return await self._lose_replies(ways.book)

        async def slow(dice: random.Random) -> str:
            delay_s = dice.choice((0.02, 0.1, 0.3))
            async with ways.store.slow(delay_s):
                await asyncio.sleep(self.pace.long_s)
            return f"{delay_s * 1000:g} ms each way for {self.pace.long_s:g} s"

        async def part(dice: random.Random) -> str:
            return await self._part(ways)

        yield Fault(name=host.named("Redis replies lost"), target="store", act=lose_store, marks=_STORE)
        yield Fault(name=host.named("Redis slow"), target="store", act=slow, marks=_STORE)
        yield Fault(name=host.named("PostgreSQL replies lost"), target="book", act=lose_book, marks=_BOOK)
        word = "cable pulled" if ways.link is not None else "cut off from Redis and PostgreSQL"
        marks = _CUT_OFF if ways.link is not None else _PROCESS
        yield Fault(name=host.named(word), target=f"host {host.name}", act=part, marks=marks)

    async def _lose_replies(self, shim: Shim) -> str:
        before = shim.lost_replies
        async with shim.losing_replies():
            await asyncio.sleep(self.pace.long_s / 5)
        return f"{shim.lost_replies - before} pieces swallowed"

    async def _part(self, ways: _Ways) -> str:
        if ways.link is None:
            async with ways.store.parted(), ways.book.parted():
                await asyncio.sleep(self.pace.long_s)
        else:
            await asyncio.to_thread(ways.link.down)
            try:
                await asyncio.sleep(self.pace.long_s)
            finally:
                await asyncio.to_thread(ways.link.up)
        return f"for {self.pace.long_s:g} s"

    async def _lose_disk(self, dice: random.Random) -> str:
        host = self.hosts[1]
        await host.kill()
        await asyncio.to_thread(shutil.rmtree, host.gateway.data_dir)
        await asyncio.sleep(dice.uniform(0, 1))
        await host.revive()
        return "killed, its journals gone; another took its place"

    async def _kill_redis(self, dice: random.Random) -> str:
        await asyncio.to_thread(self._redis.kill)
        tail = dice.randrange(_TAIL_MOST_BYTES)
        cut = 0
        for file in sorted((self.folder / "redis" / "appendonlydir").glob("*.incr.aof"))[-1:]:
            size = file.stat().st_size
            cut = min(tail, size)
            with file.open("r+b") as aof:
                aof.truncate(size - cut)
        await asyncio.sleep(dice.uniform(0, 1))
        await asyncio.to_thread(lambda: self._redis.start().ready())
        return f"{cut} bytes cut off"

    async def _freeze_redis(self, dice: random.Random) -> str:
        assert self._redis.process is not None
        await self.hosts[0].freeze([self._redis.process.pid])
        return f"for {self.pace.long_s:g} s"

    async def _flush(self, dice: random.Random) -> str:
        with self._redis.client() as client:
            await asyncio.to_thread(client.flushall)
        return ""

    async def _kill_postgres(self, dice: random.Random) -> str:
        await asyncio.to_thread(self._postgres.kill)
        await asyncio.sleep(dice.uniform(0, self.pace.long_s))
        await asyncio.to_thread(self._postgres.start)
        return "started again"

    async def _freeze_postgres(self, dice: random.Random) -> str:
        pid = self._postgres.pid
        await self.hosts[0].freeze([] if pid is None else family(pid))
        return f"for {self.pace.long_s:g} s"


_LOST: frozenset[Mark] = frozenset({"process", "disk lost"})
