"""A worker's line to the clerk, the process that writes records into an SQLite book for all workers of a host.

Records of one tick of the event loop leave in one write. Whatever happens to the line, every waiting commit ends: with
BookUnavailable when it is not known to be booked, which is to be tried again (a record is booked once, by its hold).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import cast

import orjson

from faregate.core.call import Committed, Record
from faregate.core.codec import encode_record
from faregate.errors import BookUnavailable
from faregate.ledger.batcher import MAX_QUEUED
from faregate.ledger.clerk_wire import HEAD, Frames, outcome_of

_MUTE_S = 15.0
"""Longer than SQLite may wait for its lock: a clerk that says nothing for so long is not waited for."""


class ClerkLine:
    """Commits over a unix socket, made with the first record. Belongs to one event loop."""

    def __init__(self, path: str, *, max_queued: int = MAX_QUEUED, mute_s: float = _MUTE_S) -> None:
        self._path = path
        self._max_queued = max_queued
        self._mute_s = mute_s
        self._talk: _Talk | None = None
        self._connecting: asyncio.Task[_Talk] | None = None
        self._closed = False

    @property
    def queued(self) -> int:
        """Commits that wait for their answer."""
        return len(self._talk.waiting) if self._talk is not None else 0

    async def commit(self, record: Record) -> Committed:
        """Book a record. Raises BookUnavailable, BookRefused."""
        talk = self._talk
        if talk is None:
            talk = await self._connected()
        if len(talk.waiting) >= self._max_queued:
            raise BookUnavailable("the book is behind: too many records wait to be written", retry_after_s=1)
        return await talk.ask(encode_record(record))

    async def close(self) -> None:
        """Wait for the answers that are due (bounded), then hang up."""
        self._closed = True
        if self._talk is not None:
            await self._talk.finish(self._mute_s)

    async def _connected(self) -> _Talk:
        if self._closed:
            raise BookUnavailable("the book is closed")
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> _Talk:
        loop = asyncio.get_running_loop()
        try:
            _, talk = await loop.create_unix_connection(lambda: _Talk(self._mute_s, self._ended), self._path)
        except OSError as error:
            failure = BookUnavailable(f"the book's clerk cannot be reached: {type(error).__name__}")
        else:
            self._talk = talk
            return talk
        finally:
            self._connecting = None
        raise failure

    def _ended(self) -> None:
        self._talk = None


class _Talk(asyncio.Protocol):
    """One connection."""

    def __init__(self, mute_s: float, ended: Callable[[], None]) -> None:
        self.waiting: dict[int, asyncio.Future[Committed]] = {}
        self._mute_s = mute_s
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._frames = Frames()
        self._number = 0
        self._out: list[bytes] = []
        self._heard_at = self._loop.time()
        self._watch: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._gone = asyncio.Event()

    def ask(self, payload: bytes) -> asyncio.Future[Committed]:
        """Send a record with whatever else leaves in this tick."""
        future: asyncio.Future[Committed] = self._loop.create_future()
        if not self.waiting:
            self._heard_at = self._loop.time()
            if self._watch is None:
                self._watch = self._loop.call_later(self._mute_s, self._look)
        self._number += 1
        self.waiting[self._number] = future
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += (HEAD.pack(len(payload), self._number), payload)
        return future

    async def finish(self, patience_s: float) -> None:
        """Hang up when nothing is waited for any more."""
        if self.waiting:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), patience_s)
        self._transport.close()
        await self._gone.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of asyncio's

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        for _, payload in self._frames.feed(data):
            for number, answer in orjson.loads(payload):
                self._resolve(number, answer)
        if not self.waiting:
            self._idle.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()
        if self._watch is not None:
            self._watch.cancel()
        waiting, self.waiting = self.waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(BookUnavailable("the book's clerk has hung up"))
        self._idle.set()
        self._gone.set()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if not self._transport.is_closing():
            self._transport.write(b"".join(out))

    def _resolve(self, number: int, answer: dict[str, object]) -> None:
        future = self.waiting.pop(number, None)
        if future is None or future.done():  # its caller was cancelled; the record is booked all the same
            return
        outcome = outcome_of(answer)
        if isinstance(outcome, Committed):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

    def _look(self) -> None:
        """One lazy timer a connection: armed while something is waited for."""
        self._watch = None
        if not self.waiting:
            return
        left = self._heard_at + self._mute_s - self._loop.time()
        if left > 0:
            self._watch = self._loop.call_later(left, self._look)
        else:
            self._transport.abort()
