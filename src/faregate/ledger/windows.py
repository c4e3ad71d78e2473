"""Limit windows: what each has used, and a sequence that orders its absolutes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from sqlalchemy import Connection

from faregate.core.call import LimitState, Record
from faregate.core.limit_ids import kind_of
from faregate.errors import BookRefused
from faregate.ledger import tables
from faregate.ledger.dialect import among_pairs, insert_returning

_UPSERT = (
    "ON CONFLICT (limit_id, start_s) DO UPDATE SET used = limit_windows.used + excluded.used,"
    " seq = limit_windows.seq + 1 RETURNING limit_id, start_s, used, seq"
)

Key = tuple[str, int]


@lru_cache(maxsize=8_192)
def parse_key(key: str) -> Key:
    """`key_ab12.credits.month:1790000000` -> (limit id, window start in s). Raises BookRefused."""
    limit_id, _, start = key.rpartition(":")
    if not limit_id or not start.isascii() or not start.isdigit() or kind_of(limit_id) is None:
        raise BookRefused("a limit key cannot be read")
    return limit_id, int(start)


def amount(kind: str | None, *, charge: int, tokens: int, is_adjustment: bool) -> int:
    """How far a record moves a window. Requests count at admission, so an adjustment is none."""
    if kind == "credits":
        return charge
    if kind == "tokens":
        return tokens
    return 0 if is_adjustment else 1


class Windows:
    """The windows moved within one transaction."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._moves: dict[Key, int] = {}
        self._states: dict[Key, LimitState] = {}

    def move(self, record: Record) -> None:
        """Count a new record (or a difference) in the windows that admitted it."""
        adjustment = record.kind == "adjustment"
        for text in record.limit_keys:
            key = parse_key(text)
            kind = kind_of(key[0])
            if kind != "concurrency":
                moved = amount(kind, charge=record.charge_microcredits, tokens=record.tokens, is_adjustment=adjustment)
                self._moves[key] = self._moves.get(key, 0) + moved

    def flush(self) -> None:
        """Write the moves, in key order."""
        rows = [(limit_id, start, used, 1) for (limit_id, start), used in sorted(self._moves.items())]
        for limit_id, start, used, seq in insert_returning(self._conn, tables.limit_windows, rows, _UPSERT):
            self._states[limit_id, start] = LimitState(key=f"{limit_id}:{start}", used=used, seq=seq)

    def states(self, limit_keys: Iterable[str]) -> tuple[LimitState, ...]:
        """The absolutes of these windows, after `flush`."""
        keys = [parse_key(text) for text in limit_keys]
        missing = [key for key in keys if key not in self._states]
        if missing:
            self._states.update(read_windows(self._conn, missing))
        return tuple(self._states[key] for key in keys)


def read_windows(conn: Connection, keys: Iterable[Key]) -> dict[Key, LimitState]:
    """What the book has of these windows; one it has never seen has used nothing."""
    states = {key: LimitState(key=f"{key[0]}:{key[1]}", used=0, seq=0) for key in keys}
    if states:
        these, params = among_pairs(conn, list(states))
        sql = f"SELECT limit_id, start_s, used, seq FROM limit_windows WHERE (limit_id, start_s) {these}"  # noqa: S608
        for limit_id, start, used, seq in conn.exec_driver_sql(sql, params):
            states[limit_id, start] = LimitState(key=f"{limit_id}:{start}", used=used, seq=seq)
    return states
