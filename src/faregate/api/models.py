"""Models and their prices: `/v1/models…`, OpenAI's list and the credits list in one body."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
from pydantic import Field

from faregate.api.describe import (
    CREDITS,
    INTEGER,
    NUMBER,
    TEXT,
    USD,
    by_name,
    choice,
    described,
    many,
    maybe,
    named,
    obj,
    success,
    with_fields,
)
from faregate.api.fields import Amount, bounded_decimal
from faregate.api.http import Body, Reply, Request, encode, ok
from faregate.api.services import Services
from faregate.api.tenancy import Reference
from faregate.core.call import Principal
from faregate.core.money import charge_microcredits, credits, plain
from faregate.core.price import PriceCard
from faregate.core.pricing import price
from faregate.core.usage import Usage
from faregate.errors import ModelNotFound, ModelNotPriced, PermissionDenied
from faregate.ledger.prices import Version
from faregate.pricing.listing import ListedModel, listing

_MILLION = Decimal(1_000_000)
_MODALITIES = ("audio", "image")
_TEXT = ("input", "output", "cached_input", "cache_write_5m", "cache_write_1h", "reasoning", "citation")
_TOKEN_RATES = frozenset(
    (
        *_TEXT,
        *("audio_input", "cached_audio_input", "audio_output"),
        *("image_input", "cached_image_input", "image_output"),
    )
)
_KEPT_S = 60.0
_KEPT_MOST = 8


class ModelsQuery(Body):
    """GET /v1/models."""

    provider: Reference | None = None
    tier: Reference | None = None
    model_id: Reference | None = None


class Calculation(Body):
    """POST /v1/models/calculate: counts as in usage records."""

    model_id: Reference
    provider: Reference | None = None
    tier: Reference = "default"
    input_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)
    cached_tokens: int | None = Field(default=None, ge=0)
    cache_write_tokens: int | None = Field(default=None, ge=0)
    cache_write5m_tokens: int | None = Field(default=None, ge=0)
    cache_write1h_tokens: int | None = Field(default=None, ge=0)
    reasoning_tokens: int | None = Field(default=None, ge=0)
    audio_input_tokens: int | None = Field(default=None, ge=0)
    audio_output_tokens: int | None = Field(default=None, ge=0)
    image_input_tokens: int | None = Field(default=None, ge=0)
    image_output_tokens: int | None = Field(default=None, ge=0)
    audio_duration_seconds: Amount = None
    characters: int | None = Field(default=None, ge=0)
    images: int | None = Field(default=None, ge=0)
    pages: int | None = Field(default=None, ge=0)
    requests: int | None = Field(default=None, ge=0)
    web_search_requests: int | None = Field(default=None, ge=0)
    multiplier: Amount = 1


MODEL = named(
    "Model",
    obj(
        modelId=TEXT,
        provider=TEXT,
        displayName=TEXT,
        modelType=TEXT,
        tier=TEXT,
        pricing=by_name(by_name(USD)),
        contextWindow=maybe(INTEGER),
        maxOutputTokens=maybe(INTEGER),
    ),
)
_CALLABLE = obj(id=TEXT, object=choice("model"), created=INTEGER, owned_by=TEXT)
_CALCULATED = success(
    modelId=TEXT,
    modelName=TEXT,
    provider=TEXT,
    estimatedCostUsd=USD,
    credits=CREDITS,
    tier=TEXT,
    pricing=by_name(by_name(USD)),
    source=maybe(TEXT),
    sourceDate=maybe(TEXT),
    lines=many(obj(quantity=NUMBER, rate=USD, amount=USD, **{"class": TEXT})),
    unpriced=many(TEXT),
)


class Catalogue:
    """The whole priced catalogue as JSON, kept for a minute: thousands of cards, most of a second to render."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str | None, Version], tuple[float, asyncio.Task[bytes]]] = {}

    async def whole(self, services: Services, asked_by: str) -> bytes:
        """Every model, as a JSON array; organizations without prices of their own share one."""
        organization_id = asked_by if services.catalog.has_own_prices(asked_by) else None
        key, now = (organization_id, services.prices.version), services.clock.monotonic()
        kept = self._kept.get(key)
        if kept is None or now >= kept[0] + _KEPT_S or (kept[1].done() and kept[1].exception() is not None):
            if len(self._kept) >= _KEPT_MOST:
                self._kept.clear()
            work = asyncio.to_thread(_whole, services, organization_id)
            kept = (now, asyncio.create_task(work))
            self._kept[key] = kept
        return await asyncio.shield(kept[1])


def _whole(services: Services, organization_id: str | None) -> bytes:
    found = listing(services.catalog, organization_id=organization_id, now_us=services.clock.now_us())
    return encode([model_json(model) for model in found])


class Models:
    """The handlers that list; they share one rendered catalogue."""

    def __init__(self) -> None:
        self._catalogue = Catalogue()

    @described(
        query=ModelsQuery,
        answer=success(object=choice("list"), data=many(_CALLABLE), models=many(MODEL), optional={"model": MODEL}),
    )
    async def list_all(self, services: Services, request: Request) -> Reply:
        """`data[]`: what the key may call; `models[]`: everything that has a price (`modelId` given: `model` too)."""
        query = request.params(ModelsQuery)
        data = [
            _openai_json(row.id, row.owned_by, row.candidates[0].card)
            for row in services.router.listing(request.principal, services.clock.now_us())
        ]
        if query == ModelsQuery():
            whole = await self._catalogue.whole(services, request.principal.organization_id)
            return ok(object="list", data=data, models=orjson.Fragment(whole))
        found = await asyncio.to_thread(_found, services, request.principal, query)
        shown: dict[str, object] = {"models": [model_json(model) for model in found]}
        if query.model_id is not None:
            shown["model"] = model_json(_best(services, request.principal, query.model_id, found))
        return ok(object="list", data=data, **shown)


def _found(services: Services, principal: Principal, query: ModelsQuery) -> list[ListedModel]:
    return listing(
        services.catalog,
        provider=query.provider,
        tier=query.tier,
        model_id=query.model_id,
        organization_id=principal.organization_id,
        now_us=services.clock.now_us(),
    )


def _best(services: Services, principal: Principal, model_id: str, found: list[ListedModel]) -> ListedModel:
    """The vendor's own, else the first."""
    if not found:
        raise ModelNotFound(f"no priced model {model_id!r}", param="modelId")
    organization_id, now_us = principal.organization_id, services.clock.now_us()
    card = services.catalog.find(model_id, organization_id=organization_id, now_us=now_us)
    return next((model for model in found if card is not None and model.card.id == card.id), found[0])


@described(answer=with_fields(success(model=MODEL), **_CALLABLE["properties"]))
async def get(services: Services, request: Request) -> Reply:
    """One model the key may call, by its public name or as provider/model."""
    name, principal, now_us = request.path_params["id"], request.principal, services.clock.now_us()
    first = services.router.candidates(name, endpoint="chat.completions", principal=principal, now_us=now_us)[0]
    listed = ListedModel(
        model_id=first.model,
        provider=first.provider,
        display_name=first.card.display_name or name,
        model_type="text",
        tier="default",
        card=first.card,
    )
    return ok(**_openai_json(name, first.provider, first.card), model=model_json(listed))


@described(
    body=Calculation,
    answer=_CALCULATED,
    rules="the model has a price; parts lie inside their totals; the multiplier is from 1 to 10",
    example={"modelId": "gpt-4.1-mini", "inputTokens": 1000, "outputTokens": 200},
)
async def calculate(services: Services, request: Request) -> Reply:
    """What a usage would cost the key's organization. Nothing is recorded."""
    body, principal = request.body(Calculation), request.principal
    multiplier = bounded_decimal(body.multiplier, "multiplier", Decimal(1), Decimal(10))
    card = _card(services, principal, body)
    cost = price(card, _usage(body), tier=body.tier)
    charge = charge_microcredits(cost.usd, principal.credits_per_usd, principal.markup_percent, multiplier)
    lines = [
        {"class": line.item, "quantity": plain(line.quantity), "rate": plain(line.rate), "amount": plain(line.amount)}
        for line in cost.lines
    ]
    return ok(
        modelId=body.model_id,
        modelName=card.display_name or card.model,
        provider=card.provider,
        estimatedCostUsd=plain(cost.usd),
        credits=credits(charge),
        tier=cost.tier,
        pricing=pricing_json(_rates(card, cost.tier)),
        source=card.source,
        sourceDate=card.source_date,
        lines=lines,
        unpriced=list(cost.unpriced),
    )


def _card(services: Services, principal: Principal, body: Calculation) -> PriceCard:
    """As a call would be priced; else by provider, kind or vendor. Raises ModelNotPriced."""
    organization_id, now_us = principal.organization_id, services.clock.now_us()
    if body.provider is None:
        try:
            found = services.router.candidates(
                body.model_id, endpoint="chat.completions", principal=principal, now_us=now_us
            )
            return found[0].card
        except (ModelNotFound, ModelNotPriced, PermissionDenied):
            pass  # Not for this key to call, but its price is no secret.
    card = services.catalog.find(
        body.model_id, provider=body.provider or "", organization_id=organization_id, now_us=now_us
    )
    if card is None:
        raise ModelNotPriced(f"the model {body.model_id!r} has no price", param="modelId")
    return card


def _usage(body: Calculation) -> Usage:
    seconds = body.audio_duration_seconds
    if seconds is not None:
        seconds = bounded_decimal(seconds, "audioDurationSeconds", Decimal(0), Decimal(10**9), places=9)
    return Usage(
        input_tokens=body.input_tokens,
        output_tokens=body.output_tokens,
        cached_input_tokens=body.cached_tokens,
        cache_write_tokens=body.cache_write_tokens,
        cache_write_5m_tokens=body.cache_write5m_tokens,
        cache_write_1h_tokens=body.cache_write1h_tokens,
        reasoning_tokens=body.reasoning_tokens,
        audio_input_tokens=body.audio_input_tokens,
        audio_output_tokens=body.audio_output_tokens,
        image_input_tokens=body.image_input_tokens,
        image_output_tokens=body.image_output_tokens,
        audio_seconds=seconds,
        characters=body.characters,
        images=body.images,
        pages=body.pages,
        requests=body.requests,
        web_search_requests=body.web_search_requests,
    )


# Shapes -------------------------------------------------------------------------------------------------


def _openai_json(name: str, owned_by: str, card: PriceCard) -> dict[str, object]:
    return {"id": name, "object": "model", "created": _created(card), "owned_by": owned_by}


def _created(card: PriceCard) -> int:
    """OpenAI's clients want a number: since when the price is known."""
    if card.effective_from is not None:
        return int(card.effective_from.timestamp())
    try:
        return int(datetime.fromisoformat(card.source_date or "").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return 0


def model_json(model: ListedModel) -> dict[str, object]:
    """A priced model as the credits list shows it."""
    return {
        "modelId": model.model_id,
        "provider": model.provider,
        "displayName": model.display_name,
        "modelType": model.model_type,
        "tier": model.tier,
        "pricing": pricing_json(_rates(model.card, model.tier)),
        "contextWindow": model.card.context_window,
        "maxOutputTokens": model.card.max_output_tokens,
    }


def _rates(card: PriceCard, tier: str) -> Mapping[str, Decimal]:
    return card.tiers.get(tier, card.rates)


def pricing_json(rates: Mapping[str, Decimal]) -> dict[str, Any]:
    """`{text{inputPerMillion, …}, audio{…}, image{…}, perUnit{…}}`, USD; what has no rate is left out."""
    groups: dict[str, dict[str, Decimal]] = {}
    for name, rate in rates.items():
        group, shown, factor = _place(name)
        groups.setdefault(group, {})[shown] = plain(rate * factor)
    return groups


def _place(name: str) -> tuple[str, str, Decimal]:
    if name not in _TOKEN_RATES:
        return "perUnit", _camel(name), Decimal(1)
    for modality in _MODALITIES:
        if modality in name:
            return modality, _camel(name.replace(f"{modality}_", "")) + "PerMillion", _MILLION
    return "text", _camel(name) + "PerMillion", _MILLION


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() if part[:1].isalpha() else part for part in rest)
