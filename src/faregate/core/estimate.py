"""What a call can cost at most, before it is made: pure, without a tokenizer, in one pass over the body's parts.

Input is bounded from the body's size: `bytes_per_token` for text (escapes and JSON's own bytes only raise the
bound), with an allowance in place of each image's or recording's base64. Output is what the client allows or the
model's own maximum, times n or best_of. Both are priced on the dearest candidate and rounded up. What grows after
the request (server tools, reasoning outside the bound) is not covered: the truth is charged all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Context, Decimal
from math import ceil

from faregate.core.asked import asked_output, measure
from faregate.core.asks.shape import Allowances, Asked, Input
from faregate.core.call import Call, Candidate, Estimate, Hold, Principal
from faregate.core.ceiling import UNBOUNDED, Bound, affordable_output_tokens, bounds
from faregate.core.money import EXACT, MAX_MICROCREDITS, MICROCREDITS_PER_CREDIT
from faregate.errors import InvalidRequest

_ONE = Decimal(1)
_MICRO = Decimal(MICROCREDITS_PER_CREDIT)
_DOWN = Context(prec=60, rounding=ROUND_FLOOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateSettings:
    """The operator's choices (configuration, `credits`)."""

    bytes_per_token: Decimal = Decimal("2.0")
    """1.0 is strict: no tokenizer makes more tokens than bytes."""
    min_output_tokens: int = 64
    default_max_output_tokens: int = 32_768
    cap: bool = True
    """False (`on_low_credit: refuse`): all or nothing."""
    tokens_per_image: int = 16_384
    """Of models whose family is not known, as the next."""
    tokens_per_audio_second: int = 32


_Reach = tuple[Bound, Decimal, int]


@dataclass(frozen=True, slots=True)
class _Priced:
    """A call with the quantities its price depends on."""

    input: Input
    asked: Asked

    def bounds(self, candidates: Sequence[Candidate], output_tokens: Sequence[int]) -> list[_Reach]:
        """Every rate set of every candidate, with the USD before output and the candidate's own output."""
        found = self.input
        return [
            (bound, bound.before_output(found.tokens), count)
            for one, count in zip(candidates, output_tokens, strict=True)
            for bound in bounds(one.card, found.tokens, found.tier, found.modalities, found.units)
        ]


@dataclass(frozen=True, slots=True)
class CallEstimator:
    """ports.Estimator."""

    settings: EstimateSettings = field(default_factory=EstimateSettings)

    def estimate(self, call: Call, candidates: Sequence[Candidate], principal: Principal) -> Estimate:
        """The bounds of a call. Raises InvalidRequest naming the field, ModelNotPriced."""
        priced = self._price(call, candidates)
        asked = priced.asked
        full = [self._output(asked, candidate) for candidate in candidates]
        most = max(full)
        floor = min(most, max(self.settings.min_output_tokens, asked.least) * asked.choices)
        factor = charge_factor(principal, call.multiplier)
        reached = priced.bounds(candidates, full)
        want = charge_up(max([bound.with_output(before, own) for bound, before, own in reached]), factor)
        least = charge_up(max([bound.with_output(before, floor) for bound, before, _ in reached]), factor)
        input_usd = max([bound.with_output(before, 0) for bound, before, _ in reached])
        if want > MAX_MICROCREDITS:
            raise InvalidRequest("the call allows more output than any account can pay for", param=asked.param)
        return Estimate(
            input_tokens=priced.input.tokens,
            output_tokens=most,
            choices=asked.choices,
            floor_output_tokens=floor if self.settings.cap else most,
            want_microcredits=want,
            floor_microcredits=min(least, want) if self.settings.cap else want,
            input_microcredits=charge_up(input_usd, factor),
            input_usd=input_usd,
            cappable=asked.cappable,
        )

    def output_cap(
        self,
        call: Call,
        candidates: Sequence[Candidate],
        principal: Principal,
        estimate: Estimate,
        hold: Hold,
    ) -> int | None:
        """The bound to send upstream, per choice: what the hold covers on every candidate, within its tokens.

        None: the hold covers these candidates' worst case, or the endpoint has no bound. 0: not even the input.
        """
        tokens = estimate.want_tokens if hold.tokens is None else hold.tokens
        covered = hold.microcredits >= estimate.want_microcredits and tokens >= estimate.want_tokens
        if covered or not estimate.cappable:
            return None
        priced = self._price(call, candidates)
        budget_usd = affordable_usd(hold.microcredits, charge_factor(principal, call.multiplier))
        fits = [self._fit(priced, candidate, budget_usd) for candidate in candidates]
        fit = min(max(0, tokens - estimate.input_tokens), *fits)
        if fit >= max(self._output(priced.asked, candidate) for candidate in candidates):
            return None
        return fit // estimate.choices

    def _fit(self, priced: _Priced, candidate: Candidate, budget_usd: Decimal) -> int:
        """The output a budget pays for; UNBOUNDED when the candidate stops before, at its own known maximum."""
        fit = affordable_output_tokens(
            candidate.card,
            input_tokens=priced.input.tokens,
            budget_usd=budget_usd,
            tier=priced.input.tier,
            modalities=priced.input.modalities,
            units=priced.input.units,
        )
        stops = priced.asked.per_choice is not None or candidate.card.max_output_tokens is not None
        return UNBOUNDED if stops and fit >= self._output(priced.asked, candidate) else fit

    def _price(self, call: Call, candidates: Sequence[Candidate]) -> _Priced:
        contexts = [one.card.context_window for one in candidates]
        allow = Allowances(
            bytes_per_token=self.settings.bytes_per_token,
            tokens_per_audio_second=self.settings.tokens_per_audio_second,
            models=tuple([one.model for one in candidates]),
            tokens_per_image=self.settings.tokens_per_image,
            context_tokens=None if None in contexts else max(filter(None, contexts)),
        )
        return _Priced(measure(call, allow), asked_output(call))

    def _output(self, asked: Asked, candidate: Candidate) -> int:
        """The most output of all choices together."""
        own = candidate.card.max_output_tokens or self.settings.default_max_output_tokens
        return (own if asked.per_choice is None else asked.per_choice) * asked.choices


def charge_factor(principal: Principal, multiplier: Decimal) -> Decimal:
    """Microcredits per USD: multiplier x (1 + markup) x credits per USD, as core.money.charge_microcredits has it."""
    markup = EXACT.add(_ONE, principal.markup_percent.scaleb(-2, EXACT))
    per_usd = EXACT.multiply(principal.credits_per_usd, _MICRO)
    return EXACT.multiply(EXACT.multiply(multiplier, markup), per_usd)


def charge_up(usd: Decimal, factor: Decimal) -> int:
    """USD as microcredits, rounded up: a bound must not lose a part."""
    return ceil(EXACT.multiply(usd, factor))


def affordable_usd(microcredits: int, factor: Decimal) -> Decimal:
    """The most USD whose charge is no more than so many microcredits."""
    return _DOWN.divide(Decimal(microcredits), factor) if factor else Decimal(MAX_MICROCREDITS)
