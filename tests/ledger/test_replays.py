from __future__ import annotations

from dataclasses import replace

import pytest
from tests.ledger.conftest import World

from faregate.errors import IdempotencyMismatch, InProgress
from faregate.ledger.replays import Replays
from faregate.ports import ReplayClaim, ReplayedAnswer

ANSWER = ReplayedAnswer(headers={"content-type": "audio/mpeg"}, body=b"\x00\xff sound")


@pytest.fixture
def claim(world: World) -> ReplayClaim:
    return ReplayClaim(organization_id=world.organization_id, key="k", fingerprint="f")


async def test_claimed_kept_and_said_again(world: World, claim: ReplayClaim) -> None:
    one, other = Replays(world.database, "one"), Replays(world.database, "other")
    later = world.now.us + 60_000_000
    assert await one.begin(claim, later) is True
    with pytest.raises(InProgress):
        await other.begin(claim, later)
    await one.keep(claim, ANSWER, later)
    assert await other.begin(claim, later) == ANSWER
    with pytest.raises(IdempotencyMismatch):
        await other.begin(replace(claim, fingerprint="g"), later)


async def test_an_abandoned_claim_is_taken_over(world: World, claim: ReplayClaim) -> None:
    one, other = Replays(world.database, "one"), Replays(world.database, "other")
    assert await one.begin(claim, world.now.us + 10) is True
    await one.renew(world.now.us + 20)
    world.now.us += 15
    with pytest.raises(InProgress):
        await other.begin(claim, world.now.us + 10)
    world.now.us += 10
    assert await other.begin(claim, world.now.us + 10) is True
    await one.keep(claim, ANSWER, world.now.us + 100)
    await one.drop(claim)
    with pytest.raises(InProgress):
        await one.begin(claim, world.now.us + 10)


async def test_what_is_dropped_or_expired_is_gone(world: World, claim: ReplayClaim) -> None:
    store = Replays(world.database, "one")
    await store.begin(claim, world.now.us + 10)
    await store.drop(claim)
    assert await store.begin(claim, world.now.us + 10) is True
    await store.keep(claim, ANSWER, world.now.us + 10)
    assert await store.purge() == 0
    world.now.us += 11
    assert (await store.purge(), await store.begin(claim, world.now.us + 10)) == (1, True)
