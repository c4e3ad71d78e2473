"""PostgreSQL connections: asyncpg under SQLAlchemy's engine, its settings sent with every connection.

The work of the book is plain functions of a Connection, for both databases. SQLite runs them on threads; here they run
in a greenlet on the event loop (what `AsyncConnection.run_sync` does), which waits without blocking the loop.

READ COMMITTED for writers: account rows are locked in id order before anything else, so whoever waited reads what
the other wrote. Readers see one state of the book (REPEATABLE READ READ ONLY, which never fails to serialise).
A transaction left open by a frozen process ends before those who wait for its rows give up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import greenlet_spawn

from faregate.errors import ConfigError

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 15.0
STATEMENT_TIMEOUT_MS = 10_000
LOCK_TIMEOUT_MS = 5_000
IDLE_TIMEOUT_MS = 4_000
OLDEST_VERSION = 150_000

_SETTINGS = {
    "application_name": "faregate",
    "synchronous_commit": "on",  # whatever the server, database or role says: an answered commit is on disk
    "jit": "off",
    "timezone": "UTC",
}
_BOUNDED = {
    "statement_timeout": str(STATEMENT_TIMEOUT_MS),
    "lock_timeout": str(LOCK_TIMEOUT_MS),
    "idle_in_transaction_session_timeout": str(IDLE_TIMEOUT_MS),
}
_UNBOUNDED = dict.fromkeys(_BOUNDED, "0")
_UNKNOWN_TO_ASYNCPG = ("channel_binding", "prepared_statement_cache_size")
"""What providers of databases put into their URLs, and asyncpg would pass on as a setting of the server."""


def postgres_engine(url: URL, *, size: int, readonly: bool, bounded: bool = True) -> Engine:
    """An engine to be used within `on_loop` only. asyncpg reads the URL itself, so all of libpq's parameters work."""
    dsn = url.set(drivername="postgresql").difference_update_query(_UNKNOWN_TO_ASYNCPG)
    text = dsn.render_as_string(hide_password=False)
    settings = {**_SETTINGS, **(_BOUNDED if bounded else _UNBOUNDED)}
    timeout_s = COMMAND_TIMEOUT_S if bounded else None

    async def connect() -> Any:
        return await import_module("asyncpg").connect(
            text, timeout=CONNECT_TIMEOUT_S, command_timeout=timeout_s, server_settings=settings
        )

    options: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if readonly else {}
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=size,
        max_overflow=0,
        pool_timeout=CONNECT_TIMEOUT_S,
        hide_parameters=True,
        execution_options=options or {"isolation_level": "READ COMMITTED"},
    ).sync_engine
    event.listen(engine, "checkout", _checked_out)
    return engine


def _checked_out(connection: Any, _record: Any, _proxy: Any) -> None:
    """A connection the server has closed meanwhile is replaced before it costs a transaction; no round trip."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError("the server closed the connection")


async def on_loop(work: Callable[..., T], *args: Any) -> T:
    """Run blocking code over a `postgres_engine` on this event loop, without blocking it."""
    return await greenlet_spawn(work, *args)


def blocking(work: Callable[[], T]) -> T:
    """Run it on an event loop of its own, in a thread: for callers that have no loop, or must not use theirs."""
    with ThreadPoolExecutor(1, thread_name_prefix="faregate-sql") as pool:
        return pool.submit(lambda: asyncio.run(greenlet_spawn(work))).result()


def check_server(conn: Connection) -> None:
    """Raises ConfigError for a server too old, or a database that cannot hold every text."""
    sql = "SELECT current_setting('server_version_num')::int, current_setting('server_encoding')"
    version, encoding = conn.exec_driver_sql(sql).one()
    if version < OLDEST_VERSION:
        raise ConfigError("database_url: PostgreSQL 15 or newer is needed", param="database_url")
    if encoding != "UTF8":
        raise ConfigError(f"database_url: the database's encoding is {encoding}, not UTF8", param="database_url")
