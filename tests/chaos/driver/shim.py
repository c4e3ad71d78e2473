"""A TCP proxy that can be told to lose, to hold back and to break what goes through it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_PIECE = 65536


@dataclass(slots=True, eq=False)
class _Line:
    """One connection, both sides of it."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter | None = None
    tainted: bool = False
    """A reply of it was lost: what follows would be taken for that reply."""

    def reset(self) -> None:
        for writer in (self.near, self.far):
            if writer is None:
                continue
            sock = writer.get_extra_info("socket")
            with suppress(OSError):  # A unix socket, or one that is closed.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


@dataclass(slots=True)
class Shim:
    """In front of a TCP port or a unix socket. Each disturbance is a context that ends with the line in order."""

    target: tuple[str, int] | Path
    address: str = "127.0.0.1"
    port: int = 0
    lost_replies: int = 0
    """Pieces that were swallowed, so far."""
    _server: asyncio.Server | None = None
    _lines: set[_Line] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _flows: asyncio.Event = field(default_factory=asyncio.Event)
    _losing: bool = False
    _delay_s: float = 0.0

    async def start(self) -> None:
        """Listen; the port stays the same from then on."""
        self._flows.set()
        self._server = await asyncio.start_server(self._connected, self.address, self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Break everything off."""
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> int:
        """RST on every connection. How many there were."""
        lines = list(self._lines)
        for line in lines:
            line.reset()
        return len(lines)

    @asynccontextmanager
    async def hanging(self) -> AsyncIterator[None]:
        """Nothing goes through in either direction; what was sent meanwhile comes late."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    @asynccontextmanager
    async def parted(self) -> AsyncIterator[None]:
        """Nothing goes through, and nothing of it ever arrives."""
        self._flows.clear()
        try:
            yield
        finally:
            self.reset()
            self._flows.set()

    @asynccontextmanager
    async def losing_replies(self) -> AsyncIterator[None]:
        """Requests arrive and are done; their replies are swallowed, and the connection breaks at the end."""
        self._losing = True
        try:
            yield
        finally:
            self._losing = False
            for line in [line for line in self._lines if line.tainted]:
                line.reset()

    @asynccontextmanager
    async def slow(self, delay_s: float) -> AsyncIterator[None]:
        """Every piece comes late."""
        self._delay_s = delay_s
        try:
            yield
        finally:
            self._delay_s = 0.0

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        line = _Line(writer)
        self._lines.add(line)
        try:
            await self._flows.wait()
            far_reader, line.far = await self._reach()
            ends = [asyncio.create_task(self._up(reader, line)), asyncio.create_task(self._down(far_reader, line))]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._lines.discard(line)
            self._tasks.discard(task)
            for side in (line.near, line.far):
                if side is not None:
                    side.close()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, Path):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection(*self.target)

    async def _up(self, reader: asyncio.StreamReader, line: _Line) -> None:
        assert line.far is not None
        while data := await reader.read(_PIECE):
            await self._pass(line.far, data)

    async def _down(self, reader: asyncio.StreamReader, line: _Line) -> None:
        while data := await reader.read(_PIECE):
            if self._losing or line.tainted:
                line.tainted = True
                self.lost_replies += 1
                continue
            await self._pass(line.near, data)

    async def _pass(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        await self._flows.wait()
        writer.write(data)
        await writer.drain()
