"""One real Valkey for the session, empty for each test, and a bench that speaks to the scripts by name."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from faregate.credits import names
from faregate.credits.embedded import EmbeddedValkey, url
from faregate.credits.pipe import Pipe
from faregate.credits.store import Store, slot_of
from tests.redis_cluster import Cluster, available

TIMEOUT_S = 5.0


@pytest.fixture(scope="session")
def valkey() -> Iterator[Path]:
    """The data directory of a running server."""
    with tempfile.TemporaryDirectory(prefix="fg") as folder:
        server = EmbeddedValkey(Path(folder))
        server.start()
        yield Path(folder)
        server.stop()


@pytest.fixture
async def pipe(valkey: Path) -> AsyncIterator[Pipe]:
    """A connection to an empty server."""
    pipe = Pipe(url(valkey))
    await pipe.command(("FLUSHALL",), TIMEOUT_S)
    yield pipe
    await pipe.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three masters with a replica each."""
    if not available():
        pytest.skip("Debian's redis-server is not installed")
    with tempfile.TemporaryDirectory(prefix="fg") as folder:
        running = Cluster(Path(folder))
        try:
            yield running.start()
        finally:
            running.stop()


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[Store]:
    """A connection to an empty cluster."""
    store = Store(cluster.url)
    await store.connect()
    for node in store.nodes():
        await node.command(("FLUSHALL",), TIMEOUT_S)
    yield store
    await store.close()


@dataclass
class Bench:
    """Scripts on account `a` of bucket 7, with everything not under test left at its simplest."""

    pipe: Pipe
    account: str = "a"
    bucket: int = 7
    cluster: Cluster | None = None

    @property
    def keys(self) -> tuple[str, str, str, str]:
        return names.hold_keys(self.bucket, self.account)

    def limit(self, key: str) -> str:
        return names.limit_window(self.bucket, key)

    async def run(self, script: str, *args: Any, keys: tuple[str, ...] | None = None) -> Any:
        return text(await self.pipe.run(script, self.keys if keys is None else keys, args, TIMEOUT_S))

    async def command(self, *parts: Any) -> Any:
        return text(await self.pipe.at(self.keys[0]).command(parts, TIMEOUT_S))

    async def reserve(
        self,
        hold: str,
        want: int = 10,
        floor: int | None = None,
        *,
        share: int = 1000,
        ttl_ms: int = 60_000,
        grace_ms: int = 0,
        forced: bool = False,
        rev: str = "",
        tokens: int = 0,
        floor_tokens: int | None = None,
        limits: tuple[tuple[Any, ...], ...] = (),
    ) -> Any:
        """`limits`: (key, letter, max, start ms, end ms)."""
        args: list[Any] = [hold, f"{self.account}|{hold}", "call", rev, want, want if floor is None else floor]
        args += [tokens, tokens if floor_tokens is None else floor_tokens]
        args += [share, ttl_ms, grace_ms, int(forced), 3, "meta|with|bars"]
        for key, *rest in limits:
            args += [self.limit(key), *rest]
        key_rev = f"{names.base(self.bucket)}key:k"
        return await self.run("reserve", *args, keys=(*self.keys, key_rev))

    async def ticket(self) -> str:
        """The gate's ticket, as a cold answer would give it."""
        await self.run("epoch", 0, keys=self.keys[:1])
        ticket: str = await self.command("HGET", self.keys[0], "ticket")
        return ticket

    async def rebuild(
        self, posted: int, seq: int = 0, *, overdraft: int = 0, fresh_until: int = 0, gated: int = 0, limits: Any = ()
    ) -> Any:
        """Warm the account. `limits`: (key, used, seq, expiry ms)."""
        args: list[Any] = [await self.ticket(), posted, seq, overdraft, fresh_until, gated, 0]
        for key, *rest in limits:
            args += [self.limit(key), *rest]
        return await self.run("rebuild", *args)

    async def extend(self, hold: str, amount: int | str = "", ttl_ms: int = 60_000, progress: int | str = "") -> Any:
        return await self.run("extend", hold, f"{self.account}|{hold}", amount, ttl_ms, progress)

    async def reassert(self, hold: str, amount: int, *, ttl_ms: int = 60_000, tokens: int = 0, limits: str = "") -> Any:
        member = f"{self.account}|{hold}"
        return await self.run("reassert", hold, member, "call", amount, ttl_ms, 0, tokens, limits, "m")

    async def release(self, hold: str) -> Any:
        return await self.run("release", hold, f"{self.account}|{hold}")

    async def settle(self, hold: str, posted: int, seq: int, *limits: tuple[str, int, int]) -> Any:
        args: list[Any] = [hold, f"{self.account}|{hold}" if hold else "", posted, seq, 0, 0]
        for key, used, at in limits:
            args += [self.limit(key), used, at]
        return await self.run("settle", *args)

    async def claim(self, hold: str, ttl_ms: int = 60_000) -> Any:
        return await self.run("claim", hold, f"{self.account}|{hold}", ttl_ms)

    async def state(self) -> tuple[int, int, int]:
        """posted, seq, held."""
        posted, seq, held = await self.command("HMGET", self.keys[1], "posted", "seq", "held")
        return int(posted), int(seq), int(held)

    async def holds(self) -> dict[str, str]:
        return await self.hash(self.keys[2])

    async def window(self, key: str) -> dict[str, str]:
        return await self.hash(self.limit(key))

    async def hash(self, key: str) -> dict[str, str]:
        flat = await self.command("HGETALL", key)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    async def new_epoch(self) -> None:
        """As after a failover: the data is there, the epoch is another. A slot that moves has another one, too."""
        if self.cluster is not None:
            await asyncio.to_thread(self.cluster.move_away, slot_of(self.keys[0]))
            return
        await self.command("REPLICAOF", "127.0.0.1", 1)
        await self.command("REPLICAOF", "NO", "ONE")


def text(reply: Any) -> Any:
    """Bytes of a reply as str, lists as lists."""
    if isinstance(reply, bytes):
        return reply.decode()
    return [text(part) for part in reply] if isinstance(reply, list) else reply


@pytest.fixture(params=["valkey", "cluster"])
def bench(request: pytest.FixtureRequest) -> Bench:
    """On one server, and on a cluster."""
    if request.param == "cluster":
        return Bench(request.getfixturevalue("store"), cluster=request.getfixturevalue("cluster"))
    return Bench(request.getfixturevalue("pipe"))
