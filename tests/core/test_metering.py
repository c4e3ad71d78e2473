from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.core.metering import (
    DAY_US,
    HOUR_US,
    MAX_PARTS,
    MAX_VALUE,
    Answer,
    MeterEvent,
    charged_usd,
    identifier,
    last_closed_us,
    looked_up,
    sendable,
    split,
    timestamp_s,
    too_early_us,
    usd,
    wait_us,
)
from faregate.core.money import EXACT

NOW_US = 1_790_000_000_000_000
EVENT = MeterEvent(id="fg-1", meter="llm_usage", customer="cus_1", value=25, timestamp_s=1_789_999_140)


def test_an_hour_is_closed_two_minutes_after_its_end() -> None:
    end = NOW_US // HOUR_US * HOUR_US
    assert last_closed_us(end + 119_999_999) == end - HOUR_US
    assert last_closed_us(end + 120_000_000) == end


@pytest.mark.parametrize(
    ("owed", "parts", "left"),
    [
        ("0", [], "0"),
        ("0.0000009", [], "9E-7"),
        ("-3.5", [], "-3.5"),
        ("1.0000019", [1_000_001], "9E-7"),
        ("999999999.999999", [MAX_VALUE], "0"),
        ("1000000000", [MAX_VALUE, 1], "0"),
    ],
)
def test_what_is_owed_in_whole_micro_usd(owed: str, parts: list[int], left: str) -> None:
    assert split(Decimal(owed)) == (parts, Decimal(left))


@given(st.decimals(min_value=-(10**12), max_value=10**12, allow_nan=False, places=24))
def test_splitting_loses_nothing(owed: Decimal) -> None:
    parts, left = split(owed)
    with localcontext(EXACT):
        assert sum(map(usd, parts), left) == owed
    assert all(0 < part <= MAX_VALUE for part in parts)
    assert len(parts) <= MAX_PARTS
    assert not 0 < len(parts) < MAX_PARTS or 0 <= left < usd(1)


def test_a_charge_is_exact_or_rounded_at_the_24th_place() -> None:
    assert charged_usd(1_234_567, Decimal(1000)) == Decimal("0.001234567")
    assert charged_usd(1, Decimal(3)) == Decimal("0.000000333333333333333333")


def test_an_identifier_is_the_same_for_the_same_part_only() -> None:
    mine = identifier("0199d3c0-1111-7abc-8def-000000000001", "cus_1", "llm_usage", NOW_US, 1)
    assert mine == identifier("0199d3c0-1111-7abc-8def-000000000001", "cus_1", "llm_usage", NOW_US, 1)
    others = [
        identifier("0199d3c0-1111-7abc-8def-000000000002", "cus_1", "llm_usage", NOW_US, 1),
        identifier("0199d3c0-1111-7abc-8def-000000000001", "cus_2", "llm_usage", NOW_US, 1),
        identifier("0199d3c0-1111-7abc-8def-000000000001", "cus_1", "m" * 100, NOW_US, 1),
        identifier("0199d3c0-1111-7abc-8def-000000000001", "cus_1", "llm_usage", NOW_US + HOUR_US, 1),
        identifier("0199d3c0-1111-7abc-8def-000000000001", "cus_1", "llm_usage", NOW_US, 59),
    ]
    assert len({mine, *others}) == 6
    assert all(len(name) <= 100 for name in (mine, *others))


def test_each_part_has_a_minute_of_its_own_in_its_window() -> None:
    end = last_closed_us(NOW_US)
    moments = [timestamp_s(end, part) for part in range(1, MAX_PARTS + 1)]
    assert len(set(moments)) == MAX_PARTS
    assert all(end - HOUR_US < moment * 1_000_000 < end and moment % 60 == 0 for moment in moments)


def test_a_timestamp_that_grows_too_old_moves_into_the_newest_closed_hour() -> None:
    now_us = EVENT.timestamp_s * 1_000_000 + 34 * DAY_US
    assert sendable(EVENT, now_us) == EVENT
    moved = sendable(EVENT, now_us + 1)
    assert last_closed_us(now_us) - HOUR_US <= moved.timestamp_s * 1_000_000 < last_closed_us(now_us)
    assert replace(moved, timestamp_s=EVENT.timestamp_s) == EVENT


def test_a_timestamp_more_than_five_minutes_ahead_waits() -> None:
    at_us = EVENT.timestamp_s * 1_000_000
    assert too_early_us(EVENT, at_us - 300_000_000) == 0
    assert too_early_us(EVENT, at_us - 300_000_001) == 1


def test_waits_double_up_to_an_hour_and_heed_retry_after() -> None:
    unknown = Answer(fate="unknown", code="timeout")
    assert [wait_us(attempts, unknown) // 1_000_000 for attempts in (1, 2, 3, 200)] == [5, 10, 20, 3600]
    assert wait_us(1, Answer(fate="not_applied", retry_after_s=60)) == 60_000_000
    assert wait_us(1, Answer(fate="not_applied", retry_after_s=10**9)) == HOUR_US


@pytest.mark.parametrize(
    ("total", "others", "verdict"),
    [(25, 0, "delivered"), (0, 0, "missing"), (35, 10, "delivered"), (10, 10, "missing"), (30, 0, "ambiguous")],
)
def test_a_minutes_total_tells_whether_its_event_is_in_it(total: int, others: int, verdict: str) -> None:
    assert looked_up(EVENT, Decimal(total), others) == verdict
