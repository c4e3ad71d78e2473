"""Upper bounds: what a call of at most so many tokens can cost, and how much output a budget allows.

A bound is linear, per rate set that could apply: dearest input rate x input + dearest output rate x output
+ fees. The rate sets are those of the tier asked for and of the default tier (a provider may serve lower than
asked), short and, once the input may reach the threshold, long context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from decimal import Decimal

from faregate.core.money import EXACT
from faregate.core.price import PriceCard
from faregate.core.pricing import CHAINS, overlay
from faregate.errors import ModelNotPriced

UNBOUNDED = 2**53
"""What `affordable_output_tokens` answers when output costs nothing."""

_NOTHING: Mapping[str, Decimal] = {}
_ZERO = Decimal(0)

_SAME_AS_TOKENS = frozenset({"second", "character"})
"""A second basis for what tokens already bill: one of the two is charged."""

_CLASSES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "": (("input", "cached_input"), ("output", "reasoning")),
    "audio": (("audio_input", "cached_audio_input"), ("audio_output",)),
    "image": (("image_input", "cached_image_input"), ("image_output",)),
    "cache_write": (("cache_write_5m",), ()),
    "cache_write_1h": (("cache_write_5m", "cache_write_1h"), ()),
}


@dataclass(frozen=True, slots=True)
class Bound:
    """What a call can cost at most on one rate set: linear in its tokens."""

    input_rate: Decimal
    output_rate: Decimal
    fees: Decimal

    def before_output(self, input_tokens: int) -> Decimal:
        """USD of the input and the fees."""
        return EXACT.fma(self.input_rate, Decimal(input_tokens), self.fees)

    def at(self, input_tokens: int, output_tokens: int) -> Decimal:
        """USD of all."""
        return self.with_output(self.before_output(input_tokens), output_tokens)

    def with_output(self, before: Decimal, output_tokens: int) -> Decimal:
        """USD of the output on top of what comes before it."""
        return EXACT.fma(self.output_rate, Decimal(output_tokens), before)


def ceiling(
    card: PriceCard,
    *,
    input_tokens: int,
    output_tokens: int,
    tier: str = "default",
    modalities: Set[str] = frozenset(),
    units: Mapping[str, Decimal] = _NOTHING,
) -> Decimal:
    """USD that a call with at most these tokens cannot exceed, however they split within `modalities`.

    `modalities` names what the call can contain besides text: "audio", "image", "cache_write" (5-minute
    writes), "cache_write_1h", and the card's modifiers that it asks for ("geo:us"). `units` are quantities by
    rate name that come on top ({"request": 1, "image": 3}). Raises ModelNotPriced when the card has output
    rates but no input rate, or no rates at all.
    """
    return max(bound.at(input_tokens, output_tokens) for bound in bounds(card, input_tokens, tier, modalities, units))


def affordable_output_tokens(
    card: PriceCard,
    *,
    input_tokens: int,
    budget_usd: Decimal,
    tier: str = "default",
    modalities: Set[str] = frozenset(),
    units: Mapping[str, Decimal] = _NOTHING,
) -> int:
    """The most output tokens whose `ceiling` fits the budget; 0 also when the input alone does not."""
    fit = UNBOUNDED
    for bound in bounds(card, input_tokens, tier, modalities, units):
        left = EXACT.subtract(budget_usd, bound.before_output(input_tokens))
        if left < 0:
            return 0
        if bound.output_rate and left < EXACT.multiply(bound.output_rate, Decimal(fit)):
            fit = int(EXACT.divide_int(left, bound.output_rate))
    return fit


_kept: dict[tuple[object, ...], tuple[Bound, ...]] = {}
_KEPT_MOST = 4096


def bounds(
    card: PriceCard, input_tokens: int, tier: str, modalities: Set[str], units: Mapping[str, Decimal]
) -> tuple[Bound, ...]:
    """The rate sets that could apply. The same for all calls on one side of the card's thresholds, so kept."""
    if tier not in card.tiers and tier != "fast":
        tier = "default"  # The client's own word, of any length: not to be kept.
    passed: tuple[bool, ...] = ()
    if card.long_context or card.tier_long_context:
        steps = (*card.long_context, *(step for steps in card.tier_long_context.values() for step in steps))
        passed = tuple([step.applies(input_tokens) for step in steps])
    key = (card.id, tier, frozenset(modalities), tuple(units.items()), passed)
    found = _kept.get(key)
    if found is None:
        if len(_kept) >= _KEPT_MOST:
            _kept.clear()
        found = _kept[key] = tuple(_make_bounds(card, input_tokens, tier, modalities, units))
    return found


def _make_bounds(
    card: PriceCard, input_tokens: int, tier: str, modalities: Set[str], units: Mapping[str, Decimal]
) -> Iterator[Bound]:
    if card.free:
        yield Bound(_ZERO, _ZERO, _ZERO)
        return
    for rates in _reachable(card, tier, input_tokens):
        fees, instead = _fees(rates, units)
        factor = _factor(card, modalities)
        dearest_in, dearest_out = (_dearest(card, rates, modalities, side) for side in (0, 1))
        if dearest_in or dearest_out:
            yield Bound(EXACT.multiply(dearest_in, factor), EXACT.multiply(dearest_out, factor), fees)
        if instead or not (dearest_in or dearest_out):
            yield Bound(_ZERO, _ZERO, EXACT.add(fees, instead))


def _fees(rates: Mapping[str, Decimal], units: Mapping[str, Decimal]) -> tuple[Decimal, Decimal]:
    """What comes on top of tokens, and what is billed instead of them; of the rates of one thing the dearest."""
    amounts: dict[str, Decimal] = {}
    for name, quantity in units.items():
        thing, amount = name.partition(":")[0], EXACT.multiply(rates.get(name, _ZERO), quantity)
        amounts[thing] = max(amount, amounts.get(thing, _ZERO))
    instead = sum((amount for thing, amount in amounts.items() if thing in _SAME_AS_TOKENS), _ZERO)
    return sum(amounts.values(), _ZERO) - instead, instead


def _reachable(card: PriceCard, tier: str, input_tokens: int) -> Iterator[Mapping[str, Decimal]]:
    asked = "priority" if tier == "fast" and "fast" not in card.tiers else tier
    for name in {"default", asked}:
        base = card.rates if name == "default" else card.tiers.get(name)
        if base is None:
            continue
        yield base
        for step in card.tier_long_context.get(name, card.long_context):
            if step.applies(input_tokens):
                yield overlay(base, step.rates)


def _dearest(card: PriceCard, rates: Mapping[str, Decimal], modalities: Set[str], side: int) -> Decimal:
    names = [name for key, sides in _CLASSES.items() if not key or key in modalities for name in sides[side]]
    found = [rate for name in names if (rate := _rate(rates, name)) is not None]
    if found:
        return max(found)
    if not rates or (side == 0 and "output" in rates):
        raise ModelNotPriced(f"{card.model} has no input rate", param="model")
    return _ZERO


def _rate(rates: Mapping[str, Decimal], name: str) -> Decimal | None:
    return next((rates[candidate] for candidate in CHAINS[name] if candidate in rates), None)


def _factor(card: PriceCard, modalities: Set[str]) -> Decimal:
    factor = Decimal(1)
    for name, value in card.modifiers.items():
        if name in modalities:
            factor = EXACT.multiply(factor, max(value, Decimal(1)))
    return factor
