from __future__ import annotations

import pytest
from tests.ledger.conftest import NOW_US, World, explain

from faregate.errors import NotFound
from faregate.ledger import tables
from faregate.ledger.transactions import TransactionFilter, Transactions


async def test_pages_newest_first_with_total(world: World) -> None:
    await world.book.add_credits(world.account_id, 100, description="in")
    for charge in range(1, 5):
        await world.book.commit(world.record(charge))
    await world.book.commit(world.record(9, account_id=world.other_account_id))
    wanted = TransactionFilter(organization_id=world.organization_id, account_id=world.account_id)
    page = await Transactions(world.database).list(wanted, limit=3, offset=1)
    assert [item.entry.amount for item in page.items] == [-3, -2, -1]
    assert (page.total, page.has_more) == (5, True)


@pytest.mark.parametrize(
    ("more", "order", "index"),
    [
        ("", "id", ("autoindex_entries", "ix_entries_organization_id_id")),
        ("AND account_id = 'a'", "seq", ("autoindex_entries", "uq_entries_account_id_seq")),
    ],
)
async def test_pages_are_read_in_index_order(world: World, more: str, order: str, index: tuple[str, str]) -> None:
    sql = f"SELECT * FROM entries WHERE organization_id = 'o' {more} ORDER BY {order} DESC"
    plan = await world.database.read(explain, sql)
    assert any(name in plan[0] for name in index)
    assert not any("sort" in line.lower() for line in plan)


async def test_filters_by_type_and_time(world: World) -> None:
    await world.book.add_credits(world.account_id, 100)
    world.now.us += 10
    await world.book.commit(world.record(5))
    transactions = Transactions(world.database)
    for wanted, amounts in (
        ({"type": "credit"}, [100]),
        ({"start_us": NOW_US + 10}, [-5]),
        ({"end_us": NOW_US + 10}, [100]),
    ):
        page = await transactions.list(
            TransactionFilter(organization_id=world.organization_id, **wanted),
            limit=9,
            offset=0,
        )
        assert [item.entry.amount for item in page.items] == amounts


async def test_usage_and_reservation_can_be_included(world: World) -> None:
    committed = await world.book.commit(world.record(5))
    held = world.record(7, endpoint="reservations.confirm", hold_kind="api")
    await world.book.commit(held)
    values = {"id": "res_1", "organization_id": world.organization_id, "account_id": world.account_id}
    rest = {"hold_id": held.hold_id, "amount": 9, "state": "settled", "expires_us": 1, "created_us": 1}
    insert = tables.reservations.insert().values(**values, **rest, updated_us=1)
    await world.database.write(lambda conn: conn.execute(insert).rowcount)
    page = await Transactions(world.database).list(
        TransactionFilter(organization_id=world.organization_id),
        limit=9,
        offset=0,
        include=frozenset({"usage", "reservation"}),
    )
    confirmed, used = page.items
    assert used.usage is not None
    assert used.usage.id == committed.usage_id
    assert confirmed.reservation is not None
    assert confirmed.reservation.id == "res_1"


async def test_one_entry_and_only_ones_own(world: World) -> None:
    entry, _ = await world.book.add_credits(world.account_id, 100, metadata={"a": [1]})
    got = await Transactions(world.database).get(world.organization_id, entry.id)
    assert (got.amount, got.metadata) == (100, {"a": [1]})
    with pytest.raises(NotFound):
        await Transactions(world.database).get("org_x", entry.id)
