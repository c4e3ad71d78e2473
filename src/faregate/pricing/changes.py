"""What a release or file would change: the old and the new catalogue side by side, and the cards that make it so.

Both sides are the shipped layers with the updates so far; an operator's own cards stay above them and are left out.
Only what differs from the genai-prices data in force is taken: a correction shipped in the supplement is not undone by
a release that says what the corrected one said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fnmatch import fnmatchcase

from genai_prices import types

from faregate.core.price import PriceCard
from faregate.errors import ConfigError
from faregate.pricing import genai, genai_model
from faregate.pricing.catalog import LayeredCatalog
from faregate.pricing.entries import EntryError, PriceEntry, us
from faregate.pricing.entries import build as build_entry
from faregate.pricing.matching import clauses
from faregate.pricing.release import Raw, Release
from faregate.pricing.updates import Update, Updates

_MOST_MOMENTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One rate. `item` may end in `above N`: input tokens from which it holds."""

    provider: str
    model: str
    tier: str
    item: str
    old: Decimal | None
    new: Decimal | None
    what: str
    """changed | added | removed; of a model that the source does not have: absent (it keeps its price)."""
    start: datetime | None = None
    """When it changes, if later than the update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """A card to be. `body` is JSON."""

    provider: str
    model: str
    tier: str
    body: str
    start_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Everything a source would change."""

    changes: tuple[Change, ...]
    bookings: tuple[Booking, ...]
    without_tiers: bool
    """The source knows no tier of any model: the older format of genai-prices' data leaves them out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What was taken over so far, and the names of configured providers with their kinds."""

    updates: Updates
    entries: Sequence[PriceEntry]
    kinds: Mapping[str, str]

    def catalog(self, *, more: Sequence[Update] = (), cards: Sequence[PriceEntry] = ()) -> LayeredCatalog:
        """The shipped layers with what was taken over, and more."""
        catalog = LayeredCatalog(kinds=self.kinds)
        oldest_first = [*self.updates][::-1]
        catalog.set_updates(Updates([*oldest_first, *more]), [*cards, *self.entries])
        return catalog


def compare(release: Release, held: InForce, patterns: Sequence[str], start: datetime) -> Changes:
    """What would change at `start`, of models that fit one of `patterns` (none: all). Raises ConfigError."""
    wanted = _wanted(patterns)
    found = [*_models(release, held, wanted, start), *_cards(release, held, wanted, start)]
    absent = [change for seller in release.models for change in _absent(release, seller, wanted)]
    every = [model for models in release.models.values() for model in models]
    return Changes(
        changes=(*(change for changes, _ in found for change in changes), *absent),
        bookings=tuple(booking for _, booking in found),
        without_tiers=bool(every) and not any(model.get("price_variants") for model in every),
    )


def _wanted(patterns: Sequence[str]) -> Callable[[str, str], bool]:
    lower = [pattern.lower() for pattern in patterns]

    def fits(provider: str, model: str) -> bool:
        names = (model.lower(), f"{provider}/{model}".lower())
        return not lower or any(fnmatchcase(name, pattern) for pattern in lower for name in names)

    return fits


# A release's models -------------------------------------------------------------------------------------


def _models(
    release: Release, held: InForce, wanted: Callable[[str, str], bool], start: datetime
) -> Iterator[tuple[list[Change], Booking]]:
    new: list[tuple[Update, types.ModelInfo | None, Raw]] = []
    for seller, raws in release.models.items():
        shipped = genai.by_id(seller)
        for at, raw in enumerate(raws):
            if not wanted(genai.kind_of_seller(seller), str(raw.get("id"))):
                continue
            info = _built(raw, f"{seller}.models[{at}]")
            update = held.updates.by_id(seller, info.id, start)
            known = shipped.get(info.id) if update is None else update.info
            if known is None or not _same(known, info):
                new.append((Update(seller=seller, info=info, source=release.source, start=start), known, raw))
    before, after = held.catalog(), held.catalog(more=[update for update, _, _ in new])
    for update, known, raw in new:
        kind, info = genai.kind_of_seller(update.seller), update.info
        moments = _moments(start, *(each for each in (known, info) if each is not None))
        changes = _compared(before, after, kind, _called(info), moments)
        if known is not None and known.match != info.match:
            changes.append(_names(kind, info.id))
        if changes:
            yield changes, Booking(provider=update.seller, model=info.id, tier="default", body=_json(raw))


def _built(raw: Raw, where: str) -> types.ModelInfo:
    try:
        return genai_model.build(raw)
    except EntryError as error:
        path = ".".join(map(str, (where, *error.path)))
        raise ConfigError(f"{path}: {error.message} (--model leaves it out)") from None


def _same(one: types.ModelInfo, other: types.ModelInfo) -> bool:
    return (one.prices, one.price_variants or [], one.match) == (other.prices, other.price_variants or [], other.match)


def _called(info: types.ModelInfo) -> str:
    """A name that this model answers to: its id, unless only other names lead to it."""
    named = [way.equals for way in clauses(info.match) if isinstance(way, types.ClauseEquals)]
    return named[0] if named and not info.is_match(info.id) else info.id


def _names(provider: str, model: str) -> Change:
    return Change(provider=provider, model=model, tier="", item="names", old=None, new=None, what="changed")


def _moments(start: datetime, *infos: types.ModelInfo) -> list[datetime]:
    later = {edge for info in infos for edge in genai.edges(info, start)}
    return [start, *sorted(later)[:_MOST_MOMENTS]]


def _absent(release: Release, seller: str, wanted: Callable[[str, str], bool]) -> Iterator[Change]:
    kind, here = genai.kind_of_seller(seller), {raw.get("id") for raw in release.models[seller]}
    for model in genai.by_id(seller):
        if model not in here and wanted(kind, model):
            yield Change(provider=kind, model=model, tier="", item="", old=None, new=None, what="absent")


# A file's cards -----------------------------------------------------------------------------------------


def _cards(
    release: Release, held: InForce, wanted: Callable[[str, str], bool], start: datetime
) -> Iterator[tuple[list[Change], Booking]]:
    for fields in release.cards:
        given = build_entry(fields, source=release.source)
        own_start = given.effective_from_us
        begin_us = us(start) if own_start is None else max(us(start), own_start)
        body = {name: value for name, value in fields.items() if name != "effective_from"}
        entry = build_entry(body, source=release.source, created_at_us=begin_us)
        name = entry.names[0]
        if not wanted(entry.provider, name) or any(_says(entry, each, begin_us) for each in held.entries[:1_000]):
            continue
        moment = datetime.fromtimestamp(begin_us // 1_000_000, UTC).replace(microsecond=begin_us % 1_000_000)
        if name.endswith("*") or entry.provider == "*":
            changes = [_row(entry.provider, name, key, None, rate, None) for key, rate in _own_rates(entry)]
        else:
            changes = _compared(held.catalog(), held.catalog(cards=[entry]), entry.provider, name, [moment])
        later = begin_us if begin_us > us(start) else None
        if changes:
            yield (
                changes,
                Booking(provider=entry.provider, model=name, tier=entry.tier, body=_json(body), start_us=later),
            )


def _says(entry: PriceEntry, other: PriceEntry, begin_us: int) -> bool:
    """Whether the card was taken over before, as it is."""
    same = (entry.provider, entry.names, entry.tier) == (other.provider, other.names, other.tier)
    rates = (entry.card.rates, entry.card.long_context) == (other.card.rates, other.card.long_context)
    return same and rates and (other.effective_from_us or 0) <= begin_us


def _own_rates(entry: PriceEntry) -> Iterator[tuple[tuple[str, str], Decimal]]:
    for (_, item), rate in _flat(entry.card).items():
        yield (entry.tier, item), rate


# Side by side -------------------------------------------------------------------------------------------


def _compared(
    before: LayeredCatalog, after: LayeredCatalog, provider: str, model: str, moments: Sequence[datetime]
) -> list[Change]:
    """The rates that differ, each at the first moment at which it does."""
    found: dict[tuple[tuple[str, str], Decimal | None, Decimal | None], Change] = {}
    for moment in moments:
        at_us = us(moment)
        old = _flat(before.find(model, provider=provider, now_us=at_us))
        new = _flat(after.find(model, provider=provider, now_us=at_us))
        for key in dict.fromkeys((*old, *new)):
            pair = old.get(key), new.get(key)
            if pair[0] != pair[1]:
                start = moment if moment > moments[0] else None
                found.setdefault((key, *pair), _row(provider, model, key, *pair, start))
    return list(found.values())


def _row(
    provider: str, model: str, key: tuple[str, str], old: Decimal | None, new: Decimal | None, start: datetime | None
) -> Change:
    what = "added" if old is None else "removed" if new is None else "changed"
    return Change(provider=provider, model=model, tier=key[0], item=key[1], old=old, new=new, what=what, start=start)


def _flat(card: PriceCard | None) -> dict[tuple[str, str], Decimal]:
    """Every rate of a card by (tier, class)."""
    if card is None:
        return {}
    rates = {("default", item): rate for item, rate in card.rates.items()}
    rates |= {(tier, item): rate for tier, own in card.tiers.items() for item, rate in own.items()}
    for tier, steps in {"default": card.long_context, **card.tier_long_context}.items():
        for step in steps:
            rates |= {(tier, f"{item} above {step.above}"): rate for item, rate in step.rates.items()}
    return rates


def _json(value: object) -> str:
    return json.dumps(value, default=str, separators=(",", ":"))
