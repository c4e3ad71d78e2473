"""Sums by hour and by day, and labels, moved in the transaction that writes the records: summaries are exact at once.

Hours and days are kept by what was called, so that a month is some hundred rows; details, of days, by everything else
a record can be filtered or grouped by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Table

from faregate.core.call import Record
from faregate.core.money import EXACT
from faregate.ledger import tables
from faregate.ledger.dialect import Row, add_exact_sql, exact_param, insert_many

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
SUMS = ("charge", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "count")
_TOKENS = SUMS[1:5]

Key = tuple[Any, ...]
ROLLUPS = (
    (tables.hour_rollups, tables.HOUR_KEYS),
    (tables.day_rollups, tables.DAY_KEYS),
    (tables.detail_rollups, tables.DETAIL_KEYS),
)
"""Every table of sums with its keys."""


@dataclass(slots=True)
class _Sum:
    cost: Decimal
    sums: list[int]

    def add(self, cost: Decimal, sums: list[int]) -> None:
        self.cost = EXACT.add(self.cost, cost)
        self.sums = [left + right for left, right in zip(self.sums, sums, strict=True)]


class Rollups:
    """What is moved within one transaction."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._moves: list[dict[Key, _Sum]] = [{} for _ in ROLLUPS]
        self._labels: list[Row] = []

    def move(self, record: Record, usage_id: str) -> None:
        """Add a new record (or a difference) to its hour and its day."""
        usage = record.usage
        sums = [record.charge_microcredits, *(_count(usage.get(name)) for name in _TOKENS)]
        sums.append(0 if record.kind == "adjustment" else 1)
        for moves, key in zip(self._moves, rollup_keys(record), strict=True):
            known = moves.get(key)
            if known is None:
                moves[key] = _Sum(record.cost_usd, sums)
            else:
                known.add(record.cost_usd, sums)
        self._labels += label_rows(record, usage_id)

    def flush(self) -> None:
        """Write the moves, in key order."""
        for (table, keys), moves in zip(ROLLUPS, self._moves, strict=True):
            rows = [(*key, exact_param(self._conn, moved.cost), *moved.sums) for key, moved in sorted(moves.items())]
            add_sums(self._conn, table, keys, rows)
        routes = sorted({(key[0], *key[2:]) for key in self._moves[0]})
        insert_many(self._conn, tables.usage_routes, routes, "ON CONFLICT DO NOTHING")
        insert_many(self._conn, tables.usage_labels, sorted(self._labels), "ON CONFLICT DO NOTHING")


def add_sums(conn: Connection, table: Table, keys: tuple[str, ...], rows: Sequence[Row]) -> None:
    """Add whole rows (the cost as the driver wants it) to a table of sums."""
    sets = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in SUMS)
    cost = add_exact_sql(conn, table.name, "cost")
    insert_many(conn, table, rows, f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET cost = {cost}, {sets}")


def rollup_keys(record: Record) -> tuple[Key, Key, Key]:
    """Where a record counts, in the order of `ROLLUPS`."""
    ours, day = record.organization_id, record.occurred_at_us // DAY_US
    route = (record.context, record.provider, record.public_model, record.model)
    who = (record.account_id, record.key_id or "")
    attribution = record.attribution
    return (
        (ours, record.occurred_at_us // HOUR_US, *route),
        (ours, day, *route),
        (ours, day, *who, *route, attribution.get("agent", ""), attribution.get("feature", "")),
    )


def label_rows(record: Record, usage_id: str) -> list[Row]:
    """A record's attribution as it is searched for, in the order of `tables.usage_labels`."""
    return [
        (record.organization_id, cut(name), cut(str(value)), record.occurred_at_us, usage_id)
        for name, value in record.attribution.items()
    ]


def cut(text: str) -> str:
    """A label's name or value, as far as it is indexed."""
    return text[: tables.MOST_LABEL]


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
