"""Usage records by month, on PostgreSQL: old months can be detached whole, new rows go to small indexes.

    usage_records                  RANGE (hold_id)
      usage_records_call           call_...: forwarded calls                 RANGE (hold_id)
        usage_records_call_2026_11    a month of them
        usage_records_call_other      ids of no month: default
      usage_records_api            api_...: told of from outside             likewise
      usage_records_other          any other id: default

Hold ids are `<kind>_` and 32 hex digits that begin with the milliseconds of their making, so a month of a kind is a
range of ids, and the unique key (hold_id, is_adjustment) contains the partition key: both records of a hold stay
together whoever books them when. Nothing is ever refused for want of a month, it lands in a default.

Attaching a month stops no writer: SHARE UPDATE EXCLUSIVE on its parent, ACCESS EXCLUSIVE on the default of its kind,
which is empty as a rule; what is there of the month moves into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection

from faregate.ledger.database import Database
from faregate.ledger.dialect import one_at_a_time

TABLE = "usage_records"
KINDS = ("api", "call")
"""Prefixes of hold ids that have usage records in numbers."""
AHEAD = 3
"""Months that exist before their time."""
LOCK_TIMEOUT_MS = 1_000
"""Who waits for the default of a kind lets later readers of usage wait, too."""


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A month of UTC; `number` counts from January of year 0."""

    number: int

    @classmethod
    def at(cls, now_us: int) -> Month:
        """The month of a moment."""
        moment = datetime.fromtimestamp(now_us // 1_000_000, UTC)
        return cls(moment.year * 12 + moment.month - 1)

    def __add__(self, months: int) -> Month:
        return Month(self.number + months)

    def table(self, kind: str) -> str:
        """Its partition of a kind."""
        return f"{TABLE}_{kind}_{self.number // 12:04d}_{self.number % 12 + 1:02d}"

    def first_id(self, kind: str) -> str:
        """No id of the kind made in this month, or later, is less."""
        begin = datetime(self.number // 12, self.number % 12 + 1, 1, tzinfo=UTC)
        return f"{kind}_{int(begin.timestamp()) * 1000:012x}"


class Partitions:
    """Makes months before they come. Nothing to do on SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def wanted(self) -> bool:
        """Is a month missing? Raises BookUnavailable."""
        return bool(await self._database.read(missing, self._database.now_us()))

    async def make(self) -> int:
        """Make what is missing. How many. Raises BookUnavailable, also when readers would have had to wait long."""
        return await self._database.upkeep(make, self._database.now_us())


def missing(conn: Connection, now_us: int) -> Sequence[tuple[str, Month]]:
    """Partitions of this month and the next few that are not there: (kind, month)."""
    if conn.dialect.name != "postgresql":
        return ()
    this = Month.at(now_us)
    months = [this + step for step in range(AHEAD + 1)]
    names = [month.table(kind) for kind in KINDS for month in months]
    sql = (
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhrelid = ANY(SELECT to_regclass(unnest($1::text[])))"
    )
    there = {str(name).rpartition(".")[2] for name in conn.exec_driver_sql(sql, (names,)).scalars()}
    return [(kind, month) for kind in KINDS for month in months if month.table(kind) not in there]


def make(conn: Connection, now_us: int) -> int:
    """Make what is missing, within the caller's transaction; others who do the same are waited for."""
    if not missing(conn, now_us):
        return 0
    conn.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
    one_at_a_time(conn, "months")
    places = missing(conn, now_us)
    for kind, month in places:
        for statement in _statements(kind, month):
            conn.exec_driver_sql(statement)
    return len(places)


def _statements(kind: str, month: Month) -> Iterator[str]:
    table, other = month.table(kind), f"{TABLE}_{kind}_other"
    begin, end = month.first_id(kind), (month + 1).first_id(kind)
    mine = f"hold_id >= '{begin}' AND hold_id < '{end}'"
    yield f"LOCK TABLE {other} IN ACCESS EXCLUSIVE MODE"
    yield f"CREATE TABLE {table} (LIKE {TABLE} INCLUDING ALL)"
    yield f"WITH moved AS (DELETE FROM {other} WHERE {mine} RETURNING *) INSERT INTO {table} SELECT * FROM moved"  # noqa: S608
    yield f"ALTER TABLE {TABLE}_{kind} ATTACH PARTITION {table} FOR VALUES FROM ('{begin}') TO ('{end}')"
