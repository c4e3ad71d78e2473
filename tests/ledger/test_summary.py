from __future__ import annotations

import random
from decimal import Decimal

import pytest
from tests.ledger.conftest import NOW_US, World

from faregate.ledger.rollups import HOUR_US
from faregate.ledger.summary import GroupBy, Summaries, Totals
from faregate.ledger.usage import UsageRecords
from faregate.ledger.usage_filter import UsageFilter

HOUR = NOW_US - NOW_US % HOUR_US


async def _fill(world: World) -> None:
    for place in range(60):
        await world.book.commit(
            world.record(
                random.randint(0, 5_000),
                kind=random.choice(["actual", "ingested"]),
                cost_usd=Decimal(random.randint(0, 10**12)).scaleb(-21),
                occurred_at_us=HOUR + random.randint(-50 * HOUR_US, 50 * HOUR_US),
                context=random.choice(["customer", "system"]),
                model=random.choice(["m1", "m2"]),
                attribution=random.choice([{}, {"agent": "a", "tag.t": "1"}, {"agent": "b"}]),
                usage={"input_tokens": place, "cached_input_tokens": 1, "output_tokens": 2},
            )
        )


async def _expected(world: World, wanted: UsageFilter) -> Totals:
    total = Totals()
    for record in (await UsageRecords(world.database).list(wanted, limit=1_000)).records:
        total.cost_usd += record.cost_usd
        total.charge_microcredits += record.charge_microcredits
        total.input_tokens += int(str(record.usage["input_tokens"]))
        total.cached_input_tokens += 1
        total.output_tokens += 2
        total.count += 1
    return total


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (None, None),
        (HOUR - 7, None),
        (None, HOUR + 7),
        (HOUR - 20 * HOUR_US, HOUR + 20 * HOUR_US),
        (HOUR - 3 * HOUR_US - 5, HOUR + 9 * HOUR_US + 11),
        (HOUR + 5, HOUR + 500),
        (HOUR + 5, HOUR + HOUR_US - 5),
    ],
)
async def test_a_summary_is_the_sum_of_its_records(world: World, start: int | None, end: int | None) -> None:
    await _fill(world)
    for attribution in ({}, {"tag.t": "1"}):
        wanted = UsageFilter(organization_id=world.organization_id, start_us=start, end_us=end, attribution=attribution)
        summary = await Summaries(world.database).get(wanted)
        assert summary.total == await _expected(world, wanted)


@pytest.mark.parametrize(
    "group_by",
    ["model", "public_model", "context", "account", "agent", "feature", "provider", "key", "day", "week", "month"],
)
async def test_groups_add_up(world: World, group_by: GroupBy) -> None:
    await _fill(world)
    wanted = UsageFilter(organization_id=world.organization_id, start_us=HOUR - 30 * HOUR_US - 1)
    summary = await Summaries(world.database).get(wanted, group_by=group_by)
    for parts in (summary.groups, summary.by_context, summary.by_model):
        total = Totals()
        for part in parts.values():
            total.add(part)
        assert total == summary.total


async def test_time_groups_are_named_by_their_first_day(world: World) -> None:
    sunday = 1_767_528_000_000_000  # 2026-01-04T12:00Z
    await world.book.commit(world.record(1, occurred_at_us=sunday))
    wanted = UsageFilter(organization_id=world.organization_id)
    names = [list((await Summaries(world.database).get(wanted, group_by=by)).groups) for by in ("day", "week", "month")]
    assert names == [["2026-01-04"], ["2025-12-29"], ["2026-01"]]


async def test_an_adjustment_corrects_the_sum_but_is_no_call(world: World) -> None:
    guess = world.record(1_000, kind="unconfirmed", hold_id="h")
    await world.book.commit(guess)
    await world.book.commit(world.record(400, hold_id="h"))
    total = (await Summaries(world.database).get(UsageFilter(organization_id=world.organization_id))).total
    assert (total.charge_microcredits, total.count, total.cost_usd) == (400, 1, Decimal("4e-7"))


async def test_nothing_sums_to_zero(world: World) -> None:
    assert (await Summaries(world.database).get(UsageFilter(organization_id="org_x"))).total == Totals()
