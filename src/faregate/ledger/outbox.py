"""Meter events on their way to Stripe: claimed by state with a lease, one at a time for each customer and meter.

```
queued ──claim──► sending ──delivered──► sent
   ▲                 │ ├──refused, or nobody can tell──► dead ──retry──► queued
   └──not this time──┘ └──its lease runs out: claimed again
```

A try may have been applied though nobody heard of it: `tried_us` says since when that is so. A sender whose lease ran
out may still report: what it delivered is delivered, anything else it says is old (`attempts` is the fence).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select
from sqlalchemy.engine import Row

from faregate.core.metering import OLDEST_US, UNSURE_US, MeterEvent, sendable
from faregate.ledger import tables
from faregate.ledger.database import Database
from faregate.ledger.dialect import one_at_a_time
from faregate.ledger.meter_windows import owed_usd

_t = tables.outbox.c
SHOWN = 100
"""Dead letters that are listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An event that is ours to send until its lease runs out."""

    event: MeterEvent
    attempts: int
    """This one included."""
    tried_us: int | None
    """Since when it may have been applied, by an earlier try."""
    compare: bool
    """Stripe may have forgotten the identifier: look the event up before it is sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """An event that is stuck, for people."""

    id: str
    organization_id: str
    customer: str
    meter: str
    value: int
    timestamp_s: int
    attempts: int
    code: str | None
    updated_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The whole outbox."""

    counts: dict[str, int]
    """By state; every state is there."""
    values: dict[str, int]
    """Micro-USD by state."""
    owed_usd: Decimal
    """Queued, and in no event yet."""
    oldest_us: int | None
    """When the oldest event that is not sent was made."""
    dead: tuple[Letter, ...]


STATES = ("queued", "sending", "sent", "dead")
_OPEN = ("queued", "sending", "dead")


class Outbox:
    """The events of one book."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, lease_us: int, limit: int) -> list[Claim]:
        """Events that are due, at most one for each customer and meter. Raises BookUnavailable."""
        if not await self._database.read(_any_due, self._database.now_us()):
            return []  # nobody is kept from writing for nothing
        return await self._database.upkeep(_claim, lease_us, limit, self._database.now_us())

    async def missing(self, claim: Claim) -> MeterEvent | None:
        """It was looked up and is not there: the first try begins. Returns what to send; None: no longer ours."""
        return await self._database.upkeep(_missing, claim, self._database.now_us())

    async def sent(self, claim: Claim, code: str) -> None:
        """It is delivered, whoever it belongs to by now."""
        await self._database.upkeep(_sent, claim, code, self._database.now_us())

    async def again(self, claim: Claim, code: str, wait_us: int, *, applied: bool) -> None:
        """It is to be tried again; `applied`: this try may have been."""
        await self._database.upkeep(_again, claim, code, wait_us, applied, self._database.now_us())

    async def dead(self, claim: Claim, code: str, *, applied: bool) -> None:
        """It is for people from now on."""
        await self._database.upkeep(_dead, claim, code, applied, self._database.now_us())

    async def others(self, event: MeterEvent) -> tuple[int, int]:
        """Of the same customer, meter and minute: what is sent (micro-USD), and how many nobody can tell of."""
        return await self._database.read(_others, event)

    async def status(self) -> Status:
        """What there is."""
        return await self._database.read(_status)

    async def counts(self) -> tuple[dict[str, int], int | None]:
        """(events that are not sent, by state; when the oldest of them was made)."""
        return await self._database.read(_counts)

    async def retry(self, ids: Sequence[str] | None, how: Literal["compared", "again", "delivered"]) -> list[str]:
        """Dead letters (None: all) are queued again, or called delivered. Which they were.

        `compared`: what may have been applied is looked up first. `again`: it is known not to have been.
        """
        return await self._database.upkeep(_retry, ids, how, self._database.now_us())


# Sending ------------------------------------------------------------------------------------------------


def _due(now_us: int) -> ColumnElement[bool]:
    return or_(and_(_t.state == "queued", _t.due_us <= now_us), and_(_t.state == "sending", _t.lease_us <= now_us))


def _any_due(conn: Connection, now_us: int) -> bool:
    return conn.execute(select(_t.id).where(_due(now_us)).limit(1)).first() is not None


def _claim(conn: Connection, lease_us: int, limit: int, now_us: int) -> list[Claim]:
    one_at_a_time(conn, "outbox")
    busy = tables.outbox.alias("busy")
    in_flight = select(busy.c.id).where(
        busy.c.customer == _t.customer, busy.c.meter == _t.meter, busy.c.state == "sending", busy.c.lease_us > now_us
    )
    # Who was left in the middle comes first: the index allows one `sending` of a lane.
    order = (case((_t.state == "sending", 0), else_=1), _t.due_us, _t.id)
    place = func.row_number().over(partition_by=(_t.customer, _t.meter), order_by=order).label("place")
    ranked = select(tables.outbox, place).where(_due(now_us), ~in_flight.exists()).subquery()
    firsts = select(ranked).where(ranked.c.place == 1).order_by(ranked.c.due_us, ranked.c.id).limit(limit)
    return [_take(conn, row, lease_us, now_us) for row in conn.execute(firsts).all()]


def _take(conn: Connection, row: Row[tuple[object, ...]], lease_us: int, now_us: int) -> Claim:
    found = row._mapping
    tried_us = found["tried_us"]
    event = MeterEvent(
        id=found["id"],
        meter=found["meter"],
        customer=found["customer"],
        value=found["value"],
        timestamp_s=found["timestamp_s"],
    )
    compare = tried_us is not None and (
        tried_us <= now_us - UNSURE_US or event.timestamp_s * 1_000_000 < now_us - OLDEST_US
    )
    if tried_us is None:
        event = sendable(event, now_us)
    claim = Claim(event=event, attempts=found["attempts"] + 1, tried_us=tried_us, compare=compare)
    changes = {
        "state": "sending",
        "attempts": claim.attempts,
        "lease_us": now_us + lease_us,
        "tried_us": now_us if tried_us is None else tried_us,  # from now on we may be killed at any moment
        "timestamp_s": event.timestamp_s,
        "updated_us": now_us,
    }
    conn.execute(tables.outbox.update().where(_t.id == event.id).values(changes))
    return claim


def _missing(conn: Connection, claim: Claim, now_us: int) -> MeterEvent | None:
    event = sendable(claim.event, now_us)
    changes = {"tried_us": now_us, "timestamp_s": event.timestamp_s, "updated_us": now_us}
    done = conn.execute(tables.outbox.update().where(_ours(claim)).values(changes))
    return event if done.rowcount == 1 else None


def _ours(claim: Claim) -> ColumnElement[bool]:
    return and_(_t.id == claim.event.id, _t.state == "sending", _t.attempts == claim.attempts)


def _sent(conn: Connection, claim: Claim, code: str, now_us: int) -> None:
    changes = {"state": "sent", "code": code, "lease_us": None, "updated_us": now_us}
    conn.execute(tables.outbox.update().where(_t.id == claim.event.id, _t.state != "sent").values(changes))


def _again(conn: Connection, claim: Claim, code: str, wait_us: int, applied: bool, now_us: int) -> None:
    changes: dict[str, object] = {"state": "queued", "due_us": now_us + wait_us, "lease_us": None}
    _end(conn, claim, changes, code, applied, now_us)


def _dead(conn: Connection, claim: Claim, code: str, applied: bool, now_us: int) -> None:
    _end(conn, claim, {"state": "dead", "lease_us": None}, code, applied, now_us)


def _end(conn: Connection, claim: Claim, changes: dict[str, object], code: str, applied: bool, now_us: int) -> None:
    if not applied:
        changes["tried_us"] = claim.tried_us
    changes |= {"code": code, "updated_us": now_us}
    conn.execute(tables.outbox.update().where(_ours(claim)).values(changes))


def _others(conn: Connection, event: MeterEvent) -> tuple[int, int]:
    same = and_(
        _t.customer == event.customer,
        _t.meter == event.meter,
        _t.timestamp_s == event.timestamp_s,
        _t.id != event.id,
    )
    sent = select(func.coalesce(func.sum(_t.value), 0)).where(same, _t.state == "sent")
    unsure = select(func.count()).where(same, _t.state != "sent", _t.tried_us.is_not(None))
    return int(conn.execute(sent).scalar_one()), conn.execute(unsure).scalar_one()


# For people ---------------------------------------------------------------------------------------------


def _counts(conn: Connection) -> tuple[dict[str, int], int | None]:
    query = select(_t.state, func.count(), func.min(_t.created_us)).where(_t.state.in_(_OPEN)).group_by(_t.state)
    rows = conn.execute(query).all()
    counts = dict.fromkeys(_OPEN, 0) | {row[0]: row[1] for row in rows}
    return counts, min((row[2] for row in rows), default=None)


def _status(conn: Connection) -> Status:
    rows = conn.execute(select(_t.state, func.count(), func.sum(_t.value)).group_by(_t.state)).all()
    columns = (getattr(_t, name) for name in Letter.__dataclass_fields__)
    dead = conn.execute(select(*columns).where(_t.state == "dead").order_by(_t.updated_us, _t.id).limit(SHOWN))
    return Status(
        counts=dict.fromkeys(STATES, 0) | {row[0]: row[1] for row in rows},
        values=dict.fromkeys(STATES, 0) | {row[0]: int(row[2]) for row in rows},
        owed_usd=owed_usd(conn),
        oldest_us=_counts(conn)[1],
        dead=tuple(Letter(**row) for row in dead.mappings()),
    )


def _retry(
    conn: Connection, ids: Sequence[str] | None, how: Literal["compared", "again", "delivered"], now_us: int
) -> list[str]:
    these = _t.state == "dead" if ids is None else and_(_t.state == "dead", _t.id.in_(ids))
    changes: dict[str, object] = {"state": "queued", "attempts": 0, "due_us": now_us, "updated_us": now_us}
    if how == "delivered":
        changes = {"state": "sent", "code": "by_hand", "updated_us": now_us}
    elif how == "again":
        changes["tried_us"] = None
    changed = tables.outbox.update().where(these).values(changes).returning(_t.id)
    return sorted(conn.execute(changed).scalars())
