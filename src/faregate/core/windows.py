"""Where the window of a limit begins and ends: UTC, whole seconds, pure arithmetic."""

from __future__ import annotations

from datetime import date

from faregate.core.call import Window

FAR_FUTURE_S = 253_402_300_800
"""The first second of the year 10000: the end of the window `total`."""

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_EPOCH_WEEKDAY = 3
"""1970-01-01 was a Thursday; ISO weeks begin on Monday."""


def window_bounds(window: Window, now_s: int) -> tuple[int, int]:
    """The window that holds `now_s`, as (first second, first second after it), both in UTC epoch seconds."""
    match window:
        case "minute":
            return _aligned(now_s, _MINUTE)
        case "hour":
            return _aligned(now_s, _HOUR)
        case "day":
            return _aligned(now_s, _DAY)
        case "week":
            monday = now_s // _DAY - (now_s // _DAY + _EPOCH_WEEKDAY) % 7
            return monday * _DAY, (monday + 7) * _DAY
        case "month":
            return _month(now_s)
        case "total":
            return 0, FAR_FUTURE_S


def _aligned(now_s: int, length_s: int) -> tuple[int, int]:
    start = now_s - now_s % length_s
    return start, start + length_s


def _month(now_s: int) -> tuple[int, int]:
    day = date.fromordinal(now_s // _DAY + _EPOCH_ORDINAL)
    year, month = (day.year + 1, 1) if day.month == 12 else (day.year, day.month + 1)
    return _first_second(day.year, day.month), _first_second(year, month)


def _first_second(year: int, month: int) -> int:
    if year > 9999:
        return FAR_FUTURE_S
    return (date(year, month, 1).toordinal() - _EPOCH_ORDINAL) * _DAY
