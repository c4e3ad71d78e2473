"""All that differs between SQLite and PostgreSQL: exact decimals, text order, placeholders, locks.

Decimals are text on SQLite (its numbers are doubles), with two functions of ours that add them exactly, and
NUMERIC on PostgreSQL, which adds exactly by itself. Text is ordered by code point on both, as Python orders it:
PostgreSQL's columns say COLLATE "C", whatever the database's locale (indexes are smaller steps for it, too).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, Boolean, ColumnElement, Connection, Dialect, Integer, Numeric, Table, Text, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from faregate.core.money import EXACT

Row = tuple[Any, ...]
TEXT = Text().with_variant(Text(collation="C"), "postgresql")


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
        if value is None:
            return None
        return Decimal(exact_text(value) if dialect.name == "postgresql" else value)  # 1.50 is 1.5 on both


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


def add_exact_sql(conn: Connection, table: str, column: str) -> str:
    """`column + excluded` of an upsert into `table`."""
    if conn.dialect.name == "postgresql":
        return f"{table}.{column} + excluded.{column}"
    return f"exact_add({table}.{column}, excluded.{column})"


def for_update(conn: Connection) -> str:
    """Row locks, where BEGIN IMMEDIATE has not locked everything already.

    They are taken in the order of the rows (ORDER BY). No key of ours changes, so rows that refer to a locked one
    may still be inserted (reservations and keys of a busy account).
    """
    return " FOR NO KEY UPDATE" if conn.dialect.name == "postgresql" else ""


def one_at_a_time(conn: Connection, what: str) -> None:
    """Wait until no other transaction does this; to the end of the transaction. SQLite's are alone anyway."""
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('faregate'), hashtext($1))", (what,))


@lru_cache(maxsize=512)
def _marks(columns: int, rows: int) -> str:
    return ",".join(["(" + ",".join("?" * columns) + ")"] * rows)


def marks(conn: Connection, columns: int) -> str:
    """`(?,?)`: placeholders in the driver's own style."""
    if conn.dialect.name == "postgresql":
        return "(" + ",".join(f"${place}" for place in range(1, columns + 1)) + ")"
    return _marks(columns, 1)


def among(conn: Connection, values: Sequence[str]) -> tuple[str, Row]:
    """`IN (…)` and its parameters; on PostgreSQL one statement for any number of values."""
    if conn.dialect.name == "postgresql":
        return "= ANY($1::text[])", (list(values),)
    return f"IN {_marks(len(values), 1)}", tuple(values)


def among_pairs(conn: Connection, pairs: Sequence[tuple[str, int]]) -> tuple[str, Row]:
    """The same for `(text, bigint)`."""
    if conn.dialect.name == "postgresql":
        texts, numbers = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return "IN (SELECT * FROM unnest($1::text[], $2::bigint[]))", (texts, numbers)
    return f"IN (VALUES {_marks(2, len(pairs))})", tuple(part for pair in pairs for part in pair)


@lru_cache(maxsize=512)
def _insert_sql(table: str, columns: tuple[str, ...], rows: int, tail: str) -> str:
    return f"INSERT INTO {table} ({','.join(columns)}) VALUES {_marks(len(columns), rows)} {tail}"  # noqa: S608


@lru_cache(maxsize=64)
def _unnest_sql(table: Table, tail: str) -> str:
    arrays = ",".join(f"${place}::{_array_of(column.type)}" for place, column in enumerate(table.columns, 1))
    return f"INSERT INTO {table.name} ({','.join(columns_of(table))}) SELECT * FROM unnest({arrays}) {tail}"  # noqa: S608


def _array_of(kind: TypeEngine[Any]) -> str:
    names = ((Exact, "numeric"), (BigInteger, "bigint"), (Integer, "integer"), (Boolean, "boolean"))
    return next((name for known, name in names if isinstance(kind, known)), "text") + "[]"


def insert_many(conn: Connection, table: Table, rows: Sequence[Row], tail: str = "") -> None:
    """Insert whole rows (columns in the table's order). `tail` is a constant of ours, such as ON CONFLICT."""
    if not rows:
        return
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql(_unnest_sql(table, tail), _columns(rows))
    else:
        conn.exec_driver_sql(_insert_sql(table.name, columns_of(table), 1, tail), list(rows))


def insert_returning(conn: Connection, table: Table, rows: Sequence[Row], tail: str) -> list[Row]:
    """Insert whole rows, in order, and fetch what `tail` returns.

    SQLite: in chunks that are powers of two, few statements to parse. PostgreSQL: a parameter for each column, an
    array of its values, so one statement whatever the number of rows.
    """
    if rows and conn.dialect.name == "postgresql":
        return [tuple(row) for row in conn.exec_driver_sql(_unnest_sql(table, tail), _columns(rows))]
    answer: list[Row] = []
    start = 0
    while start < len(rows):
        size = min(64, 1 << ((len(rows) - start).bit_length() - 1))
        chunk = rows[start : start + size]
        sql = _insert_sql(table.name, columns_of(table), size, tail)
        answer.extend(tuple(row) for row in conn.exec_driver_sql(sql, tuple(value for row in chunk for value in row)))
        start += size
    return answer


def _columns(rows: Sequence[Row]) -> Row:
    return tuple(zip(*rows, strict=True))


def columns_of(table: Table) -> tuple[str, ...]:
    """Column names in order."""
    cached: tuple[str, ...] | None = table.info.get("columns")
    if cached is None:
        cached = table.info["columns"] = tuple(column.name for column in table.columns)
    return cached
