"""Brings a database up to this release's schema. Alembic (0.1 s to import) is loaded only if needed."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import SQLAlchemyError

from faregate.errors import ConfigError
from faregate.ledger.dialect import one_at_a_time
from faregate.ledger.engine import on_postgres, parse_url, transact
from faregate.ledger.faults import is_misconfigured, unavailable
from faregate.ledger.postgres import check_server

HEAD = "0001"
"""The newest revision in migrations/versions."""


def prepare(database_url: str) -> None:
    """Create or upgrade the schema; any number of processes may call it at once.

    Raises ConfigError (a bad URL, a database of a newer release) and BookUnavailable.
    """
    url = parse_url(database_url)
    try:
        if on_postgres(url):
            transact(database_url, _upgrade)
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
    if conn.dialect.name == "postgresql":
        check_server(conn)
    if stored_version(conn) != HEAD:
        one_at_a_time(conn, "schema")
        if stored_version(conn) != HEAD:
            _migrate(conn)


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
