from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.api.conftest import World, code, exact


async def test_entries_are_listed_newest_first_with_pages(world: World) -> None:
    caller, account_id = await world.tenant("5")
    for amount in ("1", "0.5"):
        await caller.post("/v1/accounts/credits/deduct", {"accountId": account_id, "amount": amount})
    body = exact(await caller.get("/v1/transactions", accountId=account_id, limit=2))
    assert [(item["type"], str(item["amount"]), str(item["balanceAfter"])) for item in body["items"]] == [
        ("debit", "0.5", "3.5"),
        ("debit", "1", "4"),
    ]
    assert body["pagination"] == {"limit": 2, "offset": 0, "totalCount": 3, "hasMore": True}
    rest = (await caller.get("/v1/transactions", accountId=account_id, limit=2, offset=2)).json()
    assert [item["type"] for item in rest["items"]] == ["credit"]
    assert rest["pagination"]["hasMore"] is False


async def test_filters_by_type_and_time(world: World) -> None:
    caller, account_id = await world.tenant("5")
    await caller.post("/v1/accounts/credits/deduct", {"accountId": account_id, "amount": 1})
    today = datetime.now(UTC)
    credits = (await caller.get("/v1/transactions", type="credit")).json()["items"]
    assert [item["type"] for item in credits] == ["credit"]
    day = f"{today:%Y-%m-%d}"
    assert (await caller.get("/v1/transactions", startDate=day, endDate=day)).json()["pagination"]["totalCount"] == 2
    later = (today + timedelta(hours=1)).isoformat()
    assert (await caller.get("/v1/transactions", startDate=later)).json()["items"] == []


async def test_what_was_used_can_be_included(world: World) -> None:
    caller, account_id = await world.tenant("5")
    record = await world.used(caller, account_id)
    items = (await caller.get("/v1/transactions", include="reservation,usage", type="debit")).json()["items"]
    assert items[0]["usage"]["requestId"] == record.request_id
    assert items[0]["reservation"] is None
    assert "usage" not in (await caller.get("/v1/transactions")).json()["items"][0]


@pytest.mark.parametrize(
    "query",
    [
        {"type": "gift"},
        {"include": "everything"},
        {"startDate": "yesterday"},
        {"startDate": "2026-02-01", "endDate": "2026-01-01"},
        {"limit": "0"},
        {"offset": "-1"},
    ],
)
async def test_a_wrong_query_is_400(world: World, query: dict[str, str]) -> None:
    caller = await world.key(None, "usage:read")
    assert code(await caller.get("/v1/transactions", **query)) == (400, "invalid_request")


async def test_another_organization_s_entries_are_not_there(world: World) -> None:
    (caller, _), (_, foreign) = await world.tenant("5"), await world.tenant("7")
    assert code(await caller.get("/v1/transactions", accountId=foreign)) == (404, "not_found")
    assert [item["amount"] for item in (await caller.get("/v1/transactions")).json()["items"]] == [5]


async def test_a_credit_and_a_debit_are_made(world: World) -> None:
    caller, account_id = await world.tenant("5")
    body = {"externalId": "ann", "amount": 2, "type": "credit", "description": "gift", "metadata": {"by": "us"}}
    made = (await caller.post("/v1/transactions/create", body)).json()["transaction"]
    assert (made["accountId"], made["type"], made["amount"], made["balanceAfter"]) == (account_id, "credit", 2, 7)
    assert (made["description"], made["metadata"]) == ("gift", {"by": "us"})
    taken = await caller.post("/v1/transactions/create", {**body, "type": "debit"}, idempotency_key="k")
    again = await caller.post("/v1/transactions/create", {**body, "type": "debit"}, idempotency_key="k")
    assert taken.json()["transaction"]["balanceAfter"] == 5
    assert (again.json(), again.headers["idempotent-replayed"]) == (taken.json(), "true")


async def test_a_debit_that_does_not_fit_is_402(world: World) -> None:
    caller, account_id = await world.tenant("5")
    body = {"accountId": account_id, "amount": 6, "type": "debit"}
    assert code(await caller.post("/v1/transactions/create", body)) == (402, "insufficient_credits")


@pytest.mark.parametrize("change", [{"type": "gift"}, {"amount": -1}, {"amount": "NaN"}, {"type": None}])
async def test_a_wrong_transaction_is_400(world: World, change: dict[str, object]) -> None:
    caller, account_id = await world.tenant("5")
    body = {"accountId": account_id, "amount": 1, "type": "debit", **change}
    assert code(await caller.post("/v1/transactions/create", body)) == (400, "invalid_request")


async def test_a_repeated_credit_adds_once(world: World) -> None:
    caller, account_id = await world.tenant("5")
    body = {"accountId": account_id, "amount": 2, "type": "credit", "description": "gift", "metadata": {"by": "us"}}
    first = await caller.post("/v1/transactions/create", body, idempotency_key="k")
    again = await caller.post("/v1/transactions/create", body, idempotency_key="k")
    assert "idempotent-replayed" not in first.headers
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    other = await caller.post("/v1/transactions/create", {**body, "amount": 3}, idempotency_key="k")
    assert code(other) == (409, "idempotency_mismatch")
    assert first.json()["transaction"]["balanceAfter"] == 7
