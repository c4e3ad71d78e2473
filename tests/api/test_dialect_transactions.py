from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from typing import Any

import httpx
import pytest
from tests.api.conftest import Caller, World, exact

from faregate.errors import BookUnavailable
from faregate.ledger.audit import audit

PATH = "/usage/transactions"


def one(**changes: Any) -> dict[str, Any]:
    """0.0003 USD at the tests' prices: 0.3 credits."""
    tokens = {"input_tokens": 1000, "output_tokens": 500, "total_tokens": 1500}
    item = {
        "provider": "my-llm",
        "model": "small",
        "usage": [{"type": "tokens", "metrics": tokens}],
        "context": {"billable_customer_id": "cust-1", "feature": "chat", "team": "red"},
    }
    return {**item, **changes}


def metrics(kind: str, **values: Any) -> list[dict[str, Any]]:
    return [{"type": kind, "metrics": values}]


async def tenant(world: World, **facts: Any) -> Caller:
    return await world.key(await world.organization(**facts), "usage:write", "usage:read", "credits:write")


async def records(caller: Caller, **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = exact(await caller.get("/v1/usage", limit=1000, **query))["usageRecords"]
    return found


async def priced(world: World, **changes: Any) -> dict[str, Any]:
    """The record that a transaction leads to."""
    caller = await tenant(world)
    answer = await caller.post(PATH, one(**changes))
    assert answer.status_code == 202, answer.text
    (found,) = await records(caller)
    shown: dict[str, Any] = exact(await caller.get(f"/v1/usage/{found['id']}"))["usageRecord"]
    return shown


def problems(answer: httpx.Response) -> list[str]:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "validation_error")
    assert all(detail["message"] for detail in error["details"])
    return [detail["path"] for detail in error["details"]]


# What is queued -----------------------------------------------------------------------------------------


async def test_one_transaction_is_queued_priced_and_not_charged(world: World) -> None:
    caller = await tenant(world)
    answer = await caller.post(PATH, one(timestamp="2026-10-01T10:00:00Z"))
    assert answer.status_code == 202
    assert {name: answer.json()[name] for name in ("status", "events_queued")} == {
        "status": "queued",
        "events_queued": 1,
    }
    assert answer.json()["message"]
    (record,) = await records(caller, feature="chat", **{"metadata.team": "red", "provider": "my-llm"})
    assert (record["estimatedCostUsd"], record["creditsCharged"]) == (Decimal("0.0003"), 0)
    assert (record["kind"], record["occurredAt"]) == ("ingested", "2026-10-01T10:00:00.000000Z")
    account = (await caller.get("/v1/accounts/get", externalId="cust-1")).json()["account"]
    assert (record["accountId"], account["balance"]) == (account["id"], 0)
    assert audit(world.ledger.database.url) == []


async def test_a_bulk_of_a_thousand_is_one_short_transaction(world: World) -> None:
    caller = await tenant(world)
    items = [one(context={"billable_customer_id": f"cust-{n % 50}"}, idempotency_key=f"k{n}") for n in range(1000)]
    began = time.monotonic()
    answer = await caller.post(PATH, {"transactions": items})
    assert time.monotonic() - began < 3.0  # Well under a second on an idle machine.
    body = answer.json()
    assert (answer.status_code, body["status"], body["events_queued"]) == (202, "queued", 1000)
    assert [result["transaction_index"] for result in body["results"]] == list(range(1000))
    assert len({result["message_id"] for result in body["results"]}) == 1000
    assert len(await records(caller)) == 1000
    assert (await caller.get("/v1/accounts")).json()["pagination"]["totalCount"] == 51
    again = await caller.post(PATH, {"transactions": items})
    assert again.json()["results"] == body["results"]
    assert len(await records(caller)) == 1000


async def test_the_valid_ones_of_a_bulk_are_queued(world: World) -> None:
    caller = await tenant(world)
    items = [one(), one(usage=metrics("tokens", input_tokens=-1, output_tokens=1)), one(model="unheard-of")]
    answer = await caller.post(PATH, {"transactions": items})
    body = answer.json()
    assert (answer.status_code, body["status"], body["events_queued"], body["events_failed"]) == (207, "partial", 1, 2)
    assert body["results"][0]["message_id"].startswith("usage_")
    assert [result.get("error", {}).get("code") for result in body["results"]] == [
        None,
        "validation_error",
        "model_not_priced",
    ]
    assert "usage.0.metrics.input_tokens" in body["results"][1]["error"]["message"]
    assert len(await records(caller)) == 1


async def test_nothing_valid_is_400_with_every_path(world: World) -> None:
    caller = await tenant(world)
    items = [one(model="unheard-of"), one(context={})]
    assert problems(await caller.post(PATH, {"transactions": items})) == [
        "transactions.0.model",
        "transactions.1.context.billable_customer_id",
    ]
    assert await records(caller) == []


# Once ---------------------------------------------------------------------------------------------------


async def test_a_repeated_key_is_the_first_message_in_a_batch_and_across(world: World) -> None:
    caller = await tenant(world, ingestCharges=True)
    other = one(context={"billable_customer_id": "cust-2"}, idempotency_key="a")
    answer = await caller.post(PATH, {"transactions": [one(idempotency_key="a"), other, one(idempotency_key="b")]})
    first, second, third = (result["message_id"] for result in answer.json()["results"])
    assert (answer.status_code, first == second, first == third) == (202, True, False)
    again = await caller.post(PATH, one(idempotency_key="b"))
    assert (again.status_code, again.json()["events_queued"]) == (202, 1)
    assert {record["id"] for record in await records(caller)} == {first, third}
    assert exact(await caller.get("/v1/accounts/balance", externalId="cust-1"))["available"] == Decimal("-0.6")


async def test_keys_are_an_organization_s_own(world: World) -> None:
    mine, other = await tenant(world), await tenant(world)
    for caller in (mine, other):
        assert (await caller.post(PATH, one(idempotency_key="a"))).status_code == 202
        assert len(await records(caller)) == 1
    assert (await other.get("/v1/accounts/get", externalId="cust-1")).json()["account"]["id"] != (
        (await mine.get("/v1/accounts/get", externalId="cust-1")).json()["account"]["id"]
    )


async def test_the_header_makes_a_whole_request_once(world: World) -> None:
    caller = await tenant(world)
    body = {"transactions": [one(), one()]}
    first = await caller.post(PATH, body, idempotency_key="whole")
    again = await caller.post(PATH, body, idempotency_key="whole")
    assert (again.status_code, again.json()) == (202, first.json())
    assert len(await records(caller)) == 2
    conflict = await caller.post(PATH, {"transactions": [one()]}, idempotency_key="whole")
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "conflict")


async def test_two_at_once_make_one_account_and_one_record(world: World) -> None:
    caller = await tenant(world, ingestCharges=True)
    await asyncio.gather(*(caller.post(PATH, {"transactions": [one(idempotency_key="a")] * 3}) for _ in range(5)))
    assert len(await records(caller)) == 1
    assert exact(await caller.get("/v1/accounts/balance", externalId="cust-1"))["balance"] == Decimal("-0.3")
    assert audit(world.ledger.database.url) == []


# Charging -----------------------------------------------------------------------------------------------


async def test_charges_follow_the_organization_s_setting_and_are_never_refused(world: World) -> None:
    caller = await tenant(world, ingestCharges=True, markupPercent=100)
    await caller.post("/v1/accounts/create", {"name": "One", "externalId": "cust-1"})
    await caller.post("/v1/accounts/credits/add", {"externalId": "cust-1", "amount": 1})
    await caller.post("/v1/accounts/credits/deduct", {"externalId": "cust-1", "amount": "0.5"})
    items = [one(), one(), one(context={"billable_customer_id": "cust-new"})]
    assert (await caller.post(PATH, {"transactions": items})).status_code == 202
    known = exact(await caller.get("/v1/accounts/balance", externalId="cust-1"))
    assert (known["balance"], known["reserved"]) == (Decimal("-0.7"), 0)
    assert exact(await caller.get("/v1/accounts/balance", externalId="cust-new"))["balance"] == Decimal("-0.6")
    refused = await caller.post("/v1/accounts/credits/deduct", {"externalId": "cust-1", "amount": "0.1"})
    assert refused.status_code == 402
    assert audit(world.ledger.database.url) == []


async def test_redis_knows_of_the_charge_when_the_answer_is_given(world: World) -> None:
    caller = await tenant(world, ingestCharges=True)
    account = (await caller.post("/v1/accounts/create", {"name": "One", "externalId": "cust-1"})).json()["account"]
    await caller.post("/v1/accounts/credits/add", {"externalId": "cust-1", "amount": 1})
    await caller.post("/v1/accounts/credits/deduct", {"externalId": "cust-1", "amount": "0.5"})
    await caller.post(PATH, one())
    bucket = (await world.services.keys.authenticate(caller.secret)).bucket
    assert int((await world.gate.account(bucket, account["id"]))["posted"]) == 200_000


async def test_a_book_that_was_not_heard_leaves_redis_too_strict(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = await tenant(world, ingestCharges=True)
    account = (await caller.post("/v1/accounts/create", {"name": "One", "externalId": "cust-1"})).json()["account"]
    await caller.post("/v1/accounts/credits/add", {"externalId": "cust-1", "amount": "1.5"})
    await caller.post("/v1/accounts/credits/deduct", {"externalId": "cust-1", "amount": "0.5"})
    write = world.ledger.ingested.write

    async def unheard(*args: Any) -> None:
        await write(*args)
        raise BookUnavailable("the book cannot be reached")

    monkeypatch.setattr(world.ledger.ingested, "write", unheard)
    answer = await caller.post(PATH, one(idempotency_key="a"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    monkeypatch.undo()
    bucket = (await world.services.keys.authenticate(caller.secret)).bucket
    assert int((await world.gate.account(bucket, account["id"]))["posted"]) == 700_000
    assert (await caller.post(PATH, one(idempotency_key="a"))).status_code == 202
    assert exact(await caller.get("/v1/accounts/balance", externalId="cust-1"))["available"] == Decimal("0.7")


# Pricing ------------------------------------------------------------------------------------------------


async def test_cached_tokens_lie_inside_the_input(world: World) -> None:
    usage = metrics("tokens", input_tokens=1_000_000, output_tokens=0, total_tokens=1_000_000, cached_tokens=400_000)
    record = await priced(world, usage=usage)
    assert (record["inputTokens"], record["estimatedCostUsd"]) == (1_000_000, Decimal("0.07"))


async def test_anthropic_s_lie_outside_and_its_own_split_is_preferred(world: World) -> None:
    tokens = metrics("tokens", input_tokens=100, output_tokens=10, total_tokens=110, cached_tokens=900)
    who: dict[str, Any] = {"provider": "anthropic", "model": "claude-3-opus", "usage": tokens}
    record = await priced(world, **who)
    assert (record["inputTokens"], record["cachedTokens"]) == (1000, 900)
    raw = {
        "input_tokens": 100,
        "output_tokens": 10,
        "cache_read_input_tokens": 500,
        "cache_creation_input_tokens": 400,
    }
    record = await priced(world, **who, provider_usage_raw=raw)
    assert (record["inputTokens"], record["cachedTokens"], record["cacheWriteTokens"]) == (1000, 500, 400)
    assert {line["class"]: line["quantity"] for line in record["lines"]} == {
        "input": 100,
        "cached_input": 500,
        "cache_write_5m": 400,
        "output": 10,
    }


@pytest.mark.parametrize(
    "raw",
    [
        {"prompt_token_count": 100, "candidates_token_count": 20, "thoughts_token_count": 30, "total_token_count": 150},
        {"usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 20, "thoughtsTokenCount": 30}},
    ],
)
async def test_gemini_s_thoughts_are_reasoning(world: World, raw: dict[str, Any]) -> None:
    usage = metrics("tokens", input_tokens=100, output_tokens=50, total_tokens=150)
    record = await priced(world, provider="gemini", model="gemini-2.5-flash", usage=usage, provider_usage_raw=raw)
    assert (record["inputTokens"], record["outputTokens"], record["reasoningTokens"]) == (100, 50, 30)


async def test_a_raw_object_that_splits_nothing_changes_nothing(world: World) -> None:
    usage = metrics("tokens", input_tokens=100, output_tokens=50, total_tokens=150, cached_tokens=40)
    raw = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150, "odd": [None, -1, "x"]}
    record = await priced(world, usage=usage, provider_usage_raw=raw)
    assert (record["inputTokens"], record["cachedTokens"], record["outputTokens"]) == (100, 40, 50)


async def test_every_kind_of_metric_has_its_price(world: World) -> None:
    caller = await tenant(world)
    await world.admin.post(
        "/v1/admin/prices",
        {
            "provider": "custom",
            "model": "box",
            "per_unit": {"image": 2, "second": 3, "video_second": 5, "request": 7, "gpu_minutes": "0.5", "search": 11},
        },
    )
    usage = [
        *metrics("images", generated=2, size_px=1024, quality="hd"),
        *metrics("audio", seconds=1.5),
        *metrics("video", seconds=2, resolution="720p"),
        *metrics("requests", count=3),
        *metrics("custom", name="gpu_minutes", quantity=4, unit="minutes"),
    ]
    answer = await caller.post(PATH, one(provider="custom", model="box", usage=usage))
    assert answer.status_code == 202, answer.text
    searched = one(provider="custom", model="box", usage=metrics("requests", count=1, request_type="web_search"))
    assert (await caller.post(PATH, searched)).status_code == 202
    costs = {record["estimatedCostUsd"] for record in await records(caller)}
    assert costs == {Decimal("41.5"), Decimal(18)}  # a search is a request, too


@pytest.mark.parametrize(
    ("picture", "usd"),
    [
        ({"size_px": 1024, "quality": "standard"}, "0.16"),  # 1024x1024 or 1024x1792: the dearer one
        ({"size_px": 1792, "quality": "hd"}, "0.24"),
        ({"size_px": 77}, "0.24"),
        ({}, "0.16"),
    ],
)
async def test_a_picture_is_priced_by_its_kind_where_that_has_a_rate(
    world: World, picture: dict[str, Any], usd: str
) -> None:
    usage = metrics("images", generated=2, **picture)
    record = await priced(world, provider="openai", model="dall-e-3", usage=usage)
    assert record["estimatedCostUsd"] == Decimal(usd)


async def test_custom_metrics_of_any_model_may_stand_on_a_card_of_custom(world: World) -> None:
    usage = [*one()["usage"], *metrics("custom", name="tool_runs", quantity=2)]
    caller = await tenant(world)
    assert problems(await caller.post(PATH, one(usage=usage))) == ["model"]
    await world.admin.post("/v1/admin/prices", {"provider": "custom", "model": "*", "per_unit": {"tool_runs": 1}})
    assert (await caller.post(PATH, one(usage=usage))).status_code == 202
    (record,) = await records(caller)
    assert record["estimatedCostUsd"] == Decimal("2.0003")


async def test_a_tier_has_its_own_rates(world: World) -> None:
    usage = metrics("tokens", input_tokens=1_000_000, output_tokens=0, total_tokens=1_000_000)
    record = await priced(world, provider="openai", model="gpt-4.1", usage=usage, model_tier="priority")
    assert (record["tier"], record["estimatedCostUsd"]) == ("priority", Decimal("3.5"))


# Refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"usage": metrics("tokens", input_tokens=-1, output_tokens=1)}, "usage.0.metrics.input_tokens"),
        ({"usage": metrics("tokens", input_tokens="5", output_tokens=1)}, "usage.0.metrics.input_tokens"),
        ({"usage": metrics("tokens", input_tokens=1.5, output_tokens=1)}, "usage.0.metrics.input_tokens"),
        ({"usage": metrics("tokens", input_tokens=1, output_tokens=1e308)}, "usage.0.metrics.output_tokens"),
        ({"usage": metrics("tokens", input_tokens=1, output_tokens=10**19)}, "usage.0.metrics.output_tokens"),
        ({"usage": metrics("tokens", input_tokens=True, output_tokens=1)}, "usage.0.metrics.input_tokens"),
        ({"usage": metrics("tokens", input_tokens=1)}, "usage.0.metrics.output_tokens"),
        (
            {"usage": metrics("tokens", input_tokens=1, output_tokens=1, cached_tokens=2)},
            "usage.0.metrics.cached_tokens",
        ),
        ({"usage": metrics("audio")}, "usage.0.metrics"),
        ({"usage": metrics("audio", seconds="5")}, "usage.0.metrics.seconds"),
        ({"usage": metrics("audio", seconds=-1)}, "usage.0.metrics.seconds"),
        ({"usage": metrics("video", seconds=1e308)}, "usage.0.metrics.seconds"),
        ({"usage": metrics("custom", name="input", quantity=1)}, "usage.0.metrics.name"),
        ({"usage": metrics("custom", name="a b", quantity=1)}, "usage.0.metrics.name"),
        ({"usage": metrics("custom", name="a", quantity=-1)}, "usage.0.metrics.quantity"),
        ({"usage": metrics("images", generated=None)}, "usage.0.metrics.generated"),
        ({"usage": metrics("requests", count=[])}, "usage.0.metrics.count"),
        ({"usage": metrics("smells", count=1)}, "usage.0.type"),
        ({"usage": one()["usage"] * 2}, "usage.1.type"),
        ({"usage": []}, "usage"),
        ({"usage": "tokens"}, "usage"),
        ({"usage": ["tokens"]}, "usage.0"),
        ({"provider": "nobody"}, "provider"),
        ({"provider": 5}, "provider"),
        ({"model": ""}, "model"),
        ({"model": "unheard-of"}, "model"),
        ({"context": {}}, "context.billable_customer_id"),
        ({"context": {"billable_customer_id": 5}}, "context.billable_customer_id"),
        ({"context": {"billable_customer_id": ""}}, "context.billable_customer_id"),
        ({"context": None}, "context"),
        ({"context": {"billable_customer_id": "a", "long": "x" * 20_000}}, "context"),
        ({"provider_usage_raw": []}, "provider_usage_raw"),
        ({"provider_usage_raw": {"x": "y" * 20_000}}, "provider_usage_raw"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"timestamp": "2999-01-01"}, "timestamp"),
    ],
)
async def test_what_cannot_be_meant_is_named(world: World, change: dict[str, Any], path: str) -> None:
    caller = await tenant(world)
    assert problems(await caller.post(PATH, one(**change))) == [path]
    assert problems(await caller.post(PATH, {"transactions": [one(**change)]})) == [f"transactions.0.{path}"]
    assert await records(caller) == []
    assert (await caller.get("/v1/accounts")).json()["pagination"]["totalCount"] == 1


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b'{"transactions": []}', "transactions"),
        (b'{"transactions": 5}', "transactions"),
        (b'{"transactions": [' + b"1," * 1000 + b"1]}", "transactions"),
        (b'{"provider": NaN}', "provider"),
        (b'{"a": 1, "a": 2}', "a"),
        (b'{"provider": "x"', ""),
        (b'{"provider": "\xff"}', ""),
        (b"[]", ""),
        (b"", ""),
    ],
)
async def test_a_broken_envelope_queues_nothing(world: World, raw: bytes, path: str) -> None:
    caller = await tenant(world)
    assert problems(await caller.send("POST", PATH, raw=raw)) == [path]


async def test_several_problems_are_told_at_once(world: World) -> None:
    caller = await tenant(world)
    answer = await caller.post(PATH, {"usage": [{"type": "tokens"}], "model": 5})
    assert set(problems(answer)) == {"provider", "model", "usage.0.metrics", "context"}


@pytest.mark.parametrize("key", ["", "nope", "fg_live_0000000000000000_" + "x" * 43])
async def test_without_a_key_it_is_401_in_its_own_shape(world: World, key: str) -> None:
    answer = await world.http.post(PATH, json=one(), headers={"X-Api-Key": key})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert answer.json()["error"]["message"]


async def test_other_refusals_are_in_its_shape_too(world: World) -> None:
    reader = await world.key(await world.organization(), "usage:read")
    answer = await reader.post(PATH, one())
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    caller = await tenant(world)
    answer = await caller.get(PATH)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    answer = await caller.send("POST", PATH, raw=b" " * (5 << 20))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


async def test_a_key_of_one_account_tells_of_that_account_only(world: World) -> None:
    organization = await world.organization()
    caller = await world.key(organization, "usage:write", "usage:read", "credits:write")
    account = (await caller.post("/v1/accounts/create", {"name": "One", "externalId": "cust-1"})).json()["account"]
    bound = await world.key(organization, "usage:write", accountId=account["id"])
    foreign = one(context={"billable_customer_id": "cust-2"})
    answer = await bound.post(PATH, {"transactions": [one(), foreign]})
    assert answer.status_code == 207
    assert answer.json()["results"][1]["error"]["code"] == "forbidden"
    assert (await caller.get("/v1/accounts")).json()["pagination"]["totalCount"] == 2
