"""Public model names to places. Pure dictionary look-ups; the tables are built once from the settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from faregate.core.call import Candidate, Principal
from faregate.core.price import PriceCard
from faregate.errors import ConfigError, InvalidRequest, ModelNotFound, ModelNotPriced, PermissionDenied
from faregate.providers.sandbox import CARD as SANDBOX_CARD
from faregate.providers.sandbox import KIND as SANDBOX

_DATED = re.compile(r"(-\d{8})?")
"""What a provider's own name for a model may have behind it."""


class CardLookup(Protocol):
    """ports.Catalog.card."""

    def __call__(
        self, *, provider: str, kind: str, model: str, organization_id: str | None, now_us: int
    ) -> PriceCard | None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """A provider and its name for a model."""

    provider: str
    kind: str
    model: str


@dataclass(frozen=True, slots=True)
class Listed:
    """A model as `GET /v1/models` shows it: the public name and the first place it goes to."""

    id: str
    owned_by: str
    candidates: tuple[Candidate, ...]


class ModelRouter:
    """ports.Router over `providers` (name -> kind) and `models` (public name -> "provider/model"s in order)."""

    def __init__(
        self,
        *,
        providers: Mapping[str, str],
        models: Mapping[str, Sequence[str]],
        card: CardLookup,
        sandbox: str = SANDBOX,
        serves: Callable[[str, str, str], bool] | None = None,
    ) -> None:
        """`sandbox` names the provider of test keys; `serves` tells whether (provider, endpoint, model) can be called.

        Raises ConfigError for a place without its provider.
        """
        self._kinds = dict(providers)
        self._card = card
        self._sandbox = sandbox
        self._serves = serves
        self._places = {name: tuple(map(self._configured, targets)) for name, targets in models.items()}

    def candidates(self, model: str, *, endpoint: str, principal: Principal, now_us: int) -> tuple[Candidate, ...]:
        """In order, each priced and able. Raises ModelNotFound, ModelNotPriced, PermissionDenied, InvalidRequest."""
        if not may_call(principal.models, model):
            raise PermissionDenied(f"this key may not call the model {model!r}", param="model")
        places = self._sandboxed(model) if principal.test else self._places.get(model) or self._direct(model)
        found = self._cards(places, principal, now_us)
        if not found:
            raise ModelNotPriced(f"the model {model!r} has no price", param="model")
        able = tuple([one for one in found if self._serves is None or self._serves(one.provider, endpoint, one.model)])
        if not able:
            raise InvalidRequest(f"the model {model!r} cannot be called at {endpoint}", param="model")
        return able

    def with_models(self, candidate: Candidate, models: Iterable[str], principal: Principal, now_us: int) -> Candidate:
        """A dated name of the candidate's own model is on its card; so is what has no card of its own."""
        found = {}
        for model in models:
            card = self._card(
                provider=candidate.provider,
                kind=candidate.kind,
                model=model,
                organization_id=principal.organization_id,
                now_us=now_us,
            )
            if card is not None and not _DATED.fullmatch(model.removeprefix(candidate.model)):
                found[model] = card
        return replace(candidate, also=found)

    def listing(self, principal: Principal, now_us: int) -> tuple[Listed, ...]:
        """The public names the key may call that have a price, in the configuration's order."""
        rows = []
        for name, places in self._places.items():
            if may_call(principal.models, name) and (found := self._cards(places, principal, now_us)):
                rows.append(Listed(name, found[0].provider, found))
        return tuple(rows)

    def _cards(self, places: Sequence[Place], principal: Principal, now_us: int) -> tuple[Candidate, ...]:
        """Unpriced places are skipped: a fallback without a price must not be reached."""
        found = []
        for place in places:
            card = self._card(
                provider=place.provider,
                kind=place.kind,
                model=place.model,
                organization_id=principal.organization_id,
                now_us=now_us,
            )
            if card is None and place.kind == SANDBOX:
                card = SANDBOX_CARD
            if card is not None:
                found.append(Candidate(provider=place.provider, kind=place.kind, model=place.model, card=card))
        return tuple(found)

    def _sandboxed(self, model: str) -> tuple[Place, ...]:
        """A test key's call never leaves the house, whatever it names; the pretend model takes any name."""
        place = (self._places.get(model) or (self._split(model),))[0]
        return (Place(self._sandbox, SANDBOX, place.model if place else model),)

    def _direct(self, model: str) -> tuple[Place, ...]:
        place = self._split(model)
        if place is None:
            raise ModelNotFound(f"no model {model!r}: see GET /v1/models, or name provider/model", param="model")
        return (place,)

    def _split(self, name: str) -> Place | None:
        """At the first "/", when its left side is a configured provider (their names have none)."""
        provider, _, model = name.partition("/")
        kind = self._kinds.get(provider)
        return Place(provider, kind, model) if kind is not None and model else None

    def _configured(self, target: str) -> Place:
        place = self._split(target)
        if place is None:
            known = ", ".join(sorted(self._kinds)) or "none"
            raise ConfigError(f"models: {target!r} is not <provider>/<model> of a provider ({known})")
        return place


def may_call(allowed: Sequence[str] | None, model: str) -> bool:
    """Whether an allow-list (exact names, or one trailing "*") has the public name."""
    if allowed is None:
        return True
    return any(model.startswith(name[:-1]) if name.endswith("*") else model == name for name in allowed)
