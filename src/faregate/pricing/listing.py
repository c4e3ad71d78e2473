"""The priced catalogue as a list, for `GET /v1/models`: computed when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from faregate.core.price import PriceCard
from faregate.pricing.catalog import LayeredCatalog
from faregate.pricing.names import kind_of

_UNIT_TYPES = (
    ("second", "audio_stt"),
    ("character", "audio_tts"),
    ("image", "image"),
    ("pixel", "image"),
    ("video_second", "video"),
    ("query", "rerank"),
    ("page", "ocr"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """One priced model of one provider on one tier; `card.rates` are USD per single token or unit."""

    model_id: str
    provider: str
    """A configured provider's name or a kind."""
    display_name: str
    model_type: str
    """text | embedding | audio_stt | audio_tts | image | video | rerank | ocr"""
    tier: str
    card: PriceCard


def listing(
    catalog: LayeredCatalog,
    *,
    provider: str | None = None,
    tier: str | None = None,
    model_id: str | None = None,
    organization_id: str | None = None,
    now_us: int,
) -> list[ListedModel]:
    """The models that have a price, by provider and name. `tier` leaves those with rates of that tier.

    The whole catalogue is some thousand cards (tens of milliseconds a thousand): call it in a thread.
    """
    found: dict[tuple[str, str], ListedModel] = {}
    for seller, model in _wanted(catalog, provider, model_id, organization_id):
        if (seller, model) in found:
            continue
        card = catalog.find(model, provider=seller, organization_id=organization_id, now_us=now_us)
        if card is not None and (tier in (None, "default") or tier in card.tiers):
            found[(seller, model)] = _listed(seller, model, card, tier or "default")
    return [found[key] for key in sorted(found)]


def _wanted(
    catalog: LayeredCatalog, provider: str | None, model_id: str | None, organization_id: str | None
) -> Iterator[tuple[str, str]]:
    if provider is not None and model_id is not None:
        yield provider, model_id
        return
    kind = None if provider is None else catalog.kinds.get(provider, kind_of(provider))
    for seller, model in catalog.names(organization_id):
        if model_id is not None and model != model_id.lower():
            continue
        if provider is not None and seller not in (provider, kind, "*"):
            continue
        yield provider or seller, model


def _listed(provider: str, model: str, card: PriceCard, tier: str) -> ListedModel:
    return ListedModel(
        model_id=model,
        provider=provider,
        display_name=card.display_name or model,
        model_type=_type(card, model),
        tier=tier,
        card=card,
    )


def _type(card: PriceCard, model: str) -> str:
    if card.rates.get("output"):
        return "image" if "image_output" in card.rates and "image" in model else "text"
    unit = next((name for rate, name in _UNIT_TYPES if rate in card.rates), None)
    return unit or ("embedding" if "embed" in model else "text")
