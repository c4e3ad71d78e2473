from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from tests.api.conftest import Caller, World, code, exact

from faregate.api.price_layer import PriceLayer
from faregate.ledger.prices import NewPrice
from faregate.pricing.catalog import LayeredCatalog

CARD: dict[str, Any] = {
    "provider": "my-llm",
    "model": "small",
    "per_million": {"input": "0.5", "output": 1.25},
    "per_unit": {"second": "0.0001"},
}


async def cost(caller: Caller, model: str = "small", provider: str = "my-llm") -> Decimal:
    """USD of a million input tokens."""
    body = {"modelId": model, "provider": provider, "inputTokens": 1_000_000, "outputTokens": 0}
    answer = await caller.post("/v1/models/calculate", body)
    assert answer.status_code == 200, answer.text
    return Decimal(exact(answer)["estimatedCostUsd"])


async def admin_of(world: World) -> Caller:
    return await world.key(await world.organization(), "admin", "usage:read", "usage:write")


async def test_an_organization_s_card_is_its_own(world: World) -> None:
    mine, other = await admin_of(world), await admin_of(world)
    answer = await mine.post("/v1/admin/prices", CARD)
    assert answer.status_code == 201
    made = exact(answer)["price"]
    assert made["id"].startswith("price_")
    assert made["per_million"] == {"input": "0.5", "output": Decimal("1.25")}
    assert made["effective_from"] is None
    assert (await cost(mine), await cost(other)) == (Decimal("0.5"), Decimal("0.1"))
    assert exact(await mine.get("/v1/admin/prices"))["prices"] == [made]
    assert exact(await mine.get(f"/v1/admin/prices/{made['id']}"))["price"] == made


async def test_a_card_of_the_bootstrap_key_is_everybody_s_and_gives_way_to_their_own(world: World) -> None:
    mine, other = await admin_of(world), await admin_of(world)
    made = (await world.admin.post("/v1/admin/prices", CARD)).json()["price"]
    assert made["organizationId"] is None
    await mine.post("/v1/admin/prices", {**CARD, "per_million": {"input": 9, "output": 9}})
    assert (await cost(mine), await cost(other)) == (Decimal(9), Decimal("0.5"))


async def test_the_bootstrap_key_makes_cards_for_whom_it_names(world: World) -> None:
    mine, other = await admin_of(world), await admin_of(world)
    organization = (await world.services.keys.authenticate(mine.secret)).organization_id
    made = (await world.admin.post("/v1/admin/prices", {**CARD, "organizationId": organization})).json()["price"]
    assert made["organizationId"] == organization
    assert (await cost(mine), await cost(other)) == (Decimal("0.5"), Decimal("0.1"))
    listed = (await world.admin.get("/v1/admin/prices", organizationId=organization)).json()["prices"]
    assert [price["id"] for price in listed] == [made["id"]]


async def test_a_new_card_supersedes_the_past_is_priced_as_it_was(world: World) -> None:
    mine = await admin_of(world)
    await mine.post("/v1/admin/prices", CARD)
    await mine.post("/v1/admin/prices", {**CARD, "per_million": {"input": 3, "output": 9}})
    used = {"context": "system", "provider": "my-llm", "modelId": "small", "inputTokens": 1_000_000, "outputTokens": 0}
    now = exact(await mine.post("/v1/usage/record", used))["usageRecord"]
    before = await mine.post("/v1/usage/record", {**used, "occurredAt": "2026-01-02"})
    assert (now["estimatedCostUsd"], exact(before)["usageRecord"]["estimatedCostUsd"]) == (3, Decimal("0.5"))


async def test_of_two_cards_with_the_same_start_the_later_one_counts(world: World) -> None:
    mine = await admin_of(world)
    for rate in (1, 2):
        card = {**CARD, "effective_from": "2026-02-01T00:00:00Z", "per_million": {"input": rate, "output": 0}}
        made = (await mine.post("/v1/admin/prices", card)).json()["price"]
    assert made["effective_from"] == "2026-02-01T00:00:00Z"
    assert await cost(mine) == 2


async def test_a_card_of_the_future_waits(world: World) -> None:
    mine = await admin_of(world)
    await mine.post("/v1/admin/prices", {**CARD, "effective_from": "2999-01-01"})
    assert await cost(mine) == Decimal("0.1")


async def test_a_deleted_card_prices_nothing_more(world: World) -> None:
    mine = await admin_of(world)
    made = (await mine.post("/v1/admin/prices", CARD)).json()["price"]
    used = {"context": "system", "provider": "my-llm", "modelId": "small", "inputTokens": 1_000_000, "outputTokens": 0}
    record = (await mine.post("/v1/usage/record", used)).json()["usageRecord"]
    gone = await mine.send("DELETE", f"/v1/admin/prices/{made['id']}")
    assert gone.json()["price"]["deletedAt"] is not None
    assert await cost(mine) == Decimal("0.1")
    assert (await mine.get("/v1/admin/prices")).json()["prices"] == []
    detail = exact(await mine.get(f"/v1/usage/{record['id']}"))["usageRecord"]
    assert detail["lines"][0]["rate"] == Decimal("0.0000005")
    assert detail["source"] == "api"


async def test_another_worker_follows_within_one_look(world: World) -> None:
    catalog = LayeredCatalog()
    layer = PriceLayer(world.ledger.prices, catalog)
    await layer.refresh()
    made = (await world.admin.post("/v1/admin/prices", {**CARD, "provider": "custom"})).json()["price"]
    now_us = world.services.clock.now_us()
    assert catalog.find("small", provider="custom", now_us=now_us) is None
    await layer.refresh()
    assert catalog.find("small", provider="custom", now_us=now_us) is not None
    await world.admin.send("DELETE", f"/v1/admin/prices/{made['id']}")
    await layer.refresh()
    assert catalog.find("small", provider="custom", now_us=now_us) is None


async def test_a_worker_looks_by_itself(world: World) -> None:
    catalog = LayeredCatalog()
    looking = asyncio.create_task(PriceLayer(world.ledger.prices, catalog, every_s=0.01).run())
    await world.admin.post("/v1/admin/prices", {**CARD, "provider": "custom"})
    async with asyncio.timeout(5):
        while catalog.find("small", provider="custom", now_us=world.services.clock.now_us()) is None:  # noqa: ASYNC110 - nothing to be told by
            await asyncio.sleep(0.01)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


async def test_a_card_that_cannot_be_read_is_left_out_loudly(world: World, caplog: pytest.LogCaptureFixture) -> None:
    card = NewPrice(organization_id=None, provider="x", model="m", tier="default", effective_us=None, body='{"new": 1}')
    made = await world.ledger.prices.create(card)
    await world.admin.post("/v1/admin/prices", CARD)
    assert made.id in caplog.text
    assert await cost(await admin_of(world)) == Decimal("0.5")


async def test_the_rendered_catalogue_follows(world: World) -> None:
    mine = await admin_of(world)
    await mine.get("/v1/models")
    await mine.post("/v1/admin/prices", {**CARD, "model": "brand-new"})
    models = exact(await mine.get("/v1/models"))["models"]
    (shown,) = [model for model in models if model["modelId"] == "brand-new"]
    assert shown["pricing"]["text"]["inputPerMillion"] == Decimal("0.5")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"per_million": {"input": -1}}, "per_million.input"),
        ({"per_million": {"input": "1e308"}}, "per_million.input"),
        ({"per_million": {"input": True}}, "per_million.input"),
        ({"per_million": {"inptu": 1}}, "per_million.inptu"),
        ({"per_million": None, "per_unit": None}, None),
        ({"tier": "gold"}, "tier"),
        ({"model": None}, "model"),
        ({"model": "a*b"}, "model"),
        ({"effective_from": "soon"}, "effective_from"),
        ({"organizationId": 5}, "organizationId"),
        ({"price": 5}, "price"),
    ],
)
async def test_what_cannot_be_meant_is_400_and_named(world: World, change: dict[str, Any], param: str | None) -> None:
    mine = await admin_of(world)
    answer = await mine.post("/v1/admin/prices", {**CARD, **change})
    assert code(answer) == (400, "invalid_request")
    assert answer.json()["error"].get("param") == param
    assert (await mine.get("/v1/admin/prices")).json()["prices"] == []


async def test_cards_of_others_do_not_exist(world: World) -> None:
    mine, other = await admin_of(world), await admin_of(world)
    made = (await mine.post("/v1/admin/prices", CARD)).json()["price"]
    everybody = (await world.admin.post("/v1/admin/prices", CARD)).json()["price"]
    for card in (made, everybody):
        assert code(await other.get(f"/v1/admin/prices/{card['id']}")) == (404, "not_found")
        assert code(await other.send("DELETE", f"/v1/admin/prices/{card['id']}")) == (404, "not_found")
    organization = (await world.services.keys.authenticate(mine.secret)).organization_id
    named = await other.post("/v1/admin/prices", {**CARD, "organizationId": organization})
    assert code(named) == (403, "permission_denied")
    assert code(await mine.send("PATCH", f"/v1/admin/prices/{made['id']}", {})) == (405, "method_not_allowed")


async def test_a_repeat_of_its_key_makes_one_card(world: World) -> None:
    mine = await admin_of(world)
    first = await mine.post("/v1/admin/prices", CARD, idempotency_key="p1")
    again = await mine.post("/v1/admin/prices", CARD, idempotency_key="p1")
    assert (again.status_code, again.json()) == (201, first.json())
    assert len((await mine.get("/v1/admin/prices")).json()["prices"]) == 1
