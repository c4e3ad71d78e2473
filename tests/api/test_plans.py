from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.api.conftest import Caller, World, code, exact

from faregate.api.fields import parse_moment
from faregate.core.call import bucket_of

DAY = 86_400_000_000
GOLD = {"name": "gold", "amount": "2.5", "interval": "month", "accumulate": False, "markAsActive": True}


async def _plan(caller: Caller, **changes: object) -> Any:
    answer = await caller.post("/v1/plans/create", {**GOLD, **changes})
    assert answer.status_code == 200, answer.text
    return answer.json()["plan"]


async def _balance(caller: Caller, account_id: str) -> Any:
    return (await caller.get("/v1/accounts/balance", accountId=account_id)).json()["balance"]


async def test_a_plan_is_made_and_listed(world: World) -> None:
    caller, _ = await world.tenant()
    made = exact(await caller.post("/v1/plans/create", {**GOLD, "occurrences": 12}))
    plan = made["plan"]
    assert made["success"] is True
    assert plan["id"].startswith("plan_")
    assert {name: str(plan[name]) for name in ("name", "credits", "interval", "isActive")} == {
        "name": "gold",
        "credits": "2.5",
        "interval": "month",
        "isActive": "True",
    }
    assert (plan["occurrences"], plan["accumulate"]) == (12, False)
    listed = exact(await caller.get("/v1/plans"))
    assert listed["plans"] == [plan]
    assert listed["pagination"]["totalCount"] == 1


async def test_what_is_left_out_has_a_default(world: World) -> None:
    caller, _ = await world.tenant()
    plan = (await caller.post("/v1/plans/create", {"name": "p", "amount": 1, "interval": "1d"})).json()["plan"]
    assert (plan["occurrences"], plan["accumulate"], plan["isActive"]) == (None, False, True)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"amount": 0}, "amount"),
        ({"amount": -1}, "amount"),
        ({"amount": "NaN"}, "amount"),
        ({"amount": "1e300"}, "amount"),
        ({"amount": "0.0000001"}, "amount"),
        ({"amount": None}, "amount"),
        ({"interval": "day"}, "interval"),
        ({"interval": None}, "interval"),
        ({"occurrences": 0}, "occurrences"),
        ({"occurrences": 1.5}, "occurrences"),
        ({"occurrences": 10_001}, "occurrences"),
        ({"accumulate": "yes"}, "accumulate"),
        ({"markAsActive": 1}, "markAsActive"),
        ({"name": ""}, "name"),
        ({"more": 1}, "more"),
    ],
)
async def test_a_wrong_plan_is_400_and_names_the_field(world: World, change: dict[str, object], param: str) -> None:
    caller, _ = await world.tenant()
    answer = await caller.post("/v1/plans/create", {**GOLD, **change})
    assert code(answer) == (400, "invalid_request")
    assert answer.json()["error"]["param"] == param
    assert (await caller.get("/v1/plans")).json()["plans"] == []


@pytest.mark.parametrize("missing", ["name", "amount", "interval"])
async def test_a_plan_without_what_it_needs_is_400(world: World, missing: str) -> None:
    caller, _ = await world.tenant()
    body = {name: value for name, value in GOLD.items() if name != missing}
    answer = await caller.post("/v1/plans/create", body)
    assert (code(answer), answer.json()["error"]["param"]) == ((400, "invalid_request"), missing)


async def test_assigned_now_the_credits_are_there_at_once(world: World) -> None:
    caller, account_id = await world.tenant("1")
    plan = await _plan(caller, occurrences=2)
    answer = await caller.post("/v1/accounts/plans/assign", {"externalId": "ann", "planId": plan["id"]})
    (assigned,) = answer.json()["plans"]
    assert (answer.status_code, assigned["accountId"], assigned["planId"]) == (200, account_id, plan["id"])
    assert (assigned["active"], assigned["plan"]) == (True, plan)
    start, end = (parse_moment(assigned[name], name) for name in ("startedAt", "expiresAt"))
    assert 59 * DAY <= end - start <= 62 * DAY
    assert await _balance(caller, account_id) == 3.5
    spent = await caller.post("/v1/accounts/credits/deduct", {"accountId": account_id, "amount": 3})
    assert (spent.status_code, spent.json()["balance"]) == (200, 0.5)
    assert (await caller.get("/v1/accounts/plans", accountId=account_id)).json()["plans"] == [assigned]
    assert await world.ledger.audit() == []


async def test_assigned_for_the_next_interval_they_come_with_the_calendar(world: World) -> None:
    caller, account_id = await world.tenant()
    plan = await _plan(caller, interval="1d")
    body = {"accountId": account_id, "planId": plan["id"], "startMode": "next_interval"}
    (assigned,) = (await caller.post("/v1/accounts/plans/assign", body)).json()["plans"]
    assert (assigned["active"], assigned["expiresAt"]) == (True, None)
    assert assigned["startedAt"].endswith("T00:00:00.000000Z")
    assert await _balance(caller, account_id) == 0


async def test_the_gate_learns_of_the_next_period_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis asks when its copy is no longer fresh: nobody has told it that the next period has begun."""
    caller, account_id = await world.tenant()
    plan = await _plan(caller, interval="1d", amount=3)
    deduct = {"accountId": account_id, "amount": 2}
    with monkeypatch.context() as patch:  # so that the next period begins in a moment
        begin_us = world.services.clock.now_us() - DAY + 700_000
        patch.setattr(world.ledger.database, "now_us", lambda: begin_us)
        await caller.post("/v1/accounts/plans/assign", {"accountId": account_id, "planId": plan["id"]})
    assert (await caller.post("/v1/accounts/credits/deduct", deduct)).json()["balance"] == 1
    assert code(await caller.post("/v1/accounts/credits/deduct", deduct)) == (402, "insufficient_credits")
    await asyncio.sleep(1.2)
    spent = await caller.post("/v1/accounts/credits/deduct", deduct)
    assert (spent.status_code, spent.json()["balance"]) == (200, 1)
    reasons = [item["reason"] for item in (await caller.get("/v1/transactions", accountId=account_id)).json()["items"]]
    assert reasons == ["debit", "grant", "expiry", "debit", "grant"]
    organization = (await caller.get("/v1/accounts/get", accountId=account_id)).json()["account"]["organizationId"]
    seen = await world.gate.account(bucket_of(organization), account_id)
    assert (seen["posted"], seen["held"]) == ("1000000", "0")


async def test_an_account_that_is_looked_at_shows_what_has_come(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    caller, account_id = await world.tenant()
    plan = await _plan(caller, interval="week", accumulate=True)
    await caller.post("/v1/accounts/plans/assign", {"accountId": account_id, "planId": plan["id"]})
    late_us = world.services.clock.now_us() + 15 * DAY
    monkeypatch.setattr(world.ledger.database, "now_us", lambda: late_us)
    assert (await caller.get("/v1/accounts/get", accountId=account_id)).json()["account"]["balance"] == 7.5


async def test_assigning_replaces(world: World) -> None:
    caller, account_id = await world.tenant()
    gold, silver = await _plan(caller), await _plan(caller, name="silver", amount=1)
    for plan in (gold, silver):
        await caller.post("/v1/accounts/plans/assign", {"accountId": account_id, "planId": plan["id"]})
    plans = (await caller.get("/v1/accounts/plans", externalId="ann")).json()["plans"]
    assert [(each["planId"], each["active"]) for each in plans] == [(silver["id"], True), (gold["id"], False)]
    assert await _balance(caller, account_id) == 3.5


async def test_an_archived_plan_is_not_assigned_until_it_is_active_again(world: World) -> None:
    caller, account_id = await world.tenant()
    plan = await _plan(caller)
    body = {"accountId": account_id, "planId": plan["id"]}
    for _ in range(2):
        archived = await caller.post("/v1/plans/archive", {"planId": plan["id"]})
        assert (archived.status_code, archived.json()["plan"]["isActive"]) == (200, False)
    assert code(await caller.post("/v1/accounts/plans/assign", body)) == (409, "conflict")
    assert (await caller.post("/v1/plans/activate", {"planId": plan["id"]})).json()["plan"]["isActive"] is True
    assert (await caller.post("/v1/accounts/plans/assign", body)).status_code == 200


async def test_a_plan_that_is_not_marked_active_is_not_assigned(world: World) -> None:
    caller, account_id = await world.tenant()
    plan = await _plan(caller, markAsActive=False)
    assert plan["isActive"] is False
    body = {"accountId": account_id, "planId": plan["id"]}
    assert code(await caller.post("/v1/accounts/plans/assign", body)) == (409, "conflict")


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"planId": "plan_none"}, (404, "not_found")),
        ({"accountId": "acc_none"}, (404, "not_found")),
        ({"accountId": None}, (400, "invalid_request")),
        ({"planId": None}, (400, "invalid_request")),
        ({"startMode": "later"}, (400, "invalid_request")),
    ],
)
async def test_an_assignment_that_cannot_be_meant(
    world: World, change: dict[str, object], answer: tuple[int, str]
) -> None:
    caller, account_id = await world.tenant()
    plan = await _plan(caller)
    body = {"accountId": account_id, "planId": plan["id"], **change}
    assert code(await caller.post("/v1/accounts/plans/assign", body)) == answer
    assert (await caller.get("/v1/accounts/plans", accountId=account_id)).json()["plans"] == []


async def test_another_organization_s_plans_and_accounts_do_not_exist(world: World) -> None:
    (ann, of_ann), (bob, of_bob) = await world.tenant(), await world.tenant()
    hers, his = await _plan(ann), await _plan(bob)
    assert [plan["id"] for plan in (await bob.get("/v1/plans")).json()["plans"]] == [his["id"]]
    for account_id, plan in ((of_bob, hers), (of_ann, his)):
        body = {"accountId": account_id, "planId": plan["id"]}
        assert code(await bob.post("/v1/accounts/plans/assign", body)) == (404, "not_found")
    assert code(await bob.post("/v1/plans/archive", {"planId": hers["id"]})) == (404, "not_found")
    assert code(await bob.get("/v1/accounts/plans", accountId=of_ann)) == (404, "not_found")


async def test_repeats_with_a_key_do_nothing_twice(world: World) -> None:
    caller, account_id = await world.tenant()
    made = [await caller.post("/v1/plans/create", GOLD, idempotency_key="p") for _ in range(2)]
    assert made[0].json() == made[1].json()
    body = {"accountId": account_id, "planId": made[0].json()["plan"]["id"]}
    given = [await caller.post("/v1/accounts/plans/assign", body, idempotency_key="a") for _ in range(2)]
    assert given[0].json() == given[1].json()
    assert given[1].headers["idempotent-replayed"] == "true"
    assert await _balance(caller, account_id) == 2.5
    closed = [await caller.post("/v1/plans/archive", {"planId": body["planId"]}, idempotency_key="c") for _ in range(2)]
    assert closed[0].json() == closed[1].json()


async def test_a_bound_key_and_a_test_key_do_not_make_plans_or_credits(world: World) -> None:
    caller, account_id = await world.tenant()
    plan = await _plan(caller)
    organization = (await caller.get("/v1/accounts/get", externalId="ann")).json()["account"]["organizationId"]
    bound = await world.key(organization, "credits:write", accountId=account_id)
    for path, body in (("create", GOLD), ("archive", {"planId": plan["id"]}), ("activate", {"planId": plan["id"]})):
        assert code(await bound.post(f"/v1/plans/{path}", body)) == (403, "permission_denied")
    test = await world.key(organization, "credits:write", test=True)
    body = {"accountId": account_id, "planId": plan["id"]}
    assert code(await test.post("/v1/accounts/plans/assign", body)) == (403, "permission_denied")
