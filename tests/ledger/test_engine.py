from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError
from tests.ledger.conftest import SQLITE, World

from faregate.ledger.engine import transact, writer_engine


@SQLITE
def test_a_committed_charge_survives_a_power_cut(url: str) -> None:
    engine = writer_engine(url)
    with engine.begin() as conn:
        pragmas = {name: conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")}
        assert pragmas == {"journal_mode": "wal", "synchronous": 2}
        assert conn.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    engine.dispose()


def test_readers_cannot_write(url: str) -> None:
    with pytest.raises(DBAPIError):
        transact(url, lambda conn: conn.exec_driver_sql("DELETE FROM accounts"), readonly=True)


@pytest.mark.parametrize("statement", ["UPDATE entries SET amount = 0", "DELETE FROM entries"])
async def test_entries_are_never_changed(world: World, statement: str) -> None:
    await world.book.commit(world.record())
    with pytest.raises(DBAPIError, match="append-only"):
        transact(world.url, lambda conn: conn.exec_driver_sql(statement))
