"""The store of the external settings: one Redis with an append-only file, or a cluster of three masters."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Protocol

import redis
from redis.crc import key_slot

from faregate.core.call import bucket_of
from tests.chaos.driver.plan import Fault, Mark
from tests.chaos.driver.town import ORGANIZATION
from tests.redis_cluster import Cluster, Server, until

_STORE: frozenset[Mark] = frozenset({"store"})
_AOF = ("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction")
_TAIL_MOST_BYTES = 20_000
_FAILOVER_S = 15.0


class Store(Protocol):
    """Servers that all hosts share."""

    @property
    def port(self) -> int | None:
        """The one port to put shims before; None: clients are led to several."""

    @property
    def url(self) -> str: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def clients(self) -> list[redis.Redis]:
        """One for each server that has keys of its own."""

    def faults(self, long_s: float) -> Iterator[Fault]: ...


class OneRedis:
    """Debian's redis-server, its file synced every second."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = Server(folder, *_AOF)

    @property
    def port(self) -> int | None:
        return self._server.port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._server.port}"

    def start(self) -> None:
        self._server.start().ready()

    def stop(self) -> None:
        self._server.kill()

    def clients(self) -> list[redis.Redis]:
        return [self._server.client()]

    def faults(self, long_s: float) -> Iterator[Fault]:
        async def freeze(dice: random.Random) -> str:
            return await _freeze(self._server, long_s)

        yield _fault("kill -9 Redis, cut AOF tail", self._kill)
        yield _fault("SIGSTOP Redis", freeze)
        yield _fault("FLUSHALL", self._flush)

    async def _kill(self, dice: random.Random) -> str:
        await asyncio.to_thread(self._server.kill)
        tail, cut = dice.randrange(_TAIL_MOST_BYTES), 0
        for file in sorted((self._folder / "appendonlydir").glob("*.incr.aof"))[-1:]:
            size = file.stat().st_size
            cut = min(tail, size)
            with file.open("r+b") as aof:
                aof.truncate(size - cut)
        await asyncio.sleep(dice.uniform(0, 1))
        await asyncio.to_thread(self.start)
        return f"{cut} bytes cut off"

    async def _flush(self, dice: random.Random) -> str:
        return await _flush(self.clients())


class RedisCluster:
    """Three masters, each with a replica. What is done, is done to the slot that traffic is in."""

    def __init__(self, folder: Path) -> None:
        self._cluster = Cluster(folder)
        self._slot = key_slot(f"b{bucket_of(ORGANIZATION):03d}".encode())

    @property
    def port(self) -> int | None:
        return None

    @property
    def url(self) -> str:
        return self._cluster.url

    def start(self) -> None:
        self._cluster.start()

    def stop(self) -> None:
        self._cluster.stop()

    def clients(self) -> list[redis.Redis]:
        return [server.client() for server in self._masters()]

    def _masters(self) -> list[Server]:
        return [server for server in self._cluster.servers if server.process and _leads(server)]

    def faults(self, long_s: float) -> Iterator[Fault]:
        async def freeze(dice: random.Random) -> str:
            return await _freeze(self._cluster.owner(self._slot), long_s)

        yield _fault("kill -9 master, failover", self._fail_over)
        yield _fault("SIGSTOP master", freeze)
        yield _fault("reshard", self._reshard)
        yield _fault("FLUSHALL", self._flush)

    async def _fail_over(self, dice: random.Random) -> str:
        def change() -> int:
            lost = self._cluster.owner(self._slot)
            lost.kill()
            until(lambda: self._cluster.owner(self._slot) is not lost, _FAILOVER_S)
            lost.start().ready()
            return lost.port

        return f"{await asyncio.to_thread(change)} lost its place, and came back as a replica"

    async def _reshard(self, dice: random.Random) -> str:
        def change() -> int:
            source = self._cluster.owner(self._slot)
            to = dice.choice([server for server in self._masters() if server is not source])
            self._cluster.move(self._slot, to)
            return to.port

        return f"slot {self._slot} moved to {await asyncio.to_thread(change)}"

    async def _flush(self, dice: random.Random) -> str:
        return await _flush(self.clients())


def _fault(name: str, act: Callable[[random.Random], Awaitable[str]]) -> Fault:
    return Fault(name=name, target="store", act=act, marks=_STORE)


def _leads(server: Server) -> bool:
    with server.client() as client:
        try:
            return str(client.execute_command("ROLE")[0]) == "master"
        except redis.RedisError:
            return False


async def _freeze(server: Server, long_s: float) -> str:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(long_s)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    return f"{server.port} for {long_s:g} s"


async def _flush(clients: list[redis.Redis]) -> str:
    for client in clients:
        with client:
            await asyncio.to_thread(client.flushall)
    return ""
