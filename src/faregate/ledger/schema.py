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

from faregate.errors import BookUnavailable, ConfigError
from faregate.ledger.engine import parse_url, writer_engine

HEAD = "0001"
"""The newest revision in migrations/versions."""


def prepare(database_url: str) -> None:
    """Create or upgrade the schema; any number of processes may call it at once.

    Raises ConfigError (a bad URL, a database of a newer release) and BookUnavailable.
    """
    path = Path(str(parse_url(database_url).database))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(path.name + ".lock")):
            _upgrade(database_url)
    except (SQLAlchemyError, OSError) as error:
        raise BookUnavailable(f"the database cannot be prepared: {type(error).__name__}") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _upgrade(database_url: str) -> None:
    engine = writer_engine(database_url)
    try:
        with engine.begin() as conn:
            if stored_version(conn) != HEAD:
                _migrate(conn)
    finally:
        engine.dispose()


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
