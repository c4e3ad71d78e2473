"""A later, additive revision under a gateway that was written before it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect
from tests.ledger.conftest import POSTGRES, World, rival

from faregate.errors import BookUnavailable, ConfigError
from faregate.ledger import schema
from faregate.ledger.audit import audit
from faregate.ledger.database import Database
from faregate.ledger.engine import transact
from faregate.ledger.partitions import missing
from faregate.ledger.schema import HEAD, alembic_config, prepare, stored_version
from faregate.ledger.usage import UsageRecords
from faregate.ledger.usage_filter import UsageFilter

LATER_US = 1_990_000_000_000_000
REVISION = """
import sqlalchemy as sa
from alembic import op
from faregate.ledger.migrations.online import add_index

revision, down_revision = "0002", "{before}"

def upgrade():
    op.add_column("accounts", sa.Column("colour", sa.Text(), nullable=True))
    op.add_column("usage_records", sa.Column("region", sa.Text(), nullable=True))
    op.add_column("entries", sa.Column("batch", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_table("shelves", sa.Column("id", sa.Text(), primary_key=True))
    add_index("ix_entries_reason", "entries", ["reason"])
"""


@pytest.fixture
def next_release(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on `prepare` is the next release's."""
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "0002_more.py").write_text(REVISION.format(before=HEAD))
    own = Path(schema.__file__).parent / "migrations" / "versions"

    def config() -> Any:
        made = alembic_config()
        made.set_main_option("version_locations", f"{own}:{tmp_path / 'versions'}")
        return made

    monkeypatch.setattr(schema, "alembic_config", config)
    monkeypatch.setattr(schema, "HEAD", "0002")
    monkeypatch.setattr(schema, "PAUSE_S", 0.05)


def _columns(conn: Connection, table: str) -> set[str]:
    return {column["name"] for column in inspect(conn).get_columns(table)}


@pytest.mark.usefixtures("next_release")
async def test_a_gateway_serves_while_the_next_release_migrates_and_after(world: World) -> None:
    slowest, migrated = 0.0, False

    async def traffic() -> None:
        nonlocal slowest
        rest = 20
        while rest := rest - migrated:
            begin = time.monotonic()
            answer = await world.book.commit(world.record(5, limit_keys=()))
            slowest = max(slowest, time.monotonic() - begin)
            assert answer.new
            await UsageRecords(world.database).list(UsageFilter(organization_id=world.organization_id), limit=5)

    serving = asyncio.create_task(traffic())
    await asyncio.gather(*(asyncio.to_thread(prepare, world.url) for _ in range(3)))
    migrated = True
    await serving
    assert transact(world.url, stored_version) == "0002"
    assert "region" in transact(world.url, lambda conn: _columns(conn, "usage_records"))
    assert slowest < 5
    assert audit(world.url) == []


async def test_a_worker_of_the_release_before_starts_again(
    world: World, next_release: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(world.url)
    monkeypatch.undo()
    prepare(world.url)
    assert transact(world.url, stored_version) == "0002"
    old = Database(world.url)
    assert (await old.commit(world.record(5))).new
    await old.close()


@pytest.mark.parametrize("version", ["0101", "9999", "0000", "some hash"])
def test_a_schema_of_another_generation_is_refused(url: str, version: str) -> None:
    transact(url, lambda conn: conn.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{version}'"))
    with pytest.raises(ConfigError, match="another release"):
        prepare(url)


@POSTGRES
@pytest.mark.usefixtures("next_release")
async def test_a_revision_that_has_to_wait_gives_way_and_tries_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "LOCK_TIMEOUT_MS", 100)
    async with rival(world) as other:
        await other.fetchval("SELECT count(*) FROM accounts")
        migrating = asyncio.create_task(asyncio.to_thread(prepare, world.url))
        for _ in range(10):
            begin = time.monotonic()
            await world.book.commit(world.record(5))
            assert time.monotonic() - begin < 2
            await asyncio.sleep(0.05)
        assert not migrating.done()
    await migrating
    assert transact(world.url, stored_version) == "0002"


@POSTGRES
@pytest.mark.usefixtures("next_release")
async def test_a_revision_without_end_of_waiting_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "LOCK_TIMEOUT_MS", 20)
    monkeypatch.setattr(schema, "ATTEMPTS", 3)
    async with rival(world) as other:
        await other.fetchval("SELECT count(*) FROM usage_records")
        with pytest.raises(BookUnavailable, match="55P03"):
            await asyncio.to_thread(prepare, world.url)
    assert transact(world.url, stored_version) == HEAD
    assert "colour" not in transact(world.url, lambda conn: _columns(conn, "accounts"))


@POSTGRES
async def test_months_that_have_to_wait_do_not_stop_a_start(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "wall_us", lambda: LATER_US)
    async with rival(world) as other:
        await other.fetchval("SELECT count(*) FROM usage_records")
        await asyncio.to_thread(prepare, world.url)
        assert await world.database.read(missing, LATER_US)
    await asyncio.to_thread(prepare, world.url)
    assert not await world.database.read(missing, LATER_US)
