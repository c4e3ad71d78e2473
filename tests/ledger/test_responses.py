"""Rows of responses: written with their record, polled by one process at a time, forgotten in the end."""

from __future__ import annotations

from decimal import Decimal

import pytest
from tests.ledger.conftest import World

from faregate.core.call import Record
from faregate.core.price import PriceCard
from faregate.ledger.kept import KEPT_S
from faregate.ledger.responses import Responses

CARD = PriceCard(id="c", provider="openai", model="m", rates={"input": Decimal("0.1")}, source="t")


@pytest.fixture
def store(world: World) -> Responses:
    return Responses(world.database, "one")


def running(world: World, response_id: str = "resp_1") -> Record:
    return world.record(upstream_id=response_id, card=CARD, usage={"input_tokens": 3})


async def test_a_record_brings_its_row(world: World, store: Responses) -> None:
    record = world.record(upstream_id="resp_1")
    await world.book.commit(record)
    kept = await store.find(world.organization_id, "resp_1")
    assert kept is not None
    assert (kept.hold_id, kept.provider, kept.tokens, kept.running) == (record.hold_id, "openai", 15, None)
    assert await store.find("org_other", "resp_1") is None


async def test_one_that_runs_has_its_record(world: World, store: Responses) -> None:
    record = running(world)
    await store.begin(record, world.now.us + 1)
    await store.begin(record, world.now.us + 1)
    kept = await store.find(world.organization_id, "resp_1")
    assert kept is not None
    assert kept.running == record


async def test_its_record_ends_it_whichever_comes_first(world: World, store: Responses) -> None:
    record = running(world)
    await world.book.commit(record)
    await store.begin(record, world.now.us + 1)
    kept = await store.find(world.organization_id, "resp_1")
    assert kept is not None
    assert kept.running is None


async def test_a_late_truth_ends_it_too(world: World, store: Responses) -> None:
    record = running(world)
    await store.begin(record, world.now.us + 1)
    await world.book.commit(world.record(hold_id=record.hold_id, kind="unconfirmed"))
    kept = await store.find(world.organization_id, "resp_1")
    assert kept is not None
    assert kept.running is not None
    await world.book.commit(world.record(2_000, hold_id=record.hold_id, upstream_id="resp_1"))
    kept = await store.find(world.organization_id, "resp_1")
    assert kept is not None
    assert kept.running is None


async def test_only_what_nobody_polls_is_claimed(world: World, store: Responses) -> None:
    other = Responses(world.database, "two")
    await store.begin(running(world), world.now.us + 10)
    assert await other.claim(world.now.us + 50, 5) == []
    world.now.us += 11
    await store.renew(world.now.us + 10)
    assert await other.claim(world.now.us + 50, 5) == []
    world.now.us += 11
    (kept,) = await other.claim(world.now.us + 50, 5)
    assert kept.id == "resp_1"
    await store.renew(world.now.us)
    assert await store.claim(world.now.us + 50, 5) == []


async def test_ended_deleted_and_forgotten(world: World, store: Responses) -> None:
    await store.begin(running(world), world.now.us)
    await store.begin(running(world, "resp_2"), world.now.us)
    one = await store.find(world.organization_id, "resp_1")
    two = await store.find(world.organization_id, "resp_2")
    assert one is not None
    assert two is not None
    await store.end(one)
    await store.drop(two)
    world.now.us += KEPT_S * 1_000_000
    assert await store.purge(10) == 0
    world.now.us += 1
    assert [await store.purge(10), await store.purge(10)] == [1, 0]
    assert await store.find(world.organization_id, "resp_1") is None
