"""Group commit: what is queued when the writer becomes free is one transaction; nobody waits on purpose.

SQLite: one thread owns the one writing connection; a batch costs one hop to it and one back. PostgreSQL: the same
work on the event loop, in a task for each of a few connections; there a transaction that collides with another
process's is run again. Every future is resolved, whatever happens, cancelled ones too; a batch that is refused is
tried again row by row (savepoints, one fsync), and a row that is refused alone blocks nobody.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from faregate.core.call import Committed, Record
from faregate.errors import BookUnavailable, FaregateError
from faregate.ledger.committer import Committer
from faregate.ledger.faults import is_refusal, refused, unavailable
from faregate.ledger.postgres import on_loop

T = TypeVar("T")
Job = Callable[[Connection], object]
Outcome = Committed | BaseException | object

log = logging.getLogger(__name__)

MAX_BATCH = 200
MAX_QUEUED = 20_000


@dataclass(slots=True, eq=False)
class _Item:
    work: Record | Job
    future: asyncio.Future[Any]


class Writer:
    """The queue and who works it off. Belongs to one event loop; the work starts with the first item."""

    def __init__(
        self,
        engine: Engine,
        *,
        now_us: Callable[[], int],
        lanes: int = 1,
        max_batch: int = MAX_BATCH,
        max_queued: int = MAX_QUEUED,
    ) -> None:
        self._committer = Committer(engine, now_us)
        self._max_batch = max_batch
        self._max_queued = max_queued
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._queued = 0
        self._closed = False
        self._thread: threading.Thread | None = None
        self._lanes = lanes if engine.dialect.is_async else 0
        self._tasks: list[asyncio.Task[None]] = []
        self._filled = asyncio.Event()

    @property
    def queued(self) -> int:
        """Items whose future is open."""
        return self._queued

    async def commit(self, record: Record) -> Committed:
        """Book a record with whatever else is waiting. Raises BookUnavailable, BookRefused."""
        return cast(Committed, await self._enqueue(record))

    async def run(self, job: Callable[[Connection], T]) -> T:
        """Run a function in a transaction of its own; what it raises rolls back."""
        return cast(T, await self._enqueue(job))

    async def close(self) -> None:
        """Finish what is queued, then stop."""
        if self._closed:
            return
        self._closed = True
        for _ in range(self._lanes or 1):
            self._queue.put(None)
        self._filled.set()
        await asyncio.gather(*self._tasks)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _enqueue(self, work: Record | Job) -> asyncio.Future[Any]:
        if self._closed:
            raise BookUnavailable("the book is closed")
        if self._queued >= self._max_queued:
            raise BookUnavailable("the book is behind: too many records wait to be written", retry_after_s=1)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queued += 1
        self._queue.put(_Item(work, future))
        if self._lanes:
            self._filled.set()
            if not self._tasks:
                self._tasks = [asyncio.create_task(self._work_on_loop()) for _ in range(self._lanes)]
        elif self._thread is None:
            self._thread = threading.Thread(target=self._work, name="faregate-book", daemon=True)
            self._thread.start()
        return future

    def _work(self) -> None:
        open_ = True
        while open_:
            items, open_ = self._take()
            if items:
                self._serve(items)

    async def _work_on_loop(self) -> None:
        open_ = True
        while open_:
            while self._queue.empty():
                self._filled.clear()
                await self._filled.wait()
            items, open_ = self._take()
            if items:
                await on_loop(self._serve, items)  # resolves every future even when it is cancelled
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError

    def _take(self) -> tuple[list[_Item], bool]:
        """Wait for one item, then take what else is there; False after the last."""
        items: list[_Item] = []
        item = self._queue.get()
        while item is not None:
            items.append(item)
            if len(items) >= self._max_batch:
                return items, True
            try:
                item = self._queue.get_nowait()
            except Empty:
                return items, True
        return items, False

    def _serve(self, items: Sequence[_Item]) -> None:
        records = [item for item in items if not callable(item.work)]
        try:
            outcomes = self._committer.commit([cast(Record, item.work) for item in records])
        except BaseException as error:
            log.exception("the book's writer failed")
            outcomes = [unavailable(error) for _ in records]
        _resolve(self, records, outcomes)
        for item in items:
            if callable(item.work):
                _resolve(self, [item], [self._run(item.work)])

    def _run(self, job: Job) -> Outcome:
        try:
            return self._committer.transact(job)
        except FaregateError as error:
            return error
        except (SQLAlchemyError, OSError) as error:
            return refused(error) if is_refusal(error) else unavailable(error)
        except BaseException as error:  # noqa: BLE001 - the caller's own mistake goes to the caller
            return error

    def _deliver(self, items: Sequence[_Item], outcomes: Sequence[Outcome]) -> None:
        for item, outcome in zip(items, outcomes, strict=True):
            self._queued -= 1
            if item.future.done():  # its caller was cancelled; the record is booked all the same
                continue
            if isinstance(outcome, BaseException):
                item.future.set_exception(outcome)
            else:
                item.future.set_result(outcome)


def _resolve(writer: Writer, items: Sequence[_Item], outcomes: Sequence[Outcome]) -> None:
    if not items:
        return
    try:
        items[0].future.get_loop().call_soon_threadsafe(writer._deliver, items, outcomes)
    except RuntimeError:  # the loop is gone, and nobody waits any more
        log.warning("the event loop closed before %d answers of the book", len(items))
