from __future__ import annotations

import pytest
from tests.ledger.conftest import World

from faregate.core.call import Limit
from faregate.core.money import MAX_MICROCREDITS
from faregate.errors import InvalidRequest, NotFound
from faregate.ledger.audit import audit

CREDITS = Limit(id="k1.credits.month", kind="credits", window="month", max=10_000)
TOKENS = Limit(id="k1.tokens.day", kind="tokens", window="day", max=10_000)
REQUESTS = Limit(id="k1.requests.minute", kind="requests", window="minute", max=10_000)


async def test_gated_is_what_held_before_the_mark(world: World) -> None:
    assert not (await world.book.snapshot(world.account_id, [], gate=False)).gated
    assert not (await world.book.snapshot(world.account_id, [], gate=True)).gated
    assert (await world.book.snapshot(world.account_id, [], gate=True)).gated
    assert (await world.book.commit(world.record())).snapshot.gated


async def test_gated_with_windows_is_also_what_held_before(world: World) -> None:
    assert not (await world.book.snapshot(world.account_id, [(CREDITS, 60)], gate=True)).gated
    assert (await world.book.snapshot(world.account_id, [(CREDITS, 60)], gate=True)).gated


async def test_a_record_moves_the_windows_that_admitted_it(world: World) -> None:
    keys = tuple(f"{limit.id}:60" for limit in (CREDITS, TOKENS, REQUESTS))
    record = world.record(500, limit_keys=keys)
    answer = await world.book.commit(record)
    assert [(state.key, state.used, state.seq) for state in answer.snapshot.limits] == [
        (keys[0], 500, 1),
        (keys[1], 15, 1),
        (keys[2], 1, 1),
    ]
    assert (await world.book.commit(record)).snapshot.limits == answer.snapshot.limits
    assert audit(world.url) == []


async def test_concurrency_is_never_counted(world: World) -> None:
    answer = await world.book.commit(world.record(5, limit_keys=("k1.credits.day:0",)))
    assert len(answer.snapshot.limits) == 1


async def test_a_snapshot_names_windows_that_nothing_used(world: World) -> None:
    await world.book.commit(world.record(500, limit_keys=("k1.credits.month:60",)))
    snapshot = await world.book.snapshot(world.account_id, [(CREDITS, 60), (TOKENS, 120)], gate=True)
    assert [(state.key, state.used, state.seq) for state in snapshot.limits] == [
        ("k1.credits.month:60", 500, 1),
        ("k1.tokens.day:120", 0, 0),
    ]


async def test_credits_come_in_as_an_entry(world: World) -> None:
    entry, snapshot = await world.book.add_credits(
        world.account_id, 2_000, description="top-up", payment_method="card", metadata={"invoice": 7}
    )
    assert (entry.type, entry.amount, entry.balance_after, entry.seq) == ("credit", 2_000, 2_000, 1)
    assert (snapshot.posted, snapshot.seq) == (2_000, 1)


@pytest.mark.parametrize("amount", [0, -1, MAX_MICROCREDITS + 1])
async def test_amounts_that_cannot_be(world: World, amount: int) -> None:
    with pytest.raises(InvalidRequest):
        await world.book.add_credits(world.account_id, amount)


async def test_the_balance_stays_within_what_a_double_holds(world: World) -> None:
    await world.book.add_credits(world.account_id, MAX_MICROCREDITS)
    with pytest.raises(InvalidRequest):
        await world.book.add_credits(world.account_id, 1)


async def test_an_overdraft_is_a_zero_entry(world: World) -> None:
    snapshot = await world.book.set_overdraft(world.account_id, 700)
    assert (snapshot.overdraft, snapshot.posted, snapshot.seq) == (700, 0, 1)
    assert audit(world.url) == []


async def test_an_unknown_account_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        await world.book.snapshot("acc_x", [], gate=True)
    with pytest.raises(NotFound):
        await world.book.add_credits("acc_x", 5)
