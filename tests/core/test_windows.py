from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.core.call import Window
from faregate.core.windows import FAR_FUTURE_S, window_bounds

WINDOWS: tuple[Window, ...] = ("minute", "hour", "day", "week", "month", "total")
moments = st.integers(min_value=0, max_value=FAR_FUTURE_S - 1)


def _s(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("window", "now", "start", "end"),
    [
        ("minute", "2026-03-05T12:34:56", "2026-03-05T12:34:00", "2026-03-05T12:35:00"),
        ("hour", "2026-12-31T23:59:59", "2026-12-31T23:00:00", "2027-01-01T00:00:00"),
        ("day", "2024-02-29T00:00:00", "2024-02-29T00:00:00", "2024-03-01T00:00:00"),
        ("week", "2026-01-01T10:00:00", "2025-12-29T00:00:00", "2026-01-05T00:00:00"),
        ("week", "2026-01-04T23:59:59", "2025-12-29T00:00:00", "2026-01-05T00:00:00"),
        ("month", "2024-02-29T23:59:59", "2024-02-01T00:00:00", "2024-03-01T00:00:00"),
        ("month", "2023-02-28T23:59:59", "2023-02-01T00:00:00", "2023-03-01T00:00:00"),
        ("month", "2100-02-28T12:00:00", "2100-02-01T00:00:00", "2100-03-01T00:00:00"),
        ("month", "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
    ],
)
def test_known_windows(window: Window, now: str, start: str, end: str) -> None:
    assert window_bounds(window, _s(now)) == (_s(start), _s(end))


def test_total_is_one_window_for_ever() -> None:
    assert window_bounds("total", 0) == window_bounds("total", FAR_FUTURE_S - 1) == (0, FAR_FUTURE_S)


def test_the_last_month_there_is_ends_where_total_ends() -> None:
    assert window_bounds("month", FAR_FUTURE_S - 1)[1] == FAR_FUTURE_S


@given(window=st.sampled_from(WINDOWS), now=moments)
def test_a_window_holds_its_moment(window: Window, now: int) -> None:
    start, end = window_bounds(window, now)
    assert start <= now < end


@given(window=st.sampled_from(WINDOWS), now=moments, data=st.data())
def test_every_moment_of_a_window_has_the_same_window(window: Window, now: int, data: st.DataObject) -> None:
    start, end = window_bounds(window, now)
    other = data.draw(st.integers(min_value=max(0, start), max_value=min(end, FAR_FUTURE_S) - 1))
    assert window_bounds(window, other) == (start, end)


@given(window=st.sampled_from(WINDOWS[:-1]), now=st.integers(min_value=0, max_value=FAR_FUTURE_S - 40 * 86_400))
def test_windows_follow_each_other_without_a_gap(window: Window, now: int) -> None:
    _, end = window_bounds(window, now)
    assert window_bounds(window, end)[0] == end


@given(now=moments)
def test_a_week_is_seven_days_from_a_monday(now: int) -> None:
    start, end = window_bounds("week", now)
    assert end - start == 7 * 86_400
    assert (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=start)).weekday() == 0


@given(now=moments)
def test_a_month_is_as_long_as_the_calendar_says(now: int) -> None:
    start, end = window_bounds("month", now)
    first = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=start)
    assert first.day == 1
    assert end - start == monthrange(first.year, first.month)[1] * 86_400
