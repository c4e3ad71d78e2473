"""A book per test, on a SQLite file and on PostgreSQL, with one organization and two accounts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection

from faregate.core.call import Record
from faregate.core.ids import uuid7
from faregate.ledger.accounts import Accounts
from faregate.ledger.book import SqlBook
from faregate.ledger.database import Database
from faregate.ledger.organizations import Organizations

NOW_US = 1_790_000_000_000_000
SQLITE = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
POSTGRES = pytest.mark.parametrize("kind", ["postgres"], indirect=True)


@dataclass
class Now:
    """A clock that tests move."""

    us: int = NOW_US

    def __call__(self) -> int:
        return self.us


@dataclass
class World:
    url: str
    now: Now
    database: Database
    book: SqlBook
    organization_id: str
    account_id: str
    other_account_id: str

    def record(self, charge: int = 1_000, **changes: object) -> Record:
        base = Record(
            hold_id=uuid7().hex,
            hold_kind="call",
            kind="actual",
            organization_id=self.organization_id,
            account_id=self.account_id,
            key_id="k1",
            request_id=f"req_{uuid7().hex}",
            occurred_at_us=self.now.us,
            charge_microcredits=charge,
            cost_usd=Decimal(charge).scaleb(-9),
            endpoint="chat.completions",
            public_model="fast",
            provider="openai",
            provider_kind="openai",
            model="gpt-4.1-mini",
            usage={"input_tokens": 10, "output_tokens": 5},
        )
        return replace(base, **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def rival(world: World) -> AsyncIterator[Any]:
    """Another client of the same PostgreSQL (an asyncpg connection), in a transaction."""
    connection = await asyncpg.connect(world.url)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    if not connection.is_closed():
        await transaction.rollback()
        await connection.close()


def explain(conn: Connection, sql: str) -> list[str]:
    """The plan's lines. PostgreSQL is told to use an index if it can: a tiny table would not be worth one."""
    if conn.dialect.name != "postgresql":
        return [str(row[3]) for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]
    conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
    conn.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
    return [str(row[0]) for row in conn.exec_driver_sql(f"EXPLAIN {sql}")]


@pytest.fixture
async def world(url: str) -> AsyncIterator[World]:
    now = Now()
    database = Database(url, now_us=now)
    organization = await Organizations(database).create(name="Acme")
    other = await Accounts(database).create(organization.id, name="Bob", external_id="bob")
    yield World(
        url=url,
        now=now,
        database=database,
        book=SqlBook(database),
        organization_id=organization.id,
        account_id=organization.default_account_id,
        other_account_id=other.id,
    )
    await database.close()
