from __future__ import annotations

import json
from decimal import Decimal

import httpx2
import pytest
from openai import AsyncOpenAI
from tests.api.conftest import World, code, exact


async def test_both_lists_in_one_body(world: World) -> None:
    caller = await world.key(None, "proxy")
    body = exact(await caller.get("/v1/models"))
    assert (body["object"], body["success"]) == ("list", True)
    assert [(model["id"], model["object"], model["owned_by"]) for model in body["data"]] == [
        ("fast", "model", "my-llm")
    ]
    small = next(model for model in body["models"] if model["provider"] == "my-llm")
    assert small == {
        "modelId": "small",
        "provider": "my-llm",
        "displayName": "small",
        "modelType": "text",
        "tier": "default",
        "pricing": {
            "text": {
                "inputPerMillion": Decimal("0.1"),
                "outputPerMillion": Decimal("0.4"),
                "cachedInputPerMillion": Decimal("0.025"),
            }
        },
        "contextWindow": 128000,
        "maxOutputTokens": None,
    }
    assert len(body["models"]) > 1000


async def test_openai_s_client_reads_it(world: World) -> None:
    caller = await world.key(None, "proxy")
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(world.app))
    client = AsyncOpenAI(api_key=caller.secret, base_url="http://faregate.test/v1", http_client=http)
    assert [model.id async for model in client.models.list()] == ["fast"]
    assert (await client.models.retrieve("fast")).owned_by == "my-llm"
    assert (await client.models.retrieve("my-llm/small")).id == "my-llm/small"
    await client.close()


async def test_a_key_sees_the_models_it_may_call(world: World) -> None:
    caller = await world.key(None, "proxy", models=["slow*"])
    assert (await caller.get("/v1/models")).json()["data"] == []
    assert code(await caller.get("/v1/models/fast")) == (403, "permission_denied")


async def test_filters_and_one_model(world: World) -> None:
    caller = await world.key(None, "usage:read")
    body = (await caller.get("/v1/models", provider="my-llm")).json()
    assert {model["provider"] for model in body["models"]} == {"my-llm"}
    assert "small" in {model["modelId"] for model in body["models"]}
    one = (await caller.get("/v1/models", modelId="gpt-4.1-mini")).json()
    assert one["model"]["modelId"] == "gpt-4.1-mini"
    assert one["model"]["provider"] == "openai"
    tiered = (await caller.get("/v1/models", provider="openai", tier="flex")).json()["models"]
    assert tiered
    assert {model["tier"] for model in tiered} == {"flex"}


async def test_unknown_models_are_404(world: World) -> None:
    caller = await world.key(None, "proxy")
    assert code(await caller.get("/v1/models/nothing")) == (404, "model_not_found")
    assert code(await caller.get("/v1/models", modelId="no-such-model-xyz")) == (404, "model_not_found")


async def test_a_calculation_is_exact_and_records_nothing(world: World) -> None:
    organization = await world.organization(markupPercent=10, creditsPerUsd=1000)
    caller = await world.key(organization, "usage:read")
    body = {"modelId": "fast", "inputTokens": 1000, "outputTokens": 100, "cachedTokens": 200}
    found = exact(await caller.post("/v1/models/calculate", body))
    usd = Decimal("0.0000001") * 800 + Decimal("0.000000025") * 200 + Decimal("0.0000004") * 100
    assert found["estimatedCostUsd"] == usd
    assert found["credits"] == usd * 1100
    assert sum(line["amount"] for line in found["lines"]) == usd
    assert (found["modelId"], found["pricing"]["text"]["inputPerMillion"]) == ("fast", Decimal("0.1"))
    assert (await caller.get("/v1/usage")).json()["usageRecords"] == []


async def test_a_model_that_is_not_configured_has_a_price_too(world: World) -> None:
    caller = await world.key(None, "proxy")
    for body in ({"modelId": "gpt-4.1-mini"}, {"modelId": "gpt-4.1-mini", "provider": "openai"}):
        answer = await caller.post("/v1/models/calculate", {**body, "inputTokens": 1_000_000, "outputTokens": 0})
        assert exact(answer)["estimatedCostUsd"] == Decimal("0.4")


@pytest.mark.parametrize(
    "change",
    [
        {"inputTokens": -1},
        {"inputTokens": 1.5},
        {"inputTokens": "5"},
        {"inputTokens": 10**19},
        {"inputTokens": 1e308},
        {"inputTokens": None, "outputTokens": 5},
        {"multiplier": 11},
        {"multiplier": "NaN"},
        {"audioDurationSeconds": -1},
        {"audioDurationSeconds": "1e308"},
        {"modelId": ""},
        {"tokens": 3},
    ],
)
async def test_a_wrong_calculation_is_400(world: World, change: dict[str, object]) -> None:
    caller = await world.key(None, "proxy")
    body = {"modelId": "fast", "inputTokens": 1, "outputTokens": 1, **change}
    assert code(await caller.send("POST", "/v1/models/calculate", raw=_dump(body))) == (400, "invalid_request")


def _dump(body: object) -> bytes:
    return json.dumps(body).encode()


async def test_a_model_without_a_price_is_400(world: World) -> None:
    caller = await world.key(None, "proxy")
    body = {"modelId": "no-such-model-xyz", "inputTokens": 1, "outputTokens": 1}
    assert code(await caller.post("/v1/models/calculate", body)) == (400, "model_not_priced")
