"""Making price cards: ids from content, and the corrections every public price source needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from datetime import datetime
from decimal import Decimal

from faregate.core.money import EXACT
from faregate.core.price import LongContext, PriceCard
from faregate.core.pricing import CHAINS

Rates = dict[str, Decimal]

TOKEN_RATES = frozenset(CHAINS) | {"citation"}
"""Rate names that are per token; every other rate is per unit."""


def with_id(card: PriceCard) -> PriceCard:
    """The card with the id of its content: the same rates, source and date give the same id."""
    content = {field.name: getattr(card, field.name) for field in fields(card) if field.name != "id"}
    text = json.dumps(content, default=_plain, sort_keys=True, separators=(",", ":"))
    return replace(card, id="pc_" + hashlib.sha256(text.encode()).hexdigest()[:24])


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return str(value.normalize(EXACT))
    if isinstance(value, LongContext):
        return [value.above, dict(value.rates), value.inclusive]
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no plain form of {type(value).__name__}")


def per_million(rate: Decimal) -> Decimal:
    """USD per million as USD per one, exactly."""
    return rate.scaleb(-6, EXACT)


def mend(card: PriceCard) -> PriceCard | None:
    """A public source's card with its known faults mended, or None when what it says is no price; without an id.

    Zero for both input and output means "unknown" in public maps; a write rate below input is an error (Gemini
    bills cache creation as input); Claude's 1-hour writes cost twice the input.
    """
    claude = "claude" in card.model
    each: Callable[[Mapping[str, Decimal]], Rates] = lambda rates: _mended(rates, claude=claude)  # noqa: E731
    rates = _without_zero_tokens(each(card.rates))
    if not rates:
        return None
    return replace(
        card,
        rates=rates,
        tiers={name: each(tier) for name, tier in card.tiers.items()},
        long_context=_steps(card.long_context, card.rates, each),
        tier_long_context={
            name: _steps(steps, card.tiers.get(name, card.rates), each)
            for name, steps in card.tier_long_context.items()
        },
    )


def _steps(
    steps: tuple[LongContext, ...],
    base: Mapping[str, Decimal],
    each: Callable[[Mapping[str, Decimal]], Rates],
) -> tuple[LongContext, ...]:
    return tuple(replace(step, rates=each(_whole(step, base))) for step in steps)


def _whole(step: LongContext, base: Mapping[str, Decimal]) -> Mapping[str, Decimal]:
    """Writes are judged beside an input rate: the step's own, or the base's."""
    return step.rates if "input" in step.rates or "input" not in base else {"input": base["input"], **step.rates}


def _mended(rates: Mapping[str, Decimal], *, claude: bool) -> Rates:
    mended = dict(rates)
    given = mended.get("input")
    if given is None:
        return mended
    for write in ("cache_write_5m", "cache_write_1h"):
        if mended.get(write, given) < given:
            del mended[write]
    if claude and "cache_write_5m" in mended and mended.get("cache_write_1h", given) <= mended["cache_write_5m"]:
        mended["cache_write_1h"] = EXACT.multiply(given, Decimal(2))
    return mended


def _without_zero_tokens(rates: Rates) -> Rates:
    """Rates without token rates that are all zero."""
    if any(rates[name] for name in rates.keys() & TOKEN_RATES):
        return rates
    return {name: rate for name, rate in rates.items() if name not in TOKEN_RATES and rate}
