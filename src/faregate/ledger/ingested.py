"""What others have counted, many at a time: accounts made at first sight, the caller's own ids, records, charges.

All of a batch is one transaction. A caller's own id names the hold of the record it led to first; a repeat is
answered with that record, whatever it says now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from sqlalchemy import Connection, or_, select

from faregate.core.call import Record, Snapshot, bucket_of
from faregate.core.ids import new_id
from faregate.ledger import tables
from faregate.ledger.commit import write_batch
from faregate.ledger.database import Database
from faregate.ledger.dialect import Row, columns_of, insert_many
from faregate.ledger.posting import read_wallets

_a = tables.accounts.c
Also = Callable[[Connection, Sequence[Record]], None]
"""What else happens in the transaction, with the records that are new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One record on its way into the book. Its `account_id` is filled in here when a `customer` is named."""

    record: Record
    customer: str | None = None
    """An account by id or external id, made when the organization has none."""
    own_id: str | None = None
    """The caller's own id of it, unique in the organization and source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """What the book has now: (usage id, was it new) for each, and the accounts whose balance has moved."""

    records: tuple[tuple[str, bool], ...]
    snapshots: Mapping[str, Snapshot]


@dataclass(frozen=True, slots=True)
class Known:
    """An account there is. `gated`: it has had holds, so Redis may have a copy of its balance."""

    id: str
    gated: bool


class UnguardedError(Exception):
    """An account that is to be charged has had its first hold meanwhile, and has no guard."""


class Ingested:
    """Writing what others have counted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def accounts(self, organization_id: str, customers: Sequence[str]) -> dict[str, Known]:
        """The customers that are known, by id or external id."""
        return await self._database.read(_known, organization_id, sorted(set(customers)))

    async def write(
        self,
        organization_id: str,
        source: str,
        arrivals: Sequence[Arrival],
        guarded: frozenset[str] | None,
        also: Also | None = None,
    ) -> Arrived:
        """Book all of them or none; those with an own id once, however often this is called.

        `guarded` are the accounts with a hold before their charges; one that never had a hold needs none. Raises
        UnguardedError for any other that is charged.
        """
        now_us = self._database.now_us()
        return await self._database.upkeep(_write, organization_id, source, arrivals, guarded, also, now_us)

    async def find(self, hold_id: str) -> str | None:
        """The id of the usage record of a hold, if there is one."""
        return (await self._database.read(_ids, [hold_id])).get(hold_id)


def _known(conn: Connection, organization_id: str, customers: Sequence[str]) -> dict[str, Known]:
    """An id of ours is never shadowed by somebody's external id."""
    named = or_(_a.id.in_(customers), _a.external_id.in_(customers))
    query = select(_a.id, _a.external_id, _a.gated_us).where(_a.organization_id == organization_id, named)
    found: dict[str, Known] = {}
    ids: dict[str, Known] = {}
    for account_id, external_id, gated_us in conn.execute(query):
        ids[account_id] = Known(account_id, gated_us is not None)
        if external_id is not None:
            found[external_id] = ids[account_id]
    return {name: account for name in customers if (account := ids.get(name) or found.get(name)) is not None}


def _write(
    conn: Connection,
    organization_id: str,
    source: str,
    arrivals: Sequence[Arrival],
    guarded: frozenset[str] | None,
    also: Also | None,
    now_us: int,
) -> Arrived:
    records = _with_accounts(conn, organization_id, arrivals, guarded, now_us)
    holds = _claim(conn, organization_id, source, arrivals, now_us)
    fresh = [record for record, hold in zip(records, holds, strict=True) if record.hold_id == hold]
    committed = write_batch(conn, fresh, now_us) if fresh else []
    if also is not None and fresh:
        also(conn, fresh)
    booked = {record.hold_id: answer for record, answer in zip(fresh, committed, strict=True)}
    ids = {hold: answer.usage_id for hold, answer in booked.items()}
    ids |= _ids(conn, sorted({hold for hold in holds if hold not in booked}))
    return Arrived(
        records=tuple((ids[hold], hold == record.hold_id) for record, hold in zip(records, holds, strict=True)),
        snapshots={answer.snapshot.account_id: answer.snapshot for answer in committed if answer.charge_microcredits},
    )


# Accounts -----------------------------------------------------------------------------------------------


def _with_accounts(
    conn: Connection,
    organization_id: str,
    arrivals: Sequence[Arrival],
    guarded: frozenset[str] | None,
    now_us: int,
) -> list[Record]:
    names = sorted({arrival.customer for arrival in arrivals if arrival.customer is not None})
    accounts = _known(conn, organization_id, names)
    accounts |= _make(conn, organization_id, [name for name in names if name not in accounts], now_us)
    records = [replace(a.record, account_id=accounts[a.customer].id) if a.customer else a.record for a in arrivals]
    _check_guards(conn, {record.account_id for record in records if record.charge_microcredits}, guarded or frozenset())
    return records


def _check_guards(conn: Connection, charged: Set[str], guarded: frozenset[str]) -> None:
    """Redis has no copy of an account before the book has marked it as gated, and from here on that must wait."""
    wallets = read_wallets(conn, charged, lock=True) if charged else {}
    if any(wallet.gated and wallet.id not in guarded for wallet in wallets.values()):
        raise UnguardedError


def _make(conn: Connection, organization_id: str, names: Sequence[str], now_us: int) -> dict[str, Known]:
    """The accounts of names that nobody has seen; another process may be faster."""
    if not names:
        return {}
    rows = [_account_row(organization_id, name, now_us) for name in names]
    insert_many(conn, tables.accounts, rows, "ON CONFLICT (organization_id, external_id) DO NOTHING")
    return _known(conn, organization_id, names)


def _account_row(organization_id: str, name: str, now_us: int) -> Row:
    values = {
        "id": new_id("acc"),
        "organization_id": organization_id,
        "external_id": name,
        "bucket": bucket_of(organization_id),
        "name": name,
        "posted": 0,
        "seq": 0,
        "overdraft": 0,
        "created_us": now_us,
        "updated_us": now_us,
    }
    return tuple(values.get(column) for column in columns_of(tables.accounts))


# The caller's own ids -----------------------------------------------------------------------------------


def _claim(conn: Connection, organization_id: str, source: str, arrivals: Sequence[Arrival], now_us: int) -> list[str]:
    """The hold each arrival leads to: its own, unless its own id has led to another one before."""
    firsts: dict[str, str] = {}
    for arrival in arrivals:
        if arrival.own_id is not None:
            firsts.setdefault(arrival.own_id, arrival.record.hold_id)
    rows = [(organization_id, source, own_id, firsts[own_id], now_us) for own_id in sorted(firsts)]
    insert_many(conn, tables.external_ids, rows, "ON CONFLICT (organization_id, source, external_id) DO NOTHING")
    t = tables.external_ids.c
    mine = (t.organization_id == organization_id, t.source == source, t.external_id.in_(list(firsts)))
    claimed = {row[0]: row[1] for row in conn.execute(select(t.external_id, t.hold_id).where(*mine))} if firsts else {}
    return [a.record.hold_id if a.own_id is None else claimed[a.own_id] for a in arrivals]


def _ids(conn: Connection, holds: Sequence[str]) -> dict[str, str]:
    if not holds:
        return {}
    t = tables.usage_records.c
    query = select(t.hold_id, t.id).where(t.hold_id.in_(holds), t.is_adjustment.is_(False))
    return {row[0]: row[1] for row in conn.execute(query)}
