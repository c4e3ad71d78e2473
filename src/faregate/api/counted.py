"""What others have counted, priced: the one place between their counts and a record. Pure.

    counts + the card in force at that moment + who pays  ->  Record (kind `ingested`)

The dialects and `/v1/usage/record` translate into `Counted`; none of them knows a price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal

from faregate.api.fields import parse_moment
from faregate.api.http import encode
from faregate.core.call import Record
from faregate.core.money import MAX_MICROCREDITS, charge_microcredits
from faregate.core.price import Cost, PriceCard
from faregate.core.pricing import price
from faregate.core.truth import TIERS, usage_fields
from faregate.core.usage import Usage
from faregate.errors import InvalidRequest, ModelNotPriced
from faregate.pricing.cards import with_id
from faregate.pricing.catalog import LayeredCatalog
from faregate.pricing.names import kind_of

MOST_COUNTED = 10**12
"""Of tokens, characters, images and the like in one record: sums of many still fit into 64 bits."""
CUSTOM = "custom"
"""The provider whose cards price what no provider sells."""
MOST_SECONDS = Decimal(10**9)
_EARLIEST_US = 946_684_800_000_000
_AHEAD_US = 24 * 3_600_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """The counts of one use of a model, as somebody else has made them."""

    model: str
    usage: Usage
    occurred_us: int
    endpoint: str
    provider: str = ""
    """A configured provider's name or a kind; "": the model's vendor."""
    public_model: str = ""
    """What it was asked for as, when that is another name."""
    picture: str | None = None
    """How the names of rates for such pictures begin: `image:hd:1024x`, when one edge is all that is known."""
    tier: str = "default"
    context: Literal["customer", "system"] = "customer"
    multiplier: Decimal = Decimal(1)
    attribution: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None
    raw_usage: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """Whose usage it is, and at what rate credits are taken for it."""

    organization_id: str
    account_id: str
    """"" until a bulk's customer is known."""
    key_id: str | None
    request_id: str
    credits_per_usd: Decimal
    markup_percent: Decimal


def card_for(catalog: LayeredCatalog, counted: Counted, organization_id: str) -> PriceCard:
    """The card in force when it happened. Raises ModelNotPriced.

    What it has no rate for and no provider sells (custom metrics, video) may be on the model's card of `custom`.
    """
    card = catalog.find(
        counted.model, provider=counted.provider, organization_id=organization_id, now_us=counted.occurred_us
    )
    missing = [name for name in _own_rates(counted.usage) if card is None or name not in card.rates]
    if missing and counted.provider != CUSTOM:
        own = catalog.find(counted.model, provider=CUSTOM, organization_id=organization_id, now_us=counted.occurred_us)
        card = _joined(card, own, missing) if card is not None and own is not None else card or own
    if card is None:
        of = f" of provider {counted.provider!r}" if counted.provider else ""
        raise ModelNotPriced(f"the model {counted.model!r}{of} has no price", param="model")
    return card


def _own_rates(usage: Usage) -> tuple[str, ...]:
    return (*usage.custom, *(("video_second",) if usage.video_seconds is not None else ()))


def _joined(card: PriceCard, own: PriceCard, names: Sequence[str]) -> PriceCard:
    rates = {name: own.rates[name] for name in names if name in own.rates}
    if not rates:
        return card
    return with_id(replace(card, rates={**card.rates, **rates}, source=f"{card.source} + {own.source}"))


def record_of(
    card: PriceCard,
    counted: Counted,
    payer: Payer,
    *,
    hold_id: str,
    charges: bool,
    kind: str = "",
    paid_by: str | None = None,
) -> Record:
    """Its record; `charges` False: the cost is told, no credits are taken. `kind` is the provider's.

    Raises ModelNotPriced and InvalidRequest (counts that have no price, or one that no account could pay).
    """
    usage = _fitted(counted, card)
    cost = _cost(card, usage, counted.tier)
    charge = charge_microcredits(cost.usd, payer.credits_per_usd, payer.markup_percent, counted.multiplier)
    if charge > MAX_MICROCREDITS:
        raise InvalidRequest("the usage comes to more credits than an account can hold", param="usage")
    provider = counted.provider or card.provider
    return Record(
        hold_id=hold_id,
        hold_kind="api",
        kind="ingested",
        organization_id=payer.organization_id,
        account_id=payer.account_id,
        key_id=payer.key_id,
        request_id=payer.request_id,
        occurred_at_us=counted.occurred_us,
        charge_microcredits=charge if charges else 0,
        cost_usd=cost.usd,
        context=counted.context,
        endpoint=counted.endpoint,
        public_model=counted.public_model or counted.model,
        provider=provider,
        provider_kind=kind or kind_of(provider),
        model=counted.model,
        usage=usage_fields(usage),
        tier=cost.tier,
        card=card,
        lines=tuple([(x.item, f"{x.quantity:f}", f"{x.rate:f}", f"{x.amount:f}") for x in cost.lines]),
        multiplier=counted.multiplier,
        markup_percent=payer.markup_percent,
        credits_per_usd=payer.credits_per_usd,
        attribution=counted.attribution,
        description=counted.description,
        raw_usage=counted.raw_usage,
        paid_by=paid_by,
    )


def _fitted(counted: Counted, card: PriceCard) -> Usage:
    """A use is a request where requests have a price; an image is billed by its kind, by count or by pixels: by one."""
    usage = counted.usage
    if "request" in card.rates and usage.requests is None:
        usage = replace(usage, requests=1)
    if usage.images and usage.output_tokens is None and counted.picture is not None:
        kinds = [name for name in card.rates if name.startswith(counted.picture)]
        if kinds:
            dearest = max(kinds, key=card.rates.__getitem__)
            custom = {**usage.custom, dearest: Decimal(usage.images)}
            return replace(usage, images=None, pixels=None, custom=custom)
    if usage.pixels is not None and "image" in card.rates:
        usage = replace(usage, pixels=None)
    return usage


def _cost(card: PriceCard, usage: Usage, tier: str) -> Cost:
    cost = price(card, usage, tier=TIERS.get(tier, "default"))
    missing = [name for name in _own_rates(usage) if name not in card.rates and not card.free]
    if missing:
        raise ModelNotPriced(f"{card.model} has no rate for {', '.join(missing)}", param="model")
    return cost


# What the dialects share --------------------------------------------------------------------------------


def attributes(metadata: Mapping[str, object]) -> dict[str, str]:
    """Metadata as attribution: texts as they are, everything else as JSON."""
    return {
        f"metadata.{name}": value if isinstance(value, str) else encode(value).decode()
        for name, value in metadata.items()
    }


def moment_of(text: str | None, param: str, now_us: int) -> int:
    """When it happened, UTC microseconds: now unless told. Raises InvalidRequest for what cannot be."""
    if text is None:
        return now_us
    moment_us = parse_moment(text, param)
    if not _EARLIEST_US <= moment_us <= now_us + _AHEAD_US:
        raise InvalidRequest(f"{param} must be after the year 1999 and not in the future", param=param)
    return moment_us
