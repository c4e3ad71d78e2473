"""A card of an update as the book has it: apart from `release`, so that no worker loads what only commands read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from faregate.errors import InvalidRequest
from faregate.pricing import genai_model
from faregate.pricing.entries import EntryError, PriceEntry
from faregate.pricing.entries import build as build_entry
from faregate.pricing.updates import Update


def stored_update(fields: Mapping[str, object], *, provider: str, source: str, start_us: int) -> PriceEntry | Update:
    """A card of an update as the book has it. Raises InvalidRequest."""
    start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=start_us)
    try:
        if "match" in fields:
            return Update(seller=provider, info=genai_model.build(fields), source=source, start=start)
        return build_entry(fields, source=source, created_at_us=start_us)
    except EntryError as error:
        raise InvalidRequest(".".join(map(str, error.path)) + f": {error.message}") from None
