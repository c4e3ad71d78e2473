"""`--store embedded`: one host, four workers, SQLite with its clerk, the embedded Valkey; all of it on a small disk."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import redis

from tests.chaos.driver.disk import SmallDisk
from tests.chaos.driver.host import Host, kill_one
from tests.chaos.driver.plan import Fault, Mark
from tests.chaos.driver.town import Pace, Town
from tests.chaos.verify import connect

_STORE: frozenset[Mark] = frozenset({"store"})
_BOOK: frozenset[Mark] = frozenset({"book"})


class EmbeddedTown(Town):
    """One machine."""

    def __init__(self, folder: Path, pace: Pace, *, workers: int = 4, disk_mb: int = 512) -> None:
        super().__init__(folder, pace)
        self._workers = workers
        self._disk_mb = disk_mb

    @property
    def book_url(self) -> str:
        return f"sqlite:///{self.host.gateway.data_dir / 'faregate.db'}"

    @property
    def host(self) -> Host:
        return self.hosts[0]

    async def start(self) -> None:
        upstream, clock = await self.upstream_shim(), self.clock("one")
        gateway = self.gateway(self.folder / "host", upstream, clock, workers=self._workers)
        host = Host("", gateway, upstream, self.pace.long_s, clock=clock)
        self.hosts.append(host)
        disk = SmallDisk(gateway.data_dir, self.folder / "disk.img", megabytes=self._disk_mb)
        trouble = await asyncio.to_thread(disk.mount)
        if trouble:
            self.missing.append(f"disk full, disk stalls: {trouble}")
        else:
            host.disk = disk
        await host.revive()
        await self.open_accounts()

    def stores(self) -> list[redis.Redis]:
        return [connect(self.host.gateway.data_dir)]

    def faults(self) -> Iterator[Fault]:
        yield from self.host.faults()
        yield self.host.fault("kill -9 clerk", self._kill_clerk, _BOOK)
        yield self.host.fault("SIGSTOP clerk", self._freeze_clerk, _BOOK)
        yield Fault(name="kill -9 Valkey", target="store", act=self._kill_valkey, marks=_STORE)
        yield Fault(name="SIGSTOP Valkey", target="store", act=self._freeze_valkey, marks=_STORE)
        yield Fault(name="FLUSHALL", target="store", act=self._flush, marks=_STORE)
        yield Fault(name="book locked", target="book", act=self._lock_book, marks=_BOOK)

    async def _kill_clerk(self, dice: random.Random) -> str:
        with suppress(IndexError):
            return kill_one(dice, [self.host.gateway.clerk_pid()])
        return "nobody was there"

    async def _freeze_clerk(self, dice: random.Random) -> str:
        with suppress(IndexError):
            await self.host.freeze([self.host.gateway.clerk_pid()])
        return f"for {self.pace.long_s:g} s"

    async def _valkey(self) -> int | None:
        with suppress(redis.RedisError, OSError):
            return await asyncio.to_thread(self.host.gateway.valkey_pid)
        return None

    async def _kill_valkey(self, dice: random.Random) -> str:
        pid = await self._valkey()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        return "" if pid is not None else "nobody was there"

    async def _freeze_valkey(self, dice: random.Random) -> str:
        pid = await self._valkey()
        if pid is not None:
            await self.host.freeze([pid])
        return f"for {self.pace.long_s:g} s"

    async def _flush(self, dice: random.Random) -> str:
        with suppress(redis.RedisError), connect(self.host.gateway.data_dir) as client:
            await asyncio.to_thread(client.flushall)
        return ""

    async def _lock_book(self, dice: random.Random) -> str:
        """Another program has the database's write lock."""
        lock = await asyncio.to_thread(self._take_lock)
        try:
            await asyncio.sleep(self.pace.long_s)
        finally:
            if lock is not None:
                lock.close()
        return f"for {self.pace.long_s:g} s" if lock is not None else "the lock was not to be had"

    def _take_lock(self) -> sqlite3.Connection | None:
        path = self.host.gateway.data_dir / "faregate.db"
        book = sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)
        try:
            book.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            book.close()
            return None
        return book
