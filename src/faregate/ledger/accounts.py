"""Accounts: wallets that are charged, named by their id or by their organization's own id for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, func, or_, select, tuple_
from sqlalchemy.exc import IntegrityError

from faregate.core.call import bucket_of
from faregate.core.ids import new_id
from faregate.errors import Conflict, NotFound
from faregate.ledger import tables
from faregate.ledger.database import Database
from faregate.ledger.posting import from_json, to_json

_t = tables.accounts.c
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account as it is now. `posted` and `overdraft` are microcredits."""

    id: str
    organization_id: str
    external_id: str | None
    name: str
    email: str | None
    metadata: Mapping[str, object]
    posted: int
    seq: int
    overdraft: int
    created_us: int
    updated_us: int


@dataclass(frozen=True, slots=True)
class DueAccount:
    """An account on which a grant starts or ends at a moment that has come."""

    id: str
    organization_id: str
    until_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """A page by offset."""

    items: tuple[T, ...]
    total: int
    limit: int
    offset: int

    @property
    def has_more(self) -> bool:
        return self.offset + len(self.items) < self.total


class Accounts:
    """The accounts of an organization; another organization's do not exist."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        organization_id: str,
        *,
        name: str,
        external_id: str | None = None,
        email: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Account:
        """A new account. Raises Conflict when the external id is taken, NotFound for the organization."""
        values = {"name": name, "external_id": external_id, "email": email, "meta": to_json(metadata)}
        return await self._database.write(insert_account, organization_id, values, self._database.now_us())

    async def get(self, organization_id: str, reference: str) -> Account:
        """By id or external id. Raises NotFound."""
        return await self._database.read(find_account, organization_id, reference)

    async def home(self, account_id: str) -> str | None:
        """The id of the organization an account belongs to; None: there is no account of this id."""
        return await self._database.read(_home, account_id)

    async def find(self, organization_id: str, reference: str) -> Account | None:
        """By id or external id; None: there is none."""
        try:
            return await self.get(organization_id, reference)
        except NotFound:
            return None

    async def ensure(self, organization_id: str, external_id: str, *, name: str | None = None) -> Account:
        """By external id, made at first sight; many may see it first at once."""
        try:
            return await self._database.read(_by_external_id, organization_id, external_id)
        except NotFound:
            values = {"name": name or external_id, "external_id": external_id}
        try:
            return await self._database.upkeep(_ensure, organization_id, values, self._database.now_us())
        except Conflict:  # another process saw it first, in the same moment
            return await self._database.read(_by_external_id, organization_id, external_id)

    async def exists(self, organization_id: str, reference: str) -> bool:
        """Whether the organization has such an account."""
        return await self.find(organization_id, reference) is not None

    async def list(self, organization_id: str, *, limit: int, offset: int) -> Page[Account]:
        """Oldest first."""
        return await self._database.read(_list, organization_id, limit, offset)

    async def due(self, *, after: tuple[int, str], limit: int) -> Sequence[DueAccount]:
        """Accounts of all organizations with grants to be booked, longest due first; after (`until_us`, id)."""
        return await self._database.read(_due, after, limit, self._database.now_us())


def _due(conn: Connection, after: tuple[int, str], limit: int, now_us: int) -> Sequence[DueAccount]:
    place = (_t.grants_until_us, _t.id)
    query = (
        select(_t.id, _t.organization_id, _t.grants_until_us)
        .where(_t.grants_until_us <= now_us, tuple_(*place) > after)
        .order_by(*place)
        .limit(limit)
    )
    return [DueAccount(*row) for row in conn.execute(query)]


def insert_account(
    conn: Connection,
    organization_id: str,
    values: Mapping[str, object],
    now_us: int,
    *,
    account_id: str | None = None,
) -> Account:
    """Insert an account within the caller's transaction."""
    account_id = account_id or new_id("acc")
    if conn.execute(select(tables.organizations.c.id).filter_by(id=organization_id)).first() is None:
        raise NotFound("no such organization", param="organizationId")
    row = {
        **values,
        "id": account_id,
        "organization_id": organization_id,
        "bucket": bucket_of(organization_id),
        "created_us": now_us,
        "updated_us": now_us,
    }
    try:
        conn.execute(tables.accounts.insert().values(row))
    except IntegrityError:
        raise Conflict("an account with this externalId exists", param="externalId") from None
    return find_account(conn, organization_id, account_id)


def find_account(conn: Connection, organization_id: str, reference: str) -> Account:
    """By id, else by external id: an id of ours is never shadowed by somebody's external id."""
    match = and_(_t.organization_id == organization_id, _named(reference))
    order = (_t.id == reference).desc()
    row = conn.execute(select(tables.accounts).where(match).order_by(order).limit(1)).mappings().first()
    if row is None:
        raise NotFound("no such account", param="accountId")
    return _account(row)


def _home(conn: Connection, account_id: str) -> str | None:
    return conn.execute(select(_t.organization_id).where(_t.id == account_id)).scalar()


def _by_external_id(conn: Connection, organization_id: str, external_id: str) -> Account:
    match = and_(_t.organization_id == organization_id, _t.external_id == external_id)
    row = conn.execute(select(tables.accounts).where(match)).mappings().first()
    if row is None:
        raise NotFound("no such account", param="externalId")
    return _account(row)


def _ensure(conn: Connection, organization_id: str, values: Mapping[str, object], now_us: int) -> Account:
    try:
        return _by_external_id(conn, organization_id, str(values["external_id"]))
    except NotFound:
        return insert_account(conn, organization_id, values, now_us)


def _named(reference: str) -> ColumnElement[bool]:
    return or_(_t.id == reference, _t.external_id == reference)


def _list(conn: Connection, organization_id: str, limit: int, offset: int) -> Page[Account]:
    mine = _t.organization_id == organization_id
    total = conn.execute(select(func.count()).select_from(tables.accounts).where(mine)).scalar_one()
    query = select(tables.accounts).where(mine).order_by(_t.id).limit(limit).offset(offset)
    rows: Sequence[RowMapping] = conn.execute(query).mappings().all()
    return Page(items=tuple(_account(row) for row in rows), total=total, limit=limit, offset=offset)


def _account(row: RowMapping) -> Account:
    return Account(
        id=row["id"],
        organization_id=row["organization_id"],
        external_id=row["external_id"],
        name=row["name"],
        email=row["email"],
        metadata=from_json(row["meta"]),
        posted=row["posted"],
        seq=row["seq"],
        overdraft=row["overdraft"],
        created_us=row["created_us"],
        updated_us=row["updated_us"],
    )
