"""`--store external` and `--store cluster`: PostgreSQL and Redis, two hosts with two workers each.

Host a has its journals on a small disk. Host b, where that is possible, is behind a cable of its own; its disk can be
lost for good. Both reach Redis, PostgreSQL and the provider through shims. The nodes of a cluster are reached without:
they tell their own addresses.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import redis

from tests import postgres
from tests.chaos.driver.disk import SmallDisk
from tests.chaos.driver.host import Host, family
from tests.chaos.driver.link import Link
from tests.chaos.driver.plan import Fault, Mark
from tests.chaos.driver.shim import Shim
from tests.chaos.driver.stores import Store
from tests.chaos.driver.town import Pace, Town

_LOST: frozenset[Mark] = frozenset({"process", "disk lost"})
_CUT_OFF: frozenset[Mark] = frozenset({"process", "book"})
_ALONE: frozenset[Mark] = frozenset({"process", "book", "upstream"})
_STORE: frozenset[Mark] = frozenset({"store"})
_BOOK: frozenset[Mark] = frozenset({"book"})


@dataclass(slots=True, kw_only=True)
class _Ways:
    """How one host reaches what all share."""

    host: Host
    store: Shim | None
    book: Shim
    link: Link | None = None


class ExternalTown(Town):
    """Two machines, and the servers between them."""

    def __init__(self, folder: Path, pace: Pace, store: Store, *, workers: int = 2) -> None:
        super().__init__(folder, pace)
        self._workers = workers
        self._stack = ExitStack()
        self._store = store
        self._ways: list[_Ways] = []

    @property
    def book_url(self) -> str:
        return self._postgres.url("book")

    async def start(self) -> None:
        self._postgres = await asyncio.to_thread(lambda: self._stack.enter_context(postgres.running()))
        await asyncio.to_thread(self._postgres.sql, "CREATE DATABASE book")
        await asyncio.to_thread(self._store.start)
        first = await self._host("a", None)
        disk = SmallDisk(first.gateway.data_dir / "journal", self.folder / "disk.img", megabytes=24)
        trouble = await asyncio.to_thread(disk.mount)
        if trouble:
            self.missing.append(f"disk full, disk stalls: {trouble}")
        else:
            first.disk = disk
        link = Link(1)
        trouble = await asyncio.to_thread(link.plug) if self._store.port else "no way to a cluster's nodes from there"
        if trouble:
            self.missing.append(f"cable pulled: {trouble}")
        second = await self._host("b", None if trouble else link)
        await asyncio.gather(first.revive(), second.revive())
        await self.open_accounts()

    async def _host(self, name: str, link: Link | None) -> Host:
        near = link.outside if link is not None else "127.0.0.1"
        upstream, clock = await self.upstream_shim(near), self.clock(name)
        store = await self.shim(("127.0.0.1", self._store.port), near) if self._store.port else None
        book = await self.shim(self._postgres.folder / ".s.PGSQL.5432", near)
        gateway = self.gateway(self.folder / name, upstream, clock, workers=self._workers)
        address = link.inside if link is not None else "127.0.0.1"
        gateway.prefix = link.prefix if link is not None else ()
        gateway.sections = {
            **gateway.sections,
            "server": f"{{host: {address}, port: {gateway.port}, workers: {self._workers}}}",
            "redis_url": f'"redis://{near}:{store.port}"' if store is not None else f'"{self._store.url}"',
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
        await asyncio.to_thread(self._store.stop)
        await asyncio.to_thread(self._stack.close)

    def stores(self) -> list[redis.Redis]:
        return self._store.clients()

    # Faults ---------------------------------------------------------------------------------------------

    def faults(self) -> Iterator[Fault]:
        for ways in self._ways:
            yield from ways.host.faults()
            yield from self._on_the_way(ways)
        yield Fault(name="host b lost for good", target="host b", act=self._lose_disk, marks=_LOST)
        yield from self._store.faults(self.pace.long_s)
        yield Fault(name="kill -9 PostgreSQL", target="book", act=self._kill_postgres, marks=_BOOK)
        yield Fault(name="SIGSTOP PostgreSQL", target="book", act=self._freeze_postgres, marks=_BOOK)

    def _on_the_way(self, ways: _Ways) -> Iterator[Fault]:
        host, store = ways.host, ways.store

        async def lose_book(dice: random.Random) -> str:
            return await self._lose_replies(ways.book)

        async def part(dice: random.Random) -> str:
            return await self._part(ways)

        yield Fault(name=host.named("PostgreSQL replies lost"), target="book", act=lose_book, marks=_BOOK)
        if ways.link is not None:
            yield host.fault("cable pulled", part, _ALONE)
        else:
            yield host.fault(f"cut off from {'Redis and ' if store is not None else ''}PostgreSQL", part, _CUT_OFF)
        if store is not None:
            yield from self._before_the_store(host, store)

    def _before_the_store(self, host: Host, store: Shim) -> Iterator[Fault]:
        async def lose(dice: random.Random) -> str:
            return await self._lose_replies(store)

        async def slow(dice: random.Random) -> str:
            delay_s = dice.choice((0.02, 0.1, 0.3))
            async with store.slow(delay_s):
                await asyncio.sleep(self.pace.long_s)
            return f"{delay_s * 1000:g} ms each way for {self.pace.long_s:g} s"

        yield Fault(name=host.named("Redis replies lost"), target="store", act=lose, marks=_STORE)
        yield Fault(name=host.named("Redis slow"), target="store", act=slow, marks=_STORE)

    async def _lose_replies(self, shim: Shim) -> str:
        before = shim.lost_replies
        async with shim.losing_replies():
            await asyncio.sleep(self.pace.long_s / 5)
        return f"{shim.lost_replies - before} pieces swallowed"

    async def _part(self, ways: _Ways) -> str:
        if ways.link is None:
            async with ways.book.parted(), ways.store.parted() if ways.store is not None else nullcontext():
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

    async def _kill_postgres(self, dice: random.Random) -> str:
        await asyncio.to_thread(self._postgres.kill)
        await asyncio.sleep(dice.uniform(0, self.pace.long_s))
        await asyncio.to_thread(self._postgres.start)
        return "started again"

    async def _freeze_postgres(self, dice: random.Random) -> str:
        pid = self._postgres.pid
        await self.hosts[0].freeze([] if pid is None else family(pid))
        return f"for {self.pace.long_s:g} s"
