from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from tests.api.conftest import Caller, World, code, exact

from faregate.ledger.audit import audit

SCOPES = ("usage:write", "usage:read", "credits:write")
TEXT = {
    "modelId": "small",
    "provider": "my-llm",
    "usageType": "text",
    "inputTokens": 1_000_000,
    "outputTokens": 500_000,
}
"""0.1 + 0.2 USD at the tests' prices: 300 credits."""


async def tenant(world: World, credits: str = "1000", **facts: Any) -> tuple[Caller, str]:
    caller = await world.key(await world.organization(**facts), *SCOPES)
    account = (await caller.post("/v1/accounts/create", {"name": "Ann", "externalId": "ann"})).json()["account"]
    await caller.post("/v1/accounts/credits/add", {"externalId": "ann", "amount": credits})
    return caller, account["id"]


async def deducted(caller: Caller, amount: str = "5") -> str:
    answer = await caller.post("/v1/accounts/credits/deduct", {"externalId": "ann", "amount": amount})
    return str(answer.json()["transactionId"])


async def balance(caller: Caller) -> Decimal:
    body = exact(await caller.get("/v1/accounts/balance", externalId="ann"))
    assert body["reserved"] == 0
    return Decimal(body["available"])


async def test_a_paid_use_is_priced_and_charges_nothing(world: World) -> None:
    caller, account_id = await tenant(world)
    transaction = await deducted(caller)
    body = {**TEXT, "context": "customer", "externalId": "ann", "transactionId": transaction, "cachedTokens": 400_000}
    shown = exact(await caller.post("/v1/usage/record", body))["usageRecord"]
    assert shown["id"].startswith("usage_")
    assert (shown["accountId"], shown["modelId"], shown["usageType"]) == (account_id, "small", "text")
    assert shown["estimatedCostUsd"] == Decimal("0.27")
    assert (shown["creditsCharged"], shown["transactionId"], shown["kind"]) == (0, transaction, "ingested")
    assert await balance(caller) == 995
    (item,) = (await caller.get("/v1/transactions", type="debit", include="usage")).json()["items"]
    assert item["usage"]["id"] == shown["id"]
    assert audit(world.ledger.database.url) == []


async def test_charge_prices_and_charges_in_one_step(world: World) -> None:
    caller, _ = await tenant(world, markupPercent=10)
    body = {**TEXT, "context": "customer", "externalId": "ann", "charge": True, "metadata": {"run": 7, "by": "batch"}}
    shown = exact(await caller.post("/v1/usage/record", body))["usageRecord"]
    assert (shown["estimatedCostUsd"], shown["creditsCharged"]) == (Decimal("0.3"), 330)
    assert shown["transactionId"].startswith("txn_")
    assert await balance(caller) == 670
    for query in ({"metadata.run": "7"}, {"metadata.by": "batch", "modelId": "small", "context": "customer"}):
        found = (await caller.get("/v1/usage", **query)).json()["usageRecords"]
        assert [record["id"] for record in found] == [shown["id"]]
    assert audit(world.ledger.database.url) == []


async def test_a_charge_that_does_not_fit_is_402_and_leaves_nothing(world: World) -> None:
    caller, _ = await tenant(world, "299.999999")
    body = {**TEXT, "context": "customer", "externalId": "ann", "charge": True}
    assert code(await caller.post("/v1/usage/record", body)) == (402, "insufficient_credits")
    assert (await caller.get("/v1/usage")).json()["usageRecords"] == []
    assert await balance(caller) == Decimal("299.999999")


async def test_system_usage_is_nobody_s_bill(world: World) -> None:
    caller, _ = await tenant(world)
    shown = (await caller.post("/v1/usage/record", {**TEXT, "context": "system"})).json()["usageRecord"]
    assert (shown["context"], shown["creditsCharged"], shown["transactionId"]) == ("system", 0, None)
    summary = exact(await caller.get("/v1/usage", summary="true"))["summary"]
    assert summary["byContext"] == {"customer": 0, "system": Decimal("0.3")}


async def test_audio_is_priced_by_its_duration(world: World) -> None:
    caller, _ = await tenant(world)
    body = {"context": "system", "modelId": "whisper-1", "usageType": "audio_stt", "audioDurationSeconds": "90.5"}
    shown = exact(await caller.post("/v1/usage/record", body))["usageRecord"]
    assert (shown["usageType"], shown["provider"]) == ("audio_stt", "openai")
    assert (shown["audioDurationSeconds"], shown["estimatedCostUsd"]) == (Decimal("90.5"), Decimal("0.00905"))
    assert shown["inputTokens"] is None


async def test_embeddings_need_no_output(world: World) -> None:
    caller, _ = await tenant(world)
    body = {
        "context": "system",
        "modelId": "text-embedding-3-small",
        "usageType": "embedding",
        "inputTokens": 1_000_000,
    }
    shown = exact(await caller.post("/v1/usage/record", body))["usageRecord"]
    assert (shown["usageType"], shown["estimatedCostUsd"]) == ("embedding", Decimal("0.02"))


async def test_a_public_name_is_priced_as_a_call_would_be(world: World) -> None:
    caller = await world.key(await world.organization(), *SCOPES)
    body = {"context": "system", "modelId": "fast", "inputTokens": 10, "outputTokens": 0}
    shown = (await caller.post("/v1/usage/record", body)).json()["usageRecord"]
    assert (shown["publicModel"], shown["modelId"], shown["provider"]) == ("fast", "small", "my-llm")


async def test_it_happened_when_it_says(world: World) -> None:
    caller, _ = await tenant(world)
    body = {**TEXT, "context": "system", "occurredAt": "2026-10-01T12:00:00+02:00"}
    shown = (await caller.post("/v1/usage/record", body)).json()["usageRecord"]
    assert shown["occurredAt"] == "2026-10-01T10:00:00.000000Z"
    found = (await caller.get("/v1/usage", startDate="2026-10-01", endDate="2026-10-01")).json()["usageRecords"]
    assert len(found) == 1


@pytest.mark.parametrize("pay", [{"charge": True}, {}], ids=["charged", "paid"])
async def test_a_repeat_of_its_key_is_the_same_record(world: World, pay: dict[str, object]) -> None:
    caller, _ = await tenant(world)
    paid = pay or {"transactionId": await deducted(caller, "300")}
    body = {**TEXT, "context": "customer", "externalId": "ann", **paid}
    first = await caller.post("/v1/usage/record", body, idempotency_key="k1")
    again = await caller.post("/v1/usage/record", body, idempotency_key="k1")
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    other = await caller.post("/v1/usage/record", {**body, "inputTokens": 1}, idempotency_key="k1")
    assert code(other) == (409, "idempotency_mismatch")
    assert await balance(caller) == 700
    assert len((await caller.get("/v1/usage")).json()["usageRecords"]) == 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"inputTokens": -1}, "inputTokens"),
        ({"inputTokens": "5"}, "inputTokens"),
        ({"inputTokens": 1.5}, "inputTokens"),
        ({"outputTokens": 10**19}, "outputTokens"),
        ({"outputTokens": 1e308}, "outputTokens"),
        ({"inputTokens": None}, "inputTokens"),
        ({"outputTokens": None}, "outputTokens"),
        ({"cachedTokens": 2_000_000}, "cachedTokens"),
        ({"audioDurationSeconds": 5}, "audioDurationSeconds"),
        ({"usageType": "video"}, "usageType"),
        ({"context": "nobody"}, "context"),
        ({"context": None}, "context"),
        ({"modelId": "no-such-model"}, "modelId"),
        ({"externalId": None}, "accountId"),
        ({"charge": False}, "transactionId"),
        ({"transactionId": "txn_x"}, "charge"),
        ({"context": "system"}, "charge"),
        ({"occurredAt": "yesterday"}, "occurredAt"),
        ({"occurredAt": "9999-01-01"}, "occurredAt"),
        ({"occurredAt": "1970-01-01"}, "occurredAt"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_what_cannot_be_meant_is_400_and_named(world: World, change: dict[str, Any], param: str | None) -> None:
    caller, _ = await tenant(world)
    body = {**TEXT, "context": "customer", "externalId": "ann", "charge": True, **change}
    answer = await caller.post("/v1/usage/record", {name: value for name, value in body.items() if value is not None})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"].get("param") == param
    assert (await caller.get("/v1/usage")).json()["usageRecords"] == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
async def test_what_is_no_number_is_named(world: World, number: str) -> None:
    caller, _ = await tenant(world)
    raw = f'{{"context": "system", "modelId": "small", "inputTokens": {number}, "outputTokens": 1}}'.encode()
    answer = await caller.send("POST", "/v1/usage/record", raw=raw)
    assert code(answer) == (400, "invalid_request")
    assert answer.json()["error"]["param"] == "inputTokens"


async def test_transactions_and_accounts_of_others_do_not_exist(world: World) -> None:
    (caller, _), (other, account_id) = await tenant(world), await tenant(world)
    foreign = await deducted(other)
    body = {**TEXT, "context": "customer", "externalId": "ann", "transactionId": foreign}
    assert code(await caller.post("/v1/usage/record", body)) == (404, "not_found")
    body = {**TEXT, "context": "customer", "accountId": account_id, "charge": True}
    assert code(await caller.post("/v1/usage/record", body)) == (404, "not_found")


async def test_only_a_debit_of_the_same_account_pays(world: World) -> None:
    caller, _ = await tenant(world)
    await caller.post("/v1/accounts/create", {"name": "Bob", "externalId": "bob"})
    credit = (await caller.get("/v1/transactions", type="credit")).json()["items"][0]["id"]
    body = {**TEXT, "context": "customer", "externalId": "ann", "transactionId": credit}
    answer = await caller.post("/v1/usage/record", body)
    assert (code(answer), answer.json()["error"]["param"]) == ((400, "invalid_request"), "transactionId")
    body = {**body, "externalId": "bob", "transactionId": await deducted(caller)}
    answer = await caller.post("/v1/usage/record", body)
    assert (code(answer), answer.json()["error"]["param"]) == ((400, "invalid_request"), "transactionId")
