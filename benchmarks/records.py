"""Millions of realistic usage records, straight into an SQLite file of this release's schema.

One organization, 200 accounts with a key or two each, 14 models of 5 providers, most traffic on few of each (by rank),
a daily rhythm, adjustments, and values so rare that only an index finds them. What the ledger would derive from the
records (rollups, routes, labels) is derived here; indexes are built at the end.
"""

from __future__ import annotations

import asyncio
import math
import random
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from typing import Any

from faregate.ledger import tables
from faregate.ledger.accounts import Accounts
from faregate.ledger.database import Database
from faregate.ledger.dialect import columns_of, exact_text
from faregate.ledger.organizations import Organizations
from faregate.ledger.rollups import DAY_US, HOUR_US, ROLLUPS
from faregate.ledger.schema import prepare

DAYS = 90
START_US = 20_454 * DAY_US
"""2026-01-01."""
_MODELS = (
    ("openai", "gpt-5-mini"),
    ("openai", "gpt-5"),
    ("anthropic", "claude-sonnet-4-5"),
    ("gemini", "gemini-2.5-flash"),
    ("openai", "gpt-4.1-nano"),
    ("anthropic", "claude-haiku-4-5"),
    ("gemini", "gemini-2.5-pro"),
    ("openai", "text-embedding-3-small"),
    ("azure", "gpt-5"),
    ("deepseek", "deepseek-chat"),
    ("openai", "o4-mini"),
    ("anthropic", "claude-opus-4-1"),
    ("gemini", "gemini-2.5-flash-lite"),
    ("deepseek", "deepseek-reasoner"),
)
RARE = {"model": "gpt-3.5-turbo-0613", "provider": "old", "agent": "rare-agent", "feature": "rare-feature"}
_RARE_EVERY = 50_000
_LINES = '[["input","812","0.0000004"]]'
Row = tuple[Any, ...]


@dataclass(slots=True)
class Sums:
    """Rollups while they grow; costs in whole 1e-10 USD."""

    hours: dict[Row, list[int]] = field(default_factory=dict)
    days: dict[Row, list[int]] = field(default_factory=dict)
    details: dict[Row, list[int]] = field(default_factory=dict)

    def add(self, hour: Row, day: Row, parts: Sequence[int]) -> None:
        coarse = (day[0], day[1], *hour[2:])
        for known, key in ((self.hours, hour), (self.days, coarse), (self.details, day)):
            row = known.get(key)
            if row is None:
                known[key] = list(parts)
            else:
                for place, part in enumerate(parts):
                    row[place] += part


@dataclass(frozen=True, slots=True)
class Made:
    """What is in the file, for those who ask it."""

    url: str
    organization_id: str
    accounts: tuple[str, ...]


def make(path: Path, count: int) -> Made:
    """Write `count` records to a new file."""
    url = f"sqlite:///{path}"
    prepare(url)
    organization_id, accounts = asyncio.run(_tenants(url))
    with sqlite3.connect(path, isolation_level=None) as db:
        _fill(db, organization_id, accounts, count)
    db.close()
    return Made(url, organization_id, tuple(accounts))


async def _tenants(url: str) -> tuple[str, list[str]]:
    database = Database(url)
    organization = await Organizations(database).create(name="Bench")
    accounts = [organization.default_account_id]
    accounts += [(await Accounts(database).create(organization.id, name=f"a{place}")).id for place in range(199)]
    await database.close()
    return organization.id, accounts


def _fill(db: sqlite3.Connection, organization_id: str, accounts: list[str], count: int) -> None:
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-400000", "temp_store=FILE"):
        db.execute(f"PRAGMA {pragma}")
    indexes = db.execute("SELECT name, sql FROM sqlite_master WHERE tbl_name = 'usage_records' AND sql LIKE '%INDEX%'")
    later = indexes.fetchall()
    for name, _ in later:
        db.execute(f"DROP INDEX {name}")
    sums = Sums()
    db.execute("BEGIN")
    insert = _insert(tables.usage_records)
    db.executemany(insert, _records(organization_id, accounts, count, sums))
    _derive(db, sums)
    for _, sql in later:
        db.execute(sql)
    db.execute("COMMIT")


def _insert(table: Any) -> str:
    names = columns_of(table)
    return f"INSERT INTO {table.name} ({','.join(names)}) VALUES ({','.join('?' * len(names))})"


def _derive(db: sqlite3.Connection, sums: Sums) -> None:
    for (table, _), found in zip(ROLLUPS, (sums.hours, sums.days, sums.details), strict=True):
        rows = ((*key, exact_text(Decimal(cost).scaleb(-10)), *rest) for key, (cost, *rest) in sorted(found.items()))
        db.executemany(_insert(table), rows)
    routes = sorted({(key[0], *key[2:]) for key in sums.hours})
    db.executemany(_insert(tables.usage_routes), routes)
    labels = " UNION ALL ".join(
        (
            "SELECT organization_id, 'agent', agent, occurred_us, id FROM usage_records WHERE agent IS NOT NULL",
            "SELECT organization_id, 'feature', feature, occurred_us, id FROM usage_records WHERE feature IS NOT NULL",
            "SELECT organization_id, j.key, j.value, occurred_us, r.id FROM usage_records r, json_each(r.tags) j"
            " WHERE tags IS NOT NULL",
        )
    )
    db.execute(f"INSERT INTO usage_labels SELECT * FROM ({labels}) ORDER BY 1, 2, 3, 4, 5")


def _records(organization_id: str, accounts: list[str], count: int, sums: Sums) -> Iterator[Row]:
    chance = random.Random(7)
    people, models = _ranks(len(accounts)), _ranks(len(_MODELS))
    pick = chance.random
    for place in range(count):
        occurred = _moment(place / count)
        account = chance.choices(accounts, cum_weights=people)[0] if place % 3 else accounts[place % len(accounts)]
        owner = int(account[-4:], 16)
        key = f"key_{owner:05x}{place % 7 == 0:d}" + "0" * 26
        provider, model = _MODELS[(chance.choices(range(14), cum_weights=models)[0] + owner % 3) % 14]
        agent = f"agent-{owner % 12}" if owner % 5 < 1 else None
        feature = ("chat", "search", "summary", "code")[place % 4] if owner % 5 < 1 else None
        tags = None
        if pick() < 0.15:
            tags = f'{{"user":"u{int(pick() * 20_000)}"}}' if place % 2 else f'{{"tag.team":"t{int(pick() * 40)}"}}'
        if place % _RARE_EVERY == 77:
            provider, model, agent, feature = RARE["provider"], RARE["model"], RARE["agent"], RARE["feature"]
            tags, key = '{"tag.team":"rare"}', "key_rare"
        context = "system" if place % 50 == 3 else "customer"
        read, cached, wrote = int(pick() * 4_000), 0, int(pick() * 900)
        cost = read * 4_000 + wrote * 16_000
        charge = cost // 10
        parts = (cost, charge, read, cached, wrote, 0, 1)
        route = (context, provider, model, model)
        day = (organization_id, occurred // DAY_US, account, key, *route, agent or "", feature or "")
        sums.add((organization_id, occurred // HOUR_US, *route), day, parts)
        yield (
            f"usage_{occurred // 1000:012x}7{place:019x}",
            f"{occurred // 1000:012x}7{place:019x}",
            0,
            "actual",
            organization_id,
            account,
            key,
            f"req_{place:032x}",
            None,
            occurred,
            occurred + 900_000,
            charge,
            exact_text(Decimal(cost).scaleb(-10)),
            context,
            "chat.completions",
            model,
            provider,
            provider,
            model,
            read,
            cached,
            None,
            wrote,
            0,
            None,
            "standard",
            None,
            _LINES,
            "1",
            "0",
            "1000",
            0,
            "completed",
            200,
            place % 2,
            900,
            agent,
            feature,
            tags,
            None,
            None,
            None,
        )


def _ranks(count: int) -> list[float]:
    return list(accumulate(1 / rank for rank in range(1, count + 1)))


def _moment(share: float) -> int:
    """Nights are quiet."""
    days = share * DAYS
    whole, part = divmod(days, 1)
    return START_US + int((whole + part - math.sin(2 * math.pi * part) / 8) * DAY_US)
