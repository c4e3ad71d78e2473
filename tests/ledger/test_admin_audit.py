from __future__ import annotations

from tests.ledger.conftest import World

from faregate.ledger.admin_audit import AdminAudit


async def test_newest_first_and_ones_own(world: World) -> None:
    log = AdminAudit(world.database)
    await log.append(who="k1", what="keys.create", target="k2", organization_id="org_a", detail={"name": "ci"})
    await log.append(who="k1", what="keys.revoke", target="k2")
    both = await log.list(organization_id=None, limit=9)
    assert [event.what for event in both] == ["keys.revoke", "keys.create"]
    assert [event.detail for event in await log.list(organization_id="org_a", limit=9)] == [{"name": "ci"}]
    assert await log.list(organization_id=None, limit=9, before=both[0].id) == both[1:]
