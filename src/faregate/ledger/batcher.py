"""Group commit: what is queued when the writer becomes free is one transaction; nobody waits on purpose.

One thread owns the one writing connection. A batch costs one hop to it and one back. Every future is resolved,
whatever happens, cancelled ones too; a batch that is refused is tried again row by row (savepoints, one fsync),
and a row that is refused alone blocks nobody.
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
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError, StatementError

from faregate.core.call import Committed, Record
from faregate.errors import BookRefused, BookUnavailable, FaregateError
from faregate.ledger.commit import write_batch

T = TypeVar("T")
Job = Callable[[Connection], object]
Outcome = Committed | BaseException | object

log = logging.getLogger(__name__)

MAX_BATCH = 200
MAX_QUEUED = 20_000

_ROW_FAULTS = (BookRefused, IntegrityError, DataError, ValueError, TypeError, ArithmeticError, LookupError)
"""What a record can be to blame for (text that is not UTF-8, an integer too large, ...)."""


@dataclass(slots=True, eq=False)
class _Item:
    work: Record | Job
    future: asyncio.Future[Any]


class Writer:
    """The writing thread and its queue. Belongs to one event loop; the thread starts with the first item."""

    def __init__(
        self,
        engine: Engine,
        *,
        now_us: Callable[[], int],
        max_batch: int = MAX_BATCH,
        max_queued: int = MAX_QUEUED,
    ) -> None:
        self._engine = engine
        self._now_us = now_us
        self._max_batch = max_batch
        self._max_queued = max_queued
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._queued = 0
        self._closed = False
        self._thread: threading.Thread | None = None

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
        self._queue.put(None)
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
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="faregate-book", daemon=True)
            self._thread.start()
        return future

    def _work(self) -> None:
        open_ = True
        while open_:
            items, open_ = self._take()
            if items:
                self._serve(items)

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
            outcomes = self._commit([cast(Record, item.work) for item in records])
        except BaseException as error:
            log.exception("the book's writer failed")
            outcomes = [_unavailable(error) for _ in records]
        _resolve(self, records, outcomes)
        for item in items:
            if callable(item.work):
                _resolve(self, [item], [self._run(item.work)])

    def _commit(self, records: Sequence[Record]) -> Sequence[Outcome]:
        if not records:
            return []
        try:
            with self._engine.begin() as conn:
                return write_batch(conn, records, self._now_us())
        except (*_ROW_FAULTS, StatementError) as error:
            if not _is_row_fault(error):
                return [_unavailable(error) for _ in records]
        except (SQLAlchemyError, OSError) as error:
            return [_unavailable(error) for _ in records]
        return self._commit_singly(records)

    def _commit_singly(self, records: Sequence[Record]) -> Sequence[Outcome]:
        try:
            with self._engine.begin() as conn:
                return [self._commit_one(conn, record) for record in records]
        except (SQLAlchemyError, OSError) as error:
            return [_unavailable(error) for _ in records]

    def _commit_one(self, conn: Connection, record: Record) -> Outcome:
        try:
            with conn.begin_nested():
                return write_batch(conn, [record], self._now_us())[0]
        except (*_ROW_FAULTS, StatementError) as error:
            if not _is_row_fault(error):
                raise
            log.error("the book refuses a record of hold %s: %s", record.hold_id, type(error).__name__)
            return error if isinstance(error, BookRefused) else _refused(error)

    def _run(self, job: Job) -> Outcome:
        try:
            with self._engine.begin() as conn:
                return job(conn)
        except FaregateError as error:
            return error
        except (IntegrityError, DataError) as error:
            return _refused(error)
        except (SQLAlchemyError, OSError) as error:
            return _unavailable(error)
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


def _is_row_fault(error: BaseException) -> bool:
    if isinstance(error, _ROW_FAULTS):
        return True
    return type(error) is StatementError and isinstance(error.orig, _ROW_FAULTS)


def _unavailable(error: BaseException) -> BookUnavailable:
    wrapped = BookUnavailable(f"the book cannot be reached: {type(error).__name__}")
    wrapped.__cause__ = error
    return wrapped


def _refused(error: BaseException) -> BookRefused:
    wrapped = BookRefused(f"the book refuses the record: {type(error).__name__}")
    wrapped.__cause__ = error
    return wrapped
