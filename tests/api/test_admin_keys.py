from __future__ import annotations

from typing import Any

import pytest
from tests.api.conftest import Caller, World, code

from faregate.core.call import bucket_of
from faregate.errors import StoreUnavailable

FULL: dict[str, Any] = {
    "name": "agent",
    "scopes": ["proxy", "usage:read"],
    "models": ["fast", "gpt-*"],
    "limits": [
        {"kind": "credits", "window": "day", "max": 2.5},
        {"kind": "concurrency", "window": "total", "max": 4},
    ],
    "expiresAt": "2090-01-01T00:00:00Z",
    "maxMultiplier": 3,
}


async def _made(caller: Caller, **changes: Any) -> dict[str, Any]:
    answer = await caller.post("/v1/admin/keys", {**FULL, **changes})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_key_is_made_and_its_secret_shown_once(world: World) -> None:
    made = await _made(world.admin)
    assert made.keys() == {"success", "key", "secret"}
    key = made["key"]
    assert made["secret"].startswith(key["prefix"])
    assert key["prefix"] == f"fg_live_{key['id']}"
    assert key["organizationId"] == "org_bootstrap"
    assert {name: key[name] for name in ("name", "scopes", "models", "limits", "maxMultiplier")} == {
        name: FULL[name] for name in ("name", "scopes", "models", "limits", "maxMultiplier")
    }
    shown = await world.admin.get(f"/v1/admin/keys/{key['id']}")
    assert shown.json() == {"success": True, "key": key}
    listed = await world.admin.get("/v1/admin/keys")
    assert key in listed.json()["keys"]
    for text in (shown.text, listed.text, (await world.admin.get("/v1/admin/audit")).text):
        assert made["secret"][-43:] not in text


async def test_a_tenant_s_key_belongs_to_its_own_organization(world: World) -> None:
    caller, account_id = await world.tenant()
    key = (await _made(caller, accountId="ann"))["key"]
    assert key["accountId"] == account_id
    assert key["organizationId"] != "org_bootstrap"
    other = await world.organization()
    named = await caller.post("/v1/admin/keys", {**FULL, "organizationId": other})
    assert code(named) == (403, "permission_denied")


@pytest.mark.parametrize(
    "change",
    [
        {"scopes": []},
        {"scopes": ["root"]},
        {"scopes": None},
        {"models": []},
        {"models": ["a*b"]},
        {"limits": [{"kind": "credits", "window": "day", "max": -1}]},
        {"limits": [{"kind": "credits", "window": "day", "max": "1e308"}]},
        {"limits": [{"kind": "requests", "window": "day", "max": 1.5}]},
        {"limits": [{"kind": "requests", "window": "year", "max": 1}]},
        {"limits": [{"kind": "requests", "window": "day", "max": 1}] * 2},
        {"expiresAt": "2020-01-01"},
        {"expiresAt": "9999-12-31T23:59:59-23:59"},
        {"maxMultiplier": 0.5},
        {"maxMultiplier": 10.5},
        {"maxMultiplier": "NaN"},
        {"name": ""},
        {"test": "yes"},
        {"secret": "mine"},
    ],
)
async def test_a_wrong_key_is_400(world: World, change: dict[str, Any]) -> None:
    assert code(await world.admin.post("/v1/admin/keys", {**FULL, **change})) == (400, "invalid_request")


async def test_a_key_for_an_unknown_account_or_organization_is_404(world: World) -> None:
    for change in ({"accountId": "acc_nobody"}, {"organizationId": "org_nobody"}):
        assert code(await world.admin.post("/v1/admin/keys", {**FULL, **change})) == (404, "not_found")


async def test_a_change_is_in_force_at_once_everywhere(world: World) -> None:
    made = await _made(world.admin, scopes=["usage:read"])
    caller = Caller(world.http, made["secret"])
    path = f"/v1/admin/keys/{made['key']['id']}"
    assert (await caller.get("/v1/usage")).status_code == 200
    changed = await world.admin.send("PATCH", path, {"scopes": ["proxy"], "models": None, "limits": []})
    key = changed.json()["key"]
    assert (key["scopes"], key["models"], key["limits"]) == (["proxy"], None, [])
    assert code(await caller.get("/v1/usage")) == (403, "permission_denied")
    assert await _rev(world, key["id"]) == b"2"


async def _rev(world: World, key_id: str) -> bytes:
    name = f"fg:{{b{bucket_of('org_bootstrap'):03d}}}:key:{key_id}"
    found: bytes = await world.pipe.command((b"GET", name), 5.0)
    return found.partition(b":")[0]  # the rest is the epoch it was written in


@pytest.mark.parametrize("body", [{}, {"name": None}, {"scopes": []}, {"organizationId": "org_x"}, {"test": True}])
async def test_a_wrong_change_is_400(world: World, body: dict[str, Any]) -> None:
    key_id = (await _made(world.admin))["key"]["id"]
    answer = await world.admin.send("PATCH", f"/v1/admin/keys/{key_id}", body)
    assert code(answer) == (400, "invalid_request")


async def test_a_revoked_key_is_refused_and_stays_listed(world: World) -> None:
    made = await _made(world.admin, scopes=["usage:read"])
    path, caller = f"/v1/admin/keys/{made['key']['id']}", Caller(world.http, made["secret"])
    assert (await caller.get("/v1/usage")).status_code == 200
    revoked = await world.admin.send("DELETE", path)
    assert revoked.json()["key"]["revokedAt"].endswith("Z")
    assert code(await caller.get("/v1/usage")) == (401, "invalid_api_key")
    assert (await world.admin.send("DELETE", path)).json() == revoked.json()
    assert code(await world.admin.send("PATCH", path, {"name": "x"})) == (409, "conflict")
    assert code(await world.admin.send("POST", f"{path}/rotate")) == (409, "conflict")


async def test_a_rotated_key_has_one_good_secret(world: World) -> None:
    made = await _made(world.admin, scopes=["usage:read"])
    assert (await Caller(world.http, made["secret"]).get("/v1/usage")).status_code == 200
    rotated = (await world.admin.send("POST", f"/v1/admin/keys/{made['key']['id']}/rotate")).json()
    assert rotated["key"]["id"] == made["key"]["id"]
    assert code(await Caller(world.http, made["secret"]).get("/v1/usage")) == (401, "invalid_api_key")
    assert (await Caller(world.http, rotated["secret"]).get("/v1/usage")).status_code == 200


async def test_without_redis_a_revocation_says_so_and_can_be_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await _made(world.admin, scopes=["usage:read"])
    path = f"/v1/admin/keys/{made['key']['id']}"

    async def down(*_: object) -> None:
        raise StoreUnavailable("down")

    monkeypatch.setattr(world.pipe, "run", down)
    answer = await world.admin.send("DELETE", path)
    assert code(answer) == (503, "store_unavailable")
    assert "not yet in force everywhere" in answer.json()["error"]["message"]
    assert answer.headers["retry-after"]
    monkeypatch.undo()
    assert code(await Caller(world.http, made["secret"]).get("/v1/usage")) == (401, "invalid_api_key")
    assert (await world.admin.send("DELETE", path)).status_code == 200
    assert await _rev(world, made["key"]["id"]) == b"2"


async def test_another_organization_s_key_does_not_exist(world: World) -> None:
    (caller, _), foreign = await world.tenant(), (await _made(world.admin))["key"]["id"]
    path = f"/v1/admin/keys/{foreign}"
    for method, at in (("GET", path), ("PATCH", path), ("DELETE", path), ("POST", f"{path}/rotate")):
        assert code(await caller.send(method, at, {"name": "x"})) == (404, "not_found")
    assert foreign not in {key["id"] for key in (await caller.get("/v1/admin/keys")).json()["keys"]}


async def test_the_bootstrap_key_cannot_be_changed_over_the_api(world: World) -> None:
    sibling = await world.key(None, "admin")
    for caller in (world.admin, sibling):
        for method, tail in (("PATCH", ""), ("DELETE", ""), ("POST", "/rotate")):
            answer = await caller.send(method, f"/v1/admin/keys/bootstrap{tail}", {"name": "x"})
            assert code(answer) == (403, "permission_denied")


async def test_a_key_of_one_account_administers_nothing(world: World) -> None:
    caller = await world.key(None, "admin", accountId="acc_bootstrap")
    assert code(await caller.post("/v1/admin/keys", FULL)) == (403, "permission_denied")
    for path in ("keys", "organizations", "audit", "holds"):
        assert code(await caller.get(f"/v1/admin/{path}")) == (403, "permission_denied")


async def test_keys_are_listed_in_pages(world: World) -> None:
    for _ in range(4):
        await _made(world.admin)
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        body = (await world.admin.get("/v1/admin/keys", limit=2, **cursor)).json()
        seen += [key["id"] for key in body["keys"]]
        if body["nextCursor"] is None:
            break
        cursor = {"cursor": body["nextCursor"]}
    assert len(seen) == len(set(seen)) == 5  # the bootstrap key too
