"""Exact pricing, pure: a usage on a card gives itemised USD, unrounded.

    usage -> split into classes that do not overlap -> one rate set (tier, long context) -> lines -> sum

Nothing is ever rounded here: arithmetic that would lose a digit raises. Nothing becomes free by accident
either: tokens without a rate, unknown totals and impossible counts are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, Inexact
from operator import attrgetter

from faregate.core.money import EXACT
from faregate.core.price import Cost, PriceCard, PriceLine
from faregate.core.usage import Usage
from faregate.errors import InvalidRequest, ModelNotPriced

MAX_COUNT = 2**63 - 1
_ZERO = Decimal(0)
_ONE = Decimal(1)

CHAINS: Mapping[str, tuple[str, ...]] = {
    "input": ("input",),
    "cached_input": ("cached_input", "input"),
    "cache_write_5m": ("cache_write_5m", "input"),
    "cache_write_1h": ("cache_write_1h", "cache_write_5m", "input"),
    "audio_input": ("audio_input", "input"),
    "cached_audio_input": ("cached_audio_input", "cached_input", "input"),
    "image_input": ("image_input", "input"),
    "cached_image_input": ("cached_image_input", "cached_input", "input"),
    "output": ("output",),
    "reasoning": ("reasoning", "output"),
    "audio_output": ("audio_output", "output"),
    "image_output": ("image_output", "output"),
}
"""A token class and the rates that may price it, best first (vectors' README)."""

_MEASURES: Mapping[str, tuple[str, ...]] = {
    "audio_seconds": ("second",),
    "characters": ("character",),
    "output_characters": ("output_character",),
    "video_seconds": ("video_second",),
    "images": ("image",),
    "pixels": ("pixel",),
    "pages": ("page",),
    "requests": ("request",),
}
"""Counts of what tokens may describe, too: without a rate they are free beside tokens, refused alone."""

_FEES: Mapping[str, tuple[str, ...]] = {
    "citation_tokens": ("citation",),
    "web_search_requests": ("search", "query"),
    "x_search_calls": ("x_search", "search", "query"),
    "file_search_calls": ("file_search",),
    "code_interpreter_sessions": ("session",),
    "search_units": ("query", "search"),
    "num_sources_used": ("source",),
}
"""Fees on top of tokens: without a rate they are reported in `Cost.unpriced`."""

_OPTIONAL: Mapping[str, tuple[str, ...]] = {"web_fetch_requests": ("web_fetch",)}
"""Counts that cost nothing unless a card says so (Anthropic's web fetch)."""

_SAME_AS_TOKENS = frozenset({"audio_seconds", "characters", "output_characters"})
"""A second basis for what tokens already bill (transcription, speech): one of the two is charged."""

_COUNTS = (
    *("input_tokens", "output_tokens", "total_tokens", "cached_input_tokens", "cache_write_tokens"),
    *("cache_write_5m_tokens", "cache_write_1h_tokens", "audio_input_tokens", "image_input_tokens"),
    *("cached_audio_input_tokens", "cached_image_input_tokens", "tool_use_input_tokens", "reasoning_tokens"),
    *(
        "audio_output_tokens",
        "image_output_tokens",
        "accepted_prediction_tokens",
        "rejected_prediction_tokens",
    ),
    *_MEASURES,
    *_FEES,
    *_OPTIONAL,
)
_counts_of = attrgetter(*_COUNTS)

_UNITS: Mapping[str, tuple[str, ...]] = {**_MEASURES, **_FEES, **_OPTIONAL}

_TRAPPING = EXACT.copy()
_TRAPPING.traps[Inexact] = True


def price(
    card: PriceCard,
    usage: Usage,
    *,
    tier: str | None = "default",
    speed: str | None = None,
    geo: str | None = None,
    provider_cost_usd: Decimal | None = None,
) -> Cost:
    """The exact cost of a usage on a card, at the tier, speed and geography the provider *served*.

    `provider_cost_usd` counts only on cards that say so (`card.provider_cost`). `usage.requests` is charged
    when it is set; tool-use prompts are inside `usage.input_tokens` already.
    Raises ModelNotPriced (no rate) and InvalidRequest (unknown, negative or absurd counts).
    """
    given = _checked_counts(usage)
    if card.free:
        return Cost(usd=_ZERO, lines=())
    try:
        if card.provider_cost and provider_cost_usd is not None:
            return stated_cost(provider_cost_usd)
        return _priced(card, usage, given, "fast" if speed == "fast" else (tier or "default"), geo)
    except Inexact:
        raise InvalidRequest(f"the cost of {card.model} has more digits than can be kept exactly") from None


def stated_cost(usd: Decimal) -> Cost:
    """A cost the provider itself named, in USD, as one line."""
    if not usd.is_finite() or usd < 0:
        raise InvalidRequest("the provider's cost must be a finite number, not below 0")
    return Cost(usd=usd, lines=(PriceLine(item="provider_cost", quantity=Decimal(1), rate=usd, amount=usd),))


def line(item: str, quantity: int | Decimal, rate: Decimal) -> PriceLine:
    """One line, its amount exact. Raises decimal.Inexact rather than round."""
    count = Decimal(quantity)
    return PriceLine(item=item, quantity=count, rate=rate, amount=_TRAPPING.multiply(count, rate))


def total(lines: tuple[PriceLine, ...]) -> Decimal:
    """The exact sum of lines. Raises decimal.Inexact rather than round."""
    usd = _ZERO
    for entry in lines:
        usd = _TRAPPING.add(usd, entry.amount)
    return usd


def _priced(card: PriceCard, usage: Usage, given: Mapping[str, int | Decimal], tier: str, geo: str | None) -> Cost:
    counts = token_classes(usage, has_output_rate=bool(card.rates.get("output")))
    tokens = sum([counts[name] for name in _INPUT_CLASSES]) if counts else 0
    served, rates = rates_for(card, tier, tokens)
    if not rates:
        raise ModelNotPriced(f"{card.model} has no rates", param="model")
    factor = _factor(card, served, tier, geo)
    token_lines = [
        line(name, count, _TRAPPING.multiply(_rate(card, rates, name), factor))
        for name, count in counts.items()
        if count
    ]
    units = _unit_counts(given, usage)
    unit_lines, unpriced = _units(card, rates, units, tokens_priced=bool(token_lines), has_tokens=bool(counts))
    lines = (*token_lines, *unit_lines)
    return Cost(usd=total(lines), lines=lines, tier=served, unpriced=unpriced)


_INPUT_CLASSES = tuple(name for name, chain in CHAINS.items() if chain[-1] == "input")


def rates_for(card: PriceCard, tier: str, input_tokens: int) -> tuple[str, Mapping[str, Decimal]]:
    """The tier whose rates apply, and its rate set for a whole request of that many input tokens."""
    served = _known_tier(card, tier)
    base = card.tiers[served] if served != "default" else card.rates
    steps = card.tier_long_context.get(served, card.long_context)
    if not steps:
        return served, base
    reached = [step for step in steps if step.applies(input_tokens)]
    if not reached:
        return served, base
    return served, overlay(base, max(reached, key=lambda step: step.above).rates)


def _known_tier(card: PriceCard, tier: str) -> str:
    if tier in card.tiers:
        return tier
    return "priority" if tier == "fast" and "priority" in card.tiers else "default"


def overlay(base: Mapping[str, Decimal], own: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """`own` rates over `base`; a class that cost the same as the one it falls back to goes on doing so."""
    merged = {**base, **own}
    for name, chain in CHAINS.items():
        if name not in base or name in own:
            continue
        parent = next((other for other in chain[1:] if other in own), None)
        if parent is not None and base.get(parent) == base[name]:
            del merged[name]
    return merged


def _factor(card: PriceCard, served: str, tier: str, geo: str | None) -> Decimal:
    factor = card.modifiers.get(f"geo:{geo}", _ONE) if geo else _ONE
    if tier == "fast" and served == "default":
        factor = _TRAPPING.multiply(factor, card.modifiers.get("speed:fast", _ONE))
    return factor


def _rate(card: PriceCard, rates: Mapping[str, Decimal], name: str) -> Decimal:
    for candidate in CHAINS[name]:
        rate = rates.get(candidate)
        if rate is not None:
            return rate
    raise ModelNotPriced(f"{card.model} has no {CHAINS[name][-1]} rate for its {name} tokens", param="model")


def _units(
    card: PriceCard,
    rates: Mapping[str, Decimal],
    units: list[tuple[str, int | Decimal, tuple[str, ...]]],
    *,
    tokens_priced: bool,
    has_tokens: bool,
) -> tuple[list[PriceLine], tuple[str, ...]]:
    lines: list[PriceLine] = []
    missing: dict[str, None] = {}
    for item, count, chain in units:
        rate = next((rates[name] for name in chain if name in rates), None)
        if not count or (tokens_priced and item in _SAME_AS_TOKENS):
            continue
        if rate is not None:
            lines.append(line(item, count, rate))
        elif item not in _OPTIONAL:
            missing[item] = None
    if not has_tokens and not units:
        raise InvalidRequest("nothing to price: no known count in the usage")
    if missing and not lines and not has_tokens:
        raise ModelNotPriced(f"{card.model} has no rate for {', '.join(missing)}", param="model")
    return lines, tuple([item for item in missing if item not in _MEASURES])


def _unit_counts(given: Mapping[str, int | Decimal], usage: Usage) -> list[tuple[str, int | Decimal, tuple[str, ...]]]:
    known = [(field, count, _UNITS[field]) for field, count in given.items() if field in _UNITS]
    return [*known, *((name, quantity, (name,)) for name, quantity in usage.custom.items())] if usage.custom else known


def token_classes(usage: Usage, *, has_output_rate: bool) -> dict[str, int]:
    """Tokens by class, disjoint: they sum to input + output. Empty when the usage has no tokens at all.

    Parts larger than what is left of their total are clamped to it (cached first, then writes, audio, image).
    """
    input_tokens, output_tokens = _totals(usage, has_output_rate=has_output_rate)
    if input_tokens is None:
        return {}
    if not any(_parts_of(usage)):
        return {**_NO_PARTS, "input": input_tokens, "output": output_tokens}
    cached = min(usage.cached_input_tokens or 0, input_tokens)
    cached_audio = min(usage.cached_audio_input_tokens or 0, cached)
    cached_image = min(usage.cached_image_input_tokens or 0, cached - cached_audio)
    left = input_tokens - cached
    split = (usage.cache_write_5m_tokens or 0) + (usage.cache_write_1h_tokens or 0)
    write = min(max(usage.cache_write_tokens or 0, split), left)
    write_1h = min(usage.cache_write_1h_tokens or 0, write)
    left -= write
    audio = min(max((usage.audio_input_tokens or 0) - cached_audio, 0), left)
    image = min(max((usage.image_input_tokens or 0) - cached_image, 0), left - audio)
    return {
        "input": left - audio - image,
        "cached_input": cached - cached_audio - cached_image,
        "cached_audio_input": cached_audio,
        "cached_image_input": cached_image,
        "cache_write_5m": write - write_1h,
        "cache_write_1h": write_1h,
        "audio_input": audio,
        "image_input": image,
        **_output_classes(usage, output_tokens),
    }


_NO_PARTS: Mapping[str, int] = {
    **dict.fromkeys(("input", "cached_input", "cached_audio_input", "cached_image_input"), 0),
    **dict.fromkeys(("cache_write_5m", "cache_write_1h", "audio_input", "image_input"), 0),
    **dict.fromkeys(("output", "reasoning", "audio_output", "image_output"), 0),
}
"""The classes of a usage that is not split up, in the order of `token_classes`."""


def _output_classes(usage: Usage, output_tokens: int) -> dict[str, int]:
    reasoning = min(usage.reasoning_tokens or 0, output_tokens)
    audio = min(usage.audio_output_tokens or 0, output_tokens - reasoning)
    image = min(usage.image_output_tokens or 0, output_tokens - reasoning - audio)
    text = output_tokens - reasoning - audio - image
    return {"output": text, "reasoning": reasoning, "audio_output": audio, "image_output": image}


_INPUT_PARTS = (
    *("cached_input_tokens", "cache_write_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"),
    *("audio_input_tokens", "image_input_tokens", "cached_audio_input_tokens", "cached_image_input_tokens"),
)
_OUTPUT_PARTS = ("reasoning_tokens", "audio_output_tokens", "image_output_tokens")
_parts_of = attrgetter(*_INPUT_PARTS, *_OUTPUT_PARTS)


def _totals(usage: Usage, *, has_output_rate: bool) -> tuple[int | None, int]:
    given, made = usage.input_tokens, usage.output_tokens
    if given is None and made is None and usage.total_tokens is not None:
        if has_output_rate:
            raise InvalidRequest("input and output counts are unknown: only their total is given", param="usage")
        given = usage.total_tokens
    if given is None:
        if made is not None or any(_parts_of(usage)):
            raise InvalidRequest("the number of input tokens is unknown", param="input_tokens")
        return None, 0
    if made is None:
        if has_output_rate or any(getattr(usage, part) for part in _OUTPUT_PARTS):
            raise InvalidRequest("the number of output tokens is unknown", param="output_tokens")
        made = 0
    return given, made


def _checked_counts(usage: Usage) -> dict[str, int | Decimal]:
    """The counts that are known, in the order of `_COUNTS`. Raises InvalidRequest for one that cannot be."""
    given = {field: count for field, count in zip(_COUNTS, _counts_of(usage), strict=True) if count is not None}
    for field, count in given.items():
        if not (type(count) is int and 0 <= count <= MAX_COUNT):  # the hot ones
            check_count(count, field, fractional=field.endswith("_seconds"))
    for name, quantity in usage.custom.items():
        check_count(quantity, name, fractional=True)
    return given


def check_count(count: object, field: str, *, fractional: bool = False) -> None:
    """A count is a whole number (seconds and custom metrics: a finite Decimal) from 0 to 2^63 - 1."""
    allowed = (int, Decimal) if fractional else (int,)
    if isinstance(count, bool) or not isinstance(count, allowed):
        raise InvalidRequest(f"{field} must be a {'' if fractional else 'whole '}number", param=field)
    if not Decimal(count).is_finite():
        raise InvalidRequest(f"{field} must be finite", param=field)
    if count < 0:
        raise InvalidRequest(f"{field} must not be negative", param=field)
    if count > MAX_COUNT:
        raise InvalidRequest(f"{field} is larger than can be counted", param=field)
