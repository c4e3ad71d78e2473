from __future__ import annotations

import asyncio

import pytest
from tests.ledger.conftest import World

from faregate.core.call import bucket_of
from faregate.errors import Conflict, NotFound
from faregate.ledger.accounts import Accounts
from faregate.ledger.organizations import Organizations


async def test_by_id_or_external_id_inside_its_organization(world: World) -> None:
    accounts = Accounts(world.database)
    made = await accounts.create(world.organization_id, name="Eve", external_id="eve", metadata={"plan": "pro"})
    assert await accounts.get(world.organization_id, made.id) == made
    assert await accounts.get(world.organization_id, "eve") == made
    assert made.metadata == {"plan": "pro"}
    assert not await accounts.exists("org_other", made.id)


async def test_an_external_id_is_taken_once_per_organization(world: World) -> None:
    accounts = Accounts(world.database)
    with pytest.raises(Conflict):
        await accounts.create(world.organization_id, name="Bob", external_id="bob")
    other = await Organizations(world.database).create(name="Other")
    assert (await accounts.create(other.id, name="Bob", external_id="bob")).external_id == "bob"


async def test_an_id_is_never_shadowed_by_an_external_id(world: World) -> None:
    accounts = Accounts(world.database)
    await accounts.create(world.organization_id, name="Mallory", external_id=world.account_id)
    assert (await accounts.get(world.organization_id, world.account_id)).name == "default"


async def test_ensure_makes_one_however_many_ask(world: World) -> None:
    accounts = Accounts(world.database)
    made = await asyncio.gather(*(accounts.ensure(world.organization_id, "cust-9") for _ in range(8)))
    assert len({account.id for account in made}) == 1
    assert (await accounts.ensure(world.organization_id, "bob")).id == world.other_account_id


async def test_pages(world: World) -> None:
    page = await Accounts(world.database).list(world.organization_id, limit=1, offset=1)
    assert ([account.name for account in page.items], page.total, page.has_more) == (["Bob"], 2, False)


async def test_the_bucket_is_the_organizations(world: World) -> None:
    bucket = await world.database.read(
        lambda conn: conn.exec_driver_sql("SELECT DISTINCT bucket FROM accounts").scalar_one()
    )
    assert bucket == bucket_of(world.organization_id)


async def test_an_unknown_organization(world: World) -> None:
    with pytest.raises(NotFound):
        await Accounts(world.database).create("org_x", name="Eve")
