from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from tests.ledger.conftest import World

from faregate.core.call import Limit
from faregate.errors import InvalidRequest, NotFound
from faregate.ledger.keys import ApiKeys, KeyFacts
from faregate.ledger.organizations import Organizations

LIMIT = Limit(id="ab.credits.month", kind="credits", window="month", max=5_000_000)


def _facts(world: World, **changes: object) -> KeyFacts:
    base = KeyFacts(
        id="ab",
        prefix="fg_live_ab",
        secret_hash="cd" * 32,
        name="ci",
        organization_id=world.organization_id,
        scopes=frozenset({"proxy", "usage:read"}),
        models=("gpt-*",),
        limits=(LIMIT,),
        max_multiplier=Decimal("2.5"),
        expires_us=world.now.us + 1_500_000,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


async def test_what_authentication_reads(world: World) -> None:
    keys = ApiKeys(world.database)
    await keys.create(_facts(world))
    stored = await keys.by_id("ab")
    assert stored is not None
    assert (stored.rev, stored.secret_hash, stored.default_account_id) == (1, "cd" * 32, world.account_id)
    assert (stored.scopes, stored.models, stored.limits) == (frozenset({"proxy", "usage:read"}), ("gpt-*",), (LIMIT,))
    assert (stored.max_multiplier, stored.expires_at) == (Decimal("2.5"), world.now.us / 1_000_000 + 1.5)
    assert await keys.by_id("nobody") is None


async def test_every_change_raises_the_rev(world: World) -> None:
    keys = ApiKeys(world.database)
    await keys.create(_facts(world))
    await keys.patch("ab", {"limits": (), "scopes": frozenset({"admin"}), "models": None, "expires_us": None})
    await keys.rotate("ab", secret_hash="ef" * 32, prefix="fg_live_ab")
    await keys.revoke("ab")
    await keys.revoke("ab")
    await Organizations(world.database).patch(world.organization_id, {"markup_percent": Decimal(5)})
    stored = await keys.by_id("ab")
    assert stored is not None
    assert (stored.rev, stored.revoked, stored.secret_hash) == (5, True, "ef" * 32)
    assert (stored.limits, stored.models, stored.markup_percent) == ((), None, Decimal(5))


async def test_only_ones_own(world: World) -> None:
    keys = ApiKeys(world.database)
    await keys.create(_facts(world))
    assert (await keys.get("ab", organization_id=world.organization_id)).name == "ci"
    for call in (keys.get("ab", organization_id="org_x"), keys.revoke("ab", organization_id="org_x")):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(NotFound):
        await keys.create(_facts(world, id="xy", account_id="acc_x"))


async def test_a_secret_cannot_be_patched_nor_seen(world: World) -> None:
    keys = ApiKeys(world.database)
    info = await keys.create(_facts(world))
    assert "cdcd" not in repr(info)
    with pytest.raises(InvalidRequest):
        await keys.patch("ab", {"secret_hash": "00"})


async def test_last_use_only_moves_forward(world: World) -> None:
    keys = ApiKeys(world.database)
    await keys.create(_facts(world))
    await keys.create(_facts(world, id="ac"))
    await keys.touch({"ab": 50, "ac": 70})
    await keys.touch({"ab": 40})
    await keys.touch({})
    assert [key.last_used_us for key in await keys.list(organization_id=None, limit=9)] == [50, 70]
    assert [key.id for key in await keys.list(organization_id=world.organization_id, limit=9, after="ab")] == ["ac"]
