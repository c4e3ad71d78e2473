"""`faregate prices`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from faregate.api.price_layer import PriceLayer
from faregate.commands.catalog import configured_catalog
from faregate.commands.desk import desk
from faregate.commands.local import opened
from faregate.commands.options import AsJson, Config, Key, Organization, Url
from faregate.commands.price_updates import diff, update
from faregate.commands.shared import run, show
from faregate.core.money import plain
from faregate.core.price import PriceCard
from faregate.errors import ModelNotPriced
from faregate.pricing.catalog import LayeredCatalog
from faregate.pricing.entries import TOKEN_CLASSES
from faregate.pricing.listing import listing
from faregate.settings import Settings, load

app = typer.Typer(
    help="Show what a model costs, and why; list the cards made over the API; take over newer prices.",
    rich_markup_mode=None,
    add_completion=False,
)

COLUMNS = {
    "provider": "provider",
    "model": "model",
    "tier": "tier",
    "item": "class",
    "perMillionUsd": "USD per million",
    "perUnitUsd": "USD per unit",
    "source": "source",
}


CARDS = {
    "id": "id",
    "organizationId": "organization",
    "provider": "provider",
    "model": "model",
    "tier": "tier",
    "rates": "USD (per million, or per unit)",
    "effective_from": "in force from",
}


@app.command("show")
def show_price(
    model: Annotated[str, typer.Argument(help="The model, as its provider names it.")],
    provider: Annotated[str | None, typer.Option(help="At this provider (a configured name, or a kind) only.")] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show the price card in force now: every rate, and where it comes from.

    Cards made over the API and updates count where the data directory or `database_url` has a book; cards of one
    organization do not: see `faregate prices list`.
    """
    settings = load(config)
    catalog = configured_catalog(settings)
    if settings.database_url is not None or (settings.data_dir / "faregate.db").exists():
        run(_follow(settings, catalog))
    now_us = time.time_ns() // 1000
    found = listing(catalog, provider=provider, model_id=model, now_us=now_us)
    cards = [(each.provider, each.card) for each in found]
    if not cards and (card := catalog.find(model, provider=provider or "", now_us=now_us)) is not None:
        cards = [(card.provider, card)]
    if not cards:
        raise ModelNotPriced(f"no price for {model}{f' at {provider}' if provider else ''}", param="model")
    show([row for seller, card in cards for row in _rows(seller, card)], COLUMNS, as_json=as_json)


async def _follow(settings: Settings, catalog: LayeredCatalog) -> None:
    async with opened(settings) as book:
        await PriceLayer(book.ledger.prices, catalog).refresh()


@app.command("list")
def list_(
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List the price cards that were made over the API, oldest first."""

    async def work() -> None:
        async with desk(config, url, key) as at:
            rows = [{**row, "rates": _rates(row)} for row in await at.prices(organization)]
            show(rows, CARDS, as_json=as_json)

    run(work())


app.command("diff")(diff)
app.command("update")(update)


def _rates(row: Mapping[str, Any]) -> str:
    named = {**(row.get("per_million") or {}), **(row.get("per_unit") or {})}
    return ", ".join(f"{name} {rate}" for name, rate in named.items())


def _rows(seller: str, card: PriceCard) -> Iterator[dict[str, object]]:
    for tier, rates in {"default": card.rates, **card.tiers}.items():
        for item, rate in rates.items():
            per = "perMillionUsd" if item in TOKEN_CLASSES else "perUnitUsd"
            shown = plain(rate.scaleb(6) if per == "perMillionUsd" else rate)
            yield {
                "provider": seller,
                "model": card.model,
                "tier": tier,
                "item": item,
                per: shown,
                "source": card.source,
            }
