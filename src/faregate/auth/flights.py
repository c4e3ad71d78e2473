"""Single flight: many callers who want the same thing at once share one read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Flights(Generic[T]):
    """One read per name at a time. A caller who gives up never cancels the read the others wait for."""

    def __init__(self, read: Callable[[str], Awaitable[T]]) -> None:
        self._read = read
        self._running: dict[str, asyncio.Task[T]] = {}

    async def join(self, name: str) -> T:
        """The result of the read that is running, or of a new one."""
        task = self._running.get(name)
        if task is None or task.done():
            task = asyncio.create_task(self._fly(name))
            self._running[name] = task
            task.add_done_callback(lambda done: self._landed(name, done))
        return await asyncio.shield(task)

    def running(self, name: str) -> bool:
        """Whether there is a read that a new caller would join."""
        task = self._running.get(name)
        return task is not None and not task.done()

    async def fresh(self, name: str) -> T:
        """The result of a read begun after this call: one that is running may have read what was before."""
        running = self._running.get(name)
        if running is not None:
            await asyncio.wait([running])
        return await self.join(name)

    async def _fly(self, name: str) -> T:
        return await self._read(name)

    def _landed(self, name: str, done: asyncio.Task[T]) -> None:
        if self._running.get(name) is done:
            del self._running[name]
        if not done.cancelled():
            done.exception()  # marked as seen: every caller may have left
