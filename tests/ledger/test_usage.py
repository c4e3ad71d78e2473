from __future__ import annotations

import itertools
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from tests.ledger.conftest import NOW_US, World, explain

from faregate.core.price import LongContext, PriceCard
from faregate.errors import InvalidRequest, NotFound
from faregate.ledger.organizations import Organizations
from faregate.ledger.usage import UsageOrder, UsageRecord, UsageRecords
from faregate.ledger.usage_filter import UsageFilter

CARD = PriceCard(
    id="card_1",
    provider="openai",
    model="gpt-4.1-mini",
    rates={"input": Decimal("0.0000004")},
    tiers={"flex": {"input": Decimal("0.0000002")}},
    long_context=(LongContext(above=200_000, rates={"input": Decimal("0.0000008")}),),
    source="supplement",
)


def _all(world: World, **wanted: object) -> UsageFilter:
    return UsageFilter(organization_id=world.organization_id, **wanted)  # type: ignore[arg-type]


async def _ids(world: World, **wanted: object) -> list[str]:
    page = await UsageRecords(world.database).list(_all(world, **wanted), limit=100)
    return [record.request_id for record in page.records]


async def test_a_record_comes_back_as_it_was(world: World) -> None:
    record = world.record(
        400,
        cost_usd=Decimal("0.000000400000000000000001"),
        card=CARD,
        lines=(("input", "1", "0.0000004", "0.0000004"), ("fee", "3", "1", "2.5")),
        usage={"input_tokens": 1, "output_tokens": 0, "audio_seconds": "1.5"},
        attribution={"agent": "a", "feature": "f", "user": "u", "tag.team": "x"},
        estimated=True,
        raw_usage='{"prompt_tokens":1}',
    )
    committed = await world.book.commit(record)
    found = await UsageRecords(world.database).get(committed.usage_id, organization_id=world.organization_id)
    got = found.record
    assert (got.cost_usd, got.charge_microcredits, got.estimated) == (record.cost_usd, 400, True)
    assert got.usage == record.usage
    assert got.attribution == record.attribution
    assert got.lines[0] == ("input", Decimal(1), Decimal("0.0000004"), Decimal("0.0000004"))
    assert got.lines[1] == ("fee", Decimal(3), Decimal(1), Decimal("2.5"))
    assert (found.card, found.adjustment) == (CARD, None)


async def test_one_record_by_request_id_with_its_adjustment(world: World) -> None:
    guess = world.record(10, kind="unconfirmed", request_id="req_7")
    await world.book.commit(guess)
    await world.book.commit(replace(guess, kind="actual", charge_microcredits=4, card=CARD))
    found = await UsageRecords(world.database).get("req_7", organization_id=None)
    assert found.record.charge_microcredits == 10
    assert found.adjustment is not None
    assert found.adjustment.charge_microcredits == -6
    assert found.card == CARD


async def test_another_organizations_record_does_not_exist(world: World) -> None:
    committed = await world.book.commit(world.record())
    with pytest.raises(NotFound):
        await UsageRecords(world.database).get(committed.usage_id, organization_id="org_other")
    page = await UsageRecords(world.database).list(UsageFilter(organization_id="org_other"), limit=5)
    assert page.records == ()


async def test_pages_by_cursor_are_complete_and_in_order(world: World) -> None:
    for place in range(25):
        await world.book.commit(world.record(1, request_id=f"r{place}", occurred_at_us=NOW_US + place // 3))
    seen: list[str] = []
    cursor = None
    while True:
        page = await UsageRecords(world.database).list(_all(world), limit=4, cursor=cursor)
        seen += [record.request_id for record in page.records]
        if (cursor := page.next_cursor) is None:
            break
    assert len(seen) == len(set(seen)) == 25
    assert seen[0] in {"r24", "r23"}
    assert set(seen[-3:]) == {"r0", "r1", "r2"}


@pytest.mark.parametrize(("more", "index"), [("", "organization"), ("account_id = 'a' AND", "account")])
async def test_a_deep_page_uses_the_index(world: World, more: str, index: str) -> None:
    sql = (
        f"SELECT * FROM usage_records WHERE organization_id = 'o' AND {more}"
        " (occurred_us, id) < (1, 'x') ORDER BY occurred_us DESC, id DESC LIMIT 5"
    )
    plan = " ".join(await world.database.read(explain, sql))
    if world.url.startswith("sqlite"):
        assert f"ix_usage_records_{index} " in plan
    else:  # each month's own indexes, merged
        assert "Merge Append" in plan
        assert "Seq Scan" not in plan
    assert "(occurred_us,id)<(?,?)" in plan or "ROW(occurred_us, id) < ROW(" in plan
    assert "Sort  (" not in plan


@pytest.mark.parametrize("cursor", ["x", "!!!!", "MTox", "é"])
async def test_a_cursor_that_is_none(world: World, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        await UsageRecords(world.database).list(_all(world), limit=4, cursor=cursor)


async def test_filters(world: World) -> None:
    odd = '"; DROP TABLE entries; --'
    await world.book.commit(world.record(1, request_id="a", attribution={"agent": "x", "tag.team": odd}))
    await world.book.commit(world.record(1, request_id="b", public_model="slow", key_id="k2", provider="azure"))
    await world.book.commit(world.record(1, request_id="c", account_id=world.other_account_id, context="system"))
    await world.book.commit(world.record(1, request_id="d", occurred_at_us=NOW_US - 1, model="gpt-5"))
    assert await _ids(world, agent="x") == ["a"]
    assert await _ids(world, attribution={"tag.team": odd}) == ["a"]
    assert await _ids(world, attribution={odd: "1"}) == []
    assert await _ids(world, model="slow") == await _ids(world, key_id="k2") == ["b"]
    assert await _ids(world, model="gpt-5") == await _ids(world, end_us=NOW_US) == ["d"]
    assert await _ids(world, account_id=world.other_account_id) == await _ids(world, context="system") == ["c"]
    assert await _ids(world, start_us=NOW_US, provider="azure") == ["b"]


async def test_pages_by_offset_in_either_order(world: World) -> None:
    for charge in (2_000, 3_000, 1_000):
        world.now.us += 1_000_000
        await world.book.commit(world.record(charge, hold_id=f"h{charge}", occurred_at_us=world.now.us))
    records = UsageRecords(world.database)

    async def charges(by: UsageOrder, **wanted: int) -> list[int]:
        page = await records.page(_all(world), by, limit=wanted.get("limit", 9), offset=wanted.get("offset", 0))
        assert page.total == 3
        return [record.charge_microcredits for record in page.items]

    assert await charges(("occurred", True)) == [1_000, 3_000, 2_000]
    assert await charges(("occurred", False), limit=2) == [2_000, 3_000]
    assert await charges(("charge", True), limit=2, offset=1) == [2_000, 1_000]
    assert await charges(("charge", False)) == [1_000, 2_000, 3_000]


async def test_a_page_shows_a_late_truth_not_the_guess(world: World) -> None:
    await world.book.commit(world.record(5_000, hold_id="h", kind="unconfirmed"))
    await world.book.commit(world.record(3_000, hold_id="h", usage={"input_tokens": 4, "output_tokens": 5}))
    page = await UsageRecords(world.database).page(_all(world), ("occurred", True), limit=9, offset=0)
    assert (page.total, [record.charge_microcredits for record in page.items]) == (1, [3_000])
    assert page.items[0].usage["input_tokens"] == 4


@pytest.mark.parametrize("down", [True, False])
async def test_every_filter_walks_to_the_same_records(world: World, down: bool) -> None:
    for place in range(60):
        await world.book.commit(
            world.record(
                1,
                occurred_at_us=NOW_US + place // 2,
                key_id=f"k{place % 3}",
                context=("customer", "system")[place % 2],
                public_model=f"m{place % 4}",
                attribution=({"agent": "x", "tag.t": "1"}, {"feature": "f"}, {})[place % 3],
            )
        )
    tagged = {"attribution": {"tag.t": "1"}}
    choices: list[dict[str, Any]] = [{"key_id": "k0"}, {"context": "system"}, {"model": "m1"}, {"agent": "x"}, tagged]
    whole = UsageRecords(world.database)
    everything = (await whole.list(_all(world), limit=100)).records
    for first, second in itertools.product(choices, repeat=2):
        wanted = _all(world, **first, **{name: value for name, value in second.items() if name not in first})
        expected = [record.id for record in everything if _takes(wanted, record)]
        for start, most in ((None, 3), (NOW_US + 7, 50)):
            page = await whole.page(replace(wanted, start_us=start), ("occurred", down), limit=most, offset=1)
            told = [one.id for one in everything if one.id in expected and (start is None or one.occurred_us >= start)]
            assert [one.id for one in page.items] == (told if down else told[::-1])[1 : 1 + most]
            assert page.total == len(told)


def _takes(wanted: UsageFilter, record: UsageRecord) -> bool:
    asked = {"key_id": wanted.key_id, "context": wanted.context, "public_model": wanted.model}
    attribution = {**wanted.labels}
    return all(value in (None, getattr(record, name)) for name, value in asked.items()) and all(
        record.attribution.get(name) == value for name, value in attribution.items()
    )


async def test_all_organizations_are_merged_by_time(world: World) -> None:
    other = await Organizations(world.database).create(name="Other")
    for place in range(6):
        whose = {"organization_id": other.id, "account_id": other.default_account_id} if place % 2 else {}
        await world.book.commit(world.record(1, request_id=str(place), occurred_at_us=NOW_US + place, **whose))
    page = await UsageRecords(world.database).list(UsageFilter(organization_id=None), limit=4)
    assert [record.request_id for record in page.records] == ["5", "4", "3", "2"]


async def test_a_long_label_is_compared_whole(world: World) -> None:
    for end in ("a", "b"):
        await world.book.commit(world.record(1, request_id=end, attribution={"tag.x": "é" * 300 + end}))
    assert await _ids(world, attribution={"tag.x": "é" * 300 + "b"}) == ["b"]
