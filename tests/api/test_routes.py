from __future__ import annotations

import pytest
from tests.api.conftest import World, code

from faregate.api.endpoint import Rule
from faregate.api.errors import error_reply
from faregate.api.routes import table
from faregate.auth.scopes import ALL_SCOPES
from faregate.core.call import bucket_of

CLOSED = [rule for rule in table() if rule.scopes and rule.say is error_reply]
OPEN = [rule for rule in table() if rule.public and rule.method == "GET"]
PEOPLES = [rule for rule in table() if rule.person]


def _name(rule: Rule) -> str:
    return f"{rule.method} {rule.path}"


def _path(rule: Rule) -> str:
    return rule.path.replace("{id:path}", "x/y").replace("{id}", "x").replace("{passwordId}", "x")


@pytest.mark.parametrize("rule", CLOSED, ids=_name)
async def test_without_a_key_every_route_says_401(world: World, rule: Rule) -> None:
    for headers in ({}, {"x-api-key": "nope"}, {"authorization": "Bearer fg_live_0000000000000000_" + "x" * 43}):
        answer = await world.http.request(rule.method, _path(rule), headers=headers)
        assert code(answer) == (401, "invalid_api_key")
        assert answer.headers["x-faregate-request-id"].startswith("req_")


@pytest.mark.parametrize("rule", CLOSED, ids=_name)
async def test_without_its_scope_every_route_says_403(world: World, rule: Rule) -> None:
    caller = await world.key(None, *(ALL_SCOPES - set(rule.scopes)))
    answer = await caller.send(rule.method, _path(rule))
    assert code(answer) == (403, "permission_denied")
    assert any(scope in answer.json()["error"]["message"] for scope in rule.scopes)


@pytest.mark.parametrize("rule", OPEN, ids=_name)
async def test_operations_are_public(world: World, rule: Rule) -> None:
    answer = await world.http.request(rule.method, rule.path)
    assert answer.status_code == 200
    assert "x-faregate-request-id" in answer.headers


async def test_only_operations_and_the_login_are_public() -> None:
    operations = {"/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"}
    assert {rule.path for rule in table() if rule.public} == {*operations, "/api/auth/app-login"}


@pytest.mark.parametrize("rule", PEOPLES, ids=_name)
async def test_what_is_a_users_to_ask_no_key_opens(world: World, rule: Rule) -> None:
    for headers in ({}, {"authorization": "Bearer app_x"}, {"authorization": "Bearer a.b.c"}):
        answer = await world.http.request(rule.method, _path(rule), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    answer = await world.admin.send(rule.method, _path(rule))
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("rule", [rule for rule in table() if rule.scopes], ids=_name)
async def test_what_is_a_keys_to_ask_no_user_opens(world: World, rule: Rule) -> None:
    person = await world.person(await world.user(roles={"org_bootstrap": "superadmin"}))
    token = (await world.http.post("/api/auth/app-login", json={"token": person.secret})).json()["accessToken"]
    for secret in (person.secret, token):
        answer = await world.http.request(rule.method, _path(rule), headers={"authorization": f"Bearer {secret}"})
        assert answer.status_code == 401


@pytest.mark.parametrize("path", ["/", "/v1/nothing", "/v1/accounts/", "/v1/admin/keys/x/y/z", "//v1/accounts"])
async def test_unknown_paths_are_404_in_json(world: World, path: str) -> None:
    answer = await world.http.get(f"http://faregate.test{path}")
    assert code(answer) == (404, "not_found")
    assert "x-faregate-request-id" in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/accounts/create", "POST"),
        ("DELETE", "/v1/accounts", "GET"),
        ("PUT", "/v1/admin/keys/x", "GET, PATCH, DELETE"),
        ("GET", "/v1/models/calculate", "POST"),
        ("POST", "/metrics", "GET"),
    ],
)
async def test_a_wrong_method_is_405_with_what_is_allowed(world: World, method: str, path: str, allow: str) -> None:
    answer = await world.http.request(method, path)
    assert code(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allow


async def test_a_key_is_taken_from_either_header(world: World) -> None:
    caller = await world.key(None, "credits:write")
    assert (await caller.get("/v1/accounts")).status_code == 200
    assert (await world.http.get("/v1/accounts", headers={"X-API-Key": caller.secret})).status_code == 200


async def test_a_revoked_key_stops_at_its_next_request_in_every_process(world: World) -> None:
    caller = await world.key(None, "credits:write")
    assert (await caller.get("/v1/accounts")).status_code == 200
    key_id = caller.secret.split("_")[2]
    await world.ledger.keys.revoke(key_id)  # by another process: nothing here has been told
    assert code(await caller.get("/v1/accounts")) == (401, "invalid_api_key")


async def test_a_defect_says_nothing_of_itself(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caller = await world.key(None, "credits:write")
    await world.pipe.command((b"FLUSHALL",), 5.0)
    await world.pipe.command(
        (b"SET", f"fg:{{b{bucket_of('org_bootstrap'):03d}}}:acct:acc_bootstrap", b"not a hash"), 5.0
    )
    answer = await caller.get("/v1/accounts/balance", accountId="acc_bootstrap")
    assert code(answer) == (500, "internal_error")
    assert answer.json()["error"]["message"] == "the gateway failed"
    assert answer.headers["x-faregate-request-id"] in caplog.text
    assert caller.secret not in caplog.text
