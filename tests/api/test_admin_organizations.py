from __future__ import annotations

from typing import Any

import pytest
from tests.api.conftest import World, code, exact


async def test_an_organization_is_born_with_an_account(world: World) -> None:
    body = {"name": "Acme", "externalId": "acme", "creditsPerUsd": 100, "markupPercent": "12.5", "ingestCharges": True}
    made = exact(await world.admin.post("/v1/admin/organizations", body))
    organization = made["organization"]
    assert made.keys() == {"success", "organization"}
    assert organization["id"].startswith("org_")
    assert organization["defaultAccountId"].startswith("acc_")
    assert (str(organization["creditsPerUsd"]), str(organization["markupPercent"])) == ("100", "12.5")
    for named in (organization["id"], organization["uuid"]):
        assert exact(await world.admin.get(f"/v1/admin/organizations/{named}"))["organization"] == organization
    listed = exact(await world.admin.get("/v1/admin/organizations"))
    assert organization in listed["organizations"]
    assert listed["nextCursor"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"name": None},
        {"creditsPerUsd": 0},
        {"creditsPerUsd": -1},
        {"creditsPerUsd": "1e308"},
        {"creditsPerUsd": "NaN"},
        {"markupPercent": -1},
        {"markupPercent": "0.0000001"},
        {"ingestCharges": 1},
        {"colour": "red"},
    ],
)
async def test_a_wrong_organization_is_400(world: World, change: dict[str, Any]) -> None:
    answer = await world.admin.post("/v1/admin/organizations", {"name": "Acme", **change})
    assert code(answer) == (400, "invalid_request")


async def test_an_external_id_is_taken_once(world: World) -> None:
    await world.organization(externalId="acme")
    answer = await world.admin.post("/v1/admin/organizations", {"name": "B", "externalId": "acme"})
    assert code(answer) == (409, "conflict")


async def test_a_change_reaches_every_key(world: World) -> None:
    organization = await world.organization()
    caller = await world.key(organization)
    before = (await world.services.keys.authenticate(caller.secret)).rev
    answer = await world.admin.send("PATCH", f"/v1/admin/organizations/{organization}", {"markupPercent": 50})
    assert answer.json()["organization"]["markupPercent"] == 50
    calculated = await caller.post("/v1/models/calculate", {"modelId": "fast", "inputTokens": 10000, "outputTokens": 0})
    assert calculated.json()["credits"] == 1.5
    assert (await world.services.keys.authenticate(caller.secret)).rev == before + 1


@pytest.mark.parametrize("body", [{}, {"name": None}, {"creditsPerUsd": 5}, {"markupPercent": None}])
async def test_a_wrong_change_is_400(world: World, body: dict[str, Any]) -> None:
    organization = await world.organization()
    answer = await world.admin.send("PATCH", f"/v1/admin/organizations/{organization}", body)
    assert code(answer) == (400, "invalid_request")


async def test_a_tenant_sees_and_changes_only_its_own(world: World) -> None:
    (caller, _), other = await world.tenant(), await world.organization("Other")
    own = (await caller.get("/v1/admin/organizations")).json()["organizations"]
    assert [found["name"] for found in own] == ["Acme"]
    renamed = await caller.send("PATCH", f"/v1/admin/organizations/{own[0]['uuid']}", {"name": "Acme 2"})
    assert renamed.json()["organization"]["name"] == "Acme 2"
    for named in (other, "org_nobody"):
        path = f"/v1/admin/organizations/{named}"
        assert code(await caller.get(path)) == (403, "permission_denied")
        assert code(await caller.send("PATCH", path, {"name": "x"})) == (403, "permission_denied")
    assert code(await caller.post("/v1/admin/organizations", {"name": "x"})) == (403, "permission_denied")


async def test_unknown_to_the_bootstrap_key_is_404(world: World) -> None:
    assert code(await world.admin.get("/v1/admin/organizations/org_nobody")) == (404, "not_found")
