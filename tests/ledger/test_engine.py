from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError
from tests.ledger.conftest import World

from faregate.ledger.engine import reader_engine, writer_engine


def test_a_committed_charge_survives_a_power_cut(url: str) -> None:
    engine = writer_engine(url)
    with engine.begin() as conn:
        pragmas = {name: conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")}
        assert pragmas == {"journal_mode": "wal", "synchronous": 2}
        assert conn.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    engine.dispose()


def test_readers_cannot_write(url: str) -> None:
    engine = reader_engine(url, 1)
    with engine.begin() as conn, pytest.raises(DBAPIError):
        conn.exec_driver_sql("DELETE FROM accounts")
    engine.dispose()


@pytest.mark.parametrize("statement", ["UPDATE entries SET amount = 0", "DELETE FROM entries"])
async def test_entries_are_never_changed(world: World, statement: str) -> None:
    await world.book.commit(world.record())
    engine = writer_engine(world.url)
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as conn:
        conn.exec_driver_sql(statement)
    engine.dispose()
