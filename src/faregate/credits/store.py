"""A Redis, or a Redis Cluster: the pipe to it that follows its redirections.

It starts as the pipe to one server. The first MOVED says that the server is a node of a cluster; from then on there is
a pipe to each master, and a bucket's calls go to the one that has its slot. MOVED, ASK, TRYAGAIN and CLUSTERDOWN mean
that nothing was applied: the call is sent on, or again, until its time is over. Everything else that fails may have
been applied, and is the caller's to repeat.
"""

from __future__ import annotations

import asyncio
import re
from binascii import crc_hqx
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError, TryAgainError

from faregate.credits.endpoints import Address, seeds
from faregate.credits.pipe import Arg, Pipe, refused
from faregate.errors import StoreUnavailable, StoreUnreached

_AGAIN_S = 0.01
_REFRESH_S = 0.1
"""The topology is asked for at most so often."""
_ASK_WAIT_S = 1.0
Act = Callable[[Pipe, float], Coroutine[Any, Any, Any]]
_TAG = re.compile(r"\{([^}]+)\}")


def slot_of(key: str) -> int:
    """The cluster's slot of a key: CRC16 (XMODEM) of its hash tag."""
    found = _TAG.search(key)
    return crc_hqx((found[1] if found else key).encode(), 0) % 16384


class Store(Pipe):
    """`Pipe` on whatever the URL leads to."""

    def __init__(self, url: str, *, connect_timeout_s: float = 1.0, max_waiting: int = 20_000) -> None:
        super().__init__(url, connect_timeout_s=connect_timeout_s, max_waiting=max_waiting)
        self._url = url
        self._connect_timeout_s = connect_timeout_s
        self._seeds = seeds(url) if "sentinel" not in url.partition(":")[0] else []
        self._masters: dict[Address, Pipe] = {}
        self._ranges: list[tuple[int, int, Address]] = []
        """First and last slot, and whose they are; empty: no cluster."""
        self._places: dict[str, Pipe] = {}
        """By the head of a bucket's keys."""
        self._learning: asyncio.Task[None] | None = None
        self._learned_at = 0.0

    def nodes(self) -> Sequence[Pipe]:
        return tuple(self._masters.values()) or (self,)

    def at(self, key: str) -> Pipe:
        return (self._home(key) if self._ranges else None) or self

    async def run(
        self, name: str, keys: Sequence[str], args: Sequence[Arg], timeout_s: float, also: Sequence[str] = ()
    ) -> Any:
        if not self._ranges:
            try:
                return await self.script(name, keys, args, timeout_s)
            except (MovedError, ClusterDownError):
                await self._learn()
            except ResponseError as error:
                raise refused(error) from error
        # Keys that only the arguments name are declared, too: while a slot moves, a script must not find one missing.
        return await self._at_home(keys[0], lambda pipe, left_s: pipe.script(name, keys, args, left_s, also), timeout_s)

    async def command(self, parts: tuple[Arg, ...], timeout_s: float) -> Any:
        if not self._ranges or len(parts) < 2 or not isinstance(parts[1], str) or "{" not in parts[1]:
            return await super().command(parts, timeout_s)
        return await self._at_home(parts[1], lambda pipe, left_s: pipe.command(parts, left_s), timeout_s)

    async def connect(self) -> None:
        await super().connect()
        info: bytes = await super().command((b"INFO", b"cluster"), _ASK_WAIT_S)
        if b"cluster_enabled:1" in info:
            await self._learn()

    async def close(self) -> None:
        if self._learning is not None:
            self._learning.cancel()
        for pipe in self._masters.values():
            await pipe.close()
        await super().close()

    # A cluster ------------------------------------------------------------------------------------------

    async def _at_home(self, key: str, act: Act, timeout_s: float) -> Any:
        """At the master of the key's slot. Raises StoreUnavailable; StoreUnreached when it was never applied."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        asked: Pipe | None = None
        while (left_s := ends - loop.time()) > 0:
            pipe, asking, asked = asked or self._home(key), asked is not None, None
            try:
                if pipe is None:
                    await self._learn()
                    await asyncio.sleep(_AGAIN_S)
                elif asking:
                    return (await asyncio.gather(pipe.command((b"ASKING",), left_s), act(pipe, left_s)))[1]
                else:
                    return await act(pipe, left_s)
            except AskError as error:
                asked = await self._redirected(error, pipe)
            except (TryAgainError, ClusterDownError, StoreUnreached):
                await self._learn()
                await asyncio.sleep(_AGAIN_S)
            except ResponseError as error:
                raise refused(error) from error
            except StoreUnavailable:
                await self._learn()
                raise
        raise StoreUnreached("the credit store's cluster is rearranging itself", retry_after_s=1)

    async def _redirected(self, error: AskError, pipe: Pipe | None) -> Pipe | None:
        """MOVED: the topology has changed. ASK: this once, the key is on its way there."""
        if isinstance(error, MovedError):
            await self._learn(now=True)
            return None
        host = error.host or (pipe.host if pipe is not None else "")
        return self._pipe_to((host, int(error.port)))

    def _home(self, key: str) -> Pipe | None:
        """The pipe to the master of a key's slot; None while nobody has it."""
        head = key[: key.index("}")]
        found = self._places.get(head)
        if found is None:
            slot = slot_of(key)
            owner = next((address for first, last, address in self._ranges if first <= slot <= last), None)
            if owner is not None:
                found = self._places[head] = self._pipe_to(owner)
        return found

    def _pipe_to(self, address: Address) -> Pipe:
        found = self._masters.get(address)
        if found is None:
            found = self._masters[address] = self._new_pipe(address)
        return found

    def _new_pipe(self, address: Address) -> Pipe:
        return Pipe(
            self._url, address=address, connect_timeout_s=self._connect_timeout_s, max_waiting=self._max_waiting
        )

    async def _learn(self, *, now: bool = False) -> None:
        """Ask who has which slots: once for all who want to know, and not too often."""
        loop = asyncio.get_running_loop()
        if self._learning is None or self._learning.done():
            wait_s = max(0.0, self._learned_at + _REFRESH_S - loop.time()) if not now else 0.0
            self._learning = asyncio.create_task(self._ask_around(wait_s))
        await asyncio.shield(self._learning)

    async def _ask_around(self, wait_s: float) -> None:
        """Any node that answers will do: the masters that are known, then those the URL names."""
        await asyncio.sleep(wait_s)
        known = [*self._masters, *(seed for seed in self._seeds if seed not in self._masters)]
        for address in known:
            stranger = address not in self._masters
            pipe = self._new_pipe(address) if stranger else self._masters[address]
            try:
                ranges = _ranges(await pipe.command((b"CLUSTER", b"SLOTS"), _ASK_WAIT_S), address)
            except (StoreUnavailable, ResponseError):
                continue
            finally:
                if stranger:
                    await pipe.close()
            if ranges:
                await self._adopt(ranges)
                break
        self._learned_at = asyncio.get_running_loop().time()

    async def _adopt(self, ranges: list[tuple[int, int, Address]]) -> None:
        if ranges == self._ranges:
            return
        self._ranges = ranges
        self._places.clear()
        masters = {address for _, _, address in ranges}
        for address in [address for address in self._masters if address not in masters]:
            await self._masters.pop(address).close()
        for address in masters:
            self._pipe_to(address)


def _ranges(reply: Any, asked: Address) -> list[tuple[int, int, Address]]:
    """CLUSTER SLOTS: [first, last, [host, port, id, ...], replicas...]; an empty host is the one that was asked."""
    found = []
    for first, last, master, *_ in reply:
        host = (master[0] or b"").decode() or asked[0]
        found.append((int(first), int(last), (host, int(master[1]))))
    return sorted(found)
