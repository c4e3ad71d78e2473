"""Leases: what only one process at a time does, until its lease runs out."""

from __future__ import annotations

from sqlalchemy import Connection, or_

from faregate.ledger import tables
from faregate.ledger.database import Database
from faregate.ledger.dialect import insert_many

_t = tables.leases.c


class Leases:
    """Who does what, by name. Clocks of processes may differ by less than a lease."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, name: str, holder: str, for_us: int) -> bool:
        """Take or renew it. False: another process has it. Raises BookUnavailable."""
        return await self._database.upkeep(take_lease, name, holder, for_us, self._database.now_us())


def take_lease(conn: Connection, name: str, holder: str, for_us: int, now_us: int) -> bool:
    """Within a transaction. For 0: it is given back."""
    insert_many(conn, tables.leases, [(name, holder, 0)], "ON CONFLICT (name) DO NOTHING")
    free = or_(_t.until_us <= now_us, _t.holder == holder)
    taken = tables.leases.update().where(_t.name == name, free).values(holder=holder, until_us=now_us + for_us)
    return conn.execute(taken).rowcount == 1
