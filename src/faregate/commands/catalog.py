"""The catalogue of an operator's configuration, without a server."""

from __future__ import annotations

from faregate.pricing import file as price_file
from faregate.pricing.catalog import LayeredCatalog
from faregate.pricing.zones import zoned_providers
from faregate.settings import Settings


def configured_catalog(settings: Settings) -> LayeredCatalog:
    """The shipped prices with the operator's prices file on top."""
    entries = price_file.read(settings.prices) if settings.prices is not None else ()
    kinds = {name: provider.kind for name, provider in settings.providers.items()}
    zoned = zoned_providers(settings.providers)
    return LayeredCatalog(entries, kinds=kinds, unpriced=settings.credits.unpriced, zoned=zoned)
