"""All that differs between SQLite and PostgreSQL: exact decimals, placeholders, row locks.

Decimals are text on SQLite (its numbers are doubles), with two functions of ours that add them exactly, and
NUMERIC on PostgreSQL, which adds exactly by itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Connection, Dialect, Numeric, Table, Text, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from faregate.core.money import EXACT

Row = tuple[Any, ...]


def exact_text(number: Decimal) -> str:
    """One text for each number: no exponent, no trailing zeros."""
    return format(number.normalize(EXACT), "f") if number else "0"


class Exact(TypeDecorator[Decimal]):
    """A Decimal that comes back as it went in."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Numeric() if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else exact_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class exact_sum(FunctionElement[Decimal]):
    """SUM over an Exact column without a binary float in between; NULL over no rows."""

    type = Exact()
    inherit_cache = True
    name = "exact_sum"

    def __init__(self, column: ColumnElement[Decimal]) -> None:
        super().__init__(column)


@compiles(exact_sum)
def _sqlite_exact_sum(element: exact_sum, compiler: SQLCompiler, **kw: Any) -> str:
    return f"exact_sum({compiler.process(element.clauses, **kw)})"


@compiles(exact_sum, "postgresql")
def _postgresql_exact_sum(element: exact_sum, compiler: SQLCompiler, **kw: Any) -> str:
    return f"sum({compiler.process(element.clauses, **kw)})"


class json_has(FunctionElement[bool]):
    """Whether a JSON object (text) has this string under this name; false for NULL."""

    type = Boolean()
    inherit_cache = True
    name = "json_has"

    def __init__(self, column: ColumnElement[str], name: str, value: str) -> None:
        super().__init__(column, literal(name), literal(value))


@compiles(json_has)
def _sqlite_json_has(element: json_has, compiler: SQLCompiler, **kw: Any) -> str:
    column, name, value = (compiler.process(part, **kw) for part in element.clauses)
    return f"EXISTS (SELECT 1 FROM json_each({column}) AS j WHERE j.key = {name} AND j.value = {value})"  # noqa: S608


@compiles(json_has, "postgresql")
def _postgresql_json_has(element: json_has, compiler: SQLCompiler, **kw: Any) -> str:
    column, name, value = (compiler.process(part, **kw) for part in element.clauses)
    return f"coalesce(({column})::jsonb ->> {name} = {value}, false)"


class _ExactSum:
    def __init__(self) -> None:
        self.total: Decimal | None = None

    def step(self, value: str | None) -> None:
        if value is not None:
            self.total = EXACT.add(self.total or Decimal(0), Decimal(value))

    def finalize(self) -> str | None:
        return None if self.total is None else exact_text(self.total)


def _exact_add(left: str, right: str) -> str:
    return exact_text(EXACT.add(Decimal(left), Decimal(right)))


def install_functions(connection: sqlite3.Connection) -> None:
    """Give a SQLite connection its exact arithmetic."""
    connection.create_function("exact_add", 2, _exact_add, deterministic=True)
    connection.create_aggregate("exact_sum", 1, _ExactSum)  # type: ignore[arg-type]


def exact_param(conn: Connection, number: Decimal) -> Any:
    """A Decimal as the driver wants it in statements that bypass column types."""
    return number if conn.dialect.name == "postgresql" else exact_text(number)


def add_exact_sql(conn: Connection, column: str) -> str:
    """`column + excluded` of an upsert into `rollups`."""
    if conn.dialect.name == "postgresql":
        return f"rollups.{column} + excluded.{column}"
    return f"exact_add(rollups.{column}, excluded.{column})"


def for_update(conn: Connection) -> str:
    """Row locks, where BEGIN IMMEDIATE has not locked everything already."""
    return " FOR UPDATE" if conn.dialect.name == "postgresql" else ""


@lru_cache(maxsize=512)
def _marks(dialect: str, columns: int, rows: int) -> str:
    if dialect == "postgresql":
        numbers = iter(range(1, columns * rows + 1))
        return ",".join("(" + ",".join(f"${next(numbers)}" for _ in range(columns)) + ")" for _ in range(rows))
    return ",".join(["(" + ",".join("?" * columns) + ")"] * rows)


def marks(conn: Connection, columns: int, rows: int = 1) -> str:
    """`(?,?),(?,?)`: placeholders for so many rows, in the driver's own style."""
    return _marks(conn.dialect.name, columns, rows)


def pairs(conn: Connection, count: int) -> str:
    """The right side of `(a, b) IN`: so many pairs."""
    listed = marks(conn, 2, count)
    return f"({listed})" if conn.dialect.name == "postgresql" else f"(VALUES {listed})"


@lru_cache(maxsize=512)
def _insert_sql(dialect: str, table: str, columns: tuple[str, ...], rows: int, tail: str) -> str:
    return f"INSERT INTO {table} ({','.join(columns)}) VALUES {_marks(dialect, len(columns), rows)} {tail}"  # noqa: S608


def insert_many(conn: Connection, table: Table, rows: Sequence[Row], tail: str = "") -> None:
    """Insert whole rows (columns in the table's order). `tail` is a constant of ours, such as ON CONFLICT."""
    if rows:
        conn.exec_driver_sql(_insert_sql(conn.dialect.name, table.name, columns_of(table), 1, tail), list(rows))


def insert_returning(conn: Connection, table: Table, rows: Sequence[Row], tail: str) -> list[Row]:
    """Insert whole rows and fetch what `tail` returns; chunks are powers of two: few statements to parse."""
    answer: list[Row] = []
    start = 0
    while start < len(rows):
        size = min(64, 1 << ((len(rows) - start).bit_length() - 1))
        chunk = rows[start : start + size]
        sql = _insert_sql(conn.dialect.name, table.name, columns_of(table), size, tail)
        answer.extend(tuple(row) for row in conn.exec_driver_sql(sql, tuple(value for row in chunk for value in row)))
        start += size
    return answer


def columns_of(table: Table) -> tuple[str, ...]:
    """Column names in order."""
    cached: tuple[str, ...] | None = table.info.get("columns")
    if cached is None:
        cached = table.info["columns"] = tuple(column.name for column in table.columns)
    return cached
