from __future__ import annotations

from decimal import Decimal

import pytest
from tests.ledger.conftest import World

from faregate.core.keys import BOOTSTRAP_KEY_ID
from faregate.errors import Conflict, InvalidRequest, NotFound
from faregate.ledger.keys import ApiKeys
from faregate.ledger.organizations import Organizations


async def test_born_with_a_default_account(world: World) -> None:
    organizations = Organizations(world.database)
    made = await organizations.create(name="New", external_id="new", credits_per_usd=Decimal("12.5"))
    assert made.credits_per_usd == Decimal("12.5")
    assert (await world.book.snapshot(made.default_account_id, [], gate=False)).seq == 0
    assert await organizations.get(made.id) == await organizations.get(made.uuid) == made


async def test_patch_changes_what_may_change(world: World) -> None:
    organizations = Organizations(world.database)
    changed = await organizations.patch(world.organization_id, {"markup_percent": Decimal("7.5"), "name": "X"})
    assert (changed.markup_percent, changed.name) == (Decimal("7.5"), "X")
    with pytest.raises(InvalidRequest):
        await organizations.patch(world.organization_id, {"credits_per_usd": Decimal(1)})
    with pytest.raises(NotFound):
        await organizations.patch("org_x", {"name": "X"})


async def test_external_ids_are_unique(world: World) -> None:
    organizations = Organizations(world.database)
    await organizations.create(name="A", external_id="a")
    with pytest.raises(Conflict):
        await organizations.create(name="B", external_id="a")
    with pytest.raises(Conflict):
        await organizations.patch(world.organization_id, {"external_id": "a"})


async def test_list_goes_on_after_an_id(world: World) -> None:
    organizations = Organizations(world.database)
    made = [await organizations.create(name=str(place)) for place in range(3)]
    first = await organizations.list(limit=2)
    assert [one.id for one in first] == [world.organization_id, made[0].id]
    assert await organizations.list(limit=9, after=first[-1].id) == made[1:]


async def test_bootstrap_happens_once(world: World) -> None:
    organizations, keys = Organizations(world.database), ApiKeys(world.database)
    assert (await organizations.bootstrap(None)).admin_hash is None
    first = await organizations.bootstrap("aa")
    assert await organizations.bootstrap("aa") == await organizations.bootstrap(None) == first
    stored = await keys.by_id(BOOTSTRAP_KEY_ID)
    assert stored is not None
    assert (stored.rev, stored.above_organizations, stored.default_account_id) == (1, True, first.account_id)
    await organizations.bootstrap("bb")
    changed = await keys.by_id(BOOTSTRAP_KEY_ID)
    assert changed is not None
    assert (changed.rev, changed.secret_hash) == (2, "bb")
