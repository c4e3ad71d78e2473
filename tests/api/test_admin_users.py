from __future__ import annotations

from typing import Any

import pytest
from tests.api.conftest import Caller, World, code

USERS = "/v1/admin/users"
MEMBERSHIPS = "/v1/admin/memberships"
SERVICES = "/v1/admin/services"


async def tenant(world: World, name: str = "Acme") -> tuple[Caller, str]:
    organization = await world.organization(name)
    return await world.key(organization, "admin"), organization


async def test_a_user_is_named_by_id_or_uuid(world: World) -> None:
    made = await world.admin.post(USERS, {"email": " Ann@Example.COM ", "name": "Ann"})
    assert made.status_code == 201
    assert made.json().keys() == {"success", "user"}
    user = made.json()["user"]
    assert user["id"].startswith("usr_")
    assert (user["email"], user["name"], user["active"]) == ("ann@example.com", "Ann", True)
    for named in (user["id"], user["uuid"]):
        assert (await world.admin.get(f"{USERS}/{named}")).json()["user"] == user
    changed = await world.admin.send("PATCH", f"{USERS}/{user['uuid']}", {"name": None, "active": False})
    assert (changed.json()["user"]["name"], changed.json()["user"]["active"]) == (None, False)


async def test_users_are_listed_by_cursor(world: World) -> None:
    made = [await world.user(f"{number}@example.com") for number in range(3)]
    first = (await world.admin.get(USERS, limit=2)).json()
    rest = (await world.admin.get(USERS, limit=2, cursor=first["nextCursor"])).json()
    assert [user["id"] for user in first["users"] + rest["users"]] == [user["id"] for user in made]
    assert rest["nextCursor"] is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": "nobody"},
        {"email": "a b@c"},
        {"email": "@c"},
        {"email": 5},
        {"email": "a@" + "c" * 400},
        {"email": "a@c", "role": "admin"},
        {"email": "a@c", "name": ""},
    ],
)
async def test_a_wrong_user_is_400(world: World, body: dict[str, Any]) -> None:
    assert code(await world.admin.post(USERS, body)) == (400, "invalid_request")


async def test_an_email_is_taken_once_in_its_home_and_tells_nobody_else(world: World) -> None:
    (acme, _), (other, _) = await tenant(world), await tenant(world, "Other")
    for caller in (world.admin, acme, other):
        assert (await caller.post(USERS, {"email": "ann@example.com"})).status_code == 201
        assert code(await caller.post(USERS, {"email": "ANN@example.com"})) == (409, "conflict")


async def test_a_deleted_user_is_gone_with_memberships_and_passwords(world: World) -> None:
    organization = await world.organization()
    user = await world.user(roles={organization: "admin"})
    person = await world.person(user)
    assert (await world.admin.send("DELETE", f"{USERS}/{user['id']}")).status_code == 200
    assert code(await world.admin.get(f"{USERS}/{user['id']}")) == (404, "not_found")
    assert (await world.admin.get(MEMBERSHIPS)).json()["memberships"] == []
    assert (await person.get("/api/billing/user")).status_code == 401


# Whose they are -----------------------------------------------------------------------------------------


async def test_an_organization_sees_its_own_users_and_its_members(world: World) -> None:
    (acme, acme_id), (other, _) = await tenant(world), await tenant(world, "Other")
    own = await world.user("own@example.com", by=acme)
    shared = await world.user("shared@example.com", roles={acme_id: "member"})
    assert own["organizationId"] == acme_id
    assert [user["id"] for user in (await acme.get(USERS)).json()["users"]] == [own["id"], shared["id"]]
    assert (await other.get(USERS)).json()["users"] == []
    for named in (own["id"], own["uuid"], shared["id"]):
        assert code(await other.get(f"{USERS}/{named}")) == (404, "not_found")


async def test_the_installations_users_are_changed_by_the_bootstrap_key_only(world: World) -> None:
    acme, acme_id = await tenant(world)
    user = await world.user(roles={acme_id: "admin"})
    path = f"{USERS}/{user['id']}"
    for method, where, body in (
        ("PATCH", path, {"email": "evil@example.com"}),
        ("DELETE", path, None),
        ("POST", f"{path}/app-passwords", {}),
        ("GET", f"{path}/app-passwords", None),
    ):
        assert code(await acme.send(method, where, body)) == (403, "permission_denied")


async def test_an_organizations_own_user_is_a_member_nowhere_else(world: World) -> None:
    (acme, _), (_, other_id) = await tenant(world), await tenant(world, "Other")
    own = await world.user("own@example.com", by=acme)
    body = {"userId": own["id"], "organizationId": other_id, "role": "member"}
    assert code(await world.admin.post(MEMBERSHIPS, body)) == (409, "conflict")
    assert code(await acme.post(MEMBERSHIPS, body)) == (403, "permission_denied")


async def test_a_subject_is_the_installations_business(world: World) -> None:
    acme, _ = await tenant(world)
    body = {"email": "own@example.com", "subject": "google|1"}
    assert code(await acme.post(USERS, body)) == (403, "permission_denied")
    own = await world.user("own@example.com", by=acme)
    assert code(await acme.send("PATCH", f"{USERS}/{own['id']}", {"subject": "x"})) == (403, "permission_denied")
    assert (await world.admin.post(USERS, body)).json()["user"]["subject"] == "google|1"


# Memberships --------------------------------------------------------------------------------------------


async def test_a_membership_from_its_beginning_to_its_end(world: World) -> None:
    acme, acme_id = await tenant(world)
    user = await world.user("own@example.com", by=acme)
    made = await acme.post(MEMBERSHIPS, {"userId": user["uuid"], "role": "member"})
    membership = made.json()["membership"]
    assert made.status_code == 201
    assert (membership["organizationId"], membership["active"]) == (acme_id, True)
    assert code(await acme.post(MEMBERSHIPS, {"userId": user["id"], "role": "admin"})) == (409, "conflict")
    path = f"{MEMBERSHIPS}/{membership['id']}"
    changed = await acme.send("PATCH", path, {"role": "superadmin", "active": False})
    assert (changed.json()["membership"]["role"], changed.json()["membership"]["active"]) == ("superadmin", False)
    assert (await acme.get(path)).json()["membership"] == changed.json()["membership"]
    assert (await acme.send("DELETE", path)).status_code == 200
    assert code(await acme.get(path)) == (404, "not_found")


@pytest.mark.parametrize("role", ["owner", "", None, 1, "Admin"])
async def test_an_unknown_role_is_400(world: World, role: object) -> None:
    user = await world.user()
    answer = await world.admin.post(MEMBERSHIPS, {"userId": user["id"], "role": role})
    assert code(answer) == (400, "invalid_request")


@pytest.mark.parametrize("body", [{}, {"role": None}, {"active": None}, {"active": 1}, {"userId": "x"}])
async def test_a_wrong_change_of_a_membership_is_400(world: World, body: dict[str, Any]) -> None:
    await world.user(roles={"org_bootstrap": "member"})
    (membership,) = (await world.admin.get(MEMBERSHIPS)).json()["memberships"]
    answer = await world.admin.send("PATCH", f"{MEMBERSHIPS}/{membership['id']}", body)
    assert code(answer) == (400, "invalid_request")


async def test_only_the_bootstrap_key_makes_the_installations_superadmins(world: World) -> None:
    acme, acme_id = await tenant(world)
    await world.user(roles={acme_id: "member"})
    (membership,) = (await acme.get(MEMBERSHIPS)).json()["memberships"]
    path = f"{MEMBERSHIPS}/{membership['id']}"
    assert code(await acme.send("PATCH", path, {"role": "superadmin"})) == (403, "permission_denied")
    assert (await world.admin.send("PATCH", path, {"role": "superadmin", "active": False})).status_code == 200
    assert code(await acme.send("PATCH", path, {"active": True})) == (403, "permission_denied")
    assert code(await acme.send("DELETE", path)) == (403, "permission_denied")


# App passwords ------------------------------------------------------------------------------------------


async def test_a_token_is_shown_once_and_kept_hashed(world: World) -> None:
    user = await world.user()
    path = f"{USERS}/{user['uuid']}/app-passwords"
    made = await world.admin.post(path, {"name": "ci", "expiresAt": "2999-01-01"}, idempotency_key="k")
    password = made.json()["appPassword"]
    token = password.pop("token")
    assert token.startswith("app_")
    assert (await world.admin.get(path)).json() == {"success": True, "appPasswords": [password], "nextCursor": None}
    assert (await world.admin.get(f"{path}/{password['id']}")).json()["appPassword"] == password
    again = await world.admin.post(path, {"name": "ci", "expiresAt": "2999-01-01"}, idempotency_key="k")
    assert again.json()["appPassword"] == password
    assert token not in await everything(world)
    revoked = await world.admin.send("DELETE", f"{path}/{password['id']}")
    assert revoked.json()["appPassword"]["revokedAt"] is not None


async def everything(world: World) -> str:
    """The whole book as text."""

    def dump(conn: Any) -> str:
        return "\n".join(conn.connection.driver_connection.iterdump())

    return str(await world.ledger.database.read(dump))


@pytest.mark.parametrize("body", [{"expiresAt": "2001-01-01"}, {"expiresAt": "soon"}, {"name": ""}, {"token": "app_x"}])
async def test_a_wrong_app_password_is_400(world: World, body: dict[str, Any]) -> None:
    user = await world.user()
    assert code(await world.admin.post(f"{USERS}/{user['id']}/app-passwords", body)) == (400, "invalid_request")


async def test_another_users_app_password_is_404(world: World) -> None:
    ann, bob = await world.user(), await world.user("bob@example.com")
    made = await world.admin.post(f"{USERS}/{ann['id']}/app-passwords", {})
    path = f"{USERS}/{bob['id']}/app-passwords/{made.json()['appPassword']['id']}"
    assert code(await world.admin.get(path)) == (404, "not_found")
    assert code(await world.admin.send("DELETE", path)) == (404, "not_found")


# Services -----------------------------------------------------------------------------------------------


async def test_a_service_from_its_beginning_to_its_end(world: World) -> None:
    made = await world.admin.post(SERVICES, {"name": "indexer"})
    service = made.json()["service"]
    assert made.status_code == 201
    assert (service["name"], service["organizationId"]) == ("indexer", None)
    assert code(await world.admin.post(SERVICES, {"name": "indexer"})) == (409, "conflict")
    path = f"{SERVICES}/{service['id']}"
    assert (await world.admin.send("PATCH", path, {"name": "finder"})).json()["service"]["name"] == "finder"
    assert [found["name"] for found in (await world.admin.get(SERVICES)).json()["services"]] == ["finder"]
    assert (await world.admin.send("DELETE", path)).status_code == 200
    assert code(await world.admin.get(path)) == (404, "not_found")


async def test_services_of_others_are_not_there(world: World) -> None:
    (acme, acme_id), (other, _) = await tenant(world), await tenant(world, "Other")
    service = (await acme.post(SERVICES, {"name": "indexer"})).json()["service"]
    assert service["organizationId"] == acme_id
    assert (await other.post(SERVICES, {"name": "indexer"})).status_code == 201
    for method in ("GET", "DELETE"):
        assert code(await other.send(method, f"{SERVICES}/{service['id']}")) == (404, "not_found")
    assert [found["name"] for found in (await world.admin.get(SERVICES)).json()["services"]] == ["indexer", "indexer"]


# The trail ----------------------------------------------------------------------------------------------


async def test_every_change_is_in_the_trail_and_no_secret(world: World) -> None:
    acme, acme_id = await tenant(world)
    key_id = acme.secret.split("_")[2]
    user = await world.user("own@example.com", by=acme, roles={acme_id: "member"})
    person = await world.person(user, by=acme, name="ci")
    await acme.send("PATCH", f"{USERS}/{user['id']}", {"name": "Own"})
    await person.post("/api/auth/app-passwords", {"name": "mine"})
    trail = (await acme.get("/v1/admin/audit")).json()["audit"]
    assert [(event["what"], event["who"]) for event in trail[:5]] == [
        ("app_passwords.create", user["id"]),
        ("users.patch", key_id),
        ("app_passwords.create", key_id),
        ("memberships.create", key_id),
        ("users.create", key_id),
    ]
    assert trail[1]["detail"]["fields"] == ["name"]
    assert trail[3]["detail"]["role"] == "member"
    assert person.secret not in str(trail)
    assert all(event["createdAt"] and event["target"] for event in trail)
