"""The layered catalog: which price card is in force for a provider's model.

    organization override -> API cards and prices file -> updates
        -> supplement -> genai-prices -> LiteLLM's map -> policy

The first layer that knows the model decides, tiers included; an entry for another tier alone is laid over what the
layers below say. Cards are made when they are first asked for, then kept until the next moment a price changes.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from faregate.core.price import PriceCard
from faregate.pricing import genai, litellm_map, zones
from faregate.pricing.cards import with_id
from faregate.pricing.entries import PriceEntry, choose, join, last_start_us, next_start_us, us
from faregate.pricing.file import supplement
from faregate.pricing.names import kind_of, sellers
from faregate.pricing.updates import NONE, Updates

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FOREVER_US = 2**63
_CACHE_SIZE = 8192
_MAX_NAME = 512
_MODALITIES = (
    *("audio_input", "cached_audio_input", "audio_output", "image_input", "cached_image_input", "image_output"),
    *("reasoning", "citation"),
)

_Key = tuple[str, str, str, str | None]


@dataclass(frozen=True, slots=True)
class _Answer:
    """A card and the span of time in which it is the answer."""

    card: PriceCard | None
    from_us: int = 0
    until_us: int = _FOREVER_US

    def within(self, other: _Answer) -> _Answer:
        return _Answer(self.card, max(self.from_us, other.from_us), min(self.until_us, other.until_us))


class LayeredCatalog:
    """Price cards of all layers, in memory: `ports.Catalog`.

    `entries` are the prices file's (`pricing.file.read`), `api_entries` those of `/v1/admin/prices`, in any order;
    entries with an organization are its own overrides. `kinds` maps configured provider names to their kinds, for
    look-ups that know only the name. `unpriced`: "refuse" (no card), "free", or a default card.
    """

    def __init__(
        self,
        entries: Sequence[PriceEntry] = (),
        api_entries: Sequence[PriceEntry] = (),
        *,
        kinds: Mapping[str, str] | None = None,
        unpriced: Literal["refuse", "free"] | PriceCard = "refuse",
        zoned: Collection[str] = (),
    ) -> None:
        """`zoned`: providers whose deployments stay within a zone or region, at the built-in layers' price for that."""
        self.kinds = dict(kinds or {})
        self._zoned = frozenset(zoned)
        self._unpriced = unpriced
        self._file = tuple(entries)
        self._shipped: tuple[PriceEntry, ...] | None = None
        self._cache: dict[_Key, tuple[int, int, PriceCard | None]] = {}
        self.set_updates(NONE)
        self.set_api_entries(api_entries)

    def set_api_entries(self, entries: Sequence[PriceEntry]) -> None:
        """Replace the cards of the prices API; the next look-up sees them."""
        everyone = [entry for entry in entries if entry.organization_id is None]
        own: dict[str, list[PriceEntry]] = {}
        for entry in entries:
            if entry.organization_id is not None:
                own.setdefault(entry.organization_id, []).append(entry)
        self._api = tuple(everyone)
        self._organizations = {organization: tuple(found) for organization, found in own.items()}
        self._cache = {}

    def set_updates(self, updates: Updates, entries: Sequence[PriceEntry] = ()) -> None:
        """Replace what was taken over by `faregate prices update`: a release's models, and a file's entries."""
        self._updates = updates
        self._update_entries = tuple(entries)
        self._cache = {}

    @property
    def taken_over(self) -> tuple[Updates, tuple[PriceEntry, ...]]:
        """What `set_updates` was given."""
        return self._updates, self._update_entries

    def has_own_prices(self, organization_id: str) -> bool:
        """Whether an organization overrides prices: all others see the same catalogue."""
        return organization_id in self._organizations

    def set_file_entries(self, entries: Sequence[PriceEntry]) -> None:
        """Replace the prices file's cards (a reload)."""
        self._file = tuple(entries)
        self._cache = {}

    def card(
        self, *, provider: str, kind: str, model: str, organization_id: str | None, now_us: int
    ) -> PriceCard | None:
        """The card in force for a provider's model, or None when no layer has one and unpriced is refused.

        `provider` and `kind` may be empty: then the model's vendor is meant.
        """
        own = organization_id if organization_id in self._organizations else None
        hit = self._cache.get((provider, kind, model, own))
        if hit is not None and hit[0] <= now_us < hit[1]:
            return hit[2]
        return self._look_up((provider, kind, model, own), now_us)

    def find(
        self, model: str, *, provider: str = "", organization_id: str | None = None, now_us: int
    ) -> PriceCard | None:
        """The card by a configured provider's name, a kind (`azure-2` is azure), or by the model's vendor."""
        kind = self.kinds.get(provider) or (kind_of(provider) if provider else "")
        return self.card(provider=provider, kind=kind, model=model, organization_id=organization_id, now_us=now_us)

    def names(self, organization_id: str | None = None) -> Iterable[tuple[str, str]]:
        """Every (provider or kind, model) that some layer names exactly, best layer first; with repeats."""
        own = self._organizations.get(organization_id or "", ())
        for entry in (*own, *self._api, *self._file, *self._update_entries, *self._shipped_entries()):
            yield from ((entry.provider, name) for name in entry.names if not name.endswith("*"))
        yield from ((genai.kind_of_seller(update.seller), update.info.id.lower()) for update in self._updates)
        yield from genai.models()
        yield from litellm_map.models()

    # Looking up -----------------------------------------------------------------------------------------

    def _look_up(self, key: _Key, now_us: int) -> PriceCard | None:
        provider, kind, model, organization = key
        if len(model) > _MAX_NAME or len(provider) > _MAX_NAME:
            return None
        answer = self._layered(provider, kind, model, organization, now_us)
        card = answer.card if answer.card is not None else self._fallback(provider or kind, model)
        if len(self._cache) >= _CACHE_SIZE:
            self._cache = {}
        self._cache[key] = (answer.from_us, answer.until_us, card)
        return card

    def _layered(self, provider: str, kind: str, model: str, organization: str | None, now_us: int) -> _Answer:
        pairs = sellers(provider, kind, model)
        who = tuple(dict.fromkeys((provider.lower(), kind.lower(), *(pair[0] for pair in pairs))))
        layers = (self._organizations.get(organization or "", ()), (*self._api, *self._file), self._update_entries)
        name, span = model.lower(), _Answer(None)
        over: dict[str, PriceCard] = {}
        for layer in layers:
            span = span.within(_span(layer, now_us))
            card, tiers = choose(layer, who, name, now_us)
            over = {**tiers, **over}
            if card is not None:
                return replace(span, card=join(card, over))
        below = self._built_in(pairs, now_us)
        if provider in self._zoned and below.card is not None:
            below = replace(below, card=zones.zoned(below.card, kind, name))
        card = below.card and join(below.card, over)
        return replace(span.within(below), card=card and with_id(card))

    def _built_in(self, pairs: Sequence[tuple[str, str]], now_us: int) -> _Answer:
        span = self._update_span(now_us)
        for kind, model in pairs:
            update = _answer(*genai.find_update(kind, model, _moment(now_us), self._updates), kind, model, now_us)
            if update.card is not None:
                return update.within(span)
            shipped, tiers = choose(self._shipped_entries(), (kind,), model, now_us)
            if shipped is not None:
                return replace(span, card=join(shipped, tiers))
            if kind == "sandbox":
                return span
            found = genai.find(kind, model, _moment(now_us), self._updates)
            answer = _answer(*found, kind, model, now_us)
            span = answer.within(span)
            if span.card is None:
                span = replace(span, card=litellm_map.find(kind, model))
            if span.card is not None:
                return span
        return span

    def _update_span(self, now_us: int) -> _Answer:
        starts = [us(start) for start in self._updates.starts()]
        since = max((start for start in starts if start <= now_us), default=0)
        return _Answer(None, since, min((start for start in starts if start > now_us), default=_FOREVER_US))

    def _shipped_entries(self) -> tuple[PriceEntry, ...]:
        if self._shipped is None:
            self._shipped = supplement()
        return self._shipped

    def _fallback(self, provider: str, model: str) -> PriceCard | None:
        if self._unpriced == "refuse":
            return None
        if self._unpriced == "free":
            return with_id(PriceCard(id="", provider=provider, model=model, rates={}, source="default", free=True))
        return with_id(replace(self._unpriced, provider=provider, model=model))


def default_catalog() -> LayeredCatalog:
    """The shipped layers alone, without a configuration: what `faregate price` uses."""
    return LayeredCatalog()


def wall_us() -> int:
    """UTC in microseconds, for command-line use (the gateway passes its own clock)."""
    return time.time_ns() // 1000


def _span(entries: Sequence[PriceEntry], now_us: int) -> _Answer:
    until = next_start_us(entries, now_us)
    return _Answer(None, last_start_us(entries, now_us), _FOREVER_US if until is None else until)


def _moment(now_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=min(max(now_us, 0), 2**57))


def _answer(card: PriceCard | None, until: datetime, kind: str, model: str, now_us: int) -> _Answer:
    if until == genai.FOREVER and card is None:
        return _Answer(None)
    if card is not None:
        card = _completed(card, litellm_map.find(kind, model), litellm_map.limits(kind, model))
    return _Answer(card, _hour_start(now_us), us(until))


def _completed(card: PriceCard, other: PriceCard | None, limits: tuple[int | None, int | None]) -> PriceCard:
    """A genai-prices card with what it leaves out and the next layer knows: audio and image rates, tiers, bounds.

    Rates are taken over only where both agree on the price of text, so that they speak of the same model and day.
    """
    window, output = limits
    card = replace(card, context_window=card.context_window or window, max_output_tokens=output)
    if other is None or any(card.rates.get(name) != other.rates.get(name) for name in ("input", "output")):
        return card
    missing = {name: other.rates[name] for name in _MODALITIES if name in other.rates and name not in card.rates}
    tiers = {tier: rates for tier, rates in other.tiers.items() if tier not in card.tiers}
    taken = bool(missing or tiers or other.modifiers)
    return replace(
        card,
        rates={**card.rates, **missing},
        tiers={**card.tiers, **tiers},
        tier_long_context={
            **{t: s for t, s in other.tier_long_context.items() if t in tiers},
            **card.tier_long_context,
        },
        modifiers={**other.modifiers, **card.modifiers},
        source=f"{card.source} + {other.source}" if taken else card.source,
    )


def _hour_start(now_us: int) -> int:
    """Their prices change on half hours at the earliest; an answer is not reused for moments before its own."""
    return now_us - now_us % 1_800_000_000
