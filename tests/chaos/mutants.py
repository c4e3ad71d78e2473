"""Faregate with a guarantee taken out, each by one patch: the checks must notice.

commit_after_answer   the last byte leaves first, the charge is recorded afterwards
delta_settle          Redis is told what to subtract instead of what the balance is
no_dedupe             the book takes a record as often as it is sent
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any

from faregate.core.call import Committed, Record, Snapshot
from faregate.core.ids import uuid7
from faregate.credits import gate, pipe, scripts
from faregate.credits.scripts import Script
from faregate.flow import Bill, Flow
from faregate.ledger import commit, dialect
from faregate.ledger.book import SqlBook
from faregate.ports import Dialect, Inbound, Reply


def _commit_after_answer() -> None:
    async def serve(self: Flow, inbound: Inbound, dialect: Dialect, reply: Reply) -> None:
        inside = await self._admit(inbound, dialect)
        await self._owner.forward(inside.held)
        attempt = await self._forwarder.forward(inside, reply)
        await self._last_byte(inside, attempt, Bill(), dialect, reply)
        await self._charge(inside)

    Flow.serve = serve  # type: ignore[method-assign]


_ABSOLUTE = "take_snapshot(KEYS[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])"
_DELTA = """
if string.sub(ARGV[3], 1, 1) == 'd' then
  redis.call('HINCRBY', KEYS[2], 'posted', '-' .. string.sub(ARGV[3], 2))
  redis.call('HSET', KEYS[2], 'seq', ARGV[4])
else
  take_snapshot(KEYS[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
end
"""


def _delta_settle() -> None:
    charged: dict[int, tuple[Snapshot, int]] = {}
    commit_, absolutes = SqlBook.commit, gate._absolutes

    async def commit(self: SqlBook, record: Record) -> Committed:
        committed = await commit_(self, record)
        charged[id(committed.snapshot)] = (committed.snapshot, committed.charge_microcredits)
        return committed

    def deltas(snapshot: Snapshot) -> list[Any]:
        found = absolutes(snapshot)
        return [f"d{charged[id(snapshot)][1]}", *found[1:]] if id(snapshot) in charged else list(found)

    def load() -> dict[str, Script]:
        found = scripts.load()
        source = found["settle"].source.decode()
        assert _ABSOLUTE in source
        mutant = source.replace(_ABSOLUTE, _DELTA).encode()
        sha = sha1(mutant, usedforsecurity=False).hexdigest().encode()
        return {**found, "settle": Script("settle", mutant, sha)}

    SqlBook.commit = commit  # type: ignore[method-assign]
    gate._absolutes = deltas
    pipe.load = load  # type: ignore[attr-defined]


def _no_dedupe() -> None:
    real = dialect.insert_returning

    def insert_returning(conn: Any, table: Any, rows: Sequence[tuple[Any, ...]], tail: str) -> list[tuple[Any, ...]]:
        fresh = [(row[0], f"{row[1]}#{uuid7().hex}", *row[2:]) for row in rows]
        return [(hold.partition("#")[0],) for (hold,) in real(conn, table, fresh, tail)]

    commit.insert_returning = insert_returning  # type: ignore[attr-defined]


MUTANTS: dict[str, Callable[[], None]] = {
    "commit_after_answer": _commit_after_answer,
    "delta_settle": _delta_settle,
    "no_dedupe": _no_dedupe,
}


def apply(name: str) -> None:
    """Patch this process. An empty name patches nothing."""
    if name:
        MUTANTS[name]()
