from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest
from tests.api.conftest import Caller, World, exact

from faregate.auth.app_tokens import make
from faregate.ledger.audit import audit
from faregate.ledger.database import Database
from faregate.ledger.ingested import Ingested
from faregate.ledger.service_usage import ServiceUsage

PATH = "/api/billing/external-usage"
BILLING = "/api/billing/user"


async def told(world: World, **facts: Any) -> tuple[Caller, dict[str, Any]]:
    """A superadmin's app password, and a body that is good: 1000 and 500 tokens of gpt-5-mini, 0.00125 USD."""
    organization = await world.organization(**facts)
    user = await world.user(roles={organization: "superadmin"})
    await world.admin.post("/v1/admin/services", {"name": "indexer"})
    uuid = (await world.admin.get(f"/v1/admin/organizations/{organization}")).json()["organization"]["uuid"]
    body = {"user_id": user["uuid"], "organization_id": uuid, "model_name": "gpt-5-mini", "service_name": "indexer"}
    return await world.person(user), {**body, "input_tokens": 1000, "output_tokens": 500}


def said(answer: httpx.Response) -> tuple[int, str]:
    """Status and code; every error has the one shape."""
    body = answer.json()
    assert set(body) == {"error", "code"}
    assert isinstance(body["error"], str)
    return answer.status_code, body["code"]


async def log_in(world: World, person: Caller) -> Caller:
    answer = await world.http.post("/api/auth/app-login", json={"token": person.secret})
    assert answer.status_code == 200, answer.text
    return Caller(world.http, answer.json()["accessToken"])


# Logging in ---------------------------------------------------------------------------------------------


async def test_an_app_password_is_exchanged_for_a_token(world: World) -> None:
    organization = await world.organization()
    person = await world.person(await world.user(roles={organization: "admin"}))
    answer = await world.http.post("/api/auth/app-login", json={"token": person.secret})
    body = answer.json()
    assert answer.status_code == 200
    assert body.pop("accessToken").count(".") == 2
    assert body == {
        "email": "ann@example.com",
        "expiresIn": 3600,
        "organizationsRoles": [{"id": organization, "name": "Acme", "role": "admin"}],
        "defaultOrganization": organization,
    }


async def test_who_is_a_member_of_nothing_can_log_in(world: World) -> None:
    person = await world.person(await world.user())
    body = (await world.http.post("/api/auth/app-login", json={"token": person.secret})).json()
    assert (body["organizationsRoles"], body["defaultOrganization"]) == ([], None)


UNKNOWN = {
    "head": "app_",
    "word": "x",
    "zeros": "app_" + "0" * 32 + "_" + "x" * 43,
    "ours": make().token,
    "jwt": "a.b.c",
}


@pytest.mark.parametrize("token", UNKNOWN.values(), ids=UNKNOWN.keys())
async def test_an_unknown_token_is_401(world: World, token: str) -> None:
    answer = await world.http.post("/api/auth/app-login", json={"token": token})
    assert said(answer) == (401, "unauthorized")
    assert token not in answer.text


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token":5}', b'{"token":""}', b'{"token":"\xff"}', b'{"t":"x"}']
)
async def test_a_login_that_cannot_be_meant_is_400(world: World, body: bytes) -> None:
    assert said(await world.http.post("/api/auth/app-login", content=body)) == (400, "invalid_request")


async def test_a_token_ends_with_its_app_password(world: World) -> None:
    user = await world.user()
    person = await world.person(user)
    token, other = await log_in(world, person), await world.person(user)
    assert (await token.get(BILLING)).status_code == 200
    (own,) = [found for found in (await token.get("/api/auth/app-passwords")).json()["appPasswords"] if used(found)]
    assert (await other.send("DELETE", f"/api/auth/app-passwords/{own['id']}")).status_code == 200
    assert said(await token.get(BILLING)) == (401, "unauthorized")
    assert said(await world.http.post("/api/auth/app-login", json={"token": person.secret})) == (401, "unauthorized")


def used(password: dict[str, Any]) -> bool:
    return password["lastUsedAt"] is not None


async def test_a_user_who_is_not_active_is_nobody(world: World) -> None:
    user = await world.user()
    person = await world.person(user)
    token = await log_in(world, person)
    await world.admin.send("PATCH", f"/v1/admin/users/{user['id']}", {"active": False})
    for caller in (person, token):
        assert said(await caller.get(BILLING)) == (401, "unauthorized")


async def test_own_app_passwords_are_made_listed_and_revoked(world: World) -> None:
    person = await world.person(await world.user())
    token = await log_in(world, person)
    made = await token.post("/api/auth/app-passwords", {"name": "ci", "expiresAt": "2999-01-01"}, idempotency_key="k")
    password = made.json()["appPassword"]
    secret = password.pop("token")
    assert made.status_code == 201
    again = await token.post("/api/auth/app-passwords", {"name": "ci", "expiresAt": "2999-01-01"}, idempotency_key="k")
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["appPassword"] == password
    assert password in (await token.get("/api/auth/app-passwords")).json()["appPasswords"]
    assert (await Caller(world.http, secret).get(BILLING)).status_code == 200
    gone = await token.send("DELETE", f"/api/auth/app-passwords/{password['id']}")
    assert gone.json()["appPassword"]["revokedAt"] is not None
    assert said(await Caller(world.http, secret).get(BILLING)) == (401, "unauthorized")


async def test_anothers_app_password_is_404(world: World) -> None:
    ann, bob = await world.person(await world.user()), await world.person(await world.user("bob@example.com"))
    (own,) = (await ann.get("/api/auth/app-passwords")).json()["appPasswords"]
    assert said(await bob.send("DELETE", f"/api/auth/app-passwords/{own['id']}")) == (404, "not_found")


# Telling ------------------------------------------------------------------------------------------------


async def test_a_use_is_priced_charged_and_linked(world: World) -> None:
    person, body = await told(world, markupPercent=20, creditsPerUsd=100)
    answer = await (await log_in(world, person)).post(PATH, body)
    assert answer.status_code == 201
    shown = exact(answer)
    usage_id = shown.pop("id")
    assert shown == {
        "serviceCost": Decimal("0.00125"),
        "billedCost": Decimal("0.0015"),
        "creditsCharged": Decimal("0.15"),
        "currency": "usd",
        "stripe": {"status": "disabled"},
    }
    record = exact(await world.admin.get(f"/v1/usage/{usage_id}"))["usageRecord"]
    assert record["attribution"] == {"service": "indexer", "channel": "external_api"}
    assert (record["kind"], record["endpoint"], str(record["creditsCharged"])) == ("ingested", "external.usage", "0.15")
    assert audit(world.ledger.database.url) == []


async def test_what_is_billed_is_queued_for_the_organizations_meter(world: World) -> None:
    person, body = await told(world, markupPercent=20, stripeCustomerId="cus_1")
    other = await world.organization("Without")
    database = Database(world.ledger.database.url, metered="external")
    world.ledger.service_usage, world.ledger.ingested = ServiceUsage(database), Ingested(database)
    try:
        first = await person.post(PATH, body, idempotency_key="k")
        again = await person.post(PATH, body, idempotency_key="k")
        without = await person.post(PATH, {**body, "organization_id": other})
        rows = await database.read(lambda conn: conn.exec_driver_sql("SELECT customer, amount FROM metered").fetchall())
    finally:
        await database.close()
    statuses = [answer.json()["stripe"]["status"] for answer in (first, again, without)]
    assert statuses == ["queued", "queued", "disabled"]
    assert [tuple(row) for row in rows] == [("cus_1", "0.0015")]


async def test_it_is_never_refused_for_lack_of_credits(world: World) -> None:
    person, body = await told(world)
    for _ in range(2):
        assert (await person.post(PATH, body)).status_code == 201
    organization = body["organization_id"]
    default = (await world.admin.get(f"/v1/admin/organizations/{organization}")).json()["organization"]
    balance = exact(
        await world.admin.get(
            "/v1/accounts/balance", accountId=default["defaultAccountId"], organizationId=organization
        )
    )
    assert (balance["balance"], balance["reserved"]) == (Decimal("-2.5"), 0)


async def test_counts_have_two_names(world: World) -> None:
    person, body = await told(world)
    counts = {"prompt_tokens": body.pop("input_tokens"), "completion_tokens": body.pop("output_tokens")}
    answer = await person.post(PATH, {**body, **counts})
    assert exact(answer)["serviceCost"] == Decimal("0.00125")


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "ann"},
        {"user_id": None},
        {"organization_id": "acme"},
        {"organization_id": 5},
        {"model_name": ""},
        {"service_name": ""},
        {"service_name": None},
        {"input_tokens": -1},
        {"input_tokens": 1.5},
        {"input_tokens": "1"},
        {"input_tokens": 10**18},
        {"input_tokens": None},
        {"prompt_tokens": 7},
        {"output_tokens": True},
        {"channel": ""},
        {"channel": "x" * 101},
        {"agent": "a"},
    ],
)
async def test_a_body_that_cannot_be_meant_is_400_and_names_the_field(world: World, change: dict[str, Any]) -> None:
    person, body = await told(world)
    answer = await person.post(PATH, {**body, **change})
    assert said(answer) == (400, "invalid_request")
    assert next(iter(change)).replace("prompt", "input").split("_")[0] in answer.json()["error"]


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b'{"user_id":"\xff"}', b'{"input_tokens": NaN}', b'{"a":1,"a":2}']
)
async def test_a_broken_body_is_400(world: World, raw: bytes) -> None:
    person, _ = await told(world)
    assert said(await person.send("POST", PATH, raw=raw)) == (400, "invalid_request")


async def test_the_checks_come_in_their_order(world: World) -> None:
    person, body = await told(world)
    wrong = {"user_id": str(uuid4()), "organization_id": str(uuid4()), "model_name": "nothing", "service_name": "none"}
    expected = ["unknown_service", "unknown_model", "unknown_organization", "unknown_user"]
    for code, name in zip(expected, ("service_name", "model_name", "organization_id", "user_id"), strict=True):
        assert said(await person.post(PATH, {**body, **wrong})) == (404, code)
        wrong[name] = body[name]
    assert (await person.post(PATH, {**body, **wrong})).status_code == 201


@pytest.mark.parametrize("role", ["admin", "member", "service"])
async def test_only_superadmins_tell(world: World, role: str) -> None:
    _, body = await told(world)
    user = await world.user("bob@example.com", roles={"org_bootstrap": role})
    assert said(await (await world.person(user)).post(PATH, {})) == (403, "forbidden")
    assert said(await (await log_in(world, await world.person(user))).post(PATH, body)) == (403, "forbidden")


async def test_a_membership_that_is_not_active_counts_for_nothing(world: World) -> None:
    person, body = await told(world)
    (membership,) = (await world.admin.get("/v1/admin/memberships")).json()["memberships"]
    await world.admin.send("PATCH", f"/v1/admin/memberships/{membership['id']}", {"active": False})
    assert said(await person.post(PATH, body)) == (403, "forbidden")


async def test_a_superadmin_of_the_installation_tells_of_any_organization(world: World) -> None:
    person, body = await told(world)
    other = await world.organization("Other")
    assert (await person.post(PATH, {**body, "organization_id": other})).status_code == 201


async def test_an_organizations_own_superadmin_knows_no_other(world: World) -> None:
    _, body = await told(world)
    acme = await world.organization("Tenant")
    caller = await world.key(acme, "admin")
    own = await world.user("own@example.com", by=caller, roles={acme: "superadmin"})
    person = await world.person(own, by=caller)
    assert said(await person.post(PATH, body)) == (404, "unknown_organization")
    mine = {**body, "user_id": own["id"], "organization_id": acme}
    assert (await person.post(PATH, mine)).status_code == 201
    other = await world.organization("Third")
    foreign = await world.user("third@example.com", by=await world.key(other, "admin"))
    assert said(await person.post(PATH, {**mine, "user_id": foreign["uuid"]})) == (404, "unknown_user")


async def test_an_organizations_own_service_tells_of_its_usage_only(world: World) -> None:
    person, body = await told(world)
    other = await world.organization("Other")
    await world.admin.post("/v1/admin/services", {"name": "private", "organizationId": other})
    assert said(await person.post(PATH, {**body, "service_name": "private"})) == (404, "unknown_service")
    own = {**body, "service_name": "private", "organization_id": other}
    assert (await person.post(PATH, own)).status_code == 201


async def test_a_repeat_of_its_key_charges_once(world: World) -> None:
    person, body = await told(world)
    first = await person.post(PATH, body, idempotency_key="once")
    again = await person.post(PATH, body, idempotency_key="once")
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    changed = await person.post(PATH, {**body, "input_tokens": 5}, idempotency_key="once")
    assert said(changed) == (409, "idempotency_mismatch")
    assert len((await person.get(BILLING)).json()["billingLogs"]) == 1


async def test_many_at_once_are_all_charged(world: World) -> None:
    person, body = await told(world)
    answers = await asyncio.gather(*(person.post(PATH, body) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {201}
    assert exact(await person.get(BILLING))["totalBilledCost"] == Decimal("0.0125")
    assert audit(world.ledger.database.url) == []


# Reading ------------------------------------------------------------------------------------------------


async def test_a_user_sees_what_was_told_of_them(world: World) -> None:
    person, body = await told(world, markupPercent=100)
    other = await world.user("bob@example.com")
    await person.post(PATH, body)
    await person.post(PATH, {**body, "user_id": other["id"], "input_tokens": 0})
    shown = exact(await person.get(BILLING, start_date="2026-01-01", end_date="2999-01-01"))
    (log,) = shown["billingLogs"]
    assert log.pop("createdAt")
    assert log == {
        "modelName": "gpt-5-mini",
        "promptTokens": 1000,
        "completionTokens": 500,
        "billedCost": Decimal("0.0025"),
        "serviceName": "indexer",
    }
    assert (shown["totalBilledCost"], shown["hasMore"]) == (Decimal("0.0025"), False)


async def test_a_span_without_use_is_empty(world: World) -> None:
    person, body = await told(world)
    await person.post(PATH, body)
    for span in ({"end_date": "2020-01-01"}, {"start_date": "2999-01-01"}):
        assert (await person.get(BILLING, **span)).json() == {
            "totalBilledCost": 0,
            "billingLogs": [],
            "hasMore": False,
        }


@pytest.mark.parametrize(
    "query", [{"start_date": "x"}, {"start_date": "2026-02-01", "end_date": "2026-01-01"}, {"limit": "0"}, {"who": "a"}]
)
async def test_a_wrong_span_is_400(world: World, query: dict[str, str]) -> None:
    person = await world.person(await world.user())
    assert said(await person.get(BILLING, **query)) == (400, "invalid_request")
