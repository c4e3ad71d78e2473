from __future__ import annotations

from decimal import Decimal

from tests.api.conftest import World, code, exact

from faregate.core.call import Record
from faregate.core.codec import encode_record
from faregate.core.ids import uuid7
from faregate.ports import Ask


async def test_changes_are_written_down(world: World) -> None:
    caller, _ = await world.tenant()
    made = (await caller.post("/v1/admin/keys", {"name": "k", "scopes": ["proxy"]})).json()["key"]
    await caller.send("DELETE", f"/v1/admin/keys/{made['id']}")
    events = (await caller.get("/v1/admin/audit")).json()
    assert [(event["what"], event["target"]) for event in events["audit"][:2]] == [
        ("keys.revoke", made["id"]),
        ("keys.create", made["id"]),
    ]
    assert {event["organizationId"] for event in events["audit"]} == {made["organizationId"]}
    page = (await caller.get("/v1/admin/audit", limit=1)).json()
    second = (await caller.get("/v1/admin/audit", limit=1, cursor=page["nextCursor"])).json()
    assert page["audit"] + second["audit"] == events["audit"][:2]


async def test_open_holds_have_their_age(world: World) -> None:
    caller, account_id = await world.tenant("5")
    me = await world.services.keys.authenticate(caller.secret)
    intent = Record(
        hold_id=f"call_{uuid7().hex}",
        hold_kind="call",
        kind="actual",
        organization_id=me.organization_id,
        account_id=account_id,
        key_id=me.key_id,
        request_id="req_1",
        occurred_at_us=world.services.clock.now_us() - 3_000_000,
        charge_microcredits=10,
        cost_usd=Decimal(0),
        endpoint="chat.completions",
        public_model="fast",
    )
    held = await world.owner.take(
        Ask(
            hold_id=intent.hold_id,
            kind="call",
            principal=await world.services.keys.refresh(me),
            account_id=account_id,
            want_microcredits=1_500_000,
            floor_microcredits=1_500_000,
            want_tokens=0,
            floor_tokens=0,
            progress_microcredits=10,
            meta=encode_record(intent),
        ),
        intent,
    )
    (shown,) = exact(await caller.get("/v1/admin/holds"))["holds"]
    assert (shown["id"], shown["accountId"], shown["amount"]) == (intent.hold_id, account_id, Decimal("1.5"))
    assert shown["ageSeconds"] in (3, 4)
    assert (shown["requestId"], shown["model"]) == ("req_1", "fast")
    other, _ = await world.tenant("5")
    assert (await other.get("/v1/admin/holds")).json() == {"success": True, "holds": [], "nextCursor": None}
    await world.owner.release(held)


async def test_a_cursor_of_nobody_s_is_400(world: World) -> None:
    assert code(await world.admin.get("/v1/admin/holds", cursor="²")) == (400, "invalid_request")
