from __future__ import annotations

import pytest
from sqlalchemy import Connection
from tests.ledger.conftest import NOW_US, World

from faregate.errors import BookRefused
from faregate.ledger.posting import Line, Posting, from_json, read_wallets, to_json


async def test_a_wallet_is_written_once_however_often_it_moved(world: World) -> None:
    def move(conn: Connection) -> None:
        posting = Posting(conn, [world.account_id], NOW_US)
        wallet = posting.wallet(world.account_id)
        for amount in (10, -3, 0):
            posting.post(wallet, amount, Line(reason="credit"))
        posting.flush()

    await world.database.write(move)
    wallet = (await world.database.read(read_wallets, [world.account_id], lock=False))[world.account_id]
    assert (wallet.posted, wallet.seq) == (7, 3)


async def test_unknown_and_foreign_accounts_are_refused(world: World) -> None:
    def ask(conn: Connection) -> None:
        posting = Posting(conn, [world.account_id], NOW_US)
        for account, organization in (("acc_x", None), (world.account_id, "org_x")):
            with pytest.raises(BookRefused):
                posting.wallet(account, organization)

    await world.database.write(ask)


def test_empty_json_is_nothing() -> None:
    assert to_json({}) is None
    assert from_json(None) == {}
    assert from_json(to_json({"a": 1})) == {"a": 1}
