"""The genai-prices layer: its data read as data, one model at a time, when it is asked for.

Its `calc_price` does not itemise, and its matches by prefix or part are too wide (`pricing.matching`). Newer data that
an operator took over (`pricing.updates`) comes before the installed package's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, Inexact
from functools import cache
from importlib.metadata import version

from genai_prices import types
from genai_prices.data_snapshot import get_snapshot

from faregate.core.money import EXACT
from faregate.core.price import LongContext, PriceCard
from faregate.pricing.cards import Rates, mend, per_million
from faregate.pricing.matching import certain, clauses, spellings
from faregate.pricing.names import GENAI_IDS
from faregate.pricing.updates import NONE, Update, Updates

FOREVER = datetime.max.replace(tzinfo=UTC)

_EXACT_ONLY = EXACT.copy()
_EXACT_ONLY.traps[Inexact] = True

_MILLION, _THOUSAND, _HOUR = Decimal(1_000_000), Decimal(1000), Decimal(3600)

_KEYS: Mapping[str, tuple[str, Decimal]] = {
    "input_mtok": ("input", _MILLION),
    "cache_read_mtok": ("cached_input", _MILLION),
    "cache_write_mtok": ("cache_write_5m", _MILLION),
    "cache_write_1h_mtok": ("cache_write_1h", _MILLION),
    "output_mtok": ("output", _MILLION),
    "output_reasoning_mtok": ("reasoning", _MILLION),
    "output_citation_mtok": ("citation", _MILLION),
    "input_audio_mtok": ("audio_input", _MILLION),
    "cache_audio_read_mtok": ("cached_audio_input", _MILLION),
    "output_audio_mtok": ("audio_output", _MILLION),
    "input_image_mtok": ("image_input", _MILLION),
    "cache_image_read_mtok": ("cached_image_input", _MILLION),
    "output_image_mtok": ("image_output", _MILLION),
    "input_mchars": ("character", _MILLION),
    "input_audio_hours": ("second", _HOUR),
    "audio_hours": ("second", _HOUR),
    "web_searches_kcount": ("search", _THOUSAND),
    "storage_searches_kcount": ("file_search", _THOUSAND),
    "requests_kcount": ("request", _THOUSAND),
    "input_document_kpages": ("page", _THOUSAND),
}
"""Their key, our rate, and how many units their price is for. Keys that no usage of ours has are left out."""

_TIERS: Mapping[tuple[str, str], str] = {
    ("service_tier", "flex"): "flex",
    ("service_tier", "priority"): "priority",
    ("processing", "batch"): "batch",
    ("speed", "fast"): "fast",
}

_STATED = frozenset({"x-ai", "openrouter", "perplexity"})
"""Sellers whose answers carry the price of the call."""

_KINDS: Mapping[str, str] = {genai: kind for kind, genai in reversed(list(GENAI_IDS.items()))}


def source() -> str:
    """This layer as a card's source names it."""
    return f"genai-prices {version('genai-prices')}"


def find(kind: str, model: str, now: datetime, updates: Updates = NONE) -> tuple[PriceCard | None, datetime]:
    """The card of a kind's model at a moment, and until when that answer holds. `model` in lower case."""
    seller = GENAI_IDS.get(kind, kind)
    for name in sellers_of(seller):
        found = _known(name, model, now, updates)
        if found is not None:
            info, update = found
            said_by = source() if update is None else update.source
            return convert(kind, model, seller, info, now, said_by), _until(info, now)
    return None, FOREVER


def find_update(kind: str, model: str, now: datetime, updates: Updates) -> tuple[PriceCard | None, datetime]:
    """The card an update has for just this kind, ahead of anything shipped."""
    seller = GENAI_IDS.get(kind, kind)
    found = _known(seller, model, now, updates) if seller in updates else None
    info, update = (None, None) if found is None else found
    if info is None or update is None:
        return None, FOREVER
    return convert(kind, model, seller, info, now, update.source), _until(info, now)


def models() -> Iterator[tuple[str, str]]:
    """Every (kind, model id) of the catalogue, models of several kinds once each."""
    for provider in get_snapshot().providers:
        for info in provider.models:
            yield kind_of_seller(provider.id), info.id.lower()


def kind_of_seller(seller: str) -> str:
    """Our kind of what genai-prices calls a seller."""
    return _KINDS.get(seller, seller)


def by_id(seller: str) -> Mapping[str, types.ModelInfo]:
    """The shipped models of a seller."""
    return {info.id: info for info in _providers()[seller].models} if seller in _providers() else {}


# Finding ------------------------------------------------------------------------------------------------


def sellers_of(seller: str) -> tuple[str, ...]:
    """A seller, and those whose models it sells, too."""
    provider = _providers().get(seller)
    return (seller, *((provider.fallback_model_providers if provider is not None else None) or ()))


def _known(name: str, model: str, now: datetime, updates: Updates) -> tuple[types.ModelInfo, Update | None] | None:
    """What one seller says of a model, and the update that told: its loose match never takes another shipped model."""
    shipped = _match_one(name, model) if name in _providers() else None
    found = updates.match(name, model, now)
    if found is not None:
        update, exact = found
        if exact or shipped is None or shipped.id == update.info.id:
            return update.info, update
    return None if shipped is None else (shipped, None)


@cache
def _providers() -> dict[str, types.Provider]:
    return {provider.id: provider for provider in get_snapshot().providers}


@cache
def _index(seller: str) -> tuple[dict[str, types.ModelInfo], tuple[types.ModelInfo, ...]]:
    exact: dict[str, types.ModelInfo] = {}
    loose = []
    for info in _providers()[seller].models:
        ways = list(clauses(info.match))
        for clause in ways:
            if isinstance(clause, types.ClauseEquals):
                exact.setdefault(clause.equals.lower(), info)
        if any(not isinstance(clause, types.ClauseEquals) for clause in ways):
            loose.append(info)
    return exact, tuple(loose)


def _match_one(seller: str, model: str) -> types.ModelInfo | None:
    exact, loose = _index(seller)
    for name in spellings(model):
        if name in exact:
            return exact[name]
        for info in loose:
            if any(certain(clause, name) for clause in clauses(info.match)):
                return info
    return None


# Converting ---------------------------------------------------------------------------------------------


def convert(kind: str, model: str, seller: str, info: types.ModelInfo, now: datetime, said_by: str) -> PriceCard | None:
    """A model's card at a moment; None when its price is zero (unknown), unless it is offered as `:free`."""
    base = info.get_prices(now)
    inclusive = seller == "x-ai"
    rates = _rates(base, 0)
    tiers = dict(_variants(info, base, now))
    card = PriceCard(
        id="",
        provider=kind,
        model=info.id.lower(),
        rates=rates,
        tiers={tier: _rates(prices, 0) for tier, prices in tiers.items()},
        long_context=_long_context(base, inclusive=inclusive),
        tier_long_context={tier: _long_context(prices, inclusive=inclusive) for tier, prices in tiers.items()},
        source=said_by,
        display_name=info.name,
        context_window=info.context_window,
        provider_cost=seller in _STATED,
        free=model.endswith(":free") and not any(rates.values()),
    )
    return card if card.free else mend(card)


def _variants(info: types.ModelInfo, base: types.ModelPrice, now: datetime) -> Iterator[tuple[str, types.ModelPrice]]:
    """Tiers as whole price sets. A variant's date says when it was verified: an early clock takes it, too."""
    chosen: dict[str, dict[str, object]] = {}
    for active in (True, False):
        found: dict[str, dict[str, object]] = {}
        for variant in info.price_variants or ():
            tier = _TIERS.get(next(iter(variant.when.items()))) if len(variant.when) == 1 else None
            if tier is None or tier in chosen:
                continue
            if active is (variant.constraint is None or variant.constraint.active(now)):
                for key, value in vars(variant.prices).items():
                    found.setdefault(tier, {}).setdefault(key, value)
        chosen.update(found)
    for tier, overrides in chosen.items():
        merged: dict[str, Decimal | types.TieredPrices | None] = {**vars(base), **overrides}  # type: ignore[dict-item]
        yield tier, types.ModelPrice(**merged)


def _rates(prices: types.ModelPrice, input_tokens: int) -> Rates:
    rates: Rates = {}
    for key, (name, per) in _KEYS.items():
        value = vars(prices).get(key)
        if value is None or name in rates:
            continue
        rate = _one(_at(value, input_tokens), per)
        if rate is not None:
            rates[name] = rate
    return rates


def _at(value: Decimal | types.TieredPrices, start: int) -> Decimal:
    if isinstance(value, Decimal):
        return value
    return next((tier.price for tier in reversed(value.tiers) if tier.start <= start), value.base)


def _one(value: Decimal, per: Decimal) -> Decimal | None:
    """The price of one unit, or None when it has no end of digits (0.111 USD an hour, per second)."""
    if per == _MILLION:
        return per_million(value)
    try:
        return _EXACT_ONLY.divide(value, per)
    except Inexact:
        return None


def _long_context(prices: types.ModelPrice, *, inclusive: bool) -> tuple[LongContext, ...]:
    tiered = [value for value in vars(prices).values() if isinstance(value, types.TieredPrices)]
    starts = sorted({tier.start for value in tiered for tier in value.tiers if tier.start > 0})
    return tuple(
        LongContext(above=_round(start) if inclusive else start, rates=_rates(prices, start), inclusive=inclusive)
        for start in starts
    )


def _round(start: int) -> int:
    """Its steps are on above their start; what is on from 200,000 it writes as above 199,999."""
    return start + 1 if start % 1000 == 999 else start


# Until when ---------------------------------------------------------------------------------------------


def _until(info: types.ModelInfo, now: datetime) -> datetime:
    return min(edges(info, now), default=FOREVER)


def edges(info: types.ModelInfo, now: datetime) -> list[datetime]:
    """Moments after `now` at which a model's price may change: dates, and the hours of a day."""
    prices = [] if isinstance(info.prices, types.ModelPrice) else info.prices
    constraints = [each.constraint for each in (*prices, *(info.price_variants or ()))]
    return sorted({edge for each in constraints for edge in _edges(each, now) if edge > now})


def _edges(
    constraint: types.StartDateConstraint | types.TimeOfDateConstraint | None, now: datetime
) -> Iterator[datetime]:
    if isinstance(constraint, types.StartDateConstraint):
        yield _utc(constraint.start_date, time())
    elif constraint is not None:
        for day in (now.date(), now.date() + timedelta(days=1)):
            yield _utc(day, constraint.start_time)
            yield _utc(day, constraint.end_time)


def _utc(day: date, at: time) -> datetime:
    moment = datetime.combine(day, at)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
