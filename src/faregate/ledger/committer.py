"""Records in one transaction; what is refused is tried again row by row, so that one bad row blocks nobody."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError

from faregate.core.call import Committed, Record
from faregate.errors import BookRefused, BookUnavailable
from faregate.ledger.commit import write_batch
from faregate.ledger.faults import ROW_FAULTS, is_collision, is_row_fault, is_wait, refused, unavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

COLLISIONS = 4
"""How often a transaction is run again after a deadlock or a serialization failure."""

WAITS = 2
"""How many accounts of one batch may be waited for singly: each costs a lock timeout."""


class Committer:
    """Runs transactions on an engine: in the calling thread, which waits."""

    def __init__(self, engine: Engine, now_us: Callable[[], int]) -> None:
        self._engine = engine
        self._now_us = now_us

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction; again when another process's was in the way."""
        for _ in range(COLLISIONS):
            try:
                with self._engine.begin() as conn:
                    return work(conn)
            except DBAPIError as error:
                if not is_collision(error):
                    raise
        with self._engine.begin() as conn:
            return work(conn)

    def commit(self, records: Sequence[Record]) -> Sequence[Committed | BaseException]:
        """One answer each, in order: Committed, BookRefused or BookUnavailable."""
        if not records:
            return []
        try:
            return self.transact(lambda conn: write_batch(conn, records, self._now_us()))
        except (*ROW_FAULTS, SQLAlchemyError, OSError) as error:
            if is_wait(error) and len(records) > 1:
                return self._commit_apart(records)
            if not is_row_fault(error):
                return [unavailable(error) for _ in records]
        return self._commit_singly(records)

    def _commit_apart(self, records: Sequence[Record]) -> Sequence[Committed | BaseException]:
        """Each in a transaction of its own: who waits for a lock holds none that others wait for."""
        outcomes: list[Committed | BaseException] = []
        locked: dict[str, BookUnavailable] = {}
        for record in records:
            known = locked.get(record.account_id)
            if known is None and len(locked) >= WAITS:
                known = BookUnavailable("the book cannot be reached: too much in it is locked")
            outcome = self._commit_singly([record])[0] if known is None else known
            if isinstance(outcome, BookUnavailable):
                locked.setdefault(record.account_id, outcome)
            outcomes.append(outcome)
        return outcomes

    def _commit_singly(self, records: Sequence[Record]) -> Sequence[Committed | BaseException]:
        try:
            return self.transact(lambda conn: [self._commit_one(conn, record) for record in records])
        except (SQLAlchemyError, OSError) as error:
            return [unavailable(error) for _ in records]

    def _commit_one(self, conn: Connection, record: Record) -> Committed | BaseException:
        try:
            with conn.begin_nested():
                return write_batch(conn, [record], self._now_us())[0]
        except (*ROW_FAULTS, StatementError) as error:
            if not is_row_fault(error):
                raise
            log.error("the book refuses a record of hold %s: %s", record.hold_id, type(error).__name__)
            return error if isinstance(error, BookRefused) else refused(error)
