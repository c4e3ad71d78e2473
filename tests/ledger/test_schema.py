from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import run

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from faregate.errors import ConfigError
from faregate.ledger.engine import parse_url, transact
from faregate.ledger.schema import HEAD, alembic_config, prepare, stored_version
from faregate.ledger.tables import metadata


def test_head_is_alembics_head() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == HEAD


def _is_no_partition(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "table" or name is None or not name.startswith("usage_records_")


def test_the_migrations_make_the_tables(url: str) -> None:
    def compare(conn: Connection) -> None:
        assert stored_version(conn) == HEAD
        context = MigrationContext.configure(conn, opts={"include_name": _is_no_partition})
        assert compare_metadata(context, metadata) == []

    transact(url, compare)


def test_many_may_prepare_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/deep/book.db"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(prepare, [url] * 8))


def test_alembic_is_not_imported_for_a_schema_that_is_there(url: str) -> None:
    code = f"import sys; from faregate.ledger.schema import prepare; prepare({url!r}); print('alembic' in sys.modules)"
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_database_of_a_newer_release_is_refused(url: str) -> None:
    transact(url, lambda conn: conn.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError):
        prepare(url)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_names_of_postgres(scheme: str) -> None:
    url = parse_url(f"{scheme}://u:p%40@h:5433/d?sslmode=require")
    assert url.render_as_string(hide_password=False) == "postgresql+asyncpg://u:p%40@h:5433/d?sslmode=require"


@pytest.mark.parametrize(
    "bad", ["", "nonsense", "sqlite://", "mysql://h/d", "postgresql+pg8000://h/d", "sqlite:///:memory:"]
)
def test_urls_that_cannot_be_a_book(bad: str) -> None:
    with pytest.raises(ConfigError):
        parse_url(bad)
