from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from tests.ledger.conftest import World

from faregate.ledger.accounts import Accounts
from faregate.ledger.audit import audit
from faregate.ledger.ingested import Arrival, Ingested, Known, UnguardedError
from faregate.ledger.prices import NewPrice, Prices
from faregate.ledger.transactions import TransactionFilter, Transactions
from faregate.ledger.usage import UsageRecords
from faregate.ledger.usage_filter import UsageFilter


def arrival(
    world: World, customer: str | None = "cust", own_id: str | None = None, *, charge: int = 0, account: str = ""
) -> Arrival:
    record = world.record(charge, kind="ingested", hold_kind="api", account_id=account, cost_usd=Decimal("0.5"))
    return Arrival(record=record, customer=customer, own_id=own_id)


async def write(
    world: World, *arrivals: Arrival, guarded: frozenset[str] | None = None
) -> tuple[tuple[str, bool], ...]:
    return (await Ingested(world.database).write(world.organization_id, "test", arrivals, guarded)).records


async def balance(world: World, reference: str) -> int:
    return (await Accounts(world.database).get(world.organization_id, reference)).posted


async def test_accounts_are_made_at_first_sight_and_found_by_either_name(world: World) -> None:
    await write(world, arrival(world), arrival(world), arrival(world, "bob"), arrival(world, world.other_account_id))
    accounts = await Ingested(world.database).accounts(world.organization_id, ["cust", "bob", "nobody"])
    assert accounts["bob"] == Known(world.other_account_id, gated=False)
    assert accounts.keys() == {"cust", "bob"}
    records = await UsageRecords(world.database).list(UsageFilter(organization_id=world.organization_id), limit=9)
    assert sorted(record.account_id for record in records.records) == sorted(
        [accounts["cust"].id] * 2 + [world.other_account_id] * 2
    )
    assert audit(world.url) == []


async def test_an_own_id_leads_to_one_record_whatever_comes_later(world: World) -> None:
    (first, _), (same, new) = await write(world, arrival(world, own_id="a"), arrival(world, "bob", own_id="a"))
    assert (same, new) == (first, False)
    (again, new), (other, fresh) = await write(world, arrival(world, own_id="a"), arrival(world, own_id="b"))
    assert (again, new, fresh) == (first, False, True)
    assert other != first


async def test_many_at_once_make_each_once(world: World) -> None:
    batches = [[arrival(world, f"c{n % 3}", f"k{n}") for n in range(30)] for _ in range(6)]
    answers = await asyncio.gather(*(write(world, *batch) for batch in batches))
    assert len({tuple(usage_id for usage_id, _ in answer) for answer in answers}) == 1
    assert sum(new for answer in answers for _, new in answer) == 30


async def test_an_account_that_has_had_a_hold_is_charged_behind_a_guard_only(world: World) -> None:
    await world.book.snapshot(world.other_account_id, (), gate=True)
    with pytest.raises(UnguardedError):
        await write(world, arrival(world, "bob", charge=7), guarded=frozenset())
    assert await balance(world, "bob") == 0
    new, known = arrival(world, "new", charge=5), arrival(world, "bob", charge=7)
    await write(world, new, known, guarded=frozenset({world.other_account_id}))
    assert (await balance(world, "new"), await balance(world, "bob")) == (-5, -7)
    assert audit(world.url) == []


async def test_one_that_cannot_be_booked_takes_the_batch_with_it(world: World) -> None:
    bad = Arrival(record=world.record(1, account_id="acc_nowhere", kind="ingested"))
    with pytest.raises(Exception, match="not in the book"):
        await write(world, arrival(world, own_id="a"), bad)
    assert await Ingested(world.database).accounts(world.organization_id, ["cust"]) == {}
    ((_, new),) = await write(world, arrival(world, own_id="a"))
    assert new


async def test_a_record_that_was_paid_for_names_its_entry(world: World) -> None:
    paying = await world.book.commit(world.record(9, endpoint="credits.deduct"))
    record = world.record(0, kind="ingested", paid_by=paying.usage_id, cost_usd=Decimal(1))
    booked = await world.book.commit(record)
    wanted = TransactionFilter(organization_id=world.organization_id)
    page = await Transactions(world.database).list(wanted, limit=9, offset=0, include=frozenset({"usage"}))
    assert [item.usage.id if item.usage else None for item in page.items] == [booked.usage_id]
    assert await balance(world, world.account_id) == -9
    assert audit(world.url) == []


async def test_the_version_of_prices_changes_with_every_card(world: World) -> None:
    prices = Prices(world.database)
    card = NewPrice(organization_id=None, provider="custom", model="m", tier="default", effective_us=None, body="{}")
    seen = [await prices.version()]
    first = await prices.create(card)
    seen.append(await prices.version())
    second = await prices.create(card)
    seen.append(await prices.version())
    await prices.delete(first.id)
    seen.append(await prices.version())
    assert len(set(seen)) == 4
    assert (first.effective_us, second.effective_us) == (0, world.now.us)
    version, living = await prices.everything()
    assert (version, [price.id for price in living]) == (seen[-1], [second.id])
