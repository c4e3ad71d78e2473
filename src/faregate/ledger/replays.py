"""Answers of the data plane, kept for repeats of their Idempotency-Key (`ports.ReplayStore`).

A row is claimed while its call runs, for as long as its process says so, then holds the answer until it expires. Losing
a row costs nothing but a call that is made, and charged, again.
"""

from __future__ import annotations

import orjson
from sqlalchemy import ColumnElement, Connection, delete, func, select, text, tuple_, update

from faregate.errors import IdempotencyMismatch, InProgress
from faregate.ledger import tables
from faregate.ledger.database import Database
from faregate.ports import ReplayClaim, ReplayedAnswer

_t = tables.replays.c
MOST_KEPT = 10_000
"""Answers of one organization."""
MOST_BYTES = 256 << 20
"""Of their bodies together."""


_CLAIM = text(
    "INSERT INTO replays (organization_id, key, fingerprint, holder, size, expires_us)"
    " VALUES (:organization, :key, :fingerprint, :holder, 0, :expires) ON CONFLICT (organization_id, key) DO NOTHING"
)


class Replays:
    """`ports.ReplayStore` over SQL. `name` is this process's."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name

    async def begin(self, claim: ReplayClaim, lease_us: int) -> ReplayedAnswer | bool:
        return await self._database.write(_begin, claim, self._name, lease_us, self._database.now_us())

    async def renew(self, lease_us: int) -> None:
        await self._database.write(_renew, self._name, lease_us)

    async def keep(self, claim: ReplayClaim, answer: ReplayedAnswer, expires_us: int) -> None:
        await self._database.write(_keep, claim, self._name, answer, expires_us)

    async def drop(self, claim: ReplayClaim) -> None:
        await self._database.write(_drop, claim, self._name)

    async def purge(self, most: int = 500) -> int:
        """Delete what has expired, at most so many. How many they were."""
        now_us = self._database.now_us()
        if not await self._database.read(_any_expired, now_us):
            return 0
        return await self._database.write(_purge, now_us, most)


def _begin(conn: Connection, claim: ReplayClaim, name: str, lease_us: int, now_us: int) -> ReplayedAnswer | bool:
    conn.execute(delete(tables.replays).where(*_this(claim), _t.expires_us <= now_us))
    held = select(func.count(), func.coalesce(func.sum(_t.size), 0)).where(_t.organization_id == claim.organization_id)
    answers, size = conn.execute(held).one()
    if answers < MOST_KEPT and size < MOST_BYTES:
        row = {"organization": claim.organization_id, "key": claim.key, "fingerprint": claim.fingerprint}
        if conn.execute(_CLAIM, {**row, "holder": name, "expires": lease_us}).rowcount == 1:
            return True
    found = conn.execute(select(tables.replays).where(*_this(claim))).mappings().first()
    if found is None:
        return False
    if found["fingerprint"] != claim.fingerprint:
        raise IdempotencyMismatch("this Idempotency-Key came with another request before", param="Idempotency-Key")
    if found["holder"] is not None:
        raise InProgress("the first request with this Idempotency-Key has not ended yet", retry_after_s=1)
    return ReplayedAnswer(headers=orjson.loads(found["head"]), body=bytes(found["body"]))


def _renew(conn: Connection, name: str, lease_us: int) -> None:
    conn.execute(update(tables.replays).where(_t.holder == name).values(expires_us=lease_us))


def _keep(conn: Connection, claim: ReplayClaim, name: str, answer: ReplayedAnswer, expires_us: int) -> None:
    kept = {
        "holder": None,
        "head": orjson.dumps(dict(answer.headers)).decode(),
        "body": answer.body,
        "size": len(answer.body),
        "expires_us": expires_us,
    }
    conn.execute(update(tables.replays).where(*_this(claim), _t.holder == name).values(kept))


def _drop(conn: Connection, claim: ReplayClaim, name: str) -> None:
    conn.execute(delete(tables.replays).where(*_this(claim), _t.holder == name))


def _any_expired(conn: Connection, now_us: int) -> bool:
    return conn.execute(select(_t.key).where(_t.expires_us <= now_us).limit(1)).first() is not None


def _purge(conn: Connection, now_us: int, most: int) -> int:
    old = select(_t.organization_id, _t.key).where(_t.expires_us <= now_us).limit(most)
    return conn.execute(delete(tables.replays).where(tuple_(_t.organization_id, _t.key).in_(old))).rowcount


def _this(claim: ReplayClaim) -> tuple[ColumnElement[bool], ...]:
    return (_t.organization_id == claim.organization_id, _t.key == claim.key)
