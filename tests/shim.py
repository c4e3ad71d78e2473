"""A TCP line to Redis or PostgreSQL that a test makes slow, mute or dead. Nothing of it knows their protocols."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Self


class Shim:
    """Listens on loopback, passes everything on to a unix socket. `delay_s` per piece; `mute` holds all back."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._talking = asyncio.Event()
        self._talking.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0
        self.connections = 0
        self.pieces = 0
        """How often the client has sent something."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def mute(self) -> None:
        """Connections stay, nothing passes."""
        self._talking.clear()

    def talk(self) -> None:
        """What was held back passes, too."""
        self._talking.set()

    def cut(self) -> None:
        """Hang up on everybody."""
        for task in self._tasks:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there = await asyncio.open_unix_connection(self._target)
            ways = (self._pass(reader, there[1], count=True), self._pass(there[0], writer))
            with suppress(ConnectionError, asyncio.CancelledError):
                await asyncio.gather(*ways)
            there[1].close()
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool = False) -> None:
        while piece := await reader.read(65_536):
            self.pieces += count
            await asyncio.sleep(self.delay_s)
            await self._talking.wait()
            writer.write(piece)
            await writer.drain()
        writer.close()
