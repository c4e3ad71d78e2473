"""Releases of genai-prices as files: published JSON, a wheel, an installed directory."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

DATA_PY = """
import datetime
from decimal import Decimal
from .types import *
providers: list[Provider] = [
    Provider(id='anthropic', name='Anthropic', api_pattern='x', extractors=[UsageExtractor(root='usage', mappings=[])],
        models=[ModelInfo(id='claude-9', match=ClauseOr(or_=[ClauseStartsWith(starts_with='claude-9')]),
            price_comments='new', deprecated=True,
            prices=[ConditionalPrice(prices=ModelPrice(input_mtok=Decimal('2.5'), output_mtok=TieredPrices(
                    base=Decimal('10'), tiers=[Tier(start=200000, price=Decimal('15'))]))),
                ConditionalPrice(constraint=TimeOfDateConstraint(start_time=datetime.time(0, 30, tzinfo=datetime.UTC),
                    end_time=datetime.time(16, 30, tzinfo=datetime.timezone.utc)),
                    prices=ModelPrice(input_mtok=Decimal('5'), output_mtok=Decimal('20')))],
            price_variants=[PriceVariant(when={'processing': 'batch'}, prices=ModelPrice(input_mtok=Decimal('1')),
                constraint=StartDateConstraint(start_date=datetime.date(2026, 1, 1)))])]),
]
"""


def model(model_id: str, **prices: Any) -> dict[str, Any]:
    """A model that its id and its dated names mean."""
    return {"id": model_id, "match": {"starts_with": model_id}, "prices": prices}


def data_json(path: Path, *models: dict[str, Any], provider: str = "openai") -> Path:
    """The published JSON, with one provider."""
    path.write_text(json.dumps([{"id": provider, "name": "x", "api_pattern": "x", "models": models}]))
    return path


def wheel(folder: Path, version: str = "9.9.9", data: str = DATA_PY) -> Path:
    """A wheel of a release."""
    path = folder / f"genai_prices-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("genai_prices/data.py", data)
        file.writestr(f"genai_prices-{version}.dist-info/METADATA", f"Metadata-Version: 2.4\nVersion: {version}\n")
    return path
