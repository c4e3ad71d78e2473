"""One process's way into the book: a writer thread and a few reader threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from faregate.core.call import Committed, Record
from faregate.errors import BookUnavailable
from faregate.ledger.batcher import MAX_BATCH, MAX_QUEUED, Writer
from faregate.ledger.engine import reader_engine, wall_us, writer_engine

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
        max_batch: int = MAX_BATCH,
        max_queued: int = MAX_QUEUED,
    ) -> None:
        self.url = database_url
        self.now_us = now_us
        self._write_engine = writer_engine(database_url)
        self._read_engine = reader_engine(database_url, readers)
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="faregate-reader")
        self.writer = Writer(self._write_engine, now_us=now_us, max_batch=max_batch, max_queued=max_queued)

    async def commit(self, record: Record) -> Committed:
        """Group commit. Raises BookUnavailable, BookRefused."""
        return await self.writer.commit(record)

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(conn, ...)` in a transaction of its own. Raises BookUnavailable, and what `work` raises."""
        return await self.writer.run(lambda conn: work(conn, *args, **kwargs))

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(conn, ...)` on one state of the book. Raises BookUnavailable, and what `work` raises."""

        def run() -> T:
            try:
                with self._read_engine.begin() as conn:
                    return work(conn, *args, **kwargs)
            except (SQLAlchemyError, OSError) as error:
                raise BookUnavailable(f"the book cannot be read: {type(error).__name__}") from error

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def close(self) -> None:
        """Finish what is queued and give the connections back."""
        await self.writer.close()
        await asyncio.to_thread(self._readers.shutdown)
        self._write_engine.dispose()
        self._read_engine.dispose()
