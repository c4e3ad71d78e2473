"""Idempotency keys of an organization: what was answered, and the name of a request's effects outside of SQL."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select, tuple_

from faregate.ledger import tables
from faregate.ledger.claims import Claim, check, current, name_of, open_claim
from faregate.ledger.database import Database

_t = tables.idempotency.c


@dataclass(frozen=True, slots=True)
class Kept:
    """What is remembered of a request. `status` is None while it has not ended: it runs, or its process died."""

    status: int | None
    body: str | None


class Idempotency:
    """The table of keys. Every method raises BookUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, claim: Claim) -> Kept | None:
        """What is remembered of it. Raises IdempotencyMismatch when the key came with another request."""
        return await self._database.read(_find, claim, self._database.now_us())

    async def claim(self) -> str | None:
        """Claim the key of the request that the current task handles, before any effect of it.

        For effects that are no transaction of their own (a hold): the answer is a name (32 hex digits) for them that
        is the same at every repeat; None: the request has no key. Raises IdempotencyMismatch, InProgress.
        """
        running = current()
        if running is None:
            return None
        running.claimed = True
        created_us = await self._database.upkeep(_claim, running.claim, self._database.now_us())
        return name_of(running.claim, created_us)

    async def complete(self, claim: Claim, status: int, body: str) -> None:
        """Remember the answer. What was remembered first stays."""
        await self._database.upkeep(_complete, claim, status, body, self._database.now_us())

    async def forget(self, claim: Claim) -> None:
        """It was refused: unless it has had an effect, the key is free again."""
        await self._database.upkeep(_forget, claim)

    async def any_expired(self) -> bool:
        """Is there anything to purge?"""
        return await self._database.read(_any_expired, self._database.now_us())

    async def purge(self, most: int = 500) -> int:
        """Delete keys that have expired, at most so many. How many they were."""
        return await self._database.upkeep(_purge, most, self._database.now_us())


def _find(conn: Connection, claim: Claim, now_us: int) -> Kept | None:
    mine = (_t.tenant == claim.tenant, _t.key == claim.key, _t.expires_us > now_us)
    row = conn.execute(select(tables.idempotency).where(*mine)).mappings().first()
    if row is None:
        return None
    check(row, claim)
    return Kept(row["status"], row["body"])


def _claim(conn: Connection, claim: Claim, now_us: int) -> int:
    created_us: int = open_claim(conn, claim, now_us)["created_us"]
    return created_us


def _complete(conn: Connection, claim: Claim, status: int, body: str, now_us: int) -> None:
    open_claim(conn, claim, now_us)
    done = {"state": "done", "results": "{}", "status": status, "body": body}
    change = tables.idempotency.update().where(_t.tenant == claim.tenant, _t.key == claim.key)
    conn.execute(change.values(done))


def _forget(conn: Connection, claim: Claim) -> None:
    mine = (_t.tenant == claim.tenant, _t.key == claim.key, _t.fingerprint == claim.fingerprint)
    conn.execute(tables.idempotency.delete().where(*mine, _t.state == "running", _t.results == "{}"))


def _any_expired(conn: Connection, now_us: int) -> bool:
    return conn.execute(select(_t.key).where(_t.expires_us <= now_us).limit(1)).first() is not None


def _purge(conn: Connection, most: int, now_us: int) -> int:
    expired = select(_t.tenant, _t.key).where(_t.expires_us <= now_us).order_by(_t.expires_us).limit(most)
    gone = tables.idempotency.delete().where(tuple_(_t.tenant, _t.key).in_(expired), _t.expires_us <= now_us)
    return conn.execute(gone).rowcount
