from __future__ import annotations

import json
from decimal import Decimal

import pytest
from tests.api.conftest import Caller, World, exact
from tests.pricing.releases import model

from faregate.errors import Conflict, InvalidRequest, NotFound
from faregate.ledger import prices as stored_prices
from faregate.ledger.prices import NewUpdate

FILE_CARD = {"provider": "custom", "model": "m", "per_million": {"input": "5", "output": "5"}}


def release(model_id: str, rate: str) -> NewUpdate:
    body = json.dumps(model(model_id, input_mtok=rate, output_mtok=rate))
    return NewUpdate(provider="openai", model=model_id, tier="default", body=body, source="genai-prices 9.9")


async def usage_cost(
    caller: Caller, model_id: str, provider: str = "openai", occurred_at: str | None = None
) -> Decimal:
    used = {"context": "system", "provider": provider, "modelId": model_id, "inputTokens": 1_000_000}
    when = {} if occurred_at is None else {"occurredAt": occurred_at}
    answer = await caller.post("/v1/usage/record", {**used, "outputTokens": 0, **when})
    assert answer.status_code in (200, 201), answer.text
    return Decimal(exact(answer)["usageRecord"]["estimatedCostUsd"])


async def test_from_now_on_and_never_before(world: World) -> None:
    mine = await world.key(await world.organization(), "usage:write")
    before = await usage_cost(mine, "gpt-4.1-nano")
    await world.ledger.prices.book_updates([release("gpt-4.1-nano", "3")], None)
    await world.services.prices.refresh()
    assert (before, await usage_cost(mine, "gpt-4.1-nano")) == (Decimal("0.1"), Decimal(3))
    assert await usage_cost(mine, "gpt-4.1-nano", occurred_at="2026-01-02") == before


async def test_below_the_operator_s_own_cards(world: World) -> None:
    mine = await world.key(await world.organization(), "admin", "usage:write")
    file_card = NewUpdate(provider="custom", model="m", tier="default", body=json.dumps(FILE_CARD), source="update:f")
    await world.ledger.prices.book_updates([file_card], None)
    await world.services.prices.refresh()
    assert await usage_cost(mine, "m", "custom") == 5
    await mine.post("/v1/admin/prices", {**FILE_CARD, "per_million": {"input": 2, "output": 2}})
    assert await usage_cost(mine, "m", "custom") == 2


async def test_they_are_no_cards_of_the_api(world: World) -> None:
    await world.ledger.prices.book_updates([release("gpt-99", "3")], None)
    (booked,) = (await world.ledger.prices.everything())[1]
    assert (booked.source, exact(await world.admin.get("/v1/admin/prices"))["prices"]) == ("genai-prices 9.9", [])
    with pytest.raises(NotFound):
        await world.ledger.prices.delete(booked.id)


async def test_a_past_moment_and_too_many_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    book = world.ledger.prices.book_updates
    with pytest.raises(InvalidRequest, match="the past keeps its prices"):
        await book([release("gpt-99", "3")], 1)
    monkeypatch.setattr(stored_prices, "MOST_CARDS", 1)
    with pytest.raises(Conflict):
        await book([release("gpt-98", "3"), release("gpt-99", "3")], None)
    assert (await world.ledger.prices.everything())[1] == []


async def test_one_that_cannot_be_read_is_left_out_loudly(world: World, caplog: pytest.LogCaptureFixture) -> None:
    bad = NewUpdate(provider="openai", model="m", tier="default", body='{"match": 5}', source="genai-prices 10")
    await world.ledger.prices.book_updates([bad, release("gpt-99", "3")], None)
    await world.services.prices.refresh()
    mine = await world.key(await world.organization(), "usage:write")
    assert "is left out" in caplog.text
    assert await usage_cost(mine, "gpt-99") == 3
