"""What a call is charged when it is over: the table "When things go wrong", as pure functions.

failed before any output, no usage      nothing: the hold is released
usage is there                          its exact price, also when the stream broke off later
no usage, but something was delivered   estimated from what was sent and delivered, flagged; never zero
an explicit zero                        a value, not "missing"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from operator import attrgetter
from typing import Literal

from faregate.core.asks.media import picture_pixels, picture_rate
from faregate.core.call import Call, Candidate, Estimate, Principal, Record
from faregate.core.money import MAX_MICROCREDITS, charge_microcredits
from faregate.core.price import Cost, PriceCard, PriceLine
from faregate.core.pricing import line, price, total
from faregate.core.usage import MOST_TOKENS, Reading, Usage
from faregate.errors import FaregateError

TIERS = {"flex": "flex", "priority": "priority", "fast": "priority", "batch": "batch"}
"""Served tiers that have rates of their own; every other word means the default."""

_UNKNOWN = Usage()

_BYTES_PER_TOKEN = 4
"""For estimates of what was (not of what might be): the usual ratio of English text."""

UnconfirmedPolicy = Literal["progress", "estimate", "release"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a call ended, seen from the gateway."""

    status: int
    reading: Reading
    broke: bool = False
    """The provider's body broke off, or it timed out."""
    unseen: bool = False
    """Nothing of it went to the client, who will get an error instead."""
    client_gone: bool = False
    cut: bool = False
    """We stopped reading (policy `cancel`)."""


def billable_usage(outcome: Outcome, call: Call, estimate: Estimate) -> tuple[Usage | None, bool]:
    """(usage to charge, is it estimated). None: the truth is zero."""
    reading = outcome.reading
    if not reading.billable or (outcome.broke and outcome.unseen and not reading.raw_usage):
        return None, False
    known = reading.usage
    if known is not None and not reading.output_is_placeholder:
        if known.input_tokens is not None and known.output_tokens is not None:
            return known, reading.anomaly is not None
        if _has_units(known):
            return known, False
        return _filled(known, reading, call, estimate), True
    if outcome.status >= 400 and known is None:
        return None, False
    if reading.delivered_tokens == 0 and (outcome.broke or reading.error is not None) and not outcome.cut:
        return None, False
    if known is None and call.form is not None and call.form.seconds is not None:
        return Usage(audio_seconds=Decimal(call.form.seconds)), call.form.guessed or not reading.complete
    return _filled(known or _UNKNOWN, reading, call, estimate), True


def _has_units(usage: Usage) -> bool:
    """Billed by something else than tokens."""
    units = (usage.audio_seconds, usage.characters, usage.images, usage.pages, usage.requests, usage.search_units)
    return any(count is not None for count in units)


def _filled(usage: Usage, reading: Reading, call: Call, estimate: Estimate, *, least_output_tokens: int = 0) -> Usage:
    likely = likely_input_tokens(call, estimate)
    if call.endpoint.startswith("images.") and usage.output_tokens is None:
        drawn = reading.delivered_tokens or estimate.output_tokens  # A picture's own tokens cannot be seen in it.
        usage = replace(usage, output_tokens=drawn, image_output_tokens=drawn)
    delivered = (
        reading.delivered_tokens
        if usage.output_tokens is None or reading.output_is_placeholder
        else usage.output_tokens
    )
    given = usage.input_tokens if usage.input_tokens is not None else likely
    return replace(usage, input_tokens=given, output_tokens=max(delivered, least_output_tokens, 0))


def likely_input_tokens(call: Call, estimate: Estimate) -> int:
    """What a call's input probably was, for want of a count; the bytes of files say little."""
    if call.form is not None:
        return estimate.input_tokens
    return min(-(-call.body_bytes // _BYTES_PER_TOKEN) + call.prior_tokens, estimate.input_tokens)


def running_record(intent: Record, reading: Reading, call: Call, candidate: Candidate, estimate: Estimate) -> Record:
    """The record of a call that runs on after its answer: all that `ended_record` will need."""
    return replace(
        intent,
        provider=candidate.provider,
        provider_kind=candidate.kind,
        model=candidate.model,
        card=candidate.card,
        usage={"input_tokens": likely_input_tokens(call, estimate)},
        estimated=True,
        upstream_id=reading.response_id,
    )


def ended_record(running: Record, outcome: Outcome) -> tuple[Record, Cost] | None:
    """The record of a call that has ended long after its answer; None when nothing is owed."""
    assert running.card is not None
    call, input_tokens = polled_call(running), _count(running.usage.get("input_tokens"))
    estimate = Estimate(
        input_tokens=input_tokens,
        output_tokens=0,
        choices=1,
        floor_output_tokens=0,
        want_microcredits=running.charge_microcredits,
        floor_microcredits=running.charge_microcredits,
        input_microcredits=running.charge_microcredits,
        input_usd=running.cost_usd,
        cappable=False,
    )
    candidate = Candidate(provider=running.provider, kind=running.provider_kind, model=running.model, card=running.card)
    principal = Principal(
        key_id=running.key_id or "",
        rev=0,
        organization_id=running.organization_id,
        account_id=running.account_id,
        default_account_id=running.account_id,
        scopes=frozenset(),
        credits_per_usd=running.credits_per_usd,
        markup_percent=running.markup_percent,
    )
    return finished_record(running, outcome, call, candidate, estimate, principal)


def polled_call(running: Record) -> Call:
    """A call as far as its record knows it: its body is gone, what was in it is a number."""
    return Call(
        id=running.hold_id,
        request_id=running.request_id,
        endpoint=running.endpoint,
        model=running.public_model,
        body={},
        raw_body=b"",
        stream=False,
        wants_usage=True,
        account_id=running.account_id,
        multiplier=running.multiplier,
        prior_tokens=_count(running.usage.get("input_tokens")),
        background=True,
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def finished_record(
    intent: Record,
    outcome: Outcome,
    call: Call,
    candidate: Candidate,
    estimate: Estimate,
    principal: Principal,
    *,
    duration_ms: int = 0,
) -> tuple[Record, Cost] | None:
    """The record of a call that is over and its exact cost; None when nothing is owed."""
    usage, estimated = billable_usage(outcome, call, estimate)
    if usage is None:
        return None
    reading = outcome.reading
    owed = _owed(usage, reading, call, candidate, estimate, principal)
    record = replace(
        intent,
        kind="actual",
        provider=candidate.provider,
        provider_kind=candidate.kind,
        model=candidate.model,
        card=candidate.card,
        usage=usage_fields(owed.usage),
        tier=owed.cost.tier,
        cost_usd=owed.cost.usd,
        charge_microcredits=owed.microcredits,
        lines=tuple([(x.item, f"{x.quantity:f}", f"{x.rate:f}", f"{x.amount:f}") for x in owed.cost.lines]),
        estimated=estimated or owed.guessed,
        outcome=_word(outcome),
        status=outcome.status,
        duration_ms=duration_ms,
        raw_usage=reading.raw_usage.decode("utf-8", "replace") or None,
        upstream_id=reading.response_id,
    )
    return record, owed.cost


@dataclass(frozen=True, slots=True)
class _Owed:
    """What a usage comes to, on the best basis that has a price."""

    usage: Usage
    cost: Cost
    microcredits: int
    guessed: bool


def _owed(
    usage: Usage, reading: Reading, call: Call, candidate: Candidate, estimate: Estimate, principal: Principal
) -> _Owed:
    """On what was counted; if that cannot be (or has no rate), on what was sent and delivered; at last on the estimate.

    Never fails: a provider's odd number must not leave a hold open, nor stop the heartbeat that asks for progress.
    """
    counted = _charged(usage, reading, call, candidate, principal)
    if counted is not None:
        return _Owed(usage, *counted, False)
    guess = _filled(_believable(usage), reading, call, estimate)
    guessed = _charged(guess, replace(reading, provider_cost_usd=None), call, candidate, principal)
    if guessed is not None:
        return _Owed(guess, *guessed, True)
    cost = Cost(usd=estimate.input_usd, lines=(line("estimate", 1, estimate.input_usd),))
    return _Owed(guess, cost, estimate.input_microcredits, True)


def _believable(usage: Usage) -> Usage:
    """Of counts that have no price together, those that can be."""
    return Usage(input_tokens=_if_possible(usage.input_tokens), output_tokens=_if_possible(usage.output_tokens))


def _if_possible(count: int | None) -> int | None:
    return count if count is not None and 0 <= count <= MOST_TOKENS else None


def _charged(
    usage: Usage, reading: Reading, call: Call, candidate: Candidate, principal: Principal
) -> tuple[Cost, int] | None:
    """A basis' cost and charge; None if it has no price, or one that no account could pay."""
    try:
        cost = _priced(candidate, _by_card(usage, call, candidate), reading)
    except (FaregateError, ArithmeticError):
        return None
    charge = charge_microcredits(cost.usd, principal.credits_per_usd, principal.markup_percent, call.multiplier)
    return (cost, charge) if charge <= MAX_MICROCREDITS else None


def _by_card(usage: Usage, call: Call, candidate: Candidate) -> Usage:
    """Pictures without tokens, counted in what the card has a rate for: this quality and size, or their pixels."""
    rates = candidate.card.rates
    if not usage.images or usage.output_tokens is not None:
        return usage
    rate = picture_rate(call.body)
    if rate in rates:
        return replace(usage, images=None, custom={**usage.custom, rate: Decimal(usage.images)})
    if "pixel" in rates and usage.pixels is None:
        return replace(usage, images=None, pixels=usage.images * picture_pixels(call.body))
    return usage


def _priced(candidate: Candidate, usage: Usage, reading: Reading) -> Cost:
    """On the tier, speed and geography that were served."""
    if candidate.also and reading.per_model and usage is reading.usage and reading.provider_cost_usd is None:
        return _priced_apart(candidate, reading.per_model, reading)
    if "request" in candidate.card.rates and usage.requests is None:
        usage = replace(usage, requests=1)
    return _on_card(candidate.card, usage, reading)


def _on_card(card: PriceCard, usage: Usage, reading: Reading) -> Cost:
    return price(
        card,
        usage,
        tier=TIERS.get(reading.service_tier or "", "default"),
        speed=reading.speed,
        geo=reading.inference_geo,
        provider_cost_usd=reading.provider_cost_usd,
    )


def _priced_apart(candidate: Candidate, parts: Mapping[str, Usage], reading: Reading) -> Cost:
    """Each model's part at its own rates; its lines name it."""
    lines: tuple[PriceLine, ...] = ()
    unpriced: tuple[str, ...] = ()
    tier = "default"
    for model, usage in parts.items():
        other = candidate.also.get(model)
        cost = _on_card(other or candidate.card, usage, reading)
        lines += tuple([replace(one, item=f"{one.item} ({model})") for one in cost.lines]) if other else cost.lines
        unpriced += cost.unpriced
        tier = tier if other else cost.tier
    return Cost(usd=total(lines), lines=lines, tier=tier, unpriced=unpriced)


def _word(outcome: Outcome) -> str:
    if outcome.client_gone:
        return "client_gone"
    if outcome.broke or outcome.reading.error is not None:
        return "upstream_error"
    if not outcome.reading.complete:
        return "truncated"
    return "ok" if outcome.reading.usage is not None else "no_usage"


def progress_microcredits(
    reading: Reading, call: Call, candidate: Candidate, estimate: Estimate, principal: Principal
) -> int:
    """What a call in flight is worth now: its input and the output delivered so far."""
    known = reading.usage or _UNKNOWN
    usage = _filled(known, reading, call, estimate, least_output_tokens=reading.delivered_tokens)
    return _owed(usage, reading, call, candidate, estimate, principal).microcredits


_USAGE_FIELDS = tuple(f.name for f in fields(Usage) if f.name not in ("tool_use_billable", "custom"))
_values_of = attrgetter(*_USAGE_FIELDS)


def usage_fields(usage: Usage) -> dict[str, object]:
    """A usage without its unknowns: counts as int, seconds as decimal strings."""
    found: dict[str, object] = {}
    for name, value in zip(_USAGE_FIELDS, _values_of(usage), strict=True):
        if value is not None:
            found[name] = format(value, "f") if isinstance(value, Decimal) else value
    if usage.custom:
        found["custom"] = {name: format(value, "f") for name, value in usage.custom.items()}
    return found


def unconfirmed_record(
    intent: Record, progress_microcredits: int, hold_microcredits: int, policy: UnconfirmedPolicy
) -> Record:
    """What is booked for a call whose owner died before it knew: by policy, until a truth comes later."""
    if intent.hold_kind == "guard":
        policy = "release"
    charge = {"progress": progress_microcredits, "estimate": hold_microcredits, "release": 0}[policy]
    cost = intent.cost_usd * charge / intent.charge_microcredits if intent.charge_microcredits else Decimal(0)
    return replace(
        intent,
        kind="unconfirmed",
        charge_microcredits=charge,
        cost_usd=cost,
        estimated=True,
        outcome="unconfirmed",
        status=0,
    )


def zero_record(intent: Record) -> Record:
    """A truth of zero, for a hold that somebody else may have begun to charge.

    It keeps its windows of credits and tokens, which then get back what a guess has counted. Its request was admitted
    and is Redis's to count: never given back, and not counted here a second time.
    """
    return replace(
        intent,
        kind="actual",
        charge_microcredits=0,
        cost_usd=Decimal(0),
        usage={},
        outcome="released",
        status=0,
        limit_keys=tuple(key for key in intent.limit_keys if ".requests." not in key),
    )
