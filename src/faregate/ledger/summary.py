"""Sums over usage: whole hours or days from the rollups, the rest from the records, in one state of the book."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Table, case, func, literal, select
from sqlalchemy import cast as sql_cast
from sqlalchemy.types import BigInteger

from faregate.core.money import EXACT
from faregate.ledger import tables
from faregate.ledger.database import Database
from faregate.ledger.dialect import exact_sum
from faregate.ledger.rollups import DAY_US, HOUR_US, SUMS
from faregate.ledger.usage_filter import UsageFilter, between

GroupBy = Literal[
    "model", "public_model", "context", "account", "agent", "feature", "provider", "key", "day", "week", "month"
]
_COLUMNS = {"account": "account_id", "key": "key_id"}
_TIMES = frozenset({"day", "week", "month"})
_NARROW = frozenset({"account", "key", "agent", "feature"})
_MOST_DAYS = 1_500


@dataclass(slots=True, kw_only=True)
class Totals:
    """Sums; `count` counts calls, not adjustments."""

    cost_usd: Decimal = Decimal(0)
    charge_microcredits: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    count: int = 0

    def add(self, other: Totals) -> None:
        self.cost_usd = EXACT.add(self.cost_usd, other.cost_usd)
        self.charge_microcredits += other.charge_microcredits
        self.input_tokens += other.input_tokens
        self.cached_input_tokens += other.cached_input_tokens
        self.output_tokens += other.output_tokens
        self.reasoning_tokens += other.reasoning_tokens
        self.count += other.count


@dataclass(slots=True, kw_only=True)
class Summary:
    """Everything, and the same by context, by upstream model and by the group asked for ("" is none).

    Time groups are named by their first day (`2026-01-05`) or month (`2026-01`), UTC, weeks from Monday.
    """

    total: Totals = field(default_factory=Totals)
    by_context: dict[str, Totals] = field(default_factory=dict)
    by_model: dict[str, Totals] = field(default_factory=dict)
    groups: dict[str, Totals] = field(default_factory=dict)


class Summaries:
    """Sums over usage."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, wanted: UsageFilter, *, group_by: GroupBy | None = None) -> Summary:
        """Exact as of the last commit."""
        return await self._database.read(summarise, wanted, group_by)


def summarise(conn: Connection, wanted: UsageFilter, group_by: GroupBy | None) -> Summary:
    """Sum what the filter takes, on this connection's state of the book."""
    summary = Summary()
    for table, conditions in _sources(conn, wanted, group_by):
        query = _query(table, conditions, group_by)
        for group, context, model, cost, *sums in conn.execute(query):
            part = _totals(cost, sums)
            summary.total.add(part)
            summary.by_context.setdefault(context, Totals()).add(part)
            summary.by_model.setdefault(model, Totals()).add(part)
            if group_by is not None:
                summary.groups.setdefault(_group_name(group_by, group), Totals()).add(part)
    return summary


def calls_by_time(conn: Connection, wanted: UsageFilter) -> dict[int, int]:
    """How many calls the filter takes, by the first moment (UTC microseconds) of their day, or hour at a cut day."""
    found: dict[int, int] = {}
    for table, conditions in _sources(conn, wanted, None):
        name, unit_us = _UNITS[table]
        unit = table.c[name] // (DAY_US if unit_us == 1 else 1)
        calls = sql_cast(func.sum(_summed(table, "count")), BigInteger)
        for place, count in conn.execute(select(unit, calls).where(*conditions).group_by(unit)):
            moment = max(place * (DAY_US if unit_us == 1 else unit_us), 0)
            found[moment] = found.get(moment, 0) + count
    return found


_UNITS = {
    tables.day_rollups: ("day", DAY_US),
    tables.detail_rollups: ("day", DAY_US),
    tables.hour_rollups: ("hour", HOUR_US),
    tables.usage_records: ("occurred_us", 1),
}
Source = tuple[Table, list[ColumnElement[bool]]]


def _sources(conn: Connection, wanted: UsageFilter, group_by: GroupBy | None) -> Iterator[Source]:
    """Where to read: sums of whole days, then of whole hours if they can tell, records for what is left."""
    narrow = (wanted.account_id, wanted.key_id, wanted.agent, wanted.feature)
    ladder = [tables.day_rollups, tables.hour_rollups, tables.usage_records]
    if wanted.attribution:
        ladder = ladder[2:]
    elif group_by in _NARROW or any(value is not None for value in narrow):
        ladder = [tables.detail_rollups, tables.usage_records]
    return _descend(conn, wanted, ladder, wanted.start_us, wanted.end_us)


def _descend(
    conn: Connection, wanted: UsageFilter, ladder: list[Table], start: int | None, end: int | None
) -> Iterator[Source]:
    table, finer = ladder[0], ladder[1:]
    if not finer:
        yield table, wanted.record_conditions(start, end)
        return
    name, unit_us = _UNITS[table]
    first = None if start is None else -(-start // unit_us)
    last = None if end is None else end // unit_us
    if first is not None and last is not None and first >= last:
        yield from _descend(conn, wanted, finer, start, end)
        return
    by_account = table is tables.detail_rollups and wanted.account_id and wanted.organization_id
    days = _each_day(conn, wanted, first, last) if by_account else []
    yield table, [*wanted.conditions(table.c), *(days or between(table.c[name], first, last))]
    if start is not None and first is not None and start % unit_us:
        yield from _descend(conn, wanted, finer, start, first * unit_us)
    if end is not None and last is not None and end % unit_us:
        yield from _descend(conn, wanted, finer, last * unit_us, end)


def _each_day(conn: Connection, wanted: UsageFilter, first: int | None, last: int | None) -> list[ColumnElement[bool]]:
    """Every day by name: the account stands after the day in the key, so each is one step to what is asked for."""
    day, ours = tables.detail_rollups.c.day, tables.detail_rollups.c.organization_id == wanted.organization_id
    least, most = (conn.execute(select(edge(day)).where(ours)).scalar_one() for edge in (func.min, func.max))
    if least is None:
        return []
    days = range(least if first is None else max(first, least), most + 1 if last is None else min(last, most + 1))
    return [day.in_(days)] if len(days) <= _MOST_DAYS else []


def _query(table: Table, conditions: list[ColumnElement[bool]], group_by: GroupBy | None) -> Any:
    columns = table.c
    group = _group(table, group_by)
    sums = [func.coalesce(sql_cast(func.sum(_summed(table, name)), BigInteger), 0) for name in SUMS]
    return (
        select(group, columns.context, columns.model, exact_sum(columns.cost), *sums)
        .where(*conditions)
        .group_by(group, columns.context, columns.model)
    )


def _summed(table: Table, name: str) -> ColumnElement[int]:
    if name == "count" and table is tables.usage_records:
        return case((table.c.is_adjustment, 0), else_=1)
    column: ColumnElement[int] = table.c[name]
    return column


def _group(table: Table, group_by: GroupBy | None) -> ColumnElement[Any]:
    if group_by is None:
        return literal("").label("grp")
    if group_by in _TIMES:
        return _day(table).label("grp")
    return func.coalesce(table.c[_COLUMNS.get(group_by, group_by)], "").label("grp")


def _day(table: Table) -> ColumnElement[int]:
    if table is tables.usage_records:
        return table.c.occurred_us // DAY_US
    day: ColumnElement[int] = table.c.hour // 24 if table is tables.hour_rollups else table.c.day
    return day


def _group_name(group_by: GroupBy, group: Any) -> str:
    if group_by not in _TIMES:
        return str(group)
    day = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=int(group))
    if group_by == "month":
        return f"{day:%Y-%m}"
    return f"{day - timedelta(days=day.weekday()) if group_by == 'week' else day:%Y-%m-%d}"


def _totals(cost: Decimal | None, sums: list[int]) -> Totals:
    charge, input_tokens, cached, output_tokens, reasoning, count = sums
    return Totals(
        cost_usd=cost or Decimal(0),
        charge_microcredits=charge,
        input_tokens=input_tokens,
        cached_input_tokens=cached,
        output_tokens=output_tokens,
        reasoning_tokens=reasoning,
        count=count,
    )
