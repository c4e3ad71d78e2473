"""Parquet by pyarrow, which comes with the extra `parquet`: a part's lines become row groups, some at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from decimal import Decimal
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from faregate.commands.export_files import COLUMNS, Spool
from faregate.errors import ConfigError

_ROWS = 10_000
_LEAST_PLACES = 12
_NARROW, _WIDE = 38, 76


class ParquetFile:
    """Writes one. Raises ConfigError at once when pyarrow is missing."""

    def __init__(self) -> None:
        try:
            self._arrow, self._parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        except ImportError:
            raise ConfigError("--format parquet needs pyarrow: pip install 'faregate[parquet]'") from None

    def convert(self, spool: Spool) -> Path:
        """A Parquet file of the spool's lines, beside its part."""
        new = spool.part.with_name(f"{spool.part.name}.parquet")
        schema = self._schema(spool.part)
        with self._parquet.ParquetWriter(new, schema) as writer:
            for rows in _some(spool.part):
                columns = {name: [_typed(row[name], kind) for row in rows] for name, kind in COLUMNS.items()}
                writer.write_table(self._arrow.table(columns, schema=schema))
        with new.open("rb") as file:
            os.fsync(file.fileno())
        return new

    def _schema(self, part: Path) -> Any:
        """Decimals as wide as the widest of this file, at least 12 places; attribution is JSON."""
        arrow, widths = self._arrow, _widths(part)
        plain = {str: arrow.string(), int: arrow.int64(), bool: arrow.bool_(), dict: arrow.string()}
        fields = []
        for name, kind in COLUMNS.items():
            fields.append((name, self._decimal(*widths[name]) if kind is Decimal else plain[kind]))
        return arrow.schema(fields)

    def _decimal(self, digits: int, places: int) -> Any:
        if digits + places <= _NARROW:
            return self._arrow.decimal128(_NARROW, places)
        return self._arrow.decimal256(_WIDE, places)


def _widths(part: Path) -> dict[str, tuple[int, int]]:
    """Digits before and after the point, by column."""
    found = {name: (1, _LEAST_PLACES) for name, kind in COLUMNS.items() if kind is Decimal}
    for rows in _some(part):
        for row in rows:
            for name, (digits, places) in found.items():
                whole, _, fraction = (row[name] or "0").lstrip("-").partition(".")
                found[name] = max(digits, len(whole)), max(places, len(fraction))
    return found


def _some(part: Path) -> Iterator[list[dict[str, Any]]]:
    with part.open("rb") as file:
        while rows := [json.loads(line) for line in islice(file, _ROWS)]:
            yield rows


def _typed(value: Any, kind: type) -> Any:
    if value is None or kind in (str, int, bool):
        return value
    return Decimal(value) if kind is Decimal else json.dumps(value, ensure_ascii=False)
