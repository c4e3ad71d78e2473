"""What commands share: tables and JSON for what they print, moments they read."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeVar

import orjson
from rich.console import Console
from rich.table import Table

from faregate.errors import InvalidRequest

T = TypeVar("T")

_AGO: Final = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work to its end."""
    return asyncio.run(work)


# Printing -----------------------------------------------------------------------------------------------


def show(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str], *, as_json: bool) -> None:
    """Rows as a table of `columns` (field: title), or each as a line of JSON with all its fields."""
    if as_json:
        for row in rows:
            print(to_json(row))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for field, title in columns.items():
        numeric = any(isinstance(row.get(field), int | Decimal) for row in rows)
        table.add_column(title, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(field)) for field in columns))
    width = None if sys.stdout.isatty() else 1_000
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)


def show_fields(row: Mapping[str, object], *, as_json: bool) -> None:
    """One thing: a line a field, or one line of JSON."""
    if as_json:
        print(to_json(row))
        return
    wide = max(map(len, row), default=0)
    for field, value in row.items():
        print(f"{field:<{wide}}  {_cell(value)}".rstrip())


def to_json(value: object) -> str:
    """JSON with decimals printed exactly."""
    return orjson.dumps(value, default=_exact).decode()


def _exact(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(f"{value:f}".encode())
    raise TypeError(type(value).__name__)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | Decimal):
        return f"{value:,f}" if isinstance(value, Decimal) else f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return to_json(value) if isinstance(value, dict) else str(value)


# Moments ------------------------------------------------------------------------------------------------


def parse_moment(text: str, param: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> datetime:
    """`2026-01-31`, an ISO 8601 time (UTC unless it says otherwise), or `24h`, `7d`, `2w`: so long ago."""
    ago = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    if ago:
        return now() - int(ago[1]) * _AGO[ago[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{param} must be a date, an ISO 8601 time, or like 24h, 7d", param=param) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def microseconds(moment: datetime) -> int:
    """UTC in microseconds."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def moment_text(us: int | None) -> str | None:
    """UTC microseconds as the API prints a moment."""
    if us is None:
        return None
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
