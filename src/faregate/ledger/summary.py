"""Sums over usage: whole hours from the rollups, the rest from the records, in one state of the book."""

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
from faregate.ledger.rollups import HOUR_US, SUMS
from faregate.ledger.usage import UsageFilter

GroupBy = Literal[
    "model", "public_model", "context", "account", "agent", "feature", "provider", "key", "day", "week", "month"
]
_COLUMNS = {"account": "account_id", "key": "key_id"}
_TIMES = frozenset({"day", "week", "month"})


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
    for table, conditions in _sources(wanted):
        query = _query(table, conditions, group_by)
        for group, context, model, cost, *sums in conn.execute(query):
            part = _totals(cost, sums)
            summary.total.add(part)
            summary.by_context.setdefault(context, Totals()).add(part)
            summary.by_model.setdefault(model, Totals()).add(part)
            if group_by is not None:
                summary.groups.setdefault(_group_name(group_by, group), Totals()).add(part)
    return summary


def _sources(wanted: UsageFilter) -> Iterator[tuple[Table, list[ColumnElement[bool]]]]:
    """Where to read: rollups for whole hours, records for what is cut off an hour at either end."""
    start, end = wanted.start_us, wanted.end_us
    first = None if start is None else -(-start // HOUR_US)
    last = None if end is None else end // HOUR_US
    if wanted.attribution or (first is not None and last is not None and first >= last):
        yield tables.usage_records, wanted.record_conditions(start, end)
        return
    hour = tables.rollups.c.hour
    conditions = wanted.conditions(tables.rollups.c)
    conditions += [] if first is None else [hour >= first]
    conditions += [] if last is None else [hour < last]
    yield tables.rollups, conditions
    if start is not None and first is not None and start % HOUR_US:
        yield tables.usage_records, wanted.record_conditions(start, first * HOUR_US)
    if end is not None and last is not None and end % HOUR_US:
        yield tables.usage_records, wanted.record_conditions(last * HOUR_US, end)


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
        column = table.c.hour // 24 if table is tables.rollups else table.c.occurred_us // (24 * HOUR_US)
        return column.label("grp")
    return func.coalesce(table.c[_COLUMNS.get(group_by, group_by)], "").label("grp")


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
