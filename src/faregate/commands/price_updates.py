"""`faregate prices diff` and `faregate prices update`: a newer release or file, beside what is in force."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from faregate.api.price_layer import PriceLayer
from faregate.commands.local import WHO, Book, opened
from faregate.commands.options import AsJson, Config
from faregate.commands.shared import microseconds, moment_text, parse_moment, run, show
from faregate.core.money import plain
from faregate.errors import ConfigError
from faregate.ledger.prices import NewUpdate
from faregate.pricing.catalog import LayeredCatalog
from faregate.pricing.changes import Change, Changes, InForce, compare
from faregate.pricing.entries import TOKEN_CLASSES
from faregate.pricing.release import Release, read
from faregate.settings import Settings, load

Source = Annotated[
    Path,
    typer.Argument(
        help="A genai-prices data.json, its wheel or the directory it is installed in; or a prices file (YAML)."
    ),
]
Models = Annotated[
    list[str] | None, typer.Option("--model", metavar="PATTERN", help="Only these: gpt-5*, openai/*. May be repeated.")
]
Effective = Annotated[
    str | None, typer.Option("--effective-from", metavar="T", help="In force from then on; else from now on.")
]

COLUMNS = {
    "provider": "provider",
    "model": "model",
    "tier": "tier",
    "item": "class",
    "old": "old",
    "new": "new (USD per million, or per unit)",
    "what": "",
    "from": "from",
}


def diff(
    source: Source, models: Models = None, effective: Effective = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Show what `update` would change: every rate, old and new. Changes nothing."""
    update(source, models, effective, dry_run=True, config=config, as_json=as_json)


def update(
    source: Source,
    models: Models = None,
    effective: Effective = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and stop.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Take over newer prices from now on: below your own cards and file, above everything shipped.

    Every running worker has them in seconds. What happened before is priced as it was. Nothing is fetched.
    """
    settings, release = load(config), read(source)
    start = None if effective is None else _future(effective)
    changes = run(_changes(settings, release, models or [], start))
    show([_shown(change) for change in changes.changes], COLUMNS, as_json=as_json)
    if changes.without_tiers:
        _say("the source has no tier (flex, priority, batch) of any model: see the rows that are removed")
    if dry_run or not changes.bookings:
        _say(_summary(changes))
        return
    if not yes:
        _ask(_summary(changes))
    begin_us = run(_book(settings, release, changes, start))
    _say(f"{_summary(changes)}; in force from {moment_text(begin_us)}, as {release.source}")


def _future(text: str) -> datetime:
    moment = parse_moment(text, "--effective-from")
    if moment < datetime.now(UTC):
        raise ConfigError("--effective-from must not be in the past: what was priced stays priced so")
    return moment


async def _changes(settings: Settings, release: Release, models: list[str], start: datetime | None) -> Changes:
    async with opened(settings) as book:
        now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time.time_ns() // 1000)
        return compare(release, await _in_force(book), models, start or now)


async def _in_force(book: Book) -> InForce:
    kinds = {name: provider.kind for name, provider in book.settings.providers.items()}
    catalog = LayeredCatalog(kinds=kinds)
    await PriceLayer(book.ledger.prices, catalog).refresh()
    updates, entries = catalog.taken_over
    return InForce(updates=updates, entries=entries, kinds=kinds)


async def _book(settings: Settings, release: Release, changes: Changes, start: datetime | None) -> int:
    new = [
        NewUpdate(
            provider=booking.provider,
            model=booking.model,
            tier=booking.tier,
            body=booking.body,
            source=release.source,
            start_us=booking.start_us,
        )
        for booking in changes.bookings
    ]
    async with opened(settings) as book:
        begin_us = await book.ledger.prices.book_updates(new, None if start is None else microseconds(start))
        detail = {"cards": len(new), "effectiveFrom": moment_text(begin_us)}
        await book.ledger.admin_audit.append(who=WHO, what="prices.update", target=release.source, detail=detail)
    return begin_us


# Printing -----------------------------------------------------------------------------------------------


def _shown(change: Change) -> dict[str, object]:
    per_million = change.item.partition(" ")[0] in TOKEN_CLASSES
    rates = {
        name: None if rate is None else plain(rate.scaleb(6) if per_million else rate)
        for name, rate in (("old", change.old), ("new", change.new))
    }
    return {
        "provider": change.provider,
        "model": change.model,
        "tier": change.tier,
        "item": change.item,
        **rates,
        "what": "not in the source: keeps its price" if change.what == "absent" else change.what,
        "from": None if change.start is None else change.start.isoformat().replace("+00:00", "Z"),
    }


def _summary(changes: Changes) -> str:
    absent = sum(change.what == "absent" for change in changes.changes)
    kept = f"; {absent} models are not in the source and keep their prices" if absent else ""
    return f"{len(changes.bookings)} cards change{kept}" if changes.bookings else f"nothing changes{kept}"


def _ask(summary: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigError("nobody is there to be asked: add --yes, or --dry-run")
    typer.confirm(f"{summary}. Take them over?", abort=True, err=True)


def _say(text: str) -> None:
    print(f"faregate: {text}", file=sys.stderr)
