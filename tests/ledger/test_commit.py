from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from decimal import Decimal

import pytest
from tests.ledger.conftest import World

from faregate.core.call import Record
from faregate.errors import BookRefused
from faregate.ledger.commit import write_batch
from faregate.ledger.engine import transact


def _rows(world: World, sql: str) -> list[tuple[object, ...]]:
    return transact(world.url, lambda conn: [tuple(row) for row in conn.exec_driver_sql(sql)])


def _batch(world: World, records: list[Record]) -> list[tuple[bool, int]]:
    answers = transact(world.url, lambda conn: write_batch(conn, records, world.now()))
    return [(answer.new, answer.charge_microcredits) for answer in answers]


async def test_a_new_record_is_charged_once(world: World) -> None:
    record = world.record(1_500)
    first, again = await world.book.commit(record), await world.book.commit(record)
    assert (first.new, first.snapshot.posted, first.snapshot.seq) == (True, -1_500, 1)
    assert (again.new, again.snapshot) == (False, first.snapshot)
    assert (again.usage_id, again.charge_microcredits) == (first.usage_id, 1_500)


async def test_the_same_hold_twice_in_one_batch_is_charged_once(world: World) -> None:
    record = world.record(700)
    assert _batch(world, [record, record, replace(record, charge_microcredits=900)]) == [
        (True, 700),
        (False, 700),
        (False, 700),
    ]
    assert (await world.book.snapshot(world.account_id, [], gate=False)).posted == -700


async def test_records_of_one_account_get_consecutive_entries(world: World) -> None:
    _batch(world, [world.record(charge) for charge in (5, 6, 7)])
    assert _rows(world, "SELECT seq, amount, balance_after FROM entries ORDER BY seq") == [
        (1, -5, -5),
        (2, -6, -11),
        (3, -7, -18),
    ]


async def test_nothing_charged_is_recorded_without_an_entry(world: World) -> None:
    answer = await world.book.commit(world.record(0, outcome="released"))
    assert (answer.new, answer.snapshot.posted, answer.snapshot.seq) == (True, 0, 0)
    assert _rows(world, "SELECT count(*) FROM entries") == [(0,)]
    assert _rows(world, "SELECT outcome, entry_id FROM usage_records") == [("released", None)]


@pytest.mark.parametrize(("guess", "truth"), [(1_000, 400), (400, 1_000), (0, 5), (5, 0), (7, 7)])
async def test_a_late_truth_is_one_adjustment(world: World, guess: int, truth: int) -> None:
    guessed = world.record(guess, kind="unconfirmed")
    actual = replace(guessed, kind="actual", charge_microcredits=truth, cost_usd=Decimal(truth).scaleb(-9))
    await world.book.commit(guessed)
    answer, again = await world.book.commit(actual), await world.book.commit(actual)
    assert (answer.new, answer.snapshot.posted, answer.charge_microcredits) == (True, -truth, truth)
    assert (again.new, again.snapshot.posted, again.charge_microcredits) == (False, -truth, truth)
    kinds = _rows(world, "SELECT kind, charge FROM usage_records ORDER BY is_adjustment")
    assert kinds == [("unconfirmed", guess), ("adjustment", truth - guess)]


async def test_a_guess_after_the_truth_is_a_duplicate(world: World) -> None:
    actual = world.record(300)
    await world.book.commit(actual)
    late = await world.book.commit(replace(actual, kind="unconfirmed", charge_microcredits=900))
    assert (late.new, late.snapshot.posted, late.charge_microcredits) == (False, -300, 300)


async def test_guess_and_truth_in_one_batch(world: World) -> None:
    guess = world.record(1_000, kind="unconfirmed")
    truth = replace(guess, kind="actual", charge_microcredits=250)
    assert _batch(world, [guess, truth, truth, guess]) == [
        (True, 1_000),
        (True, 250),
        (False, 250),
        (False, 250),
    ]
    assert (await world.book.snapshot(world.account_id, [], gate=False)).posted == -250


async def test_usage_and_cost_of_an_adjustment_are_differences(world: World) -> None:
    usage = {"input_tokens": 10, "audio_seconds": "1.5", "custom": {"pages": "2"}}
    guess = world.record(10, kind="unconfirmed", usage=usage)
    truth = replace(guess, kind="actual", usage={"input_tokens": 4, "audio_seconds": "2"}, cost_usd=Decimal("3e-9"))
    await world.book.commit(guess)
    await world.book.commit(truth)
    rows = _rows(world, "SELECT input_tokens, cost, usage FROM usage_records WHERE is_adjustment")
    assert (rows[0][0], Decimal(str(rows[0][1]))) == (-6, Decimal("-0.000000007"))
    assert rows[0][2] in (
        '{"audio_seconds":"0.5","custom":{"pages":"-2"}}',
        '{"custom":{"pages":"-2"},"audio_seconds":"0.5"}',
    )


async def test_a_deduction_is_an_entry_keyed_by_its_hold(world: World) -> None:
    deduct = world.record(50, endpoint="credits.deduct", hold_kind="api", attribution={"metadata.order": "7"})
    first, again = await world.book.commit(deduct), await world.book.commit(deduct)
    assert (first.new, again.new, again.snapshot.posted) == (True, False, -50)
    assert first.usage_id == again.usage_id
    assert first.usage_id.startswith("txn_")
    assert _rows(world, "SELECT count(*) FROM usage_records") == [(0,)]
    assert _rows(world, "SELECT reason, meta FROM entries") == [("debit", '{"order":"7"}')]


async def test_a_deduction_guessed_by_the_sweeper_is_adjusted(world: World) -> None:
    guess = world.record(50, endpoint="credits.deduct", hold_kind="api", kind="unconfirmed")
    await world.book.commit(guess)
    truth = await world.book.commit(replace(guess, kind="actual", charge_microcredits=80))
    again = await world.book.commit(replace(guess, kind="actual", charge_microcredits=80))
    assert (truth.new, truth.snapshot.posted, truth.charge_microcredits) == (True, -80, 80)
    assert (again.new, again.snapshot.posted, again.charge_microcredits) == (False, -80, 80)


async def test_any_order_and_any_repetition_give_one_result(world: World) -> None:
    records = []
    for charge in range(1, 40):
        record = world.record(charge, account_id=random.choice([world.account_id, world.other_account_id]))
        records += [record] * random.randint(1, 4)
    random.shuffle(records)
    await asyncio.gather(*(world.book.commit(record) for record in records))
    accounts = (world.account_id, world.other_account_id)
    snapshots = [await world.book.snapshot(account, [], gate=False) for account in accounts]
    total = sum(snapshot.posted for snapshot in snapshots)
    assert total == -sum(range(1, 40))


async def test_unknown_accounts_and_foreign_organizations_are_refused(world: World) -> None:
    for change in ({"account_id": "acc_x"}, {"organization_id": "org_x"}):
        with pytest.raises(BookRefused):
            await world.book.commit(world.record(1, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"charge_microcredits": -1},
        {"charge_microcredits": 2**53 + 1},
        {"cost_usd": Decimal("NaN")},
        {"cost_usd": Decimal(-1)},
        {"usage": {"input_tokens": -5}},
        {"kind": "adjustment"},
        {"limit_keys": ("k1.credits.month",)},
        {"occurred_at_us": 2**70},
        {"description": "\ud800"},
    ],
)
async def test_what_cannot_be_is_refused(world: World, change: dict[str, object]) -> None:
    with pytest.raises(BookRefused):
        await world.book.commit(world.record(1, **change))


async def test_a_hold_of_another_account_is_refused_not_adjusted(world: World) -> None:
    guess = world.record(10, kind="unconfirmed")
    await world.book.commit(guess)
    with pytest.raises(BookRefused):
        await world.book.commit(replace(guess, kind="actual", account_id=world.other_account_id))
