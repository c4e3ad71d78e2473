"""The genai-prices layer: its data read as data, one model at a time, when it is asked for.

Its `calc_price` does not itemise, and its matches by prefix or part would price `gpt-5-nano-audio` as `gpt-5-nano`:
a match that is not an exact name counts only when what is left of the name is a date, a version or a region.
"""

from __future__ import annotations

import re
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
from faregate.pricing.names import GENAI_IDS

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

_HARMLESS = re.compile(
    r"([-@:](latest|preview|exp|beta|v\d{1,2}|\d{8}|\d{4}-\d{2}-\d{2}|\d{2}-\d{4}|\d{2}-\d{2}|\d{3,4}|(?<=:)\d))*"
)
"""What may follow a model's name without meaning another model. `-5`, `.1` would be a version: not harmless."""

_REGION = re.compile(r"((us|eu|apac|au|jp|in|ca|sa|us-gov|global)\.|anthropic/|openai/|google/|models/)?")


def source() -> str:
    """This layer as a card's source names it."""
    return f"genai-prices {version('genai-prices')}"


def find(kind: str, model: str, now: datetime) -> tuple[PriceCard | None, datetime]:
    """The card of a kind's model at a moment, and until when that answer holds. `model` in lower case."""
    found = _match(GENAI_IDS.get(kind, kind), model)
    if found is None:
        return None, FOREVER
    seller, info = found
    return convert(kind, model, seller, info, now), _until(info, now)


def models() -> Iterator[tuple[str, str]]:
    """Every (kind, model id) of the catalogue, models of several kinds once each."""
    kinds = {genai: kind for kind, genai in reversed(list(GENAI_IDS.items()))}
    for provider in get_snapshot().providers:
        for info in provider.models:
            yield kinds.get(provider.id, provider.id), info.id.lower()


# Finding ------------------------------------------------------------------------------------------------


@cache
def _providers() -> dict[str, types.Provider]:
    return {provider.id: provider for provider in get_snapshot().providers}


@cache
def _index(seller: str) -> tuple[dict[str, types.ModelInfo], tuple[types.ModelInfo, ...]]:
    exact: dict[str, types.ModelInfo] = {}
    loose = []
    for info in _providers()[seller].models:
        clauses = list(_clauses(info.match))
        for clause in clauses:
            if isinstance(clause, types.ClauseEquals):
                exact.setdefault(clause.equals.lower(), info)
        if any(not isinstance(clause, types.ClauseEquals) for clause in clauses):
            loose.append(info)
    return exact, tuple(loose)


def _match(seller: str, model: str) -> tuple[str, types.ModelInfo] | None:
    provider = _providers().get(seller)
    if provider is None:
        return None
    for name in (seller, *(provider.fallback_model_providers or ())):
        if name in _providers() and (info := _match_one(name, model)) is not None:
            return seller, info
    return None


def _match_one(seller: str, model: str) -> types.ModelInfo | None:
    exact, loose = _index(seller)
    for name in dict.fromkeys((model, _dashed(model))):
        if name in exact:
            return exact[name]
        for info in loose:
            if any(_certain(clause, name) for clause in _clauses(info.match)):
                return info
    return None


def _dashed(model: str) -> str:
    return re.sub(r"-(20\d\d)(\d\d)(\d\d)$", r"-\1-\2-\3", model)


def _clauses(match: types.MatchLogic) -> Iterator[types.MatchLogic]:
    if isinstance(match, types.ClauseOr):
        for clause in match.or_:
            yield from _clauses(clause)
    else:
        yield match


def _certain(clause: types.MatchLogic, model: str) -> bool:
    """Whether a clause means this very model: what it leaves of the name is a date, a version or a region."""
    if not clause.is_match(model):
        return False
    if isinstance(clause, types.ClauseAnd):
        return any(_certain(part, model) for part in clause.and_ if not isinstance(part, types.ClauseRegex))
    if isinstance(clause, types.ClauseRegex):
        return clause.regex.startswith("^") and clause.regex.endswith("$")
    if isinstance(clause, types.ClauseEquals):
        return True
    return _only_decorated(next(iter(vars(clause).values())).lower(), model)


def _only_decorated(name: str, model: str) -> bool:
    before, _, after = model.partition(name)
    if model.startswith("ft:"):
        after = after.partition(":")[0]
    cut = re.search(r"[-@:]\d{0,4}$", name)
    if cut is not None and after[:1].isdigit():
        after = cut.group() + after
    return bool(_REGION.fullmatch(before) and _HARMLESS.fullmatch(after))


# Converting ---------------------------------------------------------------------------------------------


def convert(kind: str, model: str, seller: str, info: types.ModelInfo, now: datetime) -> PriceCard | None:
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
        source=source(),
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
    return tuple(LongContext(above=start, rates=_rates(prices, start), inclusive=inclusive) for start in starts)


# Until when ---------------------------------------------------------------------------------------------


def _until(info: types.ModelInfo, now: datetime) -> datetime:
    prices = [] if isinstance(info.prices, types.ModelPrice) else info.prices
    constraints = [each.constraint for each in (*prices, *(info.price_variants or ()))]
    edges = [edge for each in constraints for edge in _edges(each, now)]
    return min((edge for edge in edges if edge > now), default=FOREVER)


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
