"""Field types of bodies and queries, and the shapes they take in answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import isfinite
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from faregate.api.http import encode
from faregate.core.money import parse_decimal
from faregate.errors import InvalidRequest
from faregate.ledger.accounts import Page

MAX_METADATA_BYTES = 16_384
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_MICROSECOND = timedelta(microseconds=1)


# Moments ------------------------------------------------------------------------------------------------


def iso(moment_us: int | None) -> str | None:
    """UTC microseconds as ISO 8601 with Z."""
    if moment_us is None:
        return None
    moment = _EPOCH + timedelta(microseconds=moment_us)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_moment(text: str, param: str, *, end: bool = False) -> int:
    """ISO 8601 as UTC microseconds; without a zone it is UTC. A bare date is its first moment, or (`end`) the next
    day's, so that a span of dates holds its last day."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        if end and _DATE.fullmatch(text):
            moment += timedelta(days=1)
        return (moment.astimezone(UTC) - _EPOCH) // _MICROSECOND  # beyond the year 9999 there is no answer to show
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{param} must be an ISO 8601 date or time", param=param) from None


def span(start: str | None, end: str | None) -> tuple[int | None, int | None]:
    """`startDate` and `endDate` as microseconds, start before end."""
    start_us = None if start is None else parse_moment(start, "startDate")
    end_us = None if end is None else parse_moment(end, "endDate", end=True)
    if start_us is not None and end_us is not None and start_us >= end_us:
        raise InvalidRequest("startDate must be before endDate", param="endDate")
    return start_us, end_us


def expiry(now_us: int, text: str | None) -> int | None:
    """`expiresAt`, in the future; None: never."""
    if text is None:
        return None
    expires_us = parse_moment(text, "expiresAt")
    if expires_us <= now_us:
        raise InvalidRequest("expiresAt must be in the future", param="expiresAt")
    return expires_us


# Types --------------------------------------------------------------------------------------------------


def whole(value: object) -> object:
    """A whole number of a query, whose parameters are text."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise ValueError("must be a whole number")
    return int(value)


def _flag(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value == "true"


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    plain = {name: _storable(item) for name, item in value.items()}
    if len(encode(plain)) > MAX_METADATA_BYTES:
        raise ValueError(f"is longer than {MAX_METADATA_BYTES} bytes of JSON")
    return plain


def _storable(value: object) -> object:
    if isinstance(value, dict):
        return {name: _storable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, Decimal):
        if not isfinite(float(value)):
            raise ValueError("holds a number that is too large")
        return float(value)
    if isinstance(value, str) and "\x00" in value:
        raise ValueError("holds a NUL character")
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError("holds a whole number of more than 64 bits")
    return value


def bounded_decimal(value: object, param: str, least: Decimal, most: Decimal, *, places: int = 6) -> Decimal:
    """A decimal from `least` to `most` with at most so many places. Raises InvalidRequest."""
    number = parse_decimal(value, param)
    exponent = number.as_tuple().exponent
    if not least <= number <= most or not isinstance(exponent, int) or exponent < -places:
        raise InvalidRequest(f"{param} must be from {least:f} to {most:f}, to {places} places", param=param)
    return number


NO_NUL = r"^[^\x00]*$"
"""PostgreSQL's text has no room for it."""
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]
Text = Annotated[str, Field(max_length=1000, pattern=NO_NUL)]
Metadata = Annotated[dict[str, Any], AfterValidator(_metadata)]
Limit = Annotated[int, Field(ge=1, le=1000), BeforeValidator(whole)]
Offset = Annotated[int, Field(ge=0, le=999_999_999), BeforeValidator(whole)]
_MOMENT = {"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}]}
Moment = Annotated[str, Field(min_length=1, max_length=200), WithJsonSchema(_MOMENT)]
"""ISO 8601: read by `parse_moment`."""
Flag = Annotated[bool, BeforeValidator(_flag)]
_NUMERAL = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_AMOUNT = {"anyOf": [{"type": "number"}, {"type": "string", "maxLength": 64, "pattern": _NUMERAL}]}
Amount = Annotated[Any, WithJsonSchema(_AMOUNT)]
"""Credits: read by `core.money.parse_credits`, which knows what a credit can be."""


# Shapes -------------------------------------------------------------------------------------------------


def pagination(page: Page[Any]) -> Mapping[str, object]:
    """`pagination{limit, offset, totalCount, hasMore}`."""
    return {"limit": page.limit, "offset": page.offset, "totalCount": page.total, "hasMore": page.has_more}
