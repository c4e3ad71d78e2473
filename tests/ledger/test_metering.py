"""What is queued for a meter, in whose transaction, and once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import Connection, select
from tests.ledger.conftest import World, explain

from faregate.errors import BookRefused
from faregate.ledger import tables
from faregate.ledger.database import Database
from faregate.ledger.metering import queue
from faregate.ledger.organizations import Organizations


@pytest.fixture(params=["external"])
async def database(world: World, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """The book, metering; the organization is Stripe's customer cus_1."""
    await Organizations(world.database).patch(world.organization_id, {"stripe_customer_id": "cus_1"})
    database = Database(world.url, now_us=world.now, metered=request.param)
    yield database
    await database.close()


ALL = pytest.mark.parametrize("database", ["all"], indirect=True)
OFF = pytest.mark.parametrize("database", ["off"], indirect=True)


def bill(conn: Connection, world: World, source_id: str, amount: str = "0.25") -> bool:
    return queue(
        conn,
        organization_id=world.organization_id,
        source_id=source_id,
        amount_usd=Decimal(amount),
        occurred_us=world.now.us,
        now_us=world.now.us,
    )


async def amounts(database: Database) -> dict[str, Decimal]:
    t = tables.metered.c
    return await database.read(lambda conn: {row[0]: row[1] for row in conn.execute(select(t.source_id, t.amount))})


async def test_a_source_is_queued_once(world: World, database: Database) -> None:
    assert await database.write(bill, world, "u1", "0.1234567890123456789012345")
    assert await database.write(bill, world, "u1", "9")
    assert await amounts(database) == {"u1": Decimal("0.1234567890123456789012345")}


async def test_it_is_queued_with_the_callers_transaction_or_not_at_all(world: World, database: Database) -> None:
    def bill_and_fail(conn: Connection) -> None:
        bill(conn, world, "u1")
        raise ValueError("nothing is written")

    with pytest.raises(ValueError, match="nothing"):
        await database.write(bill_and_fail)
    assert await amounts(database) == {}


async def test_an_organization_without_a_customer_is_not_metered(world: World, database: Database) -> None:
    await Organizations(world.database).patch(world.organization_id, {"stripe_customer_id": None})
    assert not await database.write(bill, world, "u1")
    assert await amounts(database) == {}


@OFF
async def test_nothing_is_queued_without_stripe(world: World, database: Database) -> None:
    assert not await database.write(bill, world, "u1")
    assert await amounts(database) == {}


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity", "1e13", "1e-46"])
async def test_amounts_that_no_meter_counts(world: World, database: Database, amount: str) -> None:
    with pytest.raises(BookRefused):
        await database.write(bill, world, "u1", amount)


async def test_charges_are_not_metered_by_default(world: World, database: Database) -> None:
    await database.commit(world.record(1_000))
    assert await amounts(database) == {}


@ALL
async def test_every_charge_is_metered_with_its_record_once(world: World, database: Database) -> None:
    record = world.record(1_500)
    await database.commit(record)
    await database.commit(record)
    assert await amounts(database) == {record.hold_id: Decimal("0.0000015")}


@ALL
async def test_a_late_truth_is_metered_as_its_difference(world: World, database: Database) -> None:
    guess = world.record(3_000, kind="unconfirmed")
    await database.commit(guess)
    await database.commit(replace(guess, kind="actual", charge_microcredits=1_000, cost_usd=Decimal("0.000001")))
    hold = guess.hold_id
    assert await amounts(database) == {hold: Decimal("0.000003"), f"{hold}:adjustment": Decimal("-0.000002")}


@ALL
async def test_what_charges_nothing_and_plain_debits_are_not_metered(world: World, database: Database) -> None:
    await database.commit(world.record(0))
    await database.commit(world.record(1_000, endpoint="credits.deduct", usage={}))
    assert await amounts(database) == {}


@ALL
async def test_the_organizations_own_rate_turns_credits_into_usd(world: World, database: Database) -> None:
    other = await Organizations(world.database).create(
        name="Dear", credits_per_usd=Decimal(10), stripe_customer_id="cus_2"
    )
    record = world.record(1, organization_id=other.id, account_id=other.default_account_id)
    await database.commit(record)
    assert await amounts(database) == {record.hold_id: Decimal("0.0000001")}


@ALL
async def test_queries_of_every_few_seconds_use_an_index(world: World, database: Database) -> None:
    def plans(conn: Connection) -> list[str]:
        return [
            *explain(conn, "SELECT id FROM outbox WHERE state = 'queued' AND due_us <= 5 LIMIT 1"),
            *explain(conn, "SELECT organization_id FROM metered WHERE window_us IS NULL AND occurred_us < 5"),
        ]

    found = "\n".join(await database.write(plans))
    assert "ix_outbox_state_due_us" in found
    assert "ix_metered_open" in found
