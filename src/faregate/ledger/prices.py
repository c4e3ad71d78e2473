"""Price cards: made over the API, or taken over from a release or file (updates). None is ever edited: a new one
supersedes it from its moment on."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, and_, func, select

from faregate.core.ids import new_id
from faregate.errors import Conflict, InvalidRequest, NotFound
from faregate.ledger import tables
from faregate.ledger.admin_audit import Change, note_change
from faregate.ledger.database import Database

_t = tables.prices.c
MOST_CARDS = 5_000
"""Per organization, and of those for the whole installation; of updates, too."""

Version = tuple[int, int, str]
"""Changes with every card that is made or deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPrice:
    """One card. `body` is its JSON; `organization_id` None: for the whole installation; `source` None: of the API."""

    id: str
    organization_id: str | None
    provider: str
    effective_us: int
    """From when on it is in force; 0: always."""
    body: str
    created_us: int
    deleted_us: int | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPrice:
    """A card to be. `effective_us` None: always, unless it supersedes another; then from now on."""

    organization_id: str | None
    provider: str
    model: str
    tier: str
    effective_us: int | None
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpdate:
    """A card to be, of a release or file. `start_us` None: with the others of its update."""

    provider: str
    model: str
    tier: str
    body: str
    source: str
    start_us: int | None = None


class Prices:
    """All cards of the API, of every organization: who may see which is the caller's business."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, price: NewPrice, *, by: Change | None = None) -> StoredPrice:
        """A new card, audited in its transaction. Raises Conflict when there are too many."""
        return await self._database.write(_create, price, by, self._database.now_us())

    async def get(self, price_id: str) -> StoredPrice:
        """A card, deleted ones included. Raises NotFound."""
        return await self._database.read(_get, price_id)

    async def list(
        self, organization_id: str | None, *, every: bool, limit: int, after: str | None = None
    ) -> builtins.list[StoredPrice]:
        """Oldest first, without deleted ones: an organization's, the installation's (None), or `every` one."""
        return await self._database.read(_list, organization_id, every, limit, after)

    async def delete(self, price_id: str, *, by: Change | None = None) -> StoredPrice:
        """Not in force from now on. What it has priced keeps its rates. Raises NotFound."""
        return await self._database.write(_delete, price_id, by, self._database.now_us())

    async def book_updates(self, updates: Sequence[NewUpdate], start_us: int | None) -> int:
        """All of an update at once, in force from `start_us` (None: now) on. Returns that moment.

        Raises InvalidRequest for a moment of the past (it keeps its prices), Conflict when there are too many.
        """
        return await self._database.write(_book, updates, start_us, self._database.now_us())

    async def version(self) -> Version:
        """Cheap to ask for, often."""
        return await self._database.read(_version)

    async def everything(self) -> tuple[Version, builtins.list[StoredPrice]]:
        """All cards that are not deleted, oldest first, in one state of the book."""
        return await self._database.read(_everything)


def _create(conn: Connection, price: NewPrice, by: Change | None, now_us: int) -> StoredPrice:
    whose = and_(_t.source.is_(None), _t.organization_id.is_not_distinct_from(price.organization_id))
    living = select(func.count()).select_from(tables.prices).where(whose, _t.deleted_us.is_(None))
    if conn.execute(living).scalar_one() >= MOST_CARDS:
        raise Conflict(f"there are {MOST_CARDS} price cards: delete some that are not needed any more")
    same = (_t.provider == price.provider, _t.model == price.model, _t.tier == price.tier)
    supersedes = conn.execute(select(_t.id).where(whose, *same).limit(1)).first() is not None
    start_us = price.effective_us
    stored = StoredPrice(
        id=new_id("price"),
        organization_id=price.organization_id,
        provider=price.provider,
        effective_us=start_us if start_us is not None else now_us if supersedes else 0,
        body=price.body,
        created_us=now_us,
    )
    row = {"id": stored.id, "organization_id": price.organization_id, "body": price.body, "created_us": now_us}
    of = {"provider": price.provider, "model": price.model, "tier": price.tier, "effective_us": stored.effective_us}
    conn.execute(tables.prices.insert().values({**row, **of}))
    note_change(conn, by, target=stored.id, organization_id=stored.organization_id, now_us=now_us)
    return stored


def _get(conn: Connection, price_id: str) -> StoredPrice:
    query = select(tables.prices).where(_t.id == price_id, _t.source.is_(None))
    row = conn.execute(query).mappings().first()
    if row is None:
        raise NotFound("no such price card")
    return _stored(row)


def _list(
    conn: Connection, organization_id: str | None, every: bool, limit: int, after: str | None
) -> list[StoredPrice]:
    made = (_t.source.is_(None), _t.deleted_us.is_(None), _t.id > (after or ""))
    query = select(tables.prices).where(*made).order_by(_t.id).limit(limit)
    if not every:
        query = query.where(_t.organization_id.is_not_distinct_from(organization_id))
    return [_stored(row) for row in conn.execute(query).mappings()]


def _delete(conn: Connection, price_id: str, by: Change | None, now_us: int) -> StoredPrice:
    found = _get(conn, price_id)
    if found.deleted_us is None:
        conn.execute(tables.prices.update().where(_t.id == price_id).values(deleted_us=now_us))
        note_change(conn, by, target=price_id, organization_id=found.organization_id, now_us=now_us)
    return _get(conn, price_id)


def _book(conn: Connection, updates: Sequence[NewUpdate], start_us: int | None, now_us: int) -> int:
    if start_us is not None and start_us < now_us:
        raise InvalidRequest("an update is in force from now on at the earliest: the past keeps its prices")
    held = conn.execute(select(func.count()).select_from(tables.prices).where(_t.source.is_not(None))).scalar_one()
    if held + len(updates) > MOST_CARDS:
        raise Conflict(f"there would be more than {MOST_CARDS} updated prices: take over fewer models")
    begin_us = now_us if start_us is None else start_us
    rows = [
        {
            "id": new_id("price"),
            "provider": update.provider,
            "model": update.model,
            "tier": update.tier,
            "effective_us": begin_us if update.start_us is None else max(begin_us, update.start_us),
            "body": update.body,
            "source": update.source,
            "created_us": now_us,
        }
        for update in updates
    ]
    if rows:
        conn.execute(tables.prices.insert(), rows)
    return begin_us


def _version(conn: Connection) -> Version:
    query = select(func.count(), func.count(_t.deleted_us), func.coalesce(func.max(_t.id), ""))
    cards, deleted, newest = conn.execute(query.select_from(tables.prices)).one()
    return cards, deleted, newest


def _everything(conn: Connection) -> tuple[Version, list[StoredPrice]]:
    rows = conn.execute(select(tables.prices).where(_t.deleted_us.is_(None)).order_by(_t.id)).mappings()
    return _version(conn), [_stored(row) for row in rows]


def _stored(row: RowMapping) -> StoredPrice:
    names = ("id", "organization_id", "provider", "effective_us", "body", "created_us", "deleted_us", "source")
    return StoredPrice(**{name: row[name] for name in names})
