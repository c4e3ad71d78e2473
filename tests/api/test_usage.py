from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from tests.api.conftest import World, code, exact


async def test_records_have_the_contract_s_fields(world: World) -> None:
    caller, account_id = await world.tenant("5")
    record = await world.used(caller, account_id, attribution={"agent": "a1", "tag.team": "red"})
    (shown,) = exact(await caller.get("/v1/usage"))["usageRecords"]
    assert shown["id"].startswith("usage_")
    wanted = {
        "context": "customer",
        "accountId": account_id,
        "provider": "my-llm",
        "modelId": "small",
        "publicModel": "fast",
        "usageType": "text",
        "inputTokens": 7,
        "cachedTokens": 1,
        "outputTokens": 2,
        "reasoningTokens": None,
        "estimatedCostUsd": Decimal("0.0000015"),
        "creditsCharged": Decimal("0.0015"),
        "requestId": record.request_id,
        "estimated": False,
    }
    assert {name: shown[name] for name in wanted} == wanted


async def test_the_cursor_walks_all_of_them_once(world: World) -> None:
    caller, account_id = await world.tenant("5")
    made = {(await world.used(caller, account_id)).request_id for _ in range(7)}
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        body = (await caller.get("/v1/usage", limit=3, **cursor)).json()
        seen += [record["requestId"] for record in body["usageRecords"]]
        if body["nextCursor"] is None:
            break
        cursor = {"cursor": body["nextCursor"]}
    assert len(seen) == 7
    assert set(seen) == made


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"modelId": "fast"}, 2),
        ({"modelId": "small"}, 2),
        ({"modelId": "huge"}, 0),
        ({"agent": "a1"}, 1),
        ({"tag.team": "red"}, 1),
        ({"tag.team": "blue"}, 0),
        ({"provider": "my-llm", "context": "customer"}, 2),
        ({"context": "system"}, 0),
        ({"externalId": "ann"}, 2),
        ({"startDate": "2090-01-01"}, 0),
    ],
)
async def test_filters(world: World, query: dict[str, str], count: int) -> None:
    caller, account_id = await world.tenant("5")
    await world.used(caller, account_id, attribution={"agent": "a1", "tag.team": "red"})
    await world.used(caller, account_id)
    assert len((await caller.get("/v1/usage", **query)).json()["usageRecords"]) == count


async def test_a_summary_adds_up(world: World) -> None:
    caller, account_id = await world.tenant("5")
    for charge in (1_000, 500):
        await world.used(caller, account_id, charge_microcredits=charge, cost_usd=Decimal(charge).scaleb(-9))
    summary = exact(await caller.get("/v1/usage", summary="true", groupBy="agent"))["summary"]
    assert summary["totalCredits"] == Decimal("0.0015")
    assert summary["totalCostUsd"] == Decimal("0.0000015")
    assert (summary["totalInputTokens"], summary["totalOutputTokens"], summary["count"]) == (14, 4, 2)
    assert summary["byContext"] == {"customer": Decimal("0.0000015"), "system": 0}
    assert summary["byModel"] == {"small": {"costUsd": Decimal("0.0000015"), "count": 2}}
    assert [(group["groupKey"], group["count"]) for group in summary["groups"]] == [("", 2)]


@pytest.mark.parametrize("group", ["model", "context", "account", "feature", "provider", "key", "day", "week", "month"])
async def test_every_grouping(world: World, group: str) -> None:
    caller, account_id = await world.tenant("5")
    await world.used(caller, account_id)
    groups = (await caller.get("/v1/usage", summary="true", groupBy=group)).json()["summary"]["groups"]
    assert [found["count"] for found in groups] == [1]


@pytest.mark.parametrize(
    "query",
    [
        {"groupBy": "model"},
        {"summary": "true", "groupBy": "colour"},
        {"summary": "1"},
        {"cursor": "x"},
        {"cursor": "ä"},
        {"limit": "1e1"},
        {"context": "nobody"},
        {"teg.team": "red"},
    ],
)
async def test_a_wrong_query_is_400(world: World, query: dict[str, str]) -> None:
    caller = await world.key(None, "usage:read")
    assert code(await caller.get("/v1/usage", **query)) == (400, "invalid_request")


async def test_one_record_explains_its_price(world: World) -> None:
    caller, account_id = await world.tenant("5")
    record = await world.used(caller, account_id, raw_usage='{"prompt_tokens":7,"cost":0.10}')
    by_request = exact(await caller.get(f"/v1/usage/{record.request_id}"))["usageRecord"]
    assert by_request["rawUsage"] == {"prompt_tokens": 7, "cost": Decimal("0.10")}
    assert exact(await caller.get(f"/v1/usage/{by_request['id']}"))["usageRecord"] == by_request
    assert by_request["lines"][0] == {
        "class": "input",
        "quantity": 6,
        "rate": Decimal("0.0000001"),
        "amount": Decimal("0.0000006"),
    }
    assert by_request["source"]
    assert by_request["card"]["model"] == "small"
    assert (by_request["multiplier"], by_request["markupPercent"], by_request["creditsPerUsd"]) == (1, 0, 1000)


async def test_a_late_truth_is_what_the_call_came_to(world: World) -> None:
    caller, account_id = await world.tenant("5")
    guess = await world.used(caller, account_id, kind="unconfirmed", usage={"input_tokens": 9}, lines=())
    await world.ledger.book.commit(
        replace(guess, kind="actual", charge_microcredits=400, usage={"input_tokens": 7, "output_tokens": 2})
    )
    shown = exact(await caller.get(f"/v1/usage/{guess.request_id}"))["usageRecord"]
    assert (shown["creditsCharged"], shown["inputTokens"], shown["outputTokens"]) == (Decimal("0.0004"), 7, 2)
    assert shown["adjustment"]["creditsCharged"] == Decimal("-0.0011")


async def test_another_organization_s_record_is_404(world: World) -> None:
    (ann, of_ann), (bob, _) = await world.tenant("5"), await world.tenant("5")
    record = await world.used(ann, of_ann)
    assert code(await bob.get(f"/v1/usage/{record.request_id}")) == (404, "not_found")
    assert (await bob.get("/v1/usage")).json()["usageRecords"] == []
    assert (await world.admin.get(f"/v1/usage/{record.request_id}")).status_code == 200


async def test_a_key_of_one_account_sees_only_its_usage(world: World) -> None:
    owner, account_id = await world.tenant("5")
    account = (await owner.get("/v1/accounts/get", externalId="ann")).json()["account"]
    other = (await owner.post("/v1/accounts/create", {"name": "Bob"})).json()["account"]["id"]
    record = await world.used(owner, account_id)
    caller = await world.key(account["organizationId"], "usage:read", accountId=other)
    assert (await caller.get("/v1/usage")).json()["usageRecords"] == []
    assert code(await caller.get(f"/v1/usage/{record.request_id}")) == (404, "not_found")
