from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from tests.api.conftest import ADMIN, Caller, World, code

from faregate.api import admin_keys, idempotency
from faregate.api.endpoint import Endpoint, Rule
from faregate.api.http import Reply, Request, created
from faregate.api.routes import table
from faregate.api.services import Services
from faregate.errors import BookUnavailable, InvalidRequest

POSTS = [rule for rule in table() if rule.method == "POST" and rule.scopes]
NEW = {"name": "Eve", "externalId": "eve"}


@dataclass
class Handler:
    """Counts its calls; each answer says which it was."""

    calls: int = 0
    refuse: bool = False
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    wait: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, services: Services, request: Request) -> Reply:
        self.calls += 1
        self.begun.set()
        await self.wait.wait()
        if self.refuse:
            raise InvalidRequest("no")
        return created(call=self.calls, secret="s3cret", key={"id": 7, "token": "s3cret", "more": {"token": "kept"}})


def _caller(world: World, rule: Rule, handler: Handler) -> tuple[Caller, str]:
    """The route with another handler behind it, and its path."""
    endpoint: Any = Endpoint(rule.path, {"POST": Rule("POST", rule.path, rule.scopes, handler)}, world.services)
    transport = httpx.ASGITransport(Starlette(routes=[Route(rule.path, endpoint)]))
    http = httpx.AsyncClient(transport=transport, base_url="http://faregate.test")
    return Caller(http, ADMIN), rule.path.replace("{id:path}", "x/y").replace("{id}", "x")


@pytest.fixture
def handler() -> Handler:
    made = Handler()
    made.wait.set()
    return made


@pytest.mark.parametrize("rule", POSTS, ids=lambda rule: rule.path)
async def test_every_post_of_the_table_answers_a_repeat_with_the_first_answer(
    world: World, rule: Rule, handler: Handler
) -> None:
    caller, path = _caller(world, rule, handler)
    first = await caller.post(path, {"a": 1, "b": 2}, idempotency_key="k")
    again = await caller.send("POST", path, raw=b' {"b":2,"a":1}', headers={"idempotency-key": "k"})
    assert (first.status_code, first.json()["secret"]) == (201, "s3cret")
    assert "idempotent-replayed" not in first.headers
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json() == {"success": True, "call": 1, "key": {"id": 7, "more": {"token": "kept"}}}
    assert handler.calls == 1


@pytest.mark.parametrize("pad", [0, 1 << 17])
async def test_a_large_body_counts_byte_for_byte(world: World, handler: Handler, pad: int) -> None:
    caller, path = _caller(world, POSTS[0], handler)
    bodies = [b'{"a":1,"b":"%s"}' % (b"x" * pad), b'{"b":"%s","a":1}' % (b"x" * pad)]
    first, same, other = [
        await caller.send("POST", path, raw=bodies[n], headers={"idempotency-key": "k"}) for n in (0, 0, 1)
    ]
    assert (first.status_code, same.headers["idempotent-replayed"]) == (201, "true")
    assert other.status_code == (409 if pad else 201)


async def test_without_a_key_every_request_runs(world: World, handler: Handler) -> None:
    caller, path = _caller(world, POSTS[0], handler)
    answers = [await caller.post(path, {}) for _ in range(2)]
    assert [answer.json()["call"] for answer in answers] == [1, 2]


@pytest.mark.parametrize("key", ["", "k" * 256, "tab\there", "\x7f"])
async def test_a_key_that_is_none_is_400(world: World, handler: Handler, key: str) -> None:
    caller, path = _caller(world, POSTS[0], handler)
    answer = await caller.post(path, {}, idempotency_key=key)
    assert code(answer) == (400, "invalid_request")
    assert answer.json()["error"]["param"] == "Idempotency-Key"
    assert handler.calls == 0


async def test_a_refusal_is_not_remembered(world: World, handler: Handler) -> None:
    caller, path = _caller(world, POSTS[0], handler)
    handler.refuse = True
    assert (await caller.post(path, {}, idempotency_key="k")).status_code == 400
    handler.refuse = False
    answer = await caller.post(path, {"other": 1}, idempotency_key="k" * 255)
    assert (answer.status_code, (await caller.post(path, {"now": 1}, idempotency_key="k")).status_code) == (201, 201)


async def test_while_the_first_runs_a_second_is_told_so(world: World) -> None:
    handler = Handler()
    caller, path = _caller(world, POSTS[0], handler)
    first = asyncio.create_task(caller.post(path, {}, idempotency_key="k"))
    await handler.begun.wait()
    second = await caller.post(path, {}, idempotency_key="k")
    assert (code(second), second.headers["retry-after"]) == ((409, "in_progress"), "1")
    assert code(await caller.post(path, {"b": 1}, idempotency_key="k")) == (409, "idempotency_mismatch")
    handler.wait.set()
    assert (await first).status_code == 201
    assert (await caller.post(path, {}, idempotency_key="k")).headers["idempotent-replayed"] == "true"


async def test_a_key_is_of_one_request_of_one_organization(world: World) -> None:
    (ann, _), (bob, _) = await world.tenant(), await world.tenant()
    first = await ann.post("/v1/accounts/create", NEW, idempotency_key="k")
    assert code(await ann.post("/v1/plans/create", NEW, idempotency_key="k")) in [
        (409, "idempotency_mismatch"),
        (404, "not_found"),
    ]
    assert code(await ann.post("/v1/accounts/credits/add", NEW, idempotency_key="k")) == (409, "idempotency_mismatch")
    other = await bob.post("/v1/accounts/create", NEW, idempotency_key="k")
    assert other.status_code == first.status_code == 200
    assert other.json()["account"]["id"] != first.json()["account"]["id"]


async def test_a_key_bound_to_an_account_gets_no_other_s_answer(world: World) -> None:
    caller, account_id = await world.tenant("5")
    organization = (await caller.get("/v1/accounts/get", externalId="ann")).json()["account"]["organizationId"]
    eve = (await caller.post("/v1/accounts/create", NEW)).json()["account"]["id"]
    bound = await world.key(organization, "credits:write", accountId=eve)
    body = {"accountId": account_id, "amount": 1}
    assert (await caller.post("/v1/accounts/credits/deduct", body, idempotency_key="k")).status_code == 200
    assert code(await bound.post("/v1/accounts/credits/deduct", body, idempotency_key="k")) == (
        409,
        "idempotency_mismatch",
    )


async def test_after_a_crash_before_the_answer_the_repeat_finds_the_effects(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost, and never kept: everything after the handler's transactions is as if it had not been."""

    async def dies(*_: object) -> None:
        raise BookUnavailable("killed")

    monkeypatch.setattr(world.ledger.idempotency, "complete", dies)
    body = {"name": "k", "scopes": ["proxy"]}
    first = await world.admin.post("/v1/admin/keys", body, idempotency_key="k")
    again = await world.admin.post("/v1/admin/keys", body, idempotency_key="k")
    assert again.json() == {"success": True, "key": first.json()["key"]}
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert len((await world.admin.get("/v1/admin/keys")).json()["keys"]) == 2
    assert [event["what"] for event in (await world.admin.get("/v1/admin/audit")).json()["audit"]] == ["keys.create"]
    other = await world.admin.post("/v1/admin/keys", {**body, "name": "l"}, idempotency_key="k")
    assert code(other) == (409, "idempotency_mismatch")


async def test_a_crash_in_the_middle_is_gone_on_from(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(**_: object) -> None:
        raise RuntimeError("killed")

    body = {"name": "k", "scopes": ["proxy"]}
    with monkeypatch.context() as patch:
        patch.setattr(admin_keys, "created", dies)
        assert code(await world.admin.post("/v1/admin/keys", body, idempotency_key="k"))[0] == 500
    again = await world.admin.post("/v1/admin/keys", body, idempotency_key="k")
    assert (again.status_code, "secret" in again.json()) == (201, False)
    assert len((await world.admin.get("/v1/admin/keys")).json()["keys"]) == 2
    assert [event["what"] for event in (await world.admin.get("/v1/admin/audit")).json()["audit"]] == ["keys.create"]


@pytest.mark.parametrize("way", ["add", "deduct"])
async def test_credits_move_once_whatever_is_lost(world: World, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    caller, account_id = await world.tenant("50")
    with monkeypatch.context() as patch:
        patch.setattr(idempotency, "_complete", _nothing)
        first = await caller.post(
            f"/v1/accounts/credits/{way}", {"accountId": account_id, "amount": 3}, idempotency_key="k"
        )
    answers = [
        await caller.post(f"/v1/accounts/credits/{way}", {"accountId": account_id, "amount": 3}, idempotency_key="k")
        for _ in range(2)
    ]
    assert {answer.headers["idempotent-replayed"] for answer in answers} == {"true"}
    assert {answer.text for answer in answers} == {first.text}
    assert await world.ledger.audit() == []


async def _nothing(*_: object) -> None:
    pass


async def test_after_a_day_a_key_is_free_and_its_row_is_deleted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    caller, account_id = await world.tenant("50")
    body = {"accountId": account_id, "amount": 3}
    now_us = world.services.clock.now_us()
    for _ in range(2):
        await caller.post("/v1/accounts/credits/deduct", body, idempotency_key="k")
    monkeypatch.setattr(world.ledger.database, "now_us", lambda: now_us + 25 * 3_600_000_000)
    late = await caller.post("/v1/accounts/credits/deduct", {**body, "amount": 4}, idempotency_key="k")
    assert (late.status_code, late.json()["balance"]) == (200, 43)
    assert await world.ledger.idempotency.purge() == 0
    monkeypatch.setattr(world.ledger.database, "now_us", lambda: now_us + 50 * 3_600_000_000)
    assert [await world.ledger.idempotency.purge(), await world.ledger.idempotency.purge()] == [1, 0]


async def test_while_the_book_is_away_nothing_is_done(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise BookUnavailable("down")

    handler = Handler()
    handler.wait.set()
    monkeypatch.setattr(world.ledger.idempotency, "find", away)
    caller, path = _caller(world, POSTS[0], handler)
    assert code(await caller.post(path, {}, idempotency_key="k")) == (503, "store_unavailable")
    assert handler.calls == 0
