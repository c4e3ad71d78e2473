"""Grants of an account brought into line with their moves and its balance: the part of a repair that is about them."""

from __future__ import annotations

from sqlalchemy import Connection

from faregate.core.money import credits
from faregate.ledger import tables
from faregate.ledger.dialect import Row, insert_many, marks
from faregate.ledger.posting import Wallet

_t = tables.grants.c


def correct_grants(conn: Connection, wallet: Wallet, entry_id: str) -> list[str]:
    """What was done. `entry_id`: the entry that moves belong to. The wallet is told when to look next."""
    done: list[str] = []
    room = max(wallet.posted, 0)
    moments: list[int] = []
    for grant_id, started, amount, remaining, effective_us, expires_us, moved in _grants(conn, wallet.id):
        right = int(moved or 0) if started else amount
        kept = max(0, min(right, amount, room)) if started else right
        if kept != remaining:
            done.append(f"grant {grant_id} has {credits(kept)} left, not {credits(remaining)}")
            conn.execute(tables.grants.update().where(_t.id == grant_id).values(remaining=kept))
        if kept != right:
            insert_many(conn, tables.grant_moves, [(entry_id, grant_id, kept - right)])
        room -= kept if started else 0
        moment = expires_us if started and kept > 0 else None if started else effective_us
        if moment is not None:
            moments.append(moment)
    until_us = min(moments, default=None)
    if until_us != wallet.grants_until_us:
        done.append("the account knows again when its next grant starts or ends")
        wallet.grants_until_us = until_us
    return done


def _grants(conn: Connection, account_id: str) -> list[Row]:
    sql = (
        "SELECT g.id, g.started, g.amount, g.remaining, g.effective_us, g.expires_us,"  # noqa: S608
        " (SELECT sum(m.amount) FROM grant_moves m WHERE m.grant_id = g.id) FROM grants g"
        f" WHERE g.account_id = {marks(conn, 1)} ORDER BY g.started DESC, g.priority, g.expires_us, g.created_us, g.id"
    )
    return [tuple(row) for row in conn.exec_driver_sql(sql, (account_id,))]
