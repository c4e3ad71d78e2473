"""The book's price cards, the API's and updates, as layers of the catalog: read at the start, then when it has others.

Each worker asks for a version every other second, so that a card is in force everywhere within seconds and no call
does anything for it. A card that cannot be read (a newer release wrote it) is left out, loudly.
"""

from __future__ import annotations

import asyncio
import logging

from faregate.api.http import parse_object
from faregate.errors import BookUnavailable, InvalidRequest
from faregate.ledger.prices import Prices, StoredPrice, Version
from faregate.pricing.catalog import LayeredCatalog
from faregate.pricing.entries import PriceEntry, build_from_api
from faregate.pricing.stored import stored_update
from faregate.pricing.updates import Update, Updates

log = logging.getLogger("faregate.api")


class PriceLayer:
    """Keeps a catalog's API cards as the book has them."""

    def __init__(self, prices: Prices, catalog: LayeredCatalog, *, every_s: float = 2.0) -> None:
        self._prices = prices
        self._catalog = catalog
        self._every_s = every_s
        self.version: Version = (0, 0, "")
        """Of the cards in force here."""

    async def refresh(self) -> None:
        """Take over what has changed. Raises BookUnavailable."""
        if await self._prices.version() == self.version:
            return
        version, stored = await self._prices.everything()
        # Newest first: of two cards with the same start, the later one counts.
        entries = [(price.source, entry) for price in reversed(stored) if (entry := _entry(price)) is not None]
        own = [entry for source, entry in entries if source is None and isinstance(entry, PriceEntry)]
        of_files = [entry for source, entry in entries if source is not None and isinstance(entry, PriceEntry)]
        updates = Updates(entry for _, entry in reversed(entries) if isinstance(entry, Update))
        self._catalog.set_updates(updates, of_files)
        self._catalog.set_api_entries(own)
        self.version = version

    async def run(self) -> None:
        """Follow the book, for the life of the process."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.refresh()
            except BookUnavailable as error:
                log.info("price cards stay as they are: %s", error)


def _entry(price: StoredPrice) -> PriceEntry | Update | None:
    try:
        fields = parse_object(price.body.encode())
        start_us = price.effective_us or None
        if price.source is not None:
            return stored_update(fields, provider=price.provider, source=price.source, start_us=price.effective_us)
        return build_from_api(fields, organization_id=price.organization_id, created_at_us=start_us)
    except InvalidRequest as error:
        log.error("price card %s is left out: %s", price.id, error.message)
        return None
