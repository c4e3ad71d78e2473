"""Records that SQL could not take when they came: one prober asks for all of them, then they go in batches.

Without it every waiting call would knock on its own, and an outage of a minute would end in a stampede.
"""

from __future__ import annotations

import asyncio
from collections import deque
from random import random

from faregate.core.call import Committed, Record
from faregate.errors import BookRefused, BookUnavailable
from faregate.ports import Book

_BACKOFF_S = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
_BATCH = 200


class Backlog:
    """In front of the book. `most` bounds how many may wait: `full` says when no new call should be let in."""

    def __init__(self, book: Book, *, most: int = 50_000) -> None:
        self._book = book
        self._most = most
        self._waiting: deque[tuple[Record, asyncio.Future[Committed]]] = deque()
        self._prober: asyncio.Task[None] | None = None
        self._away = False
        """The last word of the book was that it is out of reach."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def away(self) -> bool:
        """The last word of the book was that it is out of reach."""
        return self._away

    @property
    def full(self) -> bool:
        """No more calls, please."""
        return len(self._waiting) >= self._most

    async def commit(self, record: Record) -> Committed:
        """The book's answer, however long that takes. Raises BookRefused."""
        if not self._waiting and not self._away:
            try:
                return await self._book.commit(record)
            except BookRefused:
                raise
            except BookUnavailable:
                self._away = True
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, future))
        if self._prober is None or self._prober.done():
            self._prober = asyncio.create_task(self._probe())
        return await future

    async def _probe(self) -> None:
        failures = 0
        while self._waiting:
            size = 1 if failures else _BATCH
            batch = [self._waiting.popleft() for _ in range(min(size, len(self._waiting)))]
            refused = await asyncio.gather(*(self._try(record, future) for record, future in batch))
            again = [pair for pair, unavailable in zip(batch, refused, strict=True) if unavailable]
            self._waiting.extend(again)  # At the tail: one that is always unavailable must not stand before the rest.
            self._away = bool(again)
            if again:
                rest_s = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
                await asyncio.sleep(rest_s * (0.5 + random()))  # noqa: S311 - workers must not knock in step
                failures += 1
            else:
                failures = 0

    async def _try(self, record: Record, future: asyncio.Future[Committed]) -> bool:
        """True when the book was out of reach."""
        if future.done():
            return False
        try:
            committed = await self._book.commit(record)
        except BookRefused as error:
            if not future.done():
                future.set_exception(error)
        except BookUnavailable:
            return True
        else:
            if not future.done():  # Its caller has left meanwhile: that must not take the batch with it.
                future.set_result(committed)
        return False
