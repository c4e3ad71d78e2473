"""Whose fault a database error is: the record's, a collision's that passes, or the database's."""

from __future__ import annotations

import sys

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from faregate.errors import BookRefused, BookUnavailable

ROW_FAULTS = (BookRefused, IntegrityError, DataError, ValueError, TypeError, ArithmeticError, LookupError)
"""What a record can be to blame for (text that is not UTF-8, an integer too large, ...)."""

_ROW_STATES = ("22", "23", "54")
"""PostgreSQL's classes: data exception, integrity violation, program limit (a text too long for an index)."""
_COLLISIONS = ("40001", "40P01")
"""Serialization failure, deadlock: the transaction is rolled back, and may succeed the next time."""
_WAITS = ("55P03", "57014")
"""Lock timeout, statement timeout."""


def is_row_fault(error: BaseException) -> bool:
    """Whether the same record would be refused again."""
    return isinstance(error, ROW_FAULTS) or is_refusal(error)


def is_refusal(error: BaseException) -> bool:
    """Whether the database has refused what it was given."""
    if isinstance(error, IntegrityError | DataError):
        return True
    if isinstance(error, DBAPIError):
        return _state(error).startswith(_ROW_STATES) or _unsendable(error)
    return type(error) is StatementError and isinstance(error.orig, ROW_FAULTS)


def is_collision(error: BaseException) -> bool:
    """Whether the same transaction may succeed at once."""
    return isinstance(error, DBAPIError) and _state(error) in _COLLISIONS


def is_wait(error: BaseException) -> bool:
    """Whether something was locked for too long: a row's trouble, and the batch's only because they went together."""
    return isinstance(error, DBAPIError) and _state(error) in _WAITS


def is_misconfigured(error: BaseException) -> bool:
    """Whether the driver cannot make sense of the URL (`sslmode=maybe`)."""
    driver = sys.modules.get("asyncpg")  # loaded with the first connection; SQLite's own URL has no such parameters
    return (
        driver is not None
        and isinstance(error, DBAPIError)
        and isinstance(_cause(error), driver.ClientConfigurationError)
    )


def _state(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _unsendable(error: DBAPIError) -> bool:
    """asyncpg could not encode a parameter."""
    return isinstance(_cause(error), ValueError) and not is_misconfigured(error)


def _cause(error: DBAPIError) -> BaseException | None:
    """The driver's own error, beneath SQLAlchemy's copy of it."""
    return error.orig.__cause__ if error.orig is not None else None


def unavailable(error: BaseException, what: str = "reached") -> BookUnavailable:
    """BookUnavailable because of an error; its text names the kind only: no statement, no value, no address."""
    state = _state(error) if isinstance(error, DBAPIError) else ""
    wrapped = BookUnavailable(f"the book cannot be {what}: {type(error).__name__}{state and f' {state}'}")
    wrapped.__cause__ = error
    return wrapped


def refused(error: BaseException) -> BookRefused:
    """BookRefused because of an error, likewise."""
    wrapped = BookRefused(f"the book refuses the record: {type(error).__name__}")
    wrapped.__cause__ = error
    return wrapped
