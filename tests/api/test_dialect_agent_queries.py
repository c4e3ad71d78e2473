from __future__ import annotations

from decimal import Decimal
from typing import Any

import httpx
import pytest
from tests.api.conftest import Caller, World, exact

from faregate.ledger.audit import audit

PATH = "/api/usage/increment-agent-queries"
EVENTS = "/api/consumption-events"
SUMMARY = "/api/consumption-events/summary"
SPAN = {"startDate": "2026-01-01", "endDate": "2999-01-01"}
ONE = {"provider": "azure-2", "modelName": "gpt-5-mini", "inputTokens": 1000, "outputTokens": 500}
"""0.25 and 2 USD per million: 0.00125 USD, 1.25 credits."""
CLAUDE = "global.anthropic.claude-sonnet-4-20250514-v1:0"
KNOWN = {
    "azure": {"gpt-4o-mini": "0.75", "gpt-4o": "12.5"},
    "azure-2": {
        "gpt-4.1-nano": "0.5",
        "gpt-4.1-mini": "2",
        "gpt-4.1": "10",
        "gpt-5-nano": "0.45",
        "gpt-5-mini": "2.25",
        "gpt-5-chat": "11.25",
        "gpt-5": "11.25",
    },
    "openai": {"gpt-4.1": "10", "gpt-4.1-mini": "2"},
    "gemini": {
        "gemini-2.0-flash": "0.5",
        "gemini-2.0-flash-exp": "0",
        "gemini-2.5-flash": "2.8",
        "gemini-2.5-pro": "11.25",
        "gemini-3-pro": "14",
        "gemini-3-flash": "3.5",
    },
    "deepseek": {"deepseek-chat": "0.7", "DeepSeek-V3.2": "0.68", "DeepSeek-V3.2-thinking": "0.68"},
    "bedrock": {"claude-4-sonnet": "18", CLAUDE: "18"},
}
"""Credits of a thousand input and a thousand output tokens, at 1000 credits per USD."""


async def tenant(world: World, credits: str = "1000", **facts: Any) -> Caller:
    caller = await world.key(await world.organization(**facts), "usage:write", "usage:read", "credits:write")
    default = (await world.services.keys.authenticate(caller.secret)).default_account_id
    if credits != "0":
        await caller.post("/v1/accounts/credits/add", {"accountId": default, "amount": credits})
    return caller


async def balance(world: World, caller: Caller) -> tuple[Decimal, Decimal]:
    default = (await world.services.keys.authenticate(caller.secret)).default_account_id
    body = exact(await caller.get("/v1/accounts/balance", accountId=default))
    return Decimal(body["balance"]), Decimal(body["reserved"])


def kind(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"type", "message"}
    assert body["error"]["message"]
    return answer.status_code, body["error"]["type"]


async def test_a_use_is_charged_on_the_default_account(world: World) -> None:
    caller = await tenant(world)
    body = {**ONE, "multiplier": 2, "agentId": "agent-7", "metadata": {"run": "r1"}}
    answer = await caller.post(PATH, body)
    me = await world.services.keys.authenticate(caller.secret)
    said = exact(answer)
    assert answer.status_code == 200
    assert said.pop("eventId").startswith("evt_")
    assert said == {
        "success": True,
        "organizationId": me.organization_id,
        "credits": {"charged": Decimal("2.5"), "requested": Decimal("2.5")},
        "model": {"provider": "azure-2", "modelName": "gpt-5-mini"},
        "tokens": {"inputTokens": 1000, "outputTokens": 500},
    }
    assert await balance(world, caller) == (Decimal("997.5"), Decimal(0))
    query = {"agent": "agent-7", "feature": "agent_run", "metadata.run": "r1", "provider": "azure-2"}
    (record,) = exact(await caller.get("/v1/usage", **query))["usageRecords"]
    assert (record["accountId"], record["kind"]) == (me.default_account_id, "ingested")
    assert (record["estimatedCostUsd"], record["creditsCharged"]) == (Decimal("0.00125"), Decimal("2.5"))
    assert audit(world.ledger.database.url) == []


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [(provider, model, price) for provider, models in KNOWN.items() for model, price in models.items()],
)
async def test_every_known_name_has_its_price_unconfigured(
    world: World, provider: str, model: str, expected: str
) -> None:
    caller = await tenant(world)
    body = {"provider": provider, "modelName": model, "inputTokens": 1000, "outputTokens": 1000}
    answer = await caller.post(PATH, body)
    assert answer.status_code == 200, answer.text
    assert exact(answer)["credits"]["charged"] == Decimal(expected)


async def test_what_does_not_fit_is_402_and_records_nothing(world: World) -> None:
    caller = await tenant(world, "1.249999")
    answer = await caller.post(PATH, ONE)
    assert kind(answer) == (402, "USAGE_LIMIT")
    assert answer.headers["x-should-retry"] == "false"
    assert exact(await caller.get(EVENTS))["data"] == []
    assert await balance(world, caller) == (Decimal("1.249999"), Decimal(0))


async def test_nothing_at_all_is_free_of_charge_and_an_event(world: World) -> None:
    caller = await tenant(world, "0")
    answer = await caller.post(PATH, {**ONE, "inputTokens": 0, "outputTokens": 0})
    assert (answer.status_code, answer.json()["credits"]) == (200, {"charged": 0, "requested": 0})
    assert exact(await caller.get(EVENTS))["pagination"]["totalCount"] == 1


async def test_a_repeat_of_its_key_is_charged_once(world: World) -> None:
    caller = await tenant(world)
    first = await caller.post(PATH, ONE, idempotency_key="q1")
    again = await caller.post(PATH, ONE, idempotency_key="q1")
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert (await balance(world, caller))[0] == Decimal("998.75")
    other = await caller.post(PATH, {**ONE, "multiplier": 3}, idempotency_key="q1")
    assert kind(other) == (409, "IDEMPOTENCY_MISMATCH")


@pytest.mark.parametrize(
    "change",
    [
        {"provider": "nobody"},
        {"provider": None},
        {"provider": 5},
        {"modelName": "unheard-of"},
        {"modelName": ""},
        {"modelName": None},
        {"inputTokens": -1},
        {"inputTokens": "5"},
        {"inputTokens": 1.5},
        {"inputTokens": None},
        {"outputTokens": 10**19},
        {"outputTokens": 1e308},
        {"outputTokens": True},
        {"multiplier": 0.5},
        {"multiplier": 10.5},
        {"multiplier": -1},
        {"multiplier": "NaN"},
        {"multiplier": 1e308},
        {"feature": ""},
        {"agentId": 5},
        {"metadata": "x"},
    ],
)
async def test_what_cannot_be_meant_is_400_and_named(world: World, change: dict[str, Any]) -> None:
    caller = await tenant(world)
    body = {name: value for name, value in {**ONE, **change}.items() if value is not None}
    answer = await caller.post(PATH, body)
    assert kind(answer) == (400, "INVALID_REQUEST")
    assert next(iter(change)) in answer.json()["error"]["message"]
    assert await balance(world, caller) == (Decimal(1000), Decimal(0))


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"provider": "\xff"}', b'{"inputTokens": NaN}'])
async def test_a_broken_body_is_400(world: World, raw: bytes) -> None:
    caller = await tenant(world)
    assert kind(await caller.send("POST", PATH, raw=raw)) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(("method", "path"), [("POST", PATH), ("GET", EVENTS), ("GET", SUMMARY)])
async def test_keys_are_refused_in_its_own_shape(world: World, method: str, path: str) -> None:
    for headers in ({}, {"x-api-key": "nope"}):
        assert kind(await world.http.request(method, path, headers=headers)) == (401, "UNAUTHORIZED")
    narrow = await world.key(await world.organization(), "proxy", "credits:write")
    assert kind(await narrow.send(method, path)) == (403, "FORBIDDEN")


async def test_a_key_of_another_account_may_not_charge_the_default_one(world: World) -> None:
    organization = await world.organization()
    caller = await world.key(organization, "credits:write")
    account = (await caller.post("/v1/accounts/create", {"name": "Ann"})).json()["account"]
    bound = await world.key(organization, "usage:write", accountId=account["id"])
    assert kind(await bound.post(PATH, ONE)) == (403, "FORBIDDEN")
    test = await world.key(organization, "usage:write", test=True)
    assert kind(await test.post(PATH, ONE)) == (403, "FORBIDDEN")


async def test_a_key_s_own_limits_hold(world: World) -> None:
    organization = await world.organization()
    limits = [{"kind": "tokens", "window": "day", "max": 2000}]
    caller = await world.key(organization, "usage:write", limits=limits)
    money = await world.key(organization, "credits:write")
    default = (await world.services.keys.authenticate(money.secret)).default_account_id
    await money.post("/v1/accounts/credits/add", {"accountId": default, "amount": 100})
    assert (await caller.post(PATH, ONE)).status_code == 200
    answer = await caller.post(PATH, ONE)
    assert kind(answer) == (429, "RATE_LIMIT")
    assert int(answer.headers["retry-after"]) > 0


# Reading ------------------------------------------------------------------------------------------------


async def told(caller: Caller) -> None:
    for agent, feature, tokens in (("a", "chat", 1000), ("b", "chat", 4000), ("a", "search", 2000)):
        body = {**ONE, "agentId": agent, "feature": feature, "inputTokens": tokens, "outputTokens": 0}
        assert (await caller.post(PATH, body)).status_code == 200


async def test_the_summary_groups_by_entity_most_credits_first(world: World) -> None:
    caller = await tenant(world)
    await told(caller)
    body = exact(await caller.get(SUMMARY, **SPAN, groupBy="agent"))
    assert (body["groupBy"], body["startDate"], body["endDate"]) == ("agent", *SPAN.values())
    assert [(group["groupKey"], group["totalCreditsCharged"], group["eventCount"]) for group in body["data"]] == [
        ("b", 1, 1),
        ("a", Decimal("0.75"), 2),
    ]
    assert body["data"][1]["totalInputTokens"] == 3000
    assert body["data"][1]["totalOutputTokens"] == 0
    chats = exact(await caller.get(SUMMARY, **SPAN, groupBy="model", feature="chat", provider="azure-2"))["data"]
    assert [(group["groupKey"], group["eventCount"]) for group in chats] == [("gpt-5-mini", 2)]
    assert exact(await caller.get(SUMMARY, **SPAN, groupBy="feature", agentId="b"))["data"][0]["groupKey"] == "chat"


@pytest.mark.parametrize("group", ["day", "week", "month"])
async def test_the_summary_groups_by_time(world: World, group: str) -> None:
    caller = await tenant(world)
    await told(caller)
    (only,) = exact(await caller.get(SUMMARY, **SPAN, groupBy=group))["data"]
    assert only["eventCount"] == 3


@pytest.mark.parametrize(
    "query",
    [
        {"groupBy": "account"},
        {"groupBy": None},
        {"startDate": None},
        {"endDate": None},
        {"startDate": "soon"},
        {"endDate": "2025-01-01"},
        {"startDate": "2999-01-02"},
        {"unknown": "x"},
    ],
)
async def test_a_wrong_summary_is_400(world: World, query: dict[str, Any]) -> None:
    caller = await tenant(world, "0")
    wanted = {name: value for name, value in {**SPAN, "groupBy": "agent", **query}.items() if value is not None}
    answer = await caller.get(SUMMARY, **wanted)
    assert kind(answer) == (400, "INVALID_REQUEST")
    assert next(iter(query)) in answer.json()["error"]["message"] or "startDate" in answer.json()["error"]["message"]


async def test_events_are_paged_filtered_and_sorted(world: World) -> None:
    caller = await tenant(world)
    await told(caller)
    page = exact(await caller.get(EVENTS, pageSize="2", sort="creditsCharged_desc"))
    assert page["pagination"] == {"page": 1, "pageSize": 2, "totalCount": 3, "totalPages": 2}
    assert [event["creditsCharged"] for event in page["data"]] == [1, Decimal("0.5")]
    rest = exact(await caller.get(EVENTS, pageSize="2", page="2", sort="creditsCharged_desc"))["data"]
    assert [event["creditsCharged"] for event in rest] == [Decimal("0.25")]
    oldest = exact(await caller.get(EVENTS, sort="occurredAt_asc", **SPAN))["data"]
    assert [(event["agentId"], event["feature"]) for event in oldest] == [("a", "chat"), ("b", "chat"), ("a", "search")]
    newest = exact(await caller.get(EVENTS))["data"]
    assert [event["id"] for event in newest] == [event["id"] for event in reversed(oldest)]
    assert exact(await caller.get(EVENTS, model="gpt-5", agentId="a"))["data"] == []
    one = newest[0]
    assert (one["provider"], one["model"], one["inputTokens"], one["outputTokens"]) == (
        "azure-2",
        "gpt-5-mini",
        2000,
        0,
    )


@pytest.mark.parametrize(
    "query", [{"page": "0"}, {"page": "x"}, {"pageSize": "101"}, {"pageSize": "0"}, {"sort": "creditsCharged"}]
)
async def test_a_wrong_page_is_400(world: World, query: dict[str, str]) -> None:
    caller = await tenant(world, "0")
    answer = await caller.get(EVENTS, **query)
    assert kind(answer) == (400, "INVALID_REQUEST")
    assert next(iter(query)) in answer.json()["error"]["message"]


async def test_events_of_others_do_not_exist(world: World) -> None:
    mine, other = await tenant(world), await tenant(world)
    await told(mine)
    assert exact(await other.get(EVENTS))["data"] == []
    assert exact(await other.get(SUMMARY, **SPAN, groupBy="agent"))["data"] == []
