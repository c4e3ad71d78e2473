"""What is one organization's is nothing to another: every route of the table, with everything that can be named.

The victim has one of each thing. An attack is a request of another organization's key (with every scope), or of its
users, that names what is the victim's. Nothing of the victim may be in an answer that was not in the request, and
nothing of the victim may change, in the book or in Redis. A route without attacks fails the test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from tests.api.conftest import Caller, World

from faregate.api.endpoint import Rule
from faregate.api.routes import table
from faregate.auth.scopes import ALL_SCOPES
from faregate.core.call import bucket_of


@pytest.fixture
def kind() -> str:
    """SQLite's: whole tables are compared, as its own file has them."""
    return "sqlite"


KEY = "victim-idempotency-key"


def name_of(rule: Rule) -> str:
    return f"{rule.method} {rule.path}"


@dataclass
class Attack:
    """One request that names what is the victim's."""

    body: dict[str, Any] | None = None
    query: dict[str, str] = field(default_factory=dict)
    path: dict[str, str] = field(default_factory=dict)


@dataclass
class Victim:
    """An organization with one of each thing, all of them with telling names."""

    organization: dict[str, Any]
    key: Caller
    names: dict[str, str]
    marks: set[str]
    """Everything that names something of it."""


# The victim ---------------------------------------------------------------------------------------------


async def victim_of(world: World) -> Victim:
    made = await world.admin.post("/v1/admin/organizations", {"name": "victim-inc", "externalId": "victim-org"})
    organization = made.json()["organization"]
    key = await world.key(organization["id"], *ALL_SCOPES, name="victim-key-name")

    async def post(path: str, **body: Any) -> dict[str, Any]:
        answer = await key.post(path, body)
        assert answer.is_success, answer.text
        return dict(answer.json())

    account = {"name": "victim-ann", "externalId": "victim-ann", "email": "victim@example.com"}
    ann = (await key.post("/v1/accounts/create", account, idempotency_key=KEY)).json()["account"]["id"]
    added = await post("/v1/accounts/credits/add", accountId=ann, amount=1000, description="victim-credit")
    spent = await post("/v1/accounts/credits/deduct", accountId=ann, amount=1)
    kept = await post("/v1/reservations/create", accountId=ann, amount=5, reservationId="victim-reservation")
    plan = (await post("/v1/plans/create", name="victim-plan", amount=5, interval="month"))["plan"]["id"]
    await post("/v1/accounts/plans/assign", accountId=ann, planId=plan, startMode="now")
    used = await world.used(key, ann, attribution={"agent": "victim-agent", "tag.t": "victim-tag"})
    await world.used(key, ann)
    page = (await key.get("/v1/usage", limit=1)).json()
    price = await post("/v1/admin/prices", provider="*", model="victim-model", per_million={"input": 1, "output": 1})
    user = (await post("/v1/admin/users", email="victim-user@example.com"))["user"]
    member = await post("/v1/admin/memberships", userId=user["id"], role="superadmin")
    password = (await post(f"/v1/admin/users/{user['id']}/app-passwords", name="victim-password"))["appPassword"]
    service = (await post("/v1/admin/services", name="victim-service"))["service"]
    told = await Caller(world.http, password["token"]).post(
        "/api/billing/external-usage",
        {
            "user_id": user["id"],
            "organization_id": organization["id"],
            "model_name": "victim-model",
            "input_tokens": 5,
            "output_tokens": 5,
            "service_name": "victim-service",
        },
    )
    assert told.status_code == 201, told.text
    names = {
        "org": organization["id"],
        "org_uuid": organization["uuid"],
        "account": ann,
        "default": organization["defaultAccountId"],
        "credit": added["transactionId"],
        "debit": spent["transactionId"],
        "reservation": kept["reservation"]["id"],
        "plan": plan,
        "usage": page["usageRecords"][0]["id"],
        "request": used.request_id,
        "cursor": page["nextCursor"],
        "key": key.secret.split("_")[2],
        "price": price["price"]["id"],
        "user": user["id"],
        "user_uuid": user["uuid"],
        "membership": member["membership"]["id"],
        "password": password["id"],
        "service": service["id"],
        "hold": used.hold_id,
        "audit": (await key.get("/v1/admin/audit")).json()["audit"][0]["id"],
    }
    return Victim(organization, key, names, set(names.values()) - {page["nextCursor"]} | {"victim"})


def attacks(v: dict[str, str]) -> dict[str, list[Attack]]:
    """For each line of the route table: requests that name what is the victim's."""
    by_account = [{"accountId": v["account"]}, {"externalId": "victim-ann"}, {"accountId": "victim-ann"}]
    by_account += [{"accountId": v["default"]}]
    in_org = [{"organizationId": v["org"]}, {"organizationId": v["org_uuid"]}]
    accounts = [*by_account, *({**one, **other} for one in by_account[:2] for other in in_org)]
    lists = [{}, *in_org, {"organizationId": "victim-org"}, {"limit": "1000"}]
    bodies: dict[str, list[dict[str, Any]]] = {
        "POST /v1/accounts/create": [{"name": "x", **one} for one in [*in_org, {"externalId": "victim-ann"}]],
        "POST /v1/accounts/credits/add": [{"amount": 7, **one} for one in accounts],
        "POST /v1/accounts/credits/deduct": [{"amount": 7, **one} for one in accounts],
        "POST /v1/plans/create": [{"name": "x", "amount": 1, "interval": "month", **one} for one in in_org],
        "POST /v1/plans/archive": [{"planId": v["plan"], **one} for one in [{}, *in_org]],
        "POST /v1/plans/activate": [{"planId": v["plan"], **one} for one in [{}, *in_org]],
        "POST /v1/accounts/plans/assign": [
            *({"planId": v["plan"], "startMode": "now", **one} for one in accounts),
            {"planId": v["plan"], "startMode": "now", "externalId": "thief-account"},
        ],
        "POST /v1/transactions/create": [{"amount": 7, "type": "debit", **one} for one in accounts],
        "POST /v1/reservations/create": [
            *({"amount": 7, **one} for one in accounts),
            {"amount": 1, "externalId": "thief-account", "reservationId": "victim-reservation"},
            {"amount": 1, "externalId": "thief-account", "reservationId": v["reservation"]},
        ],
        "POST /v1/reservations/confirm": [
            {"reservationId": one, "actualAmount": 5} for one in ("victim-reservation", v["reservation"], v["hold"])
        ],
        "POST /v1/reservations/cancel": [{"reservationId": one} for one in ("victim-reservation", v["reservation"])],
        "POST /v1/reservations/extend": [{"reservationId": one} for one in ("victim-reservation", v["reservation"])],
        "POST /v1/usage/record": [
            *({**COUNTS, "context": "customer", "charge": True, **one} for one in accounts),
            *({**COUNTS, "context": "customer", "transactionId": v["debit"], **one} for one in accounts),
            {**COUNTS, "context": "customer", "transactionId": v["debit"], "externalId": "thief-account"},
            {**COUNTS, "context": "system", "modelId": "victim-model"},
        ],
        "POST /v1/models/calculate": [{"modelId": "victim-model", "inputTokens": 1, "outputTokens": 1}],
        "POST /usage/transactions": [
            {**ITEM, "idempotency_key": KEY, "context": {"billable_customer_id": one}}
            for one in (v["account"], "victim-ann", v["default"])
        ],
        "POST /api/usage/increment-agent-queries": [
            {"provider": "openai", "modelName": "gpt-4.1-mini", "inputTokens": 1, "outputTokens": 1, "agentId": one}
            for one in ("victim-agent", v["account"])
        ],
        "POST /api/auth/app-login": [{"token": one} for one in (v["password"], v["user"], "app_" + "0" * 76)],
        "POST /api/auth/app-passwords": [{"name": "x"}],
        "POST /api/billing/external-usage": [
            {**TOLD, "user_id": user, "organization_id": organization, "service_name": service}
            for user in (v["user"], v["user_uuid"], "thief-user")
            for organization in (v["org"], v["org_uuid"], "thief-organization")
            for service in ("victim-service", "thief-service")
            if (user, organization, service) != ("thief-user", "thief-organization", "thief-service")
        ],
        "POST /v1/admin/organizations": [{"name": "x", "externalId": "victim-org"}],
        "PATCH /v1/admin/organizations/{id}": [{"name": "taken"}],
        "POST /v1/admin/users": [{"email": "x@example.com", **one} for one in in_org]
        + [{"email": "victim-user@example.com"}],
        "PATCH /v1/admin/users/{id}": [{"email": "thief@example.com"}],
        "POST /v1/admin/users/{id}/app-passwords": [{}],
        "POST /v1/admin/memberships": [
            {"userId": user, "role": "admin", **one}
            for user in (v["user"], v["user_uuid"], "thief-user")
            for one in [{}, *in_org]
            if (user, one) != ("thief-user", {})
        ],
        "PATCH /v1/admin/memberships/{id}": [{"role": "member"}],
        "POST /v1/admin/services": [{"name": "x", **one} for one in in_org] + [{"name": "victim-service"}],
        "PATCH /v1/admin/services/{id}": [{"name": "thief"}],
        "POST /v1/admin/keys": [
            {"name": "x", "scopes": ["admin"], **one}
            for one in [*in_org, {"accountId": v["account"]}, {"accountId": "victim-ann"}]
        ],
        "PATCH /v1/admin/keys/{id}": [{"name": "taken"}, {"scopes": ["proxy"]}],
        "POST /v1/admin/keys/{id}/rotate": [{}],
        "POST /v1/admin/prices": [
            {"provider": "*", "model": "victim-model", "per_million": {"input": 9, "output": 9}, **one}
            for one in [{}, *in_org]
        ],
    }
    queries: dict[str, list[dict[str, str]]] = {
        "GET /v1/accounts": lists,
        "GET /v1/accounts/get": accounts,
        "GET /v1/accounts/balance": [*accounts, {**by_account[0], "at": "2026-01-01"}],
        "GET /v1/plans": lists,
        "GET /v1/accounts/plans": accounts,
        "GET /v1/transactions": [*lists, *accounts, {"include": "usage,reservation"}],
        "GET /v1/reservations": [*lists, *accounts, {"reservationId": "victim-reservation"}],
        "GET /v1/usage": [
            *lists,
            *accounts,
            {"cursor": v["cursor"]},
            {"key": v["key"]},
            {"agent": "victim-agent"},
            {"tag.t": "victim-tag"},
            {"summary": "true", "groupBy": "account"},
            {"summary": "true", "groupBy": "key"},
            {"summary": "true", "groupBy": "agent"},
            {"summary": "true", **in_org[0]},
        ],
        "GET /openapi.json": [{}],
        "GET /docs": [{}],
        "GET /v1/models": [{}, {"modelId": "victim-model"}],
        "GET /api/consumption-events": [{}, {"agentId": "victim-agent"}, {"model": "victim-model"}],
        "GET /api/consumption-events/summary": [
            {"startDate": "2020-01-01", "endDate": "2999-01-01", "groupBy": one} for one in ("agent", "model", "day")
        ],
        "GET /api/auth/app-passwords": [{}, {"cursor": v["password"]}, {"cursor": "apw_0"}],
        "GET /api/billing/user": [{}, {"start_date": "2020-01-01"}],
        "GET /v1/admin/organizations": [*lists, {"cursor": "org_0"}],
        "GET /v1/admin/users": [*lists, {"cursor": "usr_0"}, {"cursor": v["user"]}],
        "GET /v1/admin/memberships": [*lists, {"cursor": "mem_0"}],
        "GET /v1/admin/services": [*lists, {"cursor": "svc_0"}],
        "GET /v1/admin/keys": [*lists, {"cursor": "0"}],
        "GET /v1/admin/prices": [*lists, {"cursor": "price_0"}],
        "GET /v1/admin/audit": [*lists, {"cursor": v["audit"] + "0"}],
        "GET /v1/admin/holds": [*lists, {"cursor": "0"}],
        "GET /health/live": [{}],
        "GET /health/ready": [{}],
        "GET /metrics": [{}],
    }
    organization = [{"id": one} for one in (v["org"], v["org_uuid"], "victim-org")]
    user = [{"id": one} for one in (v["user"], v["user_uuid"])]
    password = [{"id": one, "passwordId": v["password"]} for one in (v["user"], v["user_uuid"], "thief-user")]
    paths: dict[str, list[dict[str, str]]] = {
        "/v1/usage/{id}": [{"id": one} for one in (v["usage"], v["request"], v["hold"])],
        "/v1/models/{id:path}": [{"id:path": "victim-model"}, {"id:path": "my-llm/victim-model"}],
        "/api/auth/app-passwords/{id}": [{"id": v["password"]}],
        "/v1/admin/organizations/{id}": organization,
        "/v1/admin/users/{id}": user,
        "/v1/admin/users/{id}/app-passwords": user,
        "/v1/admin/users/{id}/app-passwords/{passwordId}": password,
        "/v1/admin/memberships/{id}": [{"id": v["membership"]}],
        "/v1/admin/services/{id}": [{"id": v["service"]}],
        "/v1/admin/keys/{id}": [{"id": v["key"]}],
        "/v1/admin/keys/{id}/rotate": [{"id": v["key"]}],
        "/v1/admin/prices/{id}": [{"id": v["price"]}],
    }
    known = {*bodies, *queries, *(name_of(rule) for rule in table() if rule.path in paths)}
    return {
        name: [
            Attack(body, query, path)
            for body in bodies.get(name, [None])
            for query in queries.get(name, [{}])
            for path in paths.get(name.partition(" ")[2], [{}])
        ]
        for name in known
    }


COUNTS = {"modelId": "gpt-4.1-mini", "usageType": "text", "inputTokens": 5, "outputTokens": 5}
TOLD = {"model_name": "gpt-4.1-mini", "input_tokens": 5, "output_tokens": 5}
ITEM = {
    "provider": "openai",
    "model": "gpt-4.1-mini",
    "usage": [{"type": "tokens", "metrics": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}}],
}


# The thieves --------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """A world with a victim in it, and those who would like to be it."""

    world: World
    victim: Victim
    key: Caller
    people: list[Caller]
    own: dict[str, str]
    """What stands for the thief's own things in an attack."""

    def callers(self, rule: Rule) -> list[Caller]:
        """Who may try: its key where keys are asked for, its users where users are."""
        return [self.key, *self.people] if rule.scopes else self.people

    async def state(self) -> tuple[list[str], dict[str, str]]:
        """Everything of the victim's: the rows of the book that name it, and its account in Redis."""

        def rows(conn: Any) -> list[str]:
            tables = [name for (name,) in conn.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return [
                f"{table} {dict(row)}"
                for table in tables
                for row in conn.exec_driver_sql(f"SELECT * FROM {table}").mappings()
                if self._is_the_victims(row)
            ]

        lines = await self.world.ledger.database.read(rows)
        names = self.victim.names
        return sorted(lines), await self.world.gate.account(bucket_of(names["org"]), names["account"])

    def _is_the_victims(self, row: Mapping[str, object]) -> bool:
        """It names something of the victim; but anybody may call an account or a tag of their own as they like."""
        free = ("external_id", "name", "value")
        return any(value in self.victim.marks for name, value in row.items() if name not in free)

    def ours(self, value: Any) -> Any:
        """A part of an attack with the thief's own things filled in."""
        if isinstance(value, dict):
            return {name: self.ours(inner) for name, inner in value.items()}
        return self.own.get(value, value) if isinstance(value, str) else value

    async def send(self, caller: Caller, rule: Rule, attack: Attack) -> tuple[httpx.Response, str]:
        """The answer, and everything that was said in the request."""
        path = rule.path
        for name, value in self.ours(attack.path).items():
            path = path.replace(f"{{{name}}}", value)
        body, query = self.ours(attack.body), self.ours(attack.query)
        headers = {"idempotency-key": KEY} if rule.method == "POST" else {}
        answer = await caller.send(rule.method, path, body, headers=headers, **query)
        return answer, f"{path} {body} {query} {KEY}"


@pytest.fixture
async def scene(world: World) -> Scene:
    victim = await victim_of(world)
    organization = await world.organization("thief")
    key = await world.key(organization, *ALL_SCOPES)
    await key.post("/v1/accounts/create", {"name": "thief", "externalId": "thief-account"})
    await key.post("/v1/accounts/credits/add", {"externalId": "thief-account", "amount": 1000})
    await key.post("/v1/admin/services", {"name": "thief-service"})
    own = await world.user("own@example.com", by=key, roles={organization: "superadmin"})
    member = await world.user("member@example.com", roles={organization: "admin"})
    people = [await world.person(own, by=key), await world.person(member)]
    for person in list(people):
        login = await world.http.post("/api/auth/app-login", json={"token": person.secret})
        people.append(Caller(world.http, login.json()["accessToken"]))
    own_names = {"thief-user": own["id"], "thief-organization": organization}
    return Scene(world, victim, key, people, own_names)


def leaked(answer: httpx.Response, said: str, marks: set[str]) -> set[str]:
    """What names something of the victim, in an answer that was not asked with it."""
    text = answer.text + str(answer.headers)
    found = {mark for mark in marks - {"victim"} if mark in text and mark not in said}
    return found | {word for word in re.findall(r"victim[\w@.-]*", text) if word not in said}


def test_every_route_is_attacked() -> None:
    example = {name: name for name in _NAMES}
    assert {name_of(rule) for rule in table()} == set(attacks(example))
    assert all(attacks(example).values())


_NAMES = (
    *("org", "org_uuid", "account", "default", "credit", "debit", "reservation", "plan", "usage", "request", "cursor"),
    *("key", "price", "user", "user_uuid", "membership", "password", "service", "hold", "audit"),
)


@pytest.mark.parametrize("rule", table(), ids=name_of)
async def test_nothing_of_another_organization_is_seen_charged_or_named(scene: Scene, rule: Rule) -> None:
    before = await scene.state()
    for attack in attacks(scene.victim.names)[name_of(rule)]:
        for caller in scene.callers(rule):
            answer, said = await scene.send(caller, rule, attack)
            assert answer.status_code < 500, answer.text
            assert leaked(answer, said, scene.victim.marks) == set(), (said, answer.text)
    assert await scene.state() == before


@pytest.mark.parametrize(
    "rule", [rule for rule in table() if "{" in rule.path and "models" not in rule.path], ids=name_of
)
async def test_what_is_anothers_sounds_like_what_is_not_there(scene: Scene, rule: Rule) -> None:
    for attack in attacks(scene.victim.names)[name_of(rule)]:
        for caller in [scene.key] if rule.scopes else scene.people:
            answer, _ = await scene.send(caller, rule, attack)
            nothing = Attack(attack.body, attack.query, {name: _like(value) for name, value in attack.path.items()})
            absent, _ = await scene.send(caller, rule, nothing)
            assert answer.status_code in (403, 404)
            assert (answer.status_code, answer.content) == (absent.status_code, absent.content)


def _like(value: str) -> str:
    """A name of the same form that nobody has."""
    return re.sub(r"[0-9a-f]{12}$", "0" * 12, value) if value != "thief-user" else value


async def test_the_victim_itself_sees_what_is_its_own(scene: Scene) -> None:
    v, seen = scene.victim.names, scene.victim.key
    for path in (
        f"/v1/accounts/get?accountId={v['account']}",
        f"/v1/usage/{v['request']}",
        f"/v1/admin/organizations/{v['org_uuid']}",
        f"/v1/admin/users/{v['user_uuid']}/app-passwords/{v['password']}",
        f"/v1/admin/memberships/{v['membership']}",
        f"/v1/admin/services/{v['service']}",
        f"/v1/admin/keys/{v['key']}",
        f"/v1/admin/prices/{v['price']}",
    ):
        assert (await seen.get(path)).status_code == 200, path
