"""Brings a database up to this release's schema. Alembic (0.1 s to import) is loaded only if needed.

Revisions are numbered; the first two digits are a generation, within which they only add. So a release goes with every
later schema of its generation: a worker of the release before may start again after a migration.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from faregate.errors import ConfigError
from faregate.ledger import partitions
from faregate.ledger.engine import connected, on_postgres, parse_url, transact, wall_us
from faregate.ledger.faults import is_misconfigured, is_wait, unavailable
from faregate.ledger.postgres import check_server

log = logging.getLogger("faregate")

HEAD = "0001"
"""The newest revision in migrations/versions."""


LOCK_TIMEOUT_MS = 2_000
"""How long a revision waits for a table that is in use: whoever comes later waits behind it."""
ATTEMPTS = 30
PAUSE_S = 1.0
TURN_S = 0.1


def prepare(database_url: str) -> None:
    """Create or upgrade the schema; any number of processes may call it at once, while others use the database.

    Raises ConfigError (a bad URL, a database of a release that this one cannot go with) and BookUnavailable.
    """
    url = parse_url(database_url)
    try:
        if on_postgres(url):
            _prepare_postgres(database_url)
        else:
            path = Path(str(url.database))
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_name(path.name + ".lock")):
                transact(database_url, _upgrade)
    except (SQLAlchemyError, OSError) as error:
        if is_misconfigured(error):
            raise ConfigError("database_url has a parameter that cannot be used", param="database_url") from error
        raise unavailable(error, "prepared") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _upgrade(conn: Connection) -> None:
    if not _is_current(conn):
        _migrate(conn)


def _prepare_postgres(database_url: str) -> None:
    if not transact(database_url, _is_current):
        connected(database_url, _upgrade_in_use)
    try:
        transact(database_url, lambda conn: partitions.make(conn, wall_us()))
    except DBAPIError as error:
        if not is_wait(error):
            raise
        log.info("the coming months of usage records are made later: %s", type(error).__name__)


def _upgrade_in_use(conn: Connection) -> None:
    """One process at a time; a revision that cannot have its locks soon gives way, and is tried again."""
    _take_turn(conn)
    conn.exec_driver_sql(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
    conn.commit()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            current = _is_current(conn)
            conn.commit()  # each revision begins its own
            if not current:
                _migrate(conn)
        except DBAPIError as error:
            if not is_wait(error) or attempt == ATTEMPTS:
                raise
            conn.rollback()
            log.info("the schema is in use: attempt %d of %d", attempt, ATTEMPTS)
            time.sleep(PAUSE_S)
        else:
            return


def _take_turn(conn: Connection) -> None:
    """Wait for others who migrate, between transactions: an index that is built meanwhile waits for all open ones."""
    sql = "SELECT pg_try_advisory_lock(hashtext('faregate'), hashtext('schema'))"
    while not conn.exec_driver_sql(sql).scalar_one():
        conn.commit()
        time.sleep(TURN_S)
    conn.commit()


def _is_current(conn: Connection) -> bool:
    """Whether there is nothing to do: it has our revision, or a later one of our generation, which only added."""
    if conn.dialect.name == "postgresql":
        check_server(conn)
    stored = stored_version(conn)
    return stored == HEAD or (stored is not None and stored[:2] == HEAD[:2] and stored > HEAD)


def stored_version(conn: Connection) -> str | None:
    """The schema's revision; None for an empty database."""
    if not inspect(conn).has_table("alembic_version"):
        return None
    row = conn.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    return None if row is None else str(row[0])


def _migrate(conn: Connection) -> None:
    command, util = import_module("alembic.command"), import_module("alembic.util")
    config = alembic_config()
    config.attributes["connection"] = conn
    try:
        command.upgrade(config, "head")
    except util.CommandError as error:
        raise ConfigError(f"the database was written by another release: {error}") from error


def alembic_config() -> Any:
    """Alembic's configuration, without a file."""
    config = import_module("alembic.config").Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config
