"""One process's way into the book: a writer and a few readers, threads on SQLite, tasks on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from faregate.core.call import Committed, Record
from faregate.core.metering import Metered
from faregate.errors import BookUnavailable, InvalidRequest
from faregate.ledger.batcher import MAX_BATCH, MAX_QUEUED, Writer
from faregate.ledger.claims import do_once, next_step
from faregate.ledger.clerk_line import ClerkLine
from faregate.ledger.engine import reader_engine, wall_us, writer_engine
from faregate.ledger.faults import is_refusal, unavailable
from faregate.ledger.metering import metering
from faregate.ledger.postgres import on_loop

LANES = 1
"""Connections that write, on PostgreSQL."""

MAX_READS = 1_000
"""Reads that may wait or run; further ones are refused."""

T = TypeVar("T")
P = ParamSpec("P")


class Database:
    """Runs plain functions of a Connection: `read` beside everything else, `write` one after the other.

    Open one per process, after forking, on a database that `schema.prepare` has brought up.
    """

    def __init__(
        self,
        database_url: str,
        *,
        now_us: Callable[[], int] = wall_us,
        readers: int = 4,
        lanes: int = LANES,
        max_batch: int = MAX_BATCH,
        max_queued: int = MAX_QUEUED,
        clerk: str | None = None,
        metered: Metered = "off",
    ) -> None:
        """`clerk`: the socket of the process that commits records for all workers (SQLite).

        `metered`: which usage is also queued for the organizations' meters (ledger.metering).
        """
        self.url = database_url
        self.now_us = now_us
        self._write_engine = metering(writer_engine(database_url, size=lanes), metered)
        self._read_engine = reader_engine(database_url, readers)
        self._on_loop = self._read_engine.dialect.is_async
        self._reading: set[asyncio.Future[Any]] = set()
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="faregate-reader")
        self.writer = Writer(self._write_engine, now_us=now_us, lanes=lanes, max_batch=max_batch, max_queued=max_queued)
        self._line = ClerkLine(clerk, max_queued=max_queued) if clerk is not None else None

    async def commit(self, record: Record) -> Committed:
        """Group commit. Raises BookUnavailable, BookRefused."""
        return await (self._line or self.writer).commit(record)

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(conn, ...)` in a transaction of its own. Raises BookUnavailable, and what `work` raises.

        On PostgreSQL it is run again when another process was in the way, so it moves nothing but the database.
        Within a request that has an Idempotency-Key it is a step: done once, its result kept (claims.py).
        """
        step = next_step(work)
        if step is None:
            return await self.writer.run(lambda conn: work(conn, *args, **kwargs))
        now_us = self.now_us()
        return await self.writer.run(lambda conn: do_once(conn, step, lambda: work(conn, *args, **kwargs), now_us))

    async def upkeep(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`write` for work that is no request's effect: it is done every time it is called."""
        return await self.writer.run(lambda conn: work(conn, *args, **kwargs))

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(conn, ...)` on one state of the book. Raises BookUnavailable, InvalidRequest, and `work`'s own."""

        def run() -> T:
            try:
                with self._read_engine.begin() as conn:
                    return work(conn, *args, **kwargs)
            except (SQLAlchemyError, OSError) as error:
                if is_refusal(error):  # PostgreSQL looks for no NUL, and for no number it has no room for
                    raise InvalidRequest("a value is not one that the book could hold") from error
                raise unavailable(error, "read") from error

        if len(self._reading) >= MAX_READS:
            raise BookUnavailable("the book is behind: too many reads wait", retry_after_s=1)
        loop = asyncio.get_running_loop()
        task = loop.create_task(on_loop(run)) if self._on_loop else loop.run_in_executor(self._readers, run)
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)
        # A cancelled caller must not cost PostgreSQL's connection; a thread's work is taken back if it has not begun.
        return await (asyncio.shield(task) if self._on_loop else task)

    async def close(self) -> None:
        """Finish what is queued and give the connections back."""
        if self._line is not None:
            await self._line.close()
        await self.writer.close()
        if self._on_loop:
            await asyncio.gather(*self._reading, return_exceptions=True)
            await on_loop(self._write_engine.dispose)
            await on_loop(self._read_engine.dispose)
            return
        await asyncio.to_thread(self._readers.shutdown)
        self._write_engine.dispose()
        self._read_engine.dispose()
