"""Reservations in the book: made once, ended once. Every change is one conditional transaction.

A confirmation is claimed twice over: by the row, which is locked and must be pending, and by the entry, whose hold
id is the reservation's. Locks are taken in one order, the reservation's row before its account's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, Connection, Select, func, literal_column, or_, select

from faregate.core.call import Reservation, ReservationState, Snapshot
from faregate.core.reservation import MAX_PENDING, record_of
from faregate.errors import LimitExceeded, NotFound
from faregate.ledger import tables
from faregate.ledger.accounts import Page
from faregate.ledger.commit import write_batch
from faregate.ledger.database import Database
from faregate.ledger.dialect import insert_returning
from faregate.ledger.posting import Entry
from faregate.ledger.rows import read_reservation, reservation_row
from faregate.ledger.transactions import get_entry

_t = tables.reservations.c
_PENDING = _t.state == literal_column("'pending'")
"""A literal, so that the partial index is known to fit."""
_NEW = "ON CONFLICT (organization_id, caller_id) DO NOTHING RETURNING id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What a confirmation came to; without an entry the reservation had ended before."""

    reservation: Reservation
    entry: Entry | None = None
    snapshot: Snapshot | None = None
    new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationFilter:
    """What to list; None is no condition. `now_us` decides what is active."""

    organization_id: str
    account_id: str | None = None
    reference: str | None = None
    active_only: bool = False

    def conditions(self, now_us: int) -> list[ColumnElement[bool]]:
        found = [_t.organization_id == self.organization_id]
        if self.account_id is not None:
            found.append(_t.account_id == self.account_id)
        if self.reference is not None:
            found.append(or_(_t.id == self.reference, _t.caller_id == self.reference))
        if self.active_only:
            found += [_PENDING, _t.expires_us > now_us]
        return found


class Reservations:
    """The book's side of them. Every method raises BookUnavailable when SQL is out of reach.

    A repeat finds what it has done by the row itself, so nothing here is a step of a request (claims.py).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, wanted: Reservation, *, most: int = MAX_PENDING) -> tuple[Reservation, bool]:
        """Write a pending one. False: its caller's id had been used, and this is what it stands for.

        Raises LimitExceeded when the account has `most` pending.
        """
        return await self._database.upkeep(_create, wanted, most)

    async def find(self, organization_id: str, reference: str) -> Reservation:
        """By our id, else by the caller's. Raises NotFound."""
        return await self._database.read(_find, organization_id, reference)

    async def by_caller(self, organization_id: str, caller_id: str) -> Reservation | None:
        """By the caller's own id."""
        return await self._database.read(_by_caller, organization_id, caller_id)

    async def list(self, wanted: ReservationFilter, *, limit: int, offset: int) -> Page[Reservation]:
        """Newest first."""
        return await self._database.read(_list, wanted, limit, offset, self._database.now_us())

    async def look(self, ids: Sequence[str]) -> dict[str, Reservation]:
        """Those of them that the book has."""
        return await self._database.read(_look, ids)

    async def pending(self, account_id: str) -> tuple[Reservation, ...]:
        """An account's, without those past their deadline."""
        return await self._database.read(read_pending, account_id, self._database.now_us())

    async def confirm(self, reservation_id: str, actual: int) -> Confirmation:
        """Charge `actual` microcredits if it is pending; a second time the first result, whatever is asked."""
        return await self._database.upkeep(_confirm, reservation_id, actual, self._database.now_us())

    async def cancel(self, reservation_id: str) -> Reservation:
        """Release it if it is pending. What it is then."""
        return await self._database.upkeep(_end, reservation_id, "released", self._database.now_us())

    async def forget(self, reservation_id: str) -> None:
        """Take away a pending one that nobody was told of: its caller's id is free again."""
        await self._database.upkeep(_forget, reservation_id)

    async def extend(self, reservation_id: str, expires_us: int) -> Reservation:
        """Move its deadline if it is pending, never to an earlier moment. What it is then."""
        return await self._database.upkeep(_extend, reservation_id, expires_us, self._database.now_us())

    async def expire_due(self, most: int) -> Sequence[Reservation]:
        """End those past their deadline: each is told to one caller only."""
        now_us = self._database.now_us()
        due = await self._database.read(_due, most, now_us)
        return await self._database.upkeep(_expire, due, now_us) if due else ()


def _create(conn: Connection, wanted: Reservation, most: int) -> tuple[Reservation, bool]:
    found = _look(conn, [wanted.id]).get(wanted.id)
    if found is None and wanted.caller_id is not None:
        found = _by_caller(conn, wanted.organization_id, wanted.caller_id)
    if found is not None:
        return found, False
    pending = select(func.count()).select_from(tables.reservations)
    pending = pending.where(_t.account_id == wanted.account_id, _PENDING)
    if conn.execute(pending).scalar_one() >= most:
        raise LimitExceeded(f"{most} pending reservations of one account", None)
    if insert_returning(conn, tables.reservations, [reservation_row(wanted)], _NEW):
        return wanted, True
    found = _by_caller(conn, wanted.organization_id, wanted.caller_id or "")
    assert found is not None, "the insert found a row that the select does not"
    return found, False


def _find(conn: Connection, organization_id: str, reference: str) -> Reservation:
    mine = (_t.organization_id == organization_id, or_(_t.id == reference, _t.caller_id == reference))
    order = (_t.id == reference).desc()
    row = conn.execute(select(tables.reservations).where(*mine).order_by(order).limit(1)).mappings().first()
    if row is None:
        raise NotFound("no such reservation", param="reservationId")
    return read_reservation(row)


def _by_caller(conn: Connection, organization_id: str, caller_id: str) -> Reservation | None:
    match = (_t.organization_id == organization_id, _t.caller_id == caller_id)
    row = conn.execute(select(tables.reservations).where(*match)).mappings().first()
    return None if row is None else read_reservation(row)


def _list(conn: Connection, wanted: ReservationFilter, limit: int, offset: int, now_us: int) -> Page[Reservation]:
    conditions = wanted.conditions(now_us)
    total = conn.execute(select(func.count()).select_from(tables.reservations).where(*conditions)).scalar_one()
    query = select(tables.reservations).where(*conditions).order_by(_t.id.desc()).limit(limit).offset(offset)
    items = tuple(read_reservation(row) for row in conn.execute(query).mappings())
    return Page(items=items, total=total, limit=limit, offset=offset)


def _look(conn: Connection, ids: Sequence[str]) -> dict[str, Reservation]:
    rows = conn.execute(select(tables.reservations).where(_t.id.in_(ids))).mappings()
    return {row["id"]: read_reservation(row) for row in rows}


def read_pending(conn: Connection, account_id: str, now_us: int) -> tuple[Reservation, ...]:
    """What a gate that has lost everything must hold again."""
    mine = (_t.account_id == account_id, _PENDING, _t.expires_us > now_us)
    rows = conn.execute(select(tables.reservations).where(*mine).order_by(_t.id)).mappings()
    return tuple(read_reservation(row) for row in rows)


# Ends ---------------------------------------------------------------------------------------------------


def _confirm(conn: Connection, reservation_id: str, actual: int, now_us: int) -> Confirmation:
    found = _locked(conn, reservation_id, now_us)
    if found.state not in ("pending", "settled"):
        return Confirmation(reservation=found)
    new = found.state == "pending"
    (booked,) = write_batch(conn, [record_of(found, actual if new else found.actual or 0)], now_us)
    if new:
        found = replace(found, state="settled", actual=actual, entry_id=booked.usage_id, updated_us=now_us)
        _write(conn, found)
    entry = get_entry(conn, found.organization_id, booked.usage_id)
    return Confirmation(reservation=found, entry=entry, snapshot=booked.snapshot, new=new)


def _end(conn: Connection, reservation_id: str, state: ReservationState, now_us: int) -> Reservation:
    found = _locked(conn, reservation_id, now_us)
    if found.state == "pending":
        found = replace(found, state=state, updated_us=now_us)
        _write(conn, found)
    return found


def _forget(conn: Connection, reservation_id: str) -> None:
    conn.execute(tables.reservations.delete().where(_t.id == reservation_id, _PENDING))


def _extend(conn: Connection, reservation_id: str, expires_us: int, now_us: int) -> Reservation:
    found = _locked(conn, reservation_id, now_us)
    if found.state == "pending":
        found = replace(found, expires_us=max(found.expires_us, expires_us), updated_us=now_us)
        _write(conn, found)
    return found


def _locked(conn: Connection, reservation_id: str, now_us: int) -> Reservation:
    """The row until the end of the transaction; past its deadline it is expired from here on."""
    query = select(tables.reservations).where(_t.id == reservation_id).with_for_update(key_share=True)
    row = conn.execute(query).mappings().first()
    if row is None:
        raise NotFound("no such reservation", param="reservationId")
    found = read_reservation(row)
    if found.state_at(now_us) != found.state:
        found = replace(found, state="expired", updated_us=now_us)
        _write(conn, found)
    return found


def _write(conn: Connection, changed: Reservation) -> None:
    values = {
        "state": changed.state,
        "actual": changed.actual,
        "entry_id": changed.entry_id,
        "expires_us": changed.expires_us,
        "updated_us": changed.updated_us,
    }
    conn.execute(tables.reservations.update().where(_t.id == changed.id).values(values))


def due_query(most: int, now_us: int) -> Select[str]:
    """Ids of those past their deadline, longest first."""
    return select(_t.id).where(_PENDING, _t.expires_us <= now_us).order_by(_t.expires_us).limit(most)


def _due(conn: Connection, most: int, now_us: int) -> list[str]:
    return list(conn.execute(due_query(most, now_us)).scalars())


def _expire(conn: Connection, ids: Sequence[str], now_us: int) -> Sequence[Reservation]:
    still = (_t.id.in_(ids), _PENDING, _t.expires_us <= now_us)
    ours = select(_t.id).where(*still).order_by(_t.id).with_for_update(key_share=True, skip_locked=True)
    locked = list(conn.execute(ours).scalars())
    change = tables.reservations.update().where(_t.id.in_(locked), *still[1:])
    rows = conn.execute(change.values(state="expired", updated_us=now_us).returning(tables.reservations)).mappings()
    return [read_reservation(row) for row in rows]
