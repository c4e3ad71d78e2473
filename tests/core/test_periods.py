from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.core.periods import INTERVALS, Interval, next_boundary, period_start

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


def us(text: str) -> int:
    return int((datetime.fromisoformat(text).replace(tzinfo=UTC) - EPOCH).total_seconds()) * 1_000_000


@pytest.mark.parametrize(
    ("anchor", "interval", "starts"),
    [
        ("2024-01-31T10:30:00", "month", ["2024-02-29T10:30:00", "2024-03-31T10:30:00", "2024-04-30T10:30:00"]),
        ("2023-01-30", "month", ["2023-02-28", "2023-03-30"]),
        ("2023-12-05", "month", ["2024-01-05", "2024-02-05"]),
        ("2024-02-28T23:59:59", "1d", ["2024-02-29T23:59:59", "2024-03-01T23:59:59"]),
        ("2024-12-30", "week", ["2025-01-06", "2025-01-13"]),
    ],
)
def test_periods_are_counted_from_the_anchor(anchor: str, interval: Interval, starts: list[str]) -> None:
    found = [period_start(us(anchor), interval, number) for number in range(len(starts) + 1)]
    assert found == [us(anchor), *map(us, starts)]


@given(MOMENTS, st.sampled_from(INTERVALS), st.integers(0, 2000))
def test_a_period_ends_where_the_next_begins_and_none_is_empty(
    anchor: datetime, interval: Interval, number: int
) -> None:
    anchor_us = int((anchor - EPOCH).total_seconds()) * 1_000_000 + anchor.microsecond
    starts = [period_start(anchor_us, interval, number + more) for more in range(3)]
    lengths = {(after - before) / 86_400_000_000 for before, after in pairwise(starts)}
    assert lengths <= {"1d": {1.0}, "week": {7.0}, "month": {28.0, 29.0, 30.0, 31.0}}[interval]


@pytest.mark.parametrize(
    ("now", "interval", "boundary"),
    [
        ("2024-02-29T10:00:00", "1d", "2024-03-01"),
        ("2024-02-29", "1d", "2024-03-01"),
        ("2024-05-01T10:00:00", "week", "2024-05-06"),
        ("2024-05-06", "week", "2024-05-13"),
        ("2024-12-31T23:59:59", "month", "2025-01-01"),
        ("2024-01-01", "month", "2024-02-01"),
    ],
)
def test_the_next_boundary_is_a_calendar_s_in_utc(now: str, interval: Interval, boundary: str) -> None:
    assert next_boundary(us(now), interval) == us(boundary)


def test_the_calendar_ends_with_the_year_9999() -> None:
    with pytest.raises((ValueError, OverflowError)):
        period_start(us("2024-01-01"), "month", 10_000 * 12)
