"""Azure's deployment types: Data Zone and Regional deployments cost more per token than Global ones.

The public map lists some models under `azure/us/…` and `azure/eu/…` (the same prices in both); for the rest the factor
that those have to the Global price stands: 1.1 on token rates, nothing on seconds, characters and images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Protocol

from faregate.core.money import EXACT
from faregate.core.price import LongContext, PriceCard
from faregate.pricing import litellm_map
from faregate.pricing.cards import TOKEN_RATES

_TYPES = ("datazone", "regional")
FACTOR = Decimal("1.1")


class Config(Protocol):
    """A provider's configuration."""

    @property
    def own(self) -> Mapping[str, object]: ...


def zoned_providers(configs: Mapping[str, Config]) -> frozenset[str]:
    """The names of those whose deployments stay within a zone or region."""
    return frozenset(name for name, config in configs.items() if config.own.get("deployment_type") in _TYPES)


def zoned(card: PriceCard, kind: str, model: str) -> PriceCard:
    """The card of a model's deployment within a zone or region; without an id."""
    for zone in ("us", "eu"):
        listed = litellm_map.find(kind, f"{zone}/{model}")
        if listed is not None and "input" in listed.rates:
            return replace(
                listed,
                context_window=listed.context_window or card.context_window,
                max_output_tokens=listed.max_output_tokens or card.max_output_tokens,
            )
    return replace(
        card,
        rates=_raised(card.rates),
        tiers={name: _raised(rates) for name, rates in card.tiers.items()},
        long_context=_steps(card.long_context),
        tier_long_context={name: _steps(steps) for name, steps in card.tier_long_context.items()},
        source=f"{card.source} x {FACTOR} (deployment type)",
    )


def _steps(steps: tuple[LongContext, ...]) -> tuple[LongContext, ...]:
    return tuple(replace(step, rates=_raised(step.rates)) for step in steps)


def _raised(rates: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return {name: EXACT.multiply(rate, FACTOR) if name in TOKEN_RATES else rate for name, rate in rates.items()}
