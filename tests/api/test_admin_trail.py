"""Every change that administration makes is in the trail, in the transaction that makes it: by the route table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from tests.api.conftest import Caller, World

from faregate.api.endpoint import Rule
from faregate.api.routes import table


@pytest.fixture
def kind() -> str:
    """SQLite's: whole tables are compared, as its own file has them."""
    return "sqlite"


CHANGES = [
    rule for rule in table() if rule.method != "GET" and ("/admin/" in rule.path or "app-passwords" in rule.path)
]
Made = dict[str, dict[str, Any]]


async def things(world: World) -> tuple[Caller, Made, Caller]:
    """A key of an organization with one of each thing, the things, and a user of it."""
    organization = await world.organization()
    key = await world.key(organization, "admin")

    async def made(path: str, **body: Any) -> dict[str, Any]:
        answer = await key.post(path, body)
        assert answer.status_code == 201, answer.text
        return answer.json()  # type: ignore[no-any-return]

    user = (await made("/v1/admin/users", email="ann@example.com"))["user"]
    password = (await made(f"/v1/admin/users/{user['id']}/app-passwords"))["appPassword"]
    other = (await made("/v1/admin/users", email="bob@example.com"))["user"]
    return (
        key,
        {
            "organizations": {"id": organization},
            "users": user,
            "other": other,
            "memberships": (await made("/v1/admin/memberships", userId=user["id"], role="member"))["membership"],
            "services": (await made("/v1/admin/services", name="s"))["service"],
            "keys": (await made("/v1/admin/keys", name="k", scopes=["proxy"]))["key"],
            "prices": (await made("/v1/admin/prices", **PRICE))["price"],
            "app-passwords": password,
        },
        Caller(world.http, password["token"]),
    )


PRICE = {"provider": "*", "model": "m", "per_million": {"input": 1, "output": 1}}


def bodies(made: Made) -> dict[str, dict[str, Any]]:
    return {
        "POST /v1/admin/organizations": {"name": "x"},
        "PATCH /v1/admin/organizations/{id}": {"name": "x"},
        "POST /v1/admin/users": {"email": "x@example.com"},
        "PATCH /v1/admin/users/{id}": {"name": "x"},
        "DELETE /v1/admin/users/{id}": {},
        "POST /v1/admin/users/{id}/app-passwords": {},
        "DELETE /v1/admin/users/{id}/app-passwords/{passwordId}": {},
        "POST /v1/admin/memberships": {"userId": made["other"]["id"], "role": "admin"},
        "PATCH /v1/admin/memberships/{id}": {"role": "admin"},
        "DELETE /v1/admin/memberships/{id}": {},
        "POST /v1/admin/services": {"name": "x"},
        "PATCH /v1/admin/services/{id}": {"name": "x"},
        "DELETE /v1/admin/services/{id}": {},
        "POST /v1/admin/keys": {"name": "x", "scopes": ["proxy"]},
        "PATCH /v1/admin/keys/{id}": {"name": "x"},
        "DELETE /v1/admin/keys/{id}": {},
        "POST /v1/admin/keys/{id}/rotate": {},
        "POST /v1/admin/prices": PRICE,
        "DELETE /v1/admin/prices/{id}": {},
        "POST /api/auth/app-passwords": {},
        "DELETE /api/auth/app-passwords/{id}": {},
    }


@dataclass
class Try:
    """A change that is about to be made, who makes it, and where."""

    rule: Rule
    made: Made
    caller: Caller
    who: str

    async def send(self) -> httpx.Response:
        rule, made = self.rule, self.made
        kind = "app-passwords" if rule.person else rule.path.split("/")[3]
        path = rule.path.replace("{passwordId}", made["app-passwords"]["id"]).replace("{id}", made[kind]["id"])
        return await self.caller.send(rule.method, path, bodies(made)[f"{rule.method} {rule.path}"] or None)


async def prepared(world: World, rule: Rule) -> Try:
    key, made, person = await things(world)
    if rule.path == "/v1/admin/organizations":
        return Try(rule, made, world.admin, "bootstrap")
    if rule.person:
        return Try(rule, made, person, made["users"]["id"])
    return Try(rule, made, key, key.secret.split("_")[2])


@pytest.mark.parametrize("rule", CHANGES, ids=lambda rule: f"{rule.method} {rule.path}")
async def test_every_change_leaves_one_line(world: World, rule: Rule) -> None:
    one = await prepared(world, rule)
    answer = await one.send()
    assert answer.is_success, answer.text
    query = {} if one.who == "bootstrap" else {"organizationId": one.made["organizations"]["id"]}
    trail = (await world.admin.get("/v1/admin/audit", **query)).json()["audit"]
    mine = [event for event in trail if event["detail"]["requestId"] == answer.headers["x-faregate-request-id"]]
    assert [event["who"] for event in mine] == [one.who]
    assert mine[0]["what"].split(".")[1] in ("create", "patch", "delete", "revoke", "rotate")
    changed_id = next((value["id"] for value in answer.json().values() if isinstance(value, dict)), None)
    assert mine[0]["target"] == changed_id
    for name in ("secret", "token", "hash"):
        assert name not in str(mine)


@pytest.mark.parametrize("rule", CHANGES, ids=lambda rule: f"{rule.method} {rule.path}")
async def test_no_change_without_its_line(world: World, rule: Rule) -> None:
    refuse = "CREATE TRIGGER t BEFORE INSERT ON admin_audit WHEN (SELECT count(*) FROM armed) BEGIN "
    refuse += "SELECT RAISE(ABORT, 'no'); END"

    def arm(conn: Any, *statements: str) -> None:
        for statement in statements:
            conn.exec_driver_sql(statement)

    def book(conn: Any) -> list[str]:
        """What administration changes."""
        names = ("organizations", "users", "memberships", "services", "keys", "prices", "app_passwords")
        return [str(conn.exec_driver_sql(f"SELECT * FROM {name} ORDER BY 1").fetchall()) for name in names]

    await world.ledger.database.write(arm, "CREATE TABLE armed (x)", refuse)
    one = await prepared(world, rule)
    await one.caller.get("/api/auth/app-passwords")  # The use of an app password is noted.
    await world.ledger.database.write(arm, "INSERT INTO armed VALUES (1)")
    before = await world.ledger.database.read(book)
    answer = await one.send()
    assert answer.status_code >= 500
    assert await world.ledger.database.read(book) == before
