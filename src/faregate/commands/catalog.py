"""The catalogue of an operator's configuration, without a server."""

from __future__ import annotations

from faregate.pricing import file as price_file
from faregate.pricing.catalog import LayeredCatalog
from faregate.settings import Settings


def configured_catalog(settings: Settings) -> LayeredCatalog:
    """The shipped prices with the operator's prices file on top."""
    entries = price_file.read(settings.prices) if settings.prices is not None else ()
    kinds = {name: provider.kind for name, provider in settings.providers.items()}
    return LayeredCatalog(entries, kinds=kinds, unpriced=settings.credits.unpriced)
