"""When the periods of a plan begin: always counted from the anchor, so that nothing drifts. UTC."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

Interval = Literal["1d", "week", "month"]
INTERVALS: tuple[str, ...] = get_args(Interval)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1)


def period_start(anchor_us: int, interval: Interval, number: int) -> int:
    """UTC microseconds at which period `number` begins; 0 begins at the anchor.

    A month later is the same day and time of a later month, or that month's last day when it is shorter: from the
    31st of January it is the 28th or 29th of February, and the 31st of March again.
    """
    anchor = _EPOCH + anchor_us * _MICROSECOND
    if interval == "month":
        months = anchor.year * 12 + anchor.month - 1 + number
        year, month = months // 12, months % 12 + 1
        start = anchor.replace(year=year, month=month, day=min(anchor.day, monthrange(year, month)[1]))
    else:
        start = anchor + number * (_DAY if interval == "1d" else 7 * _DAY)
    return (start - _EPOCH) // _MICROSECOND


def next_boundary(now_us: int, interval: Interval) -> int:
    """The next beginning of a calendar day, week (Monday) or month in UTC, after this moment."""
    now = _EPOCH + now_us * _MICROSECOND
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if interval == "month":
        day = day.replace(day=1)
        start = (day + 31 * _DAY).replace(day=1)
    else:
        start = day + (_DAY if interval == "1d" else (7 - day.weekday()) * _DAY)
    return (start - _EPOCH) // _MICROSECOND
