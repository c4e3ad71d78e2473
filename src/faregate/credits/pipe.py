"""One connection to Redis whose calls of one loop tick leave as one write.

A call that is cancelled or times out leaves its reply to be read and dropped, so the connection is never out of step
(a client that cancels a command in flight hands its reply to the next caller). A lost connection fails what was
waiting: those calls may or may not have been applied, and every script can be repeated.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from faregate.credits.endpoints import Address, close_pool, pool_for
from faregate.credits.scripts import Script, load
from faregate.errors import StoreUnavailable, StoreUnreached

Arg = str | bytes | int

_TICK_S = 0.025
_CONNECT_S = 5.0
_SILENCE_S = 3.0
"""After this long without any reply, past the deadline of the oldest call, a connection counts as dead."""
_RECONNECT_S = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(slots=True)
class _Call:
    packed: bytes
    future: asyncio.Future[Any]
    deadline: float


class Pipe:
    """Scripts on one Redis. `url`: see endpoints.py."""

    def __init__(
        self,
        url: str,
        *,
        address: Address | None = None,
        connect_timeout_s: float = 1.0,
        max_waiting: int = 20_000,
    ) -> None:
        """`address` instead of the URL's own: another node of its cluster."""
        self._pool: ConnectionPool = pool_for(url, address, connect_timeout_s)
        self.scripts: dict[str, Script] = load()
        self._max_waiting = max_waiting
        self._connection: AbstractConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._tick_at = 0.0
        self._waited = False
        self._heard_at = 0.0
        self._queued: deque[_Call] = deque()
        self._waiting: deque[_Call] = deque()

    async def run(
        self, name: str, keys: Sequence[str], args: Sequence[Arg], timeout_s: float, also: Sequence[str] = ()
    ) -> Any:
        """Run a script. Raises StoreUnavailable when no reply came in time.

        `also` names keys that the script finds by its arguments: a cluster has to know of them.
        """
        try:
            return await self.script(name, keys, args, timeout_s)
        except ResponseError as error:
            raise refused(error) from error

    async def script(
        self, name: str, keys: Sequence[str], args: Sequence[Arg], timeout_s: float, also: Sequence[str] = ()
    ) -> Any:
        """The same with the server's own errors."""
        script = self.scripts[name]
        call = (b"EVALSHA", script.sha, len(keys) + len(also), *keys, *also, *args)
        try:
            return await self.command(call, timeout_s)
        except NoScriptError:
            await self.command((b"SCRIPT", b"LOAD", script.source), timeout_s)
            return await self.command(call, timeout_s)
        except ReadOnlyError:
            self._lost("the credit store is a replica now")  # Whoever is the master, a new connection finds it.
            raise

    @property
    def host(self) -> str:
        """Where it leads."""
        return str(self._pool.connection_kwargs.get("host", "localhost"))

    def nodes(self) -> Sequence[Pipe]:
        """Every server that holds a part of the data."""
        return (self,)

    def at(self, key: str) -> Pipe:
        """The server that has a key, for commands that belong together."""
        return self

    async def command(self, parts: tuple[Arg, ...], timeout_s: float) -> Any:
        """Send any command. Error replies are raised as redis-py's classes."""
        loop = asyncio.get_running_loop()
        if len(self._waiting) + len(self._queued) >= self._max_waiting:
            raise StoreUnreached("the credit store is overloaded", retry_after_s=1)
        packed = hiredis.pack_command(parts)  # type: ignore[arg-type]  # its stub errs
        call = _Call(packed, loop.create_future(), loop.time() + timeout_s)
        if not self._queued:
            loop.call_soon(self._flush)
        if self._timer is None:
            self._tick_at = loop.time() + _TICK_S
            self._timer = loop.call_at(self._tick_at, self._tick)
        self._queued.append(call)
        return await call.future

    async def connect(self) -> None:
        """Connect now. Raises StoreUnavailable."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
        await asyncio.shield(self._connecting)

    async def close(self) -> None:
        """Fail what is waiting and hang up."""
        self._fail("the credit store connection is closed")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in (self._reader, self._connecting):
            if task is not None:
                task.cancel()
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)
            self._connection = None
        await close_pool(self._pool)

    def _tick(self) -> None:
        """One timer for all calls: a time-out of its own for each would cost more than the call."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        stood_still, self._tick_at = now - self._tick_at > _TICK_S, now + _TICK_S
        self._timer = loop.call_at(self._tick_at, self._tick) if self._waiting or self._queued else None
        if stood_still and not self._waited:
            self._waited = True  # The loop was busy for longer than a tick: replies that came meanwhile come first.
            return
        self._waited = False
        for call in [call for call in self._queued if call.deadline <= now]:
            self._queued.remove(call)
            _fail(call, StoreUnreached("the credit store is out of reach", retry_after_s=1))
        for call in self._waiting:
            if call.deadline <= now:
                _fail(call, StoreUnavailable("the credit store did not answer in time", retry_after_s=1))
        if self._waiting and now - max(self._heard_at, self._waiting[0].deadline) > _SILENCE_S:
            self._lost("the credit store is silent")  # Half open: only a new connection can tell.

    def _flush(self) -> None:
        if self._connection is None:
            self._start_connecting()
            return
        writer = self._connection._writer  # send_packed_command would make each tick's write a task of its own
        if writer is None:
            self._lost("the credit store hung up")
            return
        calls = [call for call in self._queued if not call.future.done()]
        self._queued.clear()
        self._waiting.extend(calls)
        if calls:
            writer.write(calls[0].packed if len(calls) == 1 else b"".join([call.packed for call in calls]))

    def _start_connecting(self) -> None:
        if self._connecting is not None and not self._connecting.done():
            return
        if asyncio.get_running_loop().time() < self._retry_at:
            self._fail("the credit store is out of reach")
            return
        self._connecting = asyncio.create_task(self._connect())
        self._connecting.add_done_callback(_seen)

    async def _connect(self) -> None:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(_CONNECT_S):  # A mute server would keep the hand-shake waiting for ever.
                await connection.connect()  # type: ignore[no-untyped-call]
                for script in self.scripts.values():
                    await connection.send_command(b"SCRIPT", b"LOAD", script.source)
                for _ in self.scripts:
                    await connection.read_response(timeout=5.0)
        except (TimeoutError, RedisError, OSError) as error:
            await connection.disconnect(nowait=True)
            self._failures = min(self._failures + 1, len(_RECONNECT_S) - 1)
            self._retry_at = asyncio.get_running_loop().time() + _RECONNECT_S[self._failures]
            self._fail("the credit store is out of reach")
            raise StoreUnavailable("the credit store is out of reach", retry_after_s=1) from error
        except asyncio.CancelledError:
            await connection.disconnect(nowait=True)
            raise
        self._failures = 0
        self._connection = connection
        self._reader = asyncio.create_task(self._read(connection))
        if self._queued:
            self._flush()

    async def _read(self, connection: AbstractConnection) -> None:
        waiting = self._waiting
        while True:
            try:
                reply = await connection.read_response(disable_decoding=True, timeout=math.inf)
            except ResponseError as error:
                reply = error
            except (RedisError, OSError) as error:
                if self._connection is connection:
                    self._lost(f"the credit store hung up ({type(error).__name__})")
                return
            if self._connection is not connection:
                return
            self._heard_at = self._tick_at
            future = waiting.popleft().future
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    def _lost(self, why: str) -> None:
        connection, self._connection = self._connection, None
        self._fail(why)
        if connection is not None and connection._writer is not None:
            connection._writer.close()

    def _fail(self, why: str) -> None:
        """What was sent may have been applied; what was not cannot."""
        while self._waiting:
            _fail(self._waiting.popleft(), StoreUnavailable(why, retry_after_s=1))
        while self._queued:
            _fail(self._queued.popleft(), StoreUnreached(why, retry_after_s=1))


def refused(error: ResponseError) -> StoreUnavailable:
    """READONLY after a failover, OOM, MOVED, ...: the store's trouble, not the caller's."""
    return StoreUnavailable(f"the credit store refused ({type(error).__name__})", retry_after_s=1)


def _fail(call: _Call, error: StoreUnavailable) -> None:
    if not call.future.done():
        call.future.set_exception(error)


def _seen(task: asyncio.Task[None]) -> None:
    """Its failure has been told to every waiting call already."""
    if not task.cancelled():
        task.exception()
