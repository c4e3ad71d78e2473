"""Hourly sums, moved in the transaction that writes the records: summaries are exact at once."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from faregate.core.call import Record
from faregate.core.money import EXACT
from faregate.ledger import tables
from faregate.ledger.dialect import add_exact_sql, exact_param, insert_many

HOUR_US = 3_600_000_000
SUMS = ("charge", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "count")
_TOKENS = SUMS[1:5]


@dataclass(slots=True)
class _Sum:
    cost: Decimal
    sums: list[int]


class Rollups:
    """The hours moved within one transaction."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._moves: dict[tuple[Any, ...], _Sum] = {}

    def move(self, record: Record) -> None:
        """Add a new record (or a difference) to its hour."""
        usage = record.usage
        sums = [record.charge_microcredits, *(_count(usage.get(name)) for name in _TOKENS)]
        sums.append(0 if record.kind == "adjustment" else 1)
        key = rollup_key(record)
        known = self._moves.get(key)
        if known is None:
            self._moves[key] = _Sum(record.cost_usd, sums)
        else:
            known.cost = EXACT.add(known.cost, record.cost_usd)
            known.sums = [left + right for left, right in zip(known.sums, sums, strict=True)]

    def flush(self) -> None:
        """Write the moves, in key order."""
        rows = [(*key, exact_param(self._conn, moved.cost), *moved.sums) for key, moved in sorted(self._moves.items())]
        sets = ", ".join(f"{name} = rollups.{name} + excluded.{name}" for name in SUMS)
        cost = add_exact_sql(self._conn, "cost")
        tail = f"ON CONFLICT ({', '.join(tables.ROLLUP_KEYS)}) DO UPDATE SET cost = {cost}, {sets}"
        insert_many(self._conn, tables.rollups, rows, tail)


def rollup_key(record: Record) -> tuple[str, int, str, str, str, str, str, str, str, str]:
    """Where a record counts, in the order of `tables.ROLLUP_KEYS`."""
    return (
        record.organization_id,
        record.occurred_at_us // HOUR_US,
        record.account_id,
        record.key_id or "",
        record.context,
        record.provider,
        record.public_model,
        record.model,
        record.attribution.get("agent", ""),
        record.attribution.get("feature", ""),
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
