"""Organizations: tenants. Each is born with a default account."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection, RowMapping, or_, select
from sqlalchemy.exc import IntegrityError

from faregate.core.ids import new_id, uuid7
from faregate.core.keys import BOOTSTRAP_KEY_ID
from faregate.errors import Conflict, InvalidRequest, NotFound
from faregate.ledger import tables
from faregate.ledger.accounts import insert_account
from faregate.ledger.admin_audit import Change, note_change
from faregate.ledger.database import Database
from faregate.ledger.dialect import one_at_a_time

_t = tables.organizations.c
PATCHABLE = frozenset({"name", "external_id", "markup_percent", "ingest_charges", "stripe_customer_id"})
"""`credits_per_usd` is set once: every balance and price depends on it."""
BOOTSTRAP_ORGANIZATION_ID = "org_bootstrap"
BOOTSTRAP_ACCOUNT_ID = "acc_bootstrap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """A tenant as it is now."""

    id: str
    uuid: str
    external_id: str | None
    name: str
    credits_per_usd: Decimal
    markup_percent: Decimal
    ingest_charges: bool
    stripe_customer_id: str | None
    default_account_id: str
    created_us: int
    updated_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """What a first start leaves behind. `admin_hash` None: no admin key yet, so make one and call again."""

    organization_id: str
    account_id: str
    admin_hash: str | None


class Organizations:
    """All organizations: who may see which is the caller's business."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        *,
        name: str,
        external_id: str | None = None,
        credits_per_usd: Decimal = Decimal(1000),
        markup_percent: Decimal = Decimal(0),
        ingest_charges: bool = False,
        stripe_customer_id: str | None = None,
        by: Change | None = None,
    ) -> Organization:
        """A new organization and its default account. Raises Conflict when the external id is taken."""
        values = {
            "id": new_id("org"),
            "name": name,
            "external_id": external_id,
            "credits_per_usd": credits_per_usd,
            "markup_percent": markup_percent,
            "ingest_charges": ingest_charges,
            "stripe_customer_id": stripe_customer_id,
            "default_account_id": new_id("acc"),
        }
        return await self._database.write(_insert, values, by, self._database.now_us())

    async def get(self, reference: str) -> Organization:
        """By id or uuid. Raises NotFound."""
        return await self._database.read(_find, reference)

    async def list(self, *, limit: int, after: str | None = None) -> builtins.list[Organization]:
        """Oldest first, from the one after the id `after`."""
        return await self._database.read(_list, limit, after)

    async def patch(self, reference: str, changes: Mapping[str, object], *, by: Change | None = None) -> Organization:
        """Change some of PATCHABLE (column names). Raises InvalidRequest, NotFound, Conflict.

        Every key of the organization gets a new `rev`, since principals carry the organization's facts.
        """
        return await self._database.write(_patch, reference, changes, by, self._database.now_us())

    async def bootstrap(self, admin_hash: str | None, *, credits_per_usd: Decimal = Decimal(1000)) -> Bootstrap:
        """Create the bootstrap organization once; with a hash, make it the bootstrap admin key's."""
        return await self._database.write(_bootstrap, admin_hash, credits_per_usd, self._database.now_us())


def _insert(conn: Connection, values: Mapping[str, object], by: Change | None, now_us: int) -> Organization:
    row = {**values, "uuid": str(uuid7()), "created_us": now_us, "updated_us": now_us}
    try:
        conn.execute(tables.organizations.insert().values(row))
    except IntegrityError:
        raise Conflict("an organization with this externalId exists", param="externalId") from None
    default = str(values["default_account_id"])
    insert_account(conn, str(values["id"]), {"name": "default"}, now_us, account_id=default)
    note_change(conn, by, target=str(values["id"]), organization_id=str(values["id"]), now_us=now_us)
    return _find(conn, str(values["id"]))


def _find(conn: Connection, reference: str) -> Organization:
    query = select(tables.organizations).where(or_(_t.id == reference, _t.uuid == reference))
    row = conn.execute(query).mappings().first()
    if row is None:
        raise NotFound("no such organization", param="organizationId")
    return _organization(row)


def _list(conn: Connection, limit: int, after: str | None) -> list[Organization]:
    query = select(tables.organizations).where(_t.id > (after or "")).order_by(_t.id).limit(limit)
    return [_organization(row) for row in conn.execute(query).mappings()]


def _patch(
    conn: Connection, reference: str, changes: Mapping[str, object], by: Change | None, now_us: int
) -> Organization:
    if not changes.keys() <= PATCHABLE:
        raise InvalidRequest(f"cannot be changed: {', '.join(sorted(changes.keys() - PATCHABLE))}")
    found = _find(conn, reference)
    change = tables.organizations.update().where(_t.id == found.id).values({**changes, "updated_us": now_us})
    try:
        conn.execute(change)
    except IntegrityError:
        raise Conflict("an organization with this externalId exists", param="externalId") from None
    keys = tables.keys
    conn.execute(keys.update().where(keys.c.organization_id == found.id).values(rev=keys.c.rev + 1))
    note_change(conn, by, target=found.id, organization_id=found.id, now_us=now_us)
    return _find(conn, found.id)


def _bootstrap(conn: Connection, admin_hash: str | None, credits_per_usd: Decimal, now_us: int) -> Bootstrap:
    one_at_a_time(conn, "bootstrap")
    exists = select(_t.id).where(_t.id == BOOTSTRAP_ORGANIZATION_ID)
    if conn.execute(exists).first() is None:
        values = {
            "id": BOOTSTRAP_ORGANIZATION_ID,
            "name": "bootstrap",
            "credits_per_usd": credits_per_usd,
            "markup_percent": Decimal(0),
            "ingest_charges": False,
            "default_account_id": BOOTSTRAP_ACCOUNT_ID,
        }
        _insert(conn, values, None, now_us)
    return Bootstrap(
        organization_id=BOOTSTRAP_ORGANIZATION_ID,
        account_id=BOOTSTRAP_ACCOUNT_ID,
        admin_hash=_admin_key(conn, admin_hash, now_us),
    )


def _admin_key(conn: Connection, admin_hash: str | None, now_us: int) -> str | None:
    keys = tables.keys
    stored = conn.execute(select(keys.c.secret_hash).where(keys.c.id == BOOTSTRAP_KEY_ID)).scalar_one_or_none()
    if admin_hash is None or stored == admin_hash:
        return stored
    if stored is None:
        conn.execute(keys.insert().values(_admin_row(admin_hash, now_us)))
    else:
        change = {"secret_hash": admin_hash, "rev": keys.c.rev + 1, "updated_us": now_us}
        conn.execute(keys.update().where(keys.c.id == BOOTSTRAP_KEY_ID).values(change))
    return admin_hash


def _admin_row(admin_hash: str, now_us: int) -> dict[str, object]:
    return {
        "id": BOOTSTRAP_KEY_ID,
        "organization_id": BOOTSTRAP_ORGANIZATION_ID,
        "name": "bootstrap admin",
        "prefix": "fg_admin",
        "secret_hash": admin_hash,
        "scopes": "admin credits:write proxy usage:read usage:write",
        "limits": "[]",
        "rev": 1,
        "max_multiplier": Decimal(10),
        "test": False,
        "above_organizations": True,
        "created_us": now_us,
        "updated_us": now_us,
    }


def _organization(row: RowMapping) -> Organization:
    return Organization(**row)
