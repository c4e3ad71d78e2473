from __future__ import annotations

from faregate.ledger.queries import Ledger


async def test_one_door(url: str) -> None:
    ledger = Ledger(url)
    made = await ledger.bootstrap("aa" * 32)
    _, snapshot = await ledger.book.add_credits(made.account_id, 5)
    assert snapshot.posted == 5
    assert (await ledger.accounts.get(made.organization_id, made.account_id)).posted == 5
    assert await ledger.audit() == []
    await ledger.close()
