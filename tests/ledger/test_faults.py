from __future__ import annotations

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from tests.ledger.conftest import POSTGRES

from faregate.errors import BookRefused
from faregate.ledger.engine import transact
from faregate.ledger.faults import is_collision, is_refusal, is_row_fault, refused, unavailable


def _error(url: str, statement: str, *parameters: object) -> SQLAlchemyError:
    def run(conn: Connection) -> None:
        conn.exec_driver_sql(statement, parameters)

    with pytest.raises(SQLAlchemyError) as caught:
        transact(url, run)
    return caught.value


def _raise(state: str) -> str:
    return f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{state}'; END $$"


@POSTGRES
@pytest.mark.parametrize("state", ["22003", "22P05", "23505", "23503", "23001", "54000"])
def test_states_a_record_is_to_blame_for(url: str, state: str) -> None:
    error = _error(url, _raise(state))
    assert is_row_fault(error)
    assert not is_collision(error)


@POSTGRES
@pytest.mark.parametrize("state", ["53100", "53200", "57014", "57P01", "25006", "55P03", "42P01", "08006", "XX000"])
def test_states_no_record_is_to_blame_for(url: str, state: str) -> None:
    error = _error(url, _raise(state))
    assert not is_row_fault(error)
    assert not is_collision(error)


@POSTGRES
@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_states_that_pass(url: str, state: str) -> None:
    error = _error(url, _raise(state))
    assert is_collision(error)
    assert not is_row_fault(error)


@POSTGRES
@pytest.mark.parametrize(("cast", "value"), [("bigint", 2**70), ("text", "\ud800"), ("text", "a\0"), ("bigint", "x")])
def test_what_cannot_be_sent_is_the_records_fault(url: str, cast: str, value: object) -> None:
    assert is_refusal(_error(url, f"SELECT $1::{cast}", value))


def test_a_key_taken_is_a_refusal(url: str) -> None:
    insert = "INSERT INTO cards VALUES ('a', 'x'), ('a', 'y')"
    assert is_refusal(_error(url, insert))


def test_errors_of_ours_name_kinds_not_contents() -> None:
    assert "secret" not in str(unavailable(OSError("secret"))) + str(refused(ValueError("secret")))
    assert isinstance(refused(ValueError()), BookRefused)
